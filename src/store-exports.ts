/**
 * StoreExports: the store's volumes and their snapshots as the NBD server's exports. Every volume is one, under its own name;
 * "" is the only volume when there is exactly one. The description carries the uuid, so that a client can tell two volumes of
 * one name apart. What snappoints add stands in point-exports.ts.
 *
 * A volume that is the target of a mirror is shown by a point of it (`shownInstead`), read-only, under its own name: a client
 * sees the point that was declared when it attached, to the end. Before there is one, there is no such export.
 *
 * Hidden exports are closed to new clients and unlisted until the server stops, their snapshots as well; attached clients go on.
 * A snapshot that is attached stays: its open device keeps it from being deleted.
 */
import { NbdeltaError } from './index.js'
import { PointContexts, contextNamesOf, listedPoints, pointInfo, pointsOf, targetOf, volumeNameOf } from './point-exports.js'
import type { ClientInfo, ExportHandle, ExportInfo, ExportProvider, PointInfo, Store, StoreVolume } from './index.js'
import type { Target } from './point-exports.js'

/** Snapshots in LIST, behind the volumes: a reply of some 150 KiB. */
const LISTED_POINTS_MAX = 1000

export class StoreExports implements ExportProvider {
  readonly #store: Store
  readonly #onAttached: (change: 1 | -1) => void
  readonly #shownInstead: (volume: StoreVolume) => PointInfo | null | undefined
  readonly #hidden = new Set<string>()
  readonly #bitmapMemory = { usedBytes: 0 }

  /**
   * @param shownInstead the point that clients of a volume see instead of it, read-only: of a mirror's target; null: nothing yet
   */
  constructor(
    store: Store, onAttached: (change: 1 | -1) => void,
    shownInstead: (volume: StoreVolume) => PointInfo | null | undefined = () => undefined,
  ) {
    this.#store = store
    this.#onAttached = onAttached
    this.#shownInstead = shownInstead
  }

  list(): { name: string, description: string }[] {
    const shown = this.#store.list().filter(({ name }) => !this.#hidden.has(name))
    const volumes = shown.filter(({ name }) => this.#find(name))
      .map(volume => ({ name: volume.name, description: describe(volume) }))
    const points: { name: string, description: string }[] = []
    for (const volume of shown) {
      if (points.length < LISTED_POINTS_MAX) points.push(...listedPoints(volume))
    }
    return [...volumes, ...points.slice(0, LISTED_POINTS_MAX)]
  }

  describe(name: string): ExportInfo | undefined {
    const target = this.#find(name)
    return target && infoOf(target)
  }

  contexts(name: string): readonly string[] {
    const target = this.#find(name)
    return target ? contextNamesOf(target) : []
  }

  async open(name: string, _client: ClientInfo, contexts: readonly string[]): Promise<ExportHandle> {
    const target = this.#find(name)
    if (!target) throw new NbdeltaError('not-found', unknown(name))
    const { volume, point } = target
    if (volume.problem) {
      throw new NbdeltaError(volume.problem.code,
        `volume ${volume.name} cannot be opened; the server's log and nbdelta volume show tell why`)
    }
    const device = point && pointsOf(volume)!.open(point.name)
    const bound = new PointContexts(this.#bitmapMemory)
    const close = (): void => {
      bound.release()
      void device?.close()
    }
    try {
      await bound.bind(target, device, contexts)
      // That took its time: the volume may have been hidden or deleted meanwhile.
      if (this.#visible(volume.name) !== volume) throw new NbdeltaError('not-found', unknown(name))
    } catch (error) {
      close()
      throw error
    }
    this.#onAttached(1)
    const release = (): void => {
      this.#onAttached(-1)
      close()
    }
    return { info: infoOf(target), device: device ?? volume, contexts: bound.sources, release }
  }

  isHidden(name: string): boolean { return this.#hidden.has(name) }

  /** Returns whether that changed anything. */
  setHidden(name: string, hidden: boolean): boolean {
    if (this.#hidden.has(name) === hidden) return false
    if (hidden) this.#hidden.add(name)
    else this.#hidden.delete(name)
    return true
  }

  #find(name: string): Target | undefined {
    const volume = name === '' ? this.#only() : this.#visible(volumeNameOf(name))
    const target = volume && targetOf(volume, name)
    if (!target || target.point || target.volume.problem) return target
    const point = this.#shownInstead(target.volume)
    return point === null ? undefined : point ? { ...target, point, moving: true } : target
  }

  #visible(volumeName: string): StoreVolume | undefined {
    return this.#hidden.has(volumeName) ? undefined : this.#store.get(volumeName)
  }

  #only(): StoreVolume | undefined {
    const open = this.#store.list().filter(volume => !this.#hidden.has(volume.name) && this.#shownInstead(volume) !== null)
    return open.length === 1 ? open[0] : undefined
  }
}

function infoOf({ volume, point, ...rest }: Target): ExportInfo {
  if (point) return pointInfo({ volume, ...rest }, point)
  const { name, sizeBytes, blockSizes, capabilities } = volume
  return { name, description: describe(volume), sizeBytes, readOnly: capabilities.readOnly, blockSizes, capabilities }
}

function unknown(name: string): string {
  return name === '' ? 'there is no default export: name one of those that LIST shows' : 'there is no such export'
}

function describe({ uuid, description }: { uuid: string, description: string }): string {
  return description === '' ? `uuid ${uuid}` : `${description} (uuid ${uuid})`
}
