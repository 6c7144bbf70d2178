// The judge can judge: with a disk that lies in one way each, the same workloads must show bad states.
import t from 'tap'
import { silentPunch, unflushed } from './liars.js'
import { explore, SEED, type Step, type WorkloadOptions } from './run.js'
import { checkpointsStep, fillsStep, zeroesStep } from './steps.js'
import type { Plant } from './harness.js'

const BASE: WorkloadOptions = { states: 1, statesPerRun: 1500, sizeBytes: 8 * 4096, steps: 20 }

async function caught(step: Step, options: WorkloadOptions): Promise<string | undefined> {
  for (let run = 0; run < 30; run++) {
    const { bad } = await explore(step, SEED + run * 7919, options)
    if (bad.length > 0) return bad[0]
  }
  return undefined
}

const PLANTED: readonly [what: string, step: Step, plant: Plant][] = [
  ['live ignores flush (UNSTALE, CLEAR before the bytes)', zeroesStep, disks => ({ ...disks, live: unflushed(disks.live) })],
  ['journal ignores flush (OPEN not durable)', fillsStep, disks => ({ ...disks, journal: unflushed(disks.journal) })],
  ['map ignores flush (OPEN is dropped too early)', checkpointsStep, disks => ({ ...disks, map: unflushed(disks.map) })],
  ['live says punched and is not (bytes under a hole)', zeroesStep, disks => ({ ...disks, live: silentPunch(disks.live) })],
]
for (const [what, step, plant] of PLANTED) {
  t.test(what, async t => {
    t.comment(`seed ${SEED}`)
    const first = await caught(step, { ...BASE, plant })
    t.ok(first, 'a bad state was found')
    t.comment((first ?? '').split('\n')[0])
  })
}
