/**
 * A store on the disks of a storm's machine, under the shipped volumes (src/volume/volumes.ts): what src/store/store-directory.ts does
 * with files, in the same order. A new volume's disks come before its entry, and go behind it; what a crash leaves that the catalog
 * does not know goes at the next open. Somebody's own files, which volumes may adopt, are named by URIs, and stay.
 *
 * Limits: that the folder of a volume is there, or gone, is durable at once.
 */
import { NbdeltaError } from '../../src/device/errors.js'
import { MemoryDisk, type Random } from '../../src/device/testing.js'
import { type Catalog, type CatalogEntry, openCatalog } from '../../src/store/catalog.js'
import { mapFileSizeBytes } from '../../src/store/map-file.js'
import type { PointFolders } from '../../src/store/point-files.js'
import type { PointTable } from '../../src/store/point-table.js'
import { RemoteLive } from '../../src/store/remote-live.js'
import type { StoreDirectory } from '../../src/store/store-directory.js'
import type { VolumeFiles, VolumeLayout } from '../../src/store/volume-files.js'
import { formatVolume } from '../../src/volume/open-volume.js'
import { NOTHING_UNSYNCED } from '../store/nothing-unsynced.js'
import { foldersOn, freshFolders, openTable, type PointDisks } from '../crash/points-store.js'
import { GRAIN, SMALL_JOURNAL_BYTES } from './lab.js'
import type { Machine } from './storm-disks.js'
import { CATALOG_OWNER, GRAINS_MAX, makeBlock, PARTS, POINTS_EVER } from './storm-lab.js'

const SCHEME = 'nbd://elsewhere/'

/** Who has the disks of a volume: on its name those of its own begin. */
export interface Owner { readonly uuid: string, disk(part: string): string }

/** What a storm knows of the volumes of its store. */
export interface Owners {
  /** A volume of this entry is about to be made. */
  made(entry: CatalogEntry): Owner
  of(uuid: string): Owner | undefined
  /** The disks of one that was open are opened anew. */
  renewing(uuid: string): Promise<void>
  /** About to be put into the catalog. */
  putting(entry: CatalogEntry, put: () => Promise<void>): Promise<void>
}

export function uriOf(file: string): string { return SCHEME + file }
/** Of a backing. */
export function fileOf(uri: string): string { return uri.slice(SCHEME.length) }

