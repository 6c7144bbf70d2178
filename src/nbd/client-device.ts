/**
 * An export of an NBD server as a BlockDevice: a volume's live image, the source of an import or the target of a mirror
 * may be remote. `openNbdClient` is the door; the rooms behind it:
 *
 *   device (judges) -> edges (whole blocks) -> io (limits of the peer) -> pool (order, losses) -> connection -> socket
 *
 * Promises beyond BlockDevice
 * - Nothing hangs: connecting, each request, reconnecting and closing have deadlines (client-options.ts).
 * - A lost connection is opened again. Reads do not notice. A write-class request in flight fails, and says that it may or
 *   may not have been executed. The first flush after a loss fails with `flush-failed` if completed writes were not flushed.
 * - After the reconnect policy is spent, or if the export has shrunk, the device has failed for good: open a new one.
 * - Memory is bounded by the bytes in flight and one receive buffer a connection, whatever the peer sends.
 */
import { assertRange, type BlockDevice, type Extents, type Origin, type Pending, type ZeroMode } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import { ClientEdges } from './client-edges.js'
import type { PeerFacts } from './client-facts.js'
import { ClientIo } from './client-io.js'
import { resolveClientOptions, type ClientSettings, type NbdClientOptions } from './client-options.js'
import { ClientPool, type ClientCounters, type StateListener } from './client-pool.js'

export interface NbdClientDevice extends BlockDevice {
  /** What the peer told when it was connected last. */
  readonly peer: PeerFacts
  /** Whether any connection lives, and how many do. */
  readonly connected: boolean
  readonly connections: number
  counters(): ClientCounters
  /** Hears of every change of `connected`, and of the final failure as one more 'down'. Answers how to stop listening. */
  onState(listener: StateListener): () => void
}

/**
 * Connects, once, within `connectMs`. Rejects with `bad-argument`, `unreachable`, `not-found`, `denied` or `bad-peer`.
 */
export async function openNbdClient(options: NbdClientOptions): Promise<NbdClientDevice> {
  const settings = resolveClientOptions(options)
  return new ClientDevice(settings, await ClientPool.open(settings))
}

class ClientDevice implements NbdClientDevice {
  readonly #settings: ClientSettings
  readonly #pool: ClientPool
  readonly #io: ClientIo
  readonly #edges: ClientEdges
  #closed = false

  constructor(settings: ClientSettings, pool: ClientPool) {
    this.#settings = settings
    this.#pool = pool
    this.#io = new ClientIo(pool)
    this.#edges = new ClientEdges(this.#io)
  }

  get peer(): PeerFacts { return this.#pool.facts }
  get connected(): boolean { return this.#pool.connected }
  get connections(): number { return this.#pool.connections }
  get sizeBytes(): number { return this.#pool.sizeBytes }
  /** Any byte may be addressed: what the peer cannot is done by read-modify-write. */
  get blockSizes(): BlockDevice['blockSizes'] { return { ...this.peer.sizes, minimum: 1 } }
  get capabilities(): BlockDevice['capabilities'] {
    const { canTrim, canFastZero, rotational } = this.peer
    return { readOnly: this.#readOnly, trim: canTrim, fastZero: canFastZero, rotational }
  }
  get #readOnly(): boolean { return this.#settings.readOnly || this.peer.readOnly }

  counters(): ClientCounters { return this.#pool.counters() }

  onState(listener: StateListener): () => void {
    this.#pool.listeners.add(listener)
    return () => { this.#pool.listeners.delete(listener) }
  }

  read(offset: number, length: number, into: Buffer, at: number, origin?: Origin): Pending {
    this.#check(offset, length)
    return this.#edges.read(offset, length, into, at, origin)
  }

  write(offset: number, length: number, from: Buffer, at: number, origin?: Origin): Pending {
    this.#checkWrite(offset, length)
    return this.#edges.write(offset, length, from, at, origin)
  }

  zero(offset: number, length: number, mode: ZeroMode, origin?: Origin): Pending {
    this.#checkWrite(offset, length)
    return this.#edges.zero(offset, length, mode, origin)
  }

  trim(offset: number, length: number, origin?: Origin): Pending {
    this.#checkWrite(offset, length)
    return this.#edges.trim(offset, length, origin)
  }

  prefetch(offset: number, length: number): Pending {
    this.#check(offset, length)
    return this.#edges.prefetch(offset, length)
  }

  /** With a peer that cannot flush this resolves, and nothing is known: see `peer.canFlush`. */
  async flush(): Promise<void> {
    this.#checkOpen()
    const { ledger } = this.#pool
    const flush = ledger.begin()
    await this.#io.flush()
    ledger.end(flush)
  }

  zeroRun(offset: number, length: number): number {
    this.#check(offset, length)
    return length
  }

  extents(offset: number, length: number, maxExtents: number): Promise<Extents> {
    this.#check(offset, length)
    return this.#edges.extents(offset, length, maxExtents)
  }

  close(): Promise<void> {
    this.#closed = true
    return this.#pool.close()
  }

  #check(offset: number, length: number): void {
    this.#checkOpen()
    assertRange(this, offset, length)
  }

  #checkWrite(offset: number, length: number): void {
    this.#check(offset, length)
    if (this.#readOnly) throw new NbdeltaError('read-only', `${this.#settings.name} is read-only`)
  }

  #checkOpen(): void {
    if (this.#closed) throw new NbdeltaError('wrong-state', `${this.#settings.name} is closed`)
  }
}
