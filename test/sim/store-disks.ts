/**
 * A simulated store on its disks, under the shipped volumes (src/volume/volumes.ts): catalog, table of points, and the disks of each
 * volume. What src/store/store-directory.ts does with files, in the same order: a new volume's disks come before its entry, and go behind
 * it; what a crash leaves that the catalog does not know goes at the next open.
 */
import { MemoryDisk } from '../../src/device/testing.js'
import { type Catalog, CATALOG_MAGIC, type CatalogEntry, openCatalog } from '../../src/store/catalog.js'
import { mapFileSizeBytes } from '../../src/store/map-file.js'
import { formatRecordLog } from '../../src/store/open-record-log.js'
import type { PointFolders } from '../../src/store/point-files.js'
import type { PointTable } from '../../src/store/point-table.js'
import type { StoreDirectory } from '../../src/store/store-directory.js'
import type { VolumeFiles, VolumeLayout } from '../../src/store/volume-files.js'
import { formatVolume } from '../../src/volume/open-volume.js'
import { NOTHING_UNSYNCED } from '../store/nothing-unsynced.js'
import { foldersOn, freshFolders, freshTable, openTable, type PointDiskName } from '../crash/points-store.js'
import { SMALL_JOURNAL_BYTES } from '../volume/lab.js'
import { GRAIN, GRAINS, SIZE, SIZE_MAX } from './image.js'
import { Medium, type Power, type SimDisk } from './medium.js'
import { Trouble } from './trouble.js'

/** Numbers that the points of a volume can have: of one that is there for the whole life, and of one that comes and goes. */
const SEQS = { first: 4096, later: 1024 }
const CATALOG_BYTES = 32 * 1024
const OWNER = Buffer.alloc(16, 1)

type DiskName = 'live' | 'map' | 'journal' | Exclude<PointDiskName, 'table'>
type Disks<Disk> = Readonly<Record<DiskName, Disk>>

export class StoreDisks {
  readonly #catalog: Medium
  readonly #table: Medium
  /** By uuid. */
  readonly #volumes: Map<string, Disks<Medium>>
  readonly trouble: Trouble

  private constructor(trouble: Trouble, catalog: Medium, table: Medium, volumes: Map<string, Disks<Medium>>) {
    this.trouble = trouble
    this.#catalog = catalog
    this.#table = table
    this.#volumes = volumes
  }

  /** @param volumes their names and uuids */
  static async fresh(volumes: readonly (readonly [name: string, uuid: string])[], random: Power['random']): Promise<StoreDisks> {
    const { catalog, table, disks } = await formatted(volumes)
    const trouble = new Trouble(random)
    return new StoreDisks(trouble, new Medium(catalog.fork(), trouble, 'catalog'), new Medium(table.fork(), trouble, 'table'),
      new Map([...disks].map(([uuid, each]) => [uuid, mapped(each, (disk, part) => new Medium(disk.fork(), trouble, part))])))
  }

  /** Writes to the disks of a volume so far. */
  changes(uuid: string): number {
    let sum = 0
    const disks = this.#volumes.get(uuid)!
    for (const disk in disks) sum += disks[disk as DiskName].changes
    return sum
  }

