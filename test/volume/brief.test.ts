// What images keep for as long as this process lives: at once, without a flush or a record; nobody else comes to depend on it.
import t from 'tap'
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import type { Pending } from '../../src/device/block-device.js'
import { MemoryDisk } from '../../src/device/testing.js'
import type { PointKind } from '../../src/volume/snappoint.js'
import type { Volume } from '../../src/volume/volume.js'
import { contentOf, type Disks, freshDisks, GRAIN, killed, openOn, ProgrammedDisk, readAll } from './lab.js'
import { StagedPoints } from './point-lab.js'

const G = GRAIN
const GRAINS = 16
const SIZE = GRAINS * G
const filled = (value: number, grains = 1): Buffer => Buffer.alloc(grains * G, value)

/** Where a snapshot keeps grains: what is durable of it is known, and requests may come late or fail. */
class Kept extends MemoryDisk {
  flushed = new MemoryDisk(SIZE)
  flushes = 0
  writes = 0
  late = false
  failure: Error | undefined
  #waiting: (() => void)[] = []

  override write(offset: number, length: number, from: Buffer, at: number): Pending {
    this.writes++
    if (this.failure) throw this.failure
    if (!this.late) return super.write(offset, length, from, at)
    return new Promise<void>(resolve => { this.#waiting.push(resolve) }).then(() => super.write(offset, length, from, at))
  }

  override flush(): Pending {
    this.flushes++
    if (this.failure) throw this.failure
    this.flushed = this.fork()
    return super.flush()
  }

  letGo(): void {
    this.late = false
    for (const go of this.#waiting.splice(0)) go()
  }
}

class KeptPoints extends StagedPoints<ProgrammedDisk> {
  override async make(seq: number, kind: PointKind, sizeBytes: number) {
    const files = await super.make(seq, kind, sizeBytes)
    if (kind !== 'snapshot') return files
    this.present.set(seq, { ...this.present.get(seq)!, preserved: new Kept(sizeBytes) })
    return (await this.open(seq, kind, sizeBytes)).fresh()
  }

  /** The newest one's. */
  get newest(): Kept { return [...this.present.values()].at(-1)!.preserved as Kept }

  /** As a power cut leaves them, with all that was written to the log. */
  cut(): StagedPoints {
    const points = this.fork()
    for (const [seq, { preserved }] of this.present) {
      if (preserved) points.present.set(seq, { ...points.present.get(seq)!, preserved: (preserved as Kept).flushed.fork() })
    }
    return points
  }
}

/** Grains 2 and 3 have changed since `base`, which has an image; @param first a snapshot behind which that happens */
async function imaged(first?: string): Promise<{ disks: Disks, points: KeptPoints, volume: Volume }> {
  const disks = await freshDisks({ sizeBytes: SIZE })
  const points = new KeptPoints(new ProgrammedDisk(2 ** 20))
  const volume = await openOn(disks, SIZE, { points })
  await volume.write(0, SIZE, filled(1, GRAINS), 0)
  if (first) {
    await volume.points.create({ name: first, kind: 'snapshot' })
    // Which has them for good.
    await volume.write(2 * G, 2 * G, filled(9, 2), 0)
    await volume.flush()
  }
  await volume.points.create({ name: 'base', kind: 'bookmark' })
  await volume.write(2 * G, 2 * G, filled(2, 2), 0)
  await volume.flush()
  const also = new GrainBitmap(GRAINS)
  also.set(5, 6)
  await volume.points.create({ name: 'image', kind: 'snapshot', keeps: { since: 'base', from: GRAINS, also } })
  return { disks, points, volume }
}

const exclusiveOf = async (volume: Volume): Promise<number> => (await volume.points.facts('image')).exclusiveBytes

t.test('at once: in the turn of the write, with no flush and no record', async t => {
  const { volume, points, disks } = await imaged()
  const [log, journal] = [points.log.calls.write, (disks.journal as MemoryDisk).toBuffer()]
  t.equal(volume.write(2 * G, G, filled(3), 0), undefined)
  t.equal(volume.write(3 * G + 100, 50, filled(3), 0), undefined, 'nor for a part of a grain')
  t.equal(points.newest.flushes, 0)
  t.equal(points.log.calls.write, log, 'nothing is staged')
  t.ok((disks.journal as MemoryDisk).toBuffer().equals(journal), 'nothing is noted')
  t.equal(await exclusiveOf(volume), 2 * G)
  t.ok((await contentOf(volume, 'image')).subarray(2 * G, 4 * G).equals(filled(2, 2)))
  t.equal((await readAll(volume))[3 * G + 100], 3)
  const { writes } = points.newest
  t.equal(volume.write(2 * G, G, filled(4), 0), undefined)
  t.equal(points.newest.writes, writes, 'once')
})

t.test('a snapshot before it that needs the grain does not depend on that', async t => {
  const { volume, points, disks } = await imaged('s')
  await volume.write(5 * G, G, filled(3), 0)
  await volume.write(2 * G, G, filled(3), 0)
  // Of no use to the image.
  await volume.write(7 * G, G, filled(3), 0)
  await volume.points.create({ name: 'later', kind: 'bookmark' })
  await volume.flush()
  t.ok((await contentOf(volume, 's')).equals(filled(1, GRAINS)))
  t.equal((await contentOf(volume, 'image'))[5 * G], 1)
  const again = await openOn(killed(disks), SIZE, { points: points.cut() })
  t.ok((await contentOf(again, 's')).equals(filled(1, GRAINS)), 'behind a power cut')
  await again.points.delete('image')
  await again.points.settled()
  t.ok((await contentOf(again, 's')).equals(filled(1, GRAINS)), 'without the image')
})

t.test('its files say nothing of it', async t => {
  const { volume, points, disks } = await imaged('s')
  t.equal(volume.write(2 * G, G, filled(3), 0), undefined)
  // What is durable beside it, in the same page of the map.
  await volume.write(5 * G, G, filled(3), 0)
  await volume.points.create({ name: 'later', kind: 'bookmark' })
  t.equal(await exclusiveOf(volume), G)
  await volume.close()
  const again = await openOn(killed(disks), SIZE, { points: points.cut() })
  t.equal(await exclusiveOf(again), 0)
  t.ok((await contentOf(again, 's')).equals(filled(1, GRAINS)))
})

t.test('where a disk takes its time, a write does not wait for it', async t => {
  const { volume, points } = await imaged()
  points.newest.late = true
  const pending = volume.write(2 * G, G, filled(3), 0)
  const second = volume.write(3 * G, G, filled(4), 0)
  await Promise.all([pending, second])
  t.equal(await exclusiveOf(volume), 0)
  const shown = await readAll(volume, 2 * G, 2 * G)
  t.strictSame([shown[0], shown[G]], [3, 4])
  points.newest.letGo()
  await volume.points.create({ name: 'later', kind: 'bookmark' })
  t.ok((await contentOf(volume, 'image')).subarray(2 * G, 4 * G).equals(filled(2, 2)))
})

t.test('what comes meanwhile does not spoil what is on its way', async t => {
  const { volume, points } = await imaged()
  await volume.write(3 * G, G, filled(7), 0)
  await volume.points.create({ name: 'base-2', kind: 'bookmark' })
  await volume.write(2 * G, 2 * G, Buffer.concat([filled(8), filled(9)]), 0)
  await volume.flush()
  await volume.points.delete('image')
  await volume.points.create({ name: 'image', kind: 'snapshot', keeps: { since: 'base-2', from: GRAINS } })
  const kept = points.newest
  kept.late = true
  await Promise.all([volume.write(2 * G, G, filled(3), 0), volume.write(3 * G, G, filled(4), 0)])
  t.equal(kept.writes, 1, 'one at a time')
  kept.letGo()
  await volume.points.create({ name: 'later', kind: 'bookmark' })
  const content = await contentOf(volume, 'image')
  t.strictSame([content[2 * G], content[3 * G]], [8, 9])
})

t.test('a write does not fail of it', async t => {
  const { volume, points } = await imaged()
  points.newest.failure = new Error('planted')
  await volume.write(2 * G, G, filled(3), 0)
  points.newest.failure = undefined
  await volume.points.create({ name: 'later', kind: 'bookmark' })
  t.equal((await contentOf(volume, 'image'))[2 * G], 2)
  t.equal((await readAll(volume))[2 * G], 3)
})

t.test('a budget holds', async t => {
  const { volume } = await imaged()
  volume.setSpace({ budgetBytes: G, order: 'fail' })
  t.equal(volume.write(2 * G, G, filled(3), 0), undefined)
  await t.rejects(Promise.resolve(volume.write(3 * G, G, filled(3), 0)), { code: 'no-space' })
  t.equal(volume.space.keptBytes, G)
})

t.test('an image whose base is gone keeps for older ones as well, and so for good', async t => {
  const { volume, points, disks } = await imaged('s')
  await volume.points.delete('base')
  await volume.points.settled()
  await volume.write(7 * G, G, filled(3), 0)
  // What is staged is in its place behind it.
  await volume.points.create({ name: 'later', kind: 'bookmark' })
  await volume.flush()
  const again = await openOn(killed(disks), SIZE, { points: points.cut() })
  t.ok((await contentOf(again, 's')).equals(filled(1, GRAINS)))
})

t.test('its reader hears from a flush whether a disk has lost some of it', async t => {
  const { volume, points } = await imaged()
  const device = volume.points.open('image', { image: true })
  t.equal(volume.write(2 * G, G, filled(3), 0), undefined)
  await device.flush()
  t.equal(points.newest.flushes, 1)
  points.newest.failure = new Error('planted')
  await t.rejects(async () => device.flush(), { message: 'planted' })
  await device.close()
})
