// The record log at work: append at once or in batches, group commit, rewrite, a full log, latched failures, and the order
// in which things reach the disk.
import t from 'tap'
import { recordSizeBytes } from '../../native-free/index.js'
import type { BlockDevice, Pending } from '../../src/device/block-device.js'
import { DiskArray } from '../../src/device/disk-array.js'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { formatRecordLog, openRecordLog } from '../../src/store/open-record-log.js'
import type { RecordLog } from '../../src/store/record-log.js'
import { CachedDisk } from './page-cache.js'
import { IDENTITY, LOG_BYTES, mortal } from './log-script.js'

const HALF = LOG_BYTES / 2
const text = (records: readonly { payload: Buffer }[]): string => records.map(record => record.payload.toString()).join(' ')
const item = (payload: string): { type: number, payload: Buffer } => ({ type: 1, payload: Buffer.from(payload) })

async function fresh(): Promise<MemoryDisk> {
  const disk = new MemoryDisk(LOG_BYTES)
  await formatRecordLog(disk, IDENTITY)
  return disk
}

/** A disk whose writes and flushes are answered when the test says so. */
class HandDisk {
  readonly answers: (() => void)[] = []
  readonly writes: { offset: number, length: number }[] = []
  flushes = 0
  failing: 'write' | 'flush' | undefined
  readonly device: BlockDevice
  constructor(inner: MemoryDisk) {
    const answer = (what: 'write' | 'flush'): Pending => new Promise((resolve, reject) => {
      this.answers.push(() => { if (this.failing === what) reject(new Error('EIO: the disk is gone')); else resolve() })
    })
    this.device = {
      sizeBytes: inner.sizeBytes, blockSizes: inner.blockSizes, capabilities: inner.capabilities,
      read: (offset, length, into, at) => inner.read(offset, length, into, at),
      write: (offset, length, from, at) => {
        this.writes.push({ offset, length })
        inner.write(offset, length, from, at)
        return answer('write')
      },
      zero: () => undefined, trim: () => undefined,
      flush: () => { this.flushes++; return answer('flush') },
      zeroRun: (_, length) => length,
      extents: (offset, length, maxExtents) => inner.extents(offset, length, maxExtents),
      close: async () => {},
    }
  }
  async answerAll(): Promise<void> {
    for (;;) {
      for (let i = 0; i < 10; i++) await new Promise(resolve => { setImmediate(resolve) })
      const answer = this.answers.shift()
      if (!answer) return
      answer()
    }
  }
}

async function handLog(): Promise<{ hand: HandDisk, disk: MemoryDisk, log: RecordLog }> {
  const disk = await fresh()
  const hand = new HandDisk(disk)
  const opening = openRecordLog(hand.device, IDENTITY)
  await hand.answerAll()
  const { log } = await opening
  hand.writes.length = hand.flushes = 0
  return { hand, disk, log }
}

t.test('what is appended is read back in order, with its type', async t => {
  const disk = await fresh()
  const { log, records, recovery } = await openRecordLog(disk, IDENTITY)
  t.strictSame([records.length, recovery.length], [0, 0])
  t.equal(log.append(7, Buffer.from('one')), undefined, 'the disk is done at once, so is the log')
  log.append(0xfeff, Buffer.alloc(0))
  log.append(1, Buffer.alloc(5000, 'x'))
  const again = await openRecordLog(disk, IDENTITY)
  t.strictSame(again.records.map(record => [record.type, record.payload.length]), [[7, 3], [0xfeff, 0], [1, 5000]])
  t.strictSame(again.recovery, [])
  t.throws(() => log.append(0, Buffer.alloc(0)), RangeError)
  t.throws(() => log.append(0xff00, Buffer.alloc(0)), RangeError, 'the log\'s own types')
})

t.test('while a write is in flight, appends gather and leave as one write', async t => {
  const { hand, disk, log } = await handLog()
  const payload = Buffer.from('first')
  const first = log.append(1, payload)
  payload.fill('?')
  const rest = ['second', 'third', 'fourth'].map(name => log.append(1, Buffer.from(name)))
  t.ok(first && rest.every(Boolean), 'later')
  t.equal(hand.writes.length, 1)
  await hand.answerAll()
  await Promise.all([first, ...rest])
  t.equal(hand.writes.length, 2)
  t.equal(hand.writes[1].length, 3 * recordSizeBytes(6))
  t.equal(text((await openRecordLog(disk, IDENTITY)).records), 'first second third fourth')
})

t.test('a batch may outgrow the buffer', async t => {
  const { hand, disk, log } = await handLog()
  const names = Array.from({ length: 60 }, (_, i) => `${i}`.padEnd(50, '.'))
  const all = names.map(name => log.append(1, Buffer.from(name)))
  await hand.answerAll()
  await Promise.all(all)
  t.equal(hand.writes.length, 2)
  t.equal(text((await openRecordLog(disk, IDENTITY)).records), names.join(' '))
})

