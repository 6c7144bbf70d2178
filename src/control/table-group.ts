/** Rows of the command table: `nbdelta group ...` and `nbdelta schedule ...`. */
import { RETENTION_MAX } from '../volume/retention.js'
import type { GroupPointsRow, GroupRow, ScheduleRow } from './admin-points.js'
import { CHANGES, DRY_RUN, NEW_NAME, OF_VOLUME, QUIET, RATE, REMOTE_EXITS, WAIT } from './command.js'
import type { Command, Field } from './command.js'
import type { Parameter } from './options.js'
import { BOOKMARK, LABEL, LIVE } from './table-snapshot.js'
import { ACTION_FIELDS, JOB_FIELDS } from './table-volume.js'

const GROUP = {
  name: 'name', type: 'name', value: 'NAME', required: true, complete: 'group', help: 'name of the group',
} as const satisfies Parameter
const OF_GROUP = { ...GROUP, name: 'group', value: 'GROUP' } as const satisfies Parameter

const GROUP_FIELDS = {
  name: { type: 'string', column: 'NAME', help: 'name of the group' },
  volumes: { type: 'lines', column: 'VOLUMES', help: 'volumes in it' },
} as const satisfies Record<keyof GroupRow, Field>

const GROUP_POINTS_FIELDS = {
  group: { type: 'string', help: 'name of the group' },
  name: { type: 'string', help: 'name of the new point of each volume' },
  kind: { type: 'string', help: 'snapshot or bookmark' },
  volumes: { type: 'lines', help: 'volumes that have it' },
  createdAt: { type: 'time', help: 'when they were made' },
} as const satisfies Record<keyof GroupPointsRow, Field>

const SCHEDULE_FIELDS = {
  volume: { type: 'string', help: 'volume it is of' },
  hourly: { type: 'int', help: 'hours of which a snapshot is kept; null, here and below: no schedule' },
  daily: { type: 'int', help: 'days of which a snapshot is kept' },
  weekly: { type: 'int', help: 'weeks of which a snapshot is kept' },
  keepBookmarks: { type: 'bool', help: 'a bookmark outlives each snapshot' },
  nextAt: { type: 'time', help: 'when the next snapshot is due' },
  problem: { type: 'string', help: 'why the last attempt failed; null when it did not' },
  dryRun: { type: 'bool', help: 'true: nothing was done' },
  points: { type: 'verdicts', help: 'every point of the volume, whether it stays and why' },
} as const satisfies Record<keyof ScheduleRow, Field>

const kept = <N extends keyof typeof RETENTION_MAX>(name: N, noun: string) => ({
  name, type: 'int', value: 'N', default: 0, minimum: 0, maximum: RETENTION_MAX[name],
  help: `keep a snapshot of each of the last N ${noun}s that have one`,
} as const)

