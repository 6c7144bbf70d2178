/**
 * Where things lie in a record log, and the three records the log writes for itself.
 *
 *   device   [ half 0 ................ | half 1 ................ ]      both halves have the same size
 *   half     [ header 4 KiB | mark 4 KiB | record record record .... zeros ]
 *
 * - HEADER opens a half that counts: its epoch, how many snapshot records follow, how large a half is.
 * - RETIRED stands in a header's place, with its payload: "this half is over, the other one has this epoch".
 * - MARK is overwritten in place after each flush: everything up to its durable sequence is on the medium.
 *
 * Header and mark have 4 KiB of their own each, so that overwriting one in place never puts another at risk, even
 * on a disk that loses a whole physical sector when the power goes.
 */
import {
  decodeRecord, encodeRecord, readU64, RECORD_ALIGN_BYTES, RECORD_HEADER_BYTES, recordSizeBytes, roundDown, writeU64,
  type DecodedRecord, type RecordFields, type RefusedRecord,
} from '../../native-free/index.js'

/** Version of everything inside a record log. All records of one epoch have one version. */
const LOG_VERSION = 1
const SLOT_BYTES = 4096
export const MARK_AT = SLOT_BYTES
export const RECORDS_AT = 2 * SLOT_BYTES
/** Two halves of 16 KiB: half of each for slots, half for records. Smaller makes no sense. */
export const LOG_MIN_BYTES = 32 * 1024

/** Types from here on belong to the log; callers use 1 ... 0xfeff. */
export const TYPE_RESERVED = 0xff00
export const TYPE_HEADER = 0xff01
export const TYPE_RETIRED = 0xff02
export const TYPE_MARK = 0xff03

/** Whose log this is. */
export interface LogIdentity {
  /** Four ASCII characters as u32, big endian: what kind of log. */
  readonly magic: number
  /** 16 bytes: the uuid of the store or volume it belongs to. */
  readonly owner: Buffer
  /** For messages: a path below the store, or what the device is. */
  readonly name: string
}

export interface LogRecord {
  readonly type: number
  readonly payload: Buffer
}

export type HalfIndex = 0 | 1
export const otherHalf = (half: HalfIndex): HalfIndex => half === 0 ? 1 : 0

interface HeaderPayload {
  readonly snapshotRecords: number
  /** What the log was formatted with: the place of half 1 follows from it. */
  readonly halfBytes: number
}
const HEADER_PAYLOAD_BYTES = 16
const NOTHING = Buffer.alloc(0)

/** Size of one half on a device of `sizeBytes`; a rest below 8 KiB stays unused. */
export function halfBytesOf(sizeBytes: number): number {
  if (sizeBytes < LOG_MIN_BYTES) throw new RangeError(`a record log of ${sizeBytes} bytes; the least is ${LOG_MIN_BYTES}`)
  return roundDown(Math.floor(sizeBytes / 2), SLOT_BYTES)
}

/** The largest snapshot: half of a half's space, so that after a rewrite as much is free for appends. */
export function snapshotLimitBytes(sizeBytes: number): number {
  return roundDown((halfBytesOf(sizeBytes) - RECORDS_AT) / 2, RECORD_ALIGN_BYTES)
}

export function headerPayload({ snapshotRecords, halfBytes }: HeaderPayload): Buffer {
  const payload = Buffer.alloc(HEADER_PAYLOAD_BYTES)
  writeU64(payload, 0, snapshotRecords)
  writeU64(payload, 8, halfBytes)
  return payload
}

/** RETIRED, of a log whose other half has `epoch` and a snapshot that ends with record `sequence`. */
export function encodeRetired(identity: LogIdentity, base: number, epoch: number, sequence: number, halfBytes: number): Buffer {
  const fields = { type: TYPE_RETIRED, epoch, sequence, durableSequence: sequence }
  return encodeAlone(identity, base, fields, headerPayload({ snapshotRecords: 0, halfBytes }))
}

/** Undefined when the payload is neither one of a header nor of a retired one. */
export function readHeaderPayload(payload: Buffer): HeaderPayload | undefined {
  if (payload.length !== HEADER_PAYLOAD_BYTES) return undefined
  return { snapshotRecords: readU64(payload, 0), halfBytes: readU64(payload, 8) }
}

/** Encodes one record that will stand at `address` of the device; returns its size in bytes. */
export function encodeAt(
  identity: LogIdentity, address: number, fields: RecordFields, payload: Buffer, into: Buffer, at: number,
): number {
  return encodeRecord({ magic: identity.magic, version: LOG_VERSION, owner: identity.owner, address }, fields, payload, into, at)
}

/** One record without payload or with a small one, in a buffer of its own. */
export function encodeAlone(identity: LogIdentity, address: number, fields: RecordFields, payload: Buffer = NOTHING): Buffer {
  const record = Buffer.alloc(recordSizeBytes(payload.length))
  encodeAt(identity, address, fields, payload, record, 0)
  return record
}

/** Reads the record at `at` of `half`, which starts at `base` on the device. Integers beyond 2^53 count as a bad checksum. */
export function decodeAt(identity: LogIdentity, base: number, half: Buffer, at: number): DecodedRecord | RefusedRecord {
  if (at + RECORD_HEADER_BYTES > half.length) return { ok: false, reason: 'end' }
  try {
    return decodeRecord({ magic: identity.magic, version: LOG_VERSION, owner: identity.owner, address: base + at }, half, at)
  } catch (error) {
    if (error instanceof RangeError) return { ok: false, reason: 'checksum' }
    throw error
  }
}
