// Staging under load: whoever has to wait for what is staged waits for what was staged before, and not for what comes meanwhile.
import t from 'tap'
import { ManualClock, seededRandom } from '../../src/device/testing.js'
import type { Pending } from '../../src/device/block-device.js'
import type { Volume } from '../../src/volume/volume.js'
import { ENTRY_MAX_BYTES } from '../../src/store/staging-log.js'
import { BATCH_GRAINS } from '../../src/volume/preserver.js'
import { until } from '../replication/held.js'
import { MemoryInherit, settle } from './inherit-lab.js'
import { freshDisks, GRAIN, killed, late, LateDisk, openOn, ProgrammedDisk, readAll } from './lab.js'
import { StagedPoints } from './point-lab.js'

const G = GRAIN
const GRAINS = 128
const SIZE = GRAINS * G
/** Two segments. */
const LOG_BYTES = 8192 + 2 * 2 ** 20
const turn = () => new Promise(resolve => { setImmediate(resolve) })
const filled = (value: number, grains = 1): Buffer => Buffer.alloc(grains * G, value)

/** A write takes a turn. */
class SlowDisk extends ProgrammedDisk {
  override write(offset: number, length: number, from: Buffer, at: number): Pending {
    return turn().then(() => super.write(offset, length, from, at))
  }
}

/** All ones, a snapshot of that, and grain 0 staged with twos. */
async function lab(live: ProgrammedDisk = new ProgrammedDisk(SIZE), logBytes = LOG_BYTES) {
  const { sizeBytes } = live
  const clock = new ManualClock()
  const disks = await freshDisks({ sizeBytes, allData: true })
  await live.write(0, sizeBytes, Buffer.alloc(sizeBytes, 1), 0)
  const points = new StagedPoints(new ProgrammedDisk(logBytes))
  const volume = await openOn({ ...disks, live }, sizeBytes, { points, clock, inherit: new MemoryInherit(points) })
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await volume.write(0, G, filled(2), 0)
  return { disks: { ...disks, live }, live, points, volume, clock }
}

async function byteAt(volume: Pick<Volume, 'read' | 'sizeBytes'>, offset: number): Promise<number> {
  return (await readAll(volume, offset, 1))[0]!
}

t.test('a trim of what is staged waits for that, and not for all that is staged meanwhile', async t => {
  const { volume } = await lab(new SlowDisk(SIZE))
  let trimmed = false
  const done = (async () => { await volume.trim(0, G) })().then(() => { trimmed = true })
  let writes = 0
  // Fewer than fill a segment, which is retired in any case.
  for (; !trimmed && writes < 100; writes++) {
    await volume.write((1 + writes % (GRAINS - 1)) * G, G, filled(3), 0)
    await turn()
  }
  t.ok(trimmed, `after ${writes} writes`)
  await done
  t.equal(await byteAt(volume, 0), 0)
  await volume.close()
})

t.test('a part of a grain that is staged is staged with the rest of it, and waits for nothing', async t => {
  const { volume, live, points, disks } = await lab()
  live.held = true // nothing is moved
  const { write } = points.log.calls
  await volume.write(100, 200, Buffer.alloc(200, 3), 0)
  await volume.write(G, 2 * G, filled(4, 2), 0)
  await volume.write(G - 50, 100, Buffer.alloc(100, 5), 0)
  t.equal(points.log.calls.write, write + 3)
  const expected = Buffer.concat([filled(2), filled(4, 2)]).fill(3, 100, 300).fill(5, G - 50, G + 50)
  t.ok((await readAll(volume, 0, 3 * G)).equals(expected))
  const again = await openOn(killed(disks), SIZE, { points: points.fork(), clock: new ManualClock() })
  t.ok((await readAll(again, 0, 3 * G)).equals(expected), 'after a kill')
  t.equal(await byteAt(again.points.open('s'), 150), 1)
  live.release()
  await volume.points.create({ name: 'later', kind: 'snapshot' })
  t.ok((await readAll(volume, 0, 3 * G)).equals(expected), 'in its place')
  t.ok((await readAll(volume.points.open('later'), 0, 3 * G)).equals(expected))
  t.equal(await byteAt(volume.points.open('s'), 150), 1)
})

