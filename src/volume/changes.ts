/**
 * Changes: what a change of content does once it is its turn and its grains are locked (volume.ts is the gate).
 *
 * Order of disk writes, and what each other order would lose
 *
 *   Fill a hole      OPEN(region) durable -> data bit in memory -> bytes into live -> done.
 *                    Bytes first, and a power cut (or kill) leaves bytes under a hole: lost at once, and shown again
 *                    by the next write to another part of that grain.
 *   Resolve          (a stale grain) whole grain into live: new bytes, zeros around -> flush live -> UNSTALE -> done.
 *                    UNSTALE before the flush, and a power cut may bring back bytes from before the trim. A journal that fails
 *                    may have the record all the same: zeros of a stale grain are answered at once, and none may be any more.
 *   Trim, zero       zeros into the parts of grains at the edges -> ZERO -> done. In any order; nothing is
 *                    overwritten, so a power cut gives old content or zeros, and after a flush zeros. A journal that fails may
 *                    have the record all the same: a write that came behind it would be zeros after the next open. So none does.
 *   Keep allocated   OPEN as for a fill -> zeros into live -> flush if anything was stale -> UNSTALE -> done.
 *                    Without UNSTALE a scan after a crash would make holes of it; before the flush as in Resolve.
 */
import { allSettled } from '../device/all-settled.js'
import type { Origin, ZeroMode } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import { RANGES_PER_RECORD_MAX } from '../store/journal-records.js'
import type { Adopter } from './adopter.js'
import type { Attempt } from './attempt.js'
import { type Gate, planLending } from './gate.js'
import type { Checkpointer } from './checkpoint.js'
import { flushNow, type VolumeCore } from './core.js'
import { runsOf } from './journal.js'
import type { Reclaimer } from './reclaim.js'
import type { Run } from './volume-map.js'
import { planTrim, planWrite, planZero, shapeOf, type ZeroPlan } from './write-plan.js'

/** Of each kind, in one turn of a trim of a volume with points. */
const LEND_RUNS = 1024
/** Zeros are written from here, so many at a time. Not less than the largest grain. */
const ZEROS = Buffer.alloc(2 ** 20)
/** A zeroing that must stay allocated looks after so many bytes whether its client is still there. */
const KEEP_PIECE_BYTES = 256 * 2 ** 20
/** Zeros written over fragmented data give way to others, and look after their client, after so many bytes. */
const YIELD_BYTES = 16 * 2 ** 20

export class Changes {
  readonly #core: VolumeCore
  readonly #reclaimer: Reclaimer
  readonly #checkpointer: Checkpointer
  readonly #gate: Gate
  readonly #adopter: Adopter
  readonly #doubt: (reason: NbdeltaError) => void
  /** OPEN records on their way to the medium, by region. */
  readonly #opening = new Map<number, Promise<void>>()

  /** @param doubt only the next open tells what the volume holds: nothing may be changed any more */
  constructor(parts: {
    readonly core: VolumeCore, readonly reclaimer: Reclaimer, readonly checkpointer: Checkpointer, readonly gate: Gate,
    readonly adopter: Adopter,
  }, doubt: (reason: NbdeltaError) => void) {
    this.#doubt = doubt
    this.#core = parts.core
    this.#reclaimer = parts.reclaimer
    this.#checkpointer = parts.checkpointer
    this.#gate = parts.gate
    this.#adopter = parts.adopter
  }

