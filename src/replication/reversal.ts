/**
 * Reversal: a split pair becomes one again with the target's content. The source shows that at once, by a restore with an undo
 * point; what differs is copied in the background (SEEDS D11, X4). Several at one instant, by one record of the store, or none.
 *
 *   1. settle    as for a cycle: which point is the target at?
 *   2. freeze    the target's content as of one instant; from here to the end nobody else writes to it (target.ts)
 *   3. mark      a bookmark of the source: what changes on it from here on is known
 *   4. pull      from a target elsewhere what differs of what either side has changed, into a volume beside the source
 *                (pulled.ts)
 *   5. restore   of the sources, one durable record: from the target's snapshot, or from what was pulled. They have the content
 *   6. accept    each target declares that it is at a bookmark of the source, and is the mirror's again
 *   7. record    of the mirrors that are paired now
 *
 * Cut short before 5, nothing has happened: the pair is split, and what was pulled goes. Behind 5 the source has the content
 * and the pair may still be split, or the target know that it is not and the mirror's record not: what settles next finds the
 * newer point, and a second reversal has nothing to restore. Accepting before the restore instead, a crash would leave a
 * target that declares what the source does not have.
 *
 * The point that is declared is a second bookmark, made behind the restore, so that the next cycle does not ship what has just
 * come from there; but if the source was written to in between, or has no time or room for that, the first one, whose map has
 * all that, and the restore's marks.
 *
 * The source may be written to all the while (if its clients know what they do): a grain that was written since 3 and is
 * neither in the maps nor pulled would show neither side's content as a whole. So that is looked at again when the volume is
 * held.
 */
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { divCeil } from '../../native-free/integer.js'
import { allSettled } from '../device/all-settled.js'
import type { BlockDevice } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import type { InheritJob } from '../volume/copier.js'
import type { PointInfo } from '../volume/snappoint.js'
import type { RestoreOptions } from '../volume/restore.js'
import type { StoreVolume } from '../volume/store-volume.js'
import type { ChangeWatcher } from '../volume/watchers.js'
import { caughtUp, type CycleParts, type Decision, settle } from './cycle.js'
import { bytesOf, fitted } from './grain-bytes.js'
import type { MirrorState } from './mirror-record.js'
import { changedBeside, changedMeanwhile, type Pulled, type PulledVolumes } from './pulled.js'
import type { TargetSession } from './target.js'

export type WantedRestore = RestoreOptions & { readonly volume: string }

/** What the mirror's record is to say, and why. */
export interface Reversed { readonly state: MirrorState, readonly decision: Decision }

export class Reversal {
  /** Undefined: the source has the content already. */
  readonly restore: WantedRestore | undefined
  readonly #parts: CycleParts
  readonly #state: MirrorState
  readonly #session: TargetSession
  readonly #mark: PointInfo
  readonly #decision: Decision
  readonly #drop: (job: InheritJob | undefined) => Promise<void>
  readonly #quiet: Quiet

  private constructor(parts: CycleParts, state: MirrorState, session: TargetSession, found: Found, pulls: PulledVolumes) {
    this.#parts = parts
    this.#state = state
    this.#session = session
    this.#mark = found.mark
    this.#decision = found.decision
    this.#quiet = new Quiet(parts.volume)
    const { volume } = parts
    const { content, pulled } = found
    this.restore = content && {
      ...content, volume: volume.name, atInstant: () => { this.#quiet.begin() },
      whenHeld: () => {
        if (volume.sizeBytes !== found.mark.sizeBytes) throw changedMeanwhile(volume.name)
        // The target's own snapshot has every grain; what was pulled has only these.
        if (!pulled) content.within?.or(fitted(volume.points.changedMap(found.mark.name), content.within.length))
        else if (changedBeside(volume, found.mark.name, pulled.taken).count() > 0) throw changedMeanwhile(volume.name)
      },
    }
    this.#drop = async job => {
      if (!pulled) return
      const dropped = pulls.drop(pulled.volume, job?.finished)
      if (!job) await dropped
    }
  }

  /** Steps 1 to 4. Errors: cancelled, wrong-state, busy, and whatever both sides report; then nothing is left of it. */
  static async prepare(parts: CycleParts, before: MirrorState, pulls: PulledVolumes): Promise<Reversal> {
    const { volume, target, signal } = parts
    const session = await target.open({ mayBegin: false })
    const close = (): void => { session.close().catch(() => undefined) }
    signal.addEventListener('abort', close, { once: true })
    try {
      if (signal.aborted) throw new NbdeltaError('cancelled', 'the reversal was cancelled')
      const base = settle(parts, before, session)
      const state = await caughtUp(parts, before, base, session.root ?? null)
      const found = await find(parts, state, session, base, pulls)
      return new Reversal(parts, state, session, found, pulls)
    } catch (error) {
      await session.close()
      throw signal.aborted ? new NbdeltaError('cancelled', `the reversal of ${volume.name} was cancelled`) : error
    } finally {
      signal.removeEventListener('abort', close)
    }
  }

