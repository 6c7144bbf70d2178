// B1-B4, B6, B8, X5 and more: what snapshots and bookmarks promise, one promise a test.
import t from 'tap'
import { FaultyDisk, ManualClock, MemoryDisk, seededRandom } from '../../src/device/testing.js'
import { planGate } from '../../src/volume/gate.js'
import { Chain } from '../../src/volume/chain.js'
import { Point } from '../../src/volume/point.js'
import type { PointFiles } from '../../src/volume/point-store.js'
import { VolumeMap } from '../../src/volume/volume-map.js'
import type { Volume } from '../../src/volume/volume.js'
import { contentOf, freshDisks, freshVolume, GRAIN, killed, openOn, readAll, type Disks } from './lab.js'
import { MemoryPoints } from './point-lab.js'

const GRAINS = 16
const sizeBytes = GRAINS * GRAIN

async function filled(points = new MemoryPoints(), value = 1): Promise<Volume> {
  const volume = await freshVolume({ sizeBytes, points })
  await volume.write(0, sizeBytes, Buffer.alloc(sizeBytes, value), 0)
  return volume
}

function permutations<T>(items: readonly T[]): T[][] {
  if (items.length < 2) return [[...items]]
  return items.flatMap((item, i) => permutations([...items.slice(0, i), ...items.slice(i + 1)]).map(rest => [item, ...rest]))
}

t.test('B6: all 5! orders of deletion leave the others byte-identical, and marks complete', async t => {
  const base = await freshDisks({ sizeBytes })
  const store = new MemoryPoints()
  const first = await openOn(base, sizeBytes, { points: store })
  const contents = new Map<string, Buffer>()
  const random = seededRandom(6)
  for (const name of ['a', 'b', 'c', 'd', 'e']) {
    for (let i = 0; i < 6; i++) await first.write(random(GRAINS) * GRAIN, GRAIN, Buffer.alloc(GRAIN, 1 + random(255)), 0)
    await first.trim(random(GRAINS - 3) * GRAIN, 2 * GRAIN)
    await first.points.create({ name, kind: 'snapshot' })
    contents.set(name, await readAll(first))
  }
  await first.trim(0, 6 * GRAIN)
  for (let i = 0; i < 6; i++) await first.write(random(GRAINS) * GRAIN, GRAIN, Buffer.alloc(GRAIN, 1 + random(255)), 0)
  const live = await readAll(first)
  for (const order of permutations([...contents.keys()])) {
    const volume = await openOn(killed(base), sizeBytes, { points: store.fork() })
    const left = new Set(contents.keys())
    for (const name of order) {
      await volume.points.delete(name)
      if (random(2) === 0) await volume.points.settled()
      left.delete(name)
      for (const other of left) {
        if (!(await contentOf(volume, other)).equals(contents.get(other)!)) t.fail(`${order.join('')}: ${other} changed when ${name} went`)
        const marked = volume.points.changedRuns(other)
        for (let grain = 0; grain < GRAINS; grain++) {
          if (contents.get(other)!.compare(live, grain * GRAIN, (grain + 1) * GRAIN, grain * GRAIN, (grain + 1) * GRAIN) === 0) continue
          if (!marked.some(({ start, end }) => start <= grain && grain < end)) t.fail(`${order.join('')}: ${grain} unmarked since ${other}`)
        }
      }
    }
    await volume.points.settled()
    if (!(await readAll(volume)).equals(live)) t.fail(`${order.join('')}: live changed`)
    await volume.close()
  }
  t.pass('120 orders')
})

t.test('B2: the first overwrite copies once, the second nothing', async t => {
  const points = new MemoryPoints()
  let writes = 0
  points.wrap = (disk, what) => {
    const write = disk.write.bind(disk)
    if (what === 'preserved') disk.write = (...request) => { writes++; return write(...request) }
    return disk
  }
  const volume = await filled(points)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  for (let i = 0; i < 3; i++) await volume.write(GRAIN + 5, 10, Buffer.alloc(10, i), 0)
  t.equal(writes, 1)
  await volume.points.create({ name: 'b', kind: 'bookmark' })
  await volume.write(GRAIN, GRAIN, Buffer.alloc(GRAIN, 9), 0)
  t.equal(writes, 1, 'a bookmark copies nothing, and the snapshot has it already')
  t.strictSame(volume.points.changedRuns('s', 'b'), [{ start: 1, end: 2 }])
  t.strictSame(volume.points.changedRuns('b'), [{ start: 1, end: 2 }])
  await volume.close()
})

t.test('B3: growth copies nothing for older snapshots; reading beyond their size fails cleanly', async t => {
  const points = new MemoryPoints()
  const volume = await filled(points)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await volume.resize(2 * sizeBytes, async () => undefined)
  await volume.write(sizeBytes, GRAIN, Buffer.alloc(GRAIN, 9), 0)
  t.equal((await volume.points.facts('s')).exclusiveBytes, 0)
  const device = volume.points.open('s')
  t.equal(device.sizeBytes, sizeBytes)
  t.throws(() => device.read(sizeBytes, 1, Buffer.alloc(1), 0), RangeError)
  await device.close()
  await volume.resize(GRAIN, async () => undefined)
  t.ok((await contentOf(volume, 's')).equals(Buffer.alloc(sizeBytes, 1)), 'a shrink preserves what it cuts')
  await volume.close()
})

