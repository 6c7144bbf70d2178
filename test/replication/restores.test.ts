// Restores of a mirrored volume among writes, freezes and copies (SEEDS A3, A11, C5, C6); what is sent is held, so that they come in between.
import t from 'tap'
import type { Mirror } from '../../src/replication/mirror.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { Held, until } from './held.js'
import { fill, G, Lab, onWrite, shown, shownAt } from './lab.js'

const GRAINS = 8
const ALL = Array.from({ length: GRAINS }, (_, grain) => grain)
const X = 3
/** Timers of the store do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))

interface Stand { readonly lab: Lab, readonly volume: StoreVolume, readonly target: StoreVolume, readonly held: Held }

/** All grains are 1, and so is the snapshot `s`; an empty target, whose cycles can be held. */
async function stand(directory: string): Promise<Stand> {
  const lab = await Lab.open(directory)
  const volume = await lab.volume('v', GRAINS)
  const target = await lab.volume('w', GRAINS)
  await fill(volume, 0, 1, GRAINS)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  const held = new Held()
  held.onSource(volume)
  held.onTarget(target)
  return { lab, volume, target, held }
}

/** What clients of the target see. */
async function declared(target: StoreVolume, mirror: Mirror): Promise<number[] | undefined> {
  const point = mirror.shownPoint()
  return point && shownAt(target, point.name)
}

const STEPS: readonly (readonly [name: string, run: (volume: StoreVolume) => Promise<unknown>])[] = [
  ['write', volume => fill(volume, X, 7)], ['restore', volume => volume.restore({ from: 's' })], ['write again', volume => fill(volume, X, 9)],
]

for (let gap = 0; gap <= STEPS.length; gap++) {
  const told = STEPS.map(([name]) => name).toSpliced(gap, 0, 'FREEZE').join(', ')
  t.test(`${told}: after the drain the last write is there (C5)`, async t => {
    const { lab, volume, target, held } = await stand(t.testdir())
    const mirror = await lab.mirror({ volume: 'v', target: 'w' })
    let cycle: Promise<void> | undefined
    let frozen: number[] | undefined
    for (let step = 0; step <= STEPS.length; step++) {
      if (step === gap) {
        frozen = await shown(volume)
        held.hold(ALL)
        cycle = mirror.sync()
        await until('the cycle sends', () => held.arrived > 0)
      }
      await STEPS[step]?.[1](volume)
    }
    held.letAll()
    await cycle
    t.same(await declared(target, mirror), frozen, 'the cycle has delivered what it froze')
    await mirror.sync()
    const wanted = ALL.map(grain => grain === X ? 9 : 1)
    t.same(await shown(volume), wanted)
    t.same(await declared(target, mirror), wanted)
    t.equal(mirror.status().lagBytes, 0)
    await lab.close()
  })
}

t.test('two restores in one period: one cycle carries what is left of them, each grain once (C6)', async t => {
  const { lab, volume, target } = await stand(t.testdir())
  await fill(volume, 2, 2, 2)
  await volume.points.create({ name: 's2', kind: 'snapshot' })
  await fill(volume, 3, 3, 2)
  const mirror = await lab.mirror({ volume: 'v', target: 'w' })
  const { cycle } = mirror.status()
  await (await volume.restore({ from: 's' })).finished
  await (await volume.restore({ from: 's2' })).finished
  const sent: number[] = []
  onWrite(target, (offset, length) => { for (let at = offset; at < offset + length; at += G) sent.push(at / G) })
  await mirror.sync()
  t.same(await shown(volume), [1, 1, 2, 2, 1, 1, 1, 1])
  t.same(await declared(target, mirror), await shown(volume))
  t.equal(mirror.status().cycle, cycle + 1)
  t.same(sent.sort(), [2, 3, 4], 'what either has touched, once')
  await lab.close()
})

t.test('a restore during the first copy, of grains behind and ahead of it (A11)', async t => {
  const { lab, volume, target, held } = await stand(t.testdir())
  // Holes in between: each of these is a piece of its own.
  for (const grain of [1, 3, 5, 7]) await volume.trim(grain * G, G)
  await volume.points.create({ name: 'before', kind: 'snapshot' })
  for (const grain of [0, 2, 4, 6]) await fill(volume, grain, 5)
  held.hold(ALL)
  const first = lab.mirror({ volume: 'v', target: 'w' })
  await until('the first copy sends', () => held.arrived > 0)
  for (const grain of [0, 1, 2]) held.let(grain)
  await until('0 and 2 are there', async () => { const there = await shown(target); return there[0] === 5 && there[2] === 5 })
  t.same((await shown(target)).slice(4), [0, 0, 0, 0], 'the others are not')
  await (await volume.restore({ from: 'before' })).finished
  await fill(volume, 6, 8)
  t.equal(lab.mirrors.get('m').shownPoint(), undefined)
  held.letAll()
  const mirror = await first
  t.same(await declared(target, mirror), [5, 0, 5, 0, 5, 0, 5, 0], 'the first copy is of one instant')
  t.equal(mirror.status().lagBytes, 4 * G)
  await mirror.sync()
  t.same(await shown(volume), [1, 0, 1, 0, 1, 0, 8, 0])
  t.same(await declared(target, mirror), await shown(volume))
  await lab.close()
})

t.test('a restore of what was edited in a writable copy of the snapshot: live had not changed it (A3, A1)', async t => {
  const { lab, volume, target } = await stand(t.testdir())
  const mirror = await lab.mirror({ volume: 'v', target: 'w' })
  const edited = await lab.store.cloneVolume({ name: 'edited', from: { volume: 'v', point: 's' } })
  await fill(edited, X, 6)
  await edited.points.create({ name: 'e', kind: 'snapshot' })
  await (await volume.restore({ from: 'e', sourceVolume: edited })).finished
  const wanted = ALL.map(grain => grain === X ? 6 : 1)
  t.same(await shown(volume), wanted)
  t.ok(mirror.status().lagBytes! >= G)
  await mirror.sync()
  t.same(await declared(target, mirror), wanted)
  await lab.close()
})
