/**
 * `make sim`: simulated lives of mirrored volumes (mirror-sim.ts). SEED=n replays one and says each step; otherwise SEEDS (2,000) lives of
 * STEPS (1,000) from SEED_FROM on, until MINUTES are over. Prints one JSON line of totals; the first bad life ends it with 1.
 */
import { simulate } from './mirror-sim.js'

const steps = Number(process.env['STEPS'] ?? 1000)
const one = process.env['SEED']
const seeds = one === undefined ? Number(process.env['SEEDS'] ?? 2000) : 1
const from = Number(one ?? process.env['SEED_FROM'] ?? Date.now() % 2 ** 31)
const endsAtMs = performance.now() + Number(process.env['MINUTES'] ?? Infinity) * 60_000
/** Timers of the volumes do not keep the process. */
const awake = setInterval(() => undefined, 1000)

const counts: Record<string, number> = {}
let lives = 0
let wrong: string | undefined
for (; lives < seeds && !wrong && performance.now() < endsAtMs; lives++) {
  const result = await simulate({ seed: from + lives, steps, ...one !== undefined && { log: (text: string) => { console.log(text) } } })
  wrong = result.wrong
  for (const [name, count] of Object.entries(result.counts)) counts[name] = (counts[name] ?? 0) + count
}
clearInterval(awake)
const cpuSeconds = Object.values(process.cpuUsage()).reduce((sum, us) => sum + us, 0) / 1e6
if (wrong) console.log(`replay: make sim SEED=${from + lives - 1} STEPS=${steps}`)
console.log(JSON.stringify({ from, lives, cpuSeconds, wrong, counts }))
process.exit(wrong ? 1 : 0)
