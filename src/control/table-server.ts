/** Rows of the command table: the server, its exports, clients and jobs, and what the command line does by itself. */
import type { ClientRow, ExportRow, StatusRow } from './admin.js'
import { CHANGES, DRY_RUN, QUIET, REMOTE_EXITS, VOLUME } from './command.js'
import type { Command, Field } from './command.js'
import type { Parameter } from './options.js'
import { ACTION_FIELDS, JOB_FIELDS } from './table-volume.js'

/** Below this a single request of 32 MiB could not be held beside anything else. */
const MEMORY_BYTES_MIN = 64 * 1024 * 1024
/** The NBD server's own default: 1,024 connections with their guaranteed 48 KiB, and 16 MiB shared among the busy ones. */
const MEMORY_BYTES = 64 * 1024 * 1024
const MIRROR_MEMORY_BYTES = 256 * 1024 * 1024
/** A day: longer is a mistake, not a deadline. */
const DRAIN_SECONDS_MAX = 86_400
const ID_MAX = Number.MAX_SAFE_INTEGER
const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const
const JOB = {
  name: 'id', type: 'int', value: 'ID', required: true, minimum: 1, maximum: ID_MAX, complete: 'job', help: 'number of the job',
} as const satisfies Parameter

const EXPORT_FIELDS = {
  name: { type: 'string', column: 'NAME', help: 'name that clients ask for' },
  uuid: { type: 'string', help: 'uuid of the volume' },
  sizeBytes: { type: 'bytes', column: 'SIZE', help: 'size that clients see' },
  hidden: { type: 'bool', column: 'HIDDEN', help: 'closed to new clients' },
  clients: { type: 'int', column: 'CLIENTS', help: 'connections of NBD clients' },
  uris: { type: 'lines', column: 'URI', help: 'where clients find it' },
} as const satisfies Record<keyof ExportRow, Field>

const CLIENT_FIELDS = {
  id: { type: 'int', column: 'ID', help: 'number, unique until the server stops' },
  export: { type: 'string', column: 'EXPORT', help: 'export in use; null during the handshake' },
  address: { type: 'string', column: 'ADDRESS', help: 'unix, or the client\'s host and port' },
  state: { type: 'string', column: 'STATE', help: 'what the connection is doing' },
  connectedAt: { type: 'time', column: 'SINCE', help: 'when it connected' },
  inFlight: { type: 'int', column: 'IN FLIGHT', help: 'requests not answered yet' },
  readBytes: { type: 'bytes', column: 'READ', help: 'bytes read' },
  writtenBytes: { type: 'bytes', column: 'WRITTEN', help: 'bytes written' },
} as const satisfies Record<keyof ClientRow, Field>

const STATUS_FIELDS = {
  state: { type: 'string', help: 'serving, or draining before the end' },
  version: { type: 'string', help: 'version of the server' },
  pid: { type: 'int', help: 'process id' },
  uptimeSeconds: { type: 'seconds', help: 'time since the start' },
  store: { type: 'string', help: 'directory of the store' },
  listeners: { type: 'lines', help: 'where NBD clients connect' },
  peerListeners: { type: 'lines', help: 'where mirrors of other servers connect; none without --peer' },
  control: { type: 'string', help: 'control socket' },
  volumes: { type: 'int', help: 'volumes in the store' },
  volumesBroken: { type: 'int', help: 'of them, those that cannot be opened and are not served: volume list tells why' },
  volumesFailing: { type: 'int', help: 'of them, those whose writes fail now for want of space' },
  keptBytes: { type: 'bytes', help: 'what snapshots of all volumes keep of what was overwritten' },
  spaces: { type: 'spaces',
    help: 'for each volume with a budget, that gave up snapshots, or whose writes fail: what is kept, of which budget, the order '
      + 'of sacrifice, what was given up last' },
  clients: { type: 'int', help: 'connections of NBD clients' },
  jobsRunning: { type: 'int', help: 'jobs that run: imports, exports, restores' },
  rssBytes: { type: 'bytes', help: 'resident memory of the process' },
  memoryBudgetBytes: { type: 'bytes', help: 'limit of bytes held for requests in flight' },
  memoryInUseBytes: { type: 'bytes', help: 'bytes held for requests in flight' },
  eventLoopDelayP99Ms: { type: 'milliseconds', help: 'how late timers fire, 99 % of the time, since the last status' },
  eventLoopDelayMaxMs: { type: 'milliseconds', help: 'how late a timer fired at worst, since the last status' },
  oldestRequestMs: { type: 'milliseconds', help: 'age of the oldest request in flight; null when there is none' },
} as const satisfies Record<keyof StatusRow, Field>

