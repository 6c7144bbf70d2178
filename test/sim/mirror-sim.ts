/**
 * One simulated life of a mirrored volume, deterministic by its seed: the shipped code of volumes and mirrors on memory disks, a volume and
 * a far disk as targets, a network that loses requests and replies and goes down, a process that is killed at any turn, an operator who
 * snapshots, restores, splits, resyncs, verifies, pauses, and somebody who writes to a target that is split.
 *
 * After every step: what clients of the target see is an image that the source's hosts had, and none older than before (SEEDS C1, S1, C10).
 * At quiescence: source, target and far disk are what the model says, and no points are left but the mirrors' own (C7, C9).
 */
import { MemoryDisk, type Random, seededRandom } from '../../src/device/testing.js'
import { NbdeltaError } from '../../src/device/errors.js'
import type { MemberDisks } from '../crash/group-lab.js'
import { freshDisks, Network, Node, SIZE, type Which } from '../replication/memory-lab.js'
import { GRAIN, readAll } from '../volume/lab.js'

const GRAINS = SIZE / GRAIN
const SNAPSHOTS_MAX = 3

export interface SimOptions {
  readonly seed: number
  readonly steps: number
  /** Said before each step: to follow one seed. */
  readonly log?: (text: string) => void
}

interface SimResult {
  /** What must not be; with the step it was seen after. */
  readonly wrong: string | undefined
  readonly counts: Readonly<Record<string, number>>
}

class Wrong extends Error {}

class Sim {
  readonly counts: Record<string, number> = {}
  readonly #random: Random
  readonly #network: Network
  #disks: Record<string, MemoryDisk>
  #node!: Node
  /** What hosts see. */
  #model: Buffer = Buffer.alloc(SIZE)
  /** What they saw, and what they see once the operation that runs is answered. */
  readonly #versions: Buffer[] = [this.#model]
  readonly #snapshots = new Map<string, Buffer>()
  /** Every image that was frozen, oldest first. */
  #views: Buffer[] = []
  #seen = 0
  #names = 0
  readonly #running = new Set<Promise<void>>()
  /** What the target holds by itself; undefined: it belongs to its mirror. */
  #apart: Buffer | undefined
  /** Something was written to it since it was split. */
  #worked = false

  constructor(random: Random, disks: Record<string, MemoryDisk>) {
    this.#random = random
    this.#disks = disks
    this.#network = new Network(random)
  }

  static async open(seed: number): Promise<Sim> {
    const random = seededRandom(seed)
    const array = await freshDisks(random(2) === 0, 2048)
    const images = array.initialImages()
    const sim = new Sim(random, Object.fromEntries(array.names.map((name, i) => [name, images[i]!])))
    await sim.#boot()
    // The first copies have a hard time.
    sim.#network.lossPerMille = 300
    return sim
  }

  async #boot(): Promise<void> {
    this.#node = await Node.open(this.#disks as unknown as MemberDisks, this.#network)
    const { points } = this.#node.source
    const create = points.create.bind(points)
    points.create = async options => {
      // The instant lies between here and the answer, and other operations as well.
      const from = this.#versions.length - 1
      const info = await create(options)
      if (options.kind !== 'snapshot' || !/-image(\.\d+)?$/.test(options.name)) return info
      const device = points.open(info.name)
      const view = await readAll(device)
      await device.close()
      if (!this.#versions.slice(from).some(image => image.equals(view))) throw new Wrong('the frozen image is not what hosts saw (C2)')
      this.#views.push(view)
      return info
    }
  }

