/**
 * Periodic replication with restore, as a model: a primary with a writable snapshot and perhaps a newer one, a secondary
 * that is brought up to date a cycle at a time, one host write in flight, crashes of the primary, lost replies, aborted
 * cycles, takeover at any moment.
 *
 * What it proves of every order of these, within the bounds: the host reads what it wrote or restored; snapshots stay what
 * they were; the secondary can always become the last declared point, which the primary's host view was at one instant; and
 * whatever happened, finishing this cycle and running one more makes both sides equal. Ids such as C3 are SEEDS'.
 *
 * A block is a grain, written whole by values that occur once. The map of changes and what is kept for the running cycle
 * are `next` and `cycle.kept`: two neighbouring snappoints in the product. A map is a number, bit b for block b.
 *
 * Not modelled: parts of blocks, a chain of more than two snapshots and their deletion (test/models/sequences does),
 * several secondaries, groups, resizes, full disks.
 *
 * State for state the same as the reference model of the project's issue, whose secondary has one more flag that always
 * says "a cycle runs": 179,618 states with 2 blocks and 3 writes, 255,399 with 3 and 2, 751,576 with 2 and 3 and the newer
 * snapshot. Edges are the same as well (979,408 in the first) but for `request lost`, which changes nothing and is there
 * for those who replay traces.
 */
import { Model, type Rule } from './explorer.js'

/** One small change of the design each. `after`: a shortest history that shows it; `how`: what is then seen to be wrong. */
export const CYCLE_VARIANTS = {
  'current set dropped on abort': { after: 2, how: 'never equal',
    does: 'C9: an aborted cycle forgets what it had to send' },
  'mark cleared on send': { after: 2, how: 'never equal',
    does: 'C7: the mark of a block goes when it is sent, not when it is acknowledged' },
  'only unsent blocks return': { after: 3, how: 'never equal',
    does: 'C9: an aborted cycle gives back what was not sent, though the secondary undoes all' },
  'marks in memory only': { after: 3, how: 'never equal',
    does: 'C13, A6: a mark is not on disk before the data is' },
  'mark after data': { after: 3, how: 'never equal',
    does: 'C13: a write is marked after its data is on disk' },
  'restore of what live changed': { after: 3, how: 'host reads',
    does: 'A3: edits of the snapshot are not in the set of a restore' },
  'restore unmarked': { after: 4, how: 'never equal',
    does: 'A1, X1: restored blocks are not marked' },
  'restore marks current': { after: 4, how: 'never equal',
    does: 'C3: restored blocks are marked in the running cycle, not in the next' },
  'snapshot of the stored': { after: 4, how: 'newer snapshot', newer: true,
    does: 'B11: a snapshot during a restore is of what is on disk, not of what the host sees' },
  'restore does not preserve for snapshots': { after: 5, how: 'newer snapshot', newer: true,
    does: 'B9: a restore overwrites what the newer snapshot sees' },
  'write drops what is uncopied': { after: 5, how: 'host reads',
    does: 'A13: a write ends the restore of its block before its data is there' },
  'freeze of the stored': { after: 6, how: 'frozen point',
    does: 'C2: a cycle during a restore freezes what is on disk, not what the host sees' },
  'restore does not preserve for the cycle': { after: 7, how: 'frozen point',
    does: 'C4: a restore overwrites what the running cycle has to send' },
  'no undo on the secondary': { after: 8, how: 'takeover',
    does: 'C10, B19: the secondary overwrites its declared point without keeping it' },
} as const satisfies Record<string, { does: string, after: number, how: string, newer?: boolean }>

export type CycleVariant = keyof typeof CYCLE_VARIANTS

export interface CycleBounds {
  readonly blocks: number
  readonly writes: number
  readonly edits?: number
  readonly restores?: number
  /** A second snapshot may be taken. */
  readonly newer?: boolean
  /** Keep every block that is overwritten during a cycle, as a snappoint does, and not only what the cycle has yet to send. */
  readonly keepAll?: boolean
}

/** Content by block. */
export type Image = readonly number[]
/** In what a point keeps: not here, look in live. */
export const DITTO = -1
/** What is on a secondary that was never written to. */
export const UNKNOWN = -2

interface Snapshot {
  readonly kept: Image
  /** What it must read as. */
  readonly truth: Image
}

