/**
 * VolumeTarget: a volume of the same store as a mirror's target.
 *
 * The declared point is a snapshot of the target, labelled with the mirror and the source's point (`origin`, as deltas name it).
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
import type { InheritJob } from '../volume/copier.js'
import type { PointInfo } from '../volume/snappoint.js'
import type { StoreVolume } from '../volume/store-volume.js'
import type { DeclaredPoint, MirrorTarget, TargetSession } from './target.js'

export const MIRROR_LABEL = 'mirror'
const ORIGIN_LABEL = 'origin'
export const AUTO_LABEL = 'auto'
export const AUTO_MIRROR = 'mirror'

interface Parts {
  readonly mirror: { readonly uuid: string, readonly name: string }
  /** The volume as it is now. Errors: not-found, and why it cannot be opened. */
  volume(): StoreVolume
  resize(volume: string, sizeBytes: number): Promise<void>
}

export class VolumeTarget implements MirrorTarget {
  readonly unguarded: readonly string[] = []
  readonly #parts: Parts

  constructor(parts: Parts) { this.#parts = parts }

  get label(): string { return this.#parts.volume().name }

  /** The snapshot that clients of the target see. */
  declaredPoint(): PointInfo | undefined { return declaredOf(this.#parts.volume(), this.#parts.mirror.uuid).at(-1) }

  async open(): Promise<TargetSession> {
    const volume = this.#parts.volume()
    const declared = this.declaredPoint()
    return {
      device: volume,
      declared: declared ? declared.labels[ORIGIN_LABEL]! : null,
      changed: async () => declared && volume.points.changedMap(declared.name),
      begin: (point, keep) => this.#begin(volume, point, keep),
      commit: point => this.#commit(volume, point),
      close: async () => undefined,
    }
  }

  async release(): Promise<void> {
    const volume = this.#parts.volume()
    const declared = this.declaredPoint()
    if (!declared) throw new NbdeltaError('wrong-state', `volume ${volume.name} has no declared point yet`)
    if (volume.sizeBytes !== declared.sizeBytes) await this.#parts.resize(volume.name, declared.sizeBytes)
    const before = new Set(volume.points.list().map(({ uuid }) => uuid))
    await volume.restore({ from: declared.name })
    void forgetUndo(volume, before)
  }

  /**
   * `source` shows what this volume holds, from one instant on; grains outside of `within` are equal already. Nobody writes to
   * this volume meanwhile. Errors: those of a restore.
   */
  async giveTo(source: StoreVolume, cycle: number, within: GrainBitmap | undefined): Promise<InheritJob> {
    const volume = this.#parts.volume()
    const { mirror } = this.#parts
    const name = freeName(volume, `mirror-${mirror.name}-${cycle}-back`)
    await volume.points.create({ name, kind: 'snapshot', labels: { [AUTO_LABEL]: AUTO_MIRROR, [MIRROR_LABEL]: mirror.uuid } })
    return source.restore({ from: name, sourceVolume: volume, ...within && { within } })
  }

  /** The mirror is over: its points go. */
  async forget(): Promise<void> {
    const volume = this.#parts.volume()
    const { uuid, name } = this.#parts.mirror
    await dropPoints(volume, volume.points.list().filter(({ labels }) => labels[MIRROR_LABEL] === uuid), ownerOf(name))
  }

  async #begin(volume: StoreVolume, { cycle, sizeBytes }: DeclaredPoint, keep: boolean): Promise<void> {
    const { name } = this.#parts.mirror
    const declared = this.declaredPoint()
    const isOwnWork = !declared || volume.points.changedMap(declared.name).count() > 0
    if (keep && isOwnWork) await keepAs(volume, `before-${name}-${cycle}`)
    if (volume.sizeBytes !== sizeBytes) await this.#parts.resize(volume.name, sizeBytes)
  }

  async #commit(volume: StoreVolume, { uuid, cycle }: DeclaredPoint): Promise<void> {
    const { mirror } = this.#parts
    const labels = { [AUTO_LABEL]: AUTO_MIRROR, [MIRROR_LABEL]: mirror.uuid, [ORIGIN_LABEL]: uuid }
    const name = freeName(volume, `mirror-${mirror.name}-${cycle}`)
    await volume.points.create({ name, kind: 'snapshot', labels, pins: [{ owner: ownerOf(mirror.name), expiresAt: null }] })
    const mine = volume.points.list().filter(point => point.labels[MIRROR_LABEL] === mirror.uuid)
    await dropPoints(volume, mine.slice(0, -1), ownerOf(mirror.name))
  }
}

/** Oldest first: the last one counts. */
function declaredOf({ points }: StoreVolume, mirror: string): PointInfo[] {
  return points.list().filter(({ kind, labels }) =>
    kind === 'snapshot' && labels[MIRROR_LABEL] === mirror && labels[ORIGIN_LABEL])
}

/** Whoever pins a mirror's points. */
export function ownerOf(mirror: string): string { return `mirror ${mirror}` }

/** One of an earlier attempt may have it still. */
export function freeName({ points }: StoreVolume, stem: string): string {
  let name = stem
  for (let again = 2; points.get(name); again++) name = `${stem}.${again}`
  return name
}

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

/** What it undid is half a cycle, which nobody asked for. Never rejects: an undo point that stays does no harm. */
async function forgetUndo(volume: StoreVolume, before: ReadonlySet<string>): Promise<void> {
  try {
    await volume.inheriting?.finished
    for (const { uuid, name, labels } of volume.points.list()) {
      if (!before.has(uuid) && labels[AUTO_LABEL] === 'undo') await volume.points.delete(name)
    }
  } catch { /* the volume was closed, or somebody reads it */ }
}

/** Once: a cycle that is tried again finds it. */
async function keepAs({ points }: StoreVolume, name: string): Promise<void> {
  if (points.get(name)) return
  await points.create({ name, kind: 'snapshot', labels: { [AUTO_LABEL]: 'undo' } })
}
