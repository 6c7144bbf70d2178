/**
 * A pair of nodes that replicate synchronously and go on alone when they lose each other, as a model: generations, bitmaps,
 * activity log, one host write in flight, promotions, one restore, crashes, lost links, automatic resyncs, split brain and
 * its resolution.
 *
 * What it proves of every order of these, within the bounds: two nodes that are connected, both up to date and at rest have
 * equal blocks; at least one is up to date; never two primaries are connected; an automatic resync never overwrites what
 * was acknowledged and the source does not have; a split brain is only declared when both sides have changed alone. Ids
 * such as B23 are SEEDS'.
 *
 * Words are DRBD's: `current` is the generation of a node's content, `base` the one its bitmap counts from (0: no bitmap),
 * `history` the ones before; the activity log has the blocks that a write is on its way to. A map is a number, bit b for
 * block b. Generations, writes and faults are numbered across both nodes; where a number is used up, what needs the next
 * one is not possible: a bound, not a rule. During a split brain nothing happens but its resolution.
 *
 * Not modelled: parts of blocks, a restore in more than one step, three nodes, epochs and fencing (X10), disks that fail.
 *
 * State for state the same as the reference model of the project's issue: 2,106,072 with 2 blocks, 3 writes, 4 generations
 * and 3 faults, 180,993 with 2, 2, 3 and 3. Edges are some more (4,893,714, not 4,893,672): there a node whose restore
 * wants a generation that is used up cannot crash. Where more than one restore is allowed, each is a change of its own.
 */
import { Model, type Rule } from './explorer.js'

/** One small change of the design each. `after`: a shortest history that shows it; `how`: what is then seen to be wrong. */
export const PAIR_VARIANTS = {
  'no activity log': { after: 5, how: 'differ',
    does: 'DESIGN D4: after a crash nothing says which blocks a write was on its way to' },
  'equal generations clear bits': { after: 5, how: 'differ',
    does: 'DESIGN S5: nodes of one generation are taken as equal (the shape of DRBD #145)' },
  'restore unmarked': { after: 5, how: 'differ',
    does: 'A1, X1: restored blocks are neither sent nor marked' },
  'no bit for a write in flight': { after: 6, how: 'differ',
    does: 'DESIGN D4: a write that loses the peer half way leaves no bit' },
  'generation at disconnect': { after: 6, how: 'split brain',
    does: 'A7: a primary begins a generation when it loses its peer, not when it first writes alone' },
  'restore takes metadata back': { after: 7, how: 'differ',
    does: 'A19: a restore also restores generations and bitmap' },
  'unfinished resync forgotten': { after: 7, how: 'differ',
    does: 'D13: what a resync had yet to send is forgotten with the link' },
  'target promotable half way': { after: 9, how: 'acknowledged',
    does: 'D13: the target of a resync that is cut off counts as up to date' },
  "only the survivor's bits": { after: 11, how: 'differ',
    does: 'B23, D10: a resync sends what the source changed, not what the target did' },
  'split brain with one bitmap': { after: 12, how: 'differ',
    does: "D10: the victim's own changes are not overwritten" },
} as const satisfies Record<string, { does: string, after: number, how: string }>

export type PairVariant = keyof typeof PAIR_VARIANTS

export interface PairBounds {
  readonly blocks: number
  readonly writes: number
  readonly generations: number
  /** Crashes and lost links. */
  readonly faults?: number
  readonly restores?: number
  /**
   * Two primaries do not connect and one gives way, unless both have changed alone. By default, as in the reference model,
   * that is judged by what hosts were told, which no node knows of the other; `byBase`, by who has begun a generation, as a
   * product can.
   */
  readonly byBase?: boolean
}

/** Writes and restores: bits of `acked` and `tried` without the sign. */
const CHANGES_MAX = 30
/** How many generations before the current one a node remembers. */
const HISTORY_MAX = 3

