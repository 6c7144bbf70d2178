/**
 * Traces of the model of a pair (test/models/pair-model), performed on the shipped code: node 0 is a volume, node 1 the volume that its mirror
 * keeps up. The model replicates synchronously and finds out by itself who is newer; here cycles bring what was written, and the operator
 * says which way: the trace says it for the model's rule. After every step both are compared.
 *
 * The model runs along, so that an action that has nothing here is left out of both, and counted. What stands for what:
 *
 *   write, its parts, acknowledge   linked, by node 0: a write, then a cycle. Alone: a write to that volume
 *   linked, by node 1               roles are not swapped here: hosts go on with the source, so both parts happen at the acknowledgement; what
 *                                   would cut such a write in two is left out, and so is a remote part before the local one
 *   link lost                       what is under way fails, and the mirror is split at once, unless a resync was cut short
 *   crash                           every disk as it is, opened again, and the link is lost; restart: nothing
 *   promote, step down              nothing: a split copy can be written to
 *   connect, resolve                a resync if the model takes node 0 for the source, else a reverse one, which is there at once
 *   resync, resync done             a grain is let go; the cycle ends, and another brings what was written meanwhile
 *   restore                         one from a snapshot of the empty volume, of either
 *
 * What must be alike: what either side holds while it is up to date, and what clients of the target are shown; of the target of a resync
 * that is not done, that they see what it was at. What differs is a subset of what both maps have (D10). What a resync overwrites of
 * somebody's work is kept (D14).
 */
import { ManualClock, seededRandom } from '../../src/device/testing.js'
import type { MemberDisks } from '../crash/group-lab.js'
import type { Action } from '../models/explorer.js'
import type { PairAction, PairModel, PairState } from '../models/pair-model.js'
import { readAll } from '../volume/lab.js'
import { follow } from './follow.js'
import { Held, until } from './held.js'
import { G } from './lab.js'
import { Network, Node } from './memory-lab.js'
import { assertTidy, bit, blankDisks, bytesOf, type Disks, dropUndo, forked, grainOf, notThere, pointContent, same, turns } from './replay-lab.js'

export class PairReplay {
  /** Actions done, and those left out. */
  readonly counts = { done: 0, leftOut: 0, late: 0 }
  readonly #model: PairModel
  #state: PairState
  #disks: Disks
  #node!: Node
  #held!: Held
  /** Of a resync, or of a restore that is on its way. */
  #cycle: Promise<boolean> | undefined
  /** What clients of the target see until that is done. */
  #shown: Buffer | undefined

  private constructor(model: PairModel, disks: Disks) {
    this.#model = model
    this.#state = model.initial
    this.#disks = disks
  }

  static async open(model: PairModel): Promise<PairReplay> {
    const replay = new PairReplay(model, await blankDisks(model.blocks))
    await replay.#boot()
    for (const volume of replay.#volumes) await volume.points.create({ name: 'zero', kind: 'snapshot' })
    await replay.#mirror.sync()
    return replay
  }

  /** Errors: whatever is not as the model says. */
  async run(actions: readonly Action<PairAction>[]): Promise<void> {
    await follow(actions, {
      counts: this.counts, isPossible: action => this.#isPossible(action),
      do: action => {
        const before = this.#state
        this.#state = this.#model.take(before, action).state
        return this.#do(action, before)
      },
      compare: () => this.#compare(), end: () => this.#end(),
    })
  }

  #isPossible({ name, args }: Action<PairAction>): boolean {
    const { write, link } = this.#state
    if (!this.#model.rules[name].possible(this.#state, ...args)) return false
    if (!write || !link) return true
    if (write.node === 0) return name !== 'remote write done' || write.local
    return !(name === 'link lost' || name === 'crash') || !(write.local || write.remote)
  }

  async #boot(): Promise<void> {
    this.#node = await Node.open(this.#disks as unknown as MemberDisks, new Network(seededRandom(0)), new ManualClock())
    this.#held = new Held()
    this.#held.onSource(this.#node.source)
    this.#held.onTarget(this.#node.target)
    // Cycles begin when the trace says so, and only then.
    await this.#mirror.pause()
  }

  get #mirror() { return this.#node.mirrors.local }
  get #volumes() { return [this.#node.source, this.#node.target] as const }