t.test('B4: ditto is not hole: trimmed after the snapshot, a grain keeps its bytes there, and O(extents)', async t => {
  const points = new MemoryPoints()
  const volume = await filled(points)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await volume.trim(0, sizeBytes)
  t.ok((await readAll(volume)).equals(Buffer.alloc(sizeBytes)))
  t.ok((await contentOf(volume, 's')).equals(Buffer.alloc(sizeBytes, 1)))
  t.equal(await points.present.get(1)!.preserved!.allocatedBytes(), 0, 'lent, not copied')
  await volume.write(3 * GRAIN + 7, 1, Buffer.from([5]), 0)
  t.ok((await contentOf(volume, 's')).equals(Buffer.alloc(sizeBytes, 1)))
  const grain = await readAll(volume, 3 * GRAIN, GRAIN)
  t.ok(grain[7] === 5 && grain.every((byte, i) => byte === (i === 7 ? 5 : 0)), 'no old byte shows in live')
  const device = volume.points.open('s')
  t.match(device.extents(0, sizeBytes, 10), { lengths: [sizeBytes], states: [0] })
  t.match(device.depths(0, sizeBytes, 10), { lengths: [sizeBytes], states: [1] })
  await device.close()
  await volume.close()
})

t.test('B8: what deleting the oldest gives back is what was estimated', async t => {
  const volume = await filled()
  await volume.points.create({ name: 'a', kind: 'snapshot' })
  await volume.write(0, 4 * GRAIN, Buffer.alloc(4 * GRAIN, 2), 0)
  await volume.points.create({ name: 'b', kind: 'snapshot' })
  await volume.write(2 * GRAIN, 6 * GRAIN, Buffer.alloc(6 * GRAIN, 3), 0)
  t.strictSame(await volume.points.facts('a'), { exclusiveBytes: 4 * GRAIN, referencedBytes: sizeBytes, changedGrains: 4 })
  t.strictSame(await volume.points.facts('b'), { exclusiveBytes: 2 * GRAIN, referencedBytes: sizeBytes, changedGrains: 6 })
  await volume.close()
})

