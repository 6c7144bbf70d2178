/**
 * VolumePoints: the snappoints of one open volume, as its owner sees them (snappoint.ts). The chain is chain.ts, making one
 * point-creation.ts, merging a deleted one point-merge.ts.
 *
 * Invariants
 * - Changes of the set, and resizes, run one after the other (`inTurn`); merging goes on in the background.
 * - What is listed is in the table, durably. Memory follows the disk.
 * - What is being deleted counts towards the limit of the table until it is merged. Whoever makes a point waits for that.
 * - Nobody has a turn behind `stop`: the volume may be open anew by then, or gone, and the table is not this one's to change.
 */
import { holdUnmoved } from './holds.js'
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import type { Clock } from '../device/clock.js'
import { NbdeltaError } from '../device/errors.js'
import { Turns } from '../device/turns.js'
import { POINTS_PER_VOLUME_MAX } from '../store/point-index.js'
import type { LiveView } from './live-view.js'
import { createPoints, NewPoint } from './point-creation.js'
import { OpenPointDevice, type PointUse } from './point-device.js'
import { type MergeParts, PointMerger } from './point-merge.js'
import type { Point } from './point.js'
import type { PointRecord, PointStore } from './point-store.js'
import { resized } from './restore-plan.js'
import {
  type CreatePointOptions, judgeWhole, type OpenPointOptions, type Pin, type PointDevice, type PointFacts, type PointInfo, pinOf,
  type Snappoints,
} from './snappoint.js'
import type { Run } from './volume-map.js'

interface Parts extends MergeParts { readonly view: LiveView }
/** How long runs are looked at before others get a turn: a client's requests wait for that. */
const TURN_MS = 1
/** Runs between two looks at the clock. */
const RUNS_AT_ONCE = 16
/** In names of exports the newest snapshot, whichever that is (SEEDS B14). */
const LATEST = 'latest'

export class VolumePoints implements Snappoints {
  readonly #parts: Parts
  readonly #store: PointStore | undefined
  readonly #merger: PointMerger | undefined
  readonly #turns = new Turns()
  /** Why nothing is changed any more, nor points made: what the volume holds, or its size, only the next open tells. */
  refusal: NbdeltaError | undefined
  #isLeaving = false
  #stopped = false

  constructor(parts: Parts, store: PointStore | undefined) {
    this.#parts = parts
    this.#store = store
    this.#merger = store && new PointMerger(parts, store)
  }

