/**
 * ChaosClients: NBD clients of one volume that write, zero, trim, flush and read on several connections, and enter all of it into its content.
 *
 * Requests in flight never overlap, so that the order of their execution blurs nothing. One that is refused has changed nothing, if the
 * volume's rules say so; else, and if its connection ended, it is in doubt.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { InstantLog, tick } from './chaos-instants.js'
import { ConnectionLost, FUA, WireClient, WireError } from './wire-client.js'
import { ChaosContent, newSerial, SECTOR, sectorBytes, serialsOf } from './chaos-content.js'

const READ_BYTES = 2 ** 20
const CONNECT_MS = 10_000
const DEPTH = 3
const SECTORS_MAX = 96
/** What was asked last, for whoever looks into a failure. */
const EVENTS_MAX = 2000

/** All of an export, and its size. Rejects with what the server said when it does not let us in. */
export async function readExport(socket: string, name: string): Promise<Int32Array> {
  const client = await attach(socket, name)
  try {
    const pieces: Buffer[] = []
    for (let at = 0; at < client.sizeBytes; at += READ_BYTES) pieces.push(await client.read(at, Math.min(READ_BYTES, client.sizeBytes - at)))
    return serialsOf(Buffer.concat(pieces))
  } finally {
    client.destroy()
  }
}

export async function attach(socket: string, name: string): Promise<WireClient> {
  const client = WireClient.connect(socket, name)
  client.catch(() => undefined)
  const late = sleep(CONNECT_MS, undefined, { ref: false }).then(() => { throw new ConnectionLost('no answer to the handshake') })
  return Promise.race([client, late])
}

export interface Rules {
  mayRefuse(errno: number): boolean
  /** A request of so many bytes that is refused so may have been done in part. */
  mayBePartial(errno: number, bytes: number): boolean
}

export class ChaosClients {
  /** The first thing that must not happen. */
  failure = ''
  readonly instants = new InstantLog()
  readonly counts = { done: 0, refused: 0, lost: 0 }
  readonly #busy = new Set<number>()
  readonly #clients: WireClient[]
  readonly #events: { readonly from: number, readonly count: number, readonly text: string }[] = []
  #stopped = false
  #running: Promise<unknown>

  private constructor(
    clients: WireClient[], readonly content: ChaosContent, readonly grainSectors: number, readonly random: () => number,
    readonly rules: Rules,
  ) {
    this.#clients = clients
    this.#running = Promise.all(clients.flatMap(client => Array.from({ length: DEPTH }, () => this.#loop(client))))
      .catch((error: unknown) => { this.failure ||= error instanceof Error ? error.stack ?? error.message : String(error) })
  }

  static async start(
    socket: string, name: string, content: ChaosContent, grainSectors: number, random: () => number, rules: Rules,
  ): Promise<ChaosClients> {
    const clients = await Promise.all([attach(socket, name), attach(socket, name)])
    return new ChaosClients(clients, content, grainSectors, random, rules)
  }

  get areLost(): boolean { return this.#clients.every(client => client.lost) }

  /** Nothing is in flight any more. */
  async stop(): Promise<void> {
    this.#stopped = true
    await this.#running
    for (const client of this.#clients) client.destroy()
  }

  async #loop(client: WireClient): Promise<void> {
    while (!this.#stopped && !this.failure && !client.lost) {
      const [from, count] = this.#pick()
      if (count > 0) {
        await this.#one(client, from, count)
        for (let sector = from; sector < from + count; sector++) this.#busy.delete(sector)
      }
      await sleep(this.random() * 8)
    }
  }

  #pick(): [from: number, count: number] {
    const sectors = this.content.sectors
    let count = 1 + Math.floor(this.random() ** 3 * SECTORS_MAX)
    let from = Math.floor(this.random() * (sectors - count))
    if (this.random() < 0.4) { // whole grains
      from -= from % this.grainSectors
      count = this.grainSectors * (1 + Math.floor(this.random() * 3))
    }
    if (from < 0 || from + count > sectors) return [0, 0]
    for (let sector = from; sector < from + count; sector++) if (this.#busy.has(sector)) return [0, 0]
    for (let sector = from; sector < from + count; sector++) this.#busy.add(sector)
    return [from, count]
  }

  async #one(client: WireClient, from: number, count: number): Promise<void> {
    const dice = this.random()
    if (dice < 0.1) return this.#read(client, from, count)
    if (dice < 0.15) { await client.flush().catch((error: unknown) => { this.#refused(error) }); return }
    const isTrim = dice < 0.3 && from % this.grainSectors === 0 && count % this.grainSectors === 0
    const serial = isTrim || dice < 0.4 ? 0 : newSerial()
    const fresh = this.content.perhaps(from, count, serial)
    const flags = this.random() < 0.1 ? FUA : 0
    const sent = tick()
    const [offset, length] = [from * SECTOR, count * SECTOR]
    try {
      await (isTrim ? client.trim(offset, length, flags) : serial === 0 ? client.zero(offset, length, flags)
        : client.write(offset, sectorBytes(serial, from, count), flags))
      this.content.put(from, count, serial)
      this.counts.done++
      this.instants.note(from, count, { serial, sent, answered: tick() })
      this.#note(from, count, serial, 'done')
    } catch (error) {
      const isRefused = this.#refused(error)
      this.instants.note(from, count, { serial, sent, answered: Infinity })
      this.#note(from, count, serial, isRefused ? 'refused' : 'lost')
      if (isRefused && !this.rules.mayBePartial((error as WireError).errno, isTrim || serial === 0 ? 0 : length)) this.content.refused(fresh, serial)
    }
  }

  async #read(client: WireClient, from: number, count: number): Promise<void> {
    const model = this.content.follow()
    try {
      const bytes = await client.read(from * SECTOR, count * SECTOR)
      const wrong = model.judgePart(bytes, from)
      if (wrong) this.failure ||= `read under load, ${from} to ${from + count}: ${wrong}; before that ${this.#eventsOf(from, count)}`
    } catch (error) {
      this.#refused(error)
    } finally {
      this.content.unfollow(model)
    }
  }

  #note(from: number, count: number, serial: number, outcome: string): void {
    this.#events.push({ from, count, text: `${new Date().toISOString().slice(14, 23)} ${serial === 0 ? 'zeros' : serial} to ${from}+${count} ${outcome}` })
    if (this.#events.length > EVENTS_MAX) this.#events.shift()
  }

  #eventsOf(from: number, count: number): string {
    return this.#events.filter(event => event.from < from + count && from < event.from + event.count).slice(-8).map(({ text }) => text).join(', ')
  }

  /** Whether it was refused, and not lost. */
  #refused(error: unknown): boolean {
    if (error instanceof ConnectionLost) {
      this.counts.lost++
      return false
    }
    if (!(error instanceof WireError)) throw error
    this.counts.refused++
    if (!this.rules.mayRefuse(error.errno)) this.failure ||= `a request was refused with errno ${error.errno}`
    return true
  }
}
