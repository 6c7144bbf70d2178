// Space that was trimmed comes back in the background, and live at rest is a plain raw image; where it cannot, nothing is wrong.
import t from 'tap'
import { ManualClock, MemoryDisk } from '../../src/device/testing.js'
import type { Pending, ZeroMode } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { freshDisks, GRAIN, killed, openOn, readAll, SMALL_JOURNAL_BYTES } from './lab.js'

const SIZE = 64 * GRAIN

/** Cannot free anything fast. */
class StubbornDisk extends MemoryDisk {
  override zero(offset: number, length: number, mode: ZeroMode): Pending {
    if (mode.fast) throw new NbdeltaError('not-fast', 'not here')
    return super.zero(offset, length, mode)
  }
}

/** As a full disk, which now and then cannot even free: the first attempt fails. */
class FullDisk extends MemoryDisk {
  attempts = 0
  async punch(ranges: readonly { offset: number, length: number }[]): Promise<{ punched: boolean }> {
    if (this.attempts++ === 0) return { punched: false }
    for (const { offset, length } of ranges) super.zero(offset, length, { allocate: false, fast: false })
    return { punched: true }
  }
}

async function filled(live: MemoryDisk, journalBytes = 2 ** 20) {
  const clock = new ManualClock()
  const disks = await freshDisks({ sizeBytes: SIZE, live, journalBytes })
  const volume = await openOn(disks, SIZE, { clock })
  await volume.write(0, SIZE, Buffer.alloc(SIZE, 5), 0)
  return { clock, disks, volume }
}

t.test('space comes back without anybody asking', async t => {
  const live = new MemoryDisk(SIZE)
  const { clock, volume } = await filled(live)
  await volume.trim(0, SIZE / 2)
  t.equal((await volume.facts()).staleBytes, SIZE / 2)
  await clock.advance(1000)
  t.match(await volume.facts(), { staleBytes: 0, mappedBytes: SIZE / 2, allocatedBytes: SIZE / 2 })
  await volume.write(10, 5, Buffer.from('hello'), 0)
  const found = await readAll(volume, 0, GRAIN)
  t.equal(found.subarray(10, 15).toString(), 'hello')
  t.equal(found.filter(byte => byte !== 0).length, 5, 'nothing of what was trimmed')
})

t.test('also what a killed process had not given back', async t => {
  const { disks, volume } = await filled(new MemoryDisk(SIZE))
  await volume.trim(0, SIZE)
  const clock = new ManualClock()
  const left = killed(disks)
  const again = await openOn(left, SIZE, { clock })
  t.equal((await again.facts()).staleBytes, SIZE)
  t.ok((await readAll(again)).every(byte => byte === 0))
  await clock.advance(1000)
  t.equal(await left.live.allocatedBytes(), 0)
})

t.test('where it cannot come back, ranges stay stale and read as zeros; a close writes the zeros', async t => {
  const live = new StubbornDisk(SIZE)
  const { clock, disks, volume } = await filled(live)
  await volume.trim(0, SIZE / 2)
  await clock.advance(1000)
  t.equal((await volume.facts()).staleBytes, SIZE / 2)
  t.ok((await readAll(volume, 0, SIZE / 2)).every(byte => byte === 0))
  await volume.close()
  const { live: image } = killed(disks)
  t.ok(image.toBuffer().subarray(0, SIZE / 2).every(byte => byte === 0), 'the raw image has zeros')
})

t.test('a disk that could not give space back once is asked again', async t => {
  const { clock, volume } = await filled(new FullDisk(SIZE))
  await volume.trim(0, SIZE / 2)
  await clock.advance(1000)
  t.equal((await volume.facts()).staleBytes, SIZE / 2)
  await clock.advance(31_000)
  t.match(await volume.facts(), { staleBytes: 0, allocatedBytes: SIZE / 2 })
})

t.test('a close does not wait for a second attempt: it writes zeros', async t => {
  const { disks, volume } = await filled(new FullDisk(SIZE))
  await volume.trim(0, SIZE / 2)
  await volume.close()
  const { live: image } = killed(disks)
  t.ok(image.toBuffer().subarray(0, SIZE / 2).every(byte => byte === 0))
  t.ok(image.toBuffer().subarray(SIZE / 2).every(byte => byte === 5))
})

t.test('S7: more stale ranges than the journal can list: zeros are written instead, nothing is refused', async t => {
  const sizeBytes = 600 * GRAIN
  const disks = await freshDisks({ sizeBytes, live: new StubbornDisk(sizeBytes), journalBytes: SMALL_JOURNAL_BYTES })
  const volume = await openOn(disks, sizeBytes)
  const model = Buffer.alloc(sizeBytes, 5)
  await volume.write(0, sizeBytes, model, 0)
  for (let grain = 0; grain < 600; grain += 2) {
    await volume.trim(grain * GRAIN, GRAIN)
    await volume.zero((grain + 1) * GRAIN, 100, { allocate: false, fast: false })
    model.fill(0, (grain + 1) * GRAIN, (grain + 1) * GRAIN + 100)
  }
  const found = await readAll(volume)
  for (let grain = 0; grain < 600; grain += 2) {
    const trimmed = found.subarray(grain * GRAIN, (grain + 1) * GRAIN)
    if (trimmed.every(byte => byte === 0)) model.fill(0, grain * GRAIN, (grain + 1) * GRAIN)
  }
  t.ok(found.equals(model))
  await volume.zero(0, sizeBytes, { allocate: false, fast: false })
  t.ok((await readAll(volume)).every(byte => byte === 0))
  const again = await openOn(killed(disks), sizeBytes)
  t.ok((await readAll(again)).every(byte => byte === 0), 'and so it is after a kill')
})
