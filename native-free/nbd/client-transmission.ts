/**
 * The client's half of the transmission codec: request headers out, reply headers in, straight in and out of a caller's
 * DataView. The hot path rules of transmission.ts hold: nothing here allocates, 64-bit values that no Number holds
 * become BEYOND, and a decoder says what is there; whether that may be is judged by the client.
 */
import {
  EXTENDED_REPLY_MAGIC, EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, SIZE, STRUCTURED_REPLY_MAGIC,
} from './constants.js'
import { BEYOND, putU64 } from './transmission.js'

const TWO_32 = 2 ** 32
const HIGH_LIMIT = 2 ** 21

/** A 64-bit number; BEYOND when it is 2^53 or more. */
export function getU64(view: DataView, at: number): number {
  const high = view.getUint32(at)
  return high < HIGH_LIMIT ? high * TWO_32 + view.getUint32(at + 4) : BEYOND
}

/** What a request header says. Without extended headers `length` is below 2^32. */
export interface RequestHeader {
  readonly flags: number
  readonly type: number
  /** Two signed halves, as in transmission.ts. */
  readonly cookieHigh: number
  readonly cookieLow: number
  readonly offset: number
  readonly length: number
}

/** Writes a compact (28 bytes) or extended (32 bytes) request header; returns its end. */
export function putRequest(view: DataView, at: number, extended: boolean, request: RequestHeader): number {
  view.setUint32(at, extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC)
  view.setUint16(at + 4, request.flags)
  view.setUint16(at + 6, request.type)
  view.setInt32(at + 8, request.cookieHigh)
  view.setInt32(at + 12, request.cookieLow)
  putU64(view, at + 16, request.offset)
  if (extended) {
    putU64(view, at + 24, request.length)
    return at + SIZE.extendedRequest
  }
  view.setUint32(at + 24, request.length)
  return at + SIZE.request
}

/** One decoded reply header; reused for every reply of a connection. */
export class ReplyHeader {
  /** A simple reply: `errno` counts; a chunk: `flags`, `type` and `length` do. */
  simple = false
  errno = 0
  flags = 0
  type = 0
  cookieHigh = 0
  cookieLow = 0
  /** Bytes of payload behind the header; of extended chunks only: the offset of the request. */
  length = 0
  offset = 0
}

/** Bytes of the reply header whose magic stands at `at` (4 bytes must be there); 0: no reply begins like that. */
export function replyHeaderBytes(view: DataView, at: number): number {
  switch (view.getUint32(at)) {
    case SIMPLE_REPLY_MAGIC: return SIZE.simpleReply
    case STRUCTURED_REPLY_MAGIC: return SIZE.structuredChunk
    case EXTENDED_REPLY_MAGIC: return SIZE.extendedChunk
    default: return 0
  }
}

/** Decodes the header at `at`, of which all `replyHeaderBytes` must be there. */
export function decodeReplyHeader(view: DataView, at: number, into: ReplyHeader): void {
  const magic = view.getUint32(at)
  into.simple = magic === SIMPLE_REPLY_MAGIC
  into.cookieHigh = view.getInt32(at + 8)
  into.cookieLow = view.getInt32(at + 12)
  if (into.simple) {
    into.errno = view.getUint32(at + 4)
    into.length = 0
    return
  }
  into.flags = view.getUint16(at + 4)
  into.type = view.getUint16(at + 6)
  if (magic === EXTENDED_REPLY_MAGIC) {
    into.offset = getU64(view, at + 16)
    into.length = getU64(view, at + 24)
  } else into.length = view.getUint32(at + 16)
}

/** An error chunk's payload: {errno32, textlength16, text [, more]}. */
export interface ErrorPayload {
  readonly errno: number
  readonly text: Buffer
  /** Bytes behind the text: 8 of an ERROR_OFFSET, none of an ERROR. */
  readonly restBytes: number
}

/** Undefined: the text runs past the payload. */
export function decodeErrorPayload(payload: Buffer): ErrorPayload | undefined {
  if (payload.length < 6) return undefined
  const end = 6 + payload.readUInt16BE(4)
  if (end > payload.length) return undefined
  return { errno: payload.readUInt32BE(0), text: payload.subarray(6, end), restBytes: payload.length - end }
}
