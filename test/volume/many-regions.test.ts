// W1: NO_HOLE zeros over so many separate closed regions that one journal record cannot name them all.
import t from 'tap'
import { MemoryDisk } from '../../src/device/testing.js'
import { RANGES_PER_RECORD_MAX, REGION_GRAINS } from '../../src/store/journal-records.js'
import { GRAIN, freshDisks, KEEP, mapOf, openOn } from './lab.js'

const REGION_BYTES = REGION_GRAINS * GRAIN

/** Keeps no zeros: 8 TiB of them would not fit into memory. */
class Unallocated extends MemoryDisk {
  override zero(): undefined { return undefined }
}

t.test('W1: zeros that stay allocated, where every second region is data', async t => {
  const sizeBytes = (2 * RANGES_PER_RECORD_MAX + 10) * REGION_BYTES
  const disks = await freshDisks({ sizeBytes, live: new Unallocated(sizeBytes), journalBytes: 4 * 2 ** 20, allData: true })
  const volume = await openOn(disks, sizeBytes)
  for (let at = 0; at < sizeBytes; at += 2 * REGION_BYTES) await volume.trim(at, REGION_BYTES)
  await volume.zero(0, sizeBytes, KEEP)
  t.equal(mapOf(volume), `data ${sizeBytes}`)
})
