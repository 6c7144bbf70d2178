/**
 * How the running server is doing: event-loop delay, and requests that take too long.
 *
 * An idle server shall not wake up: both run only while somebody is attached, and the quick timer that measures delay only
 * while requests come. After a silence it begins again within LOOK_MS.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks'

/** Ten wake-ups a second find every stall above 100 ms and cost nothing that can be measured. */
const RESOLUTION_MS = 100
const NS_PER_MS = 1e6
/** The kernel's client gives up after 30 s by default: at 5 s there is still time to act. */
const OLD_REQUEST_MS = 5000
const LOOK_MS = 5000

interface ClientAge {
  readonly id: number
  readonly address: string
  readonly export: string | undefined
  readonly inFlight: number
  readonly oldestMs: number
  readonly ops: Readonly<Record<string, number>>
}

export class Health {
  readonly #histogram = monitorEventLoopDelay({ resolution: RESOLUTION_MS })
  readonly #clients: () => readonly ClientAge[]
  readonly #warn: (fields: object, text: string) => void
  #attached = 0
  #timer: NodeJS.Timeout | undefined
  /** Requests answered so far by those attached; by the last look. */
  #answered = 0

  constructor(clients: () => readonly ClientAge[], warn: (fields: object, text: string) => void) {
    this.#clients = clients
    this.#warn = warn
  }

  /** A client has attached (+1) or left (-1). */
  attached(change: 1 | -1): void {
    this.#attached += change
    if (this.#attached > 0 && !this.#timer) {
      this.#histogram.enable()
      this.#timer = setInterval(() => { this.#look() }, LOOK_MS).unref()
    } else if (this.#attached === 0) this.stop()
  }

  stop(): void {
    this.#histogram.disable()
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  #look(): void {
    const answered = this.#clients().reduce((sum, { ops }) => Object.values(ops).reduce((all, count) => all + count, sum), 0)
    const busy = answered !== this.#answered || this.#clients().some(({ inFlight }) => inFlight > 0)
    if (busy) this.#histogram.enable()
    else this.#histogram.disable()
    this.#answered = answered
    for (const { id, address, export: name, inFlight, oldestMs } of this.#clients()) {
      if (oldestMs >= OLD_REQUEST_MS) {
        this.#warn({ client: id, address, export: name, inFlight, oldestMs: Math.round(oldestMs) },
          'a request is in flight for long')
      }
    }
  }

  /**
   * How late timers fired since the last call; zeros when no requests came. Age of the oldest request, null when there is
   * none.
   */
  read(): { eventLoopDelayP99Ms: number, eventLoopDelayMaxMs: number, oldestRequestMs: number | null } {
    const late = (ns: number): number => Math.max(0, ns / NS_PER_MS - RESOLUTION_MS)
    const counted = this.#histogram.count > 0
    const delays = {
      eventLoopDelayP99Ms: counted ? late(this.#histogram.percentile(99)) : 0,
      eventLoopDelayMaxMs: counted ? late(this.#histogram.max) : 0,
    }
    this.#histogram.reset()
    const busy = this.#clients().filter(client => client.inFlight > 0)
    return { ...delays, oldestRequestMs: busy.length > 0 ? Math.max(...busy.map(client => client.oldestMs)) : null }
  }
}
