/** The points of a volume on disks of a DiskArray: table, folders, maps and preserved grains, as a store has them in files. */
import type { BlockDevice } from '../../src/device/block-device.js'
import { SliceDevice } from '../../src/device/slice.js'
import { MemoryDisk, type RecordingDisk } from '../../src/device/testing.js'
import type { MapIdentity } from '../../src/store/map-file.js'
import { formatRecordLog } from '../../src/store/open-record-log.js'
import type { PointFolders, TodoName } from '../../src/store/point-files.js'
import { formatPointMaps, pointMapsLayout, TODO_FILE_BYTES, todoMap } from '../../src/store/point-maps.js'
import { openPointTable, POINTS_MAGIC, type PointTable } from '../../src/store/point-table.js'
import { StoreInheritance } from '../../src/volume/inherit-disk.js'
import { StorePoints } from '../../src/volume/point-disk.js'
import { GRAIN, UUID } from '../volume/lab.js'

const OWNER = Buffer.from(UUID.replaceAll('-', ''), 'hex')
export const TABLE_BYTES = 64 * 1024
const SECTOR = 512
/** Numbers that a run can give, if it does not say. */
const SEQS_DEFAULT = 64
const MAPS_BYTES = pointMapsLayout(1, 'snapshot').sizeBytes
export const PRESERVED_BYTES = 64 * GRAIN
/** Two marks, and halves that take three strokes of one grain each, or one of five. */
const STAGED_BYTES = 8192 + 2 * 24 * 1024

export type PointDiskName = 'table' | 'folders' | 'maps' | 'preserved' | 'staged' | 'layers'
export type PointDisks = Readonly<Record<PointDiskName, BlockDevice>>

export async function freshPointDisks(seqs = SEQS_DEFAULT): Promise<Record<PointDiskName, MemoryDisk>> {
  return { table: await freshTable(), ...freshFolders(seqs) }
}

export async function freshTable(): Promise<MemoryDisk> {
  const table = new MemoryDisk(TABLE_BYTES)
  await formatRecordLog(table, { magic: POINTS_MAGIC, owner: OWNER, name: 'points' })
  return table
}

export function freshFolders(seqs: number): Record<Exclude<PointDiskName, 'table'>, MemoryDisk> {
  return {
    folders: new MemoryDisk(seqs * SECTOR), maps: new MemoryDisk(seqs * MAPS_BYTES),
    preserved: new MemoryDisk(seqs * PRESERVED_BYTES), staged: new MemoryDisk(STAGED_BYTES), layers: new MemoryDisk(2 * TODO_FILE_BYTES),
  }
}

export async function openTable(disk: BlockDevice): Promise<PointTable> {
  return (await openPointTable(disk, OWNER, 'points')).table
}

interface VolumeStores { readonly points: StorePoints, readonly inherit: StoreInheritance }

/** Folders and files of the points of one volume. */
export function foldersOn(disks: Omit<PointDisks, 'table'>): PointFolders { return new DiskFolders(disks) as unknown as PointFolders }

/** Points of one of several volumes that share a table. */
export function pointsOf(uuid: string, table: PointTable, disks: Omit<PointDisks, 'table'>): VolumeStores {
  const folders = foldersOn(disks)
  return { points: new StorePoints(uuid, GRAIN, table, folders), inherit: new StoreInheritance(uuid, table, folders) }
}

export async function openPoints(disks: PointDisks): Promise<VolumeStores> {
  return pointsOf(UUID, await openTable(disks.table), disks)
}

const ABSENT = 0
const DELETED = 9
const KINDS = { bookmark: 1, snapshot: 2 } as const

