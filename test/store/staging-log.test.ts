// The staging log by itself: what is appended is found again, in order, once; strokes are whole or not there; segments come and go.
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import { MemoryDisk, seededRandom } from '../../src/device/testing.js'
import { ENTRY_MAX_BYTES, type StagedEntry, StagingLog } from '../../src/store/staging-log.js'

const GRAIN = 4096
const MARKS_BYTES = 8192
const SEGMENT_BYTES = 64 * 2 ** 20
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
t.comment(`SEED=${SEED}`)

const identity = { owner: Buffer.alloc(16, 7), name: 'staging log' }
const open = (disk: MemoryDisk) => StagingLog.open(disk, identity)
const data = (value: number, grains = 1): Buffer => Buffer.alloc(grains * GRAIN, value)
const small = () => new MemoryDisk(MARKS_BYTES + 2 * 64 * 1024)

async function read(log: StagingLog, { address, length }: Pick<StagedEntry, 'address' | 'length'>): Promise<Buffer> {
  const into = Buffer.alloc(length)
  await log.read(address, length, into, 0)
  return into
}

t.test('entries of one turn are one write, read from memory before and from the disk after', async t => {
  const disk = small()
  const { log, entries } = await open(disk)
  t.strictSame(entries, [])
  let writes = 0
  const write = disk.write.bind(disk)
  disk.write = (...args) => { writes++; return write(...args) }
  const addresses = [1, 2, 3].map(value => log.append(value * GRAIN, data(value), 0, GRAIN)!)
  t.equal(writes, 0)
  t.equal(log.writtenTo, 0)
  for (const [i, address] of addresses.entries()) t.ok((await read(log, { address, length: GRAIN })).equals(data(i + 1)), 'before')
  await log.written
  t.equal(writes, 1)
  t.equal(log.writtenTo, 3)
  t.ok(addresses.every(address => address % GRAIN === 0), 'whole grains lie on whole pages')
  for (const [i, address] of addresses.entries()) t.ok((await read(log, { address, length: GRAIN })).equals(data(i + 1)), 'after')
  const again = await open(disk.fork())
  t.strictSame(again.entries.map(({ sequence, offset, length }) => [sequence, offset, length]), [1, 2, 3].map(i => [i, i * GRAIN, GRAIN]))
  for (const [i, entry] of again.entries.entries()) t.ok((await read(again.log, entry)).equals(data(i + 1)), 'found again')
  t.equal(again.log.append(0, data(1), 0, GRAIN), undefined, 'sealed until what was found is applied')
  await again.log.mark(3)
  t.ok(again.log.append(0, data(1), 0, GRAIN))
  await again.log.written
  t.strictSame((await open(disk.fork())).entries.length, 3, 'of the fork')
})

t.test('a stroke is there as a whole or not at all', async t => {
  const disk = small()
  const { log } = await open(disk)
  log.append(0, data(1), 0, GRAIN)
  await log.written
  const before = disk.fork()
  for (let i = 1; i < 4; i++) log.append(i * GRAIN, data(i + 1), 0, GRAIN)
  await log.written
  const sectors = disk.sizeBytes / 512
  let whole = 0
  for (let cut = 0; cut <= sectors; cut++) {
    // The first `cut` sectors are new, the others as before.
    const torn = before.fork()
    const into = Buffer.alloc(Math.max(512, cut * 512))
    await disk.read(0, into.length, into, 0)
    if (cut > 0) await torn.write(0, cut * 512, into, 0)
    const { length } = (await open(torn)).entries
    t.ok(length === 1 || length === 4, `${length} entries`)
    if (length === 4) whole++
  }
  t.ok(whole > 0)
})

t.test('segments are used in turn, each again when all in it is marked', async t => {
  const disk = new MemoryDisk(MARKS_BYTES + 3 * SEGMENT_BYTES)
  const { log } = await open(disk)
  const piece = Buffer.alloc(ENTRY_MAX_BYTES)
  const append = async (): Promise<boolean> => {
    piece.writeUInt32LE(log.sequence + 1)
    const taken = log.append(log.sequence * ENTRY_MAX_BYTES, piece, 0, piece.length) !== undefined
    if (log.sequence % 5 === 0) await log.written
    return taken
  }
  for (let i = 0; i < 4 * SEGMENT_BYTES / ENTRY_MAX_BYTES && await append(); i++);
  await log.written
  const full = log.sequence
  t.ok(full * ENTRY_MAX_BYTES > 2.7 * SEGMENT_BYTES, `${full} entries`)
  t.ok(log.fill > 0.95)
  const first = log.fullUpTo
  t.ok(first > 0 && first < full / 2)
  await log.mark(first - 1)
  t.notOk(await append(), 'one entry is left in it')
  await log.mark(first)
  t.ok(log.fullUpTo > first)
  t.ok(log.fill < 0.7)
  for (let i = 0; i < 4 * SEGMENT_BYTES / ENTRY_MAX_BYTES && await append(); i++);
  await log.written
  t.ok(log.sequence > full + full / 4, 'as much again as a segment holds')
  const again = await open(disk)
  t.strictSame([again.entries[0].sequence, again.entries.length], [first + 1, log.sequence - first])
  for (const entry of [again.entries[0], again.entries[full - first], again.entries.at(-1)!]) {
    t.equal((await read(again.log, entry)).readUInt32LE(), entry.sequence)
  }
  await again.log.mark(log.sequence)
  await again.log.rest()
  t.ok(disk.extents(MARKS_BYTES, 3 * SEGMENT_BYTES, 10).states.every(state => state !== 0), 'and at rest it takes no space')
  t.strictSame((await open(disk)).entries, [])
})

