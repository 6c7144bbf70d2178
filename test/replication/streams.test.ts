// Streams: modes async and sync: what arrives, when answers wait, and what a loss leaves (SEEDS C16-C19, C22, X9).
import t, { type Test } from 'tap'
import type { BlockDevice } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { seededRandom } from '../../src/device/testing.js'
import type { Mirror } from '../../src/replication/mirror.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { arrived } from './held.js'
import { changeAtRandom, disk, fill, G, Lab, onWrite, shown, shownAt, URI, type Wire } from './lab.js'
import { PeerLab } from './peer-lab.js'

const GRAINS = 64
const MIB = 2 ** 20

const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))

async function until(what: () => boolean): Promise<void> {
  for (let tries = 0; !what(); tries++) {
    if (tries > 20_000) throw new Error('it never came')
    await new Promise<void>(resolve => { setImmediate(resolve) })
  }
}

async function streaming(
  lab: Lab, mode: 'async' | 'sync', grains = GRAINS, more: { readonly lagBytes?: number } = {},
): Promise<{ volume: StoreVolume, mirror: Mirror, wire: Wire }> {
  const volume = await lab.volume('v', grains)
  await fill(volume, 0, 1, Math.min(grains, GRAINS))
  const wire = lab.wire = disk(grains)
  const mirror = await lab.mirror({ volume: 'v', target: URI, mode, ...more })
  await arrived(mirror)
  wire.reset()
  return { volume, mirror, wire }
}

async function turns(): Promise<void> {
  for (let i = 0; i < 200; i++) await new Promise<void>(resolve => { setImmediate(resolve) })
}

/** Requests of that kind wait until what it answers is called. */
function hold(wire: Wire, kind: 'write' | 'flush'): () => void {
  let free = (): void => undefined
  const freed = new Promise<void>(resolve => { free = resolve })
  const request = wire[kind].bind(wire) as (...args: unknown[]) => Promise<void>
  Object.assign(wire, { [kind]: async (...args: unknown[]) => {
    await freed
    await request(...args)
  } })
  return free
}

t.test('async: changes arrive without a cycle, and cost the source no snapshot', async t => {
  const lab = await Lab.open(t.testdir())
  const { volume, mirror, wire } = await streaming(lab, 'async')
  await fill(volume, 3, 7)
  await volume.write(9 * G + 17, 100, Buffer.alloc(100, 9), 0)
  await volume.zero(20 * G, 2 * G, { allocate: false, fast: false })
  await volume.trim(30 * G, 4 * G)
  await arrived(mirror)
  t.same({ ...wire.counts }, { writtenBytes: G + 100, zeroedBytes: 6 * G, readBytes: 0, flushes: 0 }, 'that, and nothing else')
  t.same(await shown(wire), await shown(volume))
  t.same(volume.points.list().map(({ kind }) => kind), ['bookmark'])
  await lab.close()
})

t.test('async: an answer does not wait, and what is behind is told (C22)', async t => {
  const lab = await Lab.open(t.testdir())
  const { volume, mirror, wire } = await streaming(lab, 'async')
  const free = hold(wire, 'write')
  await fill(volume, 0, 5, 4)
  await volume.flush()
  await lab.clock.advance(1500)
  t.same(mirror.status().stream, { inStep: true, behindBytes: 4 * G, behindMs: 1500 })
  t.equal(mirror.status().lagBytes, 4 * G)
  t.equal(mirror.status().lagSeconds, 1.5)
  free()
  await arrived(mirror)
  t.equal(mirror.status().lagSeconds, 0)
  await lab.close()
})

t.test('sync: answers and flushes wait for the target', async t => {
  const lab = await Lab.open(t.testdir())
  const { volume, wire } = await streaming(lab, 'sync')
  const freeWrites = hold(wire, 'write')
  const freeFlushes = hold(wire, 'flush')
  const done: string[] = []
  const write = fill(volume, 0, 5).then(() => done.push('write'))
  await new Promise(resolve => setTimeout(resolve, 30))
  t.same(done, [])
  freeWrites()
  await write
  t.equal((await shown(wire))[0], 5)
  const flush = Promise.resolve(volume.flush()).then(() => done.push('flush'))
  await new Promise(resolve => setTimeout(resolve, 30))
  t.same(done, ['write'])
  freeFlushes()
  await flush
  t.equal(wire.counts.flushes, 1)
  await lab.close()
})

