/**
 * ServerAdmin: what the control socket needs from the running server. Control declares it, the roof implements it
 * over the store and the NBD server, which control itself never sees (DESIGN section 6).
 *
 * Contract
 * - Every method rejects with a NbdeltaError whose message an operator can read; a `hint` says what to do next.
 * - Calls that change one volume are never made concurrently for the same name: the handlers serialise them.
 * - `dryRun` judges everything the real call would judge, changes nothing and answers with the same steps.
 * - Rows are plain data, times are ISO 8601 in UTC, sizes are bytes. `null` = does not apply or is not known.
 */
import type { NbdeltaError } from '../device/errors.js'
import type { MirrorsAdmin } from './admin-mirrors.js'
import type { DeltasAdmin, GroupsAdmin, PointsAdmin, SchedulesAdmin } from './admin-points.js'

export const SPACE_ORDERS = ['drop-undo-then-fail', 'fail'] as const
export type SpaceOrder = typeof SPACE_ORDERS[number]

/** What the snapshots of a volume keep of what was overwritten, and what happens when there is no room for more. */
export interface SpaceRow {
  /** Null: no limit but the disk. */
  readonly budgetBytes: number | null
  readonly keptBytes: number
  readonly order: SpaceOrder
  /** Snapshots given up for want of space since the server began, and the last of them. */
  readonly sacrifices: number
  readonly lastSacrifice: { readonly name: string, readonly at: string, readonly why: 'budget' | 'disk' } | null
  /** Writes that need old content kept fail now, for want of this. */
  readonly failing: 'budget' | 'disk' | null
}

export interface VolumeRow {
  readonly name: string
  readonly uuid: string
  readonly sizeBytes: number
  readonly grainBytes: number
  /** Bytes the volume takes on disk. */
  readonly allocatedBytes: number | null
  /** Bytes whose map says that they may hold data. */
  readonly mappedBytes: number | null
  readonly clients: number
  readonly hidden: boolean
  /** Adopted file or block device, or URI of a remote export; null when live is a file of the store's own. */
  readonly backing: string | null
  readonly createdAt: string
  readonly description: string
  /** Null: it cannot be opened. */
  readonly space: SpaceRow | null
  /** Why it cannot be opened and is not served; null when all is well. */
  readonly problem: string | null
}

/** A volume as created or found: `created` tells which. */
export interface CreatedRow extends VolumeRow { readonly created: boolean }

/** What an administrative step did or, with `dryRun`, would do. */
export interface ActionRow {
  readonly target: string
  /** False: it was so already. */
  readonly changed: boolean
  readonly dryRun: boolean
  readonly steps: readonly string[]
  /** Why there are no steps, where that needs saying. */
  readonly note?: string
}

export interface ExportRow {
  readonly name: string
  readonly uuid: string
  readonly sizeBytes: number
  readonly hidden: boolean
  readonly clients: number
  readonly uris: readonly string[]
}

export interface ClientRow {
  readonly id: number
  readonly export: string | null
  readonly address: string
  readonly state: string
  readonly connectedAt: string | null
  readonly inFlight: number | null
  readonly readBytes: number | null
  readonly writtenBytes: number | null
}

export interface StatusRow {
  readonly state: 'serving' | 'draining'
  readonly version: string
  readonly pid: number
  readonly uptimeSeconds: number
  readonly store: string
  readonly listeners: readonly string[]
  /** Of the peer link. */
  readonly peerListeners: readonly string[]
  readonly control: string
  readonly volumes: number
  /** Those that cannot be opened. */
  readonly volumesBroken: number
  /** Those whose writes fail now for want of space. */
  readonly volumesFailing: number
  /** What snapshots of all volumes keep. */
  readonly keptBytes: number
  /** Volumes with a budget, or that gave something up, or whose writes fail. */
  readonly spaces: readonly (SpaceRow & { readonly volume: string })[]
  readonly clients: number
  readonly jobsRunning: number
  readonly rssBytes: number
  readonly memoryBudgetBytes: number | null
  readonly memoryInUseBytes: number | null
  readonly eventLoopDelayP99Ms: number
  readonly eventLoopDelayMaxMs: number
  readonly oldestRequestMs: number | null
}

