// D4, D5: what an open finds after a kill or damage: too much data in the map, never too little, and it says so.
import t from 'tap'
import { ManualClock, MemoryDisk } from '../../src/device/testing.js'
import { silentLogger, type LogFacts } from '../../src/device/logger.js'
import { freshDisks, GRAIN, killed, mapOf, openOn, readAll } from './lab.js'

const SIZE = 32 * GRAIN

async function used() {
  const clock = new ManualClock()
  const disks = await freshDisks({ sizeBytes: SIZE })
  const volume = await openOn(disks, SIZE, { clock })
  await volume.write(3 * GRAIN, GRAIN, Buffer.alloc(GRAIN, 7), 0)
  return { clock, disks, volume }
}
const EXACT = `zero ${3 * GRAIN}, data ${GRAIN}, zero ${28 * GRAIN}`

t.test('D4, D5: after a kill the open region counts as data, is logged, and a scan takes the excess back', async t => {
  const { disks } = await used()
  const clock = new ManualClock()
  const warnings: LogFacts[] = []
  const left = killed(disks)
  const volume = await openOn(left, SIZE, { clock, logger: { ...silentLogger, warn: facts => { warnings.push(facts) } } })
  t.equal(volume.recovered.openRegions, 1)
  t.match(warnings, [{ openRegions: 1 }])
  t.equal(mapOf(volume), `data ${SIZE}`)
  t.equal((await volume.facts()).unscannedRegions, 1)
  await clock.advance(60_000)
  t.equal(mapOf(volume), EXACT)
  t.equal((await readAll(volume))[3 * GRAIN], 7)
  const again = await openOn(killed(left), SIZE)
  t.equal(again.recovered.openRegions, 0, 'the checkpoint after the scan closed the region')
  t.equal(mapOf(again), EXACT)
})

t.test('D4: when all was quiet for a while there is nothing to recover', async t => {
  const { clock, disks } = await used()
  await clock.advance(15_000)
  const volume = await openOn(killed(disks), SIZE)
  t.equal(volume.recovered.openRegions, 0)
  t.equal(mapOf(volume), EXACT)
})

t.test('a clean close leaves nothing to recover', async t => {
  const { disks, volume } = await used()
  await volume.close()
  const again = await openOn(killed(disks), SIZE)
  t.strictSame(again.recovered, { openRegions: 0, staleRuns: 0, notes: [] })
  t.equal(mapOf(again), EXACT)
})

t.test('a scan is cancelled by a close, and goes on at the next open', async t => {
  const { disks } = await used()
  const left = killed(disks)
  const volume = await openOn(left, SIZE)
  await volume.close()
  const again = await openOn(killed(left), SIZE)
  t.equal(again.recovered.openRegions, 1)
  t.equal((await readAll(again))[3 * GRAIN], 7)
})

t.test('a close while a scan reads does not wait for the rest that the scan would take', async t => {
  const { disks } = await used()
  const left = killed(disks)
  const clock = new ManualClock()
  const volume = await openOn(left, SIZE, { clock })
  const read = left.live.read.bind(left.live)
  let go: (() => void) | undefined
  left.live.read = (...request) => new Promise<void>(resolve => { go = resolve }).then(() => read(...request))
  await clock.advance(1000)
  t.ok(go, 'the scan reads')
  clock.skip(50)
  const closed = volume.close()
  go!()
  await closed
  t.equal(clock.pending, 0, 'nothing waits for time to pass')
})

t.test('D4: a damaged map is never silently empty: all data, reported, repaired', async t => {
  const { disks, volume } = await used()
  await volume.close()
  const left = killed(disks)
  for (let at = 0; at < left.map.sizeBytes; at += 512) left.map.write(at + 100, 4, Buffer.from('oops'), 0)
  const clock = new ManualClock()
  const again = await openOn(left, SIZE, { clock })
  t.equal(mapOf(again), `data ${SIZE}`)
  t.ok(again.recovered.notes.length > 0)
  t.match(again.recovered.notes[0], /all its grains are taken as data/)
  t.equal((await readAll(again))[3 * GRAIN], 7)
  await clock.advance(15_000)
  t.strictSame((await openOn(killed(left), SIZE)).recovered.notes, [], 'written anew')
})

t.test('a damaged journal is refused, and says where', async t => {
  const { disks, volume } = await used()
  await volume.trim(3 * GRAIN, GRAIN)
  await volume.flush()
  await volume.write(9 * GRAIN, 10, Buffer.alloc(10, 1), 0)
  await volume.flush()
  const left = killed(disks)
  left.journal.write(8192 + 70, 4, Buffer.from('oops'), 0)
  await t.rejects(openOn(left, SIZE), { code: 'damaged', message: /journal of volume .* record 1 at offset 8192/ })
})

t.test('live that somebody else made shorter is refused', async t => {
  const { disks, volume } = await used()
  await volume.close()
  const left = killed(disks)
  await left.live.resize(SIZE - 1)
  await t.rejects(openOn(left, SIZE), { code: 'damaged' })
})

t.test('live of another volume is not this room\'s to see, its map and journal are', async t => {
  const { disks } = await used()
  const { journal } = await freshDisks({ sizeBytes: SIZE })
  const foreign = new MemoryDisk(journal.sizeBytes)
  const bytes = journal.toBuffer()
  // Another uuid in the header: the checksum no longer holds, or the owner is not ours.
  bytes[16] ^= 1
  foreign.write(0, bytes.length, bytes, 0)
  await t.rejects(openOn({ ...killed(disks), journal: foreign }, SIZE), { code: 'damaged' })
})

t.test('D5: a map file that was cut reads as all data, gets its length back and is right after the next checkpoint', async t => {
  const { disks, volume } = await used()
  await volume.close()
  for (const bytes of [0, 512]) {
    const left = killed(disks)
    const wholeBytes = left.map.sizeBytes
    await left.map.resize(bytes)
    const errors: string[] = []
    const cut = await openOn(left, SIZE, { logger: { ...silentLogger, error: (_, text) => { errors.push(text) } } })
    t.ok(cut.recovered.notes.length > 0)
    t.equal((await readAll(cut))[3 * GRAIN], 7)
    const { map } = left
    t.equal(map.sizeBytes, wholeBytes)
    await cut.close()
    t.strictSame(errors, [], 'the checkpoint at the close has its place')
  }
})