t.test('a log that is full again and again is begun anew later and later, also when that comes during the cycle', async t => {
  const lab = await Lab.open(t.testdir(), G)
  const { volume, mirror, wire } = await streaming(lab, 'async', GRAINS, { lagBytes: G })
  const ends = (): number => mirror.status().decisions.filter(({ rule }) => rule === 'stream-ended').length
  wire.onRequest = async () => { for (let grain = 0; grain < 3; grain++) await fill(volume, grain, 8) }
  await fill(volume, 9, 2)
  await until(() => ends() === 1)
  const { cycle } = mirror.state
  for (const [done, waitMs] of [1000, 2000, 4000].entries()) {
    await until(() => mirror.status().nextAt === new Date(lab.clock.wallTime().getTime() + waitMs).toISOString())
    await lab.clock.advance(waitMs - 1)
    await turns()
    t.same([mirror.state.cycle, mirror.status().progress], [cycle + done, null], `not before ${waitMs} ms are over`)
    await lab.clock.advance(1)
    // Nobody waits for the writes of `onRequest`: the last of them may come behind the cycle.
    await until(() => mirror.state.cycle === cycle + done + 1 && ends() > done + 1)
    t.equal(ends(), done + 2, 'full')
  }
  await lab.close()
})

t.test('sync: a target that is lost holds nobody up for longer than the timeout, and catches up by what differs', async t => {
  const lab = await Lab.open(t.testdir())
  const { volume, mirror, wire } = await streaming(lab, 'sync')
  hold(wire, 'write')
  let answered = false
  const write = fill(volume, 0, 5).then(() => { answered = true })
  await new Promise(resolve => setTimeout(resolve, 30))
  await lab.clock.advance(4900)
  await new Promise(resolve => setTimeout(resolve, 30))
  t.notOk(answered)
  lab.wire = undefined
  await lab.clock.advance(1300)
  await write
  t.match(mirror.status().decisions.at(-1), { rule: 'stream-ended', inputs: { reason: /has done nothing for 5 s/ } })
  await fill(volume, 8, 6)
  const again = lab.wire = disk(GRAINS)
  await again.disk.write(0, GRAINS * G, Buffer.alloc(GRAINS * G, 1), 0)
  await mirror.sync()
  await arrived(mirror)
  t.same(await shown(again), await shown(volume))
  t.equal(again.counts.writtenBytes, 2 * G, 'only what the target did not have')
  t.equal(mirror.status().problem, null)
  await lab.close()
})

t.test('an error of the target fails no client (sync)', async t => {
  const lab = await Lab.open(t.testdir())
  const { volume, mirror, wire } = await streaming(lab, 'sync')
  wire.onRequest = () => { throw new NbdeltaError('io', 'the disk failed') }
  await fill(volume, 0, 5)
  t.match(mirror.status().problem, /the disk failed/)
  wire.onRequest = () => undefined
  await mirror.sync()
  t.same(await shown(wire), await shown(volume))
  await lab.close()
})

t.test('a restore is one entry, in order; its snapshot stays until it has been shipped (C16, C17, C18, C22)', async t => {
  const lab = await Lab.open(t.testdir())
  const { volume, mirror, wire } = await streaming(lab, 'async')
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await fill(volume, 5, 2)
  await fill(volume, 40, 2)
  await arrived(mirror)
  wire.reset()
  const free = hold(wire, 'write')
  await fill(volume, 6, 3)
  const job = await volume.restore({ from: 's' })
  await fill(volume, 40, 4)
  await job.finished
  t.equal(mirror.status().stream!.behindBytes, 5 * G, 'the write before, three restored grains, the write behind')
  await t.rejects(volume.points.delete('s'), { code: 'busy' })
  free()
  await arrived(mirror)
  const expected = Array.from({ length: GRAINS }, (_, grain) => grain === 40 ? 4 : 1)
  t.same(await shown(volume), expected)
  t.same(await shown(wire), expected)
  t.equal(wire.counts.writtenBytes, 5 * G)
  await volume.points.delete('s')
  await lab.close()
})

