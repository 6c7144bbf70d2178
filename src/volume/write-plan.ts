/**
 * Write plans: which rule a change of content falls under. Pure: they look at the map and decide, volume.ts acts.
 * Each plan carries the name of its rule; tests and logs use that name.
 *
 *   write        overwrite     all data: one write in place
 *                fill          some holes, all in open regions: mark as data, one write in place
 *                open-first    holes in closed regions: a durable OPEN record first, then as above
 *                resolve       some stale: whole grains, flushed, before the journal says that they count
 *   zero, trim   nothing       no data anywhere in it
 *                write-zeros   small, or only parts of grains: zeros written over the data
 *                mark          whole grains become stale by a journal record; parts at the edges get zeros written
 *                keep          must stay allocated: zeros written over all of it
 *                not-fast      asked to be fast and cannot
 */
import type { ZeroMode } from '../device/block-device.js'
import { divCeil, roundDown } from '../../native-free/integer.js'
import type { Run, VolumeMap } from './volume-map.js'

/** Zeros up to this many bytes are written in place: cheaper than a journal record, and the space is soon used again. */
export const SMALL_ZERO_BYTES = 64 * 1024
/**
 * A request that would mark more runs than this marks all between the first and the last as one: the record stays small, and
 * so does the stop. One run takes 0.1 ms where 32,768 are noted already.
 */
export const MARK_RUNS_MAX = 64

type WritePlan =
  | { readonly rule: 'overwrite' | 'fill' }
  | { readonly rule: 'open-first' | 'resolve', readonly regions: readonly number[] }

export type ZeroPlan =
  | { readonly rule: 'nothing' | 'write-zeros' | 'keep' | 'not-fast' }
  | { readonly rule: 'mark', readonly runs: readonly Run[] }

const OVERWRITE: WritePlan = Object.freeze({ rule: 'overwrite' })
const FILL: WritePlan = Object.freeze({ rule: 'fill' })
const NOTHING: ZeroPlan = Object.freeze({ rule: 'nothing' })
const WRITE_ZEROS: ZeroPlan = Object.freeze({ rule: 'write-zeros' })
const KEEP: ZeroPlan = Object.freeze({ rule: 'keep' })
const NOT_FAST: ZeroPlan = Object.freeze({ rule: 'not-fast' })

/** What part of a byte range is whole grains. */
interface Shape {
  /** Grains touched: [from, to). */
  readonly from: number
  readonly to: number
  /** Grains wholly inside: [wholeFrom, wholeTo), empty when wholeFrom >= wholeTo. The volume's last grain may be short. */
  readonly wholeFrom: number
  readonly wholeTo: number
}

export function shapeOf(offset: number, length: number, grainBytes: number, sizeBytes: number): Shape {
  const end = offset + length
  return {
    from: Math.floor(offset / grainBytes),
    to: divCeil(end, grainBytes),
    wholeFrom: divCeil(offset, grainBytes),
    wholeTo: end === sizeBytes ? divCeil(end, grainBytes) : roundDown(end, grainBytes) / grainBytes,
  }
}

/** A write to grains [from, to). */
export function planWrite(map: VolumeMap, from: number, to: number): WritePlan {
  if (map.data.isAll(from, to, true)) return OVERWRITE
  const stale = map.stale.size > 0 && map.stale.overlaps(from, to)
  const regions = map.closedHoleRegions(from, to)
  if (stale) return { rule: 'resolve', regions }
  return regions.length > 0 ? { rule: 'open-first', regions } : FILL
}

/** WRITE_ZEROES of `length` bytes. */
export function planZero(map: VolumeMap, shape: Shape, length: number, mode: ZeroMode): ZeroPlan {
  if (mode.allocate) return mode.fast ? NOT_FAST : KEEP
  if (map.data.next(shape.from, shape.to, true) === shape.to) return NOTHING
  if (!mode.fast && length <= SMALL_ZERO_BYTES) return WRITE_ZEROS
  if (mode.fast && edgeHoldsData(map, shape)) return NOT_FAST
  if (shape.wholeFrom >= shape.wholeTo) return WRITE_ZEROS
  const runs = dataRuns(map, shape.wholeFrom, shape.wholeTo)
  if (map.stale.size + runs.length <= map.staleRunsMax) return { rule: 'mark', runs }
  return mode.fast ? NOT_FAST : WRITE_ZEROS
}

/** TRIM: only whole grains, and only while there is room to note them; it is a hint. */
export function planTrim(map: VolumeMap, shape: Shape): ZeroPlan {
  if (shape.wholeFrom >= shape.wholeTo) return NOTHING
  const runs = dataRuns(map, shape.wholeFrom, shape.wholeTo)
  if (runs.length === 0 || map.stale.size + runs.length > map.staleRunsMax) return NOTHING
  return { rule: 'mark', runs }
}

/** Runs of data in [from, to); one for all of them when there are more than MARK_RUNS_MAX. */
function dataRuns(map: VolumeMap, from: number, to: number): Run[] {
  const runs: Run[] = []
  const limit = Math.min(MARK_RUNS_MAX, map.staleRunsMax)
  for (let start = map.data.next(from, to, true); start < to;) {
    const end = map.data.runEnd(start, to)
    if (runs.length === limit) return [{ start: runs[0].start, end: to }]
    runs.push({ start, end })
    start = map.data.next(end, to, true)
  }
  return runs
}

/** A grain of which only a part is asked for, and that part may hold data. */
function edgeHoldsData(map: VolumeMap, shape: Shape): boolean {
  if (shape.from < shape.wholeFrom && map.data.get(shape.from)) return true
  return shape.to > shape.wholeTo && map.data.get(shape.to - 1)
}
