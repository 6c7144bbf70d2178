/**
 * Secondaries: volumes of this store that belong to mirrors of other servers, and what those may do with them
 * (docs/peer-link.md).
 *
 *   secondary   clients see the last declared point, read-only; the mirror's server ships to it
 *   released    it stands on its own; the mirror may take it back, with what was done on it kept (`begin` with `keep`)
 *
 * Invariants
 * - A volume is the secondary of one mirror; identity decides, never a name (X12). An epoch lower than the highest one seen is
 *   refused, and a higher one is durable before anything is done for it (X10).
 * - At most one session has a secondary, and only that one has a way to write. A newer one gets it when everything of the older
 *   has ended, its requests in flight included (X9).
 * - What is done with one secondary is done one after the other.
 * - Durable is an entry of the store's table of mirrors, under the secondary volume: it goes with the volume.
 */
import { randomUUID } from 'node:crypto'
import type { BlockDevice } from '../device/block-device.js'
import type { Clock } from '../device/clock.js'
import { NbdeltaError } from '../device/errors.js'
import { KeyedMutex } from '../device/keyed-mutex.js'
import type { Logger } from '../device/logger.js'
import type { Store } from '../volume/open-store.js'
import type { PointInfo } from '../volume/snappoint.js'
import { isBlank, type StoreVolume } from '../volume/store-volume.js'
import { isSecondary, judgeSecondary, type SecondaryState } from './mirror-record.js'
import type { PeerParams } from './peer-messages.js'
import type { CompareOptions } from './compare.js'
import { type SecondaryPoint, SecondaryPoints } from './secondary-points.js'
import { SecondarySession } from './secondary-session.js'
import type { Verified } from './verifications.js'
import { CYCLE_LABEL, ORIGIN_LABEL, VolumeTarget } from './volume-target.js'

/** A way to write to a volume that nobody else knows of. */
export interface Exposure {
  readonly export: string
  /** Nobody can use it any more, and what was in flight has ended. Idempotent. */
  close(): Promise<void>
}

export interface SecondariesParts {
  readonly store: Pick<Store,
    'list' | 'get' | 'mirrors' | 'putMirror' | 'removeMirror' | 'createVolume' | 'deleteVolume' | 'resizeVolume'>
  readonly logger: Logger
  readonly clock: Clock
  expose(device: BlockDevice): Exposure
  /** Where exposures are served. */
  places(): readonly ({ readonly port: number } | { readonly path: string })[]
  /** Runs `work` while no client can attach to the volume. Errors: busy (one is attached). */
  whileUnattached<T>(volume: string, work: () => Promise<T>): Promise<T>
  /** Name of the mirror of this store whose target the volume is. */
  localMirror(uuid: string): string | undefined
}

interface Secondary {
  /** Of the entry in the store; not the mirror's, whose own server may be this one. */
  readonly uuid: string
  /** Uuid of the secondary volume. */
  readonly volume: string
  readonly state: SecondaryState
  /** The last thing that happened to it was a promotion. */
  readonly isPromoted: boolean
}

/**
 * Names of entries say what an older nbdelta need not know: it would refuse a state with more in it, and close the volume. Both
 * have the entry's uuid behind them.
 */
const NAMED = 'secondary-'
const NAMED_PROMOTED = 'promoted-'

/** Stands for an entry that cannot be understood: no mirror is this one, so that its volume is shown to and taken by nobody. */
const NOBODYS: SecondaryState = Object.freeze({
  role: 'secondary', mirror: '00000000-0000-0000-0000-000000000000', name: 'unknown', source: { uuid: '', name: 'unknown' },
  above: [], epoch: Number.MAX_SAFE_INTEGER - 1, phase: 'secondary',
})

export class Secondaries {
  readonly parts: SecondariesParts
  readonly #points: SecondaryPoints
  /** By volume. */
  readonly #known = new Map<string, Secondary>()
  /** By volume: who has it. */
  readonly #holders = new Map<string, SecondarySession>()
  readonly #turns = new KeyedMutex()

  constructor(parts: SecondariesParts) {
    this.parts = parts
    this.#points = new SecondaryPoints(parts.clock)
  }

