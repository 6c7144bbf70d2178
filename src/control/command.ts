/**
 * The shape of one row of the command table, and the parameters that several rows share.
 *
 * A row says everything about a command that is not its doing: how it is typed, what it answers, how it can end.
 * Parser, help, completion, server-side validation, text output and docs/cli.md are all read off the row.
 */
import { EXIT } from '../device/errors.js'
import type { Parameter } from './options.js'

/** How a field of a result is shown in text; in JSON it is always the plain value. */
type FieldType = 'string' | 'bytes' | 'int' | 'bool' | 'time' | 'seconds' | 'milliseconds' | 'lines' | 'pins' | 'labels'
  | 'ranges' | 'verdicts' | 'space' | 'spaces' | 'notes'

export interface Field {
  readonly type: FieldType
  readonly help: string
  /** Heading of its column in a list; without one it is shown by `show` and JSON only. */
  readonly column?: string
}

export interface Result {
  /** A list (JSON array, text table) or a single object (text: one line per field). */
  readonly many: boolean
  readonly fields: Readonly<Record<string, Field>>
  /** Which field `--quiet` prints, one a line. */
  readonly key?: string
  /** What is said in text instead of all fields; names of fields stand in braces. */
  readonly sentence?: string
}

type ExitName = keyof typeof EXIT

export interface Command {
  readonly noun: string
  /** Empty for commands of one word: `status`. */
  readonly verb: string
  readonly summary: string
  readonly description: string
  readonly positional: readonly Parameter[]
  readonly options: readonly Parameter[]
  readonly result: Result | null
  /** Asked of a running server over the control socket; the others run in the command line's own process. */
  readonly remote: boolean
  readonly longRunning?: boolean
  readonly destructive?: boolean
  /**
   * Commands with this set that name the same volume (or group) by their first argument run one after the other, in order of
   * arrival.
   */
  readonly serialised?: boolean
  readonly exits: readonly ExitName[]
  /** What follows `nbdelta`. */
  readonly examples: readonly string[]
}

/** What each way to end means; the `--help` pages and docs/cli.md print these lines. */
export const EXIT_MEANING: Readonly<Record<ExitName, string>> = {
  ok: 'done',
  failure: 'failed for a reason of no kind below',
  usage: 'the command line is not acceptable; nothing was tried',
  notFound: 'no such volume, snapshot, group, mirror, export, client, job or file',
  conflict: 'it exists already, or its state does not allow this',
  busy: 'somebody uses it: clients are attached, a job runs, a snapshot is pinned, or another server holds the store',
  noSpace: 'the disk or a limit is full',
  io: 'reading or writing failed',
  damaged: 'a file of the store does not check, or a newer version wrote it',
  unreachable: 'no server answers, or it is stopping',
  denied: 'permission is missing',
  bug: 'the server came upon a bug of its own and ended; the last line of its log tells more. It can be started again at once',
  interrupted: 'stopped by Ctrl-C or a signal, or cancelled',
}

export const VOLUME = {
  name: 'name', type: 'name', value: 'NAME', required: true, complete: 'volume', help: 'name of the volume',
} as const satisfies Parameter
/** The volume as first argument of commands about something it has. */
export const OF_VOLUME = {
  name: 'volume', type: 'name', value: 'VOLUME', required: true, complete: 'volume', help: 'name of the volume',
} as const satisfies Parameter
/** Behind OF_VOLUME; `VOLUME@NAME` may stand for the two. */
export const POINT = {
  name: 'name', type: 'name', value: 'NAME', required: true, complete: 'point', help: 'name of the snapshot or bookmark',
} as const satisfies Parameter
/** A name that is not there yet, so that nothing can be offered for it. */
export const NEW_NAME = { name: 'name', type: 'name', value: 'NAME', required: true } as const
export const RATE = {
  name: 'rate', type: 'rate', value: 'SIZE', minimum: 4096, help: 'copy at most so many bytes a second: 50MiB, 50MiB/s',
} as const satisfies Parameter
export const READ_RATE = { ...RATE, help: 'read at most so many bytes a second on each side: 50MiB, 50MiB/s' } as const
export const DRY_RUN = {
  name: 'dry-run', type: 'bool', default: false, help: 'say what would be done, do nothing',
} as const satisfies Parameter
export const WAIT = {
  name: 'wait', type: 'bool', default: true, help: 'print the job and return at once, instead of showing progress until its end',
} as const satisfies Parameter
export const QUIET = {
  name: 'quiet', type: 'bool', default: false, short: 'q', local: true, help: 'print names or ids only, one a line',
} as const satisfies Parameter

/** Exit codes that every command sent to a server can end with. */
export const REMOTE_EXITS = ['ok', 'failure', 'usage', 'unreachable', 'denied'] as const satisfies readonly ExitName[]
/** Of commands that change volumes or what they have. */
export const CHANGES = [...REMOTE_EXITS, 'notFound', 'conflict', 'busy', 'noSpace', 'io'] as const
