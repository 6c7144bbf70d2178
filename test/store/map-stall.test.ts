// Saving a large map lets others have their turn, although every write of it completes at once.
import t from 'tap'
import { GrainBitmap, PAGE_BITS } from '../../native-free/grain-bitmap.js'
import { MemoryDisk } from '../../src/device/testing.js'
import { formatMapFile, MapFile, mapFileSizeBytes } from '../../src/store/map-file.js'

const PAGES = 4096

t.test('a save of 4096 mixed pages gives way at least every 64 pages', async t => {
  const grains = PAGES * PAGE_BITS
  const identity = { owner: Buffer.alloc(16, 1), name: 'map' }
  const disk = new MemoryDisk(mapFileSizeBytes(grains))
  await formatMapFile(disk, identity, grains, false)
  const bitmap = new GrainBitmap(grains)
  for (let page = 0; page < PAGES; page++) bitmap.set(page * PAGE_BITS, page * PAGE_BITS + 1)
  let turns = 0
  let saving = true
  const count = (): void => {
    turns++
    if (saving) setImmediate(count)
  }
  setImmediate(count)
  await new MapFile(disk, identity, grains).save(bitmap, Array.from({ length: PAGES }, (_, page) => page))
  saving = false
  t.ok(turns >= PAGES / 64 - 1, `${turns} turns`)
})
