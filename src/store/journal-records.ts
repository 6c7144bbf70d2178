/**
 * What a volume's journal says, record by record. Pure codecs; what the records mean for a volume is src/volume's.
 *
 *   ZERO     these grains read as zeros from now on, whatever live still holds of them
 *   CLEAR    live itself reads zeros there now, durably: they are holes
 *   UNSTALE  live holds what these grains are to read as, durably
 *   OPEN     grains of these regions may turn from hole to data without further notice
 *   CLOSE    the map on disk is up to date for these regions
 *
 * and, of a volume that has points or inherits (docs/snappoints.md):
 *
 *   PRESERVE       the snapshot owns these grains now, and their bytes lie durably in its `preserved`
 *   PRESERVE_ZERO  the snapshot owns them, and they read as zeros
 *   LEND           the snapshot owns them, their bytes lie in live, and live itself reads zeros there
 *   HOT            grains of these extents may change from now on without further notice: they count as changed
 *   INHERITED      live holds what these grains are to read as, durably; the source is no longer asked
 *   INHERITED_ZERO the source is no longer asked, and they read as zeros, whatever live holds of them
 *   LAYER          a restore begins: what came before says nothing about it. The point is the one that undoes it; no range counts
 *
 * Every payload is a list of ranges [start, end): start u64, end u64, big endian; PRESERVE, PRESERVE_ZERO, LEND, HOT and LAYER
 * have the point's seq, u64, in front of it. OPEN and CLOSE count regions (REGION_GRAINS grains each), HOT extents (EXTENT_GRAINS
 * grains each), the others grains. One record says all its ranges at once or none.
 */
import { PAGE_BITS, readU64, recordSizeBytes, writeU64 } from '../../native-free/index.js'
import { NbdeltaError } from '../device/errors.js'
import type { LogRecord } from './record-log-layout.js'

/** 'NBDJ' */
export const JOURNAL_MAGIC = 0x4e42444a
/** Eight pages of the map: 1 GiB of a volume with grains of 4 KiB. */
export const REGION_GRAINS = 8 * PAGE_BITS
/** What HOT counts: 4 MiB of a volume with grains of 4 KiB. */
export const EXTENT_GRAINS = 1024
/** A record of 64 KiB at most, so that a snapshot needs no large buffers. */
export const RANGES_PER_RECORD_MAX = 4096
const RANGE_BYTES = 16
const SEQ_BYTES = 8

export const JOURNAL_TYPES = Object.freeze({
  zero: 1, clear: 2, unstale: 3, open: 4, close: 5, preserve: 6, preserveZero: 7, lend: 8, hot: 9, inherited: 10,
  inheritedZero: 11, layer: 12,
} as const)
export type JournalKind = keyof typeof JOURNAL_TYPES
/** Records about one point of the volume, named by its seq. */
export type PointJournalKind = 'preserve' | 'preserveZero' | 'lend' | 'hot' | 'layer'
const POINT_KINDS: readonly JournalKind[] = ['preserve', 'preserveZero', 'lend', 'hot', 'layer'] satisfies PointJournalKind[]
const KINDS = new Map(Object.entries(JOURNAL_TYPES).map(([kind, type]) => [type as number, kind as JournalKind]))

function isPointKind(kind: JournalKind): kind is PointJournalKind {
  return POINT_KINDS.includes(kind)
}

/** [start, end) in grains, in regions, or in extents. */
export interface JournalRange {
  readonly start: number
  readonly end: number
}

interface PlainEntry {
  readonly kind: Exclude<JournalKind, PointJournalKind>
  readonly seq?: undefined
  readonly ranges: readonly JournalRange[]
}
interface PointEntry {
  readonly kind: PointJournalKind
  readonly seq: number
  readonly ranges: readonly JournalRange[]
}
export type JournalEntry = PlainEntry | PointEntry

