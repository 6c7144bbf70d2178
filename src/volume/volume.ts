/**
 * Volume: a virtual disk over three devices: live (the bytes), map (which grains may hold data) and journal.
 *
 *     write, zero, trim -> #change -> what points need (gate.ts) -> plan (write-plan.ts, pure) -> live, journal, map
 *     read, extents     -> live-view.ts -> live, or zeros without I/O
 *
 * Every change of content passes `#change`; nothing else in this file or its neighbours changes what a client reads.
 * (Reclaim, scan and checkpoint are content-neutral: they touch only what reads as zeros before and after.)
 *
 * Hot path: a write whose grains are all data, with nothing in flight, is one bitmap look-up (two, with points) and
 * `live.write`: no promise, closure or object. Reads likewise, whatever is in flight.
 *
 * Order (PROTOCOL D1, D5): as soon as one write-class request completes later, overlapping ones queue behind it in order
 * of arrival; a queued one whose client has gone is dropped, a running one ends first.
 *
 * Durability (D1, D2, D7): done = the kernel has it, data and journal record alike. `flush` makes both durable, one
 * fdatasync each for all who wait; a failed one latches until the volume is opened again.
 */
import { divCeil } from '../../native-free/integer.js'
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { allSettled, both } from '../device/all-settled.js'
import {
  assertRange, type BlockDevice, type BlockSizes, type Capabilities, type Extents, type Origin, type Pending,
  STATE_HOLE, STATE_ZERO, type ZeroMode,
} from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import type { SpaceRule } from '../store/point-entry.js'
import { ExtentList } from '../device/extent-list.js'
import type { GroupFlush } from '../device/group-flush.js'
import { EVERYTHING, type RangeLock } from '../device/range-lock.js'
import { Attempt } from './attempt.js'
import { Changes } from './changes.js'
import type { Checkpointer } from './checkpoint.js'
import type { Chain } from './chain.js'
import { type LiveDevice, type VolumeCore } from './core.js'
import type { ExcessScan } from './excess-scan.js'
import type { Adopter } from './adopter.js'
import type { InheritJob } from './copier.js'
import type { Gate } from './gate.js'
import { lockWhole } from './holds.js'
import type { LiveView } from './live-view.js'
import type { VolumePoints } from './points.js'
import type { Reclaimer } from './reclaim.js'
import type { Recovered } from './recovery.js'
import type { Inheritor, RestoreOptions } from './restore.js'
import { resizeVolume } from './resize.js'
import { settleLive } from './settle.js'
import type { SpaceFacts } from './space.js'
import type { Staging } from './staging.js'
import type { ChangeWatcher, Watchers } from './watchers.js'
import { planTrim, planWrite, planZero, shapeOf } from './write-plan.js'

/** Runs looked at in one answer of `extents`: 0.4 us each, 7 ms in all; a client asks again for the rest. */
const EXTENTS_MAX = 16384
/** Payload of one request. */
const REQUEST_MAX_BYTES = 32 * 2 ** 20
const ZERO_STATE = STATE_HOLE | STATE_ZERO

/** The machinery that open-volume.ts puts together. */
export interface VolumeParts {
  readonly core: VolumeCore
  readonly checkpointer: Checkpointer
  readonly reclaimer: Reclaimer
  readonly scan: ExcessScan
  readonly view: LiveView
  readonly gate: Gate
  readonly points: VolumePoints
  readonly adopter: Adopter
  readonly inheritor: Inheritor
  readonly recovered: Recovered
}

/** A plain snapshot for the operator. */
interface VolumeFacts {
  readonly sizeBytes: number
  readonly grainBytes: number
  /** Taken on the medium by live; null: not known, it is remote. */
  readonly allocatedBytes: number | null
  /** May hold data. */
  readonly mappedBytes: number
  /** Shown, and not copied yet: content like any other, though nothing of it is mapped. */
  readonly inheritedBytes: number
  /** Read as zeros, but their space has not come back yet. */
  readonly staleBytes: number
  /** Regions whose excess of a crash is still being taken back. */
  readonly unscannedRegions: number
}

type Kind = 'write' | 'zero' | 'trim'

export class Volume implements BlockDevice {
  readonly grainBytes: number
  readonly blockSizes: BlockSizes
  readonly capabilities: Capabilities
  readonly recovered: Recovered
  requests = 0
  readonly #parts: VolumeParts
  readonly #core: VolumeCore
  readonly #changes: Changes
  // What the hot path needs, one step away.
  readonly #live: LiveDevice
  readonly #data: GrainBitmap
  readonly #chain: Chain
  readonly #gate: Gate
  readonly #view: LiveView
  readonly #staging: Staging | undefined
  readonly #locks: RangeLock
  readonly #flushes: GroupFlush
  readonly #watchers: Watchers
  #open = true
  #closing: Promise<void> | undefined

