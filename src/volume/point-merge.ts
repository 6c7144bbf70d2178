/**
 * Merging a deleted point into the older ones, in the background, one after the other, the oldest first.
 *
 * Order, and what each other order would lose (marks went to the next older point when the deletion began: chain.foldMarks)
 *   1. what the next older snapshot, its heir, does not own itself is handed over: bytes copied, flushed, PRESERVE of the heir
 *      to the journal; lent grains by LEND alone. PRESERVE first, and a power cut leaves the heir with zeros.
 *   2. what it still has lent nobody needs: ZERO (stale from now on), and the point owns zeros. Before 1 the heir would lose it.
 *   3. checkpoint: marks and ownership of all others are in their map files, and the point has nothing lent any more. Without
 *      it, what the journal says of the point could be dropped while its files still say otherwise.
 *   4. out of the chain, its files closed, the folder marked as deleted, out of the table, the folder removed.
 * On a full disk, bytes of the point that its heir has durably are given back early: there is no room for 1 and 3 otherwise.
 * Until 3 the point answers look-ups. Cut short anywhere, the next open begins again at 1, and finds most of it done.
 *
 * Bound: after a crash, what 1 and 2 said since the last checkpoint also counts as changed in the newest point.
 */
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { allSettled } from '../device/all-settled.js'
import { NbdeltaError } from '../device/errors.js'
import type { Checkpointer } from './checkpoint.js'
import { bufferFor, type VolumeCore } from './core.js'
import { placeIn } from './chain.js'
import type { Point } from './point.js'
import type { PointRecord, PointStore } from './point-store.js'
import type { Reclaimer } from './reclaim.js'
import type { Run } from './volume-map.js'

const BUFFER_BYTES = 4 * 2 ** 20
/** What is handed over at a time while the disk is full. */
const SMALL_PIECE_BYTES = 64 * 1024
/** Runs handed over in one record, and released in one turn. */
const RUNS_AT_ONCE = 512
/** After a failure of the disk. */
const RETRY_MS = 30_000

export interface MergeParts {
  readonly core: VolumeCore
  readonly checkpointer: Checkpointer
  readonly reclaimer: Reclaimer
}

export class PointMerger {
  readonly #parts: MergeParts
  readonly #store: PointStore
  #running: Promise<void> | undefined
  #timer: { cancel(): void } | undefined
  #stopped = false
  #failure: unknown
  #waiting: (() => void)[] = []

  constructor(parts: MergeParts, store: PointStore) {
    this.#parts = parts
    this.#store = store
  }

  /** Something is being deleted. */
  wake(): void {
    if (this.#stopped || this.#running) return
    this.#timer?.cancel()
    this.#running = this.#work().finally(() => {
      this.#running = undefined
      this.#tell()
      // One may have come after the last look, and found this running.
      if (!this.#stopped && this.#failure === undefined && this.#next()) this.wake()
    })
  }

