/**
 * Verifications: every "in sync" of a mirror can be challenged (SEEDS X14). One runs at a time.
 *
 *   in turn     a cycle, or a point among the changes of a stream; its image on the source is kept open, and so is the point on a
 *               target that can (`holds`). Nothing that either side drops meanwhile goes away before it is closed; but when the
 *               source wants the image's room it is closed at once
 *   in the open the two are compared (compare.ts), while cycles, streams and commands go on
 *   in turn     what differs ends "in sync"
 *
 * A target that holds no point is compared in the cycle, before that is declared: nothing else of the mirror runs meanwhile.
 * Whatever ends one early - cancelled, the link is lost, there is no room, the mirror is deleted - nothing is held any more then,
 * and nothing is known: only what was compared to the end counts.
 */
import type { Clock } from '../device/clock.js'
import { NbdeltaError } from '../device/errors.js'
import type { Logger } from '../device/logger.js'
import { Turns } from '../device/turns.js'
import type { StoreVolume } from '../volume/store-volume.js'
import { compareContents, type Compared, type CompareOptions, type Difference } from './compare.js'
import type { Doubt, Witness } from './cycle.js'
import { DeviceContent, spaceGuard } from './frozen-content.js'
import type { MirrorState } from './mirror-record.js'
import { resyncing } from './mirror-state.js'
import { Running } from './running.js'
import type { Finding, HeldPoint, MirrorTarget } from './target.js'

/** What became of the last one. */
export interface Verified extends Finding {
  /** ISO 8601, UTC. */
  readonly at: string
}

/** What a mirror lets a verification do. Each comes in turn. */
export interface Verifiable {
  readonly target: MirrorTarget
  source(): StoreVolume
  /** @param then in the same turn: what was declared is still what the target is at */
  cycle(witness: Witness, signal: AbortSignal, then: (state: MirrorState) => Promise<void>): Promise<void>
  /** The two sides differ there. */
  doubt(found: readonly Difference[]): Promise<void>
  /** The image is needed no more. Soon; nobody waits. */
  tidy(): void
}

type Cancellable = CompareOptions & { readonly signal: AbortSignal }

/** Of a split pair: it is reported only. */
export function doubted(state: MirrorState, found: readonly Difference[]): Doubt {
  const inputs = { phase: state.phase, regions: found.length, first: found[0]!.offset }
  const next = state.phase === 'split' ? undefined : resyncing(state, true)
  return {
    decision: { rule: 'verify-mismatch', inputs, outcome: next ? 'resync of everything' : 'it is split: reported only' },
    next, problem: `verification found differences, the first at ${inputs.first}: everything is compared now`,
  }
}

export class Verifications {
  readonly #parts: { readonly clock: Clock, readonly logger: Logger }
  readonly #turns = new Turns()
  readonly #work: Running
  #closed: NbdeltaError | undefined
  #last: Verified | null = null

  constructor(parts: { readonly clock: Clock, readonly logger: Logger }) {
    this.#parts = parts
    this.#work = new Running(parts.clock)
  }

  get last(): Verified | null { return this.#last }

  /** One has begun, and not ended. */
  get isRunning(): boolean { return this.#work.progress !== undefined }

  /** Errors: cancelled, wrong-state, no-space, unreachable, those of a cycle. */
  run(mirror: Verifiable, options: CompareOptions): Promise<readonly Difference[]> {
    return this.#turns.take(() => this.#work.run(options.signal, signal => this.#run(mirror, { ...options, signal })))
  }

  /** None runs any more when it resolves, nor later. @param why it is told to who waits for one */
  async close(why: NbdeltaError): Promise<void> {
    this.#closed = why
    this.#work.end()
    await this.#turns.idle
  }

  async #run(mirror: Verifiable, options: Cancellable): Promise<readonly Difference[]> {
    if (this.#closed) this.#work.end()
    try {
      const { cycle, found, digest } = await this.#compare(mirror, options)
      this.#last = {
        at: this.#parts.clock.wallTime().toISOString(), cycle, result: found.length > 0 ? 'different' : 'equal', digest,
      }
      if (found.length > 0) await mirror.doubt(found)
      return found
    } catch (error) {
      throw options.signal.aborted ? this.#closed ?? new NbdeltaError('cancelled', 'the verification was cancelled') : error
    }
  }

  async #compare(mirror: Verifiable, options: Cancellable): Promise<Compared & { readonly cycle: number }> {
    const { target } = mirror
    const { signal } = options
    let ours: DeviceContent | undefined
    let theirs: HeldPoint | undefined
    let compared: Compared | undefined
    let wanted: AbortSignal | undefined
    let cycle = 0
    const { clock } = this.#parts
    const compare = (there: HeldPoint): Promise<Compared> => compareContents(ours!, there, { ...options, clock })
    // What waits for the other side waits no longer.
    const close = async (): Promise<void> => { await Promise.allSettled([ours?.close(), theirs?.close()]) }
    const onAbort = (): void => { void close() }
    signal.addEventListener('abort', onAbort, { once: true })
    try {
      if (signal.aborted) throw new NbdeltaError('cancelled', 'the verification was cancelled')
      const witness: Witness = {
        frozen: (image, told) => {
          ours = new DeviceContent(image, { guard: spaceGuard(mirror.source()) })
          wanted = told
          told.addEventListener('abort', onAbort, { once: true })
          if (told.aborted) onAbort()
        },
        shipped: async device => { compared = await compare(new DeviceContent(device)) },
      }
      await mirror.cycle(witness, signal, async state => {
        cycle = state.cycle
        if (!compared) theirs = await target.hold(state.base!.point, signal)
      })
      compared ??= await compare(theirs!)
      const { found, digest } = compared
      await theirs?.tell?.({ result: found.length > 0 ? 'different' : 'equal', cycle, digest }).catch((error: unknown) => {
        this.#parts.logger.debug({ err: error }, 'the target was not told what a verification has found')
      })
      return { ...compared, cycle }
    } catch (error) {
      throw wanted?.aborted ? wanted.reason : error
    } finally {
      signal.removeEventListener('abort', onAbort)
      wanted?.removeEventListener('abort', onAbort)
      await close()
      mirror.tidy()
    }
  }
}