export interface PairNode {
  up: boolean
  primary: boolean
  /** Or else it is the target of a resync that has not ended. */
  upToDate: boolean
  image: readonly number[]
  current: number
  base: number
  bitmap: number
  history: readonly number[]
  /** The activity log. */
  active: number
  /** To judge by, a bit for each write and restore: those the host has an answer for and this node has; and those it may have. */
  acked: number
  tried: number
}

type Nodes = readonly [PairNode, PairNode]
interface Resync { readonly source: number, readonly todo: number }
interface Write {
  readonly node: number
  readonly block: number
  readonly value: number
  /** The peer gets it too. */
  readonly linked: boolean
  readonly local: boolean
  readonly remote: boolean
}

export interface PairState {
  nodes: Nodes
  /** Both are up and see each other. */
  link: boolean
  split: boolean
  resync: Resync | undefined
  write: Write | undefined
  generation: number
  writes: number
  faults: number
  restores: number
}

export type PairAction =
  'write' | 'local write done' | 'remote write done' | 'acknowledge' | 'write goes on alone' | 'promote' | 'restore' |
  'crash' | 'restart' | 'link lost' | 'connect' | 'step down' | 'resync' | 'resync done' | 'resolve split brain'

/** What two nodes do that meet, by a named rule (DESIGN S5). `todo` are the blocks that `source` sends. */
export interface Verdict {
  readonly rule: PairRule
  readonly does: 'resync' | 'clear' | 'split'
  readonly source?: number
  readonly todo?: number
}
export const PAIR_RULES = [
  'unfinished resync', 'equal', 'writes were in flight', 'one went on alone', 'both went on alone', 'one is of the past',
  'unrelated',
] as const
type PairRule = typeof PAIR_RULES[number]

const bit = (i: number): number => 1 << i
const has = (map: number, i: number): boolean => (map & bit(i)) !== 0
const lacks = (node: PairNode, other: PairNode): boolean => (other.acked & ~node.acked) !== 0
const peer = (node: number): number => 1 - node

export class PairModel extends Model<PairState, PairAction> {
  readonly blocks: number
  readonly initial: PairState
  readonly #bounds: Required<PairBounds>
  readonly #all: number

