/**
 * Negotiation: what the client and we have agreed on so far, and the answer to each option. No sockets, no bytes in
 * transit; handshake.ts feeds it whole options, the connection opens the export it asks for.
 *
 *   OPTIONS row:  option -> { takes data?, answer(negotiation, data) -> replies and what happens next }
 *
 * An answer always ends in exactly one final reply (O1), except EXPORT_NAME, which knows only success or a drop.
 */
import { isUtf8 } from 'node:buffer'
import {
  HANDSHAKE_FLAG, INFO, MAX_META_QUERIES, MAX_STRING_BYTES, OPTION, REPLY, TRANSMISSION_FLAG,
} from '../../native-free/nbd/constants.js'
import {
  decodeInfoRequest, decodeMetaRequest, encodeExportNameReply, encodeInfoBlockSize, encodeInfoExport, encodeInfoText,
  encodeMetaContext, encodeOptionReply, encodeServerEntry,
} from '../../native-free/nbd/handshake.js'
import { contextNames, listContexts, selectContexts, SELECTED_CONTEXTS_MAX } from './metadata-contexts.js'
import { quoteClientText, wireText } from './wire-error.js'
import type { ReplyStyle } from '../../native-free/nbd/transmission.js'
import type { NbdeltaError } from '../device/errors.js'
import type { ExportInfo, ExportProvider } from './export.js'
import type { SelectedContext } from './metadata-contexts.js'

/** What the client wants opened, and how to say whether it worked. */
export interface Opening {
  readonly option: number
  readonly name: string
  readonly infos: readonly number[]
  /** Those that hold in transmission. */
  readonly contexts: readonly SelectedContext[]
}

type Next = 'options' | 'open' | 'end' | 'drop'

export interface Answer {
  readonly replies: readonly Buffer[]
  readonly next: Next
  readonly opening?: Opening
  /** For the log, when something was refused. */
  readonly refused?: string
}

/** Highest context id before ids start again; they need to be unique within one SET only (C4). */
const CONTEXT_ID_LIMIT = 2 ** 31

export class Negotiation {
  readonly provider: ExportProvider
  style: ReplyStyle = 'simple'
  #fixed = false
  #noZeroes = false
  #nextContextId = 1
  /** The names, asked for and canonical, of the export that the selected contexts hold for (C5). */
  #contextsFor: readonly string[] = []
  #contexts: readonly SelectedContext[] = []

  constructor(provider: ExportProvider) { this.provider = provider }

  /** The client's 32 flags. False: a bit nobody offered, so the connection must be closed (H2). */
  acceptFlags(flags: number): boolean {
    this.#fixed = (flags & HANDSHAKE_FLAG.fixedNewstyle) !== 0
    this.#noZeroes = (flags & HANDSHAKE_FLAG.noZeroes) !== 0
    return flags >>> 0 <= (HANDSHAKE_FLAG.fixedNewstyle | HANDSHAKE_FLAG.noZeroes)
  }

