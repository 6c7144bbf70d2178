/**
 * SecondarySession: what one connection of a peer may do. It holds a declared point, to read it (secondary-points.ts), or it
 * attaches to one secondary; a cycle is begin -> writes over NBD, to an export that only this session knows -> commit. When the
 * connection ends, or a newer one attaches, the export is closed first, and what was in flight has ended, before anybody else
 * gets the secondary (X9).
 */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { NbdeltaError } from '../device/errors.js'
import { FinishingDevice } from '../device/forwarding-device.js'
import { isBlank, type StoreVolume } from '../volume/store-volume.js'
import { portionsOf } from './content-digest.js'
import { digestsOf } from './content-roots.js'
import { answerDigest, askedRuns } from './link-digest.js'
import { pageOf } from './link-runs.js'
import {
  CAN_DIGEST, CAN_HOLD, CAN_RECALL, CAN_REVERSE, CAN_ROOTS, CAN_SNAPSHOTS, CAN_STREAM, isPeerMethod, judgeMessage, PARAMS,
  type PeerMethod, type PeerParams, type PeerResult,
} from './peer-messages.js'
import { FrozenSecondary } from './frozen-secondary.js'
import type { Exposure, Secondaries } from './secondaries.js'
import type { SecondaryPoint } from './secondary-points.js'

interface Held {
  readonly volume: StoreVolume
  readonly exposure: Exposure
  /** What is exposed. */
  readonly device: FinishingDevice
  /** What changed since the declared point, as of the last time it was asked from the beginning. */
  changed: GrainBitmap | null
  /** Uuid of the point that a cycle ships. */
  begun: string | undefined
  /** What has arrived is a point of the source, whenever this ends. */
  streams: boolean
  /** What a stream had brought is a point by itself, and what comes next is a mixture until it counts again. */
  mixes: boolean
  frozen: FrozenSecondary | undefined
}

export class SecondarySession {
  readonly #secondaries: Secondaries
  readonly #hangUp: () => void
  #held: Held | undefined
  #point: SecondaryPoint | undefined
  #attaching = false
  #ended = false
  readonly #methods: { readonly [M in PeerMethod]: (params: PeerParams<M>) => Promise<PeerResult<M>> }

