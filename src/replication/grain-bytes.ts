/** Bitmaps of grains as bytes of a volume, whose last grain may be short. */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { divCeil } from '../../native-free/integer.js'

/** Runs of a bitmap from a grain's first byte on, cut to the end; found as they are asked for. */
export function* inBytes(
  map: GrainBitmap, grainBytes: number, endBytes: number, startBytes = 0,
): Generator<{ start: number, end: number }> {
  const grains = Math.min(map.length, divCeil(endBytes, grainBytes))
  for (const { start, end } of map.runs(startBytes / grainBytes, grains)) {
    yield { start: start * grainBytes, end: Math.min(end * grainBytes, endBytes) }
  }
}

/** What a bitmap of a volume of that size stands for. */
export function bytesOf(map: GrainBitmap, grainBytes: number, sizeBytes: number): number {
  const { length } = map
  const cut = length > 0 && map.get(length - 1) ? length * grainBytes - sizeBytes : 0
  return map.count() * grainBytes - cut
}

/** The bitmap, as long as another. */
export function fitted(map: GrainBitmap, length: number): GrainBitmap {
  if (map.length !== length) map.resize(length, false)
  return map
}