  /** Whether a session without FIXED_NEWSTYLE may use this option (H4). */
  permits(option: number): boolean { return this.#fixed || option === OPTION.exportName }

  get padded(): boolean { return !this.#noZeroes }

  answer(option: number, data: Buffer, draining: boolean): Answer {
    if (draining && option !== OPTION.abort) {
      if (option === OPTION.exportName) return drop('the server is shutting down')
      return refuse(option, REPLY.errShutdown, 'the server is shutting down')
    }
    const row = OPTIONS.get(option)
    if (row === undefined) return refuse(option, REPLY.errUnsup, 'this option is not known here')
    if (!row.data && data.length > 0) return refuse(option, REPLY.errInvalid, 'this option takes no data')
    return row.answer(this, data, option)
  }

  /** Replaces the selected set, also when the SET that asks for it fails later (C4). */
  select(exportNames: readonly string[], contexts: readonly string[]): readonly SelectedContext[] {
    this.#contextsFor = exportNames
    this.#contexts = contexts.map((name) => ({ id: this.#takeContextId(), name }))
    return this.#contexts
  }

  #takeContextId(): number {
    const id = this.#nextContextId
    this.#nextContextId = id + 1 < CONTEXT_ID_LIMIT ? id + 1 : 1
    return id
  }

  /**
   * The contexts that hold in transmission for an export of these names (C5). One of them must have been named in SET: a
   * moving name such as "x@latest" may have another canonical name by now, and is the same export all the same.
   */
  contextsOf(...exportNames: readonly string[]): readonly SelectedContext[] {
    const same = this.style !== 'simple' && exportNames.some((name) => this.#contextsFor.includes(name))
    return same ? this.#contexts : []
  }
}

interface Row {
  readonly data: boolean
  readonly answer: (negotiation: Negotiation, data: Buffer, option: number) => Answer
}

const OPTIONS: ReadonlyMap<number, Row> = new Map<number, Row>([
  [OPTION.exportName, { data: true, answer: answerExportName }],
  [OPTION.abort, { data: true, answer: (_, _data, option) => ({ ...accept(option), next: 'end' }) }],
  [OPTION.list, { data: false, answer: answerList }],
  [OPTION.startTls, { data: false, answer: (_, _data, option) => refuse(option, REPLY.errPolicy, 'TLS is not offered here') }],
  [OPTION.info, { data: true, answer: answerInfo }],
  [OPTION.go, { data: true, answer: answerInfo }],
  [OPTION.structuredReply, { data: false, answer: answerStructured }],
  [OPTION.listMetaContext, { data: true, answer: answerMeta }],
  [OPTION.setMetaContext, { data: true, answer: answerMeta }],
  [OPTION.extendedHeaders, { data: false, answer: answerExtended }],
])

function accept(option: number, replies: readonly Buffer[] = []): Answer {
  return { replies: [...replies, encodeOptionReply(option, REPLY.ack)], next: 'options' }
}
/** One error reply with its human sentence (O5); the session goes on (O9). */
export function refuse(option: number, type: number, text: string): Answer {
  return { replies: [encodeOptionReply(option, type, wireText(text))], next: 'options', refused: text }
}
function drop(reason: string): Answer {
  return { replies: [], next: 'drop', refused: reason }
}

/** H5: undefined when the name is not acceptable; the answer says which error that is. */
function readName(bytes: Buffer): { name: string } | { type: number, text: string } {
  const invalid = (text: string) => ({ type: REPLY.errInvalid, text })
  if (bytes.length > MAX_STRING_BYTES) return invalid(`an export name may be ${MAX_STRING_BYTES} bytes long`)
  if (bytes.includes(0)) return invalid('an export name may not contain a zero byte')
  if (!isUtf8(bytes)) return { type: REPLY.errUnknown, text: 'there is no export of that name (it is not valid UTF-8)' }
  return { name: bytes.toString('utf8') }
}

/** The export of that name, or the error reply to give instead. */
function findExport(
  negotiation: Negotiation, bytes: Buffer,
): { info: ExportInfo, name: string } | { type: number, text: string } {
  const read = readName(bytes)
  if ('type' in read) return read
  const info = negotiation.provider.describe(read.name)
  if (info !== undefined) return { info, name: read.name }
  return { type: REPLY.errUnknown, text: `there is no export ${quoteClientText(bytes)}` }
}

function answerExportName(negotiation: Negotiation, data: Buffer): Answer {
  if (negotiation.style === 'extended') return drop('EXPORT_NAME after extended headers')
  const found = findExport(negotiation, data)
  if ('type' in found) return drop(found.text)
  return { replies: [], next: 'open', opening: openingOf(negotiation, OPTION.exportName, found, []) }
}

function openingOf(
  negotiation: Negotiation, option: number, { name, info }: { name: string, info: ExportInfo }, infos: readonly number[],
): Opening {
  return { option, name, infos, contexts: negotiation.contextsOf(name, info.name) }
}

function answerList(negotiation: Negotiation, _data: Buffer, option: number): Answer {
  return accept(option, negotiation.provider.list().map(({ name, description }) =>
    encodeOptionReply(option, REPLY.server, encodeServerEntry(name, description))))
}

function answerInfo(negotiation: Negotiation, data: Buffer, option: number): Answer {
  const request = decodeInfoRequest(data)
  if (request === undefined) return refuse(option, REPLY.errInvalid, 'the lengths inside this option do not fit it')
  const found = findExport(negotiation, request.name)
  if ('type' in found) return refuse(option, found.type, found.text)
  const opening = openingOf(negotiation, option, found, request.infos)
  if (option === OPTION.go) return { replies: [], next: 'open', opening }
  return accept(option, describeExport(negotiation, opening, found.info))
}

function answerStructured(negotiation: Negotiation, _data: Buffer, option: number): Answer {
  if (negotiation.style === 'extended') return refuse(option, REPLY.errExtHeaderReqd, 'extended headers are in use already')
  if (negotiation.style === 'structured') return refuse(option, REPLY.errInvalid, 'structured replies are in use already')
  negotiation.style = 'structured'
  return accept(option)
}

function answerExtended(negotiation: Negotiation, _data: Buffer, option: number): Answer {
  if (negotiation.style === 'extended') return refuse(option, REPLY.errInvalid, 'extended headers are in use already')
  negotiation.style = 'extended'
  return accept(option)
}

function answerMeta(negotiation: Negotiation, data: Buffer, option: number): Answer {
  const set = option === OPTION.setMetaContext
  if (set) negotiation.select([], [])
  const request = decodeMetaRequest(data)
  if (request === undefined) return refuse(option, REPLY.errInvalid, 'the lengths inside this option do not fit it')
  if (request === 'too many') return refuse(option, REPLY.errTooBig, `at most ${MAX_META_QUERIES} queries at once`)
  if (set && negotiation.style === 'simple') return refuse(option, REPLY.errInvalid, 'metadata contexts need structured replies')
  const found = findExport(negotiation, request.name)
  if ('type' in found) return refuse(option, found.type, found.text)
  const queries = request.queries.map((query) => query.toString('utf8'))
  const reply = (id: number, name: string) => encodeOptionReply(option, REPLY.metaContext, encodeMetaContext(id, name))
  const available = contextNames(negotiation.provider, found.name)
  if (!set) return accept(option, listContexts(available, queries).map((name) => reply(0, name)))
  const names = selectContexts(available, queries)
  const most = SELECTED_CONTEXTS_MAX
  if (names.length > most) return refuse(option, REPLY.errTooBig, `at most ${most} contexts at once`)
  return accept(option, negotiation.select([found.name, found.info.name], names).map(({ id, name }) => reply(id, name)))
}

/** The reply to an export that was opened: INFO replies and the ACK, or EXPORT_NAME's block. */
export function opened(negotiation: Negotiation, opening: Opening, info: ExportInfo): readonly Buffer[] {
  if (opening.option === OPTION.exportName) {
    return [encodeExportNameReply(wholeBlocks(info), transmissionFlags(negotiation, info, opening.contexts), negotiation.padded)]
  }
  return accept(opening.option, describeExport(negotiation, opening, info)).replies
}

/** The answer to a GO whose export could not be opened; EXPORT_NAME can only drop. */
export function notOpened(opening: Opening, error: NbdeltaError): Answer {
  if (opening.option === OPTION.exportName) return drop(error.message)
  const type = error.code === 'denied' || error.code === 'read-only' ? REPLY.errPolicy
    : error.code === 'shutting-down' ? REPLY.errShutdown : REPLY.errUnknown
  return refuse(opening.option, type, error.message)
}

/** The INFO replies: EXPORT and BLOCK_SIZE always, texts when they were asked for (I1-I4). Same for INFO and GO (I7). */
function describeExport(negotiation: Negotiation, opening: Opening, info: ExportInfo): Buffer[] {
  const { option, infos: asked, contexts } = opening
  const { minimum, preferred, maximum } = info.blockSizes
  const infos = [
    encodeInfoExport(wholeBlocks(info), transmissionFlags(negotiation, info, contexts)),
    encodeInfoBlockSize(minimum, preferred, maximum),
  ]
  if (asked.includes(INFO.name)) infos.push(encodeInfoText(INFO.name, info.name))
  if (asked.includes(INFO.description) && info.description !== '') infos.push(encodeInfoText(INFO.description, info.description))
  return infos.map((data) => encodeOptionReply(option, REPLY.info, data))
}

/** The size to tell: whole blocks of the minimum size (Z1). */
function wholeBlocks(info: ExportInfo): number { return info.sizeBytes - info.sizeBytes % info.blockSizes.minimum }

/** What the export can do, for this client (I10, I11, D3): a flag stands only for what is served. */
export function transmissionFlags(
  { style }: Pick<Negotiation, 'style'>, info: ExportInfo, contexts: readonly SelectedContext[],
): number {
  const F = TRANSMISSION_FLAG
  const writable = !info.readOnly
  const set = (condition: boolean, flag: number) => condition ? flag : 0
  return F.hasFlags | F.sendFlush | F.sendFua | F.sendCache
    | set(info.oneConnection !== true, F.canMultiConn)
    | set(info.readOnly, F.readOnly)
    | set(info.capabilities.rotational, F.rotational)
    | set(writable && info.capabilities.trim, F.sendTrim)
    | set(writable, F.sendWriteZeroes)
    | set(writable && info.capabilities.fastZero, F.sendFastZero)
    | set(style !== 'simple', F.sendDf)
    | set(style === 'extended' && contexts.length > 0, F.blockStatusPayload)
}
