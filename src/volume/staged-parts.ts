/**
 * What is written to parts of grains that are staged becomes whole grains, which can be staged as well. Else whoever writes so
 * would have to wait until everything that was staged before has its place.
 */
import { divCeil } from '../../native-free/integer.js'
import { ENTRY_MAX_BYTES } from '../store/staging-log.js'
import type { Staging } from './staging.js'

/** [offset, offset + length) out of `data` from `at` on, with the rest of its grains; undefined: that cannot be read at once. */
export function wholeGrains(
  staging: Pick<Staging, 'read'>, grainBytes: number, offset: number, length: number, data: Buffer, at: number,
): Buffer | undefined {
  const start = offset - offset % grainBytes
  const sizeBytes = divCeil(offset + length, grainBytes) * grainBytes - start
  if (sizeBytes > ENTRY_MAX_BYTES) return undefined
  const whole = Buffer.allocUnsafe(sizeBytes)
  const pending = staging.read(start, sizeBytes, whole, 0, () => undefined)
  if (pending) {
    pending.catch(() => undefined)
    return undefined
  }
  data.copy(whole, offset - start, at, at + length)
  return whole
}
