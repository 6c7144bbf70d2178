// Deltas between points: the laws B16, B18, B19 and B20, and what exporting and applying cost.
import { PassThrough } from 'node:stream'
import t from 'tap'
import type { DeltaPosition } from '../../native-free/index.js'
import type { BlockDevice, Pending } from '../../src/device/block-device.js'
import { FaultyDisk, MemoryDisk, ProbeDisk, type Random, seededRandom } from '../../src/device/testing.js'
import { applyDelta, exportDelta, judgeDelta, verifyDelta } from '../../src/volume/delta.js'
import { applied, between, chunked, collected, GRAIN, History, type Moment, randomHistory, recordsOf, streamOf, VOLUME } from './delta-lab.js'

const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000_007)
t.comment(`seed ${SEED}`)
const MIB = 2 ** 20
const same = (a: MemoryDisk, b: MemoryDisk): boolean => a.sizeBytes === b.sizeBytes && a.toBuffer().equals(b.toBuffer())

t.test('B16: applied to one point it gives the other, for all pairs, in both directions', async t => {
  for (let run = 0; run < 6; run++) {
    const history = randomHistory(seededRandom(SEED + run), 5)
    for (const to of history.moments) {
      for (const from of [undefined, ...history.moments]) {
        const stream = await streamOf(between(history, from, to))
        const target = from ? from.image.fork() : MemoryDisk.from(Buffer.alloc(100 * GRAIN, 0xee))
        const committed = await applied(stream, target, from?.point.uuid ?? 'empty')
        if (committed !== to.point.uuid || !same(target, to.image)) t.fail(`${from?.point.seq} to ${to.point.seq}, run ${run} of seed ${SEED}`)
        const { direction, position } = await verifyDelta(chunked(stream))
        t.equal(direction, from && from.point.seq > to.point.seq ? 'reverse' : 'forward')
        if (from === to) t.match(position, { sequence: 1, extents: 0 }, 'nothing between a point and itself')
      }
    }
  }
})

/** P: data. Q: some of it zeroed, some overwritten, zeros written over zeros. */
function smallHistory(): { history: History, p: Moment, q: Moment } {
  const history = new History(64 * MIB)
  history.write(MIB, Buffer.alloc(MIB, 1))
  history.write(8 * MIB, Buffer.alloc(64 * 1024, 2))
  const p = history.freeze()
  history.write(MIB + 8192, Buffer.alloc(100_000, 3))
  history.zero(8 * MIB, 64 * 1024)
  history.write(20 * MIB, Buffer.alloc(GRAIN))
  history.zero(30 * MIB, 16 * MIB)
  return { history, p, q: history.freeze() }
}

t.test('only what changed is read and shipped, and zeros as zeros', async t => {
  const { history, p, q } = smallHistory()
  const probe = new ProbeDisk(q.image)
  const stream = await collected(sink => exportDelta({
    ...between(history, p, q), to: { point: q.point, read: probe.read.bind(probe), zeroRun: probe.zeroRun.bind(probe) }, sink,
  }))
  t.equal(probe.stats().read.bytes, 26 * GRAIN, 'zeros that are known cost no read; these were 25 grains of data and one of zeros')
  const { position } = await verifyDelta(chunked(stream))
  t.match(position, { extents: 4, dataBytes: 25 * GRAIN, zeroBytes: 64 * 1024 + GRAIN + 16 * MIB })
  t.ok(stream.length < 25 * GRAIN + 500, `${stream.length} bytes`)
  const target = new ProbeDisk(p.image.fork())
  await applyDelta({ source: chunked(stream), target, identity: () => p.point.uuid, commit: () => undefined })
  t.equal(target.stats().write.bytes, 25 * GRAIN)
  t.equal(target.stats().zero.bytes, 64 * 1024 + GRAIN + 16 * MIB)
  t.equal(target.stats().flush.requests, 1)
})

t.test('a full stream is as long as its data', async t => {
  const disk = new MemoryDisk(2 ** 50)
  disk.write(2 ** 49, 3, Buffer.from('abc'), 0)
  const to = { point: { uuid: VOLUME.uuid, seq: 1, sizeBytes: 2 ** 50 }, read: disk.read.bind(disk), zeroRun: () => -(2 ** 50) }
  t.ok((await streamOf({ volume: VOLUME, to })).length < 400)
})

