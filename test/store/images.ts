// The same small store, byte for byte, every time: what FORMAT.md shows and the fixtures keep. And disk images as text.
import { GrainBitmap, PAGE_BITS } from '../../native-free/index.js'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { CATALOG_MAGIC, openCatalog, type CatalogEntry } from '../../src/store/catalog.js'
import { encodeRange, encodeRanges, JOURNAL_MAGIC, JOURNAL_TYPES } from '../../src/store/journal-records.js'
import type { PointEntry, VolumeState } from '../../src/store/point-entry.js'
import { formatMapFile, MapFile, mapFileSizeBytes } from '../../src/store/map-file.js'
import { formatRecordLog, openRecordLog } from '../../src/store/open-record-log.js'
import { openPointTable, POINTS_MAGIC } from '../../src/store/point-table.js'
import { encodeIdentity, uuidBytes } from '../../src/store/store-creation.js'
import { TwinMap } from '../../src/store/twin-map.js'

export const STORE = { uuid: '6e626465-6c74-4130-8000-000000000001', createdAt: '2026-01-02T03:04:05.678Z' }
export const VOLUME = '6e626465-6c74-4130-8000-000000000002'
/** Small: a log may have any size from 32 KiB on. */
const LOG_BYTES = 32 * 1024

export function volumeEntry(name: string, last: number): CatalogEntry {
  const { createdAt } = STORE
  const uuid = `${VOLUME.slice(0, -1)}${last}`
  return { uuid, name, sizeBytes: 2 ** 30, grainBytes: 4096, backing: null, createdAt, description: '' }
}

export function storeIdImage(): MemoryDisk { return MemoryDisk.from(encodeIdentity(STORE)) }

/** Two volumes, one of them deleted again. */
export async function catalogImage(): Promise<MemoryDisk> {
  const disk = new MemoryDisk(LOG_BYTES)
  const owner = uuidBytes(STORE.uuid)
  await formatRecordLog(disk, { magic: CATALOG_MAGIC, owner, name: 'catalog.log' })
  const { catalog } = await openCatalog(disk, owner, 'catalog.log')
  await catalog.put(volumeEntry('db', 2))
  await catalog.put(volumeEntry('scratch', 3))
  await catalog.remove('scratch')
  await catalog.close()
  return disk
}

/** One record of every kind there was in version 1, then a snapshot, then two more, of which the last is not synced. */
export async function journalImage(): Promise<MemoryDisk> {
  const disk = new MemoryDisk(LOG_BYTES)
  const identity = { magic: JOURNAL_MAGIC, owner: uuidBytes(VOLUME), name: 'journal' }
  await formatRecordLog(disk, identity)
  const { log } = await openRecordLog(disk, identity)
  for (const [i, type] of Object.values(JOURNAL_TYPES).slice(0, 5).entries()) log.append(type, encodeRange(10 * i, 10 * i + 5))
  await log.sync()
  const stale = [{ start: 0, end: 5 }, { start: 100, end: 2 ** 40 }]
  await log.rewrite([...encodeRanges('zero', stale), ...encodeRanges('open', [{ start: 3, end: 4 }])])
  log.append(JOURNAL_TYPES.open, encodeRange(7, 8))
  await log.sync()
  log.append(JOURNAL_TYPES.zero, encodeRange(5, 9))
  await log.close()
  return disk
}

export const MAP_GRAINS = 3 * PAGE_BITS + 100
export function mapBits(): GrainBitmap {
  const bitmap = new GrainBitmap(MAP_GRAINS)
  bitmap.set(5, 9)
  bitmap.set(PAGE_BITS, 2 * PAGE_BITS)
  bitmap.set(3 * PAGE_BITS, MAP_GRAINS)
  return bitmap
}

/** Pages: mixed, set, clear, set (and short). */
export async function mapImage(): Promise<MemoryDisk> {
  const disk = new MemoryDisk(mapFileSizeBytes(MAP_GRAINS))
  const identity = { owner: uuidBytes(VOLUME), name: 'map' }
  await formatMapFile(disk, identity, MAP_GRAINS, false)
  const map = new MapFile(disk, identity, MAP_GRAINS)
  await map.load(new GrainBitmap(MAP_GRAINS))
  await map.save(mapBits(), [0, 1, 2, 3])
  await map.flush()
  return disk
}

/** A store that has had a point. */
export function storeId2Image(): MemoryDisk { return MemoryDisk.from(encodeIdentity(STORE, 2)) }

