/** Rows of the command table: `nbdelta snapshot ...`. */
import type { CreatedRow } from './admin.js'
import type { DiffRow, PointRow } from './admin-points.js'
import { CHANGES, DRY_RUN, NEW_NAME, OF_VOLUME, POINT, QUIET, RATE, REMOTE_EXITS, WAIT } from './command.js'
import type { Command, Field } from './command.js'
import type { Parameter } from './options.js'
import { ACTION_FIELDS, JOB_FIELDS, VOLUME_FIELDS } from './table-volume.js'

/** What a page of a terminal's scrollback takes; JSON of it is some 40 KB. */
const RANGES_SHOWN = 1000
/** Some 4 MB of JSON. */
const RANGES_MAX = 100_000
const OWNER = {
  name: 'owner', type: 'string', value: 'TEXT', required: true, help: 'who needs it: one pin of a point for each owner',
} as const satisfies Parameter
export const LABEL = {
  name: 'label', type: 'label', value: 'KEY=VALUE', repeat: true, help: 'free text by key, shown by list; may be repeated',
} as const satisfies Parameter
export const BOOKMARK = {
  name: 'bookmark', type: 'bool', default: false,
  help: 'keep the map of what changes since, but no content: it cannot be read or restored, and takes next to no space',
} as const satisfies Parameter
export const LIVE = {
  name: 'force', type: 'bool', default: false, help: 'even while clients are attached: what they have cached is then wrong',
} as const satisfies Parameter

const POINT_FIELDS = {
  volume: { type: 'string', column: 'VOLUME', help: 'volume it is of' },
  name: { type: 'string', column: 'NAME', help: 'name, unique within the volume' },
  uuid: { type: 'string', help: 'identity, never used twice' },
  seq: { type: 'int', help: 'number in its volume, ascending from oldest to newest' },
  kind: { type: 'string', column: 'KIND', help: 'snapshot or bookmark' },
  createdAt: { type: 'time', column: 'CREATED', help: 'when it was made' },
  sizeBytes: { type: 'bytes', column: 'SIZE', help: 'size of the volume at that instant' },
  exclusiveBytes: { type: 'bytes', column: 'EXCLUSIVE',
    help: 'about what deleting it alone would give back; null: not known in time' },
  referencedBytes: { type: 'bytes', column: 'REFERENCED',
    help: 'bytes of its content that are no holes; null: not known in time' },
  changedBytes: { type: 'bytes', column: 'CHANGED',
    help: 'changed between it and the next point, or now; null: not known in time' },
  pins: { type: 'pins', column: 'PINNED BY', help: 'who needs it to stay, and until when' },
  labels: { type: 'labels', column: 'LABELS', help: 'free text by key; auto=schedule and auto=undo mark what the server made' },
  group: { type: 'string', help: 'uuid of the operation that made it together with points of other volumes; null: made alone' },
  space: { type: 'space', column: 'SPACE',
    help: 'what all snapshots of its volume keep, of which budget, the order of sacrifice, what was given up last, whether '
      + 'writes fail' },
} as const satisfies Record<keyof PointRow, Field>

const DIFF_FIELDS = {
  volume: { type: 'string', help: 'volume compared' },
  from: { type: 'string', help: 'older point' },
  to: { type: 'string', help: 'newer point; null: the volume as it is now' },
  changedBytes: { type: 'bytes', help: 'bytes in all ranges together; never less than what really changed' },
  rangeCount: { type: 'int', help: 'ranges in all' },
  ranges: { type: 'ranges', help: 'offset and length of each, ascending; the first --limit of them' },
} as const satisfies Record<keyof DiffRow, Field>