interface Cycle {
  /** Yet to be acknowledged. */
  readonly unsent: number
  /** Preserved for it on the primary. */
  readonly kept: Image
  /** What it must deliver: the host's view at the freeze. */
  readonly frozen: Image
  /** On the secondary: what its declared point had where this cycle has written, DITTO elsewhere. */
  readonly undo: Image
}

export interface CycleState {
  /** What is on the primary's disk. */
  stored: Image
  snapshot: Snapshot | undefined
  newer: Snapshot | undefined
  /** Blocks written to since the snapshot. */
  changed: number
  /** Blocks that a restore has yet to copy: the host sees the snapshot's. */
  uncopied: number
  cycle: Cycle | undefined
  /** Changed since the freeze: what is known in memory, and what a crash leaves. */
  next: number
  nextOnDisk: number
  secondary: Image
  /** The secondary's last point. */
  declared: Image | undefined
  write: { readonly block: number, readonly value: number } | undefined
  /** What the host must read. */
  truth: Image
  writes: number
  edits: number
  restores: number
}

const bit = (block: number): number => 1 << block
const has = (map: number, block: number): boolean => (map & bit(block)) !== 0
const put = (image: Image, block: number, value: number): Image => image.with(block, value)
const keep = (kept: Image, block: number, value: number): Image => kept[block] === DITTO ? put(kept, block, value) : kept
const idle = (s: CycleState): boolean => !s.write

export type CycleAction =
  'write begins' | 'write ends' | 'snapshot' | 'newer snapshot' | 'edit snapshot' | 'restore' | 'copy back' |
  'freeze' | 'deliver' | 'reply lost' | 'request lost' | 'declare' | 'abort' | 'crash' | 'crash, data landed'

export class CycleModel extends Model<CycleState, CycleAction> {
  readonly blocks: number
  readonly initial: CycleState
  readonly #bounds: Required<CycleBounds>
  readonly #all: number

  constructor(bounds: CycleBounds, readonly variant?: CycleVariant) {
    super()
    this.#bounds = { edits: 1, restores: 1, newer: false, keepAll: false, ...bounds }
    this.blocks = bounds.blocks
    this.#all = bit(bounds.blocks) - 1
    this.initial = {
      stored: this.#image(0), snapshot: undefined, newer: undefined, changed: 0, uncopied: 0, cycle: undefined,
      next: this.#all, nextOnDisk: this.#all, secondary: this.#image(UNKNOWN), declared: undefined, write: undefined,
      truth: this.#image(0), writes: 0, edits: 0, restores: 0,
    }
  }

