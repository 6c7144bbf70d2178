/** A volume on memory disks, for the tests of this room: fresh, or opened again on what an earlier one left. */
import { divCeil } from '../../native-free/integer.js'
import type { Pending, ZeroMode } from '../../src/device/block-device.js'
import type { Logger } from '../../src/device/logger.js'
import { ManualClock, MemoryDisk, type Random, seededRandom } from '../../src/device/testing.js'
import { mapFileSizeBytes } from '../../src/store/map-file.js'
import type { LiveDevice, MetadataDevice } from '../../src/volume/core.js'
import type { InheritStore } from '../../src/volume/inherit-store.js'
import { formatVolume, openVolume } from '../../src/volume/open-volume.js'
import type { PointStore } from '../../src/volume/point-store.js'
import type { Volume } from '../../src/volume/volume.js'

export const UUID = '00000000-0000-4000-8000-000000000001'
export const GRAIN = 4096
/** The smallest journal there is has room for 128 stale runs: limits are met early. */
export const SMALL_JOURNAL_BYTES = 32 * 1024
export const SLOW: ZeroMode = { allocate: false, fast: false }
export const FAST: ZeroMode = { allocate: false, fast: true }
export const KEEP: ZeroMode = { allocate: true, fast: false }

export interface Disks { live: LiveDevice, map: MetadataDevice, journal: MetadataDevice }

interface LabOptions {
  readonly uuid?: string
  readonly sizeBytes: number
  readonly grainBytes?: number
  readonly journalBytes?: number
  readonly live?: LiveDevice
  readonly allData?: boolean
}

interface OpenOptions {
  readonly uuid?: string
  readonly grainBytes?: number
  readonly points?: PointStore
  readonly inherit?: InheritStore
  readonly clock?: ManualClock
  readonly logger?: Logger
}

export async function freshDisks(options: LabOptions) {
  const { sizeBytes, grainBytes = GRAIN, journalBytes = 2 ** 20, live = new MemoryDisk(sizeBytes), allData = false, uuid = UUID } = options
  const grains = divCeil(sizeBytes, grainBytes)
  const map = new MemoryDisk(mapFileSizeBytes(grains))
  const journal = new MemoryDisk(journalBytes)
  await formatVolume({ uuid, grains, map, journal, allData })
  return { live, map, journal }
}

export async function openOn(disks: Disks, sizeBytes: number, options: OpenOptions = {}): Promise<Volume> {
  const { grainBytes = GRAIN, clock = new ManualClock(), ...rest } = options
  return openVolume({ uuid: UUID, sizeBytes, grainBytes, ...disks, clock, ...rest })
}

export async function freshVolume(options: LabOptions & OpenOptions): Promise<Volume> {
  return openOn(await freshDisks(options), options.sizeBytes, options)
}

/** Disks as a killed process leaves them: everything written is there, nothing was closed. */
export function killed({ live, map, journal }: { live: LiveDevice, map: MetadataDevice, journal: MetadataDevice }) {
  return { live: (live as MemoryDisk).fork(), map: (map as MemoryDisk).fork(), journal: (journal as MemoryDisk).fork() }
}

type Readable = Pick<Volume, 'read' | 'sizeBytes'>

export async function readAll(volume: Readable, offset = 0, length = volume.sizeBytes - offset): Promise<Buffer> {
  const into = Buffer.alloc(length, 0xee)
  await volume.read(offset, length, into, 0)
  return into
}

/** What a snapshot shows; also one that only its maker opens. */
export async function contentOf(volume: Volume, name: string): Promise<Buffer> {
  const device = volume.points.open(name, { image: true })
  const content = await readAll(device)
  await device.close()
  return content
}

/** For a race: whoever waits for real, while manual clocks stand still. */
export const late = (): Promise<string> => new Promise(resolve => { setTimeout(resolve, 3000, 'late').unref() })

/** State and length of each extent, as text: "data 4096, zero 8192". */
export function mapOf(volume: Volume): string {
  const { lengths, states } = volume.extents(0, volume.sizeBytes, 1000)
  return lengths.map((length, i) => `${states[i] === 0 ? 'data' : 'zero'} ${length}`).join(', ')
}

/** A memory disk whose requests complete at once or in one of the next turns of the event loop, as a seed decides. */
export class LateDisk extends MemoryDisk {
  readonly #random: Random
  constructor(sizeBytes: number, seed: number) {
    super(sizeBytes)
    this.#random = seededRandom(seed)
  }

  override read(offset: number, length: number, into: Buffer, at: number): Pending {
    return this.#some(() => super.read(offset, length, into, at))
  }

  override write(offset: number, length: number, from: Buffer, at: number): Pending {
    return this.#some(() => super.write(offset, length, from, at))
  }

  override zero(offset: number, length: number, mode: ZeroMode): Pending {
    return this.#some(() => super.zero(offset, length, mode))
  }

  override flush(): Pending { return this.#some(() => super.flush()) }

  #some(run: () => Pending): Pending {
    const turns = this.#random(4)
    return turns === 0 ? run() : this.#later(turns, run)
  }

  async #later(turns: number, run: () => Pending): Promise<void> {
    for (let i = 0; i < turns; i++) await new Promise(resolve => { setImmediate(resolve) })
    await run()
  }
}

/** A memory disk that counts, and holds back, fails or forgets what a test says. */
export class ProgrammedDisk extends MemoryDisk {
  readonly calls = { read: 0, write: 0, zero: 0, flush: 0 }
  /** Set: the next flushes fail with it. */
  flushError: Error | undefined
  /** Set: writes wait until `release`. */
  held = false
  #waiting: (() => void)[] = []

  release(): void {
    this.held = false
    for (const go of this.#waiting.splice(0)) go()
  }

  override read(offset: number, length: number, into: Buffer, at: number): Pending {
    this.calls.read++
    return super.read(offset, length, into, at)
  }

  override write(offset: number, length: number, from: Buffer, at: number): Pending {
    this.calls.write++
    if (!this.held) return super.write(offset, length, from, at)
    return new Promise<void>(resolve => { this.#waiting.push(resolve) }).then(() => super.write(offset, length, from, at))
  }

  override zero(offset: number, length: number, mode: ZeroMode): Pending {
    this.calls.zero++
    return super.zero(offset, length, mode)
  }

  override flush(): Pending {
    this.calls.flush++
    if (this.flushError) throw this.flushError
    return super.flush()
  }
}

/** Notes in `events` what is written to the disk, and when it is flushed. */
export function watch(events: string[], name: string, disk: Pick<MemoryDisk, 'write' | 'flush'>): void {
  const [write, flush] = [disk.write.bind(disk), disk.flush.bind(disk)]
  disk.write = (...request) => { events.push(`write ${name}`); return write(...request) }
  disk.flush = () => { events.push(`flush ${name}`); return flush() }
}
