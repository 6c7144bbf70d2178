// The envelope of records on disk: round trip, one reason per damage, and no flipped bit that passes.
import t from 'tap'
import {
  decodeRecord, encodeRecord, RECORD_HEADER_BYTES, RECORD_OWNER_BYTES, RECORD_PAYLOAD_MAX_BYTES, recordSizeBytes,
  type RecordPlace,
} from '../../native-free/index.js'
import { generator, SEED } from './twin.js'

t.comment(`seed ${SEED}`)
const random = generator(SEED)
const place: RecordPlace = { magic: 0x4e424431, version: 2, owner: Buffer.from('0123456789abcdef'), address: 2 ** 40 + 8 }
const fields = { type: 7, epoch: 2 ** 33, sequence: 2 ** 52 + 1, durableSequence: 2 ** 32 }

function encoded(payload: Buffer, where = place): Buffer {
  const buf = Buffer.alloc(recordSizeBytes(payload.length))
  encodeRecord(where, fields, payload, buf, 0)
  return buf
}
const reason = (buf: Buffer, where = place, at = 0): string => {
  const found = decodeRecord(where, buf, at)
  return found.ok ? 'ok' : found.reason
}

t.test('what goes in comes out', async t => {
  for (const length of [0, 1, 7, 8, 9, 100, 4096]) {
    const payload = Buffer.from(Array.from({ length }, () => random(256)))
    const buf = Buffer.alloc(recordSizeBytes(length) + 32, 0xee)
    const sizeBytes = encodeRecord(place, fields, payload, buf, 16)
    t.equal(sizeBytes % 8, 0)
    t.equal(buf[15] + buf[16 + sizeBytes], 0xee * 2, 'nothing beside it is touched')
    const found = decodeRecord(place, buf, 16)
    t.match(found, { ok: true, version: 2, ...fields, sizeBytes })
    if (found.ok) t.ok(found.payload.equals(payload))
  }
})

t.test('a written record is these bytes (the format is a promise)', async t => {
  t.equal(encoded(Buffer.from('hello')).toString('hex'),
    '4e424431' + '0002' + '0007' + '00000005' + 'bbd1e640' + '30313233343536373839616263646566' +
    '0000000200000000' + '0010000000000001' + '0000000100000000' + '0000010000000008' + '68656c6c6f000000')
})

t.test('one reason for each damage', async t => {
  const good = encoded(Buffer.from('payload'))
  const edited = (edit: (buf: Buffer) => unknown): Buffer => { const copy = Buffer.from(good); edit(copy); return copy }
  t.equal(reason(good), 'ok')
  t.equal(reason(Buffer.alloc(4096)), 'end', 'space never written')
  t.equal(reason(good.subarray(0, RECORD_HEADER_BYTES - 1)), 'end', 'no room for a header')
  t.equal(reason(edited(buf => buf.writeUInt32BE(1, 0))), 'magic')
  t.equal(reason(edited(buf => buf.writeUInt32BE(0, 0))), 'magic', 'a torn header is not an end')
  t.equal(reason(edited(buf => buf.writeUInt32BE(0xffffffff, 8))), 'length')
  t.equal(reason(good.subarray(0, good.length - 1)), 'length')
  t.equal(reason(edited(buf => buf.writeUInt8(1, good.length - 1))), 'checksum', 'in the padding')
  t.equal(reason(edited(buf => buf.writeUInt16BE(3, 4))), 'checksum', 'damage is not a newer version')
  t.equal(reason(encoded(Buffer.from('x'), { ...place, version: 3 })), 'version')
  t.equal(reason(encoded(Buffer.from('x'), { ...place, version: 1 })), 'ok', 'older versions are the reader\'s business')
  t.equal(reason(encoded(Buffer.from('x'), { ...place, owner: Buffer.alloc(16) })), 'owner')
  t.equal(reason(encoded(Buffer.from('x'), { ...place, address: place.address + 8 })), 'address')
})

t.test('no flipped bit passes, and every torn tail is seen', async t => {
  const good = encoded(Buffer.from(Array.from({ length: 300 }, () => random(256))))
  for (let bit = 0; bit < good.length * 8; bit++) {
    const bad = Buffer.from(good)
    bad[bit >> 3] ^= 1 << (bit & 7)
    if (reason(bad) === 'ok') { t.fail(`bit ${bit}`); return }
  }
  for (let cut = 1; cut < good.length; cut++) {
    const torn = Buffer.from(good).fill(0, cut)
    if (reason(torn) === 'ok' && !torn.equals(good)) { t.fail(`torn at ${cut}`); return }
  }
  t.pass()
})

t.test('what cannot be a record is refused when writing', async t => {
  const room = Buffer.alloc(256)
  t.throws(() => encodeRecord(place, fields, Buffer.alloc(200), room, 0), RangeError)
  const owner = Buffer.alloc(RECORD_OWNER_BYTES - 1)
  t.throws(() => encodeRecord({ ...place, owner }, fields, Buffer.alloc(8), room, 0), RangeError)
  t.throws(() => encodeRecord(place, { ...fields, sequence: 2 ** 53 }, Buffer.alloc(8), room, 0), RangeError)
  t.throws(() => encodeRecord(place, fields, Buffer.alloc(RECORD_PAYLOAD_MAX_BYTES + 1), room, 0), RangeError)
})
