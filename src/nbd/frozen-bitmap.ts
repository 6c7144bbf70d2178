/**
 * FrozenBitmap: which bytes were dirty at one instant, as the source of a metadata context (qemu:dirty-bitmap:..., bit 0).
 *
 *   bounds   [start, end, start, end, ...)  ascending, bytes; an even number of bounds at or below an offset: clean there
 *
 * A look-up is a binary search and then one step an extent, however many runs there are. Memory is bounded: with more than
 * RUNS_MAX runs those with the smallest gaps between them become one, so it may say dirty too often, never too rarely.
 */
import type { Extents } from '../device/block-device.js'
import type { StatusSource } from './export.js'

/** 16 bytes each: 4 MiB. A volume of 1 TiB whose every megabyte was touched somewhere still is exact. */
const RUNS_MAX = 2 ** 18
const FIRST_RUNS = 64
const DIRTY = 1

/** [start, end) in units. */
interface Run { readonly start: number, readonly end: number }

export interface FrozenBitmap extends StatusSource {
  /** Memory it holds. */
  readonly bytes: number
}

/**
 * @param runs what is dirty, in order; they may touch
 * @param unitBytes what the runs count in
 * @param knownBytes beyond this nothing is known, which is dirty
 */
export function freezeBitmap(
  runs: Iterable<Run>, unitBytes: number, knownBytes: number, runsMax: number = RUNS_MAX,
): FrozenBitmap {
  const bounds = new Bounds(runsMax)
  for (const { start, end } of runs) {
    if (start * unitBytes >= knownBytes) break
    bounds.add(start * unitBytes, end * unitBytes)
  }
  bounds.add(knownBytes, Infinity)
  const sorted = bounds.toArray()
  return { bytes: sorted.byteLength, extents: (offset, length, maxExtents) => extentsOf(sorted, offset, length, maxExtents) }
}

/** Collects runs; how far apart they must be grows whenever there are too many. */
class Bounds {
  readonly #runsMax: number
  #sorted = new Float64Array(2 * FIRST_RUNS)
  #count = 0
  /** Runs that are not further apart than this are one. */
  #gap = 0

  constructor(runsMax: number) { this.#runsMax = runsMax }

  add(start: number, end: number): void {
    if (this.#count === 2 * this.#runsMax) this.#coarsen()
    if (this.#count === this.#sorted.length) this.#grow()
    this.#count = this.#append(this.#count, start, end)
  }

  toArray(): Float64Array { return this.#sorted.slice(0, this.#count) }

  /** Puts the run behind the first `count` bounds, or makes it one with the last. Returns how many there are then. */
  #append(count: number, start: number, end: number): number {
    if (count > 0 && start - this.#sorted[count - 1]! <= this.#gap) {
      this.#sorted[count - 1] = Math.max(this.#sorted[count - 1]!, end)
      return count
    }
    this.#sorted[count] = start
    this.#sorted[count + 1] = end
    return count + 2
  }

  #grow(): void {
    const larger = new Float64Array(2 * this.#sorted.length)
    larger.set(this.#sorted)
    this.#sorted = larger
  }

  /** Leaves at most half as many. */
  #coarsen(): void {
    const most = this.#count / 2
    if (this.#gap === 0) this.#gap = this.#smallestGap()
    while (this.#count > most) {
      this.#gap *= 2
      let count = 0
      for (let i = 0; i < this.#count; i += 2) count = this.#append(count, this.#sorted[i]!, this.#sorted[i + 1]!)
      this.#count = count
    }
  }

  #smallestGap(): number {
    let smallest = Infinity
    for (let i = 2; i < this.#count; i += 2) smallest = Math.min(smallest, this.#sorted[i]! - this.#sorted[i - 1]!)
    return smallest
  }
}

function extentsOf(bounds: Float64Array, offset: number, length: number, maxExtents: number): Extents {
  const lengths: number[] = []
  const states: number[] = []
  const end = offset + length
  let next = firstAbove(bounds, offset)
  for (let at = offset; at < end && lengths.length < maxExtents; next++) {
    const to = Math.min(end, next < bounds.length ? bounds[next]! : Infinity)
    lengths.push(to - at)
    states.push(next % 2 === 1 ? DIRTY : 0)
    at = to
  }
  return { lengths, states }
}

/** Index of the first bound above `offset`. */
function firstAbove(bounds: Float64Array, offset: number): number {
  let low = 0
  let high = bounds.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (bounds[middle]! <= offset) low = middle + 1
    else high = middle
  }
  return low
}
