// What a disk that failed may have done all the same, and what it may have lost: nothing that is answered behind that comes to harm.
import t from 'tap'
import type { Pending } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { ManualClock, MemoryDisk } from '../../src/device/testing.js'
import type { Volume } from '../../src/volume/volume.js'
import { MemoryInherit, Rig } from './inherit-lab.js'
import { type Disks, freshDisks, GRAIN, killed, openOn, readAll, SLOW, UUID } from './lab.js'
import { MemoryPoints, StagedPoints } from './point-lab.js'

const G = GRAIN
const SIZE = 8 * G
const filled = (value: number, grains = 1): Buffer => Buffer.alloc(grains * G, value)
const nothing = async (): Promise<void> => undefined
const turns = async (): Promise<void> => { for (let i = 0; i < 20; i++) await new Promise(resolve => { setImmediate(resolve) }) }
/** Whatever is tried again at times is. */
async function passes(clock: ManualClock, ms: number): Promise<void> {
  for (let i = 0; i < 10; i++) {
    await clock.advance(ms)
    await turns()
  }
}

/** Does what is asked, and says that it has not. */
class LyingDisk extends MemoryDisk {
  lies = false
  /** So many writes before it does. */
  spared = 0
  override write(offset: number, length: number, from: Buffer, at: number): Pending {
    super.write(offset, length, from, at)
    if (this.lies && this.spared-- <= 0) throw new NbdeltaError('io', 'the disk failed')
    return undefined
  }
}

function keepOpen<Disk extends MemoryDisk>(disk: Disk): Disk {
  disk.close = async () => undefined
  return disk
}

/** Loses what was written since the last flush, and says so for ever. */
class LosingDisk extends MemoryDisk {
  loses = false
  #durable: MemoryDisk | undefined
  override flush(): Pending {
    if (this.loses) throw new NbdeltaError('flush-failed', 'the disk failed')
    this.#durable = this.fork()
    return undefined
  }

