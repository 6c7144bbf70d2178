/**
 * The command table: every noun and verb of nbdelta, once.
 *
 * Read off it: the argument parser, `--help`, `--json`, shell completion, the validation of control requests, the handlers'
 * argument types, docs/cli.md. A new command is one row here and one handler (the compiler asks for it). Pure data.
 */
import { EXIT, NbdeltaError, asNbdeltaError } from '../device/errors.js'
import { DELTA_COMMANDS } from './table-delta.js'
import { GROUP_COMMANDS } from './table-group.js'
import { MIRROR_COMMANDS } from './table-mirror.js'
import { REPLICA_COMMANDS } from './table-replica.js'
import { SERVER_COMMANDS } from './table-server.js'
import { SNAPSHOT_COMMANDS } from './table-snapshot.js'
import { VOLUME_COMMANDS } from './table-volume.js'
import type { Command } from './command.js'
import type { Parameter } from './options.js'

const TABLE = [
  ...VOLUME_COMMANDS, ...SNAPSHOT_COMMANDS, ...GROUP_COMMANDS, ...DELTA_COMMANDS, ...MIRROR_COMMANDS,
  ...REPLICA_COMMANDS,
  ...SERVER_COMMANDS,
] as const
export const COMMANDS: readonly Command[] = TABLE

export const NOUNS: Readonly<Record<string, string>> = {
  volume: 'virtual disks: create, list, show, resize, set-budget, import, export, reopen, delete, promote',
  snapshot: 'content kept as of an instant: create, list, show, rename, diff, restore, clone, pin, unpin, delete',
  group: 'volumes with snapshots of one instant: create, list, show, snapshot, restore, delete',
  schedule: 'snapshots by the clock: set, show, clear',
  delta: 'what changed, as a file: export, import, merge, verify',
  mirror: 'copies of a volume elsewhere, kept up: create, list, show, sync, pause, resume, split, resync, verify, delete',
  replica: 'volumes that mirrors of other servers keep up: list, verify, promote, forget',
  export: 'what NBD clients can attach: list, hide, unhide, kick',
  client: 'connections of NBD clients: list, kick',
  job: 'imports, exports, restores in the background: list, show, cancel',
}

/** Accepted by every command, before or behind its name. */
export const GLOBAL_OPTIONS: readonly Parameter[] = [
  { name: 'store', type: 'path', value: 'DIR', complete: 'directory',
    help: 'directory of the store; also the environment variable NBDELTA_STORE' },
  { name: 'control', type: 'path', value: 'PATH', complete: 'file',
    help: 'control socket; control.sock in the store if not given' },
  { name: 'json', type: 'bool', default: false,
    help: 'print the result as one JSON document; errors and progress as JSON lines on standard error' },
  { name: 'help', type: 'bool', default: false, short: 'h', help: 'show help' },
]

type Row = typeof TABLE[number]
type RemoteRow = Extract<Row, { readonly remote: true }>
type MethodOf<R> = R extends { readonly noun: infer N extends string, readonly verb: infer V extends string }
  ? (V extends '' ? N : `${N}.${V}`) : never
/** Names of the JSON-RPC methods: `volume.create`, `status`. */
export type Method = MethodOf<RemoteRow>
type RowOf<M extends Method> = RemoteRow extends infer R ? R extends RemoteRow ? (MethodOf<R> extends M ? R : never) : never
  : never

type Camel<S extends string> = S extends `${infer A}-${infer B}` ? `${A}${Capitalize<Camel<B>>}` : S
type Numeric = 'size' | 'rate' | 'duration' | 'int'
type One<P> = P extends { readonly choices: readonly (infer C)[] } ? C : P extends { readonly type: Numeric } ? number
  : P extends { readonly type: 'bool' } ? boolean : string
type ValueOf<P> = P extends { readonly repeat: true } ? One<P>[] : One<P>
type Given<P> = P extends { readonly required: true } | { readonly default: unknown } ? P : never
type NameOf<P> = P extends { readonly name: infer N extends string } ? Camel<N> : never
type ParametersOf<R extends Command> = R['positional'][number] | R['options'][number]
type Values<P> = { readonly [K in Given<P> as NameOf<K>]: ValueOf<K> }
  & { readonly [K in Exclude<P, Given<P>> as NameOf<K>]?: ValueOf<K> | undefined }
/** Arguments of a method as its handler gets them: judged, defaults filled in. */
export type ArgumentsOf<M extends Method> = Values<ParametersOf<RowOf<M>>>
/**
 * What the mutex of a serialised command is for: the volume or group that its first argument names. Of several mirrors it is
 * their list; what overlaps takes turns below, mirror by mirror.
 */
export function serialKey({ noun, positional: [first] }: Command, args: Readonly<Record<string, unknown>>): string {
  return `${noun === 'group' || noun === 'mirror' ? noun : 'volume'} ${String(args[first!.name])}`
}

/** Arguments of `nbdelta serve`. */
export type ServeArguments = Values<ParametersOf<Extract<Row, { readonly noun: 'serve' }>>>

export function methodName(command: Command): string {
  return command.verb === '' ? command.noun : `${command.noun}.${command.verb}`
}

/** As typed: `volume create`. */
export function commandName(command: Command): string {
  return command.verb === '' ? command.noun : `${command.noun} ${command.verb}`
}

// What the command line needs of the lower floors comes through here: it imports the table, the options and the client only.
export { EXIT, NbdeltaError, asNbdeltaError }
export { EXIT_MEANING } from './command.js'
export type { Command, Field, Result } from './command.js'
export type { JobRow } from './admin.js'
export type { DeltaRow } from './table-delta.js'
