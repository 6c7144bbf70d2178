/** Rows of the command table: `nbdelta mirror ...`. */
import type { MirrorRow } from './admin-mirrors.js'
import { CHANGES, DRY_RUN, NEW_NAME, OF_VOLUME, QUIET, RATE, READ_RATE, REMOTE_EXITS, WAIT } from './command.js'
import type { Command, Field } from './command.js'
import type { Parameter } from './options.js'
import { ACTION_FIELDS, JOB_FIELDS } from './table-volume.js'

const INTERVAL_SECONDS_DEFAULT = 60
const TIMEOUT_SECONDS_DEFAULT = 5
const TIMEOUT_SECONDS_MAX = 25
const SNAPSHOTS_KEPT_MAX = 100
const MIRROR = {
  name: 'name', type: 'name', value: 'NAME', required: true, complete: 'mirror', help: 'name of the mirror',
} as const satisfies Parameter

const SEVERAL = {
  ...MIRROR, name: 'names', repeat: true, help: 'names of mirrors, up to 256; several are handled as one',
} as const satisfies Parameter
const BY_GROUP = {
  name: 'group', type: 'bool', default: false,
  help: 'the names are of groups of volumes, and stand for all mirrors of which these are the sources',
} as const satisfies Parameter

const MIRROR_FIELDS = {
  name: { type: 'string', column: 'NAME', help: 'name of the mirror' },
  uuid: { type: 'string', help: 'identity, never used twice' },
  volume: { type: 'string', column: 'SOURCE', help: 'volume that is mirrored' },
  target: { type: 'string', column: 'TARGET', help: 'volume of this store, or URI of an export' },
  mode: { type: 'string', column: 'MODE',
    help: 'periodic: it ships by cycles; async: as changes come, in order; sync: before they are answered' },
  state: { type: 'string', column: 'STATE',
    help: 'copying: the first copy; paired; split: both sides on their own; resyncing' },
  paused: { type: 'bool', column: 'PAUSED', help: 'no cycles begin until it is resumed' },
  inSync: { type: 'bool', column: 'IN SYNC', help: 'paired, and nothing is known to be wrong; what is behind, lag says' },
  inStep: { type: 'bool',
    help: 'async, sync: changes go to the target as they come, and it has caught up; sync: answers wait for it' },
  intervalSeconds: { type: 'seconds', help: 'from one cycle to the next; async, sync: from one declared point to the next' },
  timeoutSeconds: { type: 'seconds', help: 'async, sync: a target that does nothing for so long is not waited for' },
  afterBytes: { type: 'bytes', help: 'a cycle begins at once when so much is behind; null: only by the interval' },
  limitBytesPerSecond: { type: 'bytes', help: 'limit of its rate; null: none' },
  keepSnapshots: { type: 'int', help: 'so many of the source\'s newest snapshots the target has as well' },
  behindSeconds: { type: 'seconds', column: 'BEHIND',
    help: 'age of the target\'s declared point, or of the oldest change on its way; null: it has no point' },
  lagBytes: { type: 'bytes', column: 'LAG', help: 'what of the source the target may not have; null: not known' },
  declaredAt: { type: 'time', help: 'when the target\'s declared point was taken' },
  cycle: { type: 'int', help: 'number of that point; 0: none' },
  root: { type: 'string',
    help: 'root of its content, which the target has as well; null: it cannot tell, or not all is compared yet' },
  nextAt: { type: 'time', help: 'when the next cycle begins; null: one runs, or none will' },
  doneBytes: { type: 'bytes', help: 'of the cycle that runs: what it has dealt with; null, as the next three: none runs' },
  totalBytes: { type: 'bytes', help: 'of the cycle that runs: what there is to deal with' },
  bytesPerSecond: { type: 'bytes', help: 'of the cycle that runs: its rate' },
  etaSeconds: { type: 'seconds', help: 'of the cycle that runs: about how long it still takes' },
  lastSeconds: { type: 'seconds', 
    help: 'of the last complete cycle: how long it took; null, as the next three: none since the start' },
  lastDataBytes: { type: 'bytes', help: 'of the last complete cycle: data sent' },
  lastZeroBytes: { type: 'bytes', help: 'of the last complete cycle: zeros, sent as zeros' },
  lastEqualBytes: { type: 'bytes', help: 'of the last complete cycle: compared, and not sent' },
  problem: { type: 'string', help: 'why the last cycle failed, or what a comparison found; null: all is well' },
  verifiedAt: { type: 'time', help: 'when `mirror verify` came to its end last; null, as the next three: not since the start' },
  verified: { type: 'string', help: 'what it found: equal or different' },
  verifiedCycle: { type: 'int', help: 'number of the point that it compared' },
  digest: { type: 'string', help: 'of all content of that point, at the source: `replica verify` there tells the same' },
  unguarded: { type: 'notes', help: 'what this kind of target cannot promise' },
  decisions: { type: 'notes', help: 'what was decided lately, by which rule, from what' },
} as const satisfies Record<keyof MirrorRow, Field>

