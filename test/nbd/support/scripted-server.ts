/**
 * A server that does what a test's script says: honest where nothing else is said, free to send anything at any point. Its
 * bytes are built from the tests' own idea of the protocol (wire.ts), not from the codec it is there to judge.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ByteStream, ServerClosed, Timeout } from './byte-stream.js'
import {
  CHUNK, CMD, EXT_REPLY, IHAVEOPT, INFO, MIB, type Mode, NBDMAGIC, OPT, OPTION_REPLY, REP, REQUEST, SIMPLE, STRUCTURED, TX, u16, u32, u64,
} from './wire.js'

/** All flags but READ_ONLY, ROTATIONAL, RESIZE and BLOCK_STATUS_PAYLOAD. */
export const ALL_FLAGS = TX.HAS_FLAGS | TX.SEND_FLUSH | TX.SEND_FUA | TX.SEND_TRIM | TX.SEND_WRITE_ZEROES | TX.SEND_DF
  | TX.CAN_MULTI_CONN | TX.SEND_CACHE | TX.SEND_FAST_ZERO
export const CONTEXT_ID = 0x5a5a
/** Long for a peer that waits for a client, short for a test run. */
const IDLE_MS = 30_000

export interface ScriptedExport {
  readonly mode: Mode
  readonly size?: number | bigint
  readonly flags?: number
  readonly sizes?: readonly [number, number, number]
  readonly handshakeFlags?: number
  /** Answers to options instead of the honest ones; the last of them should be final. */
  readonly options?: Readonly<Record<number, readonly Buffer[]>>
}

export interface ScriptedRequest {
  readonly type: number
  readonly flags: number
  readonly cookie: bigint
  readonly offset: number
  readonly length: number
  readonly payload: Buffer
}

export function hello(flags = 3): Buffer { return Buffer.concat([u64(NBDMAGIC, IHAVEOPT), u16(flags)]) }
export function optionReply(number: number, type: number, data: Buffer = Buffer.alloc(0), length = data.length): Buffer {
  return Buffer.concat([u64(OPTION_REPLY), u32(number, type, length), data])
}
export function infoExport(size: number | bigint, flags: number): Buffer {
  return optionReply(OPT.GO, REP.INFO, Buffer.concat([u16(INFO.EXPORT), u64(size), u16(flags)]))
}
export function infoSizes(minimum: number, preferred: number, maximum: number): Buffer {
  return optionReply(OPT.GO, REP.INFO, Buffer.concat([u16(INFO.BLOCK_SIZE), u32(minimum, preferred, maximum)]))
}
export function simpleReply(cookie: bigint, errno: number, data: Buffer = Buffer.alloc(0)): Buffer {
  return Buffer.concat([u32(SIMPLE, errno), u64(cookie), data])
}

interface Chunk { readonly flags?: number, readonly type: number, readonly payload?: Buffer, readonly length?: number | bigint, readonly offset?: number }

export class ScriptedConnection {
  mode: Mode = 'simple'
  readonly options: number[] = []
  clientFlags = 0
  /** Every request read, in order. */
  readonly requests: ScriptedRequest[] = []

  constructor(readonly stream: ByteStream, readonly serial: number) {}

  send(...parts: Buffer[]): void { if (!this.stream.socket.destroyed) this.stream.socket.write(Buffer.concat(parts)) }
  /** Closes at once, without a word. */
  hangUp(): void { this.stream.socket.destroy() }

  async handshake(facts: ScriptedExport): Promise<void> {
    const handshakeFlags = facts.handshakeFlags ?? 3
    this.send(hello(handshakeFlags))
    this.clientFlags = (await this.stream.take(4, IDLE_MS)).readUInt32BE(0)
    for (;;) {
      const header = await this.stream.take(16, IDLE_MS)
      const number = header.readUInt32BE(8)
      await this.stream.take(header.readUInt32BE(12), IDLE_MS)
      this.options.push(number)
      const scripted = facts.options?.[number]
      if (scripted) this.send(...scripted)
      else this.#answerOption(number, facts)
      const goes = (number === OPT.GO && !scripted) || number === OPT.EXPORT_NAME
      if (goes || (number === OPT.GO && scripted!.some(reply => reply.length >= 20 && reply.readUInt32BE(12) === REP.ACK))) return
    }
  }

