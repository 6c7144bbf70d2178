/**
 * The NBD server: listeners, the connections they accept, and how all of it stops.
 *
 *   serving --close()--> draining --all answered, devices flushed, sockets closed, or the deadline--> closed
 *
 * Stopping (S3): no new connections; options get ERR_SHUTDOWN; what a client had sent before is still served, later requests
 * get ESHUTDOWN; when nothing is in flight the devices are flushed and the connections end.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { asNbdeltaError } from '../device/errors.js'
import { silentLogger } from '../device/logger.js'
import { Budget } from './budget.js'
import { Connection } from './connection.js'
import { Counters } from './counters.js'
import { deviceExports, isProvider } from './device-exports.js'
import { resolveLimits } from './limits.js'
import { openListener } from './listener.js'
import { Spinner } from './spinner.js'
import { nbdUri } from './uri.js'
import type { Socket } from 'node:net'
import type { BlockDevice } from '../device/block-device.js'
import type { Logger } from '../device/logger.js'
import type { ConnectionHost } from './connection.js'
import type { ClientStatus, ExportStatus } from './counters.js'
import type { ExportProvider } from './export.js'
import type { ServerLimits } from './limits.js'
import type { BoundAddress, ListenAddress, Listener } from './listener.js'

type ServerState = 'serving' | 'draining' | 'closed'

export interface ServerOptions {
  readonly exports: ExportProvider | Record<string, BlockDevice>
  readonly listen: ListenAddress | readonly ListenAddress[]
  readonly limits?: Partial<ServerLimits>
  readonly logger?: Logger
  /** Keep the event loop turning for a moment after requests that come one by one (default true; see spinner.ts). */
  readonly spin?: boolean
  /** Receive straight into the server's own buffers where this Node allows it (default true; see wire.ts). */
  readonly directReceive?: boolean
}

export interface ServerStats {
  readonly exports: readonly ExportStatus[]
  readonly clients: readonly ClientStatus[]
  /** Connections accepted and turned away since the start. */
  readonly accepted: number
  readonly refused: number
  /** Buffer memory promised to or held by connections, bytes. */
  readonly bufferBytes: number
  readonly bufferPeakBytes: number
}

export interface NbdServer {
  readonly addresses: readonly BoundAddress[]
  readonly status: ServerState
  /** One URI per address. */
  uri(exportName: string): string[]
  clients(): ClientStatus[]
  /** Closes one client's connection at once. False: there is no such client. */
  kick(clientId: number): boolean
  /**
   * Ends every connection to an export: 'soft' answers what is in flight and new requests with ESHUTDOWN, 'hard' closes at
   * once. Resolves when the last handle is released. Keeping new clients out is the provider's business.
   */
  closeExport(name: string, how: 'soft' | 'hard'): Promise<void>
  stats(): ServerStats
  /** Drains and closes within `deadlineMs` (default 10 s). Idempotent. */
  close(options?: { readonly deadlineMs?: number }): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

const DEADLINE_MS = 10_000
/** How often a drain looks whether everything is answered, milliseconds. */
const DRAIN_STEP_MS = 5
/** Connections end when this many looks in a row found nothing new: who was told ESHUTDOWN has time to stop asking. */
const QUIET_STEPS = 10
/** A client that goes on asking is refused this often at most, in looks, before its connection ends all the same. */
const REFUSING_STEPS = 400
/** Exports whose past clients are counted; names of snapshots come and go, so of more the longest known are forgotten. */
const PAST_EXPORTS_MAX = 1024

/** Starts serving. Rejects with `bad-argument`, `busy`, `denied` or `io`; nothing stays open then. */
export async function createServer(options: ServerOptions): Promise<NbdServer> {
  const server = new Server(options)
  await server.listen(Array.isArray(options.listen) ? options.listen : [options.listen as ListenAddress])
  return server
}

class Server implements NbdServer, ConnectionHost {
  readonly provider: ExportProvider
  readonly limits: ServerLimits
  readonly logger: Logger
  readonly spinner: Spinner
  readonly #direct: boolean
  readonly #budget: Budget
  readonly #listeners: Listener[] = []
  readonly #connections = new Map<number, Connection>()
  /** What clients that have left did, by export. */
  readonly #past = new Map<string, Counters>()
  #state: ServerState = 'serving'
  #closing: Promise<void> | undefined
  #nextId = 1
  #accepted = 0
  #refused = 0

  constructor(options: ServerOptions) {
    this.limits = resolveLimits(options.limits)
    this.provider = isProvider(options.exports) ? options.exports : deviceExports(options.exports)
    this.logger = options.logger ?? silentLogger
    this.spinner = new Spinner(options.spin ?? true)
    this.#direct = options.directReceive ?? true
    this.#budget = new Budget(this.limits)
  }

  async listen(addresses: readonly ListenAddress[]): Promise<void> {
    try {
      const failed = (error: Error): void => { this.logger.error({ err: error }, 'accepting a connection failed') }
      for (const address of addresses) {
        this.#listeners.push(await openListener(address, (socket) => this.#accept(socket), failed))
      }
    } catch (error) {
      await this.close({ deadlineMs: 0 })
      throw error
    }
  }

