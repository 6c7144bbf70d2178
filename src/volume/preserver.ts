/**
 * Preserver: what must be durable before live is overwritten, for many requests at a time.
 *
 * Order of disk writes in a batch, and what each other order would lose
 *   1. old content of the grains -> the snapshot's `preserved`; flush it.
 *   2. PRESERVE (bytes), PRESERVE_ZERO (holes), HOT (extents) -> journal; sync it.
 *      PRESERVE before 1 is durable, and after a power cut the snapshot shows zeros or old bytes of its file.
 *   3. only now those who asked go on and overwrite live. Before 2 is durable, a power cut leaves the new bytes for the
 *      snapshot to see, or a change that no map knows of.
 *   A grain that was lent becomes stale in the same breath: ZERO, then PRESERVE. PRESERVE first, and a crash between the two
 *   leaves bytes under a hole. ZERO alone changes nothing: what is lent is not stale, whatever the journal says (recovery.ts).
 *
 * Whoever asks holds the locks of its grains until it is answered, so the old content stands still.
 * One batch runs, the next one gathers meanwhile: GATHERED_GRAINS of them, so any number of clients share two syncs a batch.
 *
 * When a copy fails, those who need it fail (no space, say), and nothing has changed. When the journal fails, nothing that
 * needs this room may be overwritten any more: `failure` latches.
 */
import { allSettled, together } from '../device/all-settled.js'
import type { Pending } from '../device/block-device.js'
import type { NbdeltaError } from '../device/errors.js'
import { asNbdeltaError } from '../device/errors.js'
import { EXTENT_GRAINS, RANGES_PER_RECORD_MAX } from '../store/journal-records.js'
import type { Chain } from './chain.js'
import type { Checkpointer } from './checkpoint.js'
import { bufferFor, bytesOf, type VolumeCore } from './core.js'
import type { LiveView } from './live-view.js'
import type { Point } from './point.js'
import type { Need } from './usage.js'
import type { Run } from './volume-map.js'

/** Of one request, at most, where it can be divided. */
export const BATCH_GRAINS = 512
/** In one batch. */
const GATHERED_GRAINS = 4 * BATCH_GRAINS
/** Extents that count as changed after a crash, at most: 16 GiB at grains of 4 KiB. */
const HOT_MAX = 4096
/** Ranges that a checkpoint may have to repeat: 256 KiB of the journal's snapshot. */
const FRESH_RANGES_MAX = 16384
const BUFFER_BYTES = 4 * 2 ** 20

/** Old content that `point` needs before the grains of `run` change. */
export interface Copy {
  readonly point: Point
  readonly run: Run
  /** Its bytes are live's raw ones, which live itself does not show. */
  readonly lent: boolean
  /** Live is going to show the same as before: nothing is marked as changed. */
  readonly neutral?: boolean
}

interface Job {
  readonly copies: readonly Copy[]
  readonly extents: readonly Run[]
  readonly grains: number
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

/** What one batch has copied for one point. */
interface Copied {
  readonly point: Point
  readonly neutral: boolean
  readonly bytes: Need[]
  readonly zero: Run[]
  readonly stale: Run[]
}

export class Preserver {
  readonly #core: VolumeCore
  readonly #chain: Chain
  readonly #view: LiveView
  readonly #checkpointer: Checkpointer
  readonly #waiting: Job[] = []
  #running: Promise<void> | undefined
  #buffer: Buffer | undefined
  #failure: NbdeltaError | undefined

  constructor(core: VolumeCore, view: LiveView, checkpointer: Checkpointer) {
    this.#core = core
    this.#chain = core.chain
    this.#view = view
    this.#checkpointer = checkpointer
  }

