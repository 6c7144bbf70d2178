/**
 * FrozenSecondary: what a released secondary holds, as of one instant, for its mirror's source to take over (reversal.ts).
 * From before that instant until it is thawed no client can attach to the volume: what is frozen stays what it holds.
 */
import type { PointDevice, PointInfo } from '../volume/snappoint.js'
import type { StoreVolume } from '../volume/store-volume.js'
import type { Exposure, Secondaries } from './secondaries.js'

interface Parts {
  readonly device: PointDevice
  readonly exposure: Exposure
  thaw(): Promise<void>
  letIn(): void
}

export class FrozenSecondary {
  readonly point: PointInfo
  readonly #parts: Parts

  private constructor(point: PointInfo, parts: Parts) {
    this.point = point
    this.#parts = parts
  }

  /** Errors: busy (a client is attached), no-space, io. */
  static async make(secondaries: Secondaries, volume: StoreVolume, cycle: number): Promise<FrozenSecondary> {
    const letIn = await closed(work => secondaries.parts.whileUnattached(volume.name, work))
    try {
      const target = secondaries.target(volume.uuid)
      const point = await target.freeze(cycle)
      const device = volume.points.open(point.name)
      return new FrozenSecondary(point, { device, exposure: secondaries.parts.expose(device), letIn, thaw: () => target.thaw() })
    } catch (error) {
      letIn()
      throw error
    }
  }

  get export(): string { return this.#parts.exposure.export }

  /** Nobody reads it any more, its snapshot is gone, and clients can attach. Idempotent. */
  async thaw(): Promise<void> {
    const { exposure, device, thaw, letIn } = this.#parts
    try {
      await exposure.close()
      await device.close()
      await thaw()
    } finally { letIn() }
  }
}

/** Resolves when that has begun; what it resolves with ends it. */
function closed(during: (work: () => Promise<void>) => Promise<void>): Promise<() => void> {
  return new Promise((resolve, reject) => {
    during(() => new Promise<void>(end => { resolve(end) })).catch(reject)
  })
}
