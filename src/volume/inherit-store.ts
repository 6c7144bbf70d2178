/**
 * What inheritance of one volume needs of the disk: its entry in the table of points, and a file for the bitmap of each
 * layer. The store's own is inherit-disk.ts; tests bring one on memory disks.
 */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import type { Pending } from '../device/block-device.js'
import type { Inheritance } from '../store/point-entry.js'
import type { LayerKind } from './inherited.js'
import type { PointRecord } from './point-store.js'

/** The bitmap of a layer on disk, exact: a TwinMap. */
export interface InheritFile {
  /** Errors: damaged (a page that neither twin has: what was inherited there is not known), io. */
  load(into: GrainBitmap): Promise<string[]>
  /** Durable when done. @param settle as PointFiles.save has it */
  save(from: GrainBitmap, pages: Iterable<number>, settle?: () => Pending): Promise<void>
  /** `bitmap` has the new length. Before a growth, after a shrink. */
  resize(bitmap: GrainBitmap): Promise<void>
  close(): Promise<void>
}

export interface InheritStore {
  /** What the table says. */
  readonly inheritance: Inheritance | null
  /** One durable record: points of this volume, added or replaced, and what is inherited from now on. */
  put(points: readonly PointRecord[], inheritance: Inheritance | null): Promise<void>
  /** Durable, and opened: no grain is inherited, or all. Replaces what a crash left. */
  make(kind: LayerKind, grains: number, fill: boolean): Promise<InheritFile>
  open(kind: LayerKind, grains: number): Promise<InheritFile>
  /** Durable; not there: done. */
  remove(kind: LayerKind): Promise<void>
}
