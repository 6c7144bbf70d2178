/**
 * The command line: argv -> one request (or one local command) -> text or JSON -> exit code.
 *
 * Standard output carries results only, standard error everything else. A failure is one line, a hint, and the exit code
 * of the error table; with --json one JSON line. Stack traces appear only with NBDELTA_DEBUG set or --log-level debug.
 * `serve` is the roof's: it comes in by argument.
 */
import { setImmediate } from 'node:timers/promises'
import { connectControl } from '../control/client.js'
import { EXIT, NbdeltaError, asNbdeltaError } from '../control/commands.js'
import { shorten } from '../control/options.js'
import { COMPLETION_SCRIPTS, complete, encodeCompletion } from './completion.js'
import { parseArguments } from './program.js'
import { followLocal } from './progress.js'
import { askServer, controlPath } from './remote.js'
import { renderText } from './render.js'
import type { ServeArguments } from '../control/commands.js'
import type { Candidate, Lookup } from './completion.js'
import type { Globals, Invocation } from './program.js'

/** A TAB must not hang: what is not known by then is not offered. */
const LOOKUP_MS = 1000

export interface LocalControl {
  readonly signal: AbortSignal
  readonly onProgress: (doneBytes: number, totalBytes: number) => void
}

interface CliHooks {
  readonly version: string
  /** Runs the server until it has stopped; resolves with the exit code. */
  readonly serve: (
    options: ServeArguments & { readonly store: string, readonly control: string | undefined, readonly json: boolean },
  ) => Promise<number>
  /** Runs a command that needs files only: `delta merge`, `delta verify`. */
  readonly local: (verb: string, args: Record<string, unknown>, control: LocalControl) => Promise<object | undefined>
}

/** Runs one command line (without `node` and script name) and resolves with its exit code. */
export async function runCli(argv: readonly string[], hooks: CliHooks): Promise<number> {
  let lost: unknown
  // A reader that has seen enough (`| head`) is no failure.
  process.stdout.on('error', error => { if ((error as NodeJS.ErrnoException).code !== 'EPIPE') lost ??= error })
  if (argv[0] === '__complete') {
    print(encodeCompletion(await complete(argv.slice(1), lookup)))
    return EXIT.ok
  }
  const json = argv.includes('--json')
  try {
    const invocation = parseArguments(argv)
    if (invocation.kind === 'help') print(invocation.text.trimEnd())
    else if (invocation.command.noun === 'serve') return await serve(invocation, hooks)
    else await run(invocation, hooks)
    // What standard output did not take is known in the next turn only.
    await setImmediate()
    if (lost === undefined) return EXIT.ok
    const { code, message } = asNbdeltaError(lost, 'write to standard output')
    const hint = 'the command itself was carried out; what it printed is incomplete'
    throw new NbdeltaError(code, message, { hint, cause: lost })
  } catch (error) {
    return report(error, json, argv)
  }
}

type Typed = Extract<Invocation, { kind: 'command' }>

function serve({ args, globals }: Typed, hooks: CliHooks): Promise<number> {
  return hooks.serve({ ...args as unknown as ServeArguments, ...globals, store: storeOf(globals) })
}

async function run({ command, args, globals }: Typed, hooks: CliHooks): Promise<void> {
  if (command.noun === 'completion') { print(COMPLETION_SCRIPTS[args.shell as string]!.trimEnd()); return }
  if (command.noun === 'version') {
    const versions = { nbdelta: hooks.version, node: process.versions.node }
    print(globals.json ? JSON.stringify(versions, null, 2) : `nbdelta ${versions.nbdelta} (Node.js ${versions.node})`)
    return
  }
  const result = command.remote ? await askServer(command, args, globals)
    : await followLocal(command.verb, globals.json, control => hooks.local(command.verb, args, control))
  // What the command wrote to standard output is its answer.
  if (result === undefined) return
  const text = globals.json ? JSON.stringify(result, null, 2) : renderText(command, result, args.quiet === true)
  if (text !== '') print(text)
}

function storeOf(globals: Globals): string {
  const store = globals.store ?? process.env.NBDELTA_STORE
  if (!store) {
    throw new NbdeltaError('bad-argument', '--store is missing: which directory is the store?',
      { hint: 'nbdelta serve --store DIR' })
  }
  return store
}

function print(text: string): void { process.stdout.write(`${text}\n`) }

function report(error: unknown, json: boolean, argv: readonly string[]): number {
  const known = error instanceof NbdeltaError ? error
    : new NbdeltaError('internal', `a bug in nbdelta: ${error instanceof Error ? error.message : String(error)}`,
      { cause: error, hint: 'run it again with NBDELTA_DEBUG=1 and report what it prints' })
  const { code, message, exitCode: exit } = known
  const hint = known.hint ?? HINTS[code]
  if (json) process.stderr.write(`${JSON.stringify({ error: { code, message, hint: hint ?? null, exit } })}\n`)
  else process.stderr.write(`nbdelta: ${shorten(message, 2000)}\n${hint ? `hint: ${shorten(hint, 2000)}\n` : ''}`)
  const debug = process.env.NBDELTA_DEBUG
    || argv.some((word, index) => word === '--log-level' && /^(debug|trace)$/.test(argv[index + 1] ?? ''))
  if (debug) process.stderr.write(`${known.stack}\n${known.cause instanceof Error ? `caused by: ${known.cause.stack}\n` : ''}`)
  return exit
}

/** What to do when the error itself does not say. */
const HINTS: Readonly<Partial<Record<NbdeltaError['code'], string>>> = {
  'no-space': 'make room on that disk and run it again; nothing was left half done',
  'damaged': 'the log of the server tells more; keep a copy of the store before anything else',
  'newer-format': 'use the version of nbdelta that wrote it, or a newer one',
  'denied': 'run it as the user that owns the files, or with sudo',
}

const QUESTIONS = {
  volume: ['volume.list', 'name'], point: ['snapshot.list', 'name'], group: ['group.list', 'name'],
  mirror: ['mirror.list', 'name'], client: ['client.list', 'id'], job: ['job.list', 'id'],
} as const

/** Names out of a running server, for completion; none when it cannot be asked. */
const lookup: Lookup = async (kind, where, volume) => {
  const [method, key] = QUESTIONS[kind]
  try {
    const client = await connectControl(controlPath({ ...where, json: false }))
    // Hanging up makes the call fail.
    const timer = setTimeout(() => { client.close() }, LOOKUP_MS)
    try {
      const rows = await client.call(method, kind === 'point' ? { volume } : {}) as Record<string, unknown>[]
      return rows.map((row): Candidate =>
        ({ value: String(row[key]), help: String(row.description ?? row.export ?? row.kind ?? row.volume ?? '') }))
    } finally {
      clearTimeout(timer)
      client.close()
    }
  } catch {
    return []
  }
}
