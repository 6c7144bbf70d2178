/**
 * What the parts of one open volume share: the gate, the reclaimer, the scan and the checkpoint work on the same map,
 * the same locks and the same journal, and each of them is one file. Created by Volume.open, closed by Volume.close.
 */
import { divCeil } from '../../native-free/integer.js'
import type { BlockDevice } from '../device/block-device.js'
import type { Clock } from '../device/clock.js'
import type { GroupFlush } from '../device/group-flush.js'
import type { Logger } from '../device/logger.js'
import type { RangeLock } from '../device/range-lock.js'
import type { MapFile } from '../store/map-file.js'
import type { Chain } from './chain.js'
import type { Inherited } from './inherited.js'
import type { VolumeJournal } from './journal.js'
import type { Space } from './space.js'
import type { Staging } from './staging.js'
import type { Run, VolumeMap } from './volume-map.js'
import type { Watchers } from './watchers.js'

/** What live must offer beyond a BlockDevice. */
export interface LiveDevice extends BlockDevice {
  /** `block`: its size is given, and what lies behind the volume's end may hold anybody's bytes. */
  readonly kind?: 'file' | 'block'
  /** Growth reads as zeros. */
  resize(sizeBytes: number): Promise<void>
  /** Bytes taken on the medium; null: not known, of a remote one. */
  allocatedBytes(): Promise<number | null>
  /** Gives ranges back without ever writing zeros; false: at least one could not be, and what it reads as is unknown. */
  punch?(ranges: readonly { readonly offset: number, readonly length: number }[]): Promise<{ readonly punched: boolean }>
}

/** What the map file lies on: it grows with the volume. */
export interface MetadataDevice extends BlockDevice {
  resize(sizeBytes: number): Promise<void>
}

export interface VolumeCore {
  readonly live: LiveDevice
  readonly map: VolumeMap
  /** Its points, and what they need of changes. */
  readonly chain: Chain
  /** Grains that another's content is still shown for. */
  readonly inherit: Inherited
  readonly mapFile: MapFile
  readonly journal: VolumeJournal
  readonly mapDevice: MetadataDevice
  readonly journalDevice: BlockDevice
  readonly locks: RangeLock
  /** Live and journal together, one group; its failure latches (D7). */
  readonly flushes: GroupFlush
  readonly grainBytes: number
  readonly clock: Clock
  readonly logger: Logger
  /** First overwrites on their way; undefined where there is no place for them. */
  readonly staging: Staging | undefined
  /** Whether there is room for what its points keep. */
  readonly space: Space
  /** Told of every change of content. */
  readonly watchers: Watchers
  /** Changes with a resize. */
  sizeBytes: number
  /** A growth to it has failed and may have happened: live is not cut below this, which the next open may find. 0: none. */
  grownBytes: number
}

/** Bytes of grains [run.start, run.end); the last grain may be short. */
export function bytesOf(core: VolumeCore, run: Run): { readonly offset: number, readonly length: number } {
  const offset = run.start * core.grainBytes
  return { offset, length: Math.min(run.end * core.grainBytes, core.sizeBytes) - offset }
}

/** For so many bytes at once, but never for more than the volume has, and for one grain at least. */
export function bufferFor({ grainBytes, sizeBytes }: VolumeCore, bytes: number): Buffer {
  return Buffer.allocUnsafe(Math.max(grainBytes, Math.min(bytes, divCeil(sizeBytes, grainBytes) * grainBytes)))
}

/** Everything that was written and appended before this call is durable afterwards. */
export async function flushNow(core: VolumeCore): Promise<void> {
  core.flushes.changed()
  await core.flushes.flush()
}