t.test('a part that reaches beyond what is staged goes the other way', async t => {
  const { volume } = await lab()
  await volume.write(G - 50, 100, Buffer.alloc(100, 5), 0)
  t.ok((await readAll(volume, 0, 2 * G)).equals(Buffer.concat([filled(2), filled(1)]).fill(5, G - 50, G + 50)))
  t.equal(await byteAt(volume.points.open('s'), G - 1), 1)
})

t.test('while the log is as good as full a write waits until something is moved, and is staged then', async t => {
  const { volume, live, points } = await lab()
  live.held = true
  let answered = 0
  const pending: Promise<void>[] = []
  for (let i = 0; i < 600; i++) {
    pending.push((async () => { await volume.write(i % GRAINS * G, G, filled(10 + i % 200), 0) })().then(() => { answered++ }))
    await turn()
  }
  // A record of two pages each.
  t.ok(answered > 150 && answered <= 0.75 * LOG_BYTES / 8192 + 1, `${answered} taken before anything was moved`)
  const { write } = points.log.calls
  live.release()
  await Promise.all(pending)
  t.ok(points.log.calls.write > write, 'the rest is staged')
  // Of those that are on their way at a time any may be the last.
  const content = await readAll(volume)
  for (let grain = 0; grain < GRAINS; grain++) {
    const written = Array.from({ length: 600 }, (_, i) => i).filter(i => i % GRAINS === grain).map(i => 10 + i % 200)
    const found = content.subarray(grain * G, (grain + 1) * G)
    if (!written.some(value => found.equals(filled(value)))) t.fail(`grain ${grain} holds ${found[0]}`)
  }
  await volume.close()
})

t.test('nothing can be moved any more: a write that waits for that is refused, and others are not kept', async t => {
  const { volume, live } = await lab()
  live.held = true
  const results: Promise<string>[] = []
  for (let i = 0; i < 600; i++) {
    results.push((async () => { await volume.write(i % GRAINS * G, G, filled(10), 0) })().then(() => 'done', (error: unknown) => String(error)))
    await turn()
  }
  live.flushError = new Error('broken')
  live.release()
  const late = new Promise<string[]>(resolve => { setTimeout(resolve, 10_000, ['waits for ever']).unref() })
  const words = new Set(await Promise.race([Promise.all(results), late]))
  t.notOk(words.has('waits for ever'))
  t.ok(words.size > 1, [...words].join('; '))
  t.equal(await byteAt(volume, 0), 10)
})

t.test('beside a deletion writes are staged as ever, and neither waits for more than the batch that is on its way', async t => {
  const grains = 2 * BATCH_GRAINS
  const { volume, live, points, clock } = await lab(new ProgrammedDisk(grains * G), 8192 + 16 * 2 ** 20)
  for (let grain = 0; grain < grains; grain++) await volume.write(grain * G, G, filled(3), 0)
  const before = live.calls.write
  live.held = true
  await clock.advance(1000)
  await until('a batch is on its way', () => live.calls.write > before)
  const deleted = volume.points.delete('s')
  for (let i = 0; i < 20; i++) await turn()
  const { write } = points.log.calls
  const written = Promise.resolve(volume.write(5 * G, G, filled(4), 0)).then(() => 'done')
  t.equal(await Promise.race([written, late()]), 'done')
  t.ok(points.log.calls.write > write, 'it was staged')
  live.release()
  live.held = true // the next batch
  t.equal(await Promise.race([deleted.then(() => 'done'), late()]), 'done')
  live.release()
  t.equal(await byteAt(volume, 5 * G), 4)
  await volume.close()
})

t.test('moving that nobody asked for makes way for the next burst, and goes on behind it', async t => {
  const grains = 3 * BATCH_GRAINS
  const { volume, live, clock } = await lab(new ProgrammedDisk(grains * G), 8192 + 32 * 2 ** 20)
  for (let grain = 1; grain < grains; grain++) await volume.write(grain * G, G, filled(3), 0)
  const before = live.calls.write
  live.held = true
  await clock.advance(110)
  await until('a batch is on its way', () => live.calls.write > before)
  await volume.write(5 * G, G, filled(4), 0)
  live.release()
  for (let i = 0; i < 200; i++) await turn()
  t.equal(live.calls.write - before, BATCH_GRAINS, 'one batch was moved')
  await clock.advance(110)
  await until('all of it is in its place', () => live.calls.write === before + grains + 1)
  t.equal(await byteAt(volume, 5 * G), 4)
  await volume.close()
})

