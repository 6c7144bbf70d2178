/** Drains: those who wait until what was staged before they came is retired (staging.ts), in the order in which they came. */

interface Drain {
  readonly upTo: number
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

export class Drains {
  #waiting: Drain[] = []

  get isAwaited(): boolean { return this.#waiting.length > 0 }
  /** Number of the entry that is waited for next; Infinity: nobody waits. */
  get next(): number { return this.#waiting[0]?.upTo ?? Infinity }

  /** Resolves when entries up to this one are retired. */
  wait(upTo: number): Promise<void> {
    return new Promise((resolve, reject) => { this.#waiting.push({ upTo, resolve, reject }) })
  }

  retired(upTo: number): void { while (this.next <= upTo) this.#waiting.shift()!.resolve() }
  failed(error: unknown): void { for (const { reject } of this.#waiting.splice(0)) reject(error) }
}