t.test('group commit: one flush begun after the requests serves them all; nothing new, no flush', async t => {
  const { hand, log } = await handLog()
  const waiting = [log.append(1, Buffer.from('a')), log.sync(), log.sync(), log.append(1, Buffer.from('b')), log.sync()]
  await hand.answerAll()
  await Promise.all(waiting)
  t.ok(hand.flushes <= 2, `${hand.flushes} flushes: the first two share one, the third came after another append`)
  t.ok(log.isDurable)
  const before = hand.flushes
  await log.sync()
  t.equal(hand.flushes, before)
  const late = log.append(1, Buffer.from('c'))
  await hand.answerAll()
  await late
  t.notOk(log.isDurable)
  const during = log.sync()
  await new Promise(resolve => { setImmediate(resolve) })
  const appended = log.append(1, Buffer.from('d'))
  const next = log.sync()
  await hand.answerAll()
  await Promise.all([during, appended, next])
  t.equal(hand.flushes, before + 2, 'what comes while a flush runs gets one of its own')
})

t.test('a full log says so, takes nothing, and a rewrite makes room', async t => {
  const disk = await fresh()
  const { log } = await openRecordLog(disk, IDENTITY)
  const payload = Buffer.alloc(1000, 'p')
  let count = 0
  while (recordSizeBytes(payload.length) <= log.freeBytes) { log.append(1, payload); count++ }
  t.throws(() => log.append(1, payload), { code: 'no-space', message: /test\.log: the log is full/ })
  t.equal((await openRecordLog(disk, IDENTITY)).records.length, count)
  const { limitBytes } = log
  const fill = (bytes: number) => ({ type: 2, payload: Buffer.alloc(bytes - recordSizeBytes(0)) })
  await t.rejects(log.rewrite([fill(limitBytes + 8)]), { code: 'no-space' }, 'more than a snapshot may have')
  await log.rewrite([fill(limitBytes)])
  t.ok(log.freeBytes >= limitBytes, 'the largest snapshot leaves as much for appends')
  log.append(1, payload)
  t.strictSame((await openRecordLog(disk, IDENTITY)).records.map(record => record.type), [2, 1])
})

t.test('appends during a rewrite follow the snapshot; so does their durability', async t => {
  const { hand, disk, log } = await handLog()
  const early = log.append(1, Buffer.from('old'))
  const rewrite = log.rewrite([item('snapshot')])
  const held = [log.append(1, Buffer.from('new')), log.append(1, Buffer.from('newer'))]
  const synced = log.sync()
  t.ok(held.every(Boolean))
  t.throws(() => log.append(1, Buffer.alloc(HALF)), { code: 'no-space' }, 'judged against the new half')
  t.throws(() => log.rewrite([]), /second rewrite/)
  await hand.answerAll()
  await Promise.all([early, rewrite, ...held, synced])
  t.ok(log.isDurable)
  t.equal(text((await openRecordLog(disk, IDENTITY)).records), 'snapshot new newer')
})

t.test('many rewrites change sides and leave nothing of the old ones', async t => {
  const disk = await fresh()
  const { log } = await openRecordLog(disk, IDENTITY)
  for (let i = 0; i < 7; i++) {
    for (let k = 0; k < 10 - i; k++) log.append(1, Buffer.alloc(100, 'x'))
    await log.rewrite([item(`snapshot ${i}`)])
    log.append(1, Buffer.from(`after ${i}`))
    const again = await openRecordLog(disk.fork(), IDENTITY)
    t.equal(text(again.records), `snapshot ${i} after ${i}`)
    t.strictSame(again.recovery, [], 'a clean end')
  }
})

t.test('D7: a failed write or flush latches until the log is opened anew', async t => {
  for (const failing of ['write', 'flush'] as const) {
    const { hand, disk, log } = await handLog()
    const good = log.append(1, Buffer.from('good'))
    await hand.answerAll()
    await good
    hand.failing = failing
    const code = failing === 'write' ? 'io' : 'flush-failed'
    const work = [log.append(1, Buffer.from('bad')), log.append(1, Buffer.from('bad too')), log.sync()]
    const settled = Promise.allSettled(work)
    await hand.answerAll()
    const outcomes = await settled
    t.equal(outcomes[2].status, 'rejected', 'the flush is not acknowledged')
    t.match(log.failure, { code })
    hand.failing = undefined
    t.throws(() => log.append(1, Buffer.from('x')), { code })
    await t.rejects(log.sync(), { code })
    await t.rejects(log.rewrite([]), { code })
    const again = await openRecordLog(disk, IDENTITY)
    t.match(text(again.records), /^good/)
    await again.log.sync()
  }
})

