/**
 * DeviceContent: what a device holds that does not change, as one side of a comparison (compare.ts). Over a snapshot it keeps
 * that from going away until it is closed, so that whoever compares holds up nobody.
 */
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { divCeil } from '../../native-free/integer.js'
import type { BlockDevice } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import type { StoreVolume } from '../volume/store-volume.js'
import { type ByteRun, type PortionDigest, portionsOf } from './content-digest.js'
import { digestsOf } from './content-roots.js'
import type { FrozenContent } from './target.js'

/** Regions looked at before others get a turn. */
const LOOKS_AT_ONCE = 256
/** Of a budget: when more is kept, and more than at first, what was frozen to be compared is given up. */
const TIGHT = 0.9

interface Options {
  /** Asked now and then; throws, if the content has to be given up. */
  readonly guard?: () => void
  /** When nothing reads it any more. */
  readonly onClose?: () => Promise<void>
}

export class DeviceContent implements FrozenContent {
  readonly #device: Pick<BlockDevice, 'sizeBytes' | 'read' | 'zeroRun' | 'close'>
  readonly #options: Options
  #reading: Promise<unknown> = Promise.resolve()
  #closing: Promise<void> | undefined

  /** @param device its own from now on */
  constructor(device: Pick<BlockDevice, 'sizeBytes' | 'read' | 'zeroRun' | 'close'>, options: Options = {}) {
    this.#device = device
    this.#options = options
  }

  get sizeBytes(): number { return this.#device.sizeBytes }

  zeroRun(offset: number, length: number): number {
    this.#judge()
    return this.#device.zeroRun(offset, length)
  }

  async read(offset: number, length: number, into: Buffer, at: number): Promise<void> {
    this.#judge()
    const reading = (async () => { await this.#device.read(offset, length, into, at) })()
    this.#reading = reading.catch(() => undefined)
    await reading
  }

  async held(regionBytes: number): Promise<GrainBitmap> {
    const map = new GrainBitmap(divCeil(this.sizeBytes, regionBytes))
    for (let region = 0; region < map.length; region++) {
      const start = region * regionBytes
      if (!this.#isZeros(start, Math.min(start + regionBytes, this.sizeBytes))) map.set(region, region + 1)
      if (region % LOOKS_AT_ONCE === LOOKS_AT_ONCE - 1) await new Promise<void>(resolve => { setImmediate(resolve) })
    }
    return map
  }

  digests(runs: Iterable<ByteRun>, regionBytes: number): AsyncIterable<PortionDigest> {
    this.#options.guard?.()
    return digestsOf(this, portionsOf(runs, regionBytes))
  }

  close(): Promise<void> {
    this.#closing ??= this.#reading.then(() => this.#device.close()).then(() => this.#options.onClose?.())
    return this.#closing
  }

  #isZeros(start: number, end: number): boolean {
    for (let at = start; at < end;) {
      const run = this.zeroRun(at, end - at)
      if (run > 0) return false
      at -= run
    }
    return true
  }

  #judge(): void {
    if (this.#closing) throw new NbdeltaError('gone', 'what was compared was let go of meanwhile')
  }
}

/** For as long as a point of the volume is held: throws when that is about to make writes fail. Errors: no-space. */
export function spaceGuard(volume: Pick<StoreVolume, 'name' | 'space'>): () => void {
  const before = volume.space?.keptBytes ?? 0
  return () => {
    if (!volume.space) return
    const { keptBytes, budgetBytes, failing } = volume.space
    const isTight = budgetBytes !== null && keptBytes > before && keptBytes > budgetBytes * TIGHT
    if (failing === null && !isTight) return
    throw new NbdeltaError('no-space', `volume ${volume.name} has no room for what a verification keeps: it was given up`,
      { hint: 'give the volume more room, or verify when less is written to it' })
  }
}
