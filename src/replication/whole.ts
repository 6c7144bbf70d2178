/**
 * Whole: a volume that is the target of a mirror holds, amid a cycle, what its source never showed. Clients see its declared
 * point instead; whoever makes a point of it then gets none, so that no snapshot, and no mirror of a mirror, is of half a cycle
 * (C1, S1). What a stream has brought the source held at some moment.
 *
 * Limits: after a crash more may count as changed than was, until the next point is declared.
 */
import { divCeil } from '../../native-free/integer.js'
import { NbdeltaError } from '../device/errors.js'
import type { PointInfo } from '../volume/snappoint.js'
import type { StoreVolume } from '../volume/store-volume.js'

/** What a volume has to hold to be whole. Undefined: whatever it holds; null: nothing will do yet; else that point's content. */
export type WholeAt = (volume: StoreVolume) => PointInfo | null | undefined

/** To be called when nothing of the volume is in flight. Errors: busy. */
export function judgeFreezable(volume: StoreVolume, wholeAt: WholeAt = () => undefined): void {
  const { points, sizeBytes, grainBytes, name } = volume
  const point = wholeAt(volume)
  if (point === undefined) return
  if (point?.sizeBytes === sizeBytes && !points.isChanged(point.name, 0, divCeil(sizeBytes, grainBytes))) return
  const why = `volume ${name} is the target of a mirror, which is writing to it: what it holds now is no whole point`
  throw new NbdeltaError('busy', why,
    { hint: 'try again between two cycles, or snapshot the source: a mirror with --keep-snapshots carries it' })
}
