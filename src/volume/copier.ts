/**
 * Copier: turns one layer's inherited grains into live's own, in the background, a piece at a time, as an InheritJob.
 *
 * - A piece is locked while it is copied: a client's write to it waits, and whoever was first is left alone (a grain that has
 *   been taken is not in the layer any more).
 * - At most `bytesPerSecond`; what reads as zeros costs nothing. `hurry` takes the limit away.
 * - When the disk fails it is tried again later; a full disk likewise. Closing the volume pauses it, the next open goes on.
 */
import { divCeil } from '../../native-free/integer.js'
import { asNbdeltaError, NbdeltaError } from '../device/errors.js'
import { type Adopter, ZERO_GRAINS_MAX } from './adopter.js'
import type { VolumeCore } from './core.js'
import type { Layer } from './inherited.js'
import type { Run } from './volume-map.js'

/** After a failure of the disk. */
const RETRY_MS = 30_000
/** With a limit, pieces are of so many seconds, so that the rate is even. */
const PIECE_SECONDS = 0.1

/** Copying that goes on in the background. */
export interface InheritJob {
  /** `totalBytes` is what there was to do when it began; after an open, what there was left. */
  progress(): { readonly doneBytes: number, readonly totalBytes: number }
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
  #over = false
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

  cancel(): Promise<void> { return this.#parts.cancel() }

  /** Without limit from now on. Resolves when all is done; rejects when it is stopped before. */
  hurry(): Promise<void> {
    this.#limit = null
    this.#wake?.()
    return this.finished
  }

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
        core.logger.warn({ err: asNbdeltaError(error, 'copy what is inherited') }, 'copying failed; will be tried again')
        await this.#rest(RETRY_MS)
      }
    }
    if (this.#over) this.#settle.resolve()
    else this.#settle.reject(this.#stopped)
  }

  async #copyAll(): Promise<void> {
    const { core, layer } = this.#parts
    for (let at = 0; layer.left > 0 && !this.#stopped;) {
      const run = this.#next(at)
      if (run) at = await this.#copy(run)
      else at = 0
      // Everything may have completed at once: others want a turn as well.
      await new Promise<void>(resolve => { setImmediate(resolve) })
    }
    core.flushes.changed()
  }

  /** The next piece from grain `at` on. */
  #next(at: number): Run | undefined {
    const { core, layer, adopter } = this.#parts
    const { grainBytes } = core
    const { length } = layer.todo
    const start = at < length ? layer.todo.next(at, length, true) : length
    if (start >= length) return undefined
    const end = layer.todo.runEnd(start, length)
    const offset = start * grainBytes
    const zeros = -layer.reader.zeroRun(offset, Math.min(end * grainBytes, core.sizeBytes) - offset)
    const zeroGrains = offset + zeros === core.sizeBytes ? end - start : Math.floor(zeros / grainBytes)
    if (zeroGrains > 1) return { start, end: start + Math.min(zeroGrains, ZERO_GRAINS_MAX) }
    const paced = this.#limit === null ? Infinity : Math.max(1, Math.floor(this.#limit * PIECE_SECONDS / grainBytes))
    return { start, end: Math.min(length, start + Math.min(adopter.pieceGrains, paced)) }
  }

  /** Returns where to go on. */
  async #copy(run: Run): Promise<number> {
    const { core, adopter } = this.#parts
    const { locks, grainBytes, clock } = core
    const startedMs = clock.now()
    const lock: [number, number] = [run.start * grainBytes, run.end * grainBytes]
    let copied = 0
    await locks.lock(...lock)
    try {
      // The volume may have been made smaller meanwhile.
      const end = Math.min(run.end, divCeil(core.sizeBytes, grainBytes))
      if (run.start < end) copied = await adopter.adopt(run.start, end)
    } finally {
      locks.unlock(...lock)
    }
    if (this.#limit !== null) await this.#rest(copied / this.#limit * 1000 - (clock.now() - startedMs))
    return run.end
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
