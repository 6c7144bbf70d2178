/**
 * A simulated site: a machine, and the process of nbdelta that runs on it now: shipped mirrors and secondaries over its store. A crash
 * ends the process, and a new one is there at once.
 */
import { wholeAt } from '../../src/daemon-mirrors.js'
import type { BlockDevice } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { silentLogger } from '../../src/device/logger.js'
import { ManualClock, type Random } from '../../src/device/testing.js'
import type { PeerLink } from '../../src/replication/link-target.js'
import { Mirrors } from '../../src/replication/mirrors.js'
import { Secondaries } from '../../src/replication/secondaries.js'
import { type Machine, type SimStore, type SimVolume } from './machine.js'
import { never, type Power } from './medium.js'
import type { Network } from './network.js'
import type { Ending } from './trouble.js'
import { type How, openLink, openWire, Served } from './wire.js'

const LATE_PER_MILLE = [0, 0, 10, 60] as const
const PEER = /^nbdelta:\/\/(\w)\/(\w)$/

/** What a process reaches beyond its machine. */
export interface World {
  readonly network: Network
  readonly random: Random
  site(name: string): Site
  /** An NBD export of somebody else. */
  far(from: Site, how: How): Promise<BlockDevice>
  /** Whenever a process has its volumes, and before it does anything. */
  opened(site: Site, process: Process): void
}

export class Process {
  readonly power: Power
  readonly clock: ManualClock
  readonly store: SimStore
  readonly mirrors: Mirrors
  readonly secondaries: Secondaries
  readonly exports = new Map<string, Served>()
  /** Volumes that have a client at this moment. */
  readonly attached = new Set<string>()
  /** Volumes that no client may attach to, and how often. */
  readonly #closed = new Map<string, number>()
  /** What was begun and goes on. */
  readonly running = new Set<Promise<void>>()
  /** Of those, what can be cancelled. */
  readonly aborts = new Set<AbortController>()
  /** Names of the mirrors that are being split together. */
  splitting: readonly string[] = []
  /** It is told to end, and lets nobody begin anything. */
  stopping: Promise<void> | undefined
  /** It has ended in good order. */
  isStopped = false
  #exposed = 0

  constructor(site: Site, world: World, store: SimStore, power: Power, clock: ManualClock) {
    this.store = store
    this.power = power
    this.clock = clock
    const alive = <T>(run: () => Promise<T>): Promise<T> => power.isDead ? never() : run()
    this.secondaries = new Secondaries({
      store, logger: silentLogger, clock, expose: volume => this.#expose(volume), places: () => [{ port: 1 }],
      whileUnattached: (name, work) => this.closedToNew(name, async () => {
        this.assertUnattached(name)
        return work()
      }),
      localMirror: uuid => this.mirrors.ofTarget(uuid)?.record.name,
    })
    this.mirrors = new Mirrors({
      store, clock, logger: silentLogger,
      connect: (uri, how) => alive(() => uri.startsWith('nbd:') ? world.far(site, how) : site.connect(uri, how)),
      link: uri => alive(() => site.link(uri)),
      above: uuid => this.secondaries.above(uuid), wholeAt: volume => wholeAt(this, volume),
    })
  }

  isClosed(name: string): boolean { return (this.#closed.get(name) ?? 0) > 0 }

  /** As the daemon has it. */
  async closedToNew<T>(name: string, work: () => Promise<T>): Promise<T> {
    const more = (by: number): void => { this.#closed.set(name, (this.#closed.get(name) ?? 0) + by) }
    more(1)
    try { return await work() } finally { more(-1) }
  }

  /** Errors: busy. */
  assertUnattached(name: string): void {
    if (this.attached.has(name)) throw new NbdeltaError('busy', `${name} has clients`)
  }

  /** As the daemon ends: mirrors bring what is on its way to their targets. Hosts have been answered by then. */
  stop(): void {
    this.stopping = this.mirrors.stop().then(() => { this.isStopped = true })
  }

  volume(name: string): SimVolume { return this.store.get(name)! }

  #expose(volume: BlockDevice): Served {
    const served = new Served(`.peer-${++this.#exposed}`, volume)
    this.exports.set(served.export, served)
    return served
  }
}

export class Site {
  readonly machine: Machine
  isPaused = false
  #process!: Process
  readonly #world: World
  readonly #late: number

  private constructor(machine: Machine, world: World) {
    this.machine = machine
    this.#world = world
    this.#late = LATE_PER_MILLE[world.random(LATE_PER_MILLE.length)]!
  }

  static async start(machine: Machine, world: World): Promise<Site> {
    const site = new Site(machine, world)
    await site.#boot()
    return site
  }

  get name(): string { return this.machine.name }
  get process(): Process { return this.#process }

  /** @param power true: it fails; false: only the process ends. What of it is on its way is on its way. */
  async crash(power: boolean): Promise<Ending> {
    const { network, random } = this.#world
    this.#process.power.isDead = true
    network.vanish(this, !power && random(2) === 0)
    const ending = power ? 'cut' : this.machine.trouble.isLost ? 'lost' : 'killed'
    if (power) this.machine.powerCut(random)
    await this.#boot()
    return ending
  }

  /** Behind the end of its process in good order. */
  async restart(): Promise<Ending> {
    this.#process.power.isDead = true
    this.#world.network.vanish(this, true)
    const { isLost } = this.machine.trouble
    await this.#boot()
    return isLost ? 'lost' : 'killed'
  }

  connect(uri: string, how: How): Promise<BlockDevice> {
    // What a link said of its exports: `exportUri` is a site's name and an export's.
    const [name, served] = uri.split('/') as [string, string]
    const there = this.#world.site(name)
    return openWire(this.#world.network, [this, there], how, () => there.process.exports.get(served))
  }

  async link(uri: string): Promise<PeerLink> {
    const [, name = '', volume = ''] = PEER.exec(uri)!
    const there = this.#world.site(name)
    const link = await openLink(this.#world.network, this, there, volume, hangUp => {
      if (there.process.stopping) throw new NbdeltaError('unreachable', 'the server is stopping')
      return there.process.secondaries.session(hangUp)
    })
    return { ...link, exportUri: (_places, served) => `${name}/${served}` }
  }

  async #boot(): Promise<void> {
    const clock = new ManualClock({ wallTime: new Date('2026-01-01T00:00:00Z') })
    const power: Power = { isDead: false, random: this.#world.random, latePerMille: this.#late }
    const process = this.#process = new Process(this, this.#world, await this.machine.open(power, clock), power, clock)
    this.#world.opened(this, process)
    process.secondaries.start()
    process.mirrors.start()
  }
}
