/**
 * A disk of a simulated machine. The medium outlives processes; each process has a handle of its own, and what a dead one still asks for is
 * never answered, so that nothing of it goes on.
 *
 * A killed process leaves everything that it has written. A power cut leaves what a finished flush covered; of the rest each write is
 * there, lost, or torn at its sectors, in one of three histories (all, none, a coin for each), as in src/device/crash.ts.
 * A flush that fails may have lost of what it was to cover any of it, for good: the process sees that until the disk is opened anew, and
 * until then every flush of it fails (trouble.ts says when).
 */
import type { BlockDevice, Extents, Pending, ZeroMode } from '../../src/device/block-device.js'
import { MemoryDisk, type Random } from '../../src/device/testing.js'
import { SECTOR } from './image.js'
import { NO_TROUBLE, type Trouble } from './trouble.js'
import { turn } from './wrong.js'

const HISTORIES = ['kept', 'lost', 'coin'] as const
const PAGE = 4096

/** What a process that has the disk open shares with all its disks. */
export interface Power {
  isDead: boolean
  readonly random: Random
  /** Of 1,000 writes and flushes so many are answered a turn later. */
  latePerMille: number
}

/** What one sector-aligned range held before a write that no flush has covered; undefined: zeros. */
interface Before { readonly offset: number, readonly length: number, readonly data: Buffer | undefined }

export class Medium {
  /** Writes so far. */
  changes = 0
  readonly disk: MemoryDisk
  #uncovered: Before[] = []
  /** Pieces that were covered so far. */
  #covered = 0
  /** A flush has failed that was to cover so many pieces. */
  #lost: number | undefined
  readonly trouble: Trouble
  /** What the disk is, for `trouble`. */
  readonly part: string

  constructor(disk: MemoryDisk, trouble: Trouble = NO_TROUBLE, part = '') {
    this.disk = disk
    this.trouble = trouble
    this.part = part
  }

