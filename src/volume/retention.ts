/**
 * Retention: which scheduled points a volume keeps, and when the next one is due. Pure.
 *
 * `hourly: n` keeps the newest point of each of the n newest hours that have one at all; daily and weekly likewise. Hours, days
 * and weeks (from Monday on) are those of UTC. A point stays as long as one of the three keeps it, or somebody has it pinned.
 *
 * Invariants
 * - Only snapshots and bookmarks labelled `auto=schedule` are ever dropped, and of these none that is pinned.
 * - Newer and older are by `seq`, never by the clock (SEEDS X13), and "now" decides about no point: whatever the clock does, the
 *   n newest hours that have a point keep one. A clock that jumps ahead drops nothing that the passing of time would not.
 * - The newest scheduled snapshot always stays.
 */
import { NbdeltaError } from '../device/errors.js'
import type { PointInfo } from './snappoint.js'

const PERIODS = ['hourly', 'daily', 'weekly'] as const
type Period = typeof PERIODS[number]
/** Two years of weeks, a quarter of days, a month of hours: well below the points a volume may have. */
export const RETENTION_MAX: Readonly<Record<Period, number>> = { hourly: 400, daily: 200, weekly: 120 }
/** Of a schedule that keeps bookmarks. One takes at most 32 KiB a GiB of 4 KiB grains. */
export const SCHEDULED_BOOKMARKS_MAX = 200

const HOUR_MS = 3_600_000
const PERIOD_MS: Readonly<Record<Period, number>> = { hourly: HOUR_MS, daily: 24 * HOUR_MS, weekly: 7 * 24 * HOUR_MS }
/** 1970-01-01 was a Thursday: weeks begin four days later. */
const PERIOD_START_MS: Readonly<Record<Period, number>> = { hourly: 0, daily: 0, weekly: 4 * 24 * HOUR_MS }

export interface Retention extends Readonly<Record<Period, number>> {
  /** A bookmark is made beside each snapshot and outlives it: what changed since then can still be told. */
  readonly keepBookmarks: boolean
}

export interface Verdict {
  readonly point: PointInfo
  readonly keep: boolean
  /** `hourly 3`: it stands for the third newest hour. Also `pinned by X`, `not by schedule`, `bookmark`, `no rule keeps it`. */
  readonly reasons: readonly string[]
}

/** The rule, if `value` is one. Errors: bad-argument. */
export function judgeRetention(value: unknown): Retention {
  const { hourly, daily, weekly, keepBookmarks } = value as Partial<Retention>
  const rule = { hourly: hourly ?? 0, daily: daily ?? 0, weekly: weekly ?? 0, keepBookmarks: keepBookmarks ?? false }
  for (const period of PERIODS) {
    const count = rule[period]
    if (Number.isInteger(count) && count >= 0 && count <= RETENTION_MAX[period]) continue
    throw new NbdeltaError('bad-argument', `--${period} ${count}: a schedule keeps 0 to ${RETENTION_MAX[period]}`)
  }
  if (PERIODS.some(period => rule[period] > 0)) return Object.freeze(rule)
  throw new NbdeltaError('bad-argument', 'a schedule that keeps nothing', { hint: 'give --hourly, --daily or --weekly' })
}

/** Of every point, oldest first, whether it stays and why. @param now decides which pins have expired, and nothing else */
export function planRetention(points: readonly PointInfo[], rule: Retention, now: Date): Verdict[] {
  const newestFirst = points.filter(isScheduled).sort((a, b) => b.seq - a.seq)
  const reasons = new Map<PointInfo, string[]>(newestFirst.map(point => [point, []]))
  const snapshots = newestFirst.filter(({ kind }) => kind === 'snapshot')
  for (const period of PERIODS) {
    const seen = new Set<number>()
    for (const point of snapshots) {
      if (seen.size === rule[period]) break
      const bucket = bucketOf(period, Date.parse(point.createdAt))
      if (seen.has(bucket)) continue
      seen.add(bucket)
      reasons.get(point)!.push(`${period} ${seen.size}`)
    }
  }
  if (rule.keepBookmarks) {
    const bookmarks = newestFirst.filter(({ kind }) => kind === 'bookmark')
    for (const point of bookmarks.slice(0, SCHEDULED_BOOKMARKS_MAX)) reasons.get(point)!.push('bookmark')
  }
  return [...points].sort((a, b) => a.seq - b.seq).map(point => {
    const found = reasons.get(point) ?? ['not by schedule']
    const why = [...found, ...point.pins.filter(pin => holds(pin.expiresAt, now)).map(({ owner }) => `pinned by ${owner}`)]
    return why.length > 0 ? { point, keep: true, reasons: why } : { point, keep: false, reasons: ['no rule keeps it'] }
  })
}

/**
 * When the next point should be made: at the next full hour (day, week: the shortest that the rule keeps), or at once if this
 * one has none. A newest point from the future says nothing about this hour: the clock has been put back.
 */
export function nextDue(points: readonly PointInfo[], rule: Retention, now: Date): Date {
  const period = PERIODS.find(one => rule[one] > 0)!
  const newest = points.filter(isScheduled).reduce<PointInfo | undefined>((a, b) => a && a.seq > b.seq ? a : b, undefined)
  const current = bucketOf(period, now.getTime())
  if (!newest || bucketOf(period, Date.parse(newest.createdAt)) !== current) return now
  return new Date((current + 1) * PERIOD_MS[period] + PERIOD_START_MS[period])
}

function isScheduled({ labels }: PointInfo): boolean { return labels.auto === 'schedule' }

function holds(expiresAt: string | null, now: Date): boolean { return expiresAt === null || new Date(expiresAt) > now }

function bucketOf(period: Period, ms: number): number { return Math.floor((ms - PERIOD_START_MS[period]) / PERIOD_MS[period]) }
