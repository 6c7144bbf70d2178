/**
 * Staging: first overwrites of grains that a snapshot still needs are answered before the old content is out of the way.
 *
 *   take     whole grains, and parts of those that are staged -> staging log (store/staging-log.ts), one append, done: a kill
 *            loses nothing, a flush makes it durable
 *   read     clients see what is staged; everybody below (preserver, views of snapshots) sees live, which is the old content
 *   apply    in batches, when the log fills or a moment after the last append: preserver (old content durable), then live
 *   retire   live flushed, then the log's mark: the entries are over
 *
 * A new point stops nobody whose writes are staged (point-creation.ts):
 *
 *   pass     the volume is about to be held: only whoever asks for parts of it is in the way of what is staged
 *   divide   the instant. What was taken before it belongs to the new point, what comes is staged, needed by anybody or not
 *   settle   what was taken before has its place; nothing else is moved
 *   (the chain has the point)
 *   unite    what came since is moved like anything else, with the new point to need what it comes over
 *
 * Order, and what others would lose: live before the preserver is done, and a power cut leaves the snapshot new bytes; the
 * mark before live is durable, and a power cut loses what was flushed to the log. Until a grain is retired every change of it
 * goes through the log as well, or waits for `drain`: a replay of its entries would come on top of a write in place.
 *
 * Nothing of this is locked. In its stead: whoever changes the set of points or the size holds the whole volume and has
 * everything drained (`lockWhole`, but `holdUnmoved`: holds.ts) or divided, as above; whoever changes grains in place, or judges
 * what lies there, locks them and then drains where they are staged (gate.ts, excess-scan.ts). So what is staged is never
 * `plain`, needed by a snapshot or not.
 * Of a log that fills up no more is asked than can be moved (backpressure.ts). One that is full nevertheless, or broken, takes
 * nothing: then writes wait for the preserver themselves. What it could not write fails.
 */
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { divCeil } from '../../native-free/integer.js'
import { together } from '../device/all-settled.js'
import type { Pending } from '../device/block-device.js'
import { ENTRY_MAX_BYTES, StagingLog } from '../store/staging-log.js'
import { Backpressure } from './backpressure.js'
import { flushNow, type VolumeCore } from './core.js'
import { Drains } from './drains.js'
import { planGate } from './gate.js'
import { IdleSpace } from './idle-space.js'
import { runsOf } from './journal.js'
import type { Copy, Preserver } from './preserver.js'
import type { PointStore } from './point-store.js'
import { Rests } from './rests.js'
import { type Division, placed, type Staged } from './staged-entry.js'
import { wholeGrains } from './staged-parts.js'
import { StagedQueue } from './staged-queue.js'
import { Stalls } from './stalls.js'
import { Strokes } from './strokes.js'
import type { Run } from './volume-map.js'

/** Beyond this the log must be emptied, burst or not. */
const FILL_MAX = 0.5

/** Reads [offset, offset + length) of what is not staged to `at` of the reader's buffer. */
type Below = (offset: number, length: number, at: number) => Pending

export class Staging {
  readonly #core: VolumeCore
  readonly #preserver: Preserver
  readonly #store: PointStore
  #log: StagingLog | undefined
  /** The newest entry of each grain that has one which is not retired. */
  readonly #grains = new Map<number, Staged>()
  /** Entries that are not in their places yet. */
  readonly #queue = new StagedQueue()
  #appliedTo = 0
  /** Entries up to this one are forgotten. The mark says so a moment before, and may be on its way to the disk still. */
  #retiredTo = 0
  /** Entries up to this one that are not in the queue are over: dropped at open, or never written. */
  #overTo = 0
  readonly #strokes = new Strokes()
  /** Entries up to this one may have been forgotten. */
  #doubtTo = 0
  #working: Promise<void> | undefined
  readonly #drains = new Drains()
  readonly #pressure: Backpressure
  readonly #space: IdleSpace
  readonly #rests: Rests
  #refusing = 0
  /** Somebody wants nothing to be moved: no batch begins but for those that wait for one, then nothing is taken either. */
  #yielding = 0
  readonly #stalls = new Stalls()
  #passes = 0
  #division: Division | undefined
  #buffer: Buffer | undefined

