/**
 * The smallest NBD client that keeps many requests in flight and knows of each whether it was answered: GO without
 * infos, simple replies only, as the kernel's client does. Written from the protocol text and nothing of src/, so
 * that the load tests do not prove the server with its own code.
 *
 * A request ends in one of three ways: answered (resolves), refused (rejects with WireError and its errno), or
 * unanswered because the connection ended (rejects with ConnectionLost): then nobody knows whether it was carried out.
 */
import { connect } from 'node:net'
import type { Socket } from 'node:net'

export const READ = 0
export const WRITE = 1
const DISCONNECT = 2
export const FLUSH = 3
export const TRIM = 4
export const ZEROES = 6
export const FUA = 1
export const NO_HOLE = 2
export const ENOSPC = 28
export const ESHUTDOWN = 108

const HELLO_BYTES = 18
const OPTION_MAGIC = 'IHAVEOPT'
const OPTION_GO = 7
const REPLY_ACK = 1
const REPLY_INFO = 3
const INFO_EXPORT = 0
const OPTION_REPLY_BYTES = 20
const REQUEST_MAGIC = 0x25609513
const REQUEST_BYTES = 28
const REPLY_MAGIC = 0x67446698
const REPLY_BYTES = 16

export class WireError extends Error {
  override readonly name = 'WireError'
  readonly errno: number
  constructor(errno: number) {
    super(`the server answered errno ${errno}`)
    this.errno = errno
  }
}
export class ConnectionLost extends Error {
  override readonly name = 'ConnectionLost'
}

interface Waiting {
  readonly length: number
  readonly resolve: (data: Buffer) => void
  readonly reject: (error: Error) => void
}

export class WireClient {
  readonly sizeBytes: number
  readonly #socket: Socket
  readonly #waiting = new Map<bigint, Waiting>()
  #cookie = 0n
  #header: Buffer | undefined
  #lost = false

  private constructor(socket: Socket, sizeBytes: number) {
    this.#socket = socket
    this.sizeBytes = sizeBytes
    socket.on('readable', () => this.#receive())
    socket.on('close', () => this.#end())
    this.#receive()
  }

  /** Through the handshake to the transmission phase; rejects with ConnectionLost or the option's refusal. */
  static async connect(path: string, exportName: string): Promise<WireClient> {
    const socket = connect({ path })
    socket.on('error', () => undefined) // what matters comes with 'close'
    await exactly(socket, HELLO_BYTES)
    const name = Buffer.from(exportName)
    const hello = Buffer.alloc(4 + 16 + 4 + name.length + 2)
    hello.writeUInt32BE(3, 0)
    hello.write(OPTION_MAGIC, 4, 'latin1')
    hello.writeUInt32BE(OPTION_GO, 12)
    hello.writeUInt32BE(4 + name.length + 2, 16)
    hello.writeUInt32BE(name.length, 20)
    name.copy(hello, 24)
    socket.write(hello)
    for (let sizeBytes = 0; ;) {
      const reply = await exactly(socket, OPTION_REPLY_BYTES)
      const type = reply.readUInt32BE(12)
      const data = await exactly(socket, reply.readUInt32BE(16))
      if (type === REPLY_INFO && data.readUInt16BE(0) === INFO_EXPORT) sizeBytes = Number(data.readBigUInt64BE(2))
      else if (type === REPLY_ACK) return new WireClient(socket, sizeBytes)
      else if (type !== REPLY_INFO) throw new Error(`GO refused: ${data.toString()}`)
    }
  }

  get inFlight(): number { return this.#waiting.size }
  get lost(): boolean { return this.#lost }

  read(offset: number, length: number): Promise<Buffer> { return this.#request(READ, 0, offset, length) }
  write(offset: number, data: Buffer, flags = 0): Promise<Buffer> { return this.#request(WRITE, flags, offset, data.length, data) }
  zero(offset: number, length: number, flags = 0): Promise<Buffer> { return this.#request(ZEROES, flags, offset, length) }
  trim(offset: number, length: number, flags = 0): Promise<Buffer> { return this.#request(TRIM, flags, offset, length) }
  flush(): Promise<Buffer> { return this.#request(FLUSH, 0, 0, 0) }

  /** Says DISC and waits for the server to close. */
  async disconnect(): Promise<void> {
    this.#socket.write(header(DISCONNECT, 0, 0n, 0, 0))
    if (!this.#lost) await new Promise<void>(resolve => this.#socket.once('close', () => resolve()))
  }

  destroy(): void { this.#socket.destroy() }

  #request(type: number, flags: number, offset: number, length: number, payload?: Buffer): Promise<Buffer> {
    if (this.#lost) return Promise.reject(new ConnectionLost('the connection is gone'))
    const cookie = ++this.#cookie
    return new Promise((resolve, reject) => {
      this.#waiting.set(cookie, { length: type === READ ? length : 0, resolve, reject })
      this.#socket.cork()
      this.#socket.write(header(type, flags, cookie, offset, length))
      if (payload) this.#socket.write(payload)
      this.#socket.uncork()
    })
  }

  #receive(): void {
    for (;;) {
      this.#header ??= this.#socket.read(REPLY_BYTES) as Buffer | null ?? undefined
      if (!this.#header) return
      if (this.#header.length < REPLY_BYTES) return this.#socket.destroy() as unknown as void
      if (this.#header.readUInt32BE(0) !== REPLY_MAGIC) throw new Error(`reply magic ${this.#header.toString('hex')}`)
      const errno = this.#header.readUInt32BE(4)
      const cookie = this.#header.readBigUInt64BE(8)
      const request = this.#waiting.get(cookie)
      if (!request) throw new Error(`a reply to ${cookie}, which is not in flight`)
      let data: Buffer = Buffer.alloc(0)
      if (request.length > 0 && errno === 0) {
        const got = this.#socket.read(request.length) as Buffer | null
        if (!got) return
        if (got.length < request.length) return this.#socket.destroy() as unknown as void
        data = got
      }
      this.#header = undefined
      this.#waiting.delete(cookie)
      if (errno === 0) request.resolve(data)
      else request.reject(new WireError(errno))
    }
  }

  #end(): void {
    this.#lost = true
    for (const request of this.#waiting.values()) request.reject(new ConnectionLost('the connection ended with this request in flight'))
    this.#waiting.clear()
  }
}

function header(type: number, flags: number, cookie: bigint, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(REQUEST_BYTES)
  bytes.writeUInt32BE(REQUEST_MAGIC, 0)
  bytes.writeUInt16BE(flags, 4)
  bytes.writeUInt16BE(type, 6)
  bytes.writeBigUInt64BE(cookie, 8)
  bytes.writeBigUInt64BE(BigInt(offset), 16)
  bytes.writeUInt32BE(length, 24)
  return bytes
}

/** The next `length` bytes of the handshake. */
async function exactly(socket: Socket, length: number): Promise<Buffer> {
  if (length === 0) return Buffer.alloc(0)
  for (;;) {
    const data = socket.read(length) as Buffer | null
    if (data?.length === length) return data
    if (data || socket.destroyed || socket.readableEnded) throw new ConnectionLost('the server closed during the handshake')
    await new Promise<void>(resolve => {
      const done = (): void => {
        socket.off('readable', done).off('close', done)
        resolve()
      }
      socket.once('readable', done).once('close', done)
    })
  }
}
