/**
 * Where the maps of a point lie in its file `maps`, and those of an inheritance in `todo`; making and opening them.
 *
 *   maps   [ changed | owned A | owned B | bytes A | bytes B | lent A | lent B ]      bookmarks: changed alone
 *   todo   [ todo A | todo B ]
 *
 * Each section begins at a fixed place, with room for the map of POINT_GRAINS_MAX grains, so that the newest point grows with
 * its volume and nothing moves. The file has its full length from the start; what lies between is holes.
 *
 * Arithmetic: a map of 2^32 grains is 604,045,312 bytes long; a section has 640 MiB, `maps` of a snapshot 4.375 GiB, all of it
 * holes but one sector a map for each 2^25 grains: 28 KiB for a volume of 128 GiB in grains of 4 KiB, 3.5 MiB for 16 TiB.
 */
import type { BlockDevice } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import { SliceDevice } from '../device/slice.js'
import { MapFile, type MapIdentity } from './map-file.js'
import { TwinMap } from './twin-map.js'

/** 16 TiB in grains of 4 KiB, 4 PiB in grains of 1 MiB. A larger volume has no points. */
export const POINT_GRAINS_MAX = 2 ** 32
export const SECTION_BYTES = 640 * 2 ** 20

export type PointMapKind = 'snapshot' | 'bookmark'

interface Section {
  readonly start: number
  readonly sizeBytes: number
}

interface PointMapsLayout {
  /** Of the file. */
  readonly sizeBytes: number
  readonly changed: Section
  /** Twins: A is the first half. Snapshots only. */
  readonly exact: Readonly<Record<'owned' | 'bytes' | 'lent', Section>> | undefined
}

/** Errors: too-large. */
export function pointMapsLayout(grains: number, kind: PointMapKind): PointMapsLayout {
  refuseTooMany(grains)
  const changed = { start: 0, sizeBytes: SECTION_BYTES }
  if (kind === 'bookmark') return { sizeBytes: SECTION_BYTES, changed, exact: undefined }
  const twin = (index: number): Section => ({ start: (1 + 2 * index) * SECTION_BYTES, sizeBytes: 2 * SECTION_BYTES })
  return { sizeBytes: 7 * SECTION_BYTES, changed, exact: { owned: twin(0), bytes: twin(1), lent: twin(2) } }
}

/** Of the file `todo`. */
export const TODO_FILE_BYTES = 2 * SECTION_BYTES

/** The maps of one point, over its file `maps`. */
export interface PointMaps {
  /** May say too much. What does not check reads as all set. */
  readonly changed: MapFile
  /** Exact; a bookmark has none. They lie on one device: `saveTwins` saves them together. */
  readonly exact: Readonly<Record<'owned' | 'bytes' | 'lent', TwinMap>> | undefined
}

/** `identity.point` is the point's seq. Nothing is read yet. Errors: too-large. */
export function pointMaps(device: BlockDevice, identity: MapIdentity, grains: number, kind: PointMapKind): PointMaps {
  const { changed, exact } = pointMapsLayout(grains, kind)
  const slice = ({ start, sizeBytes }: Section): SliceDevice => new SliceDevice(device, start, sizeBytes)
  const named = (what: string, base: number): MapIdentity => ({ ...identity, name: `${identity.name}: ${what}`, base })
  const twin = (what: keyof NonNullable<typeof exact>): TwinMap => {
    const section = exact![what]
    return new TwinMap(slice(section), named(what, section.start), grains)
  }
  return {
    changed: new MapFile(slice(changed), named('changed', changed.start), grains),
    exact: exact && { owned: twin('owned'), bytes: twin('bytes'), lent: twin('lent') },
  }
}

/** Lays down the maps of a new point, all clear, and makes them durable. */
export async function formatPointMaps(
  device: BlockDevice, identity: MapIdentity, grains: number, kind: PointMapKind,
): Promise<void> {
  const { changed, exact } = pointMaps(device, identity, grains, kind)
  await changed.fill(false)
  if (exact) for (const map of [exact.owned, exact.bytes, exact.lent]) await map.format(false)
  await device.flush()
}

/** The map of an inheritance, over the file `todo`. Errors: too-large. */
export function todoMap(device: BlockDevice, identity: MapIdentity, grains: number): TwinMap {
  refuseTooMany(grains)
  return new TwinMap(device, identity, grains)
}

function refuseTooMany(grains: number): void {
  if (grains <= POINT_GRAINS_MAX) return
  throw new NbdeltaError('too-large', `a volume of ${grains} grains can have no points: at most ${POINT_GRAINS_MAX} grains`, {
    hint: 'a volume with larger grains has fewer of them',
  })
}
