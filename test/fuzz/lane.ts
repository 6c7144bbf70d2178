/**
 * Lane: runs inputs one after the other against the server. Each input must come to its end: a session's connection is closed
 * by the server once we have ended our side; a burst is answered up to the good request behind it, or, where a mutated length
 * has swallowed that, the connection closes like a session.
 */
import { connect, type Socket } from 'node:net'
import type { Mode } from '../nbd/support/wire.js'
import { encode, handshake, sentinel } from './corpus.js'
import { judgeReplies, judgeSession } from './judge.js'
import type { Input } from './mutate.js'

/** How long the server may take to close, milliseconds; far above what a busy machine needs. */
const BOUND_MS = 5000
/** Turns of the event loop in which a burst is normally answered. */
const BURST_TURNS = 12

const turn = (): Promise<void> => new Promise(resolve => { setImmediate(resolve) })

/** Settles as `work` does, or rejects after the bound. */
async function bounded<T>(work: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => { timer = setTimeout(() =>
    reject(new Error(`hang: ${what} within ${BOUND_MS} ms`)), BOUND_MS) })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}

class Line {
  readonly socket: Socket
  readonly closed: Promise<void>
  #chunks: Buffer[] = []
  over = false

  constructor(path: string) {
    this.socket = connect({ path, allowHalfOpen: true })
    this.socket.on('data', chunk => this.#chunks.push(chunk))
    this.socket.on('error', () => undefined)
    this.closed = new Promise(resolve => {
      const done = (): void => {
        this.over = true
        resolve()
      }
      this.socket.once('end', done)
      this.socket.once('close', done)
    })
  }

  get bytes(): number { return this.#chunks.reduce((sum, chunk) => sum + chunk.length, 0) }

  /** What has arrived since the last call. */
  take(): Buffer {
    const all = this.#chunks.length === 1 ? this.#chunks[0] : Buffer.concat(this.#chunks)
    this.#chunks = []
    return all
  }

  async send({ bytes, cuts }: Pick<Input, 'bytes' | 'cuts'>): Promise<void> {
    let from = 0
    for (const to of [...cuts, bytes.length]) {
      if (this.socket.destroyed || this.over) return
      if (to > from) this.socket.write(bytes.subarray(from, to))
      from = to
      if (to < bytes.length) await turn()
    }
  }

  /** Ends our side; the server must end its own. */
  async finish(): Promise<void> {
    if (!this.socket.destroyed) this.socket.end()
    await bounded(this.closed, 'the server did not close')
    this.socket.destroy()
  }
}

export class Lane {
  readonly #path: string
  /** One open connection per mode and export, for bursts. */
  readonly #lines = new Map<string, Line>()
  #cookie = 0xfeed_0000_0000_0000n
  /** Connections made; the rest of the bursts shared one. */
  connections = 0

  constructor(path: string) { this.#path = path }

  /** Rejects when the server did what it must not. */
  async run(input: Input): Promise<void> {
    if (input.kind === 'session') await this.#session(input)
    else await this.#burst(input)
  }

  async end(): Promise<void> {
    for (const line of this.#lines.values()) await line.finish()
    this.#lines.clear()
  }

  #open(): Line {
    this.connections++
    return new Line(this.#path)
  }

  async #session(input: Input): Promise<void> {
    const line = this.#open()
    await line.send(input)
    await line.finish()
    complain(judgeSession(line.take()))
  }

  async #burst(input: Input): Promise<void> {
    const key = `${input.mode} ${input.name}`
    const line = this.#lines.get(key) ?? await this.#attach(key, input.mode, input.name)
    const cookie = this.#cookie++
    const mark = Buffer.alloc(8)
    mark.writeBigUInt64BE(cookie)
    await line.send(input)
    if (!line.over) line.socket.write(sentinel(input.mode, cookie))
    let output = Buffer.alloc(0)
    for (let turns = 0; turns < BURST_TURNS && !line.over; turns++) {
      await turn()
      if (line.bytes === 0) continue
      output = Buffer.concat([output, line.take()])
      if (output.includes(mark)) {
        complain(judgeReplies(output))
        return
      }
    }
    this.#lines.delete(key)
    await line.finish()
    complain(judgeReplies(Buffer.concat([output, line.take()])))
  }

  async #attach(key: string, mode: Mode, name: string): Promise<Line> {
    const line = this.#open()
    line.socket.write(Buffer.concat(handshake(mode, name).map(encode)))
    // GO's ACK is the last thing a good handshake brings: its option number and type stand 12 bytes before the end.
    await bounded((async () => {
      let seen = Buffer.alloc(0)
      while (!(seen.length >= 20 && seen.readUInt32BE(seen.length - 12) === 7 && seen.readUInt32BE(seen.length - 8) === 1)) {
        if (line.over) throw new Error('a good handshake was dropped')
        await turn()
        if (line.bytes > 0) seen = Buffer.concat([seen, line.take()])
      }
    })(), 'a good handshake was not answered')
    this.#lines.set(key, line)
    return line
  }
}

function complain(wrong: string | undefined): void {
  if (wrong) throw new Error(`malformed output: ${wrong}`)
}
