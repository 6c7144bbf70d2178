// Journal records: round trips, how many a snapshot needs, and what is refused.
import t from 'tap'
import { recordSizeBytes } from '../../native-free/index.js'
import {
  decodeJournalRecord, encodeRange, encodeRanges, JOURNAL_TYPES, RANGE_RECORD_BYTES, RANGES_PER_RECORD_MAX, rangesSizeBytes,
  type JournalKind, type JournalRange,
} from '../../src/store/journal-records.js'

const KINDS = Object.keys(JOURNAL_TYPES) as JournalKind[]

t.test('one range of every kind, up to the last grain there can be', async t => {
  for (const kind of KINDS) {
    for (const [start, end] of [[0, 1], [5, 2 ** 32 + 5], [2 ** 53 - 2, 2 ** 53 - 1]]) {
      const record = { type: JOURNAL_TYPES[kind], payload: encodeRange(start, end) }
      t.strictSame(decodeJournalRecord(record, 'journal'), { kind, ranges: [{ start, end }] })
      t.equal(recordSizeBytes(record.payload.length), RANGE_RECORD_BYTES)
    }
  }
})

t.test('a snapshot takes as few records as its size says', async t => {
  const full = RANGES_PER_RECORD_MAX
  for (const count of [0, 1, 2, full - 1, full, full + 1, 3 * full]) {
    const ranges: JournalRange[] = Array.from({ length: count }, (_, i) => ({ start: 3 * i, end: 3 * i + 2 }))
    const records = [...encodeRanges('zero', ranges)]
    t.strictSame(records.flatMap(record => decodeJournalRecord(record, 'journal').ranges), ranges)
    t.equal(records.reduce((sum, { payload }) => sum + recordSizeBytes(payload.length), 0), rangesSizeBytes(count))
    t.equal(records.length, Math.ceil(count / full))
  }
})

t.test('what makes no sense is damage, what is unknown is newer', async t => {
  const decode = (payload: Buffer, type = 1): unknown => decodeJournalRecord({ type, payload }, 'journal of v')
  const huge = Buffer.alloc(16, 0xff)
  t.throws(() => decode(Buffer.alloc(0)), { code: 'damaged', message: /journal of v/ })
  t.throws(() => decode(Buffer.alloc(24)), { code: 'damaged' })
  t.throws(() => decode(encodeRange(7, 7)), { code: 'damaged' })
  t.throws(() => decode(encodeRange(8, 7)), { code: 'damaged' })
  t.throws(() => decode(huge), { code: 'damaged' }, 'beyond 2^53')
  t.throws(() => decode(encodeRange(1, 2), 6), { code: 'newer-format' })
  t.throws(() => encodeRange(0, 2 ** 53), RangeError)
})
