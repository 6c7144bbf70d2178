// src/store/FORMAT.md stays true: its examples are what the code writes, its numbers what the code uses.
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import * as catalog from '../../src/store/catalog.js'
import * as journal from '../../src/store/journal-records.js'
import * as map from '../../src/store/map-file.js'
import * as pool from '../../src/store/file-pool.js'
import * as entry from '../../src/store/point-entry.js'
import * as index from '../../src/store/point-index.js'
import * as maps from '../../src/store/point-maps.js'
import * as table from '../../src/store/point-table.js'
import * as layout from '../../src/store/record-log-layout.js'
import * as creation from '../../src/store/store-creation.js'
import { IMAGES_1, IMAGES_2 } from './images.js'

const IMAGES = { ...IMAGES_1, ...IMAGES_2 }
const PAGE = readFileSync(fileURLToPath(new URL('../../../src/store/FORMAT.md', import.meta.url)), 'utf8')

t.test('every example is a part of an image, byte for byte', async t => {
  const examples = [...PAGE.matchAll(/```hex (\S+) (\d+)\n([^`]*)```/g)]
  t.ok(examples.length >= 7)
  const shown = new Set<string>()
  for (const [, name, offset, text] of examples) {
    shown.add(name)
    const image = (await IMAGES[name]()).toBuffer()
    text.trim().split('\n').forEach((line, i) => {
      const [, at, hex] = /^([0-9a-f]{4}) {2}((?:[0-9a-f]{2} ?){1,16})(?: |$)/.exec(line)!
      t.equal(parseInt(at, 16), 16 * i)
      const start = Number(offset) + 16 * i
      const bytes = Buffer.from(hex.replaceAll(' ', ''), 'hex')
      t.equal(image.subarray(start, start + bytes.length).toString('hex'), bytes.toString('hex'), `${name} ${start}`)
    })
  }
  t.strictSame([...shown].sort(), Object.keys(IMAGES).sort(), 'something of each file is shown')
})

t.test('every number in the table of sizes is the code\'s', async t => {
  const constants: Record<string, unknown> = {
    ...catalog, ...journal, ...map, ...layout, ...creation, ...pool, ...entry, ...index, ...maps, ...table,
  }
  const rows = [...PAGE.matchAll(/^\| [^|]+ \| (\d+) \| ([A-Z_]+) \|$/gm)]
  t.ok(rows.length >= 8)
  for (const [, value, name] of rows) t.equal(constants[name], Number(value), name)
})

t.test('every record type and rule is named', async t => {
  const nameOf = (kind: string): string => kind.replace(/[A-Z]/g, letter => `_${letter}`).toUpperCase()
  for (const [kind, type] of Object.entries(journal.JOURNAL_TYPES)) t.match(PAGE, `| ${type} | ${nameOf(kind)} |`)
  for (const type of [layout.TYPE_HEADER, layout.TYPE_RETIRED, layout.TYPE_MARK]) t.match(PAGE, `| 0x${type.toString(16)} |`)
  for (const magic of [catalog.CATALOG_MAGIC, journal.JOURNAL_MAGIC, map.MAP_MAGIC, creation.STORE_MAGIC, table.POINTS_MAGIC]) {
    const letters = Buffer.alloc(4)
    letters.writeUInt32BE(magic)
    t.match(PAGE, `\`${letters.toString()}\``)
  }
})
