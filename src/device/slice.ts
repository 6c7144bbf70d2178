/**
 * SliceDevice: a part of a device as a device, so that several maps can live in one file.
 *
 * Invariants
 * - Nothing outside [start, start + sizeBytes) of the device below is ever touched. `flush` covers all of that device.
 * - The device below stays its owner's: `close` waits for what runs here and leaves it open.
 * Limit: `start` is a multiple of the smallest unit of the device below; the size is fixed.
 */
import type { BlockDevice, Extents, Origin, Pending, ZeroMode } from './block-device.js'
import { assertRange } from './block-device.js'
import { NbdeltaError } from './errors.js'

export class SliceDevice implements BlockDevice {
  readonly #inner: BlockDevice
  readonly #start: number
  readonly sizeBytes: number
  #running = 0
  #idle: (() => void)[] = []
  #closed = false

  constructor(inner: BlockDevice, start: number, sizeBytes: number) {
    assertRange(inner, start, sizeBytes)
    if (start % inner.blockSizes.minimum !== 0) throw new RangeError(`a slice from ${start} of a device of larger blocks`)
    this.#inner = inner
    this.#start = start
    this.sizeBytes = sizeBytes
  }

  get blockSizes(): BlockDevice['blockSizes'] { return this.#inner.blockSizes }
  get capabilities(): BlockDevice['capabilities'] { return this.#inner.capabilities }

  read(offset: number, length: number, into: Buffer, at: number, origin?: Origin): Pending {
    this.#check(offset, length)
    return this.#track(this.#inner.read(this.#start + offset, length, into, at, origin))
  }

  write(offset: number, length: number, from: Buffer, at: number, origin?: Origin): Pending {
    this.#check(offset, length)
    return this.#track(this.#inner.write(this.#start + offset, length, from, at, origin))
  }

  zero(offset: number, length: number, mode: ZeroMode, origin?: Origin): Pending {
    this.#check(offset, length)
    return this.#track(this.#inner.zero(this.#start + offset, length, mode, origin))
  }

  trim(offset: number, length: number, origin?: Origin): Pending {
    this.#check(offset, length)
    return this.#track(this.#inner.trim(this.#start + offset, length, origin))
  }

  flush(): Pending {
    this.#checkOpen()
    return this.#track(this.#inner.flush())
  }

  prefetch(offset: number, length: number): Pending {
    this.#check(offset, length)
    return this.#track(this.#inner.prefetch?.(this.#start + offset, length))
  }

  zeroRun(offset: number, length: number): number {
    this.#check(offset, length)
    return this.#inner.zeroRun(this.#start + offset, length)
  }

  extents(offset: number, length: number, maxExtents: number): Extents | Promise<Extents> {
    this.#check(offset, length)
    return this.#inner.extents(this.#start + offset, length, maxExtents)
  }

  async close(): Promise<void> {
    this.#closed = true
    if (this.#running > 0) await new Promise<void>(resolve => { this.#idle.push(resolve) })
  }

  #track(pending: Pending): Pending {
    if (pending === undefined) return undefined
    this.#running++
    return pending.finally(() => {
      if (--this.#running === 0) for (const wake of this.#idle.splice(0)) wake()
    })
  }

  #check(offset: number, length: number): void {
    this.#checkOpen()
    assertRange(this, offset, length)
  }

  #checkOpen(): void {
    if (this.#closed) throw new NbdeltaError('wrong-state', 'this part of the device is closed')
  }
}
