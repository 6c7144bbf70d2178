// GrainBitmap against a slow twin: every operation, at page boundaries, through resizes.
import t from 'tap'
import { GrainBitmap, PAGE_BITS } from '../../native-free/index.js'
import { difference, generator, SEED, SlowBitmap } from './twin.js'

t.comment(`seed ${SEED}`)

/** A range that likes to begin and end at page and word borders. */
function range(random: (below: number) => number, length: number): [number, number] {
  const edge = (): number => {
    const near = [0, PAGE_BITS, 2 * PAGE_BITS, length][random(4)] + random(5) - 2
    return Math.min(length, Math.max(0, random(2) ? near : random(length + 1)))
  }
  const [a, b] = [edge(), edge()]
  return a <= b ? [a, b] : [b, a]
}

function oneStep(random: (below: number) => number, fast: GrainBitmap, slow: SlowBitmap): string {
  const [from, to] = range(random, fast.length)
  const kind = random(12)
  if (kind < 4) { fast.set(from, to); slow.put(from, to, true); return `set ${from} ${to}` }
  if (kind < 8) { fast.clear(from, to); slow.put(from, to, false); return `clear ${from} ${to}` }
  if (kind === 8) {
    const length = Math.max(1, fast.length + random(9) - 4 + [0, 0, 1, -1][random(4)] * random(PAGE_BITS))
    const fill = random(2) === 1
    fast.resize(length, fill); slow.resize(length, fill)
    return `resize ${length} ${fill}`
  }
  if (kind === 9) {
    const page = random(fast.pageCount)
    const value = random(2) === 1
    fast.fillPage(page, value); slow.put(page * PAGE_BITS, Math.min(fast.length, (page + 1) * PAGE_BITS), value)
    return `fillPage ${page} ${value}`
  }
  const other = new GrainBitmap(fast.length, random(2) === 1)
  const twin = new SlowBitmap(fast.length, other.get(0))
  other.clear(from, to); twin.put(from, to, false)
  const [a, b] = range(random, fast.length)
  other.set(a, b); twin.put(a, b, true)
  if (kind === 10) { fast.or(other); slow.bits = slow.bits.map((bit, i) => bit || twin.bits[i]) }
  else { fast.andNot(other); slow.bits = slow.bits.map((bit, i) => bit && !twin.bits[i]) }
  return kind === 10 ? 'or' : 'andNot'
}

t.test('every edit leaves what the slow twin has', async t => {
  const random = generator(SEED)
  for (const length of [1, 31, 33, PAGE_BITS - 1, PAGE_BITS, PAGE_BITS + 1, 2 * PAGE_BITS + 777]) {
    const fill = random(2) === 1
    const fast = new GrainBitmap(length, fill)
    const slow = new SlowBitmap(length, fill)
    for (let step = 0; step < 30; step++) {
      const did = oneStep(random, fast, slow)
      const wrong = difference(fast, slow)
      if (wrong) { t.fail(`length ${length} step ${step} ${did}: ${wrong}`); return }
    }
  }
  t.pass()
})

t.test('bitmaps that have been copied from each other stay independent', async t => {
  const random = generator(SEED + 7)
  const length = 3 * PAGE_BITS + 99
  const pool = Array.from({ length: 4 }, () => ({ fast: new GrainBitmap(length), slow: new SlowBitmap(length) }))
  for (let step = 0; step < 300; step++) {
    const [to, from] = [random(4), random(4)]
    const { fast, slow } = pool[to]
    const other = pool[from]
    const [a, b] = range(random, length)
    const kind = random(6)
    if (kind === 0) { fast.set(a, b); slow.put(a, b, true) }
    else if (kind === 1) { fast.clear(a, b); slow.put(a, b, false) }
    else if (kind === 2) { fast.or(other.fast); slow.bits = slow.bits.map((bit, i) => bit || other.slow.bits[i]) }
    else if (kind === 3 && to !== from) { fast.andNot(other.fast); slow.bits = slow.bits.map((bit, i) => bit && !other.slow.bits[i]) }
    else if (kind === 4) {
      const copy = new SlowBitmap(length)
      copy.bits = [...other.slow.bits]
      pool[to] = { fast: other.fast.clone(), slow: copy }
    } else {
      fast.resize(length + PAGE_BITS, true)
      fast.resize(length, false)
    }
    for (const [i, { fast, slow }] of pool.entries()) {
      const wrong = difference(fast, slow)
      if (wrong) { t.fail(`step ${step}, kind ${kind} of ${to} from ${from}: bitmap ${i}: ${wrong}`); return }
    }
    const within = pool[to].slow.bits.every((bit, i) => !bit || pool[from].slow.bits[i])
    if (pool[to].fast.isWithin(pool[from].fast) !== within) { t.fail(`step ${step}: isWithin is not ${within}`); return }
  }
  t.pass()
})