  get isLost(): boolean { return this.#lost !== undefined }

  open(power: Power): SimDisk { return new SimDisk(this, power) }

  /** Before a write. */
  remember(offset: number, length: number): void {
    this.changes++
    const end = offset + length
    for (let at = offset - offset % SECTOR; at < end;) {
      const run = this.disk.zeroRun(at, Math.min(this.disk.sizeBytes, Math.ceil(end / SECTOR) * SECTOR) - at)
      const bytes = run < 0 ? -run : Math.min(run, PAGE)
      let data: Buffer | undefined
      if (run > 0) this.disk.read(at, bytes, data = Buffer.allocUnsafe(bytes), 0)
      this.#uncovered.push({ offset: at, length: bytes, data })
      at += bytes
    }
  }

  /** Pieces that were written so far, for `cover`. */
  get written(): number { return this.#covered + this.#uncovered.length }

  /** A flush that began when so much was `written` has ended. */
  cover(written: number): void {
    if (written <= this.#covered) return
    this.#uncovered.splice(0, written - this.#covered)
    this.#covered = written
  }

  /** Durable at once, as is what is cut off: what becomes of a length in a power cut is told apart in test/crash. */
  resize(sizeBytes: number): void {
    this.changes++
    this.disk.setSize(sizeBytes)
    this.#uncovered = this.#uncovered.map(({ offset, length, data }) => ({ offset, length: Math.min(length, Math.max(0, sizeBytes - offset)), data }))
  }

  /** A flush that began when so much was `written` has failed. */
  lose(written: number): void { this.#lost ??= written }

  /** By another process. */
  openedAgain(random: Random): void {
    if (this.#lost === undefined) return
    this.#forget(random, this.#lost - this.#covered)
    this.cover(this.#lost)
    this.#lost = undefined
  }

  powerCut(random: Random): void {
    this.#forget(random, this.#uncovered.length)
    this.cover(this.written)
    this.#lost = undefined
  }

  /** Of the first so many pieces some. */
  #forget(random: Random, count: number): void {
    const history = HISTORIES[random(3)]!
    const settled = new Set<number>()
    for (const [place, { offset, length, data }] of [...this.#uncovered.entries()].reverse()) {
      const fate = place >= count ? 'kept' : history === 'coin' ? HISTORIES[random(3)]! : history
      for (let at = offset; at < offset + length; at += SECTOR) {
        if (settled.has(at)) continue
        if (fate === 'kept' || (fate === 'coin' && random(2) === 0)) settled.add(at)
        else if (data) this.disk.write(at, SECTOR, data, at - offset)
        else this.disk.zero(at, SECTOR, { allocate: false, fast: false })
      }
    }
    this.changes++
  }
}

/** One process's way to a medium. */
export class SimDisk implements BlockDevice {
  readonly #medium: Medium
  readonly #disk: MemoryDisk
  readonly #power: Power

  constructor(medium: Medium, power: Power) {
    this.#medium = medium
    this.#disk = medium.disk
    this.#power = power
  }

  get sizeBytes(): number { return this.#disk.sizeBytes }
  get blockSizes(): BlockDevice['blockSizes'] { return this.#disk.blockSizes }
  get capabilities(): BlockDevice['capabilities'] { return this.#disk.capabilities }

  read(offset: number, length: number, into: Buffer, at: number): Pending {
    if (this.#power.isDead) return never()
    this.#medium.trouble.judge('read', this.#medium)
    return this.#disk.read(offset, length, into, at)
  }

  write(offset: number, length: number, from: Buffer, at: number): Pending {
    return this.#change(offset, length, bytes => { this.#disk.write(offset, bytes, from, at) })
  }

  zero(offset: number, length: number, mode: ZeroMode): Pending {
    return this.#change(offset, length, bytes => { this.#disk.zero(offset, bytes, mode) })
  }

  trim(offset: number, length: number): Pending {
    return this.#change(offset, length, bytes => { this.#disk.trim(offset, bytes) })
  }

  flush(): Pending {
    const { isDead, random, latePerMille } = this.#power
    if (isDead) return never()
    const { written } = this.#medium
    this.#medium.trouble.judge('flush', this.#medium)
    if (random(1000) < latePerMille) return this.#later(() => { this.#medium.cover(written) })
    this.#medium.cover(written)
    return undefined
  }

  zeroRun(offset: number, length: number): number { return this.#disk.zeroRun(offset, length) }
  extents(offset: number, length: number, max: number): Extents { return this.#disk.extents(offset, length, max) }
  async resize(sizeBytes: number): Promise<void> {
    if (this.#power.isDead) return never()
    const refusal = this.#medium.trouble.refusal('write', this.#medium)
    if (refusal) throw refusal
    this.#medium.resize(sizeBytes)
  }

  allocatedBytes(): Promise<number> { return this.#disk.allocatedBytes() }

  /** As FileDisk does. */
  async punch(ranges: readonly { readonly offset: number, readonly length: number }[]): Promise<{ readonly punched: boolean }> {
    for (const { offset, length } of ranges) await this.zero(offset, length, { allocate: false, fast: false })
    return { punched: true }
  }

  async close(): Promise<void> { /* the medium stays */ }

  /** One that is refused may have got as far as to the end of any of its sectors. */
  #change(offset: number, length: number, run: (bytes: number) => void): Pending {
    const { isDead, random, latePerMille } = this.#power
    if (isDead) return never()
    const refusal = this.#medium.trouble.refusal('write', this.#medium, offset, length)
    const bytes = refusal ? Math.min(length, random(Math.floor(length / SECTOR) + 1) * SECTOR) : length
    if (bytes > 0) {
      this.#medium.remember(offset, bytes)
      run(bytes)
    }
    if (refusal) throw refusal
    return random(1000) < latePerMille ? this.#later(() => undefined) : undefined
  }

  async #later(done: () => void): Promise<void> {
    await turn()
    if (this.#power.isDead) return never()
    done()
  }
}

/** Nobody waits for it any more. */
export function never(): Promise<never> { return new Promise(() => undefined) }
