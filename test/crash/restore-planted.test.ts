// The judge of restores can judge: with one thing done wrong at a time, the same workload must show a bad state.
import t from 'tap'
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { Chain } from '../../src/volume/chain.js'
import { Inherited, Layer } from '../../src/volume/inherited.js'
import { OpenPointDevice } from '../../src/volume/point-device.js'
import type { Point } from '../../src/volume/point.js'
import { unflushed } from './liars.js'
import { explorePoints, type PointsLab, type PointsPlant, type PointsStep, restoreStep } from './points-harness.js'
import { SEED } from './run.js'
import { GRAIN } from '../volume/lab.js'

const RUNS_MAX = 40

async function caught(plant?: PointsPlant, step: PointsStep = restoreStep): Promise<string | undefined> {
  for (let run = 0; run < RUNS_MAX; run++) {
    const { bad } = await explorePoints(step, 24, { seed: SEED + run * 7919, grains: 8, ...plant && { plant } }, 150)
    if (bad.length > 0) return bad[0]
  }
  return undefined
}

/** A snapshot of a view that is inherited still, which the random mix has seldom. */
async function snapshotOfView(lab: PointsLab): Promise<void> {
  await lab.create('snapshot')
  for (let grain = 0; grain < lab.options.grains; grain++) await lab.write(grain * GRAIN, GRAIN)
  await lab.restore(0, lab.sizeBytes, GRAIN)
  await lab.create('snapshot')
  await lab.flush()
}

const LIARS: readonly [what: string, plant: PointsPlant][] = [
  ['INHERITED before the bytes are flushed', disks => ({ ...disks, live: unflushed(disks.live) })],
  ['bitmap of the layer not durable before the restore is recorded', disks => ({ ...disks, layers: unflushed(disks.layers) })],
  ['journal ignores flush: the restore ends before INHERITED is durable', disks => ({ ...disks, journal: unflushed(disks.journal) })],
  ['maps of the undo point not durable before it is settled', disks => ({ ...disks, maps: unflushed(disks.maps) })],
]
for (const [what, plant] of LIARS) {
  t.test(what, { timeout: 300_000 }, async t => {
    t.comment(`seed ${SEED}`)
    const first = await caught(plant)
    t.ok(first, 'a bad state was found')
    t.comment((first ?? '').split('\n')[0].slice(0, 300))
  })
}

const lendAll = Chain.prototype.lendAll
const take = Inherited.prototype.take
const twice = new WeakMap<Inherited, Set<number>>()
let stored = false

/** Runs the right method with inherited grains shown as what live holds of them. */
function asStored<A extends unknown[], R>(right: (...args: A) => R): (...args: A) => R {
  return function (this: unknown, ...args: A): R {
    stored = true
    try {
      return right.apply(this, args)
    } finally {
      stored = false
    }
  }
}

type Patch = readonly [on: object, method: string, wrong: PropertyDescriptor]
const value = (wrong: (...args: never[]) => unknown): PropertyDescriptor => ({ value: wrong, configurable: true, writable: true })
const STEPS: Readonly<Record<string, PointsStep>> = { 'a snapshot shows the stored image, not the view': snapshotOfView }
const WRONG: readonly [what: string, ...patches: Patch[]][] = [
  ['the undo point gets nothing lent', [Chain.prototype, 'lendAll', value(function (this: Chain, point: Point, set: GrainBitmap) {
    lendAll.call(this, point, set, new GrainBitmap(set.length))
  } as never)]],
  ['the copier overwrites what a client wrote', [Inherited.prototype, 'take', value(function (this: Inherited, from: number, to: number) {
    const seen = twice.get(this) ?? new Set<number>()
    twice.set(this, seen)
    for (let grain = from; grain < to; grain++) if (seen.has(grain)) take.call(this, grain, grain + 1)
    for (let grain = from; grain < to; grain++) seen.add(grain)
  } as never)]],
  ['a client\'s write to an inherited grain finds a hole', [Inherited.prototype, 'overlaps', value(() => false)]],
  ['a snapshot shows the stored image, not the view',
    [Inherited.prototype, 'active', { get(this: Inherited) { return !stored && this.layers.length > 0 }, configurable: true }],
    [OpenPointDevice.prototype, 'read', value(asStored(OpenPointDevice.prototype.read) as never)],
    [OpenPointDevice.prototype, 'zeroRun', value(asStored(OpenPointDevice.prototype.zeroRun) as never)]],
  ['what is inherited is not saved before it counts as settled', [Layer.prototype, 'saveAll', value(async () => undefined)]],
  ['records of an earlier restore count for the next', [Layer.prototype, 'reset', value(() => undefined)]],
  ['what is lent is not united after a replay', [Chain.prototype, 'unite', value(() => undefined)]],
]
for (const [what, ...patches] of WRONG) {
  t.test(what, { timeout: 300_000 }, async t => {
    t.comment(`seed ${SEED}`)
    for (const [on, method, wrong] of patches) {
      const right = Object.getOwnPropertyDescriptor(on, method)!
      Object.defineProperty(on, method, wrong)
      t.teardown(() => Object.defineProperty(on, method, right))
    }
    const first = await caught(undefined, STEPS[what])
    t.ok(first, 'a bad state was found')
    t.comment((first ?? '').split('\n')[0].slice(0, 300))
  })
}
