/** Volumes that restore and inherit, on memory disks: what of it is in the table of points, and the files of layers. */
import { ManualClock, MemoryDisk } from '../../src/device/testing.js'
import type { BlockDevice } from '../../src/device/block-device.js'
import type { Logger } from '../../src/device/logger.js'
import type { Inheritance } from '../../src/store/point-entry.js'
import { TODO_FILE_BYTES, todoMap } from '../../src/store/point-maps.js'
import { InheritDisk } from '../../src/volume/inherit-disk.js'
import type { InheritFile, InheritStore } from '../../src/volume/inherit-store.js'
import type { LayerKind } from '../../src/volume/inherited.js'
import { openVolume } from '../../src/volume/open-volume.js'
import type { PointRecord } from '../../src/volume/point-store.js'
import type { Volume } from '../../src/volume/volume.js'
import { type Disks, freshDisks, GRAIN, killed, SMALL_JOURNAL_BYTES, UUID } from './lab.js'
import { MemoryPoints } from './point-lab.js'

/** Beside MemoryPoints: one put changes both. */
export class MemoryInherit implements InheritStore {
  inheritance: Inheritance | null = null
  readonly files = new Map<LayerKind, MemoryDisk>()
  /** Called with each device before it is used: to plant faults. */
  wrap: (disk: MemoryDisk) => BlockDevice = disk => disk
  /** Called before a put is done. */
  onPut: () => Promise<void> = async () => undefined

  constructor(readonly points: MemoryPoints, readonly uuid = UUID) {}

  fork(points: MemoryPoints): MemoryInherit {
    const copy = new MemoryInherit(points, this.uuid)
    copy.inheritance = this.inheritance
    for (const [kind, disk] of this.files) copy.files.set(kind, disk.fork())
    return copy
  }

  async put(points: readonly PointRecord[], inheritance: Inheritance | null): Promise<void> {
    await this.onPut()
    await this.points.put(points, [])
    this.inheritance = JSON.parse(JSON.stringify(inheritance)) as Inheritance | null
  }

  async make(kind: LayerKind, grains: number, fill: boolean): Promise<InheritFile> {
    const disk = new MemoryDisk(TODO_FILE_BYTES)
    await todoMap(disk, this.#identity(kind), grains).format(fill)
    this.files.set(kind, disk)
    return (await this.open(kind, grains)).fresh(fill)
  }

  async open(kind: LayerKind, grains: number): Promise<InheritDisk> {
    const device = this.wrap(this.files.get(kind)!)
    device.close = async () => undefined
    return new InheritDisk(device, this.#identity(kind), grains)
  }

  async remove(kind: LayerKind): Promise<void> { this.files.delete(kind) }

  #identity(kind: LayerKind) { return { owner: Buffer.from(this.uuid.replaceAll('-', ''), 'hex'), name: `layer ${kind}` } }
}

interface RigOptions {
  readonly sizeBytes: number
  readonly grainBytes?: number
  readonly uuid?: string
  readonly clock?: ManualClock
  readonly live?: MemoryDisk
  readonly logger?: Logger
}

/** One volume and all it stands on. */
export class Rig {
  volume!: Volume
  readonly clock: ManualClock
  readonly uuid: string
  readonly grainBytes: number

  private constructor(
    public disks: Disks, public points: MemoryPoints, public inherit: MemoryInherit, public sizeBytes: number, readonly options: RigOptions,
  ) {
    this.clock = options.clock ?? new ManualClock()
    this.uuid = options.uuid ?? UUID
    this.grainBytes = options.grainBytes ?? GRAIN
  }

  static async open(options: RigOptions): Promise<Rig> {
    const { grainBytes = GRAIN, uuid = UUID, sizeBytes, live } = options
    const disks = await freshDisks({ sizeBytes, grainBytes, journalBytes: 4 * SMALL_JOURNAL_BYTES, uuid, ...(live ? { live } : {}) })
    const points = new MemoryPoints(grainBytes)
    const rig = new Rig(disks, points, new MemoryInherit(points, uuid), sizeBytes, options)
    await rig.openVolume()
    return rig
  }

  async openVolume(): Promise<void> {
    const { logger } = this.options
    this.volume = await openVolume({
      uuid: this.uuid, sizeBytes: this.sizeBytes, grainBytes: this.grainBytes, ...this.disks, clock: this.clock,
      points: this.points, inherit: this.inherit, ...(logger ? { logger } : {}),
    })
  }

  /** Closed cleanly, or killed; and opened again on what is there. */
  async reopen(clean: boolean): Promise<void> {
    if (clean) await this.volume.close()
    this.disks = killed(this.disks)
    this.points = this.points.fork()
    this.inherit = this.inherit.fork(this.points)
    await this.openVolume()
  }

  get source() { return { uuid: this.uuid, grainBytes: this.grainBytes, points: this.volume.points } }

  async resize(sizeBytes: number): Promise<void> {
    await this.volume.resize(sizeBytes, async () => undefined)
    this.sizeBytes = sizeBytes
  }
}

/** From the next point on, old content is kept only when the function returned was called. */
export function holdOldContent({ points }: Rig): () => void {
  let release!: () => void
  const held = new Promise<void>(resolve => { release = resolve })
  points.wrap = (disk, what) => {
    const write = disk.write.bind(disk)
    if (what === 'preserved') disk.write = (...request) => held.then(() => write(...request))
    return disk
  }
  return release
}

/** Time passes until `work` is done. */
export async function settle<T>(clock: ManualClock, work: Promise<T>): Promise<T> {
  let over = false
  const done = work.finally(() => { over = true })
  done.catch(() => undefined)
  while (!over) {
    await clock.advance(50)
    await new Promise(resolve => { setImmediate(resolve) })
  }
  return done
}
