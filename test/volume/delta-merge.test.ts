// Merging deltas, law B17: what the merged one does, and that it is never longer than its parts.
import t from 'tap'
import { MemoryDisk, type Random, seededRandom } from '../../src/device/testing.js'
import { exportDelta, verifyDelta } from '../../src/volume/delta.js'
import { mergeDeltas } from '../../src/volume/delta-merge.js'
import { applied, between, chunked, collected, GRAIN, History, type Moment, randomHistory, recordsOf, streamOf } from './delta-lab.js'

const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000_007)
t.comment(`seed ${SEED}`)

const merged = (streams: readonly Buffer[]): Promise<Buffer> =>
  collected(sink => mergeDeltas({ sources: streams.map((stream, i) => chunked(stream, 700 + 300 * i)), sink }))
const total = (streams: readonly Buffer[]): number => streams.reduce((sum, { length }) => sum + length, 0)

async function path(history: History, points: readonly (Moment | undefined)[], random: Random): Promise<Buffer[]> {
  const streams: Buffer[] = []
  for (let i = 1; i < points.length; i++) {
    const markBytes = random(2) === 0 ? 3000 : 64 * 2 ** 20
    streams.push(await collected(sink => exportDelta({ ...between(history, points[i - 1], points[i]!), markBytes, sink })))
  }
  return streams
}

t.test('B17: along any path, back and forth, whole or from nothing', async t => {
  let [bytes, parts] = [0, 0]
  for (let run = 0; run < 120; run++) {
    const random = seededRandom(SEED + run)
    const history = randomHistory(random, 4, 16 + random(100))
    const points: (Moment | undefined)[] = Array.from({ length: 2 + random(4) }, () => history.moments[random(4)])
    if (random(4) === 0) points[0] = undefined
    const streams = await path(history, points, random)
    const stream = await merged(streams)
    bytes += stream.length
    parts += total(streams)
    const [first, last] = [points[0], points.at(-1)!]
    const target = first ? first.image.fork() : MemoryDisk.from(Buffer.alloc(20 * GRAIN, 0xee))
    const committed = await applied(stream, target, first?.point.uuid ?? 'empty')
    if (committed !== last.point.uuid || !target.toBuffer().equals(last.image.toBuffer())) t.fail(`run ${run} of seed ${SEED}`)
    if (stream.length > total(streams)) t.fail(`run ${run} of seed ${SEED}: ${stream.length} bytes of ${total(streams)}`)
    // In whatever order they are put together it is the same.
    if (streams.length > 2) {
      const left = await merged([await merged(streams.slice(0, -1)), streams.at(-1)!])
      const right = await merged([streams[0], await merged(streams.slice(1))])
      const extents = async (one: Buffer): Promise<unknown> => {
        const { header, position: { dataBytes, zeroBytes } } = await verifyDelta(chunked(one))
        return { header, dataBytes, zeroBytes }
      }
      t.strictSame(await extents(left), await extents(right), `run ${run} of seed ${SEED}`)
    }
  }
  t.comment(`${bytes} bytes of ${parts}`)
})

t.test('B17: zeros over data, data over zeros, each counted', async t => {
  const history = new History(100 * GRAIN)
  history.write(0, Buffer.alloc(100 * GRAIN, 1))
  const p = history.freeze()
  history.zero(0, 50 * GRAIN)
  history.write(60 * GRAIN, Buffer.alloc(10 * GRAIN, 2))
  const q = history.freeze()
  for (let grain = 1; grain < 50; grain += 2) history.write(grain * GRAIN, Buffer.alloc(GRAIN, 3))
  history.zero(62 * GRAIN, GRAIN)
  history.write(64 * GRAIN, Buffer.alloc(GRAIN, 4))
  const r = history.freeze()
  const streams = [await streamOf(between(history, p, q)), await streamOf(between(history, q, r))]
  const stream = await merged(streams)
  t.match((await verifyDelta(chunked(stream))).position, { dataBytes: (25 + 9) * GRAIN, zeroBytes: (25 + 1) * GRAIN })
  t.match((await verifyDelta(chunked(stream))).header, { base: p.point.uuid, target: r.point.uuid, baseNumber: 1, targetNumber: 3 })
  t.ok(stream.length <= total(streams), `${stream.length} bytes of ${total(streams)}`)
  const target = p.image.fork()
  t.equal(await applied(stream, target, p.point.uuid), r.point.uuid)
  t.ok(target.toBuffer().equals(r.image.toBuffer()))
  // Neighbours that only the merge brings together share one record of zeros.
  t.equal(recordsOf(stream).length, 1 + 25 + 4 + 1)
})

t.test('what does not follow each other is not merged, and what does not check neither', async t => {
  const history = randomHistory(seededRandom(SEED), 3)
  const [p, q, r] = history.moments
  const pq = await streamOf({ ...between(history, p, q), markBytes: 1 })
  const qr = await streamOf(between(history, q, r))
  await t.rejects(merged([qr, pq]), { code: 'wrong-state', message: new RegExp(p.point.uuid) })
  await t.rejects(merged([pq, pq]), { code: 'wrong-state' })
  await t.rejects(merged([pq, await streamOf(between(history, undefined, r))]), { code: 'wrong-state', message: /starts from nothing/ })
  await t.rejects(merged([pq, await streamOf({ ...between(history, q, r), volume: { uuid: p.point.uuid, grainBytes: GRAIN } })]),
    { code: 'wrong-state', message: /another volume/ })
  await t.rejects(merged([]), { code: 'bad-argument' })
  await t.rejects(merged([pq, qr.subarray(0, qr.length - 1)]), { code: 'damaged' })
  await t.rejects(merged([pq.subarray(0, pq.length - 1), qr]), { code: 'damaged' })
  const alone = await merged([qr])
  t.equal((await verifyDelta(chunked(alone))).header.base, q.point.uuid, 'one alone is copied')
})
