// What is read from a log in every kind of disorder: each rule by name, each refusal with its place, and no flipped bit in
// anything durable that passes for a torn end.
import t from 'tap'
import { encodeRecord, recordSizeBytes } from '../../native-free/index.js'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { formatRecordLog, openRecordLog } from '../../src/store/open-record-log.js'
import { chooseHalf, readHalf, type Half } from '../../src/store/record-log-recovery.js'
import { IDENTITY, LOG_BYTES } from './log-script.js'

const HALF = LOG_BYTES / 2
const item = (payload: string): { type: number, payload: Buffer } => ({ type: 1, payload: Buffer.from(payload) })

/** A log of two lives: a snapshot of two records in half 1, two synced records behind it, half 0 retired. */
async function sample(): Promise<MemoryDisk> {
  const disk = new MemoryDisk(LOG_BYTES)
  await formatRecordLog(disk, IDENTITY)
  const { log } = await openRecordLog(disk, IDENTITY)
  log.append(1, Buffer.from('forgotten'))
  await log.sync()
  await log.rewrite([item('first'), item('second')])
  log.append(1, Buffer.from('third'))
  await log.sync()
  log.append(1, Buffer.from('fourth, which is longer'))
  await log.sync()
  await log.close()
  return disk
}

async function contentOf(disk: MemoryDisk): Promise<string> {
  const { records } = await openRecordLog(disk, IDENTITY)
  return records.map(record => record.payload.toString()).join('|')
}
const CONTENT = 'first|second|third|fourth, which is longer'

function flip(disk: MemoryDisk, offset: number, bit = 0): MemoryDisk {
  const byte = Buffer.alloc(1)
  disk.read(offset, 1, byte, 0)
  byte[0] ^= 1 << bit
  disk.write(offset, 1, byte, 0)
  return disk
}
function put(disk: MemoryDisk, offset: number, bytes: Buffer): MemoryDisk {
  disk.write(offset, bytes.length, bytes, 0)
  return disk
}

t.test('every flipped bit of a durable log is harmless or reported', async t => {
  const disk = await sample()
  const image = disk.toBuffer()
  let harmless = 0
  let reported = 0
  const silent: string[] = []
  for (let offset = 0; offset < image.length; offset++) {
    // Zeros outside records are alike: one in 256 of them stands for all.
    const inRecord = [0, 4096, 8192].some(at => offset % HALF >= at && offset % HALF < at + 500)
    if (image[offset] === 0 && offset % 256 !== 5 && !inRecord) continue
    for (let bit = offset % 2; bit < 8; bit += 2) {
      try {
        if (await contentOf(flip(disk.fork(), offset, bit)) === CONTENT) harmless++
        else silent.push(`bit ${bit} of byte ${offset}`)
      } catch (error) {
        if (!(error instanceof NbdeltaError && error.code === 'damaged' && error.message.startsWith('test.log: '))) throw error
        reported++
      }
    }
  }
  t.strictSame(silent, [])
  t.comment(`${harmless} harmless, ${reported} reported`)
  t.ok(reported > 4 * 4 * recordSizeBytes(5), 'all of header, snapshot and appended records')
})

t.test('a whole sector lost or zeroed is reported, wherever durable records lie', async t => {
  const disk = await sample()
  for (const [sector, at] of [['header', HALF], ['records', HALF + 8192]] as const) {
    for (const fill of [0, 0xa5]) {
      await t.rejects(contentOf(put(disk.fork(), at, Buffer.alloc(512, fill))), { code: 'damaged' }, `${sector} ${fill}`)
    }
  }
  t.equal(await contentOf(put(disk.fork(), HALF + 4096, Buffer.alloc(512))), CONTENT, 'the mark alone proves, it is not needed')
})

