/** What transfers (images, deltas, cycles) have in common: how they report, and how they are ended early. */
import { NbdeltaError } from '../device/errors.js'

export interface TransferOptions {
  /** Called after each piece, and at the end with both equal. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void
  /** Ends the transfer between two pieces; it then rejects with `cancelled`. */
  readonly signal?: AbortSignal
}

export function transferCancelled(): NbdeltaError { return new NbdeltaError('cancelled', 'the transfer was cancelled') }

export function assertActive(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw transferCancelled()
}
