/**
 * LinkPoint: a declared point at a peer, held over a link of its own, so that cycles and streams, which have theirs, go on. The
 * peer lets go of it when the link ends, and when nothing is asked for long.
 */
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { divCeil } from '../../native-free/integer.js'
import type { ByteRun, PortionDigest } from './content-digest.js'
import { askDigests } from './link-digest.js'
import { gather } from './link-runs.js'
import { type PeerCaller, callPeer, type PeerParams, type PeerResult } from './peer-messages.js'
import type { Finding, HeldPoint } from './target.js'

export class LinkPoint implements HeldPoint {
  readonly #link: PeerCaller & { close(): void }
  readonly #facts: PeerResult<'hold'>

  readonly rooted: HeldPoint['rooted']

  private constructor(link: PeerCaller & { close(): void }, facts: PeerResult<'hold'>, takesRoots: boolean) {
    this.#link = link
    this.#facts = facts
    this.rooted = takesRoots ? async root => { await callPeer(link, 'rooted', { root }) } : undefined
  }

  /**
   * @param link its own from now on
   * @param takesRoots the peer can be told the point's root
   * Errors: not-found, busy, wrong-state, unreachable, bad-peer.
   */
  static async open(
    link: PeerCaller & { close(): void }, wanted: PeerParams<'hold'>, takesRoots: boolean,
  ): Promise<LinkPoint> {
    try {
      return new LinkPoint(link, await callPeer(link, 'hold', wanted), takesRoots)
    } catch (error) {
      link.close()
      throw error
    }
  }

  get sizeBytes(): number { return this.#facts.sizeBytes }

  async held(regionBytes: number): Promise<GrainBitmap> {
    const map = new GrainBitmap(divCeil(this.sizeBytes, regionBytes))
    await gather(map, from => callPeer(this.#link, 'held', { from, regionBytes }))
    return map
  }

  digests(runs: Iterable<ByteRun>, regionBytes: number): AsyncIterable<PortionDigest> {
    return askDigests(params => callPeer(this.#link, 'digest', params), runs, regionBytes, this.#facts.grainBytes)
  }

  async tell(found: Finding): Promise<void> { await callPeer(this.#link, 'found', found) }

  async close(): Promise<void> { this.#link.close() }
}