/** A folder is a sector that says what its name would say; it changes as a rename does, durable when done. */
class DiskFolders {
  readonly #disks: Omit<PointDisks, 'table'>
  constructor(disks: Omit<PointDisks, 'table'>) { this.#disks = disks }

  identity(_volume: string, seq: number): MapIdentity { return { owner: OWNER, name: `point ${seq}`, point: seq } }

  async list() {
    const present: number[] = []
    const deleted: number[] = []
    const sector = Buffer.alloc(SECTOR)
    const { folders } = this.#disks
    for (let at = 0; at < folders.sizeBytes; at += SECTOR) {
      const run = folders.zeroRun(at, folders.sizeBytes - at)
      if (run < 0) {
        at -= run + SECTOR
        continue
      }
      const seq = at / SECTOR
      await folders.read(at, SECTOR, sector, 0)
      if (sector[0] === DELETED) deleted.push(seq)
      else if (sector[0] !== ABSENT) present.push(seq)
    }
    return { present, deleted, unfinished: [] as number[] }
  }

  async make(_volume: string, seq: number, { grains, sizeBytes, kind }: { grains: number, sizeBytes: number, kind: keyof typeof KINDS }): Promise<void> {
    const { maps, preserved } = this.#slices(seq, PRESERVED_BYTES)
    await preserved.zero(0, PRESERVED_BYTES, { allocate: false, fast: false })
    await preserved.flush()
    await formatPointMaps(maps, this.identity('', seq), grains, kind)
    await this.#name(seq, KINDS[kind], sizeBytes)
  }

  async open(_volume: string, seq: number, { kind }: { kind: keyof typeof KINDS }) {
    const sector = Buffer.alloc(SECTOR)
    await this.#disks.folders.read(seq * SECTOR, SECTOR, sector, 0)
    const there = kind === 'bookmark' ? sector[0] === KINDS.bookmark || sector[0] === KINDS.snapshot : sector[0] === KINDS.snapshot
    if (!there) {
      const { NbdeltaError } = await import('../../src/device/errors.js')
      throw new NbdeltaError('damaged', `point ${seq} has no file`)
    }
    const { maps, preserved } = this.#slices(seq, sector.readUInt32BE(8))
    return { maps, preserved: kind === 'snapshot' ? preserved : undefined, close: async () => undefined }
  }

  async openStaged(): Promise<BlockDevice> { return this.#disks.staged }
  async markDeleted(_volume: string, seq: number): Promise<void> { await this.#name(seq, DELETED, 0) }
  async removeDeleted(_volume: string, seq: number): Promise<void> { await this.#name(seq, ABSENT, 0) }
  async removeUnfinished(): Promise<void> {}

  async makeTodo(_volume: string, grains: number, fill: boolean, name: TodoName = 'todo'): Promise<void> {
    await todoMap(this.#layer(name), this.todoIdentity(), grains).format(fill)
    await this.#disks.layers.flush()
  }

  async openTodo(_volume: string, name: TodoName = 'todo') { return this.#layer(name) }
  async removeTodo(): Promise<void> {}
  todoIdentity(): MapIdentity { return { owner: OWNER, name: 'layer' } }
  #layer(name: TodoName) { return new SliceDevice(this.#disks.layers, name === 'todo' ? 0 : TODO_FILE_BYTES, TODO_FILE_BYTES) }

  async #name(seq: number, state: number, sizeBytes: number): Promise<void> {
    const sector = Buffer.alloc(SECTOR)
    sector[0] = state
    sector.writeUInt32BE(sizeBytes, 8)
    await this.#disks.folders.write(seq * SECTOR, SECTOR, sector, 0)
    await this.#disks.folders.flush()
  }

  #slices(seq: number, sizeBytes: number) {
    return {
      maps: new SliceDevice(this.#disks.maps, seq * MAPS_BYTES, MAPS_BYTES),
      preserved: new SliceDevice(this.#disks.preserved, seq * PRESERVED_BYTES, Math.max(SECTOR, sizeBytes)),
    }
  }
}

/** For a disk of an array: outlives the volume that closes it. */
export function everlasting<T extends RecordingDisk | MemoryDisk>(disk: T): T {
  disk.close = async () => undefined
  return disk
}
