/**
 * One cycle of a mirror: a point of the source is frozen, what differs from the target's point is shipped, flushed, declared.
 *
 *   1. settle     whose point is the target at? It says so, if it can (the decisions are named, and logged)
 *   2. freeze     a bookmark, then a snapshot (source-points.ts): one instant, whatever runs, restores included (C2); of what 4
 *                 will not read it keeps nothing
 *   3. begin      the target keeps what it must, before the first write (C10)
 *   4. ship       what changed since its point on either side, read through the frozen image (C3, C4); what a restore brought
 *                 back, and the target keeps itself, by reference (recall.ts)
 *   5. flush      of the target, acknowledged: without it nothing is declared (S2, C7); and what the target then says that it
 *                 holds has to be what was sent (X14, content-roots.ts), or nothing is declared and the next cycle compares all
 *   6. commit     the target declares the point
 *   7. record     of the mirror: base is the new bookmark. From here on the old one is not needed
 *   8. sweep      the image and the old bookmark go; in modes async and sync the session becomes a stream (stream.ts) before
 *
 * When the source has no room for what the image keeps, it is given up rather than a client's write refused (space.ts): that
 * ends the cycle up to 6, like a failure, and the bookmarks say what the next one ships. Behind 6 nobody needs it.
 *
 * A crash or a failure anywhere up to 6 leaves the base as it was, and its map holds all that was shipped or not (S3, C9): the
 * next cycle ships that again, and what changed since. Between 6 and 7 the target is ahead of the record: step 1 finds it, and
 * puts that right before anything else (B22).
 */
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { together } from '../device/all-settled.js'
import type { Clock } from '../device/clock.js'
import { NbdeltaError } from '../device/errors.js'
import type { Kept, PointInfo } from '../volume/snappoint.js'
import type { StoreVolume } from '../volume/store-volume.js'
import type { MirrorState } from './mirror-record.js'
import { type ByteRun, regionBytesOf } from './content-digest.js'
import { bytesOf, fitted, inBytes } from './grain-bytes.js'
import { SentContent } from './content-roots.js'
import { busyRateOf, type CourtesyOptions } from './courtesy.js'
import { recallRestored, shipRuns } from './recall.js'
import { ship, type Shipped } from './ship.js'
import { type Frozen, keptOf, type SourcePoints } from './source-points.js'
import type { MirrorTarget, PlannedPoint, TargetSession } from './target.js'

/** Why something was done as it was, for people: kept by the mirror, and logged. */
export interface Decision {
  readonly rule: string
  readonly inputs: Readonly<Record<string, string | number | null>>
  readonly outcome: string
}

/** What follows when the two sides differ; `next` undefined: nothing, whoever is told decides. */
export interface Doubt {
  readonly decision: Decision
  readonly next: MirrorState | undefined
  readonly problem: string
}

export interface CycleParts {
  /** Its name. */
  readonly mirror: string
  readonly volume: StoreVolume
  readonly target: MirrorTarget
  readonly points: SourcePoints
  /**
   * What a stream had sent the source may have lost since, with its marks: nothing is known of an earlier process (a power cut, a
   * kill), or what was refused by a disk had been sent already.
   */
  readonly unsure: boolean
  readonly clock: Clock
  readonly signal: AbortSignal
  /** The interval has begun it, it is no further attempt, and nobody waits for it. */
  readonly hasTime?: () => boolean
  /** Freezes the source's point; by default at once, by itself. */
  readonly freeze?: ((points: SourcePoints, volume: StoreVolume, cycle: number) => Promise<Frozen>) | undefined
  decide(decision: Decision): void
  /** Makes it durable. */
  put(state: MirrorState): Promise<void>
  onProgress(doneBytes: number, totalBytes: number): void
  /** Is to compare what is declared. */
  readonly witness?: Witness | undefined
  /** Mode async or sync: collects what comes behind the image, and takes over the session when that is declared. */
  readonly stream?: CycleStream
}

interface CycleStream {
  collect(source: StoreVolume): void
  /** The image from which it collects is not shipped. */
  drop(): void
  takeOver(session: TargetSession): Promise<boolean>
}

/** Compares the point of a cycle with what the target has of it, then or later (verifications.ts). */
export interface Witness {
  /** What is going to be declared; the witness closes it, soon if it is `wanted`. */
  frozen(image: Frozen['image'], wanted: Frozen['wanted']): void
  /** Shipped and flushed to a target that cannot hold a point: it is compared now, or never. */
  shipped(device: TargetSession['device']): Promise<void>
}

