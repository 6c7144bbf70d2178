/**
 * The answering side of peer links: who has proved that it knows the secret may call, one call at a time for each connection.
 *
 * A fault wall: whatever a stranger sends costs one of STRANGERS_MAX places until the deadline at most, and harms nobody else. A
 * wrong proof is answered late, so that secrets cannot be tried quickly.
 */
import type { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Clock } from '../device/clock.js'
import { asNbdeltaError, NbdeltaError } from '../device/errors.js'
import type { Logger } from '../device/logger.js'
import { Lines, type Message } from './lines.js'
import { isHex, isProof, LINK_VERSION, makeNonce, prove } from './proof.js'

const HANDSHAKE_MS = 10_000
const STRANGERS_MAX = 16
/** Each may hold one line, and what its calls hold. */
const LINKS_MAX = 256
const WRONG_PROOF_MS = 1000

/** What one connection may call. */
export interface LinkSession {
  /** Errors: NbdeltaErrors are told to the other side; everything else is a bug. */
  call(method: string, params: unknown): Promise<unknown>
  /** The connection is gone. */
  close(): Promise<void>
}

export interface LinkServerOptions {
  readonly secret: Buffer
  readonly clock: Clock
  readonly logger: Logger
  /** `hangUp` ends the connection. */
  session(hangUp: () => void): LinkSession
}

export class LinkServer {
  readonly #options: LinkServerOptions
  /** Those that have proved nothing yet. */
  readonly #strangers = new Set<Lines>()
  readonly #links = new Map<Lines, Promise<void>>()
  #closed = false

  constructor(options: LinkServerOptions) { this.#options = options }

  /** For every connection that a listener accepts. */
  accept(socket: Socket): void {
    if (this.#closed || this.#strangers.size >= STRANGERS_MAX) {
      this.#options.logger.warn({ strangers: this.#strangers.size }, 'a peer was turned away: too many that have proved nothing')
      socket.destroy()
      return
    }
    const lines = new Lines(socket)
    this.#strangers.add(lines)
    void this.#serve(lines)
  }

  /** Every connection ends, and what it had called has ended. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true
    for (const lines of [...this.#strangers, ...this.#links.keys()]) lines.destroy()
    await Promise.all(this.#links.values())
  }

  async #serve(lines: Lines): Promise<void> {
    const { clock, logger } = this.#options
    const late = clock.setTimeout(() => { lines.destroy() }, HANDSHAKE_MS)
    void lines.ended.then(() => { this.#strangers.delete(lines) })
    try {
      await this.#handshake(lines)
    } catch (error) {
      const known = asNbdeltaError(error, 'the handshake of a peer')
      logger.info({ reason: known.message }, 'a peer was refused')
      lines.hangUp({ error: faultOf(known) })
      return
    } finally { late.cancel() }
    this.#strangers.delete(lines)
    if (this.#closed || this.#links.size >= LINKS_MAX) {
      lines.hangUp({ id: null, error: faultOf(new NbdeltaError('busy', `${LINKS_MAX} peers are connected already`)) })
      return
    }
    this.#links.set(lines, this.#calls(lines).finally(() => { this.#links.delete(lines) }))
  }

  async #handshake(lines: Lines): Promise<void> {
    const { secret } = this.#options
    const ours = makeNonce()
    lines.send({ 'nbdelta-peer': LINK_VERSION, nonce: ours })
    const { hello, nonce: theirs, proof } = await lines.next()
    if (hello !== LINK_VERSION) {
      const said = typeof hello === 'number' ? `version ${hello} of the peer link` : 'something else than the peer link'
      throw new NbdeltaError('bad-peer', `you speak ${said}, this nbdelta version ${LINK_VERSION}`)
    }
    if (!isHex(theirs) || !isProof(proof, secret, 'client', [ours, theirs])) {
      await sleep(WRONG_PROOF_MS)
      throw new NbdeltaError('denied', 'the secrets of the two sides differ',
        { hint: 'compare mirror create --secret with serve --peer-secret' })
    }
    lines.send({ welcome: LINK_VERSION, proof: prove(secret, 'server', [theirs, ours]) })
  }

  async #calls(lines: Lines): Promise<void> {
    const { session: open, logger } = this.#options
    const session = open(() => { lines.destroy() })
    // Not only when the next call is awaited: what it may do ends with the connection.
    const over = lines.ended.then(() => session.close())
      .catch((error: unknown) => { logger.error({ err: error }, 'what a peer had could not be ended') })
    try {
      for (;;) await this.#answer(lines, session, await lines.next())
    } catch (error) {
      const known = asNbdeltaError(error, 'a call of a peer')
      if (known.code === 'unreachable') lines.destroy()
      else lines.hangUp({ id: null, error: faultOf(known) })
    }
    await over
  }

  async #answer(lines: Lines, session: LinkSession, { id, method, params }: Message): Promise<void> {
    if (!Number.isSafeInteger(id) || typeof method !== 'string') throw new NbdeltaError('bad-peer', 'that is no call')
    try {
      lines.send({ id, result: await session.call(method, params) ?? null })
    } catch (error) {
      if (!(error instanceof NbdeltaError)) this.#options.logger.error({ err: error, method }, 'a call of a peer failed by a bug')
      lines.send({ id, error: faultOf(error instanceof NbdeltaError ? error : new NbdeltaError('internal', 'a bug in nbdelta')) })
    }
  }
}

function faultOf({ code, message, hint }: NbdeltaError): Message { return { code, message, ...hint && { hint } } }
