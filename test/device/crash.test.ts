// Crash states: what a flush covered is always there, everything else may be lost, torn or there; a faulty protocol is caught.
import t from 'tap'
import { countStates, crashStates, DiskArray, MemoryDisk } from '../../src/device/testing.js'

const seed = Number(process.env.SEED ?? 20)
const block = (value: number, length = 512): Buffer => Buffer.alloc(length, value)
const byteAt = (disk: MemoryDisk, offset: number): number => {
  const one = Buffer.alloc(1)
  disk.read(offset, 1, one, 0)
  return one[0]
}

t.test('every subset of unflushed writes appears, flushed ones are in all of them', async t => {
  const array = new DiskArray({ a: 8192, b: 8192 })
  array.disk('a').write(0, 512, block(1), 0)
  array.disk('a').flush()
  array.note('safe')
  array.disk('a').write(512, 512, block(2), 0)
  array.disk('b').write(0, 512, block(3), 0)
  const seen = new Set<string>()
  for (const state of crashStates(array, { seed, torn: 0 })) {
    const { a, b } = state.disks
    if (state.notes.includes('safe')) t.equal(byteAt(a, 0), 1, state.story)
    if (state.position === array.history.length) seen.add(`${state.kind} ${byteAt(a, 512)}${byteAt(b, 0)}`)
  }
  t.strictSame([...seen].sort(), ['kill 23', 'power 00', 'power 03', 'power 20'])
})

t.test('writes tear at sectors, never inside one', async t => {
  const array = new DiskArray({ a: 8192 })
  array.disk('a').write(100, 2048, block(9, 2048), 0)
  const patterns = new Set<string>()
  for (const { disks } of crashStates(array, { seed, torn: 200 })) {
    const image = disks.a.toBuffer()
    // Sector edges of the disk cut the write at 512, 1024, 1536 and 2048.
    const parts = [[100, 512], [512, 1024], [1024, 1536], [1536, 2048], [2048, 2148]].map(([from, to]) => {
      const values = new Set(image.subarray(from, to))
      t.equal(values.size, 1, 'a sector is old or new')
      return [...values][0] === 9 ? '1' : '0'
    })
    patterns.add(parts.join(''))
  }
  t.ok(patterns.has('00000') && patterns.has('11111'))
  t.ok(patterns.size > 12, `${patterns.size} of 32 patterns`)
})

t.test('a kill keeps what was acknowledged and may cut the last write at a page', async t => {
  const array = new DiskArray({ a: 16384 })
  array.disk('a').write(0, 512, block(1), 0)
  array.note('first')
  array.disk('a').write(2048, 8192, block(2, 8192), 0)
  array.note('second')
  const kills = [...crashStates(array, { seed })].filter(state => state.kind === 'kill')
  for (const { disks, position } of kills) t.equal(byteAt(disks.a, 0), position > 0 ? 1 : 0)
  const cut = kills.find(({ story }) => story.includes('bytes into'))!
  t.strictSame([byteAt(cut.disks.a, 4095), byteAt(cut.disks.a, 4096)], [2, 0])
})

t.test('writes older than the window are kept, lost or mixed, until a flush covers them', async t => {
  const array = new DiskArray({ a: 65536 })
  for (let i = 0; i < 10; i++) array.disk('a').write(i * 512, 512, block(i + 1), 0)
  array.disk('a').flush()
  array.note('flushed')
  array.disk('a').write(0, 512, block(99), 0)
  const oldest = new Set<string>()
  for (const { disks, notes, position } of crashStates(array, { seed })) {
    const there = [0, 1, 2, 3, 4, 5].map(i => byteAt(disks.a, i * 512) === i + 1 ? '1' : '0').join('')
    if (position === 10) oldest.add(there)
    if (notes.includes('flushed')) for (let i = 1; i < 10; i++) t.equal(byteAt(disks.a, i * 512), i + 1)
  }
  t.ok(oldest.has('111111') && oldest.has('000000') && oldest.size > 2, [...oldest].join(' '))
})

