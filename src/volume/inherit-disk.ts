/** Inheritance of one volume of an open store: inherit-store.ts over the table of points and the files of src/store. */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import type { BlockDevice, Pending } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import type { MapIdentity } from '../store/map-file.js'
import type { Inheritance } from '../store/point-entry.js'
import type { PointFolders, TodoName } from '../store/point-files.js'
import { todoMap } from '../store/point-maps.js'
import type { PointTable } from '../store/point-table.js'
import type { TwinMap } from '../store/twin-map.js'
import type { InheritFile, InheritStore } from './inherit-store.js'
import type { LayerKind } from './inherited.js'
import { entryOf } from './point-disk.js'
import type { PointRecord } from './point-store.js'

/** The bitmap of a layer on a device of TODO_FILE_BYTES. */
export class InheritDisk implements InheritFile {
  readonly #device: BlockDevice
  readonly #map: TwinMap
  readonly #name: string
  /** As a point's maps (point-disk.ts). */
  #isUnflushed = false

  constructor(device: BlockDevice, identity: MapIdentity, grains: number) {
    this.#device = device
    this.#map = todoMap(device, identity, grains)
    this.#name = identity.name
  }

  /** The file was made a moment ago: need not be loaded. */
  fresh(fill: boolean): this {
    this.#map.assume(fill)
    return this
  }

  async load(into: GrainBitmap): Promise<string[]> {
    this.#isUnflushed = true
    const { damagedPages, faults } = await this.#map.load(into)
    if (damagedPages.length === 0) return [...faults]
    const what = `${this.#name}: page ${damagedPages[0]} cannot be read: what is inherited there is not known`
    throw new NbdeltaError('damaged', what)
  }

  async save(from: GrainBitmap, pages: Iterable<number>, settle?: () => Pending): Promise<void> {
    if (this.#isUnflushed) await this.#device.flush()
    this.#isUnflushed = false
    await this.#map.save(from, pages, settle)
  }

  resize(bitmap: GrainBitmap): Promise<void> { return this.#map.resize(bitmap) }
  close(): Promise<void> { return this.#device.close() }
}

export class StoreInheritance implements InheritStore {
  readonly #volume: string
  readonly #table: PointTable
  readonly #folders: PointFolders

  /** @param volume its uuid */
  constructor(volume: string, table: PointTable, folders: PointFolders) {
    this.#volume = volume
    this.#table = table
    this.#folders = folders
  }

  get inheritance(): Inheritance | null { return this.#table.state(this.#volume).inherit }

  put(points: readonly PointRecord[], inherit: Inheritance | null): Promise<void> {
    const volume = this.#volume
    return this.#table.put({ points: points.map(record => entryOf(volume, record)), volumes: [{ volume, inherit }] })
  }

  async make(kind: LayerKind, grains: number, fill: boolean): Promise<InheritFile> {
    await this.#folders.makeTodo(this.#volume, grains, fill, fileOf(kind))
    return (await this.open(kind, grains)).fresh(fill)
  }

  async open(kind: LayerKind, grains: number): Promise<InheritDisk> {
    const device = await this.#folders.openTodo(this.#volume, fileOf(kind))
    return new InheritDisk(device, this.#folders.todoIdentity(this.#volume), grains)
  }

  remove(kind: LayerKind): Promise<void> { return this.#folders.removeTodo(this.#volume, fileOf(kind)) }
}

function fileOf(kind: LayerKind): TodoName { return kind === 'restore' ? 'todo' : 'base' }
