/**
 * Reclaim: gives the space of stale grains back, in the background, a batch of ranges at a time.
 *
 * Order of disk writes, and what each other order would lose
 *   1. punch the ranges out of live (they are stale: nobody can see it), 2. flush live, 3. journal CLEAR.
 *   CLEAR before 2 is durable: a power cut could leave old bytes under a hole, and the next write to a part of such a
 *   grain would show them. CLEAR need not be durable itself: without it the grains are stale still, and reclaimed again.
 *
 *   With points, ZERO is made durable before 1: it is what marks the grains as changed. Staged writes that may come back
 *   (staging.ts) are over before 1, and their mark is durable with 2: behind CLEAR nothing says that they were trimmed.
 *
 * A range is locked from 1 to 3, so a write to it waits for its batch. Ranges that somebody holds are left for later.
 * Batches adapt: long ones are cut, so that no writer waits for much more than BATCH_MS.
 * Where live cannot give space back the ranges stay stale: they read as zeros all the same.
 *
 * Writes into stale runs cut them to pieces, faster than the background work ends them, or for ever where it cannot. The
 * journal's snapshot has room for so many only: `relieve` then ends some short ones at once, by writing zeros if need be.
 */
import { allSettled } from '../device/all-settled.js'
import { NbdeltaError } from '../device/errors.js'
import { bytesOf, flushNow, type VolumeCore } from './core.js'
import type { Run } from './volume-map.js'

/** Time for a client to go on trimming before the first batch. */
const RECLAIM_DELAY_MS = 20
/** After a failure of the disk. */
const RETRY_MS = 30_000
const RUNS_AT_ONCE = 64
const BATCH_MS = 50
/** How long a close may go on giving space back, and how much it writes where that is impossible. */
const FINISH_MS = 10_000
const FINISH_WRITE_BYTES = 2 ** 30
const PIECE_MIN_BYTES = 16 * 2 ** 20
const PIECE_MAX_BYTES = 2 ** 40

type Outcome = 'done' | 'impossible' | 'failed'

export class Reclaimer {
  readonly #core: VolumeCore
  #timer: { cancel(): void } | undefined
  #running: Promise<void> | undefined
  #stopped = false
  #impossible = false
  #relieving: Promise<void> | undefined
  #pieceBytes = 1024 * 2 ** 20

  constructor(core: VolumeCore) {
    this.#core = core
  }

