// Format version 1: what was written then is read now, and what is written now is the same, byte for byte.
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { decodeRecord, GrainBitmap } from '../../native-free/index.js'
import type { MemoryDisk } from '../../src/device/memory-disk.js'
import { openCatalog } from '../../src/store/catalog.js'
import { decodeJournalRecord, JOURNAL_MAGIC } from '../../src/store/journal-records.js'
import { MapFile } from '../../src/store/map-file.js'
import { openRecordLog } from '../../src/store/open-record-log.js'
import { STORE_MAGIC, uuidBytes } from '../../src/store/store-creation.js'
import { fromHex, IMAGES, MAP_GRAINS, mapBits, STORE, toHex, VOLUME, volumeEntry } from './images.js'

/** dist/test/store -> test/store/fixtures */
const FIXTURES = fileURLToPath(new URL('../../../test/store/fixtures/', import.meta.url))
const textOf = (name: string): string => readFileSync(`${FIXTURES}v1-${name}.hex`, 'latin1')
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

t.test('what is written today is version 1, byte for byte', async t => {
  for (const [name, make] of Object.entries(IMAGES)) t.equal(toHex(await make()), textOf(name), name)
})
