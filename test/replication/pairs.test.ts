// A volume of the same store as the target: declared points, split, resync both ways, verification, the end (SEEDS D).
import t from 'tap'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import type { Mirror } from '../../src/replication/mirror.js'
import type { VolumeTarget } from '../../src/replication/volume-target.js'
import { fill, G, Lab, onWrite, shown, shownAt, unheard } from './lab.js'

const GRAINS = 64
/** Timers of the store do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))

async function paired(directory: string): Promise<{ lab: Lab, volume: StoreVolume, target: StoreVolume, mirror: Mirror }> {
  const lab = await Lab.open(directory)
  const volume = await lab.volume('v', GRAINS)
  await fill(volume, 0, 1, GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: 'w' })
  return { lab, volume, target: lab.store.get('w')!, mirror }
}

/** What clients of the target see. */
function declared(target: StoreVolume, mirror: Mirror): Promise<number[]> {
  return shownAt(target, (mirror.target as VolumeTarget).declaredPoint()!.name)
}

t.test('the target is at a whole point at any moment (S1, C10)', async t => {
  const { lab, volume, target, mirror } = await paired(t.testdir())
  const before = await declared(target, mirror)
  await fill(volume, 3, 7)
  await fill(volume, 60, 8)
  let writes = 0
  const asBefore = onWrite(target, () => { if (++writes === 2) throw new Error('power is off') })
  await t.rejects(mirror.sync(), /power is off/)
  t.same(await declared(target, mirror), before)
  asBefore()
  const next = await lab.killed()
  const again = next.mirrors.get('m')
  await again.sync()
  t.same(await declared(next.store.get('w')!, again), await shown(volume))
  t.equal(next.store.get('w')!.points.list().length, 1, 'one declared point stays')
  await next.close()
  await lab.close()
})

t.test('the acknowledgement of a commit is lost: both go on from the newer point (B22)', async t => {
  const { lab, volume, target, mirror } = await paired(t.testdir())
  await fill(volume, 3, 7)
  await unheard(t, lab, mirror)
  let written = 0
  onWrite(target, (_, length) => { written += length })
  await mirror.sync()
  t.equal(written, 0, 'nothing is sent again')
  t.match(mirror.status().decisions.map(({ rule }) => rule), ['copy-all', 'changed-since-base', 'acknowledgement-lost'])
  t.equal(mirror.status().lagBytes, 0)
  const next = await lab.killed()
  await next.mirrors.get('m').sync()
  t.same(await shown(next.store.get('w')!), await shown(next.store.get('v')!))
  await next.close()
  await lab.close()
})

t.test('a lost acknowledgement is found, however many cycles fail behind it (B22)', async t => {
  const { lab, volume, target, mirror } = await paired(t.testdir())
  await fill(volume, 3, 7)
  await unheard(t, lab, mirror)
  const asBefore = onWrite(target, () => { throw new Error('gone') })
  for (let i = 0; i < 4; i++) {
    await fill(volume, 4, 8 + i)
    await t.rejects(mirror.sync(), /gone/)
  }
  asBefore()
  await mirror.sync()
  t.same(await shown(target), await shown(volume))
  await lab.close()
})

t.test('split, work on both sides, resync: what either changed, and nothing else (D10, D14)', async t => {
  const { lab, volume, target, mirror } = await paired(t.testdir())
  await fill(volume, 1, 2)
  await mirror.split({ atOnce: false })
  t.same(await shown(target), await shown(volume), 'the last cycle is in it')
  await fill(volume, 10, 3)
  await fill(target, 20, 4)
  await fill(target, 30, 5)
  t.equal(await mirror.differing(), 3 * G)
  const work = await shown(target)
  await t.rejects(mirror.sync(), { code: 'wrong-state' })
  await mirror.beginResync({ whole: false })
  await mirror.sync()
  t.same(await shown(target), await shown(volume))
  t.match(mirror.status(), { phase: 'paired', last: { differing: 3 * G, data: 3 * G } })
  const kept = target.points.list().find(({ labels }) => labels['auto'] === 'undo')!
  const device = target.points.open(kept.name)
  t.same(await shown(device), work, 'what was done on the target is kept')
  await device.close()
  await lab.close()
})