  /** One step. Throws Wrong. */
  async step(): Promise<string> {
    const steps: (readonly [weight: number, name: string, () => Promise<void>])[] = [
      [30, 'write', () => this.#write()], [6, 'trim', () => this.#trim()], [4, 'snapshot', () => this.#snapshot()],
      [3, 'restore', () => this.#restore()], [2, 'delete', () => this.#delete()], [10, 'sync', () => this.#sync(true)],
      [10, 'sync behind', () => this.#sync(false)], [15, 'turns', () => this.#turns()], [6, 'network', () => this.#weather()],
      [3, 'kill', () => this.#kill()], [2, 'pause', () => this.#pause()], [2, 'split', () => this.#split()],
      [3, 'resync', () => this.#resync()], [1, 'verify', () => this.#verify()], [3, 'write apart', () => this.#writeApart()],
    ]
    let roll = this.#random(steps.reduce((sum, [weight]) => sum + weight, 0))
    const [, name, run] = steps.find(([weight]) => (roll -= weight) < 0)!
    this.counts[name] = (this.counts[name] ?? 0) + 1
    await run()
    await this.check()
    return name
  }

  async check(): Promise<void> {
    if (this.#apart) return
    const shown = await this.#node.shown()
    if (!shown) {
      if (this.#seen > 0) throw new Wrong('the target shows nothing any more (S1)')
      return
    }
    const at = this.#views.findLastIndex(view => view.equals(shown.content))
    if (at < 0) throw new Wrong('the target shows what hosts never saw (C1)')
    if (at < this.#seen && !this.#views.slice(this.#seen).some(view => view.equals(shown.content))) {
      throw new Wrong('the target went back to an older point (C1)')
    }
    this.#seen = this.#views.findIndex((view, index) => index >= this.#seen && view.equals(shown.content))
  }

  /** All is well again: everything arrives, and nothing is left over. */
  async quiesce(): Promise<void> {
    await this.#settle()
    Object.assign(this.#network, { isDown: false, lossPerMille: 0 })
    for (const which of ['local', 'remote'] as const) {
      const mirror = this.#node.mirrors[which]
      await mirror.resume()
      if (mirror.state.phase === 'split') await mirror.beginResync({ whole: false })
      await mirror.sync()
    }
    this.#apart = undefined
    await this.#node.source.inheriting?.finished
    if (!(await readAll(this.#node.source)).equals(this.#model)) throw new Wrong('the source is not what was written to it')
    const shown = await this.#node.shown()
    if (!shown?.content.equals(this.#model)) throw new Wrong('the target is not what the source is')
    if (!(await readAll(this.#network.disk)).equals(this.#model)) throw new Wrong('the far disk is not what the source is')
    const left = this.#node.source.points.list().filter(({ labels }) => labels['auto'] === 'mirror')
    if (left.length !== 2) throw new Wrong(`points are left: ${left.map(({ name }) => name).join(', ')}`)
  }

  async #change(change: (image: Buffer) => void, run: () => Promise<void> | undefined): Promise<void> {
    const next = Buffer.from(this.#model)
    change(next)
    this.#versions.push(next)
    await run()
    this.#model = next
  }

  #range(): { offset: number, length: number } {
    const grain = this.#random(GRAINS)
    if (this.#random(3) > 0) return { offset: grain * GRAIN, length: GRAIN * (1 + this.#random(GRAINS - grain)) }
    const sector = this.#random(8)
    return { offset: grain * GRAIN + sector * 512, length: 512 * (1 + this.#random(8 - sector)) }
  }

  async #write(): Promise<void> {
    const { offset, length } = this.#range()
    const data = Buffer.alloc(length, 1 + this.#random(255))
    await this.#change(image => { data.copy(image, offset) }, async () => { await this.#node.source.write(offset, length, data, 0) })
  }

  async #trim(): Promise<void> {
    const { offset, length } = this.#range()
    await this.#change(image => { image.fill(0, offset, offset + length) },
      async () => { await this.#node.source.zero(offset, length, { allocate: false, fast: false }) })
  }

  async #snapshot(): Promise<void> {
    if (this.#snapshots.size >= SNAPSHOTS_MAX) return this.#delete()
    const name = `s${++this.#names}`
    await this.#node.source.points.create({ name, kind: 'snapshot' })
    this.#snapshots.set(name, this.#model)
  }

  #pick(): string | undefined { return [...this.#snapshots.keys()][this.#random(Math.max(1, this.#snapshots.size))] }

  async #restore(): Promise<void> {
    const name = this.#pick()
    if (!name) return
    const image = this.#snapshots.get(name)!
    await this.#change(next => { image.copy(next) }, async () => { await this.#node.source.restore({ from: name }) })
    for (const { name: undo, labels } of this.#node.source.points.list()) {
      if (labels['auto'] === 'undo') await this.#node.source.points.delete(undo).catch(expected)
    }
  }

  async #delete(): Promise<void> {
    const name = this.#pick()
    if (!name) return
    await this.#node.source.points.delete(name).then(() => { this.#snapshots.delete(name) }, expected)
  }

  async #sync(wait: boolean): Promise<void> {
    const which: Which = this.#random(2) === 0 ? 'local' : 'remote'
    const mirror = this.#node.mirrors[which]
    const alone = this.#running.size === 0
    const before = mirror.state.cycle
    const running = this.#behind(mirror.sync())
    if (!wait) return
    await running
    if (which === 'local' || !alone || mirror.state.cycle === before) return
    // Nobody froze anything meanwhile.
    if (!this.#views.at(-1)!.equals(await readAll(this.#network.disk))) throw new Wrong('the far disk is not at its point')
  }

  /** Goes on while other steps are made; a failure that must not be is thrown by `settle`. */
  #behind(work: Promise<unknown>): Promise<void> {
    const running = work.then(() => undefined, expected).finally(() => { this.#running.delete(running) })
    this.#running.add(running)
    running.catch(() => undefined)
    return running
  }

  async #settle(): Promise<void> { for (const running of [...this.#running]) await running }

  async #turns(): Promise<void> {
    for (let i = this.#random(12); i > 0; i--) await new Promise<void>(resolve => { setImmediate(resolve) })
  }

  async #weather(): Promise<void> {
    this.#network.isDown = this.#random(4) === 0
    this.#network.lossPerMille = [0, 0, 50, 300][this.#random(4)]!
  }

  /** The process is gone; what it had written is there. What it had under way at the far side is over or lost. */
  async #kill(): Promise<void> {
    this.#disks = Object.fromEntries(Object.entries(this.#disks).map(([name, disk]) => [name, disk.fork()]))
    this.#network.forget()
    const left = [...this.#running]
    this.#running.clear()
    await this.#boot()
    // Its ghost runs on, on disks that nobody sees any more.
    void Promise.allSettled(left)
    for (const name of [...this.#snapshots.keys()]) if (!this.#node.source.points.get(name)) this.#snapshots.delete(name)
  }

  async #pause(): Promise<void> {
    const mirror = this.#node.mirrors[this.#random(2) === 0 ? 'local' : 'remote']
    if (mirror.state.paused) await mirror.resume()
    else await mirror.pause()
  }

  async #split(): Promise<void> {
    const { local } = this.#node.mirrors
    const done = await local.split({ atOnce: this.#random(2) === 0 }).catch(expected)
    if (!done) return
    this.#apart = await readAll(this.#node.target)
    this.#worked = false
    if (!this.#views.some(view => view.equals(this.#apart!))) throw new Wrong('a split target is not at a whole point')
  }

  async #writeApart(): Promise<void> {
    if (!this.#apart) return
    const { offset, length } = this.#range()
    const data = Buffer.alloc(length, 1 + this.#random(255))
    data.copy(this.#apart, offset)
    await this.#node.writeApart(offset, length, data, 0)
    this.#worked = true
    if (!(await readAll(this.#node.target)).equals(this.#apart)) throw new Wrong('a split target does not hold what was written to it (D16)')
  }

  async #resync(): Promise<void> {
    const { local } = this.#node.mirrors
    const whole = this.#random(4) === 0
    if (local.state.phase !== 'split' && !whole) return
    const kept = this.#worked && !whole ? this.#apart : undefined
    await local.beginResync({ whole })
    this.#apart = undefined
    this.#worked = false
    await this.#behind(local.sync())
    const { points } = this.#node.target
    let found = false
    for (const { name, labels } of points.list()) {
      if (labels['auto'] !== 'undo') continue
      const device = points.open(name)
      found ||= kept?.equals(await readAll(device)) ?? false
      await device.close()
      await points.delete(name).catch(expected)
    }
    // One that could not begin keeps it when it does.
    if (kept && !found && local.state.phase === 'paired') throw new Wrong('what was done on the target was not kept (D14)')
  }

  async #verify(): Promise<void> {
    const found = await this.#node.mirrors.local.verify().catch(expected)
    if (found && found.length > 0) throw new Wrong(`verification finds differences: ${JSON.stringify(found)}`)
  }
}

/** Of the world that is simulated; anything else is a bug. */
function expected(error: unknown): undefined {
  if (error instanceof NbdeltaError) return undefined
  throw error
}

/** One seed. Never rejects. */
export async function simulate({ seed, steps, log }: SimOptions): Promise<SimResult> {
  const sim = await Sim.open(seed)
  let at = 0
  try {
    for (; at < steps; at++) {
      const name = await sim.step()
      log?.(`${at} ${name}`)
    }
    await sim.quiesce()
    return { wrong: undefined, counts: sim.counts }
  } catch (error) {
    const why = error instanceof Wrong ? error.message : error instanceof Error ? error.stack : String(error)
    return { wrong: `seed ${seed}, step ${at}: ${why}`, counts: sim.counts }
  }
}