function encodePart(ranges: readonly JournalRange[], seq: number | undefined): Buffer {
  let at = seq === undefined ? 0 : SEQ_BYTES
  const payload = Buffer.allocUnsafe(at + ranges.length * RANGE_BYTES)
  if (seq !== undefined) writeU64(payload, 0, seq)
  for (const { start, end } of ranges) {
    writeU64(payload, at, start)
    writeU64(payload, at + 8, end)
    at += RANGE_BYTES
  }
  return payload
}

/** The payload for one range. With `seq` of a record about a point. */
export function encodeRange(start: number, end: number, seq?: number): Buffer { return encodePart([{ start, end }], seq) }

/**
 * The records that state `ranges`, as few as possible: for a snapshot. No ranges, no record.
 * @param seq the point, of a kind that speaks of one
 */
export function* encodeRanges(kind: JournalKind, ranges: Iterable<JournalRange>, seq?: number): Generator<LogRecord> {
  if (isPointKind(kind) !== (seq !== undefined)) throw new Error(`a record of kind ${kind} with point ${seq}`)
  let part: JournalRange[] = []
  for (const range of ranges) {
    if (part.push(range) < RANGES_PER_RECORD_MAX) continue
    yield { type: JOURNAL_TYPES[kind], payload: encodePart(part, seq) }
    part = []
  }
  if (part.length > 0) yield { type: JOURNAL_TYPES[kind], payload: encodePart(part, seq) }
}

/** Bytes that `encodeRanges` takes in a log for so many ranges: compare with `RecordLog.limitBytes`. */
export function rangesSizeBytes(count: number, kind: JournalKind = 'zero'): number {
  const begin = isPointKind(kind) ? SEQ_BYTES : 0
  const full = Math.floor(count / RANGES_PER_RECORD_MAX)
  const rest = count - full * RANGES_PER_RECORD_MAX
  const bytes = (ranges: number): number => recordSizeBytes(begin + ranges * RANGE_BYTES)
  return full * bytes(RANGES_PER_RECORD_MAX) + (rest > 0 ? bytes(rest) : 0)
}

/** Bytes one appended range takes in a log. */
export const RANGE_RECORD_BYTES = recordSizeBytes(RANGE_BYTES)

/** What a record says. `name` is the journal's, for the message. Errors: damaged, newer-format (a type this version lacks). */
export function decodeJournalRecord({ type, payload }: LogRecord, name: string): JournalEntry {
  const kind = KINDS.get(type)
  if (kind === undefined) {
    throw new NbdeltaError('newer-format', `${name}: a record of type ${type}, which this version does not know`)
  }
  const begin = isPointKind(kind) ? SEQ_BYTES : 0
  const rangesBytes = payload.length - begin
  if (rangesBytes <= 0 || rangesBytes % RANGE_BYTES !== 0) {
    throw new NbdeltaError('damaged', `${name}: a record of type ${kind} with ${payload.length} bytes of ranges`)
  }
  const ranges: JournalRange[] = []
  for (let at = begin; at < payload.length; at += RANGE_BYTES) {
    const range = readRange(payload, at)
    if (!range) throw new NbdeltaError('damaged', `${name}: a record of type ${kind} with a range that ends before it starts`)
    ranges.push(range)
  }
  if (!isPointKind(kind)) return { kind, ranges }
  const seq = readNumber(payload, 0)
  if (seq === undefined || seq < 1) throw new NbdeltaError('damaged', `${name}: a record of type ${kind} for no point`)
  return { kind, seq, ranges }
}

function readRange(payload: Buffer, at: number): JournalRange | undefined {
  const start = readNumber(payload, at)
  const end = readNumber(payload, at + 8)
  return start !== undefined && end !== undefined && start < end ? { start, end } : undefined
}

/** Undefined beyond 2^53 - 1: no honest number. */
function readNumber(payload: Buffer, at: number): number | undefined {
  try {
    return readU64(payload, at)
  } catch (error) {
    if (error instanceof RangeError) return undefined
    throw error
  }
}