  constructor(core: VolumeCore, preserver: Preserver, store: PointStore) {
    this.#core = core
    this.#store = store
    this.#preserver = preserver
    this.#pressure = new Backpressure(core.clock)
    this.#rests = new Rests(core.clock, () => { this.#begin() })
    this.#space = new IdleSpace(core.clock, () => { if (this.idle && this.#refusing === 0) this.#begin() })
  }

  /**
   * From now on writes are staged, if the log is there; `create`: or can be made. What an earlier process left in it is read from
   * there and moved to its place in the background; nothing is staged before that is done. Errors: newer-format, io, no-space.
   */
  async open(create: boolean): Promise<void> {
    if (this.#log) return
    const found = await this.#store.staged!(create)
    if (!found) return
    const { log, entries } = await StagingLog.open(found.device, found)
    const { grainBytes, map } = this.#core
    this.#log = log
    log.onRefused = () => this.#forget()
    this.#overTo = log.sequence
    this.#appliedTo = this.#retiredTo = log.applied
    for (const entry of placed(entries, grainBytes, map.grains)) {
      // Else it would come over what is written in place there.
      if (!map.data.isAll(entry.from, entry.to, true)) this.#doubtTo = entry.sequence
      this.#note(entry)
    }
    if (!this.#queue.first) {
      await log.mark(log.sequence)
      this.#retiredTo = log.sequence
      return
    }
    // On a full disk it stays where it is, can be read there, and is tried again.
    this.#begin()
  }

  get started(): boolean { return this.#log !== undefined }
  /** Nothing is staged, nor could come back: the usual case, and the quick question. */
  get idle(): boolean { return this.#grains.size === 0 && !this.#inDoubt }
  /** The last `take` is not with the device yet. */
  get pending(): Promise<void> | undefined { return this.#log?.written }

  /** Some of grains [from, to) are staged, or were and are not retired. */
  meets(from: number, to: number): boolean {
    if (this.#inDoubt) return true
    if (this.#grains.size === 0) return false
    if (to - from > this.#grains.size) {
      for (const grain of this.#grains.keys()) if (grain >= from && grain < to) return true
      return false
    }
    for (let grain = from; grain < to; grain++) if (this.#grains.has(grain)) return true
    return false
  }

  /** All of them are, and nothing that was forgotten can come back. */
  #isStaged(from: number, to: number): boolean {
    for (let grain = from; grain < to; grain++) if (!this.#readable(grain)) return false
    return !this.#inDoubt
  }

  /** What is marked is in its place, and to be read there: others may be where it was before it is forgotten here. */
  #readable(grain: number): Staged | undefined {
    const entry = this.#grains.get(grain)
    return entry && entry.sequence > this.#log!.applied ? entry : undefined
  }

  /** All grains that `meets` knows of; or those that a snapshot in the making is going to need, by their latest entries. */
  grains(which: 'all' | 'later' = 'all'): GrainBitmap {
    const grains = new GrainBitmap(this.#core.map.grains)
    const from = which === 'all' ? -1 : this.#division?.keeps ? this.#division.last : Infinity
    for (const [grain, { sequence }] of this.#grains) if (sequence > from) grains.set(grain, grain + 1)
    return grains
  }

  /**
   * `taken`: the write is in the log, and done when `pending` is. `later`: to be asked again after `room`. `no`: it goes its own
   * way. All its grains are data; nobody holds a lock on them, and it is not stalled.
   */
  take(offset: number, length: number, data: Buffer, at: number): 'taken' | 'later' | 'no' {
    const { grainBytes, chain, space, journal } = this.#core
    const log = this.#log
    if (!log || this.#refusing > 0 || this.#preserver.failure || length > ENTRY_MAX_BYTES) return 'no'
    const from = Math.floor(offset / grainBytes)
    const to = divCeil(offset + length, grainBytes)
    if ((to - from) * grainBytes > length) {
      const whole = this.#isStaged(from, to) ? wholeGrains(this, grainBytes, offset, length, data, at) : undefined
      return whole ? this.take(from * grainBytes, whole.length, whole, 0) : 'no'
    }
    const isNeeded = this.isPassing || !chain.unneeded(from, to) || this.meets(from, to)
    // What only has to be announced in the journal is answered before that as well.
    if (!isNeeded && planGate(chain, from, to, journal.isDurable).rule === 'free') return 'no'
    const needed = this.#division?.keeps ? space.roomForAll(from, to) : space.roomFor(from, to)
    if (!needed) return 'no'
    const admitted = this.#pressure.admit(log.fill, this.#queue.bytes, length)
    const address = admitted === 'now' ? log.append(offset, data, at, length) : undefined
    if (address === undefined) {
      if (admitted === 'now') this.#pressure.giveBack(length)
      if (this.#yielding === 0) this.#begin()
      return admitted === 'later' || log.isBusy || log.isResting ? 'later' : 'no'
    }
    space.promise(needed)
    const entry = { sequence: log.sequence, offset, length, address, from, to }
    this.#strokes.add(entry, this.#grains, log.written!)
    this.#note(entry)
    this.#core.flushes.changed()
    this.#wake(isNeeded ? log.fill : 1)
    return 'taken'
  }

  /** Resolves when it is worth while to ask for so many bytes again. */
  async room(bytes: number): Promise<void> {
    if (this.#stalls.isOn) await this.#stalls.over
    else if (this.#log!.isBusy) await this.#log!.written!.catch(() => undefined)
    else await this.#pressure.wait(bytes)
  }

  /** Until `loosen` less and less is staged that is not moved: somebody is going to wait for that. */
  tighten(): void { this.#pressure.tighten() }
  loosen(): void { this.#pressure.loosen() }

  /** Fills `into` where [offset, offset + length) is staged; `below` does the rest, once for each run of it. */
  read(offset: number, length: number, into: Buffer, at: number, below: Below): Pending {
    const { grainBytes } = this.#core
    const end = offset + length
    return together(add => {
      for (let start = offset; start < end;) {
        const grain = Math.floor(start / grainBytes)
        const entry = this.#readable(grain)
        let stop = Math.min(end, (grain + 1) * grainBytes)
        while (stop < end && this.#readable(Math.floor(stop / grainBytes)) === entry) stop = Math.min(end, stop + grainBytes)
        const place = at + start - offset
        add(entry ? this.#readEntry(entry, start, stop - start, into, place) : below(start, stop - start, place))
        start = stop
      }
    })
  }

  /** What was taken before is in its place, durable and retired, whatever comes meanwhile. Errors: those of the disks. */
  async drain(): Promise<void> {
    const upTo = this.#log?.sequence ?? 0
    if (this.#retiredTo >= upTo) return
    const drained = this.#drains.wait(upTo)
    this.#begin()
    await drained
  }

  /** Nothing is staged when this resolves, and nothing will be before `resume`. */
  async pause(): Promise<void> {
    this.#refusing++
    try {
      await this.drain()
    } catch (error) {
      this.#refusing--
      throw error
    }
  }

  resume(): void {
    this.#refusing--
    this.#goOn()
  }

  /**
   * Nothing is being moved when this resolves, nor taken before `unstall`. Until then what comes is taken, so that nobody waits
   * for a batch to end, or, in the way of the whole volume, for all that is staged. Whoever drains meanwhile holds a lock.
   */
  async stall(): Promise<void> {
    this.#yielding++
    this.#rests.cancel()
    while (this.#working) await this.#working.catch(() => undefined)
    this.#stalls.begin()
    // A stroke that fails now begins work, too.
    for (let going; (going = this.pending ?? this.#working);) await going.catch(() => undefined)
  }

  unstall(): void {
    this.#yielding--
    this.#stalls.end()
    this.#goOn()
  }

  /** Nothing is to be taken: whoever could be staged waits for `room`. */
  get isStalled(): boolean { return this.#stalls.isOn }

  /** A batch that ended meanwhile has woken nobody. */
  #goOn(): void {
    if (this.idle) this.#pressure.ended(false)
    else this.#wake(this.#log!.fill)
  }

  /** Something of the volume is locked for whoever wants all of it, and may be staged nevertheless. */
  get isPassing(): boolean { return this.#passes > 0 }

  /** Until `unite`, by each who has called it: one that came too late may end when the next has begun. */
  pass(): void { this.#passes++ }

  /** The whole volume is held, until `unite`. @param keeps for a snapshot, which needs what later entries come over */
  divide(keeps: boolean): void {
    if (this.#log) this.#division = { last: this.#log.sequence, keeps, before: new Map() }
  }

  /** All that was taken before the division is in its place, durable and retired. */
  get isSettled(): boolean { return !this.#hasMore && this.#appliedTo <= this.#retiredTo }

  /** `isSettled` when it resolves. Rejects when a disk fails. */
  async settle(): Promise<void> {
    while (!this.isSettled) await this.#begin()
  }

  unite(): void {
    this.#passes--
    this.#division = undefined
    this.#pressure.ended(false)
    this.#goOn()
  }

  /** What was taken is durable. */
  flush(): Promise<void> | undefined { return this.#log?.flush() }

  async close(): Promise<void> {
    this.#refusing++
    this.#rests.cancel()
    this.#space.stop()
    await this.#working?.catch(() => undefined)
    this.#rests.cancel()
    this.#pressure.ended(true)
    await this.#log?.close()
  }

  /** The log may replay what was forgotten: nothing may be written in place before it is marked. */
  get #inDoubt(): boolean { return this.#log !== undefined && this.#doubtTo > this.#log.applied }

  /** An entry is to be moved: on this side of a division. */
  get #hasMore(): boolean { return this.#queue.first !== undefined && this.#queue.first.sequence <= this.#last }
  /** The last entry that may be. */
  get #last(): number { return this.#division?.last ?? Infinity }

  #note(entry: Staged): void {
    for (let grain = entry.from; grain < entry.to; grain++) {
      // At open, a later record may have said so: of this grain alone, what is older is not to come over the others.
      if (!this.#core.map.data.get(grain)) continue
      const older = this.#grains.get(grain)
      if (this.#division && older && older.sequence <= this.#division.last) this.#division.before.set(grain, older)
      this.#grains.set(grain, entry)
    }
    // Those among them that no snapshot needs must not be overwritten in place meanwhile.
    this.#core.chain.plain?.clear(entry.from, entry.to)
    this.#queue.push(entry)
  }

  /** The disk refused a stroke, and with it all that followed: their entries never were. */
  #forget(): void {
    const refused = this.#strokes.takeBack(this.#log!.writtenTo)
    if (refused.length === 0) return
    for (const { first, grains, before } of refused) {
      for (let i = grains.length - 1; i >= 0; i--) {
        const [grain, entry] = [grains[i], before[i]]
        if (entry && entry.sequence > this.#log!.applied) this.#grains.set(grain, entry)
        else this.#grains.delete(grain)
        // The promise was theirs where they were the first behind a division.
        if (!this.#isBehind(grain)) this.#core.space.renew(grain, this.#grains.has(grain))
      }
      this.#queue.dropFrom(first)
    }
    this.#overTo = this.#doubtTo = this.#log!.sequence
    this.#begin()
  }

  /** Inline reads cannot be overtaken; one that comes later may find its place used again, and looks anew. */
  #readEntry(entry: Staged, offset: number, length: number, into: Buffer, at: number): Pending {
    const pending = this.#log!.read(entry.address + offset - entry.offset, length, into, at)
    return pending?.then(() => {
      if (this.#readable(Math.floor(offset / this.#core.grainBytes)) === entry) return undefined
      return this.read(offset, length, into, at, (start, bytes, place) => this.#core.live.read(start, bytes, into, place))
    })
  }

  get #isAwaited(): boolean { return this.#drains.isAwaited || (this.#pressure.isAwaited && this.#yielding === 0) }

  get #mustYield(): boolean { return this.#yielding > 0 && !this.#drains.isAwaited && !this.#division }

  #wake(fill: number): void {
    if (this.#working || this.#mustYield) return
    if ((fill > FILL_MAX || this.#isAwaited) && !this.#division) this.#begin()
    else this.#rests.begin(() => this.#log!.sequence)
  }

  #begin(): Promise<void> {
    this.#rests.cancel()
    const ended = (): void => { if (!this.#division && this.#yielding === 0) this.#pressure.ended(false) }
    this.#working ??= this.#work().then(ended, (error: unknown) => {
      this.#core.logger.warn({ err: error }, 'staged writes could not be moved to their places; will be tried again')
      this.#pressure.ended(true)
      this.#drains.failed(error)
      // Else only the next open tells what is on the disk.
      if (!this.#preserver.failure && !this.#core.flushes.failure) this.#rests.retry()
      throw error
    }).finally(() => {
      this.#working = undefined
      if (this.#isAwaited && !this.#division) this.#begin()
    })
    // Taken while the last entries were being retired.
    const more = (): void => { if (this.#hasMore && !this.#division) this.#wake(this.#log!.fill) }
    this.#working.then(more, () => undefined)
    return this.#working
  }

  async #work(): Promise<void> {
    const log = this.#log!
    while (this.#hasMore) {
      if (this.#mustYield || this.#rests.hasEnded) return
      if (this.#queue.first!.sequence > log.writtenTo) await log.written!.catch(() => undefined)
      else await this.#batch()
      const isFreeing = log.fullUpTo > 0 && this.#appliedTo >= log.fullUpTo
      if (isFreeing || this.#appliedTo >= this.#drains.next) await this.#retire()
    }
    // Behind a division there may be more, which is not over.
    const next = this.#queue.first?.sequence ?? Infinity
    this.#appliedTo = Math.max(this.#appliedTo, Math.min(this.#overTo, next - 1))
    await this.#retire()
    // Whoever has paused it, or waits for one side, has more important things to do.
    const mayRest = this.#refusing === 0 && this.#yielding === 0 && !this.#division
    if (mayRest && this.#space.isDue(log.sequence, this.#core.space.isTight)) await log.rest().catch((error: unknown) => {
      this.#core.logger.warn({ err: error }, 'the space of the staging log could not be given back')
    })
  }

  /** The next entries of the queue: their data out of the log in one read, old content away, then to their places. */
  async #batch(): Promise<void> {
    const entries = this.#queue.next(this.#last, this.#log!.writtenTo)
    const [first, last] = [entries[0].address, entries[entries.length - 1]]
    const length = last.address + last.length - first
    if (!this.#buffer || this.#buffer.length < length) this.#buffer = Buffer.allocUnsafe(length)
    const buffer = this.#buffer
    await this.#log!.read(first, length, buffer, 0)
    const older = this.#strokes.older(this.#log!.writtenTo)
    const grains = entries.flatMap(entry => this.#current(entry, older)).sort((a, b) => a.grain - b.grain)
    await this.#secure(runsOf(grains.map(({ grain }) => grain)))
    const { live, grainBytes } = this.#core
    await together(add => {
      for (let i = 0; i < grains.length;) {
        const { grain, entry } = grains[i]
        let end = i + 1
        while (end < grains.length && grains[end].entry === entry && grains[end].grain === grain + end - i) end++
        const offset = grain * grainBytes
        add(live.write(offset, (end - i) * grainBytes, buffer, entry.address - first + offset - entry.offset))
        i = end
      }
    })
    this.#appliedTo = last.sequence
    this.#pressure.moved(this.#queue.shift(entries.length))
  }

  /** Grains of which this is the newest entry that is with the disk, on its side of a division. */
  #current(entry: Staged, older: ReadonlyMap<number, Staged | undefined>): { grain: number, entry: Staged }[] {
    const found: { grain: number, entry: Staged }[] = []
    const before = this.#division?.before
    for (let grain = entry.from; grain < entry.to; grain++) {
      const isNewest = this.#grains.get(grain) === entry || before?.get(grain) === entry || older.get(grain) === entry
      if (isNewest) found.push({ grain, entry })
    }
    return found
  }

  /** Nothing that a snapshot needs is in these runs afterwards, and they are marked. */
  async #secure(runs: readonly Run[]): Promise<void> {
    const { chain, journal, space } = this.#core
    for (;;) {
      // What memory says is kept may not be durable then.
      if (this.#preserver.failure) throw this.#preserver.failure
      const copies: Copy[] = []
      const extents: Run[] = []
      let free = true
      for (const { start, end } of runs) {
        const plan = planGate(chain, start, end, journal.isDurable)
        if (plan.rule === 'free') continue
        free = false
        copies.push(...plan.copies)
        extents.push(...plan.extents)
      }
      if (free) break
      await this.#preserver.secure(copies, extents)
    }
    for (const { start, end } of runs) {
      chain.mark(start, end)
      for (let grain = start; grain < end; grain++) if (!this.#isBehind(grain)) space.release(grain, grain + 1)
    }
  }

  /** It is staged behind a division: the promise is for that. */
  #isBehind(grain: number): boolean {
    const entry = this.#grains.get(grain)
    return this.#division !== undefined && entry !== undefined && entry.sequence > this.#division.last
  }

  /** What is in its place becomes durable there; then the log may forget it. */
  async #retire(): Promise<void> {
    const log = this.#log!
    const upTo = this.#appliedTo
    if (upTo > this.#retiredTo) {
      await flushNow(this.#core)
      await log.mark(upTo)
      this.#core.flushes.changed()
    }
    for (const [grain, { sequence }] of this.#grains) if (sequence <= upTo) this.#grains.delete(grain)
    this.#retiredTo = upTo
    this.#drains.retired(upTo)
  }
}
