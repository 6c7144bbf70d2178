/**
 * Restore of an open volume from a snapshot, and what it inherits as a clone: layers made, gone on with, and ended.
 *
 * The switch (restore-switch.ts has the steps up to 4). Order of disk writes, and what each other order would lose
 *   1. folder of the undo point, and a bitmap file without a bit: durable, before anybody waits.
 *   2. whole volume locked, no checkpoint: the undo point comes into the chain. From a foreign source or over a clone's base
 *      the set goes into the bitmap file; flush. Between undo point and switch nothing is written, or the undo would not have it.
 *   3. one record in the table: the undo point, both pins, the restore, `settled: false`. From here on the restore has happened.
 *      Before 2 is durable, and a power cut leaves a restore that does not know its grains. A set that is not in the file is
 *      what snapshots between source and undo point own: that stays as it is, and an open finds it again (`ownedFrom`).
 *   4. memory: what live holds of the set is lent to the undo point; the set is inherited. Unlocked, and answered.
 *   5. the next checkpoint (at once) saves the undo point's maps and the set first, then says `settled` in the table, then the
 *      rest.
 *      Live's map first, and a power cut leaves grains that are nobody's bytes. Until 5 is done no grain of the set is taken:
 *      so an open that finds `settled: false` makes 4 again from live's map as it was (recovery.ts).
 *   6. the copier (copier.ts, adopter.ts). When nothing is left: the journal is synced, then one record: pins and restore
 *      are gone; then the file. Record first, and a power cut that loses INHERITED shows zeros: nobody is asked any more.
 *
 * One restore at a time: a second one waits until the first has copied all, which goes without limit then. Size stays as it
 * is: of a shorter snapshot what lies behind its end is left as it was, of a longer one what lies behind the volume's end is
 * left out.
 */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { NbdeltaError } from '../device/errors.js'
import { Turns } from '../device/turns.js'
import type { Inheritance } from '../store/point-entry.js'
import type { Adopter } from './adopter.js'
import type { Checkpointer } from './checkpoint.js'
import { Copier, type InheritJob } from './copier.js'
import type { VolumeCore } from './core.js'
import type { InheritStore } from './inherit-store.js'
import { Layer, type LayerKind } from './inherited.js'
import type { Point } from './point.js'
import type { PointRecord, PointStore } from './point-store.js'
import type { VolumePoints } from './points.js'
import { composedSource, RestoreSwitch, type RestoreRequest, type RestoreSource, switchTogether } from './restore-switch.js'
import { judgeWhole, type PointDevice, type PointInfo, type Snappoints } from './snappoint.js'

const NAME_MAX = 128

/** Another volume to restore from: one of the same store, of equal grain. */
export interface SourceVolume {
  readonly uuid: string
  readonly grainBytes: number
  readonly points: Snappoints
}

export interface RestoreOptions {
  /** Name of the snapshot. */
  readonly from: string
  /** Whose snapshot; by default one of this volume. */
  readonly sourceVolume?: SourceVolume
  /**
   * Of a snapshot of another volume: grains outside of which both are known to be equal; by default nothing is known, and all of
   * it counts as different, as what lies behind the map's end does.
   */
  readonly within?: GrainBitmap
  /** Bytes; by default all. Nothing outside of it changes, to the byte. */
  readonly offset?: number
  readonly length?: number
  /** Of the copying in the background; by default no limit. */
  readonly bytesPerSecond?: number
  /** Called when nothing of the volume is in flight, and nothing was changed yet. What it throws is why nothing will be. */
  readonly whenHeld?: () => void
  /** Called at its instant: what comes from now on comes behind it. Never throws. */
  readonly atInstant?: () => void
}

interface Parts {
  readonly core: VolumeCore
  readonly checkpointer: Checkpointer
  readonly adopter: Adopter
  readonly points: VolumePoints
  readonly pointStore: PointStore | undefined
  readonly store: InheritStore | undefined
  readonly uuid: string
  readonly name: string
}

type Request = RestoreOptions & RestoreRequest

