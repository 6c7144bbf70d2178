// Checkpoints: nothing relies on extents that stay hot before the journal says so, nor on maps that are not durable.
import t from 'tap'
import { ManualClock, type MemoryDisk } from '../../src/device/testing.js'
import { freshDisks, GRAIN, killed, openOn } from './lab.js'
import { MemoryPoints } from './point-lab.js'

const SIZE = 16 * GRAIN
/** Longer than a volume is left alone before its checkpoint. */
const CHECKPOINT_MS = 11_000

async function turns(count = 20): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise(resolve => { setImmediate(resolve) })
}

/** Writes wait until the function returned was called. */
function hold(disk: MemoryDisk): () => void {
  let release!: () => void
  const released = new Promise<void>(resolve => { release = resolve })
  const write = disk.write.bind(disk)
  disk.write = (...request) => released.then(() => write(...request))
  return () => {
    disk.write = write
    release()
  }
}

t.test('a grain that a trim made warm while a checkpoint ran is not written in place before the journal says so', async t => {
  const disks = await freshDisks({ sizeBytes: SIZE, allData: true })
  const clock = new ManualClock()
  const volume = await openOn(disks, SIZE, { points: new MemoryPoints(), clock })
  await volume.points.create({ name: 'b', kind: 'bookmark' })
  await volume.trim(GRAIN, GRAIN)
  const releaseMap = hold(disks.map)
  await clock.advance(CHECKPOINT_MS)
  await turns() // it is in its middle
  await volume.trim(3 * GRAIN, GRAIN)
  const releaseJournal = hold(disks.journal)
  releaseMap()
  await turns() // all but the journal is saved
  let done = false
  const written = Promise.resolve(volume.write(5 * GRAIN, GRAIN, Buffer.alloc(GRAIN, 5), 0)).then(() => { done = true })
  await turns()
  t.notOk(done, 'a power cut now would leave a change that no map knows of')
  releaseJournal()
  await written
  t.ok(volume.points.isChanged('b', 5, 6))
  await volume.close()
})

t.test('an announcement that is on its way while two checkpoints end is in the journal behind them', async t => {
  const disks = await freshDisks({ sizeBytes: SIZE, allData: true })
  const points = new MemoryPoints()
  const clock = new ManualClock()
  const volume = await openOn(disks, SIZE, { points, clock })
  await volume.points.create({ name: 'a', kind: 'bookmark' })
  const maps: MemoryDisk[] = []
  points.wrap = (disk, what) => {
    if (what === 'maps') maps.push(disk)
    return disk
  }
  await volume.points.create({ name: 'b', kind: 'bookmark' })
  await volume.trim(GRAIN, GRAIN)
  const releases = maps.map(hold)
  await clock.advance(CHECKPOINT_MS)
  await turns() // the first saves the marks of b
  await volume.points.delete('a') // and wants a second one
  await volume.trim(3 * GRAIN, GRAIN)
  const { journal } = disks
  const flush = journal.flush.bind(journal)
  let release!: () => void
  const released = new Promise<void>(resolve => { release = resolve })
  journal.flush = () => {
    journal.flush = flush
    return released.then(flush)
  }
  const written = volume.write(5 * GRAIN, GRAIN, Buffer.alloc(GRAIN, 5), 0)
  await turns()
  for (const go of releases) go()
  await volume.points.settled()
  t.equal(points.present.size, 1, 'the second has ended')
  release()
  await written
  const again = await openOn(killed(disks), SIZE, { points: points.fork(), clock: new ManualClock() })
  t.ok(again.points.isChanged('b', 5, 6), 'after a kill')
  await again.close()
})

t.test('what a killed process has left in the maps of a point is durable before the journal is cut', async t => {
  const disks = await freshDisks({ sizeBytes: SIZE, allData: true })
  const points = new MemoryPoints()
  const before = await openOn(disks, SIZE, { points, clock: new ManualClock() })
  await before.points.create({ name: 'b', kind: 'bookmark' })
  await before.write(0, GRAIN, Buffer.alloc(GRAIN, 1), 0)
  await before.close()
  const left = points.fork()
  let flushes = 0
  left.wrap = (disk, what) => {
    const flush = disk.flush.bind(disk)
    if (what === 'maps') disk.flush = () => { flushes++; return flush() }
    return disk
  }
  const clock = new ManualClock()
  const volume = await openOn(killed(disks), SIZE, { points: left, clock })
  await volume.trim(0, GRAIN) // marked already: nothing of the maps is to be saved
  await clock.advance(CHECKPOINT_MS)
  await turns()
  t.equal(flushes, 1)
  await clock.advance(CHECKPOINT_MS)
  await volume.close()
  t.equal(flushes, 1, 'once')
})
