/**
 * Usage: how many grains the points of one volume keep in their files, and for how many more there is a promise.
 *
 *   kept      bits set in the `bytes` maps of all points, those being made or deleted included
 *   promised  grains that are going to be kept: what is staged, and what a request that runs is about to have preserved. A grain
 *             may be kept twice: its content for the newest snapshot, and what it has lent for another
 *
 * Counted as it happens, never by a walk over the maps: only chain.ts changes `bytes`, and it says so here first. A promise
 * ends in the tick in which the preserver keeps its grain (a merge that hands it over to an older point ends none), so that the
 * sum never counts a grain twice and never forgets one.
 */
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import type { Run } from './volume-map.js'

/** Grains that are going to be kept: what they have lent (chain.ts), or their content. */
export interface Need extends Run { readonly isLent: boolean }

export class Usage {
  #kept = 0
  readonly #content = new Promises()
  readonly #lent = new Promises()

  get kept(): number { return this.#kept }
  get promised(): number { return this.#content.count + this.#lent.count }

  /** A point comes with what its maps say. */
  add(bytes: GrainBitmap): void { this.#kept += bytes.count() }

  /** A point goes, and its files with it. */
  remove(bytes: GrainBitmap): void { this.#kept -= bytes.count() }

  /** Before the bits of [from, to) are set. */
  keep(bytes: GrainBitmap, from: number, to: number): void { this.#kept += to - from - bytes.count(from, to) }

  /** Before the bits of [from, to) are cleared. */
  drop(bytes: GrainBitmap, from: number, to: number): void { this.#kept -= bytes.count(from, to) }

  /** Grains of it without a promise. */
  unpromised(need: Need): number { return this.#of(need).without(need) }

  promise(need: Need): void { this.#of(need).add(need) }

  /** Promises of it are over. */
  release(need: Need): void { this.#of(need).release(need) }

  /** Takes all promises back, and says what they were for. */
  recall(): Run[] { return [...this.#content.recall(), ...this.#lent.recall()] }

  #of({ isLent }: Need): Promises { return isLent ? this.#lent : this.#content }
}

/** One for each grain at most. */
class Promises {
  count = 0
  readonly #grains = new GrainBitmap(0)

  without({ start, end }: Run): number {
    const stop = Math.min(end, this.#grains.length)
    return end - start - (start < stop ? this.#grains.count(start, stop) : 0)
  }

  add(run: Run): void {
    if (this.#grains.length < run.end) this.#grains.resize(run.end, false)
    this.count += this.without(run)
    this.#grains.set(run.start, run.end)
  }

  recall(): Run[] {
    const runs = [...this.#grains.runs()]
    this.release({ start: 0, end: this.#grains.length })
    return runs
  }

  release({ start, end }: Run): void {
    const stop = Math.min(end, this.#grains.length)
    if (this.count === 0 || start >= stop) return
    this.count -= this.#grains.count(start, stop)
    this.#grains.clear(start, stop)
  }
}
