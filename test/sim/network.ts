/**
 * The network of a simulation: connections between machines, and what is on its way. Nothing arrives before somebody says so, one
 * message at a time, of those on the way any one: so messages are late, overtake those of other connections, and two requests of one NBD
 * connection overtake one another, unless it is an ordered one: what goes one way in that stays in order, and is never sent again.
 *
 * A connection has two ends, and each believes what it believes: a cut is noticed by one end, by the other, or by both. What was on its way
 * may arrive all the same, at an end that believes that all is well, long after the other end has begun anew on another connection.
 */
import { NbdeltaError } from '../../src/device/errors.js'
import type { Random } from '../../src/device/testing.js'

/** One side of connections. While it is paused it hears nothing, and what it says stays with it. */
export interface Party {
  readonly name: string
  isPaused: boolean
}

interface Message {
  readonly from: Party
  readonly to: Party
  readonly flow: Flow
  arrive(): void
  /** May arrive a second time: what an NBD client sends again when its connection was lost. */
  readonly again: boolean
}

/** Of 1,000 requests that may be sent twice. */
const TWICE_PER_MILLE = 80

export class Network {
  isDown = false
  /** What was thrown that is no NbdeltaError: a bug. */
  bug: unknown
  readonly counts = { delivered: 0, twice: 0, stale: 0, cuts: 0 }
  readonly #random: Random
  #moving: Message[] = []
  readonly #flows = new Set<Flow>()