t.test('a log that is full is given up, and nothing with it (C19)', async t => {
  const lab = await Lab.open(t.testdir())
  const { volume, mirror, wire } = await streaming(lab, 'async', 70 * MIB / G)
  const free = hold(wire, 'write')
  await volume.points.create({ name: 's', kind: 'snapshot' })
  const piece = Buffer.alloc(MIB, 3)
  for (let at = 0; at < 66; at++) await volume.write(at * MIB, MIB, piece, 0)
  t.match(mirror.status().problem, /not in write order/)
  await volume.restore({ from: 's', offset: 0, length: MIB })
  free()
  await mirror.sync()
  t.same(await shown(wire), await shown(volume))
  await arrived(mirror)
  t.equal(mirror.status().problem, null)
  await lab.close()
})

t.test('a change that fails, or a new size, ends the stream; the next cycle begins another', async t => {
  const lab = await Lab.open(t.testdir())
  const { volume, mirror, wire } = await streaming(lab, 'async')
  await lab.store.resizeVolume('v', (GRAINS - 4) * G)
  t.match(mirror.status().problem, /size/)
  await mirror.sync()
  await arrived(mirror)
  await fill(volume, 2, 9)
  await arrived(mirror)
  t.same((await shown(wire)).slice(0, GRAINS - 4), await shown(volume))
  await lab.close()
})

t.test('pause, resume, verification, split: each leaves a whole target', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: 'w', mode: 'sync' })
  const target = lab.store.get('w')!
  const seen = (): Promise<number[]> => shownAt(target, mirror.shownPoint()!.name)
  await arrived(mirror)
  await fill(volume, 1, 2)
  t.equal((await shown(target))[1], 2, 'it is there')
  t.equal((await seen())[1], 0, 'and is shown from the next declared point on')
  await mirror.sync()
  t.equal((await seen())[1], 2)
  await fill(volume, 2, 3)
  await mirror.pause()
  t.equal((await seen())[2], 3, 'what had arrived counts when the stream ends')
  t.equal(mirror.status().stream, null)
  await fill(volume, 3, 4)
  await mirror.resume()
  await mirror.sync()
  await arrived(mirror)
  await fill(volume, 4, 5)
  t.same(await mirror.verify(), [])
  await mirror.sync()
  await arrived(mirror)
  await fill(volume, 5, 6)
  await mirror.split({ atOnce: false })
  await target.points.settled()
  t.same(await shown(target), await shown(volume))
  t.same(target.points.list().map(({ labels }) => labels['received']), [undefined], 'at a declared point')
  await fill(volume, 6, 7)
  await mirror.beginResync({ whole: false })
  await mirror.sync()
  await arrived(mirror)
  await fill(volume, 7, 8)
  await mirror.split({ atOnce: true })
  t.same(await shown(target), await shown(volume), 'at once: with all that was answered')
  await lab.close()
})

t.test('any changes, any overlaps: the target follows, and each declared point is the source at its instant (C1, C8)', async t => {
  for (const mode of ['async', 'sync'] as const) await lives(t, mode)
})

/** Knows what has been told. */
class Twin {
  readonly content: Buffer
  constructor(size: number) { this.content = Buffer.alloc(size) }
  wrote(offset: number, length: number, from: Buffer, at: number): undefined { from.copy(this.content, offset, at, at + length) }
  zeroed(offset: number, length: number): undefined { this.content.fill(0, offset, offset + length) }
  flushed(): undefined { return undefined }
  pointed(): undefined { return undefined }
  restored(grains: { runs(): Iterable<{ start: number, end: number }> }, device: BlockDevice): void {
    for (const { start, end } of grains.runs()) device.read(start * G, (end - start) * G, this.content, start * G)
    void device.close()
  }
  lost(reason: string): void { throw new Error(reason) }
}

