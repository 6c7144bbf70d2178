/**
 * LinkTarget: a volume of a peer nbdelta as a mirror's target. Begin, commit and release go over the peer's link, data over
 * NBD, to an export that exists for this session alone. Both come in by argument: what crosses how is not replication's business.
 *
 * The NBD connection is opened behind `begin`, when the volume has its size; when the link ends, it ends as well, so that a cycle
 * does not wait for what will not come back.
 */
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { divCeil } from '../../native-free/integer.js'
import type { BlockDevice, BlockSizes, Capabilities, Extents, Origin, Pending, ZeroMode } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import { ABOVE_MAX, judgeMessage, type PeerMethod, type PeerParams, type PeerResult, RESULTS } from './peer-messages.js'
import type { DeclaredPoint, MirrorTarget, SessionWish, TargetSession } from './target.js'

const NOT_ENCRYPTED = Object.freeze(['what crosses is not encrypted: use a private network'])

/** An open link to the peer that a URI names. */
export interface PeerLink {
  /** Name of the volume there. */
  readonly volume: string
  call(method: string, params: Readonly<Record<string, unknown>>): Promise<unknown>
  /** URI of an export that the peer serves at one of these places. Errors: unreachable (none can be reached from here). */
  exportUri(places: PeerResult<'attach'>['nbd'], name: string): string
  readonly ended: Promise<void>
  close(): void
}

export interface LinkTargetParts {
  readonly uri: string
  readonly isPrivate: boolean
  readonly mirror: { readonly uuid: string, readonly name: string }
  link(): Promise<PeerLink>
  connect(uri: string): Promise<BlockDevice>
  /** The source as it is now. Errors: not-found. */
  source(): { readonly uuid: string, readonly name: string, readonly sizeBytes: number, readonly grainBytes: number }
  /** What the source is a copy of, nearest first. */
  above(): readonly string[]
  readonly epoch: number
}

export interface LinkTargetSession extends TargetSession {
  /** As it was when it was attached to. */
  readonly keep: boolean
  readonly blank: boolean
}

export class LinkTarget implements MirrorTarget {
  readonly unguarded: readonly string[]
  readonly #parts: LinkTargetParts

  constructor(parts: LinkTargetParts) {
    this.#parts = parts
    this.unguarded = parts.isPrivate ? [] : NOT_ENCRYPTED
  }

