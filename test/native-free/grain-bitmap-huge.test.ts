// GrainBitmap where int32 arithmetic would break: indices around 2^31 and 2^32, 16 TiB volumes, uniform pages free of cost.
import t from 'tap'
import { GrainBitmap, PAGE_BITS } from '../../native-free/index.js'

const GRAINS_16_TIB = 2 ** 32

t.test('bits around 2^31 and 2^32', async t => {
  const map = new GrainBitmap(2 ** 32 + 2 ** 20)
  for (const edge of [2 ** 31, 2 ** 32]) {
    map.set(edge - 2, edge + 3)
    t.strictSame([-3, -2, -1, 0, 1, 2, 3].map(d => map.get(edge + d)), [false, true, true, true, true, true, false])
    t.equal(map.next(edge - 1000, edge + 1000, true), edge - 2)
    t.equal(map.runEnd(edge - 2, map.length), edge + 3)
    t.equal(map.count(edge - 1, edge + 1), 2)
  }
  t.equal(map.count(), 10)
  t.equal(map.next(2 ** 31 + 3, map.length, true), 2 ** 32 - 2)
  map.clear(2 ** 31 - 1, 2 ** 32)
  t.equal(map.count(), 4)
  t.ok(map.isAll(2 ** 31 - 1, 2 ** 32, false))
})

t.test('16 TiB of 4 KiB grains: made, set and cleared in no time, and small', async t => {
  const before = process.memoryUsage()
  const start = performance.now()
  const map = new GrainBitmap(GRAINS_16_TIB)
  const made = performance.now() - start
  const after = process.memoryUsage()
  const bytes = after.heapUsed - before.heapUsed + after.arrayBuffers - before.arrayBuffers
  t.ok(bytes < 2 * 2 ** 20, `${bytes} bytes`)
  t.comment(`made in ${made.toFixed(2)} ms`)
  map.set(1, GRAINS_16_TIB)
  t.equal(map.count(), GRAINS_16_TIB - 1)
  t.equal(map.pageKind(0), 2)
  t.equal(map.pageKind(1), 1)
  t.equal(map.next(1, GRAINS_16_TIB, false), GRAINS_16_TIB)
  map.clear(0, GRAINS_16_TIB - 1)
  t.equal(map.count(), 1)
  t.equal(map.pageKind(map.pageCount - 1), 2)
  t.equal(map.pageBytes(map.pageCount - 1)[4095], 0x80)
  map.resize(GRAINS_16_TIB + PAGE_BITS, true)
  t.equal(map.count(), PAGE_BITS + 1)
})
