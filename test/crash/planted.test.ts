// The judge can judge: with a disk that lies in one way each, the same workloads must show bad states.
import t from 'tap'
import type { Pending } from '../../src/device/block-device.js'
import { silentPunch, unflushed } from './liars.js'
import { explore, SEED, type WorkloadOptions } from './run.js'
import { checkpointsStep, fillsStep, zeroesStep } from './steps.js'
import type { CrashLab } from './harness.js'

type Step = (lab: CrashLab) => Promise<Pending | void>
const BASE: WorkloadOptions = { states: 1, statesPerRun: 1500, sizeBytes: 8 * 4096, steps: 20 }

async function caught(step: Step, options: WorkloadOptions): Promise<string | undefined> {
  for (let run = 0; run < 30; run++) {
    const { bad } = await explore(async lab => { await step(lab) }, SEED + run * 7919, options)
    if (bad.length > 0) return bad[0]
  }
  return undefined
}

const PLANTED: readonly [what: string, step: Step, options: WorkloadOptions][] = [
  ['live ignores flush (UNSTALE and CLEAR come before the bytes)', zeroesStep, { ...BASE, plant: disks => ({ ...disks, live: unflushed(disks.live) }) }],
  ['journal ignores flush (OPEN and ZERO are not durable)', fillsStep, { ...BASE, plant: disks => ({ ...disks, journal: unflushed(disks.journal) }) }],
  ['map ignores flush (OPEN is dropped before the page is there)', checkpointsStep, { ...BASE, plant: disks => ({ ...disks, map: unflushed(disks.map) }) }],
  ['live says punched and is not (bytes under a hole)', zeroesStep, { ...BASE, plant: disks => ({ ...disks, live: silentPunch(disks.live) }) }],
]
for (const [what, step, options] of PLANTED) {
  t.test(what, async t => {
    t.comment(`seed ${SEED}`)
    const first = await caught(step, options)
    t.ok(first, 'a bad state was found')
    t.comment((first ?? '').split('\n')[0])
  })
}
