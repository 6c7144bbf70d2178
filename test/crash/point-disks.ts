/**
 * The points of a volume on disks of a DiskArray, so that crash states know them: the real table of points on a small log,
 * folders as sectors of one disk, and the files of each point on disks of their own.
 *
 *   folders   sector SEQ: what the folder's name says. A rename is that sector's write, durable with a flush, as the real
 *             one is with the sync of the folder around it. (`.new` folders do not show: they mean nothing.)
 *   files     maps and preserved of the point; making it anew empties them first
 *   staged    the staging log, small enough to fill often
 */
import { divCeil } from '../../native-free/integer.js'
import type { BlockDevice } from '../../src/device/block-device.js'
import type { MemoryDisk } from '../../src/device/testing.js'
import type { MapIdentity } from '../../src/store/map-file.js'
import { formatRecordLog } from '../../src/store/open-record-log.js'
import { formatPointMaps, pointMapsLayout } from '../../src/store/point-maps.js'
import { openPointTable, POINTS_MAGIC, type PointTable } from '../../src/store/point-table.js'
import { PointDisk } from '../../src/volume/point-disk.js'
import type { PointFiles, PointRecord, PointStore } from '../../src/volume/point-store.js'
import type { PointKind } from '../../src/volume/snappoint.js'

const SECTOR = 512
/** Both halves: some dozens of changes, so that it is rewritten now and then. */
export const TABLE_BYTES = 64 * 1024
/** Points a volume may have made in one history. */
export const SLOTS = 6
export const FOLDERS_BYTES = (SLOTS + 1) * SECTOR
/** Two marks, and halves that take four strokes of one grain each, or one of six. */
export const STAGED_BYTES = 8192 + 2 * 32 * 1024
const TABLE_OWNER = Buffer.alloc(16, 7)
const NONE = 0
const PRESENT = 1
const DELETED = 2

export type FileDevice = BlockDevice & { resize(sizeBytes: number): Promise<void> }
export type Devices = (name: string) => FileDevice

export async function formatTable(disk: MemoryDisk): Promise<MemoryDisk> {
  await formatRecordLog(disk, { magic: POINTS_MAGIC, owner: TABLE_OWNER, name: 'points' })
  return disk
}

export async function openTable(device: BlockDevice): Promise<PointTable> {
  return (await openPointTable(device, TABLE_OWNER, 'points')).table
}

/** Names of the disks that a volume with points has beside its own three. */
export function slotNames(prefix: string): string[] {
  return [`${prefix}folders`, ...Array.from({ length: SLOTS }, (_, i) => [mapsOf(prefix, i + 1), preservedOf(prefix, i + 1)]).flat()]
}

export class PointDisks implements PointStore {
  readonly #uuid: string
  readonly #prefix: string
  readonly #table: PointTable
  readonly #devices: Devices
  readonly #grainBytes: number
  readonly #staging: boolean
  #highest = 0
  /** The last number given out, or seen. */
  #given = 0

  constructor(uuid: string, prefix: string, table: PointTable, devices: Devices, grainBytes: number, staging = false) {
    this.#staging = staging
    this.#uuid = uuid
    this.#prefix = prefix
    this.#table = table
    this.#devices = devices
    this.#grainBytes = grainBytes
    this.#given = Math.max(0, ...table.list(uuid).map(({ seq }) => seq))
  }

