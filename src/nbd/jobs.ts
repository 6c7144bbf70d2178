/** Requests that their device has not completed yet: what a reply must repeat, and how long they have been under way. */
import { systemClock } from '../device/clock.js'
import type { Echo, Request } from '../../native-free/nbd/transmission.js'

export class Job implements Echo {
  readonly type: number
  readonly flags: number
  readonly offset: number
  readonly length: number
  readonly cookieHigh: number
  readonly cookieLow: number
  readonly offsetHigh: number
  readonly offsetLow: number
  readonly startedAt = systemClock.now()

  constructor(request: Request) {
    this.type = request.type
    this.flags = request.flags
    this.offset = request.offset
    this.length = request.length
    this.cookieHigh = request.cookieHigh
    this.cookieLow = request.cookieLow
    this.offsetHigh = request.offsetHigh
    this.offsetLow = request.offsetLow
  }
}

export class Jobs {
  readonly #running = new Set<Job>()

  get count(): number { return this.#running.size }

  /** Age of the oldest, milliseconds; 0 when there is none. */
  get oldestMs(): number {
    // A Set keeps the order of arrival.
    for (const job of this.#running) return systemClock.now() - job.startedAt
    return 0
  }

  begin(request: Request): Job {
    const job = new Job(request)
    this.#running.add(job)
    return job
  }

  end(job: Job): void {
    if (!this.#running.delete(job)) throw new Error('a request was completed twice')
  }
}
