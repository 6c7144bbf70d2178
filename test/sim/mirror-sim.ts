/**
 * One simulated life of mirrored volumes, deterministic by its seed: the shipped code of volumes, mirrors and secondaries, on machines
 * whose processes are killed and whose power fails, over a network that holds messages back, reorders, loses and repeats them and leaves
 * connections half open; with hosts that write on, on either side of what is split, and an operator who snapshots, restores, splits,
 * resyncs, reverses (reverse.ts), verifies, pauses, promotes, cancels any of that, deletes mirrors and makes others of the same name,
 * gives volumes budgets that are too small, makes mirrors anew with other settings, clones any snapshot (clones.ts), stops servers in
 * good order, and in some lives gives volumes other sizes, or has disks that fail or are full for a while (trouble.ts).
 *
 * A step is one thing that happens: a message arrives, a connection breaks, a host writes, an operator begins something, a machine stands
 * still, a process dies. What was begun goes on with the messages that arrive in later steps, so that everything happens in the middle of
 * everything else. After each step every volume is looked at (place.ts, watch.ts), and what is pending (pending.ts); at quiescence
 * source and target are equal, and no points are left but the mirror's own (C7, C9). Half of the mirrors let changes cross as they come:
 * a host's request goes on over many steps where it waits for a target, and is answered in time whatever becomes of that (place.ts).
 */
import crypto from 'node:crypto'
import { syncBuiltinESMExports } from 'node:module'
import { type Random, seededRandom } from '../../src/device/testing.js'
import { Machine } from './machine.js'
import { Operator } from './operator.js'
import { judgePending } from './pending.js'
import { Place } from './place.js'
import { Quiescence } from './quiescence.js'
import { Scene } from './scene.js'
import { Site } from './site.js'
import type { Watch } from './watch.js'
import { turn, Wrong } from './wrong.js'

/** Of 1,000 steps with something on its way so many are an arrival. */
const ARRIVALS_PER_MILLE = 500
/** So many steps apart what is pending is looked at. */
const PENDING_EVERY = 4

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

/** Where the targets of a life are. */
const KINDS = [['volume', 'far'], ['peer'], ['peer'], ['peer', 'far'], ['volume', 'peer', 'far']] as const

/** One of so many lives is about going apart and coming back: what is done in it more often than elsewhere, or less. */
const RETURNS_EVERY = 3
const RETURNING: Readonly<Record<string, number>> = { split: 14, reverse: 30, resync: 4, group: 1, promote: 0, pause: 1, network: 1 }
/** In one of so many disks refuse something now and then. */
const TROUBLES_EVERY = 3
/** In one of so many volumes are resized. */
const RESIZES_EVERY = 3
/** In one of so many there are clones, and mirrors are made anew. */
const CLONES_EVERY = 3
const CLONING: Readonly<Record<string, number>> = { 'remake': 1, 'clone': 3, 'promote clone': 1, 'delete clone': 2 }
const TROUBLED: Readonly<Record<string, number>> = { trouble: 3, cure: 20 }

class Life {
  readonly scene: Scene
  readonly #operator: Operator
  #steps = 0
  readonly #table: readonly (readonly [weight: number, name: string, run: () => Promise<void> | void])[]
  readonly #weights: number

