/**
 * UnsyncedLive: live, and what of it was written since the last good flush.
 *
 * When a flush fails, the kernel counts pages as clean that it could not write. They are read as if they were there, no later
 * flush writes them, and the power takes them. So whoever opened a volume again behind a failed flush, and flushed, would be told
 * yes (D2, D7). Therefore
 *
 *   flush fails -> what was written since the last good one -> its file (store/unsynced-file.ts), durable, before anybody is told
 *   open        -> what of that reads as data is read and written again, flushed -> the file goes
 *   that fails  -> every flush does, and the file stays for the next open
 *
 * What is not in the page cache any more is read from the medium, and stays what it is: of writes that no flush has covered
 * nothing is promised. What cannot be read is not in the cache, and is left alone.
 *
 * Limits: a write is remembered by its region, of 4 KiB at least and REGIONS_MAX in all (4 bytes each). A server that is killed
 * between the failure of the disk and the end of that file's sync leaves none; what is written behind the failure is added when
 * the volume closes. Opening takes as long as reading and writing what was in doubt.
 */
import { IntervalSet } from '../../native-free/interval-set.js'
import type { Origin, Pending, ZeroMode } from '../device/block-device.js'
import { asNbdeltaError, NbdeltaError } from '../device/errors.js'
import { ForwardingDevice } from '../device/forwarding-device.js'
import type { Logger } from '../device/logger.js'
import type { ByteSpan } from '../store/unsynced-file.js'
import type { LiveDevice } from './core.js'
import type { Run } from './volume-map.js'

const REGIONS_MAX = 2 ** 21
const REGION_BYTES = 4096
/** What is written again at a time; what cannot be read is looked at by REGION_BYTES. */
const PIECE_BYTES = 2 ** 20

/** Where it is kept. The store's own is store/unsynced-file.ts. */
export interface UnsyncedPlace {
  /** Ascending; none: nothing is in doubt. */
  read(): Promise<readonly ByteSpan[]>
  /** Durable when done; none: nothing is in doubt any more. */
  write(spans: readonly ByteSpan[]): Promise<void>
}

export class UnsyncedLive extends ForwardingDevice implements LiveDevice {
  protected readonly inner: LiveDevice
  readonly #place: UnsyncedPlace
  readonly #logger: Logger
  #regionBytes = REGION_BYTES
  /** By region: the epoch of the last write. */
  #written: Uint32Array
  /** Raised by each flush; 0 is none. */
  #epoch = 1
  /** All that was written in epochs up to this one is on the medium. */
  #durable = 0
  #failed = false
  /** What is in doubt since before this open, and why it could not be written again. */
  #left: readonly ByteSpan[] = []
  #problem: NbdeltaError | undefined

