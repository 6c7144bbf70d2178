/** Runs one kind of workload under many seeds until so many crash states have been judged. */
import { slow } from './liars.js'
import { CrashLab, judge, type LabOptions, type Plant, type Verdict } from './harness.js'

export interface WorkloadOptions {
  /** Crash states to judge, at least. */
  readonly states: number
  /** Of one run; more are sampled. */
  readonly statesPerRun?: number
  readonly sizeBytes: number
  readonly window?: LabOptions['window']
  readonly steps: number
  readonly settleEvery?: number
  readonly plant?: Plant
  readonly points?: boolean
  readonly clone?: boolean
  readonly staged?: boolean
  readonly plantFile?: LabOptions['plantFile']
}

interface Assert {
  setTimeout(ms: number): unknown
  comment(text: string): void
  strictSame(found: unknown, wanted: unknown, message: string): unknown
  ok(value: unknown, message: string): unknown
  test(name: string, run: (t: Assert) => Promise<void>): unknown
}

/** A file may take so long on a machine that is busy. */
const FILE_MS = 1_800_000

/** Small, so that requests meet the background work often; live is quick and what surrounds it slow. */
export const RACES = {
  sizeBytes: 8 * 4096,
  steps: 3,
  plant: (disks, random) => ({ live: disks.live, map: slow(disks.map, random), journal: slow(disks.journal, random) }),
} as const satisfies Omit<WorkloadOptions, 'states'>

export const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)

export async function explore(step: Step, seed: number, options: WorkloadOptions): Promise<Verdict> {
  const { steps, statesPerRun = 1000, settleEvery = 4, states: _, ...rest } = options
  const lab = await CrashLab.open({ seed, ...rest })
  for (let i = 0; i < steps; i++) await step(lab)
  return judge(lab, { statesMax: statesPerRun, settleEvery })
}

export type Step = (lab: CrashLab) => Promise<void>

/** One test: `step` again and again, with a seed of its own for each run. */
export function runWorkload(t: Assert, name: string, options: WorkloadOptions, step: Step): void {
  t.setTimeout(FILE_MS)
  t.test(`${name}: at least ${options.states} crash states`, t =>
    countStates(t, options.states, seed => explore(step, seed, options)))
}

/** Runs `judgeOne` under seed after seed until there are `states` of them, or a bad one. */
export async function countStates(t: Assert, states: number, judgeOne: (seed: number) => Promise<Verdict>): Promise<void> {
  t.comment(`seed ${SEED}`)
  const sum: Verdict = { states: 0, bad: [], settled: 0, reopened: 0 }
  for (let run = 0; sum.states < states && sum.bad.length === 0; run++) {
    const verdict = await judgeOne(SEED + run * 7919)
    sum.states += verdict.states
    sum.settled += verdict.settled
    sum.reopened += verdict.reopened
    sum.bad.push(...verdict.bad)
  }
  t.comment(`${sum.states} states, ${sum.settled} also after the background work, ${sum.reopened} also closed and opened`)
  t.strictSame(sum.bad, [], 'no bad state')
  t.ok(sum.states >= states || sum.bad.length > 0, 'enough of them')
}
