/**
 * StagingLog: new content of grains whose old content a snapshot still has to keep (src/volume/staging.ts). Appended here it
 * survives a kill at once, and a power cut once flushed; it is moved to its place later, in batches.
 *
 *   device   [ mark 0 | mark 1 | segment* ]                  4096 bytes each mark; 2 to 16 segments, equally long
 *   segment  stroke*                                         records, one behind the other, all of one epoch
 *
 *   STROKE   (table data)         the entries of one turn of the event loop, at most 252. table: 4032 bytes, for each of them
 *                                 offset:u64 length:u64, then zeros; data: theirs, in the same order. This data belongs there;
 *                                 newer entries and later writes in place come on top of it. The record's number is the
 *                                 first one's; they are numbered one by one
 *   MARK     (applied:u64)        entries up to this number are in their places, durably: never to be looked at again
 *
 * Strokes go into one segment until it is full, then into the next, which must be free: everything in it marked as applied, and
 * the mark durable.
 * Order, and what others would lose: the entries' data is durable in its place before MARK is written; MARK is written before
 * anything else may be written over such a place. The other way round a replay would put old content over newer.
 * MARK itself is made durable by the next `flush`, with whatever came after it, in the process that opens the log next as well: a
 * flush that is answered there covers writes that came over such places before. Torn, the other mark counts: then entries are
 * applied again, over writes that nobody was promised. Where a mark frees a segment, `mark` flushes by itself: strokes written
 * over what is marked by nothing durable may leave the older of two entries of a grain and destroy the newer one, which
 * somebody was promised.
 *
 * A stroke that the disk refuses seals the log: its entries never were, and nothing is appended before everything else is
 * marked, their numbers with it. Then all segments begin anew, in an epoch that no record can be of.
 *
 * Reading at open: of each segment the run of whole strokes from its start that are of one epoch and numbered upwards. What
 * follows one that does not check had not been flushed. It may be whole all the same: so nothing is appended to what was
 * found (sealed, as above), and all segments begin anew when it is applied. They do so in an epoch that is taken by chance,
 * since the highest one on the disk is not known: a power cut may have lost the first stroke of an epoch and kept those
 * behind it. Another first stroke of the same epoch would have them counted again, and old content put over newer.
 */
import { randomInt } from 'node:crypto'
import {
  decodeRecord, encodeRecord, RECORD_HEADER_BYTES, recordSizeBytes, readU64, sealRecord, writeU64,
} from '../../native-free/index.js'
import type { BlockDevice, Pending } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'

/** 'NBDW' */
const STAGING_MAGIC = 0x4e424457
const STAGING_VERSION = 1
/** One entry, offset:u64 and data: of earlier builds. Read, never written. */
const TYPE_ENTRY = 1
const TYPE_MARK = 2
const TYPE_STROKE = 3
const ENTRY_PREFIX_BYTES = 8
const MARK_BYTES = 4096
const SEGMENTS_AT = 2 * MARK_BYTES
const SEGMENTS_MAX = 16
/** Smaller ones only where there would be less than two. */
const SEGMENT_BYTES = 64 * 2 ** 20
const MARK_PAYLOAD_BYTES = 8
/** With the header a page: data of whole pages lies on whole pages. */
const TABLE_BYTES = 4096 - RECORD_HEADER_BYTES
const ROW_BYTES = 16
/** Data of one entry at most. */
export const ENTRY_MAX_BYTES = 64 * 1024
/** A stroke at most; there are two such buffers. */
const STROKE_MAX_BYTES = 512 * 1024
/** What a scan at open reads at a time. */
const SCAN_BYTES = 4 * STROKE_MAX_BYTES
/** Space worth giving back when everything is applied, if nobody says otherwise. */
const WORTH_FREEING_BYTES = 64 * 2 ** 20

export interface StagedEntry {
  readonly sequence: number
  readonly offset: number
  readonly length: number
  /** Where its data lies in the log. */
  readonly address: number
}

/** Of these each process that opens the log takes one by chance, and goes on from there. */
const EPOCHS = 2 ** 47
/** A segment may hold records of the epoch after that of another: what was refused, in part. */
const EPOCH_STEP = 2

