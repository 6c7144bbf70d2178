/** Runs one kind of workload under many seeds until so many crash states have been judged. */
import { CrashLab, judge, type LabOptions, type Plant } from './harness.js'

export interface WorkloadOptions {
  /** Crash states to judge, at least. */
  readonly states: number
  /** Of one run; more are sampled. */
  readonly statesPerRun?: number
  readonly sizeBytes: number
  readonly window?: LabOptions['window']
  readonly journalBytes?: number
  readonly steps: number
  readonly scanEvery?: number
  readonly plant?: Plant
}

interface Assert {
  comment(text: string): void
  strictSame(found: unknown, wanted: unknown, message: string): unknown
  ok(value: unknown, message: string): unknown
  test(name: string, run: (t: Assert) => Promise<void>): unknown
}

export const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)

export async function explore(step: (lab: CrashLab) => Promise<void>, seed: number, options: WorkloadOptions) {
  const { steps, statesPerRun = 2500, sizeBytes, scanEvery } = options
  const lab = await CrashLab.open({
    seed, sizeBytes,
    ...(options.window ? { window: options.window } : {}),
    ...(options.journalBytes ? { journalBytes: options.journalBytes } : {}),
    ...(options.plant ? { plant: options.plant } : {}),
  })
  for (let i = 0; i < steps; i++) await step(lab)
  return judge(lab, { statesMax: statesPerRun, ...(scanEvery === undefined ? {} : { scanEvery }) })
}

export function runWorkload(t: Assert, name: string, options: WorkloadOptions, step: (lab: CrashLab) => Promise<void>): void {
  t.test(`D1 D2 ${name}: at least ${options.states} crash states`, async t => {
    t.comment(`seed ${SEED}`)
    const sum = { states: 0, scanned: 0, reopened: 0 }
    const bad: string[] = []
    for (let run = 0; sum.states < options.states && bad.length === 0; run++) {
      const verdict = await explore(step, SEED + run * 7919, options)
      sum.states += verdict.states
      sum.scanned += verdict.scanned
      sum.reopened += verdict.reopened
      bad.push(...verdict.bad)
    }
    t.comment(`${sum.states} states, ${sum.scanned} also after the background work, ${sum.reopened} also closed and opened`)
    t.strictSame(bad, [], 'no bad state')
    t.ok(sum.states >= options.states || bad.length > 0, 'enough of them')
  })
}
