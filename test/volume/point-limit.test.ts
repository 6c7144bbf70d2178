// S7: the limit of points of one volume, which deleted ones count towards until they are merged: whoever makes and deletes points faster than that
// waits for it, and is not refused.
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import { POINTS_PER_VOLUME_MAX } from '../../src/store/point-index.js'
import { createGroupPoints } from '../../src/volume/groups.js'
import type { PointRecord } from '../../src/volume/point-store.js'
import type { Volume } from '../../src/volume/volume.js'
import { until } from '../replication/held.js'
import { freshVolume, GRAIN, UUID } from './lab.js'
import { MemoryPoints } from './point-lab.js'

const SIZE = 4 * GRAIN

/** With the table's limit. What a merge copies waits while it is held. */
class Limited extends MemoryPoints {
  /** Writes that wait. */
  waiting = 0
  refused = 0
  /** The most that there were at once. */
  most = 0
  #held = Promise.resolve()
  #fails = false

  constructor() {
    super()
    this.wrap = (disk, what) => {
      if (what === 'maps') return disk
      const write = disk.write.bind(disk)
      disk.write = (...args) => {
        if (this.waiting < 0) return write(...args)
        this.waiting++
        return this.#held.then(() => {
          if (this.#fails) throw new NbdeltaError('io', 'the disk failed')
          write(...args)
        })
      }
      return disk
    }
    this.waiting = -1
  }

  /** @param fails what waits, in the end */
  hold(fails: boolean): () => void {
    this.waiting = 0
    this.#fails = fails
    let go = (): void => undefined
    this.#held = new Promise<void>(resolve => { go = resolve })
    return () => {
      this.waiting = -1
      go()
    }
  }

  override async put(points: readonly PointRecord[], remove: readonly PointRecord[]): Promise<void> {
    const fresh = points.filter(({ seq }) => !this.table.has(seq)).length
    if (this.table.size + fresh - remove.length > POINTS_PER_VOLUME_MAX) {
      this.refused++
      throw new NbdeltaError('no-space', 'the volume has as many points as it can')
    }
    await super.put(points, remove)
    this.most = Math.max(this.most, this.table.size)
  }
}

/** One snapshot, and as many deleted ones as there can be besides: the first of them is on its way into it. */
async function crowded(fails = false): Promise<{ points: Limited, volume: Volume, go: () => void }> {
  const points = new Limited()
  const volume = await freshVolume({ sizeBytes: SIZE, points })
  await volume.write(0, SIZE, Buffer.alloc(SIZE, 1), 0)
  await volume.points.create({ name: 'old', kind: 'snapshot' })
  await volume.points.create({ name: 'large', kind: 'snapshot' })
  await volume.write(0, GRAIN, Buffer.alloc(GRAIN, 2), 0)
  const go = points.hold(fails)
  await volume.points.delete('large')
  await until('it is on its way', () => points.waiting > 0)
  while (points.table.size < POINTS_PER_VOLUME_MAX) {
    await volume.points.create({ name: 'loop', kind: 'bookmark' })
    await volume.points.delete('loop')
  }
  return { points, volume, go }
}

t.test('snapshots made and deleted in a loop, behind a large one that goes slowly', async t => {
  const { points, volume, go } = await crowded()
  const made: string[] = []
  const make = (name: string): Promise<unknown> => volume.points.create({ name, kind: 'snapshot' }).then(() => made.push(name))
  const all = Array.from({ length: 20 }, (_, i) => make(`s${i}`))
  const group = createGroupPoints([{ uuid: UUID, name: 'v', points: volume.points }], () => ({ name: 'g', kind: 'snapshot' }),
    async records => points.put(records.map(({ record }) => record), []))
  await volume.points.rename('old', 'oldest')
  await new Promise(resolve => setTimeout(resolve, 20))
  t.strictSame(made, [], 'they wait, and nobody for them')
  go()
  await Promise.all([...all, group])
  await volume.points.settled()
  t.strictSame(volume.points.list().map(({ name }) => name).sort(), ['oldest', 'g', ...made].sort())
  t.strictSame([points.refused, points.most, points.table.size], [0, POINTS_PER_VOLUME_MAX, 22])
  await volume.close()
})

t.test('closed while they wait: none is made any more', async t => {
  const { points, volume, go } = await crowded()
  const waiting = [1, 2].map(i => volume.points.create({ name: `s${i}`, kind: 'snapshot' }))
  const refused = Promise.all(waiting.map(one => t.rejects(one, { code: 'wrong-state' })))
  const closed = volume.close()
  go()
  await Promise.all([refused, closed])
  t.strictSame([...points.table.values()].filter(({ deleting }) => !deleting).map(({ name }) => name), ['old'])
})

t.test('none of them can go: it is refused, and does not wait for ever', async t => {
  const { volume, go } = await crowded(true)
  go()
  await t.rejects(volume.points.settled())
  await t.rejects(volume.points.create({ name: 's', kind: 'snapshot' }), { code: 'no-space' })
  await volume.close()
})

t.test('as many as there can be, and none is deleted: refused at once', async t => {
  const points = new Limited()
  const volume = await freshVolume({ sizeBytes: SIZE, points })
  for (let i = 0; i < POINTS_PER_VOLUME_MAX; i++) await volume.points.create({ name: `b${i}`, kind: 'bookmark' })
  await t.rejects(volume.points.create({ name: 'b', kind: 'bookmark' }), { code: 'no-space' })
  await volume.points.delete('b0')
  await volume.points.create({ name: 'b', kind: 'bookmark' })
  await volume.close()
})
