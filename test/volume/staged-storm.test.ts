// A volume with snapshots in a storm: many requests in flight, resizes, late disks that refuse writes and flushes, kills and power cuts (storm.ts).
import t from 'tap'
import { storm } from './storm.js'

/** The same storms each time, as the lives of crash/simulated-mirrors: a failure is a change's doing. SEED=n RUNS=n takes others. */
const SEED = Number(process.env.SEED ?? 50000)
t.comment(`SEED=${SEED}`)
t.setTimeout(300_000)
const RUNS = Number(process.env.RUNS ?? 150)
const STEPS = 80

t.test('many requests in flight, through refusals, resizes, kills and power cuts', async t => {
  const counts = new Map<string, number>()
  for (let i = 0; i < RUNS && t.passing(); i++) t.equal(await storm(SEED + i, STEPS, counts), undefined, `seed ${SEED + i}`)
  t.comment([...counts].map(([what, count]) => `${what}: ${count}`).join(', '))
})
