// Both checksums against a bitwise twin and the published check value.
import t from 'tap'
import { crc32, crc32Bulk } from '../../native-free/index.js'
import { generator, SEED } from './twin.js'

t.comment(`seed ${SEED}`)

function slowCrc32(bytes: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0)
  }
  return ~crc >>> 0
}

t.test('the check value of CRC-32', async t => {
  t.equal(crc32(Buffer.from('123456789')), 0xcbf43926)
  t.equal(crc32Bulk(Buffer.from('123456789')), 0xcbf43926)
  t.equal(crc32(Buffer.alloc(0)), 0)
})

t.test('both agree with the twin, whole, in part and chained', async t => {
  const random = generator(SEED)
  for (let i = 0; i < 200; i++) {
    const buf = Buffer.from(Array.from({ length: random(600) }, () => random(256)))
    const start = random(buf.length + 1)
    const end = start + random(buf.length - start + 1)
    const middle = start + random(end - start + 1)
    const expected = slowCrc32(buf.subarray(start, end))
    for (const fast of [crc32, crc32Bulk]) {
      if (fast(buf, start, end) !== expected) { t.fail(`${fast.name} [${start}, ${end})`); return }
      if (fast(buf, middle, end, fast(buf, start, middle)) !== expected) { t.fail(`${fast.name} chained at ${middle}`); return }
    }
  }
  t.not(slowCrc32(Buffer.from([1])), crc32(Buffer.from([2])), 'the comparison can fail')
})
