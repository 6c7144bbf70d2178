// S7: writes into a trimmed range cut it to pieces; the journal's snapshot has room for them all the same.
import t from 'tap'
import { MemoryDisk } from '../../src/device/testing.js'
import { freshDisks, GRAIN, killed, openOn, readAll, SMALL_JOURNAL_BYTES } from './lab.js'

/** Cannot give space back. */
class SolidDisk extends MemoryDisk {
  punch(): Promise<{ punched: boolean }> { return Promise.resolve({ punched: false }) }
}

t.test('S7: every second grain of a trimmed range is written where no space can be given back', async t => {
  const grains = 4096
  const sizeBytes = grains * GRAIN
  const disks = await freshDisks({ sizeBytes, journalBytes: SMALL_JOURNAL_BYTES, live: new SolidDisk(sizeBytes) })
  const volume = await openOn(disks, sizeBytes)
  await volume.write(0, sizeBytes / 2, Buffer.alloc(sizeBytes / 2, 0xaa), 0)
  await volume.write(sizeBytes / 2, sizeBytes / 2, Buffer.alloc(sizeBytes / 2, 0xaa), 0)
  await volume.trim(0, sizeBytes)
  const wanted = Buffer.alloc(sizeBytes)
  for (let grain = 0; grain < grains; grain += 2) {
    wanted.fill(0x55, grain * GRAIN, grain * GRAIN + 512)
    await volume.write(grain * GRAIN, 512, wanted, grain * GRAIN)
  }
  t.ok(wanted.equals(await readAll(volume)), 'what was written, and zeros between')
  t.ok((await volume.facts()).staleBytes > 0, 'most of it is still stale')
  const left = killed(disks)
  t.ok(wanted.equals(await readAll(await openOn(left, sizeBytes))), 'and after a kill')
})
