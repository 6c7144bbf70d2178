/**
 * VolumeMap: what a volume knows about each grain, in memory.
 *
 *   data    live may hold bytes here that count: read live          block status 0
 *   stale   live holds bytes here that nobody may see: zeros        block status hole + zero
 *   hole    neither; live itself reads zeros here,                  block status hole + zero
 *           or holds what is lent to a snapshot (chain.ts)
 *
 * Regions are what bounds the work after a crash. The first write into a hole of a region is preceded by a durable
 * OPEN record; until the next checkpoint the region is `open`, and a crash then reads all of it as data (stale
 * excepted). So a set bit may be missing from the map file, but never from what recovery rebuilds.
 *
 * Invariants
 * - No grain is both data and stale.
 * - A grain becomes data only inside `becomeData` (or is presumed so at open), which also notes its page as dirty and its
 *   region as touched: a checkpoint that runs meanwhile must leave that region open, for it may have written the page before.
 * - `stale` is exactly what replaying the journal gives; `data` on disk is corrected by that replay.
 * - unscanned is a subset of open.
 *
 * Arithmetic: a region is 8 map pages = 262,144 grains = 1 GiB at 4 KiB, so 16 TiB have 16,384 of them; data costs at
 * most one bit a grain, stale and kept at most STALE_RUNS_MAX ranges of 16 bytes, kept an eighth of that.
 */
import { GrainBitmap, PAGE_BITS } from '../../native-free/grain-bitmap.js'
import { divCeil } from '../../native-free/integer.js'
import { IntervalSet } from '../../native-free/interval-set.js'
import { REGION_GRAINS } from '../store/journal-records.js'

/** 16 bytes each in the journal's snapshot: 512 KiB of the 1 MiB it may take in a journal of 4 MiB; fewer in a smaller one. */
const STALE_RUNS_MAX = 32768
const RANGE_BYTES = 16
/** Ranges kept allocated: an eighth of the above. With more of them, regions that wait for a scan go unscanned. */
const KEPT_SHARE = 8

/** [start, end) in grains. */
export interface Run { readonly start: number, readonly end: number }

export class VolumeMap {
  readonly data: GrainBitmap
  readonly stale = new IntervalSet()
  /** Regions whose OPEN record is durable. */
  readonly open = new Set<number>()
  /** Regions whose OPEN record is written but not yet durable. */
  readonly opening = new Set<number>()
  /** Open since before a crash: their excess is still to be taken back. */
  readonly unscanned = new Set<number>()
  /** Grains of unscanned regions that stay allocated although they read as zeros (NBD NO_HOLE). */
  readonly kept = new IntervalSet()
  /** Pages of the map file that differ from `data`. */
  readonly #dirty: GrainBitmap
  #changes = 0
  /** Regions in which grains became data since a checkpoint began; undefined when none runs. */
  #touched: Set<number> | undefined

  /** Most runs that may be stale at once: what the journal's snapshot has room for. */
  readonly staleRunsMax: number

  /** @param snapshotMaxBytes what the journal can hold of it: `RecordLog.limitBytes` */
  constructor(grains: number, snapshotMaxBytes: number) {
    this.staleRunsMax = Math.min(STALE_RUNS_MAX, Math.floor(snapshotMaxBytes / 2 / RANGE_BYTES))
    this.data = new GrainBitmap(grains)
    this.#dirty = new GrainBitmap(this.data.pageCount)
  }

