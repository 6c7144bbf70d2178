/**
 * Backpressure: whoever stages more than can be moved waits a little, often, and not once for everything.
 *
 * Up to HIGH_WATER of the staging log (staging.ts) nobody waits. Above it as many bytes are taken as are moved out of it, in the
 * order in which they came. Else the log would become full, and a write to a grain that is staged would have to wait until
 * hundreds of megabytes have found their places. Before somebody has to wait until everything staged is moved, it is
 * tightened: up to FREE_BYTES nobody waits, and above it a part of what is moved is taken, so that there soon is not more.
 *
 * Bytes are moved in batches, and none while a disk flushes, for tenths of a second. So that nobody waits that long, those who
 * wait go on evenly, at the rate of late, and what they were given in advance is taken off what is moved next; of what a long
 * flush has left to be taken off, half of that, so that they do not wait then instead. No more than ADVANCE_MAX_BYTES is given so
 * in all: a disk that has stopped is not run ahead of.
 */
import type { Clock } from '../device/clock.js'

/** Part of the log. The rest is room for what the entries take beside their data. */
const HIGH_WATER = 0.75
/** Moved in a moment. */
const FREE_BYTES = 8 * 2 ** 20
const TIGHT_SHARE = 0.25
/** What was moved while nobody wanted to stage anything counts for so many bytes later. */
const CREDIT_MAX_BYTES = 8 * 2 ** 20
const ADVANCE_MAX_BYTES = 16 * 2 ** 20
/** From one advance to the next. */
const ADVANCE_MS = 4
/** Of the rate: so much of it is that of the last batch. */
const NEWEST_SHARE = 0.3
/** Bytes a millisecond, before anything is known. */
const FIRST_RATE = 16 * 1024
/** Batches further apart say nothing of the rate. */
const TRAIN_MS = 2000

interface Waiting {
  readonly bytes: number
  readonly goOn: () => void
}

export class Backpressure {
  readonly #clock: Clock
  /** Bytes that may be taken above the mark. */
  #credit = 0
  /** Given in advance since bytes were moved last, and before that. */
  #advanced = 0
  #debt = 0
  /** Moved, bytes a millisecond. */
  #rate = FIRST_RATE
  #movedAtMs = -Infinity
  #waiting: Waiting[] = []
  /** Nothing can be moved: it is no use to wait. */
  #stuck = false
  #tight = 0
  #isTicking = false

  constructor(clock: Clock) { this.#clock = clock }

  /** Somebody waits for something to be moved. */
  get isAwaited(): boolean { return this.#waiting.length > 0 }

  /** @param fill part of the log that is used. @param queuedBytes not moved yet. `later`: wait first; `never`: go another way */
  admit(fill: number, queuedBytes: number, bytes: number): 'now' | 'later' | 'never' {
    if (fill <= HIGH_WATER && (this.#tight === 0 || queuedBytes <= FREE_BYTES)) {
      this.#credit = this.#advanced = this.#debt = 0
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
  wait(bytes: number): Promise<void> {
    return new Promise(goOn => {
      this.#waiting.push({ bytes, goOn })
      this.#tick()
    })
  }

  /** So many bytes have found their places. */
  moved(bytes: number): void {
    this.#stuck = false
    this.#measure(bytes)
    const left = bytes * this.#share - this.#advanced
    this.#advanced = 0
    const paid = left < 0 ? left : Math.min(left / 2, this.#debt)
    this.#debt -= paid
    this.#credit = Math.min(CREDIT_MAX_BYTES, this.#credit + left - paid)
    this.#letGo()
  }

  /** Nothing is being moved any more; `failed`: nor can be. Whoever waits looks again. */
  ended(failed: boolean): void {
    this.#stuck = failed
    for (const { goOn } of this.#waiting.splice(0)) goOn()
  }

  tighten(): void { this.#tight++ }
  loosen(): void { this.#tight-- }

  /** Of what is moved may be taken. */
  get #share(): number { return this.#tight > 0 ? TIGHT_SHARE : 1 }

  #measure(bytes: number): void {
    const nowMs = this.#clock.now()
    const tookMs = nowMs - this.#movedAtMs
    this.#movedAtMs = nowMs
    if (tookMs > 0 && tookMs <= TRAIN_MS) this.#rate += NEWEST_SHARE * (bytes / tookMs - this.#rate)
  }

  #letGo(): void {
    let left = this.#credit
    while (this.#waiting.length > 0 && left >= this.#waiting[0].bytes) {
      const { bytes, goOn } = this.#waiting.shift()!
      left -= bytes
      goOn()
    }
  }

  #tick(): void {
    if (this.#isTicking) return
    this.#isTicking = true
    const sinceMs = this.#clock.now()
    this.#clock.setTimeout(() => {
      this.#isTicking = false
      if (!this.isAwaited) return
      const wanted = this.#rate * this.#share * (this.#clock.now() - sinceMs)
      const bytes = Math.min(wanted, ADVANCE_MAX_BYTES - this.#advanced - this.#debt)
      this.#advanced += bytes
      this.#credit += bytes
      this.#letGo()
      this.#tick()
    }, ADVANCE_MS)
  }
}
