// Simulated lives of mirrored volumes, seeded: test/sim/mirror-sim.ts says what is done to them and what must hold. `make sim` does many more.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const SEED = process.env.SEED ?? String(Date.now() % 2 ** 31)
/** A life of 400 steps takes half a second on a quiet machine. */
const LIVES = 40
const STEPS = 400

t.setTimeout(300_000)
t.test(`${LIVES} lives of ${STEPS} steps`, { timeout: 300_000 }, async t => {
  t.comment(`seed ${SEED}; make sim SEED=n STEPS=${STEPS} replays life n`)
  // A process of its own: here every promise is followed by hooks.
  const program = fileURLToPath(new URL('../sim/mirrors.js', import.meta.url))
  const env = { ...process.env, SEED: undefined, SEED_FROM: SEED, SEEDS: String(LIVES), STEPS: String(STEPS), MINUTES: undefined }
  const { stdout, stderr } = spawnSync(process.execPath, [program], { env, encoding: 'utf8', maxBuffer: 2 ** 26 })
  const result = JSON.parse(stdout.trim().split('\n').at(-1) ?? 'null') as { lives: number, wrong?: string, counts: Record<string, number> } | null
  if (!result) return t.fail(stderr)
  t.equal(result.wrong, undefined)
  t.equal(result.lives, LIVES)
  t.comment(JSON.stringify(result.counts))
  for (const what of ['restore', 'kill', 'split', 'resync', 'network', 'verify', 'write apart']) t.ok(result.counts[what]! > 20, what)
})