  get grains(): number { return this.data.length }
  get dirtyPages(): number { return this.#dirty.count() }
  get staleGrains(): number { return this.stale.total }
  /** Grows whenever a grain changes its state: two equal readings say that nothing did. */
  get changes(): number { return this.#changes }

  /** [from, to) is now data, whatever it was. The caller has seen to it that its regions are open or a record says so. */
  becomeData(from: number, to: number): void {
    this.data.set(from, to)
    this.#noteDirty(from, to)
    if (this.stale.size > 0) this.stale.remove(from, to)
    if (this.#touched) for (let region = regionOf(from); region <= regionOf(to - 1); region++) this.#touched.add(region)
  }

  /** Holes of [from, to) become data, stale grains stay stale. */
  fillHoles(from: number, to: number): void {
    let at = from
    for (const run of [...this.stale.overlapping(from, to)]) {
      if (at < run.start) this.becomeData(at, run.start)
      at = run.end
    }
    if (at < to) this.becomeData(at, to)
  }

  /** The content of [from, to) no longer counts: it reads as zeros from now on, although live still holds bytes. */
  becomeStale(from: number, to: number): void {
    this.#clearData(from, to)
    this.stale.add(from, to)
    if (this.kept.size > 0) this.kept.remove(from, to)
  }

  /** Live reads zeros in [from, to) and that is durable. */
  becomeHole(from: number, to: number): void {
    this.#clearData(from, to)
    if (this.stale.size > 0) this.stale.remove(from, to)
  }

  /** Live's bytes in [from, to) belong to a snapshot from now on (chain.ts); live reads zeros there. */
  becomeLent(from: number, to: number): void {
    this.becomeHole(from, to)
    if (this.kept.size > 0) this.kept.remove(from, to)
  }

  /** None of the set is data any more: it is inherited. What is stale stays stale. */
  becomeInherited(set: GrainBitmap): void {
    this.#changes++
    for (const page of set.usedPages()) this.#dirty.set(page, page + 1)
    this.data.andNot(set)
  }

  /** [from, to) was asked to stay allocated: a scan must not turn it into holes. Data already. */
  keep(from: number, to: number): void {
    if (this.unscanned.size === 0) return
    this.kept.add(from, to)
    if (this.kept.size <= this.staleRunsMax / KEPT_SHARE) return
    this.unscanned.clear()
    this.kept.clear()
  }

  /**
   * Everything in these regions counts as data, stale excepted: what a crash leaves in open regions, or a damaged page.
   * They stay open until a scan has taken the excess back.
   */
  presumeData(regions: Iterable<number>): void {
    for (const region of regions) {
      const from = region * REGION_GRAINS
      const to = Math.min(this.grains, from + REGION_GRAINS)
      if (from >= to) continue
      this.data.set(from, to)
      this.#noteDirty(from, to)
      this.open.add(region)
      this.unscanned.add(region)
    }
    if (this.unscanned.size > 0) for (const run of this.stale) this.data.clear(run.start, run.end)
  }

  /** Regions with holes in [from, to) that are not open yet. */
  closedHoleRegions(from: number, to: number): number[] {
    const closed: number[] = []
    for (let region = regionOf(from); region <= regionOf(to - 1); region++) {
      if (this.open.has(region)) continue
      const start = region * REGION_GRAINS
      if (!this.data.isAll(Math.max(from, start), Math.min(to, start + REGION_GRAINS), true)) closed.push(region)
    }
    return closed
  }

  /** New grains are holes; lost ones are forgotten. */
  resize(grains: number): void {
    const old = this.grains
    if (grains < old) {
      for (const set of [this.stale, this.kept]) set.remove(grains, old)
      for (const set of [this.open, this.opening, this.unscanned]) {
        for (const region of set) if (region * REGION_GRAINS >= grains) set.delete(region)
      }
    }
    this.data.resize(grains, false)
    this.#dirty.resize(this.data.pageCount, false)
    // The page at the cut; pages that are new to the map file are clear there as well.
    const cut = Math.min(old, grains)
    if (cut > 0) this.#noteDirty(cut - 1, cut)
  }

  /** Pages to write, in order; from now on what becomes data is watched until `endCheckpoint`. */
  beginCheckpoint(): number[] {
    this.#touched = new Set()
    const pages: number[] = []
    const end = this.#dirty.length
    for (let page = this.#dirty.next(0, end, true); page < end; page = this.#dirty.next(page + 1, end, true)) pages.push(page)
    this.#dirty.clear(0, end)
    return pages
  }

  /** Every page is to be written again: the map file did not check. */
  allDirty(): void { this.#dirty.set(0, this.#dirty.length) }

  /** Pages that were not written after all. */
  dirtyAgain(pages: readonly number[]): void {
    for (const page of pages) if (page < this.#dirty.length) this.#dirty.set(page, page + 1)
  }

  /** The checkpoint is given up: nothing closes. */
  abandonCheckpoint(): void {
    this.#touched = undefined
  }

  /**
   * The pages are durable: every region closes but those touched meanwhile, those being opened and those not scanned
   * yet. Returns what the journal's new snapshot must name as open; here it may know less, which costs one more record.
   */
  endCheckpoint(): number[] {
    const staying = new Set([...this.#touched!, ...this.opening, ...this.unscanned])
    this.#touched = undefined
    for (const region of this.open) if (!staying.has(region)) this.open.delete(region)
    return [...staying].sort((a, b) => a - b)
  }

  #clearData(from: number, to: number): void {
    if (this.data.next(from, to, true) === to) return
    this.data.clear(from, to)
    this.#noteDirty(from, to)
  }

  #noteDirty(from: number, to: number): void {
    this.#changes++
    this.#dirty.set(Math.floor(from / PAGE_BITS), divCeil(to, PAGE_BITS))
  }
}

function regionOf(grain: number): number {
  return Math.floor(grain / REGION_GRAINS)
}
