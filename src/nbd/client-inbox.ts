/**
 * ClientInbox: what a server has sent and nobody has consumed yet, in one buffer of fixed size.
 *
 * Payload does not pass through it where that can be avoided: `fill` names the place where the next bytes belong, and what
 * has not arrived yet lands there straight from the kernel. After a large payload the next read is a short one, for the
 * header: the rest of its payload can then land in place as well.
 *
 * Invariant: nobody parses while a fill is under way (`filling > 0`), so that bytes are never taken twice.
 */
/** Holds the largest unit that is parsed in one piece (an option reply, 64 KiB) twice, and 64 replies of 4 KiB at once. */
const INBOX_BYTES = 320 * 1024
/** What is left of a payload lands in place from this size on; below, one read may take several replies. */
const DIRECT_BYTES = 32 * 1024
/** A read after a large payload: the next header and little else. */
const HEADER_VIEW_BYTES = 8 * 1024
/** Room below which leftover bytes are moved to the front. */
const ROOM_BYTES = 128 * 1024

export class ClientInbox {
  readonly buffer = Buffer.allocUnsafeSlow(INBOX_BYTES)
  readonly view = new DataView(this.buffer.buffer)
  pos = 0
  end = 0
  /** Bytes of the fill that have not arrived. */
  filling = 0
  #into: Buffer = this.buffer
  #at = 0
  #inPlace = false
  #large = false

  get available(): number { return this.end - this.pos }
  /** More waits than any unit takes that is parsed in one piece. */
  get crowded(): boolean { return this.available > INBOX_BYTES - ROOM_BYTES }

  /** The next `length` bytes belong to `into[at, at + length)`; those that are here are moved at once. */
  fill(into: Buffer, at: number, length: number): void {
    this.#into = into
    this.#at = at
    this.filling = length
    this.#large = length >= DIRECT_BYTES
    this.#move()
  }

  /** Where the next bytes shall land; never empty. */
  space(): Buffer {
    this.#inPlace = this.filling >= DIRECT_BYTES
    if (this.#inPlace) return this.#into.subarray(this.#at, this.#at + this.filling)
    if (this.pos === this.end) this.pos = this.end = 0
    else if (INBOX_BYTES - this.end < ROOM_BYTES) {
      this.buffer.copyWithin(0, this.pos, this.end)
      this.end -= this.pos
      this.pos = 0
    }
    const large = this.#large && this.filling === 0
    return this.buffer.subarray(this.end, large ? Math.min(this.end + HEADER_VIEW_BYTES, INBOX_BYTES) : INBOX_BYTES)
  }

  /** `count` bytes have landed in the last `space`. */
  landed(count: number): void {
    if (this.#inPlace) {
      this.#at += count
      this.filling -= count
      return
    }
    this.end += count
    this.#move()
  }

  #move(): void {
    const count = Math.min(this.filling, this.available)
    if (count === 0) return
    this.buffer.copy(this.#into, this.#at, this.pos, this.pos + count)
    this.pos += count
    this.#at += count
    this.filling -= count
  }
}
