/**
 * StagingLog: new content of grains whose old content a snapshot still has to keep (src/volume/staging.ts). Appended here it
 * survives a kill at once, and a power cut once flushed; it is moved to its place later, in batches.
 *
 *   device   [ mark 0 | mark 1 | half 0 | half 1 ]           4096 bytes each mark
 *   half     entry*                                          records, one behind the other, all of one epoch
 *
 *   ENTRY    (offset:u64 data)    this data belongs there; newer entries and later writes in place come on top of it
 *   MARK     (applied:u64)        entries up to this number are in their places, durably: never to be looked at again
 *
 * Appends go into one half until it is full, then into the other, which must be free: everything in it marked as applied.
 * Order, and what others would lose: the entries' data is durable in its place before MARK is written; MARK is written before
 * anything else may be written over such a place. The other way round a replay would put old content over newer.
 * MARK itself is made durable by the next `flush`, with whatever came after it. Torn, the other mark counts: then entries are
 * applied again, over writes that nobody was promised.
 *
 * Reading at open: of each half the run of whole records from its start that are of one epoch and numbered upwards. What
 * follows a record that does not check had not been flushed. It may be whole all the same: so nothing is appended to what
 * was found (`sealed`); when all of it is applied, both halves begin anew in an epoch that no record can be of.
 */
import { decodeRecord, encodeRecord, RECORD_HEADER_BYTES, recordSizeBytes, readU64, writeU64 } from '../../native-free/index.js'
import type { BlockDevice, Pending } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'

/** 'NBDW' */
const STAGING_MAGIC = 0x4e424457
const STAGING_VERSION = 1
const TYPE_ENTRY = 1
const TYPE_MARK = 2
const MARK_BYTES = 4096
const HALVES_AT = 2 * MARK_BYTES
const PREFIX_BYTES = 8
/** Data of one entry at most. */
export const ENTRY_MAX_BYTES = 64 * 1024
/** What a scan at open reads at a time. */
const SCAN_BYTES = 2 ** 20
/** Zeros are laid down so far ahead of the appends, so much at a time: an append into space that is there is quick. */
const AHEAD_BYTES = 4 * 2 ** 20
const PIECE_BYTES = 2 ** 20
const ZEROS = Buffer.alloc(PIECE_BYTES)

export interface StagedEntry {
  readonly sequence: number
  readonly offset: number
  readonly length: number
  /** Where its data lies in the log. */
  readonly address: number
}

/** A half may hold records of the epoch after the highest one found: its first record may be what was lost. */
const EPOCH_STEP = 2

interface Half {
  readonly start: number
  readonly end: number
  at: number
  /** Up to here there is space on the disk since this process began. */
  laid: number
  epoch: number
  /** Number of the last entry in it; 0: none. */
  last: number
}

interface Identity {
  /** 16 bytes: the volume's uuid. */
  readonly owner: Buffer
  readonly name: string
}

export class StagingLog {
  readonly #device: BlockDevice
  readonly #identity: Identity
  readonly #halves: readonly [Half, Half]
  readonly #scratch = Buffer.alloc(recordSizeBytes(PREFIX_BYTES + ENTRY_MAX_BYTES))
  #active: Half
  #sequence: number
  #applied: number
  #marks = 0
  #dirty = false
  #sealed = true
  #writing: Promise<void> | undefined
  #laying: Promise<void> | undefined
  #failure: unknown

  private constructor(device: BlockDevice, identity: Identity, halves: readonly [Half, Half], applied: number, marks: number) {
    this.#device = device
    this.#identity = identity
    this.#halves = halves
    this.#applied = applied
    this.#marks = marks
    this.#active = halves[0]
    this.#sequence = Math.max(applied, halves[0].last, halves[1].last)
    this.#unseal()
  }

