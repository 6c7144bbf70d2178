/**
 * NewPoint: a point in the making, phase by phase, so that a group makes many at one instant (docs/snappoints.md).
 *
 *   prepare   folder and empty maps, durable; most of what is staged finds its place, and from here to the instant less is
 *             staged than is moved (backpressure.ts); a flush, so that the one after the instant has little left to do
 *   hold      waits until nothing of the volume is in flight; whoever comes now waits, but what is staged passes
 *   divide    the instant: what is staged from here on is not the point's
 *   settle    what was staged before has its place. What is not staged waits for that: writes to holes and to parts of
 *             grains, zeroes and trims; not longer than SETTLE_MS, then the point is not made
 *   take      in memory only: the chain has the point
 *   release
 *   secure    flush: everything that was answered before the instant is durable, and what says that the point is the newest
 *   (the caller writes one record that names all of them)
 *   confirm   it is there
 *   undo      instead of confirm: it goes again, like a point that is deleted
 *
 * Whatever else waits for a disk here waits as long as that takes, and no client waits for it.
 *
 * Of a restore the undo point is taken with everything drained and held (`lock`, restore-switch.ts).
 *
 * Order, and what others would lose: record before `secure`, and a power cut leaves a point that has lost writes answered
 * before it, or a newest point that the journal does not speak of: its marks would be the older one's. `take` before
 * the folder is durable, and old content would be preserved into a file that a crash takes away. `take` before `settle`, and
 * what was staged before the instant would count as changed after it, and be kept away from the point. The record before
 * what was staged before is retired, and a replay would do the same.
 */
import { randomUUID } from 'node:crypto'
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { allSettled, together } from '../device/all-settled.js'
import type { Pending } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import { EVERYTHING } from '../device/range-lock.js'
import { RANGES_PER_RECORD_MAX } from '../store/journal-records.js'
import { NO_EXTENT } from './chain.js'
import type { Checkpointer } from './checkpoint.js'
import { flushNow, type VolumeCore } from './core.js'
import { drainMost, lockWhole } from './holds.js'
import { type Bounds, Point } from './point.js'
import type { PointFiles, PointRecord, PointStore } from './point-store.js'
import { AUTO_LABEL, type CreatePointOptions, IMAGE, type PointInfo } from './snappoint.js'

/** Clients of several volumes wait no longer than this for one of them that does not come to rest. */
export const HOLD_MS = 1000
/** Of one volume, for what was staged to find its place on a slow disk. */
const SETTLE_MS = 25_000
/** Requests may take what room a checkpoint has made; then one more is tried. */
const ROOM_ATTEMPTS = 3

/** `take` says the hot extents, and that the point is there. */
const RANGES = 2

interface Parts { readonly core: VolumeCore, readonly checkpointer: Checkpointer, readonly store: PointStore }

export class NewPoint {
  readonly record: PointRecord
  readonly #parts: Parts
  readonly #judge: (() => void) | undefined
  readonly #atInstant: (() => void) | undefined
  readonly #letGo: (() => void) | undefined
  readonly #within: Bounds | undefined
  #files: PointFiles | undefined
  #point: Point | undefined
  #appended: Pending
  #isTight = false

  /** `group`: uuid of the operation that makes it together with others. @param within what an image keeps */
  constructor(parts: Parts, options: CreatePointOptions, group: string | null, within?: Bounds) {
    const { name, kind, pins = [] } = options
    const labels = { ...options.labels, ...within && { [AUTO_LABEL]: IMAGE } }
    this.#parts = parts
    this.#judge = options.judge
    this.#atInstant = options.atInstant
    this.#letGo = options.letGo
    this.#within = within
    this.record = {
      uuid: randomUUID(), seq: parts.store.nextSeq(), name, kind, createdAt: parts.core.clock.wallTime().toISOString(),
      sizeBytes: parts.core.sizeBytes, labels: Object.freeze(labels), group, pins: [...pins], deleting: false,
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
      this.#tighten()
      await drainMost(core)
      await flushNow(core)
    }
    await allSettled([make(), flush()])
  }

