/** Backoff: when to try again, and when to give up, after a connection was lost. Times are milliseconds. */
import type { Random } from '../device/random.js'
import type { ReconnectPolicy } from './client-options.js'

type Limits = Omit<ReconnectPolicy, 'persist'>

export class Backoff {
  readonly #policy: Limits
  readonly #random: Random
  #sinceMs: number | undefined
  attempts = 0

  constructor(policy: Limits, random: Random) {
    this.#policy = policy
    this.#random = random
  }

  /** A request was answered: the trouble is over. */
  reset(): void {
    this.#sinceMs = undefined
    this.attempts = 0
  }

  /** Trouble begins now, unless it has begun already. */
  begin(nowMs: number): void { this.#sinceMs ??= nowMs }
  get begun(): boolean { return this.#sinceMs !== undefined }

  /** What is left of the time limit. */
  leftMs(nowMs: number): number { return Math.max(0, (this.#sinceMs ?? nowMs) + this.#policy.limitMs - nowMs) }

  spent(nowMs: number): boolean { return this.attempts >= this.#policy.attempts || this.leftMs(nowMs) === 0 }

  /** The pause before the next attempt, which is thereby counted: doubled each time, half of it by chance. */
  next(): number {
    const { fromMs, toMs } = this.#policy
    const pauseMs = Math.min(toMs, fromMs * 2 ** Math.min(this.attempts++, 40))
    return pauseMs / 2 + this.#random(Math.ceil(pauseMs / 2) + 1)
  }
}
