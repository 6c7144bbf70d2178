/**
 * A point's maps and preserved grains on its files, and the points of one volume of an open store (point-store.ts has the
 * rules; the bytes are src/store's: point-files.ts, point-maps.ts, point-table.ts).
 */
import type { BlockDevice, Pending } from '../device/block-device.js'
import { divCeil } from '../../native-free/integer.js'
import { NbdeltaError } from '../device/errors.js'
import type { MapFile, MapIdentity } from '../store/map-file.js'
import type { PointFiles as OpenFiles, PointFolders } from '../store/point-files.js'
import { pointMaps, type PointMaps } from '../store/point-maps.js'
import type { PointEntry } from '../store/point-entry.js'
import type { PointTable } from '../store/point-table.js'
import { uuidBytes } from '../store/store-creation.js'
import { saveTwins } from '../store/twin-map.js'
import type { DirtyPages, Point } from './point.js'
import type { PointFiles, PointRecord, PointStore, StagedPlace } from './point-store.js'
import type { PointKind } from './snappoint.js'

/** Some 240,000 first overwrites of 4 KiB. A sparse file. */
const STAGED_BYTES = 2 ** 30

/** Maps of one point on the device `maps`, and where its grains are preserved. */
export class PointDisk implements PointFiles {
  readonly preserved: BlockDevice | undefined
  readonly #maps: BlockDevice
  readonly #identity: MapIdentity
  readonly #kind: PointKind
  readonly #close: () => Promise<void>
  readonly #exact: PointMaps['exact']
  #changed: MapFile
  #changedGrains: number
  /** A killed process may have left in the kernel's hands what was loaded. */
  #isUnflushed = false

  constructor(
    files: { readonly maps: BlockDevice, readonly preserved: BlockDevice | undefined, close(): Promise<void> },
    identity: MapIdentity, grains: number, kind: PointKind,
  ) {
    this.preserved = files.preserved
    this.#maps = files.maps
    this.#identity = identity
    this.#kind = kind
    this.#close = () => files.close()
    const { changed, exact } = pointMaps(files.maps, identity, grains, kind)
    this.#changed = changed
    this.#exact = exact
    this.#changedGrains = grains
  }

