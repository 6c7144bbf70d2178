/**
 * RecordLog: an append-only log of small records on one BlockDevice, kept short by rewriting it as a snapshot.
 * Catalog and volume journals are such logs; FORMAT.md has the bytes, record-log-recovery.ts what is read after a crash.
 *
 * Promises
 * - `append` done: the record is with the device (page cache): it survives kill -9 of this process.
 * - `sync` done: every record appended before the call survives a power cut. One flush, begun after the request,
 *   serves all who wait.
 * - `rewrite` done: the log consists of the given records, durably; cut short, of what it was before. Never a mixture.
 * - A record once durable is either read back or its loss is reported (`damaged`), with one stated exception: what the
 *   very last flush before a power cut covered, if the medium loses it *and* the mark written right after that flush
 *   had not reached the medium. That cannot be told from a flush cut short.
 *
 * Order of writes in a rewrite, and what each other order would lose
 *   1. header of epoch E+1 and the whole snapshot into the other half, zeros over what it held before; flush.
 *      They need no order among them: a half whose snapshot is incomplete does not count.
 *   2. RETIRED(E+1) over the header of the old half; flush. Before 1 is durable this would leave no half that counts.
 *   3. only now appends go on, into the new half. Were they let in before 2 is durable, a new half that then rots
 *      would be taken for a rewrite cut short, and the old half would come back without them, in silence.
 *
 * A failed write or flush latches: the log refuses everything until it is opened anew, because nobody knows any more
 * what the medium holds (DESIGN D7). Memory: one snapshot, plus two batches of at most the space of a half.
 */
import { recordSizeBytes } from '../../native-free/index.js'
import type { BlockDevice, Pending } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import { BatchWriter } from './batch-writer.js'
import {
  encodeAlone, encodeAt, encodeRetired, halfBytesOf, headerPayload, MARK_AT, otherHalf, RECORDS_AT, snapshotLimitBytes,
  TYPE_HEADER, TYPE_MARK, TYPE_RESERVED, type HalfIndex, type LogIdentity, type LogRecord,
} from './record-log-layout.js'

export type { LogIdentity, LogRecord } from './record-log-layout.js'

/** Of zeros laid at a time. */
const AHEAD_BYTES = 64 * 1024

/** Where an opened log goes on. */
interface LogPosition {
  readonly half: HalfIndex
  readonly epoch: number
  readonly end: number
  readonly sequence: number
  /** How far each half may hold something other than zeros. */
  readonly usedBytes: [number, number]
}

/** A half as `rewrite` will lay it down: header slot, empty mark slot, records, zeros over what was there. */
interface Snapshot {
  readonly bytes: Buffer
  readonly end: number
  readonly lastSequence: number
}

interface Waiter {
  readonly sequence: number
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

interface Held extends LogRecord {
  readonly resolve: (value: Pending) => void
  readonly reject: (error: unknown) => void
}

export class RecordLog {
  readonly #device: BlockDevice
  readonly #identity: LogIdentity
  readonly #halfBytes: number
  readonly #usedBytes: [number, number]
  #half: HalfIndex
  #epoch: number
  #writer: BatchWriter
  #issuedSequence: number
  #durableSequence: number
  readonly #waiters: Waiter[] = []
  #committing: Promise<void> | undefined
  #marking: Promise<void> | undefined
  #rewriting: Promise<void> | undefined
  /** Appends that wait for a rewrite, and how many bytes of the new half are left beside them. */
  #held: Held[] = []
  #heldFreeBytes = 0
  #failure: NbdeltaError | undefined
  #closed = false
  /** Up to here there is space on the disk; only `layAhead` cares. */
  #laidTo = 0

  constructor(device: BlockDevice, identity: LogIdentity, position: LogPosition) {
    this.#device = device
    this.#identity = identity
    this.#halfBytes = halfBytesOf(device.sizeBytes)
    this.#half = position.half
    this.#epoch = position.epoch
    this.#usedBytes = position.usedBytes
    this.#issuedSequence = position.sequence
    this.#durableSequence = position.sequence
    this.#writer = new BatchWriter(device, position.half * this.#halfBytes + position.end, position.sequence)
  }

