/**
 * SourcePoints: the points that one mirror has on its source.
 *
 *   mirror-NAME-N         bookmark, made first: what changed since it, has changed since the image as well (a superset, D4)
 *   mirror-NAME-N-image   snapshot, made at once after it: what cycle N ships; gone when the cycle is over, or when the volume
 *                         has no room for what it keeps (`wanted`, space.ts): bookmarks have all that was to be shipped
 *
 * When several mirrors freeze at one instant (mirror-group.ts) the images are one operation of the store, and the bookmarks, made
 * before it, say its uuid: points declared with the same one are of one instant. Mirrors of one source then share its image.
 *
 * A mirror that keeps snapshots ships those that operators and schedules make as well, each by a cycle of its own (carry.ts):
 * such a snapshot is image and base at once, pinned until the mirror has gone on from it.
 *
 * So between cycles a mirror costs a source no copy on write, only a map; and in a cycle, where it is known beforehand what that
 * is going to read, copies of that alone. Both are pinned by the mirror, and labelled with its uuid, so that what a crash leaves
 * is found again and dropped (`sweep`).
 */
import { setMaxListeners } from 'node:events'
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { divCeil } from '../../native-free/integer.js'
import { NbdeltaError } from '../device/errors.js'
import { freePointName } from '../volume/free-name.js'
import { AUTO_LABEL, type CreatePointOptions, type Kept, type PointDevice, type PointInfo } from '../volume/snappoint.js'
import type { StoreVolume } from '../volume/store-volume.js'
import { bytesOf } from './grain-bytes.js'
import type { DeclaredPoint } from './target.js'
import { AUTO_MIRROR, dropPoints, MIRROR_LABEL, ownerOf } from './volume-target.js'

/** Of a bookmark: which group of mirrors froze it, and what others froze with it. */
const INSTANT_LABEL = 'instant'
/** Bookmarks of cycles of which nobody knows whether the target declared them. */
const NEWER_KEPT = 2

export interface Frozen {
  readonly cycle: number
  readonly bookmark: PointInfo
  readonly image: PointDevice
  /** Aborts, with an error that says why: whoever has the image open closes it, soon. Never, if it is others' snapshot. */
  readonly wanted: AbortSignal
}

/** An image that is to be made. */
interface Planned { readonly options: CreatePointOptions, readonly wanted: AbortSignal }

export class SourcePoints {
  readonly #mirror: { readonly uuid: string, readonly name: string }
  readonly #judge: (volume: StoreVolume) => void

  /** @param judge throws if a volume must not be frozen as it is */
  constructor(mirror: { readonly uuid: string, readonly name: string }, judge: (volume: StoreVolume) => void = () => undefined) {
    this.#mirror = mirror
    this.#judge = judge
  }

