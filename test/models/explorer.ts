/**
 * Explicit-state exploration: a model is a first state and a table of rules; `explore` visits every state that any order of
 * actions reaches, breadth first, so that the first wrong state it meets has a shortest history.
 *
 * - A state is plain data: small integers, booleans, lists and objects of them, or undefined. `packed` makes a short string
 *   of all of it, a character a number, without naming the fields: a field cannot be forgotten there, and two states are
 *   one only if all of them agree.
 * - Of a state that was expanded only its string is kept, whose it was and by which of its moves; a history is replayed
 *   from the first state. Two million states of fifty characters take 1.4 GB at most.
 * - Rules change a fork. Lists in a state are never changed, only replaced: a fork may share them.
 * - Limits: integers from -2 to 250; a field is of one kind wherever it is not undefined; a set holds some 16 million strings.
 */
import { seededRandom } from '../../src/device/testing.js'

/** `args` are the blocks and nodes the rule was asked for. */
export interface Action<Name extends string = string> { readonly name: Name, readonly args: readonly number[] }

export interface Rule<State> {
  /** What it is asked for each of: the order of its arguments. Asked once by default. */
  readonly args?: readonly ('block' | 'node')[]
  possible(state: State, ...args: number[]): boolean
  /** Returns what is wrong with doing this, if the step itself is wrong whatever state it leads to. */
  apply(draft: State, ...args: number[]): string | undefined | void
}

export interface Step<State, Name extends string = string> {
  readonly action: Action<Name>
  readonly state: State
  readonly wrong?: string | undefined
}

export abstract class Model<State extends object, Name extends string> {
  abstract readonly initial: State
  abstract readonly rules: Readonly<Record<Name, Rule<State>>>
  abstract readonly blocks: number
  abstract fork(state: State): State
  /** An invariant that does not hold. */
  abstract wrong(state: State): string | undefined
  #actions: Action<Name>[] | undefined

  /** Every action that makes sense in a state, and what comes of it. */
  * moves(state: State): Generator<Step<State, Name>> {
    this.#actions ??= this.#listActions()
    for (const action of this.#actions) {
      if (this.rules[action.name].possible(state, ...action.args)) yield this.take(state, action)
    }
  }

  take(state: State, action: Action<Name>): Step<State, Name> {
    const draft = this.fork(state)
    const wrong = this.rules[action.name].apply(draft, ...action.args)
    return { action, state: draft, wrong: wrong ?? undefined }
  }

  /** The states after each of these, which must be possible. */
  follow(actions: readonly (readonly [name: Name, ...args: number[]])[], from: State = this.initial): State[] {
    let state = from
    return actions.map(([name, ...args]) => {
      if (!this.rules[name].possible(state, ...args)) throw new Error(`${told({ name, args })} is not possible here`)
      return state = this.take(state, { name, args }).state
    })
  }

  /**
   * A walk to replay elsewhere, the same for the same seed: any name that is possible, then any of its arguments. Ends
   * early where nothing is.
   */
  randomTrace(seed: number, steps: number): Step<State, Name>[] {
    const random = seededRandom(seed)
    const trace: Step<State, Name>[] = []
    for (let state = this.initial; trace.length < steps; state = trace.at(-1)!.state) {
      const moves = [...this.moves(state)]
      if (moves.length === 0) break
      const names = [...new Set(moves.map(({ action }) => action.name))]
      const name = names[random(names.length)]
      const alike = moves.filter(({ action }) => action.name === name)
      trace.push(alike[random(alike.length)])
    }
    return trace
  }

  #listActions(): Action<Name>[] {
    const counts = { block: this.blocks, node: 2 }
    return (Object.keys(this.rules) as Name[]).flatMap(name => {
      let all: number[][] = [[]]
      for (const kind of this.rules[name].args ?? []) all = all.flatMap(args => range(counts[kind]).map(i => [...args, i]))
      return all.map(args => ({ name, args }))
    })
  }
}

const range = (length: number): number[] => Array.from({ length }, (_, i) => i)

export function told({ name, args }: Action): string { return args.length > 0 ? `${name}(${args.join(', ')})` : name }

const room = Buffer.alloc(1024)

function pack(value: unknown, at: number): number {
  if (typeof value === 'number') {
    if (value < -2 || value > 250) throw new RangeError(`${value} does not fit a character of a state`)
    room[at] = value + 2
  } else if (typeof value === 'boolean') room[at] = value ? 1 : 0
  else if (value === undefined) room[at] = 255
  else if (Array.isArray(value)) {
    room[at] = value.length
    for (const item of value) at = pack(item, at + 1) - 1
  } else {
    room[at] = 254
    for (const key in value as object) at = pack((value as Record<string, unknown>)[key], at + 1) - 1
  }
  return at + 1
}

/** The whole state as a string. */
export function packed(state: object): string { return room.toString('latin1', 0, pack(state, 0)) }

export interface Findings {
  states: number
  /** Actions taken: every one in every state. */
  edges: number
  /** Levels; the farthest state is one action less away from the first. */
  depth: number
  /** How often each action was taken. */
  taken: Record<string, number>
  /** Nothing is left: neither a bound nor something wrong has ended it. */
  whole: boolean
  wrong?: string
  /** A shortest way to what is wrong. */
  history?: readonly string[]
}

export interface ExploreOptions {
  /** Ends after the level in which there are as many. */
  readonly statesMax?: number
  /** Called after every level. */
  progress?(findings: Findings): void
}

export function explore<State extends object, Name extends string>(
  model: Model<State, Name>, { statesMax = Infinity, progress }: ExploreOptions = {},
): Findings {
  const seen = new Set([packed(model.initial)])
  /** By number of a state, in the order they were found: whose move led there first, and its how manieth. */
  const parents = [0]
  const ordinals = [0]
  const taken: Record<string, number> = {}
  const findings: Findings = { states: 1, edges: 0, depth: 0, taken, whole: false }
  const failed = (wrong: string, parent: number, last: Action): Findings =>
    ({ ...findings, states: seen.size, wrong, history: [...history(model, parents, ordinals, parent), told(last)] })

  const first = model.wrong(model.initial)
  if (first) return { ...findings, wrong: first, history: [] }
  let level = [model.initial]
  for (let parent = 0; level.length > 0 && seen.size < statesMax;) {
    const below: State[] = []
    for (const from of level) {
      let ordinal = 0
      for (const { action, state, wrong } of model.moves(from)) {
        findings.edges++
        taken[action.name] = (taken[action.name] ?? 0) + 1
        if (wrong) return failed(wrong, parent, action)
        const before = seen.size
        if (seen.add(packed(state)).size > before) {
          const broken = model.wrong(state)
          if (broken) return failed(broken, parent, action)
          parents.push(parent)
          ordinals.push(ordinal)
          below.push(state)
        }
        ordinal++
      }
      parent++
    }
    level = below
    findings.depth++
    findings.states = seen.size
    progress?.(findings)
  }
  return { ...findings, whole: level.length === 0 }
}

/** The actions that first led to a state. */
function history<State extends object, Name extends string>(
  model: Model<State, Name>, parents: readonly number[], ordinals: readonly number[], number: number,
): string[] {
  const turns: number[] = []
  for (let at = number; at > 0; at = parents[at]) turns.push(ordinals[at])
  let state = model.initial
  return turns.reverse().map(turn => {
    const { action, state: next } = [...model.moves(state)][turn]
    state = next
    return told(action)
  })
}
