/**
 * A socket as a stream of bytes one can ask for: `take(n)` waits for exactly n, never for ever. FIN and RST are the same
 * to a test ("the server has closed"); what had arrived before stays readable.
 */
import { connect, type Socket } from 'node:net'

export class ServerClosed extends Error {
  constructor(what: string) {
    super(`the server closed the connection, ${what}`)
    this.name = 'ServerClosed'
  }
}
export class Timeout extends Error {}

/** Long against a busy machine with two cores, short against a test run. */
export const PATIENCE_MS = 10_000

export type Address = { path: string } | { host: string, port: number }

export class ByteStream {
  readonly socket: Socket
  #chunks: Buffer[] = []
  #bytes = 0
  #ended = false
  #wake: (() => void) | undefined
  /** All bytes that ever arrived. */
  received = 0

  constructor(socket: Socket) {
    this.socket = socket
    socket.on('data', chunk => {
      this.#chunks.push(chunk)
      this.#bytes += chunk.length
      this.received += chunk.length
      this.#wake?.()
    })
    for (const event of ['end', 'close', 'error']) socket.on(event, () => this.#end())
  }

  get available(): number { return this.#bytes }
  get ended(): boolean { return this.#ended }

  #end(): void {
    this.#ended = true
    this.#wake?.()
  }

  /** Exactly `bytes` bytes. Rejects with ServerClosed or Timeout; one caller at a time. */
  async take(bytes: number, patienceMs = PATIENCE_MS): Promise<Buffer> {
    await this.#until(() => this.#bytes >= bytes || this.#ended, patienceMs, () => `${bytes} bytes wanted, ${this.#bytes} there`)
    if (this.#bytes < bytes) throw new ServerClosed(`${bytes} bytes wanted, ${this.#bytes} there`)
    return this.#cut(bytes)
  }

  /** The server closes; whatever it sent before is returned. */
  async drain(patienceMs = PATIENCE_MS): Promise<Buffer> {
    await this.#until(() => this.#ended, patienceMs, () => `the server should have closed; ${this.#bytes} bytes unread`)
    return this.#cut(this.#bytes)
  }

  async #until(done: () => boolean, patienceMs: number, what: () => string): Promise<void> {
    if (done()) return
    if (this.#wake) throw new Error('two readers of one byte stream')
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => { this.#wake = undefined; reject(new Timeout(`after ${patienceMs} ms: ${what()}`)) },
        patienceMs)
      this.#wake = () => {
        if (!done()) return
        this.#wake = undefined
        clearTimeout(timer)
        resolve()
      }
    })
  }

  #cut(bytes: number): Buffer {
    if (this.#chunks.length > 0 && this.#chunks[0].length === bytes) {
      this.#bytes -= bytes
      return this.#chunks.shift()!
    }
    const parts: Buffer[] = []
    for (let left = bytes; left > 0;) {
      const first = this.#chunks[0]
      if (first.length <= left) this.#chunks.shift()
      else this.#chunks[0] = first.subarray(left)
      parts.push(first.subarray(0, left))
      left -= Math.min(left, first.length)
    }
    this.#bytes -= bytes
    return parts.length === 1 ? parts[0] : Buffer.concat(parts)
  }
}

export async function openStream(address: Address): Promise<ByteStream> {
  const socket = connect('path' in address ? { path: address.path } : { host: address.host, port: address.port })
  const stream = new ByteStream(socket)
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve)
    socket.once('error', reject)
  })
  socket.setNoDelay(true)
  return stream
}

/** Lets what was written arrive on the other side (same process: one turn of the event loop each way). */
export function turn(): Promise<void> {
  return new Promise(resolve => { setImmediate(resolve) })
}

export function delay(ms: number): Promise<void> {
  return new Promise(resolve => { setTimeout(resolve, ms) })
}
