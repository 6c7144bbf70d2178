/**
 * LiveView: what live shows at a place, whoever asks: clients, and everybody who needs a grain's old content before it is
 * overwritten. Data is read from the raw file, what is inherited from its source, all else is zeros without I/O. No range is
 * locked here.
 */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { divCeil } from '../../native-free/integer.js'
import { together } from '../device/all-settled.js'
import type { Origin, Pending } from '../device/block-device.js'
import { type LiveDevice, type VolumeCore } from './core.js'
import type { Inherited } from './inherited.js'

export class LiveView {
  readonly #live: LiveDevice
  readonly #data: GrainBitmap
  readonly #inherit: Inherited
  readonly #grainBytes: number

  constructor(core: VolumeCore) {
    this.#live = core.live
    this.#data = core.map.data
    this.#inherit = core.inherit
    this.#grainBytes = core.grainBytes
  }

  /** +n: n bytes (at most `length`) from `offset` on may hold data; -n: they read as zeros. */
  zeroRun(offset: number, length: number): number {
    const from = Math.floor(offset / this.#grainBytes)
    const runEnd = this.#data.runEnd(from, divCeil(offset + length, this.#grainBytes))
    const bytes = Math.min(runEnd * this.#grainBytes, offset + length) - offset
    if (this.#data.get(from)) return bytes
    return this.#inherit.active ? this.#inherit.zeroRun(offset, bytes) : -bytes
  }

  /** The pieces in parallel. */
  read(offset: number, length: number, into: Buffer, at: number, origin?: Origin): Pending {
    const end = offset + length
    const first = Math.floor(offset / this.#grainBytes)
    if (this.#data.isAll(first, divCeil(end, this.#grainBytes), true)) return this.#live.read(offset, length, into, at, origin)
    return together(add => {
      for (let start = offset; start < end;) {
        const run = this.zeroRun(start, end - start)
        const bytes = Math.abs(run)
        const place = at + start - offset
        add(run > 0 ? this.#readRun(start, bytes, into, place, origin) : void into.fill(0, place, place + bytes))
        start += bytes
      }
    })
  }

  #readRun(offset: number, length: number, into: Buffer, at: number, origin: Origin | undefined): Pending {
    const device = this.#data.get(Math.floor(offset / this.#grainBytes)) ? this.#live : this.#inherit
    return device.read(offset, length, into, at, origin)
  }
}
