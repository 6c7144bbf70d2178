/**
 * Rests: when what is staged (staging.ts) is moved though nobody asks: a burst is over, or a disk has failed a while ago. When
 * the next burst comes meanwhile, what is left to be moved waits for the end of that: moving and taking at once, both are slow.
 */
import type { Clock } from '../device/clock.js'

/** Appends that come closer together than this are one burst, and wait while there is room. */
const REST_MS = 50
/** After a failure of the disk. */
const RETRY_MS = 30_000

export class Rests {
  readonly #clock: Clock
  readonly #over: () => void
  #timer: { cancel(): void } | undefined
  #retry: { cancel(): void } | undefined
  /** Something came since a rest was over, for which only it was begun. */
  #hasEnded = (): boolean => false

  /** @param over called when a rest is over, unless it was cancelled */
  constructor(clock: Clock, over: () => void) {
    this.#clock = clock
    this.#over = over
  }

  /** Over when nothing was taken for REST_MS. @param taken so much was, ever */
  begin(taken: () => number): void { this.#timer ??= this.#rest(taken) }

  /** If nothing is tried before. */
  retry(): void { this.#retry ??= this.#clock.setTimeout(this.#over, RETRY_MS) }

  /** What has begun because of a rest is not worth while any more; never, if somebody has cancelled it since. */
  get hasEnded(): boolean { return this.#hasEnded() }

  /** Somebody begins for another reason. */
  cancel(): void {
    this.#hasEnded = () => false
    this.#timer?.cancel()
    this.#retry?.cancel()
    this.#timer = this.#retry = undefined
  }

  #rest(taken: () => number): { cancel(): void } {
    const before = taken()
    return this.#clock.setTimeout(() => {
      const more = taken() > before
      this.#timer = more ? this.#rest(taken) : undefined
      if (more) return
      this.#over()
      const upTo = taken()
      this.#hasEnded = () => taken() > upTo
    }, REST_MS)
  }
}
