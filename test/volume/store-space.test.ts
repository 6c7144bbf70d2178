// The budget of a volume of a store: set, in force, kept over a close and a kill; what it means for restores and their undo points.
import { spawnSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { openStore } from '../../src/volume/open-store.js'
import { GRAIN, readAll } from './lab.js'

const GRAINS = 64
const sizeBytes = GRAINS * GRAIN

const write = async (volume: StoreVolume, from: number, to: number, fill: number): Promise<void> => {
  for (let grain = from; grain < to; grain++) await volume.write(grain * GRAIN, GRAIN, Buffer.alloc(GRAIN, fill), 0)
}
const bytesOf = async (volume: Pick<StoreVolume, 'read' | 'sizeBytes'>): Promise<number[]> => {
  const content = await readAll(volume)
  return Array.from({ length: GRAINS }, (_, grain) => content[grain * GRAIN]!)
}
const expected = (...runs: readonly [grains: number, fill: number][]): number[] => runs.flatMap(([grains, fill]) => Array<number>(grains).fill(fill))

t.test('a budget is set, judged, in force at once, and there after a close; usage is counted anew', async t => {
  const path = join(t.testdir(), 'store')
  const store = await openStore({ path, create: true })
  const volume = await store.createVolume({ name: 'db', sizeBytes })
  t.match(volume.space, { budgetBytes: null, order: 'drop-undo-then-fail', keptBytes: 0, sacrifices: 0, lastSacrifice: null, failing: null })
  await write(volume, 0, GRAINS, 1)
  t.strictSame(await store.setSpace('db', { budgetBytes: 8 * GRAIN }), { budgetBytes: 8 * GRAIN, order: 'drop-undo-then-fail' })
  t.strictSame(await store.setSpace('db', { order: 'fail' }), { budgetBytes: 8 * GRAIN, order: 'fail' })
  await t.rejects(store.setSpace('db', { budgetBytes: -1 }), { code: 'bad-argument' })
  await t.rejects(store.setSpace('db', { order: 'never' as 'fail' }), { code: 'bad-argument' })
  await t.rejects(store.setSpace('nobody', { budgetBytes: 1 }), { code: 'not-found' })
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await write(volume, 0, 8, 2)
  await t.rejects(write(volume, 8, 9, 2), { code: 'no-space' })
  await store.close()
  const again = await openStore({ path })
  const opened = again.get('db')!
  t.match(opened.space, { budgetBytes: 8 * GRAIN, order: 'fail', keptBytes: 8 * GRAIN, failing: null })
  await t.rejects(write(opened, 8, 9, 2), { code: 'no-space' })
  t.match(opened.space, { failing: 'budget' })
  await again.setSpace('db', { budgetBytes: 9 * GRAIN })
  await write(opened, 8, 9, 2)
  await again.setSpace('db', { budgetBytes: null })
  await write(opened, 9, 20, 2)
  // It waits for what is staged.
  await opened.points.create({ name: 'b', kind: 'bookmark' })
  t.match(opened.space, { keptBytes: 20 * GRAIN, failing: null })
  t.strictSame(await bytesOf(opened.points.open('s')), expected([GRAINS, 1]))
  await again.close()
  await (await openStore({ path })).close()
})

t.test('undo points of real restores go, the oldest first; the snapshot restored from stays', async t => {
  const store = await openStore({ path: join(t.testdir(), 'store'), create: true })
  const volume = await store.createVolume({ name: 'db', sizeBytes })
  await write(volume, 0, GRAINS, 1)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  for (const fill of [2, 3]) {
    await write(volume, 0, 8, fill)
    await (await volume.restore({ from: 's' })).finished
  }
  t.strictSame(volume.points.list().map(({ name }) => name), ['s', 'undo-s-1', 'undo-s-2'])
  // s has the 8 of before, each undo point the 8 of its time.
  await store.setSpace('db', { budgetBytes: 24 * GRAIN })
  t.equal(volume.space!.keptBytes, 24 * GRAIN)
  await write(volume, 0, 8, 4)
  t.equal(volume.space!.sacrifices, 0, 'undo-s-2 has them already')
  await write(volume, 8, 16, 4)
  t.match(volume.space, { sacrifices: 1, lastSacrifice: { name: 'undo-s-1', why: 'budget' }, keptBytes: 24 * GRAIN })
  await write(volume, 16, 17, 4)
  t.match(volume.space, { sacrifices: 2, lastSacrifice: { name: 'undo-s-2' }, keptBytes: 17 * GRAIN })
  t.strictSame(await bytesOf(volume.points.open('s')), expected([GRAINS, 1]))
  t.strictSame(await bytesOf(volume), expected([17, 4], [GRAINS - 17, 1]))
  await store.close()
})

t.test('a restore shows the snapshot whatever the budget is; its copying and what needs space waits for room', async t => {
  const path = join(t.testdir(), 'store')
  const store = await openStore({ path, create: true })
  const volume = await store.createVolume({ name: 'db', sizeBytes })
  await write(volume, 0, GRAINS, 1)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await write(volume, 0, 8, 2)
  await store.setSpace('db', { budgetBytes: 8 * GRAIN })
  const job = await volume.restore({ from: 's' })
  t.strictSame(await bytesOf(volume), expected([GRAINS, 1]))
  await t.rejects(write(volume, 0, 1, 5), { code: 'no-space' }, 'the undo point of a restore that copies is never given up')
  t.match(volume.space, { sacrifices: 0, failing: 'budget', keptBytes: 8 * GRAIN })
  await store.close()
  await t.rejects(job.finished, { code: 'cancelled' })
  const again = await openStore({ path })
  const opened = again.get('db')!
  t.strictSame(await bytesOf(opened), expected([GRAINS, 1]))
  t.strictSame(await bytesOf(opened.points.open('undo-s-1')), expected([8, 2], [GRAINS - 8, 1]))
  await again.setSpace('db', { budgetBytes: 16 * GRAIN })
  await again.close()
  const last = await openStore({ path })
  await last.get('db')!.inheriting?.finished
  t.match(last.get('db')!.space, { keptBytes: 16 * GRAIN })
  t.strictSame(await bytesOf(last.get('db')!.points.open('undo-s-1')), expected([8, 2], [GRAINS - 8, 1]))
  await last.close()
})

const small = t.testdir({ mount: {} })
const mounted = process.getuid?.() === 0
  && spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=48m', 'none', join(small, 'mount')]).status === 0

t.test('a real disk is full: undo points make room, people\'s snapshots stay exact', { skip: mounted ? false : 'no mounts allowed here' }, async t => {
  const folder = join(small, 'mount')
  t.teardown(() => { spawnSync('umount', ['-l', folder]) })
  const store = await openStore({ path: join(folder, 'store'), create: true })
  const volume = await store.createVolume({ name: 'db', sizeBytes: 1024 * GRAIN })
  await volume.write(0, 1024 * GRAIN, Buffer.alloc(1024 * GRAIN, 1), 0)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await write(volume, 0, 100, 2)
  await (await volume.restore({ from: 's' })).finished
  // What s needs of the undo point has to find a place on the full disk when that goes.
  await write(volume, 100, 150, 3)
  await volume.points.create({ name: 't', kind: 'snapshot' })
  const filler = join(folder, 'filler')
  spawnSync('dd', ['if=/dev/zero', `of=${filler}`, 'bs=4k'])
  let answered = 0
  for (let grain = 200; grain < 1000; grain++) {
    // A byte of a grain: it waits for the preserver itself.
    const done = await Promise.resolve(volume.write(grain * GRAIN, 1, Buffer.alloc(1, 4), 0)).then(() => true, (error: { code?: string }) => {
      t.equal(error.code, 'no-space')
      return false
    })
    if (!done) break
    answered++
  }
  t.ok(answered > 20 && answered < 200, `${answered} written before it ends`)
  t.match(volume.space, { sacrifices: 1, lastSacrifice: { name: 'undo-s-1', why: 'disk' }, failing: 'disk' })
  t.strictSame(volume.points.list().map(({ name }) => name), ['s', 't'])
  const first = async (device: Pick<StoreVolume, 'read' | 'sizeBytes'>): Promise<string> => {
    const content = await readAll(device)
    return Array.from({ length: 1024 }, (_, grain) => content[grain * GRAIN]!).join('')
  }
  t.equal(await first(volume.points.open('s')), '1'.repeat(1024))
  t.equal(await first(volume.points.open('t')), '1'.repeat(100) + '3'.repeat(50) + '1'.repeat(874))
  t.equal(await first(volume), '1'.repeat(100) + '3'.repeat(50) + '1'.repeat(50) + '4'.repeat(answered) + '1'.repeat(824 - answered))
  rmSync(filler)
  await volume.write(1000 * GRAIN, 1, Buffer.alloc(1, 5), 0)
  t.match(volume.space, { failing: null })
  await store.close()
})