  async write(offset: number, length: number, from: Buffer, at: number, attempt: Attempt): Promise<void> {
    const { map, live, grainBytes, sizeBytes } = this.#core
    const shape = shapeOf(offset, length, grainBytes, sizeBytes)
    if (this.#core.inherit.overlaps(shape.from, shape.to)) return this.#writeParts(offset, length, from, at, attempt)
    await this.#gate.admit(shape.from, shape.to)
    let plan = planWrite(map, shape.from, shape.to)
    if (plan.rule === 'resolve') {
      await this.#reclaimer.relieve()
      plan = planWrite(map, shape.from, shape.to)
    }
    while ('regions' in plan && plan.regions.length > 0) {
      await this.#openRegions(plan.regions)
      plan = planWrite(map, shape.from, shape.to)
    }
    // From here to the issue of the write there is no await: a checkpoint could close the regions again.
    if (plan.rule === 'resolve') return this.#resolve(offset, length, from, at, attempt)
    if (plan.rule === 'fill') map.becomeData(shape.from, shape.to)
    attempt.begin()
    await live.write(offset, length, from, at, attempt)
  }

  /** What is inherited of a range goes its own way, run by run. */
  async #writeParts(offset: number, length: number, from: Buffer, at: number, attempt: Attempt): Promise<void> {
    const { inherit, grainBytes } = this.#core
    const end = offset + length
    for (let start = offset; start < end;) {
      const grain = Math.floor(start / grainBytes)
      const run = inherit.next(grain, Math.ceil(end / grainBytes))
      const inherited = run.start === grain
      const stop = Math.min(end, (inherited ? run.end : run.start) * grainBytes)
      if (inherited) await this.#adopter.write(start, stop, from, at + start - offset, attempt)
      else await this.write(start, stop - start, from, at + start - offset, attempt)
      start = stop
    }
  }

