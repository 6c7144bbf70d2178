// Twin maps are exact: after any crash every page is what it was or what was saved, never a mixture, never an older past, though
// pages are torn in A or in B. A page bad in both is reported, and stays so until it is saved.
import t from 'tap'
import { GrainBitmap, PAGE_BITS } from '../../native-free/index.js'
import { crashStates } from '../../src/device/crash.js'
import { DiskArray } from '../../src/device/disk-array.js'
import { FaultyDisk } from '../../src/device/faulty-disk.js'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { type Random, seededRandom } from '../../src/device/random.js'
import { GROUP_PAGES, mapFileSizeBytes } from '../../src/store/map-file.js'
import { saveTwins, TwinMap } from '../../src/store/twin-map.js'

const SEED = Number(process.env.SEED ?? Date.now() % 1e9)
t.setTimeout(180_000)
t.comment(`SEED=${SEED}`)
const IDENTITY = { owner: Buffer.from('0123456789abcdef'), name: 'owned', point: 7, base: 4096 }
const GRAINS = 4 * PAGE_BITS - 100
const DIRECTORY_BYTES = 512
const SLOT_BYTES = 4608

const halfBytes = (grains: number): number => mapFileSizeBytes(grains)
async function fresh(grains = GRAINS): Promise<MemoryDisk> {
  const disk = new MemoryDisk(2 * halfBytes(grains))
  await new TwinMap(disk, IDENTITY, grains).format(false)
  return disk
}
async function load(disk: MemoryDisk, grains = GRAINS): Promise<{ map: TwinMap, bitmap: GrainBitmap, damagedPages: readonly number[], faults: readonly string[] }> {
  const map = new TwinMap(disk, IDENTITY, grains)
  const bitmap = new GrainBitmap(grains)
  return { map, bitmap, ...await map.load(bitmap) }
}
const bytesOf = (bitmap: GrainBitmap): Buffer[] => Array.from({ length: bitmap.pageCount }, (_, page) => bitmap.pageBytes(page))

/** Makes some pages clear, some set, some mixed in many ways; returns which. */
function scramble(bitmap: GrainBitmap, random: Random): number[] {
  const pages = Array.from({ length: bitmap.pageCount }, (_, page) => page).filter(() => random(3) > 0)
  for (const page of pages) {
    const kind = random(4)
    bitmap.fillPage(page, kind === 1)
    const start = page * PAGE_BITS
    const end = Math.min(bitmap.length, start + PAGE_BITS)
    for (let i = 0; kind > 1 && i < 3; i++) {
      const from = start + random(end - start)
      bitmap.set(from, Math.min(end, from + 1 + random(6000)))
    }
  }
  return pages
}

t.test('what is saved is loaded, by way of A or of B', async t => {
  const random = seededRandom(SEED)
  const disk = await fresh()
  const bitmap = new GrainBitmap(GRAINS)
  const { map } = await load(disk)
  for (let round = 0; round < 50; round++) {
    await map.save(bitmap, scramble(bitmap, random))
    for (const twin of [0, 1, 2]) {
      const image = disk.fork()
      if (twin < 2) image.zero(twin * halfBytes(GRAINS), halfBytes(GRAINS), { allocate: false, fast: false })
      const found = await load(image)
      if (!found.bitmap.equals(bitmap) || found.damagedPages.length > 0) t.fail(`round ${round}, without ${'AB '[twin]}`)
      if ((found.faults.length === 0) !== (twin === 2)) t.fail(found.faults.join())
    }
  }
})

t.test('every crash state of a series of saves: each page exactly old or new', async t => {
  let states = 0
  for (let script = 0; script < 50; script++) {
    const random = seededRandom(SEED + script)
    const start = await fresh()
    const bitmap = new GrainBitmap(GRAINS)
    await (await load(start)).map.save(bitmap, scramble(bitmap, random))
    const array = new DiskArray<'maps', readonly [Buffer[], Buffer[]]>({ maps: start }, { lateFlush: script % 2 === 0 })
    array.note([bytesOf(bitmap), bytesOf(bitmap)])
    const map = new TwinMap(array.disk('maps'), IDENTITY, GRAINS)
    await map.load(new GrainBitmap(GRAINS))
    for (let i = 0; i < 6; i++) {
      const before = bytesOf(bitmap)
      const pages = scramble(bitmap, random)
      array.note([before, bytesOf(bitmap)])
      await map.save(bitmap, pages)
      array.note([bytesOf(bitmap), bytesOf(bitmap)])
    }
    for (const state of crashStates(array, { seed: SEED + script, statesMax: 500 })) {
      states++
      const [old, now] = state.notes.at(-1)!
      const found = await load(state.disks.maps)
      const where = `SEED=${SEED} script ${script} position ${state.position}: ${state.story}`
      const pages = bytesOf(found.bitmap)
      const wrong = pages.findIndex((page, i) => !page.equals(old[i]) && !page.equals(now[i]))
      if (wrong >= 0 || found.damagedPages.length > 0) t.fail(`${where}: page ${wrong}, damaged ${found.damagedPages.join()}`)
      if (states % 8 > 0) continue
      // Life goes on: one page is saved, and with it whatever the crash left unequal. Then A is lost.
      const other = found.bitmap.clone()
      other.clear(5, 9)
      await found.map.save(other, [0])
      state.disks.maps.zero(0, halfBytes(GRAINS), { allocate: false, fast: false })
      const again = await load(state.disks.maps)
      if (!again.bitmap.equals(other) || again.damagedPages.length > 0) t.fail(`${where}: B had an older past`)
    }
  }
  t.comment(`${states} states`)
  t.ok(states > 6000)
})

