/**
 * Mirror: a named pair of a source volume and a target, kept alike by cycles (cycle.ts), and what an operator does with it
 * (mirror-state.ts says in which phase what is taken).
 *
 * Invariants
 * - Cycles and commands run one after the other; `pause`, `split --at-once` and `stop` end a cycle that runs first.
 * - What is durable is the record, and changes whole. Everything else here is told to people, and may be forgotten.
 * - A failed cycle changes nothing but `problem`; it is tried again after RETRY_MS, then twice as long, up to RETRY_MAX_MS. A
 *   write to the source never waits for any of it.
 * - Nothing but display and the interval uses wall time (X13).
 */
import { setImmediate as turn } from 'node:timers/promises'
import type { Clock, Timer } from '../device/clock.js'
import { NbdeltaError } from '../device/errors.js'
import type { Logger } from '../device/logger.js'
import { Turns } from '../device/turns.js'
import type { InheritJob } from '../volume/copier.js'
import type { TransferOptions } from '../volume/image.js'
import type { PointInfo } from '../volume/snappoint.js'
import type { StoreVolume } from '../volume/store-volume.js'
import { bytesOf, type CycleParts, type CycleResult, type Decision, fitted, runCycle, settle } from './cycle.js'
import type { MirrorRecord, MirrorState, Phase } from './mirror-record.js'
import { TABLE, type Verb } from './mirror-state.js'
import { SourcePoints } from './source-points.js'
import type { MirrorTarget } from './target.js'
import { compareDevices, type Difference } from './verify.js'
import { VolumeTarget } from './volume-target.js'

const RETRY_MS = 1000
const RETRY_MAX_MS = 60_000
/** How often a mirror with `lagBytes` looks how much is behind. */
const LOOK_MS = 1000
const DECISIONS_MAX = 50
/** Bookmarks of cycles of which nobody knows whether the target declared them. */
const NEWER_KEPT = 2

/** What people are told; times are ISO 8601 in UTC, sizes bytes. */
export interface MirrorStatus {
  readonly phase: Phase
  readonly paused: boolean
  /** A cycle runs: of what it looks at, so much is done. */
  readonly progress: { readonly doneBytes: number, readonly totalBytes: number, readonly bytesPerSecond: number } | null
  /** When the target's declared point was frozen. */
  readonly declaredAt: string | null
  readonly cycle: number
  /** What of the source the target does not have; null: it has no declared point, or the source cannot be read. */
  readonly lagBytes: number | null
  readonly lagSeconds: number | null
  readonly nextAt: string | null
  /** Why the last cycle failed, or what verification found; null: all is well. */
  readonly problem: string | null
  readonly unguarded: readonly string[]
  readonly last: (CycleResult & { readonly seconds: number }) | null
  readonly decisions: readonly (Decision & { readonly at: string })[]
}

interface MirrorParts {
  readonly record: MirrorRecord
  readonly target: MirrorTarget
  readonly clock: Clock
  readonly logger: Logger
  /** The source as it is now. Errors: not-found, and why it cannot be opened. */
  source(): StoreVolume
  put(record: MirrorRecord): Promise<void>
}

export class Mirror {
  readonly #parts: MirrorParts
  readonly #points: SourcePoints
  #record: MirrorRecord
  readonly #turns = new Turns()
  #cycle: AbortController | undefined
  #progress: { doneBytes: number, totalBytes: number, startedMs: number } | undefined
  #timer: Timer | undefined
  #dueAtMs: number
  #retryMs = 0
  #problem: string | undefined
  /** A cycle that found nothing changed renews it, in memory only (C23). */
  #renewedAt: string | undefined
  #result: MirrorStatus['last'] = null
  readonly #decisions: (Decision & { readonly at: string })[] = []
  #stopped = false

  constructor(parts: MirrorParts) {
    this.#parts = parts
    this.#record = parts.record
    this.#points = new SourcePoints(parts.record)
    this.#dueAtMs = parts.clock.now()
  }

