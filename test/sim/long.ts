/**
 * Crash states and sequences for hours, on every core: `make sim-long` (HOURS, by default 6; STATES, by default as many as there is time
 * for; CORES; SEED; LENGTH of the sequences, by default 5, 0 = none). One process a core; the first goes through all sequences before it
 * takes its share of crash states.
 * Prints once a minute what was judged so far and how fast, and at the end totals and seed. The first bad state ends it with 1.
 */
import { fork, type ChildProcess } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { PAGE_BITS } from '../../native-free/grain-bitmap.js'
import { EXTENT_GRAINS } from '../../src/store/journal-records.js'
import {
  cloneStep, createStep, deleteStep, pointCheckpointsStep, pointRacesStep, pointResizesStep, POINTS, preserveAtBorderStep, preserveStep,
  RACING, restoreAtBorderStep, restoreStep, stagedStep,
} from '../crash/points-run.js'
import { crashTwice } from '../crash/points-twice.js'
import { explore, RACES, type Step, type WorkloadOptions } from '../crash/run.js'
import { checkpointsStep, fillsStep, racesStep, resizesStep, staleStep, zeroesStep } from '../crash/steps.js'
import { PRELUDES, runAll } from '../models/sequences.js'

const HOURS = Number(process.env['HOURS'] ?? 6)
const STATES = Number(process.env['STATES'] ?? Infinity)
const CORES = Number(process.env['CORES'] ?? availableParallelism())
const LENGTH = Number(process.env['LENGTH'] ?? 5)
const SEED = Number(process.env['SEED'] ?? Date.now() % 2 ** 31)
const REPORT_MS = 60_000
const GRAIN = 4096

const border = 2 * EXTENT_GRAINS * GRAIN
const page = PAGE_BITS * GRAIN
const plain = { states: 1, statesPerRun: 2000, sizeBytes: 8 * GRAIN, steps: 16 }
const points: WorkloadOptions = { ...POINTS, states: 1, statesPerRun: 3000 }
const WORKLOADS: readonly (readonly [name: string, step: Step, options: WorkloadOptions])[] = [
  ['fills', fillsStep, plain], ['zeroes', zeroesStep, plain], ['stale', staleStep, plain], ['checkpoints', checkpointsStep, plain],
  ['resizes', resizesStep, { ...plain, window: [0, 12 * GRAIN] }], ['races', racesStep, { ...plain, ...RACES }],
  ['creations', createStep, points], ['deletions', deleteStep, points], ['preserving', preserveStep, points],
  ['checkpoints of points', pointCheckpointsStep, points], ['resizes under points', pointResizesStep, { ...points, window: [0, 9 * GRAIN] }],
  ['races around points', pointRacesStep, { ...points, ...RACING }], ['restores', restoreStep, points],
  ['clones', cloneStep, { ...points, clone: true }], ['long lives', deleteStep, { ...points, steps: 40 }],
  ['staged', stagedStep, { ...points, staged: true }],
  ['pages', restoreAtBorderStep, { ...points, sizeBytes: 3 * page + 5 * GRAIN, window: [page - 3 * GRAIN, 6 * GRAIN] }],
  ['excess', preserveAtBorderStep, { ...points, sizeBytes: 5 * EXTENT_GRAINS * GRAIN, window: [border - 3 * GRAIN, 6 * GRAIN], settleEvery: 0 }],
]

interface Report { readonly states?: number, readonly twice?: number, readonly sequences?: number, readonly bad?: string }

async function work(first: boolean, seed: number): Promise<void> {
  const tell = (report: Report): void => { process.send!(report) }
  if (first && LENGTH > 0) {
    for (const [i, prelude] of (Object.keys(PRELUDES) as (keyof typeof PRELUDES)[]).entries()) {
      let told = 0
      const { sequences, wrong } = await runAll(prelude, i === 0 ? LENGTH : LENGTH - 2, () => true, sum => {
        if (sum.sequences - told < 1000) return
        tell({ sequences: sum.sequences - told })
        told = sum.sequences
      })
      tell({ sequences: sequences - told, ...wrong && { bad: `sequence after ${prelude}: ${wrong}` } })
    }
  }
  for (let run = 0; ; run++) {
    const runSeed = (seed + run * 7919) % 2 ** 31
    if (run % (WORKLOADS.length + 1) === WORKLOADS.length) {
      const { states, bad } = await crashTwice(runSeed)
      tell({ states, twice: states, ...bad[0] && { bad: bad[0] } })
      continue
    }
    const [name, step, options] = WORKLOADS[run % (WORKLOADS.length + 1)]
    const { states, bad } = await explore(step, runSeed, options)
    tell({ states, ...bad[0] && { bad: `${name}: ${bad[0]}` } })
  }
}

async function oversee(): Promise<number> {
  const startedMs = Date.now()
  const total = { states: 0, twice: 0, sequences: 0 }
  const line = (): string => {
    const seconds = (Date.now() - startedMs) / 1000
    return `${Math.round(seconds)} s: ${total.states} crash states (${total.twice} of them crashes in a recovery), ` +
      `${Math.round(total.states / seconds)} states/s, ${total.sequences} sequences, 0 bad`
  }
  console.log(`seed ${SEED}, ${HOURS} h${STATES < Infinity ? ` or ${STATES} states` : ''} on ${CORES} cores`)
  const children: ChildProcess[] = []
  const report = setInterval(() => console.log(line()), REPORT_MS)
  try {
    return await new Promise<number>(resolve => {
      setTimeout(() => resolve(0), HOURS * 3_600_000)
      for (let core = 0; core < CORES; core++) {
        const child = fork(fileURLToPath(import.meta.url), [String(core), String(SEED + core * 1_000_003)])
        children.push(child)
        child.on('message', ({ states = 0, twice = 0, sequences = 0, bad }: Report) => {
          total.states += states
          total.twice += twice
          total.sequences += sequences
          if (!bad && total.states >= STATES) resolve(0)
          if (!bad) return
          console.log(`BAD: ${bad}`)
          resolve(1)
        })
        child.on('exit', code => {
          if (code === null) return
          console.log(`a worker ended with ${code}`)
          resolve(1)
        })
      }
    })
  } finally {
    clearInterval(report)
    for (const child of children) child.removeAllListeners('exit').kill()
    console.log(`${line()}; seed ${SEED}`)
  }
}

if (process.send) await work(process.argv[2] === '0', Number(process.argv[3]))
else process.exit(await oversee())
