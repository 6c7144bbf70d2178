/**
 * Settle: live itself holds all that the volume shows, durably, so that the file is a plain raw image when the volume goes and
 * somebody's own file stays.
 *
 * What is in the way, and what becomes of it
 *   inherited   a restore that copies, a clone: copied, without a limit from now on
 *   staged      moved to its place
 *   lent        the snapshot that has it gets the bytes, durably, before live gives them up: until the volume is gone it may stay
 *   stale       zeros, in live as well
 *
 * Limits: whoever goes on writing meanwhile is not waited for. What snapshots take over of the lent grains needs room.
 */
import { NbdeltaError } from '../device/errors.js'
import { EVERYTHING } from '../device/range-lock.js'
import { flushNow } from './core.js'
import { lockWhole } from './holds.js'
import type { VolumeParts } from './volume.js'

type Parts = Pick<VolumeParts, 'core' | 'gate' | 'inheritor' | 'points' | 'reclaimer'>

/** Errors: no-space, busy (what it inherits from is not open), io, flush-failed, wrong-state (it is closed). */
export async function settleLive({ core, gate, inheritor, points, reclaimer }: Parts): Promise<void> {
  if (points.refusal) throw points.refusal
  await inheritor.hurry()
  await points.inTurn(async () => {
    if (core.inherit.active) throw new NbdeltaError('busy', 'what it shows cannot be copied: the volume that has it is not open')
    await lockWhole(core)
    try {
      for (const { start, end } of [...core.chain.lentRuns(core.map.grains)]) await gate.admit(start, end)
    } finally {
      core.locks.unlock(0, EVERYTHING)
    }
  })
  await reclaimer.finishAll()
  await flushNow(core)
}
