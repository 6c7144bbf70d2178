/**
 * Gate: what a change of content owes the points before live changes, and whether that is paid.
 *
 *   rule       when                                                    what
 *   plain      all `plain` (chain.ts), or there is no point            nothing: the hot path
 *   free       nothing below                                           mark in memory
 *   mark       not marked in the newest point, or marked loosely       HOT of its extents durable, then mark in memory
 *   preserve   the newest snapshot needs old content                   preserver.ts, then mark in memory
 *   unlend     live's file holds a grain for some snapshot             likewise, for that snapshot; the grain is stale then
 *
 * A mark is early, never late: bits are set before live is written, and never before they, or HOT, or the record that
 * says the same, are durable. The grains are locked by whoever asks, so that nothing changes in between.
 *
 * Trims and large zeroes do not change what lies in live: their record (LEND, ZERO) is content, mark and preservation in
 * one, durable or not as a whole; such marks are loose until the journal has been synced.
 */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { EXTENT_GRAINS } from '../store/journal-records.js'
import { Brief } from './brief.js'
import type { Chain } from './chain.js'
import type { VolumeCore } from './core.js'
import { BATCH_GRAINS, type Copy, extentsOf, type Preserver } from './preserver.js'
import type { Point } from './point.js'
import type { Reclaimer } from './reclaim.js'
import type { Run } from './volume-map.js'

export type GatePlan =
  | { readonly rule: 'free' }
  | { readonly rule: 'mark' | 'preserve' | 'unlend', readonly copies: readonly Copy[], readonly extents: readonly Run[] }

const FREE: GatePlan = Object.freeze({ rule: 'free' })

export class Gate {
  /** Before anything else is asked about them. */
  readonly brief: Brief
  readonly #core: VolumeCore
  readonly #chain: Chain
  readonly #preserver: Preserver
  readonly #reclaimer: Reclaimer

  constructor(core: VolumeCore, preserver: Preserver, reclaimer: Reclaimer) {
    this.brief = new Brief(core)
    this.#core = core
    this.#chain = core.chain
    this.#preserver = preserver
    this.#reclaimer = reclaimer
  }

