/**
 * Handlers of snapshots, groups, schedules and deltas (handlers.ts has the others).
 *
 * While a job works on a volume its snapshots can be taken, renamed, pinned and deleted as always: content of points does not
 * depend on it, and what the job itself needs is pinned. A second job, a clone's origin being filled, and the like are refused.
 */
import { parseLabel, STREAM_SOCKET } from './options.js'
import { Judging, start, startOrTell, type Started } from './started.js'
import type { ActionRow, CreatedRow, JobRow, ServerAdmin } from './admin.js'
import type { DiffRow, GroupPointsRow, GroupRow, PointRow, ScheduleRow } from './admin-points.js'
import type { ArgumentsOf } from './commands.js'
import type { Jobs } from './jobs.js'

export interface PointResults {
  'snapshot.create': PointRow
  'snapshot.list': PointRow[]
  'snapshot.show': PointRow
  'snapshot.rename': ActionRow
  'snapshot.delete': ActionRow
  'snapshot.diff': DiffRow
  'snapshot.pin': ActionRow
  'snapshot.unpin': ActionRow
  'snapshot.restore': JobRow | ActionRow
  'snapshot.clone': CreatedRow
  'volume.promote': JobRow
  'group.create': GroupRow
  'group.list': GroupRow[]
  'group.show': GroupRow
  'group.delete': ActionRow
  'group.snapshot': GroupPointsRow
  'group.restore': JobRow | ActionRow
  'schedule.set': ScheduleRow
  'schedule.show': ScheduleRow
  'schedule.clear': ActionRow
  'delta.export': JobRow
  'delta.import': JobRow | ActionRow
}
type Table = {
  readonly [M in keyof PointResults]:
    (args: ArgumentsOf<M>, call: { readonly signal: AbortSignal }) => Promise<PointResults[M] | Started | Judging>
}

const labelsOf = (label: readonly string[] = []): Record<string, string> => Object.fromEntries(label.map(parseLabel))

/** As it was typed. */
const shownPath = (file: string): string => file.startsWith(STREAM_SOCKET) ? '-' : file

export function pointHandlers(admin: ServerAdmin, jobs: Jobs): Table {
  return { ...snapshotHandlers(admin, jobs), ...groupHandlers(admin, jobs), ...deltaHandlers(admin, jobs) }
}

function snapshotHandlers({ points, schedules }: ServerAdmin, jobs: Jobs) {
  return {
    'snapshot.create': ({ volume, name, bookmark, label }) => points.create({ volume, name, bookmark, labels: labelsOf(label) }),
    'snapshot.list': ({ volume }) => points.list(volume),
    'snapshot.show': args => points.show(args),
    'snapshot.rename': args => points.rename(args),
    'snapshot.delete': args => points.delete(args),
    'snapshot.diff': ({ volume, from, to, limit }) => points.diff({ volume, from, to, limit }),
    'snapshot.pin': ({ volume, name, owner, expires }) => points.pin({ volume, name, owner, expiresSeconds: expires }),
    'snapshot.unpin': args => points.unpin(args),
    'snapshot.restore': async ({ volume, name, offset, length, rate, force, dryRun, wait }) => {
      jobs.assertFree(volume, 'restore')
      jobs.assertRoom()
      const transfer = await points.prepareRestore({ volume, name, offset, length, bytesPerSecond: rate, force })
      // A group restore may have begun meanwhile.
      jobs.assertFree(volume, 'restore')
      return startOrTell(jobs, { kind: 'restore', target: volume, path: null, dryRun, wait }, transfer)
    },
    'snapshot.clone': async ({ volume, name, to }) => {
      jobs.assertFree(to, 'create')
      return points.clone({ volume, name, to })
    },
    'volume.promote': async ({ name, rate, wait }) => {
      jobs.assertFree(name, 'promote')
      jobs.assertRoom()
      const transfer = await points.preparePromote({ name, bytesPerSecond: rate })
      return start(jobs, { kind: 'promotion', target: name, path: null, wait }, transfer)
    },
    'schedule.set': ({ volume, hourly, daily, weekly, keepBookmarks, dryRun }) =>
      schedules.set({ volume, rule: { hourly, daily, weekly, keepBookmarks }, dryRun }),
    'schedule.show': ({ volume }) => schedules.show(volume),
    'schedule.clear': args => schedules.clear(args),
  } satisfies Partial<Table>
}

function groupHandlers({ groups }: ServerAdmin, jobs: Jobs) {
  return {
    'group.create': args => groups.create(args),
    'group.list': () => groups.list(),
    'group.show': ({ name }) => groups.show(name),
    'group.delete': args => groups.delete(args),
    'group.snapshot': ({ group, name, bookmark, label }) => groups.snapshot({ group, name, bookmark, labels: labelsOf(label) }),
    'group.restore': async ({ group, name, rate, force, dryRun, wait }) => {
      jobs.assertRoom()
      const transfer = await groups.prepareRestore({ group, name, bytesPerSecond: rate, force })
      for (const volume of transfer.volumes ?? []) jobs.assertFree(volume, 'restore')
      return startOrTell(jobs, { kind: 'group restore', target: group, path: null, dryRun, wait }, transfer)
    },
  } satisfies Partial<Table>
}

function deltaHandlers({ deltas }: ServerAdmin, jobs: Jobs) {
  return {
    'delta.export': async ({ volume, from, to, file, compress, overwrite, wait }) => {
      jobs.assertRoom()
      const transfer = await deltas.prepareExport({ volume, from, to, path: file, compress, overwrite })
      return start(jobs, { kind: 'delta export', target: volume, path: shownPath(file), wait }, transfer)
    },
    'delta.import': async ({ volume, file, dryRun, wait }, { signal }) => {
      jobs.assertFree(volume, 'import into')
      jobs.assertRoom()
      // Standard input may say nothing for long.
      if (dryRun) return new Judging(deltas.judgeImport({ volume, path: file, signal }))
      const transfer = await deltas.prepareImport({ volume, path: file })
      return start(jobs, { kind: 'delta import', target: volume, path: shownPath(file), wait }, transfer)
    },
  } satisfies Partial<Table>
}
