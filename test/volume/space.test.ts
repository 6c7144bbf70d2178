// S8: what a volume's points keep has a budget; at the exact grain where it, or the disk, ends, the order of sacrifice is kept.
import t from 'tap'
import { seededRandom } from '../../src/device/testing.js'
import { Rig } from './inherit-lab.js'
import { GRAIN, readAll } from './lab.js'
import { SpaceRig } from './space-lab.js'

const NO_SPACE = { code: 'no-space' }
const ones = (grains: number): number[] => Array<number>(grains).fill(1)
const SNAPSHOT_OF_ONES = ones(16)

for (const way of ['write', 'touch'] as const) t.test(`budget of k grains, by ${way}: k are kept, the next one fails`, async t => {
  for (const budget of [0, 1, 3]) {
    const rig = await SpaceRig.open({ budget })
    await rig.snapshot('s')
    for (let grain = 0; grain < budget; grain++) await rig[way](grain, 2)
    t.match(rig.volume.space, { keptBytes: budget * GRAIN, failing: null, lastSacrifice: null })
    await t.rejects(rig[way](budget, 2), NO_SPACE)
    await t.rejects(rig[way](15, 2), NO_SPACE)
    t.strictSame(await rig.live(), SNAPSHOT_OF_ONES.map((one, grain) => grain < budget ? 2 : one), 'what failed changed nothing')
    t.strictSame(await rig.content('s'), SNAPSHOT_OF_ONES)
    t.match(rig.volume.space, { keptBytes: budget * GRAIN, failing: 'budget', budgetBytes: budget * GRAIN })
    for (let grain = 0; grain < budget; grain++) await rig[way](grain, 3)
    rig.budget = budget + 1
    t.equal(rig.volume.space.failing, null, 'room again')
    await rig[way](budget, 2)
    await t.rejects(rig[way](budget + 1, 2), NO_SPACE)
    rig.budget = null
    await rig[way](budget + 1, 2)
    t.match(rig.volume.space, { keptBytes: (budget + 2) * GRAIN, failing: null })
    await rig.volume.close()
  }
})

t.test('what needs no space goes on: what is kept already, holes, trims, reads, other points', async t => {
  const rig = await SpaceRig.open({ budget: 2 })
  await rig.volume.trim(4 * GRAIN, GRAIN)
  await rig.snapshot('s')
  await rig.write(0, 2, 2)
  await t.rejects(rig.write(2, 2), NO_SPACE)
  await rig.write(1, 3)
  await rig.write(4, 3)
  await rig.volume.trim(5 * GRAIN, 2 * GRAIN)
  await rig.volume.points.create({ name: 'b', kind: 'bookmark' })
  await rig.snapshot('later')
  t.strictSame(await rig.live(), [2, 3, 1, 1, 3, 0, 0, ...ones(9)])
  t.strictSame(await rig.content('s'), [1, 1, 1, 1, 0, ...ones(11)])
  await t.rejects(rig.write(5, 3), NO_SPACE, 'what is lent would have to be kept')
  t.strictSame((await rig.content('s')).slice(4, 7), [0, 1, 1])
  await rig.volume.close()
})

t.test('a request of many grains fits, or fails before anything of it is kept', async t => {
  const rig = await SpaceRig.open({ grains: 1024, budget: 600 })
  await rig.snapshot('s')
  await t.rejects(rig.write(0, 2, 601), NO_SPACE)
  t.match(rig.volume.space, { keptBytes: 0, failing: 'budget' })
  await rig.write(3, 2)
  t.equal(rig.volume.space.failing, 'budget', 'for such a request there is still no room')
  await rig.write(0, 2, 600)
  t.equal(rig.kept, 600)
  await t.rejects(rig.write(600, 2), NO_SPACE)
  t.strictSame(await rig.content('s'), ones(1024))
  await rig.volume.close()
})

