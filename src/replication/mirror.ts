/**
 * Mirror: a named pair of a source volume and a target, kept alike by cycles (cycle.ts), and what an operator does with it
 * (mirror-state.ts says in which phase what is taken).
 *
 * Invariants
 * - Cycles and commands run one after the other; `pause`, `split --at-once` and `stop` end a cycle that runs first.
 * - What is durable is the record, and changes whole. Everything else here is told to people, and may be forgotten.
 * - A failed cycle changes nothing but `problem`; it is tried again later and later (backoff.ts). A
 *   write to the source never waits for any of it.
 * - Nothing but display and the interval uses wall time (X13).
 */
import { setImmediate as turn } from 'node:timers/promises'
import type { Clock, Timer } from '../device/clock.js'
import { NbdeltaError } from '../device/errors.js'
import type { Logger } from '../device/logger.js'
import { Turns } from '../device/turns.js'
import type { TransferOptions } from '../volume/transfer.js'
import type { PointInfo } from '../volume/snappoint.js'
import type { StoreVolume } from '../volume/store-volume.js'
import { Backoff } from './backoff.js'
import { runCycles } from './carry.js'
import type { CompareOptions, Difference } from './compare.js'
import { type CycleParts, type CycleResult, differing, type Doubt } from './cycle.js'
import { Ending } from './ending.js'
import type { LogBudget } from './log-budget.js'
import type { MirrorRecord, MirrorState } from './mirror-record.js'
import { accepts, resyncing, type Verb } from './mirror-state.js'
import { type CycleOptions, Decisions, type MirrorStatus, type MirrorTurn, statusOf } from './mirror-status.js'
import { Running } from './running.js'
import { instantOf, SourcePoints } from './source-points.js'
import { Streaming } from './streaming.js'
import { doubtedStream, StreamRoots, withRoot } from './stream-roots.js'
import type { MirrorTarget } from './target.js'
import { doubted, Verifications } from './verifications.js'
import { VolumeTarget } from './volume-target.js'

/** How often a mirror with `lagBytes` looks how much is behind. */
const LOOK_MS = 1000

interface MirrorParts {
  readonly record: MirrorRecord
  readonly target: MirrorTarget
  readonly clock: Clock
  /** Of all mirrors of the server. */
  readonly logs: LogBudget
  readonly logger: Logger
  /** The source as it is now. Errors: not-found, and why it cannot be opened. */
  source(): StoreVolume
  /** In the tick in which it is frozen. Errors: busy (it holds what is no point of it). */
  judgeSource?(this: void, volume: StoreVolume): void
  put(record: MirrorRecord): Promise<void>
}

export class Mirror {
  readonly #parts: MirrorParts
  readonly #points: SourcePoints
  #record: MirrorRecord
  readonly #turns = new Turns()
  /** Of whoever holds a turn of these: what it does, and what cannot wait for its end. */
  #inside: Turns | undefined
  readonly #work: Running
  #streaming: Streaming | undefined
  #timer: Timer | undefined
  #dueAtMs: number
  readonly #retry = new Backoff()
  readonly #streamRetry = new Backoff()
  /** No cycle has ended in this process yet; or none since a stream had sent what the source never held. */
  #unsure = true
  #problem: string | undefined
  /** A cycle that found nothing changed renews it, in memory only (C23). */
  #renewedAt: string | undefined
  #result: MirrorStatus['last'] = null
  readonly #decisions: Decisions
  readonly #verifications: Verifications
  readonly #roots: StreamRoots
  #stopped = false
  #deleted = false

