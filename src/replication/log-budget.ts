/** Log budget: what the logs of all streams of a server may hold together, bytes (S7). */

/** By default. */
const LOGS_BYTES = 256 * 2 ** 20

export class LogBudget {
  readonly #limit: number
  #used = 0

  constructor(limitBytes = LOGS_BYTES) { this.#limit = limitBytes }

  get isExceeded(): boolean { return this.#used > this.#limit }

  /** @param bytes negative: given back */
  add(bytes: number): void { this.#used += bytes }
}
