/**
 * SecondarySession: what one connection of a peer may do. It attaches to one secondary; a cycle is begin -> writes over NBD, to
 * an export that only this session knows -> commit. When the connection ends, or a newer one comes, the export is closed first,
 * and what was in flight has ended, before anybody else gets the secondary (X9).
 */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { NbdeltaError } from '../device/errors.js'
import type { StoreVolume } from '../volume/store-volume.js'
import {
  isPeerMethod, judgeMessage, PARAMS, type PeerMethod, type PeerParams, type PeerResult, RUNS_MAX,
} from './peer-messages.js'
import type { Exposure, Secondaries } from './secondaries.js'

interface Held {
  readonly volume: StoreVolume
  readonly exposure: Exposure
  /** What changed since the declared point, as of the last time it was asked from the beginning. */
  changed: GrainBitmap | null
  /** Uuid of the point that a cycle ships. */
  begun: string | undefined
}

export class SecondarySession {
  readonly #secondaries: Secondaries
  readonly #hangUp: () => void
  #held: Held | undefined
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
      commit: ({ point }) => this.#inTurn(held => this.#commit(held, point)),
      release: () => this.#inTurn(held => this.#release(held)),
      forget: () => this.#inTurn(held => this.#forget(held)),
    }
  }

  /** Errors: bad-argument, and those of the method. */
  async call(method: string, params: unknown): Promise<unknown> {
    if (!isPeerMethod(method)) throw new NbdeltaError('bad-argument', `there is no method ${method.slice(0, 100)}`)
    const judged = judgeMessage(PARAMS[method], params, method, 'bad-argument')
    return (this.#methods[method] as (params: unknown) => Promise<unknown>)(judged)
  }

  /** In the turn in which it was attached. Errors: gone. */
  hold(volume: StoreVolume): void {
    if (this.#ended) throw gone()
    this.#held = { volume, exposure: this.#secondaries.parts.expose(volume), changed: null, begun: undefined }
  }

  /** The connection is gone. */
  async close(): Promise<void> {
    this.#ended = true
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
    await this.#held?.exposure.close()
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
    const declared = await this.#inTurn(async () => (await this.#secondaries.target(volume.uuid).open()).declared ?? null)
    const { mappedBytes } = await volume.facts()
    return {
      declared, sizeBytes: volume.sizeBytes, export: exposure.export, nbd: [...parts.places()],
      blank: made || (mappedBytes === 0 && declared === null), keep: mappedBytes !== 0,
    }
  }

  async #changed(held: Held, from: number): Promise<PeerResult<'changed'>> {
    if (from === 0) held.changed = await this.#map(held)
    const map = held.changed
    if (!map) return { runs: null, next: null }
    const runs: [number, number][] = []
    for (const { start, end } of map.runs(from)) {
      if (runs.length === RUNS_MAX) return { runs, next: runs.at(-1)![1] }
      runs.push([start, end])
    }
    return { runs, next: null }
  }

  async #map({ volume }: Held): Promise<GrainBitmap | null> {
    return await (await this.#secondaries.target(volume.uuid).open()).changed() ?? null
  }

  /** Of a released one what was done on it is kept, and nothing is added to it while it is looked at. */
  async #begin(held: Held, { point, keep, seen }: PeerParams<'begin'>): Promise<null> {
    const { volume } = held
    const state = this.#secondaries.of(volume.uuid)!
    if (state.phase === 'released') {
      if (!keep) {
        throw new NbdeltaError('wrong-state', `volume ${volume.name} was released, and may have been written to`,
          { hint: `nbdelta mirror split ${state.name} says so here as well; then resync` })
      }
      const take = (): Promise<void> => this.#secondaries.put(volume.uuid, { ...state, phase: 'secondary' })
      await this.#secondaries.parts.whileUnattached(volume.name, take)
    }
    if (seen !== null && (await this.#map(held))?.count() !== seen) {
      throw new NbdeltaError('busy', `volume ${volume.name} was written to meanwhile; what changed is looked at again`)
    }
    await (await this.#secondaries.target(volume.uuid).open()).begin(point, keep)
    held.begun = point.uuid
    return null
  }

  async #commit(held: Held, point: PeerParams<'commit'>['point']): Promise<null> {
    const { volume } = held
    if (held.begun !== point.uuid) throw new NbdeltaError('wrong-state', 'no cycle to that point was begun')
    if (volume.sizeBytes !== point.sizeBytes) throw new NbdeltaError('wrong-state', `volume ${volume.name} has another size`)
    // The other side has flushed already; should it not have, nothing is declared that a power cut could take.
    await volume.flush()
    await (await this.#secondaries.target(volume.uuid).open()).commit(point)
    held.begun = undefined
    return null
  }

  async #release({ volume, exposure }: Held): Promise<null> {
    const state = this.#secondaries.of(volume.uuid)!
    await exposure.close()
    if (state.phase === 'released') return null
    await this.#secondaries.target(volume.uuid).release()
    await this.#secondaries.put(volume.uuid, { ...state, phase: 'released' })
    return null
  }

  async #forget({ volume, exposure }: Held): Promise<null> {
    await exposure.close()
    await this.#secondaries.target(volume.uuid).forget()
    await this.#secondaries.remove(volume.uuid)
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
