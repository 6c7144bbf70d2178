/**
 * What a volume's journal says, record by record. Pure codecs; what the records mean for a volume is src/volume's.
 *
 *   ZERO     these grains read as zeros from now on, whatever live still holds of them
 *   CLEAR    live itself reads zeros there now, durably: they are holes
 *   UNSTALE  live holds what these grains are to read as, durably
 *   OPEN     grains of these regions may turn from hole to data without further notice
 *   CLOSE    the map on disk is up to date for these regions
 *
 * Every payload is a list of ranges [start, end): start u64, end u64, big endian. ZERO, CLEAR and UNSTALE count grains,
 * OPEN and CLOSE count regions (REGION_GRAINS grains each). One record says all its ranges at once or none.
 */
import { PAGE_BITS, readU64, recordSizeBytes, writeU64 } from '../../native-free/index.js'
import { NbdeltaError } from '../device/errors.js'
import type { LogRecord } from './record-log-layout.js'

/** 'NBDJ' */
export const JOURNAL_MAGIC = 0x4e42444a
/** Eight pages of the map: 1 GiB of a volume with grains of 4 KiB. */
export const REGION_GRAINS = 8 * PAGE_BITS
/** A record of 64 KiB at most, so that a snapshot needs no large buffers. */
export const RANGES_PER_RECORD_MAX = 4096
const RANGE_BYTES = 16

export const JOURNAL_TYPES = Object.freeze({ zero: 1, clear: 2, unstale: 3, open: 4, close: 5 } as const)
export type JournalKind = keyof typeof JOURNAL_TYPES
const KINDS = new Map(Object.entries(JOURNAL_TYPES).map(([kind, type]) => [type as number, kind as JournalKind]))

/** [start, end) in grains, or in regions. */
export interface JournalRange {
  readonly start: number
  readonly end: number
}

interface JournalEntry {
  readonly kind: JournalKind
  readonly ranges: readonly JournalRange[]
}

/** The payload for one range: what nearly every append is. */
export function encodeRange(start: number, end: number): Buffer {
  const payload = Buffer.allocUnsafe(RANGE_BYTES)
  writeU64(payload, 0, start)
  writeU64(payload, 8, end)
  return payload
}

/** The records that state `ranges`, as few as possible: for a snapshot. No ranges, no record. */
export function* encodeRanges(kind: JournalKind, ranges: Iterable<JournalRange>): Generator<LogRecord> {
  let payload = Buffer.allocUnsafe(RANGES_PER_RECORD_MAX * RANGE_BYTES)
  let filled = 0
  for (const { start, end } of ranges) {
    writeU64(payload, filled, start)
    writeU64(payload, filled + 8, end)
    filled += RANGE_BYTES
    if (filled < payload.length) continue
    yield { type: JOURNAL_TYPES[kind], payload }
    payload = Buffer.allocUnsafe(RANGES_PER_RECORD_MAX * RANGE_BYTES)
    filled = 0
  }
  if (filled > 0) yield { type: JOURNAL_TYPES[kind], payload: payload.subarray(0, filled) }
}

/** Bytes that `encodeRanges` takes in a log for so many ranges: compare with `RecordLog.limitBytes`. */
export function rangesSizeBytes(count: number): number {
  const full = Math.floor(count / RANGES_PER_RECORD_MAX)
  const rest = count - full * RANGES_PER_RECORD_MAX
  return full * recordSizeBytes(RANGES_PER_RECORD_MAX * RANGE_BYTES) + (rest > 0 ? recordSizeBytes(rest * RANGE_BYTES) : 0)
}

/** Bytes one appended range takes in a log. */
export const RANGE_RECORD_BYTES = recordSizeBytes(RANGE_BYTES)

/** What a record says. `name` is the journal's, for the message. Errors: damaged, newer-format (a type this version lacks). */
export function decodeJournalRecord({ type, payload }: LogRecord, name: string): JournalEntry {
  const kind = KINDS.get(type)
  if (kind === undefined) {
    throw new NbdeltaError('newer-format', `${name}: a record of type ${type}, which this version does not know`)
  }
  if (payload.length === 0 || payload.length % RANGE_BYTES !== 0) {
    throw new NbdeltaError('damaged', `${name}: a record of type ${kind} with ${payload.length} bytes of ranges`)
  }
  const ranges: JournalRange[] = []
  for (let at = 0; at < payload.length; at += RANGE_BYTES) {
    const range = readRange(payload, at)
    if (!range) throw new NbdeltaError('damaged', `${name}: a record of type ${kind} with a range that ends before it starts`)
    ranges.push(range)
  }
  return { kind, ranges }
}

function readRange(payload: Buffer, at: number): JournalRange | undefined {
  try {
    const range = { start: readU64(payload, at), end: readU64(payload, at + 8) }
    return range.start < range.end ? range : undefined
  } catch (error) {
    if (error instanceof RangeError) return undefined
    throw error
  }
}
