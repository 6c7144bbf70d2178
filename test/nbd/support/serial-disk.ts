/**
 * SerialDisk: what a volume does with overlapping write-class requests (PROTOCOL D1, D5), and nothing else: a range lock in
 * front of another device. The server's part of fencing, to say that an origin is gone, is tested through it.
 */
import type { BlockDevice, Origin, Pending } from '../../../src/device/block-device.js'
import { RangeLock } from '../../../src/device/range-lock.js'
import { alteredDisk } from './altered-disk.js'

export function serialDisk(inner: BlockDevice): BlockDevice {
  const lock = new RangeLock()
  const serial = async (offset: number, length: number, origin: Origin | undefined, work: () => Pending): Promise<void> => {
    await lock.lock(offset, offset + length, origin)
    try {
      await work()
    } finally {
      lock.unlock(offset, offset + length)
    }
  }
  return alteredDisk(inner, {
    write: (offset, length, from, at, origin) => serial(offset, length, origin,
      () => inner.write(offset, length, from, at, origin)),
    zero: (offset, length, mode, origin) => serial(offset, length, origin, () => inner.zero(offset, length, mode, origin)),
    trim: (offset, length, origin) => serial(offset, length, origin, () => inner.trim(offset, length, origin)),
  })
}
