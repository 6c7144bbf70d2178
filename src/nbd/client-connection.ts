/**
 * ClientConnection: one socket in transmission: requests out, replies matched to them by cookie, a deadline on each.
 *
 * Invariants
 * - A cookie is used once on a connection, so that a second reply to a request meets nobody and is an error (G1).
 * - It ends once. Whatever is in flight then is handed over, in the order in which it was sent; nothing of it is settled here.
 * - After DISC, and after `retire`, nothing new is sent.
 */
import { COMMAND } from '../../native-free/nbd/constants.js'
import type { Clock, Timer } from '../device/clock.js'
import type { NbdeltaError } from '../device/errors.js'
import { unreachable } from './client-errors.js'
import type { PeerFacts } from './client-facts.js'
import { negotiate } from './client-handshake.js'
import type { ClientSettings } from './client-options.js'
import { ReplyReader, type ReplySink } from './client-replies.js'
import { ClientRequest } from './client-request.js'
import { ClientSocket } from './client-socket.js'

/** How long the peer may take to close after DISC; all is answered by then. */
const GOODBYE_MS = 1000
const COOKIES = 2 ** 30

export interface ConnectionEvents {
  /** A whole reply came; `request.failure` says whether it is a refusal. */
  answered(connection: ClientConnection, request: ClientRequest): void
  /** The end. `inFlight` was sent and never answered. */
  lost(connection: ClientConnection, reason: NbdeltaError, inFlight: readonly ClientRequest[]): void
}

/** Connects and negotiates within `connectMs`. Rejects with the reason; a signal cuts it short. */
export async function openConnection(
  settings: ClientSettings, connectMs: number, signal: AbortSignal, events: ConnectionEvents,
): Promise<ClientConnection> {
  const socket = new ClientSocket(settings.address)
  const late = (): void => { socket.fail(unreachable(`${settings.name}: no answer within ${connectMs} ms`)) }
  const timer = settings.clock.setTimeout(late, connectMs, true)
  const abort = (): void => { socket.fail(unreachable(`${settings.name}: no longer wanted`)) }
  signal.addEventListener('abort', abort)
  try {
    await socket.connected()
    return new ClientConnection(socket, await negotiate(socket, settings), settings, events)
  } catch (error) {
    socket.end()
    socket.fail(error as NbdeltaError)
    throw error
  } finally {
    timer.cancel()
    signal.removeEventListener('abort', abort)
  }
}

export class ClientConnection implements ReplySink {
  /** Bytes that the requests in flight take of the limit. */
  inFlightBytes = 0
  /** Takes no new requests: the peer is shutting down. */
  retired = false
  readonly facts: PeerFacts
  readonly openedAtMs: number
  readonly #socket: ClientSocket
  readonly #clock: Clock
  readonly #requestMs: number
  readonly #events: ConnectionEvents
  /** By cookie; a Map keeps the order of sending. */
  readonly #inFlight = new Map<number, ClientRequest>()
  #serial = 0
  #deadline: Timer | undefined
  #goodbye: Promise<void> | undefined
  #closed: (() => void) | undefined

  constructor(socket: ClientSocket, facts: PeerFacts, settings: ClientSettings, events: ConnectionEvents) {
    this.facts = facts
    this.#socket = socket
    this.#clock = settings.clock
    this.openedAtMs = settings.clock.now()
    this.#requestMs = settings.requestMs
    this.#events = events
  }

  /** Replies are read, and the end is heard of, from here on. */
  start(): void {
    const reader = new ReplyReader(this.#socket.inbox, this.facts.style, this.facts.contextId, this)
    this.#socket.consume(() => { reader.parse() }, reason => { this.#end(reason) })
  }

  get inFlight(): number { return this.#inFlight.size }
  get bytesSent(): number { return this.#socket.sender.bytesSent }
  get bytesReceived(): number { return this.#socket.bytesReceived }

  send(request: ClientRequest): void {
    this.#serial = (this.#serial + 1) % COOKIES
    request.begin(0, this.#serial, this.#clock.now())
    this.#inFlight.set(this.#serial, request)
    this.inFlightBytes += request.cost
    const payload = request.type === COMMAND.write ? request.bytes : undefined
    this.#socket.sender.add(this.facts.extended, request, payload?.buffer, payload?.at ?? 0)
    if (this.#deadline === undefined) this.#watch(this.#requestMs)
  }

  find(cookieHigh: number, cookieLow: number): ClientRequest | undefined {
    return cookieHigh === 0 ? this.#inFlight.get(cookieLow) : undefined
  }

  finished(request: ClientRequest): void {
    this.#inFlight.delete(request.cookieLow)
    this.inFlightBytes -= request.cost
    this.#events.answered(this, request)
    if (this.retired && this.#inFlight.size === 0) void this.disconnect()
  }

  /** Lets what is in flight finish, then leaves. */
  retire(): void {
    this.retired = true
    if (this.#inFlight.size === 0) void this.disconnect()
  }

  /** Says DISC and waits for the peer to close, not for ever. Everything must have been answered. Idempotent. */
  disconnect(): Promise<void> {
    if (this.#socket.failure) return Promise.resolve()
    this.#goodbye ??= this.#disconnect()
    return this.#goodbye
  }

  #disconnect(): Promise<void> {
    this.retired = true
    this.#socket.sender.add(this.facts.extended, new ClientRequest(COMMAND.disconnect, 0, 0, 0), undefined, 0)
    // After the sender's own turn, so that DISC is the last that is sent.
    process.nextTick(() => { this.#socket.end() })
    this.#deadline?.cancel()
    const late = (): void => { this.fail(unreachable(`the peer does not close within ${GOODBYE_MS} ms after DISC`)) }
    this.#deadline = this.#clock.setTimeout(late, GOODBYE_MS, true)
    return new Promise(resolve => { this.#closed = resolve })
  }

  fail(reason: NbdeltaError): void { this.#socket.fail(reason) }

  #end(reason: NbdeltaError): void {
    this.#deadline?.cancel()
    this.retired = true
    const left = [...this.#inFlight.values()]
    this.#inFlight.clear()
    this.inFlightBytes = 0
    this.#closed?.()
    this.#events.lost(this, reason, left)
  }

  /** One timer for all: it looks at the oldest request, and comes again when that one's time would be over. */
  #watch(delayMs: number): void {
    this.#deadline = this.#clock.setTimeout(() => {
      this.#deadline = undefined
      const { value: oldest } = this.#inFlight.values().next()
      if (oldest === undefined) return
      const leftMs = oldest.sentAt + this.#requestMs - this.#clock.now()
      if (leftMs <= 0) this.fail(unreachable(`${oldest.text}: no answer within ${this.#requestMs} ms`))
      else this.#watch(leftMs)
    }, delayMs)
  }
}
