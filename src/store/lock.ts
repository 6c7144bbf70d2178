/**
 * StoreLock: one server for a store. The lock belongs to our open file description of store.lock, so it ends with the
 * process, whatever ends it, and what a killed server leaves behind opens at once; nobody ever judges a pid.
 *
 * Node has no flock(2), so util-linux's `flock` locks the description it inherits from us and exits; the lock stays with
 * ours. Where the tool is missing, an abstract unix socket named after the file's device and inode stands in, with a
 * warning: it excludes only those who do the same in the same network namespace.
 *
 * The file says who holds the lock, for the message only. It is never removed: somebody may be about to lock it.
 */
import { spawn } from 'node:child_process'
import { constants } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { createServer, type Server } from 'node:net'
import { type Clock, systemClock } from '../device/clock.js'
import { asNbdeltaError, NbdeltaError } from '../device/errors.js'
import { type Logger, silentLogger } from '../device/logger.js'
import { explain } from '../device/open-file.js'

const FLOCK = 'flock'
/** What flock exits with when somebody else holds the lock. */
const FLOCK_BUSY = 1
/** Where the child finds the descriptor: behind stdin, stdout and stderr. */
const CHILD_DESCRIPTOR = 3
/** Longer than any pid and date. */
const HOLDER_BYTES_MAX = 128

export interface StoreLock {
  readonly kind: 'flock' | 'socket'
  /** Idempotent. */
  release(): Promise<void>
}

interface LockOptions {
  /** The lock file; made when it is not there. */
  readonly path: string
  readonly clock?: Clock
  readonly logger?: Logger
  /** Another name or path for util-linux's flock. */
  readonly tool?: string
}

/** Takes the lock or fails at once. Errors: busy (naming the holder), denied, not-found, no-space, io. */
export async function lockStore(options: LockOptions): Promise<StoreLock> {
  const { path, clock = systemClock, logger = silentLogger, tool = FLOCK } = options
  const handle = await open(path, constants.O_RDWR | constants.O_CREAT, 0o600)
    .catch((error: unknown) => { throw explain(error, path, 'open') })
  try {
    const taken = await flock(tool, handle, path)
    const server = taken === 'no-tool' ? await bindSocket(handle, path) : undefined
    if (taken === 'busy' || server === 'busy') throw await inUse(handle, path)
    if (server) logger.warn({ path }, `no '${tool}' here (Debian: util-linux): other containers will not see the store's lock`)
    await sign(handle, clock)
    let released: Promise<void> | undefined
    return { kind: server ? 'socket' : 'flock', release: () => released ??= release(handle, server) }
  } catch (error) {
    await handle.close()
    throw asNbdeltaError(error, `lock ${path}`)
  }
}

async function release(handle: FileHandle, server: Server | undefined): Promise<void> {
  await handle.close()
  if (server) await new Promise<void>(resolve => { server.close(() => resolve()) })
}

/** Short options, which busybox knows as well. */
function flock(tool: string, handle: FileHandle, path: string): Promise<'taken' | 'busy' | 'no-tool'> {
  return new Promise((resolve, reject) => {
    const child = spawn(tool, ['-n', '-x', String(CHILD_DESCRIPTOR)], { stdio: ['ignore', 'ignore', 'pipe', handle.fd] })
    let complaint = ''
    child.stderr!.on('data', (chunk: Buffer) => { complaint += chunk.toString() })
    child.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT' || error.code === 'EACCES') resolve('no-tool')
      else reject(error)
    })
    child.on('close', code => {
      if (code === 0) resolve('taken')
      else if (code === FLOCK_BUSY) resolve('busy')
      else reject(new NbdeltaError('io', `lock ${path}: ${tool} ended with ${code}: ${complaint.trim()}`))
    })
  })
}

async function bindSocket(handle: FileHandle, path: string): Promise<Server | 'busy'> {
  const { dev, ino } = await handle.stat()
  return new Promise((resolve, reject) => {
    const server = createServer(socket => { socket.destroy() })
    server.unref()
    server.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE') resolve('busy')
      else reject(asNbdeltaError(error, `lock ${path}`))
    })
    server.listen({ path: `\0nbdelta-store-${dev}-${ino}` }, () => resolve(server))
  })
}

/** Says in the file who we are. Only for the message of the next one, hence not synced. */
async function sign(handle: FileHandle, clock: Clock): Promise<void> {
  await handle.truncate(0)
  await handle.write(`${process.pid} ${clock.wallTime().toISOString()}\n`, 0)
}

async function inUse(handle: FileHandle, path: string): Promise<NbdeltaError> {
  const bytes = Buffer.alloc(HOLDER_BYTES_MAX)
  const { bytesRead } = await handle.read(bytes, 0, bytes.length, 0)
  const holder = /^(\d+) (\S+)\n/.exec(bytes.toString('latin1', 0, bytesRead))
  const who = holder ? `process ${holder[1]} since ${holder[2]}` : 'another process'
  const hint = 'stop that server, or give this one another --store'
  return new NbdeltaError('busy', `the store is in use by ${who} (${path})`, { hint })
}
