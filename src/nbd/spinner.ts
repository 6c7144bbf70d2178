/**
 * Spinner: keeps the event loop turning for a moment after a request, because at queue depth 1 the time goes into falling
 * asleep and being woken, not into work. One per server.
 *
 *   off trial (64 gaps) -> on trial (64 gaps) -> whichever was quicker (4,096 gaps) -> off trial ...
 *
 * Bounded: SPIN_MS after the last request at most. Adaptive: it only looks at small batches that follow each other closely,
 * and measures whether spinning shortens the gaps between them: on an idle machine it halves them, on a busy one, where
 * nobody sleeps, it only costs. An idle server never spins: only a request starts it.
 */
import { systemClock } from '../device/clock.js'

/** How long the loop is kept turning, milliseconds. */
const SPIN_MS = 0.15
/** Batches further apart than this are not a train of requests that wait for each other, milliseconds. */
const TRAIN_MS = 0.4
/** Larger batches show a queue depth that keeps the loop busy by itself. */
const SMALL_BATCH = 2
/** More data than this takes longer to copy than a wake-up lasts. */
const SMALL_BATCH_BYTES = 32 * 1024
const TRIAL_GAPS = 64
const KEEP_GAPS = 4096
/** What spinning must save to be worth the processor. */
const WORTH = 0.9

type Phase = 'off trial' | 'on trial' | 'keep'

export class Spinner {
  readonly #enabled: boolean
  readonly #now: () => number
  readonly #turn = (): void => this.#onTurn()
  #phase: Phase = 'off trial'
  #spins = false
  #lastMs = 0
  #turning = false
  #gaps = 0
  #last: object | undefined
  #gapsMs = 0
  #offMs = 0

  /** `now` is a monotonic clock in milliseconds. */
  constructor(enabled: boolean, now = systemClock.now) {
    this.#enabled = enabled
    this.#now = now
  }

  /** Whether the last trial found that spinning pays, or the trial under way needs it. */
  get spins(): boolean { return this.#spins }

  /** Whether `client` was the last one to be served, too: nobody else has work for us just now. */
  alone(client: object): boolean {
    const alone = this.#last === client
    this.#last = client
    return alone
  }

  /** A batch of `requests` with `bytes` of data in all has just been answered. */
  served(requests: number, bytes: number): void {
    if (!this.#enabled || requests === 0) return
    if (requests > SMALL_BATCH || bytes > SMALL_BATCH_BYTES) {
      this.#lastMs = 0
      return
    }
    const nowMs = this.#now()
    const gapMs = nowMs - this.#lastMs
    this.#lastMs = nowMs
    if (gapMs >= TRAIN_MS) return
    this.#count(gapMs)
    if (this.#spins && !this.#turning) {
      this.#turning = true
      setImmediate(this.#turn)
    }
  }

  #count(gapMs: number): void {
    this.#gapsMs += gapMs
    if (++this.#gaps < (this.#phase === 'keep' ? KEEP_GAPS : TRIAL_GAPS)) return
    const meanMs = this.#gapsMs / this.#gaps
    this.#gaps = 0
    this.#gapsMs = 0
    if (this.#phase === 'off trial') {
      this.#offMs = meanMs
      this.#spins = true
      this.#phase = 'on trial'
    } else if (this.#phase === 'on trial') {
      this.#spins = meanMs < this.#offMs * WORTH
      this.#phase = 'keep'
    } else {
      this.#spins = false
      this.#phase = 'off trial'
    }
  }

  #onTurn(): void {
    this.#turning = this.#spins && this.#now() - this.#lastMs < SPIN_MS
    if (this.#turning) setImmediate(this.#turn)
  }
}