t.test('a write that waits for old content to be kept counts when the target is asked whether it was changed (D14, X9)', async t => {
  const { lab, target, mirror } = await paired(t.testdir())
  const planned = { uuid: target.uuid, cycle: 9, sizeBytes: target.sizeBytes }
  const late = async (grain: number): Promise<void> => target.write(grain * G, 100, Buffer.alloc(100, 4), 0)
  const mine = mirror.target as VolumeTarget
  const session = await mine.open()
  let written = late(20)
  await session.begin(planned, true)
  await written
  const kept = target.points.list().find(({ name }) => name === 'before-m-9')
  t.equal(kept && (await shownAt(target, kept.name))[20], 4, 'taken back by a resync: it is kept')
  written = late(21)
  await mine.receive()
  await written
  t.equal((await shownAt(target, mine.shownPoint()!.name))[21], 4, 'the end of a stream: it was received')
  const frozen = await mine.freeze(9)
  written = late(22)
  await t.rejects(mine.accept(frozen, planned), { code: 'busy' }, 'behind a reversal: both sides differ')
  await written
  await session.close()
  await lab.close()
})

t.test('split at once: the last declared point, not half a cycle', async t => {
  const { lab, volume, target, mirror } = await paired(t.testdir())
  const before = await declared(target, mirror)
  await fill(volume, 3, 7)
  await fill(volume, 60, 8)
  const asBefore = onWrite(target, offset => { if (Math.floor(offset / G) === 60) throw new Error('no') })
  await t.rejects(mirror.sync())
  asBefore()
  t.equal((await shown(target))[3], 7, 'half a cycle is in its live image')
  await mirror.split({ atOnce: true })
  t.same(await shown(target), before)
  await lab.close()
})

t.test('what was done on a target while its release is still copied is kept, and only half a cycle is forgotten', async t => {
  const { lab, volume, target, mirror } = await paired(t.testdir())
  await fill(volume, 3, 7)
  const asBefore = onWrite(target, () => { throw new Error('no') })
  await t.rejects(mirror.sync())
  asBefore()
  await target.write(5 * G, G, Buffer.alloc(G, 6), 0)
  let copied = (): void => undefined
  const finished = new Promise<void>(resolve => { copied = resolve })
  Object.defineProperty(target, 'inheriting', { configurable: true, get: () => ({ finished }) })
  await mirror.split({ atOnce: true })
  await fill(target, 9, 4)
  const work = await shown(target)
  await mirror.beginResync({ whole: false })
  await mirror.sync()
  copied()
  Reflect.deleteProperty(target, 'inheriting')
  const undo = (): string[] => target.points.list().filter(({ labels }) => labels['auto'] === 'undo').map(({ name }) => name)
  for (let looks = 300; undo().length > 1 && looks > 0; looks--) await new Promise(resolve => { setTimeout(resolve, 10) })
  await new Promise(resolve => { setTimeout(resolve, 50) })
  t.strictSame(undo(), [`before-m-${mirror.state.cycle}`])
  t.same(await shownAt(target, undo()[0]!), work)
  await lab.close()
})

t.test('a cycle that was asked for before a split, and whose turn comes behind it, leaves the target alone', async t => {
  const { lab, volume, target, mirror } = await paired(t.testdir())
  await fill(volume, 3, 7)
  const split = mirror.split({ atOnce: true })
  const refused = t.rejects(mirror.sync(), { code: 'wrong-state' })
  await split
  await fill(target, 5, 9)
  const apart = await shown(target)
  await refused
  t.same(await shown(target), apart)
  t.equal(mirror.state.phase, 'split')
  await lab.close()
})

t.test('reverse: the source shows what the target has, at once, and the pair goes on (D11, D12)', async t => {
  const { lab, volume, target, mirror } = await paired(t.testdir())
  await mirror.split({ atOnce: false })
  await fill(volume, 10, 3)
  await fill(target, 20, 4)
  const wanted = await shown(target)
  await lab.mirrors.together(['m']).reverse()
  t.same(await shown(volume), wanted)
  t.equal(mirror.status().phase, 'paired')
  await fill(volume, 11, 9)
  await volume.inheriting?.finished
  await mirror.sync()
  t.equal((await shown(volume))[11], 9)
  t.same(await shown(target), await shown(volume))
  const undo = volume.points.list().filter(({ labels }) => labels['auto'] === 'undo')
  t.equal(undo.length, 1, 'what the source had is kept')
  const device = volume.points.open(undo[0]!.name)
  t.match(await shown(device), { 10: 3, 20: 1 })
  await device.close()
  t.equal(target.points.list().length, 1)
  await lab.close()
})