t.test('each proof alone is enough: a later record, the mark, RETIRED', async t => {
  const disk = await sample()
  const noMark = put(disk.fork(), HALF + 4096, Buffer.alloc(64))
  const third = HALF + 8192 + recordSizeBytes(5) + recordSizeBytes(6)
  const fourth = third + recordSizeBytes(5)
  await t.rejects(contentOf(flip(noMark.fork(), third)), { code: 'damaged', message: /record 3/ }, 'said by the fourth')
  t.equal(await contentOf(flip(noMark.fork(), fourth)), 'first|second|third', 'nobody says so of the fourth')
  await t.rejects(contentOf(flip(disk.fork(), fourth)), { code: 'damaged', message: /record 4/ }, 'the mark says so')
  const bare = put(noMark.fork(), third, Buffer.alloc(300))
  await t.rejects(contentOf(flip(bare.fork(), HALF + 8192)), { code: 'damaged', message: /record 1/ }, 'said by RETIRED')
})

t.test('the message names device, record and offset', async t => {
  const disk = await sample()
  const second = HALF + 8192 + recordSizeBytes(5)
  await t.rejects(contentOf(flip(disk.fork(), second + 70)),
    { message: `test.log: record 2 at offset ${second} does not match its checksum` })
  await t.rejects(contentOf(flip(disk.fork(), HALF + 20)),
    { message: `test.log: record 0 at offset ${HALF} does not match its checksum` })
  await t.rejects(contentOf(put(disk.fork(), second, Buffer.alloc(64))),
    { message: `test.log: record 2 at offset ${second} is missing (zeros)` })
  await t.rejects(contentOf(flip(flip(disk.fork(), 20), HALF + 20)),
    { message: /^test\.log: both halves are unreadable: record 0 at offset 0 .*; record 0/ })
  await t.rejects(contentOf(new MemoryDisk(LOG_BYTES)),
    { code: 'damaged', message: 'test.log: there is no log in it, only zeros' })
})

t.test('a torn end is cut, with a word about it, once', async t => {
  const disk = await sample()
  const { log } = await openRecordLog(disk, IDENTITY)
  log.append(1, Buffer.from('never synced'))
  log.append(1, Buffer.from('never synced either'))
  // The first of the two is torn, the second is whole behind it.
  flip(disk, HALF + 8192 + 2 * recordSizeBytes(5) + recordSizeBytes(5) + recordSizeBytes(23) + 66)
  const opened = await openRecordLog(disk, IDENTITY)
  t.match(opened.recovery, [/behind record 4.*torn-tail/])
  t.equal(opened.records.length, 4)
  opened.log.append(1, Buffer.from('NEVER SYNCED'))
  t.equal(await contentOf(disk), `${CONTENT}|NEVER SYNCED`, 'what stood behind the torn one does not come back')
  t.strictSame((await openRecordLog(disk, IDENTITY)).recovery, [])
})

t.test('a rewrite cut short is wiped even when the half looks retired', async t => {
  // The retired header of the idle half survived, and so did records of the rewrite behind it; the next rewrite has the
  // same epoch and the same numbers, and one record less.
  const disk = await sample()
  const before = disk.fork()
  const { log } = await openRecordLog(disk, IDENTITY)
  await log.rewrite([item('first'), item('second'), item('ghost')])
  const half = Buffer.alloc(HALF)
  disk.read(0, HALF, half, 0)
  put(before, 8192, half.subarray(8192))
  const opened = await openRecordLog(before, IDENTITY)
  t.match(opened.recovery, [/rewrite-cut-short/])
  await opened.log.rewrite([item('first'), item('second')])
  t.equal(await contentOf(before), 'first|second')
})

