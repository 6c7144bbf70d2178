// S8 and staging: what was answered is never lost for want of space, and what is not sure to find space is not answered.
import t from 'tap'
import { GRAIN } from './lab.js'
import { settle } from './inherit-lab.js'
import { SpaceRig } from './space-lab.js'

const NO_SPACE = { code: 'no-space' }
const ONES = Array<number>(16).fill(1)
/** Longer than what is staged rests: twice 50 ms at most. */
const REST_MS = 110
/** Longer than until a full disk is tried again. */
const RETRY_MS = 6000

async function staging(options: Parameters<typeof SpaceRig.open>[0] = {}): Promise<SpaceRig> {
  const rig = await SpaceRig.open({ staging: true, ...options })
  await rig.snapshot('s')
  return rig
}

/** The disk of the points has room for one grain, which the snapshot has taken. */
async function full(): Promise<SpaceRig> {
  const rig = await staging()
  await rig.write(0, 2)
  await rig.clock.advance(REST_MS)
  rig.points.capacity = 1
  return rig
}

t.test('a budget of k grains: k writes are staged, the next one fails, and all k find their place', async t => {
  const rig = await staging({ budget: 3 })
  for (let grain = 0; grain < 3; grain++) await rig.write(grain, 2)
  t.equal(rig.points.used, 0, 'what is staged has not been moved')
  t.equal(rig.kept, 3, 'but it counts')
  await rig.write(2, 3)
  await t.rejects(rig.write(3, 2), NO_SPACE, 'what is promised is not there for others')
  await t.rejects(rig.touch(3, 2), NO_SPACE)
  await rig.touch(1, 4)
  await rig.clock.advance(REST_MS)
  await rig.volume.flush()
  t.strictSame(await rig.live(), [2, 4, 3, ...ONES.slice(3)])
  t.strictSame(await rig.content('s'), ONES)
  t.match(rig.volume.space, { keptBytes: 3 * GRAIN, failing: 'budget' })
  rig.budget = 4
  await rig.write(3, 2)
  await t.rejects(rig.write(4, 2), NO_SPACE)
  await rig.volume.close()
})

t.test('promises end with what they were for: a deletion while grains are staged leaves none behind', async t => {
  const rig = await staging({ budget: 5 })
  for (let grain = 0; grain < 5; grain++) await rig.write(grain, 2)
  t.equal(rig.kept, 5)
  await rig.volume.points.delete('s')
  await rig.volume.points.settled()
  await rig.clock.advance(REST_MS)
  t.equal(rig.kept, 0)
  await rig.snapshot('again')
  for (let grain = 0; grain < 5; grain++) await rig.write(grain, 3)
  await t.rejects(rig.write(5, 3), NO_SPACE)
  await rig.clock.advance(REST_MS)
  t.equal(rig.kept, 5)
  t.strictSame(await rig.content('again'), [2, 2, 2, 2, 2, ...ONES.slice(5)])
  await rig.volume.close()
})

t.test('a budget that is set while grains are staged counts them', async t => {
  const rig = await staging()
  for (let grain = 0; grain < 3; grain++) await rig.write(grain, 2)
  rig.budget = 4
  t.equal(rig.kept, 3)
  await rig.write(3, 2)
  await t.rejects(rig.write(4, 2), NO_SPACE)
  await rig.clock.advance(REST_MS)
  t.equal(rig.kept, 4)
  t.strictSame([await rig.live(), await rig.content('s')], [[2, 2, 2, 2, ...ONES.slice(4)], ONES])
  await rig.volume.close()
})

t.test('what a process has left staged counts when the next one opens it', async t => {
  const rig = await staging({ budget: 5 })
  for (let grain = 0; grain < 5; grain++) await rig.write(grain, 2)
  rig.points.capacity = 0
  await rig.reopen()
  t.equal(rig.kept, 5)
  rig.points.capacity = 100
  await rig.clock.advance(RETRY_MS)
  await t.rejects(rig.touch(5, 2), NO_SPACE)
  t.equal(rig.kept, 5)
  t.strictSame([await rig.live(), await rig.content('s')], [[2, 2, 2, 2, 2, ...ONES.slice(5)], ONES])
  await rig.volume.close()
})

t.test('an undo point is given up at the exact grain, with grains staged for it', async t => {
  const rig = await SpaceRig.open({ staging: true, budget: 4 })
  await rig.snapshot('u', true)
  for (let grain = 0; grain < 4; grain++) await rig.write(grain, 2)
  t.strictSame(rig.names, ['u'])
  await rig.write(4, 2)
  t.strictSame(rig.names, [])
  t.match(rig.volume.space, { keptBytes: 0, sacrifices: 1, lastSacrifice: { name: 'u', why: 'budget' } })
  t.strictSame(await rig.live(), [2, 2, 2, 2, 2, ...ONES.slice(5)])
  await rig.volume.close()
})

t.test('what an older snapshot has already is not promised to it once more', async t => {
  const rig = await SpaceRig.open({ staging: true, budget: 6 })
  await rig.snapshot('s')
  for (let grain = 0; grain < 2; grain++) await rig.write(grain, 2)
  await rig.snapshot('v', true)
  await rig.snapshot('u', true)
  for (let grain = 0; grain < 4; grain++) await rig.write(grain, 3)
  await rig.write(4, 3, 2)
  t.strictSame([rig.names, rig.kept], [['s'], 6], 'v has nothing to give, and of what u gives s has two')
  t.strictSame(await rig.live(), [3, 3, 3, 3, 3, 3, ...ONES.slice(6)])
  await rig.volume.points.settled()
  t.strictSame(await rig.content('s'), ONES)
  await rig.volume.close()
})

