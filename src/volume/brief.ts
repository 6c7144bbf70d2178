/**
 * Brief: what only images need (snapshots for the length of a cycle, keepers.ts) is kept for them while their reader lives, and
 * no longer: old content goes to the image's file without a flush and without a record, in the turn of the write that comes over
 * it. An image that a crash has left is read by nobody, and swept by its maker, so what it kept may be gone with the process.
 *
 * Invariants
 * - A grain is kept briefly only if no older snapshot needs it: it owns the grain, or finds it in one that does for good. So
 *   nobody but readers of the image ever comes to what is brief. A merge (point-merge.ts) may hand it over to an older image,
 *   outside of whose bounds it is: in vain, and to nobody's harm.
 * - Whoever relies on what was read of the image flushes it first: else a disk that has lost some of it has told nobody.
 * - The image's map files, and the journal, never say that it owns such a grain.
 * - Marks are the gate's business as ever: they are durable, or announced, before live is overwritten.
 *
 * Where a disk does not answer at once nothing is kept, and the write takes the way of all others (staging.ts).
 */
import type { Pending } from '../device/block-device.js'
import { bytesOf, type VolumeCore } from './core.js'
import type { Needed } from './keepers.js'

/** A larger write takes so long that a few syncs more do not matter. */
const WRITE_BYTES_MAX = 256 * 1024

export class Brief {
  readonly #core: VolumeCore
  #buffer: Buffer | undefined
  /** Something was not done at once: until it is, the buffer is its. */
  #isWaiting = false

  constructor(core: VolumeCore) { this.#core = core }

  /**
   * Keeps what images alone need of grains [from, to), if it can be done at once. All of them are data, nothing that is under way
   * overlaps them, and nobody waits for the whole volume.
   */
  keep(from: number, to: number): void {
    const { staging, space, chain, grainBytes } = this.#core
    if (this.#isWaiting || (to - from) * grainBytes > WRITE_BYTES_MAX) return
    if (staging?.isPassing || staging?.meets(from, to)) return
    const runs = chain.briefRuns(from, to)
    if (!runs || runs.length === 0 || !space.roomFor(from, to)) return
    for (const run of runs) {
      if (!this.#copy(run)) return
      chain.keepBriefly(run.point!, run.start, run.end)
    }
  }

  /** False: it is not done, or not yet. */
  #copy(run: Needed): boolean {
    const { offset, length } = bytesOf(this.#core, run)
    const { preserved } = run.point!.files
    const buffer = this.#buffer ??= Buffer.allocUnsafe(WRITE_BYTES_MAX)
    try {
      // By the time that it has come live may hold something else: it is not kept.
      if (this.#isLater(this.#core.live.read(offset, length, buffer, 0))) return false
      // What lies behind the snapshot's end it never shows.
      return !this.#isLater(preserved!.write(offset, Math.min(length, preserved!.sizeBytes - offset), buffer, 0))
    } catch {
      // Whoever needs it and waits for it tells what is wrong.
      return false
    }
  }

  #isLater(pending: Pending): boolean {
    if (!pending) return false
    this.#isWaiting = true
    pending.catch(() => undefined).finally(() => { this.#isWaiting = false })
    return true
  }
}
