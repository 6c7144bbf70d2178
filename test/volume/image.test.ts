// Import and export: zeros are skipped on both sides, progress and cancel work, a failed export leaves nothing behind.
import { existsSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import files from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import { join } from 'node:path'
import { PassThrough, Readable } from 'node:stream'
import t from 'tap'
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
