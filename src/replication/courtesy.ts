/**
 * Courtesy: a copy without a limit of its own gives way to the clients of its volume. It goes as fast as it can while they ask
 * for nothing, and slower the more they ask for, down to BUSY_BYTES_PER_SECOND from BUSY_REQUESTS_PER_SECOND on. A longer cycle
 * costs a busy client less: it takes less of the machine from it, and what each cycle has kept, and flushed, comes more rarely.
 */
import type { Clock } from '../device/clock.js'
import { Pace } from './pace.js'

const BUSY_REQUESTS_PER_SECOND = 20_000
const BUSY_BYTES_PER_SECOND = 64 * 2 ** 20
/** Requests are counted over so long, at least. */
const LOOK_MS = 20

export class Courtesy {
  readonly #clock: Clock
  readonly #requests: () => number
  readonly #pace: Pace
  #seen: number
  #seenMs: number
  /** Of what busy clients get, 0 to 1. */
  #share = 0
  #last: Promise<void> = Promise.resolve()

  /** @param requests of clients so far */
  constructor(clock: Clock, requests: () => number) {
    this.#clock = clock
    this.#requests = requests
    this.#seen = requests()
    this.#seenMs = clock.now()
    this.#pace = new Pace(clock, BUSY_BYTES_PER_SECOND)
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
    const requests = this.#requests()
    const perSecond = (requests - this.#seen) / (now - this.#seenMs) * 1000
    this.#share = Math.min(1, perSecond / BUSY_REQUESTS_PER_SECOND)
    this.#seen = requests
    this.#seenMs = now
  }
}