export const POINT: PointEntry = {
  uuid: '6e626465-6c74-4130-8000-000000000011', volume: VOLUME, seq: 1, name: 'monday', kind: 'snapshot', createdAt: STORE.createdAt,
  sizeBytes: 2 ** 30, labels: { auto: 'undo' }, group: null, pins: [{ owner: 'restore', expiresAt: null }], state: 'ready',
}
export const VOLUME_STATE: VolumeState = {
  volume: VOLUME, inherit: { kind: 'restore', source: { volume: VOLUME, point: POINT.uuid }, undo: POINT.uuid }, schedule: { keep: 7 },
}

/** A point with a pin, a state and a group, and the number of a point that is gone. */
export async function pointsImage(): Promise<MemoryDisk> {
  const disk = new MemoryDisk(LOG_BYTES)
  const owner = uuidBytes(STORE.uuid)
  await formatRecordLog(disk, { magic: POINTS_MAGIC, owner, name: 'points.log' })
  const { table } = await openPointTable(disk, owner, 'points.log')
  await table.put({ points: [POINT] })
  await table.put({ volumes: [VOLUME_STATE], groups: [{ name: 'all', volumes: [VOLUME] }], removePoints: [{ volume: VOLUME, seq: 2 }] })
  await table.close()
  return disk
}

/** The records that came with points, one of each. */
export async function journal2Image(): Promise<MemoryDisk> {
  const disk = new MemoryDisk(LOG_BYTES)
  const identity = { magic: JOURNAL_MAGIC, owner: uuidBytes(VOLUME), name: 'journal' }
  await formatRecordLog(disk, identity)
  const { log } = await openRecordLog(disk, identity)
  for (const kind of ['preserve', 'preserveZero', 'lend', 'hot'] as const) {
    for (const { type, payload } of encodeRanges(kind, [{ start: 5, end: 9 }, { start: 100, end: 2 ** 40 }], 3)) log.append(type, payload)
  }
  for (const { type, payload } of encodeRanges('inherited', [{ start: 7, end: 8 }])) log.append(type, payload)
  await log.sync()
  await log.close()
  return disk
}

/** Point 3 of the volume, from 4096 of its file on. Page 0 is good in B alone, page 1 in neither. */
export const TWIN = { owner: uuidBytes(VOLUME), name: 'twin', point: 3, base: 4096 }
export async function twinImage(): Promise<MemoryDisk> {
  const half = mapFileSizeBytes(MAP_GRAINS)
  const disk = new MemoryDisk(2 * half)
  const twin = new TwinMap(disk, TWIN, MAP_GRAINS)
  await twin.format(false)
  const bitmap = mapBits()
  bitmap.clear(PAGE_BITS, PAGE_BITS + 1)
  await twin.save(bitmap, [0, 1, 2, 3])
  const page = (twinIndex: number, index: number): number => twinIndex * half + 512 + index * 4608
  for (const at of [page(0, 0), page(0, 1), page(1, 1)]) disk.write(at + 100, 4, Buffer.from('torn'), 0)
  // Saved by somebody who knew of the loss, the directories say so.
  const again = new TwinMap(disk, TWIN, MAP_GRAINS)
  await again.load(new GrainBitmap(MAP_GRAINS))
  await again.saveInto(1, bitmap, [3])
  return disk
}

type Images = Readonly<Record<string, () => MemoryDisk | Promise<MemoryDisk>>>
/** What a store consists of that never had a point. */
export const IMAGES_1: Images = { 'store-id': storeIdImage, 'catalog': catalogImage, 'journal': journalImage, 'map': mapImage }
/** What comes with points. */
export const IMAGES_2: Images = {
  'store-id-2': storeId2Image, 'points': pointsImage, 'journal-2': journal2Image, 'twin': twinImage,
}

const LINE_BYTES = 32

/** An image as text: its size, and every line of 32 bytes that is not all zeros. */
export function toHex(disk: MemoryDisk): string {
  const bytes = disk.toBuffer()
  const lines = [`size ${bytes.length}`]
  for (let at = 0; at < bytes.length; at += LINE_BYTES) {
    const line = bytes.subarray(at, at + LINE_BYTES)
    if (line.some(byte => byte !== 0)) lines.push(`${at} ${line.toString('hex')}`)
  }
  return lines.join('\n') + '\n'
}

export function fromHex(text: string): MemoryDisk {
  const [size, ...lines] = text.trim().split('\n')
  const disk = new MemoryDisk(Number(size.slice('size '.length)))
  for (const line of lines) {
    const [at, hex] = line.split(' ')
    const bytes = Buffer.from(hex, 'hex')
    disk.write(Number(at), bytes.length, bytes, 0)
  }
  return disk
}
