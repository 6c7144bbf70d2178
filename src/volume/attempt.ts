/**
 * Attempt: one try of a change of content, when it is its turn: whether it has come so far that a reader may see something of it.
 *
 * Before that it has failed without a trace: room for old content was lacking, or something could not be made durable in front of
 * it. Behind it what is there is not known when it fails (watchers.ts): a device that refuses a write may have taken some of it.
 */
import type { Origin } from '../device/block-device.js'

export class Attempt implements Origin {
  readonly #origin: Origin | undefined
  #begun = false

  constructor(origin: Origin | undefined) { this.#origin = origin }

  /** Of whoever has asked for it. */
  get gone(): boolean { return this.#origin?.gone ?? false }

  get hasBegun(): boolean { return this.#begun }

  /** What comes next a reader may see. */
  begin(): void { this.#begun = true }
}