t.test('B18: the base is named by identity', async t => {
  const { history, p, q } = smallHistory()
  const stream = await streamOf(between(history, p, q))
  const again = new History(64 * MIB)
  again.freeze()
  const target = p.image.fork()
  const refused = (base: string, expected: { code: string, message?: string | RegExp }, options = {}): Promise<unknown> =>
    t.rejects(applied(stream, target, base, { begin: () => { t.fail('begun') }, commit: () => { t.fail('committed') }, ...options }), expected)
  await refused(again.moments[0].point.uuid, { code: 'wrong-state', message: new RegExp(p.point.uuid) })
  await refused('empty', { code: 'wrong-state', message: /the target is at nothing/ })
  await refused(q.point.uuid, { code: 'exists', message: /already/ })
  await refused('', { code: 'EIO' }, { identity: () => { throw Object.assign(new Error('no'), { code: 'EIO' }) } })
  await refused(p.point.uuid, { code: 'too-large' }, { target: new MemoryDisk(MIB), resize: undefined })
  await t.rejects(applied(await streamOf(between(history, undefined, q)), target, p.point.uuid), { code: 'wrong-state' }, 'full over a point')
  t.ok(same(target, p.image))
})

t.test('B18: judged by its header alone, it is refused for the same reasons', async t => {
  const { history, p, q } = smallHistory()
  const [stream, full] = [await streamOf(between(history, p, q)), await streamOf(between(history, undefined, q))]
  const kept: DeltaPosition[] = []
  await applied(await streamOf({ ...between(history, p, q), markBytes: 50_000 }), p.image.fork(), p.point.uuid, { onApplied: at => { kept.push(at) } })
  const rest = await streamOf({ ...between(history, p, q), markBytes: 50_000, resume: kept[0] })
  const [header] = recordsOf(stream) as [Buffer]
  const rows: readonly [string, Buffer, { at?: string, sizeBytes?: number, resizable?: boolean, resume?: DeltaPosition, throws?: boolean }][] = [
    ['it fits', stream, {}], ['a full stream into an empty target', full, { at: 'empty' }], ['another base', stream, { at: 'elsewhere' }],
    ['nothing there', stream, { at: 'empty' }], ['at the target already', stream, { at: q.point.uuid }], ['full over a point', full, {}],
    ['the rest of another', rest, {}], ['the rest', rest, { resume: kept[0] }], ['a position of another delta', full, { resume: kept[0] }],
    ['the caller refuses', stream, { throws: true }], ['too small', stream, { sizeBytes: MIB, resizable: false }], ['too small, to be grown', stream, { sizeBytes: MIB }],
    ['nothing', Buffer.alloc(0), {}], ['no delta', Buffer.from('not a delta, but long enough to look like one, or not'), {}],
    ['half a header', header.subarray(0, 30), {}], ['a bad header', Buffer.concat([header.subarray(0, 40), Buffer.from([1, 2, 3]), header.subarray(43)]), {}],
  ]
  const outcomes = new Set<string>()
  for (const [what, bytes, { at = p.point.uuid, sizeBytes = 64 * MIB, resizable = true, resume, throws = false }] of rows) {
    const identity = (): string => {
      if (throws) throw Object.assign(new Error('no'), { code: 'EIO' })
      return at
    }
    const told = (work: Promise<unknown>): Promise<string> =>
      work.then(() => 'fits', (error: { code: string, message: string }) => `${error.code}: ${error.message}`)
    const target = new MemoryDisk(sizeBytes)
    const judged = await told(judgeDelta({ source: chunked(bytes), target, identity, resume, resizable }))
    const done = await told(applied(bytes, target.fork(), at, { identity, resume, ...(resizable ? {} : { resize: undefined }) as object }))
    t.equal(judged, done, `${what}: ${done}`)
    t.ok(target.sizeBytes === sizeBytes && target.toBuffer().every(byte => byte === 0), `${what}: untouched`)
    outcomes.add(judged.slice(0, 30))
  }
  t.ok(outcomes.size >= 6, 'reasons of many kinds')
})

