/**
 * Schedules: takes snapshots of volumes by the clock and drops those that the rule does not keep (retention.ts).
 *
 * One timer for all volumes, and none while no volume has a schedule: an idle server then does not wake up. What is due is read
 * off the points that are there, so a restart neither misses one nor takes one twice. It wakes at least every CHECK_MS, for the
 * clock may be set meanwhile; a point is made when this hour (day, week) has none, whatever the clock said before.
 *
 * A point is made first, others are dropped afterwards. A volume that fails is tried again after RETRY_MS, then twice as long,
 * up to RETRY_MAX_MS; the log says so each time, and `schedule show` what it was. The other volumes do not wait for it.
 */
import { NbdeltaError, freePointName, judgeRetention, judgeFreezable, nextDue, planRetention } from './index.js'
import { usable } from './daemon-shared.js'
import type { ActionRow } from './control/admin.js'
import type { ScheduleRow, SchedulesAdmin } from './control/admin-points.js'
import type { Retention, Store, StoreVolume, WholeAt } from './index.js'

const CHECK_MS = 3_600_000
const RETRY_MS = 60_000
const RETRY_MAX_MS = 3_600_000

interface Clock {
  now(): number
  wallTime(): Date
  setTimeout(callback: () => void, delayMs: number): { cancel(): void }
}

interface Parts {
  readonly store: Pick<Store, 'list' | 'get' | 'scheduleOf' | 'setSchedule'>
  readonly clock: Clock
  /** What a volume has to hold of which a snapshot is taken. */
  readonly wholeAt?: WholeAt
  readonly logger: { info(fields: object, text: string): void, warn(fields: object, text: string): void }
}

interface Failure {
  readonly message: string
  /** By the monotonic clock. */
  readonly retryAtMs: number
  readonly waitMs: number
}

export class Schedules implements SchedulesAdmin {
  readonly #parts: Parts
  /** By uuid of the volume. */
  readonly #failures = new Map<string, Failure>()
  #timer: { cancel(): void } | undefined
  #running: Promise<void> = Promise.resolve()
  #stopped = false

  constructor(parts: Parts) { this.#parts = parts }

  start(): void { this.#arm() }

  /** What runs has ended, and nothing begins any more. */
  async stop(): Promise<void> {
    this.#stopped = true
    this.#timer?.cancel()
    await this.#running
  }

  async set({ volume: of, rule, dryRun }: Parameters<SchedulesAdmin['set']>[0]): Promise<ScheduleRow> {
    const volume = this.#usable(of)
    const judged = judgeRetention(rule)
    if (!dryRun) {
      await this.#parts.store.setSchedule(of, { ...judged })
      this.#failures.delete(volume.uuid)
      this.#arm()
    }
    return this.#row(volume, judged, dryRun)
  }

  async show(of: string): Promise<ScheduleRow> {
    const volume = this.#usable(of)
    return this.#row(volume, this.#ruleOf(volume), false)
  }

  async clear({ volume: of, dryRun }: Parameters<SchedulesAdmin['clear']>[0]): Promise<ActionRow> {
    const volume = this.#usable(of)
    const had = this.#ruleOf(volume) !== undefined
    if (had && !dryRun) {
      await this.#parts.store.setSchedule(of, null)
      this.#failures.delete(volume.uuid)
      this.#arm()
    }
    return { target: of, changed: had && !dryRun, dryRun, steps: had ? [`end the schedule of ${of}; its snapshots stay`] : [] }
  }

  #usable(name: string): StoreVolume {
    return usable({ get: this.#parts.store.get.bind(this.#parts.store) }, name)
  }

  #ruleOf({ name }: StoreVolume): Retention | undefined {
    const value = this.#parts.store.scheduleOf(name)
    return value === null ? undefined : judgeRetention(value)
  }

  #row(volume: StoreVolume, rule: Retention | undefined, dryRun: boolean): ScheduleRow {
    const now = this.#parts.clock.wallTime()
    const points = volume.points.list()
    if (!rule) {
      const none = { hourly: null, daily: null, weekly: null, keepBookmarks: null, nextAt: null, problem: null }
      return { volume: volume.name, ...none, dryRun, points: [] }
    }
    return {
      volume: volume.name, ...rule, nextAt: nextDue(points, rule, now).toISOString(),
      problem: this.#failures.get(volume.uuid)?.message ?? null, dryRun,
      points: planRetention(points, rule, now).map(({ point, keep, reasons }) => ({ name: point.name, keep, reasons })),
    }
  }

  /** Volumes with a schedule, and in how many ms each is due. */
  #waiting(): { readonly volume: StoreVolume, readonly rule: Retention, readonly waitMs: number }[] {
    const { store, clock } = this.#parts
    return store.list().filter(({ problem }) => !problem).flatMap(volume => {
      const rule = this.#ruleOf(volume)
      if (!rule) return []
      const now = clock.wallTime()
      const dueMs = nextDue(volume.points.list(), rule, now).getTime() - now.getTime()
      const failure = this.#failures.get(volume.uuid)
      return [{ volume, rule, waitMs: Math.max(0, dueMs, failure ? failure.retryAtMs - clock.now() : 0) }]
    })
  }

