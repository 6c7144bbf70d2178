/**
 * Resize of an open volume: live, journal, catalog and memory, in an order that a crash can cut anywhere.
 *
 *   Grow     checkpoint -> live has the new size (of a block device: the new grains are stale, by a journal record), all
 *            durable -> catalog -> memory. Catalog first, and a crash leaves a volume larger than its live. Without the
 *            checkpoint, ranges that were stale before an earlier shrink would come back and hide new data. Where the catalog has
 *            failed it may say the new size all the same: that the new grains are stale the journal goes on saying.
 *   Shrink   catalog -> memory -> live is cut. Live first, and a crash leaves the old size with its end gone. A crash in
 *            between leaves live too long: it is cut at the next open, or before the next growth. Before all of it, what
 *            snapshots need of the end passes the gate like an overwrite; no space for that, and nothing is cut.
 *   Layers   a short last grain that is inherited is adopted, durably, before its end moves. Bitmaps grow before the catalog says
 *            so and shrink after, like the map: what lies behind their end is ignored.
 *   Points   the newest point's changed map grows before the catalog says so: what is not in the file reads as changed.
 *
 * The whole volume is locked meanwhile: requests wait, none fails.
 */
import { divCeil } from '../../native-free/integer.js'
import { NbdeltaError } from '../device/errors.js'
import { EVERYTHING } from '../device/range-lock.js'
import type { Checkpointer } from './checkpoint.js'
import { flushNow, type VolumeCore } from './core.js'
import { mapFileSizeBytes } from '../store/map-file.js'
import type { Adopter } from './adopter.js'
import type { Gate } from './gate.js'
import { lockWhole } from './holds.js'
import type { VolumePoints } from './points.js'
import type { Reclaimer } from './reclaim.js'
import { resized } from './restore-plan.js'

interface Parts {
  readonly core: VolumeCore
  readonly checkpointer: Checkpointer
  readonly reclaimer: Reclaimer
  readonly gate: Gate
  readonly adopter: Adopter
  readonly points: Pick<VolumePoints, 'refusal'>
}

/** In turn. @param commit makes the new size durable in the catalog */
export async function resizeVolume(parts: Parts, sizeBytes: number, commit: () => Promise<void>): Promise<void> {
  const { core, checkpointer, reclaimer, points } = parts
  // A point that may be there keeps what would be cut off.
  if (points.refusal) throw points.refusal
  await lockWhole(core)
  try {
    if (sizeBytes === core.sizeBytes) return await commit()
    // It also makes room in the journal, so that nothing below needs another one, which it keeps out.
    await checkpointer.run()
    await adoptEnd(parts, Math.min(sizeBytes, core.sizeBytes))
    if (sizeBytes < core.sizeBytes) await parts.gate.admit(Math.floor(sizeBytes / core.grainBytes), core.map.grains)
    await checkpointer.exclude(() => sizeBytes > core.sizeBytes ? grow(core, sizeBytes, commit) : shrink(core, sizeBytes, commit))
    core.watchers.lose('its size has changed')
    if (core.map.stale.size > 0) reclaimer.wake()
  } finally {
    core.locks.unlock(0, EVERYTHING)
  }
}

async function adoptEnd({ core, adopter }: Parts, end: number): Promise<void> {
  const start = Math.floor(end / core.grainBytes)
  if (end % core.grainBytes === 0 || !core.inherit.overlaps(start, start + 1)) return
  await adopter.adopt([{ start, end: start + 1 }])
  // Bitmaps that say so are about to be written: before INHERITED is durable, a power cut would leave the grain to nobody.
  await flushNow(core)
}

async function grow(core: VolumeCore, sizeBytes: number, commit: () => Promise<void>): Promise<void> {
  const { live, map, journal, grainBytes, inherit } = core
  const fresh = { start: map.grains, end: divCeil(sizeBytes, grainBytes) }
  const foreign = live.kind === 'block'
  if (foreign && live.sizeBytes < sizeBytes) {
    const hint = 'make it larger first; when it is a remote export, open the volume again then'
    throw new NbdeltaError('bad-argument', `the block device or export it lies on has only ${live.sizeBytes} bytes`, { hint })
  }
  if (foreign) await zeroTail(core, Math.min(sizeBytes, map.grains * grainBytes))
  else {
    const least = Math.max(core.sizeBytes, core.grownBytes)
    if (live.sizeBytes > least) await live.resize(least)
    if (sizeBytes > least) await live.resize(sizeBytes)
  }
  // A growth within the last grain adds none.
  const stale = foreign && fresh.start < fresh.end
  if (stale) await journal.append('zero', [fresh], () => undefined)
  await flushNow(core)
  if (core.mapDevice.sizeBytes < mapFileSizeBytes(fresh.end)) await core.mapDevice.resize(mapFileSizeBytes(fresh.end))
  await core.mapFile.resize(fresh.end)
  await core.mapFile.flush()
  const newest = core.chain.newest
  if (newest && newest.changed.length < fresh.end) await newest.files.resize(fresh.end)
  try {
    for (const { file, todo } of inherit.layers) await file.resize(resized(todo, fresh.end))
    await commit()
  } catch (error) {
    core.grownBytes = Math.max(core.grownBytes, sizeBytes)
    for (const { file, todo } of inherit.layers) await file.resize(todo)
    throw error
  }
  core.sizeBytes = sizeBytes
  core.grownBytes = 0
  map.resize(fresh.end)
  inherit.resize(fresh.end)
  core.chain.resize(fresh.end)
  if (stale) map.becomeStale(fresh.start, fresh.end)
}

/** The rest of the short last grain, up to `end`, belongs to the volume from now on. */
async function zeroTail(core: VolumeCore, end: number): Promise<void> {
  const length = end - core.sizeBytes
  if (length > 0) await core.live.write(core.sizeBytes, length, Buffer.alloc(length), 0)
}

async function shrink(core: VolumeCore, sizeBytes: number, commit: () => Promise<void>): Promise<void> {
  await commit()
  core.sizeBytes = sizeBytes
  core.grownBytes = 0
  core.map.resize(divCeil(sizeBytes, core.grainBytes))
  core.chain.resize(core.map.grains)
  core.inherit.resize(core.map.grains)
  try {
    await core.mapFile.resize(core.map.grains)
    for (const { file, todo } of core.inherit.layers) await file.resize(todo)
    if (core.live.kind !== 'block') await core.live.resize(sizeBytes)
  } catch (error) {
    // The volume has its new size whatever happens here; the next growth or open cuts live again.
    core.logger.warn({ err: error }, 'the volume is smaller now, but the space of its old end has not come back yet')
  }
}