t.test('the disk is full when they are to be moved: nothing is lost, new ones fail, and it goes on by itself', async t => {
  const rig = await full()
  for (let grain = 1; grain < 5; grain++) await rig.write(grain, 2)
  const live = [2, 2, 2, 2, 2, ...ONES.slice(5)]
  await rig.clock.advance(REST_MS)
  t.strictSame(await rig.live(), live, 'they are read from the log')
  t.strictSame(await rig.content('s'), ONES)
  await rig.volume.flush()
  await t.rejects(rig.write(5, 2), NO_SPACE, 'nothing more is staged')
  await t.rejects(rig.touch(1, 9), NO_SPACE, 'not even where something is')
  await rig.touch(0, 3)
  live[0] = 3
  t.match(rig.volume.space, { failing: 'disk' })
  for (let round = 0; round < 3; round++) await rig.clock.advance(RETRY_MS)
  t.strictSame(await rig.live(), live)
  rig.points.capacity = 100
  await rig.clock.advance(RETRY_MS)
  t.equal(rig.kept, 5, 'moved without anybody asking for it')
  t.equal(rig.volume.space.failing, null)
  await rig.write(5, 2)
  live[5] = 2
  t.strictSame(await rig.live(), live)
  t.strictSame(await rig.content('s'), ONES)
  await rig.volume.close()
})

t.test('killed while they cannot be moved: the volume opens, shows them, and moves them when there is space', async t => {
  const rig = await full()
  for (let grain = 1; grain < 5; grain++) await rig.write(grain, 2)
  const live = [2, 2, 2, 2, 2, ...ONES.slice(5)]
  await rig.reopen()
  t.strictSame(await rig.live(), live)
  t.strictSame(await rig.content('s'), ONES)
  await t.rejects(rig.write(5, 2), NO_SPACE)
  await t.rejects(rig.snapshot('another'), NO_SPACE)
  rig.points.capacity = 100
  await rig.write(5, 2)
  live[5] = 2
  await rig.clock.advance(RETRY_MS)
  t.equal(rig.kept, 6)
  t.strictSame([await rig.live(), await rig.content('s')], [live, ONES])
  await rig.reopen()
  t.strictSame([await rig.live(), await rig.content('s'), rig.kept], [live, ONES, 6])
  await rig.volume.close()
})

t.test('a full disk and what is staged do not keep a snapshot from being deleted', async t => {
  const rig = await full()
  await rig.write(1, 2, 4)
  await rig.clock.advance(REST_MS)
  await t.rejects(rig.write(5, 2), NO_SPACE)
  await rig.volume.points.delete('s')
  await rig.volume.points.settled()
  await rig.write(5, 2)
  t.strictSame(await rig.live(), [2, 2, 2, 2, 2, 2, ...ONES.slice(6)])
  await rig.clock.advance(REST_MS)
  t.match(rig.volume.space, { keptBytes: 0 })
  await rig.snapshot('new')
  await rig.write(0, 3)
  await rig.reopen()
  t.strictSame([await rig.live(), await rig.content('new')], [[3, 2, 2, 2, 2, 2, ...ONES.slice(6)], [2, 2, 2, 2, 2, 2, ...ONES.slice(6)]])
  await rig.volume.close()
})

t.test('the last snapshot goes while grains are staged: later changes of them come on top all the same', async t => {
  const changes: readonly ((rig: SpaceRig) => unknown)[] = [
    rig => rig.write(1, 3), rig => rig.touch(1, 3), rig => rig.volume.trim(GRAIN, GRAIN),
    rig => rig.volume.zero(GRAIN, GRAIN, { allocate: false, fast: false }), rig => rig.volume.zero(GRAIN, GRAIN, { allocate: true, fast: false }),
  ]
  for (const [i, change] of changes.entries()) for (const killed of [false, true]) {
    const rig = await staging()
    for (let grain = 0; grain < 6; grain++) await rig.write(grain, 2)
    await rig.volume.points.delete('s')
    await rig.volume.points.settled()
    t.strictSame(rig.names, [])
    await change(rig)
    const live = [2, i < 2 ? 3 : 0, 2, 2, 2, 2, ...ONES.slice(6)]
    t.strictSame(await rig.live(), live)
    if (killed) await rig.reopen()
    await rig.clock.advance(REST_MS)
    t.strictSame(await rig.live(), live)
    await rig.volume.close()
    await rig.reopen()
    t.strictSame(await rig.live(), live)
    await rig.volume.close()
  }
})

t.test('a full disk: undo points are given up for a request, and what is staged follows', async t => {
  const rig = await SpaceRig.open({ staging: true })
  await rig.snapshot('u', true)
  await rig.write(0, 2)
  await rig.snapshot('s')
  await rig.write(1, 2)
  rig.points.capacity = 2
  await rig.write(2, 2)
  await settle(rig.clock, (async () => { await rig.volume.trim(2 * GRAIN, GRAIN) })())
  t.strictSame(rig.names, ['s'])
  t.match(rig.volume.space, { lastSacrifice: { name: 'u', why: 'disk' }, failing: null })
  await t.rejects(settle(rig.clock, rig.touch(4, 3)), NO_SPACE)
  t.strictSame(await rig.live(), [2, 2, 0, ...ONES.slice(3)])
  t.strictSame(await rig.content('s'), [2, ...ONES.slice(1)])
  await rig.volume.close()
})

t.test('closed on a full disk: the next open shows everything', async t => {
  const rig = await full()
  for (let grain = 1; grain < 5; grain++) await rig.write(grain, 2)
  await rig.volume.flush()
  await rig.volume.close()
  await rig.reopen()
  t.strictSame([await rig.live(), await rig.content('s')], [[2, 2, 2, 2, 2, ...ONES.slice(5)], ONES])
  await rig.volume.close()
})
