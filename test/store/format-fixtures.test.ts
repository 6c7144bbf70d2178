// Format versions 1 and 2: what was written then is read now, and what is written now is the same, byte for byte.
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { decodeRecord, GrainBitmap, PAGE_BITS } from '../../native-free/index.js'
import type { MemoryDisk } from '../../src/device/memory-disk.js'
import { openCatalog } from '../../src/store/catalog.js'
import { decodeJournalRecord, JOURNAL_MAGIC } from '../../src/store/journal-records.js'
import { MapFile } from '../../src/store/map-file.js'
import { openRecordLog } from '../../src/store/open-record-log.js'
import { openPointTable } from '../../src/store/point-table.js'
import { STORE_MAGIC, uuidBytes } from '../../src/store/store-creation.js'
import { TwinMap } from '../../src/store/twin-map.js'
import {
  fromHex, IMAGES_1, IMAGES_2, MAP_GRAINS, mapBits, POINT, STORE, toHex, TWIN, VOLUME, VOLUME_STATE, volumeEntry,
} from './images.js'

/** dist/test/store -> test/store/fixtures */
const FIXTURES = fileURLToPath(new URL('../../../test/store/fixtures/', import.meta.url))
const textOf = (name: string): string => readFileSync(`${FIXTURES}${name in IMAGES_2 ? 'v2' : 'v1'}-${name}.hex`, 'latin1')
const imageOf = (name: string): MemoryDisk => fromHex(textOf(name))

t.test('version 1: store.id', async t => {
  const bytes = imageOf('store-id').toBuffer()
  const found = decodeRecord({ magic: STORE_MAGIC, version: 1, owner: Buffer.alloc(16), address: 0 }, bytes, 0)
  if (!found.ok) return t.fail(found.reason)
  t.strictSame(JSON.parse(found.payload.toString()), STORE)
})

t.test('version 1: catalog', async t => {
  const { catalog, recovery } = await openCatalog(imageOf('catalog'), uuidBytes(STORE.uuid), 'catalog.log')
  t.strictSame([catalog.list(), recovery], [[volumeEntry('db', 2)], []])
})

t.test('version 1: journal', async t => {
  const identity = { magic: JOURNAL_MAGIC, owner: uuidBytes(VOLUME), name: 'journal' }
  const { records, recovery } = await openRecordLog(imageOf('journal'), identity)
  t.strictSame(recovery, [])
  t.strictSame(records.map(record => decodeJournalRecord(record, 'journal')), [
    { kind: 'zero', ranges: [{ start: 0, end: 5 }, { start: 100, end: 2 ** 40 }] },
    { kind: 'open', ranges: [{ start: 3, end: 4 }] },
    { kind: 'open', ranges: [{ start: 7, end: 8 }] },
    { kind: 'zero', ranges: [{ start: 5, end: 9 }] },
  ])
})

t.test('version 1: map', async t => {
  const found = new GrainBitmap(MAP_GRAINS)
  t.strictSame(await new MapFile(imageOf('map'), { owner: uuidBytes(VOLUME), name: 'map' }, MAP_GRAINS).load(found), [])
  t.ok(found.equals(mapBits()))
})

t.test('version 2: store.id', async t => {
  const bytes = imageOf('store-id-2').toBuffer()
  const place = { magic: STORE_MAGIC, version: 2, owner: Buffer.alloc(16), address: 0 }
  const found = decodeRecord(place, bytes, 0)
  if (!found.ok) return t.fail(found.reason)
  t.strictSame([found.version, JSON.parse(found.payload.toString())], [2, STORE])
  t.strictSame(decodeRecord({ ...place, version: 1 }, bytes, 0), { ok: false, reason: 'version' }, 'refused by version 1')
})

t.test('version 2: points', async t => {
  const { table, recovery } = await openPointTable(imageOf('points'), uuidBytes(STORE.uuid), 'points.log')
  t.strictSame([table.list(VOLUME), table.state(VOLUME), table.groups(), recovery],
    [[POINT], VOLUME_STATE, [{ name: 'all', volumes: [VOLUME] }], []])
  t.equal(table.nextSeq(VOLUME), 3)
})

t.test('version 2: journal', async t => {
  const identity = { magic: JOURNAL_MAGIC, owner: uuidBytes(VOLUME), name: 'journal' }
  const { records } = await openRecordLog(imageOf('journal-2'), identity)
  const ranges = [{ start: 5, end: 9 }, { start: 100, end: 2 ** 40 }]
  t.strictSame(records.map(record => decodeJournalRecord(record, 'journal')), [
    ...['preserve', 'preserveZero', 'lend', 'hot'].map(kind => ({ kind, ranges, seq: 3 })),
    { kind: 'inherited', ranges: [{ start: 7, end: 8 }] },
  ])
})

t.test('version 2: twin maps', async t => {
  const found = new GrainBitmap(MAP_GRAINS)
  const { damagedPages, faults } = await new TwinMap(imageOf('twin'), TWIN, MAP_GRAINS).load(found)
  t.strictSame([damagedPages, faults.length], [[1], 3])
  const wanted = mapBits()
  wanted.clear(PAGE_BITS, 2 * PAGE_BITS)
  t.ok(found.equals(wanted))
})

t.test('what is written today is what was written then, byte for byte', async t => {
  for (const [name, make] of Object.entries({ ...IMAGES_1, ...IMAGES_2 })) t.equal(toHex(await make()), textOf(name), name)
})
