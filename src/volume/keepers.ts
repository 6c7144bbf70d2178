/**
 * Keepers: which snapshot keeps the old content of a grain that live is about to overwrite.
 *
 * The youngest snapshot that stays does, for itself and for all older ones. One made for a purpose may keep less than everything
 * (`Point.within`): what has changed between an older point and itself, say, because nobody reads more of it. Grains outside of
 * that are kept by the next older one, as if it were not there, or by nobody.
 *
 * Invariants
 * - A grain is needed by its keeper if and only if neither the keeper nor a snapshot newer than it owns it: those that are being
 *   deleted, and those that keep less. (Marks never say so: after a crash there are too many of them.)
 * - What is outside of a point's bounds once is outside as long as it lives, but for a point that has lost them (a new process,
 *   or the older point is gone): it keeps everything then. That costs copies, and nobody else's content.
 */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import type { Bounds, Point } from './point.js'
import type { Run } from './volume-map.js'

/** A run of grains, empty when there is none, and who needs it. */
export interface Needed extends Run { readonly point: Point | undefined }

interface Keeper {
  readonly point: Point
  /** Newer snapshots that may own what this one does not. */
  readonly covering: readonly Point[]
  /** Undefined: it keeps everything. */
  readonly bounds: Maps | undefined
}

/** Grains that are set in one of the maps, and all from a grain on; none before `done`. */
interface Maps { readonly maps: readonly GrainBitmap[], readonly within: Bounds }

export class Keepers {
  /** Youngest first. */
  readonly points: readonly Point[]
  /** Youngest first; the last one may keep everything, no other does. */
  readonly #keepers: readonly Keeper[]

  /** @param points of a chain, oldest first; to be made anew whenever they, or their states, have changed */
  constructor(points: readonly Point[]) {
    const keepers: Keeper[] = []
    const newer: Point[] = []
    for (let i = points.length - 1; i >= 0; i--) {
      const point = points[i]
      if (!point.isSnapshot) continue
      if (point.state !== 'deleting') {
        const bounds = boundsOf(point, points)
        keepers.push({ point, covering: [...newer], bounds })
        if (!bounds) break
      }
      newer.push(point)
    }
    this.#keepers = keepers
    this.points = keepers.map(({ point }) => point)
  }

  /** The first run in [from, to) that a snapshot needs, all of it the same one; empty, at `to`, when there is none. */
  next(from: number, to: number): Needed { return neededBy(this.#keepers, from, to) }

  /**
   * What of [from, to) is needed, if it is by images alone, and by nobody who is older; else undefined. One that has lost its
   * bounds keeps for all older ones.
   */
  brief(from: number, to: number): readonly Needed[] | undefined {
    if (!this.#keepers.at(0)?.bounds) return undefined
    const runs: Needed[] = []
    for (let run = this.next(from, to); run.start < to; run = this.next(run.end, to)) {
      const at = this.points.indexOf(run.point!)
      if (!this.#keepers[at].bounds) return undefined
      if (neededBy(this.#keepers.slice(at + 1), run.start, run.end).start < run.end) return undefined
      runs.push(run)
    }
    return runs
  }

  /** Nothing of [from, to) is needed by a snapshot. */
  without(from: number, to: number): boolean {
    const first = this.#keepers.at(0)
    if (!first) return true
    if (first.bounds || first.covering.length > 0) return this.next(from, to).start === to
    const { owned } = first.point
    return from >= owned.length || owned.isAll(from, Math.min(to, owned.length), true)
  }
}

function neededBy(keepers: readonly Keeper[], from: number, to: number): Needed {
  for (let at = from; at < to;) {
    let end = to
    for (const { point, covering, bounds } of keepers) {
      const within = bounds ? runOf(bounds, at, end) : end - at
      end = at + Math.abs(within)
      if (within < 0) continue
      const run = neededOf(point, covering, at, end)
      if (run.start < run.end) return { point, ...run }
      break
    }
    at = end
  }
  return { point: undefined, start: to, end: to }
}

function boundsOf({ within, seq }: Point, points: readonly Point[]): Maps | undefined {
  if (!within || !points.some(point => point.seq === within.since && point.state !== 'deleting')) return undefined
  const maps = points.filter(point => point.seq >= within.since && point.seq < seq).map(({ changed }) => changed)
  return { within, maps: within.also ? [...maps, within.also] : maps }
}

/** The first grains of [at, limit) that are all within (positive), or all outside. */
function runOf({ maps, within: { from, done } }: Maps, at: number, limit: number): number {
  if (at < done) return at - Math.min(limit, done)
  if (at >= from) return limit - at
  let end = Math.min(limit, from)
  for (const map of maps) {
    const stop = Math.min(end, map.length)
    if (at >= stop) continue
    if (map.get(at)) return map.runEnd(at, stop) - at
    const found = map.next(at, stop, true)
    if (found < stop) end = found
  }
  return at - end
}

function neededOf({ owned }: Point, covering: readonly Point[], from: number, to: number): Run {
  const limit = Math.min(to, owned.length)
  let start = from
  while (start < limit) {
    start = owned.next(start, limit, false)
    if (start >= limit || !covering.some(other => start < other.owned.length && other.owned.get(start))) break
    start++
  }
  if (start >= limit) return { start: to, end: to }
  let end = owned.next(start, limit, true)
  for (const other of covering) {
    if (start < other.owned.length) end = other.owned.next(start, Math.min(end, other.owned.length), true)
  }
  return { start, end }
}