  /** Something is being merged, and gives its place back. */
  get isWorking(): boolean { return this.#running !== undefined }

  /** One more has gone when it resolves, or nothing is being merged. */
  async next(): Promise<void> {
    if (this.#running) await new Promise<void>(resolve => { this.#waiting.push(resolve) })
  }

  /** Nothing is being deleted any more. Rejects when the disk fails; it is tried again later. */
  async settled(): Promise<void> {
    while (this.#running) await this.#running
    if (this.#failure !== undefined) throw this.#failure
  }

  /** Ends after the step that runs. */
  async stop(): Promise<void> {
    this.#stopped = true
    this.#timer?.cancel()
    await this.#running
  }

  async #work(): Promise<void> {
    const { core } = this.#parts
    this.#failure = undefined
    await Promise.resolve()
    try {
      for (let point = this.#next(); point && !this.#stopped; point = this.#next()) await this.#merge(point)
    } catch (error) {
      if (this.#stopped) return
      this.#failure = error
      core.logger.warn({ err: error }, 'a deleted point could not be merged into the older one; will be tried again')
      this.#timer = core.clock.setTimeout(() => this.wake(), RETRY_MS)
    }
  }

  #tell(): void { for (const go of this.#waiting.splice(0)) go() }

  #next(): Point | undefined { return this.#parts.core.chain.points.find(({ state }) => state === 'deleting') }

  async #merge(point: Point): Promise<void> {
    const { core, checkpointer } = this.#parts
    const { chain } = core
    const heir = point.isSnapshot ? chain.heirOf(point) : undefined
    const gone = new GrainBitmap(point.bytes.length)
    if (heir && !await this.#inRoom(point, heir, gone, pieceBytes => this.#handOver(point, heir, pieceBytes))) return
    await this.#release(point)
    if (!await this.#inRoom(point, heir, gone, () => checkpointer.run())) return
    await checkpointer.exclude(async () => {
      chain.remove(point)
      await point.files.close()
    })
    const record: PointRecord = { ...point.info, deleting: true }
    await this.#store.markDeleted(point.seq)
    await this.#store.put([], [record])
    await this.#store.removeDeleted(point.seq)
    this.#tell()
    core.space.onRoom()
    core.logger.debug({ point: point.seq, heir: heir?.seq }, 'a point was merged into the older one')
  }

  /**
   * `work` copies in pieces of so many bytes. Where it finds the disk full, what nobody needs any more of the point's bytes is
   * given back, and it goes on in small pieces: each one that the heir has taken over makes room for the next. False: it was
   * stopped before all was done.
   */
  async #inRoom(
    point: Point, heir: Point | undefined, gone: GrainBitmap, work: (pieceBytes: number) => Promise<void>,
  ): Promise<boolean> {
    const { grainBytes } = this.#parts.core
    for (let pieceBytes = BUFFER_BYTES; !this.#stopped;) {
      try {
        await work(pieceBytes)
        return true
      } catch (error) {
        if (!(error instanceof NbdeltaError) || error.code !== 'no-space') throw error
        if (await this.#giveBack(point, heir, gone)) pieceBytes = Math.min(pieceBytes, SMALL_PIECE_BYTES)
        else if (pieceBytes > grainBytes) pieceBytes = grainBytes
        else throw error
      }
    }
    return false
  }

  /** Bytes that the heir has as well, durably: older ones find them there, newer ones never come here. False: none. */
  async #giveBack(point: Point, heir: Point | undefined, gone: GrainBitmap): Promise<boolean> {
    const { journal, grainBytes } = this.#parts.core
    await journal.sync()
    const { length } = gone
    let some = false
    for (let at = point.bytes.next(0, length, true); at < length;) {
      const end = Math.min(point.bytes.runEnd(at, length), gone.runEnd(at, length))
      const stop = heir && at < heir.owned.length ? Math.min(end, heir.owned.runEnd(at, heir.owned.length)) : end
      if (!gone.get(at) && (!heir || (at < heir.owned.length && heir.owned.get(at)))) {
        gone.set(at, stop)
        some = true
        const offset = at * grainBytes
        await point.files.preserved!.trim(offset, Math.min(stop * grainBytes, point.info.sizeBytes) - offset)
      }
      at = stop < length ? point.bytes.next(stop, length, true) : stop
    }
    return some
  }

  /** Step 1. */
  async #handOver(point: Point, heir: Point, pieceBytes: number): Promise<void> {
    const limit = Math.min(point.owned.length, heir.owned.length)
    const buffer = bufferFor(this.#parts.core, BUFFER_BYTES)
    const room = Math.max(1, Math.floor(Math.min(pieceBytes, buffer.length) / this.#parts.core.grainBytes))
    for (let at = 0; at < limit && !this.#stopped;) {
      const bytes: Run[] = []
      const zero: Run[] = []
      const lent: Run[] = []
      let grains = 0
      while (at < limit && grains < room && bytes.length + zero.length + lent.length < RUNS_AT_ONCE) {
        const run = missingRun(point, heir, at, limit)
        at = run.end
        if (run.start >= limit) break
        const place = placeIn(point, run.start)
        if (place === 'bytes') {
          const end = Math.min(run.end, run.start + room - grains)
          at = end
          grains += end - run.start
          bytes.push({ start: run.start, end })
        } else (place === 'lent' ? lent : zero).push(run)
      }
      await this.#handBytes(point, heir, bytes, buffer)
      await this.#say('preserveZero', heir, zero)
      await this.#handLent(point, heir, lent)
    }
  }

  async #handBytes(point: Point, heir: Point, runs: readonly Run[], buffer: Buffer): Promise<void> {
    if (runs.length === 0) return
    const { core } = this.#parts
    const pending: Promise<void>[] = []
    let filled = 0
    for (const run of runs) {
      const offset = run.start * core.grainBytes
      const length = Math.min((run.end - run.start) * core.grainBytes, heir.info.sizeBytes - offset)
      const there = Math.min(length, point.info.sizeBytes - offset)
      const at = filled
      filled += (run.end - run.start) * core.grainBytes
      buffer.fill(0, at + there, at + length)
      pending.push((async () => {
        await point.files.preserved!.read(offset, there, buffer, at)
        await heir.files.preserved!.write(offset, length, buffer, at)
      })())
    }
    await allSettled(pending)
    await heir.files.preserved!.flush()
    await this.#say('preserve', heir, runs)
  }

  /** The grains are locked, so that nobody takes back what is lent in between. */
  async #handLent(point: Point, heir: Point, runs: readonly Run[]): Promise<void> {
    const { core } = this.#parts
    for (const run of runs) {
      const lock: [number, number] = [run.start * core.grainBytes, run.end * core.grainBytes]
      await core.locks.lock(...lock)
      try {
        const { lent, other } = byLent(point, run)
        if (lent.length > 0) await core.journal.append('lend', lent, () => {
          for (const { start, end } of lent) core.chain.lend(heir, start, end)
        }, heir.seq)
        // Taken back meanwhile: it is among the bytes now.
        for (const part of other) await this.#handBytesOf(point, heir, part)
      } finally {
        core.locks.unlock(...lock)
      }
    }
  }

  async #handBytesOf(point: Point, heir: Point, run: Run): Promise<void> {
    const { grainBytes } = this.#parts.core
    const buffer = bufferFor(this.#parts.core, BUFFER_BYTES)
    const room = Math.floor(buffer.length / grainBytes)
    for (let start = run.start; start < run.end; start += room) {
      await this.#handBytes(point, heir, [{ start, end: Math.min(run.end, start + room) }], buffer)
    }
  }

  async #say(kind: 'preserve' | 'preserveZero', heir: Point, runs: readonly Run[]): Promise<void> {
    if (runs.length === 0) return
    const { chain, journal } = this.#parts.core
    await journal.append(kind, runs, () => {
      for (const { start, end } of runs) {
        if (kind === 'preserve') chain.preserve(heir, start, end)
        else chain.preserveZero(heir, start, end)
      }
    }, heir.seq)
  }

  /** Step 2. */
  async #release(point: Point): Promise<void> {
    const { core, reclaimer } = this.#parts
    const { chain, map, journal, locks, grainBytes } = core
    const { lent } = point
    for (let at = lent.next(0, lent.length, true); at < lent.length && !this.#stopped;) {
      const run = { start: at, end: lent.runEnd(at, lent.length) }
      at = run.end < lent.length ? lent.next(run.end, lent.length, true) : run.end
      const lock: [number, number] = [run.start * grainBytes, run.end * grainBytes]
      await reclaimer.relieve()
      await locks.lock(...lock)
      try {
        const { lent: still } = byLent(point, run)
        if (map.stale.size + still.length > map.staleRunsMax) throw new NbdeltaError('busy', 'too many trimmed ranges at once')
        if (still.length === 0) continue
        const zero = journal.append('zero', still, () => { for (const { start, end } of still) map.becomeStale(start, end) })
        const owned = journal.append('preserveZero', still, () => {
          for (const { start, end } of still) chain.preserveZero(point, start, end)
        }, point.seq)
        await allSettled([zero, owned])
      } finally {
        locks.unlock(...lock)
      }
    }
    reclaimer.wake()
  }
}

/** The next run from `from` on that the point owns and its heir does not, all of it in one place. `limit`: none. */
function missingRun(point: Point, heir: Point, from: number, limit: number): Run {
  let start = from
  while (start < limit) {
    start = point.owned.next(start, limit, true)
    if (start === limit || !heir.owned.get(start)) break
    start = heir.owned.next(start, limit, false)
  }
  if (start >= limit) return { start: limit, end: limit }
  let end = Math.min(point.owned.runEnd(start, limit), heir.owned.runEnd(start, limit))
  end = Math.min(point.bytes.runEnd(start, end), point.lent.runEnd(start, end))
  return { start, end }
}

/** Parts of the run that are lent to the point, and the others. */
function byLent({ lent }: Point, run: Run): { readonly lent: Run[], readonly other: Run[] } {
  const parts = { lent: [] as Run[], other: [] as Run[] }
  for (let start = run.start; start < run.end;) {
    const end = lent.runEnd(start, run.end)
    ;(lent.get(start) ? parts.lent : parts.other).push({ start, end })
    start = end
  }
  return parts
}
