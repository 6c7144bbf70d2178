/**
 * Adopter: makes inherited grains live's own, for a client's change or for the copier. Whole grains, which the caller has locked.
 *
 * Order of disk writes, and what each other order would lose
 *   0. what the undo point took over is in its maps (`settled`): until then a crash finds out from live's map what is lent.
 *   1. live's raw bytes that are lent -> their snapshot (preserver.ts). Overwritten first, they are lost.
 *      A client's change besides: what the newest snapshot sees there, which is the source's content, and the marks (gate.ts).
 *   2. the source's content, with the client's bytes in it -> live; flush it.
 *   3. INHERITED -> journal, and the grains are data; only now a client is answered.
 *   INHERITED before 2 is durable, and a power cut shows what was there before the restore. Answered before INHERITED, and a
 *   killed server takes back what was answered: the next one asks the source again.
 *   What is to read as zeros is one record, INHERITED_ZERO: not inherited, and stale (lent grains stay lent, unseen).
 *
 * INHERITED need not be durable itself: without it the source still has the same content, or a client's write that no flush
 * had answered is lost. The copier's work changes no content, so it marks nothing and the newest snapshot keeps nothing.
 */
import { allSettled } from '../device/all-settled.js'
import type { Attempt } from './attempt.js'
import { refuseGone } from './changes.js'
import type { Checkpointer } from './checkpoint.js'
import { bytesOf, flushNow, type VolumeCore } from './core.js'
import { type Gate, lentCopies } from './gate.js'
import { BATCH_GRAINS, type Preserver } from './preserver.js'
import type { Reclaimer } from './reclaim.js'
import type { Run } from './volume-map.js'

/** Of one write to live, and of a batch of the copier. */
export const PIECE_BYTES = 2 * 2 ** 20
/** Grains that become zeros with one record: 4 GiB at grains of 4 KiB. */
export const ZERO_GRAINS_MAX = 2 ** 20
/** Runs that become zeros with one record. */
const ZERO_RUNS_MAX = 1024

interface Parts {
  readonly core: VolumeCore
  readonly gate: Gate
  readonly preserver: Preserver
  readonly reclaimer: Reclaimer
  readonly checkpointer: Checkpointer
}

export class Adopter {
  readonly #core: VolumeCore
  readonly #parts: Parts
  /** Buffers of pieces that have been copied: a new one for each would be most of the work. */
  #spare: Buffer[] = []
  /** Runs that are about to become stale: several pieces are copied at once. */
  #coming = 0

  constructor(parts: Parts) {
    this.#core = parts.core
    this.#parts = parts
  }

