// The models' traces on the shipped code: shortest ones of every two actions in a row, those that show what is wrong with each wrong variant
// (here the invariants must hold), and random walks. cycle-replay.ts, pair-replay.ts and peer-replay.ts say what stands for what.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { CYCLE_VARIANTS } from '../models/cycle-model.js'
import { PAIR_VARIANTS } from '../models/pair-model.js'

const SEED = process.env.SEED ?? String(Date.now() % 2 ** 31)
/** Of each model; half a second each on a slow core. */
const WALKS = 8

interface Sum { readonly traces: number, readonly done: number, readonly leftOut: number, readonly late: number }

t.setTimeout(300_000)
t.test('traces of the models', { timeout: 300_000 }, async t => {
  t.comment(`SEED=${SEED}`)
  // A process of its own: here every promise is followed by hooks.
  const program = fileURLToPath(new URL('replay.js', import.meta.url))
  const { stdout, stderr } = spawnSync(process.execPath, [program], { env: { ...process.env, SEED, WALKS: String(WALKS) }, encoding: 'utf8' })
  const result = JSON.parse(stdout.trim().split('\n').at(-1) || 'null') as { sums: Record<string, Sum>, wrong?: string } | null
  if (!result) return t.fail(stderr)
  t.equal(result.wrong, undefined)
  for (const [kind, { traces, done, leftOut, late }] of Object.entries(result.sums)) {
    t.ok(leftOut < done, `${kind}: ${traces} traces, ${done} actions done, ${leftOut} left out, ${late} late`)
  }
  for (const [model, names] of [['cycle', CYCLE_VARIANTS], ['peer', CYCLE_VARIANTS], ['pair', PAIR_VARIANTS]] as const) {
    for (const kind of [...model === 'peer' ? [] : ['shortest'], 'random', ...Object.keys(names)]) t.ok(result.sums[`${model}, ${kind}`], `${model}, ${kind}`)
  }
})
