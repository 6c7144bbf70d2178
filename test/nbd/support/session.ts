/**
 * Session: a client in transmission. Requests may be in flight together; a reader loop matches replies by cookie and hands
 * them to an Assembly each. A reply nobody asked for, a wrong magic or a broken rule ends the session with a Violation, which
 * every request still waiting, and `end`, report.
 */
import { Assembly, type Asked, type Reply } from './assembly.js'
import { PATIENCE_MS, ServerClosed, type Address, type ByteStream } from './byte-stream.js'
import { Peer, type Context, type ExportFacts } from './peer.js'
import { ensure } from './violation.js'
import { CMD, command, EXT_REPLY, INFO, OPT, REP, SIMPLE, STRUCTURED, type Command, type Mode } from './wire.js'

interface Waiting {
  readonly assembly: Assembly
  readonly asked: Asked
  readonly settle: (reply: Reply) => void
  readonly fail: (error: unknown) => void
}

export interface SentCommand {
  readonly cookie: bigint
  readonly reply: Promise<Reply>
}

export class Session {
  readonly peer: Peer
  readonly stream: ByteStream
  readonly mode: Mode
  readonly facts: ExportFacts
  readonly contexts: readonly Context[]
  readonly #waiting = new Map<bigint, Waiting>()
  /** Cookies are opaque: the top bit is set, so that a signed server shows. */
  #nextCookie = 0x8000_dead_0000_0001n
  #failure: unknown
  readonly #reader: Promise<void>
  /** Cookies in the order in which their replies ended. */
  readonly answered: bigint[] = []

  constructor(peer: Peer, mode: Mode, facts: ExportFacts, contexts: readonly Context[] = []) {
    this.peer = peer
    this.stream = peer.stream
    this.mode = mode
    this.facts = facts
    this.contexts = contexts
    this.#reader = this.#read()
  }

