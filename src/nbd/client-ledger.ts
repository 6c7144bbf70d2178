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

interface Flush { readonly mark: number, readonly losses: number }

export class FlushLedger {
  #completed = 0
  #flushed = 0
  /** Losses that left writes in doubt, and the error of the last one until a flush has told it. */
  #losses = 0
  #error: NbdeltaError | undefined
  #told = true

  /** A write-class request completed. */
  wrote(): void { this.#completed++ }

  /** A connection was lost. */
  lost(reason: NbdeltaError): void {
    if (this.#completed === this.#flushed) return
    this.#flushed = this.#completed
    this.#losses++
    this.#told = false
    const text = `writes completed since the last good flush may be lost, because the connection was: ${reason.message}`
    this.#error = new NbdeltaError('flush-failed', text, { cause: reason, hint: 'write them again, then flush' })
  }

  /** A flush is asked for. Throws `flush-failed` if it would have to cover what is in doubt, and nobody was told so far. */
  begin(): Flush {
    if (!this.#told) this.#tell()
    return { mark: this.#completed, losses: this.#losses }
  }

  /** The peer has flushed. Throws `flush-failed` if writes fell into doubt meanwhile: every flush under way then fails. */
  end(flush: Flush): void {
    if (flush.losses !== this.#losses) this.#tell()
    this.#flushed = Math.max(this.#flushed, flush.mark)
  }

  #tell(): never {
    this.#told = true
    throw this.#error!
  }
}
