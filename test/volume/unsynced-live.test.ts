// What a failed flush left off the medium is written again by the next open, before any flush is answered (DESIGN D2, D7).
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import type { Pending } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { silentLogger } from '../../src/device/logger.js'
import { MemoryDisk, seededRandom } from '../../src/device/testing.js'
import { UnsyncedFile } from '../../src/store/unsynced-file.js'
import { UnsyncedLive, type UnsyncedPlace } from '../../src/volume/unsynced-live.js'
import { CachedDisk } from '../store/page-cache.js'

const GRAIN = 4096
const BYTES = 64 * GRAIN
const UUID = '6e626465-6c74-4130-8000-000000000007'
const SEED = Number(process.env['SEED'] ?? 1)

type Spans = Awaited<ReturnType<UnsyncedPlace['read']>>

class Place implements UnsyncedPlace {
  spans: Spans = []
  read(): Promise<Spans> { return Promise.resolve(this.spans) }
  write(spans: Spans): Promise<void> {
    this.spans = spans
    return Promise.resolve()
  }
}

class LiveDisk extends CachedDisk {
  badFrom = Infinity
  /** It is opened again. */
  override close(): Promise<void> { return Promise.resolve() }
  override read(offset: number, length: number, into: Buffer, at: number): Pending {
    if (offset + length > this.badFrom) throw new NbdeltaError('io', 'EIO: the medium is bad there')
    return super.read(offset, length, into, at)
  }
}

const everything = (from: number, to: number) => [{ start: from, end: to }]
const opened = (disk: LiveDisk, place: UnsyncedPlace): UnsyncedLive => new UnsyncedLive(disk, place, silentLogger)

t.test('whatever was written, flushed and failed: behind a flush of the next open the medium has what is read', async t => {
  t.comment(`SEED=${SEED}`)
  for (let seed = SEED; seed < SEED + 200; seed++) {
    const random = seededRandom(seed)
    const disk = new LiveDisk(new MemoryDisk(BYTES))
    const place = new Place()
    for (let open = 0; open < 3; open++) {
      const live = opened(disk, place)
      disk.failsFlushes = random(4) === 0
      await live.settle(GRAIN, everything)
      for (let step = 0; step < 12; step++) {
        const offset = random(BYTES - 1)
        const length = 1 + random(Math.min(BYTES - offset, 3 * GRAIN))
        if (random(4) > 0) await live.write(offset, length, Buffer.alloc(length, random(256)), 0)
        else await live.zero(offset, length, { allocate: false, fast: false })
        disk.failsFlushes = random(6) === 0
        const flushed = await Promise.resolve().then(() => live.flush()).then(() => true, () => false)
        if (flushed) t.ok(disk.medium.toBuffer().equals(disk.toBuffer()), `seed ${seed}, open ${open}, step ${step}`)
        else break
      }
      disk.failsFlushes = random(2) === 0
      await live.close()
    }
  }
})

t.test('what holds no data is not written, and nothing when nothing failed', async t => {
  const disk = new LiveDisk(new MemoryDisk(BYTES))
  const place = new Place()
  const live = opened(disk, place)
  await live.write(0, BYTES, Buffer.alloc(BYTES, 1), 0)
  await live.flush()
  t.same(await opened(disk, place).settle(GRAIN, everything), [])
  await live.write(0, 4 * GRAIN, Buffer.alloc(4 * GRAIN, 2), 0)
  disk.failsFlushes = true
  await t.rejects(async () => live.flush())
  disk.failsFlushes = false
  t.same(place.spans, [{ start: 0, end: 4 * GRAIN }])
  const notes = await opened(disk, place).settle(GRAIN, from => [{ start: from + 1, end: from + 2 }])
  t.match(notes, [/^4096 bytes .* were written again$/])
  t.same(place.spans, [])
  const found = Array.from({ length: 5 }, (_, grain) => disk.medium.toBuffer()[grain * GRAIN])
  t.same(found, [1, 2, 1, 1, 1])
})