  /** Step 6; the source shows the content. Errors: those of the target, or that it was not waited for. */
  async finish({ signal }: CycleParts): Promise<Reversed> {
    const { volume } = this.#parts
    const { uuid, createdAt, sizeBytes } = await this.#declared()
    const cycle = this.#state.cycle + 1
    signal.addEventListener('abort', () => { this.#session.close().catch(() => undefined) }, { once: true })
    try {
      await this.#session.accept({ uuid, cycle, sizeBytes })
    } catch (error) {
      if (!(error instanceof NbdeltaError)) throw error
      const hint = 'once more nbdelta mirror resync --reverse, which has little left to do'
      throw new NbdeltaError(error.code, `${volume.name} shows what its target had, but they are still split: ${error.message}`,
        { hint, cause: error })
    }
    const base = { point: uuid, at: createdAt, root: null }
    // Older than what was restored, though perhaps newer than the base, which may be the first bookmark.
    const passed = volume.points.list().at(-1)?.seq ?? 0
    return { state: { ...this.#state, phase: 'paired', keep: false, cycle, base, passed }, decision: this.#decision }
  }

  /** @param restored what copies; `unknown`: only the next start knows whether the source was restored */
  async close(restored: InheritJob | 'nothing' | 'unknown'): Promise<void> {
    this.#quiet.end()
    await allSettled([
      this.#session.close(), restored === 'unknown' ? undefined : this.#drop(restored === 'nothing' ? undefined : restored),
    ])
  }

  async #declared(): Promise<PointInfo> {
    const { points, volume } = this.#parts
    if (!this.#quiet.hasBegun) return this.#mark
    let isQuiet = false
    const atInstant = (): void => { isQuiet = this.#quiet.end() }
    const later = await points.bookmark(volume, this.#state.cycle + 1, { atInstant }).catch((error: unknown) => {
      if (!(error instanceof NbdeltaError)) throw error
      // The source has the content already: the first one will do, and the next cycle looks at what came from there again.
      return undefined
    })
    return isQuiet && later ? later : this.#mark
  }
}

interface Found {
  readonly mark: PointInfo
  readonly decision: Decision
  /** `within` is ours. */
  readonly content: Pick<RestoreOptions, 'from' | 'sourceVolume' | 'within'> | undefined
  readonly pulled: Pulled | undefined
}

async function find(
  parts: CycleParts, state: MirrorState, session: TargetSession, base: PointInfo | undefined, pulls: PulledVolumes,
): Promise<Found> {
  const { volume, target, points } = parts
  const cycle = state.cycle + 1
  const frozen = await session.freeze(cycle)
  const fits = 'mayBeLarger' in frozen ? frozen.sizeBytes >= volume.sizeBytes : frozen.sizeBytes === volume.sizeBytes
  if (!fits) {
    const sizes = `${target.label} has ${frozen.sizeBytes} bytes, ${volume.name} ${volume.sizeBytes}`
    throw new NbdeltaError('wrong-state', sizes, { hint: 'nbdelta volume resize makes them alike' })
  }
  const mark = await points.bookmark(volume, cycle)
  const within = base && await session.changed()
  if (base && within) within.or(fitted(volume.points.changedMap(base.name), within.length))
  const pulled = 'device' in frozen ? await pull(parts, state, { device: frozen.device, mark, within }, pulls) : undefined
  const content = 'device' in frozen ? contentOf(pulled!)
    : { from: frozen.snapshot, sourceVolume: frozen.volume, ...within && { within } }
  const bytes = (map: GrainBitmap): number => bytesOf(map, volume.grainBytes, volume.sizeBytes)
  const looked = within ? bytes(within) : volume.sizeBytes
  const decision = {
    rule: within ? 'reverse-union-of-both-maps' : 'reverse-all',
    inputs: { base: base?.uuid ?? null, looked, pulled: pulled ? bytes(pulled.taken) : null },
    outcome: 'the source shows what the target had',
  }
  return { mark, decision, content, pulled }
}

/** Undefined: nothing differs. */
function contentOf({ snapshot, volume, taken }: Pulled): Found['content'] {
  return taken.count() > 0 ? { from: snapshot, sourceVolume: volume, within: taken } : undefined
}

function pull(
  { volume, clock, signal, onProgress, mirror }: CycleParts, { cycle, bytesPerSecond }: MirrorState,
  { device, mark, within }: { readonly device: BlockDevice, readonly mark: PointInfo, readonly within: GrainBitmap | undefined },
  pulls: PulledVolumes,
): Promise<Pulled> {
  const map = within ?? new GrainBitmap(divCeil(volume.sizeBytes, volume.grainBytes), true)
  return pulls.pull({
    mirror, cycle: cycle + 1, source: volume, from: device, map, since: mark.name, bytesPerSecond, clock, signal, onProgress,
  })
}

/** Whether anybody has changed the source since an instant. */
class Quiet implements ChangeWatcher {
  readonly #volume: StoreVolume
  #unwatch: (() => void) | undefined
  #changed = false

  constructor(volume: StoreVolume) { this.#volume = volume }

  get hasBegun(): boolean { return this.#unwatch !== undefined }

  begin(): void { this.#unwatch = this.#volume.watch(this) }

  /** True: nobody has. */
  end(): boolean {
    this.#unwatch?.()
    return !this.#changed
  }

  wrote(): undefined { this.#changed = true }
  zeroed(): undefined { this.#changed = true }
  flushed(): undefined { /* is no change */ }
  restored(_: GrainBitmap, content: BlockDevice): void {
    this.#changed = true
    void content.close()
  }
  pointed(): void { /* is no change */ }
  lost(): void { this.#changed = true }
}
