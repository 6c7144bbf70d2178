// Volumes are restored together, and one has nothing to restore: that it cannot be tidied up is no failure of what the others show.
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import { ManualClock } from '../../src/device/testing.js'
import type { InheritJob } from '../../src/volume/copier.js'
import { Groups } from '../../src/volume/groups.js'
import { freshArray, MEMBERS, type MemberDisks, openMembers, SIZE, UUIDS } from '../crash/group-lab.js'
import { GRAIN, readAll } from './lab.js'

const [OLD, LATER] = [1, 2].map(value => Buffer.alloc(SIZE, value))

async function fresh() {
  const clock = new ManualClock()
  const array = await freshArray(false)
  const disks = Object.fromEntries(array.names.map(name => [name, array.disk(name)])) as unknown as MemberDisks
  const opened = await openMembers(disks, clock)
  const members = opened.volumes.map(({ points, inheritor }, index) => ({ uuid: UUIDS[MEMBERS[index]], name: MEMBERS[index], points, inheritor }))
  const usable = (name: string) => members.find(member => member.name === name)!
  const groups = new Groups(opened.table, { usable, nameOf: uuid => members.find(member => member.uuid === uuid)?.name })
  const [a, b] = opened.volumes
  for (const volume of [a, b]) await volume.write(0, SIZE, OLD, 0)
  await groups.create('g', MEMBERS)
  await groups.createPoints({ group: 'g', name: 's', kind: 'snapshot' })
  await a.write(0, SIZE, LATER, 0)
  return { clock, disks, groups, table: opened.table, a, b }
}

async function copied({ finished }: InheritJob, clock: ManualClock): Promise<boolean> {
  let isOver = false
  finished.then(() => { isOver = true }, () => undefined)
  for (let i = 0; i < 100 && !isOver; i++) await clock.advance(100)
  return isOver
}

t.test('what was laid for it stays behind', async t => {
  const { clock, disks, groups, a, b } = await fresh()
  // All of it is laid when the record is written.
  const flush = disks.table.flush.bind(disks.table)
  disks.table.flush = () => {
    disks['b.folders'].write = () => { throw new NbdeltaError('io', 'refused') }
    return flush()
  }
  const job = await groups.restore({ group: 'g', name: 's' })
  t.ok((await readAll(a)).equals(OLD))
  await a.write(512, 512, LATER, 0)
  t.ok(await copied(job, clock), 'all is copied')
  t.ok((await readAll(a)).equals(Buffer.concat([OLD.subarray(0, 512), LATER.subarray(0, 512), OLD.subarray(1024)])))
  t.ok((await readAll(b)).equals(OLD))
  t.ok(a.points.get('undo-s-1'))
  t.same(b.points.list().map(({ name }) => name), ['s'])
  for (const volume of [a, b]) await volume.close()
})

t.test('its source stays pinned', async t => {
  const { clock, groups, table, a, b } = await fresh()
  await b.resize(SIZE + GRAIN, async () => undefined)
  const put = table.put.bind(table)
  let isFull = false
  table.put = async changes => {
    if (isFull) throw new NbdeltaError('no-space', 'refused')
    await put(changes)
    isFull = changes.volumes !== undefined
  }
  const sourceVolume = { uuid: UUIDS.a, grainBytes: GRAIN, points: a.points }
  const job = await groups.restoreTogether([{ volume: 'a', from: 's' }, { volume: 'b', from: 's', sourceVolume, offset: SIZE, length: GRAIN }])
  table.put = put
  t.ok((await readAll(a)).equals(OLD))
  t.ok(await copied(job, clock), 'all is copied')
  t.ok((await readAll(b, 0, SIZE)).equals(OLD))
  t.equal(a.points.get('s')!.pins.length, 1, 'until the next open')
  for (const volume of [a, b]) await volume.close()
})
