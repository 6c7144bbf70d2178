// A group of which one volume has nothing to restore, on a disk that refuses to be tidied: what the others show stays.
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import { ManualClock } from '../../src/device/testing.js'
import { Groups } from '../../src/volume/groups.js'
import { freshArray, MEMBERS, type MemberDisks, openMembers, SIZE, UUIDS } from '../crash/group-lab.js'
import { readAll } from './lab.js'

t.test('it is restored, written to and copied though what was laid for the other volume cannot be taken away', async t => {
  const clock = new ManualClock()
  const array = await freshArray(false)
  const disks = Object.fromEntries(array.names.map(name => [name, array.disk(name)])) as unknown as MemberDisks
  const { table, volumes } = await openMembers(disks, clock)
  const members = volumes.map(({ points, inheritor }, index) => ({ uuid: UUIDS[MEMBERS[index]], name: MEMBERS[index], points, inheritor }))
  const groups = new Groups(table, { usable: name => members.find(member => member.name === name)!, nameOf: uuid => members.find(member => member.uuid === uuid)?.name })
  const [a, b] = volumes
  const [old, later] = [1, 2].map(value => Buffer.alloc(SIZE, value))
  for (const volume of volumes) await volume.write(0, SIZE, old, 0)
  await groups.create('g', MEMBERS)
  await groups.createPoints({ group: 'g', name: 's', kind: 'snapshot' })
  await a.write(0, SIZE, later, 0)
  // All of it is laid when the record is written.
  const flush = disks.table.flush.bind(disks.table)
  disks.table.flush = () => {
    disks['b.folders'].write = () => { throw new NbdeltaError('io', 'refused') }
    return flush()
  }
  const { finished } = await groups.restore({ group: 'g', name: 's' })
  t.ok((await readAll(a)).equals(old))
  await a.write(512, 512, later, 0)
  let isOver = false
  finished.then(() => { isOver = true }, () => undefined)
  for (let i = 0; i < 100 && !isOver; i++) await clock.advance(100)
  t.ok(isOver, 'all is copied')
  t.ok((await readAll(a)).equals(Buffer.concat([old.subarray(0, 512), later.subarray(0, 512), old.subarray(1024)])))
  t.ok((await readAll(b)).equals(old))
  t.ok(a.points.get('undo-s-1'))
  t.same(b.points.list().map(({ name }) => name), ['s'])
  for (const volume of volumes) await volume.close()
})
