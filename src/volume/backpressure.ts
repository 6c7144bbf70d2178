/**
 * Backpressure: whoever stages more than can be moved waits a little, often, and not once for everything.
 *
 * Up to HIGH_WATER of the staging log (staging.ts) nobody waits. Above it as many bytes are taken as are moved out of it, in the
 * order in which they came. Else the log would become full, and a write to a grain that is staged would have to wait until
 * hundreds of megabytes have found their places. Before somebody has to wait until everything staged is moved, it is
 * tightened: up to FREE_BYTES nobody waits, and above it a part of what is moved is taken, so that there soon is not more.
 */

/** Part of the log. The rest is room for what the entries take beside their data. */
const HIGH_WATER = 0.75
/** Moved in a moment. */
const FREE_BYTES = 8 * 2 ** 20
const TIGHT_SHARE = 0.25
/** What was moved while nobody wanted to stage anything counts for so many bytes later. */
const CREDIT_MAX_BYTES = 8 * 2 ** 20

interface Waiting {
  readonly bytes: number
  readonly goOn: () => void
}

export class Backpressure {
  /** Bytes that may be taken above the mark. */
  #credit = 0
  #waiting: Waiting[] = []
  /** Nothing can be moved: it is no use to wait. */
  #stuck = false
  #tight = 0

  /** Somebody waits for something to be moved. */
  get isAwaited(): boolean { return this.#waiting.length > 0 }

  /** @param fill part of the log that is used. @param queuedBytes not moved yet. `later`: wait first; `never`: go another way */
  admit(fill: number, queuedBytes: number, bytes: number): 'now' | 'later' | 'never' {
    if (fill <= HIGH_WATER && (this.#tight === 0 || queuedBytes <= FREE_BYTES)) {
      this.#credit = 0
      return 'now'
    }
    if (this.#credit >= bytes) {
      this.#credit -= bytes
      return 'now'
    }
    return this.#stuck ? 'never' : 'later'
  }

  /** What was admitted was not taken. */
  giveBack(bytes: number): void { this.#credit += bytes }

  /** Resolves when so many bytes may be taken, or when it is no use to wait any longer: ask again. */
  wait(bytes: number): Promise<void> { return new Promise(goOn => { this.#waiting.push({ bytes, goOn }) }) }

  /** So many bytes have found their places. */
  moved(bytes: number): void {
    this.#stuck = false
    this.#credit = Math.min(CREDIT_MAX_BYTES, this.#credit + bytes * (this.#tight > 0 ? TIGHT_SHARE : 1))
    let left = this.#credit
    while (this.#waiting.length > 0 && left >= this.#waiting[0].bytes) {
      const { bytes, goOn } = this.#waiting.shift()!
      left -= bytes
      goOn()
    }
  }

  /** Nothing is being moved any more; `failed`: nor can be. Whoever waits looks again. */
  ended(failed: boolean): void {
    this.#stuck = failed
    for (const { goOn } of this.#waiting.splice(0)) goOn()
  }

  tighten(): void { this.#tight++ }
  loosen(): void { this.#tight-- }
}