export const GROUP_COMMANDS = [
  {
    noun: 'group', verb: 'create', remote: true, serialised: true,
    summary: 'make a group of volumes',
    description: 'Puts volumes under one name, so that snapshots of all of them can be taken at one instant. A volume may be '
      + 'in several groups.',
    positional: [{ ...NEW_NAME, help: 'name of the group' },
      { ...OF_VOLUME, name: 'volumes', repeat: true, help: 'volumes of the group' }],
    options: [],
    result: { many: false, fields: GROUP_FIELDS, sentence: 'created group {name} of {volumes}' },
    exits: [...CHANGES],
    examples: ['group create db db-data db-log'],
  },
  {
    noun: 'group', verb: 'list', remote: true,
    summary: 'list groups',
    description: 'Lists all groups, by name.',
    positional: [], options: [QUIET],
    result: { many: true, key: 'name', fields: GROUP_FIELDS },
    exits: [...REMOTE_EXITS],
    examples: ['group list', 'group list --json'],
  },
  {
    noun: 'group', verb: 'show', remote: true,
    summary: 'show one group',
    description: 'Shows the volumes of a group.',
    positional: [GROUP], options: [],
    result: { many: false, fields: GROUP_FIELDS },
    exits: [...REMOTE_EXITS, 'notFound'],
    examples: ['group show db'],
  },
  {
    noun: 'group', verb: 'delete', remote: true, serialised: true, destructive: true,
    summary: 'delete a group',
    description: 'Forgets the group. Its volumes and their snapshots stay.',
    positional: [GROUP], options: [DRY_RUN],
    result: { many: false, fields: ACTION_FIELDS },
    exits: [...CHANGES],
    examples: ['group delete db --dry-run', 'group delete db'],
  },
  {
    noun: 'group', verb: 'snapshot', remote: true, serialised: true,
    summary: 'take snapshots of all volumes at one instant',
    description: 'Takes a snapshot, or bookmark, of each volume of the group, all of one instant: a write that was only sent '
      + 'after another was answered is in none of them without that other, whichever volumes the two went to. All volumes '
      + 'get theirs, or none does. Requests wait meanwhile, a second at most; none fails.',
    positional: [OF_GROUP, { ...NEW_NAME, help: 'name that the new point gets in each volume' }],
    options: [BOOKMARK, LABEL],
    result: { many: false, fields: GROUP_POINTS_FIELDS, sentence: 'created {kind} {name} of {volumes}' },
    exits: [...CHANGES],
    examples: ['group snapshot db before-upgrade', 'group snapshot db since-backup --bookmark --label by=cron'],
  },
  {
    noun: 'group', verb: 'restore', remote: true, serialised: true, longRunning: true, destructive: true,
    summary: 'give all volumes back a snapshot\'s content',
    description: 'Restores every volume of the group to the snapshot of this name that was taken of all of them at one '
      + 'instant; what `snapshot restore` says holds for each. All of them show it from one instant on, or none does, even if '
      + 'the server is killed meanwhile; volumes in which nothing differs are left alone. A cancel takes all of them back at '
      + 'one instant, those that have copied everything as well.',
    positional: [OF_GROUP, { ...NEW_NAME, help: 'name of the snapshots' }],
    options: [RATE, LIVE, DRY_RUN, WAIT],
    result: { many: false, fields: JOB_FIELDS },
    exits: [...CHANGES, 'interrupted'],
    examples: ['group restore db before-upgrade --dry-run', 'group restore db before-upgrade --no-wait'],
  },
  {
    noun: 'schedule', verb: 'set', remote: true, serialised: true, destructive: true,
    summary: 'take and drop snapshots by the clock',
    description: 'From now on the server takes a snapshot of the volume every hour (day, week: the shortest that is kept), '
      + 'named auto- and the time in UTC, and drops those of its own that neither hourly, daily nor weekly keeps. Hours, '
      + 'days and weeks are those of UTC; of each the newest snapshot stands for it. Snapshots that people took, and pinned '
      + 'ones, are never dropped. A missed one is taken at the next start. It replaces the schedule that was there; '
      + '--dry-run shows what it would drop.',
    positional: [OF_VOLUME],
    options: [kept('hourly', 'hour'), kept('daily', 'day'), kept('weekly', 'week'),
      { name: 'keep-bookmarks', type: 'bool', default: false,
        help: 'make a bookmark beside each snapshot, and keep the last 200 of them when the snapshots are dropped' },
      DRY_RUN],
    result: { many: false, fields: SCHEDULE_FIELDS },
    exits: [...CHANGES],
    examples: ['schedule set disk --hourly 24 --daily 7 --weekly 4', 'schedule set disk --daily 30 --keep-bookmarks --dry-run'],
  },
  {
    noun: 'schedule', verb: 'show', remote: true,
    summary: 'show a volume\'s schedule',
    description: 'Shows the schedule, when the next snapshot is due, and of every snapshot why it is kept.',
    positional: [OF_VOLUME], options: [],
    result: { many: false, fields: SCHEDULE_FIELDS },
    exits: [...REMOTE_EXITS, 'notFound'],
    examples: ['schedule show disk', 'schedule show disk --json'],
  },
  {
    noun: 'schedule', verb: 'clear', remote: true, serialised: true, destructive: true,
    summary: 'end a volume\'s schedule',
    description: 'No more snapshots are taken or dropped by the clock. Those that are there stay.',
    positional: [OF_VOLUME], options: [DRY_RUN],
    result: { many: false, fields: ACTION_FIELDS },
    exits: [...CHANGES],
    examples: ['schedule clear disk'],
  },
] as const satisfies readonly Command[]
