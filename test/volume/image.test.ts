// Import and export: zeros are skipped on both sides, progress and cancel work, a failed export leaves nothing behind.
import { existsSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import files from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import { join } from 'node:path'
import { PassThrough, Readable } from 'node:stream'
import { setImmediate as nextTurn } from 'node:timers/promises'
import t from 'tap'
import type { BlockDevice } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { MemoryDisk } from '../../src/device/testing.js'
import { exportImage, importImage } from '../../src/volume/image.js'
import { freshVolume, GRAIN, mapOf, ProgrammedDisk, readAll } from './lab.js'

const MIB = 2 ** 20
const SIZE = 12 * MIB

/** Data, holes and small islands; `length` not a multiple of anything. */
function picture(length: number): Buffer {
  const image = Buffer.alloc(length)
  image.fill(7, 3 * MIB + 100, 5 * MIB)
  image.fill(9, 8 * MIB, 8 * MIB + 1)
  image.fill(3, length - 10)
  return image
}

t.test('import skips zeros', async t => {
  const folder = t.testdir()
  const image = picture(SIZE - 333)
  writeFileSync(join(folder, 'image'), image)
  const live = new ProgrammedDisk(SIZE)
  const volume = await freshVolume({ sizeBytes: SIZE, live })
  const seen: number[] = []
  const onProgress = (done: number, total: number): void => {
    seen.push(done)
    t.equal(total, image.length)
  }
  await importImage(volume, join(folder, 'image'), { onProgress })
  t.ok((await readAll(volume, 0, image.length)).equals(image))
  t.equal((await volume.facts()).mappedBytes, 2 * MIB + 2 * GRAIN, 'only what is not zero')
  t.strictSame(seen, [...seen].sort((a, b) => a - b))
  t.equal(seen.at(-1), image.length)
})

t.test('import over old content: what lies behind the end of the image reads as zeros', async t => {
  const volume = await freshVolume({ sizeBytes: SIZE })
  await volume.write(0, SIZE, Buffer.alloc(SIZE, 0xff), 0)
  const image = picture(SIZE - MIB - 5)
  await importImage(volume, MemoryDisk.from(image))
  t.ok((await readAll(volume)).equals(Buffer.concat([image, Buffer.alloc(MIB + 5)])))
})

t.test('import from a stream, in chunks of odd sizes', async t => {
  const volume = await freshVolume({ sizeBytes: SIZE })
  const image = picture(9 * MIB + 77)
  const chunks: Buffer[] = []
  for (let at = 0, step = 1; at < image.length; at += step, step = step * 3 % 300_007) chunks.push(image.subarray(at, at + step))
  await importImage(volume, Readable.from(chunks))
  t.ok((await readAll(volume, 0, image.length)).equals(image))
  await t.rejects(importImage(volume, Readable.from([Buffer.alloc(SIZE), Buffer.alloc(1)])), { code: 'too-large' })
})

t.test('refusals', async t => {
  const folder = t.testdir({ there: 'x', folder: {} })
  const volume = await freshVolume({ sizeBytes: SIZE })
  await t.rejects(importImage(volume, new MemoryDisk(SIZE + 1)), { code: 'too-large' })
  await t.rejects(importImage(volume, join(folder, 'nowhere')), { code: 'not-found' })
  await t.rejects(exportImage(volume, join(folder, 'there')), { code: 'exists' })
  await t.rejects(exportImage(volume, join(folder, 'folder'), { overwrite: true }), { code: 'bad-argument' })
  await t.rejects(exportImage(volume, join(folder, 'nowhere', 'out')), { code: 'not-found' })
})

t.test('export is sparse and exact', async t => {
  const folder = t.testdir({ there: 'x' })
  const volume = await freshVolume({ sizeBytes: SIZE - 333 })
  const image = picture(SIZE - 333)
  await volume.write(0, image.length, image, 0)
  const out = join(folder, 'out')
  await exportImage(volume, out)
  t.ok(readFileSync(out).equals(image))
  t.ok(statSync(out).blocks * 512 <= 2 * MIB + 64 * 1024, `${statSync(out).blocks * 512} bytes on disk`)
  await exportImage(volume, join(folder, 'there'), { overwrite: true })
  t.ok(readFileSync(join(folder, 'there')).equals(image))
  t.strictSame(readdirSync(folder).sort(), ['out', 'there'])
  const stream = new PassThrough({ highWaterMark: 1000 })
  const chunks: Buffer[] = []
  stream.on('data', (chunk: Buffer) => { chunks.push(chunk) })
  await exportImage(volume, stream)
  t.ok(Buffer.concat(chunks).equals(image), 'to a stream')
})

t.test('reading back what was exported gives the same map', async t => {
  const folder = t.testdir()
  const one = await freshVolume({ sizeBytes: SIZE })
  await one.write(5 * MIB + 1, 10, Buffer.alloc(10, 1), 0)
  await exportImage(one, join(folder, 'out'))
  const two = await freshVolume({ sizeBytes: SIZE })
  await importImage(two, join(folder, 'out'))
  t.equal(mapOf(two), mapOf(one))
})

t.test('cancelled: the import stops, the export leaves nothing', async t => {
  const folder = t.testdir()
  const volume = await freshVolume({ sizeBytes: SIZE })
  await volume.write(0, SIZE, Buffer.alloc(SIZE, 1), 0)
  const abort = new AbortController()
  const options = { signal: abort.signal, onProgress: (done: number) => { if (done >= 2 * MIB) abort.abort() } }
  await t.rejects(exportImage(volume, join(folder, 'out'), options), { code: 'cancelled' })
  t.notOk(existsSync(join(folder, 'out')))
  t.strictSame(readdirSync(folder), [])
  await t.rejects(importImage(volume, new MemoryDisk(SIZE), { signal: abort.signal }), { code: 'cancelled' })
})

t.test("D2: an export's name is durable: its folder is synced after the file has got it", async t => {
  const folder = t.testdir()
  const volume = await freshVolume({ sizeBytes: MIB })
  const seen: boolean[] = []
  const { open } = files
  files.open = (async (...args: Parameters<typeof open>) => {
    if (args[0] === folder) seen.push(existsSync(join(folder, 'out')))
    return open(...args)
  }) as typeof open
  syncBuiltinESMExports()
  t.teardown(() => {
    files.open = open
    syncBuiltinESMExports()
  })
  for (const overwrite of [false, true]) {
    await exportImage(volume, join(folder, 'out'), { overwrite })
    t.equal(seen.at(-1), true, overwrite ? 'renamed' : 'linked')
    seen.length = 0
  }
})

/** Like a remote export: knows nothing without asking, and is asked at the price of a round trip. */
class FarDisk implements BlockDevice {
  readonly calls = { read: 0, write: 0, zeroed: 0, extents: 0 }
  readonly #disk: MemoryDisk

  constructor(sizeBytes: number) { this.#disk = new MemoryDisk(sizeBytes) }

  get sizeBytes() { return this.#disk.sizeBytes }
  get blockSizes() { return this.#disk.blockSizes }
  get capabilities() { return this.#disk.capabilities }

  async read(...request: Parameters<MemoryDisk['read']>) {
    this.calls.read += request[1]
    await nextTurn()
    this.#disk.read(...request)
  }

  async write(...request: Parameters<MemoryDisk['write']>) {
    this.calls.write += request[1]
    await nextTurn()
    this.#disk.write(...request)
  }

  async zero(...request: Parameters<MemoryDisk['zero']>) {
    this.calls.zeroed += request[1]
    await nextTurn()
    this.#disk.zero(...request)
  }

  async extents(...request: Parameters<MemoryDisk['extents']>) {
    this.calls.extents++
    await nextTurn()
    return this.#disk.extents(...request)
  }

  trim() { return undefined }
  flush() { return undefined }
  zeroRun(_offset: number, length: number) { return length }
  close() { return this.#disk.close() }
}

t.test('import from a device that tells its holes when asked: only data is read', async t => {
  const source = new FarDisk(SIZE)
  const image = picture(SIZE)
  await source.write(3 * MIB, 2 * MIB, image, 3 * MIB)
  await source.write(8 * MIB, GRAIN, image, 8 * MIB)
  await source.write(SIZE - GRAIN, GRAIN, image, SIZE - GRAIN)
  const volume = await freshVolume({ sizeBytes: SIZE })
  await volume.write(0, SIZE, Buffer.alloc(SIZE, 0xff), 0)
  const seen: number[] = []
  await importImage(volume, source, { onProgress: done => { seen.push(done) } })
  t.ok((await readAll(volume)).equals(image), 'what was there before is gone')
  t.equal(source.calls.read, 2 * MIB + 2 * GRAIN)
  t.equal(source.calls.extents, 1, 'all of its holes in one answer')
  t.equal(seen.at(-1), SIZE)
})

t.test('a source whose look-up of holes fails ends the import with its error', async t => {
  const source = new FarDisk(SIZE)
  source.extents = () => Promise.reject(new NbdeltaError('unreachable', 'nobody there'))
  const volume = await freshVolume({ sizeBytes: SIZE })
  await t.rejects(importImage(volume, source), { code: 'unreachable' })
})

t.test('export to a device: zeros are sent only where it may hold data, and its end stays', async t => {
  const target = new FarDisk(SIZE + MIB)
  await target.write(SIZE - MIB, 2 * MIB, Buffer.alloc(2 * MIB, 0xff), 0)
  Object.assign(target.calls, { write: 0 })
  const volume = await freshVolume({ sizeBytes: SIZE })
  await volume.write(3 * MIB, MIB, Buffer.alloc(MIB, 5), 0)
  await exportImage(volume, target)
  const into = Buffer.alloc(SIZE + MIB)
  await target.read(0, into.length, into, 0)
  t.ok(into.subarray(0, SIZE).equals(await readAll(volume)))
  t.ok(into.subarray(SIZE).equals(Buffer.alloc(MIB, 0xff)), 'behind the end of the volume')
  t.equal(target.calls.write, MIB)
  t.equal(target.calls.zeroed, MIB, 'holes of the target are left alone')
})

t.test('export to a device that cannot take it', async t => {
  const volume = await freshVolume({ sizeBytes: SIZE })
  await t.rejects(exportImage(volume, new MemoryDisk(SIZE - 512)), { code: 'too-large' })
  await t.rejects(exportImage(volume, new MemoryDisk(SIZE, { readOnly: true })), { code: 'read-only' })
})
