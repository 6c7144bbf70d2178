/**
 * FileDisk: a raw file or a block device as a BlockDevice.
 *
 * Reads and writes run inline (synchronous calls on the event loop's thread, complete on return) where that is
 * believed to touch the page cache only, else as trips through the thread pool, many at once:
 *
 *     inline needs:  <= 1 MiB  and  io-trust.ts allows this kind  and  no trip is overdue (reads: unless it fetched nothing)  and
 *                    the pages are believed to be cached (touched-regions.ts; a page-aligned write reads nothing)
 *
 * On file systems behind a network or a user's process nothing is inline: there even a cached page may need an answer.
 *
 * Invariants
 * - An inline call makes no promise, closure or object; it costs two looks at the clock over the bare call.
 * - `flush` is group-flush.ts over fdatasync: shared, and a failure latches (D7).
 * - A file knows nothing of its zeros: `extents` and `zeroRun` say data. The map above knows better.
 * - `zero` of more than 64 KiB frees the space where the file system can (hole-punch.ts), else writes zeros in pieces.
 */
import { fdatasync, readSync, writeSync } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import type { BlockDevice, BlockSizes, Capabilities, Extents, Pending, ZeroMode } from './block-device.js'
import { assertRange } from './block-device.js'
import { type Clock, systemClock } from './clock.js'
import { asNbdeltaError, NbdeltaError } from './errors.js'
import { FETCHES_COUNTED, fetchedAtBegin, fetchedAtEnd, fetchedNow } from './fetch-count.js'
import { GroupFlush } from './group-flush.js'
import { type ByteRange, findFallocate, HolePunch } from './hole-punch.js'
import { IoTrust, SLOW_CALL_MS, SLOW_CALL_MS_PER_BYTE, type TrustState, type Usage } from './io-trust.js'
import { createFile, explain, type FileKind, type OpenedFile, openFile } from './open-file.js'
import { threadReserve } from './thread-reserve.js'
import { TouchedRegions, TRUSTED_POINTS } from './touched-regions.js'
import { isTransient, type TripKind, TripQueue, type TripReport } from './trip-queue.js'

/** 256 KiB take 60-100 us from the cache; more than 1 MiB at once would be a stall of its own. */
const INLINE_MAX_BYTES = 2 ** 20
/** While a trip is out for longer than this, the disk is slow or hangs, and nothing goes inline. */
const OVERDUE_MS = 5
/** Only where the kernel does not count fetches: a read trip this quick did not wait for any medium. */
const HIT_TRIP_MS = 0.2
/** And this quick it may have been a hit on a busy machine. */
const LIKELY_HIT_TRIP_MS = 1
/** A flush may take its time: writes avoid the lock it may hold after OVERDUE_MS, reads only when it seems to hang. */
const FLUSH_HANGS_MS = 1000
/** The kernel's counts are looked at every so many inline calls (0.7 us each time). A power of two. */
const SAMPLE_EVERY = 256
/** More than this fetched in one sample beside what trips asked for: half of the inline calls met pages that were not there. */
const COLD_SAMPLE_BYTES = SAMPLE_EVERY * 4096 / 2
/** What the kernel counts fetches in. */
const SECTOR_BYTES = 512
const PAGE_BYTES = 4096
/** Up to here writing zeros is as quick as a child process would be, and does not tear the file into pieces. */
const SMALL_ZERO_BYTES = 64 * 1024
/** What zeros are written from, and what a prefetch reads at a time. */
const PIECE_BYTES = 2 ** 20
const ZEROS = Buffer.alloc(PIECE_BYTES)
/** A hint may cost this much, not more. */
const PREFETCH_MAX_BYTES = 32 * 2 ** 20

export interface FileDiskOptions {
  readonly path: string
  readonly readOnly?: boolean
  /** Makes the file, which must not be there; its size is fixed with holes. Regular files only. */
  readonly create?: { readonly sizeBytes: number }
  readonly clock?: Clock
  /** False: every read and write goes through the thread pool. */
  readonly inline?: boolean
}

