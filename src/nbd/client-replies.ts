/**
 * ReplyReader: the replies of one connection, taken apart as they arrive. It trusts nothing: whatever PROTOCOL section 8
 * forbids, or would take memory that nobody asked for, throws `bad-peer` and so ends the connection.
 *
 *   header -> simple: errno | payload of a READ lands in place
 *          -> chunk:  OFFSET_DATA  offset, then its bytes land in place      OFFSET_HOLE  12 bytes
 *                     BLOCK_STATUS context, then one extent at a time        ERROR        the whole payload, <= 8 KiB
 *
 * Lengths are judged when the header is there, before anything is taken. No payload is buffered: content goes to the
 * buffer of the request, extents beyond those asked for are judged and forgotten.
 *
 * One peer's bug is tolerated: nbd-server answers an erroneous READ with a simple reply under structured replies (G2).
 */
import { CHUNK, CHUNK_FLAG_DONE, COMMAND, COMMAND_FLAG, SIZE } from '../../native-free/nbd/constants.js'
import {
  decodeErrorPayload, decodeReplyHeader, getU64, ReplyHeader, replyHeaderBytes,
} from '../../native-free/nbd/client-transmission.js'
import { chunkHeaderBytes, type ReplyStyle } from '../../native-free/nbd/transmission.js'
import { STATE_HOLE, STATE_ZERO } from '../device/block-device.js'
import type { NbdeltaError } from '../device/errors.js'
import { badPeer, refusedRequest } from './client-errors.js'
import type { ClientInbox } from './client-inbox.js'
import type { ClientRequest } from './client-request.js'

/** An error chunk holds a text of at most 4,096 bytes and an offset. */
const ERROR_PAYLOAD_BYTES = 8192
/** B2: more extents than this in one chunk are an attack. */
const EXTENTS_MAX = 2 ** 20
const ERROR_TYPES = 0x8000
const NO_TEXT = Buffer.alloc(0)

export interface ReplySink {
  /** The request in flight of this cookie. */
  find(cookieHigh: number, cookieLow: number): ClientRequest | undefined
  /** Its reply is complete; `request.failure` says whether it was refused. */
  finished(request: ClientRequest): void
}

type Step = 'magic' | 'header' | 'offset' | 'hole' | 'error' | 'context' | 'extent' | 'content'

export class ReplyReader {
  readonly #inbox: ClientInbox
  readonly #style: ReplyStyle
  readonly #contextId: number | undefined
  readonly #sink: ReplySink
  readonly #header = new ReplyHeader()
  #step: Step = 'magic'
  /** Bytes that `#step` takes in one piece. */
  #need = 4
  #request!: ClientRequest
  /** Extents of the chunk still to come, and bytes that those before them cover. */
  #extentsLeft = 0
  #statusBytes = 0
  /** The answer has room; nothing may follow what did not fit. */
  #keeping = false

  constructor(inbox: ClientInbox, style: ReplyStyle, contextId: number | undefined, sink: ReplySink) {
    this.#inbox = inbox
    this.#style = style
    this.#contextId = contextId
    this.#sink = sink
  }

  /** Consumes what has arrived. */
  parse(): void {
    const inbox = this.#inbox
    while (inbox.filling === 0 && (this.#step === 'content' || inbox.available >= this.#need)) this.#take()
  }

  #take(): void {
    switch (this.#step) {
      case 'magic': return this.#takeMagic()
      case 'header': return this.#takeHeader()
      case 'offset': return this.#takeOffset()
      case 'hole': return this.#takeHole()
      case 'error': return this.#takeError()
      case 'context': return this.#takeContext()
      case 'extent': return this.#takeExtent()
      case 'content': return this.#endChunk()
    }
  }

  #wrong(what: string): NbdeltaError { return badPeer(`${this.#request.text}: ${what}`) }

  #next(step: Step, need: number): void {
    this.#step = step
    this.#need = need
  }

