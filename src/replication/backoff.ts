/** Backoff: how long to wait before what has failed is tried again: 1 s, then twice as long each time, up to 60 s. */
const FIRST_MS = 1000
const MOST_MS = 60_000

export class Backoff {
  #ms = 0

  /** 0: nothing has failed. */
  get ms(): number { return this.#ms }

  /** It has failed again. */
  longer(): number { return this.#ms = Math.min(MOST_MS, Math.max(FIRST_MS, 2 * this.#ms)) }

  reset(): void { this.#ms = 0 }
}
