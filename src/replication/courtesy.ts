/**
 * Courtesy: a copy that has time gives way to the clients of its volume. It goes as fast as it can while they ask for nothing,
 * and slower the more they ask for, down to a rate of its own from BUSY_REQUESTS_PER_SECOND on. Beside busy clients a cycle costs
 * less the longer it takes: less of the machine is its, and what each has kept, and flushed, comes more rarely. How long it may
 * take its mirror's interval says, so that what clients change is never more than cycles ship.
 */
import type { Clock } from '../device/clock.js'
import { Pace } from './pace.js'

const BUSY_REQUESTS_PER_SECOND = 20_000
/** However much time there is. */
const BYTES_PER_SECOND_MIN = 16 * 2 ** 20
/** Of an interval. */
const SHARE_OF_TIME = 0.5
/** What shows a mixture while it is written to does so for no longer. */
const SHARE_OF_MIXTURE = 0.1
/** Requests are counted over so long, at least. */
const LOOK_MS = 20
/** A timer is late by milliseconds, and a piece may be a few KiB: it is made up for. */
const BURST_MS = 50

export interface CourtesyOptions {
  /** Of clients, so far; fewer than before: there is no time any more. */
  requests(): number
  /** Beside busy ones. */
  readonly bytesPerSecond: number
}

/** Of a cycle of so many bytes, per second. @param isWhole the target can be had at its last declared point meanwhile */
export function busyRateOf(bytes: number, intervalSeconds: number, isWhole: boolean): number {
  return Math.max(BYTES_PER_SECOND_MIN, bytes / (intervalSeconds * (isWhole ? SHARE_OF_TIME : SHARE_OF_MIXTURE)))
}

export class Courtesy {
  readonly #clock: Clock
  readonly #options: CourtesyOptions
  readonly #pace: Pace
  #seen: number
  #seenMs: number
  /** Of what busy clients get, 0 to 1. */
  #share = 0
  #last: Promise<void> = Promise.resolve()

  constructor(clock: Clock, options: CourtesyOptions) {
    this.#clock = clock
    this.#options = options
    this.#seen = options.requests()
    this.#seenMs = clock.now()
    this.#pace = new Pace(clock, options.bytesPerSecond, BURST_MS)
  }

  /** Resolves when so many bytes may be copied, behind whoever asked before. @param signal nobody waits any more */
  wait(bytes: number, signal: AbortSignal): Promise<void> {
    return this.#last = this.#last.then(() => {
      this.#look()
      return this.#share === 0 ? undefined : this.#pace.wait(bytes * this.#share, signal)
    })
  }

  #look(): void {
    const now = this.#clock.now()
    if (now - this.#seenMs < LOOK_MS) return
    const requests = this.#options.requests()
    const perSecond = (requests - this.#seen) / (now - this.#seenMs) * 1000
    this.#share = Math.max(0, Math.min(1, perSecond / BUSY_REQUESTS_PER_SECOND))
    this.#seen = requests
    this.#seenMs = now
  }
}