t.test('rules by name', async t => {
  const state = (half: Partial<Half>): Half => ({
    state: 'whole', base: 0, epoch: 5, records: [], end: 8192, lastSequence: 9, markedSequence: 0, dirtyTail: false,
    fault: half.state === 'torn' || half.state === 'partial' ? { offset: 0, record: 0, reason: 'is bad' } : undefined, ...half,
  })
  const cases: [Partial<Half>, Partial<Half>, string, number?, string?][] = [
    [{}, { state: 'retired' }, 'in-order', 0, 'nothing'],
    [{ state: 'retired' }, {}, 'in-order', 1, 'nothing'],
    [{ epoch: 6 }, {}, 'rewrite-not-retired', 0, 'retire'],
    [{}, { epoch: 6 }, 'rewrite-not-retired', 1, 'retire'],
    [{}, { state: 'torn' }, 'rewrite-cut-short', 0, 'wipe'],
    [{ state: 'partial', epoch: 6 }, {}, 'rewrite-cut-short', 1, 'wipe'],
    [{}, {}, 'contradict'],
    [{}, { state: 'retired', epoch: 6 }, 'contradict'],
    [{ state: 'retired' }, { state: 'retired' }, 'contradict'],
    [{ state: 'retired', epoch: 6 }, { state: 'partial', epoch: 6 }, 'record 0'],
    [{ state: 'torn' }, { state: 'partial' }, 'both halves'],
    [{}, { state: 'damaged', epoch: 6, fault: { offset: 1, record: 4, reason: 'is bad' } }, 'record 4'],
  ]
  for (const [one, two, expected, live, other] of cases) {
    const halves = [state(one), state(two)] as const
    if (live === undefined) t.throws(() => chooseHalf(IDENTITY, halves), { code: 'damaged', message: new RegExp(expected) })
    else t.strictSame(chooseHalf(IDENTITY, halves), { rule: expected, live, other })
  }
})

t.test('a log that is not ours, moved, cut, stretched or newer is refused', async t => {
  const disk = await sample()
  const open = (image: MemoryDisk, identity = IDENTITY) => openRecordLog(image, identity)
  const owner = Buffer.from('fedcba9876543210')
  await t.rejects(open(disk.fork(), { ...IDENTITY, owner }), { code: 'damaged', message: /belongs to another store or volume/ })
  await t.rejects(open(disk.fork(), { ...IDENTITY, magic: 0x4e424458 }), { code: 'damaged', message: /not a record of this log/ })
  for (const sizeBytes of [512, LOG_BYTES - 8192, LOG_BYTES + 8192, LOG_BYTES * 2]) {
    const other = disk.fork()
    await other.resize(sizeBytes)
    await t.rejects(open(other), { code: 'damaged', message: /was cut/ }, `${sizeBytes} bytes`)
  }

  const header = Buffer.alloc(80)
  disk.read(HALF, 80, header, 0)
  const misdirected = put(disk.fork(), 0, header)
  await t.rejects(open(misdirected), { code: 'damaged', message: /written for another place/ })

  const newer = Buffer.alloc(recordSizeBytes(16))
  const place = { magic: IDENTITY.magic, version: 2, owner: IDENTITY.owner, address: HALF }
  encodeRecord(place, { type: 0xff01, epoch: 9, sequence: 9, durableSequence: 0 }, Buffer.alloc(16), newer, 0)
  const message = 'test.log: written by a newer version of nbdelta'
  await t.rejects(open(put(disk.fork(), HALF, newer)), { code: 'newer-format', message })
})

t.test('a header that is whole but makes no sense is damage', async t => {
  const put2 = (type: number, payload: Buffer): Buffer => {
    const half = Buffer.alloc(HALF)
    encodeRecord({ magic: IDENTITY.magic, version: 1, owner: IDENTITY.owner, address: 0 },
      { type, epoch: 1, sequence: 1, durableSequence: 0 }, payload, half, 0)
    return half
  }
  t.throws(() => readHalf(IDENTITY, put2(0xff01, Buffer.alloc(8)), 0), { code: 'damaged', message: /not the header of a half/ })
  t.throws(() => readHalf(IDENTITY, put2(5, Buffer.alloc(16)), 0), { code: 'damaged' })
})