  powerCut(random: Power['random']): void { for (const medium of this.#all) medium.powerCut(random) }

  get #all(): Medium[] { return [this.#catalog, this.#table, ...[...this.#volumes.values()].flatMap(disks => Object.values(disks))] }

  /** Some of them are in trouble, or all. */
  fail(): void { this.trouble.begin([...new Set(this.#all.map(({ part }) => part))]) }

  /** As a process has it. */
  async open(power: Power): Promise<SimDirectory> {
    this.trouble.opens()
    for (const medium of this.#all) medium.openedAgain(power.random)
    const { catalog } = await openCatalog(this.#catalog.open(power), OWNER, 'catalog')
    for (const uuid of this.#volumes.keys()) if (!catalog.has(uuid)) this.#volumes.delete(uuid)
    const points = await openTable(this.#table.open(power))
    for (const uuid of points.volumes()) if (!catalog.has(uuid)) await points.removeVolume(uuid)
    return new SimDirectory(catalog, points, this.#volumes, power, this.trouble)
  }
}

/** What volumes ask of a store's directory. */
export class SimDirectory implements Pick<StoreDirectory,
  'catalog' | 'points' | 'pointFolders' | 'createVolumeFiles' | 'openVolumeFiles' | 'removeVolumeFiles' | 'unsyncedFile'> {
  readonly catalog: Catalog
  readonly points: PointTable
  readonly pointFolders: PointFolders
  readonly #media: Map<string, Disks<Medium>>
  /** By uuid. */
  readonly #open = new Map<string, Disks<SimDisk>>()
  readonly #folders = new Map<string, PointFolders>()
  readonly #power: Power
  readonly #trouble: Trouble

  constructor(catalog: Catalog, points: PointTable, media: Map<string, Disks<Medium>>, power: Power, trouble: Trouble) {
    this.catalog = catalog
    this.points = points
    this.#media = media
    this.#power = power
    this.#trouble = trouble
    // Whose they are each of their methods is told first.
    this.pointFolders = new Proxy({} as PointFolders, {
      get: (_, method: keyof PointFolders) => (volume: string, ...rest: unknown[]) =>
        (this.#foldersOf(volume)[method] as (...args: unknown[]) => unknown)(volume, ...rest),
    })
  }

  async createVolumeFiles(entry: CatalogEntry, { format }: VolumeLayout): Promise<VolumeFiles> {
    const { catalog } = this
    catalog.judge(entry)
    this.#media.set(entry.uuid, mapped(blank(SEQS.later, entry.sizeBytes), (disk, part) => new Medium(disk, this.#trouble, part)))
    const files = await this.openVolumeFiles(entry)
    await format(files)
    await catalog.put(entry)
    return files
  }

  async openVolumeFiles({ uuid }: CatalogEntry): Promise<VolumeFiles> {
    const { live, map, journal } = this.#disksOf(uuid)
    return { live, map, journal } as unknown as VolumeFiles
  }

  unsyncedFile(): typeof NOTHING_UNSYNCED { return NOTHING_UNSYNCED }

  async removeVolumeFiles(name: string): Promise<void> {
    const uuid = this.catalog.get(name)?.uuid
    if (uuid === undefined) return
    await this.catalog.remove(name)
    this.#media.delete(uuid)
    await this.points.removeVolume(uuid)
  }

  #disksOf(uuid: string): Disks<SimDisk> {
    const disks = this.#open.get(uuid) ?? mapped(this.#media.get(uuid)!, medium => medium.open(this.#power))
    this.#open.set(uuid, disks)
    return disks
  }

  #foldersOf(uuid: string): PointFolders {
    const folders = this.#folders.get(uuid) ?? foldersOn(this.#disksOf(uuid))
    this.#folders.set(uuid, folders)
    return folders
  }
}

interface Formatted { readonly catalog: MemoryDisk, readonly table: MemoryDisk, readonly disks: ReadonlyMap<string, Disks<MemoryDisk>> }

/** Formatting takes longer than a crash. */
const FORMATTED = new Map<string, Promise<Formatted>>()

function formatted(volumes: readonly (readonly [name: string, uuid: string])[]): Promise<Formatted> {
  const key = JSON.stringify(volumes)
  const known = FORMATTED.get(key) ?? format(volumes)
  FORMATTED.set(key, known)
  return known
}

async function format(volumes: readonly (readonly [name: string, uuid: string])[]): Promise<Formatted> {
  const disk = new MemoryDisk(CATALOG_BYTES)
  await formatRecordLog(disk, { magic: CATALOG_MAGIC, owner: OWNER, name: 'catalog' })
  const { catalog } = await openCatalog(disk, OWNER, 'catalog')
  const disks = new Map<string, Disks<MemoryDisk>>()
  for (const [name, uuid] of volumes) {
    const each = blank(SEQS.first, SIZE)
    await formatVolume({ uuid, grains: GRAINS, map: each.map, journal: each.journal, allData: false })
    await catalog.put({
      uuid, name, sizeBytes: SIZE, grainBytes: GRAIN, backing: null, createdAt: '2026-01-01T00:00:00.000Z', description: '',
    })
    disks.set(uuid, each)
  }
  return { catalog: disk, table: await freshTable(), disks }
}

function blank(seqs: number, sizeBytes: number): Disks<MemoryDisk> {
  return {
    live: new MemoryDisk(sizeBytes), map: new MemoryDisk(mapFileSizeBytes(SIZE_MAX / GRAIN)), journal: new MemoryDisk(SMALL_JOURNAL_BYTES),
    ...freshFolders(seqs),
  }
}

function mapped<A, B>(from: Disks<A>, make: (value: A, part: string) => B): Disks<B> {
  return Object.fromEntries(Object.entries<A>(from).map(([key, value]) => [key, make(value, key)])) as Record<DiskName, B>
}
