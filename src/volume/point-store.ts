/**
 * What the points of one volume need of the disk: a table that says which there are, and a folder for each. The store's own
 * is point-folders of src/store; tests bring one on memory disks.
 *
 *   in the table   folder      what open does
 *   ready          SEQ         serves it
 *   deleting       SEQ         goes on merging it into the older one
 *   no             SEQ         never confirmed: merges it likewise, for the journal may speak of it
 *   deleting       none        takes it out of the table
 */
import type { BlockDevice, Pending } from '../device/block-device.js'
import type { DirtyPages, Point } from './point.js'
import type { PointInfo, PointKind } from './snappoint.js'

export interface PointRecord extends PointInfo {
  readonly deleting: boolean
}

/** The files of one point, open. */
export interface PointFiles {
  /** Grain i at i x grain size. Bookmarks have none. */
  readonly preserved: BlockDevice | undefined
  /** Fills the point's maps. Returns what did not check and how it was read, in words. Errors: damaged, newer-format, io. */
  load(point: Point): Promise<string[]>
  /**
   * Saves these pages, durable when done.
   * @param settle called before anything of a page that was read is written: what changed its bits is durable then
   */
  save(point: Point, pages: DirtyPages, settle: () => Pending): Promise<void>
  /** The changed map covers so many grains from now on, durably; new ones are clear. */
  resize(grains: number): Promise<void>
  close(): Promise<void>
}

/** What a staging log lies on (store/staging-log.ts). */
export interface StagedPlace {
  readonly device: BlockDevice
  readonly owner: Buffer
  readonly name: string
  /** When nothing is staged so much space is given back; undefined: not before it is worth while on a file system. */
  readonly freeFromBytes?: number
}

/** The points of one volume on disk. */
export interface PointStore {
  /** What the table says, ascending. */
  list(): readonly PointRecord[]
  /** Greater than every number that was ever given. */
  nextSeq(): number
  /** One durable record: adds or replaces these, takes those out. */
  put(points: readonly PointRecord[], remove: readonly PointRecord[]): Promise<void>
  /** A put has failed, so that only the next open tells what is on disk. */
  readonly inDoubt: boolean
  /** Numbers of the folders that are there, ascending, and what kind each is. */
  folders(): Promise<readonly { readonly seq: number, readonly kind: PointKind, readonly sizeBytes: number }[]>
  /** The folder and empty maps of a new point, durable, and opens them; they need not be loaded. */
  make(seq: number, kind: PointKind, sizeBytes: number): Promise<PointFiles>
  open(seq: number, kind: PointKind, sizeBytes: number): Promise<PointFiles>
  /** Where new content waits while old content is preserved; `create` makes it where there is none. Undefined: there is none. */
  staged?(create: boolean): Promise<StagedPlace | undefined>
  /** Durable: the folder counts no more. Done already: nothing to do. */
  markDeleted(seq: number): Promise<void>
  removeDeleted(seq: number): Promise<void>
}
