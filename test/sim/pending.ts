/**
 * What a source has pending for a paired target: every grain in which the two differ is marked as changed since the point that the
 * record says the target is at: no cycle that failed, at whatever message, has lost a mark (S3, C9), and none was cleared before the
 * target had it on stable storage, since its power fails here (S2, C7).
 */
import type { Mirror } from '../../src/replication/mirror.js'
import { GRAIN, grainOf, type Image, imageOf, SECTOR } from './image.js'
import type { SimVolume } from './machine.js'
import { Wrong } from './wrong.js'

export async function judgePending(mirror: Mirror, source: SimVolume, target: Image): Promise<void> {
  const { base } = mirror.state
  const point = base && source.points.list().find(({ uuid }) => uuid === base.point)
  if (!point) return
  const image = await imageOf(source)
  if (image === target) return
  const map = source.points.changedMap(point.name)
  // What lies behind the target's end, or behind that of the source when it was there, is shipped anyway.
  const grains = Math.floor(Math.min(image.length * SECTOR, target.length * SECTOR, point.sizeBytes) / GRAIN)
  for (let grain = 0; grain < grains; grain++) {
    if (!map.get(grain) && grainOf(image, grain) !== grainOf(target, grain)) {
      throw new Wrong(`grain ${grain} differs, and is not pending for ${mirror.record.name} (S2, S3, C9)`)
    }
  }
}
