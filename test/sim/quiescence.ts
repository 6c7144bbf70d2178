/**
 * The end of a simulated life: all is well again, everything arrives, an operator brings all pairs together; then source and targets are
 * equal, and nothing is left but what mirrors have at rest (C7, C9).
 */
import { NbdeltaError } from '../../src/device/errors.js'
import type { Mirror } from '../../src/replication/mirror.js'
import type { PointInfo } from '../../src/volume/snappoint.js'
import { snapshotOf } from './host.js'
import type { Operator } from './operator.js'
import type { Place } from './place.js'
import { PATIENCE, type Scene } from './scene.js'
import type { Site } from './site.js'
import { expected, turn, turns, Wrong } from './wrong.js'

/** Within so many turns what is not needed any more is gone. */
const SOON_TURNS = 200
/** Whoever copies what was restored, and found no room, tries again then. */
const COPY_AGAIN_MS = 30_000

export class Quiescence {
  readonly #scene: Scene
  readonly #operator: Operator

  constructor(scene: Scene, operator: Operator) {
    this.#scene = scene
    this.#operator = operator
  }

  /** All is well again: everything arrives, and nothing is left over. */
  async reach(): Promise<void> {
    Object.assign(this.#scene.network, { isDown: false })
    for (const site of this.#scene.sites) {
      site.isPaused = false
      site.machine.trouble.end()
    }
    for (const site of this.#scene.sites) if (site.machine.trouble.isHurt) await this.#operator.crash(site, false)
    for (let left = 100; left > 0 && !await this.#settled(); left--);
  }

  /** Throws Wrong. */
  async judge(): Promise<void> {
    const { process } = this.#scene.primary
    const source = this.#scene.place(this.#scene.primary, 'v')
    for (const site of this.#scene.sites) await this.#judgePulled(site)
    for (const mirror of process.mirrors.list()) {
      const { record: { name, uuid }, state } = mirror
      const { decisions } = mirror.status()
      if (decisions.some(({ rule }) => rule === 'restore-by-reference')) this.#scene.count('recalled')
      if (decisions.some(({ rule, outcome }) => rule === 'snapshot' && /among the changes/.test(outcome))) this.#scene.count('amid')
      const target = await this.#scene.targetOf(mirror)
      if (target !== source.hosts.image) throw new Wrong(`the target of ${name} is not what the source is: ${mirror.status().problem}`)
      const left = source.volume.points.list().filter(({ labels }) => labels['mirror'] === uuid)
      if (left.length !== 1 || left[0]!.uuid !== state.base?.point) {
        throw new Wrong(`points are left of ${name}: ${left.map(point => point.name).join(', ')}`)
      }
    }
    for (const place of this.#scene.places) {
      if (place.owner === undefined) continue
      const listed = (): PointInfo[] => place.volume.points.list().filter(({ labels }) => labels['mirror'] === place.owner)
      // Whoever compares an older point lets go of it when the end of its connection has arrived.
      const isTidy = (): boolean => listed().filter(({ labels }) => labels['snapshot'] === undefined).length === 1
      for (let left = 100; left > 0 && !isTidy(); left--) await this.#scene.pumped(turns(2 * PATIENCE))
      const own = listed()
      const copies = own.filter(({ labels }) => labels['snapshot'] !== undefined)
      if (own.length - copies.length !== 1) throw new Wrong(`${own.length - copies.length} points are left on a target`)
      await this.#judgeCopies(place, copies)
    }
  }

  /** What was pulled is gone when nobody needs it. */
  async #judgePulled({ name, process: { store } }: Site): Promise<void> {
    const left = (): string[] => store.list().map(volume => volume.name).filter(volume => volume.startsWith('mirror-'))
    for (const volume of store.list()) await volume.inheriting?.finished
    for (let turns = 0; left().length > 0 && turns < SOON_TURNS; turns++) await turn()
    if (left().length > 0) throw new Wrong(`what was pulled is left on ${name}: ${left().join(', ')}`)
  }

  /** What a target has of the source's snapshots is what hosts had then (C20, D3). */
  async #judgeCopies({ volume, owner }: Place, copies: readonly PointInfo[]): Promise<void> {
    const mirror = this.#scene.primary.process.mirrors.list().find(({ record }) => record.uuid === owner)
    if (mirror && copies.length > mirror.state.keepSnapshots) throw new Wrong(`${copies.length} copies of snapshots are left on a target`)
    for (const { name, labels } of copies) {
      const wanted = this.#scene.snapshotOf(labels['snapshot']!)?.image
      if (wanted !== undefined && await snapshotOf(volume, name) !== wanted) throw new Wrong(`copy ${name} is not what the snapshot was`)
      this.#scene.count('copies')
    }
  }

  /** One more round of bringing everything together; true: nothing was left to do. */
  async #settled(): Promise<boolean> {
    for (const { process } of this.#scene.sites) await this.#scene.pumped(Promise.all(process.running), true)
    for (const { process: { stopping } } of this.#scene.sites) await this.#scene.pumped(Promise.resolve(stopping))
    await this.#operator.startAgain()
    await this.#madeRoom()
    for (const { waiting } of this.#scene.places) await this.#scene.pumped(Promise.resolve(waiting))
    for (const site of this.#scene.sites) {
      const state = site.process.secondaries.of(site.process.volume('v').uuid)
      if (site === this.#scene.primary || !state || state.epoch === 1) continue
      // A promotion of which nobody was told that it was done.
      if (state.phase === 'secondary') await site.process.secondaries.promote('v')
      this.#scene.primary = site
    }
    if (this.#operator.clones.isAny) {
      await this.#operator.clones.end()
      return false
    }
    const { process } = this.#scene.primary
    if (this.#operator.deleteAgain()) {
      await this.#scene.pumped(Promise.all(process.running), true)
      return false
    }
    // What a volume was let go at its hosts see before the next mirror freezes it.
    for (const place of this.#scene.places) await place.look()
    if (this.#scene.sites.length > 1 && !this.#scene.peerMirror()) {
      this.#operator.repair()
      await this.#scene.pumped(Promise.all(process.running), true)
      return false
    }
    const all = []
    for (const mirror of process.mirrors.list()) all.push(await this.#scene.pumped(this.#brought(mirror)))
    return all.every(done => done)
  }

  /** There is room for everything, and what is copied comes to its end. */
  async #madeRoom(): Promise<void> {
    for (const { site: { process }, name, volume } of this.#scene.places) {
      if (volume.space?.budgetBytes !== null) await process.store.setSpace(name, { budgetBytes: null })
      for (let left = SOON_TURNS; volume.inheriting && left > 0; left--) await turn()
      if (volume.inheriting) await process.clock.advance(COPY_AGAIN_MS)
    }
  }

  /** The source is larger than a target that cannot grow. */
  async #fit(): Promise<void> {
    const { site: { process }, name, hosts, volume } = this.#scene.place(this.#scene.primary, 'v')
    const { sizeBytes } = this.#scene.disk
    await hosts.resize(volume, () => process.store.resizeVolume(name, sizeBytes), sizeBytes)
  }

  /** Whether the target has what the source has; otherwise what an operator does about it is done. */
  async #brought(mirror: Mirror): Promise<boolean> {
    try {
      if (mirror.state.paused) await mirror.resume()
      if (mirror.state.phase === 'split' && this.#scene.random(2) === 0) {
        await this.#operator.reversed(this.#scene.primary.process, mirror)
        // Others of the same source have to follow.
        return false
      }
      if (mirror.state.phase === 'split') await mirror.beginResync({ whole: false })
      await mirror.sync()
      return true
    } catch (error) {
      expected(error)
      // Half-open connections are found out by and by.
      this.#scene.network.notice()
      if (error instanceof NbdeltaError && error.code === 'too-large') await this.#fit()
      // Its creation failed, and its target forgot it, perhaps for another one, but its record was on the disk all the same; or the target
      // was let go before it had got anything.
      const isRefused = error instanceof NbdeltaError
        && (error.code === 'exists' || /of another mirror|is not the secondary/.test(error.message))
      const isUnborn = isRefused && mirror.state.base === null
      if (isUnborn) await this.#scene.primary.process.mirrors.delete(mirror.record.name).catch(expected)
      const isReleased = error instanceof NbdeltaError && error.message.includes('was released')
      if (isReleased && mirror.state.phase === 'paired') await mirror.split({ atOnce: true }).catch(expected)
      return false
    }
  }
}
