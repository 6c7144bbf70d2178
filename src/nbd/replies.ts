/**
 * Replies without streams: what each outcome looks like in the negotiated style (PROTOCOL G1-G4).
 * Every method expects room at `outbox.at` (REPLY_ROOM_BYTES, which the session has reserved) and moves `at` on.
 */
import { CHUNK, CHUNK_FLAG_DONE, COMMAND, SIZE } from '../../native-free/nbd/constants.js'
import {
  chunkHeaderBytes, putChunk, putErrorChunk, putExtendedChunk, putSimpleReply, putU64,
} from '../../native-free/nbd/transmission.js'
import type { Echo, ReplyStyle } from '../../native-free/nbd/transmission.js'
import type { Outbox } from './outbox.js'
import type { Refusal } from './request-verdict.js'

const OFFSET_BYTES = 8
const HOLE_PAYLOAD_BYTES = 12

export class Replies {
  readonly style: ReplyStyle
  /** Bytes in front of the data of a read that goes out whole. */
  readonly readHeaderBytes: number
  readonly #outbox: Outbox

  constructor(outbox: Outbox, style: ReplyStyle) {
    this.#outbox = outbox
    this.style = style
    this.readHeaderBytes = style === 'simple' ? SIZE.simpleReply : chunkHeaderBytes(style) + OFFSET_BYTES
  }

  /** Done, without data. Under structured replies a simple reply is allowed and shorter, but not for READ (G2, G3). */
  success(echo: Echo, type: number): void {
    const outbox = this.#outbox
    const { view } = outbox.slab!
    if (this.style === 'extended') {
      putExtendedChunk(view, outbox.at, CHUNK_FLAG_DONE, CHUNK.none, echo, 0)
      outbox.at += SIZE.extendedChunk
    } else if (this.style === 'simple' || type !== COMMAND.read) {
      putSimpleReply(view, outbox.at, 0, echo)
      outbox.at += SIZE.simpleReply
    } else outbox.at = putChunk(this.style, view, outbox.at, CHUNK_FLAG_DONE, CHUNK.none, echo, 0)
  }

  failure(echo: Echo, refusal: Refusal): void {
    const outbox = this.#outbox
    const { view } = outbox.slab!
    if (this.style !== 'simple') {
      outbox.at = putErrorChunk(this.style, view, outbox.at, echo, refusal.errno, refusal.bytes)
      return
    }
    putSimpleReply(view, outbox.at, refusal.errno, echo)
    outbox.at += SIZE.simpleReply
  }

  /** The header of a read whose `length` bytes stand at `at + readHeaderBytes` already, so it may say DONE (R2). */
  putReadHeader(view: DataView, at: number, echo: Echo, offset: number, length: number): void {
    if (this.style === 'simple') {
      putSimpleReply(view, at, 0, echo)
      return
    }
    putU64(view, putChunk(this.style, view, at, CHUNK_FLAG_DONE, CHUNK.offsetData, echo, OFFSET_BYTES + length), offset)
  }

  /** A read of nothing but a hole. */
  hole(echo: Echo, offset: number, length: number): void {
    const outbox = this.#outbox
    const { view } = outbox.slab!
    const body = putChunk(this.style, view, outbox.at, CHUNK_FLAG_DONE, CHUNK.offsetHole, echo, HOLE_PAYLOAD_BYTES)
    putU64(view, body, offset)
    view.setUint32(body + OFFSET_BYTES, length)
    outbox.at = body + HOLE_PAYLOAD_BYTES
  }
}