  #answerOption(number: number, { mode, size = MIB, flags = ALL_FLAGS, sizes }: ScriptedExport): void {
    const yes = (wanted: Mode): void => {
      if (mode === wanted) this.mode = mode
      this.send(optionReply(number, mode === wanted ? REP.ACK : REP.ERR_UNSUP))
    }
    switch (number) {
      case OPT.EXTENDED_HEADERS: return yes('extended')
      case OPT.STRUCTURED_REPLY: return yes('structured')
      case OPT.SET_META_CONTEXT:
        return this.send(optionReply(number, REP.META_CONTEXT, Buffer.concat([u32(CONTEXT_ID), Buffer.from('base:allocation')])),
          optionReply(number, REP.ACK))
      case OPT.GO:
        return this.send(infoExport(size, flags), ...sizes ? [infoSizes(...sizes)] : [], optionReply(number, REP.ACK))
      case OPT.EXPORT_NAME: return this.send(u64(size), u16(flags), (this.clientFlags & 2) ? Buffer.alloc(0) : Buffer.alloc(124))
      default: this.send(optionReply(number, REP.ERR_UNSUP))
    }
  }

  async request(): Promise<ScriptedRequest> {
    const extended = this.mode === 'extended'
    const header = await this.stream.take(extended ? 32 : 28, IDLE_MS)
    const wanted = extended ? 0x21e41c71 : REQUEST
    if (header.readUInt32BE(0) !== wanted) throw new Error(`the client sends magic ${header.toString('hex', 0, 4)}`)
    const type = header.readUInt16BE(6)
    const length = extended ? Number(header.readBigUInt64BE(24)) : header.readUInt32BE(24)
    const payload = type === CMD.WRITE ? await this.stream.take(length, IDLE_MS) : Buffer.alloc(0)
    const request = {
      type, flags: header.readUInt16BE(4), cookie: header.readBigUInt64BE(8), offset: Number(header.readBigUInt64BE(16)), length, payload,
    }
    this.requests.push(request)
    return request
  }

  /** One chunk in the mode of the connection; any field may lie. */
  chunk(request: ScriptedRequest, { flags = 1, type, payload = Buffer.alloc(0), length = payload.length, offset }: Chunk): Buffer {
    if (this.mode !== 'extended') return Buffer.concat([u32(STRUCTURED), u16(flags, type), u64(request.cookie), u32(Number(length)), payload])
    return Buffer.concat([u32(EXT_REPLY), u16(flags, type), u64(request.cookie, offset ?? request.offset, length), payload])
  }

  /** A chunk of content. */
  data(request: ScriptedRequest, offset: number, bytes: Buffer, flags = 1): Buffer {
    return this.chunk(request, { flags, type: CHUNK.OFFSET_DATA, payload: Buffer.concat([u64(offset), bytes]) })
  }

  errorChunk(request: ScriptedRequest, errno: number, text = ''): Buffer {
    return this.chunk(request, { type: CHUNK.ERROR, payload: Buffer.concat([u32(errno), u16(Buffer.byteLength(text)), Buffer.from(text)]) })
  }

  /** The reply of an honest server that holds `content`; writes and zeros change it. */
  honest(request: ScriptedRequest, content: Buffer): Buffer {
    const { type, offset, length, payload } = request
    if (type === CMD.WRITE) payload.copy(content, offset)
    if ((type === CMD.WRITE_ZEROES || type === CMD.TRIM) && offset < content.length) content.fill(0, offset, offset + length)
    const bytes = type === CMD.READ ? Buffer.from(content.subarray(offset, offset + length)) : Buffer.alloc(0)
    if (this.mode === 'simple') return simpleReply(request.cookie, 0, bytes)
    if (type === CMD.READ) return this.data(request, offset, bytes)
    if (type !== CMD.BLOCK_STATUS) return this.chunk(request, { type: CHUNK.NONE })
    return this.mode === 'extended'
      ? this.chunk(request, { type: CHUNK.BLOCK_STATUS_EXT, payload: Buffer.concat([u32(CONTEXT_ID, 1), u64(length, 0)]) })
      : this.chunk(request, { type: CHUNK.BLOCK_STATUS, payload: u32(CONTEXT_ID, length, 0) })
  }

  refuse(request: ScriptedRequest, errno: number): Buffer {
    return this.mode === 'simple' ? simpleReply(request.cookie, errno) : this.errorChunk(request, errno)
  }

  /** Honest until DISC; `hook` sees each request first, and answers true for those it has dealt with. */
  async serve(content: Buffer, hook: (request: ScriptedRequest) => boolean | Promise<boolean> = () => false): Promise<void> {
    for (;;) {
      const request = await this.request()
      if (request.type === CMD.DISC) {
        this.stream.socket.end()
        return
      }
      if (!await hook(request)) this.send(this.honest(request, content))
    }
  }
}

export interface ScriptedServer {
  readonly path: string
  /** In order of arrival. */
  readonly connections: ScriptedConnection[]
  /** What a script threw, other than that the client went away. */
  readonly problems: Error[]
  /** Refuses new connections and ends the old ones. */
  stop(): Promise<void>
  start(): Promise<void>
}

interface Teardown { teardown(callback: () => unknown): unknown }
export type Behaviour = (connection: ScriptedConnection) => Promise<void>

/** Listens on a unix socket of its own; `behaviour` runs for each connection, and the connection ends with it. */
export async function startScriptedServer(t: Teardown, behaviour: Behaviour): Promise<ScriptedServer> {
  const folder = mkdtempSync(join(tmpdir(), 'nbdelta-scripted-'))
  const path = join(folder, 's')
  const connections: ScriptedConnection[] = []
  const problems: Error[] = []
  let server: Server | undefined
  const stop = async (): Promise<void> => {
    for (const connection of connections) connection.hangUp()
    await new Promise<void>(resolve => server ? server.close(() => { resolve() }) : resolve())
    server = undefined
    rmSync(path, { force: true })
  }
  const start = async (): Promise<void> => {
    server = createServer({ allowHalfOpen: true }, socket => {
      socket.on('error', () => {})
      const connection = new ScriptedConnection(new ByteStream(socket), connections.length)
      connections.push(connection)
      behaviour(connection).catch((error: unknown) => {
        if (!(error instanceof ServerClosed || error instanceof Timeout)) problems.push(error as Error)
      }).finally(() => { socket.end() })
    })
    await new Promise<void>(resolve => { server!.listen(path, resolve) })
  }
  await start()
  t.teardown(async () => {
    await stop()
    rmSync(folder, { recursive: true, force: true })
  })
  return { path, connections, problems, stop, start }
}

