/**
 * LinkTarget: a volume of a peer nbdelta as a mirror's target. Begin, commit and release go over the peer's link, data over
 * NBD, to an export that exists for this session alone. Both come in by argument: what crosses how is not replication's business.
 *
 * The NBD connection is opened behind `begin`, when the volume has its size; when the link ends, it ends as well, so that a cycle
 * does not wait for what will not come back.
 */
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { divCeil } from '../../native-free/integer.js'
import { allSettled } from '../device/all-settled.js'
import type { BlockDevice } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import { ForwardingDevice } from '../device/forwarding-device.js'
import { askDigests, grainRuns } from './link-digest.js'
import { LinkPoint } from './link-point.js'
import { gather } from './link-runs.js'
import {
  ABOVE_MAX, callPeer, CAN_DIGEST, CAN_HOLD, CAN_RECALL, CAN_REVERSE, CAN_ROOTS, CAN_SNAPSHOTS, CAN_STREAM, type PeerMethod,
  type PeerParams, type PeerResult,
} from './peer-messages.js'
import type {
  DeclaredPoint, FrozenTarget, HeldPoint, MirrorTarget, PlannedPoint, RecallPage, SessionWish, TargetSession,
} from './target.js'

const NOT_ENCRYPTED = 'what crosses is not encrypted: use a private network'
const NO_POINTS = 'its nbdelta is older and holds no point: what a stream declares there is compared by mirror verify only'
const NO_DIGESTS = 'its nbdelta is older and does not tell what it holds: a write that it lost is found by mirror verify only'

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
  connect(uri: string, how: { readonly ordered: boolean }): Promise<BlockDevice>
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
  readonly #parts: LinkTargetParts
  /** As of the last time it was attached to; until then nothing is said against it. */
  #tells = true
  #keepsSnapshots = true
  #holds = true
  #takesRoots = false

  constructor(parts: LinkTargetParts) { this.#parts = parts }

  get unguarded(): readonly string[] {
    return [...this.#parts.isPrivate ? [] : [NOT_ENCRYPTED], ...!this.#tells ? [NO_DIGESTS] : !this.#holds ? [NO_POINTS] : []]
  }

  get keepsSnapshots(): boolean { return this.#keepsSnapshots }
  get label(): string { return this.#parts.uri }

  /** @param overwrite what the volume holds may go, if it is no secondary yet */
  async open(wish: SessionWish, overwrite = false): Promise<LinkTargetSession> {
    const session = new Session(await this.#parts.link(), this.#parts.connect)
    try {
      await session.attach(this.#request(wish, overwrite))
      this.#tells = session.digests !== undefined
      this.#keepsSnapshots = session.recall !== undefined
      this.#holds = session.holds
      this.#takesRoots = session.takesRoots
      return session
    } catch (error) {
      await session.close()
      throw error
    }
  }

  get holds(): boolean { return this.#holds }

  async hold(point: string, signal: AbortSignal): Promise<HeldPoint> {
    const { mirror, epoch } = this.#parts
    const link = await this.#parts.link()
    const onAbort = (): void => { link.close() }
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
    try {
      return await LinkPoint.open(link, { mirror: mirror.uuid, volume: link.volume, epoch, point }, this.#takesRoots)
    } finally { signal.removeEventListener('abort', onAbort) }
  }

  release(): Promise<void> { return this.#alone('release') }

  forget(): Promise<void> { return this.#alone('forget') }

  async #alone(method: 'release' | 'forget'): Promise<void> {
    const session = new Session(await this.#parts.link(), this.#parts.connect)
    try {
      await session.attach(this.#request({ mayBegin: false }, false))
      await session.call(method, {})
    } finally { await session.close() }
  }

  #request({ mayBegin }: SessionWish, overwrite: boolean): Omit<PeerParams<'attach'>, 'volume'> {
    const { uuid, name, sizeBytes, grainBytes } = this.#parts.source()
    return {
      mirror: this.#parts.mirror, source: { uuid, name }, above: this.#parts.above().slice(0, ABOVE_MAX),
      epoch: this.#parts.epoch, sizeBytes, grainBytes, overwrite, create: mayBegin,
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
  #ordered: BlockDevice | undefined
  #frozen: BlockDevice | undefined
  readonly #link: PeerLink
  readonly #connect: LinkTargetParts['connect']

  constructor(link: PeerLink, connect: LinkTargetParts['connect']) {
    this.#link = link
    this.#connect = connect
    void link.ended.then(() => this.close())
  }

  get declared(): string | null { return this.#attached!.declared }
  get over(): Promise<void> { return this.#link.ended }
  get root(): string | null { return this.#attached!.root }
  get digests(): LinkTargetSession['digests'] {
    if (!this.#attached!.can.includes(CAN_DIGEST)) return undefined
    return (runs, regionBytes) => askDigests(params => this.call('digest', params), runs, regionBytes, this.#grainBytes)
  }

  get recall(): LinkTargetSession['recall'] {
    if (!this.#keepsSnapshots || (this.#ordered && !this.#attached!.can.includes(CAN_RECALL))) return undefined
    return page => this.#recall(page)
  }

  get #keepsSnapshots(): boolean { return this.#attached!.can.includes(CAN_SNAPSHOTS) }

  get holds(): boolean { return this.#attached!.can.includes(CAN_HOLD) }
  get takesRoots(): boolean { return this.#attached!.can.includes(CAN_ROOTS) }
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
    if (!await gather(map, from => this.call('changed', { from }))) return undefined
    this.#seen = map.count()
    return map
  }

  async begin(point: PlannedPoint, keep: boolean): Promise<void> {
    await this.call('begin', { point, keep, seen: this.#seen })
    const device = this.device.export = await this.#dial(false)
    if (device.sizeBytes !== point.sizeBytes) throw new NbdeltaError('bad-peer', 'the peer serves another size than it was told')
    this.device.sizeBytes = device.sizeBytes
  }

  async commit({ root, snapshot, kept, ...point }: DeclaredPoint): Promise<void> {
    const more = this.#keepsSnapshots && { ...snapshot !== undefined && { snapshot }, ...kept && { kept: [...kept] } }
    await this.call('commit', { point, ...root !== null && { root }, ...more })
  }

  async #recall({ point, regionBytes, portions }: RecallPage): Promise<readonly boolean[] | null> {
    const digests = portions.map(({ digest }) => digest.toString('hex'))
    const { same } = await this.call('recall', { point, runs: grainRuns(portions, this.#grainBytes), regionBytes, digests })
    if (same && same.length !== portions.length) throw new NbdeltaError('bad-peer', 'the peer tells of other portions than asked')
    return same
  }

  async stream(): Promise<BlockDevice> {
    if (!this.#attached!.can.includes(CAN_STREAM)) {
      throw new NbdeltaError('bad-peer', 'the nbdelta there is older, and takes no changes as they come',
        { hint: 'make the mirror anew with --mode periodic, or bring that server up to date' })
    }
    await this.call('stream', { counts: true })
    return this.#ordered ??= await this.#dial(true)
  }

  async suspend(): Promise<void> { await this.call('stream', { counts: false }) }

  async freeze(cycle: number): Promise<FrozenTarget> {
    if (!this.#attached!.can.includes(CAN_REVERSE)) {
      throw new NbdeltaError('bad-peer', 'the nbdelta there is older, and gives nothing back',
        { hint: 'bring that server up to date; or copy all: nbdelta volume import --overwrite, from the URI of its export' })
    }
    const { export: name } = await this.call('freeze', { cycle })
    const device = this.#frozen = await this.#dial(false, name)
    return { sizeBytes: device.sizeBytes, device }
  }

  async accept(point: PlannedPoint): Promise<void> { await this.call('accept', { point }) }

  /** To an export that exists for this session. */
  async #dial(ordered: boolean, name = this.#attached!.export): Promise<BlockDevice> {
    const device = await this.#connect(this.#link.exportUri(this.#attached!.nbd, name), { ordered })
    if (!this.#closing) return device
    await device.close()
    throw new NbdeltaError('unreachable', 'the peer link is closed')
  }

  call<M extends PeerMethod>(method: M, params: PeerParams<M>): Promise<PeerResult<M>> {
    return callPeer(this.#link, method, params)
  }

  close(): Promise<void> {
    this.#closing ??= (async () => {
      const closing = allSettled([this.device.close(), this.#ordered?.close(), this.#frozen?.close()])
      this.#link.close()
      await closing
    })()
    return this.#closing
  }
}

/** The NBD export, as soon as it is there. */
class LateDevice extends ForwardingDevice {
  export: BlockDevice | undefined
  #sizeBytes = 0

  override get sizeBytes(): number { return this.#sizeBytes }
  override set sizeBytes(bytes: number) { this.#sizeBytes = bytes }

  protected get inner(): BlockDevice {
    if (!this.export) throw new NbdeltaError('wrong-state', 'the peer was not told yet to begin')
    return this.export
  }

  override async close(): Promise<void> { await this.export?.close() }
}
