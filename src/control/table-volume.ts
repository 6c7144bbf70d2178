/** Rows of the command table: `nbdelta volume ...`. */
import { SPACE_ORDERS } from './admin.js'
import type { ActionRow, CreatedRow, JobRow, VolumeRow } from './admin.js'
import { CHANGES, DRY_RUN, QUIET, RATE, REMOTE_EXITS, VOLUME, WAIT } from './command.js'
import type { Command, Field } from './command.js'
import type { Parameter } from './options.js'

/** Grain bounds of DESIGN section 1: below 4 KiB a map outgrows its use, above 1 MiB a small write drags too much along. */
const GRAIN_BYTES_MIN = 4096
const GRAIN_BYTES_MAX = 1024 * 1024
const GRAIN = {
  name: 'grain', type: 'size', value: 'SIZE', default: GRAIN_BYTES_MIN, minimum: GRAIN_BYTES_MIN, maximum: GRAIN_BYTES_MAX,
    powerOfTwo: true,
  help: 'unit of change tracking, a power of two; fixed for the volume\'s life',
} as const satisfies Parameter
const size = { name: 'size', type: 'size', value: 'SIZE', minimum: 512 } as const

export const VOLUME_FIELDS = {
  name: { type: 'string', column: 'NAME', help: 'name, also the name of its export' },
  uuid: { type: 'string', help: 'identity, never used twice' },
  sizeBytes: { type: 'bytes', column: 'SIZE', help: 'size that clients see' },
  grainBytes: { type: 'bytes', column: 'GRAIN', help: 'unit of change tracking' },
  allocatedBytes: { type: 'bytes', column: 'ALLOCATED', help: 'space it takes on disk; null when that is not known' },
  mappedBytes: { type: 'bytes', column: 'MAPPED', help: 'bytes that may hold data; the rest reads as zeros without disk access' },
  clients: { type: 'int', column: 'CLIENTS', help: 'connections of NBD clients' },
  hidden: { type: 'bool', column: 'HIDDEN', help: 'closed to new clients' },
  backing: { type: 'string', help: 'adopted file or block device, or URI of a remote export; null: a file of the store' },
  createdAt: { type: 'time', help: 'when it was created' },
  description: { type: 'string', help: 'free text, shown to clients' },
  space: { type: 'space',
    help: 'what its snapshots keep, of which budget, the order of sacrifice, what was given up last, whether writes fail' },
  problem: { type: 'string', column: 'PROBLEM', help: 'why it cannot be opened and is not served; null when all is well' },
} as const satisfies Record<keyof VolumeRow, Field>

export const ACTION_FIELDS = {
  target: { type: 'string', help: 'what the command was about' },
  changed: { type: 'bool', help: 'false when it was so already, or with --dry-run' },
  dryRun: { type: 'bool', help: 'true: nothing was done' },
  steps: { type: 'lines', help: 'what was done, or would be' },
  note: { type: 'string', help: 'why nothing was to be done; left out where there is no more to say' },
} as const satisfies Record<keyof ActionRow, Field>

export const JOB_FIELDS = {
  id: { type: 'int', column: 'JOB', help: 'number, unique until the server stops' },
  kind: { type: 'string', column: 'KIND', help: 'import, export, restore, promotion, group restore, delta export, delta import, '
    + 'mirror sync, mirror split, mirror resync, mirror verification, replica verification' },
  volume: { type: 'string', column: 'VOLUME', help: 'volume it works on; a group restore: the group; of a mirror: the mirror' },
  path: { type: 'string', column: 'FILE', help: 'file on the server\'s host, or URI; null when there is none' },
  state: { type: 'string', column: 'STATE', help: 'running, done, failed or cancelled' },
  doneBytes: { type: 'bytes', column: 'DONE', help: 'bytes done; zeros that were skipped count' },
  totalBytes: { type: 'bytes', column: 'OF', help: 'bytes in all; null until known' },
  startedAt: { type: 'time', help: 'when it began' },
  finishedAt: { type: 'time', help: 'when it ended; null while it runs' },
  error: { type: 'string', help: 'why it failed; null otherwise' },
  waiting: { type: 'string', column: 'WAITING',
    help: 'why it makes no progress: no room, or a failing disk; it is tried again every 30 s; null: it does, or has ended' },
  note: { type: 'string', help: 'what came of it, if there is more to tell; null otherwise' },
} as const satisfies Record<keyof JobRow, Field>

