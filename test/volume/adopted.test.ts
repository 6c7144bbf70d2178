// A volume goes, and the file that it had adopted stays: with what the volume showed, whatever of that was elsewhere until then.
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { openStore, type Store } from '../../src/volume/open-store.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { readAll } from './lab.js'

const G = 4096
const GRAINS = 8

interface Adopted { readonly store: Store, readonly volume: StoreVolume, readonly image: string }

/** Of ones, with a snapshot of them. */
async function adopted(t: Test): Promise<Adopted> {
  const folder = t.testdir()
  const image = join(folder, 'image')
  writeFileSync(image, Buffer.alloc(GRAINS * G, 1))
  const store = await openStore({ path: join(folder, 'store'), create: true })
  t.teardown(() => store.close())
  const volume = await store.createVolume({ name: 'v', backing: image, grainBytes: G })
  await volume.points.create({ name: 's', kind: 'snapshot' })
  return { store, volume, image }
}

async function deleted(t: Test, { store, volume, image }: Adopted): Promise<void> {
  const shown = await readAll(volume)
  await store.deleteVolume('v')
  t.ok(readFileSync(image).equals(shown), 'the file holds what the volume showed')
}

t.test('trimmed, and lent to a snapshot', async t => {
  const all = await adopted(t)
  await all.volume.trim(0, 4 * G)
  await deleted(t, all)
})

t.test('trimmed, and no snapshot needs it', async t => {
  const all = await adopted(t)
  await all.volume.points.delete('s')
  await all.volume.zero(0, 4 * G, { allocate: false, fast: false })
  await deleted(t, all)
})

t.test('restored, and not copied yet', async t => {
  const all = await adopted(t)
  await all.volume.write(0, GRAINS * G, Buffer.alloc(GRAINS * G, 2), 0)
  await all.volume.restore({ from: 's', bytesPerSecond: 1 })
  await deleted(t, all)
})

t.test('restored from another volume, and from holes', async t => {
  const all = await adopted(t)
  const other = await all.store.createVolume({ name: 'other', sizeBytes: GRAINS * G, grainBytes: G })
  await other.write(3 * G, G, Buffer.alloc(G, 9), 0)
  await other.points.create({ name: 's', kind: 'snapshot' })
  await all.volume.restore({ from: 's', sourceVolume: other, bytesPerSecond: 1 })
  await deleted(t, all)
})

t.test('written, and still in the staging log', async t => {
  const all = await adopted(t)
  await all.volume.write(0, 4 * G, Buffer.alloc(4 * G, 3), 0)
  await deleted(t, all)
})

t.test('without room for what a snapshot has lent in the file it stays a volume', async t => {
  const { store, volume, image } = await adopted(t)
  await volume.trim(0, 4 * G)
  await store.setSpace('v', { budgetBytes: 0, order: 'fail' })
  await t.rejects(store.deleteVolume('v'), { code: 'no-space', message: /no room to bring/ })
  t.ok((await readAll(store.get('v')!)).subarray(0, 4 * G).every(byte => byte === 0), 'as it was')
  t.ok(existsSync(image))
  await volume.points.delete('s')
  await deleted(t, { store, volume, image })
})

t.test('while what a restore has to copy is in a volume that is not open it stays a volume', async t => {
  const { store, volume, image } = await adopted(t)
  const other = await store.createVolume({ name: 'other', sizeBytes: GRAINS * G, grainBytes: G })
  await other.write(3 * G, G, Buffer.alloc(G, 9), 0)
  await other.points.create({ name: 's', kind: 'snapshot' })
  await volume.restore({ from: 's', sourceVolume: other, bytesPerSecond: 1 })
  const shown = await readAll(volume)
  await store.close()
  const path = join(t.testdirName, 'store')
  const journal = join(path, 'volumes', other.uuid, 'journal')
  renameSync(journal, `${journal}.away`)
  const without = await openStore({ path })
  await t.rejects(without.deleteVolume('v'), { code: 'busy', message: /has not all of what volume 'v' shows/ })
  await without.close()
  renameSync(`${journal}.away`, journal)
  const again = await openStore({ path })
  await again.deleteVolume('v')
  t.ok(readFileSync(image).equals(shown), 'the file holds what the volume showed')
  await again.close()
})