interface Segment {
  readonly start: number
  readonly end: number
  at: number
  epoch: number
  /** Number of the last entry in it; 0: none. */
  last: number
}

/** Entries on their way to the disk. */
interface Stroke {
  readonly buffer: Buffer
  readonly segment: Segment
  /** Where it goes. */
  readonly address: number
  /** Number of its first entry. */
  readonly first: number
  entries: number
  dataBytes: number
  readonly done: Promise<void>
  readonly settle: (error?: unknown) => void
}

interface StagingOptions {
  /** 16 bytes: the volume's uuid. */
  readonly owner: Buffer
  readonly name: string
  /** So much space is worth giving back when everything is applied. */
  readonly freeFromBytes?: number
}
type Identity = Pick<StagingOptions, 'owner' | 'name'>

export class StagingLog {
  /** Called when a stroke is refused, in that same turn: nobody may look for its entries, and those behind, any more. */
  onRefused: () => void = () => undefined
  readonly #device: BlockDevice
  readonly #identity: Identity
  readonly #segments: readonly Segment[]
  readonly #freeFromBytes: number
  /** Not in use just now; undefined: not made yet. */
  readonly #buffers: (Buffer | undefined)[] = [undefined, undefined]
  readonly #send = (): void => { this.#sendGathered() }
  #gathered: Stroke | undefined
  #sent: Stroke | undefined
  #active: Segment
  #sequence: number
  #applied: number
  #writtenTo: number
  /** Of entries up to this one the mark is durable. */
  #secured = 0
  #marks = 0
  /** Written since the space was given back last. */
  #takenBytes: number
  /** Something may not be durable; from the start: what a killed process has left. */
  #dirty = true
  #sealed = true
  #resting = false
  /** Something was to be appended since then. */
  #wanted = false
  #failure: unknown
  #flushing: Promise<void> | undefined
  #flushFailure: unknown

  private constructor(
    device: BlockDevice, options: StagingOptions, segments: readonly Segment[], applied: number, marks: number,
  ) {
    this.#device = device
    this.#identity = options
    this.#freeFromBytes = options.freeFromBytes ?? WORTH_FREEING_BYTES
    this.#segments = segments
    this.#applied = applied
    this.#marks = marks
    this.#active = segments[0]
    this.#sequence = this.#writtenTo = Math.max(applied, ...segments.map(({ last }) => last))
    this.#takenBytes = segments.reduce((sum, { at, start }) => sum + at - start, 0)
    const epoch = randomInt(EPOCHS)
    for (const segment of segments) segment.epoch = epoch
    // Where nothing was found there is nothing to be destroyed.
    if (segments.every(({ last }) => last === 0)) this.#secured = this.#sequence
    this.#unseal()
  }

  /** Opens what lies on `device`, zeros at first. Returns the entries that are not applied. Errors: newer-format, io. */
  static async open(device: BlockDevice, options: StagingOptions): Promise<{ log: StagingLog, entries: StagedEntry[] }> {
    try {
      return await StagingLog.#open(device, options)
    } catch (error) {
      await device.close()
      throw error
    }
  }

