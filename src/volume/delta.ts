/**
 * Deltas: the grains in which two points of a volume differ, as a stream; out of a point and into a device.
 *
 *   export   changed runs only, nothing is scanned; zeros known (`zeroRun`) or seen leave as zeros
 *   apply    header -> whose content is it? -> extents as they come -> mark: flush, position -> end: flush, commit
 *   judge    header -> whose content is it?
 *
 * Invariants
 * - A delta names its base by uuid. A point of the same name that was made anew is another point, and refused.
 * - `commit` is called once, and only after the end record has checked, the source has ended there, and the target was
 *   flushed. Until then the target is still at its base by name and a mixture by content: who needs the base meanwhile
 *   takes a snapshot of the target in `begin`.
 * - Applying is idempotent: extents say what is there afterwards, not what is done to what was there.
 * - A position handed out (`onApplied`) was compared with the sender's mark, and everything before it is durable.
 *
 * Limits: DEPTH pieces of DELTA_DATA_MAX_BYTES in flight, plus what delta-pipe.ts holds.
 * Pinning both points while a stream is made is up to the caller.
 */
import { DELTA_DATA_MAX_BYTES, DELTA_EMPTY, type DeltaHeader, type DeltaPosition } from '../../native-free/delta-record.js'
import type { DeltaExtent, DeltaItem } from '../../native-free/delta-stream.js'
import { isZero } from '../../native-free/zero-scan.js'
import type { BlockDevice, Pending } from '../device/block-device.js'
import { type Clock, systemClock } from '../device/clock.js'
import { NbdeltaError } from '../device/errors.js'
import {
  DeltaOutput, DeltaReader, type DeltaSink, type DeltaSinkOptions, type DeltaSource, pointText,
} from './delta-pipe.js'
import { DeltaWriter, MARK_BYTES } from './delta-writer.js'
import type { PointInfo } from './snappoint.js'
import { assertActive, type TransferOptions } from './transfer.js'
import type { Run } from './volume-map.js'

/** Reads in flight during an export, writes during an apply. */
const DEPTH = 8
/** Runs of zeros shorter than this leave as data. */
const UNIT_BYTES = 4096
/** Pieces without any I/O after which others get a turn. */
const TURN_PIECES = 64

/** A point is named by its uuid; the rest is told to the receiver. Bookmarks serve as a base. */
export type DeltaBase = Pick<PointInfo, 'uuid' | 'seq' | 'sizeBytes'>
/** A snapshot opened for reading (PointDevice), or anything that reads like one. */
export interface DeltaTarget extends Pick<BlockDevice, 'read' | 'zeroRun'> { readonly point: DeltaBase }

/** Progress is the place in the volume that has been reached, of its size. */
export interface ExportDeltaOptions extends TransferOptions, DeltaSinkOptions {
  readonly volume: { readonly uuid: string, readonly grainBytes: number }
  /** Absent: a full stream. */
  readonly from?: DeltaBase | undefined
  readonly to: DeltaTarget
  /** Grains that may differ between the two, ascending, disjoint. Needed with `from` and only then. */
  readonly runs?: Iterable<Run> | undefined
  readonly sink: DeltaSink
  /** Goes on behind the position that a receiver of the same delta kept. */
  readonly resume?: DeltaPosition | undefined
  /** A mark after every so many bytes of records; default 64 MiB. */
  readonly markBytes?: number
  readonly clock?: Clock
}

/** What a stream holds, all in all; of a continued one with what came before. */
export interface DeltaSummary {
  readonly header: DeltaHeader
  /** `reverse`: to an older point. */
  readonly direction: 'forward' | 'reverse'
  /** Where it ended, its digest included: equal on both sides. */
  readonly position: DeltaPosition
  /** It was the rest of a stream. */
  readonly continued: boolean
}

/**
 * Writes the delta that leads from `from` to `to`: newer or older, or the same (then it is empty).
 * Errors: bad-argument, wrong-state (the position is that of another delta), exists, cancelled, no-space, io.
 */
