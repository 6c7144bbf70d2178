/**
 * Session: the transmission phase of one connection. Requests come out of the inbox, devices do the work, replies go into
 * the outbox; nothing here knows a socket.
 *
 *   consume():  header -> judge -> whole payload / taken in pieces / skipped -> device -> reply      (again, until dry)
 *
 * A device that completes at once costs no promise, closure or allocation: header to reply is one run through `#next`.
 * One that completes later gets a Job, and its reply follows whenever it comes (G1). Requests are begun in the order of
 * arrival; serialising overlapping writes is the device's (D1).
 *
 * Limits: `inFlight` jobs, the outbox's backlog, the inbox's pinned memory; each makes consume() stop, and the connection
 * calls it again after the next completion or drain. QUOTA_* bound what one turn of the event loop gives to one connection,
 * so that the others and the control socket have theirs.
 */
import { COMMAND, COMMAND_FLAG, SIZE } from '../../native-free/nbd/constants.js'
import { decodeExtendedRequest, decodeRequest, decodeStatusFilter, Request } from '../../native-free/nbd/transmission.js'
import { filterContexts, lookUpStatus, replyStatus } from './block-status.js'
import { WHOLE_PAYLOAD_BYTES } from './inbox.js'
import { REPLY_ROOM_BYTES } from './outbox.js'
import { ReadStream, WINDOW } from './read-stream.js'
import { judge, judgeRange, payloadBytesOf, REFUSALS } from './request-verdict.js'
import { Settlement } from './settlement.js'
import { WriteStream } from './write-stream.js'
import type { BlockDevice, Extents, Pending } from '../device/block-device.js'
import type { Counters } from './counters.js'
import type { Inbox } from './inbox.js'
import type { Jobs } from './jobs.js'
import type { BoundContext } from './metadata-contexts.js'
import type { Outbox } from './outbox.js'
import type { Refusal, SessionFacts } from './request-verdict.js'
import type { SessionHost } from './settlement.js'
import type { Slab } from './slab.js'

/** Up to this much a READ is read whole before its header is sent. nbdcopy and qemu-img ask for 256 KiB. */
const WHOLE_READ_BYTES = 256 * 1024
/** One turn: about 2 ms of small requests, or 0.5 ms of copying; 64 busy connections take turns of some 30 ms. */
const QUOTA_REQUESTS = 1024
const QUOTA_BYTES = 2 * 1024 * 1024

/** What consume() left off for. 'dry': needs more bytes. 'stalled': call again after `wake`. 'over': see `ending`. */
type Consumed = 'dry' | 'stalled' | 'over'
type Step = Consumed | 'next'

interface SessionOptions {
  readonly host: SessionHost
  readonly inbox: Inbox
  readonly outbox: Outbox
  readonly device: BlockDevice
  readonly facts: SessionFacts
  readonly contexts: readonly BoundContext[]
  readonly counters: Counters
  readonly inFlight: number
  readonly extents: number
}

export class Session {
  readonly jobs: Jobs
  /** Set when parsing is over: the client said DISC, or broke the protocol so that no step is left in common. */
  ending: { readonly how: 'disconnect' | 'drop', readonly reason: string } | undefined
  /** New requests are answered ESHUTDOWN from now on (S3). */
  refusing = false
  /** Steps taken so far; the spinner tells small batches from large ones by it. */
  served = 0
  readonly #options: SessionOptions
  readonly #host: SessionHost
  readonly #inbox: Inbox
  readonly #outbox: Outbox
  readonly #device: BlockDevice
  readonly #facts: SessionFacts
  readonly #counters: Counters
  readonly #settlement: Settlement
  readonly #request = new Request()
  readonly #headerBytes: number
  readonly #extended: boolean
  readonly #chunked: boolean
  #taking: WriteStream | undefined
  #skipBytes = 0
  #skipRefusal: Refusal = REFUSALS.payload
  /** Large reads in the order of their replies; only the first one sends. */
  #streams: ReadStream[] = []

  constructor(options: SessionOptions) {
    this.#options = options
    this.#host = options.host
    this.#inbox = options.inbox
    this.#outbox = options.outbox
    this.#device = options.device
    this.#facts = options.facts
    this.#counters = options.counters
    this.#extended = options.facts.style === 'extended'
    this.#chunked = options.facts.style !== 'simple'
    this.#headerBytes = this.#extended ? SIZE.extendedRequest : SIZE.request
    this.#settlement = new Settlement(options.host, options.device, options.outbox, options.counters, options.facts.style)
    this.jobs = this.#settlement.jobs
  }

