/**
 * Traces of the model of periodic replication on two stores in files with a link between them (peer-lab.ts): what cycle-replay.ts does on
 * memory disks, with a volume of a peer as the target. What stands for what is said there, but for these:
 *
 *   write begins, ends   a host's write happens when it ends; before that it has not been sent
 *   copy back            nothing: the copier goes on by itself
 *   abort                the link is cut, and then what had arrived at the peer fails
 *   crash                the near server ends and starts again, while the peer stays (kills are test/interop/mirror-kills')
 *
 * What must be alike: what hosts read, what a client of the peer is shown, whether it is shown anything, and at the end everything.
 */
import type { PeerLink, StoreVolume } from '../../src/index.js'
import type { CycleAction, CycleModel, CycleState } from '../models/cycle-model.js'
import type { Action } from '../models/explorer.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { follow } from './follow.js'
import { Held, until } from './held.js'
import { fill, G, shown } from './lab.js'
import { PeerLab } from './peer-lab.js'
import { bit, grainOf, notThere } from './replay-lab.js'

export class PeerReplay {
  readonly counts = { done: 0, leftOut: 0, late: 0 }
  readonly #model: CycleModel
  #state: CycleState
  readonly #lab: PeerLab
  readonly #held = new Held()
  #link: PeerLink | undefined
  #cycle: Promise<boolean> | undefined

  private constructor(model: CycleModel, lab: PeerLab) {
    this.#model = model
    this.#state = model.initial
    this.#lab = lab
    lab.near.onLink = link => this.#link = link
  }

  static async open(model: CycleModel, directory: string): Promise<PeerReplay> {
    const lab = await PeerLab.open(directory)
    await lab.near.store.createVolume({ name: 'v', sizeBytes: 2 * model.blocks * G, grainBytes: G })
    await lab.near.mirrors.create(lab.options('w'))
    const replay = new PeerReplay(model, lab)
    replay.#held.onTarget(lab.far.store.get('w')!)
    replay.#held.onSource(replay.#source)
    return replay
  }

  /** Errors: whatever is not as the model says. */
  async run(actions: readonly Action<CycleAction>[]): Promise<void> {
    try {
      await follow(actions, {
        counts: this.counts, do: action => this.#do(action), compare: () => this.#compare(), end: () => this.#end(),
        isPossible: ({ name, args }) => name !== 'edit snapshot' && this.#model.rules[name].possible(this.#state, ...args),
      })
    } finally {
      this.#held.letAll()
      await this.#lab.close()
    }
  }

  get #source(): StoreVolume { return this.#lab.near.store.get('v')! }
  get #mirror() { return this.#lab.near.mirrors.get('m') }

  async #do({ name, args: [block = 0] }: Action<CycleAction>): Promise<void> {
    const before = this.#state
    this.#state = this.#model.take(before, { name, args: [block] }).state
    switch (name) {
      case 'write ends': return this.#write(before)
      case 'snapshot': return void await this.#source.points.create({ name: 's', kind: 'snapshot' })
      case 'newer snapshot': return void await this.#source.points.create({ name: 'n', kind: 'snapshot' })
      case 'restore': return void await this.#source.restore({ from: 's' })
      case 'freeze':
        this.#held.hold(before.truth.flatMap((_, one) => before.next & bit(one) ? [grainOf(one)] : []))
        this.#cycle = this.#mirror.sync().then(() => true, notThere)
        return until('the cycle comes to what it sends', () => this.#held.arrived > 0)
      case 'deliver': return this.#arrive(block, () => { this.#held.let(grainOf(block)) })
      case 'reply lost': return this.#arrive(block, () => { this.#held.lose(grainOf(block)) })
      case 'declare': return this.#over(true, () => { this.#held.letAll() })
      case 'abort': return this.#cut()
      case 'crash': return this.#restart()
      case 'crash, data landed':
        await this.#write(before)
        return this.#restart()
    }
  }

  async #write({ write }: CycleState): Promise<void> { await fill(this.#source, grainOf(write!.block), write!.value) }

  async #arrive(block: number, pass: () => void): Promise<void> {
    pass()
    const { frozen } = this.#state.cycle!
    await until(`block ${block} arrives`, async () => (await shown(this.#lab.far.store.get('w')!))[grainOf(block)] === frozen[block])
  }

  async #over(well: boolean, end: () => void): Promise<void> {
    end()
    if (await this.#cycle !== well) throw new Error(`the cycle ended ${well ? 'badly' : 'well'}`)
    this.#cycle = undefined
  }

  async #cut(): Promise<void> {
    await this.#over(false, () => {
      this.#link!.close()
      this.#held.fail()
    })
  }

  async #restart(): Promise<void> {
    if (this.#cycle) {
      await this.#cut()
      this.#state = this.#model.take(this.#state, { name: 'abort', args: [] }).state
    }
    await this.#lab.near.restart()
    this.#held.onSource(this.#source)
  }

  async #compare(): Promise<void> {
    const { truth, write, declared, cycle } = this.#state
    if (!write) same('the host reads', await shown(this.#source), truth)
    same('a client of the peer sees', await this.#seen(), declared)
    const { phase } = this.#mirror.state
    if (!cycle && phase !== (declared ? 'paired' : 'copying')) throw new Error(`the mirror is ${phase}`)
  }

  /** Undefined: the volume is not shown. */
  #seen(): Promise<number[] | undefined> {
    return this.#lab.far.seen('w').catch((error: unknown) => {
      if (error instanceof NbdeltaError && error.code === 'not-found') return undefined
      throw error
    })
  }

  async #end(): Promise<void> {
    if (this.#state.write) await this.#do({ name: 'write ends', args: [] })
    if (this.#cycle) await this.#over(true, () => { this.#held.letAll() })
    this.#held.letAll()
    await this.#mirror.sync()
    same('at the end the host reads', await shown(this.#source), this.#state.truth)
    same('at the end a client of the peer sees', await this.#seen(), this.#state.truth)
    if (this.#mirror.status().lagBytes !== 0) throw new Error(`${this.#mirror.status().lagBytes} bytes are left`)
  }
}

/** @param found by grain; `wanted` by block: grains in between are nothing */
function same(what: string, found: readonly number[] | undefined, wanted: readonly number[] | undefined): void {
  const should = wanted?.flatMap(value => [value, 0])
  if (String(found) !== String(should)) throw new Error(`${what}: ${String(found)}, and should be ${String(should)}`)
}
