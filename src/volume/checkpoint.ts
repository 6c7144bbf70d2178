/**
 * Checkpoint: the map file catches up with memory, and the journal shrinks to what it must still say.
 *
 * Order of disk writes, and what each other order would lose
 *   1. flush live. A scan turns grains that read as zeros into holes; were the page that says so durable before those
 *      zeros are, a power cut would bring the older bytes back underneath a hole, and the next write to a part of that
 *      grain would show them. (No scan clears anything between here and 3: it steps aside while `running`.)
 *   2. write the dirty map pages, flush the map. Were the journal cut first, OPEN records would be gone while the page
 *      that shows the filled grains is not there yet: data would read as a hole. A trim may come meanwhile: between
 *      looking at a page and writing it the journal is flushed. Otherwise a power cut could keep the cleared bit and lose
 *      the ZERO record: old bytes beneath a hole, shown by the next write to a part of that grain.
 *   3. rewrite the journal as a snapshot: stale ranges, regions that stay open, ranges kept allocated. Grains that
 *      became data between 2 and 3 may be missing in the pages, so their regions stay open (`touched`).
 *   Points: their maps are saved between 2 and 3, exact ones in two turns (point-store.ts); before a page is written the
 *   journal is synced, so that no bit is on disk whose record is not. What happened to them meanwhile (`fresh`) is in
 *   the snapshot: extents in which something was marked stay hot, grains that were preserved or lent are said again.
 *   Inherited: likewise the bitmaps of layers. Where the view was switched since the last checkpoint, what the undo point took
 *   over is saved before all of this (step 5 in restore.ts has why).
 * Cut short anywhere, the old journal still stands over newer pages. Replaying it over them only ever turns a hole into
 * data, never data into a hole: whatever it clears lies in a region that it also opens.
 *
 * When: on a clean close, when the journal is half full, when nothing was filled for a while, and when many regions are
 * open, which bounds what a crash leaves to scan: OPEN_REGIONS_MAX regions = 256 GiB at 4 KiB grains.
 */
import { divCeil } from '../../native-free/integer.js'
import { encodeRanges } from '../store/journal-records.js'
import type { LogRecord } from '../store/record-log-layout.js'
import { flushNow, type VolumeCore } from './core.js'
import { runsOf } from './journal.js'
import type { Run } from './volume-map.js'

const QUIET_MS = 5000
const OPEN_REGIONS_MAX = 256

export class Checkpointer {
  readonly #core: VolumeCore
  #running: Promise<void> | undefined
  #timer: { cancel(): void } | undefined
  #changesSeen = 0
  #stopped = false

  constructor(core: VolumeCore) {
    this.#core = core
  }

  /** While this is true nobody may turn data into holes on the strength of what live reads. */
  get running(): boolean { return this.#running !== undefined }

  /** Waits for the one that runs, or runs one: afterwards the journal is shorter than it was. */
  join(): Promise<void> {
    return this.#running ?? this.run()
  }

  /** Runs one that covers everything up to this call. Rejects when the disk fails. */
  async run(): Promise<void> {
    while (this.#running) await this.#running.catch(() => undefined)
    this.#running = this.#run()
    try {
      await this.#running
    } finally {
      this.#running = undefined
    }
  }

  /** `work` runs while no checkpoint does, and keeps one from beginning: it must not need one. */
  async exclude(work: () => Promise<void>): Promise<void> {
    while (this.#running) await this.#running.catch(() => undefined)
    this.#running = work()
    try {
      await this.#running
    } finally {
      this.#running = undefined
    }
  }

  /** Something happened that a checkpoint would tidy up: runs one soon if it must, else when all is quiet. */
  wanted(): void {
    const { map, journal, flushes } = this.#core
    if (this.#stopped || flushes.failure) return
    const urgent = map.open.size > OPEN_REGIONS_MAX + map.unscanned.size || journal.wantsCheckpoint
    if (urgent && !this.#running) this.#inBackground()
    else this.#timer ??= this.#core.clock.setTimeout(() => this.#tick(), QUIET_MS)
  }

  /** No more of them in the background; waits for the one that runs. */
  async stop(): Promise<void> {
    this.#stopped = true
    this.#timer?.cancel()
    while (this.#running) await this.#running.catch(() => undefined)
  }

  #tick(): void {
    this.#timer = undefined
    if (this.#stopped) return
    const { map } = this.#core
    if (map.changes === this.#changesSeen && !this.#running) return this.#inBackground()
    this.#changesSeen = map.changes
    this.#timer = this.#core.clock.setTimeout(() => this.#tick(), QUIET_MS)
  }

  #inBackground(): void {
    const { map, logger } = this.#core
    // Regions that were filled while it ran are still open, and nobody announces them again.
    const done = (): void => { if (map.open.size > map.unscanned.size) this.wanted() }
    this.run().then(done, (error: unknown) => {
      logger.error({ err: error }, 'a checkpoint of the volume failed; what it would have saved is still in the journal')
    })
  }

  async #run(): Promise<void> {
    const { map, mapFile, journal, logger, chain, inherit } = this.#core
    await this.#settle()
    const pages = map.beginCheckpoint()
    const points = chain.beginCheckpoint()
    const layers = inherit.beginCheckpoint()
    try {
      await flushNow(this.#core)
      await mapFile.save(map.data, pages, () => journal.sync())
      await mapFile.flush()
      for (const [point, dirty] of points) await point.files.save(point, dirty, () => journal.sync())
      for (const [layer, dirty] of layers) await layer.file.save(layer.todo, dirty, () => journal.sync())
    } catch (error) {
      map.dirtyAgain(pages)
      map.abandonCheckpoint()
      chain.abandonCheckpoint(points)
      inherit.abandonCheckpoint(layers)
      throw error
    }
    await journal.rewrite(() => this.#snapshot())
    for (const point of chain.points) point.said()
    logger.debug({ pages: pages.length, staleRuns: map.stale.size, openRegions: map.open.size }, 'checkpoint')
  }

  async #settle(): Promise<void> {
    const { inherit, journal } = this.#core
    for (const layer of inherit.layers) {
      if (layer.settled || !layer.undo) continue
      await layer.undo.files.save(layer.undo, layer.undo.dirtyPages, () => journal.sync())
      await layer.saveAll(() => journal.sync())
      await inherit.confirm(layer)
      layer.settled = true
    }
  }

  /**
   * In the order in which a replay needs them: what is kept is data, what is stale is not, and nothing of that is a change,
   * which it would be behind the record that says which point is the newest.
   */
  #snapshot(): LogRecord[] {
    const { map, chain, inherit } = this.#core
    const open = map.endCheckpoint()
    return [
      ...encodeRanges('open', runsOf(open)),
      ...inherit.endCheckpoint(),
      ...encodeRanges('unstale', map.kept),
      ...encodeRanges('zero', [...map.stale, ...this.#unclaimed()]),
      ...chain.endCheckpoint(),
    ]
  }
  /** Grains behind the end that somebody else may have written, and that the next open may find to belong here (resize.ts). */
  #unclaimed(): Run[] {
    const { live, map, grownBytes, grainBytes } = this.#core
    const end = divCeil(grownBytes, grainBytes)
    return live.kind === 'block' && end > map.grains ? [{ start: map.grains, end }] : []
  }
}
