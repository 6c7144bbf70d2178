/**
 * A disk with a page cache that is as the kernel's: what a flush has failed to write counts as clean, is read as if it were there,
 * and no later flush writes it.
 */
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { NbdeltaError } from '../../src/device/errors.js'
import type { Pending, ZeroMode } from '../../src/device/block-device.js'

export class CachedDisk extends MemoryDisk {
  /** What the power leaves. */
  readonly medium: MemoryDisk
  #dirty: { readonly offset: number, readonly length: number }[] = []
  failsFlushes = false

  constructor(medium: MemoryDisk) {
    super(medium.sizeBytes)
    this.medium = medium
    super.write(0, medium.sizeBytes, medium.toBuffer(), 0)
  }

  override write(offset: number, length: number, from: Buffer, at: number): Pending {
    this.#dirty.push({ offset, length })
    return super.write(offset, length, from, at)
  }

  override zero(offset: number, length: number, mode: ZeroMode): Pending {
    this.#dirty.push({ offset, length })
    return super.zero(offset, length, mode)
  }

  override flush(): Pending {
    const dirty = this.#dirty.splice(0)
    if (this.failsFlushes) throw new NbdeltaError('io', 'EIO: the medium is away')
    const now = this.toBuffer()
    for (const { offset, length } of dirty) this.medium.write(offset, length, now, offset)
    return undefined
  }
}