const job = { many: false, fields: JOB_FIELDS } as const
const LONG = { remote: true, serialised: true, longRunning: true } as const

export const MIRROR_COMMANDS = [
  {
    noun: 'mirror', verb: 'create', remote: true, serialised: true,
    summary: 'mirror a volume to another, or to an NBD server',
    description: 'Copies the volume to the target, and then, cycle by cycle, whatever changed: a point of the volume is frozen, '
      + 'what differs from the target\'s point is shipped, flushed there, and the new point is declared. A restore of the volume '
      + 'crosses like any other change. TARGET is a volume of this store, made if it is not there, an NBD URI, or '
      + 'a volume of a peer nbdelta, made likewise. A volume that '
      + 'is a target is read-only to clients, which see its last declared point, never half a cycle. What other targets cannot '
      + 'promise is shown by `mirror show`. Writes to the volume do not wait for the target, but in mode sync, and there '
      + 'no longer than --timeout. A cycle of mode periodic that its interval has begun gives way to busy clients: it takes up '
      + 'to half of the interval then, unless --rate or --after is given or somebody waits for it.',
    positional: [{ ...NEW_NAME, help: 'name of the mirror, 64 characters at most' }, { ...OF_VOLUME, help: 'volume to mirror' },
      { name: 'target', type: 'string', value: 'TARGET', required: true, complete: 'volume',
        help: 'name of a volume; nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH; of a peer nbdelta '
          + 'nbdelta://HOST:PORT/VOLUME or nbdelta+unix:///VOLUME?socket=PATH' }],
    options: [
      { name: 'mode', type: 'enum', value: 'MODE', choices: ['periodic', 'async', 'sync'], default: 'periodic',
        help: 'periodic: by cycles; async: every change soon after it was answered, in order; sync: before it is answered' },
      { name: 'interval', type: 'duration', value: 'TIME', default: INTERVAL_SECONDS_DEFAULT, minimum: 1,
        help: 'begin a cycle every so often; async, sync: declare a point' },
      { name: 'timeout', type: 'duration', value: 'TIME', default: TIMEOUT_SECONDS_DEFAULT, minimum: 1,
        maximum: TIMEOUT_SECONDS_MAX,
        help: 'async, sync: a target that does nothing for so long is not waited for; it catches up by a cycle' },
      { name: 'after', type: 'size', value: 'SIZE', minimum: 1, help: 'and also as soon as so much is behind' },
      RATE,
      { name: 'keep-snapshots', type: 'int', value: 'N', default: 0, minimum: 0, maximum: SNAPSHOTS_KEPT_MAX,
        help: 'to a volume here or at a peer: it gets the newest N snapshots of the source as well, and a restore '
          + 'from one of them crosses as a reference' },
      { name: 'secret', type: 'path', value: 'FILE', complete: 'file',
        help: 'of a peer nbdelta: file with the secret of its --peer-secret; it is read whenever the peer is connected to' },
      { name: 'overwrite', type: 'bool', default: false,
        help: 'the target may hold something: a volume keeps it as a snapshot, elsewhere it is lost' },
    ],
    result: { many: false, fields: MIRROR_FIELDS, sentence: 'created mirror {name}: {volume} to {target}' },
    exits: [...CHANGES],
    examples: ['mirror create m disk disk-copy --interval 10s', 'mirror create s disk far-copy --mode sync',
      'mirror create dr disk nbd://backup.example/disk --rate 50MiB',
      'mirror create far disk nbdelta://backup:10810/disk --secret ./secret',
      'mirror create w disk disk-copy --keep-snapshots 8'],
  },
  {
    noun: 'mirror', verb: 'list', remote: true,
    summary: 'list mirrors',
    description: 'Lists all mirrors, by name: state, age of the target\'s point, and how much is behind.',
    positional: [], options: [QUIET],
    result: { many: true, key: 'name', fields: MIRROR_FIELDS },
    exits: [...REMOTE_EXITS],
    examples: ['mirror list', 'mirror list --json'],
  },
  {
    noun: 'mirror', verb: 'show', remote: true,
    summary: 'show one mirror',
    description: 'Shows everything known about a mirror: how far behind the target is, what runs, why it is not in sync, what '
      + 'its target cannot promise, and the last decisions with the rule and the inputs of each.',
    positional: [MIRROR], options: [],
    result: { many: false, fields: MIRROR_FIELDS },
    exits: [...REMOTE_EXITS, 'notFound'],
    examples: ['mirror show m', 'mirror show m --json'],
  },
  {
    noun: 'mirror', verb: 'sync', ...LONG,
    summary: 'run a cycle now',
    description: 'Freezes a point now and brings the target there, without waiting for the interval. When it returns, everything '
      + 'that was answered before the command is on the target, durably. The points of several mirrors are of one instant: a '
      + 'write that was sent after another was answered is on no target without that other.',
    positional: [SEVERAL], options: [BY_GROUP, WAIT], result: job,
    exits: [...CHANGES, 'interrupted'],
    examples: ['mirror sync m', 'mirror sync m --no-wait', 'mirror sync m-data m-log'],
  },
  {
    noun: 'mirror', verb: 'pause', remote: true,
    summary: 'begin no more cycles',
    description: 'Ends the cycle that runs, and begins none until `mirror resume`. What changes meanwhile is remembered.',
    positional: [MIRROR], options: [], result: { many: false, fields: ACTION_FIELDS },
    exits: [...CHANGES],
    examples: ['mirror pause m'],
  },
  {
    noun: 'mirror', verb: 'resume', remote: true,
    summary: 'go on with cycles',
    description: 'Undoes `mirror pause`; a cycle begins at once.',
    positional: [MIRROR], options: [], result: { many: false, fields: ACTION_FIELDS },
    exits: [...CHANGES],
    examples: ['mirror resume m'],
  },
  {
    noun: 'mirror', verb: 'split', ...LONG, destructive: true,
    summary: 'let the target stand on its own',
    description: 'Runs a last cycle, and then ends the pairing: the target can be written to, and shows the point of that cycle. '
      + 'With --at-once it shows the last point that was declared. What both sides change from then on is tracked, so that '
      + '`mirror resync` moves only that. Clients that read the target as it was go on seeing that until they attach anew. '
      + 'Several mirrors are split at one instant: all sources are frozen together, and all targets are let go when the last one '
      + 'is there, or none is, even if the server is killed meanwhile; writes to the sources wait a second at most, and none '
      + 'fails. With --at-once their last points must be of one instant, as `mirror sync` of all of them makes them.',
    positional: [SEVERAL],
    options: [
      BY_GROUP,
      { name: 'at-once', type: 'bool', default: false, help: 'without a last cycle: it need not be reachable' }, DRY_RUN, WAIT,
    ],
    result: job,
    exits: [...CHANGES, 'interrupted'],
    examples: ['mirror split m', 'mirror split m --at-once', 'mirror split m --dry-run', 'mirror split m-data m-log',
      'mirror split db --group'],
  },
  {
    noun: 'mirror', verb: 'resync', ...LONG, destructive: true,
    summary: 'bring both sides together again',
    description: 'Makes the target equal to the source again, and undoes what was changed on it: a volume keeps that as a '
      + 'snapshot, before-NAME-N. Only what either side changed since the split is looked at; of a target that cannot tell, '
      + 'everything is compared. With --reverse the source gets the target\'s content instead, at once, as by a restore, with a '
      + 'snapshot that undoes it. What differs on a target elsewhere is fetched first, and clients of the target are kept out '
      + 'meanwhile, as are new ones of the source; when that is cut short or cancelled, the source is as it was. Several mirrors '
      + 'begin together, or none does; those that fail later are named, and tried again by themselves. With --reverse all '
      + 'sources show it at one instant, or none does. --dry-run says how much differs.',
    positional: [SEVERAL],
    options: [
      BY_GROUP,
      { name: 'reverse', type: 'bool', default: false, help: 'the source gets the target\'s content' },
      { name: 'whole', type: 'bool', default: false, help: 'compare everything, whatever the maps say' },
      { name: 'force', type: 'bool', default: false,
        help: 'with --reverse, even while clients of the source are attached: what they have cached is then wrong' },
      DRY_RUN, WAIT,
    ],
    result: job,
    exits: [...CHANGES, 'interrupted'],
    examples: ['mirror resync m --dry-run', 'mirror resync m', 'mirror resync m --reverse', 'mirror resync m-data m-log',
      'mirror resync db --group --reverse'],
  },
  {
    noun: 'mirror', verb: 'verify', ...LONG,
    summary: 'compare both sides',
    description: 'Runs a cycle, and compares all of its point with what the target holds of it, while clients, cycles and '
      + 'streams go on: a target that is a volume, here or at a peer, tells by digests, and keeps that point meanwhile; of '
      + 'another server\'s export everything is read, and the mirror waits. Where they differ it says '
      + 'so, ends with the exit code for damage, and repairs the target by a resync of everything; of a mirror that was split '
      + 'meanwhile it says so only. While it runs, what clients overwrite on the source is kept, as by a snapshot.',
    positional: [MIRROR], options: [READ_RATE, WAIT], result: job,
    exits: [...CHANGES, 'damaged', 'interrupted'],
    examples: ['mirror verify m', 'mirror verify m --rate 50MiB'],
  },
  {
    noun: 'mirror', verb: 'delete', remote: true, serialised: true, destructive: true,
    summary: 'end a mirror',
    description: 'Forgets the mirror and its points on both sides. The target stays, at its last declared point, and can be '
      + 'written to. To mirror to it again, everything is copied anew.',
    positional: [MIRROR], options: [DRY_RUN],
    result: { many: false, fields: ACTION_FIELDS },
    exits: [...CHANGES],
    examples: ['mirror delete m --dry-run', 'mirror delete m'],
  },
] as const satisfies readonly Command[]
