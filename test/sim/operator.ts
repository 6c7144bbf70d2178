/**
 * Operator: what is asked of mirrors and secondaries in a simulated life. What was begun goes on by itself with what arrives; of one
 * process no more than BEGUN_MAX of it at a time.
 */
import { NbdeltaError } from '../../src/device/errors.js'
import type { Mirror } from '../../src/replication/mirror.js'
import { Reverse } from './reverse.js'
import type { Scene } from './scene.js'
import type { Process } from './site.js'
import { expected, Wrong } from './wrong.js'

/** What one process has begun and not ended. */
const BEGUN_MAX = 2

const MODES = ['periodic', 'periodic', 'async', 'sync'] as const

export class Operator {
  readonly #scene: Scene
  #mirrors = 0

  constructor(scene: Scene) { this.#scene = scene }

  /** Something is asked of some mirror, and goes on while other steps are made. */
  mirror(ask: (mirror: Mirror) => Promise<unknown>): void {
    const { process, isPaused } = this.#scene.some(this.#scene.sites)
    const mirrors = process.mirrors.list()
    if (mirrors.length > 0 && !isPaused && process.splitting.length === 0) this.#begin(process, () => ask(this.#scene.some(mirrors)))
  }

  /** All mirrors of a process as one, which nothing else of it is done meanwhile. */
  group(): void {
    const { process, isPaused } = this.#scene.some(this.#scene.sites)
    const names = process.mirrors.list().map(({ record }) => record.name)
    if (names.length < 2 || isPaused || process.running.size > 0) return
    const group = process.mirrors.together(names)
    const what = this.#scene.some(['sync', 'split', 'split at once', 'resync'])
    this.#begin(process, async () => {
      if (what === 'sync') return group.sync()
      if (what === 'resync') return group.beginResync({ whole: false })
      if (group.mirrors.some(({ state }) => state.phase === 'split')) return
      process.splitting = names
      try {
        if (await group.split({ atOnce: what === 'split at once' })) this.#scene.count('split together')
        judgeTogether(group.mirrors)
      } finally { process.splitting = [] }
    })
  }

  #begin({ running }: Process, ask: () => Promise<unknown>): void {
    if (running.size >= BEGUN_MAX) return
    const work = (async () => { await ask() })().catch(expected).catch((error: unknown) => { this.#scene.failed(error) })
      .finally(() => { running.delete(work) })
    running.add(work)
  }

  async resync(mirror: Mirror): Promise<void> {
    const whole = this.#scene.random(4) === 0
    if (mirror.state.phase !== 'split' && !whole) return
    await mirror.beginResync({ whole })
    await mirror.sync()
  }

  async verify(mirror: Mirror): Promise<void> {
    const found = await mirror.verify()
    if (found.length > 0) throw new Wrong(`verification finds differences: ${JSON.stringify(found)}`)
  }

  /** A source takes over what its split target has. */
  reverse(): void {
    const { process, isPaused } = this.#scene.some(this.#scene.sites)
    const mirrors = process.mirrors.list().filter(({ state }) => state.phase === 'split')
    if (mirrors.length === 0 || isPaused || process.splitting.length > 0) return
    const mirror = this.#scene.some(mirrors)
    if (![...this.#scene.reversals].some(one => one.mirror === mirror)) this.#begin(process, () => this.reversed(process, mirror))
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
    if (this.#scene.reversals.size > 0) this.#scene.some([...this.#scene.reversals]).abort.abort()
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
    this.#begin(process, async () => {
      const epoch = await process.secondaries.promote('v')
      place.promoted(state.mirror, epoch)
      this.#scene.primary = site
      this.#scene.count('promoted')
    })
  }

  /** What an operator does to have two sites mirrored again, one thing at a time. */
  repair(): void {
    const other = this.#scene.sites.find(site => site !== this.#scene.primary)
    if (!other || this.#scene.peerMirror()) return
    const [here, there] = [this.#scene.primary.process, other.process]
    const ours = here.secondaries.of(here.volume('v').uuid)
    const theirs = there.secondaries.of(there.volume('v').uuid)
    const [old] = there.mirrors.list()
    if (this.#scene.primary.isPaused || here.running.size > 0) return
    if (ours) {
      this.#scene.place(this.#scene.primary, 'v').forgotten()
      return this.#begin(here, () => here.secondaries.forget('v'))
    }
    if (other.isPaused || there.running.size > 0) return
    if (old) return this.#begin(there, () => there.mirrors.delete(old.record.name))
    if (theirs?.phase === 'secondary' && there.secondaries.declaredPoint(there.volume('v').uuid)) {
      return this.#begin(there, () => there.secondaries.promote('v'))
    }
    if (theirs) {
      this.#scene.place(other, 'v').forgotten()
      return this.#begin(there, () => there.secondaries.forget('v'))
    }
    this.#begin(here, () => this.create(here, `nbdelta://${other.name}/v`))
  }

  async create({ mirrors }: Process, target: string): Promise<void> {
    const mode = this.#scene.some(MODES)
    const keepSnapshots = !target.startsWith('nbd:') ? this.#scene.some([0, 1, 3]) : 0
    await mirrors.create({
      name: `m${++this.#mirrors}`, volume: 'v', target, mode, keepSnapshots, intervalSeconds: 60, lagBytes: null, bytesPerSecond: null,
      overwrite: this.#mirrors > 2 || this.#scene.random(2) === 0, ...target.startsWith('nbdelta:') && { secretFile: '/secret' },
    })
    this.#scene.count('created')
  }
}

/** Behind a split of all of them that ended somehow (D2, D3). */
export function judgeTogether(mirrors: readonly Mirror[]): void {
  const phases = mirrors.map(({ state }) => state.phase)
  if (new Set(phases.map(phase => phase === 'split')).size > 1) throw new Wrong(`a group is neither split nor together: ${phases.join(', ')} (D2, D3)`)
}
