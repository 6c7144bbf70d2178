/**
 * What the records of a delta stream look like: layout, limits, and the running state that ties each record to all before
 * it. delta-stream.ts writes and reads whole streams; docs/delta-format.md shows every byte.
 *
 *    0 magic u32 | 4 version u16 | 6 type u16 | 8 payload length u32 | 12 crc u32 | 16 sequence u64 | 24 payload
 *
 * Invariants
 * - The checksum of a record goes on from that of the record before it: a record that was moved, repeated, left out or comes
 *   from another stream does not check where it stands. The digest does the same with a hash that nobody meets by chance.
 * - Bytes 0 to 16 and the checksum of the header stay the same in every version, as in record.ts.
 * - Of a continued stream everything behind its header is the tail of the stream it continues, byte for byte if the sender
 *   divides it alike.
 *
 * Limits: integers up to 2^53 - 1, data of one record up to DELTA_DATA_MAX_BYTES, texts up to CREATED_MAX_BYTES.
 */
import { readU64, writeU64 } from './bytes.js'
import { crc32Bulk } from './checksum.js'
import { isPowerOfTwo } from './integer.js'

/** 'NBDD' */
export const DELTA_MAGIC = 0x4e424444
export const DELTA_VERSION = 1
export const DELTA_TYPES = Object.freeze({ header: 1, extent: 2, mark: 3, end: 4 })
export const DELTA_HEAD_BYTES = 24
/** Of one extent record. */
export const DELTA_DATA_MAX_BYTES = 2 ** 20
/** Stands for a base that is no point: the stream holds everything. */
export const DELTA_EMPTY = 'empty'
const DELTA_DIGEST_BYTES = 32
/** In front of an extent's data. */
export const EXTENT_FIXED_BYTES = 16
/** Payload of MARK and END. */
const TOTALS_BYTES = 24 + DELTA_DIGEST_BYTES
const HEADER_FIXED_BYTES = 88
const POSITION_BYTES = 20 + TOTALS_BYTES
const CREATED_MAX_BYTES = 64
const HEADER_MAX_BYTES = HEADER_FIXED_BYTES + POSITION_BYTES + CREATED_MAX_BYTES
const CRC_AT = 12
const FLAG_CONTINUED = 1
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/
const NO_UUID = '00000000-0000-0000-0000-000000000000'

/**
 * The hash that ties the records together: 32 bytes over `previous` and then the pieces. It comes in by
 * argument: SHA-256 in every stream that leaves the house.
 */
export type DeltaDigest = (previous: Buffer, ...pieces: readonly Buffer[]) => Buffer

export interface DeltaHeader {
  /** Uuids in lower case with dashes; `base` may be DELTA_EMPTY. */
  readonly volume: string
  readonly base: string
  readonly target: string
  /** The points' numbers in their volume, 0 for an empty base. Target below base: the delta leads back in time. */
  readonly baseNumber: number
  readonly targetNumber: number
  /** The volume's size at base (0 if that is empty) and at target, bytes. */
  readonly sizeBefore: number
  readonly sizeAfter: number
  readonly grainBytes: number
  /** For display. */
  readonly createdAt: string
}

/** A place in a stream: all that is needed to go on behind it. Plain JSON. */
export interface DeltaPosition {
  readonly volume: string
  readonly base: string
  readonly target: string
  /** The last record that is done. */
  readonly sequence: number
  /** Nothing of the volume below this byte comes any more. */
  readonly offset: number
  readonly checksum: number
  /** Over all records up to this one, hex. */
  readonly digest: string
  readonly extents: number
  readonly dataBytes: number
  readonly zeroBytes: number
}

/** What both ends of a stream know after each record; equal on both ends or the stream is refused. */
export class DeltaState {
  readonly #digestOf: DeltaDigest
  sequence = -1
  offset = 0
  checksum = 0
  digest: Buffer = Buffer.alloc(DELTA_DIGEST_BYTES)
  extents = 0
  dataBytes = 0
  zeroBytes = 0