async function lives(t: Test, mode: 'async' | 'sync'): Promise<void> {
  const seed = Number(process.env['SEED'] ?? Math.floor(Math.random() * 1e9))
  t.comment(`SEED=${seed} ${mode}`)
  const random = seededRandom(seed)
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: 'w', mode })
  await arrived(mirror)
  const target = lab.store.get('w')!
  const twin = new Twin(GRAINS * G)
  const instants = new Map<string, Buffer>()
  const create = volume.points.create.bind(volume.points)
  await create({ name: 'start', kind: 'snapshot', atInstant: () => { volume.watch(twin) } })
  volume.points.create = async options => {
    let content: Buffer | undefined
    const atInstant = (): void => {
      content = Buffer.from(twin.content)
      options.atInstant?.()
    }
    const point = await create({ ...options, atInstant })
    instants.set(point.uuid, content!)
    return point
  }
  const size = GRAINS * G
  let declared = 0
  const declare = async (): Promise<void> => {
    await mirror.sync()
    const point = mirror.shownPoint()!
    const device = target.points.open(point.name)
    const content = Buffer.alloc(size)
    await device.read(0, size, content, 0)
    await device.close()
    const expected = instants.get(point.labels['origin']!)
    if (!expected) return
    declared++
    if (!content.equals(expected)) t.fail(`declared point ${point.name} is not what the source was`, { seed })
  }
  for (let round = 0; round < 60; round++) {
    const work: Promise<void>[] = []
    for (let i = random(30); i >= 0; i--) work.push(changeAtRandom(volume, random))
    if (round % 3 === 0) work.push(declare())
    if (round % 10 === 5) work.push(volume.restore({ from: 'start' }).then(job => job.finished))
    if (round % 10 === 8) await volume.points.create({ name: `s${round}`, kind: 'snapshot' })
    await Promise.all(work)
  }
  await until(() => mirror.status().stream?.behindBytes === 0)
  const [ours, theirs] = [Buffer.alloc(size), Buffer.alloc(size)]
  await volume.read(0, size, ours, 0)
  await target.read(0, size, theirs, 0)
  t.ok(ours.equals(twin.content), 'what was told is what is there')
  t.ok(theirs.equals(ours), 'the target has followed')
  t.ok(declared >= 15, `${declared} declared points were what the source had been`)
  t.notOk(mirror.status().decisions.some(({ rule }) => rule === 'stream-ended'))
  await lab.close()
}

async function toPeer(directory: string, mode: 'async' | 'sync') {
  const lab = await PeerLab.open(directory)
  const volume = await lab.source('v', GRAINS)
  const mirror = await lab.mirror({ mode })
  await arrived(mirror)
  return { lab, volume, mirror, target: lab.far.store.get('w')! }
}

t.test('a peer: answered means there (sync); what had arrived is shown when the link is lost, and promoted (S1, C10)', async t => {
  const { lab, volume, mirror, target } = await toPeer(t.testdir(), 'sync')
  await fill(volume, 3, 7)
  t.equal((await shown(target))[3], 7)
  t.equal((await lab.far.seen('w'))[3], 1, 'clients see the declared point')
  await mirror.sync()
  t.equal((await lab.far.seen('w'))[3], 7)
  await Promise.all(Array.from({ length: 40 }, (_, i) => fill(volume, 10 + i, 8)))
  const answered = await shown(volume)
  t.equal(await lab.far.secondaries.promote('w'), 2)
  t.same(await lab.far.seen('w'), answered, 'nothing that was answered is lost')
  await until(() => mirror.status().problem !== null)
  await fill(volume, 0, 9)
  await t.rejects(mirror.sync(), { code: 'wrong-state' }, 'and the old primary is refused')
  t.same(await lab.far.seen('w'), answered)
  await lab.close()
})

