/** A second crash while the first is recovered from or soon after, of a volume with points: what the first open showed still holds. */
import { crashStates } from '../../src/device/testing.js'
import { CrashLab, judge, type Verdict } from './harness.js'
import { deleteStep, POINTS, restoreStep, stagedStep } from './points-run.js'

const FIRST_CRASHES = 6

export async function crashTwice(seed: number): Promise<Verdict> {
  const sum: Verdict = { states: 0, bad: [], settled: 0, reopened: 0 }
  const options = { seed, points: true, staged: seed % 2 === 0, sizeBytes: POINTS.sizeBytes }
  const first = await CrashLab.open(options)
  const step = [deleteStep, restoreStep, stagedStep][first.random(3)]
  for (let i = 0; i < 10; i++) await step(first)
  for (const state of crashStates(first.array, { seed, statesMax: FIRST_CRASHES })) {
    const second = await CrashLab.resume({ ...options, seed: seed + state.position }, { ...state.disks })
    // Sometimes nothing but what the open goes on with: merging, copying, reclaim.
    if (second.random(2) === 0) await second.wait(1500)
    for (let i = second.random(4); i > 0; i--) await step(second)
    if (second.random(2) === 0) await second.wait(15_000)
    const { states, bad, settled, reopened } = await judge(second, { statesMax: 250, settleEvery: 4 })
    sum.states += states
    sum.settled += settled
    sum.reopened += reopened
    sum.bad.push(...bad.map(text => `first crash: after event ${state.position}, ${state.story}; second: ${text}`))
  }
  return sum
}