  get durable(): MemoryDisk { return this.#durable!.fork() }
}

async function onJournal<Journal extends MemoryDisk>(journal: Journal, disks?: Disks): Promise<Disks & { readonly journal: Journal }> {
  const { live, map, journal: formatted } = disks ?? await freshDisks({ sizeBytes: SIZE, allData: true })
  const content = (formatted as MemoryDisk).toBuffer()
  await journal.write(0, content.length, content, 0)
  await journal.flush()
  return { live, map, journal }
}

for (const kind of ['none', 'snapshot', 'bookmark'] as const) {
  t.test(`D1: a write behind a trim whose record failed (points: ${kind}) is not answered: the next open may find that record`, async t => {
    const disks = await onJournal(new LyingDisk(2 ** 20))
    const points = new MemoryPoints()
    const volume = await openOn(disks, SIZE, { points })
    await volume.write(0, SIZE, filled(1, 8), 0)
    if (kind !== 'none') await volume.points.create({ name: 'p', kind })
    disks.journal.lies = true
    await t.rejects(async () => { await volume.trim(2 * G, G) }, { code: 'io' })
    const answered = await (async () => { await volume.write(2 * G, G, filled(2), 0) })().then(() => true, () => false)
    const again = await openOn(killed(disks), SIZE, { points: points.fork() })
    const found = await readAll(again, 2 * G, G)
    t.ok(!answered || found.equals(filled(2)), `answered: ${answered}, found ${found[0]}`)
    await t.rejects(async () => { await volume.write(4 * G, G, filled(2), 0) }, { code: 'flush-failed', hint: /open the volume again/ })
    await t.resolves(readAll(volume))
  })
}

t.test('D1: zeros behind a write to what was trimmed, whose record failed, are not answered: the next open may find that write', async t => {
  const disks = await onJournal(new LyingDisk(2 ** 20))
  const volume = await openOn(disks, SIZE, { clock: new ManualClock() })
  await volume.write(0, SIZE, filled(1, 8), 0)
  await volume.trim(G, 2 * G)
  // Its region is open from now on.
  await volume.write(G, G, filled(1), 0)
  disks.journal.lies = true
  // That its flush was done.
  disks.journal.spared = 1
  await t.rejects(async () => { await volume.write(2 * G, G, filled(2), 0) }, { code: 'io' })
  const answered = await (async () => { await volume.zero(2 * G, G, SLOW) })().then(() => true, () => false)
  const found = await readAll(await openOn(killed(disks), SIZE), 2 * G, G)
  t.ok(!answered || found.equals(filled(0)), `answered: ${answered}, found ${found[0]}`)
  t.ok(found.equals(filled(2)), 'the record is there, and this test can fail')
  await t.rejects(async () => { await volume.write(4 * G, G, filled(2), 0) }, { code: 'flush-failed', message: /was written/ })
})

t.test('D1: a write that fails leaves nothing where the record that its space was given back may be there', async t => {
  const disks = await onJournal(new LyingDisk(2 ** 20))
  const clock = new ManualClock()
  const volume = await openOn(disks, SIZE, { clock })
  await volume.write(0, SIZE, filled(1, 8), 0)
  await volume.trim(G, 2 * G)
  // Its region is open from now on: what nothing is said of counts as data.
  await volume.write(G, G, filled(1), 0)
  disks.journal.lies = true
  // That its flush was done.
  disks.journal.spared = 1
  await passes(clock, 1000)
  await t.rejects(async () => { await volume.write(2 * G, G, filled(2), 0) }, { code: 'io' })
  await volume.zero(2 * G, G, SLOW)
  t.ok((await readAll(volume, 2 * G, G)).equals(filled(0)))
  t.ok((await readAll(await openOn(killed(disks), SIZE), 2 * G, G)).equals(filled(0)), 'nor behind a kill')
})

t.test('D3: what is staged stays in the log when the record of what it comes over was lost', async t => {
  const disks = await onJournal(new LosingDisk(2 ** 20))
  const points = new StagedPoints(new MemoryDisk(2 ** 20))
  const clock = new ManualClock()
  const volume = await openOn(disks, SIZE, { points, clock })
  await volume.write(0, SIZE, filled(1, 8), 0)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await volume.write(2 * G, G, filled(2), 0)
  disks.journal.loses = true
  for (let i = 0; i < 3; i++) {
    await clock.advance(60_000)
    await turns()
    // In the way of what is staged, which has to be moved for it.
    await t.rejects(async () => { await volume.zero(2 * G, 512, SLOW) })
  }
  const left = { ...killed(disks), journal: disks.journal.durable }
  const again = await openOn(left, SIZE, { points: points.fork() })
  const snapshot = again.points.open('s')
  t.ok((await readAll(snapshot)).equals(filled(1, 8)), 'the snapshot is what it was')
  t.ok((await readAll(again, 2 * G, G)).equals(filled(2)), 'and so is what was answered')
})

t.test('D3: a restore copies nothing over content whose record was lost when it was to be kept', async t => {
  const rig = await Rig.open({ sizeBytes: SIZE })
  await rig.volume.write(0, SIZE, filled(1, 8), 0)
  await rig.volume.points.create({ name: 'old', kind: 'snapshot' })
  await rig.volume.write(0, SIZE, filled(2, 8), 0)
  await rig.volume.points.create({ name: 'new', kind: 'snapshot' })
  await rig.volume.close()
  const journal = new LosingDisk(rig.disks.journal.sizeBytes)
  rig.disks = await onJournal(journal, killed(rig.disks))
  await rig.openVolume()
  const job = await rig.volume.restore({ from: 'old', bytesPerSecond: 1 })
  await turns()
  await rig.volume.flush()
  job.finished.catch(() => undefined)
  journal.loses = true
  await t.rejects(async () => { await rig.volume.write(0, SIZE, filled(3, 8), 0) }, { code: 'flush-failed' })
  await passes(rig.clock, 3_600_000)
  rig.disks = { ...killed(rig.disks), journal: journal.durable }
  rig.points = rig.points.fork()
  rig.inherit = rig.inherit.fork(rig.points)
  await rig.openVolume()
  t.ok((await readAll(rig.volume.points.open('new'))).equals(filled(2, 8)))
})

/** Refuses one grain. */
class HalfDisk extends MemoryDisk {
  refuses = -1
  override write(offset: number, length: number, from: Buffer, at: number): Pending {
    if (offset <= this.refuses && this.refuses < offset + length) throw new NbdeltaError('io', 'refused')
    return super.write(offset, length, from, at)
  }
}

t.test('D2: what was trimmed does not come back out of the staging log, whose mark was lost', async t => {
  const live = keepOpen(new HalfDisk(SIZE))
  const fresh = await freshDisks({ sizeBytes: SIZE, live })
  const points = new StagedPoints(new MemoryDisk(2 ** 20))
  const before = await openOn(fresh, SIZE)
  await before.write(0, 6 * G, filled(1, 6), 0)
  // No region is open afterwards.
  await before.close()
  const first = { ...killed(fresh), live }
  const volume = await openOn(first, SIZE, { points })
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await volume.write(2 * G, 2 * G, filled(2, 2), 0)
  const log = points.log.fork()
  await volume.trim(2 * G, G)
  await volume.flush()
  /** As a power cut leaves it; the staging log always so. */
  const cut = async (disks: Disks): Promise<{ volume: Volume, disks: Disks, clock: ManualClock }> => {
    const { map, journal } = killed(disks)
    const clock = new ManualClock()
    const left = { live, map, journal }
    return { clock, disks: left, volume: await openOn(left, SIZE, { points: Object.assign(points.fork(), { log: keepOpen(log.fork()) }), clock }) }
  }
  live.refuses = 3 * G
  const second = await cut(first)
  await passes(second.clock, 60_000)
  t.equal((await readAll(second.volume, 2 * G, 1))[0], 0)
  // With all that is on its way a checkpoint.
  await second.volume.close()
  live.refuses = -1
  const third = await cut(second.disks)
  // Now one is.
  await third.volume.write(7 * G, G, filled(7), 0)
  const fourth = await cut(third.disks)
  await turns()
  t.equal((await readAll(fourth.volume, 2 * G, 1))[0], 0)
  t.equal((await readAll(fourth.volume, 3 * G, 1))[0], 2)
})

t.test('D2: nor over what a restore has copied', async t => {
  const live = keepOpen(new HalfDisk(SIZE))
  const first = await freshDisks({ sizeBytes: SIZE, live })
  const points = new StagedPoints(new MemoryDisk(2 ** 20))
  const inherit = new MemoryInherit(points)
  const volume = await openOn(first, SIZE, { points, inherit })
  await volume.write(0, SIZE, filled(1, 8), 0)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await volume.write(2 * G, 3 * G, filled(2, 3), 0)
  const log = points.log.fork()
  // Copied by whoever comes next.
  inherit.onPut = async () => { live.refuses = 2 * G }
  void (await volume.restore({ from: 's', offset: 2 * G, length: G })).finished.catch(() => undefined)
  await turns()
  inherit.onPut = nothing
  const cut = async (from: { readonly disks: Disks, readonly points: StagedPoints, readonly inherit: MemoryInherit }) => {
    const { map, journal } = killed(from.disks)
    const kept = Object.assign(from.points.fork(), { log: keepOpen(log.fork()) })
    const left = { disks: { live, map, journal }, points: kept, inherit: from.inherit.fork(kept), clock: new ManualClock() }
    const { disks, ...options } = left
    return { ...left, volume: await openOn(disks, SIZE, options) }
  }
  live.refuses = 4 * G
  const second = await cut({ disks: first, points, inherit })
  await passes(second.clock, 60_000)
  t.equal((await readAll(second.volume, 2 * G, 1))[0], 1)
  live.refuses = -1
  const third = await cut(second)
  await turns()
  t.equal((await readAll(third.volume, 2 * G, 1))[0], 1)
  t.equal((await readAll(third.volume, 4 * G, 1))[0], 2)
})

t.test('D6: no point is made of a size that the next open may not find', async t => {
  const points = new MemoryPoints()
  const volume = await openOn(await freshDisks({ sizeBytes: SIZE }), SIZE, { points })
  const reason = new NbdeltaError('flush-failed', 'which size it has is not known')
  await t.rejects(volume.resize(4 * G, async () => {
    volume.refuseChanges(reason)
    throw reason
  }), reason)
  await t.rejects(volume.points.create({ name: 's', kind: 'snapshot' }), reason)
  await t.rejects(volume.points.create({ name: 'b', kind: 'bookmark' }), reason)
  t.strictSame(volume.points.list(), [])
})

t.test('D6: nor by a restore that has waited for its turn', async t => {
  const rig = await Rig.open({ sizeBytes: SIZE })
  const { volume } = rig
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await volume.write(0, G, filled(1), 0)
  const reason = new NbdeltaError('flush-failed', 'which size it has is not known')
  const resized = volume.resize(4 * G, async () => {
    volume.refuseChanges(reason)
    throw reason
  })
  const restored = volume.restore({ from: 's' })
  await t.rejects(resized, reason)
  await t.rejects(restored, reason)
  t.strictSame(volume.points.list().map(({ name }) => name), ['s'])
})

t.test('A6: whoever waits for a restore that may have happened changes nothing: its undo point has what was there', async t => {
  const rig = await Rig.open({ sizeBytes: SIZE })
  const { volume } = rig
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await volume.write(0, SIZE, filled(1, 8), 0)
  let waiting: Promise<void> | undefined
  rig.inherit.onPut = async () => {
    waiting = (async () => { await volume.write(G, G, filled(2), 0) })()
    waiting.catch(() => undefined)
    await turns()
    rig.points.inDoubt = true
    throw new NbdeltaError('flush-failed', 'the table failed')
  }
  await t.rejects(volume.restore({ from: 's' }), { message: 'the table failed' })
  await t.rejects(waiting!, { code: 'flush-failed', message: /whether the volume was restored/ })
  t.ok((await readAll(volume)).equals(filled(1, 8)))
  const resized = volume.resize(4 * G, nothing)
  await t.rejects(resized, { code: 'flush-failed', message: /whether the volume was restored/ }, 'nor cuts off what that has lent')
})

t.test('D4: a bookmark that was never confirmed takes no marks with it of grains that came later than the point before', async t => {
  const disks = await freshDisks({ sizeBytes: 4 * G })
  const points = new MemoryPoints()
  const volume = await openOn(disks, 4 * G, { points })
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await volume.resize(SIZE, nothing)
  await volume.write(6 * G, G, filled(1), 0)
  await volume.close()
  const seq = points.nextSeq()
  await points.make(seq, 'bookmark', SIZE)
  // As point-disk.ts finds it: nothing says how large the volume was.
  points.present.set(seq, { ...points.present.get(seq)!, sizeBytes: 0 })
  const again = await openOn(killed(disks), SIZE, { points })
  t.strictSame(again.points.changedRuns('s'), [{ start: 6, end: 7 }])
})

t.test('D4: a bookmark that was never confirmed hands on its marks behind an end that was cut off since', async t => {
  const disks = await freshDisks({ sizeBytes: SIZE, allData: true })
  const points = new MemoryPoints()
  const volume = await openOn(disks, SIZE, { points })
  await volume.points.create({ name: 's', kind: 'bookmark' })
  const { seq } = await volume.points.create({ name: 'b', kind: 'bookmark' })
  await volume.resize(4 * G, nothing)
  await volume.close()
  // Its record was refused. As point-disk.ts finds it: nothing says how large the volume was.
  points.table.delete(seq)
  points.present.set(seq, { ...points.present.get(seq)!, sizeBytes: 0 })
  const again = await openOn(killed(disks), 4 * G, { points })
  await again.resize(SIZE, nothing)
  t.strictSame(again.points.changedRuns('s'), [{ start: 4, end: 8 }])
})

t.test('D4: a point that is going takes no marks with it of grains that came later than it', async t => {
  const disks = await freshDisks({ sizeBytes: 4 * G })
  const points = new MemoryPoints()
  const volume = await openOn(disks, 4 * G, { points })
  await volume.points.create({ name: 's', kind: 'snapshot' })
  const { seq } = await volume.points.create({ name: 'b', kind: 'bookmark' })
  await volume.resize(SIZE, nothing)
  await volume.close()
  points.table.set(seq, { ...points.table.get(seq)!, deleting: true })
  // Its end takes longer than two processes live.
  points.markDeleted = () => new Promise<never>(() => undefined)
  const kept = killed(disks)
  const again = await openOn(kept, SIZE, { points })
  await again.write(6 * G, G, filled(1), 0)
  await again.flush()
  t.ok(again.points.isChanged('s', 6, 7))
  const left = await openOn(killed(kept), SIZE, { points: points.fork() })
  t.ok(left.points.isChanged('s', 6, 7), 'behind a crash')
})

/** A block device, with somebody else's bytes. */
class BlockDisk extends MemoryDisk {
  readonly kind = 'block'
  override async resize(): Promise<void> { throw new Error('a block device is not resized from here') }
}

for (const grown of [false, true]) {
  t.test(`a growth that failed may have happened: somebody's bytes do not show (${grown ? 'grown in the end, and written' : 'left so'})`, async t => {
    const live = keepOpen(new BlockDisk(2 * SIZE))
    live.write(0, 2 * SIZE, filled(0xee, 16), 0)
    const disks = await freshDisks({ sizeBytes: SIZE, live })
    const volume = await openOn(disks, SIZE)
    await t.rejects(volume.resize(2 * SIZE, () => Promise.reject(new Error('the catalog failed'))))
    await volume.write(0, G, filled(1), 0)
    if (grown) {
      await volume.resize(2 * SIZE, nothing)
      await volume.write(SIZE, G, filled(2), 0)
    }
    await volume.close()
    const { map, journal } = killed(disks)
    const again = await openOn({ live, map, journal }, 2 * SIZE)
    const found = await readAll(again, SIZE)
    const wanted = Buffer.concat([grown ? filled(2) : filled(0), filled(0, 7)])
    t.ok(found.equals(wanted), `${found[0]} and ${found[G]}`)
    // The region of what is found counts as open from now on.
    await again.write(SIZE + G, 1, Buffer.from([5]), 0)
    t.equal((await readAll(again, SIZE + G + 1, 1))[0], 0)
  })
}

t.test('a growth that failed may have happened: another one that fails shows nothing of the first either', async t => {
  const live = keepOpen(new BlockDisk(3 * SIZE))
  live.write(0, 3 * SIZE, filled(0xee, 24), 0)
  const disks = await freshDisks({ sizeBytes: SIZE, live })
  const volume = await openOn(disks, SIZE)
  for (const sizeBytes of [3 * SIZE, 2 * SIZE]) {
    await t.rejects(volume.resize(sizeBytes, () => Promise.reject(new Error('the catalog failed'))))
  }
  // With a checkpoint.
  await volume.close()
  const { map, journal } = killed(disks)
  const again = await openOn({ live, map, journal }, 3 * SIZE)
  await again.write(2 * SIZE, 1, Buffer.from([5]), 0)
  t.equal((await readAll(again, 2 * SIZE + 1, 1))[0], 0)
})

t.test('a growth that failed may have happened: another one that fails does not make the disk too short for it', async t => {
  const disks = await freshDisks({ sizeBytes: SIZE })
  const volume = await openOn(disks, SIZE)
  await volume.write(0, SIZE, filled(1, 8), 0)
  const fails = (): Promise<void> => Promise.reject(new Error('the catalog failed'))
  await t.rejects(volume.resize(3 * SIZE, fails))
  await t.rejects(volume.resize(2 * SIZE, fails))
  const again = await openOn(killed(disks), 3 * SIZE)
  t.ok((await readAll(again)).equals(Buffer.concat([filled(1, 8), filled(0, 16)])))
  await volume.resize(2 * SIZE, nothing)
  await volume.resize(SIZE, nothing)
  await volume.resize(2 * SIZE, nothing)
  t.ok((await readAll(volume)).equals(Buffer.concat([filled(1, 8), filled(0, 8)])))
  await volume.close()
  const smaller = killed(disks)
  await openOn(smaller, 2 * SIZE)
  t.equal(smaller.live.sizeBytes, 2 * SIZE, 'what was too much goes with the next open')
})

class FullDisk extends MemoryDisk {
  isFull = false
  writes = 0
  override write(offset: number, length: number, from: Buffer, at: number): Pending {
    this.writes++
    if (this.isFull) throw new NbdeltaError('no-space', 'full')
    return super.write(offset, length, from, at)
  }
}

t.test('a restore that cannot be copied is tried again at times, and whoever waits for its end is told why', async t => {
  const live = new FullDisk(SIZE)
  const rig = await Rig.open({ sizeBytes: SIZE, live })
  const { volume, clock } = rig
  await volume.write(0, SIZE, filled(1, 8), 0)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await volume.write(0, SIZE, filled(2, 8), 0)
  live.isFull = true
  const job = await volume.restore({ from: 's', bytesPerSecond: G })
  await turns()
  const before = live.writes
  await turns()
  t.ok(live.writes - before < 3, `${live.writes - before} writes meanwhile`)
  await t.rejects(volume.restore({ from: 's' }), { code: 'no-space' })
  live.isFull = false
  await passes(clock, 30_000)
  await job.finished
  t.ok((await readAll(volume)).equals(filled(1, 8)))
})

t.test('D3: a snapshot is not opened while its deletion is on its way to the disk: nothing is kept for it soon', async t => {
  const disks = await freshDisks({ sizeBytes: SIZE, allData: true })
  const points = new MemoryPoints()
  const volume = await openOn(disks, SIZE, { points })
  await volume.write(0, SIZE, filled(1, 8), 0)
  for (const fails of [true, false]) {
    await volume.points.create({ name: 's', kind: 'snapshot' }).catch(() => undefined)
    const put = points.put.bind(points)
    let end!: () => void
    const held = new Promise<void>(resolve => { end = resolve })
    points.put = async (...change) => {
      await held
      if (fails) throw new NbdeltaError('io', 'the disk failed')
      return put(...change)
    }
    const deleting = volume.points.delete('s').then(() => true, () => false)
    await turns()
    t.throws(() => volume.points.open('s'), { code: 'busy', message: "'s' is being deleted" })
    end()
    t.equal(await deleting, !fails)
    points.put = put
    if (fails) await volume.points.open('s').close()
    else t.throws(() => volume.points.open('s'), { code: 'not-found' })
  }
  await volume.close()
})

t.test('a journal that fails while a restore from another volume writes its bitmap is the restore\'s failure, and nobody else\'s', async t => {
  const [rig, other] = await Promise.all([Rig.open({ sizeBytes: SIZE }), Rig.open({ sizeBytes: SIZE, uuid: UUID.replace(/1$/, '2') })])
  await other.volume.write(0, SIZE, filled(1, 8), 0)
  await other.volume.points.create({ name: 's', kind: 'snapshot' })
  await rig.volume.write(0, SIZE, filled(2, 8), 0)
  const journal = rig.disks.journal as MemoryDisk
  let goOn = (): void => undefined
  rig.inherit.wrap = disk => {
    const write = disk.write.bind(disk)
    disk.write = (...asked) => new Promise<void>(resolve => { goOn = resolve }).then(() => write(...asked))
    return disk
  }
  const restored = rig.volume.restore({ from: 's', sourceVolume: other.source, whenHeld: () => {
    journal.write = async () => {
      await turns()
      throw new NbdeltaError('io', 'the disk failed')
    }
  } })
  restored.catch(() => undefined)
  for (let i = 0; i < 20; i++) {
    await turns()
    goOn()
  }
  await t.rejects(restored, { code: 'io' })
  t.ok((await readAll(rig.volume)).equals(filled(2, 8)))
})