t.test('zeros over data with holes in between find room for all of it, or nothing is zeroed', async t => {
  const rig = await SpaceRig.open({ budget: 1 })
  await rig.volume.trim(4 * GRAIN, GRAIN)
  await rig.snapshot('s')
  const before = await rig.live()
  await t.rejects((async () => rig.volume.zero(3 * GRAIN, 3 * GRAIN, { allocate: false, fast: false }))(), NO_SPACE)
  t.strictSame(await rig.live(), before)
  t.match(rig.volume.space, { keptBytes: 0, failing: 'budget' })
  rig.budget = 2
  await rig.volume.zero(3 * GRAIN, 3 * GRAIN, { allocate: false, fast: false })
  t.strictSame((await rig.live()).slice(2, 7), [1, 0, 0, 0, 1])
  t.strictSame((await rig.content('s')).slice(2, 7), [1, 1, 0, 1, 1])
  await rig.volume.close()
})

/** u1 keeps 0 and 1; s and mark nothing; u2 2 and 3; t nothing. */
async function chainOfFive(budget: number, order: 'drop-undo-then-fail' | 'fail' = 'drop-undo-then-fail'): Promise<SpaceRig> {
  const rig = await SpaceRig.open({ budget, order })
  await rig.snapshot('u1', true)
  await rig.write(0, 2, 2)
  await rig.snapshot('s')
  await rig.snapshot('u2', true)
  await rig.write(2, 2, 2)
  await rig.snapshot('t')
  t.equal(rig.kept, 4)
  return rig
}
const CONTENT = { s: [2, 2, ...ones(14)], t: [2, 2, 2, 2, ...ones(12)] }

t.test('undo points are given up, the oldest first, each at the grain that needs it; then writes fail', async t => {
  const rig = await chainOfFive(5)
  await rig.write(4, 3)
  t.strictSame(rig.names, ['u1', 's', 'u2', 't'], 'the last grain that fits costs nothing')
  await rig.write(5, 3)
  t.strictSame(rig.names, ['s', 'u2', 't'])
  t.match(rig.volume.space, { keptBytes: 4 * GRAIN, sacrifices: 1, lastSacrifice: { name: 'u1', why: 'budget', at: /^2.*Z$/ }, failing: null })
  await rig.write(6, 3)
  // What u2 has kept of 2 and 3 the older s needs: it is handed over, and u2 gives back nothing.
  await t.rejects(rig.write(7, 3), NO_SPACE)
  t.strictSame(rig.names, ['s', 't'])
  t.match(rig.volume.space, { keptBytes: 5 * GRAIN, sacrifices: 2, lastSacrifice: { name: 'u2' }, failing: 'budget' })
  t.strictSame([await rig.content('s'), await rig.content('t')], [CONTENT.s, CONTENT.t], 'what people made is as it was')
  t.strictSame(await rig.live(), [2, 2, 2, 2, 3, 3, 3, ...ones(9)])
  const given = rig.warnings.filter(({ message }) => /was given up/.test(message))
  t.strictSame(given.map(({ point, why }) => [point, why]), [['u1', 'budget'], ['u2', 'budget']], 'each is logged')
  t.equal(rig.warnings.filter(({ message }) => /fail for want of space/.test(message)).length, 1)
  await rig.volume.points.delete('s')
  await rig.volume.points.settled()
  await rig.write(7, 3)
  t.equal(rig.volume.space.failing, null)
  await rig.volume.close()
})

t.test("order 'fail': nothing is ever deleted", async t => {
  const rig = await chainOfFive(4, 'fail')
  await t.rejects(rig.write(4, 3), NO_SPACE)
  t.match(rig.volume.space, { order: 'fail', sacrifices: 0, lastSacrifice: null, failing: 'budget' })
  t.strictSame(rig.names, ['u1', 's', 'u2', 't'])
  rig.volume.setSpace({ budgetBytes: 4 * GRAIN, order: 'drop-undo-then-fail' })
  await rig.write(4, 3)
  t.strictSame(rig.names, ['s', 'u2', 't'])
  await rig.volume.close()
})

