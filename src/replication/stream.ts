/**
 * Stream: changes of a source on their way to a target, in the order in which they were made (modes async, sync; SEEDS C16-C19).
 *
 *   collect   from the instant of a frozen image on: the log fills while a cycle ships that image
 *   send      the target has declared the image: the log goes out, in order, several under way at once
 *   closing   little is left (mode sync): an answer waits for the target's from now on. Before, while much is left, answers are
 *             held back so that it becomes less (throttle.ts)
 *   in step   the log has been empty; in mode sync: all that was answered without waiting for the target has arrived
 *   mark      everything before it has arrived; what comes next is held until `release`: the target declares a point meanwhile
 *   ended     nothing is told or sent any more, nobody waits; whoever has it ships by a cycle again (`onEnd` says why)
 *
 * Invariants
 * - What overlaps is under way one after the other (C8, C16); a flush, a mark or a restore begins when all before it has arrived.
 *   So over a way in that keeps the order of requests the target holds, at any moment, what the source has held at some moment.
 * - A restore is one entry: its grains, and the snapshot, which stays as long as it is in the log (C17, C18). While it is shipped
 *   the target holds a mixture: what counts there is what had arrived before (`suspend`, `stream`). What the target can take from
 *   a copy of that snapshot it takes from there, in the restore's place of the order (recall.ts).
 * - The log is bounded by bytes and entries, and all logs of a server together. What does not fit ends the stream (C19): the maps
 *   of the source have it all.
 * - A target that does nothing for `timeoutMs` while an answer waits for it has been lost: nobody waits longer than that for it.
 *   Where none does it has PATIENCE times as long.
 */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import type { BlockDevice, Pending } from '../device/block-device.js'
import type { Clock, Timer } from '../device/clock.js'
import { NbdeltaError } from '../device/errors.js'
import { RangeLock } from '../device/range-lock.js'
import type { PointInfo } from '../volume/snappoint.js'
import type { ChangeWatcher } from '../volume/watchers.js'
import { bytesOf, inBytes } from './grain-bytes.js'
import type { LogBudget } from './log-budget.js'
import { type Kept, LogSlabs } from './log-slabs.js'
import { type Asking, recallPoint } from './recall.js'
import { ship } from './ship.js'
import type { TargetSession } from './target.js'
import { Throttle } from './throttle.js'

/** Data that waits or is under way, bytes. */
const LOG_BYTES_MAX = 64 * 2 ** 20
const LOG_ENTRIES_MAX = 100_000
/** Mode sync: from so much on answers are held back while a cycle ships the image, each for so long. */
const LOG_BYTES_SPARED = LOG_BYTES_MAX / 2
const LOG_ENTRIES_SPARED = LOG_ENTRIES_MAX / 2
const HOLD_MS = 100
/** Requests under way at once. */
const WINDOW = 128
const WINDOW_BYTES = 4 * 2 ** 20
/** After so many bytes without any wait others get a turn. */
const TURN_BYTES = 512 * 1024
/** So often within the timeout it is looked whether the target does anything. */
const LOOKS = 10
/** Where no answer waits for it, a target may be silent for so many timeouts: a flush of a busy disk takes its time. */
const PATIENCE = 6

/** What it is sent over. */
type Way = Pick<TargetSession, 'stream' | 'suspend'> & Asking['session']

interface Restored { readonly grains: GrainBitmap, readonly content: BlockDevice, readonly point: string }

interface Entry {
  readonly kind: 'write' | 'zero' | 'flush' | 'restore' | 'mark'
  readonly offset: number
  readonly length: number
  readonly data: Kept | undefined
  readonly sinceMs: number
  readonly restored?: Restored
  /** It has arrived, or the stream has ended with that reason. Without it nobody waits. */
  readonly done: ((reason?: string) => void) | undefined
}

export interface StreamParts {
  /** Of the source. */
  readonly grainBytes: number
  readonly sizeBytes: number
  /** Answers wait for the target (mode sync). */
  readonly waits: boolean
  readonly timeoutMs: number
  readonly clock: Clock
  /** Of all streams. */
  readonly budget: LogBudget
  /** Of a mirror that keeps snapshots. */
  readonly snapshots?: {
    /** One of the source is of this instant: it may get a mark. */
    pointed(point: PointInfo): void
    /** By which rule a restore was sent. */
    readonly decide: Asking['decide']
  } | undefined
  /**
   * Once, unless `end` was called. In the middle of whatever was going on: it only takes note. @param inVain something that the
   * source was said to hold it never did (watchers.ts)
   */
  onEnd(reason: string, inVain: boolean): void
}

