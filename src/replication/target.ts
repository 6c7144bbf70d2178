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
 */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import type { BlockDevice } from '../device/block-device.js'

/** A frozen point of the source, as it is declared on the target. */
export interface DeclaredPoint {
  /** Of the source's bookmark. */
  readonly uuid: string
  readonly cycle: number
  readonly sizeBytes: number
}

export interface TargetSession {
  readonly device: BlockDevice
  /** Uuid of the point it says it is at; null: at none. Undefined: it keeps no label, so nobody can ask it (X11). */
  readonly declared: string | null | undefined
  /** Grains that may have changed on the target itself since that point; the bitmap is the caller's. Undefined: nobody knows. */
  changed(): Promise<GrainBitmap | undefined>
  /** @param keep what it shows is somebody's own work, to be kept as a snapshot before it is overwritten (D14, S5) */
  begin(point: DeclaredPoint, keep: boolean): Promise<void>
  commit(point: DeclaredPoint): Promise<void>
  /** Idempotent. */
  close(): Promise<void>
}

/** What a session is opened for. */
export interface SessionWish {
  /** The mirror has no declared point there: a target that is not there may be made. */
  readonly isFirst: boolean
}

export interface MirrorTarget {
  /** As people know it: a volume's name, an address. */
  readonly label: string
  /** What this kind of target cannot promise, in words (X11). Empty: nothing is missing. */
  readonly unguarded: readonly string[]
  /** Errors: unreachable, not-found, and whatever the device reports. */
  open(wish: SessionWish): Promise<TargetSession>
  /** Shows the declared point again, and may be written to by others from now on. Errors: wrong-state (it has none), io. */
  release(): Promise<void>
  /** The mirror is over: what the target keeps for it goes. */
  forget(): Promise<void>
}
