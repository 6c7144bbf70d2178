// The planners: each rule by its name, for each state of the grains it looks at.
import t from 'tap'
import { MARK_RUNS_MAX, planTrim, planWrite, planZero, shapeOf, SMALL_ZERO_BYTES } from '../../src/volume/write-plan.js'
import { VolumeMap } from '../../src/volume/volume-map.js'
import { REGION_GRAINS } from '../../src/store/journal-records.js'
import { FAST, GRAIN, KEEP, SLOW } from './lab.js'

/** Grain by grain: d data, s stale, . hole. */
function mapOf(text: string, options: { open?: boolean, snapshotMaxBytes?: number } = {}): VolumeMap {
  const map = new VolumeMap(text.length, options.snapshotMaxBytes ?? 2 ** 20)
  for (const [at, state] of [...text].entries()) {
    if (state === 'd') map.becomeData(at, at + 1)
    if (state === 's') map.becomeStale(at, at + 1)
  }
  if (options.open) map.open.add(0)
  return map
}
const shape = (map: VolumeMap, offset: number, length: number) => shapeOf(offset, length, GRAIN, map.grains * GRAIN)

t.test('write', async t => {
  const cases: readonly [grains: string, open: boolean, rule: string][] = [
    ['ddd', false, 'overwrite'], ['d.d', true, 'fill'], ['d.d', false, 'open-first'], ['...', false, 'open-first'],
    ['dsd', true, 'resolve'], ['.s.', false, 'resolve'], ['s', false, 'resolve'],
  ]
  for (const [grains, open, rule] of cases) {
    t.equal(planWrite(mapOf(grains, { open }), 0, grains.length).rule, rule, `${grains} ${open ? 'open' : 'closed'}`)
  }
  const border = new VolumeMap(2 * REGION_GRAINS, 2 ** 20)
  border.open.add(0)
  const plan = planWrite(border, REGION_GRAINS - 1, REGION_GRAINS + 1)
  t.strictSame(plan, { rule: 'open-first', regions: [1] }, 'only the region that is not open')
})

t.test('zero', async t => {
  const large = SMALL_ZERO_BYTES / GRAIN + 1
  const all = 'd'.repeat(large)
  const cases: readonly [grains: string, offset: number, length: number, mode: typeof SLOW, rule: string][] = [
    ['...', 0, 3 * GRAIN, SLOW, 'nothing'], ['.s.', 1, 2 * GRAIN, FAST, 'nothing'], ['...', 0, GRAIN, KEEP, 'keep'],
    ['ddd', 0, GRAIN, { allocate: true, fast: true }, 'not-fast'], ['ddd', 0, 2 * GRAIN, SLOW, 'write-zeros'],
    ['ddd', 0, 2 * GRAIN, FAST, 'mark'], ['ddd', 1, 2 * GRAIN, FAST, 'not-fast'], ['.dd', 1, 2 * GRAIN - 1, FAST, 'mark'],
    ['ddd', 10, 20, FAST, 'not-fast'], ['.dd', 10, 20, FAST, 'nothing'], [all, 0, large * GRAIN, SLOW, 'mark'],
    [all, 5, large * GRAIN - 5, SLOW, 'mark'],
  ]
  for (const [grains, offset, length, mode, rule] of cases) {
    const map = mapOf(grains)
    const what = `${grains.slice(0, 4)} ${offset} ${length} ${JSON.stringify(mode)}`
    t.equal(planZero(map, shape(map, offset, length), length, mode).rule, rule, what)
  }
})

t.test('trim', async t => {
  const map = mapOf('ddsd.d')
  const runs = [{ start: 1, end: 2 }, { start: 3, end: 4 }, { start: 5, end: 6 }]
  t.strictSame(planTrim(map, shape(map, 1, 6 * GRAIN - 1)), { rule: 'mark', runs })
  t.equal(planTrim(map, shape(map, 1, GRAIN)).rule, 'nothing', 'no whole grain')
  t.equal(planTrim(map, shape(map, 4 * GRAIN, GRAIN)).rule, 'nothing', 'a hole')
})

t.test('the last grain may be short', async t => {
  t.strictSame(shapeOf(0, 2 * GRAIN + 5, GRAIN, 2 * GRAIN + 5), { from: 0, to: 3, wholeFrom: 0, wholeTo: 3 })
  t.strictSame(shapeOf(0, 2 * GRAIN + 4, GRAIN, 2 * GRAIN + 5), { from: 0, to: 3, wholeFrom: 0, wholeTo: 2 })
  t.strictSame(shapeOf(GRAIN + 1, 10, GRAIN, 3 * GRAIN), { from: 1, to: 2, wholeFrom: 2, wholeTo: 1 })
})

t.test('limits: S7', async t => {
  const striped = mapOf('d.'.repeat(MARK_RUNS_MAX + 5))
  const plan = planTrim(striped, shape(striped, 0, striped.grains * GRAIN))
  t.strictSame(plan, { rule: 'mark', runs: [{ start: 0, end: striped.grains }] }, 'many runs are marked as one')
  // A snapshot of 128 bytes has room for 4 ranges in its half.
  const full = mapOf('s.s.s.s.d', { snapshotMaxBytes: 128 })
  t.equal(planTrim(full, shape(full, 8 * GRAIN, GRAIN)).rule, 'nothing', 'no room: a trim is only a hint')
  t.equal(planZero(full, shape(full, 8 * GRAIN, GRAIN), 1e6, SLOW).rule, 'write-zeros', 'no room: zeros are written')
  t.equal(planZero(full, shape(full, 8 * GRAIN, GRAIN), 1e6, FAST).rule, 'not-fast', 'no room: not fast')
})