t.test('a peer that is cut off shows what it has, whole, and gets the rest', async t => {
  const { lab, volume, mirror, target } = await toPeer(t.testdir(), 'async')
  await fill(volume, 3, 7)
  await arrived(mirror)
  await lab.far.link.close()
  await until(() => mirror.status().stream === null)
  await until(() => target.points.list().some(({ labels }) => labels['received']))
  t.equal((await lab.far.seen('w'))[3], 7)
  await fill(volume, 4, 8)
  await lab.far.restart()
  t.equal((await lab.far.seen('w'))[3], 7, 'over a restart as well')
  await mirror.sync()
  await arrived(mirror)
  t.same(await lab.far.seen('w'), await shown(volume))
  await lab.far.store.get('w')!.points.settled()
  t.same(lab.far.store.get('w')!.points.list().filter(({ labels }) => labels['received']), [])
  await lab.close()
})

t.test('a peer: restore, split, resync', async t => {
  const { lab, volume, mirror, target } = await toPeer(t.testdir(), 'sync')
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await fill(volume, 3, 7)
  await volume.restore({ from: 's' })
  await arrived(mirror)
  t.same(await shown(target), await shown(volume))
  await fill(volume, 4, 8)
  await mirror.split({ atOnce: true })
  t.same(await lab.far.seen('w'), await shown(volume))
  await fill(lab.far.store.get('w')!, 5, 5)
  await mirror.beginResync({ whole: false })
  await mirror.sync()
  await arrived(mirror)
  t.same(await lab.far.seen('w'), await shown(volume))
  t.ok(target.points.get('before-m-2') ?? target.points.list().some(({ name }) => name.startsWith('before-m')), 'what was done there is kept')
  await lab.close()
})

t.test('a peer takes no stream that follows no declared point, or after it was released', async t => {
  const lab = await PeerLab.open(t.testdir())
  const link = await lab.far.dial('w')
  const asked = {
    mirror: { uuid: '11111111-1111-4111-8111-111111111111', name: 'x' }, source: { uuid: '22222222-2222-4222-8222-222222222222', name: 'x' },
    above: [], epoch: 1, sizeBytes: GRAINS * G, grainBytes: G, overwrite: false, create: true, volume: 'w',
  }
  const [first, second] = ['3', '4'].map((digit, i) =>
    ({ uuid: `${digit.repeat(8)}-3333-4333-8333-333333333333`, cycle: i + 1, sizeBytes: GRAINS * G }))
  const refused = { code: 'wrong-state', message: /no point that a stream could follow/ }
  await link.call('attach', asked)
  await t.rejects(link.call('stream', { counts: true }), refused)
  await link.call('begin', { point: first, keep: false, seen: null })
  await t.rejects(link.call('stream', { counts: true }), refused)
  await link.call('commit', { point: first })
  await t.rejects(link.call('commit', { point: second }), { code: 'wrong-state' })
  await link.call('stream', { counts: true })
  await link.call('commit', { point: second })
  await link.call('stream', { counts: false })
  await t.rejects(link.call('commit', { point: first }), { code: 'wrong-state' })
  await link.call('release', {})
  await t.rejects(link.call('stream', { counts: true }), refused)
  link.close()
  await lab.close()
})

t.test('what the source lost in a crash after it was sent is the source\'s again on the target', async t => {
  for (const target of ['w', URI]) {
    const lab = await Lab.open(t.testdir())
    const volume = await lab.volume('v', GRAINS)
    await fill(volume, 0, 1, GRAINS)
    lab.wire = disk(GRAINS)
    const mirror = await lab.mirror({ volume: 'v', target, mode: 'sync' })
    await arrived(mirror)
    // As after a power cut: it has arrived, and neither it nor its mark is on the source.
    const next = await lab.killed()
    await fill(lab.store.get('w') ?? lab.wire.disk, 7, 9)
    if (target === 'w') await fill(next.store.get('w')!, 7, 9)
    await next.mirrors.get('m').sync()
    const [ours, theirs] = [await shown(next.store.get('v')!), await shown(target === 'w' ? next.store.get('w')! : lab.wire)]
    t.same(theirs, ours, target)
    await next.close()
    await lab.close()
  }
})

