// S8: random histories of a volume with a budget: exact snapshots, exact live, the order kept, never more than the budget.
import t from 'tap'
import { spaceHistory } from './space-model.js'

t.setTimeout(300_000)
const SEED = Number(process.env.SEED ?? Date.now() % 1e9)
const RUNS = 60
/** Each found something once. 711140797: a deletion ends between the refusal of a write and the search for what could go. */
const FOUND = [711140797]

t.test('seeds that found something', async t => {
  for (const seed of FOUND) t.equal(await spaceHistory(seed), undefined)
})

t.test(`${RUNS} histories, SEED=${SEED}`, async t => {
  for (let run = 0; run < RUNS; run++) t.equal(await spaceHistory(SEED + run), undefined)
})