export interface StreamFacts {
  /** The target has had everything at some moment since the last restore; mode sync: it has whatever was answered. */
  readonly inStep: boolean
  /** Bytes of changes that it has not. */
  readonly behindBytes: number
  readonly behindMs: number
}

export class Stream implements ChangeWatcher {
  readonly #parts: StreamParts
  #queue: Entry[] = []
  #head = 0
  readonly #underWay = new Set<Entry>()
  readonly #locks = new RangeLock()
  /** Memory, and what the entries stand for. */
  #dataBytes = 0
  #behindBytes = 0
  #sentBytes = 0
  #arrived = { data: 0, zeros: 0, equal: 0 }
  readonly #slabs = new LogSlabs()
  #session: Way | undefined
  #device: BlockDevice | undefined
  #inStep = false
  /** Mode sync: answers wait for the target since then. */
  #waitsSinceMs: number | undefined
  /** Entries that nobody waits for, and restores, that have not arrived. */
  #unwaited = 0
  #restores = 0
  readonly #throttle: Throttle
  /** A mark has been reached, or a restore is being shipped. */
  #held = false
  #scheduled = false
  #ended = false
  #unwatch: (() => void) | undefined
  #timer: Timer | undefined
  #lastDoneMs: number
  readonly #abort = new AbortController()
  /** A restore that is being shipped, and what of it the target has taken from its own copy, bytes. */
  #shipping: Promise<void> | undefined
  #takenBytes = 0

  constructor(parts: StreamParts) {
    this.#parts = parts
    this.#throttle = new Throttle(parts.clock)
    this.#lastDoneMs = parts.clock.now()
  }