  /** The client is gone: nothing new is begun. What runs at a device settles by itself; a stream ends with its piece. */
  abandon(): void {
    for (const stream of this.#streams) {
      stream.abandon()
      if (!stream.busy) this.jobs.end(stream.job)
    }
    this.#streams = this.#streams.filter(({ busy }) => busy)
    this.#taking?.abandon()
    if (this.#taking?.settled === true) this.jobs.end(this.#taking.job)
    this.#taking = undefined
    this.#settlement.release()
  }

  /** Nothing is under way: no job, and no request half received. */
  get idle(): boolean {
    const received = this.#skipBytes > 0 || this.#taking !== undefined || this.#inbox.available >= this.#headerBytes
    return this.jobs.count === 0 && !received
  }

  /** Serves what the inbox holds. */
  consume(): Consumed {
    const inbox = this.#inbox
    const counters = this.#counters
    const bytesEnd = counters.bytesRead + counters.bytesWritten + QUOTA_BYTES
    for (let requests = 0; ; requests++) {
      if (this.ending !== undefined) return 'over'
      if (requests > QUOTA_REQUESTS || counters.bytesRead + counters.bytesWritten > bytesEnd) {
        this.#host.wake()
        return 'stalled'
      }
      let step: Step
      if (this.#streams.length > 0) step = this.#pump()
      else if (this.#taking !== undefined) step = this.#take(this.#taking)
      else if (this.#skipBytes > 0) step = this.#skip()
      else if (inbox.end - inbox.pos < this.#headerBytes) return 'dry'
      else if (this.jobs.count >= this.#options.inFlight || !this.#outbox.reserve(REPLY_ROOM_BYTES)) return 'stalled'
      else step = this.#next()
      if (step !== 'next') return step
      this.served++
    }
  }

  /** One request from its header on. Nothing is consumed unless the step is done. */
  #next(): Step {
    const inbox = this.#inbox
    const request = this.#request
    const { view } = inbox.slab
    const decode = this.#extended ? decodeExtendedRequest : decodeRequest
    if (!decode(view, inbox.pos, request)) return this.#end('drop', 'a request does not begin with the magic number')
    const { type } = request
    if (type === COMMAND.disconnect) return this.#end('disconnect', 'the client is done')
    const refused = judge(request, this.#facts, this.#device.sizeBytes, this.refusing)
    if (type === COMMAND.read && refused === undefined) return this.#read(request)
    const payload = payloadBytesOf(request, this.#facts.style)
    if (payload > this.#facts.payloadBytes) {
      this.#settlement.refuse(request, REFUSALS.payloadTooLong)
      return this.#end('drop', REFUSALS.payloadTooLong.text)
    }
    if (type === COMMAND.write) return this.#write(request, refused)
    if (payload > 0) return this.#withPayload(request, payload, refused)
    inbox.pos += this.#headerBytes
    this.#count(type)
    if (refused !== undefined) this.#settlement.refuse(request, refused)
    else this.#perform(request)
    return 'next'
  }

  #end(how: 'disconnect' | 'drop', reason: string): Step {
    this.ending = { how, reason }
    return 'over'
  }

  #count(type: number): void {
    if (type <= COMMAND.blockStatus) this.#counters.ops[type]!++
  }

  #read(request: Request): Step {
    const outbox = this.#outbox
    const { offset, length } = request
    const onePiece = (request.flags & COMMAND_FLAG.df) !== 0
    if (length === 0) return this.#readNothing(request)
    if (this.#chunked && !onePiece) {
      const run = this.#device.zeroRun(offset, length)
      if (run !== length) return -run >= length ? this.#readHole(request) : this.#readStream(request, false)
    }
    const headerBytes = this.#settlement.replies.readHeaderBytes
    if (length > WHOLE_READ_BYTES) return this.#readStream(request, onePiece)
    if (!outbox.reserve(headerBytes + length)) return outbox.slab === undefined ? 'stalled' : this.#readStream(request, onePiece)
    this.#inbox.pos += this.#headerBytes
    this.#counters.ops[COMMAND.read]!++
    this.#counters.bytesRead += length
    const slab = outbox.slab!
    const at = outbox.at
    let pending: Pending
    try {
      pending = this.#device.read(offset, length, slab.buffer, at + headerBytes, this.#host)
    } catch (error) {
      this.#settlement.fail(request, error)
      return 'next'
    }
    if (pending !== undefined) this.#readLater(request, pending, slab, at)
    else {
      this.#settlement.replies.putReadHeader(slab.view, at, request, offset, length)
      outbox.at = at + headerBytes + length
    }
    return 'next'
  }

  #readLater(request: Request, pending: Promise<void>, slab: Slab, at: number): void {
    const job = this.jobs.begin(request)
    const end = at + this.#settlement.replies.readHeaderBytes + job.length
    this.#outbox.openRegion(end - at)
    this.#settlement.settle(job, pending, () => {
      this.#settlement.replies.putReadHeader(slab.view, at, job, job.offset, job.length)
      this.#outbox.sendRegion(slab, at, end)
    }, () => this.#outbox.dropRegion(slab))
  }

  #readNothing(request: Request): Step {
    this.#inbox.pos += this.#headerBytes
    this.#count(COMMAND.read)
    this.#settlement.replies.success(request, COMMAND.read)
    return 'next'
  }

  #readHole(request: Request): Step {
    this.#inbox.pos += this.#headerBytes
    this.#count(COMMAND.read)
    this.#counters.bytesRead += request.length
    this.#settlement.replies.hole(request, request.offset, request.length)
    return 'next'
  }

