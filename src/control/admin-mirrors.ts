/** What the control socket needs of the running server for mirrors; admin.ts has the contract that holds for these as well. */
import type { ActionRow, Transfer } from './admin.js'

export interface MirrorRow {
  readonly name: string
  readonly uuid: string
  readonly volume: string
  /** Name of a volume, or NBD URI. */
  readonly target: string
  /** When it ships: by cycles. */
  readonly mode: 'periodic'
  readonly state: 'copying' | 'paired' | 'split' | 'resyncing'
  readonly paused: boolean
  /** The target is at a declared point, nothing failed since, and both sides belong together. */
  readonly inSync: boolean
  readonly intervalSeconds: number
  /** A cycle begins when so much is behind; null: only by the interval. */
  readonly afterBytes: number | null
  readonly limitBytesPerSecond: number | null
  readonly behindSeconds: number | null
  readonly lagBytes: number | null
  readonly declaredAt: string | null
  /** Number of the declared point. */
  readonly cycle: number
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
}

export interface MirrorsAdmin {
  create(options: {
    name: string, volume: string, target: string, intervalSeconds: number, lagBytes: number | undefined,
    bytesPerSecond: number | undefined, overwrite: boolean, secretFile: string | undefined,
  }): Promise<MirrorRow>
  list(): Promise<MirrorRow[]>
  show(name: string): Promise<MirrorRow>
  pause(options: { name: string, paused: boolean }): Promise<ActionRow>
  delete(options: { name: string, dryRun: boolean }): Promise<ActionRow>
  /** These judge all that can be judged beforehand, and change nothing before they run. */
  prepareSync(name: string): Promise<Transfer>
  prepareSplit(options: { name: string, atOnce: boolean }): Promise<Transfer>
  prepareResync(options: { name: string, reverse: boolean, whole: boolean, force: boolean }): Promise<Transfer>
  /** Fails as `damaged` when the two sides differ. */
  prepareVerify(name: string): Promise<Transfer>
  replicas(): Promise<ReplicaRow[]>
  promoteReplica(options: { name: string, dryRun: boolean }): Promise<ActionRow>
  forgetReplica(options: { name: string, dryRun: boolean }): Promise<ActionRow>
}
