/**
 * Copier: turns one layer's inherited grains into live's own, in the background, some pieces at a time, as an InheritJob.
 *
 * - A piece is one run of grains or several short ones, so that a thousand spread grains do not take a thousand flushes. It is
 *   locked while it is copied: a client's write to it waits, and whoever was first is left alone (a grain that has been taken
 *   is not in the layer any more). Only for the first run of a piece is a lock waited for: whoever waits holds none.
 * - At most `bytesPerSecond`; what reads as zeros costs nothing. `hurry` takes the limit away.
 * - When the disk fails it is tried again later, and whoever has asked to hurry is told; a full disk likewise, or at once when a
 *   point has gone or the budget is another (space.ts). Closing the volume pauses it, the next open goes on.
 */
import { divCeil } from '../../native-free/integer.js'
import { allSettled } from '../device/all-settled.js'
import { asNbdeltaError, NbdeltaError } from '../device/errors.js'
import { type Adopter, ZERO_GRAINS_MAX } from './adopter.js'
import type { VolumeCore } from './core.js'
import type { Layer } from './inherited.js'
import type { Run } from './volume-map.js'

/** After a failure of the disk. */
const RETRY_MS = 30_000
/** With a limit, pieces are of so many seconds, so that the rate is even. */
const PIECE_SECONDS = 0.1
/** While one piece is flushed others are read and written. With a limit there is one. */
const PIECES_MAX = 8
/** Of one piece. */
const RUNS_MAX = 128

/** Copying that goes on in the background. */
export interface InheritJob {
  /** `totalBytes` is what there was to do when it began; after an open, what there was left. */
  progress(): { readonly doneBytes: number, readonly totalBytes: number }
  /** What it failed of, until something is copied again: it tries again by itself. */
  problem(): NbdeltaError | undefined
  /** A restore: brings back what was there before, by a restore from its undo point. A promotion: stops it. */
  cancel(): Promise<void>
  /** Rejects with `cancelled` when it was cancelled, or paused because the volume was closed. */
  readonly finished: Promise<void>
}

interface CopierParts {
  readonly core: VolumeCore
  readonly adopter: Adopter
  readonly layer: Layer
  readonly bytesPerSecond: number | null
  /** Nothing is left: makes that durable, and the layer goes. */
  end(): Promise<void>
  cancel(): Promise<void>
}

export class Copier implements InheritJob {
  readonly finished: Promise<void>
  readonly #parts: CopierParts
  readonly #totalGrains: number
  #limit: number | null
  #wake: (() => void) | undefined
  #stopped: NbdeltaError | undefined
  #problem: NbdeltaError | undefined
  #over = false
  /** Whoever waits for all of it, and is to hear when that takes longer. */
  #hurried: ((error: NbdeltaError) => void)[] = []
  readonly #running: Promise<void>
  #settle!: { resolve(): void, reject(error: unknown): void }