  get record(): MirrorRecord { return this.#record }
  get state(): MirrorState { return this.#record.state }
  get target(): MirrorTarget { return this.#parts.target }

  /** As people know the target; a volume that is gone by its uuid. */
  targetLabel(): string {
    const { target } = this.state
    try { return this.#parts.target.label } catch { return target.kind === 'volume' ? target.uuid : target.uri }
  }

  /** What clients of a target that is a volume see. */
  declaredPoint(): PointInfo | undefined {
    const { target } = this.#parts
    try { return target instanceof VolumeTarget ? target.declaredPoint() : undefined } catch { return undefined }
  }

  /** Errors: wrong-state, if the phase rejects it. */
  judge(verb: Verb): void { this.#accept(verb) }

  /** What a crash left of the last cycle goes; then cycles begin. */
  start(): void {
    void this.#turns.take(async () => {
      await this.#sweep()
      this.#arm()
    })
  }

  /** What runs has ended, and nothing begins any more; points stay. */
  async stop(): Promise<void> {
    this.#stopped = true
    this.#timer?.cancel()
    this.#cycle?.abort()
    await this.#turns.idle
  }

  status(): MirrorStatus {
    const { clock } = this.#parts
    const { phase, paused, base, cycle } = this.state
    const declaredAt = this.#renewedAt ?? base?.at ?? null
    const waits = !paused && phase !== 'split' && !this.#progress && !this.#stopped
    const waitMs = Math.max(0, this.#dueAtMs - clock.now())
    const { doneBytes = 0, totalBytes = 0, startedMs = 0 } = this.#progress ?? {}
    const seconds = Math.max(0.001, (clock.now() - startedMs) / 1000)
    return {
      phase, paused, cycle, declaredAt,
      progress: this.#progress ? { doneBytes, totalBytes, bytesPerSecond: Math.round(doneBytes / seconds) } : null,
      lagBytes: this.#lagBytes(),
      lagSeconds: declaredAt === null ? null : Math.max(0, (clock.wallTime().getTime() - Date.parse(declaredAt)) / 1000),
      nextAt: waits ? new Date(clock.wallTime().getTime() + waitMs).toISOString() : null,
      problem: this.#problem ?? null, unguarded: this.#parts.target.unguarded, last: this.#result,
      decisions: [...this.#decisions],
    }
  }

  /** A cycle that begins after this call is complete when it resolves. Errors: wrong-state, cancelled, those of a cycle. */
  async sync(options: TransferOptions = {}): Promise<void> {
    this.#accept('sync')
    await this.#turns.take(() => this.#run(options))
  }

  async pause(): Promise<boolean> {
    if (!this.#accept('pause') || this.state.paused) return false
    this.#cycle?.abort()
    return this.#turns.take(async () => {
      await this.#put({ ...this.state, paused: true })
      this.#arm()
      return true
    })
  }

  async resume(): Promise<boolean> {
    if (!this.#accept('resume') || !this.state.paused) return false
    return this.#turns.take(async () => {
      await this.#put({ ...this.state, paused: false })
      this.#dueAtMs = this.#parts.clock.now()
      this.#arm()
      return true
    })
  }

  /**
   * The target stands on its own, at a declared point: a new one, or with `atOnce` the last. Returns whether that changed
   * anything. Errors: wrong-state, those of a cycle.
   */
  async split({ atOnce, ...options }: TransferOptions & { readonly atOnce: boolean }): Promise<boolean> {
    if (!this.#accept('split')) return false
    if (atOnce) this.#cycle?.abort()
    return this.#turns.take(async () => {
      if (!this.#accept('split')) return false
      if (!atOnce) await this.#run(options)
      await this.#parts.target.release()
      await this.#put({ ...this.state, phase: 'split', keep: true })
      this.#decide({ rule: 'split', inputs: { point: this.state.base?.point ?? null }, outcome: 'both sides are on their own' })
      this.#arm()
      return true
    })
  }

  /**
   * From here on the target is to get the source's content again, by the next cycle. Durable when it resolves.
   * @param whole compares everything, whatever maps say, in any phase
   */
  async beginResync({ whole }: { readonly whole: boolean }): Promise<void> {
    if (!whole && !this.#accept('resync')) return
    await this.#turns.take(async () => {
      if (!whole && !this.#accept('resync')) return
      const { phase, base } = this.state
      await this.#put({ ...this.state, phase: phase === 'copying' ? phase : 'resyncing', base: whole ? null : base, keep: true })
      this.#dueAtMs = this.#parts.clock.now()
      this.#arm()
    })
  }

  /** What a resync would look at, bytes; null: everything is compared. */
  async differing(): Promise<number | null> {
    const session = await this.#parts.target.open({ isFirst: false })
    try {
      const volume = this.#parts.source()
      const base = settle({ ...this.#cycleParts(volume, {}), decide: () => undefined }, this.state, session)
      const theirs = base && await session.changed()
      if (!base || !theirs) return null
      const map = volume.points.changedMap(base.name)
      map.or(fitted(theirs, map.length))
      return bytesOf(map, volume.grainBytes, volume.sizeBytes)
    } finally {
      await session.close()
    }
  }

  /**
   * The source gets the target's content, at once; what differs is copied in the background (D11). The caller has seen to it that
   * nobody writes to the target. Errors: wrong-state, bad-argument (the target is no volume of this store), those of a restore.
   */
  async reverse(): Promise<InheritJob> {
    this.#accept('reverse')
    return this.#turns.take(async () => {
      this.#accept('reverse')
      const { target } = this.#parts
      if (!(target instanceof VolumeTarget)) {
        const why = `${target.label} is no volume of this store: its content cannot be taken over at once`
        throw new NbdeltaError('bad-argument', why, { hint: 'copy it: nbdelta volume import --overwrite' })
      }
      return this.#reverse(target)
    })
  }

  async #reverse(target: VolumeTarget): Promise<InheritJob> {
    const volume = this.#parts.source()
    const session = await target.open()
    if (session.device.sizeBytes !== volume.sizeBytes) {
      const hint = 'nbdelta volume resize makes them alike'
      const sizes = `${target.label} has ${session.device.sizeBytes} bytes, ${volume.name} ${volume.sizeBytes}`
      throw new NbdeltaError('wrong-state', sizes, { hint })
    }
    const base = settle(this.#cycleParts(volume, {}), this.state, session)
    const cycle = this.state.cycle + 1
    const within = base && await session.changed()
    if (base && within) within.or(fitted(volume.points.changedMap(base.name), within.length))
    // Before the restore: what it marks on the source has then changed since.
    const bookmark = await this.#points.bookmark(volume, cycle)
    const job = await target.giveTo(volume, cycle, within)
    await session.commit({ uuid: bookmark.uuid, cycle, sizeBytes: volume.sizeBytes })
    const point = { point: bookmark.uuid, at: bookmark.createdAt }
    await this.#put({ ...this.state, phase: 'paired', keep: false, cycle, base: point })
    this.#decide({
      rule: within ? 'reverse-union-of-both-maps' : 'reverse-all', inputs: { base: base?.uuid ?? null },
      outcome: 'the source shows what the target had',
    })
    await this.#sweep()
    this.#dueAtMs = this.#parts.clock.now()
    this.#arm()
    return job
  }

  /** Compares both sides at a new point (X14). What differs ends "in sync": a resync of everything follows. */
  async verify(options: TransferOptions = {}): Promise<Difference[]> {
    this.#accept('verify')
    return this.#turns.take(async () => {
      this.#accept('verify')
      const found: Difference[] = []
      await this.#run(options, false, async (image, device) => { found.push(...await compareDevices(image, device, options)) })
      if (found.length === 0) return found
      await this.#put({ ...this.state, phase: 'resyncing', base: null, keep: true })
      const inputs = { regions: found.length, first: found[0]!.offset }
      this.#problem = `verification found differences, the first at ${inputs.first}: everything is compared now`
      this.#decide({ rule: 'verify-mismatch', inputs, outcome: 'resync of everything' })
      this.#dueAtMs = this.#parts.clock.now()
      this.#arm()
      return found
    })
  }

  /** Ends the pair: its points go from both sides; the target stands on its own, at its declared point if it has one. */
  async dissolve(): Promise<void> {
    this.#cycle?.abort()
    await this.#turns.take(async () => {
      this.#stopped = true
      this.#timer?.cancel()
      const { target } = this.#parts
      const steps = [
        async () => { if (this.state.base && this.state.phase !== 'split') await target.release() },
        async () => this.#points.sweep(this.#parts.source(), []),
        async () => target.forget(),
      ]
      for (const step of steps) {
        await step().catch((error: unknown) => {
          this.#parts.logger.warn({ err: error, mirror: this.#record.name }, 'something of a deleted mirror stays')
        })
      }
    })
  }

  /** False: it is so already. Errors: wrong-state. */
  #accept(verb: Verb): boolean {
    const verdict = TABLE[this.state.phase][verb]
    if (verdict.rule === 'reject') {
      throw new NbdeltaError('wrong-state', `cannot ${verb} mirror ${this.#record.name}: ${verdict.why}`, { hint: verdict.hint })
    }
    return verdict.rule === 'accept'
  }

  /** One cycle, in turn. Errors as told; `problem` says them as well. */
  async #run(options: TransferOptions, force = true, check?: Parameters<typeof runCycle>[2]): Promise<void> {
    if (this.#stopped) throw new NbdeltaError('shutting-down', 'the server is stopping')
    const { clock, logger } = this.#parts
    if (!force && !check && this.#isUnchanged()) return
    const startedMs = clock.now()
    const abort = this.#cycle = new AbortController()
    const onAbort = (): void => { abort.abort() }
    options.signal?.addEventListener('abort', onAbort, { once: true })
    this.#progress = { doneBytes: 0, totalBytes: 0, startedMs }
    try {
      const result = await runCycle(this.#cycleParts(this.#parts.source(), options, abort.signal), this.state, check)
      this.#result = { ...result, seconds: (clock.now() - startedMs) / 1000 }
      this.#problem = undefined
      this.#retryMs = 0
      this.#renewedAt = undefined
      this.#dueAtMs = startedMs + this.state.intervalSeconds * 1000
      logger.debug({ mirror: this.#record.name, ...result }, 'cycle complete')
    } catch (error) {
      this.#failed(error)
      throw error
    } finally {
      options.signal?.removeEventListener('abort', onAbort)
      this.#cycle = undefined
      this.#progress = undefined
      await this.#sweep()
      this.#arm()
    }
  }

  #failed(error: unknown): void {
    const { clock, logger } = this.#parts
    this.#retryMs = Math.min(RETRY_MAX_MS, Math.max(RETRY_MS, 2 * this.#retryMs))
    this.#dueAtMs = clock.now() + this.#retryMs
    if (error instanceof NbdeltaError && error.code === 'cancelled') return
    this.#problem = error instanceof Error ? error.message : String(error)
    const fields = { err: error, mirror: this.#record.name, retrySeconds: this.#retryMs / 1000 }
    logger.warn(fields, 'a cycle failed; what it was to ship stays pending')
  }

  /** The base stays, and what is newer: a target may have declared it without anybody having heard of it. */
  async #sweep(): Promise<void> {
    try {
      const volume = this.#parts.source()
      const base = this.#basePoint(volume)
      const newer = this.#points.list(volume, 'bookmark').filter(({ seq }) => seq > (base?.seq ?? 0)).slice(-NEWER_KEPT)
      await this.#points.sweep(volume, [...base ? [base] : [], ...newer].map(({ uuid }) => uuid))
    } catch (error) {
      this.#parts.logger.warn({ err: error, mirror: this.#record.name }, 'points of a cycle stay for now')
    }
  }

  /** The target is at what the source is now: the point's time is renewed, nothing is made (C23). */
  #isUnchanged(): boolean {
    if (this.state.phase !== 'paired' || this.#lagBytes() !== 0) return false
    const volume = this.#parts.source()
    if (this.#basePoint(volume)!.sizeBytes !== volume.sizeBytes) return false
    this.#renewedAt = this.#parts.clock.wallTime().toISOString()
    this.#dueAtMs = this.#parts.clock.now() + this.state.intervalSeconds * 1000
    return true
  }

  #lagBytes(): number | null {
    try {
      const volume = this.#parts.source()
      const point = this.#basePoint(volume)
      return point ? bytesOf(volume.points.changedMap(point.name), volume.grainBytes, volume.sizeBytes) : null
    } catch { return null }
  }

  #basePoint(volume: StoreVolume): PointInfo | undefined {
    const { base } = this.state
    return base ? this.#points.find(volume, base.point) : undefined
  }

  #cycleParts(volume: StoreVolume, { onProgress }: TransferOptions, signal = new AbortController().signal): CycleParts {
    const { target, clock } = this.#parts
    return {
      volume, target, points: this.#points, clock, signal,
      decide: decision => { this.#decide(decision) },
      put: state => this.#put(state),
      onProgress: (doneBytes, totalBytes) => {
        if (this.#progress) Object.assign(this.#progress, { doneBytes, totalBytes })
        onProgress?.(doneBytes, totalBytes)
      },
    }
  }

  #decide(decision: Decision): void {
    const { clock, logger } = this.#parts
    this.#decisions.push({ ...decision, at: clock.wallTime().toISOString() })
    if (this.#decisions.length > DECISIONS_MAX) this.#decisions.shift()
    logger.debug({ mirror: this.#record.name, ...decision }, 'mirror decision')
  }

  async #put(state: MirrorState): Promise<void> {
    const record = { ...this.#record, state }
    await this.#parts.put(record)
    this.#record = record
  }

  #arm(): void {
    this.#timer?.cancel()
    this.#timer = undefined
    if (this.#stopped || this.state.paused || this.state.phase === 'split') return
    const waitMs = Math.max(0, this.#dueAtMs - this.#parts.clock.now())
    const looks = this.state.lagBytes !== null && this.state.phase === 'paired' && this.#retryMs === 0
    this.#timer = this.#parts.clock.setTimeout(() => { this.#wake() }, looks ? Math.min(waitMs, LOOK_MS) : waitMs)
  }

  #wake(): void {
    void this.#turns.take(async () => {
      if (this.#stopped || this.state.paused || this.state.phase === 'split') return
      const isDue = this.#dueAtMs <= this.#parts.clock.now()
      const { lagBytes } = this.state
      if (isDue || (lagBytes !== null && (this.#lagBytes() ?? 0) >= lagBytes)) await this.#run({}, false).catch(() => undefined)
      await turn()
      this.#arm()
    })
  }
}
