/**
 * Connection: one client from accept to the last byte, and the only owner of its socket, buffers and export handle.
 *
 *   handshake --GO--> opening --opened--> transmission --DISC, drop, drain--> closing --> closed
 *       ^               |                                                       ^
 *       +---refused-----+            EOF, error, kick, deadline: from anywhere -+
 *
 * Facts of the world (EOF, a reset) are absorbed in every phase. An exception in here closes this connection only (S6).
 * `gone` tells the device that the client died: queued writes of it never run (D5). The handle is released once everything
 * the device still does for this client has settled.
 */
import { performance } from 'node:perf_hooks'
import { COMMAND_NAMES, INFO } from '../../native-free/nbd/constants.js'
import { encodeHello } from '../../native-free/nbd/handshake.js'
import { endsInDisconnect } from '../../native-free/nbd/transmission.js'
import { asNbdeltaError } from '../device/errors.js'
import { Counters } from './counters.js'
import { Handshake, optionName } from './handshake.js'
import { Inbox } from './inbox.js'
import { bindContexts, providedContexts } from './metadata-contexts.js'
import { Negotiation, notOpened, opened } from './negotiation.js'
import { Outbox } from './outbox.js'
import { Session } from './session.js'
import { openWire } from './wire.js'
import type { Socket } from 'node:net'
import type { Logger } from '../device/logger.js'
import type { Allotment } from './budget.js'
import type { ClientStatus } from './counters.js'
import type { ExportHandle, ExportProvider } from './export.js'
import type { ServerLimits } from './limits.js'
import type { Answer, Opening } from './negotiation.js'
import type { Refusal } from './request-verdict.js'
import type { SessionHost } from './settlement.js'
import type { Spinner } from './spinner.js'
import type { Reader, Wire } from './wire.js'

/** What a connection needs from its server. */
export interface ConnectionHost {
  readonly provider: ExportProvider
  readonly limits: ServerLimits
  readonly logger: Logger
  readonly spinner: Spinner
  /** The server is stopping: options are refused (O10). */
  readonly draining: boolean
  /** The last thing a connection says. */
  closed(connection: Connection): void
}

type Phase = 'handshake' | 'opening' | 'transmission' | 'closing' | 'closed'

/** How long a client may take to fetch its last replies before the socket is destroyed, milliseconds. */
const LINGER_MS = 10_000
/** At most so many refusals are logged per connection and period; the rest is counted. */
const LOG_LINES = 20
const LOG_PERIOD_MS = 10_000
const CLIENT_CLOSED = 'the client closed the connection'

export class Connection implements SessionHost, Reader {
  readonly id: number
  readonly address: string
  readonly connectedAt = new Date()
  readonly counters = new Counters()
  handle: ExportHandle | undefined
  gone = false
  #phase: Phase = 'handshake'
  #session: Session | undefined
  readonly #host: ConnectionHost
  readonly #allotment: Allotment
  readonly #wire: Wire
  readonly #inbox: Inbox
  readonly #outbox: Outbox
  readonly #negotiation: Negotiation
  readonly #handshake: Handshake
  readonly #deadline: NodeJS.Timeout
  #linger: NodeJS.Timeout | undefined
  /** Parsing waits for a completion or a drain. */
  #stalled = false
  #paused = false
  /** EOF came behind a DISC that is not parsed yet. */
  #farewell = false
  #ticking = false
  #opening = false
  #socketClosed = false
  #settled = false
  #logLines = 0
  #logSince = 0

