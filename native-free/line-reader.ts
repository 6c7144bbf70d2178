/**
 * Cuts a byte stream into lines, whatever pieces it comes in. Pure: bytes in, lines out.
 *
 * Holds at most one line of `limitBytes`; pieces are kept as a list and joined once, so that a line arriving in
 * many small pieces costs no more than its length. A line over the limit is fatal: the caller drops the peer.
 */
const NEWLINE = 10

export class LineReader {
  readonly #limitBytes: number
  #parts: Buffer[] = []
  #held = 0

  constructor(limitBytes: number) { this.#limitBytes = limitBytes }

  /** Bytes of the unfinished line. */
  get heldBytes(): number { return this.#held }

  /** Lines completed by `chunk`, without their newline; 'too-long' as soon as one is over the limit. */
  * push(chunk: Buffer): Generator<string | 'too-long'> {
    let at = 0
    for (;;) {
      const end = chunk.indexOf(NEWLINE, at)
      const length = (end < 0 ? chunk.length : end) - at
      if (this.#held + length > this.#limitBytes) { yield 'too-long'; return }
      if (length > 0) { this.#parts.push(chunk.subarray(at, at + length)); this.#held += length }
      if (end < 0) return
      const line = this.#parts.length === 1 ? this.#parts[0]! : Buffer.concat(this.#parts)
      this.#parts = []
      this.#held = 0
      at = end + 1
      yield line.toString('utf8')
    }
  }
}
