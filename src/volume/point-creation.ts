/**
 * NewPoint: a point in the making, phase by phase, so that a group makes many at one instant (docs/snappoints.md).
 *
 *   prepare   folder and empty maps, durable; a flush, so that the one after the hold has little left to do
 *   lock      waits until nothing of the volume is in flight; whoever comes now waits
 *   take      in memory only: the chain has the point
 *   unlock
 *   secure    flush: everything that was answered before `take` is durable, and what says that the point is the newest
 *   (the caller writes one record that names all of them)
 *   confirm   it is there
 *   undo      instead of confirm: it goes again, like a point that is deleted
 *
 * Order, and what others would lose: record before `secure`, and a power cut leaves a point that has lost writes answered
 * before it, or a newest point that the journal does not speak of: its marks would be the older one's. `take` before
 * the folder is durable, and old content would be preserved into a file that a crash takes away.
 */
import { randomUUID } from 'node:crypto'
import { allSettled } from '../device/all-settled.js'
import { NbdeltaError } from '../device/errors.js'
import { RANGES_PER_RECORD_MAX } from '../store/journal-records.js'
import { NO_EXTENT } from './chain.js'
import type { Checkpointer } from './checkpoint.js'
import { flushNow, type VolumeCore } from './core.js'
import { Point } from './point.js'
import type { PointFiles, PointRecord, PointStore } from './point-store.js'
import type { CreatePointOptions } from './snappoint.js'
import { lockWhole } from './staging.js'

/** Clients of several volumes wait no longer than this for one of them that does not come to rest. */
export const HOLD_MS = 1000
/** Requests may take what room a checkpoint has made; then one more is tried. */
const ROOM_ATTEMPTS = 3

/** `take` says the hot extents, and that the point is there. */
const HOLD = { ranges: 2, isBounded: true, full: 'the journal of a volume has no room for a new point' } as const

interface Parts { readonly core: VolumeCore, readonly checkpointer: Checkpointer, readonly store: PointStore }

export class NewPoint {
  readonly record: PointRecord
  readonly #parts: Parts
  #files: PointFiles | undefined
  #point: Point | undefined
  #appends: (Promise<void> | undefined)[] = []

  /** `group`: uuid of the operation that makes it together with others. */
  constructor(parts: Parts, { name, kind, labels = {}, pins = [] }: CreatePointOptions, group: string | null) {
    this.#parts = parts
    this.record = {
      uuid: randomUUID(), seq: parts.store.nextSeq(), name, kind, createdAt: parts.core.clock.wallTime().toISOString(),
      sizeBytes: parts.core.sizeBytes, labels: Object.freeze({ ...labels }), group, pins: [...pins], deleting: false,
    }
  }