t.test('verification finds what was changed behind its back, and repairs it (X14)', async t => {
  const { lab, volume, target, mirror } = await paired(t.testdir())
  t.same(await mirror.verify(), [])
  await fill(target, 33, 99)
  t.same(await mirror.verify(), [{ offset: 33 * G, length: G }])
  t.match(mirror.status(), { phase: 'resyncing', problem: /differences/ })
  await mirror.sync()
  t.match(mirror.status(), { phase: 'paired', problem: null })
  t.same(await shown(target), await shown(volume))
  await lab.close()
})

t.test('an unknown point on the target is refused, and compared away when asked (X12, B18)', async t => {
  const { lab, volume, target, mirror } = await paired(t.testdir())
  for (const { name, pins } of target.points.list()) {
    for (const { owner } of pins) await target.points.unpin(name, owner)
    await target.points.delete(name)
  }
  await fill(target, 5, 77)
  await fill(volume, 6, 6)
  await t.rejects(mirror.sync(), { code: 'wrong-state' })
  await mirror.beginResync({ whole: true })
  await mirror.sync()
  t.same(await shown(target), await shown(volume))
  t.match(mirror.status(), { phase: 'paired', problem: null, last: { data: 2 * G } })
  await lab.close()
})

t.test('a first copy that nobody has heard of, and that the source has forgotten, is refused, and compared away when asked', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  await fill(volume, 3, 7)
  const target = await lab.volume('w', GRAINS)
  const mirror = await lab.mirrors.create({
    name: 'm', volume: 'v', target: 'w', intervalSeconds: 3600, lagBytes: null, bytesPerSecond: null, overwrite: false,
  })
  await unheard(t, lab, mirror)
  for (const { name, pins } of volume.points.list()) {
    for (const { owner } of pins) await volume.points.unpin(name, owner)
    await volume.points.delete(name)
  }
  await t.rejects(mirror.sync(), { code: 'wrong-state' })
  t.equal(mirror.state.phase, 'copying')
  await mirror.beginResync({ whole: true })
  await mirror.sync()
  t.same(await shown(target), await shown(volume))
  t.match(mirror.status(), { phase: 'paired', problem: null })
  await lab.close()
})

t.test('two mirrors of one volume at different lags, each its own union (A9, D19)', async t => {
  const { lab, volume, mirror } = await paired(t.testdir())
  const other = await lab.mirror({ name: 'n', volume: 'v', target: 'x' })
  await fill(volume, 1, 2)
  await mirror.sync()
  await fill(volume, 2, 3)
  await mirror.split({ atOnce: false })
  t.equal(mirror.status().lagBytes, 0)
  t.equal(other.status().lagBytes, 2 * G)
  await other.sync()
  t.same(await shown(lab.store.get('x')!), await shown(volume))
  t.equal(other.status().phase, 'paired')
  await lab.close()
})

t.test('a source that cannot be opened: the mirror says so, tries again later, and can be deleted', async t => {
  const { lab, mirror } = await paired(t.testdir())
  const list = lab.store.list.bind(lab.store)
  lab.store.list = () => list().filter(({ name }) => name !== 'v')
  await lab.clock.advance(3600_000)
  await new Promise(resolve => { setTimeout(resolve, 20) })
  t.match(mirror.status(), { problem: /source volume of the mirror is gone/, lagBytes: null })
  t.ok(Date.parse(mirror.status().nextAt!) > lab.clock.wallTime().getTime(), 'not over and over at once')
  await lab.mirrors.delete('m')
  t.same([lab.mirrors.list(), lab.store.mirrors, lab.store.get('w')!.points.list()], [[], [], []])
  await lab.close()
})

t.test('its points are pinned from the first moment, so that nobody else can delete them', async t => {
  const { lab, volume, target } = await paired(t.testdir())
  for (const points of [volume.points, target.points]) {
    const [{ name, pins }] = points.list() as [ReturnType<typeof points.list>[number]]
    t.same(pins, [{ owner: 'mirror m', expiresAt: null }])
    await t.rejects(points.delete(name), { code: 'busy' })
  }
  await lab.close()
})

t.test('a deleted mirror leaves no points, and its target at a whole point', async t => {
  const { lab, volume, target, mirror } = await paired(t.testdir())
  await fill(volume, 1, 2)
  await mirror.sync()
  await lab.mirrors.delete('m')
  t.same([volume.points.list(), target.points.list(), lab.mirrors.list(), lab.store.mirrors], [[], [], [], []])
  t.same(await shown(target), await shown(volume))
  await lab.close()
})

