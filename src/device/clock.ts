/**
 * Clock: time by argument, so that a run can be repeated (STYLE habit 23). `systemClock` is the real one;
 * `ManualClock` stands still until a test moves it and fires timers in order of their due time.
 *
 * `now` is monotonic milliseconds with fractions, from an arbitrary zero; only differences mean something.
 * `wallTime` is for people and records, never for intervals.
 */
// The global of that name is looked up by a getter each time.
import { performance } from 'node:perf_hooks'

export interface Timer {
  /** Idempotent; a timer that has fired is not disturbed. */
  cancel(): void
}

export interface Clock {
  now(): number
  wallTime(): Date
  /** Calls back once, `delayMs` from now. It keeps the process alive only if `keepAlive`: when somebody waits for it. */
  setTimeout(callback: () => void, delayMs: number, keepAlive?: boolean): Timer
}

/** Node fires a longer timer at once, so that it is waited for in legs. */
const LEG_MS_MAX = 2 ** 31 - 1

export const systemClock: Clock = Object.freeze({
  now: () => performance.now(),
  wallTime: () => new Date(),
  setTimeout: (callback: () => void, delayMs: number, keepAlive = false): Timer => {
    let timeout: NodeJS.Timeout
    const wait = (leftMs: number): void => {
      const isLast = leftMs <= LEG_MS_MAX
      timeout = isLast ? setTimeout(callback, leftMs) : setTimeout(wait, LEG_MS_MAX, leftMs - LEG_MS_MAX)
      if (!keepAlive) timeout.unref()
    }
    wait(delayMs)
    return { cancel: () => clearTimeout(timeout) }
  },
})

interface Alarm { readonly atMs: number, readonly callback: () => void }

/** A clock that only `advance` moves. */
export class ManualClock implements Clock {
  #nowMs: number
  readonly #epochMs: number
  readonly #alarms: Alarm[] = []

  constructor(options: { nowMs?: number, wallTime?: Date } = {}) {
    this.#nowMs = options.nowMs ?? 0
    this.#epochMs = (options.wallTime ?? new Date('2020-01-01T00:00:00Z')).getTime() - this.#nowMs
  }

  now(): number { return this.#nowMs }
  wallTime(): Date { return new Date(this.#epochMs + this.#nowMs) }
  /** Timers that have not fired. */
  get pending(): number { return this.#alarms.length }

  setTimeout(callback: () => void, delayMs: number): Timer {
    const alarm = { atMs: this.#nowMs + Math.max(0, delayMs), callback }
    const place = this.#alarms.findIndex(other => other.atMs > alarm.atMs)
    this.#alarms.splice(place < 0 ? this.#alarms.length : place, 0, alarm)
    return {
      cancel: () => {
        const at = this.#alarms.indexOf(alarm)
        if (at >= 0) this.#alarms.splice(at, 1)
      },
    }
  }

  /** Moves time on without running timers: for code that only reads `now`. */
  skip(ms: number): void { this.#nowMs += ms }

  /** Moves time on; timers that fall due fire at their own instant, in order, and may set further ones. */
  async advance(ms: number): Promise<void> {
    const target = this.#nowMs + ms
    await settle()
    while (this.#alarms.length > 0 && this.#alarms[0].atMs <= target) {
      const alarm = this.#alarms.shift()!
      this.#nowMs = Math.max(this.#nowMs, alarm.atMs)
      alarm.callback()
      await settle()
    }
    this.#nowMs = Math.max(this.#nowMs, target)
  }
}

/** Lets everything that waits on settled promises run. */
function settle(): Promise<void> {
  return new Promise(resolve => { setImmediate(resolve) })
}
