/**
 * One simulated life of mirrored volumes, deterministic by its seed: the shipped code of volumes, mirrors and secondaries, on machines
 * whose processes are killed and whose power fails, over a network that holds messages back, reorders, loses and repeats them and leaves
 * connections half open; with hosts that write on, and an operator who snapshots, restores, splits, resyncs, verifies, pauses, promotes.
 *
 * A step is one thing that happens: a message arrives, a connection breaks, a host writes, an operator begins something, a machine stands
 * still, a process dies. What was begun goes on with the messages that arrive in later steps, so that everything happens in the middle of
 * everything else. After each step every volume is looked at (place.ts, watch.ts), and what is pending (pending.ts); at quiescence
 * source and target are equal, and no points are left but the mirror's own (C7, C9). Half of the mirrors let changes cross as they come:
 * a host's request goes on over many steps where it waits for a target, and is answered in time whatever becomes of that (place.ts).
 */
import crypto from 'node:crypto'
import { syncBuiltinESMExports } from 'node:module'
import { NbdeltaError } from '../../src/device/errors.js'
import { type Random, seededRandom } from '../../src/device/testing.js'
import type { Mirror } from '../../src/replication/mirror.js'
import type { PointInfo } from '../../src/volume/snappoint.js'
import { FarDisk } from './far-disk.js'
import { snapshotOf } from './host.js'
import { type Image, imageOf } from './image.js'
import { Machine, type SimStore } from './machine.js'
import { Network } from './network.js'
import { judgePending } from './pending.js'
import { Place } from './place.js'
import { type Process, Site, type World } from './site.js'
import { type Frozen, frozenOf, Watch } from './watch.js'
import type { How } from './wire.js'
import { expected, turn, turns, Wrong } from './wrong.js'

/** Of 1,000 steps with something on its way so many are an arrival. */
const ARRIVALS_PER_MILLE = 500
/** So many steps apart what is pending is looked at. */
const PENDING_EVERY = 4
/** Turns in which nothing arrives until an end looks whether the other is there still. */
const PATIENCE = 50
/** What one process has begun and not ended. */
const BEGUN_MAX = 2
const IMAGE_NAME = /-image(\.\d+)?$/

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
const KINDS = [['volume', 'far'], ['peer'], ['peer'], ['peer', 'far']] as const

const MODES = ['periodic', 'periodic', 'async', 'sync'] as const

class Life implements World {
  readonly counts: Record<string, number> = {}
  readonly random: Random
  readonly network: Network
  readonly #far: FarDisk
  readonly #sites: Site[] = []
  readonly #places: Place[] = []
  readonly #watches = new Map<string, Watch>()
  /** Snapshots that hosts have begun to take, by where and name; and those that were found again, by uuid. */
  readonly #taken = new Map<string, Frozen>()
  readonly #snapshots = new Map<string, Frozen>()
  /** The site whose volume is the one that counts. */
  #primary!: Site
  #mirrors = 0
  #steps = 0
  #failure: unknown
  readonly #table: readonly (readonly [weight: number, name: string, run: () => Promise<void> | void])[]
  readonly #weights: number

