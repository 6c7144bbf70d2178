/**
 * What the public API says about snappoints (DESIGN sections 1-2; docs/snappoints.md has the mechanism): plain facts, and
 * what an open volume can do with them. Names of points are unique within their volume; identities (uuid) everywhere.
 */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import type { BlockDevice, Extents } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import type { Run } from './volume-map.js'

/** A snapshot keeps old content readable; a bookmark keeps only the map of what changed since. */
export type PointKind = 'snapshot' | 'bookmark'

/** Of an undo point: uuid of the snapshot that was restored at its instant. */
export const RESTORED_LABEL = 'restored'

/** Label of points that nobody asked for by name: 'undo', 'schedule', 'mirror', or IMAGE. */
export const AUTO_LABEL = 'auto'

/** Its value for a snapshot that holds only a part of its content: whoever made it knows which, and nobody else opens it. */
export const IMAGE = 'image'

/** What a snapshot keeps if that is not everything. The rest of it reads as anything. */
export interface Kept {
  /** Name of an older point that stays as long as this one: what has changed since is kept. */
  readonly since: string
  /** And all grains from this one on. */
  readonly from: number
  /** And these. Not to be changed any more. */
  readonly also?: GrainBitmap | undefined
}

export function isImage({ kind, labels }: PointInfo): boolean { return kind === 'snapshot' && labels[AUTO_LABEL] === IMAGE }

/** Errors: bad-argument (an image has content for its maker only). */
export function judgeWhole(info: PointInfo): void {
  if (isImage(info)) throw new NbdeltaError('bad-argument', `'${info.name}' keeps only what a mirror is shipping`)
}

/** Whoever needs a point to stay. It cannot be deleted before the pin is released or has expired (SEEDS X5). */
export interface Pin {
  /** Unique within the point: 'clone NAME', 'restore', 'export 17', whatever an operator typed. */
  readonly owner: string
  /** ISO 8601, UTC; null: until released. */
  readonly expiresAt: string | null
}

export interface PointInfo {
  readonly uuid: string
  /** Number in its volume, ascending from oldest to newest, never used twice. */
  readonly seq: number
  readonly name: string
  readonly kind: PointKind
  /** ISO 8601, UTC. For display and schedules only (SEEDS X13): order is `seq`. */
  readonly createdAt: string
  /** The volume's size at that instant, bytes. */
  readonly sizeBytes: number
  /** Free text by key; AUTO_LABEL, RESTORED_LABEL. */
  readonly labels: Readonly<Record<string, string>>
  /** Uuid of the group operation that made it together with points of other volumes; null: made alone. */
  readonly group: string | null
  readonly pins: readonly Pin[]
}

/** A pin that holds at that time. @param but not of these owners */
export function pinOf({ pins }: PointInfo, now: Date, but: readonly string[] = []): Pin | undefined {
  return pins.find(({ owner, expiresAt }) => !but.includes(owner) && (expiresAt === null || new Date(expiresAt) > now))
}

export interface PointFacts {
  /** Bytes that deleting this point alone would give back; an estimate from above by less than one grain a run. */
  readonly exclusiveBytes: number
  /** Bytes of its content that are not holes. Bookmarks: 0. */
  readonly referencedBytes: number
  /** Grains changed between it and the next point. */
  readonly changedGrains: number
}

export interface CreatePointOptions {
  readonly name: string
  readonly kind: PointKind
  readonly labels?: Readonly<Record<string, string>>
  /** Held from the beginning, by the same record. */
  readonly pins?: readonly Pin[]
  /** Called before its instant, when nothing of the volume is in flight: what it throws is why it is not made. */
  readonly judge?: () => void
  /** Called at its instant: nothing of the volume is in flight, and what comes from now on is not in the point. Never throws. */
  readonly atInstant?: () => void
  /**
   * Whoever makes it can do without it: called, once, when the volume has no room for what it keeps (space.ts). As soon as nobody
   * has it open any more it is deleted then, whatever pins it was made with. Never throws. Forgotten when the volume is closed.
   */
  readonly letGo?: () => void
  /** Of a snapshot: less than everything. It gets the label of an image. */
  readonly keeps?: Kept
}

export interface OpenPointOptions {
  /** Closed soon after its `letGo` was called. */
  readonly yields?: boolean
  /** By who made it, and reads no more of it than it keeps. */
  readonly image?: boolean
  /** By another volume that shows it: until it is closed the volume it is of can neither be deleted nor opened anew. */
  readonly heir?: boolean
}

/** Content of a snapshot, read-only; it stays as it is whatever happens to the volume. Closing it releases the snapshot. */
export interface PointDevice extends BlockDevice {
  readonly point: PointInfo
  /** `qemu:allocation-depth`: 0 = unallocated anywhere, 1 = this snapshot itself, 2 = the next newer one, ..., at last live. */
  depths(offset: number, length: number, maxExtents: number): Extents
  /** Grains that changed between `since`, an older point of the same volume, and this one, in order, merged. */
  changedRuns(since: string): Iterable<Run>
  /** Of an image, by its only reader: nothing before `offset` (bytes) is read any more. */
  forget(offset: number): void
}

/** Snappoints of one open volume. Errors: not-found, exists, bad-argument, busy (pinned, in use), no-space, flush-failed, io. */
export interface Snappoints {
  /** Oldest first; points that are being deleted are not in it. */
  list(): readonly PointInfo[]
  get(name: string): PointInfo | undefined
  facts(name: string): Promise<PointFacts>
  create(options: CreatePointOptions): Promise<PointInfo>
  /** Gone for every caller when this resolves; its space comes back in the background (`settled` waits for that). */
  delete(name: string): Promise<void>
  /** Every deletion and hand-over under way has ended. */
  settled(): Promise<void>
  rename(name: string, to: string): Promise<PointInfo>
  /** One label more, another value of one, or without it (null). */
  label(name: string, label: string, value: string | null): Promise<void>
  pin(name: string, pin: Pin): Promise<void>
  unpin(name: string, owner: string): Promise<void>
  /** Errors: not-found, bad-argument (a bookmark, or an image), busy (it is being deleted), wrong-state (closed). */
  open(name: string, how?: OpenPointOptions): PointDevice
  /** Grains changed from `since` up to `until` (a newer point), or up to now. A superset of the truth, bounded (D4). */
  changedRuns(since: string, until?: string): Run[]
  /** The same as a bitmap, which is the caller's: a bit a grain at most, however many runs there are. */
  changedMap(since: string, until?: string): GrainBitmap
  /** Whether any of grains [from, to) is among those that changed since then up to now. */
  isChanged(since: string, from: number, to: number): boolean
  /** Whether anything has, its size too: what was asked for before counts, however far it has come. Errors: not-found. */
  hasChanged(since: string): Promise<boolean>
}
