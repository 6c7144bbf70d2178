/**
 * VolumeTarget: a volume of the same store as a mirror's target.
 *
 * The declared point is a snapshot of the target, labelled with the mirror, the source's point (`origin`, as deltas name it), and
 * the root of its content.
 * So an interrupted cycle needs no undo of its own: what clients see is that snapshot, which keeps what the cycle overwrites
 * (C10, S1), and to release the target is to restore it. What changed on the target since is the snapshot's map.
 *
 * Order of disk writes, and what each other order would lose
 *   begin    the size, after the snapshot of somebody's own work where there is any: it has its own size
 *   commit   the device was flushed -> snapshot (one durable record: the point is declared) -> the one before goes
 *            The other way round, a crash in between leaves a target at no point at all.
 */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { NbdeltaError } from '../device/errors.js'
import { FinishingDevice } from '../device/forwarding-device.js'
import { Turns } from '../device/turns.js'
import { freePointName } from '../volume/free-name.js'
import { AUTO_LABEL, type PointInfo, RESTORED_LABEL } from '../volume/snappoint.js'
import type { StoreVolume } from '../volume/store-volume.js'
import { portionsOf } from './content-digest.js'
import { digestsOf } from './content-roots.js'
import { DeviceContent, spaceGuard } from './frozen-content.js'
import { takeAlike } from './recall.js'
import type { DeclaredPoint, HeldPoint, MirrorTarget, PlannedPoint, RecallPage, TargetSession } from './target.js'

export const MIRROR_LABEL = 'mirror'
export const ORIGIN_LABEL = 'origin'
/** What a stream had brought when it ended: content of the source at some moment, of which the source has no point. */
const RECEIVED_LABEL = 'received'
const ROOT_LABEL = 'root'
/** Uuid of the source's snapshot of which it is a copy: it stays when newer ones are declared. */
const SNAPSHOT_LABEL = 'snapshot'
/** Of a snapshot of somebody's own work: which mirror, and which cycle, would have overwritten it. */
const KEPT_LABEL = 'kept'
/** Leaves room for what tells it from one that has the name already. */
const COPY_NAME_MAX = 120
/** Number of the point; those of before it was kept have none. */
export const CYCLE_LABEL = 'cycle'
export const AUTO_MIRROR = 'mirror'
/** What was frozen for the source to take over; to the mirror's next declared point it is nothing. */
const FROZEN_LABEL = 'frozen'

interface Parts {
  readonly mirror: { readonly uuid: string, readonly name: string }
  /** The volume as it is now. Errors: not-found, and why it cannot be opened. */
  volume(): StoreVolume
  resize(volume: string, sizeBytes: number): Promise<void>
}

export class VolumeTarget implements MirrorTarget {
  readonly unguarded: readonly string[] = []
  readonly keepsSnapshots = true
  readonly holds = true
  readonly #parts: Parts
  #isReceiving = (): boolean => false

