// What was done on a target while it stood on its own is never lost, however the mirror that takes it back ends (SEEDS D14, S5).
import { setTimeout as ms } from 'node:timers/promises'
import t from 'tap'
import type { BlockDevice } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import type { Mirror } from '../../src/replication/mirror.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { fill, Lab, onWrite, shown, shownAt } from './lab.js'
import { changed, PeerLab } from './peer-lab.js'

const GRAINS = 16
/** Within so long an undo point goes that nobody is to have. */
const SOON_MS = 50
/** Timers of the store do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))

/** Contents of the snapshots that keep what was there before something. */
async function kept(volume: StoreVolume): Promise<number[][]> {
  await volume.inheriting?.finished
  await ms(SOON_MS)
  const undo = volume.points.list().filter(({ labels }) => labels['auto'] === 'undo')
  return Promise.all(undo.map(({ name }) => shownAt(volume, name)))
}

interface Pair { readonly lab: Lab, readonly volume: StoreVolume, readonly mirror: Mirror, readonly target: StoreVolume, readonly before: number[] }

async function pair(directory: string): Promise<Pair> {
  const lab = await Lab.open(directory)
  const volume = await lab.volume('v', GRAINS)
  await fill(volume, 0, 1, GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: 'w' })
  const target = lab.store.get('w')!
  return { lab, volume, mirror, target, before: await shown(target) }
}

/** Somebody has worked on the target. */
async function split(directory: string): Promise<Pair> {
  const made = await pair(directory)
  await made.mirror.split({ atOnce: false })
  await fill(made.target, 3, 7)
  return made
}

/** The same with a target at a peer. */
async function splitPeer(directory: string): Promise<{ lab: PeerLab, mirror: Mirror, target: StoreVolume, work: number[] }> {
  const lab = await PeerLab.open(directory)
  await lab.source('v', GRAINS)
  const mirror = await lab.mirror()
  await mirror.split({ atOnce: false })
  const target = lab.far.store.get('w')!
  await fill(target, 3, 7)
  return { lab, mirror, target, work: await shown(target) }
}

/** Write number n fails, until what it answers is called. */
function cutOff(device: BlockDevice, n: number): () => void {
  let writes = 0
  return onWrite(device, () => { if (++writes === n) throw new Error('cut off') })
}

t.test('a mirror is deleted between a resync and its first cycle', async t => {
  const { lab, mirror, target, before } = await split(t.testdir())
  const work = await shown(target)
  await mirror.beginResync({ whole: false })
  await lab.mirrors.delete('m')
  t.same(await shown(target), before, 'it is at its declared point')
  t.same(await kept(target), [work])
  await lab.close()
})

t.test('a mirror is deleted in the middle of a resync', async t => {
  for (const whole of [false, true]) {
    const { lab, volume, mirror, target, before } = await split(t.testdir({ [`whole-${whole}`]: {} }) + `/whole-${whole}`)
    const work = await shown(target)
    for (const grain of [5, 9]) await fill(volume, grain, 2)
    await mirror.beginResync({ whole })
    const asBefore = cutOff(target, 3)
    await t.rejects(mirror.sync(), /cut off/)
    asBefore()
    await lab.mirrors.delete('m')
    t.same(await shown(target), before, 'it is at its declared point, and not half a cycle further')
    t.same(await kept(target), [work])
    await lab.close()
  }
})

t.test('a mirror of the same name is made again, over what was done meanwhile', async t => {
  const { lab, target } = await split(t.testdir())
  const works: number[][] = []
  for (const value of [7, 8]) {
    await fill(target, 3, value)
    works.push(await shown(target))
    await lab.mirrors.delete('m')
    await lab.mirror({ volume: 'v', target: 'w', overwrite: true })
    await lab.mirrors.get('m').split({ atOnce: false })
  }
  t.same(await kept(target), works)
  await lab.close()
})

