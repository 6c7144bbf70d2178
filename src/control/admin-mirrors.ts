/** What the control socket needs of the running server for mirrors; admin.ts has the contract that holds for these as well. */
import type { ActionRow, Transfer } from './admin.js'

type MirrorMode = 'periodic' | 'async' | 'sync'

export interface MirrorRow {
  readonly name: string
  readonly uuid: string
  readonly volume: string
  /** Name of a volume, or NBD URI. */
  readonly target: string
  /** When it ships: by cycles; as changes come; before they are answered. */
  readonly mode: MirrorMode
  readonly state: 'copying' | 'paired' | 'split' | 'resyncing'
  readonly paused: boolean
  /** The target is at a declared point, nothing failed since, and both sides belong together. */
  readonly inSync: boolean
  /** Modes async and sync: changes go to the target as they come, and it has caught up. */
  readonly inStep: boolean
  readonly intervalSeconds: number
  readonly timeoutSeconds: number
  /** A cycle begins when so much is behind; null: only by the interval. */
  readonly afterBytes: number | null
  readonly limitBytesPerSecond: number | null
  /** So many of the source's newest snapshots the target has as well. */
  readonly keepSnapshots: number
  readonly behindSeconds: number | null
  readonly lagBytes: number | null
  readonly declaredAt: string | null
  /** Number of the declared point. */
  readonly cycle: number
  /** Of that point's content, as both sides compared it; null: they did not. */
  readonly root: string | null
  readonly nextAt: string | null
  /** Of the cycle that runs; null, as the next three: none does. */
  readonly doneBytes: number | null
  readonly totalBytes: number | null
  readonly bytesPerSecond: number | null
  readonly etaSeconds: number | null
  /** Of the last complete cycle; null, as the next three: there was none since the server began. */
  readonly lastSeconds: number | null
  readonly lastDataBytes: number | null
  readonly lastZeroBytes: number | null
  readonly lastEqualBytes: number | null
  readonly problem: string | null
  /** When verification was complete last; null, as the next three: not since the server began. */
  readonly verifiedAt: string | null
  readonly verified: 'equal' | 'different' | 'read' | null
  /** Number of the point that was compared. */
  readonly verifiedCycle: number | null
  /** Of all of its content at the source; null as well if that was not looked at to the end. */
  readonly digest: string | null
  readonly unguarded: readonly string[]
  readonly decisions: readonly string[]
}

/** A volume that a mirror of another server keeps up. */
export interface ReplicaRow {
  readonly volume: string
  readonly mirror: string
  readonly source: string
  readonly state: 'secondary' | 'released'
  readonly epoch: number
  readonly attached: boolean
  readonly declaredAt: string | null
  /** As in the row of the mirror. */
  readonly root: string | null
  /** As in the row of the mirror; 'read': all of it could be read, and nobody compared. */
  readonly verifiedAt: string | null
  readonly verified: 'equal' | 'different' | 'read' | null
  readonly verifiedCycle: number | null
  readonly digest: string | null
}

/** Several are handled as one. */
export interface MirrorsNamed {
  readonly names: readonly string[]
  /** The names are of groups of volumes. */
  readonly group: boolean
}

export interface MirrorsAdmin {
  create(options: {
    name: string, volume: string, target: string, mode: MirrorMode, timeoutSeconds: number, intervalSeconds: number,
    lagBytes: number | undefined,
    bytesPerSecond: number | undefined, keepSnapshots: number, overwrite: boolean, secretFile: string | undefined,
  }): Promise<MirrorRow>
  list(): Promise<MirrorRow[]>
  show(name: string): Promise<MirrorRow>
  pause(options: { name: string, paused: boolean }): Promise<ActionRow>
  delete(options: { name: string, dryRun: boolean }): Promise<ActionRow>
  /** These judge all that can be judged beforehand, and change nothing before they run. */
  prepareSync(options: MirrorsNamed): Promise<Transfer>
  prepareSplit(options: MirrorsNamed & { atOnce: boolean }): Promise<Transfer>
  prepareResync(options: MirrorsNamed & { reverse: boolean, whole: boolean, force: boolean }): Promise<Transfer>
  /** Fails as `damaged` when the two sides differ. */
  prepareVerify(options: { name: string, bytesPerSecond: number | undefined }): Promise<Transfer>
  replicas(): Promise<ReplicaRow[]>
  prepareReplicaVerify(options: { name: string, bytesPerSecond: number | undefined }): Promise<Transfer>
  promoteReplica(options: { name: string, dryRun: boolean }): Promise<ActionRow>
  forgetReplica(options: { name: string, dryRun: boolean }): Promise<ActionRow>
}
