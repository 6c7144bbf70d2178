/**
 * MemoryDisk: a sparse disk in memory, for tests, crash images and as the plain twin of every other device.
 *
 * Pages of 4 KiB; a page that is not there reads as zeros. `fork` makes a second disk with the same content
 * that shares pages copy-on-write: O(1) unless this disk was written since the last fork. That is what makes
 * tens of thousands of crash images a second possible (crash.ts).
 *
 * Invariants: a page in `own` belongs to this disk alone and may be changed in place; a page in `base` may be
 * shared with forks and is never changed. Bytes of the last page past `sizeBytes` are zero.
 * Limits: `zero` with `allocate` keeps one table entry a page, so it is not for terabytes.
 */
import type { BlockDevice, BlockSizes, Capabilities, Extents, Pending, ZeroMode } from './block-device.js'
import { assertRange, STATE_HOLE, STATE_ZERO } from './block-device.js'
import { NbdeltaError } from './errors.js'
import { ExtentList } from './extent-list.js'

const MEMORY_PAGE_BYTES = 4096
/** Stands for a page that was zeroed and must stay allocated. Shared, never written. */
const ZEROS = Buffer.alloc(MEMORY_PAGE_BYTES)

export interface MemoryDiskOptions {
  readonly readOnly?: boolean
  /** `flush` completes in a later microtask instead of at once. */
  readonly lateFlush?: boolean
  readonly blockSizes?: Partial<BlockSizes>
}

export class MemoryDisk implements BlockDevice {
  readonly blockSizes: BlockSizes
  readonly capabilities: Capabilities
  readonly #lateFlush: boolean
  #sizeBytes: number
  #closed = false
  #base: ReadonlyMap<number, Buffer> = new Map()
  /** Undefined = a page of `base` that has become a hole here. */
  #own = new Map<number, Buffer | undefined>()