  /** Space that stale grains take is not going to come back on this disk. */
  get impossible(): boolean { return this.#impossible }

  /** There are stale ranges. */
  wake(delayMs = RECLAIM_DELAY_MS): void {
    if (this.#stopped || this.#impossible || this.#running || this.#timer) return
    this.#timer = this.#core.clock.setTimeout(() => {
      this.#timer = undefined
      this.#running = this.#work().finally(() => {
        this.#running = undefined
        // Something may have become stale after the last look.
        if (this.#core.map.stale.size > 0) this.wake()
      })
    }, delayMs)
  }

  /**
   * To be called before a stale run is cut in two: while there are as many as the journal has room for, ends some that are
   * not locked. Rejects when the disk fails; then nothing has changed.
   */
  async relieve(): Promise<void> {
    const { map } = this.#core
    while (this.#relieving) await this.#relieving.catch(() => undefined)
    if (map.stale.size < map.staleRunsMax) return
    this.#relieving = this.#endShortRuns().finally(() => { this.#relieving = undefined })
    await this.#relieving
  }

  /** Ends after the batch that runs. */
  async stop(): Promise<void> {
    this.#stopped = true
    this.#timer?.cancel()
    await this.#running
  }

  /**
   * Ends the background work and gives back what is left, so that live at rest is a plain raw image: what reads as zeros
   * is zeros. Where space cannot be given back zeros are written, up to FINISH_WRITE_BYTES; beyond that, and beyond
   * FINISH_MS, ranges stay stale and the log says so. Nothing may be in flight.
   */
  async finish(): Promise<void> {
    await this.stop()
    const { map, clock, logger, grainBytes } = this.#core
    const deadlineMs = clock.now() + FINISH_MS
    try {
      while (map.stale.size > 0 && clock.now() <= deadlineMs) {
        if (this.#impossible && map.stale.total * grainBytes > FINISH_WRITE_BYTES) break
        if (!await this.#endBatch()) break
      }
    } catch (error) {
      logger.warn({ err: error }, 'space of trimmed ranges could not be given back before closing')
    }
    if (map.stale.size > 0) {
      logger.warn({ staleBytes: map.stale.total * grainBytes },
        'trimmed ranges still hold old bytes on the disk; through the volume they read as zeros')
    }
  }

  /** All of it, however long it takes, by zeros if need be. Errors: busy (somebody holds some of it), those of the disk. */
  async finishAll(): Promise<void> {
    await this.stop()
    try {
      while (this.#core.map.stale.size > 0) {
        if (!await this.#endBatch()) throw new NbdeltaError('busy', 'ranges that were trimmed are written to')
      }
    } finally {
      this.#stopped = false
    }
  }

  /** False: somebody is at all of it. */
  async #endBatch(): Promise<boolean> {
    const batch = this.#lockBatch()
    if (batch.length === 0) return false
    try {
      if (await this.#giveBack(batch) === 'impossible') this.#impossible = true
      return true
    } finally {
      this.#unlock(batch)
    }
  }

  /** Batch after batch until nothing is stale. A failure of the disk is retried later; a client's flush will meet it as well. */
  async #work(): Promise<void> {
    const { map, clock, logger } = this.#core
    while (map.stale.size > 0 && !this.#stopped) {
      const batch = this.#lockBatch()
      if (batch.length === 0) return this.#later(RECLAIM_DELAY_MS)
      const startedMs = clock.now()
      let outcome: Outcome
      try {
        outcome = await this.#giveBack(batch)
      } catch (error) {
        logger.warn({ err: error }, 'space of trimmed ranges could not be given back; will be tried again')
        outcome = 'failed'
      } finally {
        this.#unlock(batch)
      }
      if (outcome === 'failed') return this.#later(RETRY_MS)
      if (outcome === 'impossible') {
        this.#impossible = true
        logger.info({ staleBytes: map.stale.total * this.#core.grainBytes },
          'the disk cannot give space back; trimmed ranges read as zeros and stay allocated')
        return
      }
      const tookMs = clock.now() - startedMs
      if (tookMs > BATCH_MS) this.#pieceBytes = Math.max(PIECE_MIN_BYTES, this.#core.grainBytes, this.#pieceBytes / 2)
      else if (tookMs < BATCH_MS / 4) this.#pieceBytes = Math.min(PIECE_MAX_BYTES, this.#pieceBytes * 2)
    }
  }

  /** `wake` in a later tick, when `running` is over. */
  #later(delayMs: number): void {
    if (!this.#stopped) this.#timer = this.#core.clock.setTimeout(() => {
      this.#timer = undefined
      this.wake(0)
    }, delayMs)
  }

  #lockOf(run: Run): [number, number] {
    return [run.start * this.#core.grainBytes, run.end * this.#core.grainBytes]
  }

  #unlock(batch: readonly Run[]): void {
    for (const run of batch) this.#core.locks.unlock(...this.#lockOf(run))
  }

  /** Stale runs nobody is at, locked; together no more than one piece. */
  #lockBatch(): Run[] {
    const batch: Run[] = []
    let room = Math.floor(this.#pieceBytes / this.#core.grainBytes)
    for (const { start, end } of this.#core.map.stale) {
      const run = { start, end: Math.min(end, start + room) }
      if (!this.#core.locks.tryLock(...this.#lockOf(run))) continue
      batch.push(run)
      room -= run.end - run.start
      if (room <= 0 || batch.length === RUNS_AT_ONCE) break
    }
    return batch
  }

  /** No longer than the average: with 32,768 runs at most 1 MiB for each 32 GiB that are stale. */
  async #endShortRuns(): Promise<void> {
    const { map, live, locks, journal } = this.#core
    const meanGrains = map.stale.total / map.stale.size
    const batch: Run[] = []
    for (const run of map.stale) {
      if (run.end - run.start > meanGrains || !locks.tryLock(...this.#lockOf(run))) continue
      if (batch.push(run) === RUNS_AT_ONCE) break
    }
    if (batch.length === 0) return
    try {
      await this.#settle(batch)
      for (const run of batch) {
        const { offset, length } = bytesOf(this.#core, run)
        await live.zero(offset, length, { allocate: false, fast: false })
      }
      await flushNow(this.#core)
      await journal.append('clear', batch, () => { for (const run of batch) map.becomeHole(run.start, run.end) })
    } finally {
      this.#unlock(batch)
    }
  }

  async #giveBack(batch: readonly Run[]): Promise<Outcome> {
    const { journal, map } = this.#core
    await this.#settle(batch)
    if (!await this.#punch(batch.map(run => bytesOf(this.#core, run)))) return 'impossible'
    await flushNow(this.#core)
    await journal.append('clear', batch, () => { for (const run of batch) map.becomeHole(run.start, run.end) })
    return 'done'
  }

  /**
   * What snapshots have of it is theirs, durably, and no older staged write can come back: once it is forgotten that these runs
   * are zeros, it would come over them.
   */
  async #settle(batch: readonly Run[]): Promise<void> {
    const { chain, journal, staging } = this.#core
    if (!chain.isEmpty) await journal.sync()
    if (batch.some(({ start, end }) => staging?.meets(start, end))) await staging!.drain()
  }

  async #punch(ranges: readonly { readonly offset: number, readonly length: number }[]): Promise<boolean> {
    const { live } = this.#core
    if (this.#impossible) {
      for (const { offset, length } of ranges) await live.zero(offset, length, { allocate: false, fast: false })
      return true
    }
    if (live.punch) {
      if ((await live.punch(ranges)).punched) return true
      // A full disk, no process to be had: that passes. While closing there is no later.
      if (live.capabilities.trim && !this.#stopped) throw new NbdeltaError('io', 'the disk did not give space back this time')
      return false
    }
    try {
      const fast = { allocate: false, fast: true }
      await allSettled(ranges.map(async ({ offset, length }) => { await live.zero(offset, length, fast) }))
      return true
    } catch (error) {
      if (error instanceof NbdeltaError && error.code === 'not-fast') return false
      throw error
    }
  }
}
