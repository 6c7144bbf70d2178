// Staging: what was answered from the log is what is read, before and after it is moved to its place, whoever else is at work meanwhile.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import type { Pending } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { ManualClock } from '../../src/device/testing.js'
import type { VolumeCore } from '../../src/volume/core.js'
import type { PointStore } from '../../src/volume/point-store.js'
import type { Preserver } from '../../src/volume/preserver.js'
import { Staging } from '../../src/volume/staging.js'
import type { Volume } from '../../src/volume/volume.js'
import { type Disks, freshDisks, GRAIN, killed, openOn, ProgrammedDisk, readAll } from './lab.js'
import { StagedPoints } from './point-lab.js'

const G = GRAIN
const SIZE = 16 * G
const LOG_BYTES = 2 ** 20
/** Behind both marks. */
const STROKES_AT = 8192
/** Longer than staged writes rest. */
const MOVED_MS = 200

class RefusingDisk extends ProgrammedDisk {
  /** Set: writes are done, and said to have failed. */
  refuses = false
  /** Set: strokes that were held, likewise, when they are released. */
  refusesLate = false

  override write(offset: number, length: number, from: Buffer, at: number): Pending {
    const pending = super.write(offset, length, from, at)
    if (this.refuses) throw new NbdeltaError('io', 'refused')
    return pending?.then(() => { if (this.refusesLate && offset >= STROKES_AT) throw new NbdeltaError('io', 'refused late') })
  }
}

interface Lab { readonly disks: Disks, readonly points: StagedPoints<RefusingDisk>, readonly clock: ManualClock, readonly volume: Volume }

/** One staged write has found its place. */
async function moveOne(volume: Volume, clock: ManualClock): Promise<void> {
  await volume.write(15 * G, G, filled(1), 0)
  await turns()
  await clock.advance(MOVED_MS)
  await turns()
}

/** All ones, and a snapshot of that. */
async function lab(): Promise<Lab> {
  const disks = await freshDisks({ sizeBytes: SIZE })
  const points = new StagedPoints(new RefusingDisk(LOG_BYTES))
  const clock = new ManualClock()
  const volume = await openOn(disks, SIZE, { points, clock })
  await volume.write(0, SIZE, Buffer.alloc(SIZE, 1), 0)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await moveOne(volume, clock)
  return { disks, points, clock, volume }
}

const filled = (value: number, grains = 1): Buffer => Buffer.alloc(grains * G, value)

/** First byte of each grain. */
async function bytes(readable: Pick<Volume, 'read' | 'sizeBytes'>): Promise<string> {
  const content = await readAll(readable)
  return Array.from({ length: SIZE / G }, (_, grain) => content[grain * G]).join('')
}

async function snapshotBytes(volume: Volume): Promise<string> {
  const device = volume.points.open('s')
  try {
    return await bytes(device)
  } finally {
    await device.close()
  }
}

async function turns(count = 20): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise(resolve => { setImmediate(resolve) })
}

t.test('an append that the disk has not finished is neither read nor moved before it has', async t => {
  const { points, clock, volume } = await lab()
  points.log.held = true
  const written = volume.write(3 * G, G, filled(3), 0)
  t.ok(written, 'it is on its way')
  const read = (async () => (await readAll(volume, 3 * G, G))[0]!)()
  await clock.advance(MOVED_MS)
  await turns()
  points.log.release()
  await written
  t.ok([1, 3].includes(await read), 'a read meanwhile sees the old or the new')
  await clock.advance(MOVED_MS)
  await turns()
  await volume.flush()
  t.equal(await bytes(volume), '1113111111111111')
  await volume.points.create({ name: 'later', kind: 'snapshot' })
  t.equal(await bytes(volume), '1113111111111111', 'in its place')
  t.equal(await snapshotBytes(volume), '1'.repeat(16))
  await volume.close()
})

t.test('a write in place to a grain of a staged write that the snapshot did not need comes on top', async t => {
  const { points, clock, volume } = await lab()
  await volume.write(100, 100, Buffer.alloc(100, 2), 0) // a part of a grain: not staged
  const { write } = points.log.calls
  await volume.write(0, 2 * G, filled(3, 2), 0)
  t.ok(points.log.calls.write > write, 'staged')
  await volume.write(0, G, filled(4), 0)
  t.equal(await bytes(volume), '4311111111111111')
  await clock.advance(MOVED_MS)
  await turns()
  t.equal(await bytes(volume), '4311111111111111', 'and stays there')
  t.equal(await snapshotBytes(volume), '1'.repeat(16))
  await volume.close()
})