t.test('D7: a rewrite that fails latches, and the log is what it was', async t => {
  const { hand, disk, log } = await handLog()
  const appended = log.append(1, Buffer.from('kept'))
  await hand.answerAll()
  await appended
  const before = disk.fork()
  hand.failing = 'flush'
  const rewrite = t.rejects(log.rewrite([item('snapshot')]), { code: 'flush-failed' })
  const held = t.rejects(log.append(1, Buffer.from('held'))!, { code: 'flush-failed' })
  await hand.answerAll()
  await Promise.all([rewrite, held])
  t.equal(text((await openRecordLog(before, IDENTITY)).records), 'kept')
})

t.test('a device that throws at once latches as well', async t => {
  const disk = await fresh()
  let broken = false
  const device = mortal(disk, false).device
  const write: BlockDevice['write'] = (...request) => {
    if (broken) throw new Error('EIO')
    return device.write(...request)
  }
  const { log } = await openRecordLog({ ...device, write }, IDENTITY)
  broken = true
  t.throws(() => log.append(1, Buffer.from('x')), { code: 'io', message: /test\.log: a write failed: EIO/ })
  t.throws(() => log.append(1, Buffer.from('x')), { code: 'io' })
  await log.close()
})

t.test('closing waits for what runs, and is idempotent', async t => {
  const { hand, disk, log } = await handLog()
  const work = [log.append(1, Buffer.from('a')), log.append(1, Buffer.from('b')), log.sync()]
  let closed = false
  const closing = log.close().then(() => { closed = true })
  t.notOk(closed)
  await hand.answerAll()
  await Promise.all([...work, closing])
  await log.close()
  t.throws(() => log.append(1, Buffer.from('c')), { code: 'wrong-state' })
  t.equal(text((await openRecordLog(disk, IDENTITY)).records), 'a b')
})

/** What reached the disk, as the words of the file headers. */
function story(array: DiskArray): string[] {
  const slots = ['header', 'mark', 'records']
  const place = (offset: number): string => `${slots[Math.min(2, Math.floor(offset % HALF / 4096))]} ${Math.floor(offset / HALF)}`
  return array.history.map(event => event.kind === 'write' ? place(event.offset) : event.kind)
}

t.test('order of writes: a rewrite', async t => {
  const array = new DiskArray({ log: await fresh() })
  const { log } = await openRecordLog(array.disk('log'), IDENTITY)
  log.append(1, Buffer.from('a'))
  array.history.length = 0
  await log.rewrite([item('s')])
  t.strictSame(story(array), ['header 1', 'flush', 'header 0', 'flush'])
})

t.test('order of writes: opening after each kind of crash', async t => {
  const disk = await fresh()
  const { log } = await openRecordLog(disk, IDENTITY)
  log.append(1, Buffer.from('a'))
  await log.sync()
  const clean = disk.fork()
  await log.rewrite([item('s')])
  const half = Buffer.alloc(HALF)
  disk.read(HALF, HALF, half, 0)

  const opened = async (edit: (image: MemoryDisk) => void): Promise<string[]> => {
    const image = clean.fork()
    edit(image)
    const array = new DiskArray({ log: image })
    await openRecordLog(array.disk('log'), IDENTITY)
    return story(array)
  }
  t.strictSame(await opened(() => {}), ['flush'], 'nothing to repair: the flush covers what a killed process left in the cache')
  const junk = Buffer.from('junk')
  t.strictSame(await opened(image => { image.write(12000, 4, junk, 0) }), ['records 0', 'flush'], 'torn tail: zeros')
  t.strictSame(await opened(image => { image.write(HALF, HALF, half, 0) }), ['header 1', 'flush', 'header 0', 'flush', 'mark 1'],
    'rewrite not retired: durable first, then retired')
  t.strictSame(await opened(image => { image.write(HALF, 8192, half, 0) }), ['header 1', 'flush', 'header 1', 'flush'],
    'rewrite cut short: wiped first, then retired')
})

t.test('what a failed flush was to make durable is so when the log was opened again', async t => {
  const disk = new CachedDisk(await fresh())
  const { log } = await openRecordLog(disk, IDENTITY)
  await log.append(1, Buffer.from('a'))
  await log.sync()
  disk.failsFlushes = true
  await log.append(1, Buffer.from('b'))
  await t.rejects(log.sync())
  disk.failsFlushes = false
  const again = await openRecordLog(disk, IDENTITY)
  t.equal(text(again.records), 'a b')
  await again.log.append(1, Buffer.from('c'))
  await again.log.sync()
  t.equal(text((await openRecordLog(disk.medium, IDENTITY)).records), 'a b c', 'the power fails')
})

t.test('and so is a rewrite', async t => {
  const disk = new CachedDisk(await fresh())
  const { log } = await openRecordLog(disk, IDENTITY)
  disk.failsFlushes = true
  await t.rejects(log.rewrite([item('all')]))
  disk.failsFlushes = false
  t.equal(text((await openRecordLog(disk, IDENTITY)).records), 'all')
  t.equal(text((await openRecordLog(disk.medium, IDENTITY)).records), 'all', 'the power fails')
})
