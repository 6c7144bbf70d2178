/**
 * Streaming: a mirror's stream and the session that it has taken over from a cycle: how it begins, declares points, and ends.
 *
 *   cycle  -> collect at the image's instant -> declared -> takeOver: the stream goes out
 *   declare: bookmark, with a mark in the stream at its instant -> all before it is there -> flush -> commit -> go on -> record
 *
 * A mirror that keeps snapshots (carry.ts) has a mark for each that is taken on the source as well, at its instant. Nothing is
 * sent past that before the snapshot is declared likewise, and then a point of the mirror's own behind it. It is declared even if
 * the target is to keep no copy: so the base is never older than a snapshot past which something was sent, and no cycle that
 * carries what is newer than the base takes the target back (C1). One that was given up, or deleted, is passed.
 *
 * A mark that was reached does not say that the point is what was sent: a staged write is told before it is with the disk, and if
 * that refuses it, it never was. That is known, and has ended the stream, when the point is made: looked at before the commit.
 *
 * Order, and what another would lose: the record before the commit, and a target that was never there is believed to be; the
 * stream going on before the commit, and the declared point has what came after it (C1).
 * What a point has brought is compared behind it (stream-roots.ts), for which nothing here waits.
 * Whatever fails ends it all; the base stays, and its map has everything that was sent or not (S3).
 */
import type { BlockDevice } from '../device/block-device.js'
import type { Clock } from '../device/clock.js'
import { NbdeltaError } from '../device/errors.js'
import type { PointInfo } from '../volume/snappoint.js'
import type { StoreVolume } from '../volume/store-volume.js'
import type { CycleParts, CycleResult, Decision } from './cycle.js'
import type { LogBudget } from './log-budget.js'
import type { MirrorState } from './mirror-record.js'
import { isSnapshot, keptOf } from './source-points.js'
import { Stream, type StreamFacts } from './stream.js'
import type { StreamRoots } from './stream-roots.js'
import type { TargetSession } from './target.js'

const SHORT_MS = 10_000

interface Parts {
  readonly state: Pick<MirrorState, 'mode' | 'timeoutSeconds' | 'keepSnapshots'>
  readonly clock: Clock
  readonly logs: LogBudget
  readonly roots: StreamRoots
  decide(decision: Decision): void
  /** One of the source waits to be declared. It only takes note. */
  onSnapshot(): void
  /** Once, unless `end` was called. It only takes note. */
  onEnd(reason: string): void
}

/** Of the source, and its mark. */
interface Snapshot { readonly point: PointInfo, readonly reached: Promise<void> }

export class Streaming {
  readonly #parts: Parts
  #stream: Stream | undefined
  #session: TargetSession | undefined
  #device: BlockDevice | undefined
  #reason: string | undefined
  #isInVain = false
  #sinceMs = 0
  /** Not declared yet, in order. */
  #snapshots: Snapshot[] = []