  private constructor(seed: number) {
    this.random = seededRandom(seed)
    this.network = new Network(this.random)
    this.#far = new FarDisk(this.network, this.random)
    this.#table = [
      [60, 'write', () => this.#host(place => place.hosts.write(place.volume))],
      [10, 'trim', () => this.#host(place => place.hosts.trim(place.volume))],
      [12, 'flush', () => this.#host(place => place.hosts.flush(place.volume))],
      [4, 'snapshot', () => this.#host(place => place.hosts.snapshot(place.volume))],
      [3, 'restore', () => this.#host(place => place.hosts.restore(place.volume))],
      [4, 'delete', () => this.#host(place => place.hosts.delete(place.volume, image => place.isKept(image)))],
      [12, 'sync', () => this.#mirror(mirror => mirror.sync())], [3, 'tick', () => this.#tick()],
      [3, 'pause', () => this.#mirror(mirror => mirror.state.paused ? mirror.resume() : mirror.pause())],
      [3, 'split', () => this.#mirror(mirror => mirror.split({ atOnce: this.random(2) === 0 }))],
      [5, 'resync', () => this.#mirror(mirror => this.#resync(mirror))],
      [5, 'group', () => { this.#group() }],
      [1, 'verify', () => this.#mirror(mirror => this.#verify(mirror))],
      [2, 'promote', () => this.#promote()], [6, 'repair', () => this.#repair()],
      [4, 'cut', () => { this.network.cut() }], [6, 'notice', () => { this.network.notice() }],
      [2, 'network', () => { this.network.isDown = true }],
      [3, 'stand still', () => { this.#some(this.#sites).isPaused = true }],
      [16, 'mend', () => { this.#mend() }],
      [2, 'kill', () => this.#crash(false)], [2, 'power', () => this.#crash(true)],
    ]
    this.#weights = this.#table.reduce((sum, [weight]) => sum + weight, 0)
  }

  static async begin(seed: number): Promise<Life> {
    const life = new Life(seed)
    const kinds: readonly string[] = KINDS[seed % KINDS.length]!
    const names = kinds.includes('peer') ? ['a', 'b'] : ['a']
    for (const name of names) {
      const volumes = kinds.includes('volume') ? ['v', 'w'] : ['v']
      life.#sites.push(await Site.start(await Machine.fresh(name, volumes), life))
      for (const volume of volumes) life.#places.push(new Place(life.site(name), volume, life.random, uuid => life.#watchOf(uuid)))
    }
    life.#primary = life.#sites[0]!
    for (const kind of kinds) {
      const target = kind === 'volume' ? 'w' : kind === 'peer' ? 'nbdelta://b/v' : 'nbd://far'
      await life.#pumped(life.#create(life.#primary.process, target))
    }
    return life
  }

  site(name: string): Site { return this.#sites.find(site => site.name === name)! }
  far(from: Site, how: How): ReturnType<FarDisk['connect']> { return this.#far.connect(from, how) }

  /** Whatever a mirror freezes is looked at before the mirror goes on. */
  opened(site: Site, { store }: Process): void {
    this.#openedTogether(site, store)
    for (const volume of store.list()) {
      const { points } = volume
      const create = points.create.bind(points)
      points.create = async options => {
        const mirror = options.labels?.['mirror']
        if (options.labels?.['origin'] !== undefined) return create(options)
        const { hosts } = this.#places.find(place => place.site === site && place.name === volume.name)!
        const from = hosts.now
        if (mirror === undefined) {
          if (!options.labels) this.#taken.set(`${site.name}/${volume.name}/${options.name}`, frozenOf(hosts.image, hosts.views, from, 0))
          return create(options)
        }
        // Of a point among a stream there is no image: it is what the volume holds at its instant.
        let found: Promise<Image> | undefined
        const { atInstant } = options
        const info = await create(options.kind !== 'bookmark' || !atInstant ? options : { ...options, atInstant: () => {
          found = imageOf(volume)
          atInstant()
        } })
        try {
          if (options.kind === 'bookmark') this.#watchOf(mirror).marked(info.uuid)
          if (found) this.#watchOf(mirror).froze(await found, hosts.views, from, info.seq)
          else if (IMAGE_NAME.test(info.name)) {
            const device = points.open(info.name)
            const image = await imageOf(device)
            await device.close()
            this.#watchOf(mirror).froze(image, hosts.views, from, info.seq)
          }
        } catch (error) { this.#failure ??= error }
        return info
      }
    }
  }

  /** Mirrors of one source share the image; each has a bookmark of that instant. */
  #openedTogether(site: Site, store: SimStore): void {
    const freeze = store.createPointsTogether
    store.createPointsTogether = async wanted => {
      const { volume: name, labels } = wanted[0]!
      const { hosts, volume: { points } } = this.#place(site, name)
      const from = hosts.now
      const made = await freeze(wanted)
      try {
        const device = points.open(made[0]!.point.name)
        const image = await imageOf(device)
        await device.close()
        const bookmarks = points.list().filter(({ kind }) => kind === 'bookmark')
        const first = bookmarks.findLast(point => point.labels['mirror'] === labels?.['mirror'])
        for (const point of bookmarks) {
          if (point.labels['instant'] !== first?.labels['instant']) continue
          const watch = this.#watchOf(point.labels['mirror']!)
          watch.marked(point.uuid)
          watch.froze(image, hosts.views, from, made[0]!.point.seq)
        }
      } catch (error) { this.#failure ??= error }
      return made
    }
  }

  /** Throws Wrong. */
  async step(): Promise<string> {
    const arrives = this.network.isBusy && this.random(1000) < ARRIVALS_PER_MILLE
    let roll = arrives ? 0 : this.random(this.#weights)
    const [, name, run] = arrives ? [0, 'arrival', () => { this.network.deliver() }] as const
      : this.#table.find(([weight]) => (roll -= weight) < 0)!
    this.#count(name)
    await run()
    await turn()
    await this.#check()
    return name
  }

  /** All is well again: everything arrives, and nothing is left over. */
  async quiesce(): Promise<void> {
    Object.assign(this.network, { isDown: false })
    for (const site of this.#sites) site.isPaused = false
    for (let left = 100; left > 0 && !await this.#settled(); left--);
    await this.#check()
    const { process } = this.#primary
    const source = this.#place(this.#primary, 'v')
    await source.volume.inheriting?.finished
    for (const mirror of process.mirrors.list()) {
      const { record: { name, uuid }, state } = mirror
      const { decisions } = mirror.status()
      if (decisions.some(({ rule }) => rule === 'restore-by-reference')) this.#count('recalled')
      if (decisions.some(({ rule, outcome }) => rule === 'snapshot' && /among the changes/.test(outcome))) this.#count('amid')
      const target = await this.#targetOf(mirror)
      if (target !== source.hosts.image) throw new Wrong(`the target of ${name} is not what the source is: ${mirror.status().problem}`)
      const left = source.volume.points.list().filter(({ labels }) => labels['mirror'] === uuid)
      if (left.length !== 1 || left[0]!.uuid !== state.base?.point) {
        throw new Wrong(`points are left of ${name}: ${left.map(point => point.name).join(', ')}`)
      }
    }
    for (const place of this.#places) {
      if (place.owner === undefined) continue
      const listed = (): PointInfo[] => place.volume.points.list().filter(({ labels }) => labels['mirror'] === place.owner)
      // Whoever compares an older point lets go of it when the end of its connection has arrived.
      const isTidy = (): boolean => listed().filter(({ labels }) => labels['snapshot'] === undefined).length === 1
      for (let left = 100; left > 0 && !isTidy(); left--) await this.#pumped(turns(2 * PATIENCE))
      const own = listed()
      const copies = own.filter(({ labels }) => labels['snapshot'] !== undefined)
      if (own.length - copies.length !== 1) throw new Wrong(`${own.length - copies.length} points are left on a target`)
      await this.#judgeCopies(place, copies)
    }
  }

  /** What a target has of the source's snapshots is what hosts had then (C20, D3). */
  async #judgeCopies({ volume, owner }: Place, copies: readonly PointInfo[]): Promise<void> {
    const mirror = this.#primary.process.mirrors.list().find(({ record }) => record.uuid === owner)
    if (mirror && copies.length > mirror.state.keepSnapshots) throw new Wrong(`${copies.length} copies of snapshots are left on a target`)
    for (const { name, labels } of copies) {
      const wanted = this.#snapshotOf(labels['snapshot']!)?.image
      if (wanted !== undefined && await snapshotOf(volume, name) !== wanted) throw new Wrong(`copy ${name} is not what the snapshot was`)
      this.#count('copies')
    }
  }

  /** One that hosts have taken; after a crash it may be there although nobody was answered. */
  #snapshotOf(uuid: string): Frozen | undefined {
    for (const { site, name, volume } of this.#places) {
      const point = volume.points.list().find(one => one.uuid === uuid)
      const taken = point && this.#taken.get(`${site.name}/${name}/${point.name}`)
      if (taken) this.#snapshots.set(uuid, { ...taken, seq: point.seq })
    }
    return this.#snapshots.get(uuid)
  }

  /** One more round of bringing everything together; true: nothing was left to do. */
  async #settled(): Promise<boolean> {
    for (const { process } of this.#sites) await this.#pumped(Promise.all(process.running))
    for (const { waiting } of this.#places) await this.#pumped(Promise.resolve(waiting))
    for (const site of this.#sites) {
      const state = site.process.secondaries.of(site.process.volume('v').uuid)
      if (site === this.#primary || !state || state.epoch === 1) continue
      // A promotion of which nobody was told that it was done.
      if (state.phase === 'secondary') await site.process.secondaries.promote('v')
      this.#primary = site
    }
    const { process } = this.#primary
    // What a volume was let go at its hosts see before the next mirror freezes it.
    for (const place of this.#places) await place.look()
    if (this.#sites.length > 1 && !this.#peerMirror()) {
      this.#repair()
      await this.#pumped(Promise.all(process.running))
      return false
    }
    const all = []
    for (const mirror of process.mirrors.list()) all.push(await this.#pumped(this.#brought(mirror)))
    return all.every(done => done)
  }

  /** Whether the target has what the source has; otherwise what an operator does about it is done. */
  async #brought(mirror: Mirror): Promise<boolean> {
    try {
      if (mirror.state.paused) await mirror.resume()
      if (mirror.state.phase === 'split') await mirror.beginResync({ whole: false })
      await mirror.sync()
      return true
    } catch (error) {
      expected(error)
      // Half-open connections are found out by and by.
      this.network.notice()
      const isReleased = error instanceof NbdeltaError && error.message.includes('was released')
      if (isReleased && mirror.state.phase === 'paired') await mirror.split({ atOnce: true }).catch(expected)
      return false
    }
  }

  async #pumped<T>(work: Promise<T>): Promise<T> {
    let over = false
    const done = (): void => { over = true }
    work.then(done, done)
    for (let idle = 0; !over; idle++) {
      if (this.network.deliver()) idle = 0
      else if (idle > PATIENCE) this.network.notice()
      if (idle > 5000) throw new Wrong('something never ends')
      await turn()
    }
    return work
  }

  async #check(): Promise<void> {
    if (this.#failure) throw this.#failure
    if (this.network.bug) throw this.network.bug
    for (const place of this.#places) await place.look()
    if (this.#steps++ % PENDING_EVERY > 0) return
    for (const place of this.#places) {
      for (const mirror of place.site.process.mirrors.ofSource(place.volume.uuid)) {
        const { decisions, stream } = mirror.status()
        if (decisions.some(({ rule }) => rule === 'root-mismatch')) throw new Wrong('a target is taken to be wrong that is not (X14)')
        if (stream && mirror.state.base?.root != null && mirror.state.cycle > 1) this.#count('rooted')
        // What a stream had sent, and a crash of the source then lost, is found by the first cycle of the next process.
        if (mirror.state.mode !== 'periodic' && mirror.status().last === null) continue
        const target = mirror.state.phase === 'paired' ? await this.#targetOf(mirror) : undefined
        if (target !== undefined) await judgePending(mirror, place.volume, target)
      }
    }
  }

  /** What the target of a mirror holds by itself, cycles that run included; undefined: it has no target any more. */
  async #targetOf({ record: { uuid }, state: { target } }: Mirror): Promise<string | undefined> {
    if (target.kind === 'nbd') return this.#far.image()
    const place = this.#places.find(one => one.owner === uuid)
    return place && imageOf(place.volume)
  }

  async #host(run: (place: Place) => Promise<void>): Promise<void> {
    const own = this.#place(this.#primary, 'v')
    const place = this.random(4) > 0 ? own : this.#some(this.#places)
    if (!place.isFree || place.site.isPaused || place.waiting) return
    await place.look()
    const before = this.#inStep(place)
    await place.ask(async () => {
      await run(place)
      for (const watch of this.#inStep(place)) if (before.includes(watch)) watch.answered(place.hosts.views.length - 1)
    }, error => { this.#failure ??= error })
  }

  /** Of the mirrors that let the hosts of the place wait. */
  #inStep({ site: { process }, volume }: Place): Watch[] {
    const waiting = process.mirrors.ofSource(volume.uuid).filter(mirror => mirror.state.mode === 'sync' && mirror.status().stream?.inStep)
    return waiting.map(mirror => this.#watchOf(mirror.record.uuid))
  }

  /** Something is asked of some mirror, and goes on while other steps are made. */
  #mirror(ask: (mirror: Mirror) => Promise<unknown>): void {
    const { process, isPaused } = this.#some(this.#sites)
    const mirrors = process.mirrors.list()
    if (mirrors.length > 0 && !isPaused && process.splitting.length === 0) this.#begin(process, () => ask(this.#some(mirrors)))
  }

  /** All mirrors of a process as one, which nothing else of it is done meanwhile. */
  #group(): void {
    const { process, isPaused } = this.#some(this.#sites)
    const names = process.mirrors.list().map(({ record }) => record.name)
    if (names.length < 2 || isPaused || process.running.size > 0) return
    const group = process.mirrors.together(names)
    const what = this.#some(['sync', 'split', 'split at once', 'resync'])
    this.#begin(process, async () => {
      if (what === 'sync') return group.sync()
      if (what === 'resync') return group.beginResync({ whole: false })
      if (group.mirrors.some(({ state }) => state.phase === 'split')) return
      process.splitting = names
      try {
        if (await group.split({ atOnce: what === 'split at once' })) this.#count('split together')
        judgeTogether(group.mirrors)
      } finally { process.splitting = [] }
    })
  }

  #begin({ running }: Process, ask: () => Promise<unknown>): void {
    if (running.size >= BEGUN_MAX) return
    const work = (async () => { await ask() })().catch(expected).catch((error: unknown) => { this.#failure ??= error })
      .finally(() => { running.delete(work) })
    running.add(work)
  }

  async #resync(mirror: Mirror): Promise<void> {
    const whole = this.random(4) === 0
    if (mirror.state.phase !== 'split' && !whole) return
    await mirror.beginResync({ whole })
    await mirror.sync()
  }

  async #verify(mirror: Mirror): Promise<void> {
    const found = await mirror.verify()
    if (found.length > 0) throw new Wrong(`verification finds differences: ${JSON.stringify(found)}`)
  }

  #promote(): void {
    const site = this.#some(this.#sites)
    const { process } = site
    const place = this.#place(site, 'v')
    const state = process.secondaries.of(place.volume.uuid)
    if (!state || site.isPaused) return
    this.#begin(process, async () => {
      const epoch = await process.secondaries.promote('v')
      place.promoted(state.mirror, epoch)
      this.#primary = site
      this.#count('promoted')
    })
  }

  #peerMirror(): Mirror | undefined {
    return this.#primary.process.mirrors.list().find(({ state }) => state.target.kind === 'peer')
  }

  /** What an operator does to have two sites mirrored again, one thing at a time. */
  #repair(): void {
    const other = this.#sites.find(site => site !== this.#primary)
    if (!other || this.#peerMirror()) return
    const [here, there] = [this.#primary.process, other.process]
    const ours = here.secondaries.of(here.volume('v').uuid)
    const theirs = there.secondaries.of(there.volume('v').uuid)
    const [old] = there.mirrors.list()
    if (this.#primary.isPaused || here.running.size > 0) return
    if (ours) {
      this.#place(this.#primary, 'v').forgotten()
      return this.#begin(here, () => here.secondaries.forget('v'))
    }
    if (other.isPaused || there.running.size > 0) return
    if (old) return this.#begin(there, () => there.mirrors.delete(old.record.name))
    if (theirs?.phase === 'secondary' && there.secondaries.declaredPoint(there.volume('v').uuid)) {
      return this.#begin(there, () => there.secondaries.promote('v'))
    }
    if (theirs) {
      this.#place(other, 'v').forgotten()
      return this.#begin(there, () => there.secondaries.forget('v'))
    }
    this.#begin(here, () => this.#create(here, `nbdelta://${other.name}/v`))
  }

  async #create({ mirrors }: Process, target: string): Promise<void> {
    const mode = this.#some(MODES)
    const keepSnapshots = !target.startsWith('nbd:') ? this.#some([0, 1, 3]) : 0
    await mirrors.create({
      name: `m${++this.#mirrors}`, volume: 'v', target, mode, keepSnapshots, intervalSeconds: 60, lagBytes: null, bytesPerSecond: null,
      overwrite: this.#mirrors > 2 || this.random(2) === 0, ...target.startsWith('nbdelta:') && { secretFile: '/secret' },
    })
    this.#count('created')
  }

  async #tick(): Promise<void> {
    const { process, isPaused } = this.#some(this.#sites)
    if (!isPaused) await process.clock.advance(1000 * this.#some([1, 20, 61]))
  }

  async #crash(power: boolean): Promise<void> {
    if (this.random(this.#sites.length + 1) === 0) return power ? this.#far.powerCut() : undefined
    const site = this.#some(this.#sites)
    site.isPaused = false
    const { splitting } = site.process
    await site.crash(power)
    judgeTogether(splitting.map(name => site.process.mirrors.get(name)))
    for (const place of this.#places) if (place.site === site) await place.reopened(power)
  }

  /** The network is there again, or somebody wakes up and goes on with what he believed. */
  #mend(): void {
    const asleep = this.#sites.filter(site => site.isPaused)
    if (asleep.length > 0 && this.random(2) === 0) this.#some(asleep).isPaused = false
    else this.network.isDown = false
  }

  #place(site: Site, name: string): Place { return this.#places.find(place => place.site === site && place.name === name)! }

  #watchOf(mirror: string): Watch {
    const watch = this.#watches.get(mirror) ?? new Watch(uuid => this.#snapshotOf(uuid))
    this.#watches.set(mirror, watch)
    return watch
  }

  #some<T>(all: readonly T[]): T { return all[this.random(all.length)]! }
  #count(what: string): void { this.counts[what] = (this.counts[what] ?? 0) + 1 }

  /** What the watches have seen. */
  get seen(): Record<'cycles' | 'received' | 'kept', number> {
    const sum = { cycles: 0, received: 0, kept: 0 }
    for (const { cycles, received, kept } of this.#watches.values()) {
      sum.cycles += cycles
      sum.received += received
      sum.kept += kept
    }
    return sum
  }
}

/** Behind a split of all of them that ended somehow (D2, D3). */
function judgeTogether(mirrors: readonly Mirror[]): void {
  const phases = mirrors.map(({ state }) => state.phase)
  if (new Set(phases.map(phase => phase === 'split')).size > 1) throw new Wrong(`a group is neither split nor together: ${phases.join(', ')} (D2, D3)`)
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
  const all = (): Record<string, number> => ({ steps: at, ...life?.counts, ...life?.network.counts, ...life?.seen })
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
