// B1 B2 C11: the bitmap of an instant: exact, cut where asked, quick however many runs there are, and bounded.
import t from 'tap'
import { seededRandom } from '../../src/device/testing.js'
import { freezeBitmap } from '../../src/nbd/frozen-bitmap.js'

const UNIT = 4096
const MILLION = 2 ** 20

interface Run { readonly start: number, readonly end: number }
/** The slow twin: a state a byte. */
function statesOf(runs: readonly Run[], unitBytes: number, knownBytes: number, sizeBytes: number): number[] {
  return Array.from({ length: sizeBytes }, (_, at) =>
    at >= knownBytes || runs.some(({ start, end }) => at >= start * unitBytes && at < end * unitBytes) ? 1 : 0)
}
function* everyOther(count: number): Iterable<Run> {
  for (let i = 0; i < count; i++) yield { start: 2 * i, end: 2 * i + 1 }
}

t.test('B1: as the slow twin says, from every offset, in pieces of every length', async t => {
  const seed = Number(process.env['SEED'] ?? Date.now() % 2 ** 31)
  t.comment(`seed ${seed}`)
  const below = seededRandom(seed)
  for (let round = 0; round < 60; round++) {
    const unit = [1, 2, 5][below(3)]!
    const size = 1 + below(80)
    const known = below(3) === 0 ? below(size + 1) : size
    const runs: Run[] = []
    for (let at = below(4); at * unit < size; at += below(5)) {
      const end = at + 1 + below(4)
      runs.push({ start: at, end })
      at = end
    }
    const twin = statesOf(runs, unit, known, size)
    const bitmap = freezeBitmap(runs, unit, known)
    for (let offset = 0; offset < size; offset++) {
      const length = 1 + below(size - offset)
      const most = 1 + below(4)
      const { lengths, states } = await bitmap.extents(offset, length, most)
      t.ok(lengths.length >= 1 && lengths.length <= most && lengths.every((one) => one > 0))
      t.ok(states.every((state, i) => i === 0 || state !== states[i - 1]), 'merged')
      const told = states.flatMap((state, i) => Array.from({ length: lengths[i]! }, () => state))
      t.strictSame(told, twin.slice(offset, offset + told.length))
      t.ok(told.length === length || lengths.length === most, 'stops early only when full')
    }
  }
})

t.test('B2: 250,000 runs: frozen exactly, and a look-up walks only what it tells', async t => {
  const runs = 250_000
  const began = performance.now()
  const bitmap = freezeBitmap(everyOther(runs), UNIT, 2 * runs * UNIT)
  t.comment(`frozen in ${(performance.now() - began).toFixed(1)} ms, ${bitmap.bytes} bytes`)
  const asked = performance.now()
  for (let i = 0; i < 10_000; i++) await bitmap.extents((i * 7919 % (2 * runs)) * UNIT, UNIT, 16_384)
  t.comment(`${((performance.now() - asked) / 10).toFixed(2)} us a look-up`)
  const scanned = performance.now()
  let dirty = 0
  for (let at = 0; at < 2 * runs * UNIT;) {
    const { lengths, states } = await bitmap.extents(at, 2 * runs * UNIT - at, 16_384)
    t.ok(lengths.length <= 16_384)
    lengths.forEach((length, i) => { dirty += length * states[i]!; at += length })
  }
  t.comment(`whole map in ${(performance.now() - scanned).toFixed(1)} ms`)
  t.equal(dirty, runs * UNIT)
})

t.test('S7: more runs than the bound: nothing dirty is lost, the closest are joined, memory stays', async t => {
  const bitmap = freezeBitmap(everyOther(3 * MILLION), UNIT, 6 * MILLION * UNIT)
  t.ok(bitmap.bytes <= 2 ** 22, `${bitmap.bytes} bytes`)
  for (let i = 0; i < 3 * MILLION; i += 997) t.strictSame((await bitmap.extents(2 * i * UNIT, UNIT, 1)).states, [1])
  // Two clusters far apart stay apart, whatever is joined inside them.
  const clusters = [...everyOther(100), ...[...everyOther(100)].map(({ start, end }) => ({ start: start + 100_000, end: end + 100_000 }))]
  const few = freezeBitmap(clusters, UNIT, 200_000 * UNIT, 8)
  t.strictSame((await few.extents(1000 * UNIT, 90_000 * UNIT, 10)), { lengths: [90_000 * UNIT], states: [0] })
  t.ok(few.bytes <= 8 * 16)
})

t.test('C11: beyond what was known at that instant all is dirty', async t => {
  t.strictSame(await freezeBitmap([], UNIT, 3 * UNIT).extents(0, 10 * UNIT, 10), { lengths: [3 * UNIT, 7 * UNIT], states: [0, 1] })
  t.strictSame(await freezeBitmap([{ start: 2, end: 9 }], UNIT, 3 * UNIT).extents(0, 10 * UNIT, 10),
    { lengths: [2 * UNIT, 8 * UNIT], states: [0, 1] })
  t.strictSame(await freezeBitmap([{ start: 5, end: 9 }], UNIT, 3 * UNIT).extents(0, 10 * UNIT, 10),
    { lengths: [3 * UNIT, 7 * UNIT], states: [0, 1] })
})