  constructor(inner: LiveDevice, place: UnsyncedPlace, logger: Logger) {
    super()
    this.inner = inner
    this.#place = place
    this.#logger = logger
    while (inner.sizeBytes / this.#regionBytes > REGIONS_MAX) this.#regionBytes *= 2
    this.#written = new Uint32Array(this.#regions)
  }

  get kind(): 'file' | 'block' { return this.inner.kind ?? 'file' }
  allocatedBytes(): Promise<number | null> { return this.inner.allocatedBytes() }

  punch(ranges: Parameters<NonNullable<LiveDevice['punch']>>[0]): Promise<{ readonly punched: boolean }> {
    return this.inner.punch?.(ranges) ?? Promise.resolve({ punched: false })
  }

  async resize(sizeBytes: number): Promise<void> {
    await this.inner.resize(sizeBytes)
    const before = this.#written
    let factor = 1
    while (sizeBytes / this.#regionBytes > REGIONS_MAX) {
      this.#regionBytes *= 2
      factor *= 2
    }
    this.#written = new Uint32Array(this.#regions)
    for (let region = 0; region < before.length && region < this.#written.length * factor; region++) {
      const into = Math.floor(region / factor)
      if (this.#written[into] < before[region]) this.#written[into] = before[region]
    }
  }

  override write(offset: number, length: number, from: Buffer, at: number, origin?: Origin): Pending {
    this.#note(offset, length)
    const pending = this.inner.write(offset, length, from, at, origin)
    return pending && this.#noteAgain(offset, length, pending)
  }

  override zero(offset: number, length: number, mode: ZeroMode, origin?: Origin): Pending {
    this.#note(offset, length)
    const pending = this.inner.zero(offset, length, mode, origin)
    return pending && this.#noteAgain(offset, length, pending)
  }

  override flush(): Pending {
    if (this.#problem) throw this.#problem
    const covered = this.#epoch++
    let pending: Pending
    try {
      pending = this.inner.flush()
    } catch (error) { return this.#fail(error) }
    if (!pending) {
      this.#durable = Math.max(this.#durable, covered)
      return undefined
    }
    return pending.then(() => { this.#durable = Math.max(this.#durable, covered) }, (error: unknown) => this.#fail(error))
  }

  override async close(): Promise<void> {
    if (this.#failed) await this.#keep()
    await this.inner.close()
  }

  /**
   * Writes again what the last owner could not flush, where it holds data; what was done, in words.
   * @param dataRuns of grains [from, to) those whose bytes in live matter Errors: newer-format, io (the place).
   */
  async settle(grainBytes: number, dataRuns: (from: number, to: number) => Iterable<Run>): Promise<string[]> {
    const spans = await this.#place.read()
    if (spans.length === 0) return []
    let bytes = 0
    try {
      for (const { start, end } of spans) {
        const [first, last] = [Math.floor(start / grainBytes), Math.ceil(Math.min(end, this.sizeBytes) / grainBytes)]
        if (first >= last) continue
        for (const run of dataRuns(first, last)) {
          const stop = Math.min(end, run.end * grainBytes, this.sizeBytes)
          bytes += await this.#writeAgain(Math.max(start, run.start * grainBytes), stop)
        }
      }
      await this.flush()
      await this.#place.write([])
    } catch (error) {
      this.#left = spans
      const cause = asNbdeltaError(error, 'write again what a flush had failed to write')
      this.#problem = new NbdeltaError('flush-failed',
        `what was in doubt since a flush failed could not be written again (${cause.message})`, { cause })
      return [this.#problem.message]
    }
    return [`${bytes} bytes that a failed flush had left in doubt were written again`]
  }

  get #regions(): number { return Math.ceil(this.sizeBytes / this.#regionBytes) }

  #note(offset: number, length: number): void {
    const first = Math.floor(offset / this.#regionBytes)
    const last = Math.floor((offset + length - 1) / this.#regionBytes)
    for (let region = first; region <= last; region++) this.#written[region] = this.#epoch
  }

  /** A flush that began meanwhile may not have covered it. */
  #noteAgain(offset: number, length: number, pending: Promise<void>): Promise<void> {
    return pending.finally(() => { this.#note(offset, length) })
  }

  async #fail(error: unknown): Promise<never> {
    const isNews = !this.#failed && !(error instanceof NbdeltaError && error.code === 'unreachable')
    if (isNews) {
      this.#failed = true
      await this.#keep()
    }
    throw error
  }

  async #keep(): Promise<void> {
    try {
      await this.#place.write(this.#unsynced())
    } catch (error) {
      this.#logger.error({ err: error },
        'a flush failed, and what it leaves in doubt cannot be noted: the next open will not write it again')
    }
  }

  /** Since the last good flush, and since before. */
  #unsynced(): readonly ByteSpan[] {
    const spans = new IntervalSet()
    for (const { start, end } of this.#left) spans.add(start, end)
    for (const [region, epoch] of this.#written.entries()) {
      if (epoch > this.#durable) spans.add(region * this.#regionBytes, (region + 1) * this.#regionBytes)
    }
    return [...spans]
  }

  async #writeAgain(start: number, end: number): Promise<number> {
    let bytes = 0
    const buffer = Buffer.allocUnsafe(Math.min(PIECE_BYTES, end - start))
    for (let at = start; at < end; at += buffer.length) {
      bytes += await this.#writePiece(at, Math.min(buffer.length, end - at), buffer)
    }
    return bytes
  }

  async #writePiece(offset: number, length: number, buffer: Buffer): Promise<number> {
    try {
      await this.inner.read(offset, length, buffer, 0)
    } catch (error) {
      if (length > REGION_BYTES) return this.#writeBits(offset, length, buffer)
      this.#logger.warn({ err: error, offset, length }, 'what a failed flush left in doubt cannot be read: it is left as it is')
      return 0
    }
    await this.write(offset, length, buffer, 0)
    return length
  }

  async #writeBits(offset: number, length: number, buffer: Buffer): Promise<number> {
    let bytes = 0
    for (let at = offset; at < offset + length; at += REGION_BYTES) {
      bytes += await this.#writePiece(at, Math.min(REGION_BYTES, offset + length - at), buffer)
    }
    return bytes
  }
}
