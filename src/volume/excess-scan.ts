/**
 * Excess scan: after a crash, open regions read as data from end to end. This takes the excess back, in the background:
 * grains whose live bytes are all zeros become holes, unless they were asked to stay allocated.
 *
 * - A chunk is locked while it is read and judged, so no write falls between the two; what is staged is moved to its place first.
 * - It never clears while a checkpoint runs (see the order in checkpoint.ts); that chunk is then read again.
 * - Rate: it works a quarter of the time, in chunks of 1 MiB, and stops between chunks when the volume closes.
 * - A region that cannot be read stays as it is: all data, which is always a safe answer.
 */
import { isZero } from '../../native-free/zero-scan.js'
import { REGION_GRAINS } from '../store/journal-records.js'
import { bufferFor, bytesOf, type VolumeCore } from './core.js'
import type { Checkpointer } from './checkpoint.js'
import type { Run } from './volume-map.js'

const CHUNK_BYTES = 2 ** 20
/** It rests three times as long as a chunk took. */
const REST_RATIO = 3
const START_DELAY_MS = 1000
const WHILE_CHECKPOINT_MS = 50

export class ExcessScan {
  readonly #core: VolumeCore
  readonly #checkpointer: Checkpointer
  #buffer: Buffer | undefined
  #stopped = false
  #wake: (() => void) | undefined
  #running: Promise<void> | undefined
  #freedGrains = 0

  constructor(core: VolumeCore, checkpointer: Checkpointer) {
    this.#core = core
    this.#checkpointer = checkpointer
  }

  start(): void {
    if (this.#core.map.unscanned.size > 0) this.#running ??= this.#scan()
  }

  /** Ends after the chunk that runs. */
  async stop(): Promise<void> {
    this.#stopped = true
    this.#wake?.()
    await this.#running
  }

  async #scan(): Promise<void> {
    const { map, logger } = this.#core
    await this.#rest(START_DELAY_MS)
    for (const region of [...map.unscanned]) {
      if (this.#stopped) return
      try {
        await this.#scanRegion(region)
      } catch (error) {
        logger.warn({ err: error, region }, 'a region left open by a crash could not be read; all of it counts as data')
      }
      if (this.#stopped) return
      map.unscanned.delete(region)
    }
    map.kept.clear()
    this.#checkpointer.wanted()
    logger.info({ freedBytes: this.#freedGrains * this.#core.grainBytes }, 'the map is exact again after the crash')
  }

  async #scanRegion(region: number): Promise<void> {
    const { map, grainBytes, clock } = this.#core
    const chunkGrains = Math.max(1, Math.floor(CHUNK_BYTES / grainBytes))
    for (let at = region * REGION_GRAINS; !this.#stopped;) {
      // The volume may shrink meanwhile.
      const end = Math.min(map.grains, (region + 1) * REGION_GRAINS)
      if (at >= end) return
      const start = map.data.next(at, end, true)
      if (start >= end) return
      const run = { start, end: Math.min(map.data.runEnd(start, end), start + chunkGrains) }
      const startedMs = clock.now()
      const judged = await this.#scanChunk(run)
      if (judged) at = run.end
      await this.#rest(judged ? (clock.now() - startedMs) * REST_RATIO : WHILE_CHECKPOINT_MS)
    }
  }

  /** False: a checkpoint is running, nothing was changed. */
  async #scanChunk(run: Run): Promise<boolean> {
    const { map, locks, live, grainBytes, staging } = this.#core
    const lock: [number, number] = [run.start * grainBytes, run.end * grainBytes]
    await locks.lock(...lock)
    try {
      if (run.end > map.grains) return true
      // Where it is zeros something else may be on its way.
      if (staging?.meets(run.start, run.end)) await staging.drain()
      const { offset, length } = bytesOf(this.#core, run)
      const buffer = this.#buffer ??= bufferFor(this.#core, CHUNK_BYTES)
      await live.read(offset, length, buffer, 0)
      if (this.#checkpointer.running) return false
      for (let grain = run.start; grain < run.end; grain++) {
        const at = (grain - run.start) * grainBytes
        if (map.kept.has(grain) || !map.data.get(grain) || !isZero(buffer, at, Math.min(grainBytes, length - at))) continue
        map.becomeHole(grain, grain + 1)
        this.#freedGrains++
      }
      return true
    } finally {
      locks.unlock(...lock)
    }
  }

  #rest(ms: number): Promise<void> {
    if (this.#stopped) return Promise.resolve()
    return new Promise(resolve => {
      const timer = this.#core.clock.setTimeout(resolve, ms)
      this.#wake = () => {
        timer.cancel()
        resolve()
      }
    })
  }
}
