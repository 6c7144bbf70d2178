// The map on disk: what is saved is loaded; whatever does not check reads as all set, never as clear, and is reported; every
// crash state of a save is a superset of what is true.
import t from 'tap'
import { divCeil, encodeRecord, GrainBitmap, PAGE_BITS } from '../../native-free/index.js'
import { crashStates } from '../../src/device/crash.js'
import { DiskArray } from '../../src/device/disk-array.js'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { seededRandom } from '../../src/device/random.js'
import { formatMapFile, GROUP_PAGES, MAP_MAGIC, MapFile, mapFileSizeBytes } from '../../src/store/map-file.js'

const SEED = Number(process.env.SEED ?? Date.now() % 1e9)
t.comment(`SEED=${SEED}`)
const IDENTITY = { owner: Buffer.from('0123456789abcdef'), name: 'map' }
const DIRECTORY_BYTES = 512
const SLOT_BYTES = 4608

async function fresh(grains: number, fill = false): Promise<MemoryDisk> {
  const disk = new MemoryDisk(mapFileSizeBytes(grains))
  await formatMapFile(disk, IDENTITY, grains, fill)
  return disk
}
async function load(disk: MemoryDisk, grains: number): Promise<{ bitmap: GrainBitmap, faults: string[] }> {
  const bitmap = new GrainBitmap(grains)
  return { bitmap, faults: await new MapFile(disk, IDENTITY, grains).load(bitmap) }
}
const allPages = (bitmap: GrainBitmap): number[] => Array.from({ length: bitmap.pageCount }, (_, page) => page)
/** Every grain set in `inner` is set in `outer`. */
function covers(outer: GrainBitmap, inner: GrainBitmap): boolean {
  const rest = inner.clone()
  rest.andNot(outer)
  return rest.count() === 0
}

t.test('a fresh map is clear, or full, of any length', async t => {
  for (const grains of [1, PAGE_BITS - 1, PAGE_BITS, PAGE_BITS * GROUP_PAGES, PAGE_BITS * GROUP_PAGES + 1]) {
    for (const fill of [false, true]) {
      const { bitmap, faults } = await load(await fresh(grains, fill), grains)
      t.strictSame([bitmap.count(), faults], [fill ? grains : 0, []])
    }
  }
})

t.test('random maps come back, page by page', async t => {
  const random = seededRandom(SEED)
  const grains = PAGE_BITS * (GROUP_PAGES + 90) + 77
  const disk = await fresh(grains)
  const map = new MapFile(disk, IDENTITY, grains)
  const bitmap = new GrainBitmap(grains)
  await map.load(bitmap)
  for (let round = 0; round < 30; round++) {
    const dirty = new Set<number>()
    for (let i = 0; i < 40; i++) {
      const from = random(grains)
      const to = Math.min(grains, from + 1 + random(random(4) ? 5000 : 70 * PAGE_BITS))
      if (random(3)) bitmap.set(from, to)
      else bitmap.clear(from, to)
      for (let page = Math.floor(from / PAGE_BITS); page * PAGE_BITS < to; page++) dirty.add(page)
    }
    await map.save(bitmap, [...dirty].sort((a, b) => a - b))
    await map.flush()
    const again = await load(disk, grains)
    t.strictSame(again.faults, [])
    if (!again.bitmap.equals(bitmap)) t.fail(`round ${round}`)
  }
})

t.test('16 TiB of holes, or of data, opens in a moment', async t => {
  const grains = 2 ** 32
  for (const fill of [false, true]) {
    const disk = await fresh(grains, fill)
    const bitmap = new GrainBitmap(grains)
    const start = performance.now()
    await new MapFile(disk, IDENTITY, grains).load(bitmap)
    t.comment(`${(performance.now() - start).toFixed(1)} ms`)
    t.equal(bitmap.count(), fill ? grains : 0)
  }
})