t.test('an undo point that is pinned or read stays; one whose pin has expired does not', async t => {
  const rig = await chainOfFive(4)
  await rig.volume.points.pin('u1', { owner: 'me', expiresAt: null })
  const reader = rig.volume.points.open('u2')
  await t.rejects(rig.write(4, 3), NO_SPACE)
  t.strictSame(rig.names, ['u1', 's', 'u2', 't'])
  t.equal(rig.volume.space.sacrifices, 0)
  await rig.volume.points.pin('u1', { owner: 'me', expiresAt: new Date(rig.clock.wallTime().getTime() + 1000).toISOString() })
  await t.rejects(rig.write(4, 3), NO_SPACE)
  await rig.clock.advance(1001)
  await rig.write(4, 3)
  t.strictSame(rig.names, ['s', 'u2', 't'])
  await reader.close()
  await rig.volume.close()
})

t.test('many requests at once: as many succeed as there is room for, and one step serves all who wait', async t => {
  const rig = await chainOfFive(6)
  const results = await Promise.allSettled(Array.from({ length: 8 }, (_, i) => rig.touch(4 + i, 3)))
  // Room for two, two more for u1; u2 gives back nothing.
  t.equal(results.filter(({ status }) => status === 'fulfilled').length, 4)
  t.match(rig.volume.space, { keptBytes: 6 * GRAIN, sacrifices: 2 })
  const live = await rig.live()
  t.strictSame(live.slice(4, 12), results.map(({ status }) => status === 'fulfilled' ? 3 : 1))
  t.strictSame([await rig.content('s'), await rig.content('t')], [CONTENT.s, CONTENT.t])
  await rig.volume.close()
})

t.test('what is being deleted gives its space back before anything else is given up', async t => {
  const rig = await chainOfFive(4)
  await rig.snapshot('u3', true)
  await rig.volume.points.delete('u1')
  await rig.write(4, 3, 2)
  t.strictSame(rig.names, ['s', 'u2', 't', 'u3'])
  t.equal(rig.volume.space.sacrifices, 0)
  await rig.volume.close()
})

t.test('the disk itself ends at grain k: the same order', async t => {
  const rig = await chainOfFive(100)
  rig.budget = null
  rig.points.capacity = 5
  await rig.touch(4, 3)
  await rig.touch(5, 3)
  t.match(rig.volume.space, { sacrifices: 1, lastSacrifice: { name: 'u1', why: 'disk' }, failing: null })
  await rig.touch(6, 3)
  const before = await rig.live()
  await t.rejects(rig.touch(7, 3), NO_SPACE)
  t.strictSame(await rig.live(), before)
  t.match(rig.volume.space, { failing: 'disk', lastSacrifice: { why: 'disk' } })
  t.strictSame([await rig.content('s'), await rig.content('t')], [CONTENT.s, CONTENT.t])
  rig.points.capacity = 100
  await rig.touch(7, 3)
  t.equal(rig.volume.space.failing, null, 'without a restart')
  await rig.volume.close()
})

t.test('usage is what a new look at the maps says, whatever happened', async t => {
  for (let seed = 1; seed <= 20; seed++) {
    const random = seededRandom(seed)
    const rig = await SpaceRig.open({ staging: seed % 2 === 0 })
    let made = 0
    for (let i = 0; i < 60; i++) {
      const dice = random(12)
      if (dice < 1) await rig.snapshot(`p${++made}`)
      else if (dice < 2 && rig.names.length > 0) await rig.volume.points.delete(rig.names[random(rig.names.length)]!)
      else if (dice < 4) await rig.volume.trim(random(14) * GRAIN, 2 * GRAIN)
      else await rig[dice < 8 ? 'write' : 'touch'](random(14), 2 + random(200))
    }
    await rig.volume.points.settled()
    await rig.clock.advance(1000)
    const { kept } = rig
    await rig.reopen()
    if (kept !== rig.kept) t.equal(kept, rig.kept, `seed ${seed}`)
    await rig.volume.close()
  }
  t.pass('20 histories')
})