  constructor(parts: MirrorParts) {
    this.#parts = parts
    this.#record = parts.record
    this.#points = new SourcePoints(parts.record, parts.judgeSource)
    this.#work = new Running(parts.clock)
    this.#decisions = new Decisions(parts)
    this.#verifications = new Verifications(parts)
    this.#roots = new StreamRoots({
      ...parts, isVerifying: () => this.#verifications.isRunning,
      doubt: found => this.#take(() => this.#doubt(doubtedStream(this.state, found))),
      agreed: (point, root) => this.#take(() => this.#put(withRoot(this.state, point, root))),
    })
    this.#dueAtMs = parts.clock.now()
  }

  get record(): MirrorRecord { return this.#record }
  get state(): MirrorState { return this.#record.state }
  get target(): MirrorTarget { return this.#parts.target }

  /** The target stands on its own, and knows it. */
  get isApart(): boolean { return this.state.phase === 'split' && !this.state.releasing }

  /** What the declared point was frozen together with, at one instant; undefined: it was frozen alone. */
  get instant(): string | undefined {
    try { return instantOf(this.#points.find(this.#parts.source(), this.state.base?.point)) } catch { return undefined }
  }

  /** As people know the target; a volume that is gone by its uuid. */
  targetLabel(): string {
    const { target } = this.state
    try { return this.#parts.target.label } catch { return target.kind === 'volume' ? target.uuid : target.uri }
  }

  get #copy(): VolumeTarget | undefined { return this.#parts.target instanceof VolumeTarget ? this.#parts.target : undefined }
  /** What clients of a target that is a volume here see. */
  shownPoint(): PointInfo | undefined { try { return this.#copy?.shownPoint() } catch { return undefined } }
  /** Such a target holds what a stream has brought, and that counts. */
  get isReceiving(): boolean { return this.#copy?.isReceiving ?? false }

  /** Errors: wrong-state, if the phase rejects it. */
  judge(verb: Verb): void { this.#accept(verb) }

  /** What a crash left of the last cycle goes; then cycles begin. */
  start(): void {
    void this.#turns.take(async () => {
      await this.#sweep()
      await this.#release().catch((error: unknown) => { this.#failed(error) })
      this.#arm()
    })
  }

  /** What runs has ended, and nothing begins any more; points stay. */
  async stop(): Promise<void> {
    this.#stopped = true
    this.#timer?.cancel()
    this.#work.end()
    await this.#verifications.close(new NbdeltaError('shutting-down', 'the server is stopping'))
    await this.#turns.take(async () => {
      const parts = (signal: AbortSignal): CycleParts => this.#cycleParts(this.#parts.source(), {}, signal)
      if (this.#lagBytes() !== 0) await this.#streaming?.lastPoint(parts, this.state)
      await this.#endStream()
    })
  }

  status(): MirrorStatus {
    return statusOf({
      state: this.state, clock: this.#parts.clock, progress: this.#work.progress, problem: this.#problem, last: this.#result,
      stream: this.#streaming?.facts() ?? null, dueAtMs: this.#isIdle() ? null : this.#dueAtMs, renewedAt: this.#renewedAt,
      lagBytes: () => this.#lagBytes(), unguarded: this.#parts.target.unguarded, decisions: this.#decisions.list,
      verified: this.#verifications.last,
    })
  }

  /**
   * The turn is the caller's until `work` has ended: nothing else of this mirror runs meanwhile, but that what a stream waits for
   * is declared, between two of its steps.
   * @param verb judged before and when it is its turn; undefined: any phase will do
   * @param hurry a cycle that runs is ended first
   * Errors: wrong-state, those of `work`.
   */
  async inTurn<T>(verb: Verb | undefined, work: (turn: MirrorTurn) => Promise<T>, hurry: boolean): Promise<T> {
    if (verb) this.#accept(verb)
    if (hurry) this.#work.end()
    return this.#take(async () => {
      if (verb) this.#accept(verb)
      const inside = this.#inside = new Turns()
      try {
        return await work({
          mirror: this, cycle: (options, freeze) => inside.take(() => this.#run({ ...options, freeze })),
          run: (options, run) => inside.take(() => this.#running(options, run)),
          release: () => inside.take(() => this.#endStream().then(() => this.#release()).catch((error: unknown) => {
            this.#failed(error)
            throw error
          })),
          adopt: (state, decision) => {
            this.#record = { ...this.#record, state }
            this.#dueAtMs = this.#parts.clock.now()
            this.#decisions.add(decision)
          },
        })
      } finally {
        this.#inside = undefined
        await inside.idle
        await this.#sweep()
        this.#arm()
      }
    })
  }

  /** A cycle that begins after this call is complete when it resolves. Errors: wrong-state, cancelled, those of a cycle. */
  async sync(options: TransferOptions = {}): Promise<void> {
    this.#accept('sync')
    await this.#take(async () => {
      // A split may have been in front.
      this.#accept('sync')
      await this.#run(options)
    })
  }

  async pause(): Promise<boolean> {
    if (!this.#accept('pause') || this.state.paused) return false
    this.#work.end()
    return this.#take(async () => {
      await this.#endStream()
      await this.#put({ ...this.state, paused: true })
      this.#arm()
      return true
    })
  }

  async resume(): Promise<boolean> {
    if (!this.#accept('resume') || !this.state.paused) return false
    return this.#take(async () => {
      await this.#put({ ...this.state, paused: false })
      this.#dueNow()
      return true
    })
  }

  /**
   * The target stands on its own, at a declared point: a new one, or with `atOnce` the last. Returns whether that changed
   * anything. Errors: wrong-state, those of a cycle.
   */
  async split({ atOnce, ...options }: TransferOptions & { readonly atOnce: boolean }): Promise<boolean> {
    if (!this.#accept('split')) return false
    if (atOnce) this.#work.end()
    return this.#take(async () => {
      if (!this.#accept('split')) return false
      if (!atOnce) await this.#run({ ...options, last: true })
      await this.#letGo()
      this.#decisions.add({ rule: 'split', inputs: { point: this.state.base?.point ?? null }, outcome: 'both are on their own' })
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
    await this.#take(async () => {
      if (!whole && !this.#accept('resync')) return
      await this.#endStream()
      await this.#release()
      await this.#put(resyncing(this.state, whole))
      this.#dueNow()
    })
  }

  /** What a resync would look at, bytes; null: everything is compared. */
  differing(): Promise<number | null> {
    return differing({ ...this.#cycleParts(this.#parts.source(), {}), decide: () => undefined }, this.state)
  }

  /** Compares both sides at a new point (X14). What differs ends "in sync": a resync of everything follows. */
  async verify(options: CompareOptions = {}): Promise<readonly Difference[]> {
    this.#accept('verify')
    return this.#verifications.run({
      target: this.#parts.target, source: () => this.#parts.source(),
      cycle: (witness, signal, then) => this.#take(async () => {
        this.#accept('verify')
        await this.#run({ ...options, signal, witness })
        await then(this.state)
      }),
      doubt: found => {
        // What it ships is compared as well, later.
        this.#work.end()
        return this.#take(() => this.#doubt(doubted(this.state, found)))
      },
      tidy: () => { void this.#turns.take(() => this.#sweep()) },
    }, options)
  }

  async #doubt({ decision, next, problem }: Doubt): Promise<void> {
    this.#decisions.add(decision)
    if (!next) return
    await this.#endStream()
    this.#roots.forget()
    await this.#put(next)
    this.#problem = problem
    this.#dueNow()
  }

  /**
   * Ends the pair: its points go from both sides; the target stands on its own, at its declared point if it has one.
   * @param remove its record. Errors: no-space, busy, io, flush-failed (a target here cannot be let go: it goes on), of `remove`.
   */
  async dissolve(remove: () => Promise<void>): Promise<void> {
    this.#work.end()
    const ending = new Ending(this.#parts, this.#record.name)
    await this.#turns.take(async () => {
      await this.#endStream()
      this.#dueNow()
      const isOwned = (this.state.base !== null || this.state.phase === 'resyncing') && !this.isApart
      if (isOwned) await ending.letGo(() => this.#letGo(), () => this.shownPoint() !== undefined)
      this.#stopped = this.#deleted = true
      this.#timer?.cancel()
    })
    await this.#verifications.close(this.#gone())
    await this.#turns.take(() => ending.forget(remove, async () => this.#points.sweep(this.#parts.source(), [])))
  }

  /** The target stands on its own, at its declared point; what a resync had not kept yet is kept (D14). */
  async #letGo(): Promise<void> {
    const { keep, cycle } = this.state
    await this.#endStream()
    await this.#parts.target.release(keep ? cycle + 1 : undefined)
    await this.#put({ ...this.state, phase: 'split', releasing: false, keep: true })
  }

  /** False: it is so already. Errors: wrong-state. */
  #accept(verb: Verb): boolean { return accepts(verb, this.state.phase, this.#record.name) }

  /** Errors: not-found (it was deleted meanwhile: what comes behind that would bring its record back), those of the work. */
  #take<T>(work: () => Promise<T>): Promise<T> {
    return this.#turns.take(async () => {
      if (this.#deleted) throw this.#gone()
      return work()
    })
  }

  #gone(): NbdeltaError { return new NbdeltaError('not-found', `mirror ${this.#record.name} was deleted meanwhile`) }

  /** One cycle, in turn. Errors as told; `problem` says them as well. */
  async #run(options: CycleOptions, force = true): Promise<void> {
    const { clock, logger } = this.#parts
    if (options.signal?.aborted) throw new NbdeltaError('cancelled', 'it was cancelled')
    if (!force && this.#isUnchanged()) return
    const [startedMs, before] = [clock.now(), this.state.base?.point]
    try {
      const hasTime = (): boolean => !force && this.#retry.ms === 0 && !this.#turns.isAwaited
      const result = await this.#running(options, parts => this.#transfer(options, { ...parts, hasTime }))
      this.#roots.follow(before, this.state.base)
      this.#result = { ...result, seconds: (clock.now() - startedMs) / 1000 }
      // What came meanwhile was too much for the log: the next cycle has less to ship.
      this.#problem = this.#streaming?.reason
      this.#retry.reset()
      this.#unsure = false
      this.#renewedAt = undefined
      const goesOn = this.state.mode === 'periodic' || this.#streaming?.isLive || this.#streaming?.reason !== undefined
      this.#dueAtMs = goesOn ? startedMs + this.state.intervalSeconds * 1000 : clock.now()
      logger.debug({ mirror: this.#record.name, ...result }, 'cycle complete')
    } catch (error) {
      this.#failed(error)
      throw error
    } finally {
      await this.#sweep()
      this.#arm()
    }
  }

  /** What can be ended, and tells how far it is. Errors: shutting-down, those of the work. */
  async #running<T>({ signal, ...options }: CycleOptions, work: (parts: CycleParts) => Promise<T>): Promise<T> {
    if (this.#stopped) throw new NbdeltaError('shutting-down', 'the server is stopping')
    return this.#work.run(signal, own => work(this.#cycleParts(this.#parts.source(), options, own)))
  }

  /** A cycle; or, while changes go to the target as they come, a declared point among them. */
  async #transfer({ freeze, witness, last }: CycleOptions, own: CycleParts): Promise<CycleResult> {
    const { state } = this
    const parts = { ...own, freeze, witness }
    const streaming = this.#streaming
    const isLive = streaming?.isLive === true && state.phase === 'paired'
    // Nothing may arrive while a target without points is compared.
    const isAlone = freeze !== undefined || (witness !== undefined && !parts.target.holds)
    if (isLive && !isAlone) return streaming.declare(parts, state, last ?? false)
    await this.#endStream()
    if (state.mode === 'periodic' || isAlone || last) return runCycles(parts, state)
    this.#streaming = new Streaming({
      ...this.#parts, state, roots: this.#roots, decide: own.decide, onEnd: reason => { this.#streamEnded(reason) },
      onSnapshot: () => { void (this.#inside ?? this.#turns).take(() => this.#pay()) },
    })
    try {
      return await runCycles({ ...parts, stream: this.#streaming }, state)
    } catch (error) {
      await this.#endStream()
      throw error
    }
  }

  /** Snapshots in the log are declared, and a point behind them: so they are base no more. Also of a paused one that streams. */
  async #pay(): Promise<void> { if (this.#streaming?.owes && !this.#stopped) await this.#run({}).catch(() => undefined) }

  /** By itself, in the middle of whatever was going on. */
  #streamEnded(reason: string): void {
    this.#problem = reason
    this.#decisions.add({ rule: 'stream-ended', inputs: { reason }, outcome: 'a cycle ships what the target has not' })
    this.#parts.logger.warn({ mirror: this.#record.name, reason }, 'changes do not go to the target as they come any more')
    void this.#turns.take(async () => {
      if (this.#streaming?.reason === undefined) return
      // One that ends again and again must not freeze the source each time at once, nor one that a cycle is too long for.
      if (this.#streaming.wasShort) this.#streamRetry.longer()
      else this.#streamRetry.reset()
      await this.#endStream()
      const waitMs = Math.min(Math.max(this.#retry.ms, this.#streamRetry.ms), this.state.intervalSeconds * 1000)
      this.#dueAtMs = Math.min(this.#dueAtMs, this.#parts.clock.now() + waitMs)
      this.#arm()
    })
  }

  async #endStream(): Promise<void> {
    const streaming = this.#streaming
    this.#streaming = undefined
    if (streaming?.isInVain) this.#unsure = true
    await streaming?.end()
  }

  #failed(error: unknown): void {
    const { clock, logger } = this.#parts
    this.#dueAtMs = clock.now() + this.#retry.longer()
    if (error instanceof NbdeltaError && error.code === 'cancelled') return
    this.#problem = error instanceof Error ? error.message : String(error)
    const fields = { err: error, mirror: this.#record.name, retrySeconds: this.#retry.ms / 1000 }
    logger.warn(fields, 'a cycle failed; what it was to ship stays pending')
  }

  /** Nothing, if the target knows that it is split, or is not. */
  async #release(): Promise<void> {
    if (!this.state.releasing) return
    await this.#parts.target.release()
    await this.#put({ ...this.state, releasing: false })
    this.#problem = undefined
    this.#retry.reset()
  }

  async #sweep(): Promise<void> {
    try {
      await this.#points.sweepTo(this.#parts.source(), this.state.base?.point)
    } catch (error) {
      this.#parts.logger.warn({ err: error, mirror: this.#record.name }, 'points of a cycle stay for now')
    }
  }

  /** The target is at what the source is now, and at no snapshot, which has to be free: only the time is renewed (C23). */
  #isUnchanged(): boolean {
    if (this.state.phase !== 'paired' || this.#lagBytes() !== 0) return false
    if (this.state.mode !== 'periodic' && !this.#streaming?.isLive) return false
    const volume = this.#parts.source()
    const { kind, sizeBytes } = this.#points.find(volume, this.state.base?.point)!
    if (kind === 'snapshot' || sizeBytes !== volume.sizeBytes) return false
    this.#renewedAt = this.#parts.clock.wallTime().toISOString()
    this.#dueAtMs = this.#parts.clock.now() + this.state.intervalSeconds * 1000
    return true
  }

  #lagBytes(): number | null {
    try { return this.#points.changedBytes(this.#parts.source(), this.state.base?.point) } catch { return null }
  }

  #cycleParts(volume: StoreVolume, { onProgress }: TransferOptions, signal = new AbortController().signal): CycleParts {
    const { target, clock } = this.#parts
    return {
      mirror: this.#record.name, volume, target, points: this.#points, clock, signal, unsure: this.#unsure,
      decide: decision => { this.#decisions.add(decision) },
      put: state => this.#put(state),
      onProgress: (doneBytes, totalBytes) => {
        this.#work.tell(doneBytes, totalBytes)
        onProgress?.(doneBytes, totalBytes)
      },
    }
  }

  async #put(state: MirrorState): Promise<void> {
    const record = { ...this.#record, state }
    await this.#parts.put(record)
    this.#record = record
  }

  #isIdle(): boolean { return this.#stopped || (!this.state.releasing && (this.state.paused || this.state.phase === 'split')) }

  #dueNow(): void {
    this.#dueAtMs = this.#parts.clock.now()
    this.#arm()
  }

  #arm(): void {
    this.#timer?.cancel()
    this.#timer = undefined
    if (this.#isIdle()) return
    const waitMs = Math.max(0, this.#dueAtMs - this.#parts.clock.now())
    // What has failed, or was too much for the log, is not tried again for being behind.
    const backsOff = this.#retry.ms > 0 || (this.#streamRetry.ms > 0 && !this.#streaming?.isLive)
    const looks = this.state.lagBytes !== null && this.state.phase === 'paired' && !backsOff
    this.#timer = this.#parts.clock.setTimeout(() => { this.#wake() }, looks ? Math.min(waitMs, LOOK_MS) : waitMs)
  }

  #wake(): void {
    void this.#turns.take(async () => {
      if (this.#isIdle()) return
      const isDue = this.#dueAtMs <= this.#parts.clock.now()
      if (this.state.releasing) await this.#release().catch((error: unknown) => { this.#failed(error) })
      if (this.state.phase === 'split') return this.#arm()
      const isBehind = (this.#lagBytes() ?? 0) >= (this.state.lagBytes ?? Infinity)
      if (isDue || isBehind) await this.#run({}, false).catch(() => undefined)
      await turn()
      this.#arm()
    })
  }
}
