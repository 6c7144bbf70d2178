/**
 * Orphans: what deleted mirrors have left on volumes of this store, because a crash or a disk has cut their deletion short behind
 * the record (ending.ts). Pinned by a mirror that nobody knows it could never be deleted.
 *
 * - What such a mirror had for itself goes: bookmarks, images, what was frozen for a source.
 * - What it has declared on a target is let go of and stays, like copies of snapshots: it may be all that is whole there.
 * - Of nobody's own points only the pin goes.
 */
import type { Store } from '../volume/open-store.js'
import type { PointInfo } from '../volume/snappoint.js'
import type { StoreVolume } from '../volume/store-volume.js'
import { isSecondary } from './mirror-record.js'
import { dropPoints, isDeclared, MIRROR_LABEL, ownerOf } from './volume-target.js'

type OrphanStore = Pick<Store, 'list' | 'mirrors'>

const OWNED = ownerOf('')

/** Errors: those of a volume, behind the others. */
export async function dropOrphans(store: OrphanStore): Promise<void> {
  const failures: unknown[] = []
  for (const volume of store.list()) {
    if (volume.problem) continue
    for (const point of volume.points.list()) {
      await dropOrphan(store, volume, point).catch((error: unknown) => failures.push(error))
    }
  }
  if (failures.length > 0) throw failures[0]
}

async function dropOrphan(store: OrphanStore, volume: StoreVolume, point: PointInfo): Promise<void> {
  for (const { owner } of point.pins) {
    if (!owner.startsWith(OWNED) || isKnown(store, volume, point, owner)) continue
    if (point.labels[MIRROR_LABEL] === undefined || isDeclared(point)) await volume.points.unpin(point.name, owner)
    else await dropPoints(volume, [point], owner)
  }
}

/** Also by an entry that cannot be understood. */
function isKnown({ mirrors }: OrphanStore, volume: StoreVolume, { labels }: PointInfo, owner: string): boolean {
  const mirror = labels[MIRROR_LABEL]
  return mirrors.some(({ uuid, name, volume: of, state }) =>
    isSecondary(state) ? of === volume.uuid : mirror === undefined ? owner === ownerOf(name) : uuid === mirror)
}
