/**
 * Lineage: which volumes of a store show snapshots of which others (clones, and restores from another volume).
 *
 * Pins in time: a snapshot is pinned, durably, before the table of points says that a volume inherits from it, and released
 * after the table says so no more. Cut short in between, a pin is left without a volume; the next open releases it
 * (`releaseLeftPins`). The other way round a snapshot could be deleted while its content is still needed.
 */
import type { Logger } from '../device/logger.js'
import type { CatalogEntry } from '../store/catalog.js'
import type { Inheritance } from '../store/point-entry.js'
import type { PointTable } from '../store/point-table.js'
import { OpenStoreVolume, type StoreVolume } from './store-volume.js'

interface Link {
  readonly heir: CatalogEntry
  readonly kind: Inheritance['kind']
  /** Uuids. */
  readonly volume: string
  readonly point: string
}

export class Lineage {
  readonly #catalog: { list(): readonly CatalogEntry[] }
  readonly #table: PointTable
  readonly #volumes: () => Iterable<StoreVolume>
  readonly #logger: Logger

  constructor(
    store: { readonly catalog: { list(): readonly CatalogEntry[] }, readonly points: PointTable },
    volumes: () => Iterable<StoreVolume>, logger: Logger,
  ) {
    this.#catalog = store.catalog
    this.#table = store.points
    this.#volumes = volumes
    this.#logger = logger
  }

  /** Names of volumes that show snapshots of the one with this uuid. */
  heirsOf(uuid: string): string[] {
    return [...new Set(this.#links().filter(({ volume }) => volume === uuid).map(({ heir }) => heir.name))]
  }

  /** What this volume shows of others; to be asked while the table still says so. */
  linksOf(uuid: string): Link[] { return this.#links().filter(({ heir }) => heir.uuid === uuid) }

  /** Gives the volume its sources, as far as their volumes are open. */
  attach(heir: OpenStoreVolume): void {
    for (const { kind, volume, point } of heir.inheritor.foreign) {
      const source = this.#open(volume)
      const info = source?.points.list().find(({ uuid }) => uuid === point)
      if (source && info) {
        const release = (): Promise<void> => this.#unpin(volume, point, ownerOf(kind, heir.name))
        heir.inheritor.attach(kind, source.points.open(info.name, { heir: true }), release)
        continue
      }
      this.#logger.error({ volume: heir.name, source: volume, point },
        'the volume that this one shows a snapshot of is not open: what it has not copied cannot be read')
    }
  }

  /** The volume of these links is gone. */
  async release(links: readonly Link[]): Promise<void> {
    for (const { heir, kind, volume, point } of links) await this.#unpin(volume, point, ownerOf(kind, heir.name))
  }

  /** After a crash between a pin and the record that needs it. @param of those that nobody can use yet */
  async releaseLeftPins(of: Iterable<StoreVolume> = this.#volumes()): Promise<void> {
    const needed = new Set(this.#links().map(({ heir, kind, point }) => `${point} ${ownerOf(kind, heir.name)}`))
    for (const volume of of) {
      if (!(volume instanceof OpenStoreVolume)) continue
      for (const { uuid, name, pins } of volume.points.list()) {
        for (const { owner } of pins) {
          if (!/^(clone|restore) /.test(owner) || needed.has(`${uuid} ${owner}`)) continue
          await volume.points.unpin(name, owner)
          this.#logger.warn({ volume: volume.name, point: name, owner }, 'a pin was left by a crash, or a close; it was released')
        }
      }
    }
  }

  /** The volumes in an order in which none comes after one that it shows snapshots of. */
  heirsFirst(): StoreVolume[][] {
    const links = this.#links()
    let left = [...this.#volumes()]
    const rounds: StoreVolume[][] = []
    while (left.length > 0) {
      const here = new Set(left.map(({ uuid }) => uuid))
      const needed = new Set(links.filter(({ heir }) => here.has(heir.uuid)).map(({ volume }) => volume))
      const round = left.filter(({ uuid }) => !needed.has(uuid))
      // Two that are restored from each other have no order.
      if (round.length === 0) return [...rounds, left]
      rounds.push(round)
      left = left.filter(({ uuid }) => needed.has(uuid))
    }
    return rounds
  }

  #links(): Link[] {
    const links: Link[] = []
    for (const heir of this.#catalog.list()) {
      for (let next = this.#table.state(heir.uuid).inherit ?? undefined; next; next = next.base) {
        if (next.source.volume !== heir.uuid) links.push({ heir, kind: next.kind, ...next.source })
      }
    }
    return links
  }

  #open(uuid: string): OpenStoreVolume | undefined {
    for (const volume of this.#volumes()) if (volume.uuid === uuid && volume instanceof OpenStoreVolume) return volume
    return undefined
  }

  async #unpin(volume: string, point: string, owner: string): Promise<void> {
    const source = this.#open(volume)
    const info = source?.points.list().find(({ uuid }) => uuid === point)
    if (source && info) await source.points.unpin(info.name, owner)
  }
}

/** Who a pin of a volume that inherits belongs to. */
export function ownerOf(kind: Inheritance['kind'], name: string): string { return `${kind} ${name}` }
