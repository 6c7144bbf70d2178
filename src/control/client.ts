/**
 * Client of the control socket: many calls at once over one connection, progress by callback.
 *
 * Every failure is a NbdeltaError with the server's own code, message and hint; a server that is not there, or goes away before
 * it has answered, is `unreachable`.
 */
import { connect } from 'node:net'
import { NbdeltaError } from '../device/errors.js'
import { LineReader } from '../../native-free/line-reader.js'
import { RESPONSE_BYTES_MAX, encodeRequest, errorOf } from './rpc.js'
import type { Socket } from 'node:net'
import type { JobRow } from './admin.js'
import type { RpcFault } from './rpc.js'

/** A healthy server accepts within milliseconds even when its event loop is busy. */
const CONNECT_MS = 5000

interface Pending {
  readonly resolve: (result: unknown) => void
  readonly reject: (error: NbdeltaError) => void
  readonly onProgress: ((row: JobRow) => void) | undefined
}

export interface ControlClient {
  /** Resolves with the command's result. */
  call(method: string, params: Readonly<Record<string, unknown>>, onProgress?: (row: JobRow) => void): Promise<unknown>
  close(): void
}

/** @throws NbdeltaError unreachable, denied */
export async function connectControl(path: string): Promise<ControlClient> {
  const socket = await open(path)
  const pending = new Map<number, Pending>()
  const reader = new LineReader(RESPONSE_BYTES_MAX)
  let lastId = 0
  const fail = (error: NbdeltaError): void => {
    for (const call of pending.values()) call.reject(error)
    pending.clear()
  }
  socket.on('data', chunk => {
    for (const line of reader.push(chunk)) {
      const wrong = line === 'too-long' ? 'the answer is too long' : receive(line, pending, fail)
      if (!wrong) continue
      fail(new NbdeltaError('unreachable', `what answers at ${path} is no nbdelta server: ${wrong}`))
      socket.destroy()
      return
    }
  })
  socket.on('error', () => {})
  socket.on('close', () => {
    fail(new NbdeltaError('unreachable', 'the server went away before it answered',
      { hint: 'see its log; what it acknowledged is kept' }))
  })
  return {
    call: (method, params, onProgress) => new Promise((resolve, reject) => {
      if (socket.destroyed) { reject(new NbdeltaError('unreachable', 'the connection to the server is closed')); return }
      const id = ++lastId
      pending.set(id, { resolve, reject, onProgress })
      socket.write(encodeRequest({ id, method, params }))
    }),
    close: () => { socket.end(); socket.destroySoon() },
  }
}

/** Handles one line of the server; returns what is wrong with it, if anything. */
function receive(line: string, pending: Map<number, Pending>, fail: (error: NbdeltaError) => void): string | undefined {
  let message: { id?: number | null, result?: unknown, error?: RpcFault, method?: string, params?: { id: number, job: JobRow } }
  try { message = JSON.parse(line) as typeof message } catch { return 'it does not speak JSON' }
  if (message.method !== undefined) {
    if (message.method === 'progress' && message.params) pending.get(message.params.id)?.onProgress?.(message.params.job)
    return undefined
  }
  // A fault without an id is about the connection as a whole.
  if (message.error && message.id == null) { fail(errorOf(message.error)); return undefined }
  const call = pending.get(message.id as number)
  if (!call) return 'it answers what was not asked'
  pending.delete(message.id as number)
  if (message.error) call.reject(errorOf(message.error))
  else call.resolve(message.result)
  return undefined
}

function open(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path)
    const timer = setTimeout(() => {
      socket.destroy()
      reject(new NbdeltaError('unreachable', `the server at ${path} does not accept within ${CONNECT_MS / 1000} s`))
    }, CONNECT_MS)
    socket.once('connect', () => { clearTimeout(timer); socket.removeAllListeners('error'); resolve(socket) })
    socket.once('error', error => { clearTimeout(timer); reject(connectError(path, error)) })
  })
}

function connectError(path: string, error: NodeJS.ErrnoException): NbdeltaError {
  if (error.code === 'EACCES' || error.code === 'EPERM') {
    return new NbdeltaError('denied', `no permission to use the control socket ${path}`,
      { hint: 'run this as the user that runs the server, or with sudo', cause: error })
  }
  const reason = error.code === 'ENOENT' ? ''
    : error.code === 'ECONNREFUSED' ? ' (it was killed or is starting)' : `: ${error.message}`
  return new NbdeltaError('unreachable', `no server answers at ${path}${reason}`,
    { hint: 'start one with: nbdelta serve --store DIR', cause: error })
}
