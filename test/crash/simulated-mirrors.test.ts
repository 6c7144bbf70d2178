// Simulated lives of mirrored volumes, seeded: test/sim/mirror-sim.ts says what is done to them and what must hold. `make sim` does
// many more. In this room, and not the last, since the file takes longest: then no core waits for it at the end.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import t from 'tap'

/** The same lives each time, so that a failure is a change's doing; `make sim` takes new ones. */
const SEED = process.env.SEED ?? '40000'
/** A step takes some 0.15 ms: five minutes of one core. */
const LIVES = Number(process.env.LIVES ?? 2000)
const STEPS = 1000
const LIMIT_MS = 2_400_000

t.setTimeout(LIMIT_MS)
t.test(`${LIVES} lives of ${STEPS} steps`, { timeout: LIMIT_MS }, async t => {
  t.comment(`seed ${SEED}; make sim SEED=n STEPS=${STEPS} replays life n`)
  // A process of its own: here every promise is followed by hooks.
  const program = fileURLToPath(new URL('../sim/mirrors.js', import.meta.url))
  const env = { ...process.env, SEED: undefined, SEED_FROM: SEED, SEEDS: String(LIVES), STEPS: String(STEPS), MINUTES: undefined }
  const { stdout, stderr } = spawnSync(process.execPath, ['--single-threaded-gc', program], { env, encoding: 'utf8', maxBuffer: 2 ** 26 })
  const result = JSON.parse(stdout.trim().split('\n').at(-1) || 'null') as {
    lives: number, cpuSeconds: number, wrong?: string, counts: Record<string, number>,
  } | null
  if (!result) return t.fail(stderr)
  t.equal(result.wrong, undefined)
  t.equal(result.lives, LIVES)
  t.comment(`${result.cpuSeconds} s of CPU: ${JSON.stringify(result.counts)}`)
  const wanted = ['restore', 'kill', 'power', 'split', 'resync', 'network', 'verify', 'stand still', 'promoted', 'twice', 'stale', 'cycles', 'received', 'group',
    'copies', 'restored by reversals', 'reversed volume', 'reversed nbd', 'reversed peer', 'killed reversals', 'write far',
    'deleted volume', 'deleted nbd', 'deleted peer', 'budget', 'verified there', 'stopped',
    'refused', 'hurt', 'resize', 'remade', 'cloned', 'clones promoted', 'clones deleted']
  t.ok(result.counts['kept']! >= LIVES / 50, `kept: ${result.counts['kept']}`)
  for (const what of wanted) t.ok(result.counts[what]! >= LIVES / 10, `${what}: ${result.counts[what]}`)
})