  get name(): string { return this.#identity.name }
  /** The largest snapshot `rewrite` takes, bytes, framing included: half the space, so that after any rewrite as much is free. */
  get limitBytes(): number { return snapshotLimitBytes(this.#device.sizeBytes) }
  /** Space for further appends, bytes, framing included (`recordSizeBytes(payload.length)` each). */
  get freeBytes(): number {
    return this.#rewriting ? this.#heldFreeBytes : (this.#half + 1) * this.#halfBytes - this.#writer.address
  }
  /** Nothing has been appended since the last rewrite or sync. */
  get isDurable(): boolean { return this.#durableSequence === this.#issuedSequence && this.#held.length === 0 }
  /** Why the log refuses everything, if it does. */
  get failure(): NbdeltaError | undefined { return this.#failure }

  /**
   * Appends one record; `type` is 1 ... 0xfeff. The payload is copied before the call returns. Done = with the device.
   * Throws `no-space` when it does not fit (then `rewrite` makes room; the record was not taken), and what latched.
   */
  append(type: number, payload: Buffer): Pending {
    this.#check()
    if (!(type >= 1 && type < TYPE_RESERVED)) throw new RangeError(`record type ${type}`)
    const sizeBytes = recordSizeBytes(payload.length)
    if (sizeBytes > this.freeBytes) {
      throw new NbdeltaError('no-space', `${this.name}: the log is full (${this.freeBytes} bytes left, ${sizeBytes} needed)`)
    }
    if (this.#rewriting) return this.#hold(type, payload, sizeBytes)
    const sequence = ++this.#issuedSequence
    const at = this.#writer.reserve(sizeBytes)
    const fields = { type, epoch: this.#epoch, sequence, durableSequence: this.#durableSequence }
    encodeAt(this.#identity, this.#writer.address, fields, payload, this.#writer.buffer, at)
    let pending: Pending
    try {
      pending = this.#writer.commit(sizeBytes, sequence)
    } catch (error) {
      throw this.#fail('io', error)
    }
    return pending?.catch((error: unknown) => { throw this.#fail('io', error) })
  }

  /**
   * Zeros where the next `bytes` of appends go, of a log that was not laid down whole: they need no new space then. Nothing has
   * changed where the disk refuses. The caller has awaited all appends.
   */
  async layAhead(bytes: number): Promise<void> {
    this.#check()
    const { address } = this.#writer
    const end = (this.#half + 1) * this.#halfBytes
    if (this.#laidTo < address || this.#laidTo > end) this.#laidTo = address
    if (address + bytes <= this.#laidTo || this.#laidTo === end) return
    const length = Math.min(end, Math.max(address + bytes, this.#laidTo + AHEAD_BYTES)) - this.#laidTo
    await this.#device.write(this.#laidTo, length, Buffer.alloc(length), 0)
    this.#laidTo += length
  }

  /** Makes durable what was appended before this call. Rejects with `flush-failed` or `io`, and goes on doing so. */
  sync(): Promise<void> {
    if (this.#failure) return Promise.reject(this.#failure)
    if (this.#rewriting) return this.#rewriting.then(() => this.sync())
    if (this.#durableSequence >= this.#issuedSequence) return Promise.resolve()
    return new Promise((resolve, reject) => {
      this.#waiters.push({ sequence: this.#issuedSequence, resolve, reject })
      this.#committing ??= this.#commit()
    })
  }

  /**
   * Replaces the log by `records`, which must state everything the log stated up to this call. Appends made while it
   * runs wait, and follow the snapshot. Throws `no-space` when they take more than `limitBytes`: nothing happened then.
   */
  rewrite(records: Iterable<LogRecord>): Promise<void> {
    if (this.#rewriting) throw new Error(`${this.name}: a second rewrite while one is running`)
    let snapshot: Snapshot
    try {
      this.#check()
      snapshot = this.#encodeSnapshot([...records])
    } catch (error) {
      return Promise.reject(error)
    }
    this.#heldFreeBytes = this.#halfBytes - snapshot.end
    this.#rewriting = this.#replace(snapshot).finally(() => {
      this.#rewriting = undefined
      this.#releaseHeld()
    })
    return this.#rewriting
  }

  /** Waits for what runs; makes nothing durable and leaves the device open. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true
    await Promise.allSettled([this.#rewriting, this.#writer.reached(this.#issuedSequence), this.#committing])
    await this.#marking
  }

  /** One flush for all who wait, again and again while somebody does. In one turn with the last look at who waits, it is over. */
  async #commit(): Promise<void> {
    try {
      while (this.#waiters.length > 0) {
        await this.#writer.reached(this.#waiters[0].sequence)
        const reached = this.#writer.writtenSequence
        const served = this.#waiters.findIndex(waiter => waiter.sequence > reached)
        const group = this.#waiters.splice(0, served < 0 ? this.#waiters.length : served)
        const epoch = this.#epoch
        try {
          await this.#device.flush()
        } catch (error) {
          const failure = this.#fail('flush-failed', error)
          for (const waiter of group) waiter.reject(failure)
          throw failure
        }
        this.#durableSequence = Math.max(this.#durableSequence, reached)
        for (const waiter of group) waiter.resolve()
        if (epoch === this.#epoch && !this.#rewriting) this.#mark()
      }
    } catch (error) {
      const failure = this.#fail('io', error)
      for (const waiter of this.#waiters.splice(0)) waiter.reject(failure)
    }
    this.#committing = undefined
  }

  /** Tells the medium what is durable, so that later damage is seen as such. Nobody waits; the next flush takes it along. */
  #mark(): void {
    if (this.#marking || this.#failure) return
    const address = this.#half * this.#halfBytes + MARK_AT
    const fields = { type: TYPE_MARK, epoch: this.#epoch, sequence: 0, durableSequence: this.#durableSequence }
    const mark = encodeAlone(this.#identity, address, fields)
    try {
      this.#marking = this.#device.write(address, mark.length, mark, 0)?.then(() => {
        this.#marking = undefined
        if (this.#epoch === fields.epoch && !this.#rewriting && this.#durableSequence > fields.durableSequence) this.#mark()
      }, (error: unknown) => { this.#fail('io', error) })
    } catch (error) {
      this.#fail('io', error)
    }
  }

  #encodeSnapshot(records: readonly LogRecord[]): Snapshot {
    const snapshotBytes = records.reduce((sum, record) => sum + recordSizeBytes(record.payload.length), 0)
    if (snapshotBytes > this.limitBytes) {
      throw new NbdeltaError('no-space', `${this.name}: a snapshot of ${snapshotBytes} bytes; the log takes ${this.limitBytes}`)
    }
    const half = otherHalf(this.#half)
    const base = half * this.#halfBytes
    const end = RECORDS_AT + snapshotBytes
    const bytes = Buffer.alloc(Math.max(end, this.#usedBytes[half]))
    const epoch = this.#epoch + 1
    let sequence = this.#issuedSequence
    const encode = (type: number, payload: Buffer, at: number): number => {
      const fields = { type, epoch, sequence: ++sequence, durableSequence: this.#durableSequence }
      return encodeAt(this.#identity, base + at, fields, payload, bytes, at)
    }
    encode(TYPE_HEADER, headerPayload({ snapshotRecords: records.length, halfBytes: this.#halfBytes }), 0)
    let at = RECORDS_AT
    for (const { type, payload } of records) at += encode(type, payload, at)
    return { bytes, end, lastSequence: sequence }
  }

  /** The order of writes is the file's header. */
  async #replace({ bytes, end, lastSequence }: Snapshot): Promise<void> {
    const fresh = otherHalf(this.#half)
    const oldBase = this.#half * this.#halfBytes
    const epoch = this.#epoch + 1
    try {
      await this.#writer.reached(this.#issuedSequence)
      await this.#marking
      await this.#device.write(fresh * this.#halfBytes, bytes.length, bytes, 0)
      await this.#flush()
      const retired = encodeRetired(this.#identity, oldBase, epoch, lastSequence, this.#halfBytes)
      await this.#device.write(oldBase, retired.length, retired, 0)
      await this.#flush()
    } catch (error) {
      throw this.#fail('io', error)
    }
    this.#usedBytes[this.#half] = this.#writer.address - oldBase
    this.#usedBytes[fresh] = end
    this.#half = fresh
    this.#epoch = epoch
    this.#issuedSequence = this.#durableSequence = lastSequence
    this.#writer = new BatchWriter(this.#device, fresh * this.#halfBytes + end, lastSequence)
  }

  #hold(type: number, payload: Buffer, sizeBytes: number): Promise<void> {
    this.#heldFreeBytes -= sizeBytes
    return new Promise<void>((resolve, reject) => {
      this.#held.push({ type, payload: Buffer.from(payload), resolve, reject })
    })
  }

  #releaseHeld(): void {
    for (const { type, payload, resolve, reject } of this.#held.splice(0)) {
      try {
        resolve(this.append(type, payload))
      } catch (error) {
        reject(error)
      }
    }
  }

  async #flush(): Promise<void> {
    try {
      await this.#device.flush()
    } catch (error) {
      throw this.#fail('flush-failed', error)
    }
  }

  /** Latches the first failure; every later call gets that one. */
  #fail(code: 'io' | 'flush-failed', error: unknown): NbdeltaError {
    const what = code === 'io' ? 'a write' : 'a flush'
    const why = error instanceof Error ? error.message : String(error)
    this.#failure ??= new NbdeltaError(code, `${this.name}: ${what} failed: ${why}`, { cause: error })
    return this.#failure
  }

  #check(): void {
    if (this.#failure) throw this.#failure
    if (this.#closed) throw new NbdeltaError('wrong-state', `${this.name}: the log is closed`)
  }
}