  /** So many grains are copied at once. */
  get pieceGrains(): number { return Math.min(BATCH_GRAINS, Math.max(1, Math.floor(PIECE_BYTES / this.#core.grainBytes))) }

  /** No more pieces for a while: their buffers go. */
  rest(): void { this.#spare = [] }

  /** A client's write to [offset, end) of one layer's grains; at the edges the rest of the grain comes from the source. */
  async write(offset: number, end: number, from: Buffer, at: number, attempt: Attempt): Promise<void> {
    const { grainBytes } = this.#core
    const pieceBytes = this.pieceGrains * grainBytes
    for (let start = offset; start < end;) {
      refuseGone(attempt)
      const stop = Math.min(end, start - start % pieceBytes + pieceBytes)
      await this.#overwrite(start, stop, from, at + start - offset, attempt)
      start = stop
    }
  }

  /**
   * Inherited grains among [from, to) are zeros from now on; `must`: they are in any case, else only while there is room to
   * note it.
   */
  async zero(from: number, to: number, must: boolean, attempt: Attempt): Promise<void> {
    const { inherit, chain, grainBytes, sizeBytes } = this.#core
    for (let at = from; at < to;) {
      const next = inherit.next(at, to)
      if (next.start >= to) return
      const needed = !chain.unneeded(next.start, Math.min(next.end, next.start + ZERO_GRAINS_MAX))
      const run = { start: next.start, end: Math.min(next.end, next.start + (needed ? this.pieceGrains : ZERO_GRAINS_MAX)) }
      if (must) refuseGone(attempt)
      await this.#settle()
      if (needed) await this.#parts.gate.admit(run.start, run.end)
      if (await this.#reserve(1)) await this.#becomeZeros([run], attempt)
      else if (must) {
        const zeros = Buffer.alloc(this.pieceGrains * grainBytes)
        const end = Math.min(run.end, run.start + this.pieceGrains)
        await this.#overwrite(run.start * grainBytes, Math.min(end * grainBytes, sizeBytes), zeros, 0, attempt)
        run.end = end
      }
      at = run.end
    }
  }

  /**
   * Inherited grains among `runs` become live's own, content as it is. Returns how many bytes were copied.
   * Not more than `pieceGrains`, unless all of it reads as zeros.
   */
  async adopt(runs: readonly Run[]): Promise<number> {
    const { inherit, live, map, journal, chain, staging } = this.#core
    // What memory says is kept may not be durable then.
    if (this.#parts.preserver.failure) throw this.#parts.preserver.failure
    // Once it is data, an older staged write that comes back would come over it.
    if (runs.some(({ start, end }) => staging?.meets(start, end))) await staging!.drain()
    await this.#settle()
    const { data, zero } = this.#look(runs)
    await this.#parts.reclaimer.relieve()
    const lent = data.flatMap(({ start, end }) => lentCopies(chain, start, end)).map(copy => ({ ...copy, neutral: true }))
    if (lent.length > 0) {
      const needs = lent.map(({ run }) => ({ ...run, isLent: true }))
      await this.#core.space.during(() => needs, () => this.#parts.preserver.secure(lent, []))
    }
    let copied = 0
    if (data.length > 0) {
      const buffer = this.#spare.pop() ?? Buffer.allocUnsafe(this.pieceGrains * this.#core.grainBytes)
      await allSettled(data.map(async run => {
        const { offset, length } = bytesOf(this.#core, run)
        const at = copied
        copied += length
        await inherit.read(offset, length, buffer, at)
        await live.write(offset, length, buffer, at)
      }))
      this.#spare.push(buffer)
      await flushNow(this.#core)
      await journal.append('inherited', data, () => {
        for (const { start, end } of data) {
          inherit.take(start, end)
          map.becomeData(start, end)
        }
      })
    }
    for (let at = 0; at < zero.length; at += ZERO_RUNS_MAX) {
      const part = zero.slice(at, at + ZERO_RUNS_MAX)
      if (await this.#reserve(part.length)) await this.#becomeZeros(part)
    }
    this.#parts.checkpointer.wanted()
    return copied
  }

  /** Step 0. */
  async #settle(): Promise<void> {
    const { layers } = this.#core.inherit
    if (layers.some(({ settled }) => !settled)) await this.#parts.checkpointer.run()
  }

  async #overwrite(start: number, stop: number, from: Buffer, at: number, attempt: Attempt): Promise<void> {
    const { inherit, live, map, journal, grainBytes } = this.#core
    const run = { start: Math.floor(start / grainBytes), end: Math.ceil(stop / grainBytes) }
    const { offset, length } = bytesOf(this.#core, run)
    await this.#settle()
    let buffer = from
    let place = at
    if (offset < start || stop < offset + length) {
      buffer = Buffer.allocUnsafe(length)
      place = 0
      await allSettled([
        (async () => { if (offset < start) await inherit.read(offset, start - offset, buffer, 0) })(),
        (async () => { if (stop < offset + length) await inherit.read(stop, offset + length - stop, buffer, stop - offset) })(),
      ])
      from.copy(buffer, start - offset, at, at + stop - start)
    }
    await this.#parts.reclaimer.relieve()
    await this.#parts.gate.admit(run.start, run.end)
    await live.write(offset, length, buffer, place, attempt)
    await flushNow(this.#core)
    // Until then it is the source that is shown.
    attempt.begin()
    await journal.append('inherited', [run], () => {
      inherit.take(run.start, run.end)
      map.becomeData(run.start, run.end)
    })
    this.#parts.checkpointer.wanted()
  }

  /** Runs that have been reserved. @param attempt of a client's change; without one what is shown stays as it is */
  async #becomeZeros(runs: readonly Run[], attempt?: Attempt): Promise<void> {
    const { inherit, map, journal, chain } = this.#core
    attempt?.begin()
    try {
      await journal.append('inheritedZero', runs, () => {
        for (const { start, end } of runs) {
          inherit.take(start, end)
          map.becomeStale(start, end)
          for (const lent of chain.lentRuns(end, start)) map.becomeLent(lent.start, lent.end)
          if (attempt) chain.markLoosely(start, end)
        }
      })
    } finally {
      this.#coming -= runs.length
    }
    this.#parts.reclaimer.wake()
    this.#parts.checkpointer.wanted()
  }

  /** True: there is room for so many more stale runs, and it is theirs. */
  async #reserve(runs: number): Promise<boolean> {
    const { map } = this.#core
    await this.#parts.reclaimer.relieve()
    if (map.stale.size + this.#coming + runs > map.staleRunsMax) return false
    this.#coming += runs
    return true
  }

  /** Inherited grains of `runs`, as many as are copied at once: what may hold data, and what reads as zeros. */
  #look(runs: readonly Run[]): { readonly data: Run[], readonly zero: Run[] } {
    const data: Run[] = []
    const zero: Run[] = []
    let room = this.pieceGrains
    for (const { start, end } of runs) {
      for (let at = start; at < end && room > 0;) {
        const before = data.length
        at = this.#lookAt(at, end, room, data, zero)
        if (data.length > before) room -= data[before].end - data[before].start
      }
    }
    return { data, zero }
  }

  /** Adds the first inherited run of [from, to) to one of the two, at most `room` grains of data; returns where to go on. */
  #lookAt(from: number, to: number, room: number, data: Run[], zero: Run[]): number {
    const { inherit, map, grainBytes } = this.#core
    const { start, end } = inherit.next(from, to)
    if (start >= to) return to
    const { offset, length } = bytesOf(this.#core, { start, end })
    const bytes = inherit.zeroRun(offset, length)
    const zeros = bytes === -length ? end - start : Math.max(0, Math.floor(-bytes / grainBytes))
    if (zeros > 0 && map.stale.size < map.staleRunsMax) {
      zero.push({ start, end: start + zeros })
      return start + zeros
    }
    const grains = zeros || Math.max(1, Math.ceil(bytes / grainBytes))
    const stop = Math.min(end, start + Math.min(room, grains))
    data.push({ start, end: stop })
    return stop
  }
}