  /** Goes on with what a crash or a close cut short. */
  start(): void {
    if (this.#points.some(({ state }) => state === 'deleting')) this.#merger!.wake()
  }

  /** The volume is about to be closed: no point is begun, pinned or opened any more. Who waits for a turn gets it. */
  leave(): void { this.#isLeaving = true }

  async stop(): Promise<void> {
    this.leave()
    this.#stopped = true
    await this.#turns.idle
    await this.#merger?.stop()
  }

  async close(): Promise<void> {
    await Promise.all(this.#points.map(({ files }) => files.close()))
  }

  /** Another volume shows content of one of them, or is about to: this one must not be closed alone. */
  get hasHeirs(): boolean { return this.#points.some(({ heirs }) => heirs > 0) }

  list(): readonly PointInfo[] { return this.#points.filter(({ state }) => state === 'ready').map(({ info }) => info) }

  get(name: string): PointInfo | undefined { return this.#find(name)?.info }

  async facts(name: string): Promise<PointFacts> {
    const point = this.#known(name)
    const { chain, grainBytes } = this.#parts.core
    const changedGrains = point.changed.count()
    if (!point.isSnapshot) return { exclusiveBytes: 0, referencedBytes: 0, changedGrains }
    const heir = chain.heirOf(point)
    let exclusive = 0
    for (const map of [point.bytes, point.lent]) {
      await eachRun(map, this.#parts.core.clock, run => { exclusive += heir ? unowned(heir, run) : run.end - run.start })
    }
    return { exclusiveBytes: exclusive * grainBytes, referencedBytes: await this.#referenced(point), changedGrains }
  }

  async create(options: CreatePointOptions): Promise<PointInfo> {
    for (;;) {
      if (this.isCrowded) await this.room()
      const made = await this.inTurn(async () => this.isCrowded ? undefined : this.#create(options))
      if (made) return made
    }
  }

  async #create(options: CreatePointOptions): Promise<PointInfo> {
    const fresh = this.begin(options, null)
    try {
      await createPoints([fresh], () => this.#needStore().put([fresh.record], []))
    } catch (error) {
      await this.giveUp(fresh)
      throw error
    }
    return fresh.point!.info
  }

  /** There would be a place for one more, if what is being deleted had given back its own, which it is doing. */
  get isCrowded(): boolean {
    return this.#store !== undefined && this.#merger!.isWorking && this.#store.list().length >= POINTS_PER_VOLUME_MAX
  }

  /** Whoever makes points faster than deleted ones go waits here, outside of a turn. In turn `isCrowded` says if it did. */
  async room(): Promise<void> {
    while (this.isCrowded) {
      await this.#merger!.next()
      this.#judgeStaying()
    }
  }

  /** A point in the making; asked for in turn. `group`: uuid of what makes others with it. Errors: exists, bad-argument. */
  begin(options: CreatePointOptions, group: string | null): NewPoint {
    this.#judgeStaying()
    if (this.refusal) throw this.refusal
    const store = this.#needStore()
    this.#judgeFree(options.name)
    const { keeps } = options
    const within = keeps && { since: this.#known(keeps.since).seq, from: keeps.from, also: keeps.also, done: 0 }
    return new NewPoint({ ...this.#parts, store }, options, group, within)
  }

  /** A point that was taken into the chain, but never confirmed, goes again. */
  async giveUp({ point }: NewPoint): Promise<void> {
    // Whether the record that names it is on disk only the next open tells: until then it takes marks, and is not listed.
    if (!point || this.#store!.inDoubt) return
    await this.#beginDeletion(point)
  }

  /** @param owners their pins do not keep it. Errors: not-found, busy (pinned, or in use), io. */
  delete(name: string, owners: readonly string[] = []): Promise<void> {
    return this.inTurn(async () => {
      const point = this.#known(name)
      refusePinned(point.info, this.#parts.core.clock, owners)
      if (point.users > 0) throw new NbdeltaError('busy', `'${name}' is in use`)
      point.leaving = true
      try {
        await this.#needStore().put([{ ...point.info, deleting: true }], [])
        await this.#beginDeletion(point)
      } finally {
        point.leaving = false
      }
    })
  }

  async settled(): Promise<void> {
    await this.#turns.idle
    await this.#merger?.settled()
  }

  rename(name: string, to: string): Promise<PointInfo> {
    return this.inTurn(async () => {
      const point = this.#known(name)
      if (to !== name) this.#judgeFree(to)
      return this.#put(point, { ...point.info, name: to })
    })
  }

  async label(name: string, label: string, value: string | null): Promise<void> {
    await this.inTurn(() => {
      const point = this.#known(name)
      const { [label]: _, ...others } = point.info.labels
      return this.#put(point, { ...point.info, labels: Object.freeze(value === null ? others : { ...others, [label]: value }) })
    })
  }

  #judgeFree(name: string): void {
    if (name === LATEST) throw new NbdeltaError('bad-argument', `'${name}' stands for the newest snapshot: take another name`)
    if (this.#find(name)) throw new NbdeltaError('exists', `there is a point '${name}' already`)
  }

  async pin(name: string, pin: Pin): Promise<void> {
    await this.inTurn(() => {
      this.#judgeStaying()
      const point = this.#known(name)
      return this.#put(point, { ...point.info, pins: [...point.info.pins.filter(({ owner }) => owner !== pin.owner), pin] })
    })
  }

  async unpin(name: string, owner: string): Promise<void> {
    await this.inTurn(() => {
      const point = this.#known(name)
      return this.#put(point, { ...point.info, pins: point.info.pins.filter(pin => pin.owner !== owner) })
    })
  }

  open(name: string, { yields = false, image = false, heir = false }: OpenPointOptions = {}): PointDevice {
    this.#judgeStaying()
    const point = this.#known(name)
    if (!point.isSnapshot) throw new NbdeltaError('bad-argument', `'${name}' is a bookmark: it keeps no content`)
    if (!image) judgeWhole(point.info)
    if (point.leaving) throw new NbdeltaError('busy', `'${name}' is being deleted`)
    return this.#device(point, yields ? 'yields' : heir ? 'inherits' : 'keeps')
  }

  openPoint(point: Point): PointDevice { return this.#device(point, 'keeps') }

  byUuid(uuid: string): Point | undefined {
    return this.#points.find(({ state, info }) => state === 'ready' && info.uuid === uuid)
  }

  changedRuns(since: string, until?: string): Run[] {
    return this.#runs(since, until === undefined ? undefined : this.#known(until))
  }

  /** One after the other, whoever changes the set of points or the size. Errors: wrong-state (the volume is closed). */
  async inTurn<T>(change: () => Promise<T>): Promise<T> {
    if (this.#stopped) throw closed()
    return this.#turns.take(change)
  }

  #judgeStaying(): void { if (this.#isLeaving) throw closed() }

  get #points(): readonly Point[] { return this.#parts.core.chain.points }

  /** OR of the maps from `since` up to, and without, `until`. */
  #runs(since: string, until: Point | undefined): Run[] {
    const points = this.#mapsBetween(since, until)
    const runs: { start: number, end: number }[] = []
    const limit = until ? until.grains : this.#parts.core.map.grains
    for (let at = 0; at < limit;) {
      let start = limit
      for (const changed of points) if (at < changed.length) start = Math.min(start, nextSet(changed, at, limit))
      if (start >= limit) break
      let end = start
      for (let grown = true; grown;) {
        grown = false
        for (const changed of points) {
          const stop = Math.min(limit, changed.length)
          if (end >= stop || !changed.get(end)) continue
          end = changed.runEnd(end, stop)
          grown = true
        }
      }
      runs.push({ start, end })
      at = end
    }
    return runs
  }

  changedMap(since: string, until?: string): GrainBitmap {
    const last = until === undefined ? undefined : this.#known(until)
    const map = new GrainBitmap(last ? last.grains : this.#parts.core.map.grains)
    for (const changed of this.#mapsBetween(since, last)) {
      map.or(changed.length === map.length ? changed : resized(changed, map.length))
    }
    return map
  }

  isChanged(since: string, from: number, to: number): boolean {
    const maps = this.#marksBetween(since, undefined)
    const isMarked = maps.some(changed => from < changed.length && nextSet(changed, from, to) < to)
    return isMarked || this.#parts.core.staging?.meets(from, to) === true
  }

  async hasChanged(since: string): Promise<boolean> {
    const { core } = this.#parts
    let changed = false
    // A write that waits for old content to be kept has marked nothing.
    await this.inTurn(() => holdUnmoved(core, () => {
      changed = this.#known(since).info.sizeBytes !== core.sizeBytes || this.isChanged(since, 0, core.map.grains)
    }))
    return changed
  }

  /** Changed maps from `since` up to, and without, `until`. */
  #mapsBetween(since: string, until: Point | undefined): GrainBitmap[] {
    const maps = this.#marksBetween(since, until)
    // What is staged is marked only when it is moved to its place.
    const { staging } = this.#parts.core
    return until || !staging || staging.idle ? maps : [...maps, staging.grains()]
  }

  #marksBetween(since: string, until: Point | undefined): GrainBitmap[] {
    const first = this.#known(since)
    if (until && until.seq < first.seq) throw new NbdeltaError('bad-argument', `'${until.info.name}' is older than '${since}'`)
    return this.#points.filter(({ seq }) => seq >= first.seq && (!until || seq < until.seq)).map(({ changed }) => changed)
  }

  async #put(point: Point, info: PointInfo): Promise<PointInfo> {
    const record: PointRecord = { ...info, deleting: false }
    await this.#needStore().put([record], [])
    point.info = info
    return info
  }

  /** Nobody sees it any more. Marks and old content go to the older ones from this instant on. */
  async #beginDeletion(point: Point): Promise<void> {
    const { core } = this.#parts
    await holdUnmoved(core, () => {
      point.state = 'deleting'
      core.chain.foldMarks(point)
      core.chain.refresh()
      core.space.reconsider()
    })
    this.#merger!.wake()
  }

  /** Errors: not-found (it was deleted meanwhile, for which nobody waits until this is done). */
  async #referenced(point: Point): Promise<number> {
    const device = this.#device(point, 'looks')
    const turn = new Turn(this.#parts.core.clock)
    try {
      let bytes = 0
      for (let at = 0; at < device.sizeBytes;) {
        const run = device.zeroRun(at, device.sizeBytes - at)
        if (run > 0) bytes += run
        at += Math.abs(run)
        if (!turn.isOver) continue
        await turn.next()
        if (point.state === 'deleting') throw new NbdeltaError('not-found', `'${point.info.name}' was deleted meanwhile`)
      }
      return bytes
    } finally {
      await device.close()
    }
  }

  #device(point: Point, use: PointUse): OpenPointDevice {
    return new OpenPointDevice(this.#parts.core, this.#parts.view, point, (since, until) => this.#runs(since, until), use)
  }

  #find(name: string): Point | undefined {
    return this.#points.find(({ state, info }) => state === 'ready' && info.name === name)
  }

  #known(name: string): Point {
    const point = this.#find(name)
    if (!point) throw new NbdeltaError('not-found', `there is no snapshot or bookmark '${name}'`)
    return point
  }

  #needStore(): PointStore {
    if (!this.#store) throw new NbdeltaError('wrong-state', 'this volume has no place for snapshots')
    return this.#store
  }
}

function closed(): NbdeltaError { return new NbdeltaError('wrong-state', 'the volume is closed') }

function refusePinned(info: PointInfo, clock: Clock, owners: readonly string[]): void {
  const pin = pinOf(info, clock.wallTime(), owners)
  const hint = 'release the pin, or wait until it expires'
  if (pin) throw new NbdeltaError('busy', `'${info.name}' is pinned by ${pin.owner}`, { hint })
}

async function eachRun(map: Point['bytes'], clock: Clock, look: (run: Run) => void): Promise<void> {
  const turn = new Turn(clock)
  for (const run of map.runs()) {
    look(run)
    if (turn.isOver) await turn.next()
  }
}

/** Work in small steps that gives others a turn. */
class Turn {
  readonly #clock: Clock
  #startedMs: number
  #steps = 0

  constructor(clock: Clock) {
    this.#clock = clock
    this.#startedMs = clock.now()
  }

  /** Asked after each step. */
  get isOver(): boolean { return ++this.#steps % RUNS_AT_ONCE === 0 && this.#clock.now() - this.#startedMs >= TURN_MS }

  /** Others had theirs when this resolves. */
  async next(): Promise<void> {
    await new Promise<void>(resolve => { setImmediate(resolve) })
    this.#startedMs = this.#clock.now()
  }
}

/** Grains of the run that the heir would not take over. */
function unowned(heir: Point, run: Run): number {
  const end = Math.min(run.end, heir.owned.length)
  const taken = run.start < end ? end - run.start - heir.owned.count(run.start, end) : 0
  return run.end - run.start - taken
}

function nextSet(map: Point['changed'], from: number, limit: number): number {
  const end = Math.min(limit, map.length)
  const found = map.next(from, end, true)
  return found < end ? found : limit
}
