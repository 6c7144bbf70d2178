// Order of disk writes around points, step by step: what the crash tests find only now and then. Making, marking, lending, giving back, and
// deleting: what a point keeps, lends and has marked is another's, durably, before it is gone.
import t from 'tap'
import type { ZeroMode } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { ManualClock, type MemoryDisk } from '../../src/device/testing.js'
import { SECTION_BYTES } from '../../src/store/point-maps.js'
import type { Volume } from '../../src/volume/volume.js'
import { freshDisks, GRAIN, killed, openOn, watch } from './lab.js'
import { MemoryPoints } from './point-lab.js'

const SIZE = 8 * GRAIN

async function firstByte(volume: Volume, name: string, grain: number): Promise<number> {
  const device = volume.points.open(name)
  try {
    const into = Buffer.alloc(GRAIN)
    await device.read(grain * GRAIN, GRAIN, into, 0)
    return into[0]!
  } finally {
    await device.close()
  }
}

/** Where points preserve, in the order in which they were made. */
function watched(): { points: MemoryPoints, preserved: MemoryDisk[] } {
  const points = new MemoryPoints()
  const preserved: MemoryDisk[] = []
  points.wrap = (disk, what) => {
    if (what === 'preserved' && !preserved.includes(disk)) preserved.push(disk)
    return disk
  }
  return { points, preserved }
}

/** A volume on disks that can be watched, all ones. */
async function lab(points = new MemoryPoints()) {
  const disks = await freshDisks({ sizeBytes: SIZE })
  const clock = new ManualClock()
  const volume = await openOn(disks, SIZE, { points, clock })
  await volume.write(0, SIZE, Buffer.alloc(SIZE, 1), 0)
  return { points, disks, clock, volume }
}

t.test('what a snapshot being deleted owns is not preserved again, newer, for the older one', async t => {
  const { points, preserved } = watched()
  const { volume } = await lab(points)
  await volume.points.create({ name: 'a', kind: 'snapshot' })
  await volume.points.create({ name: 'b', kind: 'snapshot' })
  await volume.write(3 * GRAIN, GRAIN, Buffer.alloc(GRAIN, 2), 0)
  let release = (): void => undefined
  const disk = preserved[0]!
  const write = disk.write.bind(disk)
  disk.write = (...request) => {
    disk.write = write
    return new Promise<void>(resolve => { release = resolve }).then(() => write(...request))
  }
  await volume.points.delete('b')
  while (disk.write !== write) await new Promise(resolve => { setImmediate(resolve) })
  // What is known to be free to write begins anew with each point.
  await volume.points.create({ name: 'c', kind: 'bookmark' })
  await volume.write(3 * GRAIN, GRAIN, Buffer.alloc(GRAIN, 3), 0)
  t.equal(await firstByte(volume, 'a', 3), 1, 'while it is handed over')
  release()
  await volume.points.settled()
  t.equal(await firstByte(volume, 'a', 3), 1, 'and afterwards')
  await volume.close()
})

t.test('bytes that are handed over are durable before the journal says so', async t => {
  const { points, preserved } = watched()
  const { disks, volume } = await lab(points)
  await volume.points.create({ name: 'a', kind: 'snapshot' })
  await volume.points.create({ name: 'b', kind: 'snapshot' })
  await volume.write(3 * GRAIN, GRAIN, Buffer.alloc(GRAIN, 2), 0)
  const events: string[] = []
  watch(events, 'a', preserved[0]!)
  watch(events, 'journal', disks.journal)
  await volume.points.delete('b')
  await volume.points.settled()
  t.match(events.join(', '), /^write a, flush a, write journal/)
  await volume.close()
})

t.test('marks that only the deleted point\'s map had are in the older one\'s after a kill', async t => {
  const { points, disks, clock, volume } = await lab()
  for (const name of ['a', 'b']) await volume.points.create({ name, kind: 'bookmark' })
  await volume.write(3 * GRAIN, GRAIN, Buffer.alloc(GRAIN, 2), 0)
  await volume.points.create({ name: 'c', kind: 'bookmark' })
  for (let checkpoint = 0; checkpoint < 3; checkpoint++) { // one that saves the mark, and some after which the journal is silent
    await clock.advance(11_000)
    await volume.trim((5 + checkpoint) * GRAIN, GRAIN)
  }
  await volume.points.delete('b')
  await volume.points.settled()
  const again = await openOn(killed(disks), SIZE, { points: points.fork() })
  t.ok(again.points.changedRuns('a', 'c').some(({ start, end }) => start <= 3 && 3 < end))
  await Promise.all([volume.close(), again.close()])
})

