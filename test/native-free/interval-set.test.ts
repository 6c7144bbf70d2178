// IntervalSet against a slow twin: one boolean a number.
import t from 'tap'
import { IntervalSet, type Interval } from '../../native-free/index.js'
import { generator, SEED, SlowBitmap } from './twin.js'

t.comment(`seed ${SEED}`)
const SPACE = 120

/** The ranges as the twin sees them. */
function rangesOf(slow: SlowBitmap): Interval[] {
  const ranges: Interval[] = []
  for (let at = slow.next(0, SPACE, true); at < SPACE;) {
    const end = slow.next(at, SPACE, false)
    ranges.push({ start: at, end })
    at = slow.next(end, SPACE, true)
  }
  return ranges
}

/** What differs, in words. `base` moves the numbers up, beyond int32. */
function difference(fast: IntervalSet, slow: SlowBitmap, base: number): string | undefined {
  const expected = rangesOf(slow).map(({ start, end }) => ({ start: start + base, end: end + base }))
  const found = [...fast]
  if (JSON.stringify(found) !== JSON.stringify(expected)) return `${JSON.stringify(found)} instead of ${JSON.stringify(expected)}`
  if (fast.size !== expected.length || fast.total !== slow.count(0, SPACE)) return `size ${fast.size}, total ${fast.total}`
  if (JSON.stringify(fast.first()) !== JSON.stringify(expected[0])) return 'first'
  for (let i = 0; i < SPACE; i++) if (fast.has(base + i) !== slow.bits[i]) return `has ${i}`
  return undefined
}

function overlapping(fast: IntervalSet, slow: SlowBitmap, base: number, from: number, to: number): boolean {
  const wanted = rangesOf(slow).filter(({ start, end }) => start < to && end > from)
  const found = [...fast.overlapping(base + from, base + to)]
  return JSON.stringify(found.map(({ start, end }) => ({ start: start - base, end: end - base }))) === JSON.stringify(wanted)
}

for (const base of [0, 2 ** 31 - 60, 2 ** 32 - 60, 2 ** 52]) {
  t.test(`edits and questions around ${base}`, async t => {
    const random = generator(SEED + base % 1000)
    const fast = new IntervalSet()
    const slow = new SlowBitmap(SPACE)
    for (let step = 0; step < 1500; step++) {
      const start = random(SPACE)
      const end = start + 1 + random(Math.min(SPACE - start, 1 + random(30)))
      const adds = random(2) === 1
      if (adds) fast.add(base + start, base + end)
      else fast.remove(base + start, base + end)
      slow.put(start, end, adds)
      const [from, to] = [random(SPACE / 2), SPACE / 2 + random(SPACE / 2) + 1]
      const wrong = difference(fast, slow, base) ??
        (fast.overlaps(base + from, base + to) === (slow.next(from, to, true) < to) ? undefined : `overlaps ${from} ${to}`) ??
        (overlapping(fast, slow, base, from, to) ? undefined : `overlapping ${from} ${to}`)
      if (wrong) { t.fail(`step ${step} ${adds ? 'add' : 'remove'} ${start} ${end}: ${wrong}`); return }
    }
    t.ok(slow.count(0, SPACE) > 0)
    fast.clear()
    t.equal(difference(fast, new SlowBitmap(SPACE), base), undefined)
  })
}

t.test('the twin test can fail: a planted fault shows', async t => {
  const fast = new IntervalSet()
  const slow = new SlowBitmap(SPACE)
  fast.add(3, 6); slow.put(3, 7, true)
  t.match(difference(fast, slow, 0), 'instead of')
})

t.test('an empty or backward range throws', async t => {
  const set = new IntervalSet()
  for (const [start, end] of [[1, 1], [2, 1], [0, NaN], [0, 2 ** 53]] as const) {
    t.throws(() => set.add(start, end), RangeError)
    t.throws(() => set.remove(start, end), RangeError)
  }
})
