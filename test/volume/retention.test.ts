// Retention: named reasons, what is never dropped, clocks that jump; and random histories against a slow twin.
import t from 'tap'
import { SCHEDULED_BOOKMARKS_MAX, judgeRetention, nextDue, planRetention } from '../../src/volume/retention.js'
import { seededRandom } from '../../src/device/testing.js'
import type { PointInfo } from '../../src/volume/snappoint.js'
import type { Retention } from '../../src/volume/retention.js'

const HOUR = 3_600_000
const NOW = new Date('2026-03-04T05:30:00Z')
const rule = (kept: Partial<Retention>): Retention => judgeRetention(kept)

function point(seq: number, at: number | string, more: Partial<PointInfo> = {}): PointInfo {
  return {
    uuid: `u${seq}`, seq, name: `p${seq}`, kind: 'snapshot', createdAt: new Date(at).toISOString(), sizeBytes: 512,
    labels: { auto: 'schedule' }, group: null, pins: [], ...more,
  }
}
const told = (points: readonly PointInfo[], kept: Retention, now = NOW): Record<string, string> =>
  Object.fromEntries(planRetention(points, kept, now).map(({ point, keep, reasons }) =>
    [point.name, `${keep ? 'keep' : 'drop'}: ${reasons.join(', ')}`]))

t.test('reasons have names', async t => {
  const points = [
    point(1, '2026-03-01T23:10:00Z'), point(2, '2026-03-02T00:10:00Z'), point(3, '2026-03-02T00:50:00Z'),
    point(4, '2026-03-02T01:10:00Z', { labels: {} }), point(5, '2026-03-02T02:10:00Z'), point(6, '2026-03-03T02:10:00Z'),
  ]
  t.same(told(points, rule({ hourly: 2, daily: 3, weekly: 5 })), {
    p1: 'keep: daily 3, weekly 2', p2: 'drop: no rule keeps it', p3: 'drop: no rule keeps it', p4: 'keep: not by schedule',
    p5: 'keep: hourly 2, daily 2', p6: 'keep: hourly 1, daily 1, weekly 1',
  }, '1 March 2026 is a Sunday: the week before')
  t.match(told(points, rule({ hourly: 3 })), { p2: /drop/, p3: 'keep: hourly 3' }, 'the newest of its hour')
})

t.test('pins and labels protect, expired pins do not', async t => {
  const pin = (expiresAt: string | null): Partial<PointInfo> => ({ pins: [{ owner: 'backup', expiresAt }] })
  const points = [
    point(1, 0, pin(null)), point(2, HOUR, pin('2026-03-04T05:30:01Z')), point(3, 2 * HOUR, pin('2026-03-04T05:30:00Z')),
    point(4, 3 * HOUR, { labels: { auto: 'undo' } }), point(5, 4 * HOUR), point(6, 5 * HOUR, pin(null)),
  ]
  t.same(told(points, rule({ weekly: 1 })), {
    p1: 'keep: pinned by backup', p2: 'keep: pinned by backup', p3: 'drop: no rule keeps it', p4: 'keep: not by schedule',
    p5: 'drop: no rule keeps it', p6: 'keep: weekly 1, pinned by backup',
  })
})

t.test('bookmarks stand in nobody\'s place', async t => {
  const points = [point(1, 0, { kind: 'bookmark' }), point(2, 0), point(3, HOUR, { kind: 'bookmark' }), point(4, HOUR)]
  t.match(told(points, rule({ hourly: 1 })), { p1: /drop/, p2: /drop/, p3: /drop/, p4: 'keep: hourly 1' })
  t.match(told(points, rule({ hourly: 1, keepBookmarks: true })), { p1: 'keep: bookmark', p2: /drop/, p3: 'keep: bookmark' })
  const many = Array.from({ length: SCHEDULED_BOOKMARKS_MAX + 5 }, (_, index) => point(index + 1, 0, { kind: 'bookmark' }))
  const kept = planRetention(many, rule({ hourly: 1, keepBookmarks: true }), NOW).filter(({ keep }) => keep)
  t.equal(kept.length, SCHEDULED_BOOKMARKS_MAX)
  t.equal(kept[0]!.point.seq, 6, 'the newest ones')
})

t.test('X13: clocks that jump', async t => {
  const kept = rule({ hourly: 3 })
  const before = [point(1, 0), point(2, HOUR), point(3, 2 * HOUR)]
  t.match(told(before, kept, new Date('2126-01-01T00:00:00Z')), { p1: /keep/, p2: /keep/, p3: /keep/ }, 'now decides about nothing')
  const ahead = [...before, point(4, '2126-01-01T00:00:00Z')]
  t.match(told(ahead, kept), { p1: /drop/, p2: /keep/, p3: /keep/, p4: 'keep: hourly 1' }, 'one more hour, one less at the end')
  t.equal(nextDue(ahead, kept, new Date(3 * HOUR)).getTime(), 3 * HOUR, 'put back: the point from the future is not waited for')
  const back = [...ahead, point(5, 3 * HOUR)]
  t.match(told(back, kept), { p2: /drop/, p3: 'keep: hourly 3', p4: 'keep: hourly 2', p5: 'keep: hourly 1' }, 'newer is by number')
  const still = [...before, ...Array.from({ length: 50 }, (_, index) => point(index + 4, 2 * HOUR))]
  t.match(told(still, kept), { p1: /keep/, p2: /keep/, p3: /drop/, p53: 'keep: hourly 1' }, 'a clock that stands still')
})

