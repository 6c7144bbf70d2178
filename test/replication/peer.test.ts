// A volume of another nbdelta as the target: label, declared points, refusals, and what happens when the link is cut (B18, B21, X9, X10, X12).
import t from 'tap'
import { NbdeltaError, openNbdClient, type PeerLink } from '../../src/index.js'
import { fill, G, onWrite, shown } from './lab.js'
import { changed, PeerLab } from './peer-lab.js'

const GRAINS = 64
/** Timers of the stores do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))

async function paired(directory: string) {
  const lab = await PeerLab.open(directory)
  const volume = await lab.source('v', GRAINS)
  const mirror = await lab.mirror()
  return { lab, volume, mirror, target: lab.far.store.get('w')! }
}

const ASKED = {
  mirror: { uuid: '11111111-1111-4111-8111-111111111111', name: 'x' }, source: { uuid: '22222222-2222-4222-8222-222222222222', name: 'x' },
  above: [], epoch: 1, sizeBytes: GRAINS * G, grainBytes: G, overwrite: false, create: true,
}

t.test('first copy and a cycle; clients of the secondary see the declared point, read-only', async t => {
  const { lab, volume, mirror, target } = await paired(t.testdir())
  t.same(mirror.status().unguarded, [])
  t.match(mirror.status(), { phase: 'paired', problem: null, last: { data: GRAINS * G } })
  t.equal(target.grainBytes, G)
  t.same(await lab.far.seen('w'), await shown(volume))
  await fill(volume, 3, 7)
  await volume.zero(9 * G, G, { allocate: false, fast: false })
  t.equal(mirror.status().lagBytes, 2 * G)
  await mirror.sync()
  t.match(mirror.status().last, { data: G, zeros: G, differing: 2 * G })
  t.same(await lab.far.seen('w'), await shown(volume))
  const client = await openNbdClient({ address: lab.far.server.addresses[0]!, exportName: 'w' })
  t.ok(client.capabilities.readOnly)
  await client.close()
  t.same(lab.far.server.stats().exports.filter(({ clients }) => clients > 0), [], 'nothing is left attached')
  const listed = lab.far.secondaries.list()
  t.match(listed, [{ state: { name: 'm', phase: 'secondary', epoch: 1, source: { name: 'v' } }, attached: false }])
  t.equal(target.points.list().length, 1)
  t.same(await mirror.verify(), [])
  await lab.close()
})

t.test('an interrupted cycle: the declared point is shown, over a restart of the peer as well, and what is left is sent', async t => {
  const { lab, volume, mirror, target } = await paired(t.testdir())
  const before = await lab.far.seen('w')
  await fill(volume, 3, 7)
  await fill(volume, 60, 8)
  let writes = 0
  onWrite(target, () => { if (++writes >= 2) throw new NbdeltaError('io', 'the disk is gone') })
  await t.rejects(mirror.sync())
  t.same(await lab.far.seen('w'), before)
  t.not(await shown(target), before)
  await lab.far.restart()
  t.same(await lab.far.seen('w'), before)
  t.match(lab.far.secondaries.list(), [{ state: { phase: 'secondary' } }])
  await mirror.sync()
  t.same(await lab.far.seen('w'), await shown(volume))
  await lab.near.restart()
  await fill(lab.near.store.get('v')!, 1, 9)
  await lab.near.mirrors.get('m').sync()
  t.same(await lab.far.seen('w'), await shown(lab.near.store.get('v')!))
  await lab.close()
})

t.test('the acknowledgement of a commit is lost: both go on from the newer point, nothing is sent again (B22)', async t => {
  const { lab, volume, mirror } = await paired(t.testdir())
  await fill(volume, 3, 7)
  lab.near.onLink = link => changed(link, async (method, _, go) => {
    const answer = await go()
    if (method === 'commit') throw new Error('cut off')
    return answer
  })
  await t.rejects(mirror.sync(), /cut off/)
  lab.near.onLink = link => link
  await mirror.sync()
  t.match(mirror.status().last, { data: 0, differing: 0 })
  t.ok(mirror.status().decisions.some(({ rule }) => rule === 'acknowledgement-lost'))
  await lab.close()
})

t.test('split, work on both sides, resync: what either changed and nothing else; the loser\'s work is kept (D10, D14)', async t => {
  const { lab, volume, mirror, target } = await paired(t.testdir())
  await mirror.split({ atOnce: false })
  t.match(lab.far.secondaries.list(), [{ state: { phase: 'released' } }])
  const client = await openNbdClient({ address: lab.far.server.addresses[0]!, exportName: 'w' })
  await fill(client, 20, 4)
  for (let grain = 30; grain < 60; grain += 2) await fill(client, grain, 5)
  await client.flush()
  await fill(volume, 10, 3)
  const work = await shown(target)
  t.equal(await mirror.differing(), 17 * G)
  await mirror.beginResync({ whole: false })
  await t.rejects(mirror.sync(), { code: 'busy' }, 'somebody is attached')
  await client.close()
  await mirror.sync()
  t.match(mirror.status(), { phase: 'paired', last: { differing: 17 * G, data: 17 * G } })
  t.same(await lab.far.seen('w'), await shown(volume))
  const kept = target.points.list().find(({ labels }) => labels['auto'] === 'undo')!
  const device = target.points.open(kept.name)
  t.same(await shown(device), work)
  await device.close()
  await lab.close()
})

t.test('the answer to a release is lost: no cycle overwrites what was done since; split again, and resync', async t => {
  const { lab, volume, mirror, target } = await paired(t.testdir())
  lab.near.onLink = link => changed(link, async (method, _, go) => {
    const answer = await go()
    if (method === 'release') throw new Error('cut off')
    return answer
  })
  await t.rejects(mirror.split({ atOnce: true }), /cut off/)
  lab.near.onLink = link => link
  await fill(target, 5, 9)
  await fill(volume, 6, 9)
  await t.rejects(mirror.sync(), { code: 'wrong-state', message: /released/ })
  t.equal((await shown(target))[5], 9)
  await mirror.split({ atOnce: true })
  await mirror.beginResync({ whole: false })
  await mirror.sync()
  t.same(await lab.far.seen('w'), await shown(volume))
  await lab.close()
})

t.test('a secondary that is written to between the look at it and the cycle is looked at again', async t => {
  const { lab, volume, mirror, target } = await paired(t.testdir())
  await mirror.split({ atOnce: true })
  await mirror.beginResync({ whole: false })
  let once = true
  lab.near.onLink = link => changed(link, async (method, _, go) => {
    if (method === 'begin' && once) { once = false; await fill(target, 40, 6) }
    return go()
  })
  await t.rejects(mirror.sync(), { code: 'busy', message: /meanwhile/ })
  await mirror.sync()
  t.same(await lab.far.seen('w'), await shown(volume))
  await lab.close()
})

t.test('the link is cut during a cycle; a fresh attach fences the old one: what it had in flight ends first (X9)', async t => {
  const { lab, volume, mirror, target } = await paired(t.testdir())
  await fill(volume, 3, 7)
  const write = target.write.bind(target)
  let let_go = (): void => undefined
  const held = new Promise<void>(resolve => { let_go = resolve })
  let arrived!: () => void
  const there = new Promise<void>(resolve => { arrived = resolve })
  target.write = async (...args) => {
    arrived()
    await held
    await write(...args)
  }
  const links: PeerLink[] = []
  lab.near.onLink = link => { links.push(link); return link }
  const first = mirror.sync().then(() => 'done', () => 'cut')
  await there
  links[0]!.close()
  t.equal(await first, 'cut')
  await fill(volume, 3, 8)
  target.write = write
  let second = 'waits'
  const again = mirror.sync().then(() => { second = 'done' })
  await new Promise(resolve => { setTimeout(resolve, 300) })
  t.equal(second, 'waits', 'the old write has not ended')
  let_go()
  await again
  t.same(await lab.far.seen('w'), await shown(volume))
  t.equal((await shown(target))[3], 8)
  await lab.close()
})

t.test('an attach of the same mirror takes the place of the one before: the older can do nothing any more', async t => {
  const lab = await PeerLab.open(t.testdir())
  const first = await lab.far.dial('w')
  const point = { uuid: '33333333-3333-4333-8333-333333333333', cycle: 1, sizeBytes: GRAINS * G }
  const told = await first.call('attach', { ...ASKED, volume: 'w' }) as { export: string, nbd: { path: string }[] }
  await first.call('begin', { point, keep: false, seen: null })
  const nbd = await openNbdClient({ uri: first.exportUri(told.nbd, told.export), reconnect: { attempts: 0 } })
  await fill(nbd, 0, 1)
  t.notOk(lab.far.server.stats().exports.some(({ name, clients }) => name === told.export && clients === 0))
  const second = await lab.far.dial('w')
  await second.call('attach', { ...ASKED, volume: 'w' })
  await first.ended
  await t.rejects(first.call('commit', { point }), { code: 'unreachable' })
  await t.rejects(fill(nbd, 0, 2))
  await t.rejects(openNbdClient({ uri: first.exportUri(told.nbd, told.export), reconnect: { attempts: 0 } }), { code: 'not-found' })
  await t.rejects(second.call('commit', { point }), { code: 'wrong-state' }, 'no cycle of this one was begun')
  t.equal((await shown(lab.far.store.get('w')!))[0], 1)
  await nbd.close()
  second.close()
  await lab.close()
})

t.test('a higher epoch is remembered, a lower one refused; so is an old primary after a promotion (S4, X10)', async t => {
  const { lab, volume, mirror, target } = await paired(t.testdir())
  const declared = await lab.far.seen('w')
  await fill(volume, 1, 2)
  t.equal(await lab.far.secondaries.promote('w'), 2)
  t.match(lab.far.secondaries.list(), [{ state: { phase: 'released', epoch: 2 } }])
  t.same(await lab.far.seen('w'), declared)
  await fill(target, 2, 9)
  await t.rejects(mirror.sync(), { code: 'wrong-state', message: /epoch 1 is refused/ })
  await lab.far.restart()
  await t.rejects(mirror.sync(), { code: 'wrong-state', message: /epoch 1 is refused/ })
  await t.rejects(mirror.split({ atOnce: true }), { code: 'wrong-state' })
  t.equal((await shown(lab.far.store.get('w')!))[2], 9)
  t.equal((await shown(lab.far.store.get('w')!))[1], 1)
  await lab.close()
})

t.test('promoted once is promoted, until its mirror is let in again', async t => {
  const { lab, mirror } = await paired(t.testdir())
  const promotion = (): object => lab.far.secondaries.judgePromotion('w')
  const durable = (): readonly unknown[] => lab.far.store.mirrors
  t.match(promotion(), { isPromoted: false })
  await mirror.split({ atOnce: false })
  t.match(promotion(), { isPromoted: false, state: { phase: 'released', epoch: 1 } }, 'what a split released is not promoted')
  t.equal(await lab.far.secondaries.promote('w'), 2)
  const once = durable()
  t.match(promotion(), { isPromoted: true })
  t.equal(await lab.far.secondaries.promote('w'), 2, 'nothing more was to be done')
  t.same(durable(), once)
  await lab.far.killed()
  t.match(promotion(), { isPromoted: true }, 'after a kill as well')
  t.equal(await lab.far.secondaries.promote('w'), 2)

  const link = await lab.far.dial('w')
  const attach = (epoch: number): Promise<unknown> =>
    link.call('attach', { ...ASKED, mirror: { uuid: mirror.record.uuid, name: 'm' }, volume: 'w', epoch })
  await t.rejects(attach(1), { code: 'wrong-state', message: /epoch 1 is refused/ })
  t.match(promotion(), { isPromoted: true }, 'who was refused changes nothing')
  await attach(2)
  t.match(promotion(), { isPromoted: false, state: { phase: 'released', epoch: 2 } })
  t.equal(await lab.far.secondaries.promote('w'), 3, 'who was let in, with what was no lower, is kept out again')
  await link.ended
  t.match(promotion(), { isPromoted: true })
  await lab.close()
})

t.test('a promotion that was cut short is done again', async t => {
  const { lab } = await paired(t.testdir())
  const { store } = lab.far
  const put = store.putMirror.bind(store)
  let left = 1
  store.putMirror = entry => left-- > 0 ? put(entry) : Promise.reject(new NbdeltaError('io', 'the disk is gone'))
  await t.rejects(lab.far.secondaries.promote('w'), { code: 'io' })
  await lab.far.killed()
  t.match(lab.far.secondaries.judgePromotion('w'), { isPromoted: false })
  t.equal(await lab.far.secondaries.promote('w'), 3)
  t.match(lab.far.secondaries.judgePromotion('w'), { isPromoted: true, state: { phase: 'released' } })
  await lab.close()
})

t.test('a deleted mirror leaves nothing at the peer but the volume, at its last declared point', async t => {
  const { lab, volume, target } = await paired(t.testdir())
  await lab.near.mirrors.delete('m')
  t.same([lab.far.secondaries.list(), lab.far.store.mirrors, volume.points.list()], [[], [], []])
  t.same(await lab.far.seen('w'), await shown(volume))
  t.same(await shown(target), await shown(volume))
  await lab.close()
})

t.test('source grown and shrunk: the secondary follows (A17)', async t => {
  const { lab, volume, mirror } = await paired(t.testdir())
  await lab.near.store.resizeVolume('v', 2 * GRAINS * G)
  await fill(volume, 100, 5)
  await mirror.sync()
  t.same(await lab.far.seen('w'), await shown(volume))
  await lab.near.store.resizeVolume('v', 10 * G)
  await mirror.sync()
  t.same(await lab.far.seen('w'), await shown(volume))
  await lab.close()
})

for (const way of ['forgotten', 'made anew'] as const) t.test(`an empty volume that was ${way} there is not taken again by the mirror that had it`, async t => {
  const lab = await PeerLab.open(t.testdir())
  const volume = await lab.near.store.createVolume({ name: 'v', sizeBytes: GRAINS * G, grainBytes: G })
  const mirror = await lab.mirror()
  const { far } = lab
  await far.secondaries.promote('w')
  await far.secondaries.forget('w')
  if (way === 'made anew') {
    await far.store.deleteVolume('w')
    await far.store.createVolume({ name: 'w', sizeBytes: GRAINS * G, grainBytes: G })
  }
  await t.rejects(mirror.sync(), { code: 'wrong-state', message: /w is not the secondary of mirror m any more/ })
  t.equal(far.secondaries.of(far.store.get('w')!.uuid), undefined, 'it is nobody\'s')
  t.same(await far.seen('w'), Array<number>(GRAINS).fill(0), 'its clients are let in')
  await fill(volume, 3, 7)
  await mirror.beginResync({ whole: true })
  await mirror.sync()
  t.equal((await far.seen('w'))[3], 7, 'it is, if that is asked for')
  await far.secondaries.promote('w')
  await far.secondaries.forget('w')
  await lab.near.mirrors.delete('m')
  t.equal(far.secondaries.of(far.store.get('w')!.uuid), undefined)
  await lab.close()
})
