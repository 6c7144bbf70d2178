/**
 * What the control socket needs of the running server for snapshots, groups, schedules and deltas; the rest of ServerAdmin is
 * in admin.ts, with the contract that holds for these as well.
 */
import type { ActionRow, CreatedRow, SpaceRow, Transfer } from './admin.js'

export interface PinRow {
  readonly owner: string
  /** Null: until it is released. */
  readonly expiresAt: string | null
}

export interface PointRow {
  readonly volume: string
  readonly name: string
  readonly uuid: string
  readonly seq: number
  readonly kind: 'snapshot' | 'bookmark'
  readonly createdAt: string
  readonly sizeBytes: number
  /** Null, here and below: it could not be told in time. */
  readonly exclusiveBytes: number | null
  readonly referencedBytes: number | null
  readonly changedBytes: number | null
  readonly pins: readonly PinRow[]
  readonly labels: Readonly<Record<string, string>>
  readonly group: string | null
  /** Of its volume, all points together. */
  readonly space: SpaceRow
}

export interface RangeRow { readonly offset: number, readonly length: number }

export interface DiffRow {
  readonly volume: string
  readonly from: string
  /** Null: the volume as it is now. */
  readonly to: string | null
  readonly changedBytes: number
  readonly rangeCount: number
  /** The first of them, `--limit` at most. */
  readonly ranges: readonly RangeRow[]
}

export interface GroupRow {
  readonly name: string
  readonly volumes: readonly string[]
}

/** Points of one instant. */
export interface GroupPointsRow {
  readonly group: string
  readonly name: string
  readonly kind: 'snapshot' | 'bookmark'
  readonly volumes: readonly string[]
  readonly createdAt: string
}

export interface ScheduleRule {
  readonly hourly: number
  readonly daily: number
  readonly weekly: number
  readonly keepBookmarks: boolean
}

export interface VerdictRow {
  readonly name: string
  readonly keep: boolean
  readonly reasons: readonly string[]
}

export interface ScheduleRow {
  readonly volume: string
  /** Null, like the next four: it has no schedule. */
  readonly hourly: number | null
  readonly daily: number | null
  readonly weekly: number | null
  readonly keepBookmarks: boolean | null
  readonly nextAt: string | null
  /** What the last attempt failed of; null when it did not. */
  readonly problem: string | null
  readonly dryRun: boolean
  readonly points: readonly VerdictRow[]
}

interface PointName { readonly volume: string, readonly name: string }

export interface PointsAdmin {
  create(options: PointName & { bookmark: boolean, labels: Readonly<Record<string, string>> }): Promise<PointRow>
  list(volume: string | undefined): Promise<PointRow[]>
  show(point: PointName): Promise<PointRow>
  rename(options: PointName & { to: string }): Promise<ActionRow>
  delete(options: PointName & { dryRun: boolean }): Promise<ActionRow>
  diff(options: { volume: string, from: string, to: string | undefined, limit: number }): Promise<DiffRow>
  pin(options: PointName & { owner: string, expiresSeconds: number | undefined }): Promise<ActionRow>
  unpin(options: PointName & { owner: string }): Promise<ActionRow>
  /** Judges all that can be judged beforehand; changes nothing. */
  prepareRestore(options: PointName & {
    offset: number, length: number | undefined, bytesPerSecond: number | undefined, force: boolean,
  }): Promise<Transfer>
  clone(options: PointName & { to: string }): Promise<CreatedRow>
  preparePromote(options: { name: string, bytesPerSecond: number | undefined }): Promise<Transfer>
}

export interface GroupsAdmin {
  create(options: { name: string, volumes: readonly string[] }): Promise<GroupRow>
  list(): Promise<GroupRow[]>
  show(name: string): Promise<GroupRow>
  delete(options: { name: string, dryRun: boolean }): Promise<ActionRow>
  snapshot(options: { group: string, name: string, bookmark: boolean, labels: Readonly<Record<string, string>> }):
    Promise<GroupPointsRow>
  prepareRestore(options: { group: string, name: string, bytesPerSecond: number | undefined, force: boolean }): Promise<Transfer>
}

export interface SchedulesAdmin {
  set(options: { volume: string, rule: ScheduleRule, dryRun: boolean }): Promise<ScheduleRow>
  show(volume: string): Promise<ScheduleRow>
  clear(options: { volume: string, dryRun: boolean }): Promise<ActionRow>
}

export interface DeltasAdmin {
  /** `path`: of a file on the server's host, or `unix:PATH`, a socket that takes the stream and belongs to who asks. */
  prepareExport(options: {
    volume: string, from: string | undefined, to: string, path: string, compress: 'gzip' | 'zstd' | undefined, overwrite: boolean,
  }): Promise<Transfer>
  prepareImport(options: { volume: string, path: string }): Promise<Transfer>
  /** What an import would do, out of the stream's header; refuses what it would refuse by that. Changes nothing. */
  judgeImport(options: { volume: string, path: string, signal: AbortSignal }): Promise<ActionRow>
}
