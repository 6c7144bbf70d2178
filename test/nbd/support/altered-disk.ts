/** A device with some of its members replaced: failing, slow, counting or differently capable, as a test needs it. */
import type { BlockDevice } from '../../../src/device/block-device.js'

export function alteredDisk(inner: BlockDevice, changes: Partial<BlockDevice>): BlockDevice {
  return {
    get sizeBytes() { return changes.sizeBytes ?? inner.sizeBytes },
    blockSizes: changes.blockSizes ?? inner.blockSizes,
    capabilities: changes.capabilities ?? inner.capabilities,
    read: changes.read ?? inner.read.bind(inner),
    write: changes.write ?? inner.write.bind(inner),
    zero: changes.zero ?? inner.zero.bind(inner),
    trim: changes.trim ?? inner.trim.bind(inner),
    flush: changes.flush ?? inner.flush.bind(inner),
    ...changes.prefetch && { prefetch: changes.prefetch },
    zeroRun: changes.zeroRun ?? inner.zeroRun.bind(inner),
    extents: changes.extents ?? inner.extents.bind(inner),
    close: changes.close ?? inner.close.bind(inner),
  }
}