export class Inheritor {
  /** Called when only the next open tells whether a restore has happened: nothing may be changed until then. */
  onDoubt: (reason: NbdeltaError) => void = () => undefined
  readonly #parts: Parts
  readonly #copiers = new Map<LayerKind, Copier>()
  /** Whoever holds a foreign source is told when it is needed no more. */
  readonly #releases = new Map<LayerKind, () => Promise<void>>()
  /** How many need a pin that they share: one lets go of it when the next one has it already. */
  readonly #pinned = new Map<string, number>()
  #stopped = false

  /** Of changes of what the table says. */
  readonly #turns = new Turns()
  /** Of restores: one begins when the one before is shown, or has failed. */
  readonly #restores = new Turns()

  constructor(parts: Parts) {
    this.#parts = parts
    parts.core.space.onRoom = () => { for (const copier of this.#copiers.values()) copier.retry() }
    parts.core.inherit.confirm = layer => this.#put([], () => this.#with(layer.kind, now => ({ ...now, settled: true })))
  }

  /** What is being copied: by a restore, or else by a promotion. */
  get job(): InheritJob | undefined { return this.#copiers.get('restore') ?? this.#copiers.get('clone') }

  /** What the table says, outermost first. */
  get #inheritances(): Inheritance[] {
    const outer = this.#parts.store?.inheritance
    return outer ? [outer, ...outer.base ? [outer.base] : []] : []
  }

  /** Sources that are other volumes' snapshots, by uuid, and whoever is to open them (`attach`). */
  get foreign(): { readonly kind: LayerKind, readonly volume: string, readonly point: string }[] {
    return this.#inheritances.filter(({ source }) => source.volume !== this.#parts.uuid)
      .map(({ kind, source }) => ({ kind, ...source }))
  }

  /** The volume is open: goes on with what a close or a crash cut short. */
  start(): void {
    for (const inheritance of this.#inheritances) {
      if (inheritance.source.volume !== this.#parts.uuid) continue
      const point = this.#parts.points.byUuid(inheritance.source.point)
      if (!point) throw new NbdeltaError('damaged', `the snapshot of a restore is not there: ${inheritance.source.point}`)
      this.#attach(inheritance, this.#parts.points.openPoint(point))
    }
  }

  /** A foreign source has been opened. @param release its pin is needed no more */
  attach(kind: LayerKind, device: PointDevice, release: () => Promise<void>): void {
    const inheritance = this.#inheritances.find(other => other.kind === kind)
    if (!inheritance) throw new Error(`nothing is inherited by a ${kind}`)
    this.#releases.set(kind, this.#share(kind, inheritance.source.point, release))
    this.#attach(inheritance, device)
  }

  /**
   * The volume shows the snapshot's content when this resolves, and copies it in the background. An undo point, labelled
   * `auto`: `undo`, keeps what was there. Where nothing differs nothing is done at all.
   * Errors: not-found, bad-argument (a bookmark, another grain, a range outside), busy (a clone that is not promoted, from a
   * foreign source), wrong-state, no-space, io.
   */
  restore(options: RestoreOptions): Promise<InheritJob> {
    // Two from one snapshot of another volume share its pin.
    return this.#restores.take(() => this.#restore(options))
  }

  async #restore(options: RestoreOptions): Promise<InheritJob> {
    for (;;) {
      await this.hurry()
      await this.#parts.points.room()
      // Its pin takes another volume's turn: whoever has one turn must not wait for another but in the order of volumes.
      const foreign = await this.foreignSource(options)
      let isShown = false
      try {
        const job = await this.#parts.points.inTurn(async () => {
          if (this.isRestoring) return undefined
          const begun = await this.begin(options, foreign)
          const shown = await begun.isNeeded() ? await this.#switch(begun) : undefined
          isShown = shown !== undefined
          return shown ? this.follow(shown) : nothingToDo()
        })
        if (job) return job
      } finally {
        if (!isShown) await this.letGo(foreign)
      }
    }
  }

  async #switch(begun: RestoreSwitch): Promise<RestoreSwitch | undefined> {
    const [shown] = await switchTogether([begun], ([{ points, inheritance }]) => this.#put(points, () => inheritance))
    return shown
  }

