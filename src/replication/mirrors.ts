/**
 * Mirrors: all mirrors of an open store: made, found, run and ended. Records are the store's (one durable change each, D6).
 *
 * A volume is the target of one mirror at most, and never, over any number of mirrors, of itself. It may be the source of many,
 * each with points and a lag of its own (A9, D19).
 */
import { randomUUID } from 'node:crypto'
import { type BlockDevice, STATE_ZERO } from '../device/block-device.js'
import type { Clock } from '../device/clock.js'
import { NbdeltaError } from '../device/errors.js'
import type { Logger } from '../device/logger.js'
import { Turns } from '../device/turns.js'
import type { Store } from '../volume/open-store.js'
import { isBlank, type StoreVolume } from '../volume/store-volume.js'
import { DeviceTarget } from './device-target.js'
import { LinkTarget, type PeerLink } from './link-target.js'
import { LogBudget } from './log-budget.js'
import { Mirror } from './mirror.js'
import { MirrorGroup } from './mirror-group.js'
import {
  isSecondary, judgeState, MIRROR_NAME_MAX, type MirrorMode, type MirrorRecord, type MirrorState, type MirrorTargetName,
} from './mirror-record.js'
import { dropOrphans } from './orphans.js'
import { PulledVolumes } from './pulled.js'
import type { MirrorTarget } from './target.js'
import { VolumeTarget } from './volume-target.js'
import { judgeFreezable, type WholeAt } from './whole.js'

/** How such targets are told from a volume's name. */
const URI = /^nbds?(\+unix)?:\/\//
const PEER_URI = /^nbdelta(\+unix)?:\/\//

const EXTENTS_AT_ONCE = 1024

type MirrorStore = Pick<Store,
  'list' | 'get' | 'groups' | 'mirrors' | 'addMirror' | 'putMirror' | 'putMirrors' | 'removeMirror' | 'createPointsTogether'
  | 'createVolume' | 'deleteVolume' | 'resizeVolume' | 'fillVolume' | 'restoreTogether' | 'inDoubt'>

interface MirrorsParts {
  readonly store: MirrorStore
  readonly clock: Clock
  /** What the logs of all streams may hold together, bytes. */
  readonly logBytes?: number
  readonly logger: Logger
  /**
   * Opens an export of an NBD server for writing; `ordered`: over one connection, that is lost for good when it is lost.
   * Errors: bad-argument (the URI), unreachable, not-found, denied.
   */
  connect(uri: string, how: { readonly ordered: boolean }): Promise<BlockDevice>
  /** Opens a link to a peer nbdelta. Errors: bad-argument (the URI, the secret), not-found, denied, unreachable, bad-peer. */
  link?(uri: string, secretFile: string): Promise<PeerLink>
  /** What a volume has to hold that is frozen. */
  readonly wholeAt?: WholeAt
  /** What a volume is a copy of on another server, nearest first. */
  above?(uuid: string): readonly string[]
}

export interface CreateMirrorOptions {
  readonly name: string
  /** Name of the source. */
  readonly volume: string
  /** Name of a volume, made if it is not there, an NBD URI, or the URI of a peer's volume. */
  readonly target: string
  /** Of a peer: absolute path of the secret. */
  readonly secretFile?: string | undefined
  readonly mode?: MirrorMode
  readonly timeoutSeconds?: number
  readonly intervalSeconds: number
  readonly lagBytes: number | null
  readonly bytesPerSecond: number | null
  /** Mode periodic: the target, a volume here or at a peer, has so many of the source's newest snapshots as well. */
  readonly keepSnapshots?: number
  /** What a target holds that is not empty may go; of a volume a snapshot keeps it. */
  readonly overwrite: boolean
}

export class Mirrors {
  readonly #parts: MirrorsParts
  /** By name. */
  readonly #mirrors = new Map<string, Mirror>()
  readonly #logs: LogBudget
  readonly #turns = new Turns()
  readonly #pulled: PulledVolumes

  constructor(parts: MirrorsParts) {
    this.#parts = parts
    this.#logs = new LogBudget(parts.logBytes)
    this.#pulled = new PulledVolumes(parts.store, parts.logger)
  }