  constructor(parts: Parts) { this.#parts = parts }

  /** What the volume holds is what a stream has brought: what the source held at some moment. */
  get isReceiving(): boolean { return this.#isReceiving() }

  get label(): string { return this.#parts.volume().name }

  /** The snapshot that the source has a point for. */
  declaredPoint(): PointInfo | undefined { return this.#labelled(ORIGIN_LABEL) }

  /** The snapshot that clients of the target see: that, or what has been received since by a stream. */
  shownPoint(): PointInfo | undefined {
    const declared = this.declaredPoint()
    const received = declared && this.#labelled(RECEIVED_LABEL)
    return received && received.seq > declared.seq ? received : declared
  }

  async open(): Promise<TargetSession> {
    const volume = this.#parts.volume()
    const declared = this.declaredPoint()
    const ordered = new FinishingDevice(volume)
    let streams = false
    let frozen: PointInfo | undefined
    const turns = new Turns()
    this.#isReceiving = () => streams && !ordered.failed
    // Whoever ends it a second time goes on when the first has ended: what is shown is what was received by then.
    const suspend = (): Promise<void> => turns.take(async () => {
      const counts = this.#isReceiving()
      streams = false
      if (counts) await this.receive()
    })
    return {
      device: volume,
      declared: declared ? declared.labels[ORIGIN_LABEL]! : null,
      root: declared?.labels[ROOT_LABEL] ?? null,
      digests: (runs, regionBytes) => digestsOf(volume, portionsOf(runs, regionBytes)),
      changed: async () => this.changed(frozen),
      recall: page => this.recall(page),
      begin: (point, keep) => this.#begin(volume, point, keep),
      commit: point => this.#commit(volume, point),
      stream: async () => {
        streams = true
        return ordered
      },
      suspend,
      freeze: async cycle => {
        frozen = await this.freeze(cycle)
        return { sizeBytes: frozen.sizeBytes, volume, snapshot: frozen.name }
      },
      accept: point => this.accept(frozen!, point),
      close: async () => {
        await suspend()
        if (frozen) await this.thaw()
      },
    }
  }

  /** Grains that have changed since the declared point; the bitmap is the caller's. Undefined: there is no such point. */
  changed(until?: PointInfo): GrainBitmap | undefined {
    const declared = this.declaredPoint()
    return declared && this.#parts.volume().points.changedMap(declared.name, until?.name)
  }

  /** A snapshot of what it holds, for the source to take over. */
  async freeze(cycle: number): Promise<PointInfo> {
    await this.thaw()
    const volume = this.#parts.volume()
    const { uuid, name } = this.#parts.mirror
    return volume.points.create({
      name: freePointName(volume, `mirror-${name}-${cycle}-back`), kind: 'snapshot',
      labels: { [AUTO_LABEL]: AUTO_MIRROR, [MIRROR_LABEL]: uuid, [FROZEN_LABEL]: `${cycle}` },
    })
  }

  /** Errors: busy (it was changed since). */
  async accept(frozen: PointInfo, point: PlannedPoint): Promise<void> {
    const volume = this.#parts.volume()
    if (volume.sizeBytes !== point.sizeBytes || await volume.points.hasChanged(frozen.name)) {
      throw new NbdeltaError('busy', `volume ${volume.name} was changed meanwhile`)
    }
    await this.#commit(volume, { ...point, root: null })
  }

  /** What was frozen goes, but what somebody still restores from. */
  async thaw(): Promise<void> {
    const volume = this.#parts.volume()
    const { uuid, name } = this.#parts.mirror
    const old = volume.points.list().filter(({ labels }) => labels[MIRROR_LABEL] === uuid && labels[FROZEN_LABEL] !== undefined)
    await dropPoints(volume, old, ownerOf(name))
  }

  /** As a session's. */
  async recall(page: RecallPage): Promise<boolean[] | null> {
    const volume = this.#parts.volume()
    const copy = this.#mine(volume).find(({ labels }) => labels[SNAPSHOT_LABEL] === page.point)
    if (!copy) return null
    const device = volume.points.open(copy.name)
    try { return await takeAlike(device, volume, page) } finally { await device.close() }
  }

  /** What a stream has brought is a point by itself, from now on. */
  async receive(): Promise<void> {
    const volume = this.#parts.volume()
    const shown = this.shownPoint()
    if (!shown || !await volume.points.hasChanged(shown.name)) return
    const stem = `mirror-${this.#parts.mirror.name}-received`
    await this.#declare(volume, stem, { [RECEIVED_LABEL]: 'stream', [AUTO_LABEL]: AUTO_MIRROR })
  }

  async release(keep?: number): Promise<void> {
    const volume = this.#parts.volume()
    const shown = this.shownPoint()
    if (!shown) throw new NbdeltaError('wrong-state', `volume ${volume.name} has no declared point yet`)
    if (keep !== undefined) await this.keepWork(keep)
    if (volume.sizeBytes !== shown.sizeBytes) await this.#parts.resize(volume.name, shown.sizeBytes)
    const before = new Set(volume.points.list().map(({ uuid }) => uuid))
    await volume.restore({ from: shown.name })
    const undo = volume.points.list().filter(({ uuid, labels }) =>
      !before.has(uuid) && labels[AUTO_LABEL] === 'undo' && labels[RESTORED_LABEL] === shown.uuid)
    void forgetUndo(volume, undo)
  }

  async hold(point: string): Promise<HeldPoint> {
    const volume = this.#parts.volume()
    const found = this.#mine(volume).find(({ labels }) => labels[ORIGIN_LABEL] === point)
    if (!found) throw new NbdeltaError('not-found', `volume ${volume.name} has no point ${point} any more`)
    const content = new DeviceContent(volume.points.open(found.name), { guard: spaceGuard(volume), onClose: () => this.#tidy() })
    return Object.assign(content, { rooted: (root: string) => volume.points.label(found.name, ROOT_LABEL, root) })
  }

  /** Points that were held when a newer one was declared. Never rejects: what stays goes with the next one. */
  async #tidy(): Promise<void> {
    try {
      const volume = this.#parts.volume()
      const seq = this.declaredPoint()?.seq ?? 0
      const old = this.#mine(volume).filter(point => point.seq < seq && point.labels[SNAPSHOT_LABEL] === undefined)
      await dropPoints(volume, old, ownerOf(this.#parts.mirror.name))
    } catch { /* the volume was closed, or is gone */ }
  }

  /** The mirror is over: its points go, and copies of snapshots are the volume's own, no longer shown as what it has declared. */
  async forget(): Promise<void> {
    const volume = this.#parts.volume()
    const owner = ownerOf(this.#parts.mirror.name)
    const mine = this.#mine(volume)
    for (const { name, labels } of mine) {
      if (labels[SNAPSHOT_LABEL] === undefined) continue
      // Pinned by nobody's mirror it could not be deleted.
      await volume.points.unpin(name, owner)
      await volume.points.label(name, MIRROR_LABEL, null)
    }
    await dropPoints(volume, mine.filter(({ labels }) => labels[SNAPSHOT_LABEL] === undefined), owner)
  }

  async #begin(volume: StoreVolume, { cycle, sizeBytes }: PlannedPoint, keep: boolean): Promise<void> {
    if (keep) await this.keepWork(cycle)
    if (volume.sizeBytes !== sizeBytes) await this.#parts.resize(volume.name, sizeBytes)
  }

  /**
   * Somebody's own work, once: a cycle that is tried again has written to the volume.
   * @param isFree it can still be added to, and is kept again if it was
   */
  async keepWork(cycle: number, isFree = false): Promise<void> {
    const volume = this.#parts.volume()
    const { points } = volume
    const { uuid, name } = this.#parts.mirror
    const declared = this.declaredPoint()
    // A client's last write before it became a target again may wait for old content to be kept.
    if (declared && !await points.hasChanged(declared.name)) return
    const kept = `${uuid} ${cycle}`
    const found = points.list().findLast(({ labels }) => labels[KEPT_LABEL] === kept)
    if (found && !(isFree && await points.hasChanged(found.name))) return
    const labels = { [AUTO_LABEL]: 'undo', [KEPT_LABEL]: kept }
    await points.create({ name: freePointName(volume, `before-${name}-${cycle}`), kind: 'snapshot', labels })
  }

  async #commit(volume: StoreVolume, { uuid, cycle, root, snapshot, kept }: DeclaredPoint): Promise<void> {
    const labels = { [ORIGIN_LABEL]: uuid, [CYCLE_LABEL]: `${cycle}`, ...root !== null && { [ROOT_LABEL]: root } }
    const { name } = this.#parts.mirror
    if (snapshot === undefined) await this.#declare(volume, `mirror-${name}-${cycle}`, { ...labels, [AUTO_LABEL]: AUTO_MIRROR })
    else await this.#declare(volume, snapshot.slice(0, COPY_NAME_MAX), { ...labels, [SNAPSHOT_LABEL]: uuid })
    const stays = (copyOf: string | undefined): boolean => copyOf !== undefined && (kept?.includes(copyOf) ?? true)
    const old = this.#mine(volume).slice(0, -1).filter(point => !stays(point.labels[SNAPSHOT_LABEL]))
    await dropPoints(volume, old, ownerOf(name))
  }

  async #declare(volume: StoreVolume, stem: string, more: Readonly<Record<string, string>>): Promise<void> {
    const { uuid, name } = this.#parts.mirror
    await volume.points.create({
      name: freePointName(volume, stem), kind: 'snapshot', labels: { [MIRROR_LABEL]: uuid, ...more },
      pins: [{ owner: ownerOf(name), expiresAt: null }],
    })
  }

  /** The newest one. */
  #labelled(label: string): PointInfo | undefined {
    return this.#mine(this.#parts.volume()).findLast(({ kind, labels }) => kind === 'snapshot' && labels[label])
  }

  /** Oldest first. */
  #mine(volume: StoreVolume): PointInfo[] {
    return volume.points.list().filter(({ labels }) => labels[MIRROR_LABEL] === this.#parts.mirror.uuid)
  }
}

/** What clients of a target may have seen; a copy of a snapshot among it. */
export function isDeclared({ labels }: PointInfo): boolean {
  return labels[ORIGIN_LABEL] !== undefined || labels[RECEIVED_LABEL] !== undefined
}

/** Whoever pins a mirror's points. */
export function ownerOf(mirror: string): string { return `mirror ${mirror}` }

/** Those that somebody still reads, or a restore needs, stay until a later time. */
export async function dropPoints({ points }: StoreVolume, old: readonly PointInfo[], owner: string): Promise<void> {
  for (const { name } of old) {
    try {
      await points.unpin(name, owner)
      await points.delete(name)
    } catch (error) {
      if (!(error instanceof NbdeltaError) || (error.code !== 'busy' && error.code !== 'not-found')) throw error
    }
  }
}

/**
 * What it undid is half a cycle, which nobody asked for. Others that come while it is copied are not: what was done on the
 * volume since, for example, kept by the next cycle. Never rejects: an undo point that stays does no harm.
 */
async function forgetUndo(volume: StoreVolume, undo: readonly PointInfo[]): Promise<void> {
  try {
    await volume.inheriting?.finished
    for (const { name, uuid } of undo) if (volume.points.get(name)?.uuid === uuid) await volume.points.delete(name)
  } catch { /* the volume was closed, or somebody reads it */ }
}
