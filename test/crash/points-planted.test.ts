// The judge of points can judge: with one thing done wrong at a time, the same workload must show a bad state.
import t from 'tap'
import { Chain } from '../../src/volume/chain.js'
import { Gate } from '../../src/volume/gate.js'
import { VolumeJournal } from '../../src/volume/journal.js'
import { unflushed } from './liars.js'
import { explorePoints, looseStep, pointsStep, type PointsPlant, type PointsStep } from './points-harness.js'
import { SEED } from './run.js'

const RUNS_MAX = 60

async function caught(step: PointsStep, steps: number, plant?: PointsPlant): Promise<string | undefined> {
  for (let run = 0; run < RUNS_MAX; run++) {
    const { bad } = await explorePoints(step, steps, { seed: SEED + run * 7919, grains: 8, ...plant && { plant } }, 300)
    if (bad.length > 0) return bad[0]
  }
  return undefined
}

const LIARS: readonly [what: string, plant: PointsPlant][] = [
  ['PRESERVE before the copy is flushed', disks => ({ ...disks, preserved: unflushed(disks.preserved) })],
  ['journal ignores flush: overwrite before PRESERVE, marks late', disks => ({ ...disks, journal: unflushed(disks.journal) })],
  ['maps ignore flush: dropped from the journal too early', disks => ({ ...disks, maps: unflushed(disks.maps) })],
  ['table ignores flush: answered before it is durable', disks => ({ ...disks, table: unflushed(disks.table) })],
]
for (const [what, plant] of LIARS) {
  t.test(what, async t => {
    t.comment(`seed ${SEED}`)
    const first = await caught(pointsStep, 24, plant)
    t.ok(first, 'a bad state was found')
    t.comment((first ?? '').split('\n')[0])
  })
}

/** Replaces a public method of the product while a test runs. */
const WRONG: readonly [what: string, on: object, method: string, wrong: (...args: never[]) => unknown][] = [
  ['nothing is preserved', Gate.prototype, 'tryAdmit', () => true],
  ['a map that is merged is dropped', Chain.prototype, 'foldMarks', () => undefined],
  ['what is lent is overwritten', Chain.prototype, 'isLent', () => false],
  ['what is lent is forgotten at open', Chain.prototype, 'lentRuns', () => []],
  ['nobody inherits what a deleted snapshot had', Chain.prototype, 'heirOf', () => undefined],
  ['the journal is not synced before live is overwritten', VolumeJournal.prototype, 'sync', async () => undefined],
  ['marks of trims are taken as durable at once', Chain.prototype, 'markLoosely', function (this: Chain, from: number, to: number) { this.mark(from, to) } as never],
  ['what happens during a checkpoint is not said again', Chain.prototype, 'endCheckpoint', function (this: Chain) {
    for (const point of this.points) { point.cool(); point.hot.clear() }
    return []
  } as never],
]
for (const [what, on, method, wrong] of WRONG) {
  t.test(what, async t => {
    t.comment(`seed ${SEED}`)
    const right = Object.getOwnPropertyDescriptor(on, method)!
    Object.defineProperty(on, method, { ...right, value: wrong })
    t.teardown(() => Object.defineProperty(on, method, right))
    const first = await (what.startsWith('marks of trims') ? caught(looseStep, 1) : caught(pointsStep, 24))
    t.ok(first, 'a bad state was found')
    t.comment((first ?? '').split('\n')[0].slice(0, 300))
  })
}
