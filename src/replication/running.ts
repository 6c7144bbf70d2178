/** Running: a piece of work of a mirror, of a kind of which one goes on at a time. It can be ended, and tells how far it is. */
import type { Clock } from '../device/clock.js'

interface Progress { doneBytes: number, totalBytes: number, readonly startedMs: number }

export class Running {
  readonly #clock: Clock
  #abort: AbortController | undefined
  #progress: Progress | undefined

  constructor(clock: Clock) { this.#clock = clock }

  get progress(): Readonly<Progress> | undefined { return this.#progress }

  /** What goes on is to end. It has not when this returns. */
  end(): void { this.#abort?.abort() }

  /** @param signal ends it likewise */
  async run<T>(signal: AbortSignal | undefined, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const abort = this.#abort = new AbortController()
    const onAbort = (): void => { abort.abort() }
    signal?.addEventListener('abort', onAbort, { once: true })
    if (signal?.aborted) onAbort()
    this.#progress = { doneBytes: 0, totalBytes: 0, startedMs: this.#clock.now() }
    try {
      return await work(abort.signal)
    } finally {
      signal?.removeEventListener('abort', onAbort)
      this.#abort = undefined
      this.#progress = undefined
    }
  }

  tell(doneBytes: number, totalBytes: number): void {
    if (this.#progress) Object.assign(this.#progress, { doneBytes, totalBytes })
  }
}
