// Volumes of a group in a storm: points and restores of all of them, and of each, through refusals, kills and power cuts (storm-group.ts).
import t from 'tap'
import { groupStorm } from './storm-group.js'

/** As staged-storm.test.ts: the same storms each time; SEED=n RUNS=n takes others. */
const SEED = Number(process.env.SEED ?? 70000)
t.comment(`SEED=${SEED}`)
t.setTimeout(300_000)
const RUNS = Number(process.env.RUNS ?? 60)
const STEPS = 80

t.test('all or none, at one instant, through refusals, resizes, kills and power cuts', async t => {
  const counts = new Map<string, number>()
  for (let i = 0; i < RUNS && t.passing(); i++) t.equal(await groupStorm(SEED + i, STEPS, counts), undefined, `seed ${SEED + i}`)
  t.comment([...counts].map(([what, count]) => `${what}: ${count}`).join(', '))
})
