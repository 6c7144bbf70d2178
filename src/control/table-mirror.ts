/** Rows of the command table: `nbdelta mirror ...`. */
import type { MirrorRow } from './admin-mirrors.js'
import { CHANGES, DRY_RUN, NEW_NAME, OF_VOLUME, QUIET, RATE, REMOTE_EXITS, WAIT } from './command.js'
import type { Command, Field } from './command.js'
import type { Parameter } from './options.js'
import { ACTION_FIELDS, JOB_FIELDS } from './table-volume.js'

const INTERVAL_SECONDS_DEFAULT = 60
const MIRROR = {
  name: 'name', type: 'name', value: 'NAME', required: true, complete: 'mirror', help: 'name of the mirror',
} as const satisfies Parameter

const MIRROR_FIELDS = {
  name: { type: 'string', column: 'NAME', help: 'name of the mirror' },
  uuid: { type: 'string', help: 'identity, never used twice' },
  volume: { type: 'string', column: 'SOURCE', help: 'volume that is mirrored' },
  target: { type: 'string', column: 'TARGET', help: 'volume of this store, or URI of an export' },
  mode: { type: 'string', help: 'periodic: it ships by cycles' },
  state: { type: 'string', column: 'STATE',
    help: 'copying: the first copy; paired; split: both sides on their own; resyncing' },
  paused: { type: 'bool', column: 'PAUSED', help: 'no cycles begin until it is resumed' },
  inSync: { type: 'bool', column: 'IN SYNC', help: 'paired, and nothing is known to be wrong; what is behind, lag says' },
  intervalSeconds: { type: 'seconds', help: 'from the beginning of one cycle to that of the next' },
  afterBytes: { type: 'bytes', help: 'a cycle begins at once when so much is behind; null: only by the interval' },
  limitBytesPerSecond: { type: 'bytes', help: 'limit of its rate; null: none' },
  behindSeconds: { type: 'seconds', column: 'BEHIND', help: 'age of the target\'s declared point; null: it has none' },
  lagBytes: { type: 'bytes', column: 'LAG', help: 'what of the source may differ from that point; null: not known' },
  declaredAt: { type: 'time', help: 'when the target\'s declared point was taken' },
  cycle: { type: 'int', help: 'number of that point; 0: none' },
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
  problem: { type: 'string', help: 'why the last cycle failed, or what verification found; null: all is well' },
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
      + 'promise is shown by `mirror show`. Writes to the volume never wait for the target.',
    positional: [{ ...NEW_NAME, help: 'name of the mirror, 64 characters at most' }, { ...OF_VOLUME, help: 'volume to mirror' },
      { name: 'target', type: 'string', value: 'TARGET', required: true, complete: 'volume',
        help: 'name of a volume; nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH; of a peer nbdelta '
          + 'nbdelta://HOST:PORT/VOLUME or nbdelta+unix:///VOLUME?socket=PATH' }],
    options: [
      { name: 'interval', type: 'duration', value: 'TIME', default: INTERVAL_SECONDS_DEFAULT, minimum: 1,
        help: 'begin a cycle every so often' },
      { name: 'after', type: 'size', value: 'SIZE', minimum: 1, help: 'and also as soon as so much is behind' },
      RATE,
      { name: 'secret', type: 'path', value: 'FILE', complete: 'file',
        help: 'of a peer nbdelta: file with the secret of its --peer-secret; it is read whenever the peer is connected to' },
      { name: 'overwrite', type: 'bool', default: false,
        help: 'the target may hold something: a volume keeps it as a snapshot, elsewhere it is lost' },
    ],
    result: { many: false, fields: MIRROR_FIELDS, sentence: 'created mirror {name}: {volume} to {target}' },
    exits: [...CHANGES],
    examples: ['mirror create m disk disk-copy --interval 10s', 'mirror create dr disk nbd://backup.example/disk --rate 50MiB',
      'mirror create far disk nbdelta://backup:10810/disk --secret ./secret'],
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
      + 'that was answered before the command is on the target, durably.',
    positional: [MIRROR], options: [WAIT], result: job,
    exits: [...CHANGES, 'interrupted'],
    examples: ['mirror sync m', 'mirror sync m --no-wait'],
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
      + '`mirror resync` moves only that. Clients that read the target as it was go on seeing that until they attach anew.',
    positional: [MIRROR],
    options: [
      { name: 'at-once', type: 'bool', default: false, help: 'without a last cycle: it need not be reachable' }, DRY_RUN, WAIT,
    ],
    result: job,
    exits: [...CHANGES, 'interrupted'],
    examples: ['mirror split m', 'mirror split m --at-once', 'mirror split m --dry-run'],
  },
  {
    noun: 'mirror', verb: 'resync', ...LONG, destructive: true,
    summary: 'bring both sides together again',
    description: 'Makes the target equal to the source again, and undoes what was changed on it: a volume keeps that as a '
      + 'snapshot, before-NAME-N. Only what either side changed since the split is looked at; of a target that cannot tell, '
      + 'everything is compared. With --reverse the source gets the target\'s content instead, at once, as by a restore, with a '
      + 'snapshot that undoes it; for targets that are volumes of this store. --dry-run says how much differs.',
    positional: [MIRROR],
    options: [
      { name: 'reverse', type: 'bool', default: false, help: 'the source gets the target\'s content' },
      { name: 'whole', type: 'bool', default: false, help: 'compare everything, whatever the maps say' },
      { name: 'force', type: 'bool', default: false,
        help: 'with --reverse, even while clients of the source are attached: what they have cached is then wrong' },
      DRY_RUN, WAIT,
    ],
    result: job,
    exits: [...CHANGES, 'interrupted'],
    examples: ['mirror resync m --dry-run', 'mirror resync m', 'mirror resync m --reverse'],
  },
  {
    noun: 'mirror', verb: 'verify', ...LONG,
    summary: 'compare both sides',
    description: 'Runs a cycle, and compares all of its point with the target, while clients go on. Where they differ it says '
      + 'so, ends with the exit code for damage, and repairs the target by a resync of everything.',
    positional: [MIRROR], options: [WAIT], result: job,
    exits: [...CHANGES, 'damaged', 'interrupted'],
    examples: ['mirror verify m'],
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