t.test('a change that failed at the target is no hole in what is shown (S1, C1)', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: 'w', mode: 'async' })
  await arrived(mirror)
  const target = lab.store.get('w')!
  const free = onWrite(target, offset => { if (offset === G) throw new NbdeltaError('no-space', 'full') })
  await fill(volume, 1, 5)
  await fill(volume, 2, 6)
  await until(() => mirror.status().stream === null)
  free()
  t.same(await shownAt(target, mirror.shownPoint()!.name), Array.from({ length: GRAINS }, () => 0), 'the declared point')
  t.same(target.points.list().filter(({ labels }) => labels['received']), [])
  await lab.close()
  const peer = await toPeer(t.testdir(), 'async')
  const freePeer = onWrite(peer.target, offset => { if (offset === G) throw new NbdeltaError('no-space', 'full') })
  await Promise.all([fill(peer.volume, 1, 5), fill(peer.volume, 2, 6)])
  await until(() => peer.mirror.status().stream === null)
  freePeer()
  await until(() => !peer.lab.far.secondaries.list()[0]!.attached)
  t.same(await peer.lab.far.seen('w'), Array.from({ length: GRAINS }, () => 1))
  await peer.lab.close()
})

t.test('an idle volume: the stream begins by itself after a start, a resume and a loss', async t => {
  const lab = await Lab.open(t.testdir())
  const { mirror } = await streaming(lab, 'sync')
  await mirror.pause()
  t.equal(mirror.status().stream, null)
  await mirror.resume()
  await lab.clock.advance(1)
  await arrived(mirror)
  await lab.mirrors.stop()
  await lab.store.close()
  await lab.start()
  const again = lab.mirrors.get('m')
  await lab.clock.advance(1)
  await arrived(again)
  t.equal(again.status().problem, null)
  await lab.close()
})

t.test('a point after a long quiet is no silence of the target', async t => {
  const lab = await Lab.open(t.testdir())
  const { volume, mirror, wire } = await streaming(lab, 'async')
  await fill(volume, 1, 2)
  await arrived(mirror)
  await lab.clock.advance(60_000)
  const free = hold(wire, 'flush')
  const declared = mirror.sync()
  await until(() => wire.counts.flushes >= 0 && mirror.status().progress !== null)
  await new Promise(resolve => setTimeout(resolve, 100))
  await lab.clock.advance(1000)
  free()
  await declared
  t.not(mirror.status().stream, null)
  await lab.close()
})

t.test('resync --whole of several compares, and leaves pairs', async t => {
  const lab = await Lab.open(t.testdir())
  const { volume, mirror, wire } = await streaming(lab, 'async')
  await wire.disk.write(9 * G, 10, Buffer.alloc(10, 0xee), 0)
  const group = lab.mirrors.together(['m'])
  await group.beginResync({ whole: true })
  await group.syncEach({})
  t.equal(mirror.status().phase, 'paired')
  t.same(await shown(wire), await shown(volume))
  await lab.close()
})

t.test('a stop lets what is on its way arrive', async t => {
  const lab = await Lab.open(t.testdir())
  const { volume, wire } = await streaming(lab, 'async')
  const free = hold(wire, 'write')
  await fill(volume, 1, 2, 20)
  const stopped = lab.mirrors.stop()
  free()
  await stopped
  t.same(await shown(wire), await shown(volume))
  await lab.store.close()
})

t.test('a session that is ended twice has ended when either says so', async t => {
  const lab = await Lab.open(t.testdir())
  await lab.volume('v', GRAINS)
  const { target } = await lab.mirror({ volume: 'v', target: 'w' })
  const session = await target.open({ mayBegin: false })
  await fill(await session.stream(), 1, 5)
  const first = session.close()
  await session.close()
  t.equal(lab.mirrors.get('m').shownPoint()!.labels['received'], 'stream')
  await first
  await lab.close()
})
