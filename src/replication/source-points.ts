/**
 * SourcePoints: the points that one mirror has on its source.
 *
 *   mirror-NAME-N         bookmark, made first: what changed since it, has changed since the image as well (a superset, D4)
 *   mirror-NAME-N-image   snapshot, made at once after it: what cycle N ships; gone when the cycle is over
 *
 * So between cycles a mirror costs a source no copy on write, only a map. Both are pinned by the mirror, and labelled with its
 * uuid, so that what a crash leaves is found again and dropped (`sweep`).
 */
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { divCeil } from '../../native-free/integer.js'
import type { PointDevice, PointInfo } from '../volume/snappoint.js'
import type { StoreVolume } from '../volume/store-volume.js'
import { AUTO_LABEL, AUTO_MIRROR, dropPoints, freeName, MIRROR_LABEL, ownerOf } from './volume-target.js'

export interface Frozen {
  readonly cycle: number
  readonly bookmark: PointInfo
  readonly image: PointDevice
}

export class SourcePoints {
  readonly #mirror: { readonly uuid: string, readonly name: string }

  constructor(mirror: { readonly uuid: string, readonly name: string }) { this.#mirror = mirror }

  /** The mirror's own, of one volume, oldest first; not those that another mirror has declared on it. */
  list({ points }: StoreVolume, kind: PointInfo['kind']): PointInfo[] {
    return points.list().filter(point => point.kind === kind && point.labels[MIRROR_LABEL] === this.#mirror.uuid)
  }

  find(volume: StoreVolume, uuid: string): PointInfo | undefined {
    return this.list(volume, 'bookmark').find(point => point.uuid === uuid)
  }

  /** O(1), whatever the size. Errors: exists, no-space, io. */
  async freeze(volume: StoreVolume, cycle: number): Promise<Frozen> {
    const bookmark = await this.bookmark(volume, cycle)
    const image = await this.#make(volume, `${this.#nameOf(cycle)}-image`, 'snapshot')
    return { cycle, bookmark, image: volume.points.open(image.name) }
  }

  bookmark(volume: StoreVolume, cycle: number): Promise<PointInfo> { return this.#make(volume, this.#nameOf(cycle), 'bookmark') }

  /** Grains that differ between the base and the frozen image; without a base all of them. */
  changed({ points, grainBytes }: StoreVolume, base: PointInfo | undefined, { image }: Frozen): GrainBitmap {
    if (!base) return new GrainBitmap(divCeil(image.sizeBytes, grainBytes), true)
    return points.changedMap(base.name, image.point.name)
  }

  /** Drops all but the bookmarks that are still needed. What somebody reads at this moment stays until the next time. */
  async sweep(volume: StoreVolume, keep: readonly string[]): Promise<void> {
    const gone = [...this.list(volume, 'snapshot'), ...this.list(volume, 'bookmark').filter(({ uuid }) => !keep.includes(uuid))]
    await dropPoints(volume, gone, ownerOf(this.#mirror.name))
  }

  #nameOf(cycle: number): string { return `mirror-${this.#mirror.name}-${cycle}` }

  #make(volume: StoreVolume, stem: string, kind: PointInfo['kind']): Promise<PointInfo> {
    return volume.points.create({
      name: freeName(volume, stem), kind, labels: { [AUTO_LABEL]: AUTO_MIRROR, [MIRROR_LABEL]: this.#mirror.uuid },
      pins: [{ owner: ownerOf(this.#mirror.name), expiresAt: null }],
    })
  }
}
