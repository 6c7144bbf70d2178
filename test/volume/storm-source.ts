/**
 * Another volume, of which a storm's volume may be a clone, and from whose snapshots it is restored: they never change. Late and
 * refused reads are those of its disk, `elsewhere`. Pins are durable at once.
 */
import type { BlockDevice } from '../../src/device/block-device.js'
import { MemoryDisk } from '../../src/device/testing.js'
import type { Inheritor, SourceVolume } from '../../src/volume/restore.js'
import type { Pin, PointDevice, PointInfo, Snappoints } from '../../src/volume/snappoint.js'
import { GRAIN } from './lab.js'
import { contentOf, GONE, SECTOR } from './storm-model.js'

const IN_GRAIN = GRAIN / SECTOR
const UUID = '00000000-0000-4000-8000-0000000000ee'
/** Of its snapshots: f0 is what a clone shows. */
const GRAINS = [8, 5, 11]
const PLACE_GRAINS = 16
/** Far from what clients write. */
const FIRST_VALUE = 1_000_000

interface Snapshot { readonly info: PointInfo, readonly values: readonly number[], pins: Pin[] }

/** A volume that is restored from: its snapshots, and what they hold; undefined: that is not known, or there is none. */
export interface Source {
  readonly names: readonly string[]
  valuesOf(name: string | undefined): readonly number[] | undefined
}

export class StormSource implements Source {
  readonly uuid = UUID
  readonly disk = new MemoryDisk(GRAINS.length * PLACE_GRAINS * GRAIN)
  readonly #snapshots: readonly Snapshot[]

  /** @param sectors a volume of the storm has at most */
  constructor(sectors: number) {
    this.#snapshots = GRAINS.map((grains, index) => {
      const sizeBytes = grains * GRAIN - (index === 1 ? SECTOR : 0)
      const values = Array.from({ length: sectors }, (_, sector) => {
        if (sector >= sizeBytes / SECTOR) return GONE
        return isHole(index, sector) ? 0 : FIRST_VALUE * (index + 1) + sector
      })
      for (const [sector, value] of values.entries()) {
        if (value > 0) this.disk.write(index * PLACE_GRAINS * GRAIN + sector * SECTOR, SECTOR, contentOf(value, SECTOR), 0)
      }
      const info: PointInfo = {
        uuid: `00000000-0000-4000-8000-0000000000f${index}`, seq: index + 1, name: `f${index}`, kind: 'snapshot', sizeBytes,
        createdAt: '2026-01-01T00:00:00.000Z', labels: {}, group: null, pins: [],
      }
      return { info, values, pins: [] }
    })
  }

  get names(): readonly string[] { return this.#snapshots.map(({ info }) => info.name) }
  pointOf(name: string): PointInfo { return this.#named(name).info }
  valuesOf(name: string): readonly number[] { return this.#named(name).values }

  /** As one process sees it. @param isMine that process lives */
  volume(disk: BlockDevice, isMine: () => boolean): SourceVolume {
    const alive = async (): Promise<void> => { if (!isMine()) await new Promise<never>(() => undefined) }
    const points: Pick<Snappoints, 'list' | 'get' | 'pin' | 'unpin' | 'open'> = {
      list: () => this.#snapshots.map(({ info }) => info),
      get: name => this.#snapshots.find(({ info }) => info.name === name)?.info,
      pin: async (name, pin) => {
        await alive()
        const snapshot = this.#named(name)
        snapshot.pins = [...snapshot.pins.filter(({ owner }) => owner !== pin.owner), pin]
      },
      unpin: async (name, owner) => {
        await alive()
        const snapshot = this.#named(name)
        snapshot.pins = snapshot.pins.filter(pin => pin.owner !== owner)
      },
      open: name => this.#open(name, disk),
    }
    return { uuid: UUID, grainBytes: GRAIN, points: points as Snappoints }
  }

  /** As lineage.ts. Returns the names of those that should be pinned, and are not. */
  attach(inheritor: Inheritor, { points }: SourceVolume): string[] {
    const needed = inheritor.foreign.map(({ kind, point }) => ({ kind, snapshot: this.#snapshots.find(({ info }) => info.uuid === point)! }))
    for (const snapshot of this.#snapshots) {
      snapshot.pins = snapshot.pins.filter(({ owner }) => needed.some(other => other.snapshot === snapshot && owner.startsWith(`${other.kind} `)))
    }
    const unpinned: string[] = []
    for (const { kind, snapshot: { info: { name }, pins } } of needed) {
      const pin = pins.find(({ owner }) => owner.startsWith(`${kind} `))
      if (!pin) unpinned.push(name)
      inheritor.attach(kind, points.open(name), async () => { await points.unpin(name, pin!.owner) })
    }
    return unpinned
  }

  #named(name: string): Snapshot { return this.#snapshots.find(({ info }) => info.name === name)! }

  #open(name: string, disk: BlockDevice): PointDevice {
    const { info } = this.#named(name)
    const start = (info.seq - 1) * PLACE_GRAINS * GRAIN
    const refused = (): never => { throw new Error('a snapshot of another volume is written to') }
    return {
      point: info, sizeBytes: info.sizeBytes, blockSizes: disk.blockSizes, capabilities: disk.capabilities,
      read: (offset, length, into, at) => disk.read(start + offset, length, into, at),
      zeroRun: (offset, length) => disk.zeroRun(start + offset, length),
      extents: (offset, length, max) => disk.extents(start + offset, length, max),
      depths: refused, changedRuns: refused, forget: refused, write: refused, zero: refused, trim: refused, flush: refused,
      close: async () => undefined,
    }
  }
}

/** Some grains are holes, and some sectors of others are zeros. */
function isHole(index: number, sector: number): boolean {
  const grain = Math.floor(sector / IN_GRAIN)
  return (grain + index) % 4 === 3 || (sector + grain) % 11 === 5
}
