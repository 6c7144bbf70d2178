/**
 * FlushLedger: which completed writes the peer may still lose.
 *
 *   write done -> unflushed -> flush done (begun after it) -> safe
 *                           -> connection lost             -> in doubt: the next flush fails, once
 *
 * A peer that was lost may have crashed, and then a flush on the new connection says nothing about writes it has forgotten
 * (PROTOCOL D2, DESIGN S2). So that flush must not succeed; what was in doubt is the caller's to decide.
 */
import { NbdeltaError } from '../device/errors.js'

export class FlushLedger {
  #completed = 0
  #flushed = 0
  #doubt: NbdeltaError | undefined

  /** A write-class request completed. */
  wrote(): void { this.#completed++ }

  /** What a flush that begins now will cover. */
  get mark(): number { return this.#completed }

  /** A flush that began at `mark` succeeded. */
  flushed(mark: number): void { this.#flushed = Math.max(this.#flushed, mark) }

  /** A connection was lost. */
  lost(reason: NbdeltaError): void {
    if (this.#completed === this.#flushed) return
    this.#flushed = this.#completed
    const text = `writes completed since the last good flush may be lost, because the connection was: ${reason.message}`
    this.#doubt = new NbdeltaError('flush-failed', text, { cause: reason, hint: 'write them again, then flush' })
  }

  /** Whether a flush would have to fail now. */
  get doubtful(): boolean { return this.#doubt !== undefined }

  /** The error to fail with; asked for once, it is not given again. */
  takeDoubt(): NbdeltaError | undefined {
    const doubt = this.#doubt
    this.#doubt = undefined
    return doubt
  }
}
