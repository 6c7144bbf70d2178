/**
 * The asking side of a peer link: connects, proves that it knows the secret, sees that the other side does, and then calls.
 *
 * Every wait has a limit. A link that has failed once stays failed: who wants another opens another.
 */
import { connect, type Socket } from 'node:net'
import { type Clock, systemClock } from '../device/clock.js'
import { asNbdeltaError, ERRORS, type ErrorCode, NbdeltaError } from '../device/errors.js'
import { Turns } from '../device/turns.js'
import { Lines, type Message } from './lines.js'
import { isHex, isProof, LINK_VERSION, makeNonce, prove } from './proof.js'
import type { LinkAddress } from './uri.js'

const CONNECT_MS = 10_000
/** A call waits at worst for the requests of an older connection, and for a snapshot. */
const CALL_MS = 120_000
const KEEPALIVE_MS = 10_000

export interface LinkClient {
  /** Calls wait for one another. Errors: those of the other side, unreachable, bad-peer. */
  call(method: string, params: Message): Promise<unknown>
  /** The link is over, whoever ended it. */
  readonly ended: Promise<void>
  close(): void
}

/** Errors: unreachable, denied (the secrets differ), bad-peer (no nbdelta, or a version that is not known here). */
export async function connectLink(address: LinkAddress, secret: Buffer, clock: Clock = systemClock): Promise<LinkClient> {
  const where = 'path' in address ? address.path : `${address.host}:${address.port}`
  let socket: Socket | undefined
  const late = clock.setTimeout(() => {
    socket?.destroy(new NbdeltaError('unreachable', `the peer at ${where} did not answer within ${CONNECT_MS / 1000} s`))
  }, CONNECT_MS, true)
  try {
    const connected = new Promise<void>((resolve, reject) => {
      socket = connect('path' in address ? { path: address.path } : { ...address, noDelay: true })
      socket.once('connect', resolve).once('error', reject)
    })
    await connected
    socket!.setKeepAlive(true, KEEPALIVE_MS)
    const lines = new Lines(socket!)
    await greet(lines, secret, where)
    return new Client(lines, where, clock)
  } catch (error) {
    socket?.destroy()
    const known = asNbdeltaError(error, `connect to the peer at ${where}`)
    const nobody = known.code === 'not-found' || known.code === 'io'
    throw nobody ? new NbdeltaError('unreachable', known.message, { cause: error }) : known
  } finally { late.cancel() }
}

async function greet(lines: Lines, secret: Buffer, where: string): Promise<void> {
  const told = await lines.next()
  const version = told['nbdelta-peer']
  if (version !== LINK_VERSION) {
    throw typeof version === 'number'
      ? new NbdeltaError('bad-peer', `the peer at ${where} speaks version ${version} of the link, this nbdelta ${LINK_VERSION}`)
      : new NbdeltaError('bad-peer', `what answers at ${where} is not the peer link of an nbdelta`,
        { hint: 'the address is that of serve --peer, not that of an NBD listener' })
  }
  const theirs = told['nonce']
  if (!isHex(theirs)) throw new NbdeltaError('bad-peer', `the peer at ${where} sent no nonce`)
  const ours = makeNonce()
  lines.send({ hello: LINK_VERSION, nonce: ours, proof: prove(secret, 'client', [theirs, ours]) })
  const answer = await lines.next()
  if ('error' in answer) throw errorOf(answer['error'])
  if (answer['welcome'] !== LINK_VERSION || !isProof(answer['proof'], secret, 'server', [ours, theirs])) {
    throw new NbdeltaError('denied', `the peer at ${where} does not know the secret`)
  }
}

class Client implements LinkClient {
  readonly ended: Promise<void>
  readonly #lines: Lines
  readonly #where: string
  readonly #clock: Clock
  readonly #turns = new Turns()
  #id = 0

  constructor(lines: Lines, where: string, clock: Clock) {
    this.#lines = lines
    this.#where = where
    this.#clock = clock
    this.ended = lines.ended
  }

  call(method: string, params: Message): Promise<unknown> {
    return this.#turns.take(() => this.#call(method, params))
  }

  close(): void { this.#lines.hangUp() }

  async #call(method: string, params: Message): Promise<unknown> {
    const id = ++this.#id
    const late = this.#clock.setTimeout(() => { this.#lines.destroy() }, CALL_MS, true)
    try {
      this.#lines.send({ id, method, params })
      const answer = await this.#lines.next()
      if ('error' in answer && (answer['id'] === id || answer['id'] === null)) throw errorOf(answer['error'])
      if (answer['id'] !== id || !('result' in answer)) {
        this.#lines.destroy()
        throw new NbdeltaError('bad-peer', `the peer at ${this.#where} answered something else than was asked`)
      }
      return answer['result']
    } finally { late.cancel() }
  }
}

/** The other side's error as one of ours; nothing in it is taken on trust. */
function errorOf(value: unknown): NbdeltaError {
  const { code, message, hint } = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>
  const known = typeof code === 'string' && Object.hasOwn(ERRORS, code) ? code as ErrorCode : 'bad-peer'
  const text = typeof message === 'string' ? message : 'it gave no reason'
  return new NbdeltaError(known, `the peer says: ${text}`, typeof hint === 'string' ? { hint } : {})
}