export async function exportDelta(options: ExportDeltaOptions): Promise<DeltaSummary> {
  const { volume, from, to, runs, resume, signal, onProgress } = options
  if ((from === undefined) !== (runs === undefined)) {
    throw new NbdeltaError('bad-argument', 'a delta needs a base and the runs that changed since; a full stream neither')
  }
  const header = headerOf(options)
  if (resume) assertSameDelta(resume, header)
  const { grainBytes } = volume
  const wanted = byteRuns(runs ?? [], grainBytes, header.sizeBefore, header.sizeAfter, resume?.offset ?? 0)
  const output = await DeltaOutput.open(options.sink, options)
  try {
    const writer = new DeltaWriter(output, options.markBytes ?? MARK_BYTES)
    await writer.begin(header, resume)
    await copyOut(to, wanted, async piece => {
      assertActive(signal)
      await putPiece(writer, piece)
      onProgress?.(piece.offset + piece.bytes, header.sizeAfter)
    })
    await writer.end()
    await output.finish()
    onProgress?.(header.sizeAfter, header.sizeAfter)
    return summaryOf(header, writer.position, resume !== undefined)
  } catch (error) {
    await output.discard()
    assertActive(signal)
    throw error
  }
}

function headerOf({ volume, from, to, clock = systemClock }: ExportDeltaOptions): DeltaHeader {
  return {
    volume: volume.uuid,
    base: from?.uuid ?? DELTA_EMPTY,
    target: to.point.uuid,
    baseNumber: from?.seq ?? 0,
    targetNumber: to.point.seq,
    sizeBefore: from?.sizeBytes ?? 0,
    sizeAfter: to.point.sizeBytes,
    grainBytes: volume.grainBytes,
    createdAt: clock.wallTime().toISOString(),
  }
}

function assertSameDelta(position: DeltaPosition, header: DeltaHeader): void {
  if (position.volume === header.volume && position.base === header.base && position.target === header.target) return
  const there = `from ${pointText(position.base)} to ${pointText(position.target)}`
  throw new NbdeltaError('wrong-state', `the position is one of another delta, ${there}`, { hint: 'begin anew, without it' })
}

/**
 * Runs in bytes, cut to [from, after). What lies behind `before` is always in: the other side may hold anything there
 * once it has grown.
 */
function* byteRuns(runs: Iterable<Run>, grainBytes: number, before: number, after: number, from: number): Generator<Run> {
  const tail = before < after ? before - before % grainBytes : after
  let last = 0
  for (const { start, end } of runs) {
    if (!(start >= last && end > start)) throw new RangeError(`run [${start}, ${end}) behind grain ${last}`)
    last = end
    const cut = { start: Math.max(from, start * grainBytes), end: Math.min(tail, end * grainBytes) }
    if (cut.start < cut.end) yield cut
  }
  if (Math.max(from, tail) < after) yield { start: Math.max(from, tail), end: after }
}

/** Content of one range; `data` undefined: zeros. */
interface Piece { readonly offset: number, readonly bytes: number, readonly data: Buffer | undefined, readonly pending: Pending }

/** Reads ahead, hands over in order. */
async function copyOut(device: DeltaTarget, runs: Iterable<Run>, take: (piece: Piece) => Promise<void>): Promise<void> {
  const pieces = startedPieces(device, runs)
  const ahead: Piece[] = []
  try {
    for (let taken = 1; ; taken++) {
      while (ahead.length < DEPTH) {
        const next = pieces.next()
        if (next.done) break
        ahead.push(next.value)
      }
      const piece = ahead.shift()
      if (!piece) return
      await piece.pending
      await take(piece)
      if (taken % TURN_PIECES === 0) await new Promise<void>(resolve => { setImmediate(resolve) })
    }
  } finally {
    // Their buffers belong to the device until then.
    await Promise.allSettled(ahead.map(piece => piece.pending))
  }
}

function* startedPieces(device: DeltaTarget, runs: Iterable<Run>): Generator<Piece, void> {
  for (const { start, end } of runs) {
    for (let offset = start; offset < end;) {
      const run = device.zeroRun(offset, end - offset)
      const bytes = run > 0 ? Math.min(run, DELTA_DATA_MAX_BYTES) : -run
      const data = run > 0 ? Buffer.allocUnsafe(bytes) : undefined
      const pending = data && device.read(offset, bytes, data, 0)
      pending?.catch(() => undefined)
      yield { offset, bytes, data, pending }
      offset += bytes
    }
  }
}

