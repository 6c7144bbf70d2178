/**
 * Peer: a client in the handshake, strict about everything the server says (PROTOCOL sections 2-4, 6) and free to say
 * anything itself. `attach` in session.ts goes all the way to transmission.
 */
import { openStream, type Address, type ByteStream, turn } from './byte-stream.js'
import { ensure, ensureText } from './violation.js'
import { IHAVEOPT, INFO, infoData, metaData, NBDMAGIC, OPT, option, OPTION_REPLY, REP, u32 } from './wire.js'

export interface OptionReply {
  readonly type: number
  readonly data: Buffer
}

export interface BlockSizeInfo { readonly minimum: number, readonly preferred: number, readonly maximum: number }

/** What INFO, GO or EXPORT_NAME told. */
export interface ExportFacts {
  readonly size: bigint
  readonly flags: number
  readonly name?: string
  readonly description?: string
  readonly blockSizes?: BlockSizeInfo
}

export interface InfoAnswer {
  /** REP.ACK or the error. */
  readonly final: number
  readonly message: string
  readonly infos: readonly { readonly type: number, readonly data: Buffer }[]
  /** Present when the final reply is an ACK. */
  readonly facts?: ExportFacts
}

export interface Context { readonly id: number, readonly name: string }

const isFinal = (type: number): boolean => type === REP.ACK || type >= 0x80000000

export class Peer {
  readonly stream: ByteStream
  handshakeFlags = 0
  clientFlags = 0

  constructor(stream: ByteStream) { this.stream = stream }

  static async connect(address: Address): Promise<Peer> { return new Peer(await openStream(address)) }

  send(...parts: Buffer[]): void { for (const part of parts) this.stream.socket.write(part) }

  /** Sends `bytes` in pieces that end at the given positions, each in a turn of its own, so that the server reads them apart. */
  async sendCut(bytes: Buffer, positions: readonly number[]): Promise<void> {
    let from = 0
    for (const to of [...positions, bytes.length]) {
      if (to > from && !this.stream.socket.destroyed) this.stream.socket.write(bytes.subarray(from, to))
      from = Math.max(from, to)
      await turn()
    }
  }

  /** Reads the hello; returns the server's handshake flags. */
  async hello(): Promise<number> {
    const bytes = await this.stream.take(18)
    ensure(bytes.readBigUInt64BE(0) === NBDMAGIC, `the hello begins with ${bytes.toString('hex')}`)
    ensure(bytes.readBigUInt64BE(8) === IHAVEOPT, `the hello is not newstyle: ${bytes.toString('hex')}`)
    this.handshakeFlags = bytes.readUInt16BE(16)
    return this.handshakeFlags
  }

  /** Hello and the client's flags. */
  async begin(clientFlags = 3): Promise<this> {
    await this.hello()
    this.clientFlags = clientFlags
    this.send(u32(clientFlags))
    return this
  }

  /** One reply to option `number`. */
  async optionReply(number: number): Promise<OptionReply> {
    const header = await this.stream.take(20)
    ensure(header.readBigUInt64BE(0) === OPTION_REPLY, `option reply magic ${header.toString('hex', 0, 8)}`)
    const echoed = header.readUInt32BE(8)
    ensure(echoed === number, `O1: reply to option ${echoed} when ${number} was asked`)
    const type = header.readUInt32BE(12)
    ensure((type >= 1 && type <= 4) || (type >= REP.ERR_UNSUP && type <= REP.ERR_EXT_HEADER_REQD), `unknown reply type ${type}`)
    const length = header.readUInt32BE(16)
    ensure(length <= 16 * 1024, `option reply of ${length} bytes`)
    const data = await this.stream.take(length)
    if (type === REP.ACK) ensure(length === 0, `an ACK with ${length} bytes`)
    if (type >= 0x80000000) {
      ensureText(data, 'O5: error text')
      ensure(length > 0, 'O5: an error without a text')
      ensure(type !== REP.ERR_TLS_REQD, 'L2: TLS_REQD from a server without TLS')
    }
    return { type, data }
  }

  /** All replies up to the final one (O1). */
  async replies(number: number): Promise<OptionReply[]> {
    const found: OptionReply[] = []
    for (;;) {
      const reply = await this.optionReply(number)
      found.push(reply)
      if (isFinal(reply.type)) return found
      ensure(found.length < 10_000, 'O1: replies without end')
    }
  }

  /** Sends one option and collects its replies; the last one is final. */
  async option(number: number, data?: Buffer): Promise<OptionReply[]> {
    this.send(option(number, data))
    return this.replies(number)
  }

  /** Sends one option that gets exactly one reply; its type. */
  async verdict(number: number, data?: Buffer): Promise<number> {
    const replies = await this.option(number, data)
    ensure(replies.length === 1, `option ${number}: ${replies.length} replies instead of one`)
    return replies[0].type
  }

  async list(): Promise<{ name: string, description: string }[]> {
    const replies = await this.option(OPT.LIST)
    ensure(replies.at(-1)!.type === REP.ACK, `LIST ended with ${replies.at(-1)!.type}`)
    return replies.slice(0, -1).map(({ type, data }) => {
      ensure(type === REP.SERVER, `LIST answered with reply type ${type}`)
      const nameBytes = data.readUInt32BE(0)
      ensure(nameBytes <= data.length - 4, 'LIST: the name runs past its reply')
      return { name: ensureText(data.subarray(4, 4 + nameBytes), 'LIST name'),
        description: ensureText(data.subarray(4 + nameBytes), 'LIST description') }
    })
  }

  /** INFO or GO, with all of I1's rules checked. */
  async info(number: 6 | 7, name: string | Buffer, infos: readonly number[] = []): Promise<InfoAnswer> {
    return this.infoAnswer(number, await this.option(number, infoData(name, infos)))
  }

