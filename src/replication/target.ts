/**
 * What a mirror needs of its target. Replication ships to a device and does not know whether that is a volume of the same store,
 * somebody's NBD server or a simulator's disk behind a bad network.
 *
 * A session lasts for one cycle: open -> begin -> writes, zeros and a flush on `device` -> commit -> close.
 *
 * Contract
 * - `begin`: from here on the target may hold a mixture. One that keeps undo data has it durably before the first write (C10).
 * - `commit` comes after the device's flush was acknowledged. When it resolves, the point is declared, durably (S2). When it
 *   fails, the point may be declared all the same (B22): `declared` of the next session tells.
 * - Behind a commit a session may become a stream (stream.ts): `stream` gives a way in that keeps the order of requests. From
 *   then on the target holds, at any moment, what the source has held: one that has labels makes a point of that when the session
 *   ends, however it ends, and shows it. `commit` needs no `begin` then.
 * - The other way round (reversal.ts) it is open -> freeze -> reads -> accept -> close.
 */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import type { BlockDevice } from '../device/block-device.js'
import type { StoreVolume } from '../volume/store-volume.js'
import type { ByteRun, Portion, PortionDigest } from './content-digest.js'

/** A frozen point of the source, as it is declared on the target. */
export interface DeclaredPoint {
  /** Of the source's bookmark. */
  readonly uuid: string
  readonly cycle: number
  readonly sizeBytes: number
  /** What the target holds then has been compared, and comes to this (content-roots.ts); null: it cannot tell. */
  readonly root: string | null
  /** It is a snapshot that somebody has made on the source: of that name, and kept as `kept` says. */
  readonly snapshot?: string | undefined
  /** Of such snapshots, by uuid: those that are to stay. Undefined: all. */
  readonly kept?: readonly string[] | undefined
}

/** A point before what the target holds of it was compared. */
export type PlannedPoint = Pick<DeclaredPoint, 'uuid' | 'cycle' | 'sizeBytes'>

/** Portions, cut by `regionBytes`, as the source has them now. */
export interface RecallPage {
  /** Uuid of the source's snapshot that may have them as well. */
  readonly point: string
  readonly regionBytes: number
  readonly portions: readonly (Portion & { readonly digest: Buffer })[]
}

export interface TargetSession {
  readonly device: BlockDevice
  /** Uuid of the point it says it is at; null: at none. Undefined: it keeps no label, so nobody can ask it (X11). */
  readonly declared: string | null | undefined
  /** Content root of that point; null: nobody knows. */
  readonly root: string | null
  /** What it holds now of these ranges of bytes, read anew (content-digest.ts). Undefined: it cannot tell. */
  readonly digests: ((runs: Iterable<ByteRun>, regionBytes: number) => AsyncIterable<PortionDigest>) | undefined
  /**
   * Behind `begin` or `suspend`: what its copy of the source's snapshot holds alike it takes from there, and says of which
   * portions. Null: it has no copy of that snapshot. Undefined: it keeps none, or cannot amid a stream (recall.ts).
   */
  readonly recall: ((asked: RecallPage) => Promise<readonly boolean[] | null>) | undefined
  /** Grains that may have changed on the target itself since that point; the bitmap is the caller's. Undefined: nobody knows. */
  changed(): Promise<GrainBitmap | undefined>
  /** @param keep what it shows is somebody's own work, to be kept as a snapshot before it is overwritten (D14, S5) */
  begin(point: PlannedPoint, keep: boolean): Promise<void>
  commit(point: DeclaredPoint): Promise<void>
  /** What arrives counts from now on. The device is the session's, the same each time; of one connection. */
  stream(): Promise<BlockDevice>
  /** What has arrived so far counts; what comes next does not before `stream` is called again. */
  suspend(): Promise<void>
  /**
   * What it holds now, durably, for the source to take over. It stands on its own then, and nobody writes to it until the
   * session is closed; `changed` is told up to there. Errors: wrong-state, busy (somebody is attached), bad-peer (it cannot).
   */
  freeze(cycle: number): Promise<FrozenTarget>
  /** Declares, instead of begin and commit, that what was frozen is this point. Errors: wrong-state, busy (changed since). */
  accept(point: PlannedPoint): Promise<void>
  /** Resolves when the session is over, whoever ended it; a target that cannot tell has none. */
  readonly over?: Promise<void>
  /** Idempotent. */
  close(): Promise<void>
}

/** Content of a target as of one instant: a snapshot of a volume of the same store, or a device that nobody writes to. */
export type FrozenTarget =
  | { readonly sizeBytes: number, readonly volume: StoreVolume, readonly snapshot: string }
  | { readonly sizeBytes: number, readonly device: BlockDevice, readonly mayBeLarger?: true }

/** What does not change any more, and can be told of by digests while everything else goes on. */
export interface FrozenContent {
  readonly sizeBytes: number
  /** Regions of which it does not know that they are zeros; the bitmap is the caller's. */
  held(regionBytes: number): Promise<GrainBitmap>
  /** Read anew (content-digest.ts). */
  digests(runs: Iterable<ByteRun>, regionBytes: number): AsyncIterable<PortionDigest>
  /** Idempotent. What was being read fails; then the content may go. */
  close(): Promise<void>
}

/** A declared point at the target, that stays until it is closed, whatever is declared meanwhile. */
export interface HeldPoint extends FrozenContent {
  /** What led to it has been compared, and comes to this: its root there from now on. Undefined: it has no place for that. */
  readonly rooted?: ((root: string) => Promise<void>) | undefined
  /** The target is told what came of it, and keeps that for people; one that only this server knows has no need. */
  tell?(found: Finding): Promise<void>
}

/** What came of reading all of a point. */
export interface Finding {
  readonly result: 'equal' | 'different' | 'read'
  /** Number of the point; null: not known. */
  readonly cycle: number | null
  /** Of the content (compare.ts); null: not all of it was looked at. */
  readonly digest: string | null
}

/** What a session is opened for. */
export interface SessionWish {
  /** The mirror is being made, or everything is compared: a target that is not there, or not the mirror's, may become that. */
  readonly mayBegin: boolean
}

export interface MirrorTarget {
  /** As people know it: a volume's name, an address. */
  readonly label: string
  /** What this kind of target cannot promise, in words (X11). Empty: nothing is missing. */
  readonly unguarded: readonly string[]
  /** It can have the source's snapshots as well, as far as is known. */
  readonly keepsSnapshots: boolean
  /** Errors: unreachable, not-found, and whatever the device reports. */
  open(wish: SessionWish): Promise<TargetSession>
  /**
   * Shows the declared point again, and may be written to by others from now on. Errors: wrong-state (it has none), io.
   * @param keep number of the cycle that was to keep somebody's own work, and may not have begun: now it is kept. A target that
   *   is told of others' work by `begin` alone needs it not
   */
  release(keep?: number): Promise<void>
  /** The mirror is over: what the target keeps for it goes. */
  forget(): Promise<void>
  /** Whether it can hold a declared point to be compared; of a peer as of the last session. */
  readonly holds: boolean
  /** The point that was declared by that uuid. Only if `holds`. Errors: not-found, unreachable, and what the target reports. */
  hold(point: string, signal: AbortSignal): Promise<HeldPoint>
}