export interface CycleResult extends Shipped {
  readonly cycle: number
  /** Grains that may have differed, bytes. */
  readonly differing: number
}

/** Errors: cancelled, wrong-state (the target is at a point that this mirror does not know), and whatever both sides report. */
export async function runCycle(parts: CycleParts, before: MirrorState): Promise<CycleResult> {
  const session = await parts.target.open({ mayBegin: before.base === null && before.phase === 'resyncing' })
  // One that hangs lets go of what waits for it.
  const close = (): void => { session.close().catch(() => undefined) }
  parts.signal.addEventListener('abort', close, { once: true })
  let taken = false
  try {
    if (parts.signal.aborted) throw new NbdeltaError('cancelled', 'the cycle was cancelled')
    const base = settle(parts, before, session)
    const state = await caughtUp(parts, before, base, session.root ?? null)
    const cycle = state.cycle + 1
    const { volume, stream, witness } = parts
    const plan = await planCycle(parts, state, session, base)
    const frozen = await freezeNow(parts, cycle, plan.keeps)
    const { uuid, createdAt } = frozen.bookmark
    const { shipped, differing, root } = await withImage(parts, frozen, close, async part => {
      witness?.frozen(volume.points.open(frozen.image.point.name, { yields: true }), frozen.wanted)
      const delivered = await deliver(part, state, session, plan, frozen)
      if (!parts.target.holds) await witness?.shipped(session.device)
      const kept = keptOf(volume, state.keepSnapshots, frozen.bookmark)
      await session.commit({ uuid, cycle, sizeBytes: frozen.image.sizeBytes, root: delivered.root, ...kept })
      return delivered
    }).catch((error: unknown) => doubtTarget(parts, state, error))
    const declared = { cycle, base: { point: uuid, at: createdAt, root } }
    await parts.put({ ...state, phase: 'paired', keep: false, blank: false, doubtful: false, ...declared })
    parts.signal.removeEventListener('abort', close)
    // Behind a snapshot that is carried comes another cycle.
    if (frozen.bookmark.kind === 'bookmark') taken = await stream?.takeOver(session) ?? false
    return { ...shipped, cycle, differing }
  } finally {
    parts.signal.removeEventListener('abort', close)
    if (!taken) await session.close()
  }
}

/**
 * What a flush of the target did not cover its kernel may take for clean: it is read as if it were there, until the power fails.
 * So what a later cycle finds equal, whoever was started anew in between, is written all the same. Rejects with `error`.
 */
async function doubtTarget({ put }: CycleParts, state: MirrorState, error: unknown): Promise<never> {
  const failed = error instanceof NbdeltaError && (error.code === 'io' || error.code === 'flush-failed')
  if (failed && !state.doubtful) await put({ ...state, blank: false, doubtful: true })
  throw error
}

/** What is known of a cycle before its freeze. */
interface Plan {
  readonly base: PointInfo | undefined
  /** Both the target and the base have so much: what lies behind is in no map, and shipped. */
  readonly knownBytes: number
  /** What has changed there; asked for after the freeze where nothing hangs on it before. */
  readonly theirs: GrainBitmap | undefined
  /** All that it will read of the image; undefined: anything. */
  readonly keeps: Kept | undefined
}

async function planCycle(
  { volume, freeze, witness, unsure }: CycleParts, { mode, phase }: MirrorState, session: TargetSession,
  base: PointInfo | undefined,
): Promise<Plan> {
  // A plain device may be larger, and hold there whatever was there before, or when the source was larger.
  const knownBytes = Math.min(session.device.sizeBytes, base?.sizeBytes ?? Infinity)
  if (!base || phase === 'resyncing') return { base, knownBytes, theirs: undefined, keeps: undefined }
  // Nobody but the mirror writes to a paired target; what a cut-short cycle left there is in the source's map as well. What a
  // stream has sent is not, if the source has lost it in a crash before it was durable there, with its mark.
  const theirs = mode === 'periodic' ? undefined : await session.changed()
  const isKnown = mode === 'periodic' || theirs !== undefined || !unsure
  if (!isKnown || freeze || witness) return { base, knownBytes, theirs, keeps: undefined }
  const keeps = { since: base.name, from: Math.floor(knownBytes / volume.grainBytes), also: theirs }
  return { base, knownBytes, theirs, keeps }
}

