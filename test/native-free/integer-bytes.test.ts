// Arithmetic and 64-bit fields against BigInt twins, with values around 2^31, 2^32 and 2^53.
import t from 'tap'
import { divCeil, isPowerOfTwo, readU64, roundDown, roundUp, writeU64 } from '../../native-free/index.js'
import { generator, SEED } from './twin.js'

t.comment(`seed ${SEED}`)
const random = generator(SEED)
const LIMIT = 2 ** 53 - 1
const EDGES = [0, 1, 2, 511, 512, 4095, 4096, 4097, 2 ** 31 - 1, 2 ** 31, 2 ** 31 + 1, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1,
  2 ** 52, LIMIT - 1, LIMIT]
const someNumber = (): number => random(3) ? EDGES[random(EDGES.length)] : Math.floor(random(2 ** 21) * 2 ** 32 + random(2 ** 32))

t.test('rounding and division agree with BigInt', async t => {
  for (let i = 0; i < 5000; i++) {
    const n = someNumber()
    const unit = random(2) ? 2 ** random(40) : 1 + random(100000)
    const [bigN, bigUnit] = [BigInt(n), BigInt(unit)]
    const up = (bigN + bigUnit - 1n) / bigUnit * bigUnit
    if (BigInt(roundDown(n, unit)) !== bigN / bigUnit * bigUnit) { t.fail(`roundDown ${n} ${unit}`); return }
    if (BigInt(divCeil(n, unit)) !== up / bigUnit) { t.fail(`divCeil ${n} ${unit}`); return }
    if (up > BigInt(LIMIT)) t.throws(() => roundUp(n, unit), RangeError)
    else if (BigInt(roundUp(n, unit)) !== up) { t.fail(`roundUp ${n} ${unit}`); return }
  }
  t.pass()
})

t.test('powers of two', async t => {
  for (let power = 0; power <= 52; power++) {
    t.ok(isPowerOfTwo(2 ** power))
    if (power > 1) t.notOk(isPowerOfTwo(2 ** power - 1) || isPowerOfTwo(2 ** power + 1))
  }
  for (const n of [0, -1, -4, 0.5, NaN, Infinity, 2 ** 53, 3 * 2 ** 31]) t.notOk(isPowerOfTwo(n), String(n))
})

t.test('u64 fields agree with the BigInt ones of Buffer', async t => {
  const buf = Buffer.alloc(24)
  for (let i = 0; i < 2000; i++) {
    const n = someNumber()
    const at = random(17)
    writeU64(buf, at, n)
    if (buf.readBigUInt64BE(at) !== BigInt(n) || readU64(buf, at) !== n) { t.fail(`${n} at ${at}`); return }
  }
  t.pass()
})

t.test('what a Number cannot hold is refused, not rounded', async t => {
  const buf = Buffer.alloc(8)
  buf.writeBigUInt64BE(2n ** 53n)
  t.throws(() => readU64(buf, 0), RangeError)
  buf.fill(0xff)
  t.throws(() => readU64(buf, 0), RangeError)
  t.throws(() => readU64(buf, 1), RangeError, 'past the end')
  for (const n of [-1, 0.5, NaN, Infinity, 2 ** 53]) t.throws(() => writeU64(buf, 0, n), RangeError, String(n))
})