t.test('an entry that is longer than a segment is not taken', async t => {
  const disk = new MemoryDisk(MARKS_BYTES + 2 * 24 * 1024)
  const { log } = await open(disk)
  t.equal(log.append(0, data(1, 6), 0, 6 * GRAIN), undefined)
  t.ok(log.append(0, data(1, 5), 0, 5 * GRAIN), 'one that fills it exactly is')
  await log.written
  t.strictSame((await open(disk)).entries.map(({ length }) => length), [5 * GRAIN])
})

t.test('what the disk refuses never was, and the log begins anew when all else is marked', async t => {
  const disk = small()
  const { log } = await open(disk)
  log.append(0, data(1), 0, GRAIN)
  await log.written
  const write = disk.write.bind(disk)
  disk.write = (offset, length, from, at) => {
    write(offset, length - 512, from, at)
    throw new NbdeltaError('no-space', 'no room')
  }
  log.append(GRAIN, data(2), 0, GRAIN)
  await t.rejects(log.written!, { code: 'no-space' })
  t.equal(log.writtenTo, 1, 'nobody takes it for written')
  disk.write = write
  t.equal(log.append(GRAIN, data(2), 0, GRAIN), undefined)
  t.equal((await open(disk.fork())).entries.length, 1)
  await log.mark(2)
  t.ok(log.append(GRAIN, data(3), 0, GRAIN), 'after a mark that covers it')
  await log.written
  const again = await open(disk.fork())
  t.strictSame(again.entries.map(({ sequence }) => sequence), [3])
  t.ok((await read(again.log, again.entries[0])).equals(data(3)))
})

t.test('random appends, marks, kills: exactly what is not marked is found', async t => {
  const random = seededRandom(SEED)
  let disk = small()
  let { log } = await open(disk)
  let kept: { sequence: number, value: number }[] = []
  for (let step = 0; step < 2000; step++) {
    const roll = random(10)
    if (roll < 7) {
      const value = 1 + random(255)
      const grains = 1 + random(3)
      if (log.append(step * GRAIN, data(value, grains), 0, grains * GRAIN) !== undefined) kept.push({ sequence: log.sequence, value })
      if (random(3) === 0) await log.written
    } else if (roll < 9 && kept.length > 0) {
      await log.written
      const { sequence } = kept[random(kept.length)]
      await log.mark(sequence)
      kept = kept.filter(entry => entry.sequence > sequence)
    } else {
      await log.written
      disk = disk.fork()
      const again = await open(disk)
      log = again.log
      const found = await Promise.all(again.entries.map(async entry => ({ sequence: entry.sequence, value: (await read(log, entry))[0] })))
      if (!t.strictSame(found, kept, `step ${step}`)) return
      if (kept.length > 0) await log.mark(kept.at(-1)!.sequence)
      kept = []
    }
  }
})

t.test('entries of earlier builds, one a record, are found', async t => {
  const { encodeRecord, recordSizeBytes } = await import('../../native-free/index.js')
  const disk = small()
  let address = MARKS_BYTES
  for (let i = 1; i <= 3; i++) {
    const payload = Buffer.concat([Buffer.alloc(8), data(i)])
    payload.writeUInt32BE(i * GRAIN, 4)
    const record = Buffer.alloc(recordSizeBytes(payload.length))
    const place = { magic: 0x4e424457, version: 1, owner: identity.owner, address }
    encodeRecord(place, { type: 1, epoch: 2, sequence: i, durableSequence: 0 }, payload, record, 0)
    await disk.write(address, record.length, record, 0)
    address += record.length
  }
  const { log, entries } = await open(disk)
  t.strictSame(entries.map(({ sequence, offset, length }) => [sequence, offset, length]), [1, 2, 3].map(i => [i, i * GRAIN, GRAIN]))
  for (const [i, entry] of entries.entries()) t.ok((await read(log, entry)).equals(data(i + 1)))
})