export class StormStore implements Pick<StoreDirectory,
  'catalog' | 'points' | 'pointFolders' | 'createVolumeFiles' | 'openVolumeFiles' | 'removeVolumeFiles' | 'openRemote'
  | 'unsyncedFile'> {
  readonly catalog: Catalog
  readonly points: PointTable
  readonly pointFolders: PointFolders
  readonly #machine: Machine
  readonly #owners: Owners
  /** By uuid. */
  readonly #opened = new Set<string>()

  private constructor(machine: Machine, owners: Owners, catalog: Catalog, points: PointTable) {
    this.#machine = machine
    this.#owners = owners
    this.catalog = catalog
    this.points = points
    const put = catalog.put.bind(catalog)
    catalog.put = entry => owners.putting(entry, () => put(entry))
    // Whose they are each of their methods is told first.
    this.pointFolders = new Proxy({} as PointFolders, {
      get: (_, method: keyof PointFolders) => (volume: string, ...rest: unknown[]) => {
        const folders = foldersOn(this.#disksOf(volume))
        return (folders[method] as (...args: unknown[]) => unknown).call(folders, volume, ...rest)
      },
    })
  }

  /** @param found what catalog and table say, before anybody changes them */
  static async open(machine: Machine, owners: Owners, found: (catalog: Catalog, table: PointTable) => void): Promise<StormStore> {
    const { catalog } = await openCatalog(machine.disks.get('catalog')!, CATALOG_OWNER, 'catalog')
    const table = await openTable(machine.disks.get('table')!)
    found(catalog, table)
    for (const uuid of table.volumes()) if (!catalog.has(uuid)) await table.removeVolume(uuid)
    return new StormStore(machine, owners, catalog, table)
  }

  async createVolumeFiles(entry: CatalogEntry, { live }: VolumeLayout): Promise<VolumeFiles> {
    const { catalog } = this
    const { random } = this.#machine
    catalog.judge(entry)
    const owner = this.#owners.made(entry)
    this.#lay(owner, entry)
    const { map, journal } = this.#disksOf(owner.uuid)
    const allData = entry.backing !== null || (!entry.importing && random(2) === 0)
    try {
      await formatVolume({ uuid: entry.uuid, grains: Math.ceil(entry.sizeBytes / GRAIN), map: map!, journal: journal!, allData })
      await catalog.put(entry)
    } catch (error) {
      if (!catalog.inDoubt) this.#drop(owner)
      throw error
    }
    return this.openVolumeFiles(entry, live)
  }

  #lay(owner: Owner, { sizeBytes, backing }: CatalogEntry): void {
    const { random } = this.#machine
    const live = new MemoryDisk(sizeBytes)
    const isBlock = random(4) === 0
    if (isBlock) makeBlock(live, sizeBytes)
    const staged = new MemoryDisk(8192 + 2 * [24, 64, 256, 1024][random(4)] * 1024)
    const disks: Record<string, MemoryDisk> = {
      ...backing === null && { live }, map: new MemoryDisk(mapFileSizeBytes(GRAINS_MAX)),
      journal: new MemoryDisk([1, 4][random(2)] * SMALL_JOURNAL_BYTES), ...freshFolders(POINTS_EVER + 4), staged,
    }
    for (const [part, disk] of Object.entries(disks)) this.#machine.add(owner.disk(part), disk)
    if (isBlock && backing === null) this.#machine.disks.get(owner.disk('live'))!.kind = 'block'
  }

  unsyncedFile(): typeof NOTHING_UNSYNCED { return NOTHING_UNSYNCED }

  async openVolumeFiles({ uuid, backing }: CatalogEntry, remote?: RemoteLive): Promise<VolumeFiles> {
    if (this.#opened.has(uuid)) {
      await this.#owners.renewing(uuid)
      this.#machine.renew(PARTS.map(part => this.#owners.of(uuid)!.disk(part)))
    }
    this.#opened.add(uuid)
    const { live, map, journal } = this.#disksOf(uuid)
    return { live: backing === null ? live : remote ?? new RemoteLive(live!), map, journal } as unknown as VolumeFiles
  }

  async openRemote(uri: string): Promise<RemoteLive> {
    const other = this.catalog.list().find(({ backing }) => backing === uri)
    if (other) throw new NbdeltaError('exists', `${uri} is the backing of volume '${other.name}' already`)
    return new RemoteLive(this.#machine.disks.get(`${fileOf(uri)}.live`)!)
  }

  async removeVolumeFiles(name: string): Promise<void> {
    const uuid = this.catalog.get(name)?.uuid
    if (uuid === undefined) return
    await this.catalog.remove(name)
    this.#drop(this.#owners.of(uuid)!)
    await this.points.removeVolume(uuid)
  }

  #drop(owner: Owner): void { dropDisks(this.#machine, owner) }

  #disksOf(uuid: string): PointDisks & Partial<Record<'live' | 'map' | 'journal', StormDiskOf>> {
    const owner = this.#owners.of(uuid)!
    return Object.fromEntries(PARTS.map(part => [part, this.#machine.disks.get(owner.disk(part))])) as never
  }
}

type StormDiskOf = NonNullable<ReturnType<Machine['disks']['get']>>

/** All but somebody's own file. */
export function dropDisks({ disks }: Machine, owner: Owner): void {
  for (const part of PARTS) if (!owner.disk(part).startsWith('f')) disks.delete(owner.disk(part))
}

/** Somebody's own files, of noise or zeros. */
export function ownFile(random: Random, sizeBytes: number): MemoryDisk {
  const disk = new MemoryDisk(sizeBytes)
  if (random(2) === 0) disk.write(0, sizeBytes, Buffer.alloc(sizeBytes, 7), 0)
  return disk
}