  constructor(digestOf: DeltaDigest) { this.#digestOf = digestOf }

  /** The checksum the next record must carry. `record`: from its magic on; `data` follows it. */
  checksumOf(record: Buffer, data: Buffer): number {
    const head = crc32Bulk(record, 0, CRC_AT, this.checksum)
    const rest = crc32Bulk(record, CRC_AT + 4, record.length, head)
    return data.length === 0 ? rest : crc32Bulk(data, 0, data.length, rest)
  }

  /** The record is written, or has been found good. */
  advance(record: Buffer, data: Buffer, checksum: number): void {
    this.sequence++
    this.checksum = checksum
    this.digest = data.length === 0 ? this.#digestOf(this.digest, record) : this.#digestOf(this.digest, record, data)
  }

  addExtent(offset: number, zeroBytes: number, dataBytes: number): void {
    this.offset = offset + zeroBytes + dataBytes
    this.extents++
    this.zeroBytes += zeroBytes
    this.dataBytes += dataBytes
  }

  continueAt(position: DeltaPosition): void {
    const { sequence, offset, checksum, extents, dataBytes, zeroBytes } = position
    Object.assign(this, { sequence, offset, checksum, extents, dataBytes, zeroBytes })
    this.digest = Buffer.from(position.digest, 'hex')
  }

  at({ volume, base, target }: DeltaHeader): DeltaPosition {
    const { sequence, offset, checksum, extents, dataBytes, zeroBytes } = this
    const digest = this.digest.toString('hex')
    return { volume, base, target, sequence, offset, checksum, extents, dataBytes, zeroBytes, digest }
  }
}

/** A record without its checksum; `dataBytes` more bytes of payload will follow it. */
export function recordOf(type: number, sequence: number, fixed: Buffer, dataBytes: number): Buffer {
  const record = Buffer.alloc(DELTA_HEAD_BYTES + fixed.length)
  record.writeUInt32BE(DELTA_MAGIC, 0)
  record.writeUInt16BE(DELTA_VERSION, 4)
  record.writeUInt16BE(type, 6)
  record.writeUInt32BE(fixed.length + dataBytes, 8)
  writeU64(record, 16, sequence)
  fixed.copy(record, DELTA_HEAD_BYTES)
  return record
}

export function putChecksum(record: Buffer, checksum: number): void { record.writeUInt32BE(checksum, CRC_AT) }

export interface RecordHead {
  readonly magic: number
  readonly version: number
  readonly type: number
  readonly length: number
  readonly checksum: number
  /** Infinity where it passes 2^53 - 1, as in all that follows. */
  readonly sequence: number
}

export function readHead(head: Buffer): RecordHead {
  return {
    magic: head.readUInt32BE(0),
    version: head.readUInt16BE(4),
    type: head.readUInt16BE(6),
    length: head.readUInt32BE(8),
    checksum: head.readUInt32BE(CRC_AT),
    sequence: readCount(head, 16),
  }
}

/** Whether a record of this type may have a payload of this length. */
export function isLength(type: number, length: number): boolean {
  switch (type) {
    case DELTA_TYPES.header: return length > HEADER_FIXED_BYTES && length <= HEADER_MAX_BYTES
    case DELTA_TYPES.extent: return length >= EXTENT_FIXED_BYTES && length <= EXTENT_FIXED_BYTES + DELTA_DATA_MAX_BYTES
    default: return length === TOTALS_BYTES
  }
}

/** An integer above 2^53 - 1 is Infinity here: it fails whatever limit it is held against. */
export function readCount(buf: Buffer, at: number): number {
  return buf.readUInt32BE(at) > 0x1fffff ? Infinity : readU64(buf, at)
}

export function encodeExtentFixed(offset: number, zeroBytes: number): Buffer {
  const fixed = Buffer.allocUnsafe(EXTENT_FIXED_BYTES)
  writeU64(fixed, 0, offset)
  writeU64(fixed, 8, zeroBytes)
  return fixed
}

/** What MARK and END say: totals and digest of everything before them. */
export function encodeTotals({ extents, dataBytes, zeroBytes, digest }: DeltaState): Buffer {
  const totals = Buffer.alloc(TOTALS_BYTES)
  writeU64(totals, 0, extents)
  writeU64(totals, 8, dataBytes)
  writeU64(totals, 16, zeroBytes)
  digest.copy(totals, 24)
  return totals
}

export function encodeHeader(header: DeltaHeader, after: DeltaPosition | undefined): Buffer {
  const created = Buffer.from(header.createdAt, 'ascii')
  const fixed = Buffer.alloc(HEADER_FIXED_BYTES)
  fixed.writeUInt32BE(after ? FLAG_CONTINUED : 0, 0)
  fixed.writeUInt32BE(header.grainBytes, 4)
  encodeUuid(header.volume).copy(fixed, 8)
  encodeUuid(header.base === DELTA_EMPTY ? NO_UUID : header.base).copy(fixed, 24)
  encodeUuid(header.target).copy(fixed, 40)
  writeU64(fixed, 56, header.baseNumber)
  writeU64(fixed, 64, header.targetNumber)
  writeU64(fixed, 72, header.sizeBefore)
  writeU64(fixed, 80, header.sizeAfter)
  return Buffer.concat([fixed, after ? encodePosition(after) : Buffer.alloc(0), created])
}

export interface DecodedHeader { readonly header: DeltaHeader, readonly after: DeltaPosition | undefined }

/** 'flags': it says something that only a newer version knows. 'header': it makes no sense. */
export function decodeHeader(payload: Buffer): DecodedHeader | 'flags' | 'header' {
  const flags = payload.readUInt32BE(0)
  if ((flags & ~FLAG_CONTINUED) !== 0) return 'flags'
  const createdFrom = HEADER_FIXED_BYTES + (flags === FLAG_CONTINUED ? POSITION_BYTES : 0)
  if (payload.length <= createdFrom) return 'header'
  const base = decodeUuid(payload, 24)
  const header: DeltaHeader = {
    volume: decodeUuid(payload, 8),
    base: base === NO_UUID ? DELTA_EMPTY : base,
    target: decodeUuid(payload, 40),
    baseNumber: readCount(payload, 56),
    targetNumber: readCount(payload, 64),
    sizeBefore: readCount(payload, 72),
    sizeAfter: readCount(payload, 80),
    grainBytes: payload.readUInt32BE(4),
    createdAt: payload.toString('latin1', createdFrom),
  }
  if (headerFault(header) !== undefined) return 'header'
  if (flags === 0) return { header, after: undefined }
  const after = decodePosition(payload, HEADER_FIXED_BYTES, header)
  return after ? { header, after } : 'header'
}

/** Why no stream can have such a header, in words; undefined: one can. */
export function headerFault(header: DeltaHeader): string | undefined {
  const { volume, base, target, baseNumber, targetNumber, sizeBefore, sizeAfter, grainBytes, createdAt } = header
  for (const uuid of base === DELTA_EMPTY ? [volume, target] : [volume, base, target]) {
    if (!UUID.test(uuid) || uuid === NO_UUID) return `${uuid} is not the uuid of anything`
  }
  for (const count of [baseNumber, targetNumber, sizeBefore, sizeAfter]) {
    if (!Number.isSafeInteger(count) || count < 0) return `${count} is not an unsigned integer below 2^53`
  }
  if (base === DELTA_EMPTY && (sizeBefore > 0 || baseNumber > 0)) return 'nothing has no size and no number'
  if (!isPowerOfTwo(grainBytes) || grainBytes > 2 ** 30) return `no grain: ${grainBytes}`
  if (!/^[\x20-\x7e]+$/.test(createdAt) || createdAt.length > CREATED_MAX_BYTES) return 'no creation time'
  return undefined
}

function encodePosition(position: DeltaPosition): Buffer {
  const bytes = Buffer.alloc(POSITION_BYTES)
  writeU64(bytes, 0, position.sequence)
  writeU64(bytes, 8, position.offset)
  bytes.writeUInt32BE(position.checksum, 16)
  writeU64(bytes, 20, position.extents)
  writeU64(bytes, 28, position.dataBytes)
  writeU64(bytes, 36, position.zeroBytes)
  Buffer.from(position.digest, 'hex').copy(bytes, 44)
  return bytes
}

function decodePosition(buf: Buffer, at: number, header: DeltaHeader): DeltaPosition | undefined {
  const { volume, base, target } = header
  const position: DeltaPosition = {
    volume,
    base,
    target,
    sequence: readCount(buf, at),
    offset: readCount(buf, at + 8),
    checksum: buf.readUInt32BE(at + 16),
    extents: readCount(buf, at + 20),
    dataBytes: readCount(buf, at + 28),
    zeroBytes: readCount(buf, at + 36),
    digest: buf.toString('hex', at + 44, at + POSITION_BYTES),
  }
  const counts = position.sequence + position.extents + position.dataBytes + position.zeroBytes
  const makesSense = Number.isFinite(counts) && position.offset <= header.sizeAfter
  return makesSense ? position : undefined
}

function encodeUuid(uuid: string): Buffer { return Buffer.from(uuid.replaceAll('-', ''), 'hex') }

function decodeUuid(buf: Buffer, at: number): string {
  return buf.toString('hex', at, at + 16).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}