t.test('when the next one is due', async t => {
  const rows: readonly [string, Partial<Retention>, PointInfo[], string, string][] = [
    ['none yet', { hourly: 1 }, [], '2026-03-04T05:30:00Z', '2026-03-04T05:30:00Z'],
    ['this hour has one', { hourly: 1 }, [point(1, '2026-03-04T05:00:00Z')], '2026-03-04T05:30:00Z', '2026-03-04T06:00:00Z'],
    ['the last hour had one', { hourly: 1 }, [point(1, '2026-03-04T04:59:59Z')], '2026-03-04T05:00:00Z', '2026-03-04T05:00:00Z'],
    ['daily', { daily: 7 }, [point(1, '2026-03-04T05:00:00Z')], '2026-03-04T05:30:00Z', '2026-03-05T00:00:00Z'],
    ['weekly', { weekly: 7 }, [point(1, '2026-03-04T05:00:00Z')], '2026-03-04T05:30:00Z', '2026-03-09T00:00:00Z'],
    ['the shortest counts', { hourly: 1, weekly: 7 }, [point(1, '2026-03-04T05:00:00Z')], '2026-03-04T05:30:00Z', '2026-03-04T06:00:00Z'],
    ['an operator\'s own is none', { hourly: 1 }, [point(1, '2026-03-04T05:00:00Z', { labels: {} })], '2026-03-04T05:30:00Z',
      '2026-03-04T05:30:00Z'],
  ]
  for (const [name, kept, points, now, due] of rows) {
    t.equal(nextDue(points, rule(kept), new Date(now)).toISOString(), new Date(due).toISOString(), name)
  }
})

t.test('rules that are none', async t => {
  for (const value of [{}, { hourly: 0 }, { hourly: -1 }, { daily: 1.5 }, { weekly: 1000 }, { hourly: 'x' }]) {
    t.throws(() => judgeRetention(value), { code: 'bad-argument' }, JSON.stringify(value))
  }
})

/** The definition, word by word: a bucket's rank is the number of buckets whose newest point is newer. */
function slowKept(points: readonly PointInfo[], kept: Retention): Set<string> {
  const names = new Set<string>()
  const scheduled = points.filter(({ labels, kind }) => labels.auto === 'schedule' && kind === 'snapshot')
  const start = (period: string, at: Date): string => {
    const day = new Date(Date.UTC(at.getUTCFullYear(), at.getUTCMonth(), at.getUTCDate()))
    if (period === 'hourly') return `${day.toISOString()} ${at.getUTCHours()}`
    if (period === 'weekly') day.setUTCDate(day.getUTCDate() - (day.getUTCDay() + 6) % 7)
    return day.toISOString()
  }
  for (const period of ['hourly', 'daily', 'weekly'] as const) {
    const buckets = new Map(scheduled.map(one => [one, start(period, new Date(one.createdAt))]))
    const bucket = (one: PointInfo): string => buckets.get(one)!
    const newestOf = (key: string): number => Math.max(...scheduled.filter(one => bucket(one) === key).map(({ seq }) => seq))
    const keys = [...new Set(scheduled.map(bucket))]
    for (const one of scheduled) {
      const newer = keys.filter(key => newestOf(key) > newestOf(bucket(one)))
      if (one.seq === newestOf(bucket(one)) && newer.length < kept[period]) names.add(one.name)
    }
  }
  for (const one of points) {
    if (one.labels.auto !== 'schedule' || one.pins.some(({ expiresAt }) => !expiresAt || Date.parse(expiresAt) > NOW.getTime())) {
      names.add(one.name)
    }
  }
  return names
}

t.test('random histories against the slow twin', async t => {
  const seed = Number(process.env.SEED ?? Date.now() % 1e6)
  t.comment(`seed ${seed}`)
  const below = seededRandom(seed)
  for (let round = 0; round < 200; round++) {
    const kept = rule({ hourly: below(6), daily: below(5), weekly: 1 + below(4) })
    let at = NOW.getTime() - below(1000) * HOUR
    const points = Array.from({ length: below(40) }, (_, index) => {
      // Now and then the clock is put forward or back.
      at += below(20) === 0 ? (below(2000) - 1000) * HOUR : below(12) * HOUR / 4
      const pins = below(8) === 0 ? [{ owner: 'o', expiresAt: below(2) ? null : new Date(NOW.getTime() + below(3) * 1000 - 1000).toISOString() }] : []
      return point(index + 1, at, { labels: below(6) === 0 ? {} : { auto: 'schedule' }, pins })
    })
    const shuffled = [...points].sort(() => below(3) - 1)
    const verdicts = planRetention(shuffled, kept, NOW)
    const expected = slowKept(points, kept)
    const found = new Set(verdicts.filter(({ keep }) => keep).map(verdict => verdict.point.name))
    const same = found.size === expected.size && [...found].every(name => expected.has(name))
    if (!same) { t.same([...found].sort(), [...expected].sort(), `round ${round}`); break }
    const newest = points.findLast(one => one.labels.auto === 'schedule')
    if (newest && !found.has(newest.name)) t.fail(`round ${round}: the newest goes`)
  }
})
