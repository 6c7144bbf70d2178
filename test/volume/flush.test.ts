// D2 and D7: what a flush asks of the disks, that concurrent ones share it, and that a failed one is never forgotten.
import t from 'tap'
import { FAST, freshDisks, GRAIN, openOn, ProgrammedDisk } from './lab.js'

async function programmed() {
  const sizeBytes = 8 * GRAIN
  const live = new ProgrammedDisk(sizeBytes)
  const disks = await freshDisks({ sizeBytes, live })
  return { live, disks, volume: await openOn(disks, sizeBytes) }
}

t.test('D2: one flush of live for all who wait', async t => {
  const { live, volume } = await programmed()
  await volume.write(0, 5, Buffer.from('hello'), 0)
  const before = live.calls.flush
  await Promise.all([volume.flush(), volume.flush(), volume.flush()])
  t.ok(live.calls.flush - before <= 2, `${live.calls.flush - before} flushes`)
})

t.test('D7: a failed flush latches until the volume is opened again', async t => {
  const { live, disks, volume } = await programmed()
  await volume.write(0, 5, Buffer.from('hello'), 0)
  live.flushError = Object.assign(new Error('i/o error'), { code: 'EIO' })
  await t.rejects(async () => { await volume.flush() }, { code: 'flush-failed' })
  live.flushError = undefined
  await volume.write(0, 5, Buffer.from('again'), 0)
  await t.rejects(async () => { await volume.flush() }, { code: 'flush-failed' }, 'the kernel would say yes now')
  await t.rejects(async () => { await volume.flush() }, { code: 'flush-failed' })
  const into = Buffer.alloc(5)
  await volume.read(0, 5, into, 0)
  t.equal(into.toString(), 'again', 'reads and writes go on')
  const again = await openOn({ ...disks }, volume.sizeBytes)
  await again.write(0, 5, Buffer.from('third'), 0)
  await again.flush()
})

t.test('D7: after a failed flush a close writes no checkpoint', async t => {
  const { live, disks, volume } = await programmed()
  await volume.write(0, 5, Buffer.from('hello'), 0)
  live.flushError = new Error('i/o error')
  await t.rejects(async () => { await volume.flush() }, { code: 'flush-failed' })
  const { map, journal } = disks
  const copies = { map: map.fork(), journal: journal.fork() }
  await volume.close()
  const fresh = new ProgrammedDisk(8 * GRAIN)
  const again = await openOn({ live: fresh, ...copies }, 8 * GRAIN)
  t.equal(again.recovered.openRegions, 1, 'the next open recovers as after a crash')
})

t.test('D6: a write to a stale grain is flushed before it counts', async t => {
  const { live, volume } = await programmed()
  await volume.write(0, 2 * GRAIN, Buffer.alloc(2 * GRAIN, 7), 0)
  await volume.trim(0, GRAIN)
  const before = live.calls.flush
  await volume.write(0, 10, Buffer.alloc(10, 1), 0)
  t.ok(live.calls.flush > before)
  live.flushError = new Error('i/o error')
  await volume.zero(GRAIN, GRAIN, FAST)
  await t.rejects(async () => { await volume.write(GRAIN, 10, Buffer.alloc(10, 1), 0) }, { code: 'flush-failed' })
  const into = Buffer.alloc(GRAIN, 1)
  await volume.read(GRAIN, GRAIN, into, 0)
  t.ok(into.every(byte => byte === 0), 'it failed: the grain reads as zeros as before')
})