  /** True: grains [from, to) may be overwritten, and are marked. False: `admit` has something to do first. */
  tryAdmit(from: number, to: number): boolean {
    const { plain } = this.#chain
    if (this.#core.staging?.meets(from, to)) return false
    if (plain ? plain.isAll(from, to, true) : !this.#chain.isLent(from, to)) return true
    if (this.#preserver.failure || planGate(this.#chain, from, to, this.#core.journal.isDurable).rule !== 'free') return false
    this.#chain.mark(from, to)
    plain?.set(from, to)
    return true
  }

  /** Grains [from, to), which the caller has locked, may be overwritten afterwards. Errors: no-space, io, flush-failed. */
  async admit(from: number, to: number): Promise<void> {
    const { staging, space } = this.#core
    if (staging?.meets(from, to)) await staging.drain()
    await space.during(() => space.needs(from, to), () => this.#admit(from, to))
  }

  async #admit(from: number, to: number): Promise<void> {
    for (let at = from; at < to;) {
      const end = this.#piece(at, to)
      while (!this.tryAdmit(at, end)) {
        // The log may have refused something meanwhile.
        if (this.#core.staging?.meets(at, end)) {
          await this.#core.staging.drain()
          continue
        }
        if (this.#preserver.failure) throw this.#preserver.failure
        const plan = planGate(this.#chain, at, end, this.#core.journal.isDurable)
        if (plan.rule === 'free') continue
        if (plan.rule === 'unlend') await this.#reclaimer.relieve()
        await this.#preserver.secure(plan.copies, plan.extents)
      }
      at = end
    }
  }

  /** What one batch takes: of what reads as zeros and is lent to nobody all there is, for nothing is copied. */
  #piece(at: number, to: number): number {
    const { map, inherit } = this.#core
    const batch = Math.min(to, at + BATCH_GRAINS)
    if (batch === to || map.data.get(at) || inherit.overlaps(at, to)) return batch
    const end = map.data.next(at, to, true)
    return end <= batch || this.#chain.isLent(at, end) ? batch : end
  }
}

/** What is to be done before grains [from, to) are overwritten. `settled`: the journal is durable as it stands. */
export function planGate(chain: Chain, from: number, to: number, settled: boolean): GatePlan {
  const { newest } = chain
  if (chain.loose.size === 0 && chain.unneeded(from, to) && !chain.isLent(from, to) && isWarm(newest, from, to)) return FREE
  const copies: Copy[] = []
  for (let at = from; at < to;) {
    const { point, ...run } = chain.neededRun(at, to)
    if (point) copies.push({ point, run, lent: false })
    at = run.end
  }
  const preserves = copies.length
  copies.push(...lentCopies(chain, from, to))
  const extents = newest ? coldExtents(chain, newest, from, to) : []
  if (settled && chain.loose.size > 0) chain.loose.clear()
  const loose = chain.loose.size > 0 && chain.loose.overlaps(from, to)
  if (copies.length > preserves) return { rule: 'unlend', copies, extents }
  if (preserves > 0) return { rule: 'preserve', copies, extents }
  return extents.length > 0 || loose ? { rule: 'mark', copies, extents } : FREE
}

/** No grain of [from, to) has to be announced: marked, or in a hot extent. */
function isWarm(newest: Point | undefined, from: number, to: number): boolean {
  if (!newest) return true
  const { start, end } = extentsOf(from, to)
  for (let extent = start; extent < end; extent++) {
    const [first, next] = [Math.max(from, extent * EXTENT_GRAINS), Math.min(to, (extent + 1) * EXTENT_GRAINS)]
    if (!newest.hot.has(extent) && !newest.changed.isAll(first, next, true)) return false
  }
  return true
}

/** Grains of [from, to) whose bytes in live's file belong to some snapshot. */
export function lentCopies(chain: Chain, from: number, to: number): Copy[] {
  const copies: Copy[] = []
  for (const { start, end } of chain.lentRuns(to, from)) {
    for (let at = start; at < end;) {
      const point = chain.borrowerOf(at)
      const stop = point.lent.runEnd(at, Math.min(end, point.lent.length))
      copies.push({ point, run: { start: at, end: stop }, lent: true })
      at = stop
    }
  }
  return copies
}

/** Extents of unmarked grains that are not hot. Grains that are preserved are marked by that record. */
function coldExtents(chain: Chain, { changed, hot }: Point, from: number, to: number): Run[] {
  const cold: { start: number, end: number }[] = []
  for (let at = changed.next(from, to, false); at < to;) {
    const { start } = extentsOf(at, at + 1)
    const next = Math.min(to, (start + 1) * EXTENT_GRAINS)
    const free = unpreserved(chain, changed, at, next)
    if (free < next && !hot.has(start)) {
      const last = cold.at(-1)
      if (last?.end === start) last.end++
      else cold.push({ start, end: start + 1 })
    }
    at = next < to ? changed.next(next, to, false) : to
  }
  return cold
}

/** The first grain of [from, to) that is unmarked and that no copy will mark; `to` if there is none. */
function unpreserved(chain: Chain, changed: GrainBitmap, from: number, to: number): number {
  for (let at = from; at < to;) {
    const needed = chain.neededRun(at, to)
    const end = needed.start < needed.end ? needed.start : to
    const found = at < end ? changed.next(at, end, false) : end
    if (found < end) return found
    at = Math.max(needed.end, end)
  }
  return to
}

/**
 * Runs of data in [from, to) by what becomes of them when they are to read as zeros: at most `max` of each. `to`: whom those
 * are lent.
 */
export function planLending(
  core: VolumeCore, from: number, to: number, max: number,
): { readonly lend: readonly Run[], readonly to: Point | undefined, readonly zero: readonly Run[], readonly next: number } {
  const { map, chain } = core
  const lend: Run[] = []
  const zero: Run[] = []
  let borrower: Point | undefined
  let at = map.data.next(from, to, true)
  while (at < to && lend.length < max && zero.length < max) {
    const end = map.data.runEnd(at, to)
    const needed = chain.neededRun(at, end)
    if (at < needed.start) zero.push({ start: at, end: Math.min(needed.start, end) })
    else if (borrower && needed.point !== borrower) break
    else {
      borrower = needed.point
      lend.push({ start: needed.start, end: needed.end })
    }
    const stop = at < needed.start ? Math.min(needed.start, end) : needed.end
    at = stop < to ? map.data.next(stop, to, true) : to
  }
  return { lend, to: borrower, zero, next: at }
}
