/**
 * Recall: what a restore has brought back on the source the target may hold already, in its copy of the snapshot that was
 * restored (carry.ts has how it comes to one). Then a reference crosses, and not the content (SEEDS C20).
 *
 *   1. the source knows by the label of the undo point which snapshot was restored, and by the maps which grains may be of it;
 *      in a stream the restore is an entry of the log, with both (stream.ts)
 *   2. of these, as they are now, it sends digests; the target compares each with its own of the same portion of its copy
 *   3. where they are equal the target copies from there, to itself; what is not equal is asked again in smaller portions
 *   4. what is not equal then, or if there is no such copy, is sent like any other change
 *
 * Invariants
 * - The uuid says where to look, and proves nothing: only equal digests of the content do. What the target has copied is in the
 *   digests of the cycle like all else (content-roots.ts), so a copy that went wrong is found before the point is declared.
 * - The target has begun the cycle: its declared point keeps what this overwrites, so that to be cut short here leaves what to be
 *   cut short anywhere leaves (C10). The next cycle finds the undo point again; without it (it was given up) all is sent.
 *   In a stream what has arrived before is a point of the target by itself, which is shown as long as this is not complete.
 * Limits: the last RESTORES_MAX restores of a cycle; all of a stream. What a stream has taken is compared behind its next point
 *   (stream-roots.ts), or by the cycle behind the stream: the digests here are of the copy, before it is copied.
 */
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { divCeil } from '../../native-free/integer.js'
import type { BlockDevice } from '../device/block-device.js'
import { systemClock } from '../device/clock.js'
import { NbdeltaError } from '../device/errors.js'
import { type PointInfo, RESTORED_LABEL } from '../volume/snappoint.js'
import type { StoreVolume } from '../volume/store-volume.js'
import { portionsOf } from './content-digest.js'
import { digestsOf } from './content-roots.js'
import type { Decision } from './cycle.js'
import { bytesOf, inBytes } from './grain-bytes.js'
import { pagesOf } from './link-digest.js'
import { RECALL_PAGE, RECALL_REGION_BYTES_MIN } from './peer-messages.js'
import { ship, type ShipRun } from './ship.js'
import type { Frozen } from './source-points.js'
import type { RecallPage, TargetSession } from './target.js'

const RESTORES_MAX = 4
/** Portions of a large restore, and what is left of them around grains that have changed since. */
const REGION_BYTES = [2 ** 20, RECALL_REGION_BYTES_MIN] as const
/** Of a stream: a target that takes so much has done something, before anybody takes it for lost. */
const STREAM_PAGE = { ...RECALL_PAGE, portions: 16 } as const

/** How a target is asked. */
export interface Asking {
  readonly session: { readonly recall?: TargetSession['recall'] }
  /** Of the source. */
  readonly grainBytes: number
  readonly sizeBytes: number
  readonly signal: AbortSignal
  decide(decision: Decision): void
  /** Of a stream: something was digested, or taken. */
  readonly onStep?: () => void
}

/** What the source holds, and the target is to hold. */
type Content = Pick<BlockDevice, 'read' | 'zeroRun'>

interface Parts extends Asking {
  readonly volume: StoreVolume
  readonly image: Frozen['image']
  readonly base: PointInfo
}

/** Grains of the map that the target has taken from what it keeps. Errors: cancelled, and whatever both sides report. */
export async function recallRestored(parts: Parts, map: GrainBitmap): Promise<GrainBitmap> {
  const { volume: { points }, image, base } = parts
  const there = new GrainBitmap(map.length)
  for (const { name, labels } of restoresBetween(points.list(), base, image.point)) {
    const left = common(map, points.changedMap(name, image.point.name))
    left.andNot(there)
    if (left.count() > 0) there.or(await recallPoint(parts, labels[RESTORED_LABEL]!, left, image))
  }
  return there
}