  /** In the chain, once it has been taken. */
  get point(): Point | undefined { return this.#point }

  async prepare(): Promise<void> {
    const { core, store } = this.#parts
    const { seq, kind, sizeBytes } = this.record
    if (kind === 'snapshot') await core.staging?.open(true)
    const make = async (): Promise<void> => { this.#files = await store.make(seq, kind, sizeBytes) }
    const flush = async (): Promise<void> => {
      // Most of what is staged is in its place before anybody waits for the rest.
      await core.staging?.drain()
      await flushNow(core)
    }
    await allSettled([make(), flush()])
  }

  /** By the monotonic clock. */
  get now(): number { return this.#parts.core.clock.now() }

  /** Calls back after that time. */
  after(ms: number, run: () => void): { cancel(): void } { return this.#parts.core.clock.setTimeout(run, ms) }

  lock(): Promise<void> { return lockWhole(this.#parts.core) }
  unlock(): void { this.#parts.core.locks.unlock(0, Number.MAX_SAFE_INTEGER) }

  /** The journal takes what `take` has to say, in so many ranges and the hot extents. To be asked while the lock is held. */
  hasRoomFor(ranges: number): boolean {
    const { journal, chain } = this.#parts.core
    return journal.hasRoomFor((chain.newest?.hot.size ?? 0) + ranges)
  }

  async makeRoom(): Promise<void> { await this.#parts.checkpointer.run() }

  take(): void {
    const { core } = this.#parts
    const { chain, journal } = core
    const { deleting: _, ...info } = this.record
    const point = this.#point = new Point(info, 'making', this.#files!, core.grainBytes, core.map.grains)
    chain.add(point)
    const extents = [...point.hot, NO_EXTENT]
    for (let at = 0; at < extents.length; at += RANGES_PER_RECORD_MAX) {
      this.#appends.push(journal.append('hot', extents.slice(at, at + RANGES_PER_RECORD_MAX), () => undefined, point.seq))
    }
    core.flushes.changed()
  }

  async secure(): Promise<void> {
    await allSettled(this.#appends)
    await flushNow(this.#parts.core)
  }

  confirm(): void { this.#point!.state = 'ready' }

  /** Before `take`: nothing is left of it. After: the caller has it merged away. */
  async discard(): Promise<void> {
    const { store } = this.#parts
    await this.#files?.close()
    if (!this.#files) return
    await store.markDeleted(this.record.seq)
    await store.removeDeleted(this.record.seq)
  }
}

/**
 * Makes points of several volumes at one instant, all or nothing. `put` makes one record of them durable. Volumes in an order
 * that is the same for everybody. Errors: busy (a volume did not come to rest), and those of `put` and of the disks;
 * points that were taken are then still in their chains, being made.
 */
export async function createPoints(points: readonly NewPoint[], put: () => Promise<void>): Promise<void> {
  try {
    for (const point of points) await point.prepare()
    await holdAll(points, HOLD, () => { for (const point of points) point.take() })
  } catch (error) {
    await allSettled(points.filter(({ point }) => !point).map(point => point.discard()))
    throw error
  }
  await allSettled(points.map(point => point.secure()))
  await put()
  for (const point of points) point.confirm()
}

/** The lock, or `busy` when the hold has gone on for HOLD_MS: then the lock is given back as soon as it comes. */
async function holdFor(point: NewPoint, sinceMs: number): Promise<void> {
  const locked = point.lock()
  let late = false
  let timer: { cancel(): void } | undefined
  const ended = new Promise<never>((_, reject) => {
    timer = point.after(Math.max(0, sinceMs + HOLD_MS - point.now), () => {
      late = true
      reject(new NbdeltaError('busy', 'a volume did not come to rest in time', { hint: 'try again' }))
    })
  })
  const whenLate = (): void => { if (late) point.unlock() }
  locked.then(whenLate, whenLate)
  try {
    await Promise.race([locked, ended])
  } finally {
    timer?.cancel()
  }
}

interface Hold {
  /** Ranges that `work` appends to the journal of each volume, beside the extents of its newest point. */
  readonly ranges: number
  /** Of several volumes none waits long for another. */
  readonly isBounded: boolean
  /** What is said when there is no room for these. */
  readonly full: string
}

/** Runs `work` with every volume locked, in the order in which everybody takes them, and room in its journal. Errors: busy */
export async function holdAll(
  points: readonly NewPoint[], { ranges, isBounded, full }: Hold, work: () => void | Promise<void>,
): Promise<void> {
  for (let attempt = 0; attempt < ROOM_ATTEMPTS; attempt++) {
    const held: NewPoint[] = []
    try {
      const sinceMs = points[0].now
      for (const point of points) {
        await (isBounded ? holdFor(point, sinceMs) : point.lock())
        held.push(point)
      }
      if (points.every(point => point.hasRoomFor(ranges))) return await work()
    } finally {
      for (const point of held) point.unlock()
    }
    for (const point of points) if (!point.hasRoomFor(ranges)) await point.makeRoom()
  }
  throw new NbdeltaError('busy', full)
}
