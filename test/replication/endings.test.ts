// What a mirror leaves when its making or its deletion is cut short: nothing that nobody can delete, and no pair that is half there.
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import type { Mirror } from '../../src/replication/mirror.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { fill, G, Lab, shown } from './lab.js'
import { changed, PeerLab } from './peer-lab.js'

const GRAINS = 16
const OWNER = 'mirror m'
/** Timers of the store do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))

async function paired(directory: string): Promise<{ lab: Lab, volume: StoreVolume, mirror: Mirror, target: StoreVolume }> {
  const lab = await Lab.open(directory)
  const volume = await lab.volume('v', GRAINS)
  await fill(volume, 0, 1, GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: 'w', keepSnapshots: 1 })
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await mirror.sync()
  return { lab, volume, mirror, target: lab.store.get('w')! }
}

/** Points of both volumes that somebody has pinned. */
function pinned({ store }: Lab): string[] {
  return store.list().flatMap(({ points }) => points.list().filter(({ pins }) => pins.length > 0).map(({ name }) => name))
}

async function until(what: string, done: () => boolean): Promise<void> {
  for (let left = 200; !done(); left--) {
    if (left === 0) throw new Error(`never: ${what}`)
    await new Promise(resolve => { setTimeout(resolve, 10) })
  }
}

for (const where of ['v', 'w']) t.test(`points of a deleted mirror whose removal has failed on ${where} go with the next start`, async t => {
  const { lab } = await paired(t.testdir())
  const { points } = lab.store.get(where)!
  const asBefore = points.unpin.bind(points)
  points.unpin = () => Promise.reject(new NbdeltaError('io', 'planted'))
  await lab.mirrors.delete('m')
  t.strictNotSame(pinned(lab), [])
  points.unpin = asBefore
  const next = await lab.killed()
  await until('nobody has pinned anything', () => pinned(next).length === 0)
  await until('bookmarks have gone', () => next.store.get('v')!.points.list().every(({ kind }) => kind === 'snapshot'))
  t.same(next.store.get('v')!.points.list().map(({ name }) => name), ['s'], 'a snapshot that somebody has made stays')
  t.same(await shown(next.store.get('w')!), await shown(next.store.get('v')!))
  for (const { points: left } of next.store.list()) for (const { name } of left.list()) await left.delete(name)
  await next.close()
  await lab.close()
})

t.test('points of mirrors that are there stay, of a peer\'s as well', async t => {
  const lab = await PeerLab.open(t.testdir())
  await lab.source('v', GRAINS)
  await lab.mirror({ keepSnapshots: 1 })
  const all = (): unknown[] => [lab.near, lab.far].map(({ store }) => store.list().map(({ points }) => points.list()))
  const before = all()
  await lab.far.restart()
  await lab.near.restart()
  await lab.near.mirrors.get('m').pause()
  t.same(all(), before)
  await lab.close()
})

t.test('somebody\'s snapshot is let go of, by whatever mirror that is gone it was pinned', async t => {
  const { lab, volume } = await paired(t.testdir())
  await volume.points.pin('s', { owner: 'mirror gone', expiresAt: null })
  await volume.points.pin('s', { owner: 'backup', expiresAt: null })
  const next = await lab.killed()
  const owners = (): string[] => next.store.get('v')!.points.get('s')!.pins.map(({ owner }) => owner).filter(owner => owner !== OWNER)
  await until('its pin is gone', () => owners().length < 2)
  t.same(owners(), ['backup'])
  await next.close()
  await lab.close()
})

t.test('a deletion is cut short between points: there is no mirror any more', async t => {
  const { lab, target } = await paired(t.testdir())
  const before = await shown(target)
  let next: Lab | undefined
  const drop = target.points.delete.bind(target.points)
  target.points.delete = async name => {
    next ??= await lab.killed()
    return drop(name)
  }
  await lab.mirrors.delete('m')
  t.same(next!.mirrors.list(), [])
  await until('nobody has pinned anything', () => pinned(next!).length === 0)
  t.same(await shown(next!.store.get('w')!), before)
  const again = await next!.mirror({ volume: 'v', target: 'w', overwrite: true })
  t.same(await again.verify(), [], 'it can be made again')
  await next!.close()
  await lab.close()
})