  static async #open(device: BlockDevice, options: StagingOptions): Promise<{ log: StagingLog, entries: StagedEntry[] }> {
    const marks = [await readMark(device, options, 0), await readMark(device, options, 1)]
    const applied = Math.max(...marks.map(mark => mark?.applied ?? 0))
    const space = device.sizeBytes - SEGMENTS_AT
    const count = Math.max(2, Math.min(SEGMENTS_MAX, Math.floor(space / SEGMENT_BYTES)))
    const sizeBytes = Math.floor(space / count / MARK_BYTES) * MARK_BYTES
    const segments = Array.from({ length: count }, (_, index): Segment => {
      const start = SEGMENTS_AT + index * sizeBytes
      return { start, end: start + sizeBytes, at: start, epoch: 0, last: 0 }
    })
    const entries: StagedEntry[] = []
    const buffer = Buffer.alloc(Math.min(SCAN_BYTES, sizeBytes))
    for (const segment of segments) entries.push(...await scan(device, options, segment, buffer))
    entries.sort((a, b) => a.sequence - b.sequence)
    const log = new StagingLog(device, options, segments, applied, Math.max(...marks.map(mark => mark?.count ?? 0)))
    return { log, entries: entries.filter(({ sequence }) => sequence > applied) }
  }

  /** Number of the last entry. */
  get sequence(): number { return this.#sequence }
  /** Entries up to this one are marked as applied. */
  get applied(): number { return this.#applied }
  /** Bytes that entries take which are not marked yet, as a part of all there is room for. */
  get fill(): number {
    let used = 0
    for (const { last, at, start } of this.#segments) if (last > this.#applied) used += at - start
    return used / (this.#segments[0].end - this.#segments[0].start) / this.#segments.length
  }

  /** Entries up to this one fill the oldest segment that is not free and not appended to any more; 0: there is none. */
  get fullUpTo(): number {
    const full = this.#segments.filter(segment => segment !== this.#active && segment.last > this.#applied)
    return full.length > 0 ? Math.min(...full.map(({ last }) => last)) : 0
  }

  /**
   * Appends; returns where the data lies, or undefined when there is no room for it, or the log is sealed. It is done when
   * `written` says so, in this turn where the disk completes at once.
   */
  append(offset: number, from: Buffer, at: number, length: number): number | undefined {
    if (length > ENTRY_MAX_BYTES) return undefined
    this.#wanted = true
    const stroke = this.#room(length)
    if (!stroke) return undefined
    const { buffer, entries, dataBytes, segment } = stroke
    const row = RECORD_HEADER_BYTES + entries * ROW_BYTES
    writeU64(buffer, row, offset)
    writeU64(buffer, row + 8, length)
    const start = RECORD_HEADER_BYTES + TABLE_BYTES + dataBytes
    from.copy(buffer, start, at, at + length)
    stroke.entries++
    stroke.dataBytes += length
    segment.at = stroke.address + recordSizeBytes(TABLE_BYTES + stroke.dataBytes)
    segment.last = ++this.#sequence
    return stroke.address + start
  }

  /** The last append, while it is not with the disk: it must not be answered before. Rejects with what the disk says. */
  get written(): Promise<void> | undefined { return (this.#gathered ?? this.#sent)?.done }
  /** Number of the last entry that is with the disk. One that it refused never counts. */
  get writtenTo(): number { return this.#writtenTo }

  /** As much is on its way as can be at a time: no room before `written`, whatever is free. */
  get isBusy(): boolean { return this.#sent !== undefined && this.#gathered !== undefined }

  /** No room for a moment: its space is being given back. */
  get isResting(): boolean { return this.#resting }

  /** Reads data of entries that are not marked as applied. */
  read(address: number, length: number, into: Buffer, at: number): Pending {
    for (const stroke of [this.#gathered, this.#sent]) {
      if (!stroke || address < stroke.address) continue
      if (address >= stroke.address + recordSizeBytes(TABLE_BYTES + stroke.dataBytes)) continue
      stroke.buffer.copy(into, at, address - stroke.address, address - stroke.address + length)
      return undefined
    }
    return this.#device.read(address, length, into, at)
  }

  /** All entries up to `sequence` are durable in their places. Again where it has failed. */
  async mark(sequence: number): Promise<void> {
    if (sequence > this.#applied) {
      const count = ++this.#marks
      const at = (count % 2) * MARK_BYTES
      const page = Buffer.alloc(MARK_BYTES)
      const payload = Buffer.alloc(MARK_PAYLOAD_BYTES)
      writeU64(payload, 0, sequence)
      encodeRecord(this.#place(at), { type: TYPE_MARK, epoch: 0, sequence: count, durableSequence: 0 }, payload, page, 0)
      await this.#device.write(at, MARK_BYTES, page, 0)
      this.#dirty = true
      this.#applied = sequence
    }
    if (this.#freesSegments) await this.flush()
    this.#unseal()
  }

  /** Everything appended and marked before is durable. A failure is final: what the disk has forgotten nobody knows. */
  async flush(): Promise<void> {
    await this.written?.catch(() => undefined)
    // It may have begun before what is to be durable was there.
    while (this.#flushing) await this.#flushing.catch(() => undefined)
    if (this.#flushFailure !== undefined) throw this.#flushFailure
    if (!this.#dirty) return
    this.#flushing = this.#flush().finally(() => { this.#flushing = undefined })
    await this.#flushing
  }

  async #flush(): Promise<void> {
    const applied = this.#applied
    this.#dirty = false
    try {
      await this.#device.flush()
      this.#secured = applied
    } catch (error) {
      this.#flushFailure = error
      throw error
    }
  }

  /**
   * Gives back the space that strokes have taken, if it is much and all of them are applied; not all of it when something is to
   * be appended meanwhile. Errors: those of the disk.
   */
  async rest(): Promise<void> {
    if (this.#sealed || this.#applied < this.#sequence || this.#takenBytes < this.#freeFromBytes) return
    this.#sealed = this.#resting = true
    this.#wanted = false
    try {
      await this.flush()
      for (const { start, end } of this.#segments) {
        if (this.#wanted) return
        await this.#device.trim(start, end - start)
      }
      this.#takenBytes = 0
    } finally {
      this.#resting = false
      this.#unseal()
    }
  }

  /** What was marked is durable, unless the disk refuses that: who asks for a flush later hears of it. */
  async close(): Promise<void> {
    while (this.written) await this.written.catch(() => undefined)
    await this.flush().catch(() => undefined)
    await this.#device.close()
  }

  /** On to the next segment, if everything in it is applied. */
  #turn(): boolean {
    const next = this.#segments[(this.#segments.indexOf(this.#active) + 1) % this.#segments.length]
    if (next.last > this.#secured) return false
    Object.assign(next, { at: next.start, last: 0, epoch: this.#active.epoch + 1 })
    this.#active = next
    return true
  }

  /** A durable mark is all that is lacking for something to be written over. */
  get #freesSegments(): boolean {
    const isMarked = (last: number): boolean => last <= this.#applied && last > this.#secured
    if (this.#sealed) return isMarked(this.#sequence)
    return this.#segments.some(segment => segment !== this.#active && isMarked(segment.last))
  }

  /** Nothing that is in the log counts any more: all segments are free. */
  #unseal(): void {
    if (!this.#sealed || this.#secured < this.#sequence) return
    this.#sealed = false
    this.#failure = undefined
    const epoch = Math.max(...this.#segments.map(segment => segment.epoch)) + EPOCH_STEP
    for (const segment of this.#segments) Object.assign(segment, { at: segment.start, last: 0, epoch })
  }

  /** A stroke that takes an entry of `length` bytes more; undefined: the log is full, or all that can be on their way are. */
  #room(length: number): Stroke | undefined {
    const going = this.#gathered
    if (going && going.entries < TABLE_BYTES / ROW_BYTES) {
      const sizeBytes = recordSizeBytes(TABLE_BYTES + going.dataBytes + length)
      if (sizeBytes <= STROKE_MAX_BYTES && going.address + sizeBytes <= going.segment.end) return going
    }
    if (going) this.#sendGathered()
    if (this.#sealed || this.#gathered || this.#buffers.length === 0) return undefined
    const sizeBytes = recordSizeBytes(TABLE_BYTES + length)
    if (sizeBytes > this.#active.end - this.#active.start) return undefined
    if (this.#active.at + sizeBytes > this.#active.end && !this.#turn()) return undefined
    let settle!: Stroke['settle']
    const done = new Promise<void>((resolve, reject) => {
      settle = error => {
        if (error === undefined) resolve()
        else reject(error as Error)
      }
    })
    done.catch(() => undefined)
    queueMicrotask(this.#send)
    const segment = this.#active
    const fresh = { address: segment.at, first: this.#sequence + 1, entries: 0, dataBytes: 0 }
    const buffer = this.#buffers.pop() ?? Buffer.alloc(Math.min(STROKE_MAX_BYTES, segment.end - segment.start))
    return this.#gathered = { buffer, segment, ...fresh, done, settle }
  }

  /** Writes what is gathered, unless something is on its way: that will do it when it is there. */
  #sendGathered(): void {
    const stroke = this.#gathered
    if (!stroke || this.#sent) return
    this.#gathered = undefined
    this.#sent = stroke
    const { buffer, address, entries, dataBytes, segment } = stroke
    let pending: Pending
    try {
      if (this.#failure !== undefined) throw this.#failure
      buffer.fill(0, RECORD_HEADER_BYTES + entries * ROW_BYTES, RECORD_HEADER_BYTES + TABLE_BYTES)
      const fields = { type: TYPE_STROKE, epoch: segment.epoch, sequence: stroke.first, durableSequence: 0 }
      const sizeBytes = sealRecord(this.#place(address), fields, TABLE_BYTES + dataBytes, buffer, 0)
      this.#takenBytes += sizeBytes
      pending = this.#device.write(address, sizeBytes, buffer, 0)
    } catch (error) {
      this.#arrived(stroke, error)
      return
    }
    if (pending) pending.then(() => this.#arrived(stroke), (error: unknown) => this.#arrived(stroke, error))
    else this.#arrived(stroke)
  }

  #arrived(stroke: Stroke, error?: unknown): void {
    this.#sent = undefined
    this.#dirty = true
    this.#buffers.push(stroke.buffer)
    if (error !== undefined) {
      this.#failure = error
      this.#sealed = true
      this.onRefused()
    } else this.#writtenTo = stroke.first + stroke.entries - 1
    stroke.settle(error)
    this.#sendGathered()
  }

  #place(address: number): Parameters<typeof encodeRecord>[0] {
    return { magic: STAGING_MAGIC, version: STAGING_VERSION, owner: this.#identity.owner, address }
  }
}

async function readMark(device: BlockDevice, { owner, name }: Identity, index: number) {
  const page = Buffer.alloc(MARK_BYTES)
  const address = index * MARK_BYTES
  await device.read(address, MARK_BYTES, page, 0)
  const record = decodeRecord({ magic: STAGING_MAGIC, version: STAGING_VERSION, owner, address }, page, 0)
  if (!record.ok && record.reason === 'version') throw newer(name)
  if (!record.ok || record.type !== TYPE_MARK || record.payload.length !== MARK_PAYLOAD_BYTES) return undefined
  return { applied: readU64(record.payload, 0), count: record.sequence }
}

/** The entries of the whole strokes from the start of a segment on; leaves `segment` behind the last of them. */
async function scan(
  device: BlockDevice, { owner, name }: Identity, segment: Segment, buffer: Buffer,
): Promise<StagedEntry[]> {
  const entries: StagedEntry[] = []
  let base = segment.start
  let filled = 0
  let epoch: number | undefined
  for (;;) {
    const address = segment.at
    if (address + STROKE_MAX_BYTES > base + filled && base + filled < segment.end) {
      base = address
      filled = Math.min(buffer.length, segment.end - base)
      await device.read(base, filled, buffer, 0)
    }
    const whole = buffer.subarray(0, filled)
    const record = decodeRecord({ magic: STAGING_MAGIC, version: STAGING_VERSION, owner, address }, whole, address - base)
    if (!record.ok) {
      if (record.reason === 'version') throw newer(name)
      return entries
    }
    const known = record.type === TYPE_STROKE || record.type === TYPE_ENTRY
    if (!known || (epoch ?? record.epoch) !== record.epoch || record.sequence <= segment.last) return entries
    epoch = segment.epoch = record.epoch
    segment.at += record.sizeBytes
    if (record.type === TYPE_STROKE) entries.push(...entriesOf(record.payload, record.sequence, address))
    else entries.push(oneEntry(record.payload, record.sequence, address))
    segment.last = entries.at(-1)!.sequence
  }
}

function oneEntry(payload: Buffer, sequence: number, address: number): StagedEntry {
  return {
    sequence, offset: readU64(payload, 0), length: payload.length - ENTRY_PREFIX_BYTES,
    address: address + RECORD_HEADER_BYTES + ENTRY_PREFIX_BYTES,
  }
}

function* entriesOf(payload: Buffer, first: number, address: number): Generator<StagedEntry> {
  let sequence = first
  for (let row = 0, at = TABLE_BYTES; row < TABLE_BYTES; row += ROW_BYTES) {
    const length = readU64(payload, row + 8)
    if (length === 0) return
    yield { sequence: sequence++, offset: readU64(payload, row), length, address: address + RECORD_HEADER_BYTES + at }
    at += length
  }
}

function newer(name: string): NbdeltaError {
  return new NbdeltaError('newer-format', `${name} has a newer format than this version knows`)
}
