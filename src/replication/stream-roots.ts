/**
 * StreamRoots: what a stream has declared at its target is compared with the source, by digests (SEEDS X14), behind the point and
 * beside everything else: what has changed since the declared point before, and nothing else.
 *
 *   note    at a declared point: what changed since the one before is left to be compared
 *   begin   the target holds the point, so that it stays what it is there; what is left is looked at, a page at a time
 *   stop    before the next point and at the end of the stream: what was not compared by then is left for the next one
 *
 * The source takes no snapshot for it. A grain that has not changed since the point is in live what it was at the point, and
 * whether it has is judged behind the reading: marks come before content (gate.ts). Judged before, and what a client writes
 * meanwhile would be taken for a fault of the target. What has changed already is among the next point's changes.
 *
 * Invariants
 * - No change, mark, point or command waits for it; of any stretch of time it takes a part (REST) for itself.
 * - Memory: one bit a grain, and the digests of one page.
 * - It says "differs" only of content of both sides at the same declared point. What it could not compare it says nothing of.
 * Limits: a grain that is written to again and again is compared at the first point behind which it rests; what is left when the
 * server stops is not compared.
 */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { divCeil } from '../../native-free/integer.js'
import type { Clock } from '../device/clock.js'
import { NbdeltaError } from '../device/errors.js'
import type { Logger } from '../device/logger.js'
import type { PointInfo } from '../volume/snappoint.js'
import type { StoreVolume } from '../volume/store-volume.js'
import { type ByteRun, type Portion, type PortionDigest, portionsOf, REGION_BYTES_MIN } from './content-digest.js'
import { digestsOf, RootHash } from './content-roots.js'
import { type Doubt, mismatched } from './cycle.js'
import { fitted, inBytes } from './grain-bytes.js'
import { pagesOf } from './link-digest.js'
import type { MirrorState } from './mirror-record.js'
import type { HeldPoint, MirrorTarget } from './target.js'

/** Not less than a grain, so that a portion is what of a region is asked for. */
const REGION_BYTES = REGION_BYTES_MIN
/** Of both sides, one after the other. */
const PAGE = { runs: 1500, portions: 400, bytes: 8 * 2 ** 20 } as const
/** Of what was changed while it was read the rest is looked at again so often. */
const PASSES = 3
/** After a page, so many times as long as it took belongs to others, REST_MS_MAX at most. */
const REST = 4
const REST_MS_MAX = 100

interface Parts {
  readonly record: { readonly name: string }
  readonly target: MirrorTarget
  readonly clock: Clock
  readonly logger: Logger
  /** Whoever reads all of a point has its place at the target. */
  isVerifying(): boolean
  /** What the target has declared is not what the source had: in turn, and behind that everything is compared. */
  doubt(regions: readonly ByteRun[]): Promise<void>
  /** That point of the source has that root, if the target is at it still. In turn. */
  agreed(point: string, root: string): Promise<void>
}

export class StreamRoots {
  readonly #parts: Parts
  /** The declared point, by uuid, and the root of all that led to it, but for what is left; null: not known. */
  #at: string | undefined
  #root: string | null = null
  /** Grains of the source that are to be compared at the next declared point. */
  #left: GrainBitmap | undefined
  /** Where the next look begins, so that what is at the end has its turn as well. */
  #next = 0
  #abort: AbortController | undefined
  #running: Promise<void> = Promise.resolve()
  /** That has been said, and not heard yet. */
  #doubts = false