  private constructor(seed: number) {
    const scene = this.scene = new Scene(seed)
    const operator = this.#operator = new Operator(scene)
    const { network, random } = scene
    this.#table = [
      [60, 'write', () => this.#host(place => place.hosts.write(place.volume))],
      [10, 'trim', () => this.#host(place => place.hosts.trim(place.volume))],
      [12, 'flush', () => this.#host(place => place.hosts.flush(place.volume))],
      [4, 'snapshot', () => this.#host(place => place.hosts.snapshot(place.volume))],
      [3, 'restore', () => this.#host(place => place.hosts.restore(place.volume))],
      [4, 'delete', () => this.#host(place => place.hosts.delete(place.volume, image => place.isKept(image)))],
      [12, 'sync', () => operator.cancellable((mirror, signal) => mirror.sync({ signal }))], [5, 'tick', () => this.#tick()],
      [3, 'pause', () => operator.mirror(mirror => mirror.state.paused ? mirror.resume() : mirror.pause())],
      [3, 'split', () => operator.cancellable((mirror, signal) => mirror.split({ atOnce: random(2) === 0, signal }))],
      [5, 'resync', () => operator.cancellable((mirror, signal) => operator.resync(mirror, signal))],
      [5, 'group', () => { operator.group() }], [7, 'reverse', () => { operator.reverse() }], [3, 'cancel', () => operator.cancel()],
      [5, 'write far', () => operator.writeFar()],
      [2, 'verify', () => operator.cancellable((mirror, signal) => operator.verify(mirror, signal))],
      [1, 'verify there', () => { operator.verifyReplica() }], [1, 'delete mirror', () => { operator.delete() }],
      [0, 'remake', () => { operator.remake() }],
      [0, 'clone', () => { operator.clones.create() }], [0, 'promote clone', () => { operator.clones.promote() }],
      [0, 'delete clone', () => { operator.clones.delete() }],
      [2, 'budget', () => { operator.budget() }],
      [2, 'promote', () => operator.promote()], [6, 'repair', () => operator.repair()],
      [4, 'cut', () => { network.cut() }], [6, 'notice', () => { network.notice() }],
      [2, 'network', () => { network.isDown = true }],
      [3, 'stand still', () => { scene.some(scene.sites).isPaused = true }],
      [16, 'mend', () => { this.#mend() }],
      [0, 'resize', () => this.#host(({ hosts, volume, name, site: { process } }) =>
        hosts.resize(volume, sizeBytes => process.store.resizeVolume(name, sizeBytes)))],
      [0, 'trouble', () => { operator.trouble() }], [0, 'cure', () => operator.cure()],
      [2, 'stop', () => { operator.stop() }], [2, 'kill', () => this.#crash(false)], [2, 'power', () => this.#crash(true)],
    ]
    if (Math.floor(seed / KINDS.length) % RETURNS_EVERY === 0) {
      this.#table = this.#table.map(([weight, name, run]) => [RETURNING[name] ?? weight, name, run])
    }
    if (Math.floor(seed / KINDS.length / RETURNS_EVERY) % CLONES_EVERY === 0) {
      this.#table = this.#table.map(([weight, name, run]) => [CLONING[name] ?? weight, name, run])
    }
    if (seed % TROUBLES_EVERY === 0) this.#table = this.#table.map(([weight, name, run]) => [TROUBLED[name] ?? weight, name, run])
    if (seed % RESIZES_EVERY === 1) this.#table = this.#table.map(([weight, name, run]) => [name === 'resize' ? 3 : weight, name, run])
    this.#weights = this.#table.reduce((sum, [weight]) => sum + weight, 0)
  }

  static async begin(seed: number): Promise<Life> {
    const life = new Life(seed)
    const { scene } = life
    const kinds = scene.kinds = KINDS[seed % KINDS.length]!
    const names = scene.kinds.includes('peer') ? ['a', 'b'] : ['a']
    for (const name of names) {
      const volumes = scene.kinds.includes('volume') ? ['v', 'w'] : ['v']
      scene.sites.push(await Site.start(await Machine.fresh(name, volumes, scene.random), scene))
      for (const volume of volumes) scene.places.push(new Place(scene.site(name), volume, scene.random, uuid => scene.watchOf(uuid)))
    }
    scene.primary = scene.sites[0]!
    for (const kind of kinds) {
      const target = kind === 'volume' ? 'w' : kind === 'peer' ? 'nbdelta://b/v' : 'nbd://far'
      await scene.pumped(life.#operator.create(scene.primary.process, target))
    }
    return life
  }

  /** Throws Wrong. */
  async step(): Promise<string> {
    const arrives = this.scene.network.isBusy && this.scene.random(1000) < ARRIVALS_PER_MILLE
    let roll = arrives ? 0 : this.scene.random(this.#weights)
    const [, name, run] = arrives ? [0, 'arrival', () => { this.scene.network.deliver() }] as const
      : this.#table.find(([weight]) => (roll -= weight) < 0)!
    this.scene.count(name)
    await run()
    await turn()
    await this.#check()
    return name
  }

  /** All is well again: everything arrives, and nothing is left over. */
  async quiesce(): Promise<void> {
    const quiescence = new Quiescence(this.scene, this.#operator)
    await quiescence.reach()
    await this.#check()
    await quiescence.judge()
  }

  async #check(): Promise<void> {
    if (this.scene.failure) throw this.scene.failure
    if (this.scene.network.bug) throw this.scene.network.bug
    await this.#operator.startAgain()
    for (const place of this.scene.places) await place.look()
    if (this.#steps++ % PENDING_EVERY > 0) return
    for (const place of this.scene.places) {
      for (const mirror of place.site.process.mirrors.ofSource(place.volume.uuid)) {
        const { decisions, stream } = mirror.status()
        if (decisions.some(({ rule }) => rule === 'root-mismatch')) throw new Wrong('a target is taken to be wrong that is not (X14)')
        if (stream && mirror.state.base?.root != null && mirror.state.cycle > 1) this.scene.count('rooted')
        // What a stream had sent, and a crash of the source then lost, is found by the first cycle of the next process; what the source's
        // disk then refused, by the next one.
        const isInVain = place.site.machine.trouble.hasBegun && mirror.status().problem !== null
        if (mirror.state.mode !== 'periodic' && (mirror.status().last === null || isInVain)) continue
        const target = mirror.state.phase === 'paired' ? await this.scene.targetOf(mirror) : undefined
        if (target !== undefined) await judgePending(mirror, place.volume, target)
      }
    }
  }

  async #host(run: (place: Place) => Promise<void>): Promise<void> {
    const own = this.scene.place(this.scene.primary, 'v')
    const place = this.scene.random(4) > 0 ? own : this.scene.some(this.scene.places)
    if (!place.isFree || place.site.isPaused || place.waiting) return
    await place.look()
    const before = this.#inStep(place)
    await place.ask(async () => {
      await run(place)
      for (const watch of this.#inStep(place)) if (before.includes(watch)) watch.answered(place.hosts.views.length - 1)
    }, error => { this.scene.failed(error) })
  }

  /** Of the mirrors that let the hosts of the place wait. */
  #inStep({ site: { process }, volume }: Place): Watch[] {
    const waiting = process.mirrors.ofSource(volume.uuid).filter(mirror => mirror.state.mode === 'sync' && mirror.status().stream?.inStep)
    return waiting.map(mirror => this.scene.watchOf(mirror.record.uuid))
  }

  async #tick(): Promise<void> {
    const { process, isPaused } = this.scene.some(this.scene.sites)
    if (!isPaused) await process.clock.advance(1000 * this.scene.some([1, 20, 61]))
  }

  async #crash(power: boolean): Promise<void> {
    if (this.scene.random(this.scene.sites.length + 1) === 0) return power ? this.#farPower() : undefined
    await this.#operator.crash(this.scene.some(this.scene.sites), power)
  }

  async #farPower(): Promise<void> {
    this.scene.disk.powerCut()
    for (const one of this.scene.reversals) await one.lookedAt()
  }

  /** The network is there again, or somebody wakes up and goes on with what he believed. */
  #mend(): void {
    const asleep = this.scene.sites.filter(site => site.isPaused)
    if (asleep.length > 0 && this.scene.random(2) === 0) this.scene.some(asleep).isPaused = false
    else this.scene.network.isDown = false
  }
}

/** Groups take their members in the order of uuids. */
function seedUuids(random: Random): void {
  crypto.randomUUID = () => {
    const hex = (digits: number): string => Array.from({ length: digits }, () => random(16).toString(16)).join('')
    return `${hex(8)}-${hex(4)}-4${hex(3)}-8${hex(3)}-${hex(12)}`
  }
  syncBuiltinESMExports()
}

/** One seed. Never rejects. The process is the simulation's: its uuids are seeded as well. */
export async function simulate({ seed, steps, log }: SimOptions): Promise<SimResult> {
  let at = 0
  let life: Life | undefined
  seedUuids(seededRandom(seed))
  const all = (): Record<string, number> => ({ steps: at, ...life?.scene.counts, ...life?.scene.network.counts, ...life?.scene.seen })
  try {
    life = await Life.begin(seed)
    for (; at < steps; at++) {
      const name = await life.step()
      log?.(`${at} ${name}`)
    }
    await life.quiesce()
    return { wrong: undefined, counts: all() }
  } catch (error) {
    const why = error instanceof Wrong ? error.message : error instanceof Error ? error.stack : String(error)
    return { wrong: `seed ${seed}, step ${at}: ${why}`, counts: all() }
  }
}