const SERVE_COMMAND = {
  noun: 'serve', verb: '', remote: false,
  summary: 'serve a store',
  description: 'Opens the store, creating it if the directory is missing or empty, and serves its volumes over NBD until '
    + 'SIGTERM or Ctrl-C. '
    + 'Then it drains: every request in flight is answered, volumes are flushed, and it exits 0. A second signal ends it fast. '
    + 'On start it prints ready-to-paste lines for common clients on standard output; the log goes to standard error, pretty '
    + 'on a terminal, JSON otherwise. '
    + 'Only one server can have a store; one that was killed leaves it usable at once.',
  positional: [],
  options: [
    { name: 'nbd', type: 'address', value: 'ADDRESS', repeat: true,
      help: 'listen for NBD clients on unix:PATH or tcp:HOST:PORT; may be repeated; without it on nbd.sock in the store' },
    { name: 'nbd-mode', type: 'enum', value: 'MODE', choices: ['0600', '0660', '0666'], default: '0600',
      help: 'permissions of NBD unix sockets' },
    { name: 'peer', type: 'address', value: 'ADDRESS',
      help: 'let mirrors of other nbdelta servers in on unix:PATH or tcp:HOST:PORT; needs --peer-secret' },
    { name: 'peer-secret', type: 'path', value: 'FILE', complete: 'file',
      help: 'file with the secret that peers must know: 16 bytes or more, and mode 0600' },
    { name: 'memory', type: 'size', value: 'SIZE', default: MEMORY_BYTES, minimum: MEMORY_BYTES_MIN,
      help: 'limit of bytes held for requests in flight, of all clients together' },
    { name: 'mirror-memory', type: 'size', value: 'SIZE', default: MIRROR_MEMORY_BYTES, minimum: 0,
      help: 'limit of bytes held for targets of mirrors in modes async and sync, of all together; the rest is left to cycles' },
    { name: 'spin', type: 'bool', default: true,
      help: 'sleep at once when there is nothing to do, instead of looking out for the next request for some microseconds' },
    { name: 'drain-seconds', type: 'int', value: 'N', default: 30, minimum: 0, maximum: DRAIN_SECONDS_MAX,
      help: 'how long a drain waits for clients that do not read their replies' },
    { name: 'create-volume', type: 'creation', value: 'NAME=SIZE', repeat: true,
      help: 'create this volume first if there is none of that name' },
    { name: 'log-level', type: 'enum', value: 'LEVEL', choices: LEVELS, default: 'info', help: 'least level that is logged' },
  ],
  result: null,
  exits: ['ok', 'failure', 'usage', 'notFound', 'conflict', 'busy', 'noSpace', 'io', 'damaged', 'denied', 'bug', 'interrupted'],
  examples: ['serve --store ./data --create-volume disk=1GiB',
    'serve --store /srv/nbd --nbd unix:/run/nbd.sock --nbd tcp:127.0.0.1',
    'serve --store /srv/nbd --control /run/nbdelta.sock --memory 256MiB',
    'serve --store /srv/nbd --peer tcp::10810 --peer-secret ./secret',
    'serve --store /srv/nbd --drain-seconds 10 --log-level debug'],
} as const satisfies Command