t.test('an old primary finds a volume that was promoted and forgotten empty, and does not take it', async t => {
  for (const phase of ['paired', 'copying'] as const) {
    const lab = await PeerLab.open(t.testdir({ [phase]: {} }) + `/${phase}`)
    const volume = await lab.near.store.createVolume({ name: 'v', sizeBytes: GRAINS * G, grainBytes: G })
    if (phase === 'copying') lab.near.onConnect = () => { throw new NbdeltaError('unreachable', 'planted') }
    const mirror = await lab.near.mirrors.create(lab.options('w'))
    if (phase === 'paired') {
      await mirror.sync()
      await lab.far.secondaries.promote('w')
    } else await t.rejects(mirror.sync(), { code: 'unreachable' })
    await lab.far.secondaries.forget('w')
    lab.near.onConnect = device => device
    await fill(volume, 1, 2)
    await t.rejects(mirror.sync(), { code: 'wrong-state', message: /not the secondary of mirror m any more/ })
    t.same(lab.far.secondaries.list(), [])
    await mirror.beginResync({ whole: true })
    await mirror.sync()
    t.same(await lab.far.seen('w'), await shown(volume), 'only if it is told to compare everything')
    await lab.close()
  }
})

/** The record of a mirror that is being made is on the disk, and nobody has heard of it. */
function unheardRecord({ store }: { store: Lab['store'] }): void {
  const add = store.addMirror.bind(store)
  store.addMirror = async (record, needs) => {
    await add(record, needs, () => undefined)
    Object.defineProperty(store, 'inDoubt', { value: true })
    throw new NbdeltaError('flush-failed', 'planted')
  }
}

t.test('a mirror of which nobody knows whether it was made goes on after a restart', async t => {
  const lab = await Lab.open(t.testdir())
  await fill(await lab.volume('v', GRAINS), 0, 1, GRAINS)
  unheardRecord(lab)
  await t.rejects(lab.mirror({ volume: 'v', target: 'w' }), { code: 'flush-failed', message: /mirror m was made is not known/ })
  await t.rejects(lab.mirror({ volume: 'v', target: 'w' }), { code: 'flush-failed', message: /no mirror is made/ })
  const next = await lab.killed()
  await next.mirrors.get('m').sync()
  t.same(await shown(next.store.get('w')!), await shown(next.store.get('v')!))
  await next.close()
  await lab.close()
})

t.test('the same at a peer, over what was there before', async t => {
  const lab = await PeerLab.open(t.testdir())
  await lab.source('v', GRAINS)
  await fill(await lab.far.store.createVolume({ name: 'w', sizeBytes: GRAINS * G, grainBytes: G }), 3, 3)
  unheardRecord(lab.near)
  await t.rejects(lab.near.mirrors.create(lab.options('w', { overwrite: true })), { code: 'flush-failed' })
  await lab.near.killed()
  await lab.near.mirrors.get('m').sync()
  t.same(await lab.far.seen('w'), await shown(lab.near.store.get('v')!))
  await lab.close()
})

t.test('a mirror that is refused for something else than its record is forgotten there, as ever', async t => {
  const lab = await PeerLab.open(t.testdir())
  await lab.source('v', GRAINS)
  let calls = 0
  lab.near.onLink = link => changed(link, (method, _, go) => go().then(answer => {
    calls++
    if (method === 'attach' && calls === 1) lab.near.store.addMirror = () => Promise.reject(new NbdeltaError('no-space', 'planted'))
    return answer
  }))
  await t.rejects(lab.mirror(), { code: 'no-space' })
  t.same(lab.far.secondaries.list(), [])
  await lab.close()
})