t.test('what cannot be written again fails every flush, and stays in doubt', async t => {
  const disk = new LiveDisk(new MemoryDisk(BYTES))
  const place = new Place()
  place.spans = [{ start: GRAIN, end: 2 * GRAIN }]
  disk.failsFlushes = true
  const live = opened(disk, place)
  t.match(await live.settle(GRAIN, everything), [/could not be written again/])
  disk.failsFlushes = false
  await live.write(8 * GRAIN, 1, Buffer.alloc(1, 7), 0)
  await t.rejects(async () => live.flush(), { code: 'flush-failed' })
  await live.close()
  t.same(place.spans, [{ start: GRAIN, end: 2 * GRAIN }, { start: 8 * GRAIN, end: 9 * GRAIN }])
})

t.test('what cannot be read is left alone, and the rest is written', async t => {
  const disk = new LiveDisk(new MemoryDisk(BYTES))
  const place = new Place()
  const live = opened(disk, place)
  await live.write(0, 4 * GRAIN, Buffer.alloc(4 * GRAIN, 2), 0)
  disk.failsFlushes = true
  await t.rejects(async () => live.flush())
  disk.failsFlushes = false
  disk.badFrom = 3 * GRAIN
  t.match(await opened(disk, place).settle(GRAIN, everything), [/^12288 bytes/])
  t.same(place.spans, [])
  t.same(new Set(disk.medium.toBuffer().subarray(0, 3 * GRAIN)), new Set([2]))
  t.equal(disk.medium.toBuffer()[3 * GRAIN], 0)
})

t.test('what lies behind the end is not looked for', async t => {
  const place = new Place()
  place.spans = [{ start: BYTES - GRAIN, end: BYTES + GRAIN }, { start: BYTES + 2 * GRAIN, end: Number.MAX_SAFE_INTEGER }]
  const bits = new GrainBitmap(BYTES / GRAIN)
  bits.set(0, bits.length)
  const data = (from: number, to: number) => [{ start: bits.next(from, to, true), end: to }]
  t.match(await opened(new LiveDisk(new MemoryDisk(BYTES)), place).settle(GRAIN, data), [/^4096 bytes/])
  t.same(place.spans, [])
})

t.test('a size that changes takes along what is in doubt', async t => {
  const disk = new LiveDisk(new MemoryDisk(BYTES))
  const place = new Place()
  const live = opened(disk, place)
  await live.write(0, GRAIN, Buffer.alloc(GRAIN, 2), 0)
  await live.write(BYTES - GRAIN, GRAIN, Buffer.alloc(GRAIN, 2), 0)
  await live.resize(BYTES / 2)
  disk.failsFlushes = true
  await t.rejects(async () => live.flush())
  t.same(place.spans, [{ start: 0, end: GRAIN }])
})

t.test('the file: there while something is in doubt, replaced as a whole', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'nbdelta-unsynced-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const path = join(folder, 'unsynced')
  const file = new UnsyncedFile(path, UUID)
  t.same(await file.read(), [])
  await file.write([{ start: 4096, end: 8192 }])
  t.same(await file.read(), [{ start: 4096, end: 8192 }])
  const many = Array.from({ length: 5000 }, (_, i) => ({ start: 10 * i + i % 3, end: 10 * i + 5 }))
  await file.write(many)
  const fewer = await file.read()
  t.ok(fewer.length <= 1024 && fewer.length > 1000, `${fewer.length} ranges`)
  t.ok(many.every(({ start, end }) => fewer.some(span => span.start <= start && end <= span.end)), 'all of them are covered')
  const bytes = readFileSync(path)
  bytes[70]! ^= 1
  writeFileSync(path, bytes)
  t.same(await file.read(), [{ start: 0, end: Number.MAX_SAFE_INTEGER }], 'of one that does not check all counts')
  await t.rejects(new UnsyncedFile(join(folder, 'gone', 'unsynced'), UUID).write([{ start: 0, end: 1 }]), { code: 'not-found' })
  await file.write([])
  t.same(readdirSync(folder), [])
})
