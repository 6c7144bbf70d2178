/** ForwardingDevice: a BlockDevice in front of another one. What is to differ, a subclass overrides. */
import type { BlockDevice, BlockSizes, Capabilities, Extents, Origin, Pending, ZeroMode } from './block-device.js'

export abstract class ForwardingDevice implements BlockDevice {
  /** Asked for at each request. */
  protected abstract get inner(): BlockDevice

  get sizeBytes(): number { return this.inner.sizeBytes }
  get blockSizes(): BlockSizes { return this.inner.blockSizes }
  get capabilities(): Capabilities { return this.inner.capabilities }
  read(offset: number, length: number, into: Buffer, at: number, origin?: Origin): Pending {
    return this.inner.read(offset, length, into, at, origin)
  }
  write(offset: number, length: number, from: Buffer, at: number, origin?: Origin): Pending {
    return this.inner.write(offset, length, from, at, origin)
  }
  trim(offset: number, length: number, origin?: Origin): Pending { return this.inner.trim(offset, length, origin) }
  zero(offset: number, length: number, mode: ZeroMode, origin?: Origin): Pending {
    return this.inner.zero(offset, length, mode, origin)
  }
  flush(): Pending { return this.inner.flush() }
  prefetch(offset: number, length: number): Pending { return this.inner.prefetch?.(offset, length) }
  zeroRun(offset: number, length: number): number { return this.inner.zeroRun(offset, length) }
  extents(offset: number, length: number, max: number): Extents | Promise<Extents> {
    return this.inner.extents(offset, length, max)
  }
  async close(): Promise<void> { await this.inner.close() }
}

/**
 * What has arrived is executed, even if who asked is gone meanwhile: so what is executed is all that came up to some moment,
 * unless a change has failed.
 */
export class FinishingDevice extends ForwardingDevice {
  protected readonly inner: BlockDevice
  #failed = false

  /** A change has failed, and what came behind it may have been made. */
  get failed(): boolean { return this.#failed }

  constructor(inner: BlockDevice) {
    super()
    this.inner = inner
  }

  override write(offset: number, length: number, from: Buffer, at: number): Pending {
    return this.#watched(() => this.inner.write(offset, length, from, at))
  }
  override trim(offset: number, length: number): Pending { return this.#watched(() => this.inner.trim(offset, length)) }
  override zero(offset: number, length: number, mode: ZeroMode): Pending {
    return this.#watched(() => this.inner.zero(offset, length, mode))
  }

  #watched(change: () => Pending): Pending {
    const lost = (error: unknown): never => {
      this.#failed = true
      throw error
    }
    try { return change()?.catch(lost) } catch (error) { return lost(error) }
  }
}
