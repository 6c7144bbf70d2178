/** Turns: work one after the other, in order of arrival, however each ends. For turns by key see keyed-mutex.ts. */
export class Turns {
  #last: Promise<unknown> = Promise.resolve()
  #count = 0

  /** All that was asked for so far has ended. Never rejects. */
  get idle(): Promise<unknown> { return this.#last }

  /** Somebody waits until whoever has the turn has ended. */
  get isAwaited(): boolean { return this.#count > 1 }

  take<T>(work: () => Promise<T>): Promise<T> {
    this.#count++
    const running = this.#last.then(work).finally(() => { this.#count-- })
    this.#last = running.catch(() => undefined)
    return running
  }
}
