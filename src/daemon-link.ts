/**
 * DaemonLink: joins peers' links, secondaries and the NBD server, which do not know each other.
 *
 * As the peer: who has proved to know the secret gets a session of Secondaries; the export that a session writes to is one of the
 * NBD server, under a name that nobody else is told and that LIST does not show. As the source: a mirror's way to its peer.
 */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Address } from './control/options.js'
import { connectLink, LinkServer, NbdeltaError, nbdUri, openListener, parsePeerUri, readSecret } from './index.js'
import type {
  BlockDevice, BoundAddress, Clock, ExportHandle, ExportInfo, ExportProvider, Exposure, Listener, Logger, NbdServer, PeerLink,
  Secondaries,
} from './index.js'

const NAME = /^\.peer-[0-9a-f]{32}$/
const NAME_BYTES = 16
/** How often it is looked whether a closed export's last request has ended, milliseconds. */
const FENCE_STEP_MS = 5

interface Held { readonly device: BlockDevice, handles: number }

/** The exports of everybody, and those of peers' sessions. */
export class PeerExports implements ExportProvider {
  readonly #others: ExportProvider
  readonly #server: () => NbdServer
  readonly #held = new Map<string, Held>()

  constructor(others: ExportProvider, server: () => NbdServer) {
    this.#others = others
    this.#server = server
  }

  expose(device: BlockDevice): Exposure {
    const name = `.peer-${randomBytes(NAME_BYTES).toString('hex')}`
    const held: Held = { device, handles: 0 }
    this.#held.set(name, held)
    return { export: name, close: () => this.#close(name, held) }
  }

  list(): ReturnType<ExportProvider['list']> { return this.#others.list() }

  describe(name: string): ExportInfo | undefined {
    if (!NAME.test(name)) return this.#others.describe(name)
    const held = this.#held.get(name)
    return held && infoOf(name, held.device)
  }

  contexts(name: string): readonly string[] { return NAME.test(name) ? [] : this.#others.contexts?.(name) ?? [] }

  async open(name: string, ...rest: [Parameters<ExportProvider['open']>[1], readonly string[]]): Promise<ExportHandle> {
    if (!NAME.test(name)) return this.#others.open(name, ...rest)
    const held = this.#held.get(name)
    if (!held) throw new NbdeltaError('not-found', 'there is no such export')
    held.handles++
    return { info: infoOf(name, held.device), device: held.device, release: () => { held.handles-- } }
  }

  /** A client that is just being let in has its handle already, and its name only later: asked again until all are gone. */
  async #close(name: string, held: Held): Promise<void> {
    this.#held.delete(name)
    while (held.handles > 0) {
      await this.#server().closeExport(name, 'hard')
      if (held.handles > 0) await sleep(FENCE_STEP_MS)
    }
  }
}

function infoOf(name: string, { sizeBytes, blockSizes, capabilities }: BlockDevice): ExportInfo {
  return { name, description: '', sizeBytes, readOnly: capabilities.readOnly, blockSizes, capabilities }
}

/** Where a peer's mirror can send to. */
export function placesOf(addresses: readonly BoundAddress[]): ({ readonly port: number } | { readonly path: string })[] {
  return addresses.map(address => 'path' in address ? { path: address.path } : { port: address.port })
}

export interface DaemonLink { readonly address: BoundAddress, close(): Promise<void> }

/** Lets peers in. Errors: those of the secret, busy (the address is taken), denied, io. */
export async function servePeers(options: {
  readonly listen: Address, readonly secretFile: string, readonly secondaries: Secondaries, readonly clock: Clock,
  readonly logger: Logger,
}): Promise<DaemonLink> {
  const { listen, secretFile, secondaries, clock, logger } = options
  const secret = await readSecret(secretFile)
  const server = new LinkServer({ secret, clock, logger, session: hangUp => secondaries.session(hangUp) })
  const failed = (error: Error): void => { logger.error({ err: error }, 'accepting a peer failed') }
  const listener: Listener = await openListener(listen, socket => { server.accept(socket) }, failed)
  return {
    address: listener.address,
    close: async () => { await Promise.all([listener.close(), server.close()]) },
  }
}

/** A mirror's way to its peer. The secret is read each time, so that it can be changed. */
export async function openPeerLink(uri: string, secretFile: string): Promise<PeerLink> {
  const { address, volume } = parsePeerUri(uri)
  const link = await connectLink(address, await readSecret(secretFile))
  return {
    volume, ended: link.ended,
    call: (method, params) => link.call(method, params),
    close: () => { link.close() },
    exportUri: (places, name) => {
      const path = places.find(place => 'path' in place)
      const port = places.find(place => 'port' in place)
      if ('path' in address && path) return nbdUri(path, name)
      if (port) return nbdUri({ host: 'host' in address ? address.host : 'localhost', port: port.port }, name)
      throw new NbdeltaError('unreachable', 'the peer serves NBD on no address that can be reached from here',
        { hint: 'there: nbdelta serve --nbd tcp:HOST:PORT' })
    },
  }
}
