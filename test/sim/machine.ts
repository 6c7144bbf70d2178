/**
 * A simulated machine: the disks of a store with one or two volumes, which outlive the processes that open it, and what such a process
 * has of them. The parts of a store that mirrors ask for, over the shipped table of points and the shipped volumes.
 */
import { type Clock } from '../../src/device/clock.js'
import { ManualClock, MemoryDisk, type Random } from '../../src/device/testing.js'
import type { MirrorEntry } from '../../src/store/point-entry.js'
import type { PointTable } from '../../src/store/point-table.js'
import type { SecondariesParts } from '../../src/replication/secondaries.js'
import type { Store } from '../../src/volume/open-store.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import type { Volume } from '../../src/volume/volume.js'
import { freshPointDisks, openTable, type PointDiskName, pointsOf } from '../crash/points-store.js'
import { storeOf } from '../replication/memory-lab.js'
import { freshDisks, openOn, SMALL_JOURNAL_BYTES } from '../volume/lab.js'
import { SIZE } from './image.js'
import { Medium, type Power } from './medium.js'

/** Numbers that the points of a volume can have in one life. */
const SEQS = 4096
type VolumeDisk = 'live' | 'map' | 'journal' | Exclude<PointDiskName, 'table'>

export type SimVolume = StoreVolume & Volume

interface VolumeMedia { readonly name: string, readonly uuid: string, readonly media: Readonly<Record<VolumeDisk, Medium>> }

export class Machine {
  readonly name: string
  readonly #table: Medium
  readonly #volumes: readonly VolumeMedia[]

  private constructor(name: string, table: Medium, volumes: readonly VolumeMedia[]) {
    this.name = name
    this.#table = table
    this.#volumes = volumes
  }

  /** @param name one letter; of its volumes as well */
  static async fresh(name: string, volumes: readonly string[]): Promise<Machine> {
    const made = await Promise.all(volumes.map(async volume => {
      const uuid = uuidOf(name, volume)
      const { table, ...disks } = await formatted(uuid)
      return { table, name: volume, uuid, media: mapped(disks, disk => new Medium(disk.fork())) }
    }))
    return new Machine(name, new Medium(made[0]!.table.fork()), made)
  }

  /** Writes to the disks of a volume so far. */
  changes(volume: string): number {
    let sum = 0
    const { media } = this.#volumes.find(one => one.name === volume)!
    for (const disk in media) sum += media[disk as VolumeDisk].changes
    return sum
  }

  powerCut(random: Random): void {
    this.#table.powerCut(random)
    for (const { media } of this.#volumes) for (const medium of Object.values(media)) medium.powerCut(random)
  }

  async open(power: Power, clock: ManualClock): Promise<SimStore> {
    const table = await openTable(this.#table.open(power))
    const volumes: SimVolume[] = []
    for (const { name, uuid, media } of this.#volumes) {
      const { live, map, journal, ...points } = mapped(media, medium => medium.open(power))
      const opened = await openOn({ live, map, journal }, SIZE, { clock, uuid, ...pointsOf(uuid, table, points) })
      volumes.push(Object.assign(opened, {
        uuid, name, backing: null, createdAt: '2026-01-01T00:00:00.000Z', description: '', problem: undefined,
      }) as unknown as SimVolume)
    }
    return new SimStore(table, volumes, clock)
  }
}

/** Sizes are fixed, and so are the volumes. */
export class SimStore implements Pick<SecondariesParts['store'], keyof SecondariesParts['store']> {
  readonly #table: PointTable
  readonly #volumes: readonly SimVolume[]
  readonly clock: Clock
  readonly groups = []
  createPointsTogether: Store['createPointsTogether']
  readonly putMirrors: Store['putMirrors']
  readonly restoreTogether: Store['restoreTogether']

  constructor(table: PointTable, volumes: readonly SimVolume[], clock: Clock) {
    this.#table = table
    this.#volumes = volumes
    this.clock = clock
    const { createPointsTogether, putMirrors, restoreTogether } = storeOf(table, volumes)
    this.createPointsTogether = createPointsTogether
    this.putMirrors = putMirrors
    this.restoreTogether = restoreTogether
  }

  list(): SimVolume[] { return [...this.#volumes] }
  get(name: string): SimVolume | undefined { return this.#volumes.find(volume => volume.name === name) }
  get mirrors(): MirrorEntry[] { return this.#table.mirrors() }
  putMirror(mirror: MirrorEntry): Promise<void> { return this.#table.put({ mirrors: [mirror] }) }
  removeMirror(uuid: string): Promise<void> { return this.#table.put({ removeMirrors: [uuid] }) }
  fillVolume(): never { throw new Error('there is no room for another') }
  createVolume(): never { throw new Error('there is a volume already') }
  deleteVolume(): never { throw new Error('volumes stay') }
  resizeVolume(): never { throw new Error('sizes are fixed') }
}

function uuidOf(machine: string, volume: string): string {
  const digit = (text: string): string => text.charCodeAt(0).toString(16)
  return `00000000-0000-4000-8000-00000000${digit(machine)}${digit(volume)}`
}

/** By uuid: formatting takes longer than a crash. */
const FORMATTED = new Map<string, Promise<Record<VolumeDisk | 'table', MemoryDisk>>>()

function formatted(uuid: string): Promise<Record<VolumeDisk | 'table', MemoryDisk>> {
  const known = FORMATTED.get(uuid)
  if (known) return known
  const disks = (async () => {
    const live = new MemoryDisk(SIZE)
    const { map, journal } = await freshDisks({ sizeBytes: SIZE, journalBytes: SMALL_JOURNAL_BYTES, uuid, live })
    return { live, map: map as MemoryDisk, journal: journal as MemoryDisk, ...await freshPointDisks(SEQS) }
  })()
  FORMATTED.set(uuid, disks)
  return disks
}

function mapped<K extends string, A, B>(from: Readonly<Record<K, A>>, make: (value: A) => B): Record<K, B> {
  return Object.fromEntries(Object.entries<A>(from).map(([key, value]) => [key, make(value)])) as Record<K, B>
}
