/**
 * IdleSpace: when the space of a log that has nothing to keep is given back: when nothing was taken for QUIET_MS. That takes
 * tenths of a second, in which the log takes nothing, and whoever goes on writing needs the space anew at once.
 */
import type { Clock, Timer } from '../device/clock.js'

const QUIET_MS = 1000

export class IdleSpace {
  readonly #clock: Clock
  readonly #again: () => void
  #sequence = -1
  #timer: Timer | undefined

  /** @param again it is worth while to ask once more */
  constructor(clock: Clock, again: () => void) {
    this.#clock = clock
    this.#again = again
  }

  /** @param sequence number of what was taken last @param isUrgent the disk is full */
  isDue(sequence: number, isUrgent: boolean): boolean {
    if (isUrgent || sequence === this.#sequence) return true
    this.stop()
    this.#sequence = sequence
    this.#timer = this.#clock.setTimeout(this.#again, QUIET_MS)
    return false
  }

  stop(): void { this.#timer?.cancel() }
}
