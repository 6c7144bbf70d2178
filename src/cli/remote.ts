/** A command that a running server carries out: find its socket, ask, show progress, pass Ctrl-C on as a cancellation. */
import { join, resolve } from 'node:path'
import { connectControl } from '../control/client.js'
import { NbdeltaError, methodName } from '../control/commands.js'
import { isUri, wireName } from '../control/options.js'
import { createProgress } from './progress.js'
import { openStreamSocket } from './stream-socket.js'
import type { ControlClient } from '../control/client.js'
import type { Command } from '../control/commands.js'
import type { Globals } from './program.js'

const CONTROL_SOCKET = 'control.sock'
/** Standard input or output in the place of a file. */
const STANDARD = '-'

/** Where the server listens: --control, else in --store, else in NBDELTA_STORE. */
export function controlPath(globals: Globals): string {
  if (globals.control !== undefined) return globals.control
  const store = globals.store ?? process.env.NBDELTA_STORE
  if (!store) {
    throw new NbdeltaError('bad-argument', 'which server? no store is named',
      { hint: 'give --store DIR or --control PATH, or set NBDELTA_STORE' })
  }
  return join(store, CONTROL_SOCKET)
}

/**
 * What is sent: paths absolute, since the server has another working directory, and nothing that concerns the command line alone.
 */
function wireArguments(command: Command, args: Record<string, unknown>, stream: string | undefined): Record<string, unknown> {
  const sent = [...command.positional, ...command.options].filter(parameter => !parameter.local)
  return Object.fromEntries(sent.flatMap(({ name, type }): [string, unknown][] => {
    const value = args[wireName(name)]
    if (value === undefined) return []
    if (type === 'stream' && value === STANDARD) return [[wireName(name), stream]]
    const isPath = type === 'path' || type === 'stream' || type === 'image' && !isUri(value as string)
    return [[wireName(name), isPath ? resolve(value as string) : value]]
  }))
}

function usesStandard(command: Command, args: Record<string, unknown>): boolean {
  return command.positional.some(({ name, type }) => type === 'stream' && args[wireName(name)] === STANDARD)
}

/**
 * The answer; undefined when standard output holds a stream instead.
 * @throws NbdeltaError: the server's own, or unreachable, denied
 */
export async function askServer(command: Command, args: Record<string, unknown>, globals: Globals): Promise<unknown> {
  const client = await connectControl(controlPath(globals)).catch((error: unknown) => { throw withStore(error, globals) })
  try {
    if (usesStandard(command, args)) return await askWithStream(client, command, args, globals)
    const params = wireArguments(command, args, undefined)
    return command.longRunning ? await follow(client, command, params, globals) : await client.call(methodName(command), params)
  } finally {
    client.close()
  }
}

async function askWithStream(
  client: ControlClient, command: Command, args: Record<string, unknown>, globals: Globals,
): Promise<unknown> {
  if (args.wait === false) throw new NbdeltaError('bad-argument', '- needs this command to stay: leave --no-wait out')
  const direction = command.verb === 'import' ? 'in' : 'out'
  const stream = await openStreamSocket(direction)
  try {
    const result = await follow(client, command, wireArguments(command, args, stream.address), globals)
      .catch(async (error: unknown) => { await stream.settled(false); throw error })
    await stream.settled(true)
    return direction === 'in' ? result : undefined
  } finally {
    await stream.close()
  }
}

function withStore(error: unknown, globals: Globals): unknown {
  if (!(error instanceof NbdeltaError) || error.code !== 'unreachable') return error
  const store = globals.store ?? process.env.NBDELTA_STORE ?? 'DIR'
  return new NbdeltaError(error.code, error.message, { hint: `start one with: nbdelta serve --store ${store}`, cause: error })
}

async function follow(
  client: ControlClient, command: Command, args: Record<string, unknown>, globals: Globals,
): Promise<unknown> {
  const progress = createProgress({ json: globals.json, stream: process.stderr })
  let job: number | undefined
  let interrupts = 0
  const cancel = (): void => { if (job !== undefined) void client.call('job.cancel', { id: job }).catch(() => {}) }
  const onInterrupt = (): void => {
    // Before the job has a number nothing can be cancelled by it: that is done when it has one, for a restore does not end with
    // who waits for it. The second Ctrl-C waits no more; with --dry-run there will be no job.
    if (++interrupts > 1 || args.dryRun === true) client.close()
    else cancel()
  }
  process.on('SIGINT', onInterrupt)
  try {
    return await client.call(methodName(command), args, row => {
      const isFirst = job === undefined
      job = row.id
      if (isFirst && interrupts > 0) cancel()
      progress.update(row)
    })
  } catch (error) {
    throw interrupts > 0 ? interruption(command.verb, error, args.dryRun === true, interrupts > 1) : error
  } finally {
    progress.stop()
    process.off('SIGINT', onInterrupt)
  }
}

/** What ended a command after Ctrl-C. Whatever else has become of its job is told as it is. */
function interruption(verb: string, error: unknown, isDryRun: boolean, isLeft: boolean): unknown {
  if (isDryRun) return new NbdeltaError('cancelled', `${verb} cancelled`, { cause: error })
  if (isLeft) {
    return new NbdeltaError('cancelled', `nobody waits for this ${verb} any more; it may go on`,
      { hint: 'see: nbdelta job list', cause: error })
  }
  if (!(error instanceof NbdeltaError) || error.code !== 'cancelled') return error
  return new NbdeltaError('cancelled', `${verb} cancelled`, { hint: error.hint, cause: error })
}
