// Zero scan and xor against byte loops, at every alignment and across block borders.
import t from 'tap'
import { isZero, xorInto } from '../../native-free/index.js'
import { generator, SEED } from './twin.js'

t.comment(`seed ${SEED}`)
const random = generator(SEED)

const slowIsZero = (buf: Buffer, at: number, length: number): boolean => buf.subarray(at, at + length).every(byte => byte === 0)

t.test('zero scan: one byte anywhere is found', async t => {
  const buf = Buffer.alloc(3 * 65536 + 17)
  t.ok(isZero(buf, 0, buf.length))
  t.ok(isZero(buf, 5, 0))
  const spots = [0, 1, 65535, 65536, 65537, 131071, 131072, buf.length - 1,
    ...Array.from({ length: 300 }, () => random(buf.length))]
  for (const spot of spots) {
    buf[spot] = 1 << random(8)
    for (let i = 0; i < 6; i++) {
      const at = Math.max(0, Math.min(buf.length, spot + random(5) - 2 - (i & 1) * random(70000)))
      const length = random(buf.length - at + 1)
      if (isZero(buf, at, length) !== slowIsZero(buf, at, length)) { t.fail(`byte ${spot}, [${at}, + ${length})`); return }
    }
    if (isZero(buf, spot, 1)) { t.fail(`byte ${spot} alone`); return }
    buf[spot] = 0
  }
  t.throws(() => isZero(buf, 1, buf.length), RangeError)
})

t.test('xor: every alignment of both sides', async t => {
  const original = Buffer.from(Array.from({ length: 400 }, () => random(256)))
  const source = Buffer.from(Array.from({ length: 400 }, () => random(256)))
  for (let targetAt = 0; targetAt < 9; targetAt++) {
    for (let sourceAt = 0; sourceAt < 9; sourceAt++) {
      for (const length of [0, 1, 7, 8, 9, 63, 64, 65, 300 + random(90)]) {
        const target = Buffer.from(original)
        const expected = Buffer.from(original)
        for (let i = 0; i < length; i++) expected[targetAt + i] ^= source[sourceAt + i]
        xorInto(target, targetAt, source, sourceAt, length)
        if (!target.equals(expected)) { t.fail(`${targetAt} ${sourceAt} ${length}`); return }
        if (length > 8 && target.equals(original)) { t.fail('nothing changed'); return }
      }
    }
  }
  t.throws(() => xorInto(original, 1, source, 0, 400), RangeError)
  t.throws(() => xorInto(original, 0, source, 1, 400), RangeError)
})

t.test('xor over all but one member gives the lost one back', async t => {
  const members = Array.from({ length: 4 }, () => Buffer.from(Array.from({ length: 4096 }, () => random(256))))
  const parity = Buffer.alloc(4096)
  for (const member of members) xorInto(parity, 0, member, 0, 4096)
  for (const member of members.slice(1)) xorInto(parity, 0, member, 0, 4096)
  t.ok(parity.equals(members[0]))
})