/**
 * At the instant that is given with `freeze`, or at one of its own, from which a stream collects.
 * @param keeps what is read of the image, at most. Errors: those of a freeze.
 */
export function freezeNow({ freeze, points, volume, stream }: CycleParts, cycle: number, keeps?: Kept): Promise<Frozen> {
  if (freeze) return freeze(points, volume, cycle)
  return points.freeze(volume, cycle, keeps, stream && (() => { stream.collect(volume) }))
}

/**
 * Steps 3 to 6, with the image open. Ends early when that is wanted; `close` lets go of what waits for the session.
 * Errors: no-space, if so; cancelled, and those of `work`.
 */
async function withImage<T>(
  parts: CycleParts, { cycle, image, wanted }: Frozen, close: () => void, work: (parts: CycleParts) => Promise<T>,
): Promise<T> {
  wanted.addEventListener('abort', close, { once: true })
  try {
    wanted.throwIfAborted()
    return await work({ ...parts, signal: AbortSignal.any([parts.signal, wanted]) })
  } catch (error) {
    if (!wanted.aborted || parts.signal.aborted) throw error
    const outcome = 'the cycle ends; what it was to ship stays pending, and the next one ships it'
    parts.decide({ rule: 'image-given-up', inputs: { cycle, image: image.point.name }, outcome })
    throw wanted.reason
  } finally {
    wanted.removeEventListener('abort', close)
    await image.close()
  }
}

/** Of an acknowledgement that was lost the record hears now: this cycle may fail as well, and that bookmark must not be swept. */
export async function caughtUp(
  parts: CycleParts, state: MirrorState, base: PointInfo | undefined, root: string | null,
): Promise<MirrorState> {
  if (!base || base.uuid === state.base?.point) return state
  const next = { ...state, base: { point: base.uuid, at: base.createdAt, root } }
  await parts.put(next)
  return next
}

