// Delta streams in files, pipes and packed: what is half written never has the name, and what is packed is told by itself.
import { execFileSync, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { PassThrough, Writable } from 'node:stream'
import { gunzipSync, gzipSync } from 'node:zlib'
import zlib from 'node:zlib'
import t from 'tap'
import { FaultyDisk, MemoryDisk } from '../../src/device/testing.js'
import { applyDelta, exportDelta, verifyDelta } from '../../src/volume/delta.js'
import { mergeDeltas } from '../../src/volume/delta-merge.js'
import { applied, between, chunked, collected, History, streamOf } from './delta-lab.js'

const MIB = 2 ** 20
const HAS_ZSTD = 'createZstdCompress' in zlib
const history = new History(8 * MIB)
const p = history.freeze()
history.write(MIB, Buffer.from(Array.from({ length: 3 * MIB }, (_byte, at) => at % 251)))
const q = history.freeze()
const options = between(history, p, q)
const at = { target: p.image.fork(), identity: () => p.point.uuid, commit: () => undefined }

t.test('files: written aside, named at the end', async t => {
  const folder = t.testdir({ there: 'x', folder: {} })
  const path = join(folder, 'delta')
  let listed: string[] = []
  await exportDelta({ ...options, sink: path, onProgress: () => { listed = listed.length > 0 ? listed : readdirSync(folder) } })
  t.match(listed.find(name => name.startsWith('delta')), /^delta\..*\.part$/)
  t.strictSame(readdirSync(folder).sort(), ['delta', 'folder', 'there'])
  t.equal((await verifyDelta(path)).position.dataBytes, 3 * MIB)
  const target = p.image.fork()
  await applyDelta({ ...at, target, source: path })
  t.ok(target.toBuffer().equals(q.image.toBuffer()))
  await t.rejects(exportDelta({ ...options, sink: path }), { code: 'exists' })
  await t.rejects(exportDelta({ ...options, sink: join(folder, 'folder'), overwrite: true }), { code: 'bad-argument' })
  await t.rejects(exportDelta({ ...options, sink: join(folder, 'nowhere', 'x') }), { code: 'not-found', message: /there is no directory for / })
  await t.rejects(verifyDelta(join(folder, 'nowhere')), { code: 'not-found', message: /^there is no / })
  await t.rejects(verifyDelta(join(folder, 'there')), { code: 'damaged' })
  await mergeDeltas({ sources: [path], sink: join(folder, 'there'), overwrite: true })
  t.ok(readFileSync(join(folder, 'there')).equals(readFileSync(path)), 'a delta merged with nothing is the same')
  const faulty = new FaultyDisk(q.image, { faults: [{ on: 'read', nth: 3, effect: { kind: 'error', code: 'io' } }] })
  const broken = { point: q.point, read: faulty.read.bind(faulty), zeroRun: faulty.zeroRun.bind(faulty) }
  await t.rejects(exportDelta({ ...options, to: broken, sink: path, overwrite: true }), { code: 'io' })
  t.equal((await verifyDelta(path)).position.dataBytes, 3 * MIB, 'a failed export leaves the old one')
  t.strictSame(readdirSync(folder).sort(), ['delta', 'folder', 'there'])
})

t.test('a pipe with a name is written and read straight', async t => {
  const pipe = join(t.testdir(), 'pipe')
  execFileSync('mkfifo', [pipe])
  const target = p.image.fork()
  await Promise.all([exportDelta({ ...options, sink: pipe }), applyDelta({ ...at, target, source: pipe })])
  t.ok(target.toBuffer().equals(q.image.toBuffer()))
})

t.test('standard input and output', async t => {
  const stream = await streamOf(options)
  const module = new URL('../../src/index.js', import.meta.url).href
  const script = `import { mergeDeltas } from '${module}'; await mergeDeltas({ sources: ['-'], sink: '-', compress: 'gzip' })`
  const run = spawnSync(process.execPath, ['--input-type=module', '-e', script], { input: stream, maxBuffer: 16 * MIB })
  t.equal(run.status, 0, run.stderr.toString())
  t.ok(gunzipSync(run.stdout).equals(stream))
})

t.test('packed: gzip', async t => {
  const plain = await streamOf(options)
  const packed = await collected(sink => exportDelta({ ...options, sink, compress: 'gzip' }))
  t.ok(packed.length < plain.length / 20, `${packed.length} bytes of ${plain.length}`)
  t.equal(gunzipSync(packed).length, plain.length)
  for (const step of [1, 3, 100_000]) {
    const target = p.image.fork()
    t.equal(await applied(packed, target, p.point.uuid, { source: chunked(packed, step) }), q.point.uuid)
    t.ok(target.toBuffer().equals(q.image.toBuffer()), `in pieces of ${step}`)
  }
  for (let n = 0; n < 40; n++) {
    const length = Math.floor(packed.length * n / 40)
    await t.rejects(applied(packed.subarray(0, length), p.image.fork(), p.point.uuid, { commit: () => { t.fail('committed') } }), { code: 'damaged' })
    // A bit of the packed stream: refused, or one that says nothing about the content.
    const copy = Buffer.from(packed)
    copy[10 + Math.floor((packed.length - 18) * n / 40)] ^= 1 << n % 8
    const target = p.image.fork()
    const outcome = await applied(copy, target, p.point.uuid).then(() => 'committed', (error: { code: string }) => error.code)
    t.ok(outcome === 'damaged' || (outcome === 'committed' && target.toBuffer().equals(q.image.toBuffer())), outcome)
  }
})

t.test('packed: a sender that stops, and a refusal, end at once', async t => {
  const packed = await collected(sink => exportDelta({ ...options, sink, compress: 'gzip' }))
  const stopped = (): PassThrough => {
    const source = new PassThrough()
    source.write(packed.subarray(0, packed.length / 2))
    return source
  }
  const controller = new AbortController()
  const waiting = verifyDelta(stopped(), { signal: controller.signal })
  setTimeout(() => controller.abort(), 20)
  await t.rejects(waiting, { code: 'cancelled' })
  const source = stopped()
  await t.rejects(applied(packed, p.image.fork(), q.point.uuid, { source }), { code: 'exists' })
  t.ok(source.destroyed)
})

t.test('a packed stream of nothing but repetition is not unpacked further than it checks', async t => {
  const bomb = gzipSync(Buffer.alloc(64 * MIB))
  const before = process.memoryUsage().arrayBuffers
  await t.rejects(verifyDelta(chunked(bomb)), { code: 'damaged' })
  t.ok(process.memoryUsage().arrayBuffers - before < 16 * MIB)
})

t.test('packed: zstd where Node.js has it, else said clearly', async t => {
  if (HAS_ZSTD) {
    const packed = await collected(sink => exportDelta({ ...options, sink, compress: 'zstd' }))
    t.equal(packed.readUInt32BE(0), 0x28b52ffd)
    const target = p.image.fork()
    t.equal(await applied(packed, target, p.point.uuid), q.point.uuid)
    t.ok(target.toBuffer().equals(q.image.toBuffer()))
    await t.rejects(verifyDelta(chunked(packed.subarray(0, -5))), { code: 'damaged' })
    return
  }
  const folder = t.testdir()
  await t.rejects(exportDelta({ ...options, sink: join(folder, 'delta'), compress: 'zstd' }), { code: 'bad-argument', message: /no zstd/, hint: /gzip/ })
  t.strictSame(readdirSync(folder), [])
  writeFileSync(join(folder, 'packed'), Buffer.from('28b52ffd00000000', 'hex'))
  await t.rejects(verifyDelta(join(folder, 'packed')), { code: 'bad-argument', message: /no zstd/ })
})

t.test('a sink that fails ends the export with its reason', async t => {
  for (const compress of ['none', 'gzip'] as const) {
    let room = 2
    const sink = new Writable({
      highWaterMark: 1,
      write: (_chunk, _encoding, done) => { done(room-- > 0 ? null : Object.assign(new Error('no room'), { code: 'ENOSPC' })) },
    })
    const big = MemoryDisk.from(randomBytes(4 * MIB))
    const to = { point: { ...q.point, sizeBytes: big.sizeBytes }, read: big.read.bind(big), zeroRun: big.zeroRun.bind(big) }
    await t.rejects(exportDelta({ volume: options.volume, to, sink, compress }), { code: 'no-space' }, compress)
  }
})

t.test('it is done when the sink has taken all of it, and failed when it has not', async t => {
  const noise = MemoryDisk.from(randomBytes(MIB))
  const to = { point: { ...q.point, sizeBytes: MIB }, read: noise.read.bind(noise), zeroRun: noise.zeroRun.bind(noise) }
  for (const compress of ['none', 'gzip'] as const) {
    const taken: Buffer[] = []
    const slow = new Writable({
      write: (chunk: Buffer, _encoding, done) => { setTimeout(() => { taken.push(chunk); done() }, 10) },
    })
    await exportDelta({ volume: options.volume, to, sink: slow, compress })
    const packed = Buffer.concat(taken)
    t.equal((await verifyDelta(chunked(packed, MIB))).position.target, q.point.uuid, compress)
    // The very last of it finds no room; packed anew it may be some bytes shorter.
    let room = packed.length - 100
    const full = new Writable({
      write: (chunk: Buffer, _encoding, done) => {
        room -= chunk.length
        setTimeout(done, 10, room >= 0 ? null : Object.assign(new Error('no room'), { code: 'ENOSPC' }))
      },
    })
    await t.rejects(exportDelta({ volume: options.volume, to, sink: full, compress }), { code: 'no-space' }, compress)
  }
})

t.test('a stream that was handed in stays open', async t => {
  for (const compress of ['none', 'gzip'] as const) {
    const sink = new PassThrough()
    sink.resume()
    await exportDelta({ ...options, sink, compress })
    t.notOk(sink.writableEnded)
    t.equal(sink.listenerCount('error'), 0)
    sink.end()
  }
})