  constructor(secondaries: Secondaries, hangUp: () => void) {
    this.#secondaries = secondaries
    this.#hangUp = hangUp
    this.#methods = {
      attach: params => this.#attach(params),
      changed: ({ from }) => this.#inTurn(async held => this.#changed(held, from)),
      begin: params => this.#inTurn(held => this.#begin(held, params)),
      digest: params => this.#point ? this.#point.digest(params) : this.#inTurn(held => this.#digest(held, params)),
      recall: params => this.#inTurn(held => this.#recall(held, params)),
      commit: params => this.#inTurn(held => this.#commit(held, params)),
      stream: ({ counts }) => this.#inTurn(held => this.#stream(held, counts)),
      freeze: ({ cycle }) => this.#inTurn(held => this.#freeze(held, cycle)),
      accept: ({ point }) => this.#inTurn(held => this.#accept(held, point)),
      release: () => this.#inTurn(held => this.#release(held)),
      forget: () => this.#inTurn(held => this.#forget(held)),
      hold: params => this.#hold(params),
      held: params => this.#pointOf().held(params),
      rooted: ({ root }) => this.#pointOf().rooted(root),
      found: params => this.#pointOf().found(params),
    }
  }

  /** Errors: bad-argument, and those of the method. */
  async call(method: string, params: unknown): Promise<unknown> {
    if (!isPeerMethod(method)) throw new NbdeltaError('bad-argument', `there is no method ${method.slice(0, 100)}`)
    const judged = judgeMessage(PARAMS[method], params, method, 'bad-argument')
    return (this.#methods[method] as (params: unknown) => Promise<unknown>)(judged)
  }

  /** As volume-target.ts has it. */
  get isReceiving(): boolean { return this.#held !== undefined && this.#held.streams && !this.#held.device.failed }

  /** In the turn in which it was attached. Errors: gone. */
  hold(volume: StoreVolume): void {
    if (this.#ended) throw gone()
    const device = new FinishingDevice(volume)
    const exposure = this.#secondaries.parts.expose(device)
    this.#held = { volume, device, exposure, changed: null, begun: undefined, streams: false, mixes: false, frozen: undefined }
  }

  /** The connection is gone. */
  async close(): Promise<void> {
    this.#ended = true
    await this.#point?.close()
    const held = this.#held
    if (!held) return
    await this.#secondaries.inTurn(held.volume.name, async () => {
      if (this.#secondaries.isHolder(held.volume.uuid, this)) await this.#secondaries.fence(held.volume.uuid)
    })
  }

  /** Another one takes its place: nothing of this one runs any more when it resolves. */
  async fenced(): Promise<void> {
    this.#ended = true
    this.#hangUp()
    if (this.#held) await this.#leave(this.#held)
  }

  /** Nothing more arrives. */
  async #leave(held: Held): Promise<void> {
    held.begun = undefined
    held.mixes = false
    await held.exposure.close()
    await held.frozen?.thaw()
    // Without it the last declared point stays what is shown.
    await this.#receive(held).catch((error: unknown) => {
      this.#secondaries.parts.logger.warn({ err: error, volume: held.volume.name }, 'what a stream has brought counts no more')
    })
  }

  /** What a stream has brought stays, whatever comes next; but not with a change left out of the middle. */
  async #receive(held: Held): Promise<void> {
    if (!held.streams) return
    held.streams = false
    if (held.device.failed) return
    await this.#secondaries.target(held.volume.uuid).receive()
  }

  async #attach(asked: PeerParams<'attach'>): Promise<PeerResult<'attach'>> {
    if (this.#attaching || this.#ended) throw new NbdeltaError('wrong-state', 'this connection has attached already')
    this.#attaching = true
    const { parts } = this.#secondaries
    const { volume, made } = await this.#secondaries.attach(this, asked).catch((error: unknown) => {
      this.#attaching = false
      throw error
    })
    const { exposure } = this.#held!
    const { declared, root } = await this.#inTurn(() => this.#secondaries.target(volume.uuid).open())
    const blank = await isBlank(volume)
    return {
      declared: declared ?? null, root,
      can: [CAN_DIGEST, CAN_STREAM, CAN_REVERSE, CAN_SNAPSHOTS, CAN_HOLD, CAN_RECALL, CAN_ROOTS], sizeBytes: volume.sizeBytes,
      export: exposure.export, nbd: [...parts.places()],
      blank: made || (blank && !declared), keep: !blank,
    }
  }

  async #changed(held: Held, from: number): Promise<PeerResult<'changed'>> {
    if (from === 0) held.changed = await this.#map(held)
    return held.changed ? pageOf(held.changed, from) : { runs: null, next: null }
  }

  async #map({ volume, frozen }: Held): Promise<GrainBitmap | null> {
    return this.#secondaries.target(volume.uuid).changed(frozen?.point) ?? null
  }

  /** Of a released one what was done on it is kept, before it is a secondary again that may be let go; nobody adds to it then. */
  async #begin(held: Held, { point, keep, seen }: PeerParams<'begin'>): Promise<null> {
    const { volume } = held
    const state = this.#secondaries.of(volume.uuid)!
    const target = this.#secondaries.target(volume.uuid)
    const judge = async (): Promise<void> => {
      if (seen === null || (await this.#map(held))?.count() === seen) return
      throw new NbdeltaError('busy', `volume ${volume.name} was written to meanwhile; what changed is looked at again`)
    }
    if (state.phase === 'released') {
      if (!keep) {
        throw new NbdeltaError('wrong-state', `volume ${volume.name} was released, and may have been written to`,
          { hint: `nbdelta mirror split ${state.name} says so here as well; then resync` })
      }
      await this.#secondaries.parts.whileUnattached(volume.name, async () => {
        await judge()
        await target.keepWork(point.cycle, true)
        await this.#secondaries.put(volume.uuid, { ...state, phase: 'secondary' })
      })
    } else await judge()
    await this.#receive(held)
    await (await target.open()).begin(point, keep)
    held.begun = point.uuid
    held.mixes = false
    return null
  }

  async #digest(held: Held, params: PeerParams<'digest'>): Promise<PeerResult<'digest'>> {
    if (held.begun === undefined) throw new NbdeltaError('wrong-state', 'no cycle was begun')
    const { volume, volume: { sizeBytes, grainBytes } } = held
    return answerDigest({
      sizeBytes, grainBytes, digests: (runs, regionBytes) => digestsOf(volume, portionsOf(runs, regionBytes)),
    }, params)
  }

  async #hold(wanted: PeerParams<'hold'>): Promise<PeerResult<'hold'>> {
    if (this.#attaching || this.#ended) throw new NbdeltaError('wrong-state', 'this connection has attached already')
    this.#attaching = true
    const point = this.#point = await this.#secondaries.hold(wanted, this.#hangUp).catch((error: unknown) => {
      this.#attaching = false
      throw error
    })
    if (this.#ended) await point.close()
    return point.facts()
  }

  #pointOf(): SecondaryPoint {
    if (!this.#point) throw new NbdeltaError('wrong-state', 'this connection holds no point')
    return this.#point
  }

  /** Never into what counts. */
  async #recall(
    { volume, begun, mixes }: Held, { point, digests, ...asked }: PeerParams<'recall'>,
  ): Promise<PeerResult<'recall'>> {
    if (begun === undefined && !mixes) throw new NbdeltaError('wrong-state', 'no cycle was begun')
    const portions = [...portionsOf(askedRuns(volume, asked), asked.regionBytes)]
    if (portions.length !== digests.length) throw new NbdeltaError('bad-argument', 'recall: one digest for each portion')
    const told = portions.map((portion, i) => ({ ...portion, digest: Buffer.from(digests[i]!, 'hex') }))
    const page = { point, regionBytes: asked.regionBytes, portions: told }
    return { same: await this.#secondaries.target(volume.uuid).recall(page) }
  }

  async #commit(held: Held, { point, root, snapshot, kept }: PeerParams<'commit'>): Promise<null> {
    const { volume } = held
    if (held.begun !== point.uuid && !held.streams) throw new NbdeltaError('wrong-state', 'no cycle to that point was begun')
    if (volume.sizeBytes !== point.sizeBytes) throw new NbdeltaError('wrong-state', `volume ${volume.name} has another size`)
    // The other side has flushed already; should it not have, nothing is declared that a power cut could take.
    await volume.flush()
    await (await this.#secondaries.target(volume.uuid).open()).commit({ ...point, root: root ?? null, snapshot, kept })
    held.begun = undefined
    return null
  }

  /** Errors: wrong-state (it has no declared point, or was released, or a cycle has begun). */
  async #stream(held: Held, counts: boolean): Promise<null> {
    const { uuid } = held.volume
    const follows = held.begun === undefined && this.#secondaries.of(uuid)!.phase === 'secondary'
    if (!counts) {
      held.mixes ||= held.streams
      await this.#receive(held)
    } else if (!follows || !this.#secondaries.declaredPoint(uuid)) {
      throw new NbdeltaError('wrong-state', `volume ${held.volume.name} is at no point that a stream could follow`)
    } else {
      held.streams = true
      held.mixes = false
    }
    return null
  }

  /** It stands on its own from here on, whether it has heard that before or not. */
  async #freeze(held: Held, cycle: number): Promise<PeerResult<'freeze'>> {
    await this.#release(held)
    held.frozen = await FrozenSecondary.make(this.#secondaries, held.volume, cycle)
    return { export: held.frozen.export }
  }

  /** The point first: cut short behind it, the secondary still stands on its own, and nothing of it is lost. */
  async #accept({ volume, frozen }: Held, point: PeerParams<'accept'>['point']): Promise<null> {
    if (!frozen) throw new NbdeltaError('wrong-state', 'nothing was frozen')
    await this.#secondaries.target(volume.uuid).accept(frozen.point, point)
    await this.#secondaries.put(volume.uuid, { ...this.#secondaries.of(volume.uuid)!, phase: 'secondary' })
    return null
  }

  async #release(held: Held): Promise<null> {
    const { volume } = held
    const state = this.#secondaries.of(volume.uuid)!
    await this.#leave(held)
    if (state.phase === 'released') return null
    await this.#secondaries.target(volume.uuid).release()
    await this.#secondaries.put(volume.uuid, { ...state, phase: 'released' })
    return null
  }

  /** Whoever asks may not have been heard when it was to be released. */
  async #forget(held: Held): Promise<null> {
    const { volume, exposure } = held
    await exposure.close()
    if (this.#secondaries.declaredPoint(volume.uuid)) await this.#release(held)
    await this.#secondaries.drop(volume.uuid)
    return null
  }

  async #inTurn<T>(work: (held: Held) => Promise<T>): Promise<T> {
    const held = this.#held
    if (!held) throw new NbdeltaError('wrong-state', 'attach first')
    return this.#secondaries.inTurn(held.volume.name, async () => {
      if (!this.#secondaries.isHolder(held.volume.uuid, this)) throw gone()
      return work(held)
    })
  }
}

function gone(): NbdeltaError {
  return new NbdeltaError('gone', 'a newer connection, or a promotion, has taken the place of this one')
}