  get ended(): boolean { return this.#ended }

  /** After its end: no request of it begins any more. */
  async settled(): Promise<void> { await this.#shipping?.catch(() => undefined) }

  facts(): StreamFacts {
    const oldest = this.#oldestMs()
    const behindMs = oldest === undefined ? 0 : this.#parts.clock.now() - oldest
    return { inStep: this.#inStep, behindBytes: this.#behindBytes, behindMs }
  }

  /** Is told from now on. At the instant of an image. */
  collect(source: { watch(watcher: ChangeWatcher): () => void }): void { this.#unwatch = source.watch(this) }

  /** The target is at the image: what has been collected goes there. Errors: those of the session; it has ended then. */
  async send(session: Way): Promise<BlockDevice> {
    try {
      const device = await session.stream()
      if (this.#ended) throw new NbdeltaError('cancelled', 'the stream has ended meanwhile')
      this.#session = session
      this.#device = device
    } catch (error) {
      this.end()
      throw error
    }
    this.#lastDoneMs = this.#parts.clock.now()
    this.#watchTarget()
    this.#pump()
    return this.#device
  }

  /** At a point's instant: resolves when all before it has arrived; nothing is sent then before `release`. Errors: unreachable */
  mark(): Promise<void> {
    return new Promise((resolve, reject) => {
      const done = (reason?: string): void => {
        if (reason === undefined) resolve()
        else reject(new NbdeltaError('unreachable', reason))
      }
      if (this.#ended) return done('the stream has ended')
      this.#push({ kind: 'mark', offset: 0, length: 0, data: undefined, sinceMs: this.#parts.clock.now(), done })
    })
  }

  /** Bytes that have arrived since the last time; `equal`: that were not sent. */
  takeCounts(): { readonly data: number, readonly zeros: number, readonly equal: number } {
    const counts = this.#arrived
    this.#arrived = { data: 0, zeros: 0, equal: 0 }
    return counts
  }

  /** The point is declared. */
  release(): void {
    this.#held = false
    this.#lastDoneMs = this.#parts.clock.now()
    this.#pump()
  }

  /** Nobody is told why. Idempotent. */
  end(): void { this.#end('the stream has ended') }

  wrote(offset: number, length: number, from: Buffer, at: number): Pending {
    if (this.#ended) return undefined
    return this.#add('write', offset, length, this.#slabs.keep(from, at, length))
  }

  zeroed(offset: number, length: number): Pending { return this.#add('zero', offset, length, undefined) }

  /** In mode async a flush is the source's alone. */
  flushed(): Pending { return this.#waits ? this.#add('flush', 0, 0, undefined) : undefined }

  pointed(point: PointInfo): void { this.#parts.snapshots?.pointed(point) }

  restored(grains: GrainBitmap, content: BlockDevice, point: string): void {
    this.#inStep = false
    this.#waitsSinceMs = undefined
    this.#restores++
    this.#throttle.letAllGo()
    const length = bytesOf(grains, this.#parts.grainBytes, this.#parts.sizeBytes)
    const done = (): void => { content.close().catch(() => undefined) }
    const sinceMs = this.#parts.clock.now()
    this.#push({ kind: 'restore', offset: 0, length, data: undefined, sinceMs, restored: { grains, content, point }, done })
  }

  lost(reason: string, inVain = false): void { this.#fail(reason, inVain) }

  get #waits(): boolean { return this.#waitsSinceMs !== undefined }

  #add(kind: 'write' | 'zero' | 'flush', offset: number, length: number, data: Kept | undefined): Pending {
    if (this.#ended) return undefined
    const sinceMs = this.#parts.clock.now()
    if (!this.#waits) {
      this.#unwaited++
      this.#push({ kind, offset, length, data, sinceMs, done: undefined })
      return this.#holdBack(length)
    }
    return new Promise<void>(resolve => {
      this.#push({ kind, offset, length, data, sinceMs, done: () => { resolve() } })
    })
  }

  /** Mode sync: until less waits for the target. Nobody is held back for the sake of a restore. */
  #holdBack(length: number): Pending {
    if (this.#ended || this.#waits || !this.#parts.waits || this.#restores > 0) return undefined
    if (this.#device) return this.#throttle.hold(length, this.#parts.timeoutMs)
    const isSpared = this.#dataBytes < LOG_BYTES_SPARED && this.#queue.length < LOG_ENTRIES_SPARED
    return isSpared ? undefined : this.#throttle.hold(length, HOLD_MS)
  }

  #push(entry: Entry): undefined {
    if (this.#ended) {
      entry.done?.('the stream has ended')
      return
    }
    this.#queue.push(entry)
    if (entry.data) this.#holds(entry.length)
    this.#behindBytes += entry.length
    const full = this.#whatIsFull()
    if (full) this.#fail(`${full}: the target cannot keep up, and catches up by a cycle, not in write order`)
    else if (this.#parts.waits) this.#pump()
    else this.#schedule()
  }

  #whatIsFull(): string | undefined {
    if (this.#queue.length - this.#head > LOG_ENTRIES_MAX) return 'the log is full'
    // Who waits for an answer sends no more.
    if (this.#waits) return undefined
    if (this.#dataBytes > LOG_BYTES_MAX) return 'the log is full'
    return this.#parts.budget.isExceeded ? 'the logs of all mirrors together are full (--mirror-memory)' : undefined
  }

  /** @param bytes of data; negative: no more */
  #holds(bytes: number): void {
    this.#dataBytes += bytes
    this.#parts.budget.add(bytes)
  }

  /** Behind whatever else has come in this turn: answers go out first. */
  #schedule(): void {
    if (this.#scheduled || !this.#device) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      this.#pump()
    })
  }

  #pump(): void {
    if (!this.#device) return
    for (let turn = 0; !this.#ended && !this.#held && this.#head < this.#queue.length;) {
      const entry = this.#queue[this.#head]!
      const isBarrier = entry.kind === 'flush' || entry.kind === 'mark' || entry.kind === 'restore'
      // Before it is locked: what is locked begins.
      if (turn > TURN_BYTES) {
        this.#schedule()
        break
      }
      if (isBarrier ? this.#underWay.size > 0 : !this.#hasRoomFor(entry)) break
      this.#head++
      turn += entry.length
      this.#begin(entry)
    }
    if (this.#head > LOG_ENTRIES_MAX / 16 || this.#head === this.#queue.length) {
      this.#queue = this.#queue.slice(this.#head)
      this.#head = 0
    }
    this.#judge()
  }

  /** Whether answers wait for the target, and whether it is in step. */
  #judge(): void {
    if (this.#ended || this.#held || this.#restores > 0) return
    if (!this.#parts.waits) {
      this.#inStep ||= this.#queue.length === 0 && this.#underWay.size === 0
      return
    }
    const isLittle = this.#queue.length - this.#head <= WINDOW && this.#behindBytes - this.#sentBytes <= WINDOW_BYTES
    if (!this.#waits && isLittle) {
      this.#waitsSinceMs = this.#parts.clock.now()
      this.#throttle.letAllGo()
    }
    this.#inStep ||= this.#waits && this.#unwaited === 0
  }

  /** The window has, and nothing under way overlaps: then it is locked. */
  #hasRoomFor({ offset, length }: Entry): boolean {
    if (this.#underWay.size >= WINDOW || (this.#sentBytes > 0 && this.#sentBytes + length > WINDOW_BYTES)) return false
    return this.#locks.tryLock(offset, offset + length)
  }

  #begin(entry: Entry): void {
    if (entry.kind === 'mark') {
      this.#held = true
      this.#lastDoneMs = this.#parts.clock.now()
      entry.done!()
      return
    }
    this.#underWay.add(entry)
    this.#sentBytes += entry.kind === 'restore' ? 0 : entry.length
    let pending: Pending
    try {
      pending = this.#request(entry, this.#device!)
    } catch (error) { return this.#fail(reasonOf(error)) }
    if (pending === undefined) this.#finish(entry)
    else {
      pending.then(() => {
        this.#finish(entry)
        this.#pump()
      }, (error: unknown) => { this.#fail(reasonOf(error)) })
    }
  }

  #request({ kind, offset, length, data, restored }: Entry, device: BlockDevice): Pending {
    switch (kind) {
      case 'write': return device.write(offset, length, data!.buffer, data!.at)
      case 'zero': return device.zero(offset, length, { allocate: false, fast: false })
      case 'flush': return device.flush()
      default: return this.#shipping = this.#shipRestore(restored!, device)
    }
  }

  async #shipRestore({ grains, content, point }: Restored, device: BlockDevice): Promise<void> {
    const { grainBytes, sizeBytes, clock, snapshots } = this.#parts
    const session = this.#session!
    const { signal } = this.#abort
    const onProgress = (): void => { this.#lastDoneMs = clock.now() }
    this.#held = true
    try {
      await session.suspend()
      if (snapshots) {
        const asking = { session, grainBytes, sizeBytes, signal, decide: snapshots.decide, onStep: onProgress }
        this.#takenBytes = bytesOf(await recallPoint(asking, point, grains, content), grainBytes, sizeBytes)
      }
      await ship({
        source: content, target: device, runs: inBytes(grains, grainBytes, sizeBytes), compare: false, blank: false,
        bytesPerSecond: null, clock, signal, onProgress,
      })
    } finally { await content.close() }
    await session.stream()
    this.#held = false
  }

  #finish(entry: Entry): void {
    if (!this.#underWay.delete(entry)) return
    this.#lastDoneMs = this.#parts.clock.now()
    this.#behindBytes -= entry.length
    if (entry.kind === 'write' || entry.kind === 'zero') {
      this.#sentBytes -= entry.length
      this.#locks.unlock(entry.offset, entry.offset + entry.length)
    }
    if (entry.data) {
      this.#holds(-entry.length)
      this.#slabs.free(entry.data)
    }
    this.#arrived[entry.kind === 'zero' ? 'zeros' : 'data'] += entry.length - this.#takenBytes
    this.#arrived.equal += this.#takenBytes
    // Of a restore, beside which nothing else arrives.
    this.#takenBytes = 0
    this.#throttle.arrived(entry.length)
    if (entry.kind === 'restore') this.#restores--
    else if (entry.done) entry.done()
    else this.#unwaited--
  }

  /** When the oldest that has not arrived was made; undefined: there is none. */
  #oldestMs(): number | undefined {
    const waiting = this.#queue[this.#head]?.sinceMs
    // Entries come in order, and are in the set in order.
    const [first] = this.#underWay
    return first?.sinceMs ?? waiting
  }

  #watchTarget(): void {
    const { clock, timeoutMs } = this.#parts
    this.#timer = clock.setTimeout(() => {
      const oldest = this.#oldestMs()
      const busy = this.#held || oldest !== undefined
      // Whoever waits for an answer does not care how many others have got theirs.
      const waitsSinceMs = this.#waitsSinceMs ?? this.#lastDoneMs
      const since = Math.max(waitsSinceMs, oldest ?? this.#lastDoneMs)
      const limitMs = this.#waits ? timeoutMs : PATIENCE * timeoutMs
      if (busy && clock.now() - since >= limitMs) {
        return this.#fail(`the target has done nothing for ${limitMs / 1000} s`)
      }
      this.#watchTarget()
    }, timeoutMs / LOOKS)
  }

  #fail(reason: string, inVain = false): void {
    if (this.#ended) return
    this.#end(reason)
    this.#parts.onEnd(reason, inVain)
  }

  #end(reason: string): void {
    if (this.#ended) return
    this.#ended = true
    this.#unwatch?.()
    this.#timer?.cancel()
    this.#abort.abort()
    this.#throttle.letAllGo()
    this.#holds(-this.#dataBytes)
    // A restore that is being shipped lets go of its snapshot itself.
    const left = [...[...this.#underWay].filter(({ kind }) => kind !== 'restore'), ...this.#queue.slice(this.#head)]
    this.#underWay.clear()
    this.#queue = []
    this.#head = 0
    for (const { done } of left) done?.(reason)
  }
}

function reasonOf(error: unknown): string {
  return `the target failed: ${error instanceof Error ? error.message : String(error)}`
}
