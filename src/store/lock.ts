/**
 * StoreLock: one server for a store. The lock belongs to our open file description of store.lock, so it ends with the
 * process, whatever ends it, and what a killed server leaves behind opens at once; nobody ever judges a pid.
 *
 * Node has no flock(2), so util-linux's `flock` locks the description it inherits from us and exits; the lock stays with
 * ours. An abstract unix socket named after the file's device and inode is taken as well. Where the tool is missing it
 * stands alone, with a warning: it excludes, with or without the tool, only those in the same network namespace.
 *
 * The file says who holds the lock, for the message only. It is never removed: somebody may be about to lock it.
 */
import { spawn } from 'node:child_process'
import { constants } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { createServer, type Server } from 'node:net'
import { setTimeout } from 'node:timers/promises'
import { type Clock, systemClock } from '../device/clock.js'
import { asNbdeltaError, NbdeltaError } from '../device/errors.js'
import { type Logger, silentLogger } from '../device/logger.js'
import { explain } from '../device/open-file.js'

const FLOCK = 'flock'
/** What flock exits with when somebody else holds the lock. */
const FLOCK_BUSY = 1
/** Where the child finds the descriptor: behind stdin, stdout and stderr. */
const CHILD_DESCRIPTOR = 3
/** 200 ms in all. */
const BIND_ATTEMPTS = 11
const BIND_PAUSE_MS = 20
/** Longer than any pid and date. */
const HOLDER_BYTES_MAX = 128

export interface StoreLock {
  readonly kind: 'flock' | 'socket'
  /** Why the file does not say who holds it: a full disk has no room for that, and must be opened to be emptied. */
  readonly unsigned: unknown
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
    if (taken === 'busy') throw await inUse(handle, path)
    const server = await bindPatiently(handle, path, taken === 'taken' ? BIND_ATTEMPTS : 1)
    if (server === 'busy') throw await inUse(handle, path)
    if (taken === 'no-tool') {
      logger.warn({ path }, `no '${tool}' here (Debian: util-linux): other containers will not see the store's lock`)
    }
    const unsigned = await sign(handle, clock).catch((error: unknown) => error)
    let released: Promise<void> | undefined
    return { kind: taken === 'taken' ? 'flock' : 'socket', unsigned, release: () => released ??= release(handle, server) }
  } catch (error) {
    await handle.close()
    throw asNbdeltaError(error, `lock ${path}`)
  }
}

/** The file last: whoever then has it finds the socket free. */
async function release(handle: FileHandle, server: Server): Promise<void> {
  await new Promise<void>(resolve => { server.close(() => resolve()) })
  await handle.close()
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

/** The kernel may have closed a dying server's file, but not yet its socket. */
async function bindPatiently(handle: FileHandle, path: string, attempts: number): Promise<Server | 'busy'> {
  for (let left = attempts - 1; ; left--) {
    const server = await bindSocket(handle, path)
    if (server !== 'busy' || left === 0) return server
    await setTimeout(BIND_PAUSE_MS)
  }
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
