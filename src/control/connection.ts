/**
 * One connection to the control socket: lines in, answers out, in any order.
 *
 * A fault wall: whatever a peer sends harms its own connection only. Bounded on all sides: one line, IN_FLIGHT_MAX
 * requests, and an output queue; while that is full no further request is read, and progress, which the next one supersedes,
 * is dropped. A peer may half-close after its last request (`echo ... | nc -U`): it still gets its answers.
 */
import { NbdeltaError } from '../device/errors.js'
import { LineReader } from '../../native-free/line-reader.js'
import {
  REQUEST_BYTES_MAX, decodeRequest, encodeFault, encodeNotification, encodeResult, faultOf, lineTooLong, unknownMethod,
} from './rpc.js'
import { isMethod, validate } from './validate.js'
import type { Socket } from 'node:net'
import type { Call } from './handlers.js'
import type { RpcRequest } from './rpc.js'

/** Requests of one connection that run or wait. */
const IN_FLIGHT_MAX = 32
/** Output that waits for the peer; beyond it nothing more is read from it. Some 1,000 rows. */
const OUTPUT_BYTES_MAX = 1024 * 1024

/** How long a peer may take to read its last answer. */
const HANG_UP_MS = 1000

/**
 * Last words, then the end. What the peer still sends is read and thrown away meanwhile: a socket closed over unread
 * input resets, and the peer would lose the words.
 */
export function hangUp(socket: Socket, text = ''): void {
  socket.resume()
  socket.end(text)
  const timer = setTimeout(() => { socket.destroy() }, HANG_UP_MS).unref()
  socket.on('end', () => { socket.destroySoon() })
  socket.on('close', () => { clearTimeout(timer) })
}

interface ConnectionOptions {
  readonly run: (method: string, args: Record<string, unknown>, call: Call) => Promise<unknown>
  /** Something failed that is not the peer's doing. */
  readonly onBug: (error: unknown, method: string) => void
  readonly onDone: (method: string, error: NbdeltaError | undefined) => void
}

export class Connection {
  readonly #socket: Socket
  readonly #options: ConnectionOptions
  readonly #reader = new LineReader(REQUEST_BYTES_MAX)
  readonly #gone = new AbortController()
  /** Lines read while too much was in flight; at most what one chunk of the socket holds. */
  #waiting: string[] = []
  #inFlight = 0
  #ended = false

  constructor(socket: Socket, options: ConnectionOptions) {
    this.#socket = socket
    this.#options = options
    socket.on('data', chunk => { this.#data(chunk) })
    socket.on('drain', () => { this.#next() })
    socket.on('end', () => {
      this.#ended = true
      // Half closed, or gone altogether? Only writing tells: into a closed socket it fails, and 'close' follows.
      if (this.#inFlight > 0) this.#send(encodeNotification('waiting', {}))
      this.#next()
    })
    // The peer went away: 'close' follows, and there is nobody to tell.
    socket.on('error', () => {})
    socket.on('close', () => { this.#gone.abort(); this.#waiting = [] })
  }

  /** Sends what is queued, then closes. */
  close(): void {
    this.#waiting = []
    this.#socket.removeAllListeners('data')
    hangUp(this.#socket)
  }

  #data(chunk: Buffer): void {
    for (const line of this.#reader.push(chunk)) {
      if (line === 'too-long') {
        // Where the next request begins cannot be known: answer and drop.
        this.#socket.removeAllListeners('data')
        hangUp(this.#socket, encodeFault(null, lineTooLong()))
        return
      }
      if (line.trim() !== '') this.#waiting.push(line)
    }
    this.#next()
  }

  get #full(): boolean { return this.#inFlight >= IN_FLIGHT_MAX || this.#socket.writableLength > OUTPUT_BYTES_MAX }

  #next(): void {
    while (this.#waiting.length > 0 && !this.#full) this.#take(this.#waiting.shift()!)
    if (this.#waiting.length > 0) this.#socket.pause()
    else if (this.#ended && this.#inFlight === 0) this.#socket.end()
    else if (this.#socket.isPaused()) this.#socket.resume()
  }

  #take(line: string): void {
    const decoded = decodeRequest(line)
    if ('ignore' in decoded) return
    if ('fault' in decoded) { this.#send(encodeFault(decoded.id, decoded.fault)); return }
    const { request } = decoded
    if (!isMethod(request.method)) { this.#send(encodeFault(request.id, unknownMethod(request.method))); return }
    this.#inFlight++
    void this.#answer(request)
  }

  async #answer({ id, method, params }: RpcRequest): Promise<void> {
    try {
      const result = await this.#options.run(method, validate(method, params), {
        signal: this.#gone.signal,
        onProgress: job => { if (this.#socket.writableLength === 0) this.#send(encodeNotification('progress', { id, job })) },
      })
      this.#send(encodeResult(id, result))
      this.#options.onDone(method, undefined)
    } catch (error) {
      this.#send(encodeFault(id, faultOf(error)))
      if (error instanceof NbdeltaError) this.#options.onDone(method, error)
      else this.#options.onBug(error, method)
    }
    this.#inFlight--
    this.#next()
  }

  #send(text: string): void {
    if (this.#socket.writable) this.#socket.write(text)
  }
}