  async #do({ name, args: [first = 0] }: Action<PairAction>, before: PairState): Promise<void> {
    const { write, resync } = before
    switch (name) {
      case 'local write done':
        if (!before.link || write!.node === 0) await this.#put(write!.node, write!)
        return
      case 'remote write done':
        // While a resync runs it comes after that.
        if (write!.node === 0 && !resync) await this.#mirror.sync()
        return
      case 'acknowledge':
        if (!write!.linked || write!.node === 0) return
        await this.#put(0, write!)
        return this.#mirror.sync()
      case 'restore': return this.#restore(first, before)
      case 'crash':
        this.#disks = forked(this.#disks)
        this.#held.fail()
        this.#cycle = undefined
        await this.#boot()
        return before.link ? this.#part() : undefined
      case 'link lost': return this.#part()
      case 'connect': return this.#meet(before)
      case 'resync':
        if (resync!.source === 0) this.#held.let(grainOf(first))
        return turns()
      case 'resync done': return this.#finish()
      case 'resolve split brain': return this.#bring(1 - first, before)
    }
  }

  async #put(node: number, { block, value }: { readonly block: number, readonly value: number }): Promise<void> {
    const data = Buffer.alloc(G, value)
    if (node === 0) await this.#node.source.write(grainOf(block) * G, G, data, 0)
    else await this.#node.writeApart(grainOf(block) * G, G, data, 0)
  }

  async #restore(node: number, before: PairState): Promise<void> {
    const volume = this.#volumes[before.link ? 0 : node]!
    await (await volume.restore({ from: 'zero' })).finished
    await dropUndo(volume)
    if (!before.link) return
    if (node === 1) return this.#mirror.sync()
    const { resync } = this.#state
    if (resync && !this.#cycle) await this.#send(resync.todo)
  }

  /** A cycle whose blocks wait to be let go. */
  async #send(todo: number): Promise<void> {
    this.#shown = (await this.#node.shown())!.content
    this.#held.hold(Array.from({ length: this.#model.blocks }, (_, block) => block).filter(block => todo & bit(block)).map(grainOf))
    this.#cycle = this.#mirror.sync().then(() => true, notThere)
    await until('the cycle comes to what it sends', () => this.#held.arrived > 0)
  }

  async #part(): Promise<void> {
    this.#held.fail()
    if (await this.#cycle) throw new Error('a cycle ended well that was cut off')
    this.#cycle = undefined
    this.#held.letAll()
    if (this.#mirror.state.phase !== 'paired') return
    await this.#mirror.split({ atOnce: true })
    await this.#node.target.inheriting?.finished
    await turns()
    this.#shown = undefined
  }

  async #meet(before: PairState): Promise<void> {
    const { does, source = 0 } = this.#model.judge(before.nodes)
    if (does !== 'split') await this.#bring(source, before)
  }

  /** Together again: the other side gets what this one has. */
  async #bring(source: number, before: PairState): Promise<void> {
    const victim = before.nodes[1 - source]!
    if (source === 1) {
      await (await this.#node.reversal.reverse()).finished
      this.#shown = undefined
      if (victim.upToDate && !victim.image.every((value, block) => value === before.nodes[1].image[block])) await this.#isKept(0, victim.image)
      return dropUndo(this.#node.source)
    }
    const { phase } = this.#mirror.state
    const isWork = phase === 'split' && !(await this.#node.shown())!.content.equals(bytesOf(victim.image))
    if (phase === 'split') await this.#mirror.beginResync({ whole: false })
    const todo = this.#state.resync?.todo ?? 0
    await this.#send(todo)
    if (isWork && victim.upToDate) await this.#isKept(1, victim.image)
    if (todo === 0) await this.#finish()
  }

  async #isKept(node: number, image: readonly number[]): Promise<void> {
    const volume = this.#volumes[node]!
    for (const { name, labels } of volume.points.list()) {
      if (labels['auto'] === 'undo' && (await pointContent(volume, name)).equals(bytesOf(image))) return
    }
    throw new Error(`what node ${node} had was not kept`)
  }

  async #finish(): Promise<void> {
    this.#held.letAll()
    if (await this.#cycle === false) throw new Error('a cycle failed that nothing was done to')
    this.#cycle = undefined
    this.#shown = undefined
    await this.#mirror.sync()
    await dropUndo(this.#node.target)
  }

  async #compare(): Promise<void> {
    const { nodes: [a, b], link, resync, write } = this.#state
    if (write) return
    const [source, target] = [await readAll(this.#node.source), await readAll(this.#node.target)]
    const shown = (await this.#node.shown())!.content
    const { phase } = this.#mirror.state
    if (a.upToDate) same('node 0 holds', source, a.image)
    if (link && resync?.source === 1) same('node 0 shows what node 1 has', source, b.image)
    if (this.#shown && !shown.equals(this.#shown)) throw new Error('the target of a resync shows half of it')
    if (b.upToDate && !resync) same('node 1 holds', link ? shown : target, b.image)
    if (link ? phase !== (resync && this.#state.resync!.source === 0 ? phase : 'paired') : b.upToDate && phase !== 'split') {
      throw new Error(`${link ? 'linked' : 'apart'}, and the mirror is ${phase}`)
    }
    if (phase === 'split') this.#comparePending(source, target)
  }

  #comparePending(source: Buffer, target: Buffer): void {
    const base = this.#node.source.points.list().find(({ uuid }) => uuid === this.#mirror.state.base!.point)!
    const both = this.#node.source.points.changedMap(base.name)
    both.or(this.#node.target.points.changedMap(this.#mirror.shownPoint()!.name))
    for (let block = 0; block < this.#model.blocks; block++) {
      const at = grainOf(block)
      if (source[at * G] !== target[at * G] && !both.get(at)) throw new Error(`block ${block} differs, and neither map has it`)
    }
  }

  /** Whatever happened: once they are together both are equal, and nothing is left over. */
  async #end(): Promise<void> {
    const { nodes: [a, b] } = this.#state
    if (this.#cycle) await this.#finish()
    if (this.#mirror.state.phase === 'split') {
      if (a.upToDate) await this.#mirror.beginResync({ whole: false })
      else await (await this.#node.reversal.reverse()).finished
    }
    await this.#mirror.sync()
    const [source, target] = [await readAll(this.#node.source), await readAll(this.#node.target)]
    if (!this.#state.write && a.upToDate) same('at the end the source holds', source, a.image)
    if (!this.#state.write && !a.upToDate) same('at the end the source holds', source, b.image)
    if (!source.equals(target) || !source.equals((await this.#node.shown())!.content)) throw new Error('both are not equal')
    assertTidy(this.#volumes)
  }
}
