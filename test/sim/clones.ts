/**
 * Clones: writable volumes of a simulated machine that show a snapshot of another: of a source, of what a target declares or has received
 * (watch.ts), of a copy, of another clone. Each is a place with hosts of its own (place.ts), is promoted and deleted, and comes and goes
 * while mirrors go on with the volume that it was made of; whatever those do, it shows what the snapshot had, and what its hosts wrote.
 *
 * One whose creation was not answered when its server died is there whole afterwards, or not at all (D6), and so is one that was being
 * deleted. At the end of a life all of them can be deleted, and no pin of theirs is left.
 */
import type { InheritJob } from '../../src/volume/copier.js'
import type { PointInfo } from '../../src/volume/snappoint.js'
import { snapshotOf, unlessLeaving } from './host.js'
import type { Image } from './image.js'
import type { Operator } from './operator.js'
import type { SimVolume } from './machine.js'
import { Place } from './place.js'
import type { Scene } from './scene.js'
import type { Site } from './site.js'
import type { Ending } from './trouble.js'
import { expected, Wrong } from './wrong.js'

const NAMES = ['c1', 'c2', 'c3'] as const

/** One whose creation has begun and was not answered. */
interface Begun { readonly site: Site, readonly name: string, readonly image: Image }

export class Clones {
  readonly #scene: Scene
  readonly #operator: Operator
  readonly #begun = new Set<Begun>()
  /** Their deletion has begun, and was not answered. */
  readonly #leaving = new Set<Place>()

  constructor(scene: Scene, operator: Operator) {
    this.#scene = scene
    this.#operator = operator
  }

  /** Of any snapshot that an operator can read. */
  create(): void {
    const { places, random } = this.#scene
    const { site, site: { process }, volume } = this.#scene.some(places)
    const name = this.#scene.some(NAMES)
    const snapshots = volume.points.list().filter(({ kind, labels }) => kind === 'snapshot' && labels['auto'] !== 'image')
    const isThere = process.store.get(name) !== undefined || [...this.#begun].some(one => one.site === site && one.name === name)
    if (isThere || site.isPaused || snapshots.length === 0) return
    // What a target shows is the newest, mostly.
    const point = random(2) === 0 ? snapshots.at(-1)! : this.#scene.some(snapshots)
    this.#operator.begin(process, () => this.#create(site, name, { volume: volume.name, point: point.name }))
  }

  async #create(site: Site, name: string, from: { readonly volume: string, readonly point: string }): Promise<void> {
    const { process, process: { store } } = site
    const image = await snapshotOf(process.volume(from.volume), from.point).catch(unlessLeaving)
    if (image === undefined || store.get(name)) return
    const begun = { site, name, image }
    this.#begun.add(begun)
    try {
      await store.cloneVolume({ name, from })
      this.#taken(begun)
      this.#scene.count('cloned')
    } finally { if (!process.power.isDead) this.#begun.delete(begun) }
  }

  #taken({ site, name, image }: Begun): void {
    const place = new Place(site, name, this.#scene.random, uuid => this.#scene.watchOf(uuid))
    place.hosts.taken(image)
    this.#scene.places.push(place)
    this.#scene.watchPoints(site, place.volume)
  }

  /** One that copies what it shows, so that it stands alone. */
  promote(): void {
    const place = this.#some()
    if (place) this.#operator.begin(place.site.process, () => this.#promoted(place))
  }

  async #promoted({ site: { process }, name }: Place): Promise<InheritJob> {
    const job = await process.store.promoteVolume(name)
    job.finished.catch(() => undefined)
    this.#scene.count('clones promoted')
    return job
  }

  delete(): void {
    const place = this.#some()
    if (place && !place.waiting) this.#operator.begin(place.site.process, () => this.#delete(place))
  }

  async #delete(place: Place): Promise<void> {
    const { name, volume, site: { process } } = place
    const { places } = this.#scene
    if (place.waiting || !places.includes(place)) return
    places.splice(places.indexOf(place), 1)
    this.#leaving.add(place)
    try {
      await process.store.deleteVolume(name)
      this.#scene.count('clones deleted')
      this.#leaving.delete(place)
    } catch (error) {
      if (!process.power.isDead) await this.#stays(place, volume)
      throw error
    }
  }

  /** It was not deleted: it was not touched, or was opened anew; or nobody knows before the next start. */
  async #stays(place: Place, before: SimVolume): Promise<void> {
    const { name, site } = place
    const now = site.process.store.get(name)
    if (now?.problem) return
    this.#leaving.delete(place)
    if (!now) return
    this.#scene.places.push(place)
    if (now === before) return
    this.#scene.watchPoints(site, now)
    await place.reopened('killed')
  }

  /** The site has another process. */
  async reopened(site: Site, ending: Ending): Promise<void> {
    const { store } = site.process
    for (const begun of [...this.#begun]) {
      if (begun.site !== site) continue
      this.#begun.delete(begun)
      if (store.get(begun.name)) this.#taken(begun)
    }
    for (const place of [...this.#leaving]) {
      if (place.site !== site) continue
      this.#leaving.delete(place)
      if (!store.get(place.name)) continue
      this.#scene.places.push(place)
      this.#scene.watchPoints(site, place.volume)
      await place.reopened(ending)
    }
  }

  /** All is well again: some stand alone first, and all of them go, those that show snapshots of others first. */
  async end(): Promise<void> {
    for (const place of this.#all) {
      await place.look()
      if (this.#scene.random(2) > 0 || place.volume.inheritor.foreign.length === 0) continue
      const job = await this.#promoted(place)
      await this.#scene.pumped(job.finished.catch(expected))
      await place.look()
    }
    for (let left = NAMES.length; left > 0 && this.#all.length > 0; left--) {
      for (const place of this.#all) await this.#delete(place).catch(expected)
    }
    const [stays] = this.#all
    if (stays) throw new Wrong(`clone ${stays.name} of ${stays.site.name} cannot be deleted`)
    for (const { name, volume } of this.#scene.places) judgePins(name, volume.points.list())
  }

  get isAny(): boolean { return this.#all.length > 0 }
  get #all(): Place[] { return this.#scene.places.filter(place => isClone(place)) }

  #some(): Place | undefined {
    const all = this.#all.filter(({ site }) => !site.isPaused)
    return all.length > 0 ? this.#scene.some(all) : undefined
  }
}

function isClone({ name }: Place): boolean { return (NAMES as readonly string[]).includes(name) }

function judgePins(volume: string, points: readonly PointInfo[]): void {
  for (const { name, pins } of points) {
    const pin = pins.find(({ owner }) => owner.startsWith('clone '))
    if (pin) throw new Wrong(`snapshot ${name} of ${volume} is pinned by ${pin.owner}, which is gone`)
  }
}