t.test('judging reads no further than the header', async t => {
  const { history, p, q } = smallHistory()
  const stream = await streamOf(between(history, p, q))
  const [header] = recordsOf(stream) as [Buffer]
  const source = new PassThrough()
  source.write(header)
  const target = p.image.fork()
  t.match(await judgeDelta({ source, target, identity: () => p.point.uuid, resizable: false }), { base: p.point.uuid, target: q.point.uuid, sizeAfter: 64 * MIB })
  t.ok(source.destroyed, 'the rest is not waited for, and nobody goes on sending it')
  const broken = Buffer.concat([header, Buffer.alloc(1000, 1)])
  await judgeDelta({ source: chunked(broken), target, identity: () => p.point.uuid, resizable: false })
  const silent = new PassThrough()
  const abort = new AbortController()
  const judging = judgeDelta({ source: silent, target, identity: () => p.point.uuid, resizable: false, signal: abort.signal })
  abort.abort()
  await t.rejects(judging, { code: 'cancelled' })
})

t.test('callbacks come in order, and the commit after the flush', async t => {
  const { history, p, q } = smallHistory()
  const stream = await streamOf({ ...between(history, p, q), markBytes: 50_000 })
  const seen: string[] = []
  const noted = p.image.fork()
  const target = new Proxy(noted, {
    get: (disk, name) => {
      const value = Reflect.get(disk, name, disk) as unknown
      if (typeof value !== 'function') return value
      return (...args: unknown[]) => {
        if (seen.at(-1) !== name) seen.push(String(name))
        return (value as (...args: unknown[]) => unknown).apply(disk, args)
      }
    },
  })
  await applied(stream, noted, p.point.uuid, {
    target,
    identity: () => { seen.push('identity'); return p.point.uuid },
    begin: header => { seen.push('begin'); t.equal(header.target, q.point.uuid) },
    onApplied: () => { seen.push('applied') },
    commit: point => { seen.push('commit'); t.strictSame(point, { volume: VOLUME.uuid, uuid: q.point.uuid, sizeBytes: 64 * MIB }) },
  })
  t.strictSame(seen, ['identity', 'begin', 'write', 'flush', 'applied', 'zero', 'flush', 'commit'])
})

/** A disk that fails at its n-th change or flush, and knows what would be left after a power cut. */
class Standby extends FaultyDisk {
  readonly content: MemoryDisk
  durable: MemoryDisk
  constructor(content: MemoryDisk, failAt: number, late: Random) {
    super(content)
    this.content = content
    this.durable = content.fork()
    this.arm({ on: ['write', 'zero', 'flush'], nth: failAt, effect: { kind: late(2) === 0 ? 'torn' : 'error', code: 'io' } })
    if (late(2) === 0) this.arm({ on: ['write', 'zero'], effect: { kind: 'delay', delayMs: 0 } })
  }

  override flush(): Pending {
    const pending = super.flush()
    const done = (): void => { this.durable = this.content.fork() }
    if (pending) return pending.then(done)
    done()
    return undefined
  }
}

t.test('B19: interrupted anywhere, cut off from power, resumed with the whole stream or its rest', async t => {
  const history = randomHistory(seededRandom(SEED + 100), 2, 200)
  const [p] = history.moments
  for (let grain = 0; grain < 180; grain += 3) history.write(grain * GRAIN, Buffer.alloc(GRAIN + 512, grain))
  const q = history.freeze()
  const options = { ...between(history, p, q), markBytes: 20 * GRAIN }
  const stream = await streamOf(options)
  const { position: whole } = await verifyDelta(chunked(stream))
  let runs = 0
  for (let failAt = 1; ; failAt++) {
    const random = seededRandom(SEED + failAt)
    let held: MemoryDisk | undefined
    let kept: DeltaPosition | undefined
    let committed = ''
    const first = new Standby(p.image.fork(), failAt, random)
    const callbacks = {
      identity: () => p.point.uuid, onApplied: (position: DeltaPosition) => { kept = JSON.parse(JSON.stringify(position)) as DeltaPosition },
      commit: ({ uuid }: { uuid: string }) => { committed = uuid }, resize: (sizeBytes: number) => first.content.setSize(sizeBytes),
    }
    const begin = (): void => { held = p.image.fork() }
    const outcome = applyDelta({ source: chunked(stream), target: first, begin, ...callbacks })
    const failure = await outcome.then(() => undefined, (error: unknown) => error)
    if (!failure) break
    runs++
    t.match(failure, { code: 'io' })
    t.equal(committed, '', 'the point has not moved')
    t.ok(same(held!, p.image), 'what was kept at the beginning is the previous point')
    const rest = random(2) === 0 || !kept ? stream : await streamOf({ ...options, resume: kept })
    if (kept && rest !== stream) t.ok(rest.length < stream.length - kept.dataBytes, 'only the rest is sent')
    const [resume, content] = [kept, first.durable.fork()]
    const target = new ProbeDisk(content)
    await applyDelta({
      source: chunked(rest), target, ...callbacks, resume, resize: sizeBytes => content.setSize(sizeBytes),
      begin: () => { if (resume) t.fail('begun twice') },
    })
    const dataBytes = whole.dataBytes - (resume?.dataBytes ?? 0)
    t.equal(target.stats().write.bytes, dataBytes, 'only the rest is written')
    t.equal(committed, q.point.uuid)
    if (!same(content, q.image)) t.fail(`failed at ${failAt}, seed ${SEED}`)
    // Once more from the start, over what is there: nothing changes.
    await applied(stream, content, p.point.uuid)
    t.ok(same(content, q.image), 'idempotent')
  }
  t.ok(runs > 50, `${runs} interruptions`)
})