  /** Throws `not-fast` before anything is touched. */
  async zero(offset: number, length: number, mode: ZeroMode, attempt: Attempt): Promise<void> {
    const { map, grainBytes, sizeBytes, inherit } = this.#core
    const shape = shapeOf(offset, length, grainBytes, sizeBytes)
    if (inherit.overlaps(shape.from, shape.to)) {
      if (mode.fast) throw new NbdeltaError('not-fast', 'a part of this range has to be copied from a snapshot first')
      await this.#adopter.zero(shape.wholeFrom, shape.wholeTo, true, attempt)
      // What is left are parts of grains at the edges.
      if (inherit.overlaps(shape.from, shape.from + 1)) await this.#adopter.adopt([{ start: shape.from, end: shape.from + 1 }])
      if (inherit.overlaps(shape.to - 1, shape.to)) await this.#adopter.adopt([{ start: shape.to - 1, end: shape.to }])
    }
    const plan = planZero(map, shape, length, mode)
    const end = offset + length
    switch (plan.rule) {
      case 'nothing': return
      case 'not-fast': throw new NbdeltaError('not-fast', 'this range cannot be zeroed faster than by writing zeros')
      case 'write-zeros': return this.#zerosOverData(offset, end, attempt)
      case 'keep': return this.#keep(offset, end, attempt)
      case 'mark':
        await this.#zerosOverData(offset, Math.min(end, shape.wholeFrom * grainBytes), attempt)
        await this.#zerosOverData(Math.max(offset, shape.wholeTo * grainBytes), end, attempt)
        if (this.#snapshotsOrStaged) await this.#lendOrMark(shape.wholeFrom, shape.wholeTo, true, attempt)
        else await this.#mark(plan, attempt)
    }
  }

  async trim(offset: number, length: number, attempt: Attempt): Promise<void> {
    const shape = shapeOf(offset, length, this.#core.grainBytes, this.#core.sizeBytes)
    if (shape.wholeFrom < shape.wholeTo) await this.#adopter.zero(shape.wholeFrom, shape.wholeTo, false, attempt)
    const plan = planTrim(this.#core.map, shape)
    if (plan.rule !== 'mark') return
    if (this.#snapshotsOrStaged) await this.#lendOrMark(shape.wholeFrom, shape.wholeTo, false, attempt)
    else await this.#mark(plan, attempt)
  }

  /** The last point may have gone with something still staged. */
  get #snapshotsOrStaged(): boolean {
    const { chain, staging } = this.#core
    return !chain.isEmpty || (staging !== undefined && !staging.idle)
  }

  /**
   * As `#mark`, of a volume with points: what the newest snapshot needs is lent to it, the rest is stale. Where there is no room
   * for more stale runs, zeros are written if it `must` read as zeros.
   */
  async #lendOrMark(from: number, to: number, must: boolean, attempt: Attempt): Promise<void> {
    const { map, chain, grainBytes, sizeBytes, staging } = this.#core
    if (staging?.meets(from, to)) await staging.drain()
    for (let at = from; at < to;) {
      const { lend, to: borrower, zero, next } = planLending(this.#core, at, to, LEND_RUNS)
      if (borrower) {
        attempt.begin()
        await this.#say('lend', lend, () => {
          for (const { start, end } of lend) {
            chain.lend(borrower, start, end)
            map.becomeLent(start, end)
            chain.markLoosely(start, end)
          }
        }, borrower.seq)
      }
      const room = map.staleRunsMax - map.stale.size
      if (zero.length <= room && zero.length > 0) {
        attempt.begin()
        await this.#say('zero', zero, () => {
          for (const { start, end } of zero) {
            map.becomeStale(start, end)
            chain.markLoosely(start, end)
          }
        })
      } else if (must) {
        for (const { start, end } of zero) {
          await this.#zerosOverData(start * grainBytes, Math.min(end * grainBytes, sizeBytes), attempt)
        }
      }
      at = next
      if (at < to) await new Promise<void>(resolve => { setImmediate(resolve) })
    }
    this.#reclaimer.wake()
    this.#checkpointer.wanted()
  }

  async #mark({ runs }: Extract<ZeroPlan, { rule: 'mark' }>, attempt: Attempt): Promise<void> {
    const { map } = this.#core
    if (runs.length === 0) return
    attempt.begin()
    await this.#say('zero', runs, () => { for (const run of runs) map.becomeStale(run.start, run.end) })
    this.#reclaimer.wake()
    this.#checkpointer.wanted()
  }

  /** A record that changes what is read by itself. */
  async #say(kind: 'lend' | 'zero' | 'unstale', runs: readonly Run[], apply: () => void, seq?: number): Promise<void> {
    const { journal } = this.#core
    try {
      await journal.append(kind, runs, apply, seq)
    } catch (error) {
      const done = kind === 'unstale' ? 'written' : 'trimmed'
      const hint = `open the volume again: it then holds what was ${done}, or what was there, and nothing else is lost`
      const what = `whether a range was ${done} is not known: no more changes`
      if (journal.failure) this.#doubt(new NbdeltaError('flush-failed', what, { cause: error, hint }))
      throw error
    }
  }

  async #resolve(offset: number, length: number, from: Buffer, at: number, attempt: Attempt): Promise<void> {
    const { map, live, grainBytes, sizeBytes, journal } = this.#core
    // It would be in vain, and if CLEAR is what has failed, the next open may see in these grains what is written now.
    if (journal.failure) throw journal.failure
    const end = offset + length
    const shape = shapeOf(offset, length, grainBytes, sizeBytes)
    const grainStart = shape.from * grainBytes
    const grainEnd = Math.min(shape.to * grainBytes, sizeBytes)
    map.fillHoles(shape.from, shape.to)
    attempt.begin()
    const zeros = async (start: number, stop: number): Promise<void> => { await live.write(start, stop - start, ZEROS, 0) }
    await allSettled([
      (async () => { await live.write(offset, length, from, at, attempt) })(),
      grainStart < offset && map.stale.has(shape.from) ? zeros(grainStart, offset) : undefined,
      end < grainEnd && map.stale.has(shape.to - 1) ? zeros(end, grainEnd) : undefined,
    ])
    await flushNow(this.#core)
    await this.#say('unstale', [{ start: shape.from, end: shape.to }], () => map.becomeData(shape.from, shape.to))
    this.#checkpointer.wanted()
  }

  async #keep(offset: number, end: number, attempt: Attempt): Promise<void> {
    const { map, live, journal, grainBytes, sizeBytes } = this.#core
    const { from, to } = shapeOf(offset, end - offset, grainBytes, sizeBytes)
    await this.#gate.admit(from, to)
    await this.#reclaimer.relieve()
    for (let closed = map.closedHoleRegions(from, to); closed.length > 0; closed = map.closedHoleRegions(from, to)) {
      await this.#openRegions(closed)
    }
    map.fillHoles(from, to)
    // A stale grain is zeroed whole: its other part must not show old bytes once it counts as data.
    const start = map.stale.has(from) ? from * grainBytes : offset
    const stop = map.stale.has(to - 1) ? Math.min(to * grainBytes, sizeBytes) : end
    const wasStale = map.stale.size > 0 && map.stale.overlaps(from, to)
    for (let at = start; at < stop; at += KEEP_PIECE_BYTES) {
      refuseGone(attempt)
      attempt.begin()
      await live.zero(at, Math.min(KEEP_PIECE_BYTES, stop - at), { allocate: true, fast: false })
    }
    if (wasStale) await flushNow(this.#core)
    await journal.append('unstale', [{ start: from, end: to }], () => {
      map.becomeData(from, to)
      map.keep(from, to)
    })
    this.#checkpointer.wanted()
  }

  /** Writes zeros wherever [offset, end) is data; elsewhere it reads as zeros already. There is room for all of it, or none. */
  async #zerosOverData(offset: number, end: number, attempt: Attempt): Promise<void> {
    const { space, grainBytes } = this.#core
    const needs = (): ReturnType<typeof space.needs> => space.needs(Math.floor(offset / grainBytes), Math.ceil(end / grainBytes))
    if (offset < end) await space.during(needs, () => this.#writeZeros(offset, end, attempt))
  }

  async #writeZeros(offset: number, end: number, attempt: Attempt): Promise<void> {
    const { map, live, grainBytes } = this.#core
    let sinceYield = 0
    for (let at = offset; at < end;) {
      const grain = Math.floor(at / grainBytes)
      const lastGrain = Math.ceil(end / grainBytes)
      const runEnd = Math.min(end, map.data.runEnd(grain, lastGrain) * grainBytes)
      if (!map.data.get(grain)) {
        at = runEnd
        continue
      }
      const bytes = Math.min(runEnd - at, ZEROS.length)
      await this.#gate.admit(grain, Math.ceil((at + bytes) / grainBytes))
      attempt.begin()
      await live.write(at, bytes, ZEROS, 0)
      at += bytes
      sinceYield += bytes
      if (sinceYield < YIELD_BYTES) continue
      sinceYield = 0
      await new Promise<void>(resolve => { setImmediate(resolve) })
      refuseGone(attempt)
    }
  }

  /** OPEN records, durable; those on their way already are waited for. */
  async #openRegions(regions: readonly number[]): Promise<void> {
    const fresh = regions.filter(region => !this.#opening.has(region))
    if (fresh.length > 0) {
      const done = this.#openFresh(fresh).finally(() => { for (const region of fresh) this.#opening.delete(region) })
      for (const region of fresh) this.#opening.set(region, done)
    }
    await allSettled(regions.map(region => this.#opening.get(region)))
    this.#checkpointer.wanted()
  }

  async #openFresh(regions: readonly number[]): Promise<void> {
    const { map, journal } = this.#core
    const runs = runsOf(regions)
    try {
      // A snapshot taken between append and sync must repeat what it replaces: `opening` tells it.
      for (let at = 0; at < runs.length; at += RANGES_PER_RECORD_MAX) {
        const part = runs.slice(at, at + RANGES_PER_RECORD_MAX)
        await journal.append('open', part, () => {
          for (const { start, end } of part) for (let region = start; region < end; region++) map.opening.add(region)
        })
      }
      await journal.sync()
      for (const region of regions) map.open.add(region)
    } finally {
      for (const region of regions) map.opening.delete(region)
    }
  }
}

export function refuseGone({ gone }: Origin): void {
  if (gone) throw new NbdeltaError('gone', 'the client that asked is gone; the rest was not zeroed')
}