  /** The files were made a moment ago: need not be loaded. */
  fresh(): this {
    this.#changed.assume(false)
    if (this.#exact) for (const map of Object.values(this.#exact)) map.assume(false)
    return this
  }

  async load(point: Point): Promise<string[]> {
    if (point.changed.length !== this.#changedGrains) {
      this.#changedGrains = point.changed.length
      this.#changed = pointMaps(this.#maps, this.#identity, this.#changedGrains, this.#kind).changed
    }
    this.#isUnflushed = true
    const notes = await this.#changed.load(point.changed)
    if (notes.length > 0) point.noteChanged(0, point.changed.length)
    for (const what of ['owned', 'bytes', 'lent'] as const) {
      const loaded = await this.#exact?.[what].load(point[what])
      if (!loaded) continue
      notes.push(...loaded.faults)
      for (const page of loaded.damagedPages) point.damaged.add(page)
    }
    return notes
  }

  async save(point: Point, { changed, exact }: DirtyPages, settle: () => Pending): Promise<void> {
    // The journal is cut behind this, also of what these maps said already when they were loaded.
    if (this.#isUnflushed) await this.#maps.flush()
    this.#isUnflushed = false
    if (point.changed.length !== this.#changedGrains) await this.resize(point.changed.length)
    if (changed.length > 0) {
      await this.#changed.save(point.changed, changed, settle)
      await this.#changed.flush()
    }
    if (exact.length === 0 || !this.#exact) return
    const { owned, bytes, lent } = this.#exact
    const { lasting } = point
    await saveTwins([
      { map: owned, from: lasting.owned, pages: exact },
      { map: bytes, from: lasting.bytes, pages: exact },
      { map: lent, from: lasting.lent, pages: exact },
    ], settle)
  }

  async resize(grains: number): Promise<void> {
    await this.#changed.resize(grains)
    await this.#changed.flush()
    this.#changedGrains = grains
  }

  close(): Promise<void> { return this.#close() }
}

/** Of PointFolders, what is needed here. */
type Folders = Pick<PointFolders,
  'list' | 'make' | 'open' | 'identity' | 'markDeleted' | 'removeDeleted' | 'removeUnfinished' | 'openStaged'>

/** The points of one volume in an open store. */
export class StorePoints implements PointStore {
  readonly #volume: string
  readonly #grainBytes: number
  readonly #table: PointTable
  readonly #folders: Folders
  /** The highest number of a folder that was found. */
  #highest = 0

  /** @param volume its uuid */
  constructor(volume: string, grainBytes: number, table: PointTable, folders: Folders) {
    this.#volume = volume
    this.#grainBytes = grainBytes
    this.#table = table
    this.#folders = folders
  }

  get inDoubt(): boolean { return this.#table.inDoubt }

  list(): readonly PointRecord[] {
    return this.#table.list(this.#volume).map(({ volume: _, state, ...info }) => ({ ...info, deleting: state === 'deleting' }))
  }

  nextSeq(): number { return this.#table.nextSeq(this.#volume, this.#highest) }

  put(points: readonly PointRecord[], remove: readonly PointRecord[]): Promise<void> {
    const volume = this.#volume
    return this.#table.put({
      points: points.map(record => entryOf(volume, record)), removePoints: remove.map(({ seq }) => ({ volume, seq })),
    })
  }

  async folders(): Promise<readonly { readonly seq: number, readonly kind: PointKind, readonly sizeBytes: number }[]> {
    const { present, deleted, unfinished } = await this.#folders.list(this.#volume)
    this.#highest = Math.max(0, ...present, ...deleted, ...unfinished)
    for (const seq of unfinished) await this.#folders.removeUnfinished(this.#volume, seq)
    for (const seq of deleted) await this.#folders.removeDeleted(this.#volume, seq)
    return Promise.all(present.map(async seq => {
      const entry = this.#table.bySeq(this.#volume, seq)
      return entry ? { seq, kind: entry.kind, sizeBytes: entry.sizeBytes } : this.#unnamed(seq)
    }))
  }

  async make(seq: number, kind: PointKind, sizeBytes: number): Promise<PointFiles> {
    await this.#folders.make(this.#volume, seq, { kind, sizeBytes, grains: divCeil(sizeBytes, this.#grainBytes) })
    return (await this.open(seq, kind, sizeBytes)).fresh()
  }

  async open(seq: number, kind: PointKind, sizeBytes: number): Promise<PointDisk> {
    const files = await this.#folders.open(this.#volume, seq, { kind })
    return new PointDisk(files, this.#folders.identity(this.#volume, seq), divCeil(sizeBytes, this.#grainBytes), kind)
  }

  async staged(create: boolean): Promise<StagedPlace | undefined> {
    const device = await this.#folders.openStaged(this.#volume, create ? STAGED_BYTES : undefined)
    return device && { device, owner: uuidBytes(this.#volume), name: `staging log of volume ${this.#volume}` }
  }

  markDeleted(seq: number): Promise<void> { return this.#folders.markDeleted(this.#volume, seq) }
  removeDeleted(seq: number): Promise<void> { return this.#folders.removeDeleted(this.#volume, seq) }

  /** A folder that the table does not know: only a snapshot has a file for grains, as long as the volume was. */
  async #unnamed(seq: number): Promise<{ seq: number, kind: PointKind, sizeBytes: number }> {
    const none = (error: unknown): OpenFiles | undefined => {
      if (error instanceof NbdeltaError && error.code === 'damaged') return undefined
      throw error
    }
    const files = await this.#folders.open(this.#volume, seq, { kind: 'snapshot' }).catch(none)
    const sizeBytes = files?.preserved?.sizeBytes
    await files?.close()
    return sizeBytes === undefined ? { seq, kind: 'bookmark', sizeBytes: 0 } : { seq, kind: 'snapshot', sizeBytes }
  }
}

/** As the table has it. @param volume its uuid */
export function entryOf(volume: string, { deleting, ...info }: PointRecord): PointEntry {
  return { ...info, volume, state: deleting ? 'deleting' : 'ready' }
}
