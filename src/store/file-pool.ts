/**
 * FilePool: many files as BlockDevices, of which only so many are open at once. A thousand points have two thousand files,
 * and nearly all of them are looked at once a day.
 *
 * Invariants
 * - At most `handlesMax` files are open, but for those whose flush has failed: these stay open for good, because the failure
 *   is remembered where it happened (D7), and a file opened anew would know nothing of it.
 * - A file is closed only while nothing runs on it, the one used longest ago first, and flushed before: whoever flushes later
 *   finds nothing left to flush that could fail without being seen.
 * - A file that is open costs one look more than the FileDisk below; requests complete at once where its requests do.
 * - Whoever waits for a handle holds none, so that waiting always ends.
 */
import { stat } from 'node:fs/promises'
import type { BlockDevice, BlockSizes, Capabilities, Extents, Pending, ZeroMode } from '../device/block-device.js'
import { assertRange } from '../device/block-device.js'
import { asNbdeltaError, NbdeltaError } from '../device/errors.js'
import { type FileDisk, openFileDisk } from '../device/file-disk.js'

/** Files of points that one store has open at once. */
export const POINT_HANDLES_MAX = 512
/** What `st_blocks` counts. */
const BLOCK_BYTES = 512

export class FilePool {
  readonly #handlesMax: number
  /** Open files, the one used longest ago first. */
  readonly #open = new Set<PooledFile>()
  #taken = 0
  #stuck = 0
  #waiting: (() => void)[] = []

  constructor(handlesMax = POINT_HANDLES_MAX) {
    if (handlesMax < 2) throw new RangeError(`a pool of ${handlesMax} handles`)
    this.#handlesMax = handlesMax
  }

