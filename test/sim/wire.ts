/**
 * What crosses a simulated network for mirrors: links to secondaries, and NBD connections to what somebody serves. Both are as
 * src/daemon-link.ts and the NBD server have them: an exposure that is closed answers nobody any more when what ran has ended.
 */
import type { BlockDevice, Pending, ZeroMode } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import type { PeerLink } from '../../src/replication/link-target.js'
import type { Exposure } from '../../src/replication/secondaries.js'
import type { SecondarySession } from '../../src/replication/secondary-session.js'
import { Flow, type Network, type Party } from './network.js'

/** Something that is served to whoever knows its name. */
export class Served implements Exposure {
  readonly export: string
  readonly device: BlockDevice
  isOpen = true
  readonly #flows = new Set<Flow>()
  readonly #running = new Set<Promise<void>>()

  constructor(name: string, device: BlockDevice) {
    this.export = name
    this.device = device
  }

  join(flow: Flow): void {
    this.#flows.add(flow)
    flow.onEnd.server = () => { this.#flows.delete(flow) }
  }

  /** One request. */
  async run(work: () => Pending): Promise<void> {
    const running = (async () => { await work() })()
    const settled = running.then(() => undefined, () => undefined)
    this.#running.add(settled)
    try { await running } finally { this.#running.delete(settled) }
  }

  async close(): Promise<void> {
    this.isOpen = false
    for (const flow of this.#flows) flow.hangUp('server')
    while (this.#running.size > 0) await Promise.all(this.#running)
  }
}

/** As the mirrors' parts have it. */
export interface How { readonly ordered: boolean }

/** An NBD client of it. `found` runs at the other end. Errors: unreachable, not-found. */
export async function openWire(
  network: Network, [client, server]: readonly [Party, Party], { ordered }: How, found: () => Served | undefined,
  fate?: (flow: Flow) => void,
): Promise<BlockDevice> {
  const flow = new Flow(network, client, server, ordered)
  if (fate) flow.fate = () => { fate(flow) }
  const served = await flow.request(async () => {
    const there = found()
    if (!there?.isOpen) throw new NbdeltaError('not-found', 'there is no such export')
    there.join(flow)
    return there
  })
  return new Wire(flow, served)
}

class Wire implements BlockDevice {
  readonly sizeBytes: number
  readonly blockSizes: BlockDevice['blockSizes']
  readonly capabilities: BlockDevice['capabilities']
  readonly #flow: Flow
  readonly #served: Served

  constructor(flow: Flow, served: Served) {
    this.#flow = flow
    this.#served = served
    this.sizeBytes = served.device.sizeBytes
    this.blockSizes = served.device.blockSizes
    this.capabilities = served.device.capabilities
  }

  read(offset: number, length: number, into: Buffer, at: number): Promise<void> {
    return this.#ask(() => this.#served.device.read(offset, length, into, at), false)
  }

  write(offset: number, length: number, from: Buffer, at: number): Promise<void> {
    const data = Buffer.from(from.subarray(at, at + length))
    return this.#ask(() => this.#served.device.write(offset, length, data, 0), true)
  }

  zero(offset: number, length: number, mode: ZeroMode): Promise<void> {
    return this.#ask(() => this.#served.device.zero(offset, length, mode), true)
  }

  async trim(): Promise<void> { /* nothing is promised */ }
  flush(): Promise<void> { return this.#ask(() => this.#served.device.flush(), false) }
  zeroRun(_offset: number, length: number): number { return length }
  extents(offset: number, length: number, max: number): ReturnType<BlockDevice['extents']> {
    return this.#served.device.extents(offset, length, max)
  }
  async close(): Promise<void> { this.#flow.hangUp('client') }

  #ask(work: () => Pending, again: boolean): Promise<void> {
    return this.#flow.request(async () => {
      // Nobody knows what a closed one does to requests: they find nothing.
      if (this.#served.isOpen) await this.#served.run(work)
      else throw new NbdeltaError('gone', 'the export is closed')
    }, again)
  }
}

/** A link of a mirror to the secondaries of another machine. Errors: unreachable. */
export async function openLink(
  network: Network, client: Party, server: Party, volume: string, accept: (hangUp: () => void) => SecondarySession,
): Promise<PeerLink> {
  const flow = new Flow(network, client, server)
  let ended!: () => void
  const over = new Promise<void>(resolve => { ended = resolve })
  flow.onEnd.client = ended
  const session = await flow.request(async () => {
    const opened = accept(() => { flow.hangUp('server') })
    flow.onEnd.server = () => { opened.close().catch((error: unknown) => { network.failed(error) }) }
    return opened
  })
  return {
    volume, ended: over,
    // As JSON would carry it.
    call: (method, params) => flow.request(() => session.call(method, structuredClone(params))),
    exportUri: (_places, name) => name,
    close: () => { flow.hangUp('client') },
  }
}