  /** Opens what lies on `device`, zeros at first. Returns the entries that are not applied. Errors: newer-format, io. */
  static async open(device: BlockDevice, identity: Identity): Promise<{ log: StagingLog, entries: StagedEntry[] }> {
    const marks = [await readMark(device, identity, 0), await readMark(device, identity, 1)]
    const applied = Math.max(...marks.map(mark => mark?.applied ?? 0))
    const halfBytes = Math.floor((device.sizeBytes - HALVES_AT) / 2 / MARK_BYTES) * MARK_BYTES
    const halves = [0, 1].map(index => {
      const start = HALVES_AT + index * halfBytes
      return { start, end: start + halfBytes, at: start, laid: start, epoch: 0, last: 0 }
    }) as [Half, Half]
    const entries: StagedEntry[] = []
    for (const half of halves) entries.push(...await scan(device, identity, half))
    entries.sort((a, b) => a.sequence - b.sequence)
    const log = new StagingLog(device, identity, halves, applied, Math.max(...marks.map(mark => mark?.count ?? 0)))
    return { log, entries: entries.filter(({ sequence }) => sequence > applied) }
  }

  /** Number of the last entry. */
  get sequence(): number { return this.#sequence }
  /** Entries up to this one are marked as applied. */
  get applied(): number { return this.#applied }
  /** Bytes that entries take which are not marked yet, as a part of all there is room for. */
  get fill(): number {
    let used = 0
    for (const { last, at, start } of this.#halves) if (last > this.#applied) used += at - start
    return used / (this.#halves[0].end - this.#halves[0].start) / 2
  }

  /** Entries up to this one fill a half that is not being appended to any more; 0: it is free. */
  get fullUpTo(): number {
    const other = this.#other
    return other.last > this.#applied ? other.last : 0
  }

  /**
   * Appends; returns where the data lies, or undefined when it cannot be done at once: no room, the disk has not finished the
   * last append, or entries found at open are not applied yet. Throws what the disk throws.
   */
  append(offset: number, from: Buffer, at: number, length: number): number | undefined {
    const payloadBytes = PREFIX_BYTES + length
    const sizeBytes = recordSizeBytes(payloadBytes)
    if (this.#sealed || this.#writing || this.#failure !== undefined || length > ENTRY_MAX_BYTES) return undefined
    if (this.#active.at + sizeBytes > this.#active.end && !this.#turn()) return undefined
    const half = this.#active
    this.#layAhead(half)
    if (half.at + sizeBytes > half.laid) return undefined
    const scratch = this.#scratch
    writeU64(scratch, RECORD_HEADER_BYTES, offset)
    from.copy(scratch, RECORD_HEADER_BYTES + PREFIX_BYTES, at, at + length)
    const payload = scratch.subarray(RECORD_HEADER_BYTES, RECORD_HEADER_BYTES + payloadBytes)
    const fields = { type: TYPE_ENTRY, epoch: half.epoch, sequence: this.#sequence + 1, durableSequence: 0 }
    encodeRecord(this.#place(half.at), fields, payload, scratch, 0)
    const pending = this.#device.write(half.at, sizeBytes, scratch, 0)
    if (pending) this.#await(pending)
    this.#dirty = true
    const address = half.at + RECORD_HEADER_BYTES + PREFIX_BYTES
    half.at += sizeBytes
    half.last = ++this.#sequence
    return address
  }

  /** The last append, while the disk has not finished it: it must not be answered before. */
  get writing(): Promise<void> | undefined { return this.#writing }

  /** Reads data of entries that are not marked as applied. */
  read(address: number, length: number, into: Buffer, at: number): Pending { return this.#device.read(address, length, into, at) }

  /** All entries up to `sequence` are durable in their places. */
  async mark(sequence: number): Promise<void> {
    if (sequence <= this.#applied) return
    const count = ++this.#marks
    const at = (count % 2) * MARK_BYTES
    const page = Buffer.alloc(MARK_BYTES)
    const payload = Buffer.alloc(PREFIX_BYTES)
    writeU64(payload, 0, sequence)
    encodeRecord(this.#place(at), { type: TYPE_MARK, epoch: 0, sequence: count, durableSequence: 0 }, payload, page, 0)
    await this.#device.write(at, MARK_BYTES, page, 0)
    this.#dirty = true
    this.#applied = sequence
    this.#unseal()
  }

  /** Everything appended and marked before is durable. */
  async flush(): Promise<void> {
    await this.#writing
    if (!this.#dirty) return
    this.#dirty = false
    try {
      await this.#device.flush()
    } catch (error) {
      this.#dirty = true
      throw error
    }
  }

  async close(): Promise<void> {
    await this.#laying
    await this.#writing?.catch(() => undefined)
    await this.#device.close()
  }

  get #other(): Half { return this.#active === this.#halves[0] ? this.#halves[1] : this.#halves[0] }

  /** On to the other half, if everything in it is applied. */
  #turn(): boolean {
    const other = this.#other
    if (other.last > this.#applied) return false
    other.at = other.start
    other.last = 0
    other.epoch = this.#active.epoch + 1
    this.#active = other
    return true
  }

  /** What was found at open is applied: both halves are free. */
  #unseal(): void {
    if (!this.#sealed || this.#applied < this.#sequence) return
    this.#sealed = false
    const epoch = Math.max(...this.#halves.map(half => half.epoch)) + EPOCH_STEP
    for (const half of this.#halves) Object.assign(half, { at: half.start, last: 0, epoch })
  }

  #await(pending: Promise<void>): void {
    this.#writing = pending.finally(() => { this.#writing = undefined })
    this.#writing.catch((error: unknown) => { this.#failure = error })
  }

  /** Pieces of zeros, one after the other, in the background. Where that fails (no space) there is no room for entries. */
  #layAhead(half: Half): void {
    if (this.#laying || half.laid >= Math.min(half.end, half.at + AHEAD_BYTES)) return
    const work = async (): Promise<void> => {
      while (half.laid < Math.min(half.end, half.at + AHEAD_BYTES)) {
        const bytes = Math.min(PIECE_BYTES, half.end - half.laid)
        await this.#device.write(half.laid, bytes, ZEROS, 0)
        half.laid += bytes
      }
    }
    this.#laying = work().then(() => { this.#laying = undefined }, () => undefined)
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
  if (!record.ok || record.type !== TYPE_MARK || record.payload.length !== PREFIX_BYTES) return undefined
  return { applied: readU64(record.payload, 0), count: record.sequence }
}

/** The whole records from the start of a half on; leaves `half` behind the last of them. */
async function scan(device: BlockDevice, { owner, name }: Identity, half: Half): Promise<StagedEntry[]> {
  const entries: StagedEntry[] = []
  const buffer = Buffer.alloc(SCAN_BYTES)
  let base = half.start
  let filled = 0
  let epoch: number | undefined
  for (;;) {
    const address = half.at
    if (address + recordSizeBytes(PREFIX_BYTES + ENTRY_MAX_BYTES) > base + filled && base + filled < half.end) {
      base = address
      filled = Math.min(SCAN_BYTES, half.end - base)
      await device.read(base, filled, buffer, 0)
    }
    const whole = buffer.subarray(0, filled)
    const record = decodeRecord({ magic: STAGING_MAGIC, version: STAGING_VERSION, owner, address }, whole, address - base)
    if (!record.ok) {
      if (record.reason === 'version') throw newer(name)
      return entries
    }
    if (record.type !== TYPE_ENTRY || (epoch ?? record.epoch) !== record.epoch || record.sequence <= half.last) return entries
    epoch = half.epoch = record.epoch
    half.last = record.sequence
    half.at += record.sizeBytes
    entries.push({
      sequence: record.sequence, offset: readU64(record.payload, 0), length: record.payload.length - PREFIX_BYTES,
      address: address + RECORD_HEADER_BYTES + PREFIX_BYTES,
    })
  }
}

function newer(name: string): NbdeltaError {
  return new NbdeltaError('newer-format', `${name} has a newer format than this version knows`)
}
