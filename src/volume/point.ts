/**
 * Point: one snappoint of an open volume in memory: its maps, what of them is not on disk yet, and its files.
 *
 *   changed   live's content changed between this point and the next   superset; marks in time are the gate's business
 *   owned     this snapshot itself knows the grain                     exact, and so are
 *   bytes     owned, its bytes lie in `preserved`
 *   lent      owned, its bytes still lie in live's file
 *
 * Invariants
 * - bytes and lent are disjoint subsets of owned; a grain that is owned and neither reads as zeros. Bookmarks own nothing.
 * - Only chain.ts edits the maps: whatever one edit means for the others is in one place.
 * - `hot`: extents whose HOT record is durable; `heating`: not yet; `keeping`: those in a snapshot of the journal that is being
 *   written. After a crash all of their grains count as changed. Each ends by itself: a record may be on its way while snapshots
 *   are written, and all of these repeat it.
 * - While a checkpoint runs, `fresh` holds what it may have missed: the journal's next snapshot repeats it.
 */
import { GrainBitmap, PAGE_BITS } from '../../native-free/grain-bitmap.js'
import { divCeil } from '../../native-free/integer.js'
import { type Interval, IntervalSet } from '../../native-free/interval-set.js'
import type { PointFiles } from './point-store.js'
import type { PointInfo, PointKind } from './snappoint.js'
import type { Run } from './volume-map.js'

/** making: not in the table yet; ready; deleting: only older ones still look things up in it. */
export type PointState = 'making' | 'ready' | 'deleting'

/** What a checkpoint saves of a point. */
export interface DirtyPages {
  readonly changed: readonly number[]
  readonly exact: readonly number[]
}

/** Of one that its maker can do without (space.ts). */
interface Spare {
  /** Their pins do not keep it. */
  readonly owners: readonly string[]
  readonly letGo: () => void
  /** `letGo` was called. */
  told: boolean
}

/** What a snapshot keeps if that is not everything: what has changed since an older point (its seq), and all from a grain on. */
export interface Bounds {
  readonly since: number
  readonly from: number
  /** More of it. */
  readonly also: GrainBitmap | undefined
  /** And nothing below this one any more. It grows. */
  done: number
}

/** What happened to a snapshot's grains since a checkpoint began. */
export interface Fresh {
  readonly bytes: IntervalSet
  readonly zero: IntervalSet
  readonly lent: IntervalSet
  /** Extents in which something was marked. */
  readonly extents: IntervalSet
}

export class Point {
  readonly seq: number
  readonly kind: PointKind
  /** Of the volume at its time. */
  readonly grains: number
  readonly files: PointFiles
  readonly changed: GrainBitmap
  readonly owned: GrainBitmap
  readonly bytes: GrainBitmap
  readonly lent: GrainBitmap
  readonly hot = new IntervalSet()
  readonly heating = new IntervalSet()
  readonly keeping = new IntervalSet()
  info: PointInfo
  state: PointState
  /** Pages of the exact maps that could not be read from either twin: what is there is lost. */
  readonly damaged = new Set<number>()
  /** Views that read it, and how many of them end when `spare` says so. */
  users = 0
  yielding = 0
  /** Of them, other volumes that show it. */
  heirs = 0
  /** That it goes is on its way to the disk: nobody opens it any more. */
  leaving = false
  /** Called when nobody reads it any more. */
  onUnused: (() => void) | undefined
  spare: Spare | undefined
  /** Of this process: one that was read from disk keeps everything. */
  within: Bounds | undefined
  /** Of what it owns, that which it has until this process ends only (brief.ts); undefined: it never has any. */
  brief: GrainBitmap | undefined
  fresh: Fresh | undefined
  readonly #dirtyChanged = new Set<number>()
  readonly #dirtyExact = new Set<number>()

  /** @param volumeGrains what `changed` covers: of the volume now, if it is the newest */
  constructor(info: PointInfo, state: PointState, files: PointFiles, grainBytes: number, volumeGrains: number) {
    this.info = info
    this.state = state
    this.files = files
    this.seq = info.seq
    this.kind = info.kind
    this.grains = divCeil(info.sizeBytes, grainBytes)
    this.changed = new GrainBitmap(Math.max(this.grains, volumeGrains))
    const known = info.kind === 'snapshot' ? this.grains : 0
    this.owned = new GrainBitmap(known)
    this.bytes = new GrainBitmap(known)
    this.lent = new GrainBitmap(known)
  }

  get isSnapshot(): boolean { return this.kind === 'snapshot' }
  get isDirty(): boolean { return this.#dirtyChanged.size > 0 || this.#dirtyExact.size > 0 }

  /** Grains of [from, to) that it can know at all. */
  reach(from: number, to: number): Run { return { start: from, end: Math.max(from, Math.min(to, this.owned.length)) } }

  noteChanged(from: number, to: number): void { note(this.#dirtyChanged, from, to) }
  noteExact(from: number, to: number): void { note(this.#dirtyExact, from, to) }

  /** What its files are to say of it. */
  get lasting(): Pick<Point, 'owned' | 'bytes' | 'lent'> {
    if (!this.brief) return this
    const [owned, bytes] = [this.owned.clone(), this.bytes.clone()]
    for (const map of [owned, bytes]) map.andNot(this.brief)
    return { owned, bytes, lent: this.lent }
  }

  /** Pages that differ from what is on disk. */
  get dirtyPages(): DirtyPages { return { changed: ascending(this.#dirtyChanged), exact: ascending(this.#dirtyExact) } }

  /** Pages to save; from now on what happens is kept in `fresh` as well. */
  beginSave(): DirtyPages {
    this.fresh = { bytes: new IntervalSet(), zero: new IntervalSet(), lent: new IntervalSet(), extents: new IntervalSet() }
    const pages = this.dirtyPages
    this.#dirtyChanged.clear()
    this.#dirtyExact.clear()
    return pages
  }

  /**
   * All marks are durable but those of extents in which there were new ones meanwhile: these stay hot. What was not hot
   * before is not before the journal says so.
   */
  cool(): void {
    if (!this.fresh) return
    const kept: Interval[] = []
    for (const { start, end } of this.fresh.extents) {
      this.keeping.add(start, end)
      for (const was of this.hot.overlapping(start, end)) {
        kept.push({ start: Math.max(was.start, start), end: Math.min(was.end, end) })
      }
    }
    this.hot.clear()
    for (const { start, end } of kept) this.hot.add(start, end)
    this.fresh = undefined
  }

  /** What `cool` has kept is in the journal, durably. */
  said(): void {
    for (const { start, end } of this.keeping) this.hot.add(start, end)
    this.keeping.clear()
  }

  /** They were not saved after all. */
  dirtyAgain({ changed, exact }: DirtyPages): void {
    for (const page of changed) this.#dirtyChanged.add(page)
    for (const page of exact) this.#dirtyExact.add(page)
  }
}

function note(pages: Set<number>, from: number, to: number): void {
  for (let page = Math.floor(from / PAGE_BITS); page < divCeil(to, PAGE_BITS); page++) pages.add(page)
}

function ascending(pages: Set<number>): number[] { return [...pages].sort((a, b) => a - b) }