t.test('what the log refused never was, and what comes after it waits until the log cannot bring it back', async t => {
  const { points, clock, volume, disks } = await lab()
  points.log.refuses = true
  await t.rejects((async () => { await volume.write(3 * G, G, filled(3), 0) })(), { code: 'io' })
  points.log.refuses = false
  points.log.held = true // the mark
  t.equal(await bytes(volume), '1'.repeat(16))
  let done = false
  const changed = (async () => { await volume.write(3 * G, 100, Buffer.alloc(100, 4), 0) })().then(() => { done = true })
  await turns()
  t.notOk(done, 'not in place while a kill would bring back what was refused')
  points.log.release()
  await changed
  t.equal(await bytes(volume), '1114111111111111')
  const again = await openOn(killed(disks), SIZE, { points: points.fork(), clock: new ManualClock() })
  t.equal(await bytes(again), '1114111111111111', 'after a kill')
  await clock.advance(MOVED_MS)
  t.equal(await snapshotBytes(volume), '1'.repeat(16))
  await again.close()
  await volume.close()
})

t.test('what was answered is not lost because a newer write, on its way while the older one is moved, is refused', async t => {
  const { points, clock, volume, disks } = await lab()
  await volume.write(3 * G, G, filled(3), 0)
  points.log.held = true
  const refused = t.rejects((async () => { await volume.write(3 * G, G, filled(4), 0) })(), { code: 'io' })
  await clock.advance(MOVED_MS)
  await turns()
  points.log.refusesLate = true
  points.log.release()
  await refused
  points.log.refusesLate = false
  const wanted = '1113111111111111'
  t.equal(await bytes(volume), wanted)
  await clock.advance(MOVED_MS)
  await turns()
  await volume.flush()
  t.equal(await bytes(volume), wanted, 'in its place')
  const again = await openOn(killed(disks), SIZE, { points: points.fork(), clock: new ManualClock() })
  t.equal(await bytes(again), wanted, 'after a kill')
  t.equal(await snapshotBytes(again), '1'.repeat(16))
  await again.close()
  await volume.close()
})

t.test('whoever waits for what is staged in the moment in which it is refused goes on', async t => {
  for (let moment = 0; moment < 12; moment++) {
    const { points, volume } = await lab()
    points.log.held = true
    const refused = t.rejects((async () => { await volume.write(3 * G, G, filled(3), 0) })(), { code: 'io' })
    await turns()
    points.log.refusesLate = true
    points.log.release()
    for (let i = 0; i < moment; i++) await Promise.resolve()
    await t.resolves((async () => { await volume.trim(3 * G, G) })(), `microtask ${moment}`)
    await refused
    t.equal(await bytes(volume), '1110111111111111')
    await volume.close()
  }
})

t.test('a power cut loses the mark, and a part of what was staged is no data any more: the rest of it comes over older ones', async t => {
  const { points, clock, volume, disks } = await lab()
  await volume.write(3 * G, G, filled(3), 0)
  await volume.write(2 * G, 3 * G, filled(4, 3), 0)
  const log = points.log.fork()
  log.close = async () => undefined
  await clock.advance(MOVED_MS)
  await turns()
  await volume.trim(2 * G, G)
  const wanted = '1104411111111111'
  t.equal(await bytes(volume), wanted)
  const left = Object.assign(points.fork(), { log })
  const write = log.write.bind(log)
  let mark: () => void = () => undefined
  const marked = new Promise<void>(resolve => { mark = resolve })
  log.write = (...request) => request[0] < STROKES_AT ? marked.then(() => write(...request)) : write(...request)
  const again = await openOn(killed(disks), SIZE, { points: left, clock: new ManualClock() })
  t.equal(await bytes(again), wanted, 'in the log')
  const filling = Promise.resolve(again.write(2 * G, G, filled(5), 0))
  let done = false
  filling.then(() => { done = true }, () => undefined)
  await turns()
  t.notOk(done, 'nothing comes in place of it while a kill would bring it back')
  mark()
  await filling
  await again.write(2 * G, G, filled(0), 0)
  await again.flush()
  await again.points.create({ name: 'later', kind: 'snapshot' })
  t.equal(await bytes(again), wanted, 'in its place')
  t.equal(await snapshotBytes(again), '1'.repeat(16))
  await again.close()
  await volume.close()
})

/** Writes are done one by one, as the test says. */
class SteppedDisk extends RefusingDisk {
  stepped = false
  /** Set: nothing is done, and said to have failed. */
  failing = false
  readonly #steps: (() => void)[] = []

  async step(): Promise<void> {
    this.#steps.shift()!()
    await turns()
  }