for (const [what, change, left] of [
  ['a growth', async (volume: Volume) => { await volume.resize(volume.sizeBytes + G, async () => undefined) }, 4],
  ['a restore', async (volume: Volume) => { await (await volume.restore({ from: 's' })).finished }, 1],
] as const) {
  t.test(`beside ${what} writes are staged as ever while what was staged before is moved`, async t => {
    const { volume, live, points, clock } = await lab()
    live.held = true
    const changed = change(volume)
    for (let i = 0; i < 20; i++) await turn()
    const { write } = points.log.calls
    const written = Promise.resolve(volume.write(0, G, filled(4), 0)).then(() => 'done')
    t.equal(await Promise.race([written, late()]), 'done')
    t.ok(points.log.calls.write > write, 'it was staged')
    live.release()
    await settle(clock, changed)
    t.equal(await byteAt(volume, 0), left)
    await volume.close()
  })
}

t.test('a write that comes while a deletion holds the volume waits for that, and not for all that is staged', async t => {
  const { volume, live } = await lab()
  live.held = true
  const inPlace = volume.write(9 * G, 100, filled(5).subarray(0, 100), 0) // in the way of the hold until it is done
  await until('it is on its way', () => live.calls.write > 1)
  const deleted = volume.points.delete('s')
  for (let i = 0; i < 20; i++) await turn()
  const written = Promise.resolve(volume.write(0, G, filled(4), 0)).then(() => 'done')
  live.release()
  live.held = true
  await inPlace
  t.equal(await Promise.race([written, late()]), 'done', 'nothing was moved')
  live.release()
  await deleted
  t.equal(await byteAt(volume, 0), 4)
  await volume.close()
})

t.test('a write that comes while the log gives its space back is staged a moment later', async t => {
  const [sizeBytes, piece] = [72 * 2 ** 20, ENTRY_MAX_BYTES]
  const { volume, points, clock } = await lab(new ProgrammedDisk(sizeBytes), 8192 + 160 * 2 ** 20)
  for (let at = 0; at < sizeBytes; at += piece) await volume.write(at, piece, Buffer.alloc(piece, 3), 0)
  await volume.points.create({ name: 't', kind: 'snapshot' })
  let trims = 0
  let release!: () => void
  const held = new Promise<void>(resolve => { release = resolve })
  const trim = points.log.trim.bind(points.log)
  points.log.trim = async (...range) => {
    trims++
    await held
    await trim(...range)
  }
  await clock.advance(900)
  for (let i = 0; i < 20; i++) await turn()
  t.equal(trims, 0, 'not at once')
  await clock.advance(200)
  await until('it gives its space back', () => trims > 0)
  const { write } = points.log.calls
  const written = Promise.resolve(volume.write(0, G, filled(4), 0)).then(() => 'done')
  for (let i = 0; i < 20; i++) await turn()
  release()
  t.equal(await Promise.race([settle(clock, written), late()]), 'done')
  t.ok(points.log.calls.write > write, 'staged')
  t.equal(trims, 1, 'the rest of the space is needed')
  t.equal(await byteAt(volume, 0), 4)
  await volume.close()
})

t.test('a write that waits for room goes on when a deletion has stopped the moving and nothing is left to be moved', async t => {
  for (let seed = 1; seed <= 20 && t.passing(); seed++) {
    const disks = await freshDisks({ sizeBytes: SIZE, allData: true, live: new LateDisk(SIZE, seed) })
    const points = new StagedPoints(new LateDisk(8192 + 2 * 24 * 1024, seed))
    const volume = await openOn(disks, SIZE, { points, clock: new ManualClock() })
    await volume.points.create({ name: 's', kind: 'snapshot' })
    const pending: (Pending | Promise<void>)[] = []
    const random = seededRandom(seed)
    for (let i = 0; i < 20; i++) {
      const grains = 1 + random(2)
      pending.push(volume.write(random(5) * G, grains * G, filled(3, grains), 0))
      if (i % 2 === 0) await turn()
      if (i === 8) pending.push(volume.points.delete('s'))
    }
    t.equal(await Promise.race([Promise.all(pending).then(() => 'done'), late()]), 'done', `seed ${seed}`)
    await volume.close()
  }
})
