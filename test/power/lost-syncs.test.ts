// A sync fails, and to the kernel what it was to write is clean: read as if it were there, until the power fails. A volume that was
// opened behind that has it written again, before its journal forgets it.
import t from 'tap'
import { openStore, type Store } from '../../src/volume/open-store.js'
import { contentOf, SECTOR } from '../volume/storm-model.js'
import { RecordedStore } from './recorded-store.js'
import { contentsOf } from './sectors.js'

const GRAIN = 4096
const GRAINS = 4
const STATES = 8

/** The close behind `work` cannot sync `victim`; then the store is opened and closed in order, and the power fails. */
async function afterLoss(victim: RegExp, work: (store: Store) => Promise<void>, look: (store: Store, state: string) => Promise<void>): Promise<void> {
  const recorded = new RecordedStore()
  t.teardown(() => { recorded.remove() })
  const { path } = recorded
  const store = await openStore({ path, create: true })
  await work(store)
  recorded.failSyncs(name => victim.test(name))
  await store.close().catch(() => undefined)
  t.ok(recorded.failed > 0, `${victim} could not be synced`)
  recorded.failSyncs(undefined)
  await (await openStore({ path })).close()
  await recorded.eachLeft(STATES, look)
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