t.test('any flipped bit of a directory or a page makes it full, and is told', async t => {
  const grains = PAGE_BITS * 3
  const disk = await fresh(grains)
  const bitmap = new GrainBitmap(grains)
  bitmap.set(5, 9)
  bitmap.set(PAGE_BITS, 2 * PAGE_BITS)
  await new MapFile(disk, IDENTITY, grains).save(bitmap, allPages(bitmap))
  for (let offset = 0; offset < DIRECTORY_BYTES + 64 + 4096; offset++) {
    const image = disk.fork()
    const byte = Buffer.alloc(1)
    image.read(offset, 1, byte, 0)
    byte[0] ^= 1 << offset % 8
    image.write(offset, 1, byte, 0)
    const inDirectory = offset < 64 + 256
    const inPage = offset >= DIRECTORY_BYTES
    const { bitmap: found, faults } = await load(image, grains)
    const expected = bitmap.clone()
    if (inDirectory) expected.set(0, grains)
    else if (inPage) expected.set(0, PAGE_BITS)
    if (!found.equals(expected) || faults.length !== (inDirectory || inPage ? 1 : 0)) t.fail(`offset ${offset}: ${faults.join()}`)
  }
  t.pass('all of them')
})

t.test('a page that is missing, alien or misplaced is full, and is told', async t => {
  const grains = PAGE_BITS * 3
  const bitmap = new GrainBitmap(grains)
  for (const page of [0, 1, 2]) bitmap.set(page * PAGE_BITS + 3, page * PAGE_BITS + 50 + page)
  const disk = await fresh(grains)
  await new MapFile(disk, IDENTITY, grains).save(bitmap, allPages(bitmap))
  const alien = await fresh(grains)
  await new MapFile(alien, { ...IDENTITY, owner: Buffer.alloc(16, 7) }, grains).save(bitmap, allPages(bitmap))
  const slot = Buffer.alloc(SLOT_BYTES)
  const damage: [string, RegExp, (image: MemoryDisk) => void][] = [
    ['lost', /page 1 .* is missing/, image => image.write(DIRECTORY_BYTES + SLOT_BYTES, SLOT_BYTES, Buffer.alloc(SLOT_BYTES), 0)],
    ['misdirected', /page 1 .* another place/, image => {
      disk.read(DIRECTORY_BYTES, SLOT_BYTES, slot, 0)
      image.write(DIRECTORY_BYTES + SLOT_BYTES, SLOT_BYTES, slot, 0)
    }],
    ['alien', /page 1 .* another volume/, image => {
      alien.read(DIRECTORY_BYTES + SLOT_BYTES, SLOT_BYTES, slot, 0)
      image.write(DIRECTORY_BYTES + SLOT_BYTES, SLOT_BYTES, slot, 0)
    }],
  ]
  for (const [name, fault, edit] of damage) {
    const image = disk.fork()
    edit(image)
    const { bitmap: found, faults } = await load(image, grains)
    t.match(faults, [fault], name)
    t.equal(found.count(PAGE_BITS, 2 * PAGE_BITS), PAGE_BITS)
    t.equal(found.count(), PAGE_BITS + 47 + 49, 'the others are what they were')
  }
  const short = disk.fork()
  await short.resize(DIRECTORY_BYTES + SLOT_BYTES)
  t.equal((await load(short, grains)).faults.length, 2, 'a file that was cut')
  await short.resize(100)
  t.equal((await load(short, grains)).bitmap.count(), grains)
})

t.test('a newer map is refused', async t => {
  const disk = await fresh(10)
  const sector = Buffer.alloc(DIRECTORY_BYTES)
  encodeRecord({ magic: MAP_MAGIC, version: 2, owner: IDENTITY.owner, address: 0 },
    { type: 1, epoch: 0, sequence: 0, durableSequence: 0 }, Buffer.alloc(256), sector, 0)
  disk.write(0, DIRECTORY_BYTES, sector, 0)
  await t.rejects(load(disk, 10), { code: 'newer-format' })
})

t.test('a save without a load does not make holes of what it does not know', async t => {
  const grains = PAGE_BITS * 3
  const disk = await fresh(grains, true)
  await new MapFile(disk, IDENTITY, grains).save(new GrainBitmap(grains), [1])
  t.equal((await load(disk, grains)).bitmap.count(), 2 * PAGE_BITS)
})