  constructor(bounds: PairBounds, readonly variant?: PairVariant) {
    super()
    this.#bounds = { faults: 3, restores: 1, byBase: false, ...bounds }
    this.blocks = bounds.blocks
    this.#all = bit(bounds.blocks) - 1
    if (bounds.writes + this.#bounds.restores > CHANGES_MAX) throw new RangeError('more changes than a map of them has bits')
    const node = (primary: boolean): PairNode => ({
      up: true, primary, upToDate: true, image: this.#zeros(), current: 1, base: 0, bitmap: 0, history: [], active: 0,
      acked: 0, tried: 0,
    })
    this.initial = {
      nodes: [node(true), node(false)], link: true, split: false, resync: undefined, write: undefined,
      generation: 1, writes: 0, faults: 0, restores: 0,
    }
  }

  readonly rules: Readonly<Record<PairAction, Rule<PairState>>> = {
    // X1: marked first, in the activity log and, with no peer, in the bitmap, whose generation begins with the first such write.
    write: { args: ['node', 'block'],
      possible: (s, node) => s.writes < this.#bounds.writes && this.#mayChange(s, node),
      apply: (s, node, block) => this.#beginWrite(s, node, block) },
    'local write done': { possible: ({ write }) => !!write && !write.local, apply: s => {
      this.#store(s, s.write!.node)
      s.write = { ...s.write!, local: true }
    } },
    'remote write done': { possible: ({ write, link }) => !!write && write.linked && link && !write.remote, apply: s => {
      this.#store(s, peer(s.write!.node))
      s.write = { ...s.write!, remote: true }
    } },
    acknowledge: {
      possible: ({ write }) => !!write && write.local && (!write.linked || write.remote),
      apply: s => this.#acknowledge(s) },
    // DESIGN D4: a write that was in flight when the peer went leaves a bit, for nobody knows whether the peer has it.
    'write goes on alone': {
      possible: s => !s.link && !!s.write?.linked && this.#mayBegin(s, s.nodes[s.write.node]),
      apply: s => this.#goOnAlone(s, s.write!) },

    promote: { args: ['node'],
      possible: (s, node) => this.#promotable(s, node),
      apply: (s, node) => { s.nodes[node].primary = true } },
    // To all zeros, which is what was first. A1: what differs is sent, or marked while there is nobody to send it to.
    restore: { args: ['node'],
      possible: (s, node) => s.restores < this.#bounds.restores && this.#mayChange(s, node),
      apply: (s, node) => this.#restore(s, node) },

    crash: { args: ['node'],
      possible: (s, node) => !s.split && s.nodes[node].up && s.faults < this.#bounds.faults,
      apply: (s, node) => {
        s.faults++
        if (s.write?.node === node) s.write = undefined
        if (s.link) this.#disconnect(s)
        Object.assign(s.nodes[node], { up: false, primary: false })
      } },
    // DESIGN D4: what a write was on its way to counts as changed.
    restart: { args: ['node'], possible: (s, node) => !s.split && !s.nodes[node].up, apply: (s, node) => {
      const self = s.nodes[node]
      self.up = true
      self.bitmap |= self.active
    } },
    'link lost': { possible: s => s.link && s.faults < this.#bounds.faults, apply: s => {
      s.faults++
      this.#disconnect(s)
    } },

    connect: { possible: s => this.#mayMeet(s) && !this.#idlePrimaries(s), apply: s => this.#meet(s) },
    // Of two primaries the one that has changed nothing alone gives way, before they connect.
    'step down': { possible: s => this.#mayMeet(s) && this.#idlePrimaries(s), apply: ({ nodes }) => {
      const idle = nodes.find(({ base }) => base === 0) ?? nodes[1]
      idle.primary = false
    } },
    // D12: not a block that a write is on its way to.
    resync: { args: ['block'],
      possible: ({ resync, write }, block) => !!resync && has(resync.todo, block) && write?.block !== block,
      apply: (s, block) => {
        const { source, todo } = s.resync!
        const target = s.nodes[peer(source)]
        target.image = target.image.with(block, s.nodes[source].image[block])
        s.resync = { source, todo: todo & ~bit(block) }
      } },
    'resync done': {
      possible: ({ resync, write }) => resync?.todo === 0 && !write,
      apply: s => this.#finishResync(s, s.resync!.source) },
    // The operator names the victim, whose changes are thrown away knowingly. The argument is the victim.
    'resolve split brain': { args: ['node'],
      possible: ({ split, nodes: [a, b] }, victim) => split && a.up && b.up && [a, b][peer(victim)].upToDate,
      apply: (s, victim) => this.#resolve(s, victim) },
  }

  fork(state: PairState): PairState { return { ...state, nodes: [{ ...state.nodes[0] }, { ...state.nodes[1] }] } }

  wrong({ nodes: [a, b], link, resync, write }: PairState): string | undefined {
    if (!a.upToDate && !b.upToDate) return 'neither node is up to date'
    if (link && a.primary && b.primary) return 'two primaries are connected'
    if (!link || resync || write || !a.upToDate || !b.upToDate) return undefined
    const block = a.image.findIndex((value, at) => value !== b.image[at])
    return block < 0 ? undefined : `both are up to date and connected, and they differ at block ${block}`
  }

  // --- What is possible ---

  #atRest(s: PairState): boolean { return !s.split && !s.write }

  /** A generation can begin where one must (a bound). */
  #mayBegin({ generation }: PairState, node: PairNode): boolean {
    return node.base !== 0 || generation < this.#bounds.generations
  }

  /** A host may write to it or restore it. */
  #mayChange(s: PairState, node: number): boolean {
    const { up, primary, upToDate } = s.nodes[node]
    return this.#atRest(s) && up && primary && upToDate && (s.link || this.#mayBegin(s, s.nodes[node]))
  }

  /** D13: never the target of an unfinished resync. */
  #promotable(s: PairState, node: number): boolean {
    const { up, primary, upToDate } = s.nodes[node]
    return this.#atRest(s) && up && !primary && upToDate && !(s.link && s.nodes[peer(node)].primary)
  }

  #mayMeet(s: PairState): boolean { return this.#atRest(s) && !s.link && s.nodes[0].up && s.nodes[1].up }

  #idlePrimaries({ nodes: [a, b] }: PairState): boolean {
    const both = this.#bounds.byBase ? a.base !== 0 && b.base !== 0 : lacks(a, b) && lacks(b, a)
    return a.primary && b.primary && !both
  }

  // --- Changes ---

  #beginWrite(s: PairState, node: number, block: number): void {
    const self = s.nodes[node]
    const value = ++s.writes
    if (!s.link) {
      this.#beginAlone(s, node)
      self.bitmap |= bit(block)
    }
    if (!this.#is('no activity log')) self.active |= bit(block)
    self.tried |= bit(value)
    s.write = { node, block, value, linked: s.link, local: false, remote: false }
  }

  #store({ nodes, write }: PairState, node: number): void {
    nodes[node].image = nodes[node].image.with(write!.block, write!.value)
  }

  #acknowledge(s: PairState): void {
    const { node, block, value, linked } = s.write!
    const self = s.nodes[node]
    const other = s.nodes[peer(node)]
    self.acked |= bit(value)
    if (linked) {
      other.acked |= bit(value)
      other.tried |= bit(value)
    }
    self.active &= ~bit(block)
    s.write = undefined
  }

