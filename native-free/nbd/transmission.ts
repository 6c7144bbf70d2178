/**
 * Transmission codec: request headers in, reply headers out, straight in and out of a caller's DataView.
 *
 * Hot path rules: nothing here allocates. Cookies, and the offset that extended replies echo, are opaque bytes,
 * carried as two signed 32-bit halves because those are small integers in V8 (an unsigned half above 2^31 would be
 * a heap number each time). Offsets and lengths to calculate with are Numbers, exact below 2^53; a 64-bit value
 * above that becomes BEYOND, which lies outside every export, so that no check can wrap (PROTOCOL X2).
 */
import {
  CHUNK, CHUNK_FLAG_DONE, COMMAND, EXTENDED_REPLY_MAGIC, EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, SIZE,
  STRUCTURED_REPLY_MAGIC,
} from './constants.js'

const TWO_32 = 2 ** 32
const HIGH_LIMIT = 2 ** 21
/** What an offset or length of 2^53 or more decodes to: larger than any export, and still exact to compare. */
export const BEYOND = 2 ** 53

/** One decoded request header; reused for every request of a connection. */
export class Request {
  flags = 0
  type = 0
  cookieHigh = 0
  cookieLow = 0
  offsetHigh = 0
  offsetLow = 0
  offset = 0
  length = 0
}

function join(high: number, low: number): number {
  return high < HIGH_LIMIT ? high * TWO_32 + low : BEYOND
}

/** Decodes the compact header (28 bytes) at `at`. False: wrong magic, the stream is out of step. */
export function decodeRequest(view: DataView, at: number, into: Request): boolean {
  if (view.getUint32(at) !== REQUEST_MAGIC) return false
  decodeFront(view, at, into)
  into.length = view.getUint32(at + 24)
  return true
}

/** Decodes the extended header (32 bytes) at `at`. False: wrong magic (E1). */
export function decodeExtendedRequest(view: DataView, at: number, into: Request): boolean {
  if (view.getUint32(at) !== EXTENDED_REQUEST_MAGIC) return false
  decodeFront(view, at, into)
  into.length = join(view.getUint32(at + 24), view.getUint32(at + 28))
  return true
}

function decodeFront(view: DataView, at: number, into: Request): void {
  into.flags = view.getUint16(at + 4)
  into.type = view.getUint16(at + 6)
  into.cookieHigh = view.getInt32(at + 8)
  into.cookieLow = view.getInt32(at + 12)
  into.offsetHigh = view.getInt32(at + 16)
  into.offsetLow = view.getInt32(at + 20)
  into.offset = join(view.getUint32(at + 16), view.getUint32(at + 20))
}

/** Whether `bytes` end in what looks like a DISC request; what stands before it may be anything. */
export function endsInDisconnect(bytes: Buffer, extended: boolean): boolean {
  const at = bytes.length - (extended ? SIZE.extendedRequest : SIZE.request)
  if (at < 0 || bytes.readUInt32BE(at) !== (extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC)) return false
  return bytes.readUInt16BE(at + 6) === COMMAND.disconnect
}

/** What a reply repeats of its request. */
export interface Echo {
  readonly cookieHigh: number
  readonly cookieLow: number
  readonly offsetHigh: number
  readonly offsetLow: number
}

/** Writes a simple reply header (16 bytes). */
export function putSimpleReply(view: DataView, at: number, errno: number, echo: Echo): void {
  view.setUint32(at, SIMPLE_REPLY_MAGIC)
  view.setUint32(at + 4, errno)
  view.setInt32(at + 8, echo.cookieHigh)
  view.setInt32(at + 12, echo.cookieLow)
}

/** Writes a structured chunk header (20 bytes) for a payload of `length` bytes. */
function putStructuredChunk(view: DataView, at: number, flags: number, type: number, echo: Echo, length: number): void {
  view.setUint32(at, STRUCTURED_REPLY_MAGIC)
  view.setUint16(at + 4, flags)
  view.setUint16(at + 6, type)
  view.setInt32(at + 8, echo.cookieHigh)
  view.setInt32(at + 12, echo.cookieLow)
  view.setUint32(at + 16, length)
}

/** Writes an extended chunk header (32 bytes); its offset field repeats the request's offset (E2). */
export function putExtendedChunk(view: DataView, at: number, flags: number, type: number, echo: Echo, length: number): void {
  view.setUint32(at, EXTENDED_REPLY_MAGIC)
  view.setUint16(at + 4, flags)
  view.setUint16(at + 6, type)
  view.setInt32(at + 8, echo.cookieHigh)
  view.setInt32(at + 12, echo.cookieLow)
  view.setInt32(at + 16, echo.offsetHigh)
  view.setInt32(at + 20, echo.offsetLow)
  view.setUint32(at + 24, 0)
  view.setUint32(at + 28, length)
}

