/**
 * Operator: what is asked of mirrors and secondaries in a simulated life. What was begun goes on by itself with what arrives; of one
 * process no more than BEGUN_MAX of it at a time.
 */
import { NbdeltaError } from '../../src/device/errors.js'
import type { Mirror } from '../../src/replication/mirror.js'
import { Clones } from './clones.js'
import { GRAIN } from './image.js'
import { Reverse } from './reverse.js'
import type { Scene } from './scene.js'
import type { Process, Site } from './site.js'
import type { Ending } from './trouble.js'
import { expected, Wrong } from './wrong.js'

/** What one process has begun and not ended. */
const BEGUN_MAX = 2

/** Grains that the points of a volume may keep. */
const BUDGETS = [null, 0, 1, 2, 3, 5, 8] as const
const ORDERS = ['drop-undo-then-fail', 'drop-undo-then-fail', 'fail'] as const

const MODES = ['periodic', 'periodic', 'async', 'sync'] as const
/** Of cycles, a second: a cycle waits for the clock between two of its pieces. */
const RATES = [null, null, null, null, null, null, 2 * GRAIN, 16 * GRAIN] as const
/** Mirrors that are made anew have the names of others that are gone, and both sites some of the same. */
const NAMES = ['m1', 'm2', 'm3', 'm4', 'm5', 'm6'] as const

export class Operator {
  readonly #scene: Scene
  #mirrors = 0
  /** Mirrors that were to be deleted, by uuid. */
  readonly #ended = new Set<string>()

  readonly clones: Clones

  constructor(scene: Scene) {
    this.#scene = scene
    this.clones = new Clones(scene, this)
  }

  /** Something is asked of some mirror, and goes on while other steps are made. */
  mirror(ask: (mirror: Mirror, process: Process) => Promise<unknown>): void {
    const { process, isPaused } = this.#scene.some(this.#scene.sites)
    const mirrors = process.mirrors.list()
    if (mirrors.length === 0 || isPaused || process.splitting.length > 0) return
    this.begin(process, () => ask(this.#scene.some(mirrors), process))
  }

  /** One of `mirror` that may be cancelled. */
  cancellable(ask: (mirror: Mirror, signal: AbortSignal) => Promise<unknown>): void {
    this.mirror((mirror, process) => this.#cancellable(process, signal => ask(mirror, signal)))
  }

  async #cancellable({ aborts }: Process, ask: (signal: AbortSignal) => Promise<unknown>): Promise<void> {
    const abort = new AbortController()
    aborts.add(abort)
    try { await ask(abort.signal) } finally { aborts.delete(abort) }
  }

  /** All mirrors of a process as one, which nothing else of it is done meanwhile. */
  group(): void {
    const { process, isPaused } = this.#scene.some(this.#scene.sites)
    const names = process.mirrors.list().map(({ record }) => record.name)
    if (names.length < 2 || isPaused || process.running.size > 0) return
    const group = process.mirrors.together(names)
    const what = this.#scene.some(['sync', 'split', 'split at once', 'resync'])
    this.begin(process, () => this.#cancellable(process, async signal => {
      if (what === 'sync') return group.sync({ signal })
      if (what === 'resync') return group.beginResync({ whole: false })
      if (group.mirrors.some(({ state }) => state.phase === 'split')) return
      process.splitting = names
      try {
        if (await group.split({ atOnce: what === 'split at once', signal })) this.#scene.count('split together')
        judgeTogether(group.mirrors)
      } finally { process.splitting = [] }
    }))
  }

  /** Goes on while other steps are made; not at all, if too much does. */
  begin({ running, stopping }: Process, ask: () => Promise<unknown>): void {
    if (running.size >= BEGUN_MAX || stopping) return
    const work = (async () => { await ask() })().catch(expected).catch((error: unknown) => { this.#scene.failed(error) })
      .finally(() => { running.delete(work) })
    running.add(work)
  }

  async resync(mirror: Mirror, signal: AbortSignal): Promise<void> {
    const whole = this.#scene.random(4) === 0
    if (mirror.state.phase !== 'split' && !whole) return
    await mirror.beginResync({ whole })
    await mirror.sync({ signal })
  }

  async verify(mirror: Mirror, signal: AbortSignal): Promise<void> {
    const found = await mirror.verify({ signal })
    if (found.length > 0) throw new Wrong(`verification finds differences: ${JSON.stringify(found)}`)
    this.#scene.count('verified')
  }

  /** What the server of a secondary does by itself. */
  verifyReplica(): void {
    const { process, isPaused } = this.#scene.some(this.#scene.sites)
    if (isPaused || !process.secondaries.of(process.volume('v').uuid)) return
    this.begin(process, () => this.#cancellable(process, async signal => {
      await process.secondaries.verify('v', { signal })
      this.#scene.count('verified there')
    }))
  }

