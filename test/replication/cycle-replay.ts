/**
 * Traces of the model of periodic replication (test/models/cycle-model), performed on the shipped code: a volume and its target on memory
 * disks, a mirror between them whose requests are held (held.ts). After every step both are compared.
 *
 * The model runs along, so that an action that is not possible here is left out of both, and counted. What stands for what:
 *
 *   write begins, ends   a host's write whose data is held before it reaches any disk, and let go
 *   edit snapshot        nothing: what is edited here is a clone, and a restore from its snapshot is another test's (writable-snapshots)
 *   copy back            time goes on, so that a copier with a rate copies one grain more: its choice, not the trace's
 *   freeze               a cycle begins, and comes to what it has to send
 *   deliver, reply lost  a grain is let go; or arrives without an answer, and is sent again when it is delivered (a client's re-send)
 *   request lost         nothing, as in the model
 *   declare              the flush is let go, and the cycle ends well
 *   abort                whatever is under way fails, and so does the cycle
 *   crash                every disk as it is at this moment, opened again. A cycle does not outlive it: in the model an abort follows
 *
 * What must be alike: what hosts read, both snapshots, the image that the cycle ships, what clients of the target are shown, what has
 * arrived, the phase. What has to be sent is a superset of the model's, and until a crash no more than that and what a restore brings.
 */
import { ManualClock, seededRandom } from '../../src/device/testing.js'
import type { MemberDisks } from '../crash/group-lab.js'
import { type CycleAction, type CycleModel, type CycleState, DITTO, type Image } from '../models/cycle-model.js'
import type { Action } from '../models/explorer.js'
import { readAll } from '../volume/lab.js'
import { follow } from './follow.js'
import { Held, HeldWrite, until } from './held.js'
import { G } from './lab.js'
import { Network, Node } from './memory-lab.js'
import { assertTidy, bit, blankDisks, type Disks, dropUndo, forked, grainOf, notThere, pointContent, same, turns } from './replay-lab.js'

/** Of a restore: a grain each time COPY_MS are over. */
const COPY_MS = 100
const COPY_BYTES_PER_SECOND = G * 1000 / COPY_MS

/** Times what `turns` waits. */
const ARRIVAL_TURNS = 10

const own = (kept: Image): number => kept.reduce((map, value, block) => value === DITTO ? map : map | bit(block), 0)

export class CycleReplay {
  /** Actions done, and those left out; and deliveries that came later than in the model. */
  readonly counts = { done: 0, leftOut: 0, late: 0 }
  readonly #model: CycleModel
  #state: CycleState
  #disks: Disks
  #node!: Node
  #held!: Held
  #write!: HeldWrite
  #writing: Promise<unknown> | undefined
  #cycle: Promise<boolean> | undefined
  /** Of the running cycle. */
  #arrived = 0
  /** The last cycle has cleared up. */
  #after = Promise.resolve()
  /** What the mirror may have to send since its base and since the freeze; all of it once there was a crash. */
  #maySend = { current: ~0, next: ~0 }

  private constructor(model: CycleModel, disks: Disks) {
    this.#model = model
    this.#state = model.initial
    this.#disks = disks
  }

  static async open(model: CycleModel): Promise<CycleReplay> {
    const replay = new CycleReplay(model, await blankDisks(model.blocks))
    await replay.#boot()
    return replay
  }

  /** Errors: whatever is not as the model says. */
  async run(actions: readonly Action<CycleAction>[]): Promise<void> {
    await follow(actions, {
      counts: this.counts, isPossible: action => this.#isPossible(action), do: action => this.#do(action),
      compare: () => this.#compare(), end: () => this.#end(),
    })
  }

