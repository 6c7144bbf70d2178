/**
 * The handshake of the client (PROTOCOL section 15), one option at a time, each to its final reply:
 *
 *   hello -> EXTENDED_HEADERS, else STRUCTURED_REPLY -> SET_META_CONTEXT base:allocation -> GO with BLOCK_SIZE
 *                                                              (chunks only)                \-> ERR_UNSUP: EXPORT_NAME
 *   hello without FIXED_NEWSTYLE -> EXPORT_NAME
 *
 * What comes out are facts that were judged: sizes that are exact Numbers, block sizes that can be obeyed. Whatever is
 * refused is said as a NbdeltaError; a peer that breaks the protocol is `bad-peer`.
 */
import {
  BASE_ALLOCATION, HANDSHAKE_FLAG, INFO, OPTION, REPLY, SIZE,
} from '../../native-free/nbd/constants.js'
import {
  decodeExportNameReply, decodeHello, decodeInfoReply, decodeMetaContext, decodeOptionReplyHeader, encodeClientFlags,
} from '../../native-free/nbd/client-handshake.js'
import { encodeInfoRequest, encodeMetaRequest, encodeOption } from '../../native-free/nbd/handshake.js'
import type { ReplyStyle } from '../../native-free/nbd/transmission.js'
import { NbdeltaError } from '../device/errors.js'
import { badPeer, quoted, unreachable } from './client-errors.js'
import { judgeFacts, type PeerFacts, type ToldFacts, type ToldSizes } from './client-facts.js'
import type { ClientSocket } from './client-socket.js'

/** Data of one option reply; names and texts end at 4,096 bytes. */
const REPLY_BYTES_MAX = 64 * 1024
/** Replies to one option; the most a GO may bring are four infos. */
const REPLIES_MAX = 64
const ERRORS_FROM = 2 ** 31
const OPTION_NAMES = new Map(Object.entries(OPTION).map(([name, number]) => [number as number, name]))
const REPLY_NAMES = new Map(Object.entries(REPLY).map(([name, type]) => [type as number, name]))

interface OptionReply { readonly type: number, readonly data: Buffer }

export interface HandshakeWishes {
  readonly exportName: string
  /** The best style to ask for. */
  readonly replyStyle: ReplyStyle
}

/** From the hello to the beginning of transmission. Deadlines are the caller's: who fails the socket fails this. */
export async function negotiate(socket: ClientSocket, wishes: HandshakeWishes): Promise<PeerFacts> {
  const hello = decodeHello(await socket.take(SIZE.hello))
  if (hello === undefined) throw badPeer('it does not begin as a newstyle NBD server does; is something else on that address?')
  if (hello.oldstyle) throw badPeer('it speaks the oldstyle protocol of before 2010, which has no exports to choose from')
  const flags = hello.flags & (HANDSHAKE_FLAG.fixedNewstyle | HANDSHAKE_FLAG.noZeroes)
  socket.write(encodeClientFlags(flags))
  const padded = (flags & HANDSHAKE_FLAG.noZeroes) === 0
  const { exportName } = wishes
  if ((flags & HANDSHAKE_FLAG.fixedNewstyle) === 0) {
    return judgeFacts('simple', undefined, await byExportName(socket, exportName, padded))
  }
  try {
    const style = await chooseStyle(socket, wishes.replyStyle)
    const contextId = style === 'simple' ? undefined : await chooseContext(socket, exportName)
    const told = await go(socket, exportName)
    if (told) return judgeFacts(style, contextId, told)
    if (style === 'extended') throw badPeer('GO is not supported, though extended headers were agreed on (I9)')
    return judgeFacts(style, contextId, await byExportName(socket, exportName, padded))
  } catch (error) {
    // The answer is not waited for; a peer that is gone already does not mind.
    if (!socket.failure) socket.write(encodeOption(OPTION.abort))
    throw error
  }
}

async function chooseStyle(socket: ClientSocket, best: ReplyStyle): Promise<ReplyStyle> {
  if (best === 'extended' && await agreed(socket, OPTION.extendedHeaders)) return 'extended'
  if (best !== 'simple' && await agreed(socket, OPTION.structuredReply)) return 'structured'
  return 'simple'
}

/** Whether the peer has it; that it refuses is fine. */
async function agreed(socket: ClientSocket, option: number): Promise<boolean> {
  const replies = await ask(socket, option, Buffer.alloc(0))
  if (replies.length !== 1) throw badPeer(`${nameOf(option)}: ${replies.length} replies instead of one`)
  return acknowledged(option, replies)
}

