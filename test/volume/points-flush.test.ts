// D7 with points: whichever disk of a volume fails to flush, nobody is told that something is durable, and no snapshot shows it.
import t from 'tap'
import { ManualClock } from '../../src/device/testing.js'
import type { Volume } from '../../src/volume/volume.js'
import { freshDisks, GRAIN, killed, openOn, ProgrammedDisk, readAll, type Disks } from './lab.js'
import { StagedPoints } from './point-lab.js'

const G = GRAIN
const SIZE = 16 * G
const FAILS = Object.assign(new Error('i/o error'), { code: 'EIO' })
const filled = (value: number, grains = 1): Buffer => Buffer.alloc(grains * G, value)
const later = async (clock: ManualClock): Promise<void> => {
  for (let i = 0; i < 20; i++) {
    await clock.advance(20)
    await new Promise(resolve => { setImmediate(resolve) })
  }
}

/** Points whose files are programmed as well. */
class FlushedPoints extends StagedPoints<ProgrammedDisk> {
  /** Set: flushes of these files fail. */
  failing: 'maps' | 'preserved' | undefined

  constructor() {
    super(new ProgrammedDisk(2 ** 20))
    this.wrap = (disk, what) => {
      const flush = disk.flush.bind(disk)
      disk.flush = () => {
        if (this.failing === what) throw FAILS
        return flush()
      }
      return disk
    }
  }
}

interface Lab { readonly disks: Disks, readonly points: FlushedPoints, readonly clock: ManualClock, readonly volume: Volume }

/** All ones, and a snapshot of that. */
async function lab(): Promise<Lab> {
  const disks = await freshDisks({ sizeBytes: SIZE })
  const points = new FlushedPoints()
  const clock = new ManualClock()
  const volume = await openOn(disks, SIZE, { points, clock })
  await volume.write(0, SIZE, filled(1, 16), 0)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  return { disks, points, clock, volume }
}

async function snapshotIsRight(t: { ok(value: unknown, message: string): unknown }, volume: Volume): Promise<void> {
  const device = volume.points.open('s')
  t.ok((await readAll(device)).equals(filled(1, 16)), 'the snapshot shows what it froze')
  await device.close()
}

t.test('the staging log: a flush that failed is not forgotten, though the kernel says yes the next time', async t => {
  const { points, volume } = await lab()
  await volume.write(3 * G, G, filled(7), 0)
  points.log.flushError = FAILS
  await t.rejects(async () => { await volume.flush() }, { code: 'flush-failed' })
  points.log.flushError = undefined
  await t.rejects(async () => { await volume.flush() }, { code: 'flush-failed' }, 'latched')
  t.equal((await readAll(volume))[3 * G], 7, 'reads go on')
  await snapshotIsRight(t, volume)
})

t.test('the file of preserved grains: what a snapshot needs is not overwritten', async t => {
  const { disks, points, clock, volume } = await lab()
  points.failing = 'preserved'
  const written = volume.write(3 * G + 5, 9, Buffer.alloc(9, 7), 0)
  await t.rejects(async () => { await written }, 'a part of a grain needs the old content out of the way first')
  t.equal((await readAll(disks.live))[3 * G + 5], 1, 'live is as it was')
  await volume.write(5 * G, G, filled(8), 0)
  await later(clock)
  t.equal((await readAll(volume))[5 * G], 8, 'what is staged stays where it is, and can be read')
  t.equal((await readAll(disks.live))[5 * G], 1)
  await snapshotIsRight(t, volume)
  points.failing = undefined
  await later(clock)
  await volume.write(3 * G + 5, 9, Buffer.alloc(9, 7), 0)
  await volume.flush()
  t.equal((await readAll(volume))[3 * G + 5], 7)
  await snapshotIsRight(t, volume)
})

t.test('the maps: a checkpoint that cannot save them leaves the journal as it is', async t => {
  const { disks, points, clock, volume } = await lab()
  await volume.write(3 * G + 5, 9, Buffer.alloc(9, 7), 0)
  await volume.flush()
  points.failing = 'maps'
  await clock.advance(20_000)
  await later(clock)
  points.failing = undefined
  const again = await openOn(killed(disks), SIZE, { points: points.fork() })
  t.equal((await readAll(again))[3 * G + 5], 7, 'a kill right then loses nothing')
  await snapshotIsRight(t, again)
  t.same(again.points.changedRuns('s').some(({ start, end }) => start <= 3 && end > 3), true)
})
