/**
 * The client's half of the handshake codec: what a server says, as values; and the few bytes only a client sends.
 *
 * Decoders answer `undefined` for bytes that are not what they should be: a wrong magic, or inner lengths that do not fit.
 * Sizes stay BigInt here, because a hostile one may have its top bit set (CVE-2023-5215); who may be believed is the
 * client's business. Nothing here looks past the buffer it is given.
 */
import { IHAVEOPT, INFO, MAX_STRING_BYTES, NBDMAGIC, OPTION_REPLY_MAGIC, SIZE } from './constants.js'

/** Second word of the hello of a server from before 2010, which has no options at all. */
const OLDSTYLE_MAGIC = 0x00420281861253n

export interface Hello {
  /** Oldstyle: nothing to negotiate, and nothing this client speaks. */
  readonly oldstyle: boolean
  readonly flags: number
}

/** The server's first 18 bytes. */
export function decodeHello(bytes: Buffer): Hello | undefined {
  if (bytes.length < SIZE.hello || bytes.readBigUInt64BE(0) !== NBDMAGIC) return undefined
  const second = bytes.readBigUInt64BE(8)
  if (second === OLDSTYLE_MAGIC) return { oldstyle: true, flags: 0 }
  return second === IHAVEOPT ? { oldstyle: false, flags: bytes.readUInt16BE(16) } : undefined
}

export function encodeClientFlags(flags: number): Buffer {
  const out = Buffer.alloc(SIZE.clientFlags)
  out.writeUInt32BE(flags)
  return out
}

export interface OptionReplyHeader {
  readonly option: number
  readonly type: number
  /** Bytes of data that follow. */
  readonly length: number
}

/** The 20 bytes at the front of each option reply. */
export function decodeOptionReplyHeader(bytes: Buffer): OptionReplyHeader | undefined {
  if (bytes.length < SIZE.optionReplyHeader || bytes.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC) return undefined
  return { option: bytes.readUInt32BE(8), type: bytes.readUInt32BE(12), length: bytes.readUInt32BE(16) }
}

export type InfoReply =
  | { readonly kind: 'export', readonly sizeBytes: bigint, readonly flags: number }
  | { readonly kind: 'blockSize', readonly minimum: number, readonly preferred: number, readonly maximum: number }
  | { readonly kind: 'other' }

/** The data of an INFO reply. Names and descriptions, and types of the future, are `other` (I2). */
export function decodeInfoReply(data: Buffer): InfoReply | undefined {
  if (data.length < 2) return undefined
  const type = data.readUInt16BE(0)
  if (type === INFO.export) return data.length === 12 ? { kind: 'export', ...sizeAndFlags(data, 2) } : undefined
  if (type !== INFO.blockSize) return { kind: 'other' }
  if (data.length !== 14) return undefined
  return { kind: 'blockSize', minimum: data.readUInt32BE(2), preferred: data.readUInt32BE(6), maximum: data.readUInt32BE(10) }
}

/** The first ten bytes of the answer to EXPORT_NAME; 124 zero bytes may follow (H3). */
export function decodeExportNameReply(bytes: Buffer): { readonly sizeBytes: bigint, readonly flags: number } | undefined {
  return bytes.length < 10 ? undefined : sizeAndFlags(bytes, 0)
}

function sizeAndFlags(bytes: Buffer, at: number): { sizeBytes: bigint, flags: number } {
  return { sizeBytes: bytes.readBigUInt64BE(at), flags: bytes.readUInt16BE(at + 8) }
}

/** The data of a META_CONTEXT reply: {id32, name}. */
export function decodeMetaContext(data: Buffer): { readonly id: number, readonly name: string } | undefined {
  if (data.length < 5 || data.length > 4 + MAX_STRING_BYTES) return undefined
  return { id: data.readUInt32BE(0), name: data.toString('utf8', 4) }
}