for (const code of ['no-space', 'io', 'flush-failed'] as const) t.test(`a mirror is not deleted while its target cannot be let go: ${code}`, async t => {
  const { lab, volume, mirror, target, before } = await pair(t.testdir())
  for (const grain of [5, 9]) await fill(volume, grain, 2)
  const asBefore = cutOff(target, 2)
  await t.rejects(mirror.sync(), /cut off/)
  asBefore()
  const restore = target.restore.bind(target)
  target.restore = async () => { throw new NbdeltaError(code, 'planted') }
  await t.rejects(lab.mirrors.delete('m'), { code })
  t.equal(lab.mirrors.ownerOf(target.uuid), mirror, 'half a cycle is shown to nobody')
  t.same(await shownAt(target, mirror.shownPoint()!.name), before)
  await mirror.sync()
  t.same(await mirror.verify(), [], 'it goes on')
  await fill(volume, 3, 3)
  target.restore = restore
  await lab.mirrors.delete('m')
  t.match([await shown(target), lab.mirrors.list()], [{ 5: 2, 9: 2, 3: 1 }, []])
  await lab.close()
})

t.test('a deletion is cut short when the target has let go of its points', async t => {
  const { lab, before } = await pair(t.testdir())
  lab.store.removeMirror = async () => { throw new Error('killed') }
  await t.rejects(lab.mirrors.delete('m'), /killed/)
  const next = await lab.killed()
  const mirror = next.mirrors.get('m')
  const target = next.store.get('w')!
  t.equal(next.mirrors.ownerOf(target.uuid), undefined, 'it stands on its own')
  t.same(await shown(target), before)
  await next.mirrors.delete('m')
  t.equal(mirror.state.phase, 'split')
  await next.close()
  await lab.close()
})

t.test('a peer does not hear in the middle of a cycle that it is released, and then that its mirror is deleted', async t => {
  for (const tells of ['the source', 'an older source']) {
    const lab = await PeerLab.open(t.testdir({ [tells]: {} }) + `/${tells}`)
    const volume = await lab.source('v', GRAINS)
    await lab.mirror()
    const target = lab.far.store.get('w')!
    const before = await shown(target)
    for (const grain of [5, 9]) await fill(volume, grain, 2)
    lab.near.onConnect = device => {
      cutOff(device, 2)
      return device
    }
    await t.rejects(lab.near.mirrors.get('m').sync(), /cut off/)
    if (tells === 'the source') {
      lab.near.onLink = link => changed(link, (method, _, go) => method === 'release' ? Promise.reject(new NbdeltaError('unreachable', 'cut')) : go())
      await lab.near.mirrors.delete('m')
      t.match(lab.far.secondaries.of(target.uuid), { phase: 'secondary' }, 'it does not stand on its own')
      await lab.far.secondaries.promote('w')
    } else {
      await lab.near.mirrors.get('m').target.forget()
      t.equal(lab.far.secondaries.of(target.uuid), undefined)
    }
    t.same(await shown(target), before)
    await lab.close()
  }
})

t.test('a peer takes a secondary back, and is promoted before the first write of the cycle', async t => {
  const { lab, mirror, target, work } = await splitPeer(t.testdir())
  // It has changed more than the source has seen: looked at again.
  const link = await lab.far.dial('w')
  const { record, state } = mirror
  await link.call('attach', {
    mirror: { uuid: record.uuid, name: 'm' }, source: { uuid: record.volume, name: 'v' }, above: [], epoch: state.epoch,
    sizeBytes: target.sizeBytes, grainBytes: target.grainBytes, overwrite: false, create: false, volume: 'w',
  })
  const point = { uuid: record.volume, cycle: state.cycle + 1, sizeBytes: target.sizeBytes }
  await t.rejects(link.call('begin', { point, keep: true, seen: 0 }), { code: 'busy' })
  link.close()
  await lab.far.secondaries.promote('w')
  t.same([await shown(target), ...await kept(target)].filter(one => one[3] === 7)[0], work)
  await lab.close()
})

t.test('a peer is killed when it has taken a secondary back, and is promoted', async t => {
  const { lab, mirror, work } = await splitPeer(t.testdir())
  const put = lab.far.store.putMirror.bind(lab.far.store)
  lab.far.store.putMirror = async entry => {
    await put(entry)
    if ((entry.state as { phase?: string }).phase === 'secondary') await lab.far.copied()
  }
  await mirror.beginResync({ whole: false })
  await mirror.sync()
  await lab.far.restart()
  await lab.far.secondaries.promote('w')
  const again = lab.far.store.get('w')!
  t.same([await shown(again), ...await kept(again)].filter(one => one[3] === 7)[0], work)
  await lab.close()
})