t.test('growing and shrinking: new pages are clear, whatever stood there before', async t => {
  const grains = PAGE_BITS * (GROUP_PAGES + 2)
  const disk = await fresh(grains, true)
  const map = new MapFile(disk, IDENTITY, grains)
  const bitmap = new GrainBitmap(grains, true)
  await map.load(bitmap)
  const resize = async (to: number): Promise<GrainBitmap> => {
    const last = bitmap.pageCount - 1
    await disk.resize(mapFileSizeBytes(to))
    await map.resize(to)
    bitmap.resize(to, false)
    // The page that was or becomes the last one has other bits now.
    await map.save(bitmap, [...new Set([Math.min(last, bitmap.pageCount - 1), bitmap.pageCount - 1])])
    const found = await load(disk, to)
    t.strictSame(found.faults, [])
    return found.bitmap
  }
  for (const to of [PAGE_BITS * 3 - 5, PAGE_BITS * (GROUP_PAGES + 2), 1, PAGE_BITS * 2 * GROUP_PAGES]) {
    t.ok((await resize(to)).equals(bitmap), `${to} grains`)
  }
})

t.test('a failed write comes out of save, once nothing runs any more', async t => {
  const grains = PAGE_BITS * 200
  const bitmap = new GrainBitmap(grains)
  for (let page = 0; page < 200; page++) bitmap.set(page * PAGE_BITS, page * PAGE_BITS + 1)
  const disk = await fresh(grains)
  let running = 0
  const map = new MapFile({
    ...devicePart(disk),
    write: () => {
      running++
      return new Promise((_, reject) => { setImmediate(() => { running--; reject(new Error('EIO')) }) })
    },
  }, IDENTITY, grains)
  await t.rejects(map.save(bitmap, allPages(bitmap)), /EIO/)
  t.equal(running, 0)
})

function devicePart(disk: MemoryDisk) {
  return {
    sizeBytes: disk.sizeBytes, blockSizes: disk.blockSizes, capabilities: disk.capabilities,
    read: disk.read.bind(disk), zero: disk.zero.bind(disk), trim: disk.trim.bind(disk), flush: disk.flush.bind(disk),
    zeroRun: disk.zeroRun.bind(disk), extents: disk.extents.bind(disk), close: disk.close.bind(disk),
  }
}

t.test('D4: every crash state of a save covers what is set before and after, and costs no more than the pages saved', async t => {
  const random = seededRandom(SEED)
  const grains = PAGE_BITS * 12
  let states = 0
  for (let script = 0; script < 60; script++) {
    const start = await fresh(grains)
    const bitmap = new GrainBitmap(grains)
    for (let i = 0; i < 8; i++) bitmap.set(random(grains - 100), grains - random(100))
    await new MapFile(start, IDENTITY, grains).save(bitmap, allPages(bitmap))
    const before = bitmap.clone()
    for (let i = 0; i < 6; i++) {
      const from = random(grains - 9000)
      bitmap.clear(from, from + 9000)
    }
    const array = new DiskArray({ map: start })
    const map = new MapFile(array.disk('map'), IDENTITY, grains)
    await map.load(new GrainBitmap(grains))
    const dirty = allPages(bitmap).filter(page => bitmap.count(page * PAGE_BITS, page * PAGE_BITS + PAGE_BITS)
      !== before.count(page * PAGE_BITS, page * PAGE_BITS + PAGE_BITS))
    await map.save(bitmap, dirty)
    await map.flush()
    for (const state of crashStates(array, { seed: SEED + script, statesMax: 300 })) {
      states++
      const { bitmap: found } = await load(state.disks.map, grains)
      // Bits were only cleared: the truth is `bitmap`, and nothing outside the saved pages may have changed.
      if (!covers(found, bitmap)) t.fail(`SEED=${SEED} script ${script}: ${state.story}: a set bit is gone`)
      for (let page = 0; page < divCeil(grains, PAGE_BITS); page++) {
        const range = [page * PAGE_BITS, (page + 1) * PAGE_BITS] as const
        if (dirty.includes(page) || found.count(...range) === before.count(...range)) continue
        t.fail(`SEED=${SEED} script ${script}: ${state.story}: page ${page} was not saved`)
      }
    }
  }
  t.comment(`${states} states`)
  t.ok(states > 1000)
})