  #readStream(request: Request, onePiece: boolean): Step {
    this.#inbox.pos += this.#headerBytes
    this.#count(COMMAND.read)
    const { style } = this.#facts
    const job = this.jobs.begin(request)
    const stream = new ReadStream(this.#device, this.#outbox, this.#host, style, job, onePiece, (error) => {
      if (error === undefined) this.#host.wake()
      else this.#host.broken(error)
    })
    this.#streams.push(stream)
    if (this.#streams.length === 1) stream.lead()
    if (stream.exclusive) this.#settlement.hold()
    return 'next'
  }

  /** Lets the streams go on, from the head; finished ones make place. */
  #pump(): Step {
    for (const stream of this.#streams) {
      const result = stream.pump()
      if (result === 'drop') {
        this.#settlement.noteFailure(stream.job, stream.failure)
        return this.#end('drop', 'the device failed in the middle of a simple reply')
      }
      if (result === 'done') return this.#finishStream(stream)
      if (!stream.passes) return 'stalled'
    }
    return this.#pass()
  }

  #finishStream(stream: ReadStream): Step {
    const { job, failure } = stream
    this.#streams.shift()
    this.jobs.end(job)
    if (failure !== undefined) {
      this.#outbox.reserveReply()
      this.#settlement.fail(job, failure)
    } else this.#counters.bytesRead += job.length
    this.#streams[0]?.lead()
    if (this.#streams.length === 0) this.#settlement.release()
    return 'next'
  }

  /** All streams wait for their last parts: another large READ may begin meanwhile, but not while other replies are held. */
  #pass(): Step {
    const inbox = this.#inbox
    const request = this.#request
    const parts = this.#streams.reduce((sum, stream) => sum + stream.parts, 0)
    if (parts >= WINDOW || this.#settlement.holds || inbox.available < this.#headerBytes) return 'stalled'
    const decode = this.#extended ? decodeExtendedRequest : decodeRequest
    if (!decode(inbox.slab.view, inbox.pos, request) || request.type !== COMMAND.read) return 'stalled'
    if (judge(request, this.#facts, this.#device.sizeBytes, this.refusing) !== undefined) return 'stalled'
    if (request.length <= WHOLE_READ_BYTES || this.jobs.count >= this.#options.inFlight) return 'stalled'
    return this.#readStream(request, (request.flags & COMMAND_FLAG.df) !== 0)
  }

  #write(request: Request, refused: Refusal | undefined): Step {
    const inbox = this.#inbox
    const { length } = request
    if (length > WHOLE_PAYLOAD_BYTES) {
      inbox.pos += this.#headerBytes
      this.#count(COMMAND.write)
      if (refused !== undefined) this.#startSkip(length, refused)
      else this.#startTaking(request)
      return 'next'
    }
    const at = inbox.pos + this.#headerBytes
    if (inbox.end < at + length) return 'dry'
    inbox.pos = at + length
    this.#count(COMMAND.write)
    if (refused !== undefined) this.#settlement.refuse(request, refused)
    else if (length === 0) this.#settlement.replies.success(request, COMMAND.write)
    else this.#writeWhole(request, inbox.slab, at)
    return 'next'
  }

  #writeWhole(request: Request, slab: Slab, at: number): void {
    let pending: Pending
    try {
      pending = this.#device.write(request.offset, request.length, slab.buffer, at, this.#host)
    } catch (error) {
      this.#settlement.fail(request, error)
      return
    }
    this.#counters.bytesWritten += request.length
    if (pending !== undefined) {
      slab.pin()
      pending = pending.finally(() => slab.unpin())
    }
    this.#settlement.conclude(request, pending)
  }

  #startTaking(request: Request): void {
    const job = this.jobs.begin(request)
    const taking = new WriteStream(this.#device, this.#inbox, this.#host, job, (error) => {
      if (error !== undefined) this.#host.broken(error)
      else if (taking.settled) this.#settlement.reply(() => this.#concludeTaken(taking))
      else this.#host.wake()
    })
    this.#taking = taking
  }

  /** The next piece of a large WRITE. */
  #take(taking: WriteStream): Step {
    if (!taking.take()) return 'dry'
    if (taking.taken) {
      this.#taking = undefined
      if (taking.settled) this.#concludeTaken(taking)
    }
    return 'next'
  }

  #concludeTaken({ job, failure }: WriteStream): void {
    if (failure === undefined) this.#counters.bytesWritten += job.length
    this.#settlement.concludeJob(job, failure)
  }

  #startSkip(bytes: number, refusal: Refusal): void {
    this.#skipBytes = bytes
    this.#skipRefusal = refusal
  }

  /** A refused payload passes through without being kept (F2); `#request` still is the one it belongs to. */
  #skip(): Step {
    const count = Math.min(this.#inbox.available, this.#skipBytes)
    this.#inbox.pos += count
    this.#skipBytes -= count
    if (this.#skipBytes > 0) return 'dry'
    this.#outbox.reserveReply()
    this.#settlement.refuse(this.#request, this.#skipRefusal)
    return 'next'
  }

  /** Commands other than WRITE that carry a payload: BLOCK_STATUS may (E5), the rest must not (E4). */
  #withPayload(request: Request, bytes: number, refused: Refusal | undefined): Step {
    const inbox = this.#inbox
    const wanted = request.type === COMMAND.blockStatus && refused === undefined && bytes <= WHOLE_PAYLOAD_BYTES
    const at = inbox.pos + this.#headerBytes
    if (wanted && inbox.end < at + bytes) return 'dry'
    this.#count(request.type)
    inbox.pos = at
    if (!wanted) {
      this.#startSkip(bytes, refused ?? REFUSALS.filter)
      return 'next'
    }
    inbox.pos = at + bytes
    const filter = decodeStatusFilter(inbox.slab.view, at, bytes)
    const contexts = filter && filterContexts(this.#options.contexts, filter)
    if (contexts === undefined) this.#settlement.refuse(request, REFUSALS.filter)
    else {
      request.length = filter!.length
      const past = judgeRange(request.type, request.offset, request.length, this.#facts, this.#device.sizeBytes)
      if (past !== undefined) this.#settlement.refuse(request, past)
      else this.#blockStatus(request, contexts)
    }
    return 'next'
  }

  /** Commands without payload, judged already. */
  #perform(request: Request): void {
    const { type, offset, length, flags } = request
    if (type === COMMAND.blockStatus) {
      this.#blockStatus(request, this.#options.contexts)
      return
    }
    if (length === 0 && type !== COMMAND.flush) {
      this.#settlement.replies.success(request, type)
      return
    }
    let pending: Pending
    try {
      if (type === COMMAND.flush) pending = this.#device.flush()
      else if (type === COMMAND.trim) pending = this.#device.trim(offset, length, this.#host)
      else if (type === COMMAND.cache) pending = this.#device.prefetch?.(offset, length)
      else {
        const mode = { allocate: (flags & COMMAND_FLAG.noHole) !== 0, fast: (flags & COMMAND_FLAG.fastZero) !== 0 }
        pending = this.#device.zero(offset, length, mode, this.#host)
      }
    } catch (error) {
      this.#settlement.fail(request, error)
      return
    }
    this.#settlement.conclude(request, pending)
  }

  #blockStatus(request: Request, contexts: readonly BoundContext[]): void {
    const most = (request.flags & COMMAND_FLAG.reqOne) !== 0 ? 1 : this.#options.extents
    let found: readonly Extents[] | Promise<readonly Extents[]>
    try {
      found = lookUpStatus(contexts, request, most)
    } catch (error) {
      this.#settlement.fail(request, error)
      return
    }
    if (!(found instanceof Promise)) {
      replyStatus(this.#outbox, this.#facts.style, request, contexts, found)
      return
    }
    const job = this.jobs.begin(request)
    let answer: readonly Extents[] = []
    const pending = found.then((extents) => { answer = extents })
    this.#settlement.settle(job, pending, () => {
      this.#outbox.reserveReply()
      replyStatus(this.#outbox, this.#facts.style, job, contexts, answer)
    })
  }
}
