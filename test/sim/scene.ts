/**
 * Scene: all there is in one simulated life: machines, network, places and what is known of them, and what mirrors freeze, declare and
 * restore, which is looked at at its instant (watch.ts, reverse.ts).
 */
import { type Random, seededRandom } from '../../src/device/testing.js'
import type { Mirror } from '../../src/replication/mirror.js'
import type { CreatePointOptions, PointInfo } from '../../src/volume/snappoint.js'
import { FarDisk } from './far-disk.js'
import { isInheriting, snapshotOf, unlessLeaving } from './host.js'
import { differenceOf, type Image, imageOf, SECTOR } from './image.js'
import type { SimStore, SimVolume } from './machine.js'
import { Network } from './network.js'
import { Place } from './place.js'
import { type Reverse, reversedBy } from './reverse.js'
import type { Process, Site, World } from './site.js'
import { type Frozen, frozenOf, Watch } from './watch.js'
import type { How } from './wire.js'
import { turn, Wrong } from './wrong.js'

const IMAGE_NAME = /-image(\.\d+)?$/

/** Turns in which nothing arrives until an end looks whether the other is there still. */
export const PATIENCE = 50

export class Scene implements World {
  readonly counts: Record<string, number> = {}
  readonly random: Random
  readonly network: Network
  readonly disk: FarDisk
  readonly sites: Site[] = []
  readonly places: Place[] = []
  /** Where the targets are: `volume`, `peer`, `far`. */
  kinds: readonly string[] = []
  /** The site whose volume is the one that counts. */
  primary!: Site
  /** Those that run. */
  readonly reversals = new Set<Reverse>()
  /** What must not be, or a bug, that was seen in the middle of something. */
  failure: unknown
  readonly #watches = new Map<string, Watch>()
  /** Snapshots that hosts have begun to take, by where and name; and those that were found again, by uuid. */
  readonly #taken = new Map<string, Frozen>()
  readonly #snapshots = new Map<string, Frozen>()

  constructor(seed: number) {
    this.random = seededRandom(seed)
    this.network = new Network(this.random)
    this.disk = new FarDisk(this.network, this.random)
  }

  site(name: string): Site { return this.sites.find(site => site.name === name)! }
  far(from: Site, how: How): ReturnType<FarDisk['connect']> { return this.disk.connect(from, how) }
  failed(error: unknown): void { this.failure ??= error }

  /** Whatever a mirror freezes is looked at before the mirror goes on. */
  opened(site: Site, { store }: Process): void {
    this.#openedTogether(site, store)
    this.#restoresTogether(store)
    for (const volume of store.list()) if (!volume.name.startsWith('mirror-')) this.watchPoints(site, volume)
  }

  /** Of a volume that a process has opened. */
  watchPoints(site: Site, volume: SimVolume): void {
    const { points } = volume
    const create = points.create.bind(points)
    points.create = options => this.#made(site, volume, options, create)
  }