/** How replies look on a connection; fixed by the negotiation. */
export type ReplyStyle = 'simple' | 'structured' | 'extended'

/** Bytes of a chunk header in `style`. */
export function chunkHeaderBytes(style: ReplyStyle): number {
  return style === 'extended' ? SIZE.extendedChunk : SIZE.structuredChunk
}

/** Writes a chunk header in `style` (structured or extended); returns where its payload begins. */
export function putChunk(
  style: ReplyStyle, view: DataView, at: number, flags: number, type: number, echo: Echo, length: number,
): number {
  if (style === 'extended') {
    putExtendedChunk(view, at, flags, type, echo, length)
    return at + SIZE.extendedChunk
  }
  putStructuredChunk(view, at, flags, type, echo, length)
  return at + SIZE.structuredChunk
}

/** Writes a 64-bit number below 2^53. */
export function putU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / TWO_32))
  view.setUint32(at + 4, value % TWO_32)
}

/** Bytes of the payload of an error chunk without its text: errno32, text length16. */
const ERROR_CHUNK_FIXED_BYTES = 6

/** Writes a whole ERROR chunk with DONE; returns its end. `text` is at most 2^16 - 1 bytes, already UTF-8. */
export function putErrorChunk(
  style: ReplyStyle, view: DataView, at: number, echo: Echo, errno: number, text: Uint8Array,
): number {
  const body = putChunk(style, view, at, CHUNK_FLAG_DONE, CHUNK.error, echo, ERROR_CHUNK_FIXED_BYTES + text.length)
  view.setUint32(body, errno)
  view.setUint16(body + 4, text.length)
  new Uint8Array(view.buffer, view.byteOffset).set(text, body + ERROR_CHUNK_FIXED_BYTES)
  return body + ERROR_CHUNK_FIXED_BYTES + text.length
}

/**
 * Writes a whole block status chunk for one context; returns its end. Structured entries are (length32, flags32),
 * extended ones (length64, flags64 with a zero upper half) behind a count (E6). Lengths must fit the style.
 */
export function putStatusChunk(
  style: ReplyStyle, view: DataView, at: number, flags: number, echo: Echo, contextId: number,
  lengths: readonly number[], states: readonly number[],
): number {
  const count = lengths.length
  const wide = style === 'extended'
  const type = wide ? CHUNK.blockStatusExt : CHUNK.blockStatus
  let to = putChunk(style, view, at, flags, type, echo, statusPayloadBytes(style, count))
  view.setUint32(to, contextId)
  to += 4
  if (wide) {
    view.setUint32(to, count)
    to += 4
  }
  for (let i = 0; i < count; i++) {
    if (wide) {
      putU64(view, to, lengths[i]!)
      putU64(view, to + 8, states[i]!)
      to += 16
    } else {
      view.setUint32(to, lengths[i]!)
      view.setUint32(to + 4, states[i]!)
      to += 8
    }
  }
  return to
}

/** Payload bytes of a block status chunk with `count` extents. */
export function statusPayloadBytes(style: ReplyStyle, count: number): number {
  return style === 'extended' ? 8 + 16 * count : 4 + 8 * count
}

/** The filter payload of an extended BLOCK_STATUS: {effect length64, n x context id32} (E5). */
export interface StatusFilter {
  readonly length: number
  readonly ids: readonly number[]
}

/** Undefined: the length is not 8 + 4n with n >= 1. */
export function decodeStatusFilter(view: DataView, at: number, bytes: number): StatusFilter | undefined {
  if (bytes < 12 || bytes % 4 !== 0) return undefined
  const ids = Array.from({ length: (bytes - 8) / 4 }, (_, i) => view.getUint32(at + 8 + 4 * i))
  return { length: join(view.getUint32(at), view.getUint32(at + 4)), ids }
}

/** One request header as bytes, any cookie and any 64-bit number: for tests and tools (the client has `putRequest`). */
export function encodeRequest(
  extended: boolean,
  request: { flags?: number, type: number, cookie: bigint, offset: bigint | number, length: bigint | number },
): Buffer {
  const out = Buffer.alloc(extended ? SIZE.extendedRequest : SIZE.request)
  out.writeUInt32BE(extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC, 0)
  out.writeUInt16BE(request.flags ?? 0, 4)
  out.writeUInt16BE(request.type, 6)
  out.writeBigUInt64BE(request.cookie, 8)
  out.writeBigUInt64BE(BigInt(request.offset), 16)
  if (extended) out.writeBigUInt64BE(BigInt(request.length), 24)
  else out.writeUInt32BE(Number(request.length), 24)
  return out
}
