/**
 * RestoreSwitch: a restore until its volume shows the snapshot, phase by phase, so that the volumes of a group switch at one
 * instant and with one record. The order of disk writes, and why, is in restore.ts, by the numbers of its steps.
 *
 *   prepare   the undo point's files and the bitmap's, durable (1)
 *   hold      the whole volume locked, no checkpoint, room in the journal
 *   take      the undo point is in the chain, what the record needs is durable (2); or nothing differs any more
 *   (one record of the changes of all volumes) (3)
 *   show      in memory (4); then the lock goes
 *   giveUp    instead: nothing has changed, nothing is left; whoever has opened the source lets go of it
 *   leave     likewise, where nothing differs, and others may have been shown
 */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { allSettled } from '../device/all-settled.js'
import type { BlockDevice } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import { EVERYTHING } from '../device/range-lock.js'
import type { Inheritance } from '../store/point-entry.js'
import type { Checkpointer } from './checkpoint.js'
import { ComposedSource } from './composed-source.js'
import type { VolumeCore } from './core.js'
import { lockWhole } from './holds.js'
import type { InheritFile, InheritStore } from './inherit-store.js'
import { Layer } from './inherited.js'
import { holdAll, NewPoint } from './point-creation.js'
import type { PointRecord, PointStore } from './point-store.js'
import type { VolumePoints } from './points.js'
import { ownedFrom, planRestore, rangeOf, resized } from './restore-plan.js'
import { type PointDevice, type PointInfo, RESTORED_LABEL } from './snappoint.js'

/** Room in the journal for what a switch says beside the extents of the undo point. */
const HOLD_RANGES = 64
const FULL = 'the journal of the volume has no room for an undo point'

interface SwitchParts {
  readonly core: VolumeCore
  readonly checkpointer: Checkpointer
  readonly points: VolumePoints
  readonly pointStore: PointStore
  readonly store: InheritStore
  readonly uuid: string
  readonly undoName: string
  /** Only the next open tells whether the restore has happened. */
  doubt(reason: NbdeltaError): void
}

export interface RestoreRequest {
  /** Bytes. */
  readonly offset: number
  readonly length: number
  /** Grains outside of which the source is known to hold what the volume does; undefined: nothing is known. */
  readonly within?: GrainBitmap
  /** Bytes a second of the copying; null: no limit. */
  readonly pace: number | null
  /** Called before anything is taken; what it throws is why nothing is. */
  readonly whenHeld?: () => void
  /** Called when the volume shows it, and nobody has changed it since. */
  readonly atInstant?: () => void
}

export interface RestoreSource {
  readonly info: PointInfo
  /** Whose snapshot it is: a uuid. */
  readonly volume: string
  /** Of another volume: open and pinned, and how to let go of it. */
  readonly device: PointDevice | undefined
  readonly release: (() => Promise<void>) | undefined
}

/** What the record says of one volume. */
export interface SwitchChanges {
  readonly uuid: string
  readonly points: readonly PointRecord[]
  readonly inheritance: Inheritance
}

export class RestoreSwitch {
  readonly source: RestoreSource
  /** Whose volume is to be held. */
  readonly undo: NewPoint
  readonly #parts: SwitchParts
  readonly #request: RestoreRequest
  #file: InheritFile | undefined
  #layer: Layer | undefined
  #changes: SwitchChanges | undefined

  constructor(parts: SwitchParts, request: RestoreRequest, source: RestoreSource) {
    this.#parts = parts
    this.#request = request
    this.source = source
    this.undo = new NewPoint({ core: parts.core, checkpointer: parts.checkpointer, store: parts.pointStore }, {
      name: parts.undoName, kind: 'snapshot', labels: { auto: 'undo', [RESTORED_LABEL]: source.info.uuid },
    }, null)
  }