/** The source's bookmark that the target is at; undefined: none, so that everything counts as different. */
export function settle(parts: CycleParts, { base, phase }: MirrorState, session: TargetSession): PointInfo | undefined {
  const { volume, points, decide } = parts
  const { declared, root } = session
  const ours = base ? points.find(volume, base.point) : undefined
  const inputs = { phase, base: base?.point ?? null, target: declared === undefined ? 'keeps no label' : declared }
  if (phase === 'resyncing' && !base) return undefined
  if (base && !ours) {
    decide({ rule: 'base-lost', inputs, outcome: 'everything is compared' })
    return undefined
  }
  if (base?.root && root && declared === base.point && root !== base.root) {
    decide({ rule: 'root-differs', inputs: { ...inputs, ours: base.root, theirs: root }, outcome: 'everything is compared' })
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
  parts: CycleParts, state: MirrorState, session: TargetSession, { base, knownBytes, theirs: known }: Plan, frozen: Frozen,
): Promise<{ readonly shipped: Shipped, readonly differing: number, readonly root: string | null }> {
  const { volume, points, clock, signal } = parts
  const { image } = frozen
  const map = points.changed(volume, base, frozen)
  const sourceBytes = bytesOf(map, volume.grainBytes, image.sizeBytes)
  const resync = state.phase === 'resyncing'
  const streams = state.mode !== 'periodic'
  // What a cut-short cycle left there that had frozen something newer than a snapshot which is carried now is in no map here.
  const carries = frozen.bookmark.kind === 'snapshot'
  const theirs = known ?? (base && (resync || (carries && !streams)) ? await session.changed() : undefined)
  const unknown = base && !theirs && (resync || (streams && parts.unsure))
  if (theirs) map.or(fitted(theirs, map.length))
  if (unknown) map.set(0, map.length)
  else if (knownBytes < image.sizeBytes) map.set(Math.floor(knownBytes / volume.grainBytes), map.length)
  const { blank } = state
  const isCompared = !blank && (!base || resync || unknown === true)
  const compare = isCompared && !state.doubtful
  const total = bytesOf(map, volume.grainBytes, image.sizeBytes)
  parts.decide({
    rule: blank ? 'copy-all' : !base ? 'compare-all' : unknown ? 'compare-all-unlabelled'
      : carries ? 'snapshot' : theirs ? 'union-of-both-maps' : 'changed-since-base',
    inputs: { base: base?.uuid ?? null, sourceBytes },
    outcome: `${total} bytes to look at`,
  })
  const point: PlannedPoint = { uuid: frozen.bookmark.uuid, cycle: frozen.cycle, sizeBytes: image.sizeBytes }
  await session.begin(point, state.keep)
  if (blank) await parts.put({ ...state, blank: false })
  let done = 0
  parts.onProgress(0, total)
  const runs = (): Iterable<ByteRun> => inBytes(map, volume.grainBytes, image.sizeBytes)
  const regionBytes = regionBytesOf(image.sizeBytes)
  const sent = session.digests && new SentContent(runs(), regionBytes)
  const recalls = base && !isCompared && session.digests !== undefined && state.keepSnapshots > 0
  const { grainBytes } = volume
  const there = recalls ? await recallRestored({ ...parts, grainBytes, sizeBytes: image.sizeBytes, session, base, image }, map)
    : new GrainBitmap(map.length)
  const shipped = await ship({
    source: image, target: session.device, runs: shipRuns(map, there, grainBytes, image.sizeBytes), compare, blank, sent,
    bytesPerSecond: state.bytesPerSecond, courtesy: carries ? undefined : courtesyOf(parts, state, total), clock, signal,
    onRead: offset => { image.forget(offset) }, onProgress: bytes => { parts.onProgress(done += bytes, total) },
  })
  // An image whose disk failed has not been what it was taken for.
  await together(add => {
    add(session.device.flush())
    add(image.flush())
  })
  if (!sent) return { shipped, differing: total, root: null }
  await judgeContent(parts, state, await sent.differing(session.digests!(runs(), regionBytes)))
  // A base without a root says nothing of what this cycle has not looked at.
  return { shipped, differing: total, root: base && !session.root ? null : sent.root(base ? session.root : null) }
}

/**
 * Undefined: there is no time. A stream's log would be full by then; where lag is watched it would grow; and a target without a
 * whole copy is to have one.
 */
function courtesyOf(
  { hasTime, volume, target }: CycleParts, { mode, phase, lagBytes, intervalSeconds }: MirrorState, bytes: number,
): CourtesyOptions | undefined {
  if (!hasTime?.() || mode !== 'periodic' || phase !== 'paired' || lagBytes !== null) return undefined
  return { requests: () => hasTime() ? volume.requests : 0, bytesPerSecond: busyRateOf(bytes, intervalSeconds, target.holds) }
}

/** What the target says that it holds is not what was sent. Errors: damaged. */
async function judgeContent(
  { put, decide }: CycleParts, state: MirrorState, { first: [first], count }: Awaited<ReturnType<SentContent['differing']>>,
): Promise<void> {
  if (!first) return
  const { decision, next, problem } = mismatched(state, first, count, 'nothing is declared; the next cycle compares everything')
  decide(decision)
  await put(next)
  throw new NbdeltaError('damaged', problem,
    { hint: 'the next cycle compares everything; if this comes again, distrust the target\'s disk' })
}

/** What follows: all that the target holds is in doubt. @param count of the portions that differ */
export function mismatched(
  state: MirrorState, first: ByteRun, count: number, outcome: string,
): Doubt & { readonly next: MirrorState } {
  const inputs = { regions: count, first: first.start, bytes: first.end - first.start }
  const where = `${count} ${count === 1 ? 'region differs' : 'regions differ'}, the first is`
    + ` ${inputs.bytes} bytes at ${inputs.first}`
  // A first copy of which the target has declared a point, unheard, is none any more: it would go on from there.
  const phase = state.phase === 'copying' && !state.base ? 'copying' : 'resyncing'
  return {
    decision: { rule: 'root-mismatch', inputs, outcome }, problem: `the target does not hold what was sent: ${where}`,
    next: { ...state, blank: false, phase, base: null },
  }
}

/** What a resync would look at, bytes; null: everything is compared. Errors: those of the target. */
export async function differing(parts: CycleParts, state: MirrorState): Promise<number | null> {
  const { target, volume } = parts
  const session = await target.open({ mayBegin: false })
  try {
    const base = settle(parts, state, session)
    const theirs = base && await session.changed()
    if (!base || !theirs) return null
    const map = volume.points.changedMap(base.name)
    map.or(fitted(theirs, map.length))
    return bytesOf(map, volume.grainBytes, volume.sizeBytes)
  } finally {
    await session.close()
  }
}