  /** The next `bytes` bytes are consumed; where they begin. */
  #consume(bytes: number): number {
    const at = this.#inbox.pos
    this.#inbox.pos += bytes
    return at
  }

  #takeMagic(): void {
    const bytes = replyHeaderBytes(this.#inbox.view, this.#inbox.pos)
    const simple = bytes === SIZE.simpleReply && this.#style !== 'extended'
    if (!simple && (this.#style === 'simple' || bytes !== chunkHeaderBytes(this.#style))) {
      const magic = this.#inbox.buffer.toString('hex', this.#inbox.pos, this.#inbox.pos + 4)
      throw badPeer(`a reply begins with ${magic}, and replies are ${this.#style} here (E1, G4)`)
    }
    this.#next('header', bytes)
  }

  #takeHeader(): void {
    const header = this.#header
    decodeReplyHeader(this.#inbox.view, this.#consume(this.#need), header)
    const request = this.#sink.find(header.cookieHigh, header.cookieLow)
    if (request === undefined) throw badPeer('a reply to a request that is not in flight (G1)')
    this.#request = request
    if (header.simple) this.#simple(request)
    else this.#chunk(request)
  }

  #simple(request: ClientRequest): void {
    if (request.statusSeen || request.coveredBytes > 0 || request.failure) throw this.#wrong(`a simple reply after chunks`)
    const { errno } = this.#header
    this.#header.flags = CHUNK_FLAG_DONE
    if (errno !== 0) {
      this.#refuse(errno, NO_TEXT)
      return this.#endChunk()
    }
    const chunked = request.type === COMMAND.blockStatus || (request.type === COMMAND.read && this.#style !== 'simple')
    if (chunked) throw this.#wrong(`a simple reply where chunks are due (G2)`)
    if (request.type !== COMMAND.read) return this.#endChunk()
    request.cover(request.offset, request.length)
    this.#content(request.offset, request.length)
  }

  #chunk(request: ClientRequest): void {
    const { type, flags, length, offset } = this.#header
    if ((flags & ~CHUNK_FLAG_DONE) !== 0) throw this.#wrong(`chunk flags ${flags}`)
    if (this.#style === 'extended' && offset !== request.offset) throw this.#wrong(`a chunk with offset ${offset} (E2)`)
    if (type >= ERROR_TYPES) {
      if (length < 6 || length > ERROR_PAYLOAD_BYTES) throw this.#wrong(`an error chunk of ${length} bytes`)
      return this.#next('error', length)
    }
    switch (type) {
      case CHUNK.none:
        if (length !== 0 || flags !== CHUNK_FLAG_DONE) throw this.#wrong(`an empty chunk that is neither empty nor the last`)
        return this.#endChunk()
      case CHUNK.offsetData:
        if (request.type !== COMMAND.read || length <= 8 || length - 8 > request.length) break
        return this.#next('offset', 8)
      case CHUNK.offsetHole:
        if (request.type !== COMMAND.read || length !== 12) break
        return this.#next('hole', 12)
      case CHUNK.blockStatus: case CHUNK.blockStatusExt:
        return this.#status(request, length)
    }
    throw this.#wrong(`a chunk of type ${type} and ${length} bytes`)
  }

  #takeOffset(): void {
    const start = getU64(this.#inbox.view, this.#consume(8))
    const length = this.#header.length - 8
    this.#cover(start, length)
    this.#content(start, length)
  }

  #takeHole(): void {
    const at = this.#consume(12)
    const start = getU64(this.#inbox.view, at)
    const length = this.#inbox.view.getUint32(at + 8)
    this.#cover(start, length)
    const { buffer, at: into } = this.#request.bytes!
    const from = into + start - this.#request.offset
    buffer.fill(0, from, from + length)
    this.#endChunk()
  }

  #cover(start: number, length: number): void {
    const request = this.#request
    const inside = length > 0 && start >= request.offset && start + length <= request.offset + request.length
    if (!inside) throw this.#wrong(`content for [${start}, +${length}), which was not asked for (R2)`)
    if (!request.cover(start, length)) throw this.#wrong(`content comes twice, or in crumbs (R2)`)
  }

  #content(start: number, length: number): void {
    const { buffer, at } = this.#request.bytes!
    this.#next('content', 0)
    this.#inbox.fill(buffer, at + start - this.#request.offset, length)
  }

  #takeError(): void {
    const { length, type } = this.#header
    const at = this.#consume(length)
    const request = this.#request
    const error = decodeErrorPayload(this.#inbox.buffer.subarray(at, at + length))
    const rest = type === CHUNK.error ? 0 : type === CHUNK.errorOffset ? 8 : error?.restBytes
    if (error === undefined || error.errno === 0 || error.restBytes !== rest) {
      throw this.#wrong(`an error chunk whose lengths do not fit, or without an error`)
    }
    if (type === CHUNK.errorOffset) {
      const offset = getU64(this.#inbox.view, at + length - 8)
      if (offset < request.offset || offset >= request.offset + request.length) throw this.#wrong(`an error at ${offset}`)
    }
    this.#refuse(error.errno, error.text)
    this.#endChunk()
  }

  /** The first refusal counts; no later one takes it back. */
  #refuse(errno: number, text: Buffer): void {
    const request = this.#request
    request.errno ||= errno
    request.failure ??= refusedRequest(request.text, errno, text, request.fast)
  }

  #status(request: ClientRequest, length: number): void {
    const wide = this.#style === 'extended'
    const unit = wide ? 16 : 8
    const front = wide ? 8 : 4
    const extents = (length - front) / unit
    const right = this.#header.type === (wide ? CHUNK.blockStatusExt : CHUNK.blockStatus)
    if (request.type !== COMMAND.blockStatus || !right || !Number.isInteger(extents) || extents < 1 || extents > EXTENTS_MAX) {
      throw this.#wrong(`a status chunk of type ${this.#header.type} and ${length} bytes (B2, E6)`)
    }
    if (request.statusSeen) throw this.#wrong(`a second status chunk (B2)`)
    if ((request.flags & COMMAND_FLAG.reqOne) !== 0 && extents > 1) throw this.#wrong(`${extents} extents instead of one (B1)`)
    request.statusSeen = true
    this.#extentsLeft = extents
    this.#statusBytes = 0
    this.#keeping = true
    this.#next('context', front)
  }

  #takeContext(): void {
    const at = this.#consume(this.#need)
    const { view } = this.#inbox
    const counted = this.#style === 'extended' && view.getUint32(at + 4) !== this.#extentsLeft
    if (counted || view.getUint32(at) !== this.#contextId) throw this.#wrong(`status of another context, or miscounted (E6)`)
    this.#next('extent', this.#style === 'extended' ? 16 : 8)
  }

  #takeExtent(): void {
    const { view } = this.#inbox
    const wide = this.#style === 'extended'
    const at = this.#consume(this.#need)
    const length = wide ? getU64(view, at) : view.getUint32(at)
    const state = wide ? getU64(view, at + 8) : view.getUint32(at + 4)
    const request = this.#request
    const fits = this.#statusBytes < request.length && length > 0
    const one = (request.flags & COMMAND_FLAG.reqOne) !== 0
    if (!fits || (one && length > request.length)) throw this.#wrong(`an extent of ${length} bytes at +${this.#statusBytes} (B1)`)
    if (state >= 2 ** 32) throw this.#wrong(`a state of more than 32 bits (E6)`)
    const clipped = Math.min(length, request.length - this.#statusBytes)
    this.#statusBytes += clipped
    this.#keeping &&= request.extents!.add(clipped, state & (STATE_HOLE | STATE_ZERO))
    if (--this.#extentsLeft === 0) this.#endChunk()
  }

  #endChunk(): void {
    this.#next('magic', 4)
    if ((this.#header.flags & CHUNK_FLAG_DONE) === 0) return
    const request = this.#request
    if (request.failure === undefined) {
      const { type, length, coveredBytes } = request
      if (type === COMMAND.read && coveredBytes !== length) throw this.#wrong(`only ${coveredBytes} bytes came (R2)`)
      if (type === COMMAND.blockStatus && !request.statusSeen) throw this.#wrong(`no status came (B2)`)
    }
    this.#sink.finished(request)
  }
}
