/**
 * Throttle: answers that are held back while a target catches up, so that what waits for it becomes less. For each two bytes that
 * arrive at the target one byte of answers is let go, in the order in which they came; each after `forMs` at the latest.
 */
import type { Clock, Timer } from '../device/clock.js'

/** Bytes that have to arrive for each byte of answers. */
const SHARE = 2

interface Held {
  readonly length: number
  readonly dueMs: number
  go(): void
}

export class Throttle {
  readonly #clock: Clock
  #held: Held[] = []
  /** Bytes of answers that may go. */
  #credit = 0
  #timer: Timer | undefined

  constructor(clock: Clock) { this.#clock = clock }

  /** @param length of the change, bytes @param forMs not so short that it would be over before those in front */
  hold(length: number, forMs: number): Promise<void> {
    return new Promise(resolve => {
      this.#held.push({ length, dueMs: this.#clock.now() + forMs, go: resolve })
      this.#arm()
    })
  }

  /** At the target, bytes. */
  arrived(length: number): void {
    if (this.#held.length === 0) return
    this.#credit += length / SHARE
    let count = 0
    for (const { length: wanted } of this.#held) {
      if (wanted > this.#credit) break
      this.#credit -= wanted
      count++
    }
    this.#letGo(count)
  }

  letAllGo(): void { this.#letGo(this.#held.length) }

  #letGo(count: number): void {
    const gone = this.#held.splice(0, count)
    // Nobody saves for those who come later.
    if (this.#held.length === 0) this.#credit = 0
    for (const { go } of gone) go()
    if (count > 0) this.#arm()
  }

  /** For the one that has been held longest. */
  #arm(): void {
    const first = this.#held[0]
    if (!first) {
      this.#timer?.cancel()
      this.#timer = undefined
    }
    if (!first || this.#timer) return
    this.#timer = this.#clock.setTimeout(() => {
      this.#timer = undefined
      const now = this.#clock.now()
      const next = this.#held.findIndex(({ dueMs }) => dueMs > now)
      this.#letGo(next < 0 ? this.#held.length : next)
      this.#arm()
    }, Math.max(0, first.dueMs - this.#clock.now()))
  }
}
