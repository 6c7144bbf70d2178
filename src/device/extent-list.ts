/**
 * ExtentList: builds the answer of `extents`: neighbours of equal state are merged, the number of extents is
 * bounded. Whoever answers block status uses it, so that merging and the bound are written once.
 */
import type { Extents } from './block-device.js'

export class ExtentList implements Extents {
  readonly lengths: number[] = []
  readonly states: number[] = []
  readonly #maxExtents: number

  constructor(maxExtents: number) {
    if (maxExtents < 1) throw new RangeError('an answer has at least one extent')
    this.#maxExtents = maxExtents
  }

  /** Appends; false = the answer is full and this one was not taken. */
  add(length: number, state: number): boolean {
    const last = this.lengths.length - 1
    if (last >= 0 && this.states[last] === state) {
      this.lengths[last] += length
      return true
    }
    if (this.lengths.length === this.#maxExtents) return false
    this.lengths.push(length)
    this.states.push(state)
    return true
  }
}