  constructor(sizeBytes: number, options: MemoryDiskOptions = {}) {
    if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0) throw new RangeError(`no size for a disk: ${sizeBytes}`)
    this.#sizeBytes = sizeBytes
    this.#lateFlush = options.lateFlush ?? false
    this.blockSizes = Object.freeze({ minimum: 1, preferred: 4096, maximum: 32 * 2 ** 20, ...options.blockSizes })
    this.capabilities = Object.freeze({ readOnly: options.readOnly ?? false, trim: true, fastZero: true, rotational: false })
  }

  /** A disk holding a copy of `content`. */
  static from(content: Buffer, options: MemoryDiskOptions = {}): MemoryDisk {
    const disk = new MemoryDisk(content.length, options)
    if (content.length > 0) disk.#put(0, content.length, content, 0)
    return disk
  }

  get sizeBytes(): number { return this.#sizeBytes }

  read(offset: number, length: number, into: Buffer, at: number): Pending {
    this.#check(offset, length)
    let done = 0
    while (done < length) {
      const within = (offset + done) % MEMORY_PAGE_BYTES
      const piece = Math.min(length - done, MEMORY_PAGE_BYTES - within)
      const page = this.#page((offset + done - within) / MEMORY_PAGE_BYTES)
      if (page) page.copy(into, at + done, within, within + piece)
      else into.fill(0, at + done, at + done + piece)
      done += piece
    }
    return undefined
  }

  write(offset: number, length: number, from: Buffer, at: number): Pending {
    this.#checkWrite(offset, length)
    this.#put(offset, length, from, at)
    return undefined
  }

  zero(offset: number, length: number, mode: ZeroMode): Pending {
    this.#checkWrite(offset, length)
    this.#clear(offset, length, mode.allocate ? ZEROS : undefined, true)
    return undefined
  }

  /** Whole pages become holes, the edges stay. */
  trim(offset: number, length: number): Pending {
    this.#checkWrite(offset, length)
    this.#clear(offset, length, undefined, false)
    return undefined
  }

  flush(): Pending {
    this.#checkOpen()
    return this.#lateFlush ? Promise.resolve() : undefined
  }

  zeroRun(offset: number, length: number): number {
    this.#check(offset, length)
    const end = offset + length
    const hole = this.#isZeroPage(Math.floor(offset / MEMORY_PAGE_BYTES))
    let at = this.#nextBoundary(offset, end)
    while (at < end && this.#isZeroPage(at / MEMORY_PAGE_BYTES) === hole) at = this.#nextBoundary(at, end)
    return hole ? offset - at : at - offset
  }

  extents(offset: number, length: number, maxExtents: number): Extents {
    this.#check(offset, length)
    const list = new ExtentList(maxExtents)
    const end = offset + length
    for (let at = offset; at < end;) {
      const next = this.#nextBoundary(at, end)
      if (!list.add(next - at, this.#pageState(Math.floor(at / MEMORY_PAGE_BYTES)))) break
      at = next
    }
    return list
  }

  async close(): Promise<void> { this.#closed = true }

  /** Grows with zeros, or cuts: what is cut is forgotten. */
  async resize(sizeBytes: number): Promise<void> { this.setSize(sizeBytes) }

  /** `resize` at once. */
  setSize(sizeBytes: number): void {
    this.#checkOpen()
    if (sizeBytes < this.#sizeBytes) this.#clear(sizeBytes, this.#sizeBytes - sizeBytes, undefined, true)
    this.#sizeBytes = sizeBytes
  }

  async allocatedBytes(): Promise<number> {
    let pages = 0
    for (const [index] of this.#base) if (!this.#own.has(index)) pages++
    for (const [, page] of this.#own) if (page) pages++
    return pages * MEMORY_PAGE_BYTES
  }

  /** A second, writable disk of the same content; neither sees the other's later changes. */
  fork(options: MemoryDiskOptions = {}): MemoryDisk {
    if (this.#own.size > 0) {
      const merged = new Map(this.#base)
      for (const [index, page] of this.#own) {
        if (page) merged.set(index, page)
        else merged.delete(index)
      }
      this.#base = merged
      this.#own = new Map()
    }
    const twin = new MemoryDisk(this.#sizeBytes, { blockSizes: this.blockSizes, lateFlush: this.#lateFlush, ...options })
    twin.#base = this.#base
    return twin
  }

  /** The content as one buffer: for comparisons in tests, and small disks. */
  toBuffer(): Buffer {
    const whole = Buffer.alloc(this.#sizeBytes)
    for (const index of new Set([...this.#base.keys(), ...this.#own.keys()])) {
      this.#page(index)?.copy(whole, index * MEMORY_PAGE_BYTES)
    }
    return whole
  }

  #page(index: number): Buffer | undefined {
    const own = this.#own.get(index)
    if (own !== undefined) return own
    return this.#own.has(index) ? undefined : this.#base.get(index)
  }

  #put(offset: number, length: number, from: Buffer, at: number): void {
    let done = 0
    while (done < length) {
      const within = (offset + done) % MEMORY_PAGE_BYTES
      const piece = Math.min(length - done, MEMORY_PAGE_BYTES - within)
      const page = this.#writable((offset + done - within) / MEMORY_PAGE_BYTES, piece === MEMORY_PAGE_BYTES)
      from.copy(page, within, at + done, at + done + piece)
      done += piece
    }
  }

  #writable(index: number, whollyReplaced: boolean): Buffer {
    const own = this.#own.get(index)
    if (own !== undefined && own !== ZEROS) return own
    const before = this.#page(index)
    const fresh = before && !whollyReplaced ? Buffer.from(before) : Buffer.alloc(MEMORY_PAGE_BYTES)
    this.#own.set(index, fresh)
    return fresh
  }

  /** Whole pages become `page` (a hole, or allocated zeros); edges are written with zeros when `edges`. */
  #clear(offset: number, length: number, page: Buffer | undefined, edges: boolean): void {
    const end = offset + length
    const first = Math.ceil(offset / MEMORY_PAGE_BYTES)
    // The tail of the last page of the disk is not addressable: a range up to the end covers that page.
    const last = end === this.#sizeBytes ? Math.ceil(end / MEMORY_PAGE_BYTES) : Math.floor(end / MEMORY_PAGE_BYTES)
    if (edges) {
      const headEnd = Math.min(end, first * MEMORY_PAGE_BYTES)
      if (headEnd > offset) this.#clearPart(offset, headEnd, page)
      const tailStart = Math.max(headEnd, last * MEMORY_PAGE_BYTES)
      if (end > tailStart) this.#clearPart(tailStart, end, page)
    }
    if (page) {
      for (let index = first; index < last; index++) this.#own.set(index, page)
      return
    }
    this.#dropPages(first, last)
  }

  #clearPart(start: number, end: number, page: Buffer | undefined): void {
    const index = Math.floor(start / MEMORY_PAGE_BYTES)
    if (!this.#page(index) && !page) return
    this.#writable(index, false).fill(0, start % MEMORY_PAGE_BYTES, end - index * MEMORY_PAGE_BYTES)
  }

  #dropPages(first: number, last: number): void {
    const drop = (index: number): void => {
      if (this.#base.has(index)) this.#own.set(index, undefined)
      else this.#own.delete(index)
    }
    if (last - first <= this.#base.size + this.#own.size) {
      for (let index = first; index < last; index++) drop(index)
      return
    }
    for (const table of [this.#base, this.#own]) {
      for (const index of [...table.keys()]) if (index >= first && index < last) drop(index)
    }
  }

  #isZeroPage(index: number): boolean {
    const page = this.#page(index)
    return page === undefined || page === ZEROS
  }

  #pageState(index: number): number {
    const page = this.#page(index)
    return page === undefined ? STATE_HOLE | STATE_ZERO : page === ZEROS ? STATE_ZERO : 0
  }

  /** Where the page of `at` ends; from a page that is not there, where the next one begins that is. */
  #nextBoundary(at: number, end: number): number {
    const index = Math.floor(at / MEMORY_PAGE_BYTES)
    const next = (index + 1) * MEMORY_PAGE_BYTES
    if (next >= end || this.#page(index)) return Math.min(next, end)
    const tablePages = this.#base.size + this.#own.size
    if ((end - next) / MEMORY_PAGE_BYTES <= tablePages) return next
    let nearest = Math.ceil(end / MEMORY_PAGE_BYTES)
    for (const table of [this.#base, this.#own]) {
      for (const other of table.keys()) if (other > index && other < nearest) nearest = other
    }
    return Math.min(nearest * MEMORY_PAGE_BYTES, end)
  }

  #check(offset: number, length: number): void {
    this.#checkOpen()
    assertRange(this, offset, length)
  }

  #checkWrite(offset: number, length: number): void {
    this.#check(offset, length)
    if (this.capabilities.readOnly) throw new NbdeltaError('read-only', 'this disk is read-only')
  }

  #checkOpen(): void {
    if (this.#closed) throw new NbdeltaError('wrong-state', 'the disk is closed')
  }
}