  constructor(id: number, accepted: Socket, allotment: Allotment, host: ConnectionHost, direct: boolean) {
    this.id = id
    this.#host = host
    this.#allotment = allotment
    this.address = accepted.remoteAddress === undefined ? 'unix' : `${accepted.remoteAddress}:${accepted.remotePort}`
    this.#inbox = new Inbox(allotment)
    this.#wire = openWire(accepted, this, direct)
    const { socket } = this.#wire
    this.#outbox = new Outbox(this.#wire, allotment, host.limits.backlogBytes, () => this.#drained())
    this.#negotiation = new Negotiation(host.provider)
    this.#handshake = new Handshake(this.#inbox, this.#negotiation, host.limits)
    socket.on('end', () => this.#onEnd())
    socket.on('error', (error) => this.#lost(error.message, false))
    socket.on('close', () => this.#onSocketClose())
    this.#deadline = setTimeout(() => this.#late(), host.limits.handshakeMs)
    socket.write(encodeHello())
  }

  get exportName(): string | undefined { return this.handle?.info.name }
  get inFlight(): number { return this.#session?.jobs.count ?? 0 }
  get oldestMs(): number { return this.#session?.jobs.oldestMs ?? 0 }
  /** Requests taken up so far, refused ones too. */
  get served(): number { return this.#session?.served ?? 0 }
  /** Nothing is under way and nothing waits to be sent. */
  get idle(): boolean {
    if (this.#phase === 'transmission') return this.#session!.idle && this.#outbox.empty
    return this.#phase !== 'closing' && this.#phase !== 'opening'
  }

  status(): ClientStatus {
    return {
      id: this.id, address: this.address, export: this.exportName, connectedAt: this.connectedAt.toISOString(),
      inFlight: this.inFlight, oldestMs: this.oldestMs, ...this.counters.status(),
    }
  }

  /** New requests are answered ESHUTDOWN from now on. */
  refuseRequests(): void {
    if (this.#session !== undefined) this.#session.refusing = true
  }

  /** Closes when what is ready has been sent (drain, soft close). */
  finish(): void { this.#finish('the server ends the connection') }

  /** Closes at once; nothing more is sent (kick, hard close, deadline). */
  destroy(reason: string): void { this.#lost(reason, false) }

  // Reader: bytes from the socket.

  space(): Buffer { return this.#inbox.view }

  arrived(count: number): boolean {
    this.#inbox.landed(count)
    this.#stalled = !this.#advance()
    this.#inbox.prepare()
    // While parsing stalls, reading goes on into what room there is: an EOF behind it is news (D5).
    this.#paused = this.#inbox.stuck || (this.#stalled && this.#inbox.full)
    return !this.#paused
  }

  // SessionHost: the session's way back.

  wake(): void {
    if (this.#ticking) return
    this.#ticking = true
    setImmediate(() => this.#tick())
  }

  broken(error: unknown): void {
    if (this.#phase === 'closed') return
    this.#host.logger.error({ client: this.id, export: this.exportName, err: error }, 'a bug in this connection: closing it')
    this.#lost('internal error', false)
  }

  report(type: number, offset: number, length: number, refusal: Refusal): void {
    if (!this.#mayLog()) return
    const { rule, errnoName: errno } = refusal
    const facts = { client: this.id, export: this.exportName, command: COMMAND_NAMES[type] ?? type, offset, length, rule, errno }
    const level = errno === 'EIO' || errno === 'ENOSPC' ? 'warn' : 'info'
    this.#host.logger[level](facts, `request refused: ${refusal.text}`)
  }

  #mayLog(): boolean {
    const now = performance.now()
    if (now - this.#logSince > LOG_PERIOD_MS) {
      const silent = this.#logLines - LOG_LINES
      if (silent > 0) this.#host.logger.info({ client: this.id, count: silent }, 'refusals not logged one by one')
      this.#logSince = now
      this.#logLines = 0
    }
    return ++this.#logLines <= LOG_LINES
  }

  /** Serves what the inbox holds; whether reading shall go on. */
  #advance(): boolean {
    try {
      if (this.#phase === 'handshake') this.#shakeHands()
      if (this.#phase === 'transmission') return this.#serve(this.#session!)
      if (this.#phase === 'closing' || this.#phase === 'closed') this.#inbox.pos = this.#inbox.end
      return this.#phase !== 'opening' && !this.#clogged
    } catch (error) {
      this.broken(error)
      return false
    }
  }

  #serve(session: Session): boolean {
    const { counters } = this
    const requests = session.served
    const bytes = counters.bytesRead + counters.bytesWritten
    const alone = this.#host.spinner.alone(this)
    const result = session.consume(alone)
    this.#outbox.flush()
    this.#host.spinner.served(session.served - requests, counters.bytesRead + counters.bytesWritten - bytes)
    if (result === 'over') this.#end(session)
    else if (result === 'dry' && this.#farewell && this.#wire.rest === undefined) this.#lost(CLIENT_CLOSED, true)
    return result === 'dry'
  }

  /** Completions and drains: send what is ready, go on where parsing stalled, read on. */
  #tick(): void {
    this.#ticking = false
    if (this.gone) {
      this.#session?.abandon()
      if (this.#socketClosed) this.#settle()
      return
    }
    if (this.#phase === 'closing') {
      if (this.#session?.ending !== undefined) this.#end(this.#session)
      return
    }
    this.#stalled = !this.#advance()
    if (this.#stalled || !this.#paused || (this.#inbox.stuck && !this.#inbox.unstuck)) return
    this.#paused = false
    this.#wire.resume()
  }

  #drained(): void {
    if (this.#stalled) this.wake()
  }

  get #clogged(): boolean { return this.#wire.socket.writableLength > this.#host.limits.backlogBytes }

  /** H6. An export that takes long to open is not the client's fault. */
  #late(): void {
    if (this.#phase === 'handshake') this.#drop('the handshake took too long')
  }

  #shakeHands(): void {
    while (this.#phase === 'handshake' && !this.#clogged) {
      const step = this.#handshake.next(this.#host.draining)
      if (step === 'dry') return
      if ('dropped' in step) this.#drop(step.dropped)
      else this.#answer(step.option, step)
    }
  }

  #answer(option: number, answer: Answer): void {
    const facts = { client: this.id, option: optionName(option) }
    if (answer.replies.length > 0) this.#wire.socket.write(Buffer.concat(answer.replies))
    if (answer.next === 'drop') this.#drop(answer.refused ?? 'a refused option')
    else if (answer.refused !== undefined && this.#mayLog()) this.#host.logger.info(facts, `option refused: ${answer.refused}`)
    if (answer.next === 'end') this.#finish('the client aborted the handshake')
    if (answer.next === 'open') this.#open(answer.opening!)
  }

  /** The export is opened only now, on a valid GO or EXPORT_NAME (H7). */
  #open(opening: Opening): void {
    this.#phase = 'opening'
    const contexts = providedContexts(opening.contexts)
    this.#host.provider.open(opening.name, { id: this.id, address: this.address }, contexts).then(
      (handle) => this.#opened(opening, handle),
      (error: unknown) => {
        this.#opening = false
        if (this.#phase !== 'opening') return
        this.#phase = 'handshake'
        this.#deadline.refresh()
        this.#answer(opening.option, notOpened(opening, asNbdeltaError(error, 'open the export')))
      },
    ).catch((error: unknown) => this.broken(error)).finally(() => this.wake())
    this.#opening = true
  }

  #opened(opening: Opening, handle: ExportHandle): void {
    this.#opening = false
    this.handle = handle
    if (this.#phase !== 'opening') return
    clearTimeout(this.#deadline)
    const { limits } = this.#host
    const { info } = handle
    const contexts = bindContexts(opening.contexts, handle)
    // Who asked for the block sizes obeys them; who did not may send more than the advertised maximum (Z3, Z4).
    const told = opening.infos.includes(INFO.blockSize)
    this.#session = new Session({
      host: this, inbox: this.#inbox, outbox: this.#outbox, device: handle.device, counters: this.counters, contexts,
      inFlight: limits.inFlight, extents: limits.extents,
      facts: {
        style: this.#negotiation.style, readOnly: info.readOnly, fastZero: !info.readOnly && info.capabilities.fastZero,
        contexts: contexts.length > 0, minimumBytes: info.blockSizes.minimum, payloadBytes: limits.payloadBytes,
        readBytes: told ? info.blockSizes.maximum : Math.max(info.blockSizes.maximum, limits.payloadBytes),
      },
    })
    this.#session.refusing = this.#host.draining
    this.#wire.socket.write(Buffer.concat(opened(this.#negotiation, opening, info)))
    this.#phase = 'transmission'
    const facts = { client: this.id, address: this.address, export: info.name, style: this.#negotiation.style }
    this.#host.logger.info(facts, 'client attached')
  }

  /** The session will parse nothing more. DISC: everything in flight is answered first (S1). */
  #end(session: Session): void {
    this.#phase = 'closing'
    this.#outbox.flush()
    const { how, reason } = session.ending!
    if (how === 'drop') this.#drop(reason)
    else if (session.jobs.count === 0) this.#finish(reason)
  }

  /** The client broke the protocol, or its reply cannot be finished (S5). What is ready still leaves. */
  #drop(reason: string): void {
    if (this.#mayLog()) this.#host.logger.warn({ client: this.id, export: this.exportName, reason }, 'connection dropped')
    this.#leave(reason)
  }

  #finish(reason: string): void {
    if (this.#phase === 'closed' || this.#linger !== undefined) return
    this.#phase = 'closing'
    this.#outbox.flush()
    this.#host.logger.debug({ client: this.id, reason }, 'connection ends')
    this.#linger = setTimeout(() => this.#wire.socket.destroy(), LINGER_MS)
    this.#wire.socket.destroySoon()
  }

  /** The client is gone, or must go: nothing new is begun for it, what is ready may still leave. */
  #leave(reason: string): void {
    this.gone = true
    this.#session?.abandon()
    this.#finish(reason)
  }

  /** EOF or an error. After DISC or ABORT it is no news: the client may go before it has read the last replies. */
  #lost(reason: string, eof: boolean): void {
    if (this.#phase === 'closed' || (eof && this.#phase === 'closing')) return
    if (this.#phase !== 'closing') this.#host.logger.info({ client: this.id, export: this.exportName, reason }, 'client lost')
    this.#leave(reason)
    if (!eof) this.#wire.socket.destroy()
  }

  /**
   * libnbd sends FIN right behind DISC and waits for its last replies. A DISC that parsing has not reached yet counts, too
   * (S1); where it turns out to have been none, the client is lost once everything is parsed.
   */
  #onEnd(): void {
    const unparsed = this.#wire.rest ?? this.#inbox.unparsed
    const waits = this.#phase === 'opening' || (this.#phase === 'transmission' && this.#stalled)
    if (waits && endsInDisconnect(unparsed, this.#negotiation.style === 'extended')) this.#farewell = true
    else this.#lost(CLIENT_CLOSED, true)
  }

  #onSocketClose(): void {
    this.#socketClosed = true
    this.#phase = 'closed'
    this.gone = true
    clearTimeout(this.#deadline)
    clearTimeout(this.#linger)
    this.#session?.abandon()
    this.#outbox.release()
    this.#inbox.release()
    this.#settle()
  }

  /** The last step, once: nothing of this client runs any more. */
  #settle(): void {
    if (this.#settled || this.#opening || this.inFlight > 0) return
    this.#settled = true
    try {
      this.handle?.release()
    } catch (error) {
      this.#host.logger.error({ client: this.id, export: this.exportName, err: error }, 'releasing the export failed')
    }
    if (this.handle) {
      const { bytesRead, bytesWritten, errors } = this.counters
      const facts = { client: this.id, export: this.exportName, bytesRead, bytesWritten, errors: Object.fromEntries(errors) }
      this.#host.logger.info(facts, 'client detached')
    }
    this.#allotment.end()
    this.#host.closed(this)
  }
}
