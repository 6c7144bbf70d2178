// Whoever needs old content kept is served also when the preserver has just run out of work. On real files: only there does
// the next request come in the very turn in which the last one's batch ends.
import t from 'tap'
import { openStore } from '../../src/index.js'

const MIB = 2 ** 20

t.test('a write of many batches over grains that are lent ends', async t => {
  const store = await openStore({ path: `${t.testdir()}/store`, create: true })
  t.teardown(() => store.close())
  const volume = await store.createVolume({ name: 'db', sizeBytes: 16 * MIB })
  const write = (offset: number, length: number, byte: number) => volume.write(offset, length, Buffer.alloc(length, byte), 0)
  await write(8 * MIB, MIB, 1)
  await volume.points.create({ name: 'kept', kind: 'snapshot' })
  await volume.trim(8 * MIB, MIB / 8)
  await write(0, 9 * MIB, 2)
  const into = Buffer.alloc(MIB)
  const kept = volume.points.open('kept')
  await kept.read(8 * MIB, MIB, into, 0)
  t.ok(into.equals(Buffer.alloc(MIB, 1)))
  await kept.close()
})
