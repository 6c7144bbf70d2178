/** Turns: work one after the other, in order of arrival, however each ends. For turns by key see keyed-mutex.ts. */
export class Turns {
  #last: Promise<unknown> = Promise.resolve()

  /** All that was asked for so far has ended. Never rejects. */
  get idle(): Promise<unknown> { return this.#last }

  take<T>(work: () => Promise<T>): Promise<T> {
    const running = this.#last.then(work)
    this.#last = running.catch(() => undefined)
    return running
  }
}
