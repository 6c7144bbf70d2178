// D6: every crash state of a catalog at work shows each change whole or not at all, none of those that were confirmed is
// missing, and at most the one that was being made is there besides.
import t from 'tap'
import { crashStates } from '../../src/device/crash.js'
import { DiskArray } from '../../src/device/disk-array.js'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { seededRandom } from '../../src/device/random.js'
import { CATALOG_MAGIC, openCatalog, type CatalogEntry } from '../../src/store/catalog.js'
import { formatRecordLog } from '../../src/store/open-record-log.js'

const SEED = Number(process.env.SEED ?? Date.now() % 1e9)
const SCRIPTS = 12
const CHANGES = 60
t.setTimeout(120_000)
t.comment(`SEED=${SEED}`)
const OWNER = Buffer.from('0123456789abcdef')

/** The catalog's content in one line. */
const told = (entries: readonly CatalogEntry[]): string => entries.map(({ name, sizeBytes }) => `${name}=${sizeBytes}`).join(' ')

function randomEntry(n: number, sizeBytes: number): CatalogEntry {
  return {
    uuid: `00000000-0000-4000-8000-${n.toString().padStart(12, '0')}`, name: `v${n}`, sizeBytes, grainBytes: 4096, backing: null,
    createdAt: '2026-01-02T03:04:05Z', description: 'x'.repeat(sizeBytes % 900),
  }
}

t.test('D6: a catalog after every crash', async t => {
  let states = 0
  for (let script = 0; script < SCRIPTS; script++) {
    const random = seededRandom(SEED + script)
    const start = new MemoryDisk(48 * 1024)
    await formatRecordLog(start, { magic: CATALOG_MAGIC, owner: OWNER, name: 'catalog.log' })
    // A note = [what is confirmed, what may be there as well].
    const array = new DiskArray<'log', readonly [string, string]>({ log: start }, { lateFlush: script % 2 === 0 })
    array.note(['', ''])
    const { catalog } = await openCatalog(array.disk('log'), OWNER, 'catalog.log')
    for (let i = 0; i < CHANGES; i++) {
      const before = catalog.list()
      const n = random(6)
      const entry = randomEntry(n, 512 * (1 + random(5000)))
      const others = before.filter(({ name }) => name !== `v${n}`)
      const put = random(3) > 0
      const after = put ? [...others, entry].sort((a, b) => a.name < b.name ? -1 : 1) : others
      array.note([told(before), told(after)])
      if (put) await catalog.put(entry)
      else await catalog.remove(`v${n}`)
      array.note([told(after), told(after)])
    }
    for (const state of crashStates(array, { seed: SEED + script, statesMax: 1200 })) {
      states++
      const [sure, maybe] = state.notes.at(-1)!
      const found = told((await openCatalog(state.disks.log, OWNER, 'catalog.log')).catalog.list())
      if (found === sure || found === maybe) continue
      t.fail(`SEED=${SEED} script ${script} position ${state.position}: ${state.story}: ${found}`)
    }
  }
  t.comment(`${states} states`)
  t.ok(states > 5000)
})
