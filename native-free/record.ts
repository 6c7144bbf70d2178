/**
 * Framing of one record on disk. Everything nbdelta writes beside clients' data travels in this envelope.
 *
 *    0 magic u32 | 4 version u16 | 6 type u16 | 8 payload length u32 | 12 crc32 u32
 *   16 owner (16 bytes: the uuid of whom it belongs to)
 *   32 epoch u64 | 40 sequence u64 | 48 durable sequence u64 | 56 own address u64
 *   64 payload, then zeros up to a multiple of 8
 *
 * Integers are big endian, u64 at most 2^53 - 1. The checksum covers all bytes but its own four, padding included, so
 * a torn write shows wherever it tore. The own address catches a record that reached the wrong place, the owner one that
 * lies in another volume's file, `durableSequence` (all up to here was known to be on the medium when this was appended)
 * tells damage from a torn tail: an earlier record that does not check, yet was known durable, is damage.
 *
 * What stays the same in every version: bytes 0..16 and the checksum. So a newer record is recognised as newer, and
 * damage is never taken for a newer version.
 */
import { crc32, crc32Bulk } from './checksum.js'
import { readU64, writeU64 } from './bytes.js'
import { roundUp } from './integer.js'

export const RECORD_HEADER_BYTES = 64
export const RECORD_OWNER_BYTES = 16
export const RECORD_ALIGN_BYTES = 8
/** A payload longer than this is damage; the longest honest one is a map page or a catalog entry. */
export const RECORD_PAYLOAD_MAX_BYTES = 16 * 1024 * 1024
/** Records longer than this take the quick checksum: the same value at a tenth of the time. */
const BULK_BYTES = 1024
const CRC_AT = 12
const OWNER_AT = 16

/** Who may have written a record found here. */
export interface RecordPlace {
  readonly magic: number
  /** The newest version the reader understands; the one a writer writes. */
  readonly version: number
  /** 16 bytes. */
  readonly owner: Buffer
  /** Byte offset of the record in its device. */
  readonly address: number
}

export interface RecordFields {
  readonly type: number
  readonly epoch: number
  readonly sequence: number
  /** Every record up to and with this sequence was on the medium when this one was appended. */
  readonly durableSequence: number
}

export interface DecodedRecord extends RecordFields {
  readonly ok: true
  readonly version: number
  /** A view into the buffer that was decoded, not a copy. */
  readonly payload: Buffer
  /** With header and padding: the next record starts this much later. */
  readonly sizeBytes: number
}

/** `end` nothing was ever written here; the others say what does not fit. */
export type RecordReason = 'end' | 'magic' | 'length' | 'checksum' | 'version' | 'owner' | 'address'
export interface RefusedRecord { readonly ok: false, readonly reason: RecordReason }

/** Bytes that a record with such a payload takes, padding included. */
export function recordSizeBytes(payloadBytes: number): number {
  return RECORD_HEADER_BYTES + roundUp(payloadBytes, RECORD_ALIGN_BYTES)
}

/** Writes the record into `into` at `at` and returns its size in bytes. Throws RangeError where it does not fit. */
export function encodeRecord(place: RecordPlace, fields: RecordFields, payload: Buffer, into: Buffer, at: number): number {
  payload.copy(into, at + RECORD_HEADER_BYTES)
  return sealRecord(place, fields, payload.length, into, at)
}

/** As `encodeRecord`, around a payload that is in its place already: RECORD_HEADER_BYTES behind `at`. */
export function sealRecord(place: RecordPlace, fields: RecordFields, payloadBytes: number, into: Buffer, at: number): number {
  const sizeBytes = recordSizeBytes(payloadBytes)
  if (payloadBytes > RECORD_PAYLOAD_MAX_BYTES) throw new RangeError(`a record payload of ${payloadBytes} bytes`)
  if (at + sizeBytes > into.length) throw new RangeError(`a record of ${sizeBytes} bytes at ${at} of ${into.length}`)
  if (place.owner.length !== RECORD_OWNER_BYTES) throw new RangeError(`an owner of ${place.owner.length} bytes`)
  into.writeUInt32BE(place.magic, at)
  into.writeUInt16BE(place.version, at + 4)
  into.writeUInt16BE(fields.type, at + 6)
  into.writeUInt32BE(payloadBytes, at + 8)
  place.owner.copy(into, at + OWNER_AT)
  writeU64(into, at + 32, fields.epoch)
  writeU64(into, at + 40, fields.sequence)
  writeU64(into, at + 48, fields.durableSequence)
  writeU64(into, at + 56, place.address)
  into.fill(0, at + RECORD_HEADER_BYTES + payloadBytes, at + sizeBytes)
  into.writeUInt32BE(checksumOf(into, at, sizeBytes), at + CRC_AT)
  return sizeBytes
}

/**
 * Reads the record at `at` of `buf`. The order of the checks is the contract: magic and length say whether this can be a
 * record, the checksum whether it is whole, and only a whole one is asked for its version, its owner and its address.
 */
export function decodeRecord(place: RecordPlace, buf: Buffer, at: number): DecodedRecord | RefusedRecord {
  if (at + RECORD_HEADER_BYTES > buf.length || isBlank(buf, at)) return refuse('end')
  if (buf.readUInt32BE(at) !== place.magic) return refuse('magic')
  const payloadBytes = buf.readUInt32BE(at + 8)
  const sizeBytes = recordSizeBytes(payloadBytes)
  if (payloadBytes > RECORD_PAYLOAD_MAX_BYTES || at + sizeBytes > buf.length) return refuse('length')
  if (buf.readUInt32BE(at + CRC_AT) !== checksumOf(buf, at, sizeBytes)) return refuse('checksum')
  const version = buf.readUInt16BE(at + 4)
  if (version > place.version) return refuse('version')
  const ownerAt = at + OWNER_AT
  if (buf.compare(place.owner, 0, RECORD_OWNER_BYTES, ownerAt, ownerAt + RECORD_OWNER_BYTES) !== 0) return refuse('owner')
  if (readU64(buf, at + 56) !== place.address) return refuse('address')
  return {
    ok: true,
    version,
    type: buf.readUInt16BE(at + 6),
    epoch: readU64(buf, at + 32),
    sequence: readU64(buf, at + 40),
    durableSequence: readU64(buf, at + 48),
    payload: buf.subarray(at + RECORD_HEADER_BYTES, at + RECORD_HEADER_BYTES + payloadBytes),
    sizeBytes,
  }
}

/** Preallocated space that no record has reached yet: a header of zeros. */
function isBlank(buf: Buffer, at: number): boolean {
  for (let i = 0; i < RECORD_HEADER_BYTES; i++) if (buf[at + i] !== 0) return false
  return true
}

/** Over everything but the checksum's own four bytes. */
function checksumOf(buf: Buffer, at: number, sizeBytes: number): number {
  const rest = sizeBytes > BULK_BYTES ? crc32Bulk : crc32
  return rest(buf, at + OWNER_AT, at + sizeBytes, crc32(buf, at, at + CRC_AT))
}

function refuse(reason: RecordReason): RefusedRecord {
  return { ok: false, reason }
}