t.test('every sector of every page, torn in A or B at every step of a save', async t => {
  const start = await fresh()
  const old = new GrainBitmap(GRAINS)
  old.set(10, 30000)
  old.set(PAGE_BITS, 2 * PAGE_BITS)
  await (await load(start)).map.save(old, [0, 1, 2, 3])
  const now = old.clone()
  for (const page of [0, 1, 2]) {
    now.fillPage(page, false)
    for (let at = 0; at < PAGE_BITS; at += 7) now.set(page * PAGE_BITS + at, page * PAGE_BITS + at + 3)
  }
  let cases = 0
  // A is torn while B is old; B is torn while A is new.
  for (const twin of [0, 1] as const) {
    const done = start.fork()
    const { map } = await load(done)
    await map.saveInto(0, now, [0, 1, 2])
    if (twin === 1) await map.saveInto(1, now, [0, 1, 2])
    const before = start.fork()
    if (twin === 1) await (await load(before)).map.saveInto(0, now, [0, 1, 2])
    for (const page of [0, 1, 2]) {
      const slot = twin * halfBytes(GRAINS) + DIRECTORY_BYTES + page * SLOT_BYTES
      for (let kept = 0; kept <= SLOT_BYTES; kept += 512) {
        const image = before.fork()
        const bytes = Buffer.alloc(kept)
        if (kept > 0) {
          done.read(slot, kept, bytes, 0)
          image.write(slot, kept, bytes, 0)
        }
        const { bitmap, damagedPages } = await load(image)
        const pageOf = (from: GrainBitmap): Buffer => from.pageBytes(page)
        cases++
        if (damagedPages.length > 0) t.fail(`${twin} ${page} ${kept}: ${damagedPages.join()}`)
        if (![old, now].some(one => pageOf(one).equals(pageOf(bitmap)))) t.fail(`${twin} ${page} ${kept}`)
      }
    }
  }
  t.equal(cases, 2 * 3 * 10)
})

t.test('bad in both: reported, clear, and reported again until it is saved', async t => {
  const disk = await fresh()
  const bitmap = new GrainBitmap(GRAINS, true)
  bitmap.clear(PAGE_BITS, PAGE_BITS + 5)
  const { map } = await load(disk)
  await map.save(bitmap, [0, 1, 2, 3])
  for (const twin of [0, 1]) disk.write(twin * halfBytes(GRAINS) + DIRECTORY_BYTES + SLOT_BYTES + 100, 4, Buffer.from('oops'), 0)
  for (let round = 0; round < 3; round++) {
    const found = await load(disk)
    t.strictSame([found.damagedPages, found.faults.length], [[1], 2])
    t.equal(found.bitmap.count(PAGE_BITS, 2 * PAGE_BITS), 0)
    // Others may be saved, their directory too: the damage is not forgotten.
    found.bitmap.clear(0, 1 + round)
    await found.map.save(found.bitmap, [0])
  }
  const found = await load(disk)
  await found.map.save(bitmap, [0, 1])
  t.strictSame((await load(disk)).damagedPages, [])
  t.ok((await load(disk)).bitmap.equals(bitmap))
})

t.test('both directories gone: all their pages are lost, until they are saved', async t => {
  const grains = PAGE_BITS * (GROUP_PAGES + 3)
  const disk = await fresh(grains)
  const bitmap = new GrainBitmap(grains, true)
  const { map } = await load(disk, grains)
  await map.save(bitmap, Array.from({ length: bitmap.pageCount }, (_, page) => page))
  const second = DIRECTORY_BYTES + GROUP_PAGES * SLOT_BYTES
  for (const twin of [0, 1]) disk.write(twin * halfBytes(grains) + second, 4, Buffer.from('oops'), 0)
  const found = await load(disk, grains)
  t.strictSame(found.damagedPages, [GROUP_PAGES, GROUP_PAGES + 1, GROUP_PAGES + 2])
  await found.map.save(bitmap, [GROUP_PAGES + 1])
  t.strictSame((await load(disk, grains)).damagedPages, [GROUP_PAGES, GROUP_PAGES + 2], 'the directory checks again and says so')
})

