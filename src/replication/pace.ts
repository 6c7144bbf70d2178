/** Pace: no more than so many bytes a second from when it was made on. */
import type { Clock } from '../device/clock.js'

export class Pace {
  readonly #clock: Clock
  readonly #bytesPerSecond: number | null
  readonly #burstMs: number
  #nextMs: number

  /** @param bytesPerSecond null: no limit @param burstMs what was not used in so long may be used later */
  constructor(clock: Clock, bytesPerSecond: number | null, burstMs = 0) {
    this.#clock = clock
    this.#bytesPerSecond = bytesPerSecond
    this.#burstMs = burstMs
    this.#nextMs = clock.now()
  }

  /** Resolves when these bytes may go. @param signal lets whoever waits go at once; what that means is the caller's */
  async wait(bytes: number, signal?: AbortSignal): Promise<void> {
    if (this.#bytesPerSecond === null) return
    const now = this.#clock.now()
    const waitMs = this.#nextMs - now
    this.#nextMs = Math.max(this.#nextMs, now - this.#burstMs) + bytes / this.#bytesPerSecond * 1000
    if (waitMs <= 0 || signal?.aborted) return
    let go = (): void => undefined
    const waited = new Promise<void>(resolve => { go = resolve })
    const timer = this.#clock.setTimeout(go, waitMs, true)
    signal?.addEventListener('abort', go, { once: true })
    await waited
    timer.cancel()
    signal?.removeEventListener('abort', go)
  }
}
