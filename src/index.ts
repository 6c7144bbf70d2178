/**
 * The public API. Interfaces go out, classes stay in: whoever needs more than this page needs a better page.
 * daemon.ts is written against it and nothing else.
 */
export { openStore } from './volume/open-store.js'
export { applyDelta, exportDelta, verifyDelta } from './volume/delta.js'
export { mergeDeltas } from './volume/delta-merge.js'
export { exportImage, importImage } from './volume/image.js'
export { judgeRetention, nextDue, planRetention } from './volume/retention.js'
export { Mirrors } from './replication/mirrors.js'
export { createServer } from './nbd/server.js'
export { freezeBitmap } from './nbd/frozen-bitmap.js'
export { openFileDisk } from './device/file-disk.js'
export { parkThreads } from './device/thread-reserve.js'
export { NbdeltaError, ERRORS, EXIT } from './device/errors.js'
export type { ErrorCode } from './device/errors.js'
export type { BoundAddress, ListenAddress } from './nbd/listener.js'
export type { ClientInfo, ExportHandle, ExportInfo, ExportProvider, StatusSource } from './nbd/export.js'
export type { FrozenBitmap } from './nbd/frozen-bitmap.js'
export type { NbdServer, ServerOptions, ServerStats } from './nbd/server.js'
export type { Retention } from './volume/retention.js'
export type { Mirror, MirrorStatus } from './replication/mirror.js'
export type { CreateMirrorOptions } from './replication/mirrors.js'
export type { Verb as MirrorVerb } from './replication/mirror-state.js'
export type { Store } from './volume/open-store.js'
export type { StoreVolume } from './volume/store-volume.js'
export type { InheritJob } from './volume/copier.js'
export type { SpaceOrder, SpaceRule } from './store/point-entry.js'
export type { Sacrifice, SpaceFacts } from './volume/space.js'
export type { RestoreOptions } from './volume/restore.js'
export type {
  CreatePointOptions, Pin, PointDevice, PointFacts, PointInfo, PointKind, Snappoints,
} from './volume/snappoint.js'
