/**
 * Inbox: what a client has sent and nobody has consumed yet.
 *
 *   slab  |....consumed....|####### unparsed #######|........ room ........|tail|
 *         0               pos                      end               size - TAIL   size
 *
 * The socket reads straight into `view`, which it was given with the last bytes. So bytes are moved and slabs are changed
 * in `prepare` only, right after a landing; `pos` alone moves while requests are parsed.
 *
 * - Small and quiet by default; a read that fills the view makes it large, many small reads make it small again.
 * - A slab that is pinned (a device has not finished a write from it) is appended to and then left behind.
 * - The tail is handed out only when parsing has stalled on a full slab. The bytes that land there arrive after the stall
 *   is over, when at most one incomplete request (WHOLE_PAYLOAD_BYTES and its header) is left, so that request and tail
 *   together fit the smallest slab: 8,192 + 32 + 2,048 <= 16,384 - 2,048.
 */
import { SMALL_SLAB_BYTES } from './limits.js'
import { TAIL_BYTES } from './slab.js'
import type { Allotment } from './budget.js'
import type { Slab } from './slab.js'

/** A payload up to this size is waited for and written in one call; a larger one is written as it arrives. */
export const WHOLE_PAYLOAD_BYTES = 8192
/** Leftover up to this size is moved to the front; more is cheaper to leave where it is. */
const MOVE_BYTES = 16 * 1024
/** Behind a pinned slab's bytes at least this much room is worth reading into. */
const ROOM_BYTES = 8 * 1024
/** After so many reads in a row that would have fitted a small slab the large one is given back. */
const QUIET_READS = 512

export class Inbox {
  readonly #allotment: Allotment
  slab: Slab
  pos = 0
  end = 0
  /** Set when the slab cannot take the unit that `need` announced, and no larger one was to be had. */
  starved = false
  /** Set when writes pin all receive memory: do not read on until one of them is done. */
  stuck = false
  /** Where the next bytes shall land; never empty. */
  view: Buffer
  #needBytes = 0
  #quietReads = 0
  #full = false

  constructor(allotment: Allotment) {
    this.#allotment = allotment
    this.slab = allotment.takeOwn() ?? allotment.overdraw()
    this.view = this.slab.front
  }

  get available(): number { return this.end - this.pos }
  get unparsed(): Buffer { return this.slab.buffer.subarray(this.pos, this.end) }

  /** `count` bytes have landed in `view`. */
  landed(count: number): void {
    this.end += count
    this.#full = count === this.view.length
    this.#quietReads = count <= WHOLE_PAYLOAD_BYTES ? this.#quietReads + 1 : 0
  }

  /** The unit being parsed takes `bytes` in one piece (0: nothing in particular). Heeded by the next `prepare`. */
  need(bytes: number): void { this.#needBytes = bytes }

  /** Makes the next view. Call it once after the bytes of a landing were parsed, never in between. */
  prepare(): void {
    this.stuck = false
    if (this.slab.pinned) this.#leavePinned()
    else this.#tidy()
    this.view = this.#nextView()
  }

  /** No room for more unparsed bytes but the tail: stop reading while parsing stalls. */
  get full(): boolean { return this.end >= this.slab.size - TAIL_BYTES }

  /** Whether a stuck inbox could go on now. */
  get unstuck(): boolean { return !this.slab.pinned || this.#allotment.hasOwn }

  /** The connection is over. */
  release(): void { this.slab.retire() }

  #nextView(): Buffer {
    if (this.end === 0) return this.slab.front
    const edge = this.slab.size - TAIL_BYTES
    return this.slab.buffer.subarray(this.end, this.end < edge ? edge : this.slab.size)
  }

  /** Nobody else uses the slab: grow or shrink it where the traffic asks for it, and move the leftover to its front. */
  #tidy(): void {
    const { slab } = this
    const left = this.available
    if (left === 0) this.pos = this.end = 0
    if (this.#full && this.#grow()) return
    if (left === 0) {
      const tooLarge = slab.kind === 'huge' || (slab.kind === 'large' && this.#quietReads >= QUIET_READS)
      if (tooLarge) this.#moveTo(this.#allotment.takeOwn())
      return
    }
    if (this.pos > 0 && (left <= MOVE_BYTES || this.end === slab.size)) {
      slab.buffer.copyWithin(0, this.pos, this.end)
      this.pos = 0
      this.end = left
    }
    const room = slab.size - TAIL_BYTES
    this.starved = this.#needBytes > room && this.end >= room
  }

  /** One step up: bytes have really come for it, a length announced by a client alone never takes memory. */
  #grow(): boolean {
    if (this.slab.kind === 'small') return this.#moveTo(this.#allotment.take('large'))
    const wanted = this.slab.kind === 'large' && this.#needBytes > this.slab.size - TAIL_BYTES
    return wanted && this.#moveTo(this.#allotment.take('huge'))
  }

  #leavePinned(): void {
    if (this.slab.size - TAIL_BYTES - this.end >= ROOM_BYTES) return
    if (this.#moveTo(this.#allotment.take('large'))) return
    const fits = this.available <= SMALL_SLAB_BYTES - TAIL_BYTES - ROOM_BYTES / 2
    if (fits && this.#moveTo(this.#allotment.takeOwn())) return
    this.stuck = true
    if (this.end === this.slab.size) this.#moveTo(this.#allotment.overdraw())
  }

  #moveTo(next: Slab | undefined): boolean {
    if (next === undefined) return false
    const left = this.slab.buffer.copy(next.buffer, 0, this.pos, this.end)
    if (left !== this.available) throw new Error('unparsed bytes do not fit the next receive slab')
    this.slab.retire()
    this.slab = next
    this.pos = 0
    this.end = left
    this.#quietReads = 0
    return true
  }
}
