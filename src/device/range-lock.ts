/**
 * RangeLock: serialises overlapping requests on [start, end) byte ranges in order of arrival; requests that
 * do not overlap never meet. Shared holders (reads) pass each other, exclusive ones (writes) pass nobody.
 *
 * Invariants
 * - An entry waits exactly for the conflicting entries that arrived before it, held or waiting; so nobody is
 *   overtaken, nobody starves, and there is no deadlock (the waits-for relation follows the order of arrival).
 * - `blockers` of an entry = number of those still here; it runs when that reaches zero.
 * - A waiting request whose origin has gone is dropped when its turn comes, never run (PROTOCOL D5).
 *
 * Cost: one scan of the entries per lock and per unlock. Entries are bounded by requests in flight; whoever has
 * a fast path asks `idle` first and takes no lock at all.
 */
import type { Origin, Pending } from './block-device.js'
import { NbdeltaError } from './errors.js'

/** End of a range that nothing is beyond. */
export const EVERYTHING = Number.MAX_SAFE_INTEGER

interface Entry {
  readonly start: number
  readonly end: number
  readonly shared: boolean
  readonly origin: Origin | undefined
  blockers: number
  grant: (() => void) | undefined
  refuse: ((error: NbdeltaError) => void) | undefined
}

export class RangeLock {
  /** In order of arrival, held and waiting. */
  readonly #entries: Entry[] = []

  /** Nobody holds or waits for anything. */
  get idle(): boolean { return this.#entries.length === 0 }
  /** Holders and waiters together. */
  get size(): number { return this.#entries.length }
  /** Those who wait. */
  get waiting(): number { return this.#entries.reduce((sum, entry) => sum + (entry.blockers > 0 ? 1 : 0), 0) }

  /** Somebody holds or waits for some of [start, end). @param parts whoever wants everything does not count */
  meets(start: number, end: number, parts: boolean): boolean {
    return this.#entries.some(entry => entry.start < end && start < entry.end && !(parts && entry.end === EVERYTHING))
  }

  /** Takes the range at once, or returns false and leaves no trace. */
  tryLock(start: number, end: number, shared = false): boolean {
    if (this.#conflicts(start, end, shared) > 0) return false
    this.#entries.push({ start, end, shared, origin: undefined, blockers: 0, grant: undefined, refuse: undefined })
    return true
  }

  /**
   * Takes the range: undefined if it is free, else a promise that resolves when it is ours.
   * Rejects with `gone` if `origin` went away while it waited; then nothing is held.
   */
  lock(start: number, end: number, origin?: Origin, shared = false): Pending {
    const blockers = this.#conflicts(start, end, shared)
    const entry: Entry = { start, end, shared, origin, blockers, grant: undefined, refuse: undefined }
    this.#entries.push(entry)
    if (blockers === 0) return undefined
    return new Promise<void>((resolve, reject) => {
      entry.grant = resolve
      entry.refuse = reject
    })
  }

  /** Gives back what `lock` or `tryLock` of the same arguments took. */
  unlock(start: number, end: number, shared = false): void {
    const at = this.#entries.findIndex(entry =>
      entry.start === start && entry.end === end && entry.shared === shared && entry.blockers === 0)
    if (at < 0) throw new Error(`unlock of [${start}, ${end}) that nobody holds`)
    this.#remove(at)
  }

  #conflicts(start: number, end: number, shared: boolean): number {
    let count = 0
    for (const entry of this.#entries) {
      if (entry.start < end && start < entry.end && !(shared && entry.shared)) count++
    }
    return count
  }

  /**
   * Takes one entry out and lets run whom it was the last to block. One of these whose client is gone is taken out as well,
   * in the same pass: everybody waits for earlier ones only. No recursion: a chain of dropped ones may be thousands long.
   */
  #remove(at: number): void {
    const removed = this.#entries.splice(at, 1)
    const entries = this.#entries
    let kept = at
    for (let i = at; i < entries.length; i++) {
      const entry = entries[i]
      let unblocked = false
      for (const gone of removed) {
        if (entry.start >= gone.end || gone.start >= entry.end || (entry.shared && gone.shared)) continue
        unblocked = --entry.blockers === 0
      }
      if (unblocked && entry.origin?.gone) {
        removed.push(entry)
        entry.refuse!(new NbdeltaError('gone', 'the client that asked is gone; its queued request was dropped'))
        continue
      }
      if (unblocked) entry.grant!()
      entries[kept++] = entry
    }
    entries.length = kept
  }
}