  /** Until the instant is over, or will not be. */
  #tighten(): void {
    this.#isTight = true
    this.#parts.core.staging?.tighten()
  }

  #loosen(): void {
    if (this.#isTight) this.#parts.core.staging?.loosen()
    this.#isTight = false
  }

  /** By the monotonic clock. */
  get now(): number { return this.#parts.core.clock.now() }

  /** As `work`, but not longer than until then. @param late called then. Errors: busy, those of `work` */
  async by(untilMs: number, work: Promise<void>, late?: () => void): Promise<void> {
    const { clock } = this.#parts.core
    let timer: { cancel(): void } | undefined
    const ended = new Promise<never>((_, reject) => {
      timer = clock.setTimeout(() => {
        late?.()
        reject(new NbdeltaError('busy', 'a volume did not come to rest in time', { hint: 'try again' }))
      }, Math.max(0, untilMs - clock.now()))
    })
    try {
      await Promise.race([work, ended])
    } finally {
      timer?.cancel()
    }
  }

  /** The whole volume, with nothing staged. */
  lock(): Promise<void> { return lockWhole(this.#parts.core) }
  unlock(): void { this.#parts.core.locks.unlock(0, EVERYTHING) }

  /** Everything that is not staged. */
  async hold(): Promise<void> {
    const { staging, locks } = this.#parts.core
    staging?.pass()
    await locks.lock(0, EVERYTHING)
  }

  release(): void {
    this.#parts.core.staging?.unite()
    this.unlock()
  }

  /** It is held. Errors: why it is not to be made. */
  judge(): void { this.#judge?.() }

  /** The instant; it is held. */
  divide(): void {
    this.#parts.core.staging?.divide(this.record.kind === 'snapshot')
    this.#loosen()
    this.#tell()
  }

  /** `settle` and `take`: at once, if nothing is staged. Errors: busy (no room in the journal, or late), those of the disks. */
  async settle(): Promise<void> {
    const { staging } = this.#parts.core
    const untilMs = this.now + SETTLE_MS
    if (staging && !staging.isSettled) await this.by(untilMs, staging.settle())
    for (let attempt = 0; !this.hasRoomFor(RANGES); attempt++) {
      if (attempt === ROOM_ATTEMPTS) throw new NbdeltaError('busy', 'the journal of a volume has no room for a new point')
      await this.by(untilMs, this.makeRoom())
    }
    this.#add()
  }

  /** The journal takes what `take` has to say, in so many ranges and the hot extents. To be asked while the lock is held. */
  hasRoomFor(ranges: number): boolean {
    const { journal, chain } = this.#parts.core
    return journal.hasRoomFor((chain.newest?.hot.size ?? 0) + ranges)
  }

  async makeRoom(): Promise<void> { await this.#parts.checkpointer.run() }

  /** With everything drained and held, which is the instant as well. */
  take(): void {
    this.#add()
    this.#loosen()
    this.#tell()
  }

  get #info(): PointInfo {
    const { deleting: _, ...info } = this.record
    return info
  }

  #tell(): void {
    this.#parts.core.watchers.pointed(this.#info)
    this.#atInstant?.()
  }

  #add(): void {
    const { core } = this.#parts
    const { chain, journal } = core
    const info = this.#info
    const point = this.#point = new Point(info, 'making', this.#files!, core.grainBytes, core.map.grains)
    point.within = this.#within
    point.brief = this.#within && new GrainBitmap(point.grains)
    if (this.#letGo) point.spare = { owners: info.pins.map(({ owner }) => owner), letGo: this.#letGo, told: false }
    chain.add(point)
    const extents = [...point.hot, NO_EXTENT]
    this.#appended = together(add => {
      for (let at = 0; at < extents.length; at += RANGES_PER_RECORD_MAX) {
        add(journal.append('hot', extents.slice(at, at + RANGES_PER_RECORD_MAX), () => undefined, point.seq))
      }
    })
    // Others of its group may be on their way to their instant still.
    this.#appended?.catch(() => undefined)
    core.flushes.changed()
  }

  async secure(): Promise<void> {
    await this.#appended
    await flushNow(this.#parts.core)
  }

  confirm(): void { this.#point!.state = 'ready' }

  /** Before `take`: nothing is left of it. After: the caller has it merged away. */
  async discard(): Promise<void> {
    const { store } = this.#parts
    this.#loosen()
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
    await takeAll(points)
  } catch (error) {
    await allSettled(points.filter(({ point }) => !point).map(point => point.discard()))
    throw error
  }
  await allSettled(points.map(point => point.secure()))
  await put()
  for (const point of points) point.confirm()
}

/** All of them at one instant. */
async function takeAll(points: readonly NewPoint[]): Promise<void> {
  const held: NewPoint[] = []
  const release = (point: NewPoint): void => {
    held.splice(held.indexOf(point), 1)
    point.release()
  }
  try {
    await inTime(points, { begin: point => point.hold(), end: point => { point.release() } }, held)
    for (const point of points) point.judge()
    for (const point of points) point.divide()
    await allSettled(points.map(async point => {
      await point.settle()
      release(point)
    }))
  } finally {
    for (const point of [...held]) release(point)
  }
}

interface Holding { begin(point: NewPoint): Promise<void>, end(point: NewPoint): void }

/** One after the other, or `busy` when that goes on for HOLD_MS: one that comes late ends at once. @param held gets them */
async function inTime(points: readonly NewPoint[], holding: Holding, held: NewPoint[]): Promise<void> {
  const sinceMs = points[0].now
  for (const point of points) {
    await holdFor(point, sinceMs, holding)
    held.push(point)
  }
}

async function holdFor(point: NewPoint, sinceMs: number, { begin, end }: Holding): Promise<void> {
  const locked = begin(point)
  let late = false
  const whenLate = (): void => { if (late) end(point) }
  // One whose disk has failed is not held.
  locked.then(whenLate, () => undefined)
  await point.by(sinceMs + HOLD_MS, locked, () => { late = true })
}

interface Hold {
  /** Ranges that `work` appends to the journal of each volume, beside the extents of its newest point. */
  readonly ranges: number
  /** Of several volumes none waits long for another. */
  readonly isBounded: boolean
  /** What is said when there is no room for these. */
  readonly full: string
}

const LOCKING: Holding = { begin: point => point.lock(), end: point => { point.unlock() } }

/** Runs `work` with every volume locked, in the order in which everybody takes them, and room in its journal. Errors: busy */
export async function holdAll(
  points: readonly NewPoint[], { ranges, isBounded, full }: Hold, work: () => Promise<void>,
): Promise<void> {
  for (let attempt = 0; attempt < ROOM_ATTEMPTS; attempt++) {
    const held: NewPoint[] = []
    try {
      if (isBounded) await inTime(points, LOCKING, held)
      else for (const point of points) {
        await point.lock()
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