t.test('what was lent to the last snapshot is given back when it is gone', async t => {
  const { disks, clock, volume } = await lab()
  await volume.points.create({ name: 'a', kind: 'snapshot' })
  await volume.trim(3 * GRAIN, 2 * GRAIN)
  const raw = Buffer.alloc(GRAIN)
  await clock.advance(1000)
  await disks.live.read(3 * GRAIN, GRAIN, raw, 0)
  t.equal(raw[0], 1, 'the snapshot needs it')
  await volume.points.delete('a')
  await volume.points.settled()
  await clock.advance(1000)
  await disks.live.read(3 * GRAIN, GRAIN, raw, 0)
  t.equal(raw[0], 0, 'nobody needs it')
  await volume.close()
})

t.test('what is lent while a checkpoint saves the maps of points is durable in the journal before any map says so', async t => {
  const { points, disks, clock, volume } = await lab()
  await volume.points.create({ name: 'a', kind: 'snapshot' })
  await volume.write(3 * GRAIN, GRAIN, Buffer.alloc(GRAIN, 2), 0)
  const { maps } = [...points.present.values()][0]!
  const events: string[] = []
  const write = maps.write.bind(maps)
  maps.write = async (offset, ...request) => {
    maps.write = (at, ...rest) => { events.push(at < SECTION_BYTES ? 'changed' : 'exact'); return write(at, ...rest) }
    await volume.trim(5 * GRAIN, GRAIN)
    watch(events, 'journal', disks.journal)
    await write(offset, ...request)
  }
  await clock.advance(11_000)
  while (!events.includes('exact')) await new Promise(resolve => { setImmediate(resolve) })
  t.match(events.join(), /^(changed,)*flush journal,.*exact/, 'marks may be early')
  await volume.close()
})

t.test('a point is in the table when what was answered before it, and that it is the newest, is durable', async t => {
  const points = new MemoryPoints()
  const disks = await freshDisks({ sizeBytes: SIZE })
  const volume = await openOn(disks, SIZE, { points })
  const events: string[] = []
  watch(events, 'journal', disks.journal)
  const put = points.put.bind(points)
  points.put = (...records) => { events.push('put'); return put(...records) }
  await volume.points.create({ name: 'a', kind: 'snapshot' })
  // Behind a flush the log notes what is durable.
  t.match(events.join(), /write journal,flush journal,(write journal,)?put$/)
  await volume.close()
})

t.test('space is given back when what marks the grains as changed is durable, and not before', async t => {
  const { disks, clock, volume } = await lab()
  await volume.points.create({ name: 'a', kind: 'bookmark' })
  const events: string[] = []
  watch(events, 'journal', disks.journal)
  const zero = disks.live.zero.bind(disks.live)
  disks.live.zero = (offset: number, length: number, mode: ZeroMode) => { events.push('give back'); return zero(offset, length, mode) }
  await volume.trim(3 * GRAIN, 2 * GRAIN)
  await clock.advance(1000)
  t.match(events.join(), /^write journal,flush journal,(write journal,)?give back/)
  await volume.close()
})

t.test('a deleted point is not gone before its marks are durable elsewhere, though the volume is closed when that finds no room', async t => {
  const points = new MemoryPoints()
  let isFull = false
  let closing: Promise<void> | undefined
  points.wrap = (disk, what) => {
    const write = disk.write.bind(disk)
    if (what === 'maps') disk.write = (...request) => {
      if (!isFull) return write(...request)
      closing ??= volume.close()
      throw new NbdeltaError('no-space', 'no room on this disk')
    }
    return disk
  }
  const { volume, disks } = await lab(points)
  await volume.points.create({ name: 'a', kind: 'bookmark' })
  await volume.points.create({ name: 'b', kind: 'bookmark' })
  await volume.write(3 * GRAIN, GRAIN, Buffer.alloc(GRAIN, 2), 0)
  isFull = true
  await volume.points.delete('b')
  await volume.points.settled()
  await closing
  isFull = false
  t.equal(points.present.size, 2, 'it is there')
  const again = await openOn(killed(disks), SIZE, { points: points.fork() })
  t.ok(again.points.isChanged('a', 3, 4))
  await again.close()
})