  #goOnAlone(s: PairState, write: Write): void {
    const self = s.nodes[write.node]
    this.#beginAlone(s, write.node)
    if (this.#is('no bit for a write in flight')) self.bitmap &= ~bit(write.block)
    else self.bitmap |= bit(write.block)
    s.write = { ...write, linked: false }
  }

  #beginAlone(s: PairState, node: number): void { if (s.nodes[node].base === 0) this.#beginGeneration(s, s.nodes[node]) }

  #beginGeneration(s: PairState, node: PairNode): void {
    node.history = [node.current, ...node.history].slice(0, HISTORY_MAX)
    node.base ||= node.current
    node.current = ++s.generation
  }

  #restore(s: PairState, node: number): void {
    const self = s.nodes[node]
    const changes = self.image.reduce((map, value, block) => value === 0 ? map : map | bit(block), 0)
    s.restores++
    // A7: one that changes nothing is no change.
    if (changes) {
      self.acked |= bit(this.#bounds.writes + s.restores)
      self.tried |= bit(this.#bounds.writes + s.restores)
    }
    if (!s.link && !this.#is('restore unmarked')) {
      if (changes) this.#beginAlone(s, node)
      self.bitmap |= changes
    }
    self.image = this.#zeros()
    if (s.link && !this.#is('restore unmarked')) this.#sendWhatDiffers(s, node)
    if (this.#is('restore takes metadata back')) Object.assign(self, { current: 1, base: 0, bitmap: 0, history: [] })
  }

  #sendWhatDiffers(s: PairState, source: number): void {
    const { image } = s.nodes[source]
    const target = s.nodes[peer(source)]
    const todo = image.reduce((map, value, block) => value === target.image[block] ? map : map | bit(block), 0)
    if (!todo) return
    s.resync = { source, todo: todo | (s.resync?.todo ?? 0) }
    target.upToDate = false
  }

  // --- Meeting and parting ---

  /** D13: what a resync had yet to send becomes bits of its source. */
  #disconnect(s: PairState): void {
    if (s.resync) {
      const { source, todo } = s.resync
      if (!this.#is('unfinished resync forgotten')) s.nodes[source].bitmap |= todo
      if (this.#is('target promotable half way')) s.nodes[peer(source)].upToDate = true
    }
    s.resync = undefined
    s.link = false
    if (!this.#is('generation at disconnect')) return
    for (const node of s.nodes) if (node.up && node.primary && node.base === 0) this.#beginGeneration(s, node)
  }

  #meet(s: PairState): string | undefined {
    const [a, b] = s.nodes
    const { does, source = 0, todo = 0 } = this.judge(s.nodes)
    s.link = does !== 'split'
    if (does === 'clear') for (const node of s.nodes) Object.assign(node, { bitmap: 0, active: 0, base: 0 })
    if (does === 'resync') return this.#beginResync(s, source, todo)
    if (does !== 'split') return undefined
    s.split = true
    const known = a.base !== 0 && a.base === b.base
    const both = (a.tried & ~b.tried) !== 0 && (b.tried & ~a.tried) !== 0
    return known && !both ? 'a false split brain: only one side has written alone' : undefined
  }

  /**
   * DESIGN S5: who is newer, and what the other one has to get. B23, D10: both sides' bits, for what only the target
   * changed goes as well. Never both are in an unfinished resync.
   */
  judge([a, b]: Nodes): Verdict {
    const both = a.bitmap | b.bitmap
    if (!a.upToDate || !b.upToDate) return { rule: 'unfinished resync', does: 'resync', source: a.upToDate ? 0 : 1, todo: both }
    if (a.current === b.current) {
      const todo = both | a.active | b.active
      if (todo === 0 || this.#is('equal generations clear bits')) return { rule: 'equal', does: 'clear' }
      const source = a.primary ? 0 : b.primary ? 1 : a.active || a.bitmap ? 0 : 1
      return { rule: 'writes were in flight', does: 'resync', source, todo }
    }
    const bits = (source: PairNode, target: PairNode): number =>
      this.#is("only the survivor's bits") ? source.bitmap : both | target.active
    if (a.base === b.current && b.base === 0) return { rule: 'one went on alone', does: 'resync', source: 0, todo: bits(a, b) }
    if (b.base === a.current && a.base === 0) return { rule: 'one went on alone', does: 'resync', source: 1, todo: bits(b, a) }
    if (a.base !== 0 && a.base === b.base) return { rule: 'both went on alone', does: 'split' }
    if (a.history.includes(b.current)) return { rule: 'one is of the past', does: 'resync', source: 0, todo: this.#all }
    if (b.history.includes(a.current)) return { rule: 'one is of the past', does: 'resync', source: 1, todo: this.#all }
    return { rule: 'unrelated', does: 'split' }
  }

  #beginResync(s: PairState, source: number, todo: number): string | undefined {
    const target = s.nodes[peer(source)]
    const lost = lacks(s.nodes[source], target)
    if (todo === 0) this.#finishResync(s, source)
    else {
      s.resync = { source, todo }
      target.upToDate = false
    }
    return lost ? `an automatic resync discards what node ${peer(source)} has acknowledged` : undefined
  }

  #finishResync(s: PairState, source: number): void {
    const { current, history, acked, tried } = s.nodes[source]
    const clean = { base: 0, bitmap: 0, active: 0 }
    Object.assign(s.nodes[source], clean)
    Object.assign(s.nodes[peer(source)], clean, { current, history, acked, tried, upToDate: true })
    s.resync = undefined
  }

  #resolve(s: PairState, victim: number): void {
    const loser = s.nodes[victim]
    const winner = s.nodes[peer(victim)]
    let bits = winner.bitmap
    if (!this.#is('split brain with one bitmap')) bits |= loser.bitmap | winner.active | loser.active
    const todo = winner.base !== 0 && winner.base === loser.base ? bits : this.#all
    s.split = false
    s.link = true
    loser.primary = false
    loser.acked &= winner.acked
    loser.tried &= winner.tried
    loser.upToDate = false
    s.resync = { source: peer(victim), todo }
    if (todo === 0) this.#finishResync(s, peer(victim))
  }

  // --- Little things ---

  #is(variant: PairVariant): boolean { return this.variant === variant }
  #zeros(): readonly number[] { return Array<number>(this.blocks).fill(0) }
}