/** Of what is `left` the grains that the target has taken from its copy of that snapshot are left no more. Which they are. */
export async function recallPoint(parts: Asking, point: string, left: GrainBitmap, content: Content): Promise<GrainBitmap> {
  const { grainBytes, sizeBytes, decide } = parts
  const bytes = bytesOf(left, grainBytes, sizeBytes)
  const told = await recall(parts, point, left, content)
  if (!told) {
    const why = parts.session.recall ? 'the target has no copy of that snapshot' : 'the target keeps no snapshots to take it from'
    decide({ rule: 'restore-sent', inputs: { point, bytes }, outcome: `${why}: what it brought back is sent` })
    return new GrainBitmap(left.length)
  }
  const leftBytes = bytesOf(left, grainBytes, sizeBytes)
  decide({
    rule: leftBytes < bytes ? 'restore-by-reference' : 'restore-sent',
    inputs: { point, bytes, equalBytes: bytes - leftBytes, portions: told.asked, equalPortions: told.equal },
    outcome: leftBytes === 0 ? 'nothing of it is sent'
      : `${leftBytes} bytes are not in the target's copy, by their digests, and are sent`,
  })
  return told.grains
}

/** What is to be shipped, and what of it the target has already. */
export function* shipRuns(map: GrainBitmap, there: GrainBitmap, grainBytes: number, sizeBytes: number): Generator<ShipRun, void> {
  for (const { start, end } of map.runs()) {
    for (let at = start; at < end;) {
      const isThere = there.get(at)
      const stop = there.runEnd(at, end)
      yield { start: at * grainBytes, end: Math.min(stop * grainBytes, sizeBytes), isThere }
      at = stop
    }
  }
}

/**
 * At the target: copies what the copy of the snapshot holds alike; also where the volume reads so already, which after a failed
 * flush may be in memory only. Which portions that are. Errors: those of both devices.
 */
export async function takeAlike(copy: BlockDevice, volume: BlockDevice, { portions }: RecallPage): Promise<boolean[]> {
  const same: boolean[] = []
  for (const portion of portions) {
    let isSame = false
    if (portion.end <= copy.sizeBytes) {
      for await (const { digest } of digestsOf(copy, [portion])) isSame = digest.equals(portion.digest)
    }
    same.push(isSame)
  }
  await ship({
    source: copy, target: volume, runs: portions.flatMap(({ runs }, i) => same[i] ? runs : []), compare: false, blank: false,
    bytesPerSecond: null, clock: systemClock, signal: new AbortController().signal, onProgress: () => undefined,
  })
  return same
}

/** As `recallPoint`. Undefined: it has no such snapshot. */
async function recall(
  { grainBytes, sizeBytes, session, signal, onStep }: Asking, point: string, left: GrainBitmap, content: Content,
): Promise<{ readonly grains: GrainBitmap, readonly asked: number, readonly equal: number } | undefined> {
  if (!session.recall) return undefined
  const grains = new GrainBitmap(left.length)
  let [asked, equal] = [0, 0]
  for (const regionBytes of new Set(REGION_BYTES.map(bytes => Math.max(bytes, grainBytes)))) {
    const all = portionsOf(inBytes(left, grainBytes, sizeBytes), regionBytes)
    for (const page of pagesOf(all, grainBytes, regionBytes, onStep ? STREAM_PAGE : RECALL_PAGE)) {
      if (signal.aborted) throw new NbdeltaError('cancelled', 'the cycle was cancelled')
      const portions: RecallPage['portions'][number][] = []
      for await (const { digest } of digestsOf(content, page)) {
        portions.push({ ...page[portions.length]!, digest })
        onStep?.()
      }
      const same = await session.recall({ point, regionBytes, portions })
      if (!same) return undefined
      onStep?.()
      asked += page.length
      for (const [i, { runs }] of page.entries()) {
        if (!same[i]) continue
        equal++
        for (const { start, end } of runs) grains.set(start / grainBytes, divCeil(end, grainBytes))
      }
    }
    left.andNot(grains)
  }
  return { grains, asked, equal }
}

/** Undo points of restores that the cycle ships, newest first. */
function restoresBetween(points: readonly PointInfo[], base: PointInfo, image: PointInfo): PointInfo[] {
  return points.filter(({ seq, labels }) => seq > base.seq && seq < image.seq && labels[RESTORED_LABEL] !== undefined)
    .reverse().slice(0, RESTORES_MAX)
}

function common(a: GrainBitmap, b: GrainBitmap): GrainBitmap {
  const onlyA = a.clone()
  onlyA.andNot(b)
  const both = a.clone()
  both.andNot(onlyA)
  return both
}
