/** What is asked of every model: its design holds in whole explorations, each wrong variant is caught, traces can be drawn. */
import type { Test } from 'tap'
import { explore, told, type Model } from './explorer.js'

/** No variant needs more of them than this. */
const STATES_MAX = 100_000

/** The whole of it, and as many states as there have to be: fewer would mean that a rule is never used. */
export function holds<State extends object, Name extends string>(t: Test, model: Model<State, Name>, states: number): void {
  const findings = explore(model)
  t.comment(`${findings.states} states, ${findings.edges} edges, depth ${findings.depth}`)
  t.equal(findings.wrong, undefined, findings.history?.join(' > ') ?? 'nothing is wrong')
  t.ok(findings.whole, 'nothing is left')
  t.equal(findings.states, states, 'states')
  t.strictSame(Object.keys(model.rules).filter(name => !findings.taken[name]), [], 'actions that were never possible')
}

export function caught<State extends object, Name extends string>(
  t: Test, model: Model<State, Name>, { after, how }: { readonly after: number, readonly how: string },
): void {
  const { wrong = 'nothing', history = [], states } = explore(model, { statesMax: STATES_MAX })
  t.comment(`${states} states; after ${history.length} steps, ${history.join(' > ')}: ${wrong}`)
  t.match(wrong, how, 'caught')
  t.ok(history.length > 0 && history.length <= after, `as soon as after ${after} steps`)
}

/** Walks to replay elsewhere. So many that every action occurs in some, the rarest in one of five. */
const WALKS = 60
export function walks<State extends object, Name extends string>(t: Test, model: Model<State, Name>, seed: number): void {
  t.comment(`seed ${seed}`)
  const names = new Set<string>()
  t.strictSame(model.randomTrace(seed, 200), model.randomTrace(seed, 200), 'the same for the same seed')
  for (let run = 0; run < WALKS; run++) {
    const trace = model.randomTrace(seed + run, 200)
    const states = model.follow(trace.map(({ action }) => [action.name, ...action.args]))
    t.strictSame(states.at(-1), trace.at(-1)!.state, 'it can be followed')
    const bad = trace.findIndex(({ state, wrong }) => wrong ?? model.wrong(state))
    t.equal(bad, -1, bad < 0 ? 'nothing is wrong' : trace.slice(0, bad + 1).map(({ action }) => told(action)).join(' > '))
    for (const { action } of trace) names.add(action.name)
  }
  t.strictSame(Object.keys(model.rules).filter(name => !names.has(name)), [], 'actions that never occur')
}
