/**
 * Usage: how many grains the points of one volume keep in their files, and for how many more there is a promise.
 *
 *   kept      bits set in the `bytes` maps of all points, those being made or deleted included
 *   promised  grains that are going to be kept: what is staged, and what a request that runs is about to have preserved
 *
 * Counted as it happens, never by a walk over the maps: only chain.ts changes `bytes`, and it says so here first. A promise
 * ends in the tick in which the preserver keeps its grain (a merge that hands it over to an older point ends none), so that the
 * sum never counts a grain twice and never forgets one.
 */
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import type { Run } from './volume-map.js'

export class Usage {
  #kept = 0
  #promised = 0
  readonly #promises = new GrainBitmap(0)

  get kept(): number { return this.#kept }
  get promised(): number { return this.#promised }

  /** A point comes with what its maps say. */
  add(bytes: GrainBitmap): void { this.#kept += bytes.count() }

  /** A point goes, and its files with it. */
  remove(bytes: GrainBitmap): void { this.#kept -= bytes.count() }

  /** Before the bits of [from, to) are set. */
  keep(bytes: GrainBitmap, from: number, to: number): void { this.#kept += to - from - bytes.count(from, to) }

  /** Before the bits of [from, to) are cleared. */
  drop(bytes: GrainBitmap, from: number, to: number): void { this.#kept -= bytes.count(from, to) }

  /** Grains of the run without a promise. */
  unpromised({ start, end }: Run): number {
    const stop = Math.min(end, this.#promises.length)
    return end - start - (start < stop ? this.#promises.count(start, stop) : 0)
  }

  promise(run: Run): void {
    if (this.#promises.length < run.end) this.#promises.resize(run.end, false)
    this.#promised += this.unpromised(run)
    this.#promises.set(run.start, run.end)
  }

  /** Takes all promises back, and says what they were for. */
  recall(): Run[] {
    const runs = [...this.#promises.runs()]
    this.release(0, this.#promises.length)
    return runs
  }

  /** Promises in [from, to) are over. */
  release(from: number, to: number): void {
    const end = Math.min(to, this.#promises.length)
    if (this.#promised === 0 || from >= end) return
    this.#promised -= this.#promises.count(from, end)
    this.#promises.clear(from, end)
  }
}
