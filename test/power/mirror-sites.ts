/** Two stores of one process, a and b, joined without a wire: mirrors of a go to volumes of a or to secondaries at b. */
import { join } from 'node:path'
import { wholeAt } from '../../src/daemon-mirrors.js'
import { systemClock } from '../../src/device/clock.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { silentLogger } from '../../src/device/logger.js'
import type { BlockDevice } from '../../src/device/block-device.js'
import type { PeerLink } from '../../src/replication/link-target.js'
import { Mirrors } from '../../src/replication/mirrors.js'
import { Secondaries } from '../../src/replication/secondaries.js'
import type { PointInfo } from '../../src/volume/snappoint.js'
import { openStore, type Store } from '../../src/volume/open-store.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { Wire } from '../replication/lab.js'

export class Sites {
  readonly a: Store
  readonly b: Store
  readonly mirrors: Mirrors
  readonly secondaries: Secondaries
  readonly #exposed = new Map<string, BlockDevice>()
  #names = 0

  private constructor(a: Store, b: Store) {
    this.a = a
    this.b = b
    this.secondaries = new Secondaries({
      store: b, logger: silentLogger, clock: systemClock, places: () => [{ port: 1 }], localMirror: () => undefined,
      whileUnattached: (_name, work) => work(), expose: device => this.#expose(device),
    })
    const secondaries = new Secondaries({
      store: a, logger: silentLogger, clock: systemClock, places: () => [], localMirror: () => undefined,
      whileUnattached: (_name, work) => work(), expose: device => this.#expose(device),
    })
    this.mirrors = new Mirrors({
      store: a, clock: systemClock, logger: silentLogger, link: async () => this.#link(),
      connect: async name => {
        const device = this.#exposed.get(name)
        if (device) return device
        throw new NbdeltaError('not-found', 'there is no such export')
      },
      wholeAt: volume => wholeAt({ mirrors: this.mirrors, secondaries }, volume),
    })
    this.secondaries.start()
  }

  static async open(folder: string): Promise<Sites> {
    const a = await openStore({ path: join(folder, 'a', 'store'), create: true })
    try {
      return new Sites(a, await openStore({ path: join(folder, 'b', 'store'), create: true }))
    } catch (error) {
      await a.close()
      throw error
    }
  }

  start(): void { this.mirrors.start() }

  /** The volume that the mirror goes to, and what clients of it see; undefined: nothing, or it stands on its own. */
  target(): { readonly volume: StoreVolume, readonly shown: PointInfo | undefined } {
    const far = this.b.get('x')
    if (far) return { volume: far, shown: this.secondaries.of(far.uuid) && this.secondaries.shownPoint(far.uuid) }
    const mirror = this.mirrors.list()[0]
    return { volume: this.a.get('w')!, shown: mirror?.shownPoint() }
  }

  get isFar(): boolean { return this.b.get('x') !== undefined }

  /** The peer has let its volume go, and the source's record does not say so. */
  get isReleased(): boolean {
    const far = this.b.get('x')
    const { phase } = this.a.mirrors.find(({ name }) => name === 'm')?.state as { phase?: string } ?? {}
    return far !== undefined && this.taking === undefined && phase === 'paired' && this.secondaries.of(far.uuid)?.phase === 'released'
  }

  /** At the peer's somebody has begun to take over the mirror's volume, or has done it. */
  get taking(): 'fenced' | 'promoted' | undefined {
    const far = this.b.get('x')
    const entry = far && this.b.mirrors.find(({ volume }) => volume === far.uuid)
    const { epoch } = entry?.state as { readonly epoch?: number } ?? {}
    return epoch === undefined || epoch === 1 ? undefined : entry!.name.startsWith('promoted-') ? 'promoted' : 'fenced'
  }

  /** What stood for the target of a mirror that is deleted, or was never made, is given up. */
  async clear(): Promise<void> {
    const far = this.b.get('x')
    if (far && this.secondaries.of(far.uuid)) {
      if (this.secondaries.declaredPoint(far.uuid)) await this.secondaries.promote('x')
      await this.secondaries.forget('x')
    }
    if (far) await this.b.deleteVolume('x')
    if (this.a.get('w')) await this.a.deleteVolume('w')
  }

  /** Whatever fails: all of it is closed. */
  async close(): Promise<void> {
    const failures: unknown[] = []
    for (const end of [() => this.mirrors.stop(), () => this.a.close(), () => this.b.close()]) {
      await end().catch((error: unknown) => failures.push(error))
    }
    const [failure] = failures.filter(error => !(error instanceof NbdeltaError))
    if (failure !== undefined) throw failure
  }

  #expose(device: BlockDevice): { readonly export: string, close(): Promise<void> } {
    const [name, wire] = [`export-${++this.#names}`, new Wire(device)]
    this.#exposed.set(name, wire)
    return {
      export: name,
      close: async () => {
        this.#exposed.delete(name)
        wire.onRequest = () => { throw new NbdeltaError('gone', 'the export is closed') }
      },
    }
  }

  #link(): PeerLink {
    let end!: () => void
    const ended = new Promise<void>(resolve => { end = resolve })
    const session = this.secondaries.session(() => { end() })
    return {
      volume: 'x', ended, call: (method, params) => session.call(method, structuredClone(params)), exportUri: (_places, name) => name,
      close: () => {
        end()
        session.close().catch(() => undefined)
      },
    }
  }
}