t.test('a target that is not empty, of another grain, or the volume itself, is refused', async t => {
  const { lab } = await paired(t.testdir())
  const used = await lab.volume('used', GRAINS)
  await fill(used, 0, 1)
  const options = { intervalSeconds: 60, lagBytes: null, bytesPerSecond: null, overwrite: false }
  await t.rejects(lab.mirrors.create({ ...options, name: 'a', volume: 'v', target: 'used' }), { code: 'exists' })
  await lab.store.createVolume({ name: 'coarse', sizeBytes: 2 ** 20, grainBytes: 65536 })
  await t.rejects(lab.mirrors.create({ ...options, name: 'a', volume: 'v', target: 'coarse' }), { code: 'bad-argument' })
  await t.rejects(lab.mirrors.create({ ...options, name: 'a', volume: 'w', target: 'v' }), { code: 'bad-argument' }, 'a circle')
  await t.rejects(lab.mirrors.create({ ...options, name: 'a', volume: 'used', target: 'w' }), { code: 'busy' })
  await t.rejects(lab.mirrors.create({ ...options, name: 'm', volume: 'v', target: 'new' }), { code: 'exists' })
  await t.rejects(lab.mirrors.create({ ...options, name: 'a', volume: 'v', target: 'nbd://nobody/x' }), { code: 'unreachable' })
  t.same(lab.store.list().map(({ name }) => name), ['coarse', 'used', 'v', 'w'], 'nothing was made')
  await lab.close()
})

t.test('what no mirror can be is refused before anything is made for it', async t => {
  const lab = await Lab.open(t.testdir())
  await lab.volume('v', GRAINS)
  const options = { name: 'm', volume: 'v', target: 'w', intervalSeconds: 60, lagBytes: null, bytesPerSecond: null, overwrite: false }
  let made = 0
  const create = lab.store.createVolume.bind(lab.store)
  lab.store.createVolume = (...wanted) => {
    made++
    return create(...wanted)
  }
  for (const wrong of [
    { keepSnapshots: 101 }, { keepSnapshots: -1 }, { keepSnapshots: 1.5 }, { intervalSeconds: 0 }, { lagBytes: 0 }, { bytesPerSecond: 0.5 },
    { timeoutSeconds: 26 }, { mode: 'twice' as 'sync' }, { name: 'a'.repeat(65) },
  ]) await t.rejects(lab.mirrors.create({ ...options, ...wrong }), { code: 'bad-argument' }, JSON.stringify(wrong))
  t.same([made, lab.store.list().map(({ name }) => name), lab.store.mirrors], [0, ['v'], []])
  await t.rejects(lab.mirrors.create({ ...options, name: 'a/b' }), { code: 'bad-argument' })
  t.same(lab.store.list().map(({ name }) => name), ['v'])
  await lab.close()
})

t.test('commands behind a deletion do not bring the mirror back', async t => {
  const lab = await Lab.open(t.testdir())
  await lab.volume('v', GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: 'w' })
  const gone = lab.mirrors.delete('m')
  const late: Promise<unknown>[] = [mirror.pause(), mirror.split({ atOnce: true }), mirror.beginResync({ whole: true }), mirror.sync(), mirror.verify()]
  for (const command of late) command.catch(() => undefined)
  await gone
  for (const command of late) await t.rejects(command as Promise<void>)
  t.same(lab.store.mirrors, [])
  await lab.close()
})

t.test('a clone, or a volume that is being restored, is not empty: as a target it is refused, or kept and compared', async t => {
  const lab = await Lab.open(t.testdir())
  const origin = await lab.volume('o', GRAINS)
  await fill(origin, 0, 7, GRAINS)
  await origin.points.create({ name: 's', kind: 'snapshot' })
  await lab.volume('v', GRAINS)
  const clone = await lab.store.cloneVolume({ from: { volume: 'o', point: 's' }, name: 'c' })
  t.match(await clone.facts(), { mappedBytes: 0, inheritedBytes: GRAINS * G })
  await t.rejects(lab.mirror({ volume: 'v', target: 'c' }), { code: 'exists' })
  await lab.mirror({ volume: 'v', target: 'c', overwrite: true })
  t.same(await shown(clone), Array.from({ length: GRAINS }, () => 0), 'zeros were shipped over what it inherits')
  const kept = clone.points.list().find(({ labels }) => labels['auto'] === 'undo')!
  const device = clone.points.open(kept.name)
  t.same(await shown(device), Array.from({ length: GRAINS }, () => 7))
  await device.close()
  await lab.close()
})