  #arm(): void {
    this.#timer?.cancel()
    this.#timer = undefined
    if (this.#stopped) return
    const waits = this.#waiting().map(({ waitMs }) => waitMs)
    if (waits.length === 0) return
    this.#timer = this.#parts.clock.setTimeout(() => { this.#wake() }, Math.min(CHECK_MS, ...waits))
  }

  #wake(): void {
    this.#running = this.#running.then(async () => {
      for (const { volume, rule, waitMs } of this.#waiting()) if (waitMs === 0 && !this.#stopped) await this.#run(volume, rule)
      this.#arm()
    })
  }

  /** Never rejects. */
  async #run(volume: StoreVolume, rule: Retention): Promise<void> {
    const { clock, logger } = this.#parts
    let failed: unknown
    await this.#take(volume, rule).catch((error: unknown) => { failed = error })
    // Also after a failure: a full disk may be what it failed of.
    await this.#drop(volume, rule).catch((error: unknown) => { failed ??= error })
    if (failed === undefined) { this.#failures.delete(volume.uuid); return }
    const waitMs = Math.min(RETRY_MAX_MS, 2 * (this.#failures.get(volume.uuid)?.waitMs ?? RETRY_MS / 2))
    const message = failed instanceof Error ? failed.message : String(failed)
    this.#failures.set(volume.uuid, { message, retryAtMs: clock.now() + waitMs, waitMs })
    logger.warn({ err: failed, volume: volume.name, retrySeconds: waitMs / 1000 }, 'a scheduled snapshot failed')
  }

  async #take(of: StoreVolume, { keepBookmarks }: Retention): Promise<void> {
    const { name: volume, points } = of
    const judge = (): void => { judgeFreezable(of, this.#parts.wholeAt) }
    const stem = `auto-${this.#parts.clock.wallTime().toISOString().replace(/[-:]|\.\d+/g, '')}`
    // The clock may have been put back to where it had been.
    const name = freePointName({ points }, stem, '-')
    const labels = { auto: 'schedule' }
    // Before the snapshot: what changed since the snapshot has then changed since the bookmark as well.
    const mark = `${name}-mark`
    if (keepBookmarks && !points.get(mark)) await points.create({ name: mark, kind: 'bookmark', labels, judge })
    await points.create({ name, kind: 'snapshot', labels, judge })
    this.#parts.logger.info({ volume, snapshot: name }, 'scheduled snapshot taken')
  }

  async #drop({ name: volume, points }: StoreVolume, rule: Retention): Promise<void> {
    for (const { point, keep } of planRetention(points.list(), rule, this.#parts.clock.wallTime())) {
      if (keep || this.#stopped) continue
      try {
        await points.delete(point.name)
        this.#parts.logger.info({ volume, [point.kind]: point.name }, 'dropped by its schedule')
      } catch (error) {
        // Read, pinned or deleted by somebody at this moment: the next time sees.
        if (!(error instanceof NbdeltaError) || (error.code !== 'busy' && error.code !== 'not-found')) throw error
      }
    }
  }
}
