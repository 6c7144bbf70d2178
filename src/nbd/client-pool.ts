/**
 * ClientPool: the connections to one export and the requests of everybody: who is sent when, on which connection, and what
 * becomes of requests whose connection dies.
 *
 *   submit -> queue -> (room in the byte limit, a connection that lives) -> in flight -> answered
 *                ^------------- lost: reads, and what the peer refused for shutting down ------'
 *
 * Rules of loss (SEEDS X9, PROTOCOL section 15)
 * - Reads and block status are sent again, `SENDS_MAX` times at most.
 * - Write-class requests fail: they may or may not have been executed, and may even be executed later. With `resendWrites`
 *   they are sent again in their order, and whatever overlaps one of them waits until it is answered.
 * - A flush is sent again; client-ledger.ts lets it fail all the same if writes it would cover are in doubt.
 * - While no connection lives, requests wait. They fail when the reconnect policy is spent; then the pool has failed for good,
 *   or, when it is to persist, there is an outage: requests fail at once until a connection is opened again. The ledger outlives
 *   it, so that what was in doubt before is told after it as well.
 *
 * Several connections are opened only while the peer promises MULTI_CONN, and all must tell the same facts; so a flush on
 * one of them covers all (D3).
 */
import { ERRNO } from '../../native-free/nbd/constants.js'
import { count } from '../device/count.js'
import { NbdeltaError } from '../device/errors.js'
import { Backoff } from './client-backoff.js'
import { openConnection, type ClientConnection, type ConnectionEvents } from './client-connection.js'
import { badPeer, unreachable } from './client-errors.js'
import { sameFacts, type PeerFacts } from './client-facts.js'
import { FlushLedger } from './client-ledger.js'
import type { ClientSettings } from './client-options.js'
import type { ClientRequest } from './client-request.js'

/** A request whose connection died this often is what kills them. */
const SENDS_MAX = 5

export type StateListener = (state: 'up' | 'down', reason: string) => void

export interface ClientCounters {
  readonly bytesSent: number
  readonly bytesReceived: number
  /** Requests answered, and of those the ones refused. */
  readonly requests: number
  readonly refused: number
  /** Requests that were sent again after a loss. */
  readonly resent: number
  readonly connectionsOpened: number
  readonly connectionsLost: number
}

export class ClientPool implements ConnectionEvents {
  readonly ledger = new FlushLedger()
  readonly listeners = new Set<StateListener>()
  readonly #settings: ClientSettings
  /** While no connection lives; over when a request is answered. */
  readonly #backoff: Backoff
  /** While some live and others are missing. */
  readonly #spare: Backoff
  readonly #abort = new AbortController()
  readonly #live: ClientConnection[] = []
  /** In the order in which they shall be sent. */
  readonly #queue: ClientRequest[] = []
  /** Write-class requests that are sent again, until they are answered. */
  readonly #resent = new Set<ClientRequest>()
  #inFlightBytes = 0
  /** Queued and in flight, and work of several requests that `hold` announced. */
  #outstanding = 0
  #idle: (() => void) | undefined
  #facts: PeerFacts
  #sizeBytes: number
  #opening = false
  /** Why a connection was lost or not opened last. */
  #reason = unreachable('nothing was lost yet')
  #failure: NbdeltaError | undefined
  #outage: NbdeltaError | undefined
  #closing: Promise<void> | undefined
  /** Of connections that are gone. */
  #past = { bytesSent: 0, bytesReceived: 0 }
  #counts = { requests: 0, refused: 0, resent: 0, connectionsOpened: 0, connectionsLost: 0 }

  private constructor(settings: ClientSettings, facts: PeerFacts) {
    this.#settings = settings
    this.#facts = facts
    this.#sizeBytes = facts.sizeBytes
    this.#backoff = new Backoff(settings.reconnect, settings.random)
    this.#spare = new Backoff(settings.reconnect, settings.random)
  }

  /** One attempt, within `connectMs`. The other connections follow by themselves. */
  static async open(settings: ClientSettings): Promise<ClientPool> {
    let pool: ClientPool | undefined
    const events: ConnectionEvents = {
      answered: (connection, request) => { pool!.answered(connection, request) },
      lost: (connection, reason, inFlight) => { pool!.lost(connection, reason, inFlight) },
    }
    const connection = await openConnection(settings, settings.connectMs, new AbortController().signal, events)
    pool = new ClientPool(settings, connection.facts)
    pool.#adopt(connection)
    void pool.#fillUp()
    return pool
  }

