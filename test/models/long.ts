/**
 * The whole of both models: `make models`. Explores the designs within the bounds below, prints what it found and how long
 * that took, and then each wrong variant with a shortest history that shows it. Ends with 1 if a design is wrong, if the
 * states are not as many as they were when this was written, or if a variant is not caught. MODELS=word takes the rows that
 * have the word.
 *
 * Some three minutes and 1.5 GiB on a slow core.
 */
import { CYCLE_VARIANTS, CycleModel, type CycleBounds, type CycleVariant } from './cycle-model.js'
import { explore, type Findings, type Model } from './explorer.js'
import { PAIR_VARIANTS, PairModel, type PairBounds, type PairVariant } from './pair-model.js'

const CYCLES: readonly (readonly [CycleBounds, states: number])[] = [
  [{ blocks: 2, writes: 3 }, 179_618],
  [{ blocks: 3, writes: 2 }, 255_399],
  [{ blocks: 2, writes: 3, newer: true }, 751_576],
  [{ blocks: 2, writes: 3, newer: true, keepAll: true }, 563_640],
]
const PAIRS: readonly (readonly [PairBounds, states: number])[] = [
  [{ blocks: 2, writes: 2, generations: 4, restores: 2 }, 501_904],
  [{ blocks: 2, writes: 3, generations: 4 }, 2_106_072],
  [{ blocks: 2, writes: 3, generations: 4, byBase: true }, 2_098_480],
]

type AnyModel = Model<object, string>

let rows = 0
let wrong = 0
function row(name: string, model: AnyModel, judge: (findings: Findings) => string | undefined): void {
  if (!name.includes(process.env['MODELS'] ?? '')) return
  const startedMs = performance.now()
  const findings = explore(model)
  const { states, edges, depth, history = [] } = findings
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(1)
  const why = judge(findings)
  const mib = Math.round(process.memoryUsage().rss / 2 ** 20)
  const figures = `${states} states, ${edges} edges, depth ${depth}, ${seconds} s, ${mib} MiB`
  console.log(`${name}: ${figures}${why ? `; WRONG: ${why}` : ''}`)
  if (findings.wrong) console.log(`    ${findings.wrong} after ${history.length}: ${history.join(' > ')}`)
  rows++
  if (why) wrong++
}

function design(kind: string, bounds: CycleBounds | PairBounds, model: AnyModel, expected: number): void {
  const words = Object.entries(bounds).map(([key, value]) => value === true ? key : `${value} ${key}`)
  row(`${kind}: ${words.join(', ')}`, model, ({ states, wrong }) =>
    wrong ? 'the design' : states === expected ? undefined : `not ${expected} states`)
}

function variant(kind: string, name: string, model: AnyModel, { after, how }: { after: number, how: string }): void {
  row(`${kind} variant: ${name}`, model, ({ wrong, history }) =>
    !wrong?.includes(how) ? 'not caught' : history!.length > after ? `not seen after ${after} steps` : undefined)
}

for (const [bounds, states] of CYCLES) design('cycle', bounds, new CycleModel(bounds), states)
for (const [bounds, states] of PAIRS) design('pair', bounds, new PairModel(bounds), states)
for (const [name, row] of Object.entries(CYCLE_VARIANTS)) {
  variant('cycle', name, new CycleModel({ blocks: 2, writes: 3, newer: 'newer' in row }, name as CycleVariant), row)
}
for (const [name, row] of Object.entries(PAIR_VARIANTS)) {
  variant('pair', name, new PairModel({ blocks: 2, writes: 2, generations: 3 }, name as PairVariant), row)
}
console.log(`${rows - wrong} of ${rows} as they should be`)
process.exitCode = wrong > 0 || rows === 0 ? 1 : 0
