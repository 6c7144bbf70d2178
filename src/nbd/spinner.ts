/**
 * Spinner: keeps the event loop turning for a moment after a request, because at queue depth 1 the time goes into falling
 * asleep and being woken, not into work. One per server.
 *
 * Bounded: SPIN_MS after the last request at most. Adaptive: only after small batches that follow each other closely, and
 * not while spinning has not paid lately (MISSES in a row: pause for PAUSE_BATCHES). An idle server never spins: only a
 * request starts it.
 */

/** How long the loop is kept turning, milliseconds. */
const SPIN_MS = 0.06
/** Batches further apart than this (round trip with a sleep in it) are not a train of requests, milliseconds. */
const TRAIN_MS = 0.25
/** Larger batches show a queue depth that keeps the loop busy by itself. */
const SMALL_BATCH = 2
const MISSES = 16
const PAUSE_BATCHES = 256

export class Spinner {
  readonly #enabled: boolean
  readonly #turn = (): void => this.#onTurn()
  #lastMs = 0
  #turning = false
  #misses = 0
  #pause = 0

  constructor(enabled: boolean) { this.#enabled = enabled }

  /** A batch of `requests` has just been answered. */
  served(requests: number): void {
    if (!this.#enabled) return
    if (requests > SMALL_BATCH) {
      this.#lastMs = 0
      return
    }
    if (this.#pause > 0) {
      this.#pause--
      return
    }
    const nowMs = performance.now()
    const inTrain = nowMs - this.#lastMs < TRAIN_MS
    this.#lastMs = nowMs
    if (this.#turning) this.#misses = 0
    else if (inTrain) {
      this.#turning = true
      setImmediate(this.#turn)
    }
  }

  #onTurn(): void {
    if (performance.now() - this.#lastMs < SPIN_MS) {
      setImmediate(this.#turn)
      return
    }
    this.#turning = false
    this.#misses++
    if (this.#misses < MISSES) return
    this.#misses = 0
    this.#pause = PAUSE_BATCHES
  }
}
