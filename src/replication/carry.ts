/**
 * Carry: a mirror that keeps snapshots (`keepSnapshots`) brings those that operators and schedules make on the source to the
 * target, each exactly and in order, by a cycle of its own in front of the one that was asked for. There it is declared like any
 * point, and stays when newer ones are declared, as long as it is one of the source's newest so many.
 *
 * Invariants
 * - Only what is newer than the base is carried: the target never goes back (C1). A bookmark is older than its image: a snapshot
 *   in between, or one that was taken while others were carried, is carried first, and the freeze is made again.
 * - A snapshot is base until the cycle behind it is declared, and pinned so long.
 *
 * In modes async and sync this is so while the mirror catches up; the last cycle becomes the stream. What is taken from the
 * instant of its image on has its place in the log, and is declared there (streaming.ts). Whatever a stream has brought is
 * older than the snapshots that are newer than the base then, since nothing is sent past one that was not declared: so a cycle
 * that carries those does not go back either.
 */
import { NbdeltaError } from '../device/errors.js'
import type { PointInfo } from '../volume/snappoint.js'
import type { StoreVolume } from '../volume/store-volume.js'
import { type CycleParts, type CycleResult, freezeNow, runCycle, type Witness } from './cycle.js'
import type { MirrorState } from './mirror-record.js'
import { type Frozen, snapshotsOf, type SourcePoints, unlessGone } from './source-points.js'

/** As `runCycle`; what it returns is the sum of all cycles, and the number of the last. The witness sees that one. */
export async function runCycles(parts: CycleParts, before: MirrorState): Promise<CycleResult> {
  if (!isPossible(parts, before)) return runCycle(parts, before)
  let state = before
  const put = async (next: MirrorState): Promise<void> => {
    await parts.put(next)
    state = next
  }
  for (let sum = { data: 0, zeros: 0, equal: 0, differing: 0 }; ;) {
    let carries = false
    const freeze = async (_: SourcePoints, __: StoreVolume, cycle: number): Promise<Frozen> => {
      const frozen = await freezeNext(parts, cycle, () => toCarry(parts, state))
      carries = frozen.bookmark.kind === 'snapshot'
      return frozen
    }
    const witness = parts.witness && lastOnly(parts.witness, () => !carries)
    const { cycle, data, zeros, equal, differing } = await runCycle({ ...parts, put, freeze, witness }, state)
    sum = {
      data: sum.data + data, zeros: sum.zeros + zeros, equal: sum.equal + equal, differing: sum.differing + differing,
    }
    if (!carries) return { ...sum, cycle }
  }
}

function lastOnly(witness: Witness, isLast: () => boolean): Witness {
  return {
    frozen: (image, wanted) => {
      if (isLast()) witness.frozen(image, wanted)
      else void image.close()
    },
    shipped: async device => { if (isLast()) await witness.shipped(device) },
  }
}

/** Newer than the base and a reversal; older ones the target has, or never will. Nothing, if everything is to be compared. */
function toCarry(
  { points, volume }: Pick<CycleParts, 'points' | 'volume'>, { base, passed, phase, keepSnapshots }: MirrorState,
): PointInfo[] {
  const from = base ? points.find(volume, base.point)?.seq : phase === 'copying' ? 0 : undefined
  return from === undefined ? [] : snapshotsOf(volume).slice(-keepSnapshots).filter(({ seq }) => seq > Math.max(from, passed))
}

function isPossible({ target, decide, ...parts }: CycleParts, state: MirrorState): boolean {
  if (state.keepSnapshots === 0 || target.keepsSnapshots) return state.keepSnapshots > 0
  const snapshots = toCarry(parts, state).length
  if (snapshots === 0) return false
  decide({ rule: 'snapshots-not-kept', inputs: { snapshots }, outcome: 'the nbdelta there is older: they are not carried' })
  return false
}

/** The first snapshot that waits; if none does, an instant of its own. Errors: busy, those of a freeze. */
async function freezeNext(parts: CycleParts, cycle: number, waiting: () => PointInfo[]): Promise<Frozen> {
  const { freeze, volume, stream } = parts
  const next = await holdFirst(parts, cycle, waiting())
  if (next) return next
  const frozen = await freezeNow(parts, cycle)
  const { bookmark, image } = frozen
  // In between: newer than the base will be, whether the target is to keep it or not.
  const between = snapshotsOf(volume).filter(({ seq }) => seq > bookmark.seq && seq < image.point.seq)
  const late = [...waiting().filter(({ seq }) => seq < bookmark.seq), ...between]
  if (late.length === 0) return frozen
  if (!freeze) {
    stream?.drop()
    await image.close()
    return await holdFirst(parts, cycle, late) ?? freezeNext(parts, cycle, waiting)
  }
  // What others freeze at the same instant cannot be frozen again.
  if (late.every(({ seq }) => seq < bookmark.seq)) {
    const outcome = 'they are not carried: the target goes on to what all were frozen with'
    parts.decide({ rule: 'snapshots-passed', inputs: { snapshots: late.length }, outcome })
    return frozen
  }
  await image.close()
  throw new NbdeltaError('busy', 'a snapshot of the source was taken in the middle of a freeze', { hint: 'try again' })
}

/** The first that is there still. */
async function holdFirst(
  { points, volume }: CycleParts, cycle: number, snapshots: readonly PointInfo[],
): Promise<Frozen | undefined> {
  for (const snapshot of snapshots) {
    const held = await points.hold(volume, cycle, snapshot).catch(unlessGone)
    if (held) return held
  }
  return undefined
}
