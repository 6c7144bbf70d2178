// D1, D2, D5: a second crash, while the first is being recovered from or soon after: what the first open showed still holds.
import t from 'tap'
import { crashStates } from '../../src/device/testing.js'
import { CrashLab, judge, type Verdict } from './harness.js'
import { countStates } from './run.js'
import { zeroesStep } from './steps.js'

const FIRST_CRASHES = 8
const sizeBytes = 8 * 4096

async function crashTwice(seed: number): Promise<Verdict> {
  const sum: Verdict = { states: 0, bad: [], settled: 0, reopened: 0 }
  const first = await CrashLab.open({ seed, sizeBytes })
  for (let i = 0; i < 12; i++) await zeroesStep(first)
  for (const state of crashStates(first.array, { seed, statesMax: FIRST_CRASHES })) {
    const second = await CrashLab.resume({ seed: seed + state.position, sizeBytes }, state.disks)
    if (second.random(2) === 0) await second.wait(1500)
    for (let i = 0; i < 4; i++) await zeroesStep(second)
    if (second.random(2) === 0) await second.wait(15_000)
    const { states, bad, settled, reopened } = await judge(second, { statesMax: 250, settleEvery: 4 })
    sum.states += states
    sum.settled += settled
    sum.reopened += reopened
    sum.bad.push(...bad.map(text => `first crash: ${state.story}; second: ${text}`))
  }
  return sum
}

t.test('D1 D2 D5 again: at least 8000 crash states', t => countStates(t, 8000, crashTwice))
