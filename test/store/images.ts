// The same small store, byte for byte, every time: what FORMAT.md shows and the fixtures keep. And disk images as text.
import { GrainBitmap, PAGE_BITS } from '../../native-free/index.js'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { CATALOG_MAGIC, openCatalog, type CatalogEntry } from '../../src/store/catalog.js'
import { encodeRange, encodeRanges, JOURNAL_MAGIC, JOURNAL_TYPES } from '../../src/store/journal-records.js'
import { formatMapFile, MapFile, mapFileSizeBytes } from '../../src/store/map-file.js'
import { formatRecordLog, openRecordLog } from '../../src/store/open-record-log.js'
import { encodeIdentity, uuidBytes } from '../../src/store/store-creation.js'

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

export const IMAGES: Readonly<Record<string, () => MemoryDisk | Promise<MemoryDisk>>> = {
  'store-id': storeIdImage, 'catalog': catalogImage, 'journal': journalImage, 'map': mapImage,
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