t.test('what a killed process wrote is made durable by the first flush of the next', async t => {
  const disk = small()
  const { log } = await open(disk)
  log.append(0, data(1), 0, GRAIN)
  await log.written
  await log.flush()
  // A power cut that takes this would put the entry over what has come on top of it since.
  await log.mark(1)
  let flushes = 0
  const flush = disk.flush.bind(disk)
  disk.flush = () => { flushes++; return flush() }
  const { log: again } = await open(disk)
  await again.flush()
  t.equal(flushes, 1)
  await again.flush()
  t.equal(flushes, 1, 'once')
})

t.test('a log of a newer format is refused', async t => {
  const disk = small()
  const { log } = await open(disk)
  log.append(0, data(1), 0, GRAIN)
  await log.written
  const stroke = Buffer.alloc(2 * GRAIN)
  await disk.read(MARKS_BYTES, stroke.length, stroke, 0)
  const { encodeRecord, RECORD_HEADER_BYTES } = await import('../../native-free/index.js')
  const place = { magic: stroke.readUInt32BE(0), version: 2, owner: identity.owner, address: MARKS_BYTES }
  const payload = Buffer.from(stroke.subarray(RECORD_HEADER_BYTES))
  encodeRecord(place, { type: 3, epoch: 2, sequence: 1, durableSequence: 0 }, payload, stroke, 0)
  await disk.write(MARKS_BYTES, stroke.length, stroke, 0)
  await t.rejects(open(disk), { code: 'newer-format' })
})

t.test('strokes behind one that a power cut took never count, whatever takes its place', async t => {
  const disk = small()
  const { log } = await open(disk)
  for (const value of [1, 2]) {
    log.append(GRAIN, data(value), 0, GRAIN)
    await log.written
  }
  disk.zero(MARKS_BYTES, 2 * GRAIN, { allocate: false, fast: false })
  const { log: next, entries } = await open(disk)
  t.strictSame(entries, [])
  next.append(0, data(3), 0, GRAIN)
  await next.written
  t.strictSame((await open(disk)).entries.map(({ offset }) => offset), [0])
})

t.test('nothing is written over an entry before a mark that covers it is durable', async t => {
  const random = seededRandom(SEED ^ 0x5ea1)
  const disk = small()
  const there = new Map<number, { readonly end: number, readonly sequence: number }>()
  let [marked, durable, over] = [0, 0, 0]
  const [write, flush] = [disk.write.bind(disk), disk.flush.bind(disk)]
  let log!: StagingLog
  disk.write = (offset, length, from, at) => {
    if (offset >= MARKS_BYTES) {
      for (const [start, { end, sequence }] of there) {
        if (end <= offset || start >= offset + length) continue
        if (sequence > durable) t.fail(`entry ${sequence} is written over, and ${durable} are durably marked`)
        there.delete(start)
        over++
      }
    }
    return write(offset, length, from, at)
  }
  disk.flush = () => {
    durable = marked
    return flush()
  }
  disk.close = async () => undefined
  for (let process = 0; process < 20; process++) {
    log = (await open(disk)).log
    for (let i = 0; i < 60; i++) {
      const roll = random(8)
      if (roll < 5) {
        const grains = 1 + random(4)
        const address = log.append(0, data(1, grains), 0, grains * GRAIN)
        if (address !== undefined) {
          const { sequence } = log
          await log.written
          there.set(address, { end: address + grains * GRAIN, sequence })
        }
      } else if (roll < 7) {
        const sequence = random(3) === 0 ? log.sequence : log.applied + random(log.sequence - log.applied + 1)
        marked = Math.max(marked, sequence)
        await log.mark(sequence)
      } else if (random(4) === 0) await log.flush()
    }
    // Closed, or killed with everything marked, or anyhow.
    const end = random(3)
    if (end === 0) await log.close()
    if (end !== 1) continue
    marked = Math.max(marked, log.sequence)
    await log.mark(log.sequence)
  }
  t.ok(over > 50, `${over} entries were written over`)
})

t.test('a flush that comes while another is on its way is not answered before it', async t => {
  const disk = small()
  const { log } = await open(disk)
  let go = (): void => undefined
  let flushes = 0
  disk.flush = () => {
    flushes++
    return new Promise<void>(resolve => { go = resolve })
  }
  log.append(0, data(1), 0, GRAIN)
  await log.written
  let answered = 0
  const both = [log.flush(), log.flush()].map(one => one.then(() => { answered++ }))
  await new Promise<void>(resolve => { setImmediate(resolve) })
  t.equal(answered, 0)
  go()
  await Promise.all(both)
  t.equal(flushes, 1)
})
