/** Comparing two devices of which neither changes, piece by piece, without reading what both know to be zeros. */
import type { BlockDevice } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import type { TransferOptions } from '../volume/image.js'
import { differing } from './ship.js'

const PIECE_BYTES = 2 ** 20
/** More are not named. */
const REGIONS_MAX = 100

/** Bytes. */
export interface Difference { readonly offset: number, readonly length: number }

/** Where they differ, in units of 4 KiB, merged; the first REGIONS_MAX. Errors: cancelled, and whatever they report. */
export async function compareDevices(
  a: BlockDevice, b: BlockDevice, { signal, onProgress }: TransferOptions,
): Promise<Difference[]> {
  const [left, right] = [Buffer.allocUnsafe(PIECE_BYTES), Buffer.allocUnsafe(PIECE_BYTES)]
  const found: { offset: number, length: number }[] = []
  const size = Math.min(a.sizeBytes, b.sizeBytes)
  for (let at = 0; at < size && found.length < REGIONS_MAX;) {
    if (signal?.aborted) throw new NbdeltaError('cancelled', 'the comparison was cancelled')
    const zeros = Math.min(-a.zeroRun(at, size - at), -b.zeroRun(at, size - at))
    const length = zeros > 0 ? zeros : Math.min(PIECE_BYTES, size - at)
    if (zeros <= 0) {
      await a.read(at, length, left, 0)
      await b.read(at, length, right, 0)
      if (left.compare(right, 0, length, 0, length) !== 0) collect(found, left, right, at, length)
    }
    at += length
    onProgress?.(at, size)
    await new Promise<void>(resolve => { setImmediate(resolve) })
  }
  return found
}

function collect(found: { offset: number, length: number }[], left: Buffer, right: Buffer, offset: number, length: number): void {
  for (const { at, end } of differing(left, right, length)) {
    const last = found.at(-1)
    if (last && last.offset + last.length === offset + at) last.length += end - at
    else found.push({ offset: offset + at, length: end - at })
  }
}