  /** A server is told to end. */
  stop(): void {
    const site = this.#scene.some(this.#scene.sites)
    const { places, reversals } = this.#scene
    const isBusy = places.some(place => place.site === site && place.waiting) || [...reversals].some(({ process }) => process === site.process)
    if (site.isPaused || site.process.stopping || isBusy) return
    site.process.stop()
    site.process.stopping!.catch((error: unknown) => { this.#scene.failed(error) })
  }

  /** Those that have ended are started again. */
  async startAgain(): Promise<void> {
    for (const site of this.#scene.sites) {
      if (!site.process.isStopped) continue
      const ending = await site.restart()
      this.#scene.count('stopped')
      await this.#reopened(site, ending)
    }
  }

  /** The machine goes on at once. @param power true: its power fails; false: only the process dies */
  async crash(site: Site, power: boolean): Promise<void> {
    site.isPaused = false
    const { splitting } = site.process
    const { reversals } = this.#scene
    for (const one of reversals) {
      if (one.process !== site.process) continue
      reversals.delete(one)
      this.#scene.count('killed reversals')
    }
    const ending = await site.crash(power)
    judgeTogether(splitting.map(name => site.process.mirrors.get(name)))
    await this.#reopened(site, ending)
  }

  async #reopened(site: Site, ending: Ending): Promise<void> {
    for (const place of [...this.#scene.places]) if (place.site === site) await place.reopened(ending)
    await this.clones.reopened(site, ending)
  }

  /** Disks that do not do what they are asked for; then they are well again, and servers that say so are begun anew. */
  trouble(): void {
    const { machine } = this.#scene.some(this.#scene.sites)
    if (!machine.trouble.isOn) machine.fail()
  }

  async cure(): Promise<void> {
    const site = this.#scene.some(this.#scene.sites)
    const { trouble } = site.machine
    if (!trouble.isOn && trouble.isHurt) await this.crash(site, false)
    else if (trouble.isOn) {
      trouble.end()
      this.#scene.count(trouble.isHurt ? 'hurt' : trouble.refused > 0 ? 'refused' : 'spared')
    }
  }

  /** What points may keep, of a source or of a target. */
  budget(): void {
    const { site: { process, isPaused }, name } = this.#scene.some(this.#scene.places)
    if (isPaused) return
    const grains = this.#scene.some(BUDGETS)
    const rule = { budgetBytes: grains === null ? null : grains * GRAIN, order: this.#scene.some(ORDERS) }
    this.begin(process, () => process.store.setSpace(name, rule))
  }

  /** A mirror ends, whatever it does; its target stands on its own. */
  delete(): void {
    this.mirror(async (mirror, process) => {
      const { record: { name, uuid }, state: { target } } = mirror
      this.#ended.add(uuid)
      this.#scene.watchOf(uuid).isEnding = true
      await process.mirrors.delete(name)
      this.#scene.count(`deleted ${target.kind}`)
    })
  }

  /** A deletion that nobody has answered is asked for again. False: there is none. */
  deleteAgain({ primary: { process, isPaused } } = this.#scene): boolean {
    const left = process.mirrors.list().find(({ record }) => this.#ended.has(record.uuid))
    if (!left || isPaused || process.running.size > 0) return false
    this.begin(process, () => process.mirrors.delete(left.record.name))
    return true
  }

  /** A source takes over what its split target has. */
  reverse(): void {
    const { process, isPaused } = this.#scene.some(this.#scene.sites)
    const mirrors = process.mirrors.list().filter(({ state }) => state.phase === 'split')
    if (mirrors.length === 0 || isPaused || process.splitting.length > 0) return
    const mirror = this.#scene.some(mirrors)
    if (![...this.#scene.reversals].some(one => one.mirror === mirror)) this.begin(process, () => this.reversed(process, mirror))
  }

  /** Throws Wrong, or what the command reports. */
  async reversed(process: Process, mirror: Mirror): Promise<void> {
    const { record: { volume }, state: { target } } = mirror
    const { places, disk, reversals, random } = this.#scene
    const source = places.find(place => place.volume.uuid === volume)!
    const reversal = new Reverse({
      process, mirror, source, content: () => disk.image(), force: random(3) === 0,
      local: target.kind === 'volume' ? places.find(place => place.volume.uuid === target.uuid) : undefined,
    })
    reversals.add(reversal)
    try {
      await reversal.run()
      this.#scene.count(`reversed ${target.kind}`)
    } catch (error) {
      if (error instanceof NbdeltaError && error.code === 'cancelled') this.#scene.count('cancelled reversals')
      throw error
    } finally {
      if (reversal.isRestored) this.#scene.count('restored by reversals')
      reversals.delete(reversal)
    }
  }

  cancel(): void {
    const aborts = [...this.#scene.reversals].map(({ abort }) => abort)
    for (const { process } of this.#scene.sites) aborts.push(...process.aborts)
    if (aborts.length > 0) this.#scene.some(aborts).abort()
  }

  /** Somebody else uses what a mirror was split from. */
  async writeFar(): Promise<void> {
    const mirrors = this.#scene.sites.flatMap(({ process }) => process.running.size > 0 ? [undefined] : process.mirrors.list())
    const one = mirrors.find(mirror => mirror?.state.target.kind === 'nbd')
    if (!mirrors.includes(undefined) && one?.state.phase === 'split') await this.#scene.disk.write()
  }

  promote(): void {
    const site = this.#scene.some(this.#scene.sites)
    const { process } = site
    const place = this.#scene.place(site, 'v')
    const state = process.secondaries.of(place.volume.uuid)
    if (!state || site.isPaused) return
    this.begin(process, async () => {
      const epoch = await process.secondaries.promote('v')
      place.promoted(state.mirror, epoch)
      this.#scene.primary = site
      this.#scene.count('promoted')
    })
  }

  /** What an operator does to have two sites mirrored again, one thing at a time. */
  repair(): void {
    if (this.deleteAgain()) return
    const missing = this.#missing()
    if (missing !== undefined) return this.begin(this.#scene.primary.process, () => this.create(this.#scene.primary.process, missing))
    const other = this.#scene.sites.find(site => site !== this.#scene.primary)
    if (!other || this.#scene.peerMirror()) return
    const [here, there] = [this.#scene.primary.process, other.process]
    const ours = here.secondaries.of(here.volume('v').uuid)
    const theirs = there.secondaries.of(there.volume('v').uuid)
    const [old] = there.mirrors.list()
    if (this.#scene.primary.isPaused || here.running.size > 0) return
    // The old primary has found it empty, and begun anew.
    const isKeptUp = ours?.phase === 'secondary' && here.secondaries.declaredPoint(here.volume('v').uuid)
    if (isKeptUp) return this.begin(here, async () => { await here.secondaries.promote('v') })
    if (ours) {
      this.#scene.place(this.#scene.primary, 'v').forgotten()
      return this.begin(here, () => here.secondaries.forget('v'))
    }
    if (other.isPaused || there.running.size > 0) return
    if (old) return this.begin(there, () => there.mirrors.delete(old.record.name))
    if (theirs?.phase === 'secondary' && there.secondaries.declaredPoint(there.volume('v').uuid)) {
      return this.begin(there, () => there.secondaries.promote('v'))
    }
    if (theirs) {
      this.#scene.place(other, 'v').forgotten()
      return this.begin(there, () => there.secondaries.forget('v'))
    }
    this.begin(here, () => this.create(here, `nbdelta://${other.name}/v`))
  }

  /** Target that is no peer's of a mirror that was deleted; what is not told from others' goes to one at a time. */
  #missing(): string | undefined {
    const { primary, kinds, sites, random } = this.#scene
    const { mirrors, running } = primary.process
    if (primary.isPaused || running.size > 0 || random(2) === 0) return undefined
    const has = (kind: string, all = mirrors.list()): boolean => all.some(({ state }) => state.target.kind === kind)
    if (kinds.includes('volume') && !has('volume')) return 'w'
    if (kinds.includes('far') && !has('nbd', sites.flatMap(({ process }) => process.mirrors.list()))) return 'nbd://far'
    return undefined
  }

  /** Other settings: a mirror has those that it was made with, so that it goes, and another one comes at once. */
  remake(): void {
    this.mirror(async (mirror, process) => {
      const { record: { name, uuid }, state: { target } } = mirror
      const [known] = target.kind === 'volume' ? this.#scene.places.filter(({ volume }) => volume.uuid === target.uuid) : []
      this.#ended.add(uuid)
      this.#scene.watchOf(uuid).isEnding = true
      await process.mirrors.delete(name)
      // What it is let go at hosts see before the next one has it.
      for (const place of this.#scene.places) await place.look()
      this.#scene.count('remade')
      await this.create(process, target.kind === 'volume' ? known!.name : target.uri, name)
    })
  }

  /** @param name by default one that no mirror has */
  async create({ mirrors }: Process, target: string, name?: string): Promise<void> {
    const { random, some } = { random: this.#scene.random, some: <T>(all: readonly T[]) => this.#scene.some(all) }
    const keepSnapshots = !target.startsWith('nbd:') ? some([0, 1, 3]) : 0
    await mirrors.create({
      name: name ?? some(NAMES.filter(other => !mirrors.list().some(({ record }) => record.name === other))), volume: 'v', target,
      mode: some(MODES),
      keepSnapshots, intervalSeconds: some([60, 60, 5]), timeoutSeconds: some([5, 5, 1]), lagBytes: some([null, null, 1]), bytesPerSecond: some(RATES),
      overwrite: ++this.#mirrors > 2 || random(2) === 0, ...target.startsWith('nbdelta:') && { secretFile: '/secret' },
    })
    this.#scene.count('created')
  }
}

/** Behind a split of all of them that ended somehow (D2, D3). */
export function judgeTogether(mirrors: readonly Mirror[]): void {
  const phases = mirrors.map(({ state }) => state.phase)
  if (new Set(phases.map(phase => phase === 'split')).size > 1) throw new Wrong(`a group is neither split nor together: ${phases.join(', ')} (D2, D3)`)
}