async function putPiece(writer: DeltaWriter, { offset, bytes, data }: Piece): Promise<void> {
  if (!data) return writer.zero(offset, bytes)
  for (let at = 0; at < bytes;) {
    const zero = isZero(data, at, Math.min(UNIT_BYTES, bytes - at))
    let end = Math.min(bytes, at + UNIT_BYTES)
    while (end < bytes && isZero(data, end, Math.min(UNIT_BYTES, bytes - end)) === zero) end = Math.min(bytes, end + UNIT_BYTES)
    if (zero) await writer.zero(offset + at, end - at)
    else await writer.data(offset + at, data.subarray(at, end))
    at = end
  }
}

type HeaderItem = DeltaItem & { readonly kind: 'header' }

export interface ApplyDeltaOptions extends TransferOptions {
  readonly source: DeltaSource
  readonly target: BlockDevice
  /** Uuid of the point that the target's content is, 'empty' for a target that may be overwritten whole. May refuse by itself. */
  identity(header: DeltaHeader): string | Promise<string>
  /** The delta fits and nothing is written yet: the moment to keep what is there now. Not called with `resume`. */
  begin?(header: DeltaHeader): void | Promise<void>
  /** Gives the target the delta's size. Without it a target must be large enough. */
  resize?(sizeBytes: number): void | Promise<void>
  /** Everything up to here is in the target, durably. To be kept for `resume`; called at each mark. */
  onApplied?(position: DeltaPosition): void | Promise<void>
  /** What the last `onApplied` of the same delta said: the stream may start over or go on there. */
  readonly resume?: DeltaPosition | undefined
  /** The target now *is* this point; everything is durable. */
  commit(point: { readonly volume: string, readonly uuid: string, readonly sizeBytes: number }): void | Promise<void>
}

/**
 * Applies a delta to a device that is at its base. Rejects without `commit` whatever goes wrong; no write is under way then.
 * Errors: wrong-state (another base; a position of another stream), exists (it is at the target already), damaged,
 * newer-format, too-large, not-found, cancelled, io, and whatever the target or a callback reports.
 */
export async function applyDelta(options: ApplyDeltaOptions): Promise<DeltaSummary> {
  const { resume, onProgress } = options
  const reader = new DeltaReader(options.source, options.signal)
  const writes = new Writes(options.target)
  let header: DeltaHeader | undefined
  let continued = false
  /** Nothing is written before the stream has shown that it is the one whose beginning is applied already. */
  let reached = false
  try {
    for await (const item of reader.items()) {
      if (item.kind === 'header') {
        ({ header } = item)
        continued = item.after !== undefined
        await prepare(options, item)
      } else if (reached && item.kind === 'extent') {
        await writes.put(item)
        onProgress?.(item.offset, header!.sizeAfter)
      } else if (reached && item.kind === 'mark' && options.onApplied) {
        await writes.flush()
        await options.onApplied(reader.position!)
      }
      reached ||= resume === undefined || isReached(resume, reader.position!)
    }
    if (!reached) refuseOtherStream()
    await writes.flush()
  } catch (error) {
    await writes.settle()
    throw error
  }
  const { volume, target: uuid, sizeAfter: sizeBytes } = header!
  await options.commit({ volume, uuid, sizeBytes })
  onProgress?.(sizeBytes, sizeBytes)
  return summaryOf(header!, reader.position!, continued)
}

/** What says whether a delta fits. `resizable`: the target can be given the delta's size. */
export interface JudgeDeltaOptions extends Pick<ApplyDeltaOptions, 'source' | 'target' | 'identity' | 'resume' | 'signal'> {
  readonly resizable: boolean
}

/**
 * Reads the header, no more, and refuses what applyDelta would before its first write; changes nothing.
 * Errors: those of applyDelta; of what comes behind the header nothing is said.
 */
export async function judgeDelta(options: JudgeDeltaOptions): Promise<DeltaHeader> {
  const reader = new DeltaReader(options.source, options.signal)
  for await (const item of reader.items()) {
    if (item.kind !== 'header') break
    await judge(options, item)
    return item.header
  }
  throw new Error('a stream without a header was not refused')
}