  /** A restore is being copied. */
  get isRestoring(): boolean { return this.#copiers.has('restore') }

  /** Resolves when that is over; it goes without limit from now on. */
  async hurry(): Promise<void> { await this.#copiers.get('restore')?.hurry() }

  /** A restore that has changed nothing yet: to be switched, alone or with others, or given up. In turn. Errors as `restore`. */
  async begin(options: RestoreOptions, foreign?: RestoreSource): Promise<RestoreSwitch> {
    const { core, points, pointStore, store, checkpointer, uuid } = this.#parts
    if (this.#stopped) throw new NbdeltaError('wrong-state', 'the volume is being closed')
    if (points.refusal) throw points.refusal
    if (core.inherit.of('restore')) {
      throw new NbdeltaError('busy', 'an earlier restore cannot go on: the volume it restores from is not open')
    }
    if (!pointStore || !store) throw new NbdeltaError('wrong-state', 'this volume has no place for snapshots')
    const request = this.#judge(options)
    if (foreign && core.inherit.of('clone')) {
      throw new NbdeltaError('busy', 'a clone cannot be restored from another volume', { hint: 'promote it first' })
    }
    const source = foreign ?? { info: snapshotOf(points, request.from), volume: uuid, device: undefined, release: undefined }
    const undoName = this.#undoName(request.from)
    const doubt = (reason: NbdeltaError): void => this.onDoubt(reason)
    return new RestoreSwitch({ core, points, pointStore, store, checkpointer, uuid, undoName, doubt }, request, source)
  }

  /** It shows the snapshot: the copying, in the background. */
  follow({ layer, changes, source }: RestoreSwitch): InheritJob {
    const { checkpointer, core } = this.#parts
    if (source.release) this.#releases.set('restore', source.release)
    const job = this.#copy(layer, changes.inheritance.copier!.bytesPerSecond)
    checkpointer.run().catch((error: unknown) => core.logger.warn({ err: error }, 'a checkpoint after a restore failed'))
    return job
  }

  /** Copies what a clone has not got yet, so that it stands alone in the end. Errors: wrong-state (it is no clone), io. */
  async promote(bytesPerSecond?: number): Promise<InheritJob> {
    const pace = judgePace(bytesPerSecond)
    for (;;) {
      // In nobody's turn: one that is at its end waits for its own.
      const before = this.#copiers.get('clone')
      await before?.stop(cancelled('another promotion takes over'))
      const job = await this.#parts.points.inTurn(async () => {
        const layer = this.#parts.core.inherit.of('clone')
        if (!layer) throw new NbdeltaError('wrong-state', 'this volume is no clone, or stands alone already')
        if (this.#copiers.get('clone') !== before) return undefined
        const earlier = this.#inheritances.find(({ kind }) => kind === 'clone')!.copier
        try {
          await this.#put([], () => this.#with('clone', inheritance => ({ ...inheritance, copier: { bytesPerSecond: pace } })))
        } catch (error) {
          // Nothing has changed: the earlier one goes on.
          if (before && earlier && !this.#stopped) this.#copy(layer, earlier.bytesPerSecond)
          throw error
        }
        return this.#copy(layer, pace)
      })
      if (job) return job
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true
    const why = cancelled('the volume was closed; copying goes on when it is opened again')
    await Promise.all([...this.#copiers.values()].map(copier => copier.stop(why)))
  }

  async close(): Promise<void> {
    for (const { file, source } of this.#parts.core.inherit.layers) {
      await source?.close()
      await file.close()
    }
  }

  #judge(options: RestoreOptions): Request {
    const { sizeBytes, grainBytes } = this.#parts.core
    const { offset = 0, length = sizeBytes - offset, sourceVolume } = options
    const pace = judgePace(options.bytesPerSecond)
    const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length)
    if (!whole || offset < 0 || length < 1 || offset + length > sizeBytes) {
      throw new NbdeltaError('bad-argument', `the volume has no bytes from ${offset} to ${offset + length}`)
    }
    if (sourceVolume && sourceVolume.uuid !== this.#parts.uuid && sourceVolume.grainBytes !== grainBytes) {
      const what = `the other volume has grains of ${sourceVolume.grainBytes} bytes, this one of ${grainBytes}`
      throw new NbdeltaError('bad-argument', what)
    }
    return { ...options, offset, length, pace }
  }

  /**
   * Another volume's snapshot, pinned and open; undefined: it is this volume's own. In nobody's turn: its pin takes the other
   * volume's. Errors as `restore`.
   */
  async foreignSource(options: RestoreOptions): Promise<RestoreSource | undefined> {
    const { from, sourceVolume } = this.#judge(options)
    const { uuid, name } = this.#parts
    if (!sourceVolume || sourceVolume.uuid === uuid) return undefined
    const { points } = sourceVolume
    const info = snapshotOf(points, from)
    const owner = `restore ${name}`
    const release = this.#share('restore', info.uuid, () => points.unpin(nameOf(points, info), owner))
    try {
      await points.pin(info.name, { owner, expiresAt: null })
      return { info, volume: sourceVolume.uuid, device: points.open(info.name, { heir: true }), release }
    } catch (error) {
      await release().catch(() => undefined)
      throw error
    }
  }

  /** Returns what lets go of a pin: the last one who does takes it away. */
  #share(kind: LayerKind, point: string, unpin: () => Promise<void>): () => Promise<void> {
    const pin = `${kind} ${point}`
    this.#pinned.set(pin, (this.#pinned.get(pin) ?? 0) + 1)
    return async () => {
      const left = this.#pinned.get(pin)! - 1
      this.#pinned.set(pin, left)
      if (left === 0) await unpin()
    }
  }

  /** What `foreignSource` gave, and nothing was restored from. */
  async letGo(source: RestoreSource | undefined): Promise<void> {
    await source?.device?.close()
    // In doubt it may have happened all the same.
    if (!this.#parts.pointStore?.inDoubt) await this.#release(source?.release)
  }

  /** In nobody's turn. What is left of the pin goes at the next open, whatever has become of the restore. */
  async #release(release: (() => Promise<void>) | undefined): Promise<void> {
    const { logger } = this.#parts.core
    await release?.().catch((error: unknown) => logger.warn({ err: error }, 'the source of a restore is still pinned'))
  }

  #attach(inheritance: Inheritance, device: PointDevice): void {
    const layer = this.#parts.core.inherit.of(inheritance.kind)!
    layer.source = composedSource(layer, inheritance, device, this.#parts.points)
    if (inheritance.copier) this.#copy(layer, inheritance.copier.bytesPerSecond)
  }

  #copy(layer: Layer, bytesPerSecond: number | null): Copier {
    const { core, adopter } = this.#parts
    const copier: Copier = new Copier({
      core, adopter, layer, bytesPerSecond,
      end: async () => {
        const release = await this.#parts.points.inTurn(() => this.#end(layer))
        await this.#release(release)
      },
      cancel: () => layer.kind === 'restore' ? this.#cancelRestore(layer) : this.#cancelPromotion(copier),
    })
    this.#copiers.set(layer.kind, copier)
    return copier
  }

  /** Step 6: nothing is left. Returns how to let go of a foreign source. */
  async #end(layer: Layer): Promise<(() => Promise<void>) | undefined> {
    const { core, checkpointer, points, uuid, store } = this.#parts
    if (!layer.settled) await checkpointer.run()
    await core.journal.sync()
    const ended = this.#inheritances.find(({ kind }) => kind === layer.kind)!
    const freed: Point[] = layer.undo ? [layer.undo] : []
    const own = ended.source.volume === uuid ? points.byUuid(ended.source.point) : undefined
    if (own) freed.push(own)
    const infos = freed.map(({ info }) => ({ ...info, pins: info.pins.filter(({ owner }) => owner !== 'restore') }))
    await this.#put(infos.map(info => ({ ...info, deleting: false })), () => this.#with(layer.kind, () => null))
    for (const [i, point] of freed.entries()) point.info = infos[i]
    await checkpointer.exclude(async () => {
      core.inherit.layers.splice(core.inherit.layers.indexOf(layer), 1)
      this.#copiers.delete(layer.kind)
      await layer.file.close()
    })
    await layer.source?.close()
    await store!.remove(layer.kind)
    const release = this.#releases.get(layer.kind)
    this.#releases.delete(layer.kind)
    return release
  }

  async #cancelRestore(layer: Layer): Promise<void> {
    const inheritance = this.#inheritances.find(({ kind }) => kind === 'restore')
    if (this.isOver(layer) || !inheritance) throw restoreOver()
    await this.restore(this.undoing(layer, inheritance))
  }