  /** Why nothing can be preserved or marked any more, if so. */
  get failure(): NbdeltaError | undefined { return this.#failure }

  /** All of it is durable when this resolves. `extents` are those of the newest point. */
  secure(copies: readonly Copy[], extents: readonly Run[]): Promise<void> {
    if (this.#failure) return Promise.reject(this.#failure)
    const grains = copies.reduce((sum, { run }) => sum + run.end - run.start, 0)
    return new Promise((resolve, reject) => {
      this.#waiting.push({ copies, extents, grains, resolve, reject })
      this.#running ??= this.#work()
    })
  }

  async #work(): Promise<void> {
    // Whoever asks in this same turn is in the first batch.
    await Promise.resolve()
    while (this.#waiting.length > 0) {
      await this.#room()
      let grains = 0
      let count = 0
      while (count < this.#waiting.length && (count === 0 || grains + this.#waiting[count].grains <= GATHERED_GRAINS)) {
        grains += this.#waiting[count++].grains
      }
      await this.#batch(this.#waiting.splice(0, count))
    }
    // In the turn of the last look: whoever comes later begins anew.
    this.#running = undefined
  }

  async #batch(jobs: readonly Job[]): Promise<void> {
    let going = jobs
    let copied: readonly Copied[] = []
    try {
      copied = await this.#copy(jobs.flatMap(({ copies }) => copies))
      if (copied.some(({ bytes }) => bytes.length > 0)) this.#core.space.copied()
    } catch (failure) {
      const error = this.#core.space.copyFailed(failure)
      for (const job of jobs) if (job.copies.length > 0) job.reject(error)
      going = jobs.filter(({ copies }) => copies.length === 0)
    }
    if (going.length === 0) return
    try {
      if (this.#failure) throw this.#failure
      await this.#record(copied, going.flatMap(({ extents }) => extents))
      for (const job of going) job.resolve()
    } catch (error) {
      this.#failure ??= asNbdeltaError(error, 'note in the journal what snapshots keep')
      for (const job of going) job.reject(this.#failure)
    }
  }

  /** Step 1. */
  async #copy(copies: readonly Copy[]): Promise<Copied[]> {
    const done: Copied[] = []
    const buffer = this.#buffer ??= bufferFor(this.#core, BUFFER_BYTES)
    const pending: Promise<void>[] = []
    let filled = 0
    try {
      for (const { point, run, lent, neutral = false } of copies) {
        let copied = done.find(other => other.point === point && other.neutral === neutral)
        if (!copied) done.push(copied = { point, neutral, bytes: [], zero: [], stale: [] })
        if (lent) copied.stale.push(run)
        for (let at = run.start; at < run.end;) {
          const { length } = bytesOf(this.#core, { start: at, end: run.end })
          const there = lent ? length : this.#view.zeroRun(at * this.#core.grainBytes, length)
          const end = Math.min(run.end, at + Math.ceil(Math.abs(there) / this.#core.grainBytes))
          if (there < 0) {
            copied.zero.push({ start: at, end })
            at = end
            continue
          }
          const grains = Math.max(1, Math.floor((buffer.length - filled) / this.#core.grainBytes))
          const piece = { start: at, end: Math.min(end, at + grains), isLent: lent }
          if (filled + (piece.end - piece.start) * this.#core.grainBytes > buffer.length) {
            await allSettled(pending.splice(0))
            filled = 0
            continue
          }
          const moving = this.#move(point, piece, lent, buffer, filled)
          if (moving) pending.push(moving)
          filled += (piece.end - piece.start) * this.#core.grainBytes
          copied.bytes.push(piece)
          at = piece.end
        }
      }
    } finally {
      await allSettled(pending)
    }
    await allSettled(done.map(async ({ point, bytes }) => { if (bytes.length > 0) await point.files.preserved!.flush() }))
    return done
  }

  /** Bytes of one piece from where they are into the snapshot's file. At once where both disks are. */
  #move(point: Point, piece: Run, lent: boolean, buffer: Buffer, at: number): Promise<void> | undefined {
    const { offset, length } = bytesOf(this.#core, piece)
    const preserved = point.files.preserved!
    // What lies behind the snapshot's end it never shows.
    const kept = Math.min(length, preserved.sizeBytes - offset)
    const read = lent ? this.#core.live.read(offset, length, buffer, at) : this.#view.read(offset, length, buffer, at)
    if (!read) return preserved.write(offset, kept, buffer, at)
    return read.then(() => preserved.write(offset, kept, buffer, at))
  }

  /** Step 2. Memory changes with each record; that nobody overwrites anything yet is the locks' business. */
  async #record(copied: readonly Copied[], extents: readonly Run[]): Promise<void> {
    const { journal } = this.#core
    const { newest } = this.#chain
    await together(add => this.#append(copied, extents, newest, add))
    const { loose } = this.#chain
    const settled = [...loose]
    await journal.sync()
    for (const { start, end } of settled) loose.remove(start, end)
    if (newest) for (const { start, end } of extents) {
      newest.hot.add(start, end)
      newest.heating.remove(start, end)
    }
    this.#checkpointer.wanted()
  }

  #append(
    copied: readonly Copied[], extents: readonly Run[], newest: Point | undefined, add: (append: Pending) => void,
  ): void {
    const { journal, map } = this.#core
    const chain = this.#chain
    for (const { point, neutral, bytes, zero, stale } of copied) {
      // In the turn of the append: a checkpoint that ends between the two would know of one and not of the other.
      const mark = (start: number, end: number): void => { if (!neutral) chain.mark(start, end) }
      for (const part of parts(stale)) {
        add(journal.append('zero', part, () => { for (const { start, end } of part) map.becomeStale(start, end) }))
      }
      for (const part of parts(bytes)) {
        add(journal.append('preserve', part, () => {
          for (const need of part) {
            chain.preserve(point, need.start, need.end)
            chain.usage.release(need)
            mark(need.start, need.end)
          }
        }, point.seq))
      }
      for (const part of parts(zero)) {
        add(journal.append('preserveZero', part, () => {
          for (const { start, end } of part) {
            chain.preserveZero(point, start, end)
            mark(start, end)
          }
        }, point.seq))
      }
    }
    if (newest && extents.length > 0) {
      for (const part of parts(extents)) {
        add(journal.append('hot', part, () => { for (const { start, end } of part) newest.heating.add(start, end) },
          newest.seq))
      }
    }
  }

  /** Waits while what a crash or a checkpoint would have to repeat is as much as there is room for. */
  async #room(): Promise<void> {
    const { newest } = this.#chain
    try {
      if (newest && newest.hot.total >= HOT_MAX) await this.#checkpointer.join()
      if (this.#chain.freshRanges > FRESH_RANGES_MAX) await this.#checkpointer.join()
    } catch {
      // The next checkpoint is tried by whoever comes next; here there is a little more to repeat.
    }
  }
}

/** So many ranges as one record holds. */
function* parts<R extends Run>(runs: readonly R[]): Generator<readonly R[]> {
  for (let at = 0; at < runs.length; at += RANGES_PER_RECORD_MAX) yield runs.slice(at, at + RANGES_PER_RECORD_MAX)
}

/** The extents of grains [from, to). */
export function extentsOf(from: number, to: number): Run {
  return { start: Math.floor(from / EXTENT_GRAINS), end: Math.ceil(to / EXTENT_GRAINS) }
}