t.test('every question has the slow twin\'s answer', async t => {
  const random = generator(SEED + 1)
  const length = 2 * PAGE_BITS + 1234
  const fast = new GrainBitmap(length)
  const slow = new SlowBitmap(length)
  for (let i = 0; i < 40; i++) oneStep(random, fast, slow)
  for (let i = 0; i < 2000; i++) {
    const [from, to] = range(random, fast.length)
    const value = random(2) === 1
    const next = slow.next(from, to, value)
    if (fast.next(from, to, value) !== next) { t.fail(`next ${from} ${to} ${value}`); return }
    if (fast.isAll(from, to, !value) !== (next === to)) { t.fail(`isAll ${from} ${to} ${value}`); return }
    if (fast.count(from, to) !== slow.count(from, to)) { t.fail(`count ${from} ${to}`); return }
    if (from < to && fast.runEnd(from, to) !== slow.next(from, to, !slow.bits[from])) { t.fail(`runEnd ${from} ${to}`); return }
  }
  for (let i = 0; i < 50; i++) {
    const [from, to] = range(random, fast.length)
    const wanted: { start: number, end: number }[] = []
    for (let at = from; at < to; at++) {
      if (!slow.bits[at]) continue
      if (wanted.at(-1)?.end === at) wanted.at(-1)!.end++
      else wanted.push({ start: at, end: at + 1 })
    }
    if (JSON.stringify([...fast.runs(from, to)]) !== JSON.stringify(wanted)) { t.fail(`runs ${from} ${to}`); return }
  }
  t.same([...fast.runs(fast.length + 1)], [], 'nothing lies behind the end')
  t.pass()
})

t.test('pages go out and come back', async t => {
  const random = generator(SEED + 2)
  const fast = new GrainBitmap(2 * PAGE_BITS + 99)
  const slow = new SlowBitmap(fast.length)
  for (let i = 0; i < 30; i++) {
    const [from, to] = range(random, fast.length)
    const half = to - (to - from >> 1)
    fast.set(from, half)
    slow.put(from, half, true)
  }
  const copy = new GrainBitmap(fast.length)
  for (let page = 0; page < fast.pageCount; page++) copy.loadPage(page, fast.pageBytes(page))
  t.equal(difference(copy, slow), undefined)
  t.ok(copy.equals(fast))
  const clone = fast.clone()
  fast.clear(0, fast.length)
  t.ok(clone.equals(copy), 'a clone is independent')
  t.notOk(clone.equals(fast))
  copy.loadPage(2, Buffer.alloc(4096, 0xff))
  t.equal(copy.count(2 * PAGE_BITS), 99, 'bits past the length are ignored')
  t.equal(copy.pageKind(2), 1)
})

t.test('the twin test can fail: a planted fault shows', async t => {
  const fast = new GrainBitmap(PAGE_BITS + 5)
  const slow = new SlowBitmap(PAGE_BITS + 5)
  fast.set(PAGE_BITS - 1, PAGE_BITS + 1); slow.put(PAGE_BITS - 1, PAGE_BITS, true)
  t.equal(difference(fast, slow), `bit ${PAGE_BITS} is true`)
})

t.test('a range outside, or a twin of another length, throws', async t => {
  const map = new GrainBitmap(10)
  t.throws(() => map.set(0, 11), RangeError)
  t.throws(() => map.clear(-1, 1), RangeError)
  t.throws(() => map.get(10), RangeError)
  t.throws(() => map.next(5, 4, true), RangeError)
  t.throws(() => map.or(new GrainBitmap(11)), RangeError)
  t.throws(() => map.loadPage(1, Buffer.alloc(4096)), RangeError)
  t.throws(() => new GrainBitmap(-1), RangeError)
  t.equal(new GrainBitmap(0).count(), 0)
})
