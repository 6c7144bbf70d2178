/**
 * The control socket: a unix socket of mode 0600, so the operating system decides who may administer.
 *
 * A socket file that nobody answers is the trace of a killed server and is replaced; one that somebody answers is refused,
 * and so is anything that is not a socket. The mode is set before the first connection can be made: the file is born under a
 * strict umask, not changed afterwards.
 */
import { lstat, unlink } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import { NbdeltaError, asNbdeltaError } from '../device/errors.js'
import { Connection, hangUp } from './connection.js'
import { Handlers } from './handlers.js'
import { judgeSocketPath } from './options.js'
import { encodeFault, faultOf } from './rpc.js'
import type { Server, Socket } from 'node:net'
import type { Logger } from '../device/logger.js'
import type { ServerAdmin } from './admin.js'
import type { JobsClock } from './jobs.js'

/**
 * Each may hold 64 KiB of input, 1 MiB of output and 32 requests: some 140 MiB were all hostile, and only the owner can connect.
 */
const CONNECTIONS_MAX = 128
const SOCKET_UMASK = 0o177
/** A live server accepts at once; what takes longer is as good as stuck, and not ours to replace. */
const PROBE_MS = 2000

export interface ControlServer {
  readonly path: string
  /** Refuse changes, cancel transfers and wait for their end; looking still works. */
  stop(): Promise<void>
  /** Idempotent: answers what is queued, closes, takes the socket file away. */
  close(): Promise<void>
}

/**
 * Opens the control socket.
 * @throws NbdeltaError busy: a server answers there; exists: something else is there; denied, not-found: the directory
 */
export async function createControlServer(options: {
  path: string, admin: ServerAdmin, clock: JobsClock, logger: Logger,
}): Promise<ControlServer> {
  const { path, admin, clock, logger } = options
  const handlers = new Handlers(admin, clock)
  const connections = new Set<Connection>()
  const server = createServer({ allowHalfOpen: true }, socket => {
    if (connections.size >= CONNECTIONS_MAX) { refuse(socket); return }
    const connection = new Connection(socket, {
      run: (method, args, call) => handlers.run(method, args, call),
      onBug: (error, method) => logger.error({ err: error, method }, 'a command failed by a bug'),
      onDone: (method, error) => {
        if (error) logger.debug({ method, code: error.code, reason: error.message }, 'command refused')
        else logger.debug({ method }, 'command done')
      },
    })
    connections.add(connection)
    socket.on('close', () => connections.delete(connection))
  })
  await listenAt(server, path)
  server.on('error', error => logger.error({ err: error }, 'the control socket failed'))
  let closing: Promise<void> | undefined
  return {
    path,
    stop: () => handlers.stop(),
    close: () => closing ??= new Promise(resolve => {
      server.close(() => { resolve() })
      for (const connection of connections) connection.close()
    }),
  }
}

/** Takes the place of a control socket, and gives it back when it is closed. Errors: as createControlServer. */
export async function tryControlSocket(path: string): Promise<{ close(): Promise<void> }> {
  const server = createServer(socket => { socket.destroy() })
  await listenAt(server, path)
  return { close: () => new Promise(resolve => { server.close(() => { resolve() }) }) }
}

async function listenAt(server: Server, path: string): Promise<void> {
  judgeSocketPath(path)
  await clearStale(path)
  await listen(server, path)
}

function refuse(socket: Socket): void {
  socket.on('error', () => {})
  const full = new NbdeltaError('busy', `${CONNECTIONS_MAX} connections to the control socket are open already`)
  hangUp(socket, encodeFault(null, faultOf(full)))
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', error => { reject(asNbdeltaError(error, `open the control socket ${path}`)) })
    // bind(2) happens inside listen(), so the umask need not stay longer than the call.
    const before = process.umask(SOCKET_UMASK)
    try { server.listen(path, () => { server.removeAllListeners('error'); resolve() }) } finally { process.umask(before) }
  })
}

async function clearStale(path: string): Promise<void> {
  let found
  try { found = await lstat(path) } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw asNbdeltaError(error, `look at ${path}`)
  }
  if (!found.isSocket()) {
    throw new NbdeltaError('exists', `${path} is there and is no socket`, { hint: 'choose another path with --control' })
  }
  if (await answers(path)) {
    throw new NbdeltaError('busy', `another server answers at ${path}`,
      { hint: 'stop it first, or choose another path with --control' })
  }
  try { await unlink(path) } catch (error) { throw asNbdeltaError(error, `replace the stale socket ${path}`) }
}

function answers(path: string): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect(path)
    const timer = setTimeout(() => { socket.destroy(); resolve(true) }, PROBE_MS)
    socket.on('connect', () => { clearTimeout(timer); socket.destroy(); resolve(true) })
    socket.on('error', error => { clearTimeout(timer); resolve((error as NodeJS.ErrnoException).code !== 'ECONNREFUSED') })
  })
}