  constructor(parts: CopierParts) {
    this.#parts = parts
    this.#totalGrains = parts.layer.left
    this.#limit = parts.bytesPerSecond
    this.finished = new Promise((resolve, reject) => { this.#settle = { resolve, reject } })
    // Whoever does not wait for it is not told.
    this.finished.catch(() => undefined)
    this.#running = this.#run()
  }

  progress(): { doneBytes: number, totalBytes: number } {
    const { core, layer } = this.#parts
    const left = this.#over ? 0 : layer.left
    return { doneBytes: (this.#totalGrains - left) * core.grainBytes, totalBytes: this.#totalGrains * core.grainBytes }
  }

  problem(): NbdeltaError | undefined { return this.#problem }

  cancel(): Promise<void> { return this.#parts.cancel() }

  /** Without limit from now on. Resolves when all is done; rejects when it is stopped before, or has to be tried again. */
  hurry(): Promise<void> {
    this.#limit = null
    this.#wake?.()
    return Promise.race([this.finished, new Promise<never>((_, reject) => { this.#hurried.push(reject) })])
  }

  /** What it failed of may be over: it does not rest any longer. */
  retry(): void { if (this.#problem) this.#wake?.() }

  /** Ends after the piece that runs. */
  async stop(why: NbdeltaError): Promise<void> {
    this.#stopped ??= why
    this.#wake?.()
    await this.#running
  }

  async #run(): Promise<void> {
    await Promise.resolve()
    const { core } = this.#parts
    while (!this.#over && !this.#stopped) {
      try {
        await this.#copyAll()
        if (this.#stopped) break
        await this.#parts.end()
        this.#over = true
      } catch (error) {
        if (this.#stopped) break
        const failure = asNbdeltaError(error, 'copy what is inherited')
        core.logger.warn({ err: failure }, 'copying failed; will be tried again')
        this.#problem = failure
        for (const tell of this.#hurried.splice(0)) tell(failure)
        await this.#rest(RETRY_MS)
      }
    }
    this.#problem = undefined
    if (this.#over) this.#settle.resolve()
    else this.#settle.reject(this.#stopped)
  }

  async #copyAll(): Promise<void> {
    const { core, layer, adopter } = this.#parts
    const running = new Set<Promise<void>>()
    let failure: { readonly error: unknown } | undefined
    try {
      for (let at = 0; layer.left > 0 && !this.#stopped;) {
        const runs = this.#next(at)
        at = runs.at(-1)?.end ?? 0
        if (runs.length > 0) {
          const failed = (error: unknown): void => { failure ??= { error } }
          const copying = this.#copy(runs).catch(failed).finally(() => { running.delete(copying) })
          running.add(copying)
        }
        // What is under way is inherited still: from the start on it would be found again.
        if (at === 0) await allSettled([...running])
        else if (running.size >= (this.#limit === null ? PIECES_MAX : 1)) await Promise.race(running)
        if (failure) throw failure.error
        // Everything may have completed at once: others want a turn as well.
        await new Promise<void>(resolve => { setImmediate(resolve) })
      }
    } finally {
      await allSettled([...running])
      adopter.rest()
    }
    core.flushes.changed()
  }

  /** The next piece from grain `at` on; nothing: there is none. */
  #next(at: number): Run[] {
    const { core, layer, adopter } = this.#parts
    const { grainBytes } = core
    const { length } = layer.todo
    const paced = this.#limit === null ? Infinity : Math.max(1, Math.floor(this.#limit * PIECE_SECONDS / grainBytes))
    const runs: Run[] = []
    for (let from = at, room = Math.min(adopter.pieceGrains, paced); from < length && room > 0 && runs.length < RUNS_MAX;) {
      const start = layer.todo.next(from, length, true)
      if (start >= length) break
      const end = layer.todo.runEnd(start, length)
      const offset = start * grainBytes
      const zeros = -layer.reader.zeroRun(offset, Math.min(end * grainBytes, core.sizeBytes) - offset)
      const zeroGrains = offset + zeros === core.sizeBytes ? end - start : Math.floor(zeros / grainBytes)
      if (zeroGrains > 1) {
        if (runs.length === 0) runs.push({ start, end: start + Math.min(zeroGrains, ZERO_GRAINS_MAX) })
        break
      }
      from = Math.min(end, start + room)
      room -= from - start
      runs.push({ start, end: from })
    }
    return runs
  }

  async #copy(runs: readonly Run[]): Promise<void> {
    const { core, adopter } = this.#parts
    const { locks, grainBytes, clock } = core
    const startedMs = clock.now()
    const bytesOfRun = ({ start, end }: Run): [number, number] => [start * grainBytes, end * grainBytes]
    let held = 1
    let copied = 0
    await locks.lock(...bytesOfRun(runs[0]))
    while (held < runs.length && locks.tryLock(...bytesOfRun(runs[held]))) held++
    try {
      // The volume may have been made smaller meanwhile.
      const last = divCeil(core.sizeBytes, grainBytes)
      const there = runs.slice(0, held).map(({ start, end }) => ({ start, end: Math.min(end, last) }))
      copied = await adopter.adopt(there.filter(({ start, end }) => start < end))
      this.#problem = undefined
    } finally {
      for (const run of runs.slice(0, held)) locks.unlock(...bytesOfRun(run))
    }
    if (this.#limit !== null) await this.#rest(copied / this.#limit * 1000 - (clock.now() - startedMs))
  }

  async #rest(ms: number): Promise<void> {
    if (ms <= 0 || this.#stopped) return
    await new Promise<void>(resolve => {
      const timer = this.#parts.core.clock.setTimeout(resolve, ms)
      this.#wake = () => {
        timer.cancel()
        resolve()
      }
    })
    this.#wake = undefined
  }
}