  /** Use `openVolume`. */
  constructor(parts: VolumeParts) {
    const { core } = parts
    this.#parts = parts
    this.#core = core
    this.#changes = new Changes(parts, reason => this.refuseChanges(reason))
    this.#live = core.live
    this.#data = core.map.data
    this.#chain = core.chain
    this.#gate = parts.gate
    this.#view = parts.view
    this.#staging = core.staging
    this.#locks = core.locks
    this.#flushes = core.flushes
    this.#watchers = core.watchers
    this.grainBytes = core.grainBytes
    this.recovered = parts.recovered
    this.blockSizes = Object.freeze({ minimum: 1, preferred: Math.max(4096, core.grainBytes), maximum: REQUEST_MAX_BYTES })
    const { rotational } = core.live.capabilities
    this.capabilities = Object.freeze({ readOnly: false, trim: true, fastZero: true, rotational })
    if (core.map.stale.size > 0) parts.reclaimer.wake()
    parts.scan.start()
    parts.points.start()
    parts.inheritor.onDoubt = reason => this.refuseChanges(reason)
    parts.inheritor.start()
  }

  get sizeBytes(): number { return this.#core.sizeBytes }
  /** Its snapshots and bookmarks. */
  get points(): VolumePoints { return this.#parts.points }
  /** What it shows of other content and does not hold itself yet. */
  get inheritor(): Inheritor { return this.#parts.inheritor }
  /** What its points keep, how much they may, and what happens when there is no room for more. */
  get space(): SpaceFacts { return this.#core.space.facts }
  setSpace(rule: SpaceRule): void { this.#core.space.rule = rule }
  /** Copying that goes on in the background. */
  get inheriting(): InheritJob | undefined { return this.#parts.inheritor.job }

  /** Shows a snapshot's content when this resolves; copying goes on in the background (restore.ts). */
  restore(options: RestoreOptions): Promise<InheritJob> {
    this.#judgeOpen()
    if (this.#refusal) throw this.#refusal
    return this.#parts.inheritor.restore(options)
  }

  read(offset: number, length: number, into: Buffer, at: number, origin?: Origin): Pending {
    this.#judge(offset, length)
    if (this.#staging && !this.#staging.idle) {
      return this.#staging.read(offset, length, into, at, (from, bytes, to) => this.#readBelow(from, bytes, into, to, origin))
    }
    return this.#readBelow(offset, length, into, at, origin)
  }

  write(offset: number, length: number, from: Buffer, at: number, origin?: Origin): Pending {
    return this.#change('write', offset, length, from, at, undefined, origin)
  }

  /** Rejects or throws `not-fast` for `mode.fast` with `mode.allocate`, and where an edge that is no whole grain holds data. */
  zero(offset: number, length: number, mode: ZeroMode, origin?: Origin): Pending {
    return this.#change('zero', offset, length, undefined, 0, mode, origin)
  }

  /** Whole grains read as zeros afterwards, parts of grains stay as they are. */
  trim(offset: number, length: number, origin?: Origin): Pending {
    return this.#change('trim', offset, length, undefined, 0, undefined, origin)
  }

  flush(): Pending {
    this.#judgeOpen()
    const pending = this.#flushes.flush()
    return this.#watchers.isEmpty ? pending : both(pending, this.#watchers.flushed())
  }

  /** Tells of every change from now on, until the returned function is called. */
  watch(watcher: ChangeWatcher): () => void { return this.#watchers.add(watcher) }

  prefetch(offset: number, length: number): Pending {
    this.#judge(offset, length)
    if (!this.#live.prefetch || this.zeroRun(offset, length) <= -length) return undefined
    return this.#live.prefetch(offset, length)
  }

  zeroRun(offset: number, length: number): number {
    this.#judge(offset, length)
    return this.#view.zeroRun(offset, length)
  }

  /** Data is 0; holes and stale grains are hole and zero. Stops early after EXTENTS_MAX runs. */
  extents(offset: number, length: number, maxExtents: number): Extents {
    this.#judge(offset, length)
    const list = new ExtentList(Math.min(maxExtents, EXTENTS_MAX))
    const end = offset + length
    for (let at = offset; at < end;) {
      const run = this.#view.zeroRun(at, end - at)
      if (!list.add(Math.abs(run), run > 0 ? 0 : ZERO_STATE)) break
      at += Math.abs(run)
    }
    return list
  }

  /**
   * Changes the size; `commit` makes the new size durable in the catalog. Visible at once to whoever is attached. To shrink,
   * the caller has seen to it that nobody writes. Rejects where live cannot have that size; then nothing changed.
   */
  async resize(sizeBytes: number, commit: () => Promise<void>): Promise<void> {
    this.#judgeOpen()
    await this.#parts.points.inTurn(() => resizeVolume(this.#parts, sizeBytes, commit))
  }

  /** From now on changes and new points fail with `reason`, until the volume is opened again. Reads and flushes go on. */
  refuseChanges(reason: NbdeltaError): void { this.#parts.points.refusal = reason }
  get #refusal(): NbdeltaError | undefined { return this.#parts.points.refusal }

  async facts(): Promise<VolumeFacts> {
    this.#judgeOpen()
    const { map, inherit } = this.#core
    const inherited = inherit.all()
    return {
      sizeBytes: this.sizeBytes,
      grainBytes: this.grainBytes,
      allocatedBytes: await this.#live.allocatedBytes(),
      mappedBytes: this.#bytesOfGrains(map.data.count(), map.grains > 0 && map.data.get(map.grains - 1)),
      inheritedBytes: inherited ? this.#bytesOfGrains(inherited.count(), inherited.get(map.grains - 1)) : 0,
      staleBytes: this.#bytesOfGrains(map.stale.total, map.grains > 0 && map.stale.has(map.grains - 1)),
      unscannedRegions: map.unscanned.size,
    }
  }

  /**
   * Waits for what runs, gives trimmed space back (live at rest is a plain raw image), writes a checkpoint (but after a failed
   * flush), so that the next open has nothing to recover, and closes the three devices. Content is not flushed.
   */
  close(): Promise<void> { return this.#closing ??= this.#close(true) }

  /** As `close`, but leaves everything as a crash would: for a volume that is about to be deleted. */
  abandon(): Promise<void> { return this.#closing ??= this.#close(false) }

  /** Live itself holds what the volume shows: for one that goes while its live stays. Nobody writes meanwhile (settle.ts). */
  settle(): Promise<void> { return settleLive(this.#parts) }

  #readBelow(offset: number, length: number, into: Buffer, at: number, origin: Origin | undefined): Pending {
    if (this.#allData(offset, length)) return this.#live.read(offset, length, into, at, origin)
    return this.#view.read(offset, length, into, at, origin)
  }

  /** The gate: every change of content passes here, in order of arrival where ranges overlap. */
  #change(
    kind: Kind, offset: number, length: number, from: Buffer | undefined, at: number, mode: ZeroMode | undefined, origin?: Origin,
  ): Pending {
    this.#judge(offset, length)
    if (this.#refusal) throw this.#refusal
    if (kind === 'write') return this.#write(offset, length, from!, at, origin)
    if (this.#locks.idle && !this.#core.inherit.active) {
      const shape = shapeOf(offset, length, this.grainBytes, this.sizeBytes)
      const { rule } = kind === 'zero' ? planZero(this.#core.map, shape, length, mode!) : planTrim(this.#core.map, shape)
      // What it is zero by may be on its way to whoever watches.
      if (rule === 'nothing') return kind === 'zero' ? this.#watchers.zeroed(offset, length) : undefined
    }
    if (kind === 'trim') {
      return this.#inTurn(offset, length, origin, attempt => this.#changes.trim(offset, length, attempt),
        () => this.#tellTrim(offset, length))
    }
    const zeroed = (): Pending => this.#watchers.zeroed(offset, length)
    return this.#inTurn(offset, length, origin, attempt => this.#changes.zero(offset, length, mode!, attempt), zeroed)
  }

  /** A hint may have been taken in part: what of it reads as zeros now. */
  #tellTrim(offset: number, length: number): Pending {
    const { wholeFrom, wholeTo } = shapeOf(offset, length, this.grainBytes, this.sizeBytes)
    const end = Math.min(wholeTo * this.grainBytes, this.sizeBytes)
    let told: Pending
    for (let at = wholeFrom * this.grainBytes; at < end;) {
      const run = this.#view.zeroRun(at, end - at)
      if (run < 0) told = both(told, this.#watchers.zeroed(at, -run))
      at += Math.abs(run)
    }
    return told
  }

  #write(offset: number, length: number, from: Buffer, at: number, origin?: Origin): Pending {
    if (this.#allData(offset, length)) {
      if (this.#locks.idle && this.#allPlain(offset, length)) return this.#overwrite(offset, length, from, at, origin)
      const staged = this.#stage(offset, length, from, at)
      if (staged === 'taken') return this.#tellWrite(this.#staging!.pending, offset, length, from, at)
      if (staged === 'later') return this.#staging!.room(length).then(() => this.write(offset, length, from, at, origin))
      if (this.#locks.idle && !this.#core.space.isTight && this.#gate.tryAdmit(...this.#grainsOf(offset, length))) {
        return this.#overwrite(offset, length, from, at, origin)
      }
    }
    return this.#writeByPlan(offset, length, from, at, origin)
  }

  /** All of it is data and may change, and nothing else is in flight. */
  #overwrite(offset: number, length: number, from: Buffer, at: number, origin: Origin | undefined): Pending {
    let pending: Pending
    try {
      pending = this.#live.write(offset, length, from, at, origin)
    } catch (error) { throw this.#lost(error) }
    if (pending !== undefined) return this.#hold(offset, length, pending, from, at)
    this.#flushes.changed()
    return this.#watchers.isEmpty ? undefined : this.#watchers.wrote(offset, length, from, at)
  }

  /** In its turn already: whoever watches is told at once, so that what comes later is told later. */
  #tellWrite(pending: Pending, offset: number, length: number, from: Buffer, at: number): Pending {
    if (this.#watchers.isEmpty) return pending
    const told = this.#watchers.wrote(offset, length, from, at)
    return both(pending?.catch((error: unknown) => { throw this.#lost(error, true) }), told)
  }

  /** A change has failed, and what it has done nobody knows; `inVain`: it never was, and was told. */
  #lost(error: unknown, inVain = false): unknown {
    this.#watchers.failed(error, inVain)
    return error
  }

  #grainsOf(offset: number, length: number): [from: number, to: number] {
    return [Math.floor(offset / this.grainBytes), divCeil(offset + length, this.grainBytes)]
  }

  /** A snapshot needs what is there: the new content waits in the log until that is out of the way. */
  #stage(offset: number, length: number, from: Buffer, at: number): 'taken' | 'later' | 'no' {
    const staging = this.#staging
    if (!staging?.started) return 'no'
    if (staging.isStalled) return 'later'
    const [first, end] = this.#grainsOf(offset, length)
    if (!this.#locks.idle && this.#locks.meets(first * this.grainBytes, end * this.grainBytes, staging.isPassing)) return 'no'
    this.#gate.brief.keep(first, end)
    return staging.take(offset, length, from, at)
  }

  /** Not all data, or something is in flight: still at once if no other request overlaps and nothing must be durable first. */
  #writeByPlan(offset: number, length: number, from: Buffer, at: number, origin: Origin | undefined): Pending {
    const [first, end] = this.#grainsOf(offset, length)
    const { rule } = planWrite(this.#core.map, first, end)
    const { inherit, space } = this.#core
    const slowly = (): Pending => this.#writeInTurn(offset, length, from, at, origin)
    const atOnce = (rule === 'overwrite' || rule === 'fill') && !inherit.overlaps(first, end) && !space.isTight
    if (!atOnce || !this.#locks.tryLock(offset, offset + length)) return slowly()
    let pending: Pending
    if (!this.#gate.tryAdmit(first, end)) {
      this.#locks.unlock(offset, offset + length)
      return slowly()
    }
    try {
      if (rule === 'fill') this.#core.map.becomeData(first, end)
      pending = this.#live.write(offset, length, from, at, origin)
    } catch (error) {
      this.#watchers.failed(error)
      this.#locks.unlock(offset, offset + length)
      return this.#writeAgain(error, offset, length, from, at, origin)
    }
    if (pending !== undefined) {
      return this.#unlockAfter(offset, length, pending, from, at)
        .catch((error: unknown) => this.#writeAgain(error, offset, length, from, at, origin))
    }
    const told = this.#watchers.wrote(offset, length, from, at)
    this.#locks.unlock(offset, offset + length)
    this.#flushes.changed()
    return told
  }

  #writeInTurn(offset: number, length: number, from: Buffer, at: number, origin: Origin | undefined): Promise<void> {
    return this.#inTurn(offset, length, origin, attempt => this.#changes.write(offset, length, from, at, attempt),
      () => this.#watchers.wrote(offset, length, from, at))
  }

  /** On a full disk something may be given up for it. */
  async #writeAgain(
    error: unknown, offset: number, length: number, from: Buffer, at: number, origin: Origin | undefined,
  ): Promise<void> {
    await this.#core.space.makeRoom(error)
    return this.#writeInTurn(offset, length, from, at, origin)
  }

  /** A write that completes later: whoever overlaps it from now on waits. */
  #hold(offset: number, length: number, pending: Promise<void>, from: Buffer, at: number): Promise<void> {
    if (!this.#locks.tryLock(offset, offset + length)) throw new Error('a range was taken while no lock was held')
    return this.#unlockAfter(offset, length, pending, from, at)
  }

  #unlockAfter(offset: number, length: number, pending: Promise<void>, from: Buffer, at: number): Promise<void> {
    let told: Pending
    // Nobody begins to watch while anything is in flight.
    const tell = this.#watchers.isEmpty ? pending : pending.then(
      () => { told = this.#watchers.wrote(offset, length, from, at) }, (error: unknown) => { throw this.#lost(error) })
    const unlocked = tell.finally(() => {
      this.#locks.unlock(offset, offset + length)
      this.#flushes.changed()
    })
    return tell === pending ? unlocked : unlocked.then(() => told)
  }

  /**
   * Holds whole grains while `work` runs, after everybody who came before and overlaps. Where it fails for want of space for old
   * content it runs again, behind whoever came meanwhile, as long as there is something to give up for it (space.ts). Whoever
   * watches is told of it by `tell`.
   */
  async #inTurn(
    offset: number, length: number, origin: Origin | undefined, work: (attempt: Attempt) => Promise<void>, tell: () => Pending,
  ): Promise<void> {
    const start = offset - offset % this.grainBytes
    const end = divCeil(offset + length, this.grainBytes) * this.grainBytes
    let failure: unknown
    for (let told: Pending, done = false; ;) {
      const attempt = new Attempt(origin)
      await this.#locks.lock(start, end, attempt)
      try {
        if (this.#refusal) throw this.#refusal
        if (offset + length > this.sizeBytes) throw new NbdeltaError('no-space', 'the volume was made smaller meanwhile')
        await work(attempt)
        done = true
        told = tell()
        this.#core.space.served()
      } catch (error) {
        failure = error
        // Before anybody else has a turn: a point that is taken next must not pass for what was told.
        if (attempt.hasBegun) this.#watchers.failed(error)
      } finally {
        this.#locks.unlock(start, end)
        this.#flushes.changed()
      }
      if (done) return told
      // Without the lock: what is given up goes under that of the whole volume.
      await this.#core.space.makeRoom(failure)
    }
  }

  async #close(tidy: boolean): Promise<void> {
    this.#open = false
    const { core, checkpointer, reclaimer, scan, points, inheritor } = this.#parts
    points.leave()
    await scan.stop()
    await inheritor.stop()
    await core.space.stop()
    await points.stop()
    // A restore that had begun by then.
    await inheritor.stop()
    // Everything that was accepted has its turn before this lock is granted; nothing more is accepted.
    if (tidy) await lockWhole(core).catch(() => this.#locks.lock(0, EVERYTHING))
    else await this.#locks.lock(0, EVERYTHING)
    this.#locks.unlock(0, EVERYTHING)
    await core.staging?.close()
    if (tidy && !this.#flushes.failure) await reclaimer.finish()
    else await reclaimer.stop()
    await checkpointer.stop()
    try {
      if (tidy && !this.#flushes.failure) await checkpointer.run()
    } catch (error) {
      core.logger.error({ err: error }, 'the volume was closed without a checkpoint; the next open recovers as after a crash')
    } finally {
      await core.journal.close()
      await inheritor.close()
      await allSettled([...[core.live, core.mapDevice, core.journalDevice].map(device => device.close()), points.close()])
    }
  }

  #allData(offset: number, length: number): boolean { return this.#isAll(this.#data, offset, length) }

  /** No snapshot needs what is there, and it is marked as changed already. */
  #allPlain(offset: number, length: number): boolean {
    const { plain } = this.#chain
    // The last point may have gone with something still staged.
    return plain === undefined ? !this.#staging || this.#staging.idle : this.#isAll(plain, offset, length)
  }

  #isAll(grains: GrainBitmap, offset: number, length: number): boolean {
    const first = Math.floor(offset / this.grainBytes)
    const last = Math.floor((offset + length - 1) / this.grainBytes)
    return first === last ? grains.get(first) : grains.isAll(first, last + 1, true)
  }

  /** The last grain may be short. */
  #bytesOfGrains(grains: number, withLast: boolean): number {
    return grains * this.grainBytes - (withLast ? this.#core.map.grains * this.grainBytes - this.sizeBytes : 0)
  }

  #judge(offset: number, length: number): void {
    this.requests++
    this.#judgeOpen()
    assertRange(this, offset, length)
  }

  #judgeOpen(): void { if (!this.#open) throw new NbdeltaError('wrong-state', 'the volume is closed') }
}
