// Clones: writable at once, nothing copied, their base pinned; snapshots of clones, clones of clones, promotion, deletion, crashes.
import { join } from 'node:path'
import t from 'tap'
import { openStore, type Store } from '../../src/volume/open-store.js'
import type { OpenStoreVolume, StoreVolume } from '../../src/volume/store-volume.js'
import { late, readAll } from './lab.js'

const G = 4096
/** Timers of the store do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))
const MIB = 2 ** 20

async function freshStore(t: { testdir(): string }): Promise<{ store: Store, path: string }> {
  const path = join(t.testdir(), 'store')
  return { store: await openStore({ path, create: true }), path }
}

const fill = async (volume: StoreVolume, value: number, from: number, grains: number): Promise<void> => {
  await volume.write(from * G, grains * G, Buffer.alloc(grains * G, value), 0)
}
const grains = async (volume: Parameters<typeof readAll>[0], count = 8): Promise<string> => {
  const content = await readAll(volume, 0, count * G)
  return Array.from({ length: count }, (_, grain) => content[grain * G]).join('')
}
const of = async (volume: StoreVolume, point: string): Promise<string> => {
  const device = volume.points.open(point)
  const found = await grains(device)
  await device.close()
  return found
}

t.test('a clone shows the snapshot, is written to, and disturbs nobody', async t => {
  const { store, path } = await freshStore(t)
  const base = await store.createVolume({ name: 'base', sizeBytes: 4 * MIB, grainBytes: G })
  await fill(base, 1, 0, 6)
  await base.points.create({ name: 's', kind: 'snapshot' })
  await fill(base, 2, 2, 2)
  const started = process.hrtime.bigint()
  const clone = await store.cloneVolume({ name: 'c', from: { volume: 'base', point: 's' }, description: 'mine' })
  t.comment(`cloned in ${Number(process.hrtime.bigint() - started) / 1e6} ms`)
  t.match(clone, { name: 'c', sizeBytes: 4 * MIB, grainBytes: G, description: 'mine' })
  t.not(clone.uuid, base.uuid)
  t.equal(await grains(clone), '11111100')
  t.equal((await clone.facts()).mappedBytes, 0, 'nothing was copied')
  await clone.write(3 * G + 1, 1, Buffer.from([9]), 0)
  await fill(clone, 8, 5, 2)
  await clone.trim(0, G)
  const wanted = Buffer.alloc(8 * G)
  wanted.fill(1, G, 5 * G).fill(8, 5 * G, 7 * G)[3 * G + 1] = 9
  t.ok((await readAll(clone, 0, 8 * G)).equals(wanted))
  t.equal(await grains(base), '11221100')
  t.equal(await of(base, 's'), '11111100')
  await t.rejects(base.points.delete('s'), { code: 'busy', message: /clone c/ })
  await t.rejects(store.deleteVolume('base'), { code: 'busy', message: /c$/ })
  await store.close()
  const again = await openStore({ path })
  t.ok((await readAll(again.get('c')!, 0, 8 * G)).equals(wanted), 'after a close and an open')
  await again.deleteVolume('c')
  await again.get('base')!.points.delete('s')
  await again.deleteVolume('base')
  await again.close()
})

t.test('snapshots of clones, clones of clones, restore of a clone', async t => {
  const { store, path } = await freshStore(t)
  const base = await store.createVolume({ name: 'base', sizeBytes: MIB, grainBytes: G })
  await fill(base, 1, 0, 8)
  await base.points.create({ name: 's', kind: 'snapshot' })
  const clone = await store.cloneVolume({ name: 'c', from: { volume: 'base', point: 's' } })
  await fill(clone, 2, 0, 2)
  await clone.points.create({ name: 'cs', kind: 'snapshot' })
  await fill(clone, 3, 1, 4)
  await base.trim(0, MIB)
  t.equal(await of(clone, 'cs'), '22111111')
  const second = await store.cloneVolume({ name: 'cc', from: { volume: 'c', point: 'cs' } })
  await fill(second, 4, 7, 1)
  t.equal(await grains(second), '22111114')
  t.equal(await grains(clone), '23333111')
  const job = await clone.restore({ from: 'cs', bytesPerSecond: 16 * G })
  t.equal(await grains(clone), '22111111', 'the clone shows its own snapshot')
  t.equal(job.progress().totalBytes, 4 * G, 'and copies what differs, not its base')
  await store.close()
  const again = await openStore({ path })
  const [c, cc] = [again.get('c')!, again.get('cc')!]
  t.equal(await grains(c), '22111111')
  t.equal(await grains(cc), '22111114')
  t.equal(await of(c, 'undo-cs-1'), '23333111')
  await c.inheriting!.finished
  t.equal(await grains(c), '22111111')
  t.equal(await of(c, 'undo-cs-1'), '23333111')
  t.equal((await c.facts()).mappedBytes, 5 * G, 'the rest is its base\'s still')
  await t.rejects(again.deleteVolume('c'), { code: 'busy' })
  await again.deleteVolume('cc')
  await again.deleteVolume('c')
  await again.get('base')!.points.delete('s')
  await again.close()
})

t.test('a promoted clone stands alone; promotion can be stopped and goes on after an open', async t => {
  const { store, path } = await freshStore(t)
  const base = await store.createVolume({ name: 'base', sizeBytes: MIB, grainBytes: G })
  await fill(base, 1, 0, 8)
  await base.points.create({ name: 's', kind: 'snapshot' })
  const clone = await store.cloneVolume({ name: 'c', from: { volume: 'base', point: 's' } })
  await fill(clone, 2, 0, 2)
  const job = await store.promoteVolume('c', { bytesPerSecond: 16 * G })
  await job.cancel()
  await t.rejects(job.finished, { code: 'cancelled' })
  t.equal(clone.inheriting, undefined)
  await store.promoteVolume('c', { bytesPerSecond: 1 })
  await store.close()
  const again = await openStore({ path })
  const c = again.get('c')!
  t.ok(c.inheriting, 'goes on by itself')
  const last = await again.promoteVolume('c')
  await last.finished
  t.equal(await grains(c), '22111111')
  await again.get('base')!.points.delete('s')
  await again.deleteVolume('base')
  t.equal(await grains(c), '22111111')
  await t.rejects(again.promoteVolume('c'), { code: 'wrong-state' })
  await again.close()
})

t.test('a promotion that has waited for its turn takes over from one that has copied all meanwhile', async t => {
  const { store } = await freshStore(t)
  const base = await store.createVolume({ name: 'base', sizeBytes: MIB, grainBytes: G })
  await fill(base, 1, 0, 8)
  await base.points.create({ name: 's', kind: 'snapshot' })
  const clone = await store.cloneVolume({ name: 'c', from: { volume: 'base', point: 's' } }) as OpenStoreVolume
  const first = await store.promoteVolume('c')
  let go = (): void => undefined
  const held = clone.points.inTurn(() => new Promise<void>(resolve => { go = resolve }))
  const second = store.promoteVolume('c')
  second.catch(() => undefined)
  // Both wait for their turn: the first to end.
  for (let i = 0; i < 50 && first.progress().doneBytes < first.progress().totalBytes; i++) await new Promise(resolve => { setTimeout(resolve, 5) })
  go()
  await held
  const job = await Promise.race([second, late()])
  if (typeof job === 'string') return t.fail(`the second is ${job}`)
  await job.finished
  await clone.points.create({ name: 'more', kind: 'bookmark' })
  t.equal(await grains(clone), '11111111')
  t.same(base.points.get('s')!.pins, [])
  await store.close()
})

t.test('restore from another volume of the store goes on after an open', async t => {
  const { store, path } = await freshStore(t)
  const a = await store.createVolume({ name: 'a', sizeBytes: MIB, grainBytes: G })
  const b = await store.createVolume({ name: 'b', sizeBytes: MIB, grainBytes: G })
  await fill(a, 1, 0, 8)
  await a.points.create({ name: 's', kind: 'snapshot' })
  await fill(a, 2, 0, 8)
  await fill(b, 3, 0, 4)
  await b.restore({ from: 's', sourceVolume: a, bytesPerSecond: 16 * G })
  t.equal(await grains(b), '11111111')
  await t.rejects(store.deleteVolume('a'), { code: 'busy' })
  await store.close()
  const again = await openStore({ path })
  t.equal(await grains(again.get('b')!), '11111111')
  await again.get('b')!.inheriting!.finished
  t.equal(await grains(again.get('b')!), '11111111')
  t.equal(await of(again.get('b')!, 'undo-s-1'), '33330000')
  await again.get('a')!.points.delete('s')
  await again.deleteVolume('a')
  t.equal(await grains(again.get('b')!), '11111111')
  await again.close()
})

t.test('what cannot be cloned', async t => {
  const { store } = await freshStore(t)
  const base = await store.createVolume({ name: 'base', sizeBytes: MIB })
  await base.points.create({ name: 'b', kind: 'bookmark' })
  await base.points.create({ name: 's', kind: 'snapshot' })
  await t.rejects(store.cloneVolume({ name: 'c', from: { volume: 'x', point: 's' } }), { code: 'not-found' })
  await t.rejects(store.cloneVolume({ name: 'c', from: { volume: 'base', point: 'x' } }), { code: 'not-found' })
  await t.rejects(store.cloneVolume({ name: 'c', from: { volume: 'base', point: 'b' } }), { code: 'bad-argument' })
  await t.rejects(store.cloneVolume({ name: 'base', from: { volume: 'base', point: 's' } }), { code: 'exists' })
  await t.rejects(store.cloneVolume({ name: '../c', from: { volume: 'base', point: 's' } }), { code: 'bad-argument' })
  await base.points.delete('s')
  t.same(store.list().map(({ name }) => name), ['base'])
  await store.close()
})
