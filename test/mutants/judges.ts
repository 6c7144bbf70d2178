/** Quick tests by name: each goes on until it has seen something wrong or spent its budget, and says what. */
import type { CrashLab } from '../crash/harness.js'
import { cloneStep, createStep, deleteStep, pointCheckpointsStep, pointRacesStep, POINTS, preserveStep, RACING, restoreStep } from '../crash/points-run.js'
import { explorePoints, looseStep } from '../crash/points-harness.js'
import { explore, type Step, type WorkloadOptions } from '../crash/run.js'
import { runAll } from '../models/sequences.js'
import { spaceHistory } from '../volume/space-model.js'

export type JudgeName = keyof typeof JUDGES
type Judge = (seed: number) => Promise<string | undefined>

const RUNS = 16
const SPACE_RUNS = 100

/** Crash states of one kind of workload, little ones first. */
function crashes(step: Step, options: Partial<WorkloadOptions> = {}): Judge {
  return async seed => {
    for (let run = 0; run < RUNS; run++) {
      try {
        const { bad } = await explore(step, seed + run * 7919, { ...POINTS, states: 1, statesPerRun: 400, settleEvery: 3, ...options })
        if (bad.length > 0) return bad[0]
      } catch (error) {
        return `seed ${seed + run * 7919}: the workload failed: ${error instanceof Error ? error.stack : error}`
      }
    }
    return undefined
  }
}

/** Nothing but bookmarks: only marks can go wrong. */
async function bookmarksStep(lab: CrashLab): Promise<void> {
  const roll = lab.random(10)
  if (roll < 2) {
    if (!await lab.createPoint('bookmark')) await lab.flush()
  } else if (roll < 4) await lab.flush()
  else if (roll < 5) await lab.wait([30, 11_000][lab.random(2)])
  else if (roll < 7) await lab.trim(lab.random(6) * 4096, 4096)
  else await lab.write(...lab.place())
}

/** A trim of a volume with bookmarks, and a write that is marked by it alone. */
async function loose(seed: number): Promise<string | undefined> {
  for (let run = 0; run < 4 * RUNS; run++) {
    const { bad } = await explorePoints(looseStep, 1, { seed: seed + run * 7919, grains: 8 }, 300)
    if (bad.length > 0) return bad[0]
  }
  return undefined
}

async function sequences(): Promise<string | undefined> {
  for (const prelude of ['two snapshots', 'lent grains', 'a slow restore', 'a clone'] as const) {
    const { wrong } = await runAll(prelude, 2)
    if (wrong) return `after ${prelude}: ${wrong}`
  }
  return (await runAll('nothing', 3)).wrong
}

/** Snapshots under a budget. */
async function space(seed: number): Promise<string | undefined> {
  for (let run = 0; run < SPACE_RUNS; run++) {
    const wrong = await spaceHistory(seed + run)
    if (wrong) return wrong
  }
  return undefined
}

export const JUDGES = {
  sequences,
  space,
  loose,
  bookmarks: crashes(bookmarksStep),
  preserving: crashes(preserveStep),
  creations: crashes(createStep),
  removals: crashes(deleteStep),
  checkpoints: crashes(pointCheckpointsStep),
  races: crashes(pointRacesStep, RACING),
  restores: crashes(restoreStep),
  clones: crashes(cloneStep, { clone: true }),
} as const satisfies Record<string, Judge>