export type JobState = 'running' | 'done' | 'failed' | 'cancelled'
export type JobKind = 'import' | 'export' | 'restore' | 'promotion' | 'group restore' | 'delta export' | 'delta import'
  | 'mirror sync' | 'mirror split' | 'mirror resync' | 'mirror verification' | 'replica verification'
export interface JobRow {
  readonly id: number
  readonly kind: JobKind
  /** Of a group restore the group, of what a mirror does the mirror. */
  readonly volume: string
  /** File or URI; null for a job without. */
  readonly path: string | null
  readonly state: JobState
  readonly doneBytes: number
  /** Null until it is known. */
  readonly totalBytes: number | null
  readonly startedAt: string
  readonly finishedAt: string | null
  readonly error: string | null
  /** Why it makes no progress: that has to be over first. Null: it does, or has ended. */
  readonly waiting: string | null
  /** What came of it; null: nothing to tell but the state. */
  readonly note: string | null
}

/** How a long transfer reports and is stopped. */
export interface TransferControl {
  readonly signal: AbortSignal
  readonly onProgress: (doneBytes: number, totalBytes: number) => void
  /** Why it makes no progress; it goes on by itself when that is over. Undefined: it does. */
  readonly onWaiting?: (why: NbdeltaError | undefined) => void
  /**
   * Of what goes on when it cannot be cancelled: how it is asked to end, as often as somebody wants that; `signal` then says
   * nothing. What that rejects with is told to whoever wanted it.
   */
  readonly onCancel?: (cancel: () => Promise<void>) => void
}

/** A transfer that was judged and can start. */
export interface Transfer {
  /** What `run` will do, in words. */
  readonly steps: readonly string[]
  /** Done before the command answers, also with --no-wait. When it rejects nothing has changed. */
  readonly begin?: () => Promise<void>
  /** Copies, and tells what the job's `note` is to be; when it rejects, for whatever reason, it has cleaned up after itself. */
  readonly run: (control: TransferControl) => Promise<string | void>
  /** Volumes it works on beside the one that was named. */
  readonly volumes?: readonly string[]
}

export interface ServerAdmin {
  readonly points: PointsAdmin
  readonly groups: GroupsAdmin
  readonly schedules: SchedulesAdmin
  readonly deltas: DeltasAdmin
  readonly mirrors: MirrorsAdmin
  createVolume(options: {
    name: string, sizeBytes: number | undefined, grainBytes: number,
    backing: string | undefined, description: string, ifNotExists: boolean,
  }): Promise<CreatedRow>
  listVolumes(): Promise<VolumeRow[]>
  showVolume(name: string): Promise<VolumeRow>
  resizeVolume(options: { name: string, sizeBytes: number, shrink: boolean, dryRun: boolean }): Promise<ActionRow>
  /** Budget undefined: stays; null: none any more. */
  setBudget(options: {
    name: string, budgetBytes: number | null | undefined, order: SpaceOrder | undefined, dryRun: boolean,
  }): Promise<ActionRow>
  /** Opens it anew, as a start of the server would. */
  reopenVolume(name: string): Promise<VolumeRow>
  deleteVolume(options: { name: string, force: boolean, ifExists: boolean, dryRun: boolean }): Promise<ActionRow>
  /**
   * Judges all that can be judged before the copy starts; changes nothing. `path`: of a file on the server's host, or the URI of
   * an export, which stays open until the transfer has run. With `dryRun` it is never run.
   */
  prepareImport(
    options: { name: string, path: string, grainBytes: number, overwrite: boolean, dryRun: boolean },
  ): Promise<Transfer>
  prepareExport(options: { name: string, path: string, overwrite: boolean }): Promise<Transfer>
  /** Lasting jobs of an earlier run of the server that go on in this one. Asked once, before anything else. */
  resumed(): readonly { readonly kind: JobKind, readonly volume: string, readonly transfer: Transfer }[]
  listExports(): Promise<ExportRow[]>
  setHidden(name: string, hidden: boolean): Promise<ActionRow>
  closeExport(options: { name: string, how: 'soft' | 'hard', dryRun: boolean }): Promise<ActionRow>
  listClients(exportName: string | undefined): Promise<ClientRow[]>
  kickClient(options: { id: number, dryRun: boolean }): Promise<ActionRow>
  status(): Promise<Omit<StatusRow, 'jobsRunning'>>
}