  #isPossible({ name, args }: Action<CycleAction>): boolean {
    return name !== 'edit snapshot' && this.#model.rules[name].possible(this.#state, ...args)
  }

  async #boot(): Promise<void> {
    this.#node = await Node.open(this.#disks as unknown as MemberDisks, new Network(seededRandom(0)), new ManualClock())
    this.#held = new Held()
    this.#held.onSource(this.#node.source)
    this.#held.onTarget(this.#node.target)
    this.#write = new HeldWrite([this.#disks['a.live']!, this.#disks['a.staged']!])
    // Cycles begin when the trace says so, and only then.
    await this.#mirror.pause()
  }

  get #mirror() { return this.#node.mirrors.local }
  get #source() { return this.#node.source }

  async #do({ name, args: [block = 0] }: Action<CycleAction>): Promise<void> {
    const before = this.#state
    this.#state = this.#model.take(before, { name, args: [block] }).state
    switch (name) {
      case 'write begins': return this.#beginWrite(block)
      case 'write ends': return this.#endWrite()
      case 'snapshot': return void await this.#source.points.create({ name: 's', kind: 'snapshot' })
      case 'newer snapshot': return void await this.#source.points.create({ name: 'n', kind: 'snapshot' })
      case 'restore': return this.#restore()
      case 'copy back': return this.#node.clock.advance(COPY_MS)
      case 'freeze': return this.#freeze(before.next)
      case 'deliver': return this.#arrive(block, () => { this.#held.let(grainOf(block)) })
      case 'reply lost': return this.#arrive(block, () => { this.#held.lose(grainOf(block)) })
      case 'declare': return this.#declare()
      case 'abort': return this.#abort()
      case 'crash': return this.#crash()
      case 'crash, data landed':
        await this.#endWrite()
        return this.#crash()
    }
  }

  async #beginWrite(block: number): Promise<void> {
    const { value } = this.#state.write!
    this.#write.hold(value)
    this.#writing = this.#source.write(grainOf(block) * G, G, Buffer.alloc(G, value), 0) ?? Promise.resolve()
    await turns()
  }

  async #endWrite(): Promise<void> {
    this.#write.let()
    await this.#writing
    this.#writing = undefined
    await this.#after
  }

  async #restore(): Promise<void> {
    await this.#source.restore({ from: 's', bytesPerSecond: COPY_BYTES_PER_SECOND })
    await dropUndo(this.#source)
  }

  async #freeze(next: number): Promise<void> {
    this.#maySend = { current: this.#maySend.current | this.#maySend.next, next: 0 }
    this.#arrived = 0
    this.#held.hold(this.#state.truth.flatMap((_, block) => next & bit(block) ? [grainOf(block)] : []))
    this.#cycle = this.#mirror.sync().then(() => true, notThere)
    await until('the cycle comes to what it sends', () => this.#held.arrived > 0)
  }

  /** What a crash left counts as data, and neighbours may be one piece then: its parts go one after the other, and wait for each other. */
  async #arrive(block: number, pass: () => void): Promise<void> {
    pass()
    const { frozen } = this.#state.cycle!
    const isThere = async (): Promise<boolean> => (await readAll(this.#node.target, grainOf(block) * G, 1))[0] === frozen[block]
    for (let turn = 0; turn < ARRIVAL_TURNS && !await isThere(); turn++) await turns()
    if (await isThere()) this.#arrived |= bit(block)
    else this.counts.late++
  }

  async #declare(): Promise<void> {
    const { cycle } = this.#mirror.state
    this.#held.letAll()
    await this.#over('it is declared', () => this.#mirror.state.cycle > cycle, true)
    this.#maySend.current = 0
  }

  async #abort(): Promise<void> {
    this.#held.fail()
    await this.#over('it fails', () => this.#mirror.status().problem !== null, false)
    this.#maySend = { current: 0, next: this.#maySend.current | this.#maySend.next }
  }

  /** Of a cycle. What it leaves behind goes when no write is in flight, so the end of that is not waited for. */
  async #over(what: string, isSo: () => boolean, well: boolean): Promise<void> {
    const cycle = this.#cycle!
    this.#cycle = undefined
    await until(what, isSo)
    this.#after = cycle.then(ended => { if (ended !== well) throw new Error(`the cycle ended ${ended ? 'well' : 'badly'}`) })
    this.#after.catch(() => undefined)
    if (!this.#writing) await this.#after
  }

  async #crash(): Promise<void> {
    this.#disks = forked(this.#disks)
    // What ran goes on, for as long as it takes, on disks that nobody sees any more.
    this.#held.fail()
    void this.#writing?.catch(() => undefined)
    this.#write.let()
    this.#writing = undefined
    this.#cycle = undefined
    this.#after = Promise.resolve()
    if (this.#state.cycle) this.#state = this.#model.take(this.#state, { name: 'abort', args: [] }).state
    this.#maySend.next = ~0
    await this.#boot()
  }

  async #compare(): Promise<void> {
    const { truth, write, snapshot, newer, cycle, declared } = this.#state
    if (!write) same('the host reads', await readAll(this.#source), truth)
    if (snapshot) same('the snapshot', await pointContent(this.#source, 's'), snapshot.truth)
    if (newer) same('the newer snapshot', await pointContent(this.#source, 'n'), newer.truth)
    same('the target shows', (await this.#node.shown())?.content, declared)
    if (cycle) {
      const image = this.#source.points.list().findLast(({ name }) => name.includes('-image'))!
      // It keeps what the cycle has still to read (keepers.ts), and no more need be there; what it has read is judged when it arrives.
      const kept = await pointContent(this.#source, image.name)
      const isToRead = (block: number): boolean => (cycle.unsent & bit(block)) !== 0 && grainOf(block) >= this.#held.forgotten
      same('the frozen image', kept, cycle.frozen.map((value, block) => isToRead(block) ? value : kept[grainOf(block) * G]!))
      const there = await readAll(this.#node.target)
      const missing = cycle.frozen.findIndex((value, block) => this.#arrived & bit(block) && there[grainOf(block) * G] !== value)
      if (missing >= 0) throw new Error(`block ${missing} had arrived, and is not there`)
    }
    const { phase } = this.#mirror.state
    if (phase !== (declared ? 'paired' : 'copying')) throw new Error(`the mirror is ${phase}`)
    await this.#comparePending()
  }

  /**
   * A superset, and a bounded one (DESIGN D4). The model sends what a restore brings back though it was there already (A7): so what must
   * be pending is where hosts see something else than the target's point or its own content has, which the model has marked as well.
   */
  async #comparePending(): Promise<void> {
    const { cycle, next, uncopied, write, declared, truth } = this.#state
    this.#maySend.next |= next | uncopied | (write ? bit(write.block) : 0)
    const base = this.#source.points.list().find(({ uuid }) => uuid === this.#mirror.state.base?.point)
    if (!base || !declared) return
    const map = this.#source.points.changedMap(base.name)
    const there = await readAll(this.#node.target)
    const blocks = (isSo: (block: number) => boolean): number => truth.reduce((bits, _, block) => isSo(block) ? bits | bit(block) : bits, 0)
    const pending = blocks(block => map.get(grainOf(block)))
    const must = blocks(block => truth[block] !== declared[block] || truth[block] !== there[grainOf(block) * G])
    const marked = next | uncopied | (cycle ? cycle.unsent | own(cycle.undo) : 0)
    if (must & ~marked) throw new Error(`the model has not marked (${marked.toString(2)}) what differs (${must.toString(2)})`)
    if (must & ~pending) throw new Error(`of what differs (${must.toString(2)}) something is not pending (${pending.toString(2)})`)
    const may = this.#maySend.current | this.#maySend.next
    if (pending & ~may) throw new Error(`more is pending (${pending.toString(2)}) than can have changed (${may.toString(2)})`)
  }

  /** Whatever happened: finishing this cycle and one more make both equal (C1), and nothing is left over. */
  async #end(): Promise<void> {
    if (this.#writing) {
      await this.#endWrite()
      this.#state = this.#model.take(this.#state, { name: 'write ends', args: [] }).state
    }
    if (this.#cycle) await this.#declare()
    this.#held.letAll()
    await this.#mirror.sync()
    const wanted = this.#state.truth
    same('the host reads', await readAll(this.#source), wanted)
    same('the target shows', (await this.#node.shown())?.content, wanted)
    same('the target holds', await readAll(this.#node.target), wanted)
    assertTidy([this.#source, this.#node.target])
  }
}