  get addresses(): readonly BoundAddress[] { return this.#listeners.map(({ address }) => address) }
  get status(): ServerState { return this.#state }
  get draining(): boolean { return this.#state !== 'serving' }

  uri(exportName: string): string[] { return this.addresses.map((address) => nbdUri(address, exportName)) }

  clients(): ClientStatus[] { return [...this.#connections.values()].map((connection) => connection.status()) }

  kick(clientId: number): boolean {
    const connection = this.#connections.get(clientId)
    connection?.destroy('kicked by the operator')
    return connection !== undefined
  }

  async closeExport(name: string, how: 'soft' | 'hard'): Promise<void> {
    const affected = this.#of(name)
    if (how === 'hard') for (const connection of affected) connection.destroy('the export was closed')
    else await this.#drain(affected, Infinity)
    while (this.#of(name).some((connection) => affected.includes(connection))) await sleep(DRAIN_STEP_MS)
  }

  stats(): ServerStats {
    const clients = this.clients()
    const exports = new Map<string, Counters>()
    const into = (name: string): Counters => {
      if (!exports.has(name)) exports.set(name, new Counters())
      return exports.get(name)!
    }
    for (const { name } of this.provider.list()) into(name)
    for (const [name, counters] of this.#past) into(name).add(counters)
    for (const { exportName, counters } of this.#connections.values()) {
      if (exportName !== undefined) into(exportName).add(counters)
    }
    return {
      clients, accepted: this.#accepted, refused: this.#refused,
      bufferBytes: this.#budget.usedBytes, bufferPeakBytes: this.#budget.peakBytes,
      exports: [...exports].map(([name, counters]) => {
        const attached = clients.filter((client) => client.export === name)
        return {
          name, clients: attached.length, inFlight: attached.reduce((sum, { inFlight }) => sum + inFlight, 0),
          oldestMs: Math.max(0, ...attached.map(({ oldestMs }) => oldestMs)), ...counters.status(),
        }
      }),
    }
  }

  close(options: { readonly deadlineMs?: number } = {}): Promise<void> {
    this.#closing ??= this.#close(options.deadlineMs ?? DEADLINE_MS)
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> { return this.close() }

  closed(connection: Connection): void {
    this.#connections.delete(connection.id)
    const { exportName } = connection
    if (exportName === undefined) return
    if (!this.#past.has(exportName)) this.#past.set(exportName, new Counters())
    this.#past.get(exportName)!.add(connection.counters)
    if (this.#past.size > PAST_EXPORTS_MAX) this.#past.delete(this.#past.keys().next().value!)
  }

  #of(name: string): Connection[] {
    return [...this.#connections.values()].filter((connection) => connection.exportName === name)
  }

  #accept(socket: Socket): void {
    const open = this.#state === 'serving' && this.#connections.size < this.limits.connections
    const allotment = open ? this.#budget.admit() : undefined
    if (allotment === undefined) {
      this.#refused++
      const facts = { connections: this.#connections.size, bufferBytes: this.#budget.usedBytes }
      this.logger.warn(facts, 'connection refused: the server is full or stopping')
      socket.destroy()
      return
    }
    this.#accepted++
    const id = this.#nextId++
    try {
      this.#connections.set(id, new Connection(id, socket, allotment, this, this.#direct))
    } catch (error) {
      this.logger.error({ client: id, err: error }, 'a connection could not be set up')
      allotment.end()
      socket.destroy()
    }
  }

  async #close(deadlineMs: number): Promise<void> {
    this.#state = 'draining'
    const listening = this.#listeners.map((listener) => listener.close())
    const end = performance.now() + deadlineMs
    await this.#drain([...this.#connections.values()], end)
    for (const connection of this.#connections.values()) connection.destroy('the server is closing')
    while (this.#connections.size > 0 && performance.now() < end) await sleep(DRAIN_STEP_MS)
    const left = this.#connections.size
    if (left > 0) this.logger.warn({ connections: left }, 'closed with requests still running')
    await Promise.all(listening)
    this.#state = 'closed'
  }

  /** Answers what is in flight, flushes the devices, ends the connections. Returns at the deadline at the latest. */
  async #drain(connections: readonly Connection[], endMs: number): Promise<void> {
    const pending = (busy: (connection: Connection) => boolean): boolean =>
      connections.some((connection) => this.#connections.has(connection.id) && busy(connection)) && performance.now() < endMs
    // What clients sent before the stop lies in socket buffers: one round of the loop reads and serves it.
    await sleep(DRAIN_STEP_MS)
    for (const connection of connections) connection.refuseRequests()
    do await sleep(DRAIN_STEP_MS)
    while (pending((connection) => !connection.idle))
    await this.#flush(connections, endMs)
    for (let step = 0, quiet = 0, last = -1; quiet < QUIET_STEPS && step < REFUSING_STEPS && pending(() => true); step++) {
      await sleep(DRAIN_STEP_MS)
      const served = connections.reduce((sum, connection) => sum + connection.served, 0)
      quiet = served === last && !pending((connection) => !connection.idle) ? quiet + 1 : 0
      last = served
    }
    for (const connection of connections) connection.finish()
    while (pending(() => true)) await sleep(DRAIN_STEP_MS)
  }

  async #flush(connections: readonly Connection[], endMs: number): Promise<void> {
    const writable = ({ handle }: Connection) => handle === undefined || handle.info.readOnly ? [] : [handle.device]
    const devices = new Set(connections.flatMap(writable))
    const flushes = [...devices].map(async (device) => {
      try {
        await device.flush()
      } catch (error) {
        this.logger.error({ err: asNbdeltaError(error, 'flush') }, 'flush while stopping failed')
      }
    })
    const timeLeftMs = endMs - performance.now()
    if (timeLeftMs === Infinity) await Promise.all(flushes)
    else await Promise.race([Promise.all(flushes), sleep(Math.max(0, timeLeftMs), undefined, { ref: false })])
  }
}
