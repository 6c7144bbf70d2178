/**
 * Restore plan: which grains of a volume have to show a snapshot's content from now on. Pure.
 *
 *   nothing   live reads as the snapshot does already, within the range: no undo point, no mark, no copy
 *   owned     a snapshot of the volume itself: what some snapshot from it on owns. All else it sees as ditto, through to live,
 *             so it is the same by definition. (Changed maps would say too much: after a crash, and for writes of the same.)
 *             Of a snapshot of another volume: what the caller knows to differ, if it does.
 *   all       a snapshot of another volume: every grain of the range
 *
 * Limits: nothing is compared. Grains that were written with what they held before are in the set.
 */
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { divCeil } from '../../native-free/integer.js'
import type { Point } from './point.js'
import type { Run } from './volume-map.js'

export type RestorePlan =
  | { readonly rule: 'nothing' }
  | { readonly rule: 'owned' | 'all', readonly set: GrainBitmap }

const NOTHING: RestorePlan = Object.freeze({ rule: 'nothing' })

/**
 * @param owned what each snapshot from the source on owns, or what may differ; undefined: nothing is known of that
 * @param range grains within the source and the volume
 * @param base grains of a clone that are its base's still: no snapshot of it sees anything else there
 */
export function planRestore(
  grains: number, owned: readonly GrainBitmap[] | undefined, range: Run, base: GrainBitmap | undefined,
): RestorePlan {
  if (range.start >= range.end) return NOTHING
  const set = new GrainBitmap(grains)
  if (!owned) {
    set.set(range.start, range.end)
    return { rule: 'all', set }
  }
  for (const map of owned) {
    if (map.length === grains) set.or(map)
    else set.or(resized(map, grains))
  }
  if (range.start > 0) set.clear(0, range.start)
  if (range.end < grains) set.clear(range.end, grains)
  if (base) set.andNot(base)
  return set.next(0, grains, true) < grains ? { rule: 'owned', set } : NOTHING
}

/** Grains of [offset, offset + length) bytes that lie in the source, too. */
export function rangeOf(offset: number, length: number, sourceBytes: number, grainBytes: number): Run {
  const end = Math.min(offset + length, sourceBytes)
  return offset < end ? { start: Math.floor(offset / grainBytes), end: divCeil(end, grainBytes) } : { start: 0, end: 0 }
}

/** What the snapshots from `from` on own, older ones than `before`. The same until one of them is pinned no more. */
export function ownedFrom(points: readonly Point[], from: Point, before = Infinity): GrainBitmap[] {
  return points.filter(point => point.isSnapshot && point.seq >= from.seq && point.seq < before).map(point => point.owned)
}

/** @param fill what grains behind its end are */
export function resized(map: GrainBitmap, grains: number, fill = false): GrainBitmap {
  const copy = map.clone()
  copy.resize(grains, fill)
  return copy
}