  infoAnswer(number: 6 | 7, replies: readonly OptionReply[]): InfoAnswer {
    const last = replies.at(-1)!
    const found = replies.slice(0, -1).map(({ type, data }) => {
      ensure(type === REP.INFO, `INFO/GO answered with reply type ${type}`)
      ensure(data.length >= 2, 'an INFO reply without a type')
      return { type: data.readUInt16BE(0), data: data.subarray(2) }
    })
    if (last.type !== REP.ACK) return { final: last.type, message: last.data.toString(), infos: found }
    ensure(new Set(found.map(info => info.type)).size === found.length, 'I1: an info type twice')
    return { final: REP.ACK, message: '', infos: found, facts: factsOf(found, number) }
  }

  /** EXPORT_NAME; padded says whether 124 zero bytes must follow (H3). */
  async exportName(name: string | Buffer, padded = (this.clientFlags & 2) === 0): Promise<ExportFacts> {
    this.send(option(OPT.EXPORT_NAME, Buffer.from(name as string)))
    return this.readExportName(padded)
  }

  async readExportName(padded = (this.clientFlags & 2) === 0): Promise<ExportFacts> {
    const answer = await this.stream.take(10 + (padded ? 124 : 0))
    ensure(answer.subarray(10).every(byte => byte === 0), 'H3: padding that is not zero')
    return checkFacts({ size: answer.readBigUInt64BE(0), flags: answer.readUInt16BE(8) })
  }

  /** LIST_META_CONTEXT or SET_META_CONTEXT. */
  async meta(number: 9 | 10, name: string | Buffer, queries: readonly (string | Buffer)[] = []): Promise<{ final: number,
    contexts: Context[] }> {
    const replies = await this.option(number, metaData(name, queries))
    return { final: replies.at(-1)!.type, contexts: this.contextsOf(number, replies) }
  }

  contextsOf(number: 9 | 10, replies: readonly OptionReply[]): Context[] {
    const contexts = replies.slice(0, -1).map(({ type, data }) => {
      ensure(type === REP.META_CONTEXT, `a META option answered with reply type ${type}`)
      ensure(data.length > 4, 'a context without a name')
      return { id: data.readUInt32BE(0), name: ensureText(data.subarray(4), 'context name') }
    })
    if (number === OPT.SET_META_CONTEXT) {
      ensure(new Set(contexts.map(c => c.id)).size === contexts.length, 'C4: one context id for two contexts')
      ensure(new Set(contexts.map(c => c.name)).size === contexts.length, 'C4: one context selected twice')
    }
    return contexts
  }

  /** The server closes and sends nothing more; fails on anything else. */
  async expectDropped(patienceMs?: number): Promise<void> {
    const rest = await this.stream.drain(patienceMs)
    ensure(rest.length === 0, `expected a drop, got ${rest.length} bytes: ${rest.subarray(0, 64).toString('hex')}`)
  }

  /** The handshake is still in step: LIST is answered as ever. */
  async expectInStep(): Promise<void> { await this.list() }

  destroy(): void { this.stream.socket.destroy() }
}

function factsOf(infos: readonly { type: number, data: Buffer }[], number: number): ExportFacts {
  const of = (type: number): Buffer | undefined => infos.find(info => info.type === type)?.data
  const main = of(INFO.EXPORT)
  ensure(main !== undefined, `I1: option ${number} acknowledged without an EXPORT info`)
  ensure(main.length === 10, `an EXPORT info of ${main.length + 2} bytes`)
  const sizes = of(INFO.BLOCK_SIZE)
  if (sizes) ensure(sizes.length === 12, `a BLOCK_SIZE info of ${sizes.length + 2} bytes`)
  const name = of(INFO.NAME)
  const description = of(INFO.DESCRIPTION)
  return checkFacts({
    size: main.readBigUInt64BE(0), flags: main.readUInt16BE(8),
    ...name && { name: ensureText(name, 'NAME info') },
    ...description && { description: ensureText(description, 'DESCRIPTION info') },
    ...sizes && { blockSizes: { minimum: sizes.readUInt32BE(0), preferred: sizes.readUInt32BE(4),
      maximum: sizes.readUInt32BE(8) } },
  })
}

/** What holds for every export, however it was reached: Z1, I11. */
function checkFacts(facts: ExportFacts): ExportFacts {
  const { flags, size, blockSizes } = facts
  ensure((flags & 1) === 1, 'HAS_FLAGS is clear')
  ensure((flags & 0x200) === 0 && (flags & 0xe000) === 0, `flags nobody has: 0x${flags.toString(16)}`)
  ensure((flags & 0x800) === 0 || (flags & 0x40) !== 0, 'I11: FAST_ZERO without WRITE_ZEROES')
  ensure(size < 2n ** 63n, `size ${size}`)
  if (!blockSizes) return facts
  const { minimum, preferred, maximum } = blockSizes
  const powerOfTwo = (n: number): boolean => n > 0 && Number.isInteger(Math.log2(n))
  ensure(powerOfTwo(minimum) && minimum <= 65536, `Z1: minimum ${minimum}`)
  ensure(size % BigInt(minimum) === 0n, `Z1: size ${size} is no multiple of ${minimum}`)
  ensure(powerOfTwo(preferred) && preferred >= Math.max(512, minimum), `Z1: preferred ${preferred}`)
  ensure(maximum >= preferred, `Z1: maximum ${maximum}`)
  ensure(maximum >= 2 ** 20 || BigInt(maximum) >= size, `Z1: maximum ${maximum} for ${size}`)
  return facts
}
