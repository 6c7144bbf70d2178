/**
 * DiskArray: several memory disks that share one history of what was written and flushed, so that crash.ts can say
 * what may be left of them after a crash at any moment.
 *
 * Writes complete at once, flushes at once or in a microtask (`lateFlush`). The program under test tells by
 * `note` what it has promised so far ("write 7 acknowledged", "flush 3 acknowledged"); a crash state comes with the
 * notes that precede it.
 */
import type { BlockDevice, Extents, Pending, ZeroMode } from './block-device.js'
import { MemoryDisk } from './memory-disk.js'

/** Where an entry stands in the history, and which disk it is about: an index into the array's names. */
interface Placed { readonly serial: number, readonly disk: number }

/** What changed a disk, and may be lost until a flush covers it. */
export type DiskChange =
  | Placed & { readonly kind: 'write', readonly offset: number, readonly data: Buffer }
  | Placed & { readonly kind: 'zero', readonly offset: number, readonly length: number, readonly mode: ZeroMode }
  | Placed & { readonly kind: 'trim', readonly offset: number, readonly length: number }
  | Placed & { readonly kind: 'resize', readonly sizeBytes: number }

/** One entry of the history. */
export type DiskEvent =
  | DiskChange
  /** Done: what the disk was told before `covers` is durable. */
  | Placed & { readonly kind: 'flush', readonly covers: number }
  | { readonly kind: 'note', readonly serial: number, readonly value: unknown }

type Unplaced<T> = T extends unknown ? Omit<T, 'serial'> : never

export class DiskArray<Name extends string = string, Note = unknown> {
  readonly names: readonly Name[]
  readonly history: DiskEvent[] = []
  readonly #initial: readonly MemoryDisk[]
  readonly #disks: readonly RecordingDisk[]

  /**
   * @param disks name -> size in bytes (starts as zeros), or a MemoryDisk whose content is the durable start: with
   *   a crash state's disks, a crash during recovery is a second array
   */
  constructor(disks: Readonly<Record<Name, number | MemoryDisk>>, options: { readonly lateFlush?: boolean } = {}) {
    this.names = Object.keys(disks) as Name[]
    this.#initial = this.names.map(name => {
      const from: number | MemoryDisk = disks[name]
      return typeof from === 'number' ? new MemoryDisk(from) : from.fork()
    })
    this.#disks = this.#initial.map((initial, disk) =>
      new RecordingDisk(initial.fork({ lateFlush: options.lateFlush ?? false }), disk, this.history))
  }

  disk(name: Name): RecordingDisk { return this.#disks[this.names.indexOf(name)] }

  /** Remembers `value` at this place of the history. */
  note(value: Note): void { this.history.push({ kind: 'note', serial: this.history.length, value }) }

  /** The durable content before the first event, as fresh disks in the order of `names`. */
  initialImages(): MemoryDisk[] { return this.#initial.map(disk => disk.fork()) }
}

/** One disk of the array. */
export class RecordingDisk implements BlockDevice {
  readonly #inner: MemoryDisk
  readonly #disk: number
  readonly #history: DiskEvent[]

  constructor(inner: MemoryDisk, disk: number, history: DiskEvent[]) {
    this.#inner = inner
    this.#disk = disk
    this.#history = history
  }

  get sizeBytes(): number { return this.#inner.sizeBytes }
  get blockSizes(): BlockDevice['blockSizes'] { return this.#inner.blockSizes }
  get capabilities(): BlockDevice['capabilities'] { return this.#inner.capabilities }

  read(offset: number, length: number, into: Buffer, at: number): Pending { return this.#inner.read(offset, length, into, at) }

  write(offset: number, length: number, from: Buffer, at: number): Pending {
    const pending = this.#inner.write(offset, length, from, at)
    this.#record({ kind: 'write', disk: this.#disk, offset, data: Buffer.from(from.subarray(at, at + length)) })
    return pending
  }

  zero(offset: number, length: number, mode: ZeroMode): Pending {
    const pending = this.#inner.zero(offset, length, mode)
    this.#record({ kind: 'zero', disk: this.#disk, offset, length, mode })
    return pending
  }

  trim(offset: number, length: number): Pending {
    const pending = this.#inner.trim(offset, length)
    this.#record({ kind: 'trim', disk: this.#disk, offset, length })
    return pending
  }

  flush(): Pending {
    const covers = this.#history.length
    const done = (): void => this.#record({ kind: 'flush', disk: this.#disk, covers })
    const pending = this.#inner.flush()
    if (pending) return pending.then(done)
    done()
    return undefined
  }

  zeroRun(offset: number, length: number): number { return this.#inner.zeroRun(offset, length) }
  extents(offset: number, length: number, maxExtents: number): Extents { return this.#inner.extents(offset, length, maxExtents) }

  async resize(sizeBytes: number): Promise<void> {
    await this.#inner.resize(sizeBytes)
    this.#record({ kind: 'resize', disk: this.#disk, sizeBytes })
  }

  allocatedBytes(): Promise<number> { return this.#inner.allocatedBytes() }

  /** Gives ranges back, as FileDisk does. */
  async punch(ranges: readonly { readonly offset: number, readonly length: number }[]): Promise<{ readonly punched: boolean }> {
    for (const { offset, length } of ranges) this.zero(offset, length, { allocate: false, fast: false })
    return { punched: true }
  }

  close(): Promise<void> { return this.#inner.close() }

  #record(event: Unplaced<Exclude<DiskEvent, { kind: 'note' }>>): void {
    this.#history.push({ ...event, serial: this.#history.length } as DiskEvent)
  }
}