  get facts(): PeerFacts { return this.#facts }
  get sizeBytes(): number { return this.#sizeBytes }
  get connected(): boolean { return this.#live.length > 0 }
  get connections(): number { return this.#live.length }

  counters(): ClientCounters {
    const sum = { ...this.#past }
    for (const { bytesSent, bytesReceived } of this.#live) {
      sum.bytesSent += bytesSent
      sum.bytesReceived += bytesReceived
    }
    return { ...sum, ...this.#counts }
  }

  /** Queues a request; what it comes to is `request.done`. */
  submit(request: ClientRequest): Promise<void> {
    this.#outstanding++
    this.#queue.push(request)
    const failure = this.#failure ?? this.#outage
    if (failure) this.#failQueue(failure)
    else this.#pump()
    return request.done
  }

  /** Work of several requests goes on until `release`; `close` waits for it. */
  hold(): void { this.#outstanding++ }
  release(): void { this.#leave() }

  /** Idempotent. What can be answered is; DISC on every connection. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    this.#abort.abort()
    if (!this.connected) this.#giveUp(unreachable(`${this.#settings.name} was closed while nobody answered there`))
    if (this.#outstanding > 0) await new Promise<void>(resolve => { this.#idle = resolve })
    await Promise.all(this.#live.map(connection => connection.disconnect()))
  }

  answered(connection: ClientConnection, request: ClientRequest): void {
    this.#inFlightBytes -= request.cost
    if (request.errno === ERRNO.ESHUTDOWN && request.sends < SENDS_MAX && !this.#closing) {
      // Refused, so not executed: it may go to whoever serves next.
      connection.retire()
      this.#requeue([request])
    } else {
      this.#backoff.reset()
      if (request.failure) this.#counts.refused++
      else if (request.writes) this.ledger.wrote()
      this.#finish(request, request.failure)
    }
    this.#pump()
  }

  lost(connection: ClientConnection, reason: NbdeltaError, inFlight: readonly ClientRequest[]): void {
    this.#live.splice(this.#live.indexOf(connection), 1)
    this.#past.bytesSent += connection.bytesSent
    this.#past.bytesReceived += connection.bytesReceived
    for (const request of inFlight) this.#inFlightBytes -= request.cost
    if (this.#closing && this.#outstanding === 0) return
    this.#counts.connectionsLost++
    this.#reason = reason
    const { logger, name, clock, reconnect } = this.#settings
    logger.warn({ peer: name, code: reason.code, inFlight: inFlight.length }, `NBD connection lost: ${reason.message}`)
    for (const backoff of [this.#backoff, this.#spare]) {
      if (clock.now() - connection.openedAtMs >= reconnect.toMs) backoff.reset()
      backoff.begin(clock.now())
    }
    this.ledger.lost(reason)
    this.#requeue(inFlight.filter(request => this.#survives(request, reason)))
    if (!this.connected) this.#tell('down', reason.message)
    if (this.#closing && !this.connected) this.#giveUp(reason)
    else if (!this.#closing) void this.#fillUp()
    this.#pump()
  }

  /** Whether a request in flight at a loss is sent again; if not, it has been told why. */
  #survives(request: ClientRequest, reason: NbdeltaError): boolean {
    const spent = request.sends >= SENDS_MAX
    if (!spent && (!request.writes || this.#settings.resendWrites)) {
      if (request.writes) this.#resent.add(request)
      return true
    }
    const times = spent ? `was sent ${request.sends} times, and lost its connection each time`
      : 'was in flight when its connection was lost'
    const doubt = request.writes ? '; it may or may not have been executed' : ''
    this.#finish(request, new NbdeltaError(reason.code, `${request.text} ${times}${doubt}: ${reason.message}`, { cause: reason }))
    return false
  }

  /** To the front, in this order. */
  #requeue(requests: readonly ClientRequest[]): void {
    this.#counts.resent += requests.length
    this.#queue.unshift(...requests)
  }

  #finish(request: ClientRequest, failure: NbdeltaError | undefined): void {
    this.#counts.requests++
    this.#resent.delete(request)
    if (failure) request.reject(failure)
    else request.resolve()
    this.#leave()
  }

  #leave(): void {
    if (--this.#outstanding === 0) this.#idle?.()
  }

  /** Sends what may be sent. The first of the queue holds up all others, so that nobody is overtaken for ever. */
  #pump(): void {
    for (let request = this.#queue[0]; request !== undefined; request = this.#queue[0]) {
      if (request.origin?.gone) {
        this.#queue.shift()
        this.#finish(request, new NbdeltaError('gone', `${request.text}: who asked is gone, it was not sent`))
        continue
      }
      if (this.#inFlightBytes > 0 && this.#inFlightBytes + request.cost > this.#settings.inFlightBytes) return
      if (request.writes && this.#mustWait(request)) return
      const connection = this.#leastBusy()
      if (connection === undefined) return
      this.#queue.shift()
      this.#inFlightBytes += request.cost
      connection.send(request)
    }
  }

  /** An earlier write that is sent again must be answered first. */
  #mustWait(request: ClientRequest): boolean {
    for (const earlier of this.#resent) {
      if (earlier === request) return false
      if (earlier.overlaps(request)) return true
    }
    return false
  }

  #leastBusy(): ClientConnection | undefined {
    let best: ClientConnection | undefined
    for (const connection of this.#live) {
      if (!connection.retired && (best === undefined || connection.inFlightBytes < best.inFlightBytes)) best = connection
    }
    return best
  }

  /** Takes a new connection in. Throws if it does not lead to what the device was opened on. */
  #adopt(connection: ClientConnection): void {
    const { facts } = connection
    if (facts.sizeBytes < this.#sizeBytes) {
      const text = `${this.#settings.name} has shrunk from ${this.#sizeBytes} to ${facts.sizeBytes} bytes`
      throw new NbdeltaError('wrong-state', text)
    }
    const same = sameFacts(facts, this.#facts)
    if (!same && this.connected) throw badPeer('two connections to the same export are told different things')
    const down = !this.connected && this.#counts.connectionsOpened > 0
    if (this.#outage) this.#settings.logger.warn({ peer: this.#settings.name }, 'the NBD server answers again')
    this.#facts = facts
    this.#sizeBytes = facts.sizeBytes
    this.#counts.connectionsOpened++
    this.#outage = undefined
    this.#live.push(connection)
    if (!same) this.#failQueue(unreachable(`${this.#settings.name} came back as another export: other flags or block sizes`))
    if (down) this.#tell('up', `connected again after ${count(this.#backoff.attempts, 'attempt')}`)
    connection.start()
    this.#pump()
  }

  get #wanted(): number { return this.#facts.multiConn ? this.#settings.connections : 1 }

  /** Opens connections until there are as many as wanted, one at a time. */
  async #fillUp(): Promise<void> {
    if (this.#opening) return
    this.#opening = true
    while (this.#live.length < this.#wanted && !this.#closing && !this.#failure) {
      if (!this.connected && this.#spent()) this.#runOut(this.#reason)
      if (!this.#failure) await this.#pause()
      if (!this.#closing && !this.#failure) await this.#openOne()
    }
    this.#opening = false
  }

  async #openOne(): Promise<void> {
    const { clock, connectMs, logger, name } = this.#settings
    const leftMs = this.connected || this.#outage ? connectMs : Math.ceil(this.#backoff.leftMs(clock.now())) || 1
    const limitMs = Math.min(connectMs, leftMs)
    let connection: ClientConnection | undefined
    try {
      connection = await openConnection(this.#settings, limitMs, this.#abort.signal, this)
      if (this.#failure || this.#closing) throw unreachable(`${name} is closed`)
      this.#adopt(connection)
    } catch (error) {
      const reason = error as NbdeltaError
      connection?.fail(reason)
      this.#reason = reason
      this.#spare.begin(clock.now())
      const facts = { peer: name, code: reason.code, attempt: this.#backoff.attempts }
      // An outage was told when it began, and may last for days.
      logger[this.#outage ? 'debug' : 'info'](facts, `NBD connection not opened: ${reason.message}`)
      if (reason.code === 'wrong-state') this.#giveUp(reason)
      else if (!this.connected && this.#spent()) this.#runOut(reason)
    }
  }

  #spent(): boolean { return this.#backoff.spent(this.#settings.clock.now()) }

  /** Before the next attempt; none before the first connections are opened. */
  async #pause(): Promise<void> {
    const { clock } = this.#settings
    const backoff = this.connected ? this.#spare : this.#backoff
    if (!backoff.begun) return
    const pauseMs = backoff.next()
    const delayMs = this.connected || this.#outage ? pauseMs : Math.min(pauseMs, backoff.leftMs(clock.now()))
    const { signal } = this.#abort
    await new Promise<void>(resolve => {
      const over = (): void => {
        timer.cancel()
        signal.removeEventListener('abort', over)
        resolve()
      }
      const timer = clock.setTimeout(over, delayMs, true)
      signal.addEventListener('abort', over)
    })
  }

  /** The reconnect policy is spent: the end, or an outage. */
  #runOut(reason: NbdeltaError): void {
    if (!this.#settings.reconnect.persist) return this.#giveUp(reason)
    if (this.#outage || this.#failure || this.#closing) return
    const { name, logger } = this.#settings
    const text = `${name} does not answer, attempts go on: ${reason.message}`
    logger.warn({ peer: name, code: reason.code }, 'the NBD server does not answer: requests fail at once until it does')
    this.#outage = new NbdeltaError('unreachable', text, { cause: reason, hint: reason.hint })
    this.#failQueue(this.#outage)
    this.#tell('down', text)
  }

  /** For good: what waits fails, and so does what comes. */
  #giveUp(reason: NbdeltaError): void {
    if (this.#failure) return
    const text = `${this.#settings.name}: gave up after ${count(this.#backoff.attempts, 'attempt')}: ${reason.message}`
    this.#failure = new NbdeltaError(reason.code, text, { cause: reason, hint: reason.hint })
    this.#abort.abort()
    for (const connection of [...this.#live]) connection.fail(this.#failure)
    this.#failQueue(this.#failure)
    if (!this.#closing) this.#tell('down', text)
  }

  #failQueue(reason: NbdeltaError): void {
    for (const request of this.#queue.splice(0)) this.#finish(request, reason)
  }

  #tell(state: 'up' | 'down', reason: string): void {
    for (const listener of this.listeners) listener(state, reason)
  }
}
