/**
 * Lines: a socket as messages, one JSON object a line, each side in turn (docs/peer-link.md). Both ends use it.
 *
 * Bounded: a line has LINE_BYTES_MAX, and one line may wait to be taken; a second is against the protocol, so nothing is ever
 * queued. Whatever is not a line of JSON with an object in it ends the connection; what was wrong is told to who waits.
 */
import type { Socket } from 'node:net'
import { LineReader } from '../../native-free/line-reader.js'
import { NbdeltaError } from '../device/errors.js'

const LINE_BYTES_MAX = 64 * 1024
/** How long the other side may take to read the last words. */
const HANG_UP_MS = 1000
const OPENS = '{'.charCodeAt(0)

export type Message = Readonly<Record<string, unknown>>

export class Lines {
  readonly #socket: Socket
  readonly #reader = new LineReader(LINE_BYTES_MAX)
  #waiting: Message | undefined
  #taker: { resolve: (message: Message) => void, reject: (error: NbdeltaError) => void } | undefined
  #failure: NbdeltaError | undefined
  /** The other side is gone, or was told to go. */
  readonly ended: Promise<void>

  constructor(socket: Socket) {
    this.#socket = socket
    socket.on('data', (chunk: Buffer) => { this.#data(chunk) })
    socket.on('error', () => { /* 'close' follows */ })
    socket.on('end', () => { socket.destroySoon() })
    this.ended = new Promise(resolve => {
      socket.on('close', () => {
        this.#fail(new NbdeltaError('unreachable', 'the other side of the peer link is gone'))
        resolve()
      })
    })
    socket.resume()
  }

  /** The next message; one caller at a time. Errors: unreachable (it is gone), bad-peer (that was no message). */
  next(): Promise<Message> {
    const message = this.#waiting
    this.#waiting = undefined
    if (message) return Promise.resolve(message)
    if (this.#failure) return Promise.reject(this.#failure)
    return new Promise((resolve, reject) => { this.#taker = { resolve, reject } })
  }

  send(message: Message): void {
    if (this.#socket.writable) this.#socket.write(`${JSON.stringify(message)}\n`)
  }

  /** Last words, then the end; what still comes is thrown away, so that the words are not lost to a reset. */
  hangUp(last?: Message): void {
    this.#fail(new NbdeltaError('unreachable', 'the peer link was closed'))
    this.#socket.removeAllListeners('data')
    this.#socket.resume()
    this.#socket.end(last ? `${JSON.stringify(last)}\n` : '')
    const timer = setTimeout(() => { this.#socket.destroy() }, HANG_UP_MS).unref()
    this.#socket.on('close', () => { clearTimeout(timer) })
  }

  destroy(): void { this.#socket.destroy() }

  #data(chunk: Buffer): void {
    // An NBD server greets in binary, without an end of line: told at once, not by the deadline.
    if (this.#reader.heldBytes === 0 && chunk[0] !== OPENS) { this.#break('what it says is no message of this protocol'); return }
    for (const line of this.#reader.push(chunk)) {
      if (line === 'too-long') { this.#break(`a message is longer than ${LINE_BYTES_MAX} bytes`); return }
      const message = parse(line)
      if (!message) { this.#break('what it says is no message of this protocol'); return }
      if (this.#taker) {
        this.#taker.resolve(message)
        this.#taker = undefined
      } else if (this.#waiting) { this.#break('it sent a message out of turn'); return } else this.#waiting = message
    }
  }

  #break(why: string): void {
    this.#fail(new NbdeltaError('bad-peer', `the peer link is broken: ${why}`))
    this.#socket.removeAllListeners('data')
    this.#socket.resume()
  }

  #fail(error: NbdeltaError): void {
    this.#failure ??= error
    this.#waiting = undefined
    this.#taker?.reject(this.#failure)
    this.#taker = undefined
  }
}

function parse(line: string): Message | undefined {
  try {
    const value: unknown = JSON.parse(line)
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? value as Message : undefined
  } catch { return undefined }
}
