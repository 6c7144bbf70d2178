/**
 * ClientSocket: a connection to a server as bytes, before and after the handshake: connected with a receive buffer of our
 * own, read by `take` while options are negotiated, and by a consumer's `parse` from then on.
 *
 * It is lost once, with one reason: the peer closed, the network failed, or somebody here called `fail`. Whatever a parser
 * throws ends this connection and nothing else.
 */
import { connect, type Socket } from 'node:net'
import { NbdeltaError } from '../device/errors.js'
import { badPeer, socketError, unreachable } from './client-errors.js'
import { ClientInbox } from './client-inbox.js'
import { ClientSender } from './client-sender.js'
import type { BoundAddress } from './listener.js'

const KEEPALIVE_MS = 60_000

interface Taker {
  readonly bytes: number
  readonly resolve: (bytes: Buffer) => void
  readonly reject: (error: NbdeltaError) => void
}

export class ClientSocket {
  readonly inbox = new ClientInbox()
  readonly sender: ClientSender
  bytesReceived = 0
  readonly #socket: Socket
  #parse: (() => void) | undefined
  #taker: Taker | undefined
  #failure: NbdeltaError | undefined
  #lost: ((reason: NbdeltaError) => void) | undefined
  #connected: (() => void) | undefined

  constructor(address: BoundAddress) {
    const onread = {
      buffer: () => this.inbox.space(),
      callback: (count: number) => {
        this.#arrived(count)
        return true
      },
    }
    this.#socket = connect({ ...address, onread, noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEPALIVE_MS })
    this.sender = new ClientSender(this.#socket)
    this.#socket.on('connect', () => this.#connected?.())
    this.#socket.on('error', error => { this.fail(socketError(error, 'the connection failed')) })
    this.#socket.on('end', () => { this.fail(unreachable('the peer closed the connection')) })
    this.#socket.on('close', () => { this.fail(unreachable('the connection was closed')) })
  }

  get failure(): NbdeltaError | undefined { return this.#failure }

  /** Resolves when the peer has accepted the connection. */
  connected(): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#failure) reject(this.#failure)
      this.#connected = resolve
      this.#lost = reject
    })
  }

  /** Exactly `bytes` bytes (at most 64 KiB), one caller at a time. Rejects when the connection is lost. */
  take(bytes: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.#taker = { bytes, resolve, reject }
      this.#serve()
      if (this.#taker && this.#failure) reject(this.#failure)
    })
  }

  write(...parts: readonly Buffer[]): void {
    if (!this.#socket.destroyed) this.#socket.write(Buffer.concat(parts))
  }

  /** From now on `parse` consumes the inbox, and `lost` hears of the end. What has arrived is parsed at once. */
  consume(parse: () => void, lost: (reason: NbdeltaError) => void): void {
    this.#parse = parse
    this.#lost = lost
    if (this.#failure) lost(this.#failure)
    else this.#arrived(0)
  }

  /** The connection ends now, for this reason. Idempotent: the first reason counts. */
  fail(reason: NbdeltaError): void {
    if (this.#failure) return
    this.#failure = reason
    this.#socket.destroy()
    this.#taker?.reject(reason)
    this.#lost?.(reason)
  }

  /** Says no more, and waits for the peer to close. */
  end(): void { this.#socket.end() }

  #arrived(count: number): void {
    if (this.#failure) return
    this.bytesReceived += count
    try {
      this.inbox.landed(count)
      if (this.#parse) this.#parse()
      else this.#serve()
    } catch (error) {
      const ours = error instanceof NbdeltaError
      this.fail(ours ? error : new NbdeltaError('internal', `NBD client: ${String(error)}`, { cause: error }))
    }
  }

  #serve(): void {
    const { inbox } = this
    const taker = this.#taker
    if (taker && inbox.available >= taker.bytes) {
      this.#taker = undefined
      taker.resolve(Buffer.from(inbox.buffer.subarray(inbox.pos, inbox.pos += taker.bytes)))
    } else if (inbox.crowded) throw badPeer('it sends before it is asked')
  }
}