/** The id of base:allocation; undefined: this export has none. */
async function chooseContext(socket: ClientSocket, exportName: string): Promise<number | undefined> {
  const option = OPTION.setMetaContext
  const replies = await ask(socket, option, encodeMetaRequest(exportName, [BASE_ALLOCATION]))
  if (!acknowledged(option, replies) || replies.length === 1) return undefined
  const context = replies.length === 2 && replies[0]!.type === REPLY.metaContext ? decodeMetaContext(replies[0]!.data) : undefined
  if (context?.name !== BASE_ALLOCATION) throw badPeer(`${nameOf(option)}: it selects what was not asked for`)
  return context.id
}

/** Undefined: the peer is too old to know GO. */
async function go(socket: ClientSocket, exportName: string): Promise<ToldFacts | undefined> {
  const replies = await ask(socket, OPTION.go, encodeInfoRequest(exportName, [INFO.blockSize]))
  const last = replies.at(-1)!
  if (last.type === REPLY.errUnsup) return undefined
  if (last.type !== REPLY.ack) throw refusal(exportName, last)
  let told: { sizeBytes: bigint, flags: number } | undefined
  let sizes: ToldSizes | undefined
  for (const { type, data } of replies.slice(0, -1)) {
    const info = type === REPLY.info ? decodeInfoReply(data) : undefined
    if (info === undefined) throw badPeer(`go: a reply of type ${type} and ${data.length} bytes that is no information (I1)`)
    if ((info.kind === 'export' && told) || (info.kind === 'blockSize' && sizes)) throw badPeer('go: the same information twice')
    if (info.kind === 'export') told = info
    if (info.kind === 'blockSize') sizes = info
  }
  if (told === undefined) throw badPeer('go: it does not say how large the export is (I1)')
  return { ...told, sizes }
}

async function byExportName(socket: ClientSocket, exportName: string, padded: boolean): Promise<ToldFacts> {
  socket.write(encodeOption(OPTION.exportName, Buffer.from(exportName)))
  const bytes = await socket.take(10).catch((error: unknown) => {
    // All that EXPORT_NAME has for saying no; one's own deadline says more.
    throw socket.failure?.code === 'unreachable' && /peer closed/.test(socket.failure.message)
      ? new NbdeltaError('not-found', `the peer hung up when asked for export ${JSON.stringify(exportName)}: it may not have it`)
      : error
  })
  if (padded) await socket.take(SIZE.exportNamePadding)
  return { ...decodeExportNameReply(bytes)!, sizes: undefined }
}

/** Sends an option and collects its replies up to the final one (O1). */
async function ask(socket: ClientSocket, option: number, data: Buffer): Promise<OptionReply[]> {
  socket.write(encodeOption(option, data))
  const replies: OptionReply[] = []
  while (replies.length < REPLIES_MAX) {
    const header = decodeOptionReplyHeader(await socket.take(SIZE.optionReplyHeader))
    if (header === undefined) throw badPeer(`${nameOf(option)}: what follows is no option reply`)
    if (header.option !== option) throw badPeer(`${nameOf(option)}: a reply to option ${header.option}`)
    if (header.length > REPLY_BYTES_MAX) throw badPeer(`${nameOf(option)}: a reply of ${header.length} bytes`)
    if (header.type === REPLY.ack && header.length > 0) throw badPeer(`${nameOf(option)}: an acknowledgement with data`)
    replies.push({ type: header.type, data: await socket.take(header.length) })
    if (header.type === REPLY.ack || header.type >= ERRORS_FROM) return replies
  }
  throw badPeer(`${nameOf(option)}: replies without end`)
}

/** True for ACK, false for an error that only says no; the two errors that rule out everything else are thrown. */
function acknowledged(option: number, replies: readonly OptionReply[]): boolean {
  const last = replies.at(-1)!
  if (last.type === REPLY.ack) return true
  if (last.type === REPLY.errTlsReqd || last.type === REPLY.errShutdown) throw refusal(nameOf(option), last)
  return false
}

function refusal(what: string, { type, data }: OptionReply): NbdeltaError {
  const text = quoted(data)
  const name = JSON.stringify(what)
  switch (type) {
    case REPLY.errUnknown: return new NbdeltaError('not-found', `the peer has no export ${name}${text}`)
    case REPLY.errPolicy: return new NbdeltaError('denied', `the peer refuses export ${name}${text}`)
    case REPLY.errShutdown: return unreachable(`the peer is shutting down${text}`)
    case REPLY.errTlsReqd:
      return new NbdeltaError('denied', `the peer demands TLS, which is not supported yet${text}`)
    default: {
      const kind = REPLY_NAMES.get(type) ?? `error ${type - ERRORS_FROM}`
      return new NbdeltaError('unreachable', `the peer refuses export ${name} with ${kind}${text}`)
    }
  }
}

function nameOf(option: number): string { return OPTION_NAMES.get(option) ?? `option ${option}` }
