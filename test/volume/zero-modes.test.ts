// TRIM and WRITE_ZEROES: what they cost, what status says afterwards, what NO_HOLE and FAST_ZERO promise.
import t from 'tap'
import { MemoryDisk, ManualClock } from '../../src/device/testing.js'
import { FAST, freshDisks, freshVolume, GRAIN, KEEP, killed, mapOf, openOn, ProgrammedDisk, readAll, SLOW } from './lab.js'

const TIB = 2 ** 40

t.test('W1: a whole TiB is zeroed by one journal record, live is not touched', async t => {
  const live = new ProgrammedDisk(TIB)
  const disks = await freshDisks({ sizeBytes: TIB, live, allData: true })
  const volume = await openOn(disks, TIB)
  t.equal(mapOf(volume), `data ${TIB}`)
  const before = { ...live.calls }
  const startMs = performance.now()
  await volume.zero(0, TIB, FAST)
  t.ok(performance.now() - startMs < 1000, 'goal: 100 ms; a wide margin for a busy machine')
  t.strictSame(live.calls, before, 'no request to live')
  t.equal(mapOf(volume), `zero ${TIB}`)
  await volume.trim(0, TIB)
  t.strictSame(live.calls, before, 'trimming zeros is nothing')
})

t.test('W1: a fragmented TiB as well', async t => {
  const volume = await freshVolume({ sizeBytes: TIB, live: new ProgrammedDisk(TIB) })
  for (let i = 0; i < 3000; i++) await volume.write(i * 257 * 2 ** 20, 512, Buffer.alloc(512, 1), 0)
  const startMs = performance.now()
  await volume.trim(0, TIB)
  t.ok(performance.now() - startMs < 1000)
  t.equal(mapOf(volume), `zero ${TIB}`)
})

t.test('W1: zeroes are never shortened', async t => {
  const sizeBytes = 40 * GRAIN + 100
  const volume = await freshVolume({ sizeBytes })
  const model = Buffer.alloc(sizeBytes, 5)
  await volume.write(0, sizeBytes, model, 0)
  for (const [offset, length] of [[1, 39 * GRAIN], [3 * GRAIN, GRAIN], [40 * GRAIN + 1, 99], [0, sizeBytes]] as const) {
    await volume.zero(offset, length, SLOW)
    model.fill(0, offset, offset + length)
    t.ok((await readAll(volume)).equals(model), `${offset} ${length}`)
  }
})

t.test('NO_HOLE: never reported as a hole, through close, crash and scan', async t => {
  const sizeBytes = 8 * GRAIN
  const disks = await freshDisks({ sizeBytes })
  let volume = await openOn(disks, sizeBytes)
  await volume.write(0, 2 * GRAIN, Buffer.alloc(2 * GRAIN, 5), 0)
  await volume.trim(0, GRAIN)
  await volume.zero(100, 3 * GRAIN, KEEP)
  t.equal(mapOf(volume), `data ${4 * GRAIN}, zero ${4 * GRAIN}`)
  t.ok((await readAll(volume, 0, GRAIN)).every(byte => byte === 0), 'what was trimmed is zeros in its other part, too')
  t.ok((await readAll(volume)).subarray(100).every(byte => byte === 0))
  const clock = new ManualClock()
  volume = await openOn(killed(disks), sizeBytes, { clock })
  t.equal(mapOf(volume), `data ${sizeBytes}`, 'after a kill the region counts as data')
  await clock.advance(60_000)
  t.equal(mapOf(volume), `data ${4 * GRAIN}, zero ${4 * GRAIN}`, 'the scan took back the excess and left what is kept')
  await volume.close()
})

t.test('FAST_ZERO: refused with the content untouched, or done', async t => {
  const volume = await freshVolume({ sizeBytes: 4 * GRAIN })
  const data = Buffer.alloc(4 * GRAIN, 5)
  await volume.write(0, data.length, data, 0)
  await t.rejects(async () => { await volume.zero(1, 2 * GRAIN, FAST) }, { code: 'not-fast' })
  await t.rejects(async () => { await volume.zero(0, GRAIN, { allocate: true, fast: true }) }, { code: 'not-fast' })
  t.ok((await readAll(volume)).equals(data))
  await volume.zero(GRAIN, 3 * GRAIN, FAST)
  t.equal(mapOf(volume), `data ${GRAIN}, zero ${3 * GRAIN}`)
})

t.test('C9: status comes from the same map as reads', async t => {
  const live = new MemoryDisk(4 * GRAIN)
  const volume = await freshVolume({ sizeBytes: 4 * GRAIN, live })
  await volume.write(GRAIN, 1, Buffer.from([1]), 0)
  live.write(0, GRAIN, Buffer.alloc(GRAIN, 9), 0)
  t.equal(mapOf(volume), `zero ${GRAIN}, data ${GRAIN}, zero ${2 * GRAIN}`)
  t.equal((await readAll(volume))[0], 0, 'a hole is read without looking at live')
})
