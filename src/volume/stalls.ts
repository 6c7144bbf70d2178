/** Stalls: whoever stops something for a moment, and those who wait until nobody does. */
export class Stalls {
  #count = 0
  /** Resolves when nobody stalls any more. */
  over: Promise<void> = Promise.resolve()
  #end: () => void = () => undefined

  get isOn(): boolean { return this.#count > 0 }

  begin(): void { if (this.#count++ === 0) this.over = new Promise(resolve => { this.#end = resolve }) }
  end(): void { if (--this.#count === 0) this.#end() }
}