  async finish(): Promise<void> {
    this.stepped = this.failing = false
    while (this.#steps.length > 0) await this.step()
  }

  override write(offset: number, length: number, from: Buffer, at: number): Pending {
    if (!this.stepped) return super.write(offset, length, from, at)
    return new Promise<void>(resolve => { this.#steps.push(resolve) }).then(() => {
      if (this.failing) throw new NbdeltaError('no-space', 'nothing was written')
      return super.write(offset, length, from, at)
    })
  }
}

t.test('at no moment of a refusal is read what was never written', async t => {
  const log = new SteppedDisk(LOG_BYTES)
  const volume = await openOn(await freshDisks({ sizeBytes: SIZE, allData: true }), SIZE, { points: new StagedPoints(log) })
  await volume.write(0, SIZE, Buffer.alloc(SIZE, 1), 0)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  log.stepped = log.failing = true
  const refused = t.rejects((async () => { await volume.write(3 * G, G, filled(3), 0) })(), { code: 'no-space' })
  await turns()
  const step = log.step()
  const found = new Set<number>()
  for (let i = 0; i < 20; i++) {
    const into = Buffer.alloc(G)
    t.equal(volume.read(3 * G, G, into, 0), undefined, 'these disks read at once')
    found.add(into[0])
    await Promise.resolve()
  }
  t.same([...found], [3, 1], 'the new content until it is refused, then the old')
  await step
  await refused
  await log.finish()
  await volume.close()
})

t.test('what is marked is not read where it was staged: its place may be taken before it is forgotten', async t => {
  // Each half takes three strokes of one grain.
  const log = new SteppedDisk(STROKES_AT + 2 * 24 * 1024)
  const clock = new ManualClock()
  const volume = await openOn(await freshDisks({ sizeBytes: SIZE, allData: true }), SIZE, { points: new StagedPoints(log), clock })
  await volume.points.create({ name: 's', kind: 'snapshot' })
  for (const grain of [1, 2, 3]) await volume.write(grain * G, G, filled(grain), 0)
  log.stepped = true
  await clock.advance(MOVED_MS)
  await turns() // the mark of these is on its way
  const pending = [volume.write(4 * G, G, filled(4), 0)]
  await turns()
  pending.push(volume.flush())
  await turns()
  pending.push(volume.write(5 * G, 2 * G, filled(5, 2), 0))
  await turns()
  await log.step() // the mark, which waits for the last stroke to be flushed with it
  await log.step() // the first stroke, and the flush behind it: the mark is durable
  pending.push(volume.write(7 * G, G, filled(7), 0)) // where grain 1 was
  t.equal(await bytes(volume), '0123455700000000')
  await log.finish()
  await Promise.all(pending)
  await clock.advance(MOVED_MS)
  await turns()
  t.equal(await bytes(volume), '0123455700000000', 'in its place')
  await volume.close()
})

t.test('with the last snapshot gone, nothing is written in place before the log cannot bring back what it refused', async t => {
  const { points, volume, disks } = await lab()
  points.log.refuses = true
  await t.rejects((async () => { await volume.write(3 * G, G, filled(3), 0) })(), { code: 'io' })
  await volume.points.delete('s')
  await volume.points.settled()
  await t.rejects((async () => { await volume.write(3 * G, 100, Buffer.alloc(100, 4), 0) })(), { code: 'io' }, 'no mark, no write')
  points.log.refuses = false
  await volume.write(3 * G, 100, Buffer.alloc(100, 4), 0)
  const again = await openOn(killed(disks), SIZE, { points: points.fork(), clock: new ManualClock() })
  t.equal(await bytes(again), '1114111111111111', 'after a kill')
  await again.close()
  await volume.close()
})

t.test('a scan after a crash does not make a hole of what is staged over zeros', async t => {
  const fresh = await freshDisks({ sizeBytes: SIZE })
  const first = await openOn(fresh, SIZE)
  await first.write(15 * G, G, filled(1), 0)
  const disks = killed(fresh)
  const points = new StagedPoints(new RefusingDisk(LOG_BYTES))
  const clock = new ManualClock()
  const volume = await openOn(disks, SIZE, { points, clock })
  t.ok(volume.recovered.openRegions > 0, 'a region is presumed to be data')
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await moveOne(volume, clock)
  await clock.advance(1000 - MOVED_MS - 20) // the scan begins after a second
  const before = await bytes(volume)
  const { write } = points.log.calls
  await volume.write(6 * G, G, filled(7), 0)
  t.ok(points.log.calls.write > write, 'staged')
  await clock.advance(40)
  await turns()
  await clock.advance(MOVED_MS)
  await turns()
  t.equal((await readAll(volume, 6 * G, G))[0], 7)
  t.equal(await snapshotBytes(volume), before)
  await volume.close()
})

t.test('what a killed process has staged, and a slow disk: a write waits for the mark, and lets the disk answer', t => {
  const program = fileURLToPath(new URL('slow-mark.js', import.meta.url))
  const { stdout, stderr, signal } = spawnSync(process.execPath, [program], { encoding: 'utf8', timeout: 20_000, killSignal: 'SIGKILL' })
  t.equal(signal, null)
  t.equal(stdout, '2 2 1 3 0\n', stderr)
  t.end()
})

t.test('a hold that comes too late does not end that of the next point', t => {
  const staging = new Staging({ clock: new ManualClock() } as unknown as VolumeCore, {} as Preserver, {} as PointStore)
  staging.pass()
  staging.pass()
  staging.unite()
  t.ok(staging.isPassing)
  staging.unite()
  t.notOk(staging.isPassing)
  t.end()
})

t.test('behind a new bookmark nobody waits until the journal has announced what changes, where there is a log', async t => {
  const fresh = await freshDisks({ sizeBytes: SIZE })
  const journal = new ProgrammedDisk(fresh.journal.sizeBytes)
  const content = Buffer.alloc(journal.sizeBytes)
  await fresh.journal.read(0, content.length, content, 0)
  await journal.write(0, content.length, content, 0)
  const disks = { ...fresh, journal }
  const points = new StagedPoints(new RefusingDisk(LOG_BYTES))
  const clock = new ManualClock()
  const volume = await openOn(disks, SIZE, { points, clock })
  await volume.write(0, SIZE, filled(1, 16), 0)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await volume.write(0, SIZE, filled(2, 16), 0)
  await clock.advance(MOVED_MS)
  await turns()
  await volume.points.create({ name: 'b', kind: 'bookmark' })

  journal.held = true
  let answered = false
  const written = Promise.resolve(volume.write(3 * G, G, filled(3), 0)).then(() => { answered = true })
  await turns()
  t.ok(answered, 'while the record is on its way')
  t.ok((await readAll(volume, 3 * G, G)).equals(filled(3)))
  const left = await openOn(killed(disks), SIZE, { points: points.fork(), clock: new ManualClock() })
  t.ok((await readAll(left, 3 * G, G)).equals(filled(3)), 'and a kill loses nothing of it')
  t.ok(left.points.isChanged('b', 3, 4))
  await left.close()

  journal.release()
  await written
  await turns()
  t.notOk(volume.points.isChanged('b', 9, 10))
  t.ok(volume.points.isChanged('b', 3, 4), 'it is moved at once: those that come later go to their place')
  const strokes = points.log.calls.write
  await volume.write(4 * G, G, filled(4), 0)
  t.equal(points.log.calls.write, strokes)
  await volume.close()
})

t.test('a batch of which one piece fails at once is not over before the others have the buffer no more', async t => {
  const { volume, disks, points, clock } = await lab()
  const live = disks.live as ProgrammedDisk
  const write = live.write.bind(live)
  let letGo: (() => void) | undefined
  let refused = 0
  live.write = (offset, length, from, at) => {
    if (offset === 2 * G && !letGo) {
      return new Promise<void>(resolve => { letGo = resolve }).then(() => {
        t.equal(from[at], 2, 'what it was given')
        throw new NbdeltaError('io', 'refused late')
      })
    }
    if (offset === 5 * G && refused++ === 0) throw new NbdeltaError('io', 'refused')
    return write(offset, length, from, at)
  }
  await volume.write(2 * G, G, filled(2), 0)
  await volume.write(5 * G, G, filled(5), 0)
  await clock.advance(MOVED_MS)
  await turns()
  t.equal(refused, 1)
  const { read } = points.log.calls
  await volume.write(9 * G, G, filled(9), 0)
  await clock.advance(MOVED_MS)
  await turns()
  t.equal(points.log.calls.read, read, 'nothing else is moved meanwhile')
  letGo!()
  await turns()
  await volume.write(11 * G, G, filled(11), 0)
  await clock.advance(MOVED_MS)
  await turns()
  for (const grain of [2, 5, 9, 11]) t.ok((await readAll(volume, grain * G, G)).equals(filled(grain)), `grain ${grain}`)
  const found = Buffer.alloc(G)
  live.read(5 * G, G, found, 0)
  t.ok(found.equals(filled(5)), 'and it is moved in the end')
  await volume.close()
})
