/**
 * One command at a time per key, in order of arrival; different keys do not wait for each other.
 * A key costs memory only while somebody holds or awaits it.
 */
export class KeyedMutex {
  readonly #tails = new Map<string, Promise<void>>()

  /** Keys held or awaited now. */
  get size(): number { return this.#tails.size }

  /** Runs `task` when all earlier tasks of `key` have ended, however they ended. */
  async run<T>(key: string, task: () => Promise<T>): Promise<T> {
    const before = this.#tails.get(key)
    let done!: () => void
    const tail = new Promise<void>(resolve => { done = resolve })
    this.#tails.set(key, tail)
    try {
      await before
      return await task()
    } finally {
      done()
      if (this.#tails.get(key) === tail) this.#tails.delete(key)
    }
  }
}