  async #made(site: Site, volume: SimVolume, options: CreatePointOptions, create: (options: CreatePointOptions) => Promise<PointInfo>): Promise<PointInfo> {
    const mirror = options.labels?.['mirror']
    const place = this.places.find(one => one.site === site && one.name === volume.name)!
    const { hosts } = place
    const key = `${site.name}/${volume.name}/${options.name}`
    const origin = options.labels?.['origin']
    if (origin !== undefined) {
      const image = this.watchOf(mirror!).imageOf(origin)
      // A copy is a snapshot of the volume like any other when its mirror is forgotten: behind all that hosts have done by now.
      if (image === undefined) this.#taken.delete(key)
      else this.#taken.set(key, { image, views: hosts.views, first: hosts.views.length - 1, seq: 0 })
      const info = await create(options)
      if (this.watchOf(mirror!).isReversed(origin)) place.accepted(info)
      return info
    }
    const from = hosts.now
    if (mirror === undefined) {
      if (options.labels) return create(options)
      let isDoubtful = false
      const info = await create({ ...options, atInstant: () => {
        options.atInstant?.()
        isDoubtful = hosts.current.length > 1
        if (isDoubtful) this.#taken.delete(key)
        else this.#taken.set(key, frozenOf(hosts.image, hosts.views, from, 0))
      } })
      // A reversal has come before what hosts asked for, or behind it.
      if (isDoubtful) this.#taken.set(key, frozenOf(await snapshotOf(volume, info.name), hosts.views, from, 0))
      return info
    }
    // Of a point among a stream there is no image, and others keep a part: it is what the volume holds at its instant.
    let found: Promise<Image> | undefined
    const { atInstant, keeps } = options
    const isWhole = keeps === undefined && (options.kind !== 'bookmark' || !atInstant)
    const info = await create(isWhole ? options : { ...options, atInstant: () => {
      found = imageOf(volume)
      atInstant?.()
    } })
    const reversal = [...this.reversals].find(one => one.mirror.record.uuid === mirror)
    try {
      if (options.labels?.['frozen'] !== undefined) reversal?.froze(await frozenBack(place, info.name))
      if (options.kind === 'bookmark' && reversal) this.watchOf(mirror).reverses(info.uuid, reversal.marked(from, info))
      if (options.kind === 'bookmark') this.watchOf(mirror).marked(info.uuid)
      if (found) this.watchOf(mirror).froze(await found, hosts.views, from, info.seq)
      else if (IMAGE_NAME.test(info.name)) {
        const image = await snapshotOf(volume, info.name).catch(unlessLeaving)
        // Given up before anybody has read it.
        if (image !== undefined) this.watchOf(mirror).froze(image, hosts.views, from, info.seq)
      }
    } catch (error) { this.failed(error) }
    return info
  }

  /** Mirrors of one source share the image; each has a bookmark of that instant. */
  #openedTogether(site: Site, store: SimStore): void {
    const freeze = store.createPointsTogether
    store.createPointsTogether = async wanted => {
      const { volume: name, labels } = wanted[0]!
      const { hosts, volume, volume: { points } } = this.place(site, name)
      const from = hosts.now
      const made = await freeze(wanted)
      try {
        const image = await snapshotOf(volume, made[0]!.point.name).catch(unlessLeaving)
        if (image === undefined) return made
        const bookmarks = points.list().filter(({ kind }) => kind === 'bookmark')
        const first = bookmarks.findLast(point => point.labels['mirror'] === labels?.['mirror'])
        for (const point of bookmarks) {
          if (point.labels['instant'] !== first?.labels['instant']) continue
          const watch = this.watchOf(point.labels['mirror']!)
          watch.marked(point.uuid)
          watch.froze(image, hosts.views, from, made[0]!.point.seq)
        }
      } catch (error) { this.failed(error) }
      return made
    }
  }

  /** Hosts of a source that is reversed see something else from its instant on. */
  #restoresTogether(store: SimStore): void {
    const restore = store.restoreTogether
    store.restoreTogether = wanted => {
      const name = reversedBy(wanted[0]!)
      const reversal = [...this.reversals].find(one => one.process.store === store && one.mirror.record.name === name)
      return reversal ? reversal.restore(wanted[0]!, one => restore([one])) : restore(wanted)
    }
  }

  /** One that hosts have taken; after a crash it may be there although nobody was answered. */
  snapshotOf(uuid: string): Frozen | undefined {
    for (const { site, name, volume } of this.places) {
      const point = volume.points.list().find(one => one.uuid === uuid)
      const taken = point && this.#taken.get(`${site.name}/${name}/${point.name}`)
      if (taken) this.#snapshots.set(uuid, { ...taken, seq: point.seq })
    }
    return this.#snapshots.get(uuid)
  }

  /** What the target of a mirror holds by itself, cycles that run included; undefined: it has no target any more. */
  async targetOf({ record: { uuid, volume }, state: { target } }: Mirror): Promise<string | undefined> {
    // It may be larger.
    const source = this.places.find(one => one.volume.uuid === volume)!
    if (target.kind === 'nbd') return (await this.disk.image()).slice(0, source.volume.sizeBytes / SECTOR)
    const place = this.places.find(one => one.owner === uuid)
    return place && imageOf(place.volume)
  }

  peerMirror(): Mirror | undefined {
    return this.primary.process.mirrors.list().find(({ state }) => state.target.kind === 'peer')
  }

  /** Everything that is on its way arrives, until that has ended. @param looks at volumes, which may change hands meanwhile */
  async pumped<T>(work: Promise<T>, looks = false): Promise<T> {
    let over = false
    const done = (): void => { over = true }
    work.then(done, done)
    for (let idle = 0; !over; idle++) {
      if (this.network.deliver()) idle = 0
      else if (idle > PATIENCE) {
        this.network.notice()
        // Cycles with a rate wait for the clock.
        if (idle % PATIENCE === 0) for (const { process } of this.sites) await process.clock.advance(1000)
      }
      if (idle > 5000) throw new Wrong('something never ends')
      await turn()
      if (looks) for (const place of this.places) await place.look()
    }
    return work
  }

  place(site: Site, name: string): Place { return this.places.find(place => place.site === site && place.name === name)! }

  watchOf(mirror: string): Watch {
    const watch = this.#watches.get(mirror) ?? new Watch(uuid => this.snapshotOf(uuid))
    this.#watches.set(mirror, watch)
    return watch
  }

  some<T>(all: readonly T[]): T { return all[this.random(all.length)]! }
  count(what: string): void { this.counts[what] = (this.counts[what] ?? 0) + 1 }

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

/** What a target holds that was frozen for its source. */
async function frozenBack({ owner, hosts, volume }: Place, name: string): Promise<Image> {
  const image = await snapshotOf(volume, name)
  if (owner !== undefined || hosts.isSeen(image, isInheriting(volume))) return image
  throw new Wrong(`what was frozen of a target is not what it holds (D12): ${differenceOf(hosts.image, image)}`)
}
