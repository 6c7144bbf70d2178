/**
 * Listeners: one net.Server per address. A unix socket is created with its mode (0600 by default: there the file is the
 * access control, T1); a socket file that a killed server left behind is replaced, one that answers is not.
 */
import { chmodSync, lstatSync, unlinkSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { asNbdeltaError, NbdeltaError } from '../device/errors.js'
import type { AddressInfo, Server, Socket } from 'node:net'

export type ListenAddress = { readonly path: string, readonly mode?: number } | { readonly host: string, readonly port: number }
export type BoundAddress = { readonly path: string } | { readonly host: string, readonly port: number }

const DEFAULT_MODE = 0o600
const KEEPALIVE_MS = 60_000

export interface Listener {
  readonly address: BoundAddress
  close(): Promise<void>
}

/**
 * Rejects with `busy` when the address is taken, `denied` or `io` otherwise. `failed` hears of later errors: an accept
 * that finds no descriptor or memory left, after which listening goes on.
 */
export async function openListener(
  address: ListenAddress, accept: (socket: Socket) => void, failed: (error: Error) => void,
): Promise<Listener> {
  const server = createServer({
    pauseOnConnect: true, allowHalfOpen: true, noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEPALIVE_MS,
  })
  server.on('connection', accept)
  try {
    await bind(server, address)
  } catch (error) {
    const taken = (error as NodeJS.ErrnoException).code === 'EADDRINUSE'
    if (!taken || !('path' in address) || !isSocket(address.path) || await answers(address.path)) {
      throw asNbdeltaError(error, `listen on ${describe(address)}`)
    }
    unlinkSync(address.path)
    await bind(server, address).catch((again: unknown) => { throw asNbdeltaError(again, `listen on ${describe(address)}`) })
  }
  server.on('error', failed)
  return { address: boundAddress(server, address), close: () => new Promise((resolve) => { server.close(() => resolve()) }) }
}

function describe(address: ListenAddress): string {
  return 'path' in address ? `unix:${address.path}` : `tcp:${address.host}:${address.port}`
}

function bind(server: Server, address: ListenAddress): Promise<void> {
  return new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    const bound = (): void => {
      server.off('error', reject)
      resolve()
    }
    if (!('path' in address)) {
      server.listen(address.port, address.host, bound)
      return
    }
    // Binding happens inside listen(): with this umask there is no moment in which others could connect.
    const umask = process.umask(0o177)
    try {
      server.listen(address.path, bound)
    } finally {
      process.umask(umask)
    }
  }).then(() => {
    if ('path' in address && !address.path.startsWith('\0')) chmodSync(address.path, address.mode ?? DEFAULT_MODE)
  })
}

/** A plain file at this place is somebody's data, and never replaced. */
function isSocket(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isSocket() === true
}

/** Whether somebody listens on this socket file. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path, () => {
      probe.destroy()
      resolve(true)
    })
    probe.on('error', (error: NodeJS.ErrnoException) => resolve(error.code !== 'ECONNREFUSED'))
  })
}

function boundAddress(server: Server, address: ListenAddress): BoundAddress {
  if ('path' in address) return { path: address.path }
  const bound = server.address() as AddressInfo | null
  if (bound === null) throw new NbdeltaError('internal', 'a listening server has no address')
  return { host: bound.address, port: bound.port }
}