  constructor(parts: Parts) { this.#parts = parts }

  /** The target goes from point to point. @param base of the record; its root: a cycle has compared all that it looked at */
  follow(before: string | undefined, base: MirrorState['base']): void {
    if (base?.root) this.#left = undefined
    if (base?.root || before === undefined || before !== this.#at) this.#root = base?.root ?? null
    this.#at = base?.point
  }

  /** A stream has declared `point`, or perhaps, where `base` was. */
  note({ points }: StoreVolume, base: PointInfo, point: PointInfo): void {
    const changed = points.changedMap(base.name, point.name)
    if (this.#left) changed.or(fitted(this.#left, changed.length))
    this.#left = changed
  }

  /** In the turn in which `point` was declared. */
  begin(volume: StoreVolume, point: PointInfo): void {
    const ended = this.stop()
    if (!this.#left || this.#doubts || !this.#parts.target.holds || this.#parts.isVerifying()) return
    const { signal } = this.#abort = new AbortController()
    this.#running = ended.then(() => this.#run(volume, point, signal)).catch((error: unknown) => {
      if (signal.aborted) return
      const fields = { err: error, mirror: this.#parts.record.name, point: point.name }
      this.#parts.logger.warn(fields, 'what changed up to a declared point was not compared: it is at the next one')
    })
  }

  /** Nothing is said any more, from now on; when it resolves nothing is held or read either. */
  stop(): Promise<void> {
    this.#abort?.abort()
    return this.#running
  }

  /** Everything has been compared, or will be. */
  forget(): void {
    void this.stop()
    this.#root = null
    this.#left = undefined
  }

  async #run(volume: StoreVolume, point: PointInfo, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return
    const held = await this.#hold(point, signal)
    const root = this.#root === null ? undefined : new RootHash(this.#root)
    // What waits for the other side waits no longer.
    const close = (): void => { held.close().catch(() => undefined) }
    signal.addEventListener('abort', close, { once: true })
    try {
      for (let pass = 0; pass < PASSES && !signal.aborted; pass++) {
        if (!await this.#pass({ volume, point, held, root, signal })) break
      }
      if (this.#left?.count() === 0) this.#left = undefined
    } finally {
      if (root) this.#root = root.hex()
      signal.removeEventListener('abort', close)
      if (!signal.aborted && !this.#left) await this.#agree(held, point)
      await held.close()
    }
  }

  /** Whoever stops it does not wait for a peer that does not answer. Errors: cancelled, those of the target. */
  async #hold({ uuid }: PointInfo, signal: AbortSignal): Promise<HeldPoint> {
    const holding = this.#parts.target.hold(uuid, signal)
    let giveUp = (): void => undefined
    const givenUp = new Promise<never>((_, reject) => {
      giveUp = () => { reject(new NbdeltaError('cancelled', 'the comparison was cancelled')) }
    })
    signal.addEventListener('abort', giveUp, { once: true })
    try {
      return await Promise.race([holding, givenUp])
    } catch (error) {
      holding.then(held => held.close()).catch(() => undefined)
      throw error
    } finally { signal.removeEventListener('abort', giveUp) }
  }

  /** All has been compared: the point has a root on both sides. As with any doubt, nobody waits for the turn here. */
  async #agree({ rooted }: HeldPoint, { uuid }: PointInfo): Promise<void> {
    const root = this.#root
    if (root === null || !rooted) return
    await rooted(root)
    this.#parts.agreed(uuid, root).catch((error: unknown) => {
      this.#parts.logger.warn({ err: error, mirror: this.#parts.record.name }, 'the root of a declared point was not kept')
    })
  }

  /** False: there is no more to do. */
  async #pass(look: Look): Promise<boolean> {
    const { volume, volume: { grainBytes }, point, signal } = look
    const wanted = this.#left!.clone()
    wanted.andNot(fitted(volume.points.changedMap(point.name), wanted.length))
    if (wanted.count() === 0) return false
    for (const page of pagesFrom(wanted, this.#next * grainBytes, { grainBytes, sizeBytes: point.sizeBytes })) {
      const startedMs = this.#parts.clock.now()
      const differing = await this.#compare(look, page)
      if (signal.aborted) return false
      if (differing.length > 0) {
        this.#tell(differing)
        return false
      }
      this.#next = Math.floor(page.at(-1)!.end / grainBytes)
      await this.#rest(this.#parts.clock.now() - startedMs, signal)
      if (signal.aborted) return false
    }
    this.#next = 0
    return true
  }

  /** Behind whatever has its turn; nobody waits for it here, as that may wait for this. */
  #tell(differing: readonly ByteRun[]): void {
    this.#doubts = true
    this.#parts.doubt(differing)
      .catch((error: unknown) => {
        const fields = { err: error, mirror: this.#parts.record.name, regions: differing.length }
        this.#parts.logger.warn(fields, 'the target does not hold what a stream has declared there')
      })
      .finally(() => { this.#doubts = false })
  }

  /** What is equal is not left any more. Which are not. */
  async #compare({ volume, point, held, root, signal }: Look, page: readonly Portion[]): Promise<ByteRun[]> {
    const { grainBytes, points } = volume
    const ours: (Portion & PortionDigest)[] = []
    for (const portion of page) {
      for await (const digest of digestsOf(volume, [portion])) {
        if (signal.aborted) return []
        const isChanged = portion.runs.some(
          ({ start, end }) => points.isChanged(point.name, start / grainBytes, divCeil(end, grainBytes)))
        if (!isChanged) ours.push({ ...portion, ...digest })
      }
    }
    const differing: ByteRun[] = []
    let at = 0
    for await (const { start, end, digest } of held.digests(ours.flatMap(({ runs }) => runs), REGION_BYTES)) {
      if (signal.aborted) return []
      const portion = ours[at++]
      if (portion?.start !== start || portion.end !== end) throw disorder()
      if (!portion.digest.equals(digest)) {
        differing.push({ start, end })
        continue
      }
      root?.add(portion)
      for (const run of portion.runs) this.#left!.clear(run.start / grainBytes, divCeil(run.end, grainBytes))
    }
    if (at !== ours.length) throw disorder()
    return differing
  }

  async #rest(tookMs: number, signal: AbortSignal): Promise<void> {
    const restMs = Math.min(REST_MS_MAX, tookMs * REST)
    if (restMs < 1) return
    let wake = (): void => undefined
    const rested = new Promise<void>(resolve => { wake = resolve })
    const timer = this.#parts.clock.setTimeout(wake, restMs)
    signal.addEventListener('abort', wake, { once: true })
    await rested
    timer.cancel()
    signal.removeEventListener('abort', wake)
  }
}

/** What follows: the point is declared already, and stays what is shown until the resync is done. */
export function doubtedStream(state: MirrorState, regions: readonly ByteRun[]): Doubt {
  const isPaired = state.phase === 'paired'
  const outcome = isPaired ? 'it is declared already: resync of everything' : 'it is not paired any more: reported only'
  const { next, ...told } = mismatched(state, regions[0]!, regions.length, outcome)
  return { ...told, next: isPaired ? next : undefined }
}

/** The record of a mirror whose target is at that point still, else as it was. */
export function withRoot(state: MirrorState, point: string, root: string): MirrorState {
  return state.base?.point === point ? { ...state, base: { ...state.base, root } } : state
}

interface Look {
  readonly volume: StoreVolume
  readonly point: PointInfo
  readonly held: HeldPoint
  readonly root: RootHash | undefined
  readonly signal: AbortSignal
}

/** From there to the end, and then from the beginning on. */
function* pagesFrom(
  map: GrainBitmap, startBytes: number, { grainBytes, sizeBytes }: { readonly grainBytes: number, readonly sizeBytes: number },
): Generator<Portion[], void> {
  const start = startBytes < sizeBytes ? startBytes : 0
  for (const runs of [inBytes(map, grainBytes, sizeBytes, start), inBytes(map, grainBytes, start)]) {
    yield* pagesOf(portionsOf(runs, REGION_BYTES), grainBytes, REGION_BYTES, PAGE)
  }
}

function disorder(): NbdeltaError { return new NbdeltaError('bad-peer', 'the target tells of other ranges than it was asked') }
