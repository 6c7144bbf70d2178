/** Volumes whose points share a disk of so many grains, or have a budget, with or without a staging log. */
import { NbdeltaError } from '../../src/device/errors.js'
import { ManualClock, MemoryDisk } from '../../src/device/testing.js'
import type { BlockDevice } from '../../src/device/block-device.js'
import type { SpaceRule } from '../../src/store/point-entry.js'
import type { Volume } from '../../src/volume/volume.js'
import { openVolume } from '../../src/volume/open-volume.js'
import { type Disks, freshDisks, GRAIN, killed, readAll, UUID } from './lab.js'
import { MemoryPoints } from './point-lab.js'

const STAGED_BYTES = 2 ** 20

/** Their files stand on one disk that has room for so many pages: a write that needs one more fails, as a real disk's does. */
class CrowdedPoints extends MemoryPoints {
  /** Grains in all files of points together. */
  capacity = Infinity
  stagedDisk: MemoryDisk | undefined

  constructor(withStaging: boolean) {
    super()
    if (withStaging) this.stagedDisk = new MemoryDisk(STAGED_BYTES)
    this.wrap = (disk, what) => what === 'maps' ? disk : this.#crowded(disk)
  }

  override fork(): CrowdedPoints {
    const copy = new CrowdedPoints(false)
    Object.assign(copy, super.fork(), { wrap: copy.wrap, capacity: this.capacity, stagedDisk: this.stagedDisk?.fork() })
    return copy
  }

  async staged(): Promise<{ device: BlockDevice, owner: Buffer, name: string } | undefined> {
    const owner = Buffer.from(UUID.replaceAll('-', ''), 'hex')
    return this.stagedDisk && { device: this.stagedDisk, owner, name: 'staging log' }
  }

  /** Pages that hold something. */
  get used(): number {
    let grains = 0
    for (const { preserved } of this.present.values()) if (preserved) grains += dataPages(preserved, 0, preserved.sizeBytes)
    return grains
  }

  #crowded(disk: MemoryDisk): BlockDevice {
    const write = MemoryDisk.prototype.write.bind(disk)
    disk.write = (offset, length, from, at) => {
      const fresh = Math.ceil(length / GRAIN) - dataPages(disk, offset, length)
      if (this.used + fresh > this.capacity) throw new NbdeltaError('no-space', 'ENOSPC: no space left on device, write')
      return write(offset, length, from, at)
    }
    return disk
  }
}

function dataPages(disk: MemoryDisk, offset: number, length: number): number {
  const { lengths, states } = disk.extents(offset, length, 10_000)
  return lengths.reduce((sum, bytes, i) => sum + (states[i] === 0 ? Math.ceil(bytes / GRAIN) : 0), 0)
}

export class SpaceRig {
  volume!: Volume
  readonly clock = new ManualClock()
  /** What was logged as a warning, with its facts. */
  readonly warnings: { readonly message: string, readonly point?: unknown, readonly why?: unknown }[] = []

  private constructor(public disks: Disks, public points: CrowdedPoints, readonly sizeBytes: number, readonly rule: SpaceRule | undefined) {}

  /** All grains hold 1. */
  static async open({ grains = 16, budget, order = 'drop-undo-then-fail', staging = false }: {
    grains?: number, budget?: number, order?: SpaceRule['order'], staging?: boolean,
  }): Promise<SpaceRig> {
    const sizeBytes = grains * GRAIN
    const rule = { budgetBytes: budget === undefined ? null : budget * GRAIN, order }
    const rig = new SpaceRig(await freshDisks({ sizeBytes }), new CrowdedPoints(staging), sizeBytes, rule)
    await rig.#open()
    await rig.volume.write(0, sizeBytes, Buffer.alloc(sizeBytes, 1), 0)
    return rig
  }

  async #open(): Promise<void> {
    const logger = {
      debug: () => undefined, info: () => undefined, error: () => undefined,
      warn: (facts: object, message: string) => { this.warnings.push({ message, ...facts }) },
    }
    this.volume = await openVolume({
      uuid: UUID, sizeBytes: this.sizeBytes, grainBytes: GRAIN, ...this.disks, clock: this.clock, points: this.points, space: this.rule, logger,
    })
  }

  /** Killed, and opened again on what is there. */
  async reopen(): Promise<void> {
    this.disks = killed(this.disks)
    this.points = this.points.fork()
    await this.#open()
  }

  /** An undo point as a restore makes one, or with `undo` false a person's snapshot. */
  async snapshot(name: string, undo = false): Promise<void> {
    await this.volume.points.create({ name, kind: 'snapshot', ...undo && { labels: { auto: 'undo' } } })
  }

  async write(grain: number, fill: number, count = 1): Promise<void> {
    await this.volume.write(grain * GRAIN, count * GRAIN, Buffer.alloc(count * GRAIN, fill), 0)
  }

  /** As `write`, but not a whole grain: never staged. */
  async touch(grain: number, fill: number): Promise<void> { await this.volume.write(grain * GRAIN, 1, Buffer.alloc(1, fill), 0) }

  /** From now on writes to live's own file fail while the disk `isFull`. */
  fillLive(isFull: () => boolean): void {
    const { live } = this.disks
    const write = MemoryDisk.prototype.write.bind(live)
    live.write = (offset, length, from, at) => {
      if (!isFull()) return write(offset, length, from, at)
      throw new NbdeltaError('no-space', 'ENOSPC: no space left on device, write', { cause: { code: 'ENOSPC' } })
    }
  }

  /** First byte of each grain. */
  async live(): Promise<number[]> { return firstBytes(await readAll(this.volume)) }

  async content(name: string): Promise<number[]> {
    const device = this.volume.points.open(name)
    const content = await readAll(device)
    await device.close()
    return firstBytes(content)
  }

  get names(): string[] { return this.volume.points.list().map(({ name }) => name) }
  /** Grains. */
  get kept(): number { return this.volume.space.keptBytes / GRAIN }
  set budget(grains: number | null) {
    const { order } = this.volume.space
    this.volume.setSpace({ budgetBytes: grains === null ? null : grains * GRAIN, order })
  }
}

function firstBytes(content: Buffer): number[] {
  return Array.from({ length: content.length / GRAIN }, (_, grain) => content[grain * GRAIN]!)
}