  get label(): string { return this.#parts.uri }

  /** @param overwrite what the volume holds may go, if it is no secondary yet */
  async open(wish: SessionWish, overwrite = false): Promise<LinkTargetSession> {
    const session = new Session(await this.#parts.link(), this.#parts.connect)
    try {
      await session.attach(this.#request(wish, overwrite))
      return session
    } catch (error) {
      await session.close()
      throw error
    }
  }

  release(): Promise<void> { return this.#alone('release') }

  forget(): Promise<void> { return this.#alone('forget') }

  async #alone(method: 'release' | 'forget'): Promise<void> {
    const session = new Session(await this.#parts.link(), this.#parts.connect)
    try {
      await session.attach(this.#request({ isFirst: false }, false))
      await session.call(method, {})
    } finally { await session.close() }
  }

  #request({ isFirst }: SessionWish, overwrite: boolean): Omit<PeerParams<'attach'>, 'volume'> {
    const { uuid, name, sizeBytes, grainBytes } = this.#parts.source()
    return {
      mirror: this.#parts.mirror, source: { uuid, name }, above: this.#parts.above().slice(0, ABOVE_MAX),
      epoch: this.#parts.epoch, sizeBytes, grainBytes, overwrite, create: isFirst,
    }
  }
}

class Session implements LinkTargetSession {
  readonly device = new LateDevice()
  #grainBytes = 0
  /** Grains that had changed when that was asked last. */
  #seen: number | null = null
  #attached: PeerResult<'attach'> | undefined
  #closing: Promise<void> | undefined
  readonly #link: PeerLink
  readonly #connect: (uri: string) => Promise<BlockDevice>

  constructor(link: PeerLink, connect: (uri: string) => Promise<BlockDevice>) {
    this.#link = link
    this.#connect = connect
    void link.ended.then(() => this.close())
  }

  get declared(): string | null { return this.#attached!.declared }
  get keep(): boolean { return this.#attached!.keep }
  get blank(): boolean { return this.#attached!.blank }

  async attach(request: Omit<PeerParams<'attach'>, 'volume'>): Promise<void> {
    this.#attached = await this.call('attach', { ...request, volume: this.#link.volume })
    this.#grainBytes = request.grainBytes
    this.device.sizeBytes = this.#attached.sizeBytes
  }

  /** All pages. */
  async changed(): Promise<GrainBitmap | undefined> {
    const map = new GrainBitmap(divCeil(this.device.sizeBytes, this.#grainBytes))
    let last = 0
    for (let from: number | null = 0; from !== null;) {
      const page: PeerResult<'changed'> = await this.call('changed', { from })
      if (!page.runs) return undefined
      for (const [start, end] of page.runs) {
        if (start >= end || start < last || end > map.length) throw disorder()
        map.set(start, end)
        last = end
      }
      if (page.next !== null && page.next <= from) throw disorder()
      from = page.next
    }
    this.#seen = map.count()
    return map
  }

  async begin(point: DeclaredPoint, keep: boolean): Promise<void> {
    await this.call('begin', { point, keep, seen: this.#seen })
    const device = await this.#connect(this.#link.exportUri(this.#attached!.nbd, this.#attached!.export))
    if (this.#closing) {
      await device.close()
      throw new NbdeltaError('unreachable', 'the peer link is closed')
    }
    this.device.inner = device
    if (device.sizeBytes !== point.sizeBytes) throw new NbdeltaError('bad-peer', 'the peer serves another size than it was told')
    this.device.sizeBytes = device.sizeBytes
  }

  async commit(point: DeclaredPoint): Promise<void> { await this.call('commit', { point }) }

  async call<M extends PeerMethod>(method: M, params: PeerParams<M>): Promise<PeerResult<M>> {
    const answer = await this.#link.call(method, params)
    return judgeMessage(RESULTS[method], answer, `the peer's answer to ${method}`, 'bad-peer') as PeerResult<M>
  }

  close(): Promise<void> {
    this.#closing ??= (async () => {
      const closing = this.device.close()
      this.#link.close()
      await closing
    })()
    return this.#closing
  }
}

function disorder(): NbdeltaError { return new NbdeltaError('bad-peer', 'the peer\'s list of changes is in disorder') }

/** The NBD export, as soon as it is there. */
class LateDevice implements BlockDevice {
  sizeBytes = 0
  inner: BlockDevice | undefined

  get #device(): BlockDevice {
    if (!this.inner) throw new NbdeltaError('wrong-state', 'the peer was not told yet to begin')
    return this.inner
  }

  get blockSizes(): BlockSizes { return this.#device.blockSizes }
  get capabilities(): Capabilities { return this.#device.capabilities }
  read(offset: number, length: number, into: Buffer, at: number, origin?: Origin): Pending {
    return this.#device.read(offset, length, into, at, origin)
  }
  write(offset: number, length: number, from: Buffer, at: number, origin?: Origin): Pending {
    return this.#device.write(offset, length, from, at, origin)
  }
  trim(offset: number, length: number, origin?: Origin): Pending { return this.#device.trim(offset, length, origin) }
  zero(offset: number, length: number, mode: ZeroMode, origin?: Origin): Pending {
    return this.#device.zero(offset, length, mode, origin)
  }
  flush(): Pending { return this.#device.flush() }
  zeroRun(offset: number, length: number): number { return this.#device.zeroRun(offset, length) }
  extents(offset: number, length: number, max: number): Extents | Promise<Extents> {
    return this.#device.extents(offset, length, max)
  }
  async close(): Promise<void> { await this.inner?.close() }
}
