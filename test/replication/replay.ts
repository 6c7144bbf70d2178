/**
 * Traces of the two models on the shipped code, in a process of its own: SEED, WALKS and STEPS of random walks. Prints one JSON line: what was
 * done, what was left out, and what was wrong first.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CycleModel, CYCLE_VARIANTS, type CycleVariant } from '../models/cycle-model.js'
import { type Action, explore, type Model, packed } from '../models/explorer.js'
import { PAIR_VARIANTS, PairModel, type PairVariant } from '../models/pair-model.js'
import { CycleReplay } from './cycle-replay.js'
import { PairReplay } from './pair-replay.js'
import { PeerReplay } from './peer-replay.js'

const SEED = Number(process.env['SEED'] ?? Date.now() % 2 ** 31)
const WALKS = Number(process.env['WALKS'] ?? 30)
const STEPS = Number(process.env['STEPS'] ?? 100)
/** On stores in files. */
const PEER_WALKS = 2
const PEER_STEPS = 30
/** A pair of actions that takes more states to come to is left to the random walks. */
const STATES_MAX = 20_000

/** Timers of the volumes do not keep the process. */
const awake = setInterval(() => undefined, 1000)

/** As an explorer tells them. */
function actionsOf<Name extends string>(history: readonly string[]): Action<Name>[] {
  return history.map(told => {
    const [, name, args] = /^([^(]*)(?:\((.*)\))?$/.exec(told)!
    return { name: name as Name, args: args ? args.split(', ').map(Number) : [] }
  })
}

/** For each two actions of which one can follow the other at once, a shortest trace that ends with them. */
function shortest<State extends object, Name extends string>(model: Model<State, Name>): Action<Name>[][] {
  const found = new Map<string, Action<Name>[]>()
  const seen = new Set([packed(model.initial)])
  let level: { readonly state: State, readonly trace: readonly Action<Name>[] }[] = [{ state: model.initial, trace: [] }]
  while (level.length > 0 && seen.size < STATES_MAX) {
    const below: typeof level = []
    for (const { state, trace } of level) {
      for (const move of model.moves(state)) {
        const key = `${trace.at(-1)?.name} > ${move.action.name}`
        const longer = [...trace, move.action]
        if (!found.has(key)) found.set(key, longer)
        const before = seen.size
        if (seen.add(packed(move.state)).size > before) below.push({ state: move.state, trace: longer })
      }
    }
    level = below
  }
  return [...found.values()]
}

interface Sum { traces: number, done: number, leftOut: number, late: number }
const sums: Record<string, Sum> = {}
let wrong: string | undefined

interface Replay { readonly counts: Readonly<Record<'done' | 'leftOut' | 'late', number>>, run(actions: readonly Action[]): Promise<void> }

async function replay(kind: string, one: Promise<Replay>, actions: readonly Action[]): Promise<void> {
  if (wrong) return
  const { run, counts } = await one.then(opened => ({ run: opened.run.bind(opened), counts: opened.counts }))
  try { await run(actions) } catch (error) { wrong = `${kind}, seed ${SEED}: ${(error as Error).message}` }
  const sum = sums[kind] ??= { traces: 0, done: 0, leftOut: 0, late: 0 }
  sum.traces++
  for (const what of ['done', 'leftOut', 'late'] as const) sum[what] += counts[what]
}

async function replayCycles(): Promise<void> {
  let peers = 0
  const bounds = { blocks: 2, writes: 3, edits: 0, newer: true }
  const design = new CycleModel(bounds)
  const open = (model: CycleModel): Promise<Replay> => CycleReplay.open(model) as Promise<Replay>
  const directory = mkdtempSync(join(tmpdir(), 'nbdelta-replay-'))
  for (const actions of shortest(design)) await replay('cycle, shortest', open(design), actions)
  for (const [name, row] of Object.entries(CYCLE_VARIANTS)) {
    const history = (edits: number): readonly string[] | undefined =>
      explore(new CycleModel({ ...bounds, edits, newer: 'newer' in row }, name as CycleVariant)).history
    // Only of A3 there is none without.
    const actions = actionsOf(history(0) ?? history(1)!)
    await replay(`cycle, ${name}`, open(design), actions)
    await replay(`peer, ${name}`, PeerReplay.open(design, join(directory, String(++peers))) as Promise<Replay>, actions)
  }
  for (let walk = 0; walk < PEER_WALKS; walk++) {
    const model = new CycleModel({ blocks: 2, writes: 20, edits: 0, restores: 2, newer: true })
    const actions = model.randomTrace(SEED + walk, PEER_STEPS).map(({ action }) => action)
    await replay('peer, random', PeerReplay.open(model, join(directory, String(++peers))) as Promise<Replay>, actions)
  }
  rmSync(directory, { recursive: true, force: true })
  for (let walk = 0; walk < WALKS; walk++) {
    const model = new CycleModel({ blocks: walk % 2 === 0 ? 2 : 4, writes: 60, edits: 0, restores: 6, newer: true })
    await replay('cycle, random', open(model), model.randomTrace(SEED + walk, STEPS).map(({ action }) => action))
  }
}

async function replayPairs(): Promise<void> {
  const bounds = { blocks: 2, writes: 2, generations: 3, byBase: true }
  const design = new PairModel(bounds)
  const open = (model: PairModel): Promise<Replay> => PairReplay.open(model) as Promise<Replay>
  for (const actions of shortest(design)) await replay('pair, shortest', open(design), actions)
  for (const name of Object.keys(PAIR_VARIANTS)) {
    const { history } = explore(new PairModel({ ...bounds, byBase: false }, name as PairVariant))
    await replay(`pair, ${name}`, open(new PairModel({ ...bounds, byBase: false })), actionsOf(history!))
  }
  for (let walk = 0; walk < WALKS; walk++) {
    const model = new PairModel({ blocks: walk % 2 === 0 ? 2 : 4, writes: 24, generations: 200, faults: 60, restores: 6, byBase: true })
    await replay('pair, random', open(model), model.randomTrace(SEED + walk, STEPS).map(({ action }) => action))
  }
}

await replayCycles()
await replayPairs()
clearInterval(awake)
console.log(JSON.stringify({ seed: SEED, sums, wrong }))
process.exit(wrong ? 1 : 0)