t.test('a look at what a snapshot refers to gives others their turn, and keeps nobody from deleting it', async t => {
  class Hurried extends ManualClock {
    #calls = 0
    override now(): number { return super.now() + ++this.#calls }
  }
  const grains = 256
  const volume = await freshVolume({ sizeBytes: grains * GRAIN, points: new MemoryPoints(), clock: new Hurried() })
  for (let grain = 0; grain < grains; grain += 2) await volume.write(grain * GRAIN, GRAIN, Buffer.alloc(GRAIN, 1), 0)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  const facts = volume.points.facts('s')
  let over = false
  facts.then(() => { over = true }, () => { over = true })
  for (let i = 0; i < 3; i++) await new Promise(resolve => { setImmediate(resolve) })
  t.notOk(over, 'others had their turn')
  await Promise.all([t.rejects(facts, { code: 'not-found' }), volume.points.delete('s')])
  await volume.close()
})

t.test('X5: pins refuse deletion until they are released or expire; so does whoever reads', async t => {
  const clock = new ManualClock()
  const volume = await freshVolume({ sizeBytes, points: new MemoryPoints(), clock })
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await volume.points.pin('s', { owner: 'me', expiresAt: null })
  await t.rejects(volume.points.delete('s'), { code: 'busy' })
  await volume.points.pin('s', { owner: 'me', expiresAt: new Date(clock.wallTime().getTime() + 1000).toISOString() })
  await t.rejects(volume.points.delete('s'), { code: 'busy' })
  await clock.advance(2000)
  const device = volume.points.open('s')
  await t.rejects(volume.points.delete('s'), { code: 'busy' })
  await device.close()
  await volume.points.delete('s')
  await t.rejects(volume.points.delete('s'), { code: 'not-found' })
  t.equal(volume.points.get('s'), undefined)
  await volume.close()
})

t.test('names: unique, changed while in use, and they survive', async t => {
  const disks: Disks = await freshDisks({ sizeBytes })
  const points = new MemoryPoints()
  const volume = await openOn(disks, sizeBytes, { points })
  await volume.points.create({ name: 'a', kind: 'bookmark', labels: { why: 'test' } })
  await t.rejects(volume.points.create({ name: 'a', kind: 'snapshot' }), { code: 'exists' })
  await t.rejects(volume.points.create({ name: 'latest', kind: 'snapshot' }), { code: 'bad-argument' })
  await t.rejects(volume.points.rename('a', 'latest'), { code: 'bad-argument' })
  await t.rejects(volume.points.create({ name: 'x', kind: 'snapshot' }).then(() => volume.points.rename('x', 'a')), { code: 'exists' })
  await volume.points.rename('a', 'b')
  t.throws(() => volume.points.open('b'), { code: 'bad-argument' })
  const again = await openOn(killed(disks), sizeBytes, { points: points.fork() })
  t.strictSame(again.points.list().map(({ name, seq, kind }) => [name, seq, kind]), [['b', 1, 'bookmark'], ['x', 2, 'snapshot']])
  t.strictSame(again.points.get('b')!.labels, { why: 'test' })
  await volume.close()
})

t.test('no space to preserve: the write fails, and nothing that was good turns bad', async t => {
  const points = new MemoryPoints()
  points.wrap = (disk, what) => what === 'maps' ? disk
    : new FaultyDisk(disk, { faults: [{ on: 'write', effect: { kind: 'error', code: 'no-space' }, range: [4 * GRAIN, sizeBytes] }] })
  const volume = await filled(points)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await volume.write(0, GRAIN, Buffer.alloc(GRAIN, 2), 0)
  await t.rejects(Promise.resolve(volume.write(3 * GRAIN, 4 * GRAIN, Buffer.alloc(4 * GRAIN, 2), 0)), { code: 'no-space' })
  await volume.write(2 * GRAIN, GRAIN, Buffer.alloc(GRAIN, 2), 0)
  t.ok((await contentOf(volume, 's')).equals(Buffer.alloc(sizeBytes, 1)))
  const live = await readAll(volume)
  t.strictSame([0, 1, 2, 3, 4].map(grain => live[grain * GRAIN]), [2, 1, 2, 1, 1])
  await volume.close()
})

t.test('a point that the table refuses goes again', async t => {
  const points = new MemoryPoints()
  const volume = await filled(points)
  await volume.points.create({ name: 'a', kind: 'snapshot' })
  points.putError = new Error('the table is full')
  await t.rejects(volume.points.create({ name: 'b', kind: 'snapshot' }), { message: 'the table is full' })
  points.putError = undefined
  await volume.write(0, GRAIN, Buffer.alloc(GRAIN, 2), 0)
  await volume.points.settled()
  t.strictSame([...points.present.keys()], [1])
  t.ok((await contentOf(volume, 'a')).equals(Buffer.alloc(sizeBytes, 1)))
  t.strictSame(volume.points.changedRuns('a'), [{ start: 0, end: 1 }])
  await volume.close()
})

t.test('1000 points in a chain: a write looks at the newest end only', async t => {
  const points = new MemoryPoints()
  const volume = await filled(points)
  for (let i = 0; i < 1000; i++) {
    await volume.points.create({ name: `p${i}`, kind: i % 2 === 0 ? 'snapshot' : 'bookmark' })
    if (i % 10 === 0) await volume.write((i / 10 % GRAINS) * GRAIN, 8, Buffer.alloc(8, i / 10), 0)
  }
  t.equal(volume.points.list().length, 1000)
  t.ok((await contentOf(volume, 'p0')).equals(Buffer.alloc(sizeBytes, 1)))
  t.strictSame(volume.points.changedRuns('p0', 'p1'), [{ start: 0, end: 1 }])
  await volume.close()
})

t.test('the plan of the gate names its rule', async t => {
  const chain = new Chain(new VolumeMap(GRAINS, 2 ** 20))
  t.equal(planGate(chain, 0, 4, true).rule, 'free')
})

t.test('a point that goes leaves to the older one what is durable of its marks as durable, and nothing else', async t => {
  const chain = new Chain(new VolumeMap(GRAINS, 2 ** 20))
  const [older, newer] = [1, 2].map(seq => new Point(
    { uuid: `${seq}`, seq, name: `p${seq}`, kind: 'bookmark', createdAt: '', sizeBytes, labels: {}, group: null, pins: [] },
    'ready', {} as PointFiles, GRAIN, GRAINS))
  chain.add(older!)
  chain.add(newer!)
  newer!.hot.add(1, 2)
  newer!.heating.add(0, 1)
  newer!.state = 'deleting'
  chain.foldMarks(newer!)
  t.strictSame([[...older!.hot], [...older!.heating]], [[{ start: 1, end: 2 }], [{ start: 0, end: 1 }]])
})

t.test('what is lent may not be overwritten at once', async t => {
  const chain = new Chain(new VolumeMap(GRAINS, 2 ** 20))
  const info = { uuid: '1', seq: 1, name: 'p', createdAt: '', sizeBytes, labels: {}, group: null, pins: [] }
  const point = new Point({ ...info, kind: 'snapshot' }, 'ready', {} as PointFiles, GRAIN, GRAINS)
  chain.add(point)
  chain.plain!.set(0, 4)
  chain.lend(point, 1, 3)
  t.strictSame([...chain.plain!.runs()], [{ start: 0, end: 1 }, { start: 3, end: 4 }])
})

t.test('two volumes: a disk without points refuses them, and says so', async t => {
  const volume = await freshVolume({ sizeBytes, live: new MemoryDisk(sizeBytes) })
  await t.rejects(volume.points.create({ name: 'a', kind: 'snapshot' }), { code: 'wrong-state' })
  await volume.close()
})