  constructor(parts: Parts) { this.#parts = parts }

  /** Changes go to the target as they come. */
  get isLive(): boolean { return this.#device !== undefined && this.#stream?.ended === false }

  /** Why it has ended by itself. */
  get reason(): string | undefined { return this.#reason }

  /** The target may hold what the source never did, and no changed map knows of it. */
  get isInVain(): boolean { return this.#isInVain }

  /** Changes have gone to the target as they come for so short that it is begun anew later and later. */
  get wasShort(): boolean { return !this.#device || this.#parts.clock.now() - this.#sinceMs < SHORT_MS }

  /** What is sent waits for a snapshot to be declared, or will. */
  get owes(): boolean { return this.isLive && this.#snapshots.length > 0 }

  facts(): StreamFacts | null { return this.isLive ? this.#stream!.facts() : null }

  /** At the instant of an image. */
  collect(source: StoreVolume): void {
    const { state, clock, logs, onEnd, decide } = this.#parts
    this.#snapshots = []
    const stream = this.#stream = new Stream({
      grainBytes: source.grainBytes, sizeBytes: source.sizeBytes, waits: state.mode === 'sync',
      timeoutMs: state.timeoutSeconds * 1000, clock, budget: logs,
      snapshots: state.keepSnapshots === 0 ? undefined : { decide, pointed: point => { this.#pointed(stream, point) } },
      onEnd: (reason, inVain) => {
        this.#reason = reason
        this.#isInVain = inVain && this.#device !== undefined
        onEnd(reason)
      },
    })
    stream.collect(source)
  }

  drop(): void { this.#stream?.end() }

  #pointed(stream: Stream, point: PointInfo): void {
    if (!isSnapshot(point)) return
    const reached = stream.mark()
    // It may end before anybody looks.
    reached.catch(() => undefined)
    this.#snapshots.push({ point, reached })
    this.#parts.onSnapshot()
  }

  /** False: it has ended already, and the session is the caller's. */
  async takeOver(session: TargetSession): Promise<boolean> {
    if (!this.#stream || this.#stream.ended) return false
    this.#device = await this.#stream.send(session)
    this.#session = session
    this.#sinceMs = this.#parts.clock.now()
    const stream = this.#stream
    void session.over?.then(() => { stream.lost('the link to the peer was lost') })
    return true
  }

  /**
   * The target declares a point that is taken now. @param last nothing is sent behind it: the stream has ended when it resolves
   * Errors: unreachable (the stream has ended meanwhile), and whatever both sides report; then it has ended.
   */
  async declare(parts: CycleParts, state: MirrorState, last: boolean): Promise<CycleResult> {
    const { signal } = parts
    const { roots } = this.#parts
    const onAbort = (): void => { void this.end() }
    signal.addEventListener('abort', onAbort, { once: true })
    try {
      void roots.stop()
      const { point, behind } = await this.#mark(parts, state)
      const sent = this.#stream!.takeCounts()
      const { cycle } = await this.#commit(parts, behind, point, last)
      // Whoever is to compare all of it has what a stream has changed as well.
      if (!last && !parts.witness) roots.begin(parts.volume, point)
      return { ...sent, differing: sent.data + sent.zeros + sent.equal, cycle }
    } catch (error) {
      await this.end()
      throw signal.aborted ? new NbdeltaError('cancelled', 'it was cancelled') : error
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }

  /** A new point, at whose mark the stream is; `behind`: the state behind the snapshots in front of it, which are declared. */
  async #mark(parts: CycleParts, state: MirrorState): Promise<{ readonly point: PointInfo, readonly behind: MirrorState }> {
    const { volume, points, witness } = parts
    const stream = this.#stream!
    for (let behind = await this.#carry(parts, state); ;) {
      let reached = Promise.resolve()
      let before: readonly Snapshot[] = []
      const atInstant = (): void => {
        before = this.#snapshots.splice(0)
        reached = stream.mark()
        reached.catch(() => undefined)
      }
      const cycle = behind.cycle + 1
      // The image is of the mark's instant; its bookmark was made before it, as in a cycle.
      const frozen = witness && await points.freeze(volume, cycle, undefined, atInstant)
      const point = frozen?.bookmark ?? await points.bookmark(volume, cycle, { atInstant })
      // One in between is newer than the bookmark, and would be carried again: what was frozen around it is not used.
      const isTorn = before.some(({ point: { seq } }) => seq > point.seq)
      if (isTorn) await frozen?.image.close()
      else if (frozen) witness.frozen(frozen.image, frozen.wanted)
      behind = await this.#carry(parts, behind, before)
      await reached
      if (!isTorn) return { point, behind }
      stream.release()
    }
  }

  /** Snapshots are declared, each as soon as its mark is reached. Returns the state behind the last. */
  async #carry(
    parts: CycleParts, before: MirrorState, snapshots: readonly Snapshot[] = this.#snapshots.splice(0),
  ): Promise<MirrorState> {
    let state = before
    for (const { point, reached } of snapshots) {
      await reached
      const made = await parts.points.made(parts.volume, point)
      if (!made) {
        this.#stream!.release()
        continue
      }
      parts.decide({ rule: 'snapshot', inputs: { point: made.uuid }, outcome: `${made.name} is declared among the changes` })
      state = await this.#commit(parts, state, made, false)
    }
    return state
  }

  /** At its mark. */
  async #commit(
    { volume, points, put }: CycleParts, state: MirrorState, point: PointInfo, last: boolean,
  ): Promise<MirrorState> {
    const { uuid, createdAt, sizeBytes } = point
    const cycle = state.cycle + 1
    if (this.#stream!.ended) throw new NbdeltaError('unreachable', this.#reason ?? 'the stream has ended')
    const next = { ...state, cycle, base: { point: uuid, at: createdAt, root: null } }
    try {
      await this.#device!.flush()
      await this.#session!.commit({ uuid, cycle, sizeBytes, root: null, ...keptOf(volume, state.keepSnapshots, point) })
      if (last) await this.end()
      else this.#stream!.release()
      await put(next)
    } finally {
      // Nobody waits for it any more. Whether the target has declared it or not: to compare more does no harm.
      const base = points.find(volume, state.base!.point)
      if (base) this.#parts.roots.note(volume, base, point)
    }
    return next
  }

  /** What is on its way arrives, and is declared, if that takes no longer than the target may be silent. Then it has ended. */
  async lastPoint(parts: (signal: AbortSignal) => CycleParts, state: MirrorState): Promise<void> {
    if (!this.isLive) return
    const abort = new AbortController()
    const timer = this.#parts.clock.setTimeout(() => { abort.abort() }, state.timeoutSeconds * 1000)
    await this.declare(parts(abort.signal), state, true).catch(() => undefined)
    timer.cancel()
  }

  /** Nothing is sent any more; what has arrived stays. Idempotent; whatever goes wrong with it is over as well. */
  async end(): Promise<void> {
    this.#stream?.end()
    this.#device = undefined
    const compared = this.#parts.roots.stop()
    await this.#session?.close().catch(() => undefined)
    await this.#stream?.settled()
    await compared
  }
}