/** How the disk does its work at present; a plain snapshot. */
export interface FileDiskStatus {
  readonly reads: TrustState
  readonly writes: TrustState
  /** Calls that ran inline, and of these those that seem to have waited for the medium. */
  readonly inlineCalls: number
  readonly inlineWaits: number
  /** The longest of these: for so long the whole process stood still. */
  readonly longestWaitMs: number
  readonly trips: number
  readonly tripsInFlight: number
}

/**
 * Opens (or creates) the file or block device at `path`.
 * Errors: not-found, exists, denied, busy, no-space, too-large, bad-argument (a directory, a pipe, an empty file), io.
 */
export async function openFileDisk(options: FileDiskOptions): Promise<FileDisk> {
  const { path, create, readOnly = false } = options
  if (create && readOnly) throw new NbdeltaError('bad-argument', `cannot create ${path} read-only`)
  const opened = create ? await createFile(path, create.sizeBytes) : await openFile(path, readOnly)
  return new FileDisk(opened, options, await findFallocate())
}

function usageNow(): Usage {
  const usage = process.resourceUsage()
  return FETCHES_COUNTED ? usage : { ...usage, fsRead: undefined }
}

export class FileDisk implements BlockDevice {
  readonly path: string
  readonly kind: FileKind
  readonly blockSizes: BlockSizes = Object.freeze({ minimum: 1, preferred: 4096, maximum: 32 * 2 ** 20 })
  readonly #handle: FileHandle
  readonly #fd: number
  readonly #readOnly: boolean
  readonly #rotational: boolean
  readonly #clock: Clock
  readonly #reads: IoTrust
  readonly #writes: IoTrust
  readonly #inlineMaxBytes: number
  readonly #regions: TouchedRegions
  readonly #trips: TripQueue
  readonly #holes: HolePunch
  readonly #flushes: GroupFlush
  readonly #background = new Set<Promise<void>>()
  #sizeBytes: number
  /** At the last sample: sectors fetched by the process; since then: bytes that read trips asked for and did not find. */
  #fetchedSeen = fetchedNow() ?? 0
  #tripBytes = 0
  #inlineCalls = 0
  #inlineWaits = 0
  #longestWaitMs = 0
  #tripCount = 0
  #closing: Promise<void> | undefined