  /** Goes on with what the store knows. One that cannot be understood is logged, and stays as it is. */
  start(): void {
    this.#pulled.start()
    for (const { uuid, name, volume, state } of this.#parts.store.mirrors) {
      if (isSecondary(state)) continue
      try {
        const mirror = this.#open({ uuid, name, volume, state: judgeState(state) })
        this.#mirrors.set(name, mirror)
        mirror.start()
      } catch (error) {
        this.#parts.logger.error({ err: error, mirror: name }, 'a mirror cannot be understood; it does not run')
      }
    }
    dropOrphans(this.#parts.store).catch((error: unknown) => {
      this.#parts.logger.warn({ err: error }, 'points of a deleted mirror stay for now')
    })
  }

  async stop(): Promise<void> {
    await this.#turns.idle
    await Promise.all([...this.#mirrors.values()].map(mirror => mirror.stop()))
  }

  /** By name. */
  list(): Mirror[] { return [...this.#mirrors.values()].sort((a, b) => a.record.name < b.record.name ? -1 : 1) }

  /** Errors: not-found. */
  get(name: string): Mirror {
    const mirror = this.#mirrors.get(name)
    if (!mirror) throw new NbdeltaError('not-found', `there is no mirror ${name}`, { hint: 'see: nbdelta mirror list' })
    return mirror
  }

  /** Several as one; a name that is given twice counts once. Errors: not-found, bad-argument (there is none). */
  together(names: readonly string[]): MirrorGroup {
    if (names.length === 0) throw new NbdeltaError('bad-argument', 'name a mirror')
    const mirrors = [...new Set(names)].map(name => this.get(name))
    return new MirrorGroup(mirrors, this.#parts.store, this.#pulled, uuid => { this.#judgeOwn(uuid) })
  }

  /** All mirrors of the volumes of a group of volumes. Errors: not-found (the group), wrong-state (there are none). */
  ofGroup(name: string): string[] {
    const group = this.#parts.store.groups.find(one => one.name === name)
    if (!group) throw new NbdeltaError('not-found', `there is no group ${name}`, { hint: 'see: nbdelta group list' })
    const names = this.list().filter(mirror => group.volumes.includes(this.sourceOf(mirror))).map(({ record }) => record.name)
    if (names.length === 0) throw new NbdeltaError('wrong-state', `no volume of group ${name} is mirrored`)
    return names
  }

  /** Those of which the volume is the source. */
  ofSource(uuid: string): Mirror[] { return this.list().filter(({ record }) => record.volume === uuid) }

  /** That of which the volume is the target. */
  ofTarget(uuid: string): Mirror | undefined {
    for (const mirror of this.#mirrors.values()) {
      const { target } = mirror.state
      if (target.kind === 'volume' && target.uuid === uuid) return mirror
    }
    return undefined
  }

  /** That to which the volume belongs: it is the target, and not split. */
  ownerOf(uuid: string): Mirror | undefined {
    const mirror = this.ofTarget(uuid)
    return mirror?.isApart ? undefined : mirror
  }

  /** It holds what a source is to get from a target, and is nothing for clients. */
  isPulled(uuid: string): boolean { return this.#pulled.has(uuid) }

  /** Name of the source; its uuid, if it is gone. */
  sourceOf({ record }: Mirror): string {
    return this.#parts.store.list().find(({ uuid }) => uuid === record.volume)?.name ?? record.volume
  }

  /**
   * Durable when it resolves; the first copy begins at once.
   * Errors: exists, not-found, bad-argument, busy, too-large, unreachable, io, flush-failed (only a restart tells).
   */
  create(options: CreateMirrorOptions): Promise<Mirror> {
    return this.#turns.take(() => this.#create(options))
  }

  async #create(options: CreateMirrorOptions): Promise<Mirror> {
    const { name, intervalSeconds, lagBytes, bytesPerSecond, keepSnapshots, mode, timeoutSeconds } = options
    if (name.length > MIRROR_NAME_MAX) {
      throw new NbdeltaError('bad-argument', `a mirror's name has at most ${MIRROR_NAME_MAX} characters`)
    }
    if (this.#mirrors.has(name)) throw new NbdeltaError('exists', `there is a mirror ${name} already`)
    if (this.#parts.store.inDoubt) throw doubtful(name)
    judgeKeeping(options)
    const source = this.#usable(options.volume)
    const stateOf = (found: Pick<MirrorState, 'target' | 'keep' | 'blank'>): MirrorState => judgeState({
      ...found, mode, timeoutSeconds, intervalSeconds, lagBytes, bytesPerSecond, keepSnapshots,
      phase: 'copying', paused: false, cycle: 0, base: null, epoch: 1,
    })
    // Before anything is made: whatever stands for the target.
    stateOf({ target: { kind: 'volume', uuid: source.uuid }, keep: false, blank: false })
    const { made, ...found } = await this.#target(options, source)
    const state = stateOf(found)
    const { target } = state
    const planned = { uuid: randomUUID(), name, volume: source.uuid, state }
    let attached: LinkTarget | undefined
    try {
      const remote = this.#opened(planned)
      if (target.kind === 'nbd') await judgeRemote(remote, source, options.overwrite)
      const seen = remote instanceof LinkTarget ? await firstSight(remote, options.overwrite) : {}
      if (remote instanceof LinkTarget) attached = remote
      const record = { ...planned, state: { ...state, ...seen } }
      const mirror = this.#open(record)
      const needs = [source.uuid, ...target.kind === 'volume' ? [target.uuid] : []]
      await this.#parts.store.addMirror(record, needs, () => { this.#mirrors.set(name, mirror) })
      mirror.start()
      this.#parts.logger.info({ mirror: name, volume: source.name, target: mirror.target.label }, 'mirror created')
      return mirror
    } catch (error) {
      // What the record needs stays: after a restart it may be there, and the mirror goes on.
      if (this.#parts.store.inDoubt) throw doubtful(name, error)
      await attached?.forget().catch((again: unknown) => {
        this.#parts.logger.warn({ err: again, mirror: name }, 'a mirror that was not created stays known to its peer')
      })
      if (made) await this.#parts.store.deleteVolume(made)
      throw error
    }
  }

  async delete(name: string): Promise<void> {
    const mirror = this.get(name)
    // Until its points are gone its name is taken: pins of snapshots say no more than that.
    await mirror.dissolve(() => this.#parts.store.removeMirror(mirror.record.uuid))
    this.#mirrors.delete(name)
    this.#parts.logger.info({ mirror: name }, 'mirror deleted')
  }

  async #target(
    { target, overwrite, secretFile }: CreateMirrorOptions, source: StoreVolume,
  ): Promise<{ readonly target: MirrorTargetName, readonly made?: string, readonly keep: boolean, readonly blank: boolean }> {
    if (PEER_URI.test(target)) {
      if (secretFile) return { target: { kind: 'peer', uri: target, secretFile }, keep: false, blank: false }
      throw new NbdeltaError('bad-argument', 'a peer wants to see that you know its secret', { hint: 'give --secret FILE' })
    }
    if (secretFile) throw new NbdeltaError('bad-argument', `${target} is no peer, and takes no secret`)
    if (URI.test(target)) return { target: { kind: 'nbd', uri: target }, keep: false, blank: !overwrite }
    const { store } = this.#parts
    if (!store.get(target)) {
      const { sizeBytes, grainBytes } = source
      const { uuid } = await store.createVolume({ name: target, sizeBytes, grainBytes, description: `mirror of ${source.name}` })
      return { target: { kind: 'volume', uuid }, made: target, keep: false, blank: true }
    }
    const volume = this.#usable(target)
    this.#judgeTarget(volume, source)
    const blank = await isBlank(volume)
    if (!blank && !overwrite) {
      throw new NbdeltaError('exists', `volume ${target} is not empty`,
        { hint: 'choose another target, or give --overwrite: a snapshot keeps what it holds' })
    }
    return { target: { kind: 'volume', uuid: volume.uuid }, keep: !blank, blank }
  }

  #judgeTarget(volume: StoreVolume, source: StoreVolume): void {
    const other = this.ofTarget(volume.uuid)
    if (other) throw new NbdeltaError('busy', `volume ${volume.name} is the target of mirror ${other.record.name}`)
    if (volume.grainBytes !== source.grainBytes) {
      const grains = `${volume.name} has grains of ${volume.grainBytes} bytes, ${source.name} of ${source.grainBytes}`
      throw new NbdeltaError('bad-argument', grains,
        { hint: 'leave the target out of the store: it is made to fit' })
    }
    for (let uuid: string | undefined = source.uuid; uuid !== undefined; uuid = this.ofTarget(uuid)?.record.volume) {
      if (uuid !== volume.uuid) continue
      throw new NbdeltaError('bad-argument', volume === source ? `${volume.name} cannot be its own mirror`
        : `${volume.name} cannot be a mirror of ${source.name}, which is one of ${volume.name} itself`)
    }
  }

  #open(record: MirrorRecord): Mirror {
    const { store, clock, logger } = this.#parts
    return new Mirror({
      record, target: this.#opened(record), clock, logger, logs: this.#logs,
      source: () => this.#byUuid(record.volume, 'source'),
      put: next => store.putMirror(next),
      judgeSource: volume => { judgeFreezable(volume, this.#parts.wholeAt) },
    })
  }

  #opened({ uuid, name, volume, state: { target, epoch } }: MirrorRecord): MirrorTarget {
    if (target.kind === 'nbd') return new DeviceTarget(target.uri, how => this.#parts.connect(target.uri, how))
    if (target.kind === 'peer') return this.#peer({ uuid, name }, volume, epoch, target)
    return new VolumeTarget({
      mirror: { uuid, name },
      volume: () => this.#byUuid(target.uuid, 'target'),
      resize: (volume, sizeBytes) => this.#parts.store.resizeVolume(volume, sizeBytes),
    })
  }

  #peer(
    mirror: { readonly uuid: string, readonly name: string }, volume: string, epoch: number,
    { uri, secretFile }: { readonly uri: string, readonly secretFile: string },
  ): LinkTarget {
    const { link, connect } = this.#parts
    return new LinkTarget({
      uri, mirror, epoch, isPrivate: uri.toLowerCase().startsWith('nbdelta+unix:'),
      link: async () => {
        if (!link) throw new NbdeltaError('bad-argument', 'peers cannot be reached from here')
        return link(uri, secretFile)
      },
      connect: (address, how) => connect(address, how),
      source: () => this.#byUuid(volume, 'source'),
      above: () => this.#above(volume),
    })
  }

  /** Errors: wrong-state (what the volume holds is a mirror's, here or on another server). */
  #judgeOwn(uuid: string): void {
    const name = this.#parts.store.list().find(volume => volume.uuid === uuid)?.name ?? uuid
    const owner = this.ownerOf(uuid)?.record.name
    if (owner !== undefined) {
      throw new NbdeltaError('wrong-state', `what ${name} holds cannot be replaced: ${name} is the target of mirror ${owner}`,
        { hint: `nbdelta mirror split ${owner} lets it stand on its own` })
    }
    if ((this.#parts.above?.(uuid).length ?? 0) === 0) return
    throw new NbdeltaError('wrong-state', `what ${name} holds cannot be replaced: ${name} is the secondary of a mirror elsewhere`,
      { hint: `split or delete that mirror on its own server, or take over here: nbdelta replica promote ${name}` })
  }

  /** What a volume is a copy of, nearest first, over all mirrors of this store and of others that are known here. */
  #above(volume: string): string[] {
    const found: string[] = []
    for (let uuid: string | undefined = volume; uuid !== undefined; uuid = this.ofTarget(uuid)?.record.volume) {
      if (uuid !== volume) found.push(uuid)
      found.push(...this.#parts.above?.(uuid) ?? [])
    }
    return found
  }

  #usable(name: string): StoreVolume {
    const volume = this.#parts.store.get(name)
    if (!volume) throw new NbdeltaError('not-found', `there is no volume ${name}`, { hint: 'see: nbdelta volume list' })
    if (volume.problem) throw volume.problem
    return volume
  }

  #byUuid(uuid: string, role: string): StoreVolume {
    const volume = this.#parts.store.list().find(one => one.uuid === uuid)
    if (!volume) throw new NbdeltaError('not-found', `the ${role} volume of the mirror is gone: ${uuid}`)
    if (volume.problem) throw volume.problem
    return volume
  }
}

/** Errors: bad-argument. */
function judgeKeeping({ keepSnapshots = 0, target }: CreateMirrorOptions): void {
  if (keepSnapshots === 0) return
  if (URI.test(target)) throw new NbdeltaError('bad-argument', `${target} is an NBD server, and keeps no snapshots`)
}

/** @param cause undefined: something else has failed before, and no change is taken */
function doubtful(mirror: string, cause?: unknown): NbdeltaError {
  const what = cause === undefined ? 'a change of the store has failed: no mirror is made'
    : `whether mirror ${mirror} was made is not known`
  const hint = 'restart the server; if nbdelta mirror list does not have it then, make it again'
    + ' (at a peer, behind nbdelta replica forget; a volume that was made for it stays)'
  return new NbdeltaError('flush-failed', what, { cause, hint })
}

/** Told at once, instead of by a mirror that never gets anywhere. */
async function judgeRemote(target: MirrorTarget, source: StoreVolume, overwrite: boolean): Promise<void> {
  const session = await target.open({ mayBegin: true })
  const { device } = session
  try {
    if (device.capabilities.readOnly) throw new NbdeltaError('read-only', `${target.label} cannot be written to`)
    if (device.sizeBytes < source.sizeBytes) {
      throw new NbdeltaError('too-large', `${target.label} has ${device.sizeBytes} bytes, ${source.name} ${source.sizeBytes}`)
    }
    if (!overwrite && !await isEmpty(device)) {
      const hint = 'give --overwrite if what it holds may go'
      throw new NbdeltaError('exists', `${target.label} is not empty, or cannot tell`, { hint })
    }
  } finally { await session.close() }
}

/** The peer takes it on, or says why not. */
async function firstSight(target: LinkTarget, overwrite: boolean): Promise<{ readonly keep: boolean, readonly blank: boolean }> {
  const session = await target.open({ mayBegin: true }, overwrite)
  try {
    return { keep: session.keep, blank: session.blank }
  } finally { await session.close() }
}

/** By its allocation alone. */
async function isEmpty(device: BlockDevice): Promise<boolean> {
  for (let at = 0; at < device.sizeBytes;) {
    const { lengths, states } = await device.extents(at, device.sizeBytes - at, EXTENTS_AT_ONCE)
    if (states.some(state => (state & STATE_ZERO) === 0)) return false
    at += lengths.reduce((sum, length) => sum + length, 0)
  }
  return true
}
