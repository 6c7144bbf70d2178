/**
 * RemoteExports: exports of other NBD servers where an image is asked for: source of an import, target of an export, live image
 * of a volume. Joins the NBD client and the store's room, which do not know each other.
 *
 * One place has one spelling here (`canonical`), so that what is in use twice is seen; two names of a host it cannot tell.
 * This server's own exports: a live image is none of them, since it would be there only when the store is open already; and no
 * volume is copied into or from itself. Longer circles, over a second server, end by a request's deadline.
 */
import { realpath } from 'node:fs/promises'
import { hostname, networkInterfaces } from 'node:os'
import { NbdeltaError, nbdUri, openNbdClient, parseNbdUri } from './index.js'
import { volumeNameOf } from './point-exports.js'
import type { BoundAddress, Logger, NbdClientDevice, NbdClientOptions } from './index.js'

/** Within a copy no two writes overlap, so sending one again is harmless. What a longer loss interrupts is begun anew by hand. */
const IMAGE_LINK = { connections: 4, reconnect: { limitMs: 30_000 }, resendWrites: true } satisfies NbdClientOptions
/**
 * Of a live image. A request in flight when a connection is lost fails: sent again, it could be executed twice, the second time
 * over something newer. When nobody answers for so long clients are told (EIO), and attempts go on.
 */
const LIVE_LINK = {
  connections: 4, connectMs: 5000, requestMs: 15_000, reconnect: { limitMs: 15_000, toMs: 5000, persist: true },
} satisfies NbdClientOptions
const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|::1)$/i
const WILDCARD = /^(0\.0\.0\.0|::)$/

interface Place {
  /** As it is shown, compared and kept. */
  readonly uri: string
  readonly address: BoundAddress
  readonly exportName: string
}

export class RemoteExports {
  readonly #logger: Logger
  readonly #addresses: () => readonly BoundAddress[]

  /** @param addresses where this server listens */
  constructor(logger: Logger, addresses: () => readonly BoundAddress[]) {
    this.#logger = logger
    this.#addresses = addresses
  }

  /** The one spelling of a URI. Errors: bad-argument. */
  canonical(uri: string): string { return placeOf(uri).uri }

  /**
   * Opens what `volume` is to be filled from, or with `write` what it is written to.
   * Errors: bad-argument (no URI, or the volume itself), unreachable, not-found, denied, bad-peer, read-only.
   */
  async openImage(uri: string, volume: string, write: boolean): Promise<NbdClientDevice> {
    const place = placeOf(uri)
    const own = place.exportName === '' || volumeNameOf(place.exportName) === volume
    if (own && await this.#isOwn(place)) {
      throw new NbdeltaError('bad-argument', `${place.uri} is volume ${volume} itself`, { hint: 'name another export' })
    }
    const device = await openNbdClient({ uri: place.uri, readOnly: !write, logger: this.#logger, ...IMAGE_LINK })
    if (!write || !device.capabilities.readOnly) return device
    await device.close()
    throw new NbdeltaError('read-only', `${place.uri} cannot be written to`, { hint: 'its server exports it read-only' })
  }

  /**
   * The one spelling of what may be a new volume's live image. Errors: bad-argument (no URI, or an export of this server).
   */
  async judgeBacking(uri: string): Promise<string> {
    const place = placeOf(uri)
    if (!await this.#isOwn(place)) return place.uri
    throw new NbdeltaError('bad-argument', `${place.uri} is an export of this server itself`,
      { hint: 'a clone or a mirror shows what another volume of this server holds' })
  }

  /**
   * Opens a volume's live image. Errors: bad-argument, unreachable, not-found, denied, bad-peer, wrong-state (it cannot flush,
   * so that nothing on it could be promised).
   */
  async openLive(uri: string): Promise<NbdClientDevice> {
    const device = await openNbdClient({ uri, logger: this.#logger, ...LIVE_LINK })
    if (device.peer.canFlush || device.peer.readOnly) return device
    await device.close()
    throw new NbdeltaError('wrong-state', `${uri} offers no FLUSH: nothing that is written there could be promised to last`,
      { hint: 'see how its server is started; nbd-server wants flush = true' })
  }

  async #isOwn({ address }: Place): Promise<boolean> {
    for (const own of this.#addresses()) if (await isSame(address, own)) return true
    return false
  }
}

function placeOf(uri: string): Place {
  const { address, exportName } = parseNbdUri(uri)
  // Kept in the catalog, and opened by a server that may be started elsewhere.
  if ('path' in address && !/^[/\0]/.test(address.path)) {
    throw new NbdeltaError('bad-argument', `the socket ${address.path} of an NBD URI is no absolute path`,
      { hint: 'write nbd+unix:///EXPORT?socket=/PATH' })
  }
  return { uri: nbdUri(address, exportName), address, exportName }
}

async function isSame(place: BoundAddress, own: BoundAddress): Promise<boolean> {
  if ('path' in place || 'path' in own) {
    if (!('path' in place && 'path' in own)) return false
    return place.path === own.path || await resolved(place.path) === await resolved(own.path)
  }
  if (place.port !== own.port) return false
  if (place.host === own.host || LOOPBACK.test(place.host) && (LOOPBACK.test(own.host) || WILDCARD.test(own.host))) return true
  const all = Object.values(networkInterfaces()).flatMap(found => found ?? [])
  return WILDCARD.test(own.host) && (place.host === hostname() || all.some(({ address }) => address === place.host))
}

/** Links followed; a path that leads nowhere, or is of an abstract socket, is itself. */
function resolved(path: string): Promise<string> {
  return path.includes('\0') ? Promise.resolve(path) : realpath(path).catch(() => path)
}