t.test('B19: a position of another stream is refused before anything is written', async t => {
  const { history, p, q } = smallHistory()
  const options = { ...between(history, p, q), markBytes: 50_000 }
  const kept: DeltaPosition[] = []
  const stream = await streamOf(options)
  await applied(stream, p.image.fork(), p.point.uuid, { onApplied: position => { kept.push(position) } })
  const [resume] = kept
  const target = p.image.fork()
  const refused = (source: Buffer, position: DeltaPosition | undefined): Promise<unknown> =>
    t.rejects(applied(source, target, p.point.uuid, { resume: position }), { code: 'wrong-state' })
  const rest = await streamOf({ ...options, resume })
  await refused(await streamOf(options), resume)
  await refused(stream, { ...resume, sequence: resume.sequence + 1 })
  await refused(stream, { ...resume, sequence: 1000 })
  await refused(stream, { ...resume, target: p.point.uuid })
  await refused(rest, undefined)
  await refused(rest, { ...resume, sequence: resume.sequence - 1 })
  await refused(rest, { ...resume, digest: '00'.repeat(32) })
  await t.rejects(streamOf({ ...between(history, q, p), resume }), { code: 'wrong-state' })
  t.ok(same(target, p.image), 'untouched')
  t.equal((await verifyDelta(chunked(rest))).continued, true)
})

t.test('B20: truncated, reordered, repeated, flipped: the point does not move', async t => {
  const history = new History(16 * GRAIN)
  history.write(0, Buffer.alloc(GRAIN, 1))
  const p = history.freeze()
  history.write(0, Buffer.from('changed'))
  history.zero(4 * GRAIN, GRAIN)
  history.write(9 * GRAIN, Buffer.alloc(512, 7))
  const q = history.freeze()
  const stream = await streamOf({ ...between(history, p, q), markBytes: 5000 })
  const records = recordsOf(stream)
  const states = new Set<string>()
  await applied(stream, p.image.fork(), p.point.uuid, { onApplied: ({ digest }) => { states.add(digest) } })
  t.equal(states.size, 1)
  let streams = 0
  const refused = async (bad: Buffer, what: string): Promise<void> => {
    streams++
    const onApplied = ({ digest }: DeltaPosition): void => { if (!states.has(digest)) t.fail(`${what}: advanced`) }
    const commit = (): void => { t.fail(`${what}: committed`) }
    await applied(bad, p.image.fork(), p.point.uuid, { source: chunked(bad, 2 ** 20), commit, onApplied })
      .then(() => t.fail(`${what}: accepted`), (error: { code: string }) => { if (error.code !== 'damaged') t.fail(`${what}: ${error.code}`) })
  }
  for (let length = 0; length < stream.length; length += length < 500 ? 1 : 37) await refused(stream.subarray(0, length), `${length} bytes`)
  const random = seededRandom(SEED)
  for (let at = 0; at < stream.length; at += at < 700 ? 1 : 31) {
    const copy = Buffer.from(stream)
    copy[at] ^= 1 << random(8)
    await refused(copy, `a bit of byte ${at}`)
  }
  for (let from = 0; from < records.length; from++) {
    await refused(Buffer.concat([...records.slice(0, from + 1), ...records.slice(from)]), `${from} twice`)
    await refused(Buffer.concat(records.filter((_record, index) => index !== from)), `without ${from}`)
    for (let to = 0; to < from; to++) {
      const list = [...records]
      ;[list[from], list[to]] = [list[to], list[from]]
      await refused(Buffer.concat(list), `${from} and ${to} swapped`)
    }
  }
  t.comment(`${streams} bad streams`)
})

