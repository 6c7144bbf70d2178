/** A store in a folder, mirrors over it, and targets on disks in memory that a test can break. */
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import type { Test } from 'tap'
import { wholeAt } from '../../src/daemon-mirrors.js'
import type { BlockDevice } from '../../src/device/block-device.js'
import { ManualClock, MemoryDisk, type Random } from '../../src/device/testing.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { silentLogger } from '../../src/device/logger.js'
import type { Mirror } from '../../src/replication/mirror.js'
import type { MirrorState } from '../../src/replication/mirror-record.js'
import { type CreateMirrorOptions, Mirrors } from '../../src/replication/mirrors.js'
import type { Secondaries } from '../../src/replication/secondaries.js'
import { openStore, type Store } from '../../src/volume/open-store.js'
import type { PointInfo } from '../../src/volume/snappoint.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'

export const G = 4096
export const URI = 'nbd://peer/disk'

/** A device whose owner is another: closing it leaves the disk there. Counts what arrives. */
export class Wire implements BlockDevice {
  readonly counts = { writtenBytes: 0, zeroedBytes: 0, readBytes: 0, flushes: 0 }
  /** Throws to break the link; called before each request. */
  onRequest: (kind: 'read' | 'write' | 'zero' | 'flush', offset: number, length: number) => void = () => undefined
  readonly disk: BlockDevice

  constructor(disk: BlockDevice) { this.disk = disk }

  get sizeBytes() { return this.disk.sizeBytes }
  get blockSizes() { return this.disk.blockSizes }
  get capabilities() { return this.disk.capabilities }
  async read(offset: number, length: number, into: Buffer, at: number): Promise<void> {
    this.onRequest('read', offset, length)
    this.counts.readBytes += length
    await this.disk.read(offset, length, into, at)
  }
  async write(offset: number, length: number, from: Buffer, at: number): Promise<void> {
    this.onRequest('write', offset, length)
    this.counts.writtenBytes += length
    await this.disk.write(offset, length, from, at)
  }
  async zero(offset: number, length: number, mode: { allocate: boolean, fast: boolean }): Promise<void> {
    this.onRequest('zero', offset, length)
    this.counts.zeroedBytes += length
    await this.disk.zero(offset, length, mode)
  }
  async trim(): Promise<void> { /* nothing is promised */ }
  async flush(): Promise<void> {
    this.onRequest('flush', 0, 0)
    this.counts.flushes++
    await this.disk.flush()
  }
  zeroRun(_offset: number, length: number): number { return length }
  extents(offset: number, length: number, max: number) { return this.disk.extents(offset, length, max) }
  async close(): Promise<void> { /* the disk stays */ }
  reset(): void { Object.assign(this.counts, { writtenBytes: 0, zeroedBytes: 0, readBytes: 0, flushes: 0 }) }
}

export class Lab {
  readonly path: string
  readonly clock = new ManualClock({ wallTime: new Date('2026-01-01T00:00:00Z') })
  store!: Store
  mirrors!: Mirrors
  /** What `URI` leads to; undefined: nobody answers. */
  wire: Wire | undefined

  private constructor(path: string, readonly logBytes?: number) { this.path = path }

  /** @param logBytes what the logs of streams may hold */
  static async open(directory: string, logBytes?: number): Promise<Lab> {
    const lab = new Lab(join(directory, 'store'), logBytes)
    await lab.start()
    return lab
  }

  async start(): Promise<void> {
    this.store = await openStore({ path: this.path, create: true })
    this.mirrors = new Mirrors({
      store: this.store, clock: this.clock, logger: silentLogger, ...this.logBytes !== undefined && { logBytes: this.logBytes },
      connect: async () => {
        if (!this.wire) throw new NbdeltaError('unreachable', 'nobody answers')
        return this.wire
      },
      wholeAt: volume => this.wholeAt(volume),
    })
    this.mirrors.start()
  }

  /** As the daemon has it, with nobody's secondaries. */
  wholeAt(volume: StoreVolume): PointInfo | null | undefined {
    const secondaries = { isReceiving: () => false, of: () => undefined } as unknown as Secondaries
    return wholeAt({ mirrors: this.mirrors, secondaries }, volume)
  }

  async close(): Promise<void> {
    await this.mirrors.stop()
    await this.store.close()
  }

  /** As a killed server leaves the store: a copy of its files as they are now, opened in its place. */
  async killed(): Promise<Lab> {
    const next = new Lab(`${this.path}-again`)
    execFileSync('cp', ['-a', '--sparse=always', this.path, next.path])
    next.wire = this.wire
    await next.start()
    return next
  }

  async volume(name: string, grains: number): Promise<StoreVolume> {
    return this.store.createVolume({ name, sizeBytes: grains * G, grainBytes: G })
  }

  /** Interval of an hour: only what a test asks for happens. The first cycle is waited for. */
  async mirror(options: Partial<CreateMirrorOptions> & { volume: string, target: string }): Promise<Mirror> {
    const mirror = await this.mirrors.create({
      name: 'm', intervalSeconds: 3600, lagBytes: null, bytesPerSecond: null, overwrite: false, ...options,
    })
    await mirror.sync()
    return mirror
  }
}

export async function fill(volume: BlockDevice, grain: number, value: number, grains = 1): Promise<void> {
  await volume.write(grain * G, grains * G, Buffer.alloc(grains * G, value), 0)
}

/** Looks at each write to the volume first, and may refuse it, until what it answers is called. */
export function onWrite(volume: BlockDevice, look: (offset: number, length: number) => void): () => void {
  const write = volume.write.bind(volume)
  volume.write = (offset, length, ...rest) => {
    look(offset, length)
    return write(offset, length, ...rest)
  }
  return () => { volume.write = write }
}

/** One byte of each grain. */
export async function shown(device: BlockDevice): Promise<number[]> {
  const all = Buffer.alloc(device.sizeBytes)
  await device.read(0, all.length, all, 0)
  return Array.from({ length: all.length / G }, (_, grain) => all[grain * G]!)
}

/** The same of a point of a volume. */
export async function shownAt({ points }: StoreVolume, name: string): Promise<number[]> {
  const device = points.open(name)
  try { return await shown(device) } finally { await device.close() }
}

/** A cycle of which the target declares the point, and nobody hears of that. */
export async function unheard(t: Test, { store }: Lab, mirror: Mirror): Promise<void> {
  const put = store.putMirror.bind(store)
  store.putMirror = async record => {
    if ((record.state as unknown as MirrorState).cycle > 0) throw new Error('cut off')
    return put(record)
  }
  await t.rejects(mirror.sync(), /cut off/)
  store.putMirror = put
}

export function disk(grains: number): Wire { return new Wire(new MemoryDisk(grains * G)) }

/** A write, a zero, a trim or a flush, somewhere. */
export async function changeAtRandom(volume: StoreVolume, random: Random): Promise<void> {
  const size = volume.sizeBytes
  const offset = random(size - 1)
  const length = 1 + random(Math.min(size - offset, 5 * G))
  const kind = random(12)
  if (kind < 9) await volume.write(offset, length, Buffer.alloc(length, 1 + random(255)), 0)
  else if (kind === 9) await volume.zero(offset, length, { allocate: false, fast: false })
  else if (kind === 10) await volume.trim(offset - offset % G, 8 * G > size - offset ? G : 8 * G)
  else await volume.flush()
}
