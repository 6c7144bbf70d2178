/**
 * Handshake codec: bytes to values and back, both directions, no sockets, no state.
 *
 * Decoders answer `undefined` for data whose inner lengths do not fit the option (PROTOCOL O6, C1); what to say
 * to the client is the negotiation's business. They never look past the buffer they are given.
 */
import {
  HANDSHAKE_FLAG, IHAVEOPT, INFO, MAX_META_QUERIES, MAX_STRING_BYTES, NBDMAGIC, OPTION_REPLY_MAGIC, SIZE,
} from './constants.js'

const U32 = 4
const U16 = 2

/** The server's first 18 bytes, for one write. */
export function encodeHello(): Buffer {
  const out = Buffer.alloc(SIZE.hello)
  out.writeBigUInt64BE(NBDMAGIC, 0)
  out.writeBigUInt64BE(IHAVEOPT, 8)
  out.writeUInt16BE(HANDSHAKE_FLAG.fixedNewstyle | HANDSHAKE_FLAG.noZeroes, 16)
  return out
}

export interface OptionHeader {
  readonly option: number
  readonly length: number
}

/** The 16 bytes at `at` as an option header; undefined when the magic is wrong (O4). */
export function decodeOptionHeader(bytes: Buffer, at: number): OptionHeader | undefined {
  if (bytes.readBigUInt64BE(at) !== IHAVEOPT) return undefined
  return { option: bytes.readUInt32BE(at + 8), length: bytes.readUInt32BE(at + 12) }
}

export function encodeOption(option: number, data: Buffer = Buffer.alloc(0)): Buffer {
  const out = Buffer.alloc(SIZE.optionHeader + data.length)
  out.writeBigUInt64BE(IHAVEOPT, 0)
  out.writeUInt32BE(option, 8)
  out.writeUInt32BE(data.length, 12)
  data.copy(out, SIZE.optionHeader)
  return out
}

export function encodeOptionReply(option: number, type: number, data: Buffer | string = ''): Buffer {
  const body = typeof data === 'string' ? Buffer.from(data) : data
  const out = Buffer.alloc(SIZE.optionReplyHeader + body.length)
  out.writeBigUInt64BE(OPTION_REPLY_MAGIC, 0)
  out.writeUInt32BE(option, 8)
  out.writeUInt32BE(type, 12)
  out.writeUInt32BE(body.length, 16)
  body.copy(out, SIZE.optionReplyHeader)
  return out
}

interface InfoRequest {
  readonly name: Buffer
  readonly infos: readonly number[]
}

/** INFO and GO: {namelen32, name, n16, n x info16}, exactly as long as the option said. */
export function decodeInfoRequest(data: Buffer): InfoRequest | undefined {
  if (data.length < U32 + U16) return undefined
  const nameBytes = data.readUInt32BE(0)
  if (nameBytes > data.length - U32 - U16) return undefined
  const countAt = U32 + nameBytes
  const count = data.readUInt16BE(countAt)
  if (data.length !== countAt + U16 + count * U16) return undefined
  const infos = Array.from({ length: count }, (_, i) => data.readUInt16BE(countAt + U16 + i * U16))
  return { name: data.subarray(U32, countAt), infos }
}

export function encodeInfoRequest(name: string, infos: readonly number[]): Buffer {
  const bytes = Buffer.from(name)
  const out = Buffer.alloc(U32 + bytes.length + U16 + infos.length * U16)
  out.writeUInt32BE(bytes.length, 0)
  bytes.copy(out, U32)
  out.writeUInt16BE(infos.length, U32 + bytes.length)
  infos.forEach((info, i) => out.writeUInt16BE(info, U32 + bytes.length + U16 + i * U16))
  return out
}

interface MetaRequest {
  readonly name: Buffer
  readonly queries: readonly Buffer[]
}

/** LIST_META_CONTEXT and SET_META_CONTEXT: {namelen32, export, nq32, nq x (len32, query)} (C1). */
export function decodeMetaRequest(data: Buffer): MetaRequest | 'too many' | undefined {
  if (data.length < U32 + U32) return undefined
  const nameBytes = data.readUInt32BE(0)
  if (nameBytes > data.length - U32 - U32) return undefined
  const name = data.subarray(U32, U32 + nameBytes)
  const count = data.readUInt32BE(U32 + nameBytes)
  let at = U32 + nameBytes + U32
  if (count > (data.length - at) / U32) return undefined
  if (count > MAX_META_QUERIES) return 'too many'
  const queries: Buffer[] = []
  for (let i = 0; i < count; i++) {
    if (data.length - at < U32) return undefined
    const length = data.readUInt32BE(at)
    at += U32
    if (length > data.length - at) return undefined
    queries.push(data.subarray(at, at + length))
    at += length
  }
  return at === data.length ? { name, queries } : undefined
}

export function encodeMetaRequest(name: string, queries: readonly string[]): Buffer {
  const counted = (text: string) => {
    const bytes = Buffer.from(text)
    const length = Buffer.alloc(U32)
    length.writeUInt32BE(bytes.length)
    return Buffer.concat([length, bytes])
  }
  const count = Buffer.alloc(U32)
  count.writeUInt32BE(queries.length)
  return Buffer.concat([counted(name), count, ...queries.map(counted)])
}

/** The data of a SERVER reply: {namelen32, name, description}. */
export function encodeServerEntry(name: string, description: string): Buffer {
  const bytes = Buffer.from(name)
  const out = Buffer.alloc(U32)
  out.writeUInt32BE(bytes.length)
  return Buffer.concat([out, bytes, Buffer.from(description)])
}

/** The data of an INFO reply of type EXPORT: {0, size64, flags16}. */
export function encodeInfoExport(sizeBytes: number, flags: number): Buffer {
  const out = Buffer.alloc(12)
  out.writeUInt16BE(INFO.export, 0)
  out.writeBigUInt64BE(BigInt(sizeBytes), 2)
  out.writeUInt16BE(flags, 10)
  return out
}

/** The data of an INFO reply of type BLOCK_SIZE: {3, minimum32, preferred32, maximum payload32}. */
export function encodeInfoBlockSize(minimum: number, preferred: number, maximum: number): Buffer {
  const out = Buffer.alloc(14)
  out.writeUInt16BE(INFO.blockSize, 0)
  out.writeUInt32BE(minimum, 2)
  out.writeUInt32BE(preferred, 6)
  out.writeUInt32BE(maximum, 10)
  return out
}

/** The data of an INFO reply of type NAME or DESCRIPTION, cut to the longest string allowed (H5). */
export function encodeInfoText(type: number, text: string): Buffer {
  const out = Buffer.alloc(U16)
  out.writeUInt16BE(type, 0)
  return Buffer.concat([out, Buffer.from(text).subarray(0, MAX_STRING_BYTES)])
}

/** The data of a META_CONTEXT reply: {id32, name}. */
export function encodeMetaContext(id: number, name: string): Buffer {
  const out = Buffer.alloc(U32)
  out.writeUInt32BE(id, 0)
  return Buffer.concat([out, Buffer.from(name)])
}

/** The answer to EXPORT_NAME: {size64, flags16} and, unless both sides set NO_ZEROES, 124 zero bytes (H3). */
export function encodeExportNameReply(sizeBytes: number, flags: number, padded: boolean): Buffer {
  const out = Buffer.alloc(10 + (padded ? SIZE.exportNamePadding : 0))
  out.writeBigUInt64BE(BigInt(sizeBytes), 0)
  out.writeUInt16BE(flags, 8)
  return out
}
