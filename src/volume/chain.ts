/**
 * Chain: the points of one open volume, oldest to newest, and every edit of their maps.
 *
 *     oldest                                         newest
 *     [ S1 ] -> [ B2 ] -> [ S3 ] -> live             writes are marked in `newest` and preserved for S3 (keepers.ts)
 *
 *   newest    the youngest point that is not being deleted: its changed map takes the marks
 *   plain     grains that may be overwritten at once: marked in `newest` for good, needed by nobody, lent to nobody.
 *             All that the hot path looks at. It starts clear with each new point, and at open, and is only ever a cache.
 *   loose     marks whose record (ZERO, LEND) is in the journal but perhaps not durable
 *
 * Invariants
 * - `lent` is the union of what all points have lent; a grain is lent to at most one point, and is neither data nor stale.
 * - `merges` grows whenever a point leaves the chain or hands grains over: whoever remembers where grains lie starts anew.
 */
import { GrainBitmap, PAGE_BITS } from '../../native-free/grain-bitmap.js'
import { divCeil } from '../../native-free/integer.js'
import { IntervalSet } from '../../native-free/interval-set.js'
import { EXTENT_GRAINS, encodeRanges } from '../store/journal-records.js'
import type { LogRecord } from '../store/record-log-layout.js'
import { Keepers, type Needed } from './keepers.js'
import type { DirtyPages, Point } from './point.js'
import { Usage } from './usage.js'
import type { Run, VolumeMap } from './volume-map.js'

/** An extent that no volume has: a HOT record of it says which point is the newest, and nothing else. */
export const NO_EXTENT: Run = Object.freeze({ start: 2 ** 50, end: 2 ** 50 + 1 })

/** Where a grain of a snapshot lies. */
export type Place = 'bytes' | 'lent' | 'zeros' | 'live'

export class Chain {
  /** Oldest first, those being made or deleted included. */
  readonly points: Point[] = []
  plain: GrainBitmap | undefined
  newest: Point | undefined
  lent: GrainBitmap | undefined
  loose = new IntervalSet()
  merges = 0
  /** What all of them keep in their files. */
  readonly usage = new Usage()
  #keepers = new Keepers([])
  #saving = false
  readonly #map: VolumeMap

