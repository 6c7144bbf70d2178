// S8: random histories of a volume with a budget: exact snapshots, exact live, the order kept, never more than the budget.
import t from 'tap'
import { spaceHistory } from './space-model.js'

t.setTimeout(300_000)
const SEED = Number(process.env.SEED ?? Date.now() % 1e9)
const RUNS = 60

t.test(`${RUNS} histories, SEED=${SEED}`, async t => {
  for (let run = 0; run < RUNS; run++) t.equal(await spaceHistory(SEED + run), undefined)
})