  get inDoubt(): boolean { return this.#table.inDoubt }
  /** A number is left for one more point. */
  get hasRoom(): boolean { return this.#given < SLOTS }

  list(): readonly PointRecord[] {
    return this.#table.list(this.#uuid).map(({ volume: _, state, ...info }) => ({ ...info, deleting: state === 'deleting' }))
  }

  nextSeq(): number { return this.#given = this.#table.nextSeq(this.#uuid, this.#highest) }

  async put(points: readonly PointRecord[], remove: readonly PointRecord[]): Promise<void> {
    const volume = this.#uuid
    await this.#table.put({
      points: points.map(({ deleting, ...info }) => ({ ...info, volume, state: deleting ? 'deleting' as const : 'ready' as const })),
      removePoints: remove.map(({ seq }) => ({ volume, seq })),
    })
  }

  async folders() {
    const sectors = await this.#sectors()
    const found: { seq: number, kind: PointKind, sizeBytes: number }[] = []
    for (let seq = 1; seq <= SLOTS; seq++) {
      const at = seq * SECTOR
      if (sectors[at] === NONE) continue
      this.#highest = this.#given = seq
      if (sectors[at] === DELETED) await this.removeDeleted(seq)
      else found.push({ seq, kind: sectors[at + 1] === 1 ? 'snapshot' : 'bookmark', sizeBytes: sectors.readUIntBE(at + 2, 6) })
    }
    return found
  }

  async make(seq: number, kind: PointKind, sizeBytes: number): Promise<PointFiles> {
    const grains = divCeil(sizeBytes, this.#grainBytes)
    const maps = this.#devices(mapsOf(this.#prefix, seq))
    const preserved = this.#devices(preservedOf(this.#prefix, seq))
    for (const file of [maps, preserved]) await file.resize(0)
    await maps.resize(pointMapsLayout(grains, kind).sizeBytes)
    await formatPointMaps(maps, this.#identity(seq), grains, kind)
    if (kind === 'snapshot') await preserved.resize(sizeBytes)
    await preserved.flush()
    await this.#name(seq, PRESENT, kind, sizeBytes)
    return (await this.open(seq, kind, sizeBytes)).fresh()
  }

  async staged() {
    if (!this.#staging) return undefined
    const device = this.#devices(`${this.#prefix}staged`)
    device.close = async () => undefined
    return { device, owner: this.#owner, name: 'staging log' }
  }

  async open(seq: number, kind: PointKind, sizeBytes: number): Promise<PointDisk> {
    const maps = this.#devices(mapsOf(this.#prefix, seq))
    const preserved = kind === 'snapshot' ? this.#devices(preservedOf(this.#prefix, seq)) : undefined
    return new PointDisk({ maps, preserved, close: async () => undefined }, this.#identity(seq), divCeil(sizeBytes, this.#grainBytes), kind)
  }

  async markDeleted(seq: number): Promise<void> {
    if ((await this.#sectors())[seq * SECTOR] === PRESENT) await this.#name(seq, DELETED)
  }

  async removeDeleted(seq: number): Promise<void> {
    if ((await this.#sectors())[seq * SECTOR] === DELETED) await this.#name(seq, NONE)
  }

  /** Numbers of all folders there are, whatever they are called. */
  async leftFolders(): Promise<number[]> {
    const sectors = await this.#sectors()
    return Array.from({ length: SLOTS }, (_, i) => i + 1).filter(seq => sectors[seq * SECTOR] !== NONE)
  }

  async #sectors(): Promise<Buffer> {
    const sectors = Buffer.alloc(FOLDERS_BYTES)
    await this.#devices(`${this.#prefix}folders`).read(0, FOLDERS_BYTES, sectors, 0)
    return sectors
  }

  async #name(seq: number, state: number, kind?: PointKind, sizeBytes = 0): Promise<void> {
    const sector = Buffer.alloc(SECTOR)
    sector[0] = state
    sector[1] = kind === 'snapshot' ? 1 : 0
    sector.writeUIntBE(sizeBytes, 2, 6)
    const disk = this.#devices(`${this.#prefix}folders`)
    await disk.write(seq * SECTOR, SECTOR, sector, 0)
    await disk.flush()
  }

  get #owner(): Buffer { return Buffer.from(this.#uuid.replaceAll('-', ''), 'hex') }

  #identity(seq: number): MapIdentity { return { owner: this.#owner, name: `point ${seq}`, point: seq } }
}

function mapsOf(prefix: string, seq: number): string { return `${prefix}maps${seq}` }
function preservedOf(prefix: string, seq: number): string { return `${prefix}preserved${seq}` }