export const SNAPSHOT_COMMANDS = [
  {
    noun: 'snapshot', verb: 'create', remote: true, serialised: true,
    summary: 'take a snapshot or bookmark',
    description: 'Keeps the volume as it is at this instant, under a name, while clients go on: what was answered before is '
      + 'in it, what comes later is not. A snapshot takes space only for what is overwritten later. With --bookmark only the '
      + 'changes since are recorded: enough for incremental backups and for a delta from there, not for reading or restoring. '
      + 'A volume that is the target of a mirror gets one between two cycles, or amid a stream; else it is busy.',
    positional: [OF_VOLUME, { ...NEW_NAME, help: 'name of the new point, letters, digits, points, dashes, underscores' }],
    options: [BOOKMARK, LABEL],
    result: { many: false, fields: POINT_FIELDS, sentence: 'created {kind} {name} of volume {volume}' },
    exits: [...CHANGES],
    examples: ['snapshot create disk monday', 'snapshot create disk@monday --label purpose=backup --label by=cron',
      'snapshot create disk since-backup --bookmark --json'],
  },
  {
    noun: 'snapshot', verb: 'list', remote: true,
    summary: 'list snapshots and bookmarks',
    description: 'Lists the snapshots and bookmarks of a volume, or of all, oldest first. EXCLUSIVE is about what deleting '
      + 'that one would give back; REFERENCED is its content without holes; CHANGED is what was overwritten between it and '
      + 'the next.',
    positional: [{ ...OF_VOLUME, required: false, help: 'only those of this volume' }], options: [QUIET],
    result: { many: true, key: 'name', fields: POINT_FIELDS },
    exits: [...REMOTE_EXITS, 'notFound'],
    examples: ['snapshot list', 'snapshot list disk', 'snapshot list disk -q'],
  },
  {
    noun: 'snapshot', verb: 'show', remote: true,
    summary: 'show one snapshot or bookmark',
    description: 'Shows everything known about a snapshot or bookmark.',
    positional: [OF_VOLUME, POINT], options: [],
    result: { many: false, fields: POINT_FIELDS },
    exits: [...REMOTE_EXITS, 'notFound'],
    examples: ['snapshot show disk monday', 'snapshot show disk@monday --json'],
  },
  {
    noun: 'snapshot', verb: 'rename', remote: true, serialised: true,
    summary: 'rename a snapshot or bookmark',
    description: 'Gives a snapshot or bookmark another name, also while it is in use. Its uuid stays.',
    positional: [OF_VOLUME, POINT, { ...NEW_NAME, name: 'to', value: 'TO', help: 'new name' }], options: [],
    result: { many: false, fields: ACTION_FIELDS },
    exits: [...CHANGES],
    examples: ['snapshot rename disk monday last-good'],
  },
  {
    noun: 'snapshot', verb: 'delete', remote: true, serialised: true, destructive: true,
    summary: 'delete a snapshot or bookmark',
    description: 'Deletes a snapshot or bookmark, in any order; the others keep their content. It says first about how much '
      + 'space comes back, which happens in the background. One that is pinned, or that somebody reads, is refused.',
    positional: [OF_VOLUME, POINT],
    options: [DRY_RUN],
    result: { many: false, fields: ACTION_FIELDS },
    exits: [...CHANGES],
    examples: ['snapshot delete disk monday --dry-run', 'snapshot delete disk@monday'],
  },
  {
    noun: 'snapshot', verb: 'diff', remote: true,
    summary: 'show which ranges changed',
    description: 'Shows what changed between a point and a newer one, or now: ranges of whole grains, out of the maps; no '
      + 'content is read. Ranges may be listed that hold the same bytes as before, never the other way round.',
    positional: [OF_VOLUME, { ...POINT, name: 'from', value: 'FROM', help: 'older snapshot or bookmark' },
      { ...POINT, name: 'to', value: 'TO', required: false, help: 'newer one; without it the volume as it is now' }],
    options: [{ name: 'limit', type: 'int', value: 'N', default: RANGES_SHOWN, minimum: 0, maximum: RANGES_MAX,
      help: 'show at most so many ranges; all are counted' }],
    result: { many: false, fields: DIFF_FIELDS },
    exits: [...REMOTE_EXITS, 'notFound'],
    examples: ['snapshot diff disk monday', 'snapshot diff disk@monday tuesday --json --limit 100000'],
  },
  {
    noun: 'snapshot', verb: 'pin', remote: true, serialised: true,
    summary: 'protect a snapshot or bookmark',
    description: 'Nobody can delete it, neither a schedule nor a person, until each owner has released his pin or it has '
      + 'expired. The same owner again: the new expiry counts.',
    positional: [OF_VOLUME, POINT],
    options: [OWNER, { name: 'expires', type: 'duration', value: 'DURATION',
      help: 'the pin ends by itself after this time: 90s, 12h, 7d; without it, when it is released' }],
    result: { many: false, fields: ACTION_FIELDS },
    exits: [...CHANGES],
    examples: ['snapshot pin disk monday --owner backup --expires 12h', 'snapshot pin disk@monday --owner "case 17"'],
  },
  {
    noun: 'snapshot', verb: 'unpin', remote: true, serialised: true,
    summary: 'release a pin',
    description: 'Releases the pin of this owner. Those of others stay. Pins of clones and running jobs go by themselves.',
    positional: [OF_VOLUME, POINT],
    options: [OWNER],
    result: { many: false, fields: ACTION_FIELDS },
    exits: [...CHANGES],
    examples: ['snapshot unpin disk monday --owner backup'],
  },
  {
    noun: 'snapshot', verb: 'restore', remote: true, serialised: true, longRunning: true, destructive: true,
    summary: 'give a volume back a snapshot\'s content',
    description: 'The volume, or a range of it, shows the snapshot\'s content at once; a copy in the background then makes '
      + 'it the volume\'s own. What it showed before is kept as a snapshot labelled auto=undo. All other snapshots stay as '
      + 'they are. It is refused while clients are attached: they would go on with what they have cached. Ctrl-C or `job '
      + 'cancel` while it copies takes the restore back: the range shows again what it showed before, and what was written '
      + 'into it since is lost. When the command ends for any other reason, or the server does, the copy goes on.',
    positional: [OF_VOLUME, POINT],
    options: [
      { name: 'offset', type: 'size', value: 'SIZE', default: 0, help: 'restore only from this byte on' },
      { name: 'length', type: 'size', value: 'SIZE', minimum: 1, help: 'restore only so many bytes; without it up to the end' },
      RATE, LIVE, DRY_RUN, WAIT,
    ],
    result: { many: false, fields: JOB_FIELDS },
    exits: [...CHANGES, 'interrupted'],
    examples: ['snapshot restore disk monday --dry-run', 'snapshot restore disk@monday --rate 50MiB/s',
      'snapshot restore disk monday --offset 1GiB --length 64MiB --no-wait'],
  },
  {
    noun: 'snapshot', verb: 'clone', remote: true, serialised: true,
    summary: 'make a volume out of a snapshot',
    description: 'Makes a new volume with the snapshot\'s content, at once and without a copy, and exports it. It takes '
      + 'space for what is written to it; the rest is read from the snapshot, which is pinned until `volume promote` has '
      + 'made the clone stand alone, or it is deleted.',
    positional: [OF_VOLUME, { ...POINT, help: 'name of the snapshot' }, { ...NEW_NAME, name: 'to', value: 'NEWVOLUME',
      help: 'name of the new volume' }],
    options: [],
    result: { many: false, fields: { ...VOLUME_FIELDS,
      created: { type: 'bool', help: 'always true' } } satisfies Record<keyof CreatedRow, Field> },
    exits: [...CHANGES],
    examples: ['snapshot clone disk monday test-disk'],
  },
] as const satisfies readonly Command[]
