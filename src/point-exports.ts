/**
 * What snappoints add to the exports of a volume (PROTOCOL C10, C11):
 *
 *   export NAME            contexts  qemu:allocation-depth   0 hole, 1 live
 *                                    qemu:dirty-bitmap:P     changed between P and the moment the client attached
 *   export NAME@SNAPSHOT   contexts  qemu:allocation-depth   0 hole, 1 this snapshot itself, 2 the next newer, ...
 *                                    qemu:dirty-bitmap:P     changed between P, an older point, and this snapshot; exact
 *   export NAME@latest     the newest snapshot there is when a client attaches; that client stays with it (SEEDS B14)
 *
 * Bitmaps are frozen when the client attaches. Of a snapshot map and data are thus of one instant. Live goes on meanwhile:
 * what is written after that moment is in the data, but not in the bitmap; whoever needs both alike attaches to a snapshot.
 * Beyond the size the volume had at P everything is dirty.
 *
 * Neither kind of name can be that of a volume: those have no "@". An undo snapshot is the state before a restore, so it is
 * an export by its name, but never the latest.
 */
import { setImmediate as turn } from 'node:timers/promises'
import { NbdeltaError, freezeBitmap, isImage } from './index.js'
import type { ExportInfo, FrozenBitmap, PointDevice, PointInfo, Snappoints, StatusSource, StoreVolume } from './index.js'

const ALLOCATION_DEPTH = 'qemu:allocation-depth'
const DIRTY_BITMAP = 'qemu:dirty-bitmap:'
const SEPARATOR = '@'
const LATEST = 'latest'
const DEPTH_LIVE = 1
/** base:allocation: takes no space. */
const STATE_HOLE = 1

/** Snapshots in LIST: the newest of each volume, so that it stays short; the others are exports, too. */
const LISTED_OF_VOLUME_MAX = 100

/** Memory of all frozen bitmaps together: 16 of the largest, or 40 of 100,000 runs. */
const BITMAP_BYTES_MAX = 64 * 2 ** 20

/** What the bitmaps of all attached clients hold. */
interface BitmapMemory { usedBytes: number }

/** What an export's name stands for. */
export interface Target {
  readonly volume: StoreVolume
  /** The snapshot; undefined: live. */
  readonly point: PointInfo | undefined
  /** Another snapshot may have the name tomorrow. */
  readonly moving: boolean
  /** Of the export. */
  readonly name: string
}

/** The volume that an export's name is about. */
export function volumeNameOf(exportName: string): string { return exportName.split(SEPARATOR, 1)[0]! }

/** What `exportName` stands for, given its volume; undefined: nothing. */
export function targetOf(volume: StoreVolume, exportName: string): Target | undefined {
  const at = exportName.indexOf(SEPARATOR)
  if (at < 0) return { volume, point: undefined, moving: false, name: volume.name }
  const name = exportName.slice(at + 1)
  const snapshots = snapshotsOf(volume)
  const moving = name === LATEST
  const point = moving ? snapshots.find(({ labels }) => labels['auto'] !== 'undo') : snapshots.find((one) => one.name === name)
  return point && { volume, point, moving, name: volume.name + SEPARATOR + point.name }
}

/** The names under which a volume's snapshots are listed, newest first. */
export function listedPoints(volume: StoreVolume): { name: string, description: string }[] {
  return snapshotsOf(volume).slice(0, LISTED_OF_VOLUME_MAX).map((point) => {
    const name = volume.name + SEPARATOR + point.name
    return { name, description: pointInfo({ volume, moving: false, name }, point).description }
  })
}

export function pointInfo({ volume, moving, name }: Omit<Target, 'point'>, point: PointInfo): ExportInfo {
  return {
    name,
    description: `snapshot of ${volume.name} at ${point.createdAt} (uuid ${point.uuid})`,
    sizeBytes: point.sizeBytes, readOnly: true, blockSizes: volume.blockSizes,
    capabilities: { readOnly: true, trim: false, fastZero: false, rotational: volume.capabilities.rotational },
    oneConnection: moving,
  }
}

/** Names of an export's contexts, bitmaps of newer points first. */
export function contextNamesOf(target: Target): string[] {
  const points = pointsOf(target.volume)
  if (!points) return []
  return [ALLOCATION_DEPTH, ...comparable(points, target.point).map(({ name }) => DIRTY_BITMAP + name)]
}

/** The contexts of one attached client, as they were when it attached. */
export class PointContexts {
  readonly sources = new Map<string, StatusSource>()
  readonly #memory: BitmapMemory
  #bytes = 0

  constructor(memory: BitmapMemory) { this.#memory = memory }

  /**
   * Binds contexts to this moment. Runs of one bitmap are collected in one go; between bitmaps others have their turn.
   * Release is the caller's duty, also when this fails.
   * @param device the snapshot, opened; undefined: live
   */
  async bind(target: Target, device: PointDevice | undefined, names: readonly string[]): Promise<void> {
    for (const name of names) {
      if (name === ALLOCATION_DEPTH) {
        this.sources.set(name, device ? { extents: device.depths.bind(device) } : liveDepths(target.volume))
        continue
      }
      if (this.#bytes > 0) await turn()
      const bitmap = bitmapSince(target, device, name.slice(DIRTY_BITMAP.length))
      this.#bytes += bitmap.bytes
      this.#memory.usedBytes += bitmap.bytes
      if (this.#memory.usedBytes > BITMAP_BYTES_MAX) {
        throw new NbdeltaError('denied', 'too many dirty bitmaps are attached: detach some, or ask for fewer')
      }
      this.sources.set(name, bitmap)
    }
  }

  release(): void {
    this.#memory.usedBytes -= this.#bytes
    this.#bytes = 0
    this.sources.clear()
  }
}

function bitmapSince({ volume, point }: Target, device: PointDevice | undefined, name: string): FrozenBitmap {
  const points = pointsOf(volume)
  const since = points && comparable(points, point).find((one) => one.name === name)
  if (!points || !since) throw new NbdeltaError('not-found', `there is no dirty bitmap ${name}: that point is gone`)
  const runs = device ? device.changedRuns(name) : points.changedRuns(name)
  return freezeBitmap(runs, volume.grainBytes, Math.min(since.sizeBytes, (device ?? volume).sizeBytes))
}

/** What live itself has; live knows no depth but its own. */
function liveDepths(volume: StoreVolume): StatusSource {
  return {
    async extents(offset, length, maxExtents) {
      const { lengths, states } = await volume.extents(offset, length, maxExtents)
      return { lengths, states: states.map((state) => (state & STATE_HOLE) !== 0 ? 0 : DEPTH_LIVE) }
    },
  }
}

/** Newest first: points older than this snapshot, or all of them. */
function comparable(points: Snappoints, until: PointInfo | undefined): PointInfo[] {
  return points.list().filter(({ seq }) => until === undefined || seq < until.seq).reverse()
}

/** Newest first; but those that hold only a part. */
function snapshotsOf(volume: StoreVolume): PointInfo[] {
  return pointsOf(volume)?.list().filter((point) => point.kind === 'snapshot' && !isImage(point)).reverse() ?? []
}

/** A volume that could not be opened has none. */
export function pointsOf(volume: StoreVolume): Snappoints | undefined {
  return volume.problem ? undefined : volume.points
}