  /** All of it has been copied. */
  isOver(layer: Layer): boolean { return !this.#parts.core.inherit.layers.includes(layer) }

  /** The restore that brings back what was there before that one. */
  undoing(layer: Layer, { range }: Inheritance): RestoreOptions {
    const { offset, length } = range!
    return { from: layer.undo!.info.name, offset, length: Math.min(length, this.#parts.core.sizeBytes - offset) }
  }

  async #cancelPromotion(copier: Copier): Promise<void> {
    await this.#parts.points.inTurn(async () => {
      if (this.#copiers.get('clone') !== copier) return
      await this.#put([], () => this.#with('clone', inheritance => ({ ...inheritance, copier: undefined })))
    })
    // In nobody's turn: one that is at its end waits for its own. And not before it is recorded, which may be refused.
    await copier.stop(cancelled('the promotion was stopped'))
    if (this.#copiers.get('clone') === copier) this.#copiers.delete('clone')
  }

  #put(points: readonly PointRecord[], inheritance: () => Inheritance | null): Promise<void> {
    return this.#turns.take(() => this.#parts.store!.put(points, inheritance()))
  }

  /** What the table says, with one layer of it changed or gone. */
  #with(kind: LayerKind, change: (inheritance: Inheritance) => Inheritance | null): Inheritance | null {
    const outer = this.#parts.store!.inheritance!
    if (outer.kind === kind) return change(outer) ?? outer.base ?? null
    const base = change(outer.base!)
    return { ...outer, base: base === null ? undefined : { ...base, kind: 'clone' } }
  }