/** Asks everybody who may refuse, then makes room. */
async function prepare(options: ApplyDeltaOptions, item: HeaderItem): Promise<void> {
  const { target, resume, resize } = options
  await judge({ ...options, resizable: resize !== undefined }, item)
  const { header } = item
  if (!resume) await options.begin?.(header)
  if (resize && target.sizeBytes !== header.sizeAfter) await resize(header.sizeAfter)
}

async function judge(options: JudgeDeltaOptions, { header, after }: HeaderItem): Promise<void> {
  const { target, resume } = options
  if (resume) assertSameDelta(resume, header)
  if (after && (!resume || after.sequence > resume.sequence)) {
    const hint = 'send the whole delta, or the rest behind the position that was reached'
    throw new NbdeltaError('wrong-state', 'the stream is the rest of another that has not been applied that far', { hint })
  }
  const there = await options.identity(header)
  if (there === header.target && header.base !== header.target) {
    throw new NbdeltaError('exists', `the target is at ${pointText(there)} already`, { hint: 'nothing is left to do' })
  }
  if (there !== header.base) {
    const hint = 'points are told apart by uuid, not by name; send a delta from the point that the target has, or a full stream'
    const why = `the delta starts from ${pointText(header.base)}, the target is at ${pointText(there)}`
    throw new NbdeltaError('wrong-state', why, { hint })
  }
  if (!options.resizable && target.sizeBytes < header.sizeAfter) {
    const hint = 'resize the target first'
    throw new NbdeltaError('too-large', `the delta needs ${header.sizeAfter} bytes, its target has ${target.sizeBytes}`, { hint })
  }
}

/** True when `position` is the one that was kept; it is refused when it only has its number. */
function isReached(kept: DeltaPosition, position: DeltaPosition): boolean {
  if (position.sequence < kept.sequence) return false
  if (position.sequence > kept.sequence || position.digest !== kept.digest) refuseOtherStream()
  return true
}

function refuseOtherStream(): never {
  const hint = 'apply the delta from its start: that is always possible'
  throw new NbdeltaError('wrong-state', 'the stream is not the one whose beginning was applied', { hint })
}

/** Writes on their way to the target. Extents of one stream never overlap, so they may overtake each other. */
class Writes {
  readonly #target: BlockDevice
  readonly #underWay: Promise<void>[] = []

  constructor(target: BlockDevice) { this.#target = target }

  async put({ offset, zeroBytes, data }: DeltaExtent): Promise<void> {
    if (zeroBytes > 0) await this.#track(this.#target.zero(offset, zeroBytes, { allocate: false, fast: false }))
    if (data.length > 0) await this.#track(this.#target.write(offset + zeroBytes, data.length, data, 0))
  }

  /** Everything put so far is durable. */
  async flush(): Promise<void> {
    const failed = (await Promise.allSettled(this.#underWay.splice(0))).find(result => result.status === 'rejected')
    if (failed) throw (failed as PromiseRejectedResult).reason
    await this.#target.flush()
  }

  /** Nothing is under way any more, however it went. */
  async settle(): Promise<void> { await Promise.allSettled(this.#underWay.splice(0)) }

  async #track(pending: Pending): Promise<void> {
    if (!pending) return
    pending.catch(() => undefined)
    this.#underWay.push(pending)
    if (this.#underWay.length >= DEPTH) await this.#underWay.shift()
  }
}

/**
 * Reads a whole stream and changes nothing: every record, the order, the digest, the end.
 * Errors: damaged, newer-format, not-found, cancelled, io.
 */
export async function verifyDelta(source: DeltaSource, { onProgress, signal }: TransferOptions = {}): Promise<DeltaSummary> {
  const reader = new DeltaReader(source, signal)
  let header: DeltaHeader | undefined
  let continued = false
  for await (const item of reader.items()) {
    if (item.kind === 'header') {
      ({ header } = item)
      continued = item.after !== undefined
    }
    if (item.kind === 'extent') onProgress?.(item.offset, header!.sizeAfter)
  }
  onProgress?.(header!.sizeAfter, header!.sizeAfter)
  return summaryOf(header!, reader.position!, continued)
}

export function summaryOf(header: DeltaHeader, position: DeltaPosition, continued: boolean): DeltaSummary {
  return { header, direction: header.targetNumber < header.baseNumber ? 'reverse' : 'forward', position, continued }
}