  /** Handles in use now. */
  get handles(): number { return this.#taken }

  /** The file at `path`, which is there, but is not opened before it is used. Errors: not-found, denied, io. */
  async file(path: string): Promise<PooledFile> {
    try {
      return new PooledFile(this, path, (await stat(path)).size)
    } catch (error) {
      throw asNbdeltaError(error, `open ${path}`)
    }
  }

  /** Runs what opens up to `count` files of its own and closes them again. */
  async borrow<T>(count: number, work: () => Promise<T>): Promise<T> {
    await this.take(count)
    try {
      return await work()
    } finally {
      this.give(count)
    }
  }

  /** For PooledFile: waits until `count` more handles may be open. */
  async take(count: number): Promise<void> {
    while (this.#taken + count > Math.max(this.#handlesMax, this.#stuck + count)) {
      const victim = this.#idlest()
      if (victim) await victim.retire()
      else await new Promise<void>(resolve => { this.#waiting.push(resolve) })
    }
    this.#taken += count
  }

  /** For PooledFile. */
  give(count: number): void {
    this.#taken -= count
    this.wake()
  }

  /** For PooledFile: a file may have become idle. */
  wake(): void { for (const wake of this.#waiting.splice(0)) wake() }

  /** For PooledFile: it is open, or was used just now. */
  touch(file: PooledFile): void {
    this.#open.delete(file)
    this.#open.add(file)
  }

  /** For PooledFile: it is about to be closed. */
  forget(file: PooledFile): void { this.#open.delete(file) }

  /** For PooledFile: it is never closed before its owner does. */
  stuck(change: 1 | -1): void {
    this.#stuck += change
    this.wake()
  }

  #idlest(): PooledFile | undefined {
    for (const file of this.#open) if (file.idle) return file
    return undefined
  }
}

export class PooledFile implements BlockDevice {
  readonly path: string
  readonly blockSizes: BlockSizes = Object.freeze({ minimum: 1, preferred: 4096, maximum: 32 * 2 ** 20 })
  readonly capabilities: Capabilities = Object.freeze({ readOnly: false, trim: true, fastZero: false, rotational: false })
  readonly #pool: FilePool
  #sizeBytes: number
  #disk: FileDisk | undefined
  /** Opening, or closing to make room for others. */
  #changing: Promise<void> | undefined
  #running = 0
  #quiet: (() => void)[] = []
  #stuck = false
  #closing: Promise<void> | undefined

  /** Use `FilePool.file`. */
  constructor(pool: FilePool, path: string, sizeBytes: number) {
    this.#pool = pool
    this.path = path
    this.#sizeBytes = sizeBytes
  }

  get sizeBytes(): number { return this.#sizeBytes }
  /** For FilePool: open, and nobody uses it. */
  get idle(): boolean { return this.#disk !== undefined && this.#running === 0 && !this.#stuck && !this.#changing }

  read(offset: number, length: number, into: Buffer, at: number): Pending {
    this.#check(offset, length)
    const disk = this.#ready()
    if (disk) return this.#track(disk.read(offset, length, into, at))
    return this.#later(opened => opened.read(offset, length, into, at))
  }

  write(offset: number, length: number, from: Buffer, at: number): Pending {
    this.#check(offset, length)
    const disk = this.#ready()
    if (disk) return this.#track(disk.write(offset, length, from, at))
    return this.#later(opened => opened.write(offset, length, from, at))
  }

  zero(offset: number, length: number, mode: ZeroMode): Pending {
    this.#check(offset, length)
    if (mode.fast) throw new NbdeltaError('not-fast', 'zeroing a file may take as long as writing zeros')
    const disk = this.#ready()
    return disk ? this.#track(disk.zero(offset, length, mode)) : this.#later(opened => opened.zero(offset, length, mode))
  }

  trim(offset: number, length: number): Pending {
    this.#check(offset, length)
    const disk = this.#ready()
    return disk ? this.#track(disk.trim(offset, length)) : this.#later(opened => opened.trim(offset, length))
  }

  /** A file that is not open was flushed when it was closed. */
  flush(): Pending {
    this.#checkOpen()
    if (this.#changing) return this.#changing.then(() => this.flush())
    return this.#disk ? this.#track(this.#disk.flush()) : undefined
  }

  /** A file knows nothing of its zeros. */
  zeroRun(offset: number, length: number): number {
    this.#check(offset, length)
    return length
  }

  extents(offset: number, length: number): Extents {
    this.#check(offset, length)
    return { lengths: [length], states: [0] }
  }

  /** Growth reads as zeros; what is cut is gone. Durable after the next flush. */
  async resize(sizeBytes: number): Promise<void> {
    this.#checkOpen()
    const before = this.#sizeBytes
    this.#sizeBytes = Math.min(before, sizeBytes)
    try {
      await this.#later(disk => disk.resize(sizeBytes))
      this.#sizeBytes = sizeBytes
    } catch (error) {
      this.#sizeBytes = before
      throw error
    }
  }

  /** What it takes on its file system. */
  async allocatedBytes(): Promise<number> {
    try {
      return (await stat(this.path)).blocks * BLOCK_BYTES
    } catch (error) {
      throw asNbdeltaError(error, `look at ${this.path}`)
    }
  }

  /** Idempotent. Finishes what runs, does not flush. */
  close(): Promise<void> { return this.#closing ??= this.#close() }

  /** For FilePool: gives its handle back. Called while `idle`. */
  retire(): Promise<void> {
    const disk = this.#disk!
    this.#pool.forget(this)
    this.#changing = (async () => {
      try {
        await disk.flush()
      } catch {
        // Whoever flushes next is told, by the disk that failed.
        this.#stuck = true
        this.#pool.stuck(1)
        return
      }
      this.#disk = undefined
      await disk.close()
      this.#pool.give(1)
    })().finally(() => { this.#changing = undefined })
    return this.#changing
  }

  async #close(): Promise<void> {
    while (this.#running > 0) await new Promise<void>(resolve => { this.#quiet.push(resolve) })
    while (this.#changing) await this.#changing.catch(() => undefined)
    if (!this.#disk) return
    this.#pool.forget(this)
    await this.#disk.close()
    this.#disk = undefined
    if (this.#stuck) this.#pool.stuck(-1)
    this.#pool.give(1)
  }

  /** The disk, if it can be used this very moment. */
  #ready(): FileDisk | undefined {
    if (!this.#disk || this.#changing) return undefined
    this.#pool.touch(this)
    return this.#disk
  }

  async #later(run: (disk: FileDisk) => Pending): Promise<void> {
    this.#running++
    try {
      while (this.#changing || !this.#disk) {
        // What fails to open fails for each who waits, by his own attempt.
        if (this.#changing) await this.#changing.catch(() => undefined)
        else await this.#open()
      }
      this.#pool.touch(this)
      await run(this.#disk)
    } finally {
      this.#ended()
    }
  }

  #open(): Promise<void> {
    this.#changing = (async () => {
      await this.#pool.take(1)
      try {
        this.#disk = await openFileDisk({ path: this.path })
        this.#pool.touch(this)
      } catch (error) {
        this.#pool.give(1)
        throw error
      }
    })().finally(() => { this.#changing = undefined })
    return this.#changing
  }

  #track(pending: Pending): Pending {
    if (pending === undefined) return undefined
    this.#running++
    return pending.finally(() => { this.#ended() })
  }

  #ended(): void {
    if (--this.#running > 0) return
    for (const wake of this.#quiet.splice(0)) wake()
    this.#pool.wake()
  }

  #check(offset: number, length: number): void {
    this.#checkOpen()
    assertRange(this, offset, length)
  }

  #checkOpen(): void {
    if (this.#closing) throw new NbdeltaError('wrong-state', `${this.path} is closed`)
  }
}