export const VOLUME_COMMANDS = [
  {
    noun: 'volume', verb: 'create', remote: true, serialised: true,
    summary: 'create a volume',
    description: 'Creates a volume that reads as zeros and takes no space until it is written, and exports it at once under '
      + 'its name. '
      + 'A name consists of letters, digits, points, dashes and underscores; a size is a multiple of 512 bytes. '
      + 'With --backing an existing raw image file, block device or export of another NBD server (a URI) is adopted as it is: '
      + 'its content becomes the volume\'s content, its size the volume\'s size. '
      + 'It stays where it is, also when the volume is deleted. An export must take writes and FLUSH, and nobody else may write '
      + 'to it: see docs/remote-images.md.',
    positional: [VOLUME],
    options: [
      { ...size, help: 'size that clients see; needed unless --backing is given' },
      GRAIN,
      { name: 'backing', type: 'image', value: 'PATH', complete: 'file',
        help: 'adopt this raw image file, block device or NBD export (a URI) instead of making a new file' },
      { name: 'description', type: 'string', value: 'TEXT', default: '', help: 'free text shown to clients' },
      { name: 'if-not-exists', type: 'bool', default: false,
        help: 'succeed when a volume of this name, size and grain is there already' },
    ],
    result: { many: false,
      fields: { ...VOLUME_FIELDS,
      created: { type: 'bool', help: 'false: it was there already' } } satisfies Record<keyof CreatedRow, Field> },
    exits: [...CHANGES],
    examples: ['volume create disk --size 1GiB', 'volume create db --size 2TiB --grain 64KiB --description "orders"',
      'volume create old --backing /srv/old.img', 'volume create far --backing nbd://disks.example/far',
      'volume create disk --size 1GiB --if-not-exists --json'],
  },
  {
    noun: 'volume', verb: 'list', remote: true,
    summary: 'list volumes',
    description: 'Lists all volumes of the store, by name.',
    positional: [], options: [QUIET],
    result: { many: true, key: 'name', fields: VOLUME_FIELDS },
    exits: [...REMOTE_EXITS],
    examples: ['volume list', 'volume list --json', 'volume list -q'],
  },
  {
    noun: 'volume', verb: 'show', remote: true,
    summary: 'show one volume',
    description: 'Shows everything known about a volume: sizes, space taken on disk, mapped bytes, attached clients.',
    positional: [VOLUME], options: [],
    result: { many: false, fields: VOLUME_FIELDS },
    exits: [...REMOTE_EXITS, 'notFound'],
    examples: ['volume show disk', 'volume show disk --json'],
  },
  {
    noun: 'volume', verb: 'resize', remote: true, serialised: true, destructive: true,
    summary: 'grow or shrink a volume',
    description: 'Growing works at any time: new connections see the new size, and those that are open may use the new range '
      + 'at once. '
      + 'Shrinking cuts off content for good; it needs --shrink and is refused while a client is attached. Asking for the '
      + 'present size changes nothing.',
    positional: [VOLUME],
    options: [
      { ...size, required: true, help: 'new size' },
      { name: 'shrink', type: 'bool', default: false, help: 'allow a size below the present one: what lies beyond is lost' },
      DRY_RUN,
    ],
    result: { many: false, fields: ACTION_FIELDS },
    exits: [...CHANGES],
    examples: ['volume resize disk --size 2GiB', 'volume resize disk --size 512MiB --shrink --dry-run'],
  },
  {
    noun: 'volume', verb: 'set-budget', remote: true, serialised: true,
    summary: 'limit the space that snapshots take',
    description: 'Says how much the snapshots of a volume may keep of what is overwritten, and what is given up when that, or '
      + 'the disk, is full. '
      + 'drop-undo-then-fail: the oldest undo snapshot of a restore that is not pinned or read is deleted, again while there is '
      + 'one; then cycles of mirrors end, and their images are deleted: what they were to ship stays pending; '
      + 'then writes that need old content kept fail with ENOSPC. fail: nothing is deleted, and no cycle ends. Other snapshots '
      + 'are never deleted. A write that fails has changed nothing, or, above 8 KiB, what came before the part that '
      + 'found no room; when there is room again, writes succeed again. '
      + '`volume show`, `snapshot list` and `status` tell how it stands.',
    positional: [VOLUME],
    options: [
      { name: 'limit', type: 'size', value: 'SIZE', help: 'keep at most so much; less than is kept already: no more for now' },
      { name: 'unlimited', type: 'bool', default: false, help: 'no limit but the disk' },
      { name: 'order', type: 'enum', value: 'ORDER', choices: SPACE_ORDERS,
        help: 'what is given up; drop-undo-then-fail unless it was set before' },
      DRY_RUN,
    ],
    result: { many: false, fields: ACTION_FIELDS },
    exits: [...CHANGES],
    examples: ['volume set-budget disk --limit 20GiB', 'volume set-budget disk --order fail --dry-run',
      'volume set-budget disk --unlimited --order drop-undo-then-fail'],
  },
  {
    noun: 'volume', verb: 'import', remote: true, serialised: true, longRunning: true, destructive: true,
    summary: 'fill a volume from a raw image',
    description: 'Copies a raw image into a volume: a file, a block device, or an export of any NBD server, named by its URI. '
      + 'Zeros are skipped and take no space; those that a server tells of do not even cross. A volume that does not exist is '
      + 'created with the '
      + 'image\'s size, and taken away again if the import fails or is cancelled. An existing one is only written with '
      + '--overwrite, when it is at least as large '
      + 'as the image and no client is attached; what lies beyond the image then reads as zeros, and after a failure its '
      + 'content is a mixture. '
      + 'Until the end the export is hidden; if the server itself is killed meanwhile, its next start takes a new volume away. '
      + 'PATH is opened by the server: it must be on the server\'s host. A URI is nbd://HOST[:PORT]/EXPORT or '
      + 'nbd+unix:///EXPORT?socket=/PATH. '
      + 'Ctrl-C cancels; so does the end of the waiting command for any other reason. With --no-wait the job goes on by '
      + 'itself: see `nbdelta job`.',
    positional: [VOLUME, { name: 'path', type: 'image', value: 'PATH', required: true, complete: 'file',
      help: 'raw image to read, or URI of an NBD export' }],
    options: [
      { ...GRAIN, help: 'grain of a volume that is created' },
      { name: 'overwrite', type: 'bool', default: false, help: 'write over the content of an existing volume' },
      DRY_RUN, WAIT,
    ],
    result: { many: false, fields: JOB_FIELDS },
    exits: [...CHANGES, 'interrupted'],
    examples: ['volume import disk ./debian-12.raw', 'volume import disk /srv/disk.raw --overwrite --dry-run',
      'volume import big /dev/sdb --no-wait', 'volume import disk nbd://old-server.example/disk'],
  },
  {
    noun: 'volume', verb: 'export', remote: true, serialised: true, longRunning: true,
    summary: 'write a volume to a raw image',
    description: 'Copies a volume into a sparse raw image file. The file appears under its name only when it is complete and '
      + 'on disk. An export of an NBD server, named by its URI, is written in place and flushed: it needs --overwrite and room '
      + 'for the volume, what it has behind the volume\'s end stays, and after a failure its content is a mixture. '
      + 'While clients write, the image is not of one instant: detach them first if that matters. PATH is opened by the '
      + 'server, on the server\'s host, '
      + 'with the server\'s rights. Ctrl-C cancels and leaves no file.',
    positional: [VOLUME, { name: 'path', type: 'image', value: 'PATH', required: true, complete: 'file',
      help: 'file to write, or URI of an NBD export' }],
    options: [
      { name: 'overwrite', type: 'bool', default: false, help: 'replace an existing file, or what the export holds' }, WAIT],
    result: { many: false, fields: JOB_FIELDS },
    exits: [...CHANGES, 'interrupted'],
    examples: ['volume export disk ./disk.raw', 'volume export disk /backup/disk.raw --overwrite --no-wait',
      'volume export disk nbd://new-server.example/disk --overwrite'],
  },
  {
    noun: 'volume', verb: 'reopen', remote: true, serialised: true,
    summary: 'open a volume anew',
    description: 'Closes a volume and opens it as a start of the server would, while the others are served: one that could not '
      + 'be opened when the server started, because its backing was not there; one whose flushes fail since one failed, when '
      + 'its disk has been looked at (what was written since the last good flush is written to it again); one whose '
      + 'remote backing has grown; one that the failed import of a delta has left as a mixture. It is refused while clients are '
      + 'attached, a job works on it, or a clone or a mirror needs it: then restart the server.',
    positional: [VOLUME], options: [],
    result: { many: false, fields: VOLUME_FIELDS },
    exits: [...CHANGES],
    examples: ['volume reopen far'],
  },
  {
    noun: 'volume', verb: 'delete', remote: true, serialised: true, destructive: true,
    summary: 'delete a volume and its content',
    description: 'Deletes a volume for good. It is refused while clients are attached or a job works on it, unless --force '
      + 'closes and cancels them first. '
      + 'An adopted file, block device or export (--backing) stays, and holds what the volume showed: what a restore has not '
      + 'copied yet is copied first.',
    positional: [VOLUME],
    options: [
      { name: 'force', type: 'bool', default: false, help: 'close attached clients and cancel jobs first' },
      { name: 'if-exists', type: 'bool', default: false, help: 'succeed when there is no such volume' },
      DRY_RUN,
    ],
    result: { many: false, fields: ACTION_FIELDS },
    exits: [...CHANGES],
    examples: ['volume delete disk --dry-run', 'volume delete disk', 'volume delete disk --force --if-exists'],
  },
  {
    noun: 'volume', verb: 'promote', remote: true, serialised: true, longRunning: true,
    summary: 'make a clone stand alone',
    description: 'Copies into a clone what it still reads from its snapshot, in the background, and then lets go of that: the '
      + 'snapshot can be deleted. Clients may use the clone meanwhile. Ctrl-C or `job cancel` stops the copy: the clone stays a '
      + 'clone. When the command ends for any other reason the copy goes on.',
    positional: [VOLUME],
    options: [RATE, WAIT],
    result: { many: false, fields: JOB_FIELDS },
    exits: [...CHANGES, 'interrupted'],
    examples: ['volume promote test-disk', 'volume promote test-disk --rate 100MiB/s --no-wait'],
  },
] as const satisfies readonly Command[]