export const SERVER_COMMANDS = [
  {
    noun: 'export', verb: 'list', remote: true,
    summary: 'list exports',
    description: 'Lists what NBD clients can ask for: every volume is exported under its name.',
    positional: [], options: [QUIET],
    result: { many: true, key: 'name', fields: EXPORT_FIELDS },
    exits: [...REMOTE_EXITS],
    examples: ['export list', 'export list --json'],
  },
  {
    noun: 'export', verb: 'hide', remote: true, serialised: true,
    summary: 'close an export to new clients',
    description: 'New clients no longer see the export; attached ones go on. It lasts until unhide or until the server stops: '
      + 'a restart shows it again.',
    positional: [VOLUME], options: [],
    result: { many: false, fields: ACTION_FIELDS },
    exits: [...REMOTE_EXITS, 'notFound', 'busy'],
    examples: ['export hide disk'],
  },
  {
    noun: 'export', verb: 'unhide', remote: true, serialised: true,
    summary: 'open an export to new clients again',
    description: 'Undoes `export hide`.',
    positional: [VOLUME], options: [],
    result: { many: false, fields: ACTION_FIELDS },
    exits: [...REMOTE_EXITS, 'notFound', 'busy'],
    examples: ['export unhide disk'],
  },
  {
    noun: 'export', verb: 'kick', remote: true, serialised: true, destructive: true,
    summary: 'close the clients of an export',
    description: 'Closes every connection to the export. Soft: requests in flight are answered first. Hard: at once; what was '
      + 'not acknowledged may or may not have been done. '
      + 'Clients may come back: hide the export first to keep them out.',
    positional: [{ ...VOLUME, help: 'name of the volume, or VOLUME@SNAPSHOT' }],
    options: [
      { name: 'how', type: 'enum', value: 'HOW', choices: ['soft', 'hard'], default: 'soft',
        help: 'answer what is in flight first, or not' },
      DRY_RUN,
    ],
    result: { many: false, fields: ACTION_FIELDS },
    exits: [...REMOTE_EXITS, 'notFound'],
    examples: ['export kick disk --dry-run', 'export kick disk --how hard', 'export kick disk@before-upgrade'],
  },
  {
    noun: 'client', verb: 'list', remote: true,
    summary: 'list connections of NBD clients',
    description: 'Lists the connections that are open, in the order they came.',
    positional: [],
    options: [{ name: 'export', type: 'name', value: 'NAME', complete: 'volume', help: 'only those of this export' }, QUIET],
    result: { many: true, key: 'id', fields: CLIENT_FIELDS },
    exits: [...REMOTE_EXITS],
    examples: ['client list', 'client list --export disk --json'],
  },
  {
    noun: 'client', verb: 'kick', remote: true, destructive: true,
    summary: 'close one connection',
    description: 'Closes one connection of an NBD client at once. The client may connect again.',
    positional: [{ name: 'id', type: 'int', value: 'ID', required: true, minimum: 0, maximum: ID_MAX, complete: 'client',
      help: 'number shown by `nbdelta client list`' }],
    options: [DRY_RUN],
    result: { many: false, fields: ACTION_FIELDS },
    exits: [...REMOTE_EXITS, 'notFound'],
    examples: ['client kick 7', 'client kick 7 --dry-run'],
  },
  {
    noun: 'job', verb: 'list', remote: true,
    summary: 'list jobs',
    description: 'Lists jobs that run and the last ones that ended.',
    positional: [], options: [QUIET],
    result: { many: true, key: 'id', fields: JOB_FIELDS },
    exits: [...REMOTE_EXITS],
    examples: ['job list', 'job list --json'],
  },
  {
    noun: 'job', verb: 'show', remote: true,
    summary: 'show one job',
    description: 'Shows how far a job is, or how it ended.',
    positional: [JOB], options: [],
    result: { many: false, fields: JOB_FIELDS },
    exits: [...REMOTE_EXITS, 'notFound'],
    examples: ['job show 3', 'job show 3 --json'],
  },
  {
    noun: 'job', verb: 'cancel', remote: true,
    summary: 'cancel a job',
    description: 'Stops a running job and waits until it has cleaned up after itself. A job that has ended stays as it is. '
      + 'A restore is taken back, for which it has to be copied to its end first: while there is no room for that, this is '
      + 'refused, and it goes on.',
    positional: [JOB], options: [],
    result: { many: false, fields: JOB_FIELDS },
    exits: [...CHANGES],
    examples: ['job cancel 3'],
  },
  {
    noun: 'status', verb: '', remote: true,
    summary: 'show how the server is doing',
    description: 'Shows state, listeners, counts, space of snapshots, memory and how late the event loop runs. It exits 9 when '
      + 'no server answers, so it serves as a readiness probe.',
    positional: [], options: [],
    result: { many: false, fields: STATUS_FIELDS },
    exits: [...REMOTE_EXITS],
    examples: ['status', 'status --json'],
  },
  SERVE_COMMAND,
  {
    noun: 'completion', verb: '', remote: false,
    summary: 'print a completion script for a shell',
    description: 'Prints a script that completes commands, options and the names of volumes. '
      + 'bash: put `source <(nbdelta completion bash)` into ~/.bashrc. zsh: `source <(nbdelta completion zsh)` into ~/.zshrc. '
      + 'fish: `nbdelta completion fish > ~/.config/fish/completions/nbdelta.fish`.',
    positional: [
      { name: 'shell', type: 'enum', value: 'SHELL', required: true, choices: ['bash', 'zsh', 'fish'],
        help: 'bash, zsh or fish' },
    ],
    options: [],
    result: null,
    exits: ['ok', 'usage'],
    examples: ['completion bash', 'completion fish'],
  },
  {
    noun: 'version', verb: '', remote: false,
    summary: 'print the version',
    description: 'Prints the version of nbdelta and of Node.js.',
    positional: [], options: [],
    result: {
      many: false,
      fields: { nbdelta: { type: 'string', help: 'version of nbdelta' }, node: { type: 'string', help: 'version of Node.js' } },
    },
    exits: ['ok', 'usage'],
    examples: ['version', 'version --json'],
  },
] as const satisfies readonly Command[]