t.test('a late flush covers only what came before it began', async t => {
  const array = new DiskArray({ a: 8192 }, { lateFlush: true })
  const disk = array.disk('a')
  disk.write(0, 512, block(1), 0)
  const flushed = disk.flush()
  disk.write(512, 512, block(2), 0)
  await flushed
  const end = array.history.length
  const last = [...crashStates(array, { seed })].filter(({ kind, position }) => kind === 'power' && position === end)
  t.ok(last.every(({ disks }) => byteAt(disks.a, 0) === 1))
  t.ok(last.some(({ disks }) => byteAt(disks.a, 512) === 0))
})

t.test('zero, trim and resize are lost and kept like writes', async t => {
  const array = new DiskArray({ a: MemoryDisk.from(block(7, 8192)) })
  const disk = array.disk('a')
  disk.zero(0, 4096, { allocate: false, fast: false })
  await disk.resize(16384)
  disk.write(12288, 512, block(8), 0)
  const sizes = new Set<string>()
  for (const { disks, position } of crashStates(array, { seed, torn: 0 })) {
    if (position === 3) sizes.add(`${byteAt(disks.a, 0)} ${disks.a.sizeBytes}`)
  }
  t.strictSame([...sizes].sort(), ['0 12800', '0 16384', '0 8192', '7 12800', '7 16384', '7 8192'])
})

/** A toy store: a value on one disk, a commit mark on the other. `safe` keeps the order that makes it one. */
function toy(safe: boolean): { array: DiskArray<'data' | 'mark'>, bad: () => number } {
  const array = new DiskArray({ data: 65536, mark: 4096 })
  for (let value = 1; value <= 20; value++) {
    array.disk('data').write(value * 1024, 1024, block(value, 1024), 0)
    if (safe) array.disk('data').flush()
    array.disk('mark').write(0, 1, block(value, 1), 0)
    array.disk('mark').flush()
    array.note(value)
  }
  const bad = (): number => {
    let count = 0
    for (const { disks, notes } of crashStates(array, { seed })) {
      const committed = byteAt(disks.mark, 0)
      let good = committed >= notes.length
      const data = disks.data.toBuffer()
      for (let value = 1; value <= committed; value++) good &&= data.subarray(value * 1024).indexOf(block(value, 1024)) === 0
      if (!good) count++
    }
    return count
  }
  return { array, bad }
}

t.test('the right order of writes survives every state, the wrong one is caught', async t => {
  t.equal(toy(true).bad(), 0)
  t.ok(toy(false).bad() > 0)
})

t.test('the same seed gives the same states; a sample is about as large as asked', async t => {
  const { array } = toy(false)
  const digest = (from: number): string => [...crashStates(array, { seed: from })].map(({ story }) => story).join('\n')
  t.equal(digest(3), digest(3))
  t.not(digest(3), digest(4))
  const all = [...crashStates(array, { seed })].length
  t.equal(countStates(array, { seed }), all)
  const some = [...crashStates(array, { seed, statesMax: 200 })].length
  t.ok(some > 120 && some < 300, `${some} of ${all} states`)
})

t.test('states are cheap', async t => {
  const array = new DiskArray({ live: 16 * 2 ** 20, journal: 2 ** 18 })
  for (let i = 0; i < 500; i++) {
    array.disk('live').write((i * 7919 % 4000) * 4096, 4096, block(i % 256, 4096), 0)
    array.disk('journal').write(i * 64, 64, block(i % 256, 64), 0)
    if (i % 10 === 9) { array.disk('journal').flush(); array.disk('live').flush() }
  }
  const startMs = performance.now()
  let count = 0
  for (const { disks } of crashStates(array, { seed })) { byteAt(disks.live, 0); count++ }
  const perSecond = Math.round(count / (performance.now() - startMs) * 1000)
  t.comment(`seed ${seed}: ${count} states, ${perSecond} a second`)
  t.ok(count > 20_000)
})