  /** Use `openFileDisk`. */
  constructor(opened: OpenedFile, options: FileDiskOptions, fallocate: string | undefined) {
    this.path = options.path
    this.kind = opened.kind
    this.#handle = opened.handle
    this.#fd = opened.handle.fd
    this.#sizeBytes = opened.sizeBytes
    this.#rotational = opened.rotational
    this.#readOnly = options.readOnly ?? false
    this.#clock = options.clock ?? systemClock
    this.#reads = new IoTrust('read', usageNow)
    this.#writes = new IoTrust('write', usageNow)
    this.#inlineMaxBytes = options.inline === false || opened.remote ? 0 : INLINE_MAX_BYTES
    this.#regions = new TouchedRegions(opened.sizeBytes)
    this.#trips = new TripQueue(this.#fd, this.path, this.#clock, {
      mark: fetchedAtBegin, ended: report => this.#tripDone(report),
    })
    this.#holes = new HolePunch(this.#fd, this.#readOnly ? undefined : fallocate, this.#clock)
    this.#flushes = new GroupFlush(() => this.#datasync(), () => this.#clock.now())
  }

  get sizeBytes(): number { return this.#sizeBytes }
  /** Punching works as far as is known. */
  get canPunch(): boolean { return this.#holes.can('punch') }
  get capabilities(): Capabilities {
    return { readOnly: this.#readOnly, trim: this.canPunch, fastZero: false, rotational: this.#rotational }
  }

  read(offset: number, length: number, into: Buffer, at: number): Pending {
    this.#check(offset, length)
    const startMs = this.#clock.now()
    if (!this.#mayReadInline(offset, length, startMs)) return this.#trips.run('read', offset, length, into, at)
    let done = 0
    try {
      done = readSync(this.#fd, into, at, length, offset)
    } catch (error) {
      if (!isTransient(error)) throw this.#inlineFailed('read', offset, length, error)
    }
    this.#inlineDone(this.#reads, offset, length, startMs)
    if (done === length) return undefined
    return this.#trips.run('read', offset + done, length - done, into, at + done)
  }

  write(offset: number, length: number, from: Buffer, at: number): Pending {
    this.#checkWrite(offset, length)
    const startMs = this.#clock.now()
    if (!this.#mayWriteInline(offset, length, startMs)) return this.#trips.run('write', offset, length, from, at)
    let done = 0
    try {
      done = writeSync(this.#fd, from, at, length, offset)
    } catch (error) {
      if (!isTransient(error)) throw this.#inlineFailed('write', offset, length, error)
    }
    this.#flushes.changed()
    this.#inlineDone(this.#writes, offset, length, startMs)
    this.#regions.touch(offset, length, 0)
    if (done === length) return undefined
    return this.#trips.run('write', offset + done, length - done, from, at + done)
  }

  /** `fast` is always refused: whether the file system frees space quickly is not ours to promise. */
  zero(offset: number, length: number, mode: ZeroMode): Pending {
    this.#checkWrite(offset, length)
    if (mode.fast) throw new NbdeltaError('not-fast', 'zeroing a file may take as long as writing zeros')
    if (length <= SMALL_ZERO_BYTES) return this.write(offset, length, ZEROS, 0)
    return this.#track(this.#zeroLarge(offset, length, mode.allocate))
  }

  /** Whole pages are given back where that is possible; the edges stay. */
  trim(offset: number, length: number): Pending {
    this.#checkWrite(offset, length)
    const start = Math.ceil(offset / PAGE_BYTES) * PAGE_BYTES
    const end = Math.floor((offset + length) / PAGE_BYTES) * PAGE_BYTES
    if (end <= start || !this.canPunch) return undefined
    return this.#track(this.#holes.run('punch', start, end - start).then(() => this.#flushes.changed()))
  }

  /**
   * Gives ranges back: they read as zeros afterwards and take no space. Never writes zeros instead.
   * `punched: false`: at least one range could not be given back, and what any of them reads as is unknown.
   * The ranges share one child process, which needs about a millisecond for each.
   */
  async punch(ranges: readonly ByteRange[]): Promise<{ readonly punched: boolean }> {
    for (const { offset, length } of ranges) this.#checkWrite(offset, length)
    const done = await Promise.all(ranges.map(({ offset, length }) => this.#holes.run('punch', offset, length)))
    this.#flushes.changed()
    return { punched: done.every(Boolean) }
  }

  flush(): Pending {
    this.#checkOpen()
    return this.#readOnly ? undefined : this.#flushes.flush()
  }

  /** Reads what is not believed to be cached, 1 MiB at a time, at most 32 MiB. A hint: errors are left to the real read. */
  prefetch(offset: number, length: number): Pending {
    this.#check(offset, length)
    if (this.#regions.has(offset, length)) return undefined
    return this.#track(this.#prefetch(offset, Math.min(length, PREFETCH_MAX_BYTES)))
  }

  zeroRun(offset: number, length: number): number {
    this.#check(offset, length)
    return length
  }

  extents(offset: number, length: number): Extents {
    this.#check(offset, length)
    return { lengths: [length], states: [0] }
  }

  /** Regular files only. Growth reads as zeros; what is cut is gone. Durable after the next flush. */
  async resize(sizeBytes: number): Promise<void> {
    this.#checkOpen()
    if (this.kind === 'block') throw new NbdeltaError('bad-argument', `${this.path} is a block device and cannot be resized`)
    if (this.#readOnly) throw new NbdeltaError('read-only', `${this.path} is open read-only`)
    const before = this.#sizeBytes
    this.#sizeBytes = Math.min(before, sizeBytes)
    try {
      await this.#handle.truncate(sizeBytes)
      this.#sizeBytes = sizeBytes
      this.#regions.resize(sizeBytes)
      this.#flushes.changed()
    } catch (error) {
      this.#sizeBytes = before
      throw explain(error, this.path, 'resize')
    }
  }

  /** What the file takes on its file system; a block device takes all of itself. */
  async allocatedBytes(): Promise<number> {
    this.#checkOpen()
    return this.kind === 'block' ? this.#sizeBytes : (await this.#handle.stat()).blocks * 512
  }

  status(): FileDiskStatus {
    const nowMs = this.#clock.now()
    return {
      reads: this.#reads.state(nowMs), writes: this.#writes.state(nowMs), inlineCalls: this.#inlineCalls,
      inlineWaits: this.#inlineWaits, longestWaitMs: this.#longestWaitMs, trips: this.#tripCount, tripsInFlight: this.#trips.size,
    }
  }

  close(): Promise<void> {
    this.#closing ??= this.#drain()
    return this.#closing
  }

  async #drain(): Promise<void> {
    while (this.#background.size > 0) await Promise.allSettled(this.#background)
    await Promise.all([this.#trips.idle(), this.#holes.close(), this.#flushes.idle()])
    await this.#handle.close()
  }

  // ---- inline or not ----

  #mayReadInline(offset: number, length: number, nowMs: number): boolean {
    return length <= this.#inlineMaxBytes && this.#reads.allows(nowMs)
      && (nowMs - this.#trips.oldestMs <= OVERDUE_MS || this.#nothingFetched())
      && nowMs - this.#flushes.startedMs <= FLUSH_HANGS_MS && this.#regions.has(offset, length)
  }

  /**
   * An overdue trip has not made this process fetch anything: it waits for a processor, not for a medium. Without this
   * a burst of trips on a busy machine keeps everything out of the inline path, which makes more trips, and so on.
   */
  #nothingFetched(): boolean {
    const mark = this.#trips.oldestMark
    return mark !== undefined && fetchedAtEnd() === mark
  }

  #mayWriteInline(offset: number, length: number, nowMs: number): boolean {
    return length <= this.#inlineMaxBytes && this.#writes.allows(nowMs)
      && nowMs - this.#trips.oldestMs <= OVERDUE_MS && nowMs - this.#flushes.startedMs <= OVERDUE_MS && !this.#holes.busy
      && ((offset % PAGE_BYTES === 0 && length % PAGE_BYTES === 0) || this.#regions.has(offset, length))
  }

  #inlineDone(trust: IoTrust, offset: number, length: number, startMs: number): void {
    if ((++this.#inlineCalls & (SAMPLE_EVERY - 1)) === 0) this.#sample()
    const nowMs = this.#clock.now()
    const tookMs = nowMs - startMs
    if (tookMs > SLOW_CALL_MS + length * SLOW_CALL_MS_PER_BYTE) this.#inlineSlow(trust, offset, length, tookMs, nowMs)
  }

  /** Inline calls that fetch from a fast medium are not slow one by one; the count of fetched bytes gives them away. */
  #sample(): void {
    const usage = usageNow()
    this.#reads.sample(usage)
    this.#writes.sample(usage)
    const fetched = usage.fsRead ?? 0
    const fetchedInline = (fetched - this.#fetchedSeen) * SECTOR_BYTES - this.#tripBytes
    this.#fetchedSeen = fetched
    this.#tripBytes = 0
    if (fetchedInline > COLD_SAMPLE_BYTES) this.#regions.forgetAll()
  }

  #inlineSlow(trust: IoTrust, offset: number, length: number, tookMs: number, nowMs: number): void {
    const verdict = trust.slowCall(tookMs, nowMs)
    if (verdict === 'excused') return
    this.#inlineWaits++
    this.#longestWaitMs = Math.max(this.#longestWaitMs, tookMs)
    if (verdict === 'waited') this.#regions.forget(offset, length)
    else if (trust === this.#reads) this.#regions.forgetAll()
  }

  #inlineFailed(kind: TripKind, offset: number, length: number, error: unknown): NbdeltaError {
    const trust = kind === 'read' ? this.#reads : this.#writes
    trust.distrust(this.#clock.now())
    if (kind === 'write') this.#flushes.changed()
    return asNbdeltaError(error, `${kind} ${length} bytes at ${offset} of ${this.path}`)
  }

  #tripDone({ kind, offset, length, tookMs, mark, failed }: TripReport): void {
    const trust = kind === 'read' ? this.#reads : this.#writes
    const nowMs = this.#clock.now()
    this.#tripCount++
    if (kind === 'write') this.#flushes.changed()
    if (failed) return trust.distrust(nowMs)
    // Nothing fetched by this whole process meanwhile, and fetches are counted at all: it came from the cache.
    const hit = kind === 'read' && mark !== undefined && fetchedAtEnd() === mark
    trust.tripDone(tookMs, nowMs, !hit)
    if (hit) return this.#regions.vouch(offset, length)
    if (kind === 'read') {
      this.#tripBytes += length
      this.#regions.doubt()
    }
    // Where fetches are not counted, time must do: but a fast medium is as quick as a busy machine's cache.
    const evidence = kind === 'read' && mark === undefined && !this.#regions.has(offset, length)
    const points = tookMs <= HIT_TRIP_MS ? TRUSTED_POINTS : tookMs <= LIKELY_HIT_TRIP_MS ? 1 : 0
    this.#regions.touch(offset, length, evidence ? points : 0)
  }

  // ---- what takes several steps ----

  async #zeroLarge(offset: number, length: number, allocate: boolean): Promise<void> {
    let start = offset
    let end = offset + length
    if (this.kind === 'block') {
      // A block device frees whole sectors only.
      start = Math.ceil(offset / PAGE_BYTES) * PAGE_BYTES
      end = Math.floor(end / PAGE_BYTES) * PAGE_BYTES
      if (start > offset) await this.#trips.run('write', offset, start - offset, ZEROS, 0)
      if (end < offset + length) await this.#trips.run('write', end, offset + length - end, ZEROS, 0)
    }
    const done = await this.#holes.run(allocate ? 'allocate' : 'punch', start, end - start)
    this.#flushes.changed()
    if (done) return
    for (let at = start; at < end; at += PIECE_BYTES) {
      await this.#trips.run('write', at, Math.min(PIECE_BYTES, end - at), ZEROS, 0)
    }
  }

  async #prefetch(offset: number, length: number): Promise<void> {
    const scratch = Buffer.allocUnsafe(Math.min(length, PIECE_BYTES))
    try {
      for (let done = 0; done < length; done += PIECE_BYTES) {
        await this.#trips.run('read', offset + done, Math.min(PIECE_BYTES, length - done), scratch, 0)
      }
    } catch {
      // The read that follows will meet the error, and has somebody to tell.
    }
  }

  #datasync(): Promise<void> {
    threadReserve.noteUse()
    return new Promise((resolve, reject) => {
      fdatasync(this.#fd, error => { if (error) reject(error); else resolve() })
    })
  }

  #track(work: Promise<void>): Promise<void> {
    this.#background.add(work)
    const done = (): void => { this.#background.delete(work) }
    work.then(done, done)
    return work
  }

  // ---- the caller's side of the contract ----

  #check(offset: number, length: number): void {
    this.#checkOpen()
    assertRange(this, offset, length)
  }

  #checkWrite(offset: number, length: number): void {
    this.#check(offset, length)
    if (this.#readOnly) throw new NbdeltaError('read-only', `${this.path} is open read-only`)
  }

  #checkOpen(): void {
    if (this.#closing) throw new NbdeltaError('wrong-state', `${this.path} is closed`)
  }
}