  get size(): number { return Number(this.facts.size) }
  get waiting(): number { return this.#waiting.size }

  /** Sends one request; `ids` are the contexts a BLOCK_STATUS with payload lists. */
  send(request: Command, ids: readonly number[] = this.contexts.map(c => c.id)): SentCommand {
    const sent = this.expect(request, ids)
    this.stream.socket.write(command(this.mode, { ...request, cookie: sent.cookie }))
    return sent
  }

  /** Expects a reply for a request whose bytes the test sends itself, with the cookie returned. */
  expect(request: Command, ids: readonly number[] = this.contexts.map(c => c.id), effectLength?: bigint): SentCommand {
    const cookie = request.cookie ?? this.#nextCookie++
    const asked: Asked = {
      type: request.type, flags: request.flags ?? 0, offset: BigInt(request.offset ?? 0), contexts: ids, size: this.facts.size,
      length: effectLength ?? BigInt(request.length ?? request.payload?.length ?? 0),
    }
    const reply = new Promise<Reply>((settle, fail) => {
      if (this.#failure) fail(this.#failure)
      else this.#waiting.set(cookie, { assembly: new Assembly(asked, this.mode), asked, settle, fail })
    })
    reply.catch(() => undefined)
    return { cookie, reply }
  }

  async call(request: Command, ids?: readonly number[]): Promise<Reply> { return this.send(request, ids).reply }

  async read(offset: number | bigint, length: number, flags = 0): Promise<Reply> {
    return this.call({ type: CMD.READ, offset, length, flags })
  }
  async write(offset: number | bigint, payload: Buffer, flags = 0): Promise<Reply> {
    return this.call({ type: CMD.WRITE, offset, payload, flags: flags | (this.mode === 'extended' ? 32 : 0) })
  }
  async flush(): Promise<Reply> { return this.call({ type: CMD.FLUSH }) }

  /** The session still answers. */
  async alive(): Promise<void> {
    const reply = await this.call({ type: CMD.READ, offset: 0, length: 1 })
    ensure(reply.error === 0, `a good READ answered with errno ${reply.error} ${reply.message}`)
  }

  /** DISC; waits until the server has closed and checks that nothing was left unanswered. */
  async disconnect(): Promise<void> {
    this.stream.socket.write(command(this.mode, { type: CMD.DISC }))
    await this.closed()
    ensure(this.#waiting.size === 0, `S1: ${this.#waiting.size} requests unanswered after DISC`)
  }

  /** The server has closed the connection by itself; violations seen on the way are thrown. */
  async closed(patienceMs = PATIENCE_MS): Promise<void> {
    const late = new Promise<never>((_, reject) => {
      setTimeout(() => reject(new Error(`the server did not close within ${patienceMs} ms`)), patienceMs).unref()
    })
    await Promise.race([this.#reader, late])
    this.stream.socket.destroy()
    if (!(this.#failure instanceof ServerClosed)) throw this.#failure
  }

  /** Cuts the line without a word. */
  destroy(): void { this.stream.socket.destroy() }

  async #read(): Promise<void> {
    try {
      for (;;) await this.#one()
    } catch (error) {
      this.#failure = error
      for (const { fail } of this.#waiting.values()) fail(error)
      if (error instanceof ServerClosed && this.stream.available === 0) return
      this.destroy()
    }
  }

  async #one(): Promise<void> {
    const magic = (await this.stream.take(4, 2 ** 31 - 1)).readUInt32BE(0)
    if (magic === SIMPLE) return this.#simple()
    if (magic === STRUCTURED) ensure(this.mode === 'structured', `G4: a structured reply in ${this.mode} mode`)
    else if (magic === EXT_REPLY) ensure(this.mode === 'extended', `an extended reply in ${this.mode} mode`)
    else ensure(false, `reply magic 0x${magic.toString(16)}`)
    const header = await this.stream.take(this.mode === 'extended' ? 28 : 16)
    const flags = header.readUInt16BE(0)
    const type = header.readUInt16BE(2)
    ensure((flags & ~1) === 0, `reply flags 0x${flags.toString(16)}`)
    const [cookie, waiting] = this.#find(header.readBigUInt64BE(4))
    if (this.mode === 'extended') ensure(header.readBigUInt64BE(12) === waiting.asked.offset,
      'E2: the offset is not the request\'s')
    const length = this.mode === 'extended' ? Number(header.readBigUInt64BE(20)) : header.readUInt32BE(12)
    ensure(length <= 64 * 2 ** 20 + 16, `Z5: a chunk of ${length} bytes`)
    const payload = await this.stream.take(length)
    const reply = waiting.assembly.chunk(type, (flags & 1) === 1, payload)
    if (reply) this.#finish(cookie, waiting, reply)
  }

  async #simple(): Promise<void> {
    const header = await this.stream.take(12)
    const error = header.readUInt32BE(0)
    const [cookie, waiting] = this.#find(header.readBigUInt64BE(4))
    const { asked } = waiting
    const data = asked.type === CMD.READ && error === 0 ? await this.stream.take(Number(asked.length)) : Buffer.alloc(0)
    this.#finish(cookie, waiting, waiting.assembly.simple(error, data))
  }

  #find(cookie: bigint): [bigint, Waiting] {
    const waiting = this.#waiting.get(cookie)
    ensure(waiting !== undefined, `G1: a reply for cookie ${cookie.toString(16)}, which is not in flight`)
    return [cookie, waiting]
  }

  #finish(cookie: bigint, waiting: Waiting, reply: Reply): void {
    this.#waiting.delete(cookie)
    this.answered.push(cookie)
    waiting.settle(reply)
  }
}

export interface AttachOptions {
  readonly mode?: Mode
  readonly name?: string
  /** Queries of SET_META_CONTEXT; ['base:allocation'] by default when the mode can have contexts. */
  readonly contexts?: readonly string[]
  /** Info requests of GO; BLOCK_SIZE by default. */
  readonly infos?: readonly number[]
}

/** From nothing to transmission, as a modern client does it. */
export async function attach(address: Address, options: AttachOptions = {}): Promise<Session> {
  const { mode = 'simple', name = 'disk', infos = [INFO.BLOCK_SIZE] } = options
  const peer = await (await Peer.connect(address)).begin()
  if (mode !== 'simple') {
    const number = mode === 'extended' ? OPT.EXTENDED_HEADERS : OPT.STRUCTURED_REPLY
    ensure(await peer.verdict(number) === REP.ACK, `${mode} replies were refused`)
  }
  const queries = options.contexts ?? (mode === 'simple' ? [] : ['base:allocation'])
  const contexts = queries.length > 0 ? (await peer.meta(OPT.SET_META_CONTEXT, name, queries)).contexts : []
  const answer = await peer.info(OPT.GO, name, infos)
  ensure(answer.facts, `GO ${name} was refused: ${answer.message}`)
  return new Session(peer, mode, answer.facts, contexts)
}