  constructor(random: Random) { this.#random = random }

  /** Something can arrive. */
  get isBusy(): boolean { return !this.isDown && this.#moving.some(({ from, to }) => !from.isPaused && !to.isPaused) }

  add(flow: Flow): void { this.#flows.add(flow) }

  send(message: Message): void { this.#moving.push(message) }

  /** One of the messages arrives. False: none can. */
  deliver(): boolean {
    if (this.isDown || this.#moving.length === 0) return false
    const first = this.#random(this.#moving.length)
    for (let i = 0; i < this.#moving.length; i++) {
      const index = (first + i) % this.#moving.length
      const message = this.#moving[index]!
      if (message.from.isPaused || message.to.isPaused || this.#mustWait(index)) continue
      if (message.again && this.#random(1000) < TWICE_PER_MILLE) {
        this.#moving[index] = { ...message, again: false }
        this.counts.twice++
      } else this.#moving.splice(index, 1)
      this.counts.delivered++
      if (message.to === message.flow.server && !message.flow.clientUp && message.flow.serverUp) this.counts.stale++
      message.arrive()
      return true
    }
    return false
  }

  /** Something of its connection is in front, and may not be overtaken. */
  #mustWait(index: number): boolean {
    const { flow, to } = this.#moving[index]!
    return flow.isOrdered && this.#moving.findIndex(other => other.flow === flow && other.to === to) < index
  }

  /** A connection breaks; what is on its way in it is lost, or goes on. A paused machine notices nothing. */
  cut(): void {
    const flow = this.#some(({ clientUp, serverUp }) => clientUp || serverUp)
    if (!flow) return
    const ends = [['client'], ['server'], ['client', 'server']] as const
    const awake = ends[this.#random(3)]!.filter(end => !flow[end].isPaused)
    if (awake.length === 0) return
    this.counts.cuts++
    if (this.#random(2) === 0) this.lose(flow)
    for (const end of awake) this.#end(flow, end)
  }

  /** An end that still believes in a connection of which the other end knows nothing any more finds out. */
  notice(): void {
    const flow = this.#some(({ clientUp, serverUp }) => clientUp !== serverUp)
    if (flow && !flow[flow.clientUp ? 'client' : 'server'].isPaused) this.#end(flow, flow.clientUp ? 'client' : 'server')
  }

  /** A process of the machine is gone. @param tells its kernel lives, and says so */
  vanish(machine: Party, tells: boolean): void {
    for (const flow of [...this.#flows]) {
      const { clientUp, serverUp } = flow
      if (flow.client === machine && clientUp) flow.forget('client')
      if (flow.server === machine && serverUp) flow.forget('server')
      if (!tells) continue
      if (flow.client === machine && flow.serverUp) this.#tell(flow, 'server')
      if (flow.server === machine && flow.clientUp) this.#tell(flow, 'client')
    }
    this.#forgetDead()
  }

  /** That end of the flow hears of its end, some time. */
  #tell(flow: Flow, end: 'client' | 'server'): void {
    const [from, to] = end === 'client' ? [flow.server, flow.client] : [flow.client, flow.server]
    this.send({ from, to, flow, again: false, arrive: () => { flow.end(end) } })
  }

  hangUp(flow: Flow, end: 'client' | 'server'): void {
    flow.end(end)
    this.#tell(flow, end === 'client' ? 'server' : 'client')
    this.#forgetDead()
  }

  lose(flow: Flow): void { this.#moving = this.#moving.filter(message => message.flow !== flow) }

  /** Those to the server, which are taken off the way. */
  takeRequests(flow: Flow): Message[] {
    const taken = this.#moving.filter(message => message.flow === flow && message.to === flow.server)
    this.#moving = this.#moving.filter(message => !taken.includes(message))
    return taken
  }

  failed(error: unknown): void { if (!(error instanceof NbdeltaError)) this.bug ??= error }

  #end(flow: Flow, end: 'client' | 'server'): void {
    flow.end(end)
    this.#forgetDead()
  }

  #some(fits: (flow: Flow) => boolean): Flow | undefined {
    const some = [...this.#flows].filter(fits)
    return some[this.#random(Math.max(1, some.length))]
  }

  #forgetDead(): void {
    for (const flow of this.#flows) {
      if (flow.clientUp || flow.serverUp) continue
      this.#flows.delete(flow)
      this.lose(flow)
    }
  }
}

/** A connection: requests of a client, and answers. */
export class Flow {
  clientUp = true
  serverUp = true
  readonly client: Party
  readonly server: Party
  readonly isOrdered: boolean
  /** When an end finds out. */
  onEnd: { client(): void, server(): void } = { client: () => undefined, server: () => undefined }
  /** What becomes of what is on its way, when the client is gone or knows that the connection is. */
  fate: () => void = () => undefined
  readonly #network: Network
  readonly #waiting = new Set<(error: NbdeltaError) => void>()

  constructor(network: Network, client: Party, server: Party, isOrdered = false) {
    this.#network = network
    this.client = client
    this.server = server
    this.isOrdered = isOrdered
    network.add(this)
  }

  /** Runs `work` at the other end, and answers. Errors: those of the work, unreachable. */
  request<T>(work: () => Promise<T>, again = false): Promise<T> {
    if (!this.clientUp) return Promise.reject(lost())
    return new Promise<T>((resolve, reject) => {
      this.#waiting.add(reject)
      const answer = (settle: () => void): void => {
        if (!this.serverUp) return
        this.#network.send({
          from: this.server, to: this.client, flow: this, again: false,
          arrive: () => { if (this.clientUp && this.#waiting.delete(reject)) settle() },
        })
      }
      this.#network.send({
        from: this.client, to: this.server, flow: this, again: again && !this.isOrdered,
        arrive: () => {
          // The second of two that are alike, behind an answer.
          if (!this.serverUp || (this.clientUp && !this.#waiting.has(reject))) return
          work().then(value => { answer(() => { resolve(value) }) }, (error: unknown) => {
            this.#network.failed(error)
            answer(() => { reject(error as Error) })
          })
        },
      })
    })
  }

  end(end: 'client' | 'server'): void {
    if (!this[`${end}Up`]) return
    this.forget(end)
    if (end === 'client') {
      for (const reject of this.#waiting) reject(lost())
      this.#waiting.clear()
    }
    this.onEnd[end]()
  }

  /** As `end`, when there is nobody who could find out. */
  forget(end: 'client' | 'server'): void {
    this[`${end}Up`] = false
    if (end === 'client') this.fate()
  }

  hangUp(end: 'client' | 'server'): void { this.#network.hangUp(this, end) }
}

function lost(): NbdeltaError { return new NbdeltaError('unreachable', 'the connection was lost') }
