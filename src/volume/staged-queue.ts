/** StagedQueue: entries of the staging log that are not in their places yet (staging.ts), oldest first. */
import { BATCH_GRAINS } from './preserver.js'
import type { Staged } from './staged-entry.js'

/** Data of a batch and what stands between it in the log. */
const BUFFER_BYTES = 4 * 2 ** 20

export class StagedQueue {
  /** From `#head` on. */
  #entries: Staged[] = []
  #head = 0
  #bytes = 0

  get first(): Staged | undefined { return this.#entries[this.#head] }
  /** Data of all. */
  get bytes(): number { return this.#bytes }

  push(entry: Staged): void {
    this.#entries.push(entry)
    this.#bytes += entry.length
  }

  /** From that sequence number on. */
  dropFrom(sequence: number): void {
    const isOver = (): boolean => this.#entries.length > this.#head && this.#entries.at(-1)!.sequence >= sequence
    while (isOver()) this.#bytes -= this.#entries.pop()!.length
  }

  /** The next ones up to those sequence numbers, at most BATCH_GRAINS, together in the log. */
  next(last: number, writtenTo: number): Staged[] {
    const entries: Staged[] = []
    const first = this.#entries[this.#head].address
    let grains = 0
    for (let i = this.#head; i < this.#entries.length; i++) {
      const entry = this.#entries[i]
      const far = entry.address < first || entry.address + entry.length - first > BUFFER_BYTES
      const isNext = entry.sequence <= last && entry.sequence <= writtenTo
      if (far || !isNext || grains + entry.to - entry.from > BATCH_GRAINS) break
      entries.push(entry)
      grains += entry.to - entry.from
    }
    return entries
  }

  /** So many of the first are in their places. Returns their data, bytes. */
  shift(count: number): number {
    let bytes = 0
    for (const end = this.#head + count; this.#head < end; this.#head++) bytes += this.#entries[this.#head].length
    this.#bytes -= bytes
    if (this.#head * 2 > this.#entries.length) {
      this.#entries = this.#entries.slice(this.#head)
      this.#head = 0
    }
    return bytes
  }
}
