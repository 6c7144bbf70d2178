// Z6, D6: resize over files and over block devices: new space reads as zeros whatever lies there, failures leave the old size.
import t from 'tap'
import { MemoryDisk } from '../../src/device/testing.js'
import { openVolume } from '../../src/volume/open-volume.js'
import { freshDisks, GRAIN, killed, openOn, readAll, UUID } from './lab.js'

const SIZE = 6 * GRAIN + 512
const nothing = async (): Promise<void> => undefined

/** A block device: its size is given, and it holds what was there before. */
class BlockDisk extends MemoryDisk {
  readonly kind = 'block'
  constructor(sizeBytes: number) {
    super(sizeBytes)
    this.write(0, sizeBytes, Buffer.alloc(sizeBytes, 0xee), 0)
  }

  override async resize(): Promise<void> { throw new Error('a block device is not resized from here') }
}

t.test('a block device: what lies behind the old end never shows', async t => {
  const live = new BlockDisk(20 * GRAIN)
  const disks = await freshDisks({ sizeBytes: SIZE, live, allData: true })
  const volume = await openOn(disks, SIZE)
  t.ok((await readAll(volume)).every(byte => byte === 0xee), 'adopted as it is')
  await volume.resize(12 * GRAIN, nothing)
  t.ok((await readAll(volume, SIZE)).every(byte => byte === 0), 'new grains and the rest of the short one')
  await volume.write(8 * GRAIN + 5, 1, Buffer.from([1]), 0)
  const found = await readAll(volume, SIZE)
  t.equal(found.filter(byte => byte !== 0).length, 1)
  // Not `killed`: this disk has to stay a block device.
  const { map, journal } = killed(disks)
  const again = await openOn({ live, map, journal }, 12 * GRAIN)
  t.ok((await readAll(again, SIZE)).equals(found), 'also after a kill')
  await t.rejects(again.resize(21 * GRAIN, nothing), { code: 'bad-argument' })
  t.equal(again.sizeBytes, 12 * GRAIN)
})

t.test('somebody else made an adopted file longer: it is not cut at open, and growth does not show what lies there', async t => {
  const live = new MemoryDisk(SIZE)
  const disks = await freshDisks({ sizeBytes: SIZE, live, allData: true })
  await live.resize(9 * GRAIN)
  live.write(SIZE, 100, Buffer.alloc(100, 7), 0)
  const volume = await openVolume({ uuid: UUID, sizeBytes: SIZE, grainBytes: GRAIN, ...disks, adopted: true })
  t.equal(live.sizeBytes, 9 * GRAIN)
  await volume.resize(8 * GRAIN, nothing)
  t.ok((await readAll(volume)).every(byte => byte === 0))
  await volume.close()
})

t.test('a crash in a shrink leaves live too long: cut at open', async t => {
  const disks = await freshDisks({ sizeBytes: SIZE })
  const volume = await openOn(disks, SIZE)
  await volume.write(0, SIZE, Buffer.alloc(SIZE, 7), 0)
  const left = killed(disks)
  const again = await openOn(left, 2 * GRAIN)
  t.equal(left.live.sizeBytes, 2 * GRAIN)
  t.match(again.recovered.notes, [/too long/])
  await again.resize(SIZE, nothing)
  t.ok((await readAll(again, 2 * GRAIN)).every(byte => byte === 0))
})

t.test('a catalog that refuses leaves everything as it was', async t => {
  const disks = await freshDisks({ sizeBytes: SIZE })
  const volume = await openOn(disks, SIZE)
  await volume.write(0, SIZE, Buffer.alloc(SIZE, 7), 0)
  for (const sizeBytes of [9 * GRAIN, GRAIN]) {
    await t.rejects(volume.resize(sizeBytes, async () => { throw new Error('disk full') }), /disk full/)
    t.equal(volume.sizeBytes, SIZE)
    t.ok((await readAll(volume)).every(byte => byte === 7))
  }
  await volume.write(SIZE - 1, 1, Buffer.from([8]), 0)
  await volume.resize(7 * GRAIN, nothing)
  t.equal((await readAll(volume, SIZE - 1, 2)).toString('hex'), '0800', 'and it goes on working')
})

t.test('requests wait while the size changes, none fails', async t => {
  const disks = await freshDisks({ sizeBytes: SIZE })
  const volume = await openOn(disks, SIZE)
  let commit!: () => void
  const resizing = volume.resize(9 * GRAIN, () => new Promise(resolve => { commit = resolve }))
  while (!commit) await new Promise(resolve => { setImmediate(resolve) })
  let written = false
  const write = Promise.resolve(volume.write(0, 5, Buffer.from('hello'), 0)).then(() => { written = true })
  await new Promise(resolve => { setImmediate(resolve) })
  t.notOk(written)
  commit()
  await Promise.all([resizing, write])
  t.equal((await readAll(volume, 0, 5)).toString(), 'hello')
})
