// A sync fails, and to the kernel what it was to write is clean: read as if it were there, until the power fails. A volume that was
// opened behind that has it written again, before its journal forgets it.
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { seededRandom } from '../../src/device/testing.js'
import { openStore, type Store } from '../../src/volume/open-store.js'
import { contentOf, SECTOR } from '../volume/storm-model.js'
import { leftOf, writeLeft } from './folder-states.js'
import { RecordedFolder } from './recorded-folder.js'
import { contentsOf } from './sectors.js'

const GRAIN = 4096
const GRAINS = 4
const STATES = 8
const root = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'nbdelta-lost-'))
t.teardown(() => rmSync(root, { recursive: true, force: true }))
let count = 0

/** The close behind `work` cannot sync `victim`; then the store is opened and closed in order, and the power fails. */
async function afterLoss(victim: RegExp, work: (store: Store) => Promise<void>, look: (store: Store, state: string) => Promise<void>): Promise<void> {
  const folder = join(root, `${++count}`)
  const empty = { paths: new Map(), links: new Map(), folders: new Set<number>(), history: [], position: 0, story: '' }
  writeLeft(empty, folder)
  const recorded = new RecordedFolder(folder)
  const path = join(folder, 'store')
  const store = await openStore({ path, create: true })
  await work(store)
  let failed = 0
  recorded.faults = {
    isHarsh: true,
    failureOf: (what, name) => {
      if (what !== 'sync' || !victim.test(name)) return undefined
      failed++
      return Object.assign(new Error('EIO: i/o error, fdatasync'), { code: 'EIO' })
    },
  }
  await store.close().catch(() => undefined)
  t.ok(failed > 0, `${victim} could not be synced`)
  recorded.faults = undefined
  await (await openStore({ path })).close()
  recorded.stop()
  for (let seed = 1; seed <= STATES; seed++) {
    const left = leftOf(recorded.history, recorded.position, 'cut', seededRandom(seed))
    rmSync(folder, { recursive: true })
    writeLeft(left, folder)
    const again = await openStore({ path })
    await look(again, left.story)
    await again.close()
  }
}

t.test('what a clone has of its own stays its own', async t => {
  await afterLoss(/\/base$/, async store => {
    const source = await store.createVolume({ name: 'v', sizeBytes: GRAINS * GRAIN, grainBytes: GRAIN })
    await source.write(0, GRAINS * GRAIN, contentOf(1, GRAINS * GRAIN), 0)
    await source.points.create({ name: 's', kind: 'snapshot' })
    const clone = await store.cloneVolume({ name: 'c', from: { volume: 'v', point: 's' } })
    await clone.write(0, GRAIN, contentOf(7, GRAIN), 0)
    await clone.flush()
  }, async (store, state) => {
    const expected = Array.from({ length: GRAINS * GRAIN / SECTOR }, (_, sector) => sector < GRAIN / SECTOR ? 7 : 1)
    t.same(await contentsOf(store.get('c')!), expected, state)
  })
})

t.test('what has changed is marked', async t => {
  await afterLoss(/\/points\/1\/maps$/, async store => {
    const volume = await store.createVolume({ name: 'v', sizeBytes: GRAINS * GRAIN, grainBytes: GRAIN })
    await volume.points.create({ name: 'b', kind: 'bookmark' })
    await volume.write(0, GRAINS * GRAIN, contentOf(1, GRAINS * GRAIN), 0)
    await volume.flush()
  }, async (store, state) => {
    t.same(store.get('v')!.points.changedRuns('b'), [{ start: 0, end: GRAINS }], state)
  })
})

t.test('what a snapshot keeps is its own', async t => {
  await afterLoss(/\/points\/1\/maps$/, async store => {
    const volume = await store.createVolume({ name: 'v', sizeBytes: GRAINS * GRAIN, grainBytes: GRAIN })
    await volume.write(0, GRAINS * GRAIN, contentOf(1, GRAINS * GRAIN), 0)
    await volume.points.create({ name: 's', kind: 'snapshot' })
    await volume.write(0, GRAIN, contentOf(2, GRAIN), 0)
    await volume.trim(GRAIN, GRAIN)
    await volume.flush()
  }, async (store, state) => {
    const snapshot = store.get('v')!.points.open('s')
    t.same(new Set(await contentsOf(snapshot)), new Set([1]), state)
    await snapshot.close()
  })
})

t.test('what clients had written, and a later flush has answered for', async t => {
  await afterLoss(/\/live$/, async store => {
    const volume = await store.createVolume({ name: 'v', sizeBytes: GRAINS * GRAIN, grainBytes: GRAIN })
    await volume.write(0, GRAINS * GRAIN, contentOf(1, GRAINS * GRAIN), 0)
    await volume.flush()
    await volume.write(GRAIN, 2 * GRAIN, contentOf(2, 2 * GRAIN), 0)
  }, async (store, state) => {
    const expected = [1, 2, 2, 1].flatMap(value => Array.from({ length: GRAIN / SECTOR }, () => value))
    t.same(await contentsOf(store.get('v')!), expected, state)
  })
})