  /** `undo-NAME-N`, the first that is free. */
  #undoName(from: string): string {
    for (let n = 1; ; n++) {
      const end = `-${n}`
      const name = `undo-${from}`.slice(0, NAME_MAX - end.length) + end
      if (!this.#parts.points.get(name)) return name
    }
  }
}

/** Errors: not-found, bad-argument. */
function snapshotOf(points: Snappoints, name: string): PointInfo {
  const info = points.get(name)
  if (!info) throw new NbdeltaError('not-found', `there is no snapshot '${name}'`)
  if (info.kind !== 'snapshot') throw new NbdeltaError('bad-argument', `'${name}' is a bookmark: it keeps no content`)
  judgeWhole(info)
  return info
}

function nameOf(points: Snappoints, { uuid, name }: PointInfo): string {
  return points.list().find(info => info.uuid === uuid)?.name ?? name
}

function judgePace(bytesPerSecond: number | undefined): number | null {
  if (bytesPerSecond === undefined) return null
  if (Number.isSafeInteger(bytesPerSecond) && bytesPerSecond >= 1) return bytesPerSecond
  throw new NbdeltaError('bad-argument', `${bytesPerSecond} is no rate: whole bytes per second, at least 1`)
}

/** There is nothing to cancel. */
export function restoreOver(): NbdeltaError {
  return new NbdeltaError('wrong-state', 'the restore is over', { hint: 'restore from its undo point' })
}

function cancelled(message: string): NbdeltaError { return new NbdeltaError('cancelled', message) }

function nothingToDo(): InheritJob {
  return {
    progress: () => ({ doneBytes: 0, totalBytes: 0 }),
    problem: () => undefined,
    cancel: async () => undefined,
    finished: Promise.resolve(),
  }
}
