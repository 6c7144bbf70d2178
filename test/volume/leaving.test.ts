// A volume that is being closed, to be deleted or opened anew, while others are about to restore from it or to make points of it.
import { join } from 'node:path'
import t from 'tap'
import { openStore, type Store } from '../../src/volume/open-store.js'
import type { OpenStoreVolume } from '../../src/volume/store-volume.js'
import { readAll } from './lab.js'

const G = 4096
const GRAINS = 8
/** Timers of the store do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))

interface Bench { readonly store: Store, readonly path: string, readonly a: OpenStoreVolume, readonly b: OpenStoreVolume }

/** Volumes a and b of letters, a snapshot `s` of a, and then a of dots. */
async function bench(t: { testdir(): string }): Promise<Bench> {
  const path = join(t.testdir(), 'store')
  const store = await openStore({ path, create: true })
  const [a, b] = await Promise.all(['a', 'b'].map(name => store.createVolume({ name, sizeBytes: GRAINS * G }))) as OpenStoreVolume[]
  for (const volume of [a, b]) await volume.write(0, GRAINS * G, Buffer.alloc(GRAINS * G, volume.name), 0)
  await a.points.create({ name: 's', kind: 'snapshot' })
  await a.write(0, GRAINS * G, Buffer.alloc(GRAINS * G, '.'), 0)
  return { store, path, a, b }
}

/** What each grain begins with. */
const text = async (volume: Parameters<typeof readAll>[0]): Promise<string> => {
  const content = await readAll(volume)
  return Array.from({ length: GRAINS }, (_, grain) => content.toString('latin1', grain * G, grain * G + 1)).join('')
}

/** Somebody has the volume's turn until the function that is returned is called. */
function hold({ points }: OpenStoreVolume): () => Promise<void> {
  let go = (): void => undefined
  const gate = new Promise<void>(resolve => { go = resolve })
  const held = points.inTurn(() => gate)
  return () => {
    go()
    return held
  }
}

const isPinned = ({ points }: OpenStoreVolume): boolean => points.get('s')!.pins.length > 0
const until = async (isSo: () => boolean): Promise<void> => { while (!isSo()) await new Promise(resolve => { setTimeout(resolve, 5) }) }
const leaving = async ({ points }: OpenStoreVolume): Promise<void> => {
  for (;;) {
    try {
      await points.open('s').close()
    } catch { return }
    await new Promise(resolve => { setTimeout(resolve, 5) })
  }
}

t.test('a volume that another one is about to be restored from is neither deleted nor opened anew', async t => {
  const { store, path, a, b } = await bench(t)
  const letGo = hold(b)
  const restored = b.restore({ from: 's', sourceVolume: a, bytesPerSecond: 1 })
  await until(() => isPinned(a))
  await t.rejects(store.deleteVolume('a'), { code: 'busy', message: /is being restored from it/ })
  await t.rejects(store.reopenVolume('a'), { code: 'busy' })
  await letGo()
  await restored
  t.equal(await text(b), 'aaaaaaaa')
  await t.rejects(store.deleteVolume('a'), { code: 'busy', message: /needed by: b/ })
  await store.close()
  const again = await openStore({ path })
  t.equal(await text(again.get('b')!), 'aaaaaaaa')
  await again.close()
})

t.test('nothing is restored from a volume that is being deleted', async t => {
  const { store, path, a, b } = await bench(t)
  const letGo = hold(a)
  const deleted = store.deleteVolume('a')
  await leaving(a)
  const refused = [
    t.rejects(b.restore({ from: 's', sourceVolume: a }), { code: 'wrong-state' }),
    t.rejects(store.restoreTogether([{ volume: 'b', from: 's', sourceVolume: a }]), { code: 'wrong-state' }),
  ]
  t.throws(() => a.points.open('s'), { code: 'wrong-state' })
  await letGo()
  await deleted
  await Promise.all(refused)
  t.equal(await text(b), 'bbbbbbbb')
  await store.close()
  const again = await openStore({ path })
  t.equal(await text(again.get('b')!), 'bbbbbbbb')
  await again.close()
})

t.test('a volume that is opened anew has no points but those that were answered', async t => {
  const { store, path, a } = await bench(t)
  await store.createGroup('g', ['a', 'b'])
  const letGo = hold(a)
  const opened = store.reopenVolume('a')
  await leaving(a)
  const refused = [
    t.rejects(a.points.create({ name: 'one', kind: 'snapshot' }), { code: 'wrong-state' }),
    t.rejects(store.createGroupPoints({ group: 'g', name: 'all', kind: 'snapshot' }), { code: 'wrong-state' }),
    t.rejects(a.points.pin('s', { owner: 'me', expiresAt: null }), { code: 'wrong-state' }),
  ]
  await letGo()
  await opened
  await Promise.all(refused)
  for (const late of [a.points.create({ name: 'late', kind: 'bookmark' }), a.points.delete('s'), a.points.label('s', 'l', 'v')]) {
    await t.rejects(late as Promise<unknown>, { code: 'wrong-state' })
  }
  t.strictSame(store.get('a')!.points.list().map(({ name }) => name), ['s'])
  await store.createGroupPoints({ group: 'g', name: 'all', kind: 'snapshot' })
  await store.close()
  const again = await openStore({ path })
  t.match(again.get('a')!.points.list(), [{ name: 's', pins: [], labels: {} }, { name: 'all' }])
  t.match(again.get('b')!.points.list(), [{ name: 'all' }])
  const closed = again.get('a')!.close()
  t.throws(() => again.get('a')!.points.open('s'), { code: 'wrong-state' }, 'at once')
  await closed
  await t.rejects(again.close(), { code: 'wrong-state' })
})

t.test('what a volume is restored from is let go of when it is deleted meanwhile', async t => {
  const { store, a, b } = await bench(t)
  let deleted = Promise.resolve()
  await b.restore({ from: 's', sourceVolume: a, bytesPerSecond: 1, whenHeld: () => { deleted = store.deleteVolume('b') } })
  await deleted
  t.equal(store.get('b'), undefined)
  t.notOk(isPinned(a))
  await store.deleteVolume('a')
  await store.close()
})