t.test('failures of the source disk, and cancelling, on either side', async t => {
  const { history, p, q } = smallHistory()
  const options = between(history, p, q)
  const faulty = new FaultyDisk(q.image, { faults: [{ on: 'read', nth: 1, effect: { kind: 'error', code: 'io' } }] })
  await t.rejects(streamOf({ ...options, to: { point: q.point, read: faulty.read.bind(faulty), zeroRun: faulty.zeroRun.bind(faulty) } }), { code: 'io' })
  const controller = new AbortController()
  const { signal } = controller
  const target = p.image.fork()
  // A sender that has stopped in the middle, and a receiver that does not read.
  const stream = await streamOf(options)
  const silent = new PassThrough()
  silent.write(stream.subarray(0, 60_000))
  const waiting = applied(stream, target, p.point.uuid, { source: silent, signal, commit: () => { t.fail('committed') } })
  const stuck = exportDelta({ ...options, sink: new PassThrough({ highWaterMark: 1, transform: () => undefined }), signal })
  await new Promise(resolve => { setTimeout(resolve, 20) })
  controller.abort()
  await t.rejects(waiting, { code: 'cancelled' })
  await t.rejects(stuck, { code: 'cancelled' })
  await t.rejects(verifyDelta(chunked(stream), { signal }), { code: 'cancelled' })
  await t.rejects(streamOf({ ...options, signal }), { code: 'cancelled' })
})

t.test('misuse', async t => {
  const { history, p, q } = smallHistory()
  const options = between(history, p, q)
  await t.rejects(streamOf({ ...options, runs: undefined }), { code: 'bad-argument' })
  await t.rejects(streamOf({ ...options, from: undefined }), { code: 'bad-argument' })
  await t.rejects(streamOf({ ...options, runs: [{ start: 5, end: 6 }, { start: 4, end: 5 }] }), RangeError)
})

t.test('progress ascends and ends with both equal', async t => {
  const { history, p, q } = smallHistory()
  const check = async (work: (onProgress: (done: number, total: number) => void) => Promise<unknown>): Promise<void> => {
    const seen: number[] = []
    await work((done, total) => { t.equal(total, 64 * MIB); seen.push(done) })
    t.strictSame(seen, [...seen].sort((a, b) => a - b))
    t.equal(seen.at(-1), 64 * MIB)
  }
  let stream: Buffer = Buffer.alloc(0)
  await check(async onProgress => { stream = await streamOf({ ...between(history, p, q), onProgress }) })
  await check(onProgress => verifyDelta(chunked(stream), { onProgress }))
  await check(onProgress => applied(stream, p.image.fork(), p.point.uuid, { onProgress }))
})

t.test('memory does not grow with the volume', async t => {
  const sizeBytes = 512 * MIB
  const fill = (offset: number, length: number, into: Buffer, at: number): Pending => { into.fill(1 + offset % 251, at, at + length); return undefined }
  const to = { point: { uuid: VOLUME.uuid, seq: 1, sizeBytes }, read: fill, zeroRun: (_offset: number, length: number) => length }
  let written = 0
  const target = { sizeBytes, write: (_offset: number, length: number) => { written += length }, flush: () => undefined } as unknown as BlockDevice
  const sink = new PassThrough()
  let peak = 0
  const before = process.memoryUsage().arrayBuffers
  const onProgress = (): void => { peak = Math.max(peak, process.memoryUsage().arrayBuffers - before) }
  const started = performance.now()
  await Promise.all([
    exportDelta({ volume: VOLUME, to, sink }).then(() => sink.end()),
    applyDelta({ source: sink, target, identity: () => 'empty', commit: () => undefined, onProgress }),
  ])
  t.equal(written, sizeBytes)
  t.ok(peak < 128 * MIB, `${Math.round(peak / MIB)} MiB at most, garbage included`)
  t.comment(`${Math.round(peak / MIB)} MiB, ${Math.round(sizeBytes / (performance.now() - started) / 1000)} MB/s out and in`)
})