t.test('a map of another point, or another place, does not check', async t => {
  const disk = await fresh()
  const into = new GrainBitmap(GRAINS)
  for (const other of [{ point: 8 }, { base: 0 }, { owner: Buffer.alloc(16, 7) }]) {
    const { damagedPages, faults } = await new TwinMap(disk, { ...IDENTITY, ...other }, GRAINS).load(into)
    t.strictSame([damagedPages, faults.length], [[0, 1, 2, 3], 2])
  }
})

t.test('a save that failed is made up for by the next, whatever pages that names', async t => {
  const random = seededRandom(SEED)
  for (const nth of [1, 2, 3, 4, 5, 6]) {
    const disk = await fresh()
    const faulty = new FaultyDisk(disk)
    const map = new TwinMap(faulty, IDENTITY, GRAINS)
    const bitmap = new GrainBitmap(GRAINS)
    await map.load(bitmap)
    bitmap.set(3, 100)
    bitmap.set(2 * PAGE_BITS, 3 * PAGE_BITS - random(500) - 1)
    faulty.arm({ on: ['write', 'flush'], nth, effect: { kind: 'error', code: 'io' } })
    await t.rejects(map.save(bitmap, [0, 2]), { code: 'io' })
    await map.save(bitmap, [3])
    disk.zero(0, halfBytes(GRAINS), { allocate: false, fast: false })
    t.ok((await load(disk)).bitmap.equals(bitmap), `failure ${nth}`)
  }
})

t.test('several maps share the two flushes', async t => {
  const inner = new MemoryDisk(6 * halfBytes(GRAINS))
  let flushes = 0
  const maps = [0, 1, 2].map(i => {
    const part = 2 * halfBytes(GRAINS)
    const disk = new FaultyDisk(inner)
    disk.flush = () => { flushes++; return inner.flush() }
    Object.defineProperty(disk, 'sizeBytes', { value: part })
    disk.read = (offset, length, into, at) => inner.read(i * part + offset, length, into, at)
    disk.write = (offset, length, from, at) => inner.write(i * part + offset, length, from, at)
    return new TwinMap(disk, { ...IDENTITY, base: i * part }, GRAINS)
  })
  const full = new GrainBitmap(GRAINS, true)
  for (const map of maps) await map.format(false)
  await saveTwins(maps.map(map => ({ map, from: full, pages: [0, 1] })))
  t.equal(flushes, 2)
  await saveTwins(maps.map(map => ({ map, from: full, pages: [] })))
  t.equal(flushes, 2, 'nothing to save, nothing to flush')
  for (const map of maps) {
    const into = new GrainBitmap(GRAINS)
    await map.load(into)
    t.equal(into.count(), 2 * PAGE_BITS)
  }
})

t.test('growing and shrinking, cut anywhere: exact for the size the volume has', async t => {
  let states = 0
  const most = PAGE_BITS * 5
  for (let script = 0; script < 40; script++) {
    const random = seededRandom(SEED + script)
    const anySize = (): number => random(3) ? 1 + random(most) : PAGE_BITS * (1 + random(5))
    let grains = anySize()
    const start = new MemoryDisk(2 * halfBytes(most))
    const bitmap = new GrainBitmap(grains)
    const first = new TwinMap(start, IDENTITY, grains)
    await first.format(false)
    await first.save(bitmap, scramble(bitmap, random))
    const array = new DiskArray<'maps', GrainBitmap>({ maps: start })
    array.note(bitmap.clone())
    const map = new TwinMap(array.disk('maps'), IDENTITY, grains)
    await map.load(new GrainBitmap(grains))
    for (let i = 0; i < 5; i++) {
      grains = anySize()
      const shrinks = grains < bitmap.length
      bitmap.resize(grains, false)
      if (shrinks) array.note(bitmap.clone())
      await map.resize(bitmap)
      array.note(bitmap.clone())
    }
    for (const state of crashStates(array, { seed: SEED + script, statesMax: 200 })) {
      states++
      const wanted = state.notes.at(-1)!
      const { bitmap: found, damagedPages } = await load(state.disks.maps, wanted.length)
      if (!found.equals(wanted) || damagedPages.length > 0) t.fail(`SEED=${SEED} script ${script} position ${state.position}: ${state.story}: ${wanted.length} grains`)
    }
  }
  t.comment(`${states} states`)
  t.ok(states > 2000)
})
