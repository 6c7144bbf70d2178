// Journal records: round trips, how many a snapshot needs, and what is refused; random ones, whole and bent.
import t from 'tap'
import { PAGE_BITS, recordSizeBytes } from '../../native-free/index.js'
import { seededRandom } from '../../src/device/random.js'
import {
  decodeJournalRecord, encodeRange, EXTENT_GRAINS, REGION_GRAINS, encodeRanges, JOURNAL_TYPES, RANGE_RECORD_BYTES, RANGES_PER_RECORD_MAX, rangesSizeBytes,
  type JournalKind, type JournalRange,
} from '../../src/store/journal-records.js'

const SEED = Number(process.env.SEED ?? Date.now() % 1e9)
t.comment(`SEED=${SEED}`)
const KINDS = Object.keys(JOURNAL_TYPES) as JournalKind[]
/** Those that speak of a point. */
const OF_POINTS = new Set<JournalKind>(['preserve', 'preserveZero', 'lend', 'hot'])
const seqOf = (kind: JournalKind, seq: number): { seq?: number } => OF_POINTS.has(kind) ? { seq } : {}

t.test('one range of every kind, up to the last grain there can be', async t => {
  for (const kind of KINDS) {
    for (const [start, end] of [[0, 1], [5, 2 ** 32 + 5], [2 ** 53 - 2, 2 ** 53 - 1]]) {
      const { seq } = seqOf(kind, 2 ** 53 - 1)
      const record = { type: JOURNAL_TYPES[kind], payload: encodeRange(start, end, seq) }
      t.strictSame(decodeJournalRecord(record, 'journal'), { kind, ...seqOf(kind, 2 ** 53 - 1), ranges: [{ start, end }] })
      t.equal(recordSizeBytes(record.payload.length), RANGE_RECORD_BYTES + (seq === undefined ? 0 : 8))
      t.equal(recordSizeBytes(record.payload.length), rangesSizeBytes(1, kind))
    }
  }
})

t.test('a snapshot takes as few records as its size says', async t => {
  const full = RANGES_PER_RECORD_MAX
  for (const count of [0, 1, 2, full - 1, full, full + 1, 3 * full]) {
    const ranges: JournalRange[] = Array.from({ length: count }, (_, i) => ({ start: 3 * i, end: 3 * i + 2 }))
    for (const kind of KINDS) {
      const records = [...encodeRanges(kind, ranges, seqOf(kind, 7).seq)]
      const entries = records.map(record => decodeJournalRecord(record, 'journal'))
      t.strictSame(entries.flatMap(entry => entry.ranges), ranges)
      t.ok(entries.every(entry => entry.kind === kind && entry.seq === seqOf(kind, 7).seq))
      t.equal(records.reduce((sum, { payload }) => sum + recordSizeBytes(payload.length), 0), rangesSizeBytes(count, kind))
      t.equal(records.length, Math.ceil(count / full))
    }
  }
})

t.test('an extent lies in one page of a map, a page in one region', async t => {
  t.strictSame([PAGE_BITS % EXTENT_GRAINS, REGION_GRAINS % PAGE_BITS], [0, 0])
})

t.test('a record about a point names it, and no other does', async t => {
  for (const kind of KINDS) {
    t.throws(() => [...encodeRanges(kind, [{ start: 0, end: 1 }], OF_POINTS.has(kind) ? undefined : 3)], /with point/)
  }
})

t.test('random records come back; bent ones are damage, or say something else that makes sense', async t => {
  const random = seededRandom(SEED)
  const anyNumber = (): number => random(3) ? random(5000) : random(2 ** 21) * 2 ** 32 + random(2 ** 32)
  let refused = 0
  for (let round = 0; round < 3000; round++) {
    const kind = KINDS[random(KINDS.length)]
    const ranges = Array.from({ length: 1 + random(20) }, () => {
      const start = anyNumber()
      return { start, end: Math.min(2 ** 53 - 1, start + 1 + anyNumber()) }
    })
    const said = { kind, ...seqOf(kind, 1 + anyNumber()), ranges }
    const [record, more] = encodeRanges(kind, ranges, said.seq)
    if (more || JSON.stringify(decodeJournalRecord(record, 'j')) !== JSON.stringify(said)) t.fail(`round ${round}`)
    const bent = Buffer.from(record.payload.subarray(0, record.payload.length - (random(4) ? 0 : random(24))))
    if (bent.length > 0) bent[random(bent.length)] ^= 1 << random(8)
    try {
      const found = decodeJournalRecord({ type: random(8) ? record.type : random(12), payload: bent }, 'j')
      const sane = found.ranges.length > 0 && found.ranges.every(({ start, end }) => start >= 0 && start < end && end < 2 ** 53)
      if (!sane || OF_POINTS.has(found.kind) !== (found.seq !== undefined)) t.fail(`round ${round}: ${JSON.stringify(found)}`)
    } catch (error) {
      refused++
      if (!['damaged', 'newer-format'].includes((error as { code: string }).code)) t.fail(`round ${round}: ${error}`)
    }
  }
  t.ok(refused > 300, `${refused} refused`)
})

t.test('what makes no sense is damage, what is unknown is newer', async t => {
  const decode = (payload: Buffer, type = 1): unknown => decodeJournalRecord({ type, payload }, 'journal of v')
  const huge = Buffer.alloc(16, 0xff)
  t.throws(() => decode(Buffer.alloc(0)), { code: 'damaged', message: /journal of v/ })
  t.throws(() => decode(Buffer.alloc(24)), { code: 'damaged' })
  t.throws(() => decode(encodeRange(7, 7)), { code: 'damaged' })
  t.throws(() => decode(encodeRange(8, 7)), { code: 'damaged' })
  t.throws(() => decode(huge), { code: 'damaged' }, 'beyond 2^53')
  t.throws(() => decode(encodeRange(1, 2), 11), { code: 'newer-format' })
  t.throws(() => decode(encodeRange(1, 2), 6), { code: 'damaged' }, 'no point')
  t.throws(() => decode(encodeRange(1, 2, 0), 6), { code: 'damaged' }, 'points are numbered from 1')
  t.throws(() => decode(encodeRange(1, 2, 3)), { code: 'damaged' })
  t.throws(() => encodeRange(0, 2 ** 53), RangeError)
})
