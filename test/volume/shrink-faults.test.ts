// D6: once the catalog says the smaller size, a shrink has happened, whatever the disk does; what was cut never comes back.
import t from 'tap'
import { MemoryDisk } from '../../src/device/testing.js'
import { freshDisks, GRAIN, killed, openOn, readAll } from './lab.js'

const SIZE = 8 * GRAIN
const SMALLER = 2 * GRAIN + 512

class Uncuttable extends MemoryDisk {
  failing = true
  override resize(sizeBytes: number): Promise<void> {
    return this.failing && sizeBytes < this.sizeBytes ? Promise.reject(new Error('not now')) : super.resize(sizeBytes)
  }
}

t.test('D6: a shrink whose disk cannot be cut has its new size, and growing again shows zeros', async t => {
  const live = new Uncuttable(SIZE)
  const disks = await freshDisks({ sizeBytes: SIZE, live })
  const volume = await openOn(disks, SIZE)
  await volume.write(0, SIZE, Buffer.alloc(SIZE, 7), 0)
  await volume.resize(SMALLER, async () => undefined)
  t.equal(volume.sizeBytes, SMALLER)
  t.equal((await openOn(killed(disks), SMALLER)).sizeBytes, SMALLER, 'opens with the size that the catalog says')
  await t.rejects(volume.resize(SIZE, async () => undefined), { message: 'not now' }, 'no growth over old bytes')
  t.equal(volume.sizeBytes, SMALLER)
  live.failing = false
  await volume.resize(SIZE, async () => undefined)
  const wanted = Buffer.alloc(SIZE)
  wanted.fill(7, 0, SMALLER)
  t.ok(wanted.equals(await readAll(volume)))
  await volume.write(5 * GRAIN, 1, wanted, 0)
  wanted[5 * GRAIN] = 7
  t.ok(wanted.equals(await readAll(volume)), 'also around what is written next')
})