  readonly rules: Readonly<Record<CycleAction, Rule<CycleState>>> = {
    // X1: preserve, then mark, then (C13: only then) overwrite, whoever writes. One write at a time.
    'write begins': { args: ['block'],
      possible: s => idle(s) && s.writes < this.#bounds.writes,
      apply: (s, block) => this.#beginWrite(s, block) },
    'write ends': { possible: s => !idle(s), apply: s => this.#endWrite(s) },

    // B1: a snapshot keeps nothing at first. B11: it is of what the host sees, so a restore is finished first.
    snapshot: { possible: s => idle(s) && !s.snapshot, apply: s => {
      if (!this.#is('snapshot of the stored')) this.#finishRestore(s)
      s.snapshot = { kept: this.#image(DITTO), truth: s.truth }
      s.changed = 0
    } },
    'newer snapshot': { possible: s => this.#bounds.newer && idle(s) && !!s.snapshot && !s.newer, apply: s => {
      if (!this.#is('snapshot of the stored')) this.#finishRestore(s)
      s.newer = { kept: this.#image(DITTO), truth: s.truth }
    } },
    // B12: what is written to a snapshot changes neither newer ones nor live. Not while it is being restored from.
    'edit snapshot': { args: ['block'],
      possible: s => idle(s) && !!s.snapshot && s.edits < this.#bounds.edits && s.uncopied === 0,
      apply: (s, block) => {
        const { kept, truth } = s.snapshot!
        const value = this.#bounds.writes + 1 + s.edits * this.blocks + block
        s.snapshot = { kept: put(kept, block, value), truth: put(truth, block, value) }
        s.edits++
      } },

    // the host's view is switched at once. A3: the set is what live changed and what was edited, all that is kept.
    restore: { possible: s => idle(s) && !!s.snapshot && s.restores < this.#bounds.restores && s.uncopied === 0, apply: s => {
      s.uncopied = this.#is('restore of what live changed') ? s.changed : this.#ownMap(s.snapshot!.kept)
      s.truth = s.snapshot!.truth
      s.restores++
    } },
    'copy back': { args: ['block'],
      possible: (s, block) => idle(s) && has(s.uncopied, block),
      apply: (s, block) => this.#copyBack(s, block) },

    // C-1. Next becomes current, at one instant. C2: of what the host sees, so a restore is finished first.
    freeze: { possible: s => idle(s) && !s.cycle && s.next !== 0, apply: s => {
      if (!this.#is('freeze of the stored')) this.#finishRestore(s)
      this.#freeze(s)
    } },
    deliver: { args: ['block'],
      possible: (s, block) => this.#unsent(s, block),
      apply: (s, block) => this.#deliver(s, block) },
    // C7: the secondary has it and the primary does not know.
    'reply lost': { args: ['block'],
      possible: (s, block) => this.#unsent(s, block),
      apply: (s, block) => this.#receive(s, block) },
    'request lost': { args: ['block'], possible: (s, block) => this.#unsent(s, block), apply: (s, block) => {
      if (this.#is('mark cleared on send')) s.cycle = { ...s.cycle!, unsent: s.cycle!.unsent & ~bit(block) }
    } },
    declare: { possible: s => s.cycle?.unsent === 0, apply: s => {
      s.declared = s.cycle!.frozen
      s.cycle = undefined
    } },
    abort: { possible: s => !!s.cycle && s.cycle.unsent !== 0, apply: s => this.#abort(s) },

    // C13: of the map only what is on disk survives. DESIGN D1: a write in flight may have landed or not.
    crash: { possible: () => true, apply: s => {
      if (s.write && this.#is('mark after data')) s.truth = put(s.truth, s.write.block, s.write.value)
      this.#restart(s)
    } },
    'crash, data landed': { possible: s => !idle(s) && !this.#is('mark after data'), apply: s => {
      this.#endWrite(s)
      this.#restart(s)
    } },
  }

  fork(state: CycleState): CycleState { return { ...state } }

  wrong(s: CycleState): string | undefined {
    const told = (what: string, expected: Image | undefined, found: (block: number) => number): string | undefined => {
      const block = expected ? expected.findIndex((value, at) => value !== found(at)) : -1
      return block < 0 ? undefined : `${what} at block ${block}`
    }
    const { snapshot, newer, cycle } = s
    return idle(s) && told('the host reads what it should not', s.truth, block => this.#view(s, block)) ||
      snapshot && told('the snapshot has changed', snapshot.truth, block => this.#readPoint(s, snapshot.kept, block)) ||
      newer && told('the newer snapshot has changed', newer.truth, block => this.#readPoint(s, newer.kept, block)) ||
      told('a takeover does not give the last declared point', s.declared, block => this.#takeover(s, block)) ||
      cycle?.unsent === 0 && told('the cycle has not delivered its frozen point', cycle.frozen, block => s.secondary[block]) ||
      idle(s) && this.#diverged(s) || undefined
  }

  /** C1, A1: finishing this cycle and running one more makes the secondary equal. */
  #diverged(state: CycleState): string | undefined {
    const s = this.fork(state)
    this.#finishRestore(s)
    this.#deliverAll(s)
    this.#freeze(s)
    this.#deliverAll(s)
    const block = s.truth.findIndex((value, at) => value !== s.secondary[at])
    return block < 0 ? undefined : `the secondary is never equal again at block ${block}`
  }

  // --- Reading ---

  /** What the host sees: A14: of an uncopied block the snapshot's. */
  #view(s: CycleState, block: number): number {
    return has(s.uncopied, block) ? this.#readPoint(s, s.snapshot!.kept, block) : s.stored[block]
  }

  #readPoint(s: CycleState, kept: Image, block: number): number { return kept[block] === DITTO ? s.stored[block] : kept[block] }

  /** B19, C10: what a takeover at this moment gives. */
  #takeover({ cycle, secondary }: CycleState, block: number): number {
    return cycle && cycle.undo[block] !== DITTO ? cycle.undo[block] : secondary[block]
  }

  // --- Writing ---

  #beginWrite(s: CycleState, block: number): void {
    s.writes++
    // A13, simplest: the block is copied back first. Or else the write must be there before it counts as copied.
    if (has(s.uncopied, block)) {
      if (this.#is('write drops what is uncopied')) s.uncopied &= ~bit(block)
      else this.#copyBack(s, block)
    }
    s.write = { block, value: s.writes }
    this.#preserve(s, block)
    if (this.#is('mark after data')) s.stored = put(s.stored, block, s.writes)
    else this.#mark(s, block)
  }

  #endWrite(s: CycleState): void {
    const { block, value } = s.write!
    s.write = undefined
    if (this.#is('mark after data')) this.#mark(s, block)
    else s.stored = put(s.stored, block, value)
    s.changed |= bit(block)
    s.truth = put(s.truth, block, value)
  }

  /** A restore's own writes: B9, C4: preserve. A10, C3: mark what the next cycle has to bring. */
  #copyBack(s: CycleState, block: number): void {
    this.#preserve(s, block, true)
    s.stored = put(s.stored, block, this.#readPoint(s, s.snapshot!.kept, block))
    if (this.#is('restore marks current') && s.cycle) s.cycle = { ...s.cycle, unsent: s.cycle.unsent | bit(block) }
    else if (!this.#is('restore unmarked')) this.#mark(s, block)
    s.uncopied &= ~bit(block)
    s.changed &= ~bit(block)
  }

  #finishRestore(s: CycleState): void {
    for (let block = 0; block < this.blocks; block++) if (has(s.uncopied, block)) this.#copyBack(s, block)
  }

  /** Before the stored content of a block changes: whoever still sees it gets it. */
  #preserve(s: CycleState, block: number, restoring = false): void {
    const { snapshot, newer, cycle } = s
    const old = s.stored[block]
    if (snapshot) s.snapshot = { ...snapshot, kept: keep(snapshot.kept, block, old) }
    const forNewer = newer && !(restoring && this.#is('restore does not preserve for snapshots'))
    if (forNewer) s.newer = { ...newer, kept: keep(newer.kept, block, old) }
    const forCycle = cycle && !(restoring && this.#is('restore does not preserve for the cycle'))
    if (forCycle && (this.#bounds.keepAll || has(cycle.unsent, block))) s.cycle = { ...cycle, kept: keep(cycle.kept, block, old) }
  }

  #mark(s: CycleState, block: number): void {
    s.next |= bit(block)
    if (!this.#is('marks in memory only')) s.nextOnDisk |= bit(block)
  }

  #restart(s: CycleState): void {
    s.write = undefined
    s.next = s.nextOnDisk
  }

  // --- Replicating ---

  #freeze(s: CycleState): void {
    s.cycle = { unsent: s.next, kept: this.#image(DITTO), frozen: s.truth, undo: this.#image(DITTO) }
    s.next = 0
    s.nextOnDisk = 0
  }

  #unsent({ cycle }: CycleState, block: number): boolean { return !!cycle && has(cycle.unsent, block) }

  /** C10: the secondary keeps what it overwrites, once a cycle. C4: what was frozen is sent, not what is there now. */
  #receive(s: CycleState, block: number): void {
    const { kept, undo } = s.cycle!
    if (!this.#is('no undo on the secondary')) s.cycle = { ...s.cycle!, undo: keep(undo, block, s.secondary[block]) }
    s.secondary = put(s.secondary, block, this.#readPoint(s, kept, block))
  }

  #deliver(s: CycleState, block: number): void {
    this.#receive(s, block)
    s.cycle = { ...s.cycle!, unsent: s.cycle!.unsent & ~bit(block) }
  }

  #deliverAll(s: CycleState): void {
    for (let block = 0; block < this.blocks; block++) if (this.#unsent(s, block)) this.#deliver(s, block)
  }

  /** C9: the secondary goes back to its declared point, so all that was sent is to be sent again, as well as what was not. */
  #abort(s: CycleState): void {
    const { unsent, undo } = s.cycle!
    let returned = unsent
    if (!this.#is('only unsent blocks return')) returned |= this.#ownMap(undo)
    if (this.#is('current set dropped on abort')) returned = 0
    s.secondary = s.secondary.map((_, block) => this.#takeover(s, block))
    s.next |= returned
    s.nextOnDisk |= returned
    s.cycle = undefined
  }

  // --- Little things ---

  #is(variant: CycleVariant): boolean { return this.variant === variant }
  #image(value: number): Image { return Array<number>(this.blocks).fill(value) }
  #ownMap(kept: Image): number { return kept.reduce((map, value, block) => value === DITTO ? map : map | bit(block), 0) }
}
