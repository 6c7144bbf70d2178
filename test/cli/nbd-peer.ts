/** The smallest NBD client that can attach, write and read: EXPORT_NAME without zeroes, simple replies, one request at a time. */
import { once } from 'node:events'
import { connect } from 'node:net'
import type { Socket } from 'node:net'

const GREETING_BYTES = 18
const WRITE = 1
const READ = 0
const FLUSH = 3

export class NbdPeer {
  readonly #socket: Socket
  /** Settles when the server has closed the connection. */
  readonly closed: Promise<unknown>
  sizeBytes = 0

  private constructor(socket: Socket) {
    this.#socket = socket
    socket.on('error', () => {})
    this.closed = new Promise(resolve => { socket.on('close', resolve) })
  }

  /** Rejects when the server ends the handshake: no such export, or hidden. */
  static async attach(path: string, name: string): Promise<NbdPeer> {
    const peer = new NbdPeer(connect(path))
    await peer.#take(GREETING_BYTES)
    const bytes = Buffer.from(name)
    const head = Buffer.alloc(20)
    head.writeUInt32BE(3, 0)
    head.write('IHAVEOPT', 4, 'latin1')
    head.writeUInt32BE(1, 12)
    head.writeUInt32BE(bytes.length, 16)
    peer.#socket.write(Buffer.concat([head, bytes]))
    const answer = await peer.#take(10)
    peer.sizeBytes = Number(answer.readBigUInt64BE(0))
    return peer
  }

  async #take(length: number): Promise<Buffer> {
    for (;;) {
      const bytes = this.#socket.read(length) as Buffer | null
      if (bytes?.length === length) return bytes
      if (this.#socket.readableEnded || this.#socket.destroyed) throw new Error('the server closed the connection')
      await Promise.race([once(this.#socket, 'readable'), this.closed])
    }
  }

  async #ask(type: number, offset: number, length: number, payload?: Buffer): Promise<void> {
    const head = Buffer.alloc(28)
    head.writeUInt32BE(0x25609513, 0)
    head.writeUInt16BE(type, 6)
    head.writeBigUInt64BE(BigInt(offset), 16)
    head.writeUInt32BE(length, 24)
    this.#socket.write(payload ? Buffer.concat([head, payload]) : head)
    const reply = await this.#take(16)
    const error = reply.readUInt32BE(4)
    if (error !== 0) throw new Error(`NBD error ${error}`)
  }

  write(offset: number, bytes: Buffer): Promise<void> { return this.#ask(WRITE, offset, bytes.length, bytes) }
  flush(): Promise<void> { return this.#ask(FLUSH, 0, 0) }
  async read(offset: number, length: number): Promise<Buffer> {
    await this.#ask(READ, offset, length)
    return this.#take(length)
  }

  /** Asks for much and reads nothing: answers pile up until neither side can go on. */
  stick(): void {
    const head = Buffer.alloc(28)
    head.writeUInt32BE(0x25609513, 0)
    head.writeUInt16BE(READ, 6)
    head.writeUInt32BE(2 ** 20, 24)
    this.#socket.pause()
    for (let index = 0; index < 64; index++) this.#socket.write(head)
  }

  detach(): void { this.#socket.destroy() }
}