  /** Reads what the store knows. One that cannot be understood is logged; its volume is closed to everybody. */
  start(): void {
    const { store, logger } = this.parts
    for (const { uuid, name, volume, state } of store.mirrors) {
      if (!isSecondary(state)) continue
      let judged = NOBODYS
      try {
        judged = judgeSecondary(state)
      } catch (error) { logger.error({ err: error, volume }, 'a secondary cannot be understood; nobody can attach to it') }
      this.#known.set(volume, { uuid, volume, state: judged, isPromoted: name === `${NAMED_PROMOTED}${uuid}` })
      // What a reversal had frozen when this server was killed.
      this.target(volume).thaw().catch((error: unknown) => {
        logger.warn({ err: error, volume }, 'what was frozen stays for now')
      })
    }
  }

  /** By name of the volume. */
  list(): { readonly volume: StoreVolume, readonly state: SecondaryState, readonly attached: boolean }[] {
    return this.parts.store.list().flatMap(volume => {
      const state = this.of(volume.uuid)
      return state ? [{ volume, state, attached: this.#holders.has(volume.uuid) }] : []
    })
  }

  of(volume: string): SecondaryState | undefined { return this.#known.get(volume)?.state }

  /** What a secondary is a copy of, nearest first. */
  above(volume: string): readonly string[] {
    const state = this.of(volume)
    return state?.phase === 'secondary' ? [state.source.uuid, ...state.above] : []
  }

  /** The point of the source that it is at, or was at last. */
  declaredPoint(volume: string): PointInfo | undefined {
    try { return this.target(volume).declaredPoint() } catch { return undefined }
  }

  /** What clients see of it. */
  shownPoint(volume: string): PointInfo | undefined {
    try { return this.target(volume).shownPoint() } catch { return undefined }
  }

  /** For one connection of a peer; `hangUp` is called when a newer one takes its place. */
  session(hangUp: () => void): SecondarySession { return new SecondarySession(this, hangUp) }

  /**
   * Gives a session the secondary that it asks for; makes it, if there is none.
   * Errors: busy (another mirror's), wrong-state (the epoch), bad-argument (a circle, the grain), exists, not-found, the store's.
   */
  attach(
    session: SecondarySession, asked: PeerParams<'attach'>,
  ): Promise<{ readonly volume: StoreVolume, readonly made: boolean }> {
    return this.inTurn(asked.volume, async () => {
      const { store } = this.parts
      const found = store.get(asked.volume)
      if (found?.problem) throw found.problem
      const elsewhere = this.list().find(({ volume, state }) => state.mirror === asked.mirror.uuid && volume.uuid !== found?.uuid)
      if (elsewhere) throw new NbdeltaError('busy', `mirror ${asked.mirror.name} has its secondary in ${elsewhere.volume.name}`)
      if (found) await this.#judge(found, asked)
      else this.#judgeMissing(asked)
      const volume = found ?? await store.createVolume({
        name: asked.volume, sizeBytes: asked.sizeBytes, grainBytes: asked.grainBytes,
        description: `mirror ${asked.mirror.name} of ${asked.source.name}`,
      })
      const before = this.#known.get(volume.uuid)
      const { mirror, source, above, epoch } = asked
      const state: SecondaryState = {
        role: 'secondary', mirror: mirror.uuid, name: mirror.name, source, above, epoch,
        phase: before?.state.phase ?? 'secondary',
      }
      if (before) await this.put(volume.uuid, state)
      else await this.parts.whileUnattached(volume.name, () => this.put(volume.uuid, state))
      await this.fence(volume.uuid)
      session.hold(volume)
      this.#holders.set(volume.uuid, session)
      this.parts.logger.info({ volume: volume.name, mirror: mirror.name, source: source.name, epoch }, 'a peer has attached')
      return { volume, made: !found }
    })
  }

  /**
   * A declared point of a secondary, for its mirror to compare: nobody is kept out, and what is declared later changes nothing.
   * Errors: not-found, busy (another mirror's), wrong-state (the epoch).
   */
  hold({ mirror, volume: name, epoch, point }: PeerParams<'hold'>, hangUp: () => void): Promise<SecondaryPoint> {
    return this.inTurn(name, async () => {
      const { uuid, state } = this.#byName(name)
      judgeWhose(name, state, mirror, epoch)
      return this.#points.hold(this.parts.store.get(name)!, await this.target(uuid).hold(point), hangUp)
    })
  }

  /**
   * Reads all of the declared point, whatever its mirror does meanwhile. Errors: not-found, wrong-state (it has none), cancelled,
   * gone (it was promoted or forgotten), no-space, damaged, io.
   */
  async verify(name: string, options: CompareOptions): Promise<Verified> {
    const { uuid, point } = this.judgeVerification(name)
    const cycle = point.labels[CYCLE_LABEL]
    const held = await this.target(uuid).hold(point.labels[ORIGIN_LABEL]!)
    return this.#points.verify(uuid, held, cycle === undefined ? null : Number(cycle), options)
  }

  /** Errors: not-found, wrong-state (it has no declared point). */
  judgeVerification(name: string): { readonly uuid: string, readonly point: PointInfo } {
    const { uuid } = this.#byName(name)
    const point = this.declaredPoint(uuid)
    if (point) return { uuid, point }
    throw new NbdeltaError('wrong-state', `volume ${name} has no declared point: there is nothing to verify`)
  }

  /** What came of the last verification of a volume, by whichever side; null: there was none since the server began. */
  verified(volume: string): Verified | null { return this.#points.found(volume) }

  /** Nothing of whoever had it runs any more. In turn. */
  async fence(volume: string): Promise<void> {
    const holder = this.#holders.get(volume)
    if (!holder) return
    this.#holders.delete(volume)
    await holder.fenced()
  }

  /** What it holds is what a stream has brought, and that counts. */
  isReceiving(volume: string): boolean { return this.#holders.get(volume)?.isReceiving ?? false }

  isHolder(volume: string, session: SecondarySession): boolean { return this.#holders.get(volume) === session }

  target(volume: string): VolumeTarget {
    const { mirror, name } = this.#get(volume).state
    return new VolumeTarget({
      mirror: { uuid: mirror, name },
      volume: () => {
        const found = this.parts.store.list().find(({ uuid }) => uuid === volume)
        if (!found) throw new NbdeltaError('not-found', `the volume is gone: ${volume}`)
        if (found.problem) throw found.problem
        return found
      },
      resize: (of, sizeBytes) => this.parts.store.resizeVolume(of, sizeBytes),
    })
  }

  /** Durable when it resolves. */
  async put(volume: string, state: SecondaryState, isPromoted = false): Promise<void> {
    const before = this.#known.get(volume)
    if (before?.isPromoted === isPromoted && JSON.stringify(before.state) === JSON.stringify(state)) return
    const uuid = before?.uuid ?? randomUUID()
    const judged = judgeSecondary(state)
    const name = `${isPromoted ? NAMED_PROMOTED : NAMED}${uuid}`
    await this.parts.store.putMirror({ uuid, name, volume, state: judged })
    this.#known.set(volume, { uuid, volume, state: judged, isPromoted })
  }

  /** It is nobody's secondary any more, and its mirror's points go. In turn. */
  async drop(volume: string): Promise<void> {
    await this.#points.end(volume)
    await this.target(volume).forget()
    await this.parts.store.removeMirror(this.#get(volume).uuid)
    this.#known.delete(volume)
  }

  /**
   * The secondary stands on its own, at its last declared point, and the mirror's server is refused from now on (S4). The epoch
   * comes first: cut short behind it, nobody has been let in. Promoted already, and nobody let in since: nothing is done. Returns
   * the epoch. Errors: not-found, wrong-state (it has no declared point), io.
   */
  promote(name: string): Promise<number> {
    return this.inTurn(name, async () => {
      const { uuid, state, isPromoted } = this.judgePromotion(name)
      if (isPromoted) return state.epoch
      const epoch = state.epoch + 1
      await this.put(uuid, { ...state, epoch })
      await this.fence(uuid)
      await this.#points.end(uuid)
      if (state.phase === 'secondary') await this.target(uuid).release()
      await this.put(uuid, { ...state, epoch, phase: 'released' }, true)
      this.parts.logger.warn({ volume: name, mirror: state.name, epoch }, 'a secondary was promoted: its old primary is refused')
      return epoch
    })
  }

  /** Errors: as `promote`. */
  judgePromotion(name: string): {
    readonly uuid: string, readonly state: SecondaryState, readonly shown: PointInfo | undefined, readonly isPromoted: boolean
  } {
    const { uuid, state } = this.#byName(name)
    const shown = this.shownPoint(uuid)
    if (state.phase === 'secondary' && !shown) {
      throw new NbdeltaError('wrong-state', `volume ${name} has no declared point yet: its first copy is not complete`,
        { hint: `nbdelta replica forget ${name} gives it up` })
    }
    return { uuid, state, shown, isPromoted: this.#get(uuid).isPromoted }
  }

  /** The mirror's server is taken not to come back: its points go. Errors: as `judgeForgetting`, io. */
  forget(name: string): Promise<void> {
    return this.inTurn(name, async () => {
      const { uuid } = this.judgeForgetting(name)
      await this.fence(uuid)
      await this.drop(uuid)
    })
  }

  /** Errors: not-found, wrong-state (it is a secondary with a declared point). */
  judgeForgetting(name: string): { readonly uuid: string, readonly state: SecondaryState } {
    const found = this.#byName(name)
    if (found.state.phase === 'secondary' && this.declaredPoint(found.uuid)) {
      throw new NbdeltaError('wrong-state', `volume ${name} is kept up by mirror ${found.state.name}`,
        { hint: `nbdelta replica promote ${name} lets it stand on its own first` })
    }
    return found
  }

  #byName(name: string): { readonly uuid: string, readonly state: SecondaryState } {
    const uuid = this.parts.store.get(name)?.uuid
    const state = uuid === undefined ? undefined : this.of(uuid)
    if (uuid !== undefined && state) return { uuid, state }
    throw new NbdeltaError('not-found', `volume ${name} is no secondary of another server's mirror`,
      { hint: 'see: nbdelta replica list' })
  }

  /** One after the other, for each volume by name. */
  inTurn<T>(name: string, work: () => Promise<T>): Promise<T> { return this.#turns.run(name, work) }

  #get(volume: string): Secondary {
    const known = this.#known.get(volume)
    if (!known) throw new NbdeltaError('not-found', 'the volume belongs to no mirror of another server any more')
    return known
  }

  #judgeMissing({ volume, create, mirror }: PeerParams<'attach'>): void {
    if (create) return
    throw new NbdeltaError('not-found', `there is no volume ${volume}, though the mirror was made with it`,
      { hint: `nbdelta mirror resync ${mirror.name} --whole makes it anew` })
  }

  async #judge(volume: StoreVolume, asked: PeerParams<'attach'>): Promise<void> {
    const { mirror, source, above, epoch, grainBytes, overwrite } = asked
    const { name, uuid } = volume
    const ours = this.of(uuid)
    if (ours) judgeWhose(name, ours, mirror.uuid, epoch)
    if ([source.uuid, ...above].includes(uuid)) {
      throw new NbdeltaError('bad-argument', `a circle: ${source.name} is volume ${name}, or a copy of it`)
    }
    if (volume.grainBytes !== grainBytes) {
      throw new NbdeltaError('bad-argument', `${name} has grains of ${volume.grainBytes} bytes, ${source.name} of ${grainBytes}`,
        { hint: 'leave the volume out there: it is made to fit' })
    }
    if (ours) return
    // It was promoted perhaps, and forgotten: then it is the one that counts, whatever it holds.
    if (!asked.create) {
      throw new NbdeltaError('wrong-state', `volume ${name} is not the secondary of mirror ${asked.mirror.name} any more`,
        { hint: 'delete this mirror; should that volume be given up, make another one' })
    }
    const local = this.parts.localMirror(uuid)
    if (local !== undefined) throw new NbdeltaError('busy', `volume ${name} is the target of mirror ${local} there`)
    if (!overwrite && !await isBlank(volume)) {
      throw new NbdeltaError('exists', `volume ${name} is not empty`,
        { hint: 'choose another one, or give --overwrite: a snapshot keeps what it holds' })
    }
  }
}

/** Errors: busy (another mirror's), wrong-state (the epoch). */
function judgeWhose(name: string, ours: SecondaryState, mirror: string, epoch: number): void {
  if (ours.mirror !== mirror) {
    throw new NbdeltaError('busy', `volume ${name} is the secondary of another mirror, ${ours.name} of ${ours.source.name}`)
  }
  if (epoch < ours.epoch) {
    throw new NbdeltaError('wrong-state', `volume ${name} was promoted: epoch ${epoch} is refused, it has seen ${ours.epoch}`,
      { hint: 'its content is the newer one now: delete this mirror, and mirror the other way' })
  }
}