  constructor(map: VolumeMap) { this.#map = map }

  /** No point, not even one that is being deleted: everything is as if there never had been one. */
  get isEmpty(): boolean { return this.points.length === 0 }

  /** A new newest point. What is marked and preserved from now on is its. */
  add(point: Point): void {
    this.points.push(point)
    if (this.#saving) point.beginSave()
    const before = this.newest
    // The next writes need no record: these extents may change without notice in the new point as well.
    if (before) for (const { start, end } of before.hot) point.hot.add(start, end)
    this.refresh()
    this.plain = new GrainBitmap(this.#map.grains)
    this.loose = new IntervalSet()
  }

  /** A point read from disk, newer than those that are there. */
  adopt(point: Point): void {
    this.points.push(point)
    this.usage.add(point.bytes)
    this.#addLentOf(point)
  }

  /** After a replay: an old record may have taken from `lent` what a newer map on disk has lent again. */
  unite(): void {
    this.lent = undefined
    for (const point of this.points) this.#addLentOf(point)
  }

  #addLentOf({ lent }: Point): void {
    for (const { start, end } of lent.runs()) this.#addLent(start, end)
  }

  /** The state of a point has changed: who takes marks and who preserves is found again. */
  refresh(): void {
    this.merges++
    this.newest = this.points.findLast(point => point.state !== 'deleting')
    this.#keepers = new Keepers(this.points)
    if (!this.newest) this.plain = undefined
    else this.plain ??= new GrainBitmap(this.#map.grains)
  }

  /** The point of this number, or who took over from it: the next older one. */
  at(seq: number): Point | undefined { return this.points.findLast(point => point.seq <= seq) }

  /** After a replay: what is being deleted has handed its marks on, and who takes marks and preserves is known. */
  settle(): void {
    for (const point of this.points) if (point.state === 'deleting') this.foldMarks(point)
    this.refresh()
  }

  /** The point is gone for good. */
  remove(point: Point): void {
    this.points.splice(this.points.indexOf(point), 1)
    this.usage.remove(point.bytes)
    if (this.isEmpty) this.lent = undefined
    this.refresh()
  }

  /** The point's marks are those of the next older one that stays as well: it is about to go. */
  foldMarks(point: Point): void {
    const older = this.points.slice(0, this.points.indexOf(point)).findLast(({ state }) => state !== 'deleting')
    if (!older) return
    if (older.changed.length < point.changed.length) older.changed.resize(point.changed.length, false)
    for (const { start, end } of point.changed.runs()) {
      older.changed.set(start, end)
      older.noteChanged(start, end)
    }
    for (const { start, end } of point.hot) older.hot.add(start, end)
    // What is not durable of one point is not of the other: whoever needs it says it again.
    for (const { start, end } of [...point.heating, ...point.keeping]) older.heating.add(start, end)
    if (older.fresh) for (const { start, end } of [...older.hot, ...older.heating]) older.fresh.extents.add(start, end)
  }

  /** The next older snapshot: who inherits what this one owns. */
  heirOf(point: Point): Point | undefined {
    return this.points.slice(0, this.points.indexOf(point)).findLast(other => other.isSnapshot)
  }

  /** [from, to) changes in the newest point. */
  mark(from: number, to: number): void {
    const point = this.newest
    if (point) this.markIn(point, from, to)
  }

  /** As `mark`, by a record that may not be durable yet. */
  markLoosely(from: number, to: number): void {
    this.mark(from, to)
    if (this.newest) this.loose.add(from, to)
  }

  markIn(point: Point, from: number, to: number): void {
    const end = Math.min(to, point.changed.length)
    if (from >= end || point.changed.isAll(from, end, true)) return
    point.changed.set(from, end)
    point.noteChanged(from, end)
    point.fresh?.extents.add(Math.floor(from / EXTENT_GRAINS), divCeil(end, EXTENT_GRAINS))
  }

  /**
   * As a journal says at open. What the map on disk says already is written again as well: a sync that has failed may have
   * left it in the page cache alone (src/store/open-record-log.ts), and the next checkpoint drops the record.
   */
  markAgain(point: Point, from: number, to: number): void {
    this.markIn(point, from, to)
    const end = Math.min(to, point.changed.length)
    if (from < end) point.noteChanged(from, end)
  }

  /** Those that preserve what live overwrites, youngest first. */
  get keepers(): readonly Point[] { return this.#keepers.points }

  /** The first run in [from, to) that a snapshot needs, all of it the same one; empty, at `to`, when there is none. */
  neededRun(from: number, to: number): Needed { return this.#keepers.next(from, to) }

  /** True when nothing of [from, to) is needed by a snapshot. */
  unneeded(from: number, to: number): boolean { return this.#keepers.without(from, to) }

  /** What of [from, to) snapshots need, if they can all keep it briefly; undefined: somebody else needs some of it. */
  briefRuns(from: number, to: number): readonly Needed[] | undefined { return this.#keepers.brief(from, to) }

  isLent(from: number, to: number): boolean {
    return this.lent !== undefined && from < this.lent.length && !this.lent.isAll(from, Math.min(to, this.lent.length), false)
  }

  /** Everything lent in [from, to). */
  * lentRuns(to: number, from = 0): Generator<Run> {
    const { lent } = this
    const limit = Math.min(to, lent?.length ?? 0)
    for (let at = lent && limit > from ? lent.next(from, limit, true) : limit; at < limit;) {
      const end = lent!.runEnd(at, limit)
      yield { start: at, end }
      at = end < limit ? lent!.next(end, limit, true) : limit
    }
  }

  /** Who has this grain lent. */
  borrowerOf(grain: number): Point {
    const found = this.points.findLast(({ lent }) => grain < lent.length && lent.get(grain))
    if (!found) throw new Error(`grain ${grain} is lent to nobody`)
    return found
  }

  /** The snapshot owns [from, to), bytes in `preserved`. */
  preserve(point: Point, from: number, to: number): void {
    this.#own(point, from, to)
    this.usage.keep(point.bytes, from, to)
    point.bytes.set(from, to)
    this.#unlend(point, from, to)
    if (point.fresh) move(point.fresh.bytes, [point.fresh.zero, point.fresh.lent], from, to)
  }

  /** The snapshot owns [from, to), bytes in `preserved`, until this process ends. Its files never say so. */
  keepBriefly(point: Point, from: number, to: number): void {
    this.usage.keep(point.bytes, from, to)
    for (const map of [point.owned, point.bytes, point.brief!]) map.set(from, to)
  }

  /** The snapshot owns [from, to), zeros. */
  preserveZero(point: Point, from: number, to: number): void {
    this.#own(point, from, to)
    this.usage.drop(point.bytes, from, to)
    point.bytes.clear(from, to)
    this.#unlend(point, from, to)
    if (point.fresh) move(point.fresh.zero, [point.fresh.bytes, point.fresh.lent], from, to)
  }

  /** The snapshot owns [from, to), bytes in live's file; live itself reads zeros there. */
  lend(point: Point, from: number, to: number): void {
    for (const other of this.points) {
      const end = Math.min(to, other.lent.length)
      if (other === point || from >= end || other.lent.isAll(from, end, false)) continue
      this.#unlend(other, from, end)
      this.merges++
    }
    this.#own(point, from, to)
    this.usage.drop(point.bytes, from, to)
    point.bytes.clear(from, to)
    point.lent.set(from, to)
    // An image that has lost its bounds (keepers.ts) may take what it did not need before.
    if (this.plain && from < this.plain.length) this.plain.clear(from, Math.min(to, this.plain.length))
    this.#addLent(from, to)
    if (point.fresh) move(point.fresh.lent, [point.fresh.bytes, point.fresh.zero], from, to)
  }

  /**
   * A snapshot that owns nothing of `set` yet takes over what live shows there: bytes where live has `data`, which are lent, else
   * zeros. It is the newest point, and all of it is marked. No checkpoint runs.
   */
  lendAll(point: Point, set: GrainBitmap, data: GrainBitmap): void {
    const lent = set.clone()
    if (!set.isWithin(data)) {
      const without = set.clone()
      without.andNot(data)
      lent.andNot(without)
    }
    point.owned.or(set)
    point.lent.or(lent)
    point.changed.or(set)
    for (const page of set.usedPages()) {
      const [from, to] = [page * PAGE_BITS, Math.min(set.length, (page + 1) * PAGE_BITS)]
      point.noteExact(from, to)
      point.noteChanged(from, to)
    }
    this.lent ??= new GrainBitmap(set.length)
    if (this.lent.length < set.length) this.lent.resize(set.length, false)
    lent.resize(this.lent.length, false)
    this.lent.or(lent)
    this.merges++
  }

  /** Where snapshot number `index` of the chain finds the grain: which point, and how. */
  find(index: number, grain: number): { readonly point: Point | undefined, readonly place: Place } {
    for (let i = index; i < this.points.length; i++) {
      const point = this.points[i]
      if (grain < point.owned.length && point.owned.get(grain)) return { point, place: placeIn(point, grain) }
    }
    return { point: undefined, place: 'live' }
  }

  /** The volume's size has changed. Nothing that a snapshot needs has been cut off. */
  resize(grains: number): void {
    if (this.newest && this.newest.changed.length < grains) this.newest.changed.resize(grains, false)
    this.plain?.resize(grains, false)
  }

  /** Ranges that the journal would have to repeat if a checkpoint ended now. */
  get freshRanges(): number {
    return this.points.reduce((sum, { fresh }) => sum + (fresh ? fresh.bytes.size + fresh.zero.size + fresh.lent.size : 0), 0)
  }

  /** What to save of which point; what happens from now on is kept as well. */
  beginCheckpoint(): Map<Point, DirtyPages> {
    this.#saving = true
    return new Map(this.points.map(point => [point, point.beginSave()]))
  }

  /** It is all durable. What the journal must say beside it: what happened meanwhile, and at last who is the newest. */
  endCheckpoint(): LogRecord[] {
    this.#saving = false
    const records: LogRecord[] = []
    for (const { seq, fresh } of this.points) {
      if (!fresh) continue
      records.push(...encodeRanges('preserve', fresh.bytes, seq), ...encodeRanges('preserveZero', fresh.zero, seq),
        ...encodeRanges('lend', fresh.lent, seq))
    }
    for (const point of this.points) {
      point.cool()
      records.push(...encodeRanges('hot', [...point.hot, ...point.heating, ...point.keeping], point.seq))
    }
    const newest = this.newest
    if (newest) records.push(...encodeRanges('hot', [NO_EXTENT], newest.seq))
    return records
  }

  abandonCheckpoint(points: ReadonlyMap<Point, DirtyPages>): void {
    this.#saving = false
    for (const [point, pages] of points) point.dirtyAgain(pages)
    for (const point of this.points) point.fresh = undefined
  }

  #addLent(from: number, to: number): void {
    this.lent ??= new GrainBitmap(this.#map.grains)
    if (this.lent.length < to) this.lent.resize(to, false)
    this.lent.set(from, to)
  }

  #own(point: Point, from: number, to: number): void {
    point.owned.set(from, to)
    point.noteExact(from, to)
  }

  #unlend(point: Point, from: number, to: number): void {
    if (from >= to || point.lent.isAll(from, to, false)) return
    for (let at = point.lent.next(from, to, true); at < to;) {
      const end = point.lent.runEnd(at, to)
      this.lent?.clear(at, Math.min(end, this.lent.length))
      at = point.lent.next(end, to, true)
    }
    point.lent.clear(from, to)
    point.noteExact(from, to)
    if (point.fresh?.lent.overlaps(from, to)) point.fresh.lent.remove(from, to)
  }
}

export function placeIn(point: Point, grain: number): Exclude<Place, 'live'> {
  return point.bytes.get(grain) ? 'bytes' : point.lent.get(grain) ? 'lent' : 'zeros'
}

function move(into: IntervalSet, others: readonly IntervalSet[], from: number, to: number): void {
  into.add(from, to)
  for (const other of others) if (other.overlaps(from, to)) other.remove(from, to)
}