  /** After `take`. */
  get layer(): Layer { return this.#layer! }
  get changes(): SwitchChanges { return this.#changes! }

  /** Something may differ from the snapshot: whatever was asked for before is looked at as well. */
  async isNeeded(): Promise<boolean> {
    const { core } = this.#parts
    // That may differ, and takes its time to be moved: clients go on meanwhile when `prepare` does it, and `take` knows.
    if (core.staging && !core.staging.idle) return true
    // What is on its way is owned, and so seen by the plan, only when it is in its place.
    await lockWhole(core)
    try {
      return this.#plan().rule !== 'nothing'
    } finally {
      core.locks.unlock(0, EVERYTHING)
    }
  }

  async prepare(): Promise<void> {
    const making = this.#parts.store.make('restore', this.#parts.core.map.grains, false)
    await allSettled([this.undo.prepare(), making.then(made => { this.#file = made })])
  }

  exclude(work: () => Promise<void>): Promise<void> { return this.#parts.checkpointer.exclude(work) }

  /** False: nothing differs any more, and nothing was done. */
  async take(): Promise<boolean> {
    const { core, uuid, store, points } = this.#parts
    const { info, volume } = this.source
    this.#request.whenHeld?.()
    const plan = this.#plan()
    if (plan.rule === 'nothing') return false
    this.undo.take()
    // What the journal says of an earlier restore must not be taken for this one.
    const begun = core.journal.append('layer', [{ start: 0, end: 1 }], () => undefined, this.undo.record.seq)
    const late = volume === uuid && !core.inherit.of('clone')
    await allSettled([begun, late ? undefined : this.#file!.save(plan.set, plan.set.usedPages())])
    await this.undo.secure()
    this.#layer = new Layer('restore', plan.set, this.#file!, this.undo.point, false)
    this.#layer.unsaved = late
    const base = store.inheritance
    const inheritance = {
      kind: 'restore' as const, source: { volume, point: info.uuid }, undo: this.undo.record.uuid,
      range: { offset: this.#request.offset, length: this.#request.length }, settled: false,
      copier: { bytesPerSecond: this.#request.pace }, ...base ? { base: { ...base, kind: 'clone' as const } } : {},
    }
    const pin = { owner: 'restore', expiresAt: null }
    const own = volume === uuid ? points.byUuid(info.uuid) : undefined
    const pins = own && [...own.info.pins.filter(({ owner }) => owner !== 'restore'), pin]
    const source = own && pins ? [{ ...own.info, pins, deleting: false }] : []
    this.#changes = { uuid, points: [...source, { ...this.undo.record, pins: [pin] }], inheritance }
    return true
  }

  /** The record is durable. */
  show(): void {
    const { core, points, uuid } = this.#parts
    const { info, volume, device } = this.source
    const { layer, changes } = this
    const undo = this.undo.point!
    const own = volume === uuid ? points.byUuid(info.uuid)! : undefined
    for (const { deleting: _, ...changed } of changes.points) {
      if (changed.uuid === own?.info.uuid) own.info = changed
      else undo.info = { ...undo.info, pins: changed.pins }
    }
    this.undo.confirm()
    core.chain.lendAll(undo, layer.todo, core.map.data)
    core.map.becomeInherited(layer.todo)
    core.inherit.layers.unshift(layer)
    layer.source = composedSource(layer, changes.inheritance, device ?? points.openPoint(own!), points)
    if (!core.watchers.isEmpty) {
      const open = own && (() => composedSource(layer, changes.inheritance, points.openPoint(own), points))
      core.watchers.restored(layer.todo, info.uuid, open)
    }
    this.#request.atInstant?.()
  }

  /**
   * The record may be there: whether it was restored is known only to the next open. To be called before anybody else has a turn,
   * who would change what the undo point then has. False: it is not there.
   */
  doubts(error: unknown): boolean {
    const { pointStore, doubt } = this.#parts
    if (!pointStore.inDoubt) return false
    const hint = 'restart the server: it then shows one of the two contents, and nothing else is lost'
    const what = 'whether the volume was restored is not known: no more changes'
    doubt(new NbdeltaError('flush-failed', what, { cause: error, hint }))
    return true
  }

  /** @param error why, if it has failed */
  async giveUp(error?: unknown): Promise<void> {
    const { points, store } = this.#parts
    await this.#file?.close()
    if (error !== undefined && this.doubts(error)) return
    if (this.undo.point) await points.giveUp(this.undo)
    else await this.undo.discard()
    await store.remove('restore')
  }

  /** Nothing differs. What was laid and cannot be taken away the next open removes: what others show is there, and stays. */
  async leave(): Promise<void> {
    try {
      await this.giveUp()
    } catch (error) {
      this.#parts.core.logger.warn({ err: error }, 'what was laid for a restore that has nothing to do is left behind')
    }
  }

  #plan(): ReturnType<typeof planRestore> {
    const { core, points, uuid } = this.#parts
    const { info, volume } = this.source
    const { grainBytes, map, chain } = core
    const range = rangeOf(this.#request.offset, this.#request.length, info.sizeBytes, grainBytes)
    const from = volume === uuid ? points.byUuid(info.uuid) : undefined
    const { within } = this.#request
    // The volume may have grown since that was known.
    const owned = from ? ownedFrom(chain.points, from) : within && [resized(within, map.grains, true)]
    return planRestore(map.grains, owned, range, core.inherit.of('clone')?.todo)
  }
}

/** What grains of a layer read as: the source within the range, what was there before around it. */
export function composedSource(
  layer: Layer, { range }: Inheritance, device: BlockDevice, points: Pick<VolumePoints, 'openPoint'>,
): ComposedSource {
  const { offset = 0, length = device.sizeBytes } = range ?? {}
  return new ComposedSource(device, offset, offset + length, layer.undo && points.openPoint(layer.undo))
}

/**
 * All volumes show their snapshots when this resolves, by one record that `put` makes durable, or none does. Returns those in
 * which something differed. In the order in which everybody takes volumes. Errors: busy, no-space, io, and those of `put`.
 */
export async function switchTogether(
  switches: readonly RestoreSwitch[], put: (changes: readonly SwitchChanges[]) => Promise<void>,
): Promise<RestoreSwitch[]> {
  const taken: RestoreSwitch[] = []
  try {
    await allSettled(switches.map(one => one.prepare()))
    const hold = { ranges: HOLD_RANGES, isBounded: switches.length > 1, full: FULL }
    await holdAll(switches.map(({ undo }) => undo), hold, () => excludeAll(switches, async () => {
      await allSettled(switches.map(async one => { if (await one.take()) taken.push(one) }))
      if (taken.length === 0) return
      try {
        await put(taken.map(({ changes }) => changes))
      } catch (error) {
        for (const one of taken) one.doubts(error)
        throw error
      }
      for (const one of taken) one.show()
    }))
  } catch (error) {
    await allSettled(switches.map(one => one.giveUp(error)))
    throw error
  }
  await Promise.all(switches.filter(one => !taken.includes(one)).map(one => one.leave()))
  return taken
}

/** No checkpoint of any volume. */
function excludeAll([first, ...rest]: readonly RestoreSwitch[], work: () => Promise<void>): Promise<void> {
  return first ? first.exclude(() => excludeAll(rest, work)) : work()
}