  /** The mirror's own, of one volume, oldest first; not those that another mirror has declared on it. */
  list({ points }: StoreVolume, kind: PointInfo['kind']): PointInfo[] {
    return points.list().filter(point => point.kind === kind && point.labels[MIRROR_LABEL] === this.#mirror.uuid)
  }

  find(volume: StoreVolume, uuid: string | undefined): PointInfo | undefined {
    return [...this.list(volume, 'bookmark'), ...snapshotsOf(volume)].find(point => point.uuid === uuid)
  }

  /** A snapshot as what a cycle ships; it stays as long as it may be a base. Errors: not-found. */
  async hold({ points }: StoreVolume, cycle: number, bookmark: PointInfo): Promise<Frozen> {
    await points.pin(bookmark.name, { owner: ownerOf(this.#mirror.name), expiresAt: null })
    return { cycle, bookmark, image: points.open(bookmark.name), wanted: new AbortController().signal }
  }

  /**
   * Of a snapshot of which the instant was told: behind its making, pinned likewise, by whatever name it has then. Undefined: it
   * is not there, and will never be. Errors: those of a pin.
   */
  async made({ points }: StoreVolume, { uuid, name }: PointInfo): Promise<PointInfo | undefined> {
    const owner = ownerOf(this.#mirror.name)
    for (let at = name; ;) {
      await points.pin(at, { owner, expiresAt: null }).catch(unlessGone)
      const found = points.list().find(point => point.uuid === uuid)
      if (!found || found.pins.some(pin => pin.owner === owner)) return found
      at = found.name
    }
  }

  /**
   * O(1), whatever the size. @param keeps all that will be read of the image, if that is known; @param atInstant called at that
   * of the image. Errors: exists, no-space, io.
   */
  async freeze(volume: StoreVolume, cycle: number, keeps: Kept | undefined, atInstant?: () => void): Promise<Frozen> {
    const bookmark = await this.bookmark(volume, cycle)
    const planned = this.planImage(volume, cycle)
    const image = await volume.points.create({ ...planned.options, ...keeps && { keeps }, ...atInstant && { atInstant } })
    return { cycle, bookmark, ...openImage(volume, image.name, planned) }
  }

  /** @param more `instant`: uuid of what is frozen with it; `atInstant`: called at its instant */
  bookmark(
    volume: StoreVolume, cycle: number, more: { readonly instant?: string, readonly atInstant?: () => void } = {},
  ): Promise<PointInfo> {
    const { instant, atInstant } = more
    const options = this.#options(volume, this.#nameOf(cycle), 'bookmark')
    return volume.points.create({
      ...options, ...instant !== undefined && { labels: { ...options.labels, [INSTANT_LABEL]: instant } },
      ...atInstant && { atInstant },
    })
  }

  planImage(volume: StoreVolume, cycle: number): Planned {
    const abort = new AbortController()
    // As many mirrors as have it for their image.
    setMaxListeners(0, abort.signal)
    const letGo = (): void => { abort.abort(noRoom(volume.name)) }
    return { options: { ...this.#options(volume, `${this.#nameOf(cycle)}-image`, 'snapshot'), letGo }, wanted: abort.signal }
  }

  /** Grains that differ between the base and the frozen image; without a base all of them. */
  changed({ points, grainBytes }: StoreVolume, base: PointInfo | undefined, { image }: Frozen): GrainBitmap {
    if (!base) return new GrainBitmap(divCeil(image.sizeBytes, grainBytes), true)
    return points.changedMap(base.name, image.point.name)
  }

  /** What has changed since a point of it, bytes; null: it is not there. */
  changedBytes(volume: StoreVolume, uuid: string | undefined): number | null {
    const point = this.find(volume, uuid)
    return point ? bytesOf(volume.points.changedMap(point.name), volume.grainBytes, volume.sizeBytes) : null
  }

  /** The base stays, and what is newer: a target may have declared it without anybody having heard of it. */
  async sweepTo(volume: StoreVolume, base: string | undefined): Promise<void> {
    const point = this.find(volume, base)
    const isNewer = ({ seq }: PointInfo): boolean => seq > (point?.seq ?? 0)
    const newer = [...this.list(volume, 'bookmark').filter(isNewer).slice(-NEWER_KEPT), ...snapshotsOf(volume).filter(isNewer)]
    await this.sweep(volume, [...point ? [point] : [], ...newer].map(({ uuid }) => uuid))
  }

  /** Drops all but what is still needed, and lets go of others' snapshots. What somebody reads now stays until the next time. */
  async sweep(volume: StoreVolume, keep: readonly string[]): Promise<void> {
    const gone = [...this.list(volume, 'snapshot'), ...this.list(volume, 'bookmark').filter(({ uuid }) => !keep.includes(uuid))]
    const owner = ownerOf(this.#mirror.name)
    await dropPoints(volume, gone, owner)
    for (const { uuid, name, pins } of snapshotsOf(volume)) {
      if (!keep.includes(uuid) && pins.some(pin => pin.owner === owner)) await volume.points.unpin(name, owner)
    }
  }

  #nameOf(cycle: number): string { return `mirror-${this.#mirror.name}-${cycle}` }

  #options(volume: StoreVolume, stem: string, kind: PointInfo['kind']): CreatePointOptions {
    return {
      name: freePointName(volume, stem), kind, labels: { [AUTO_LABEL]: AUTO_MIRROR, [MIRROR_LABEL]: this.#mirror.uuid },
      pins: [{ owner: ownerOf(this.#mirror.name), expiresAt: null }], judge: () => { this.#judge(volume) },
    }
  }
}

/** Errors: no-space (it has been given up already). */
export function openImage({ points }: StoreVolume, name: string, { wanted }: Planned): Pick<Frozen, 'image' | 'wanted'> {
  wanted.throwIfAborted()
  return { image: points.open(name, { yields: true, image: true }), wanted }
}

function noRoom(volume: string): NbdeltaError {
  return new NbdeltaError('no-space', `volume ${volume} has no room for what a mirror's image keeps: it was given up`,
    { hint: 'give the volume more room (nbdelta volume set-budget), or delete snapshots' })
}

/** Of what the source holds there the target makes a copy that stays; nothing, if the mirror keeps no snapshots. */
export function keptOf(
  volume: StoreVolume, keepSnapshots: number, { uuid, name }: PointInfo,
): Pick<DeclaredPoint, 'snapshot' | 'kept'> {
  if (keepSnapshots === 0) return {}
  const kept = snapshotsOf(volume).slice(-keepSnapshots).map(point => point.uuid)
  return { kept, ...kept.includes(uuid) && { snapshot: name } }
}

/** Those that operators and schedules have made, oldest first. */
export function snapshotsOf({ points }: StoreVolume): PointInfo[] { return points.list().filter(isSnapshot) }

/** Somebody's own, or a schedule's. */
export function isSnapshot({ kind, labels }: PointInfo): boolean {
  return kind === 'snapshot' && labels[MIRROR_LABEL] === undefined
    && (labels[AUTO_LABEL] === undefined || labels[AUTO_LABEL] === 'schedule')
}

/** Errors: all but not-found. */
export function unlessGone(error: unknown): undefined {
  if (!(error instanceof NbdeltaError) || error.code !== 'not-found') throw error
}

/** Uuid of what was frozen with a mirror's bookmark, at one instant; undefined: it was frozen alone. */
export function instantOf(point: PointInfo | undefined): string | undefined { return point?.labels[INSTANT_LABEL] }
