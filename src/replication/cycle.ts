/**
 * One cycle of a mirror: a point of the source is frozen, what differs from the target's point is shipped, flushed, declared.
 *
 *   1. settle     whose point is the target at? It says so, if it can (the decisions are named, and logged)
 *   2. freeze     a bookmark, then a snapshot (source-points.ts): one instant, whatever runs, restores included (C2)
 *   3. begin      the target keeps what it must, before the first write (C10)
 *   4. ship       what changed since its point on either side, read through the frozen image (C3, C4)
 *   5. flush      of the target, acknowledged: without it nothing is declared (S2, C7)
 *   6. commit     the target declares the point
 *   7. record     of the mirror: base is the new bookmark. From here on the old one is not needed
 *   8. sweep      the image and the old bookmark go
 *
 * A crash or a failure anywhere up to 6 leaves the base as it was, and its map holds all that was shipped or not (S3, C9): the
 * next cycle ships that again, and what changed since. Between 6 and 7 the target is ahead of the record: step 1 finds it (B22).
 */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import type { Clock } from '../device/clock.js'
import { NbdeltaError } from '../device/errors.js'
import type { PointInfo } from '../volume/snappoint.js'
import type { StoreVolume } from '../volume/store-volume.js'
import type { MirrorState } from './mirror-record.js'
import { ship, type Shipped } from './ship.js'
import type { Frozen, SourcePoints } from './source-points.js'
import type { DeclaredPoint, MirrorTarget, TargetSession } from './target.js'

/** Why something was done as it was, for people: kept by the mirror, and logged. */
export interface Decision {
  readonly rule: string
  readonly inputs: Readonly<Record<string, string | number | null>>
  readonly outcome: string
}

export interface CycleParts {
  readonly volume: StoreVolume
  readonly target: MirrorTarget
  readonly points: SourcePoints
  readonly clock: Clock
  readonly signal: AbortSignal
  decide(decision: Decision): void
  /** Makes it durable. */
  put(state: MirrorState): Promise<void>
  onProgress(doneBytes: number, totalBytes: number): void
}

export interface CycleResult extends Shipped {
  readonly cycle: number
  /** Grains that may have differed, bytes. */
  readonly differing: number
}

/**
 * @param check looks at the image and the target once more before both go: verification
 * Errors: cancelled, wrong-state (the target is at a point that this mirror does not know), and whatever both sides report.
 */
export async function runCycle(
  parts: CycleParts, state: MirrorState, check?: (image: Frozen['image'], device: TargetSession['device']) => Promise<void>,
): Promise<CycleResult> {
  const session = await parts.target.open({ isFirst: state.base === null })
  // One that hangs lets go of what waits for it.
  const close = (): void => { void session.close() }
  parts.signal.addEventListener('abort', close, { once: true })
  try {
    if (parts.signal.aborted) throw new NbdeltaError('cancelled', 'the cycle was cancelled')
    const base = settle(parts, state, session)
    const cycle = state.cycle + 1
    const frozen = await parts.points.freeze(parts.volume, cycle)
    try {
      const { shipped, differing } = await deliver(parts, state, session, base, frozen)
      if (check) await check(frozen.image, session.device)
      const { uuid, createdAt } = frozen.bookmark
      await session.commit({ uuid, cycle, sizeBytes: frozen.image.sizeBytes })
      await parts.put({ ...state, phase: 'paired', keep: false, blank: false, cycle, base: { point: uuid, at: createdAt } })
      return { ...shipped, cycle, differing }
    } finally {
      await frozen.image.close()
    }
  } finally {
    parts.signal.removeEventListener('abort', close)
    await session.close()
  }
}

/** The source's bookmark that the target is at; undefined: none, so that everything counts as different. */
export function settle(parts: CycleParts, { base, phase }: MirrorState, { declared }: TargetSession): PointInfo | undefined {
  const { volume, points, decide } = parts
  const ours = base ? points.find(volume, base.point) : undefined
  const inputs = { phase, base: base?.point ?? null, target: declared === undefined ? 'keeps no label' : declared }
  if (phase === 'resyncing' && !base) return undefined
  if (base && !ours) {
    decide({ rule: 'base-lost', inputs, outcome: 'everything is compared' })
    return undefined
  }
  if (declared === undefined || declared === (base?.point ?? null)) return ours
  const theirs = declared === null ? undefined : points.find(volume, declared)
  if (theirs && (!ours || theirs.seq > ours.seq)) {
    decide({ rule: 'acknowledgement-lost', inputs, outcome: 'the target has declared the newer point: going on from there' })
    return theirs
  }
  decide({ rule: 'wrong-base', inputs, outcome: 'refused' })
  const hint = 'nbdelta mirror resync --whole compares both sides, and makes the target equal'
  throw new NbdeltaError('wrong-state', 'the target is at a point that this mirror does not know', { hint })
}

async function deliver(
  parts: CycleParts, state: MirrorState, session: TargetSession, base: PointInfo | undefined, frozen: Frozen,
): Promise<{ readonly shipped: Shipped, readonly differing: number }> {
  const { volume, points, clock, signal } = parts
  const { image } = frozen
  const map = points.changed(volume, base, frozen)
  const sourceBytes = bytesOf(map, volume.grainBytes, image.sizeBytes)
  const resync = state.phase === 'resyncing'
  // Nobody but the mirror writes to a paired target; what a cut-short cycle left there is in the source's map as well.
  const theirs = base && resync ? await session.changed() : undefined
  const unknown = base && resync && !theirs
  if (theirs) map.or(fitted(theirs, map.length))
  // What lies behind the target's end is in no map of the source, if it was the target that was made shorter.
  const grown = session.device.sizeBytes < image.sizeBytes
  if (unknown) map.set(0, map.length)
  else if (grown) map.set(Math.floor(session.device.sizeBytes / volume.grainBytes), map.length)
  const { blank } = state
  const compare = !blank && (!base || resync)
  const total = bytesOf(map, volume.grainBytes, image.sizeBytes)
  parts.decide({
    rule: blank ? 'copy-all' : !base ? 'compare-all' : unknown ? 'compare-all-unlabelled'
      : resync ? 'union-of-both-maps' : 'changed-since-base',
    inputs: { base: base?.uuid ?? null, sourceBytes },
    outcome: `${total} bytes to look at`,
  })
  const point: DeclaredPoint = { uuid: frozen.bookmark.uuid, cycle: frozen.cycle, sizeBytes: image.sizeBytes }
  await session.begin(point, state.keep)
  if (blank) await parts.put({ ...state, blank: false })
  let done = 0
  parts.onProgress(0, total)
  const shipped = await ship({
    source: image, target: session.device, runs: inBytes(map, volume.grainBytes, image.sizeBytes), compare, blank,
    bytesPerSecond: state.bytesPerSecond, clock, signal,
    onProgress: bytes => { parts.onProgress(done += bytes, total) },
  })
  await session.device.flush()
  return { shipped, differing: total }
}

/** Runs of a bitmap, cut to the size; found as they are asked for. */
function* inBytes(map: GrainBitmap, grainBytes: number, sizeBytes: number): Generator<{ start: number, end: number }> {
  for (const { start, end } of map.runs()) yield { start: start * grainBytes, end: Math.min(end * grainBytes, sizeBytes) }
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