t.test('on a full disk a deleted point makes room for what it hands over out of itself', async t => {
  for (const [own, handed] of [[1, 9], [3, 3], [0, 4]] as const) {
    const rig = await SpaceRig.open({ grains: 64 })
    await rig.snapshot('s')
    if (own > 0) await rig.write(0, 2, own)
    await rig.snapshot('u', true)
    await rig.write(0, 3, own + handed)
    await rig.snapshot('t')
    rig.points.capacity = rig.points.used
    t.equal(rig.points.used, 2 * own + handed)
    if (own === 0) await t.rejects(rig.touch(60, 4), NO_SPACE, 'nothing is gained, and the next one fails')
    else await rig.touch(60, 4)
    t.strictSame(rig.names, ['s', 't'])
    if (own > 0) await rig.volume.points.settled()
    t.strictSame(await rig.content('s'), ones(64))
    t.strictSame(await rig.content('t'), [...Array<number>(own + handed).fill(3), ...ones(64 - own - handed)])
    await rig.reopen()
    t.strictSame(await rig.content('s'), ones(64), 'killed and opened again')
    rig.points.capacity = 1000
    await rig.volume.points.settled().catch(() => undefined)
    t.strictSame(await rig.content('s'), ones(64))
    await rig.volume.close()
  }
})

t.test('the disk is full for live itself: an undo point is given up for a hole that is filled', async t => {
  const rig = await SpaceRig.open({})
  await rig.volume.trim(0, 8 * GRAIN)
  await rig.snapshot('u', true)
  await rig.write(8, 2)
  rig.fillLive(() => rig.names.includes('u'))
  await rig.write(0, 5)
  t.strictSame(rig.names, [])
  t.match(rig.volume.space, { lastSacrifice: { name: 'u', why: 'disk' }, failing: null })
  let full = true
  rig.fillLive(() => full)
  await t.rejects(rig.write(1, 5), NO_SPACE)
  t.equal(rig.volume.space.failing, 'disk')
  full = false
  await rig.write(1, 6)
  t.equal(rig.volume.space.failing, null)
  t.strictSame((await rig.live()).slice(0, 3), [5, 6, 0])
  await rig.volume.close()
})

t.test('a grain that is kept twice, as what it has lent and as what is shown there, takes room for two while it is on its way', async t => {
  const rig = await Rig.open({ sizeBytes: 8 * GRAIN })
  const { volume } = rig
  const write = async (grain: number, value: number, count = 1): Promise<void> => {
    await volume.write(grain * GRAIN, count * GRAIN, Buffer.alloc(count * GRAIN, value), 0)
  }
  await write(0, 1, 8)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await write(0, 2, 8)
  const job = await volume.restore({ from: 's', bytesPerSecond: 1 })
  job.finished.catch(() => undefined)
  await volume.points.create({ name: 'n', kind: 'snapshot' })
  // One piece has been copied.
  const { keptBytes } = volume.space
  volume.setSpace({ budgetBytes: keptBytes + 3 * GRAIN, order: 'fail' })
  const answers = await Promise.all([6, 7].map(grain => write(grain, 3).then(() => true, () => false)))
  t.strictSame(answers.sort(), [false, true])
  t.equal(volume.space.keptBytes, keptBytes + 2 * GRAIN)
  t.ok((await readAll(volume.points.open('n'))).equals(Buffer.alloc(8 * GRAIN, 1)))
  t.ok((await readAll(volume.points.open('undo-s-1'))).equals(Buffer.alloc(8 * GRAIN, 2)))
  await volume.close()
})
