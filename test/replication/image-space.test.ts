// No room on the source for what a cycle's image keeps (SEEDS C12, S8): the image goes rather than a client's write is refused, the cycle
// ends, the target stays at its declared point, and a later cycle delivers everything.
import t from 'tap'
import { silentLogger } from '../../src/device/logger.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { ManualClock, type MemoryDisk } from '../../src/device/testing.js'
import { LogBudget } from '../../src/replication/log-budget.js'
import { Mirror } from '../../src/replication/mirror.js'
import { judgeState, type MirrorMode } from '../../src/replication/mirror-record.js'
import { VolumeTarget } from '../../src/replication/volume-target.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { openMembers, UUIDS, type MemberDisks } from '../crash/group-lab.js'
import { until } from './held.js'
import { disk, fill, G, Lab, shown, shownAt, URI } from './lab.js'
import { dressed, freshDisks, MIRRORS } from './memory-lab.js'
import { PeerLab } from './peer-lab.js'

const GRAINS = 64
/** Of the source, changed since its last declared point. */
const CHANGED = 24
/** Grains of old content that the source may keep. */
const ROOM = 4
/** The last of these: a cycle comes to them late. */
const UNREAD = CHANGED - ROOM
/** A cycle sends a grain a second: it is in its middle until the clock moves. */
const RATE = G
const GIVEN_UP = { code: 'no-space', message: /no room for what a mirror's image keeps: it was given up/ }
const ONES = Array<number>(GRAINS).fill(1)
/** Timers of the stores do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))
t.setTimeout(240_000)

interface Stand {
  readonly volume: StoreVolume
  readonly mirror: Mirror
  readonly clock: ManualClock
  setRoom(grains: number | null): Promise<unknown>
  /** As clients of the target see it. */
  seen(): Promise<number[]>
  close(): Promise<void>
}

type Options = { readonly mode?: MirrorMode, readonly keepSnapshots?: number, readonly bytesPerSecond?: null }

async function local(directory: string, options: Options = {}): Promise<Stand & { lab: Lab }> {
  const lab = await Lab.open(directory)
  const volume = await lab.volume('v', GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: 'w', bytesPerSecond: RATE, ...options })
  return {
    lab, volume, mirror, clock: lab.clock, close: () => lab.close(),
    setRoom: grains => lab.store.setSpace('v', { budgetBytes: grains === null ? null : grains * G }),
    seen: () => shownAt(lab.store.get('w')!, mirror.shownPoint()!.name),
  }
}

async function plain(directory: string, options: Options = {}): Promise<Stand> {
  const lab = await Lab.open(directory)
  const wire = lab.wire = disk(GRAINS)
  const volume = await lab.volume('v', GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: URI, bytesPerSecond: RATE, ...options })
  return {
    volume, mirror, clock: lab.clock, seen: () => shown(wire), close: () => lab.close(),
    setRoom: grains => lab.store.setSpace('v', { budgetBytes: grains === null ? null : grains * G }),
  }
}

async function peer(directory: string, options: Options = {}): Promise<Stand> {
  const lab = await PeerLab.open(directory)
  const { store, clock } = lab.near
  const volume = await store.createVolume({ name: 'v', sizeBytes: GRAINS * G, grainBytes: G })
  const mirror = await lab.mirror({ bytesPerSecond: RATE, ...options })
  return {
    volume, mirror, clock, seen: () => lab.far.seen('w'), close: () => lab.close(),
    setRoom: grains => store.setSpace('v', { budgetBytes: grains === null ? null : grains * G }),
  }
}

const images = ({ points }: StoreVolume): string[] => points.list().map(({ name }) => name).filter(name => /-image/.test(name))
const rules = (mirror: Mirror): string[] => mirror.status().decisions.map(({ rule }) => rule)
const isMoving = (mirror: Mirror): Promise<void> => until('something was sent', () => (mirror.status().progress?.doneBytes ?? 0) >= G)

/** Until the work is over; its own timers go by meanwhile. */
async function passing<T>(clock: ManualClock, work: Promise<T>): Promise<T> {
  let over = false
  const done = work.finally(() => { over = true })
  done.catch(() => undefined)
  await until('it is over', async () => {
    if (!over) await clock.advance(250)
    return over
  })
  return done
}

/** Its next attempts, by itself. */
async function recovers({ mirror, clock }: Pick<Stand, 'mirror' | 'clock'>): Promise<void> {
  await until('it has caught up by itself', async () => {
    await clock.advance(1000)
    return mirror.status().problem === null && mirror.status().lagBytes === 0
  })
}

for (const [kind, open] of [['a volume of the same store', local], ['a plain server', plain], ['a peer', peer]] as const) {
  t.test(`${kind}: the budget ends in the middle of a cycle`, async t => {
    const stand = await open(t.testdir())
    const { volume, mirror } = stand
    await fill(volume, 0, 1, GRAINS)
    await passing(stand.clock, mirror.sync())
    const { base } = mirror.state
    await fill(volume, 0, 2, CHANGED)
    const cycle = mirror.sync()
    const told = t.rejects(cycle, GIVEN_UP)
    await isMoving(mirror)
    t.equal(images(volume).length, 1)
    await stand.setRoom(ROOM)
    for (let grain = 0; grain < ROOM; grain++) await volume.write(grain * G, 1, Buffer.from([3]), 0)
    t.equal(images(volume).length, 1, 'so much fits')
    for (let grain = ROOM; grain < 2 * ROOM; grain++) await volume.write(grain * G, 1, Buffer.from([3]), 0)
    for (let grain = 2 * ROOM; grain < GRAINS; grain++) await fill(volume, grain, 3)
    await told
    t.same(images(volume), [])
    t.match(volume.space, { failing: null, sacrifices: 1, lastSacrifice: { name: 'mirror-m-3-image', why: 'budget' }, keptBytes: 0 })
    t.match(mirror.status(), { phase: 'paired', lagBytes: GRAINS * G, problem: /volume v has no room/, cycle: 2 })
    t.ok(rules(mirror).includes('image-given-up'))
    t.same(mirror.state.base, base)
    if (kind !== 'a plain server') t.same(await stand.seen(), ONES, 'the target shows its declared point')
    t.match(volume.points.list().map(({ kind: one }) => one), ['bookmark'])
    await recovers(stand)
    t.same(await stand.seen(), Array<number>(GRAINS).fill(3))
    t.same(await shown(volume), await stand.seen())
    await until('only its bookmark is left', () => volume.points.list().length === 1)
    await stand.close()
  })
}

t.test('the disk is full in the middle of a cycle', async t => {
  const array = await freshDisks(false, 64, GRAINS * G)
  const disks = Object.fromEntries(array.names.map((name, i) => [name, array.initialImages()[i] as MemoryDisk])) as unknown as MemberDisks
  const clock = new ManualClock()
  const preserved = disks['a.preserved'] as MemoryDisk
  const write = preserved.write.bind(preserved)
  let left = Infinity
  preserved.write = (...args) => {
    if (left <= 0) throw new NbdeltaError('no-space', 'ENOSPC: no space left on device, write', { cause: { code: 'ENOSPC' } })
    left--
    return write(...args)
  }
  const { table, volumes } = await openMembers(disks, clock)
  const volume = dressed(volumes[0]!, 'a')
  const target = dressed(volumes[1]!, 'b')
  const record = {
    uuid: MIRRORS.local, name: 'm', volume: UUIDS.a, state: judgeState({
      target: { kind: 'volume', uuid: UUIDS.b }, intervalSeconds: 3600, lagBytes: null, bytesPerSecond: RATE, phase: 'copying',
      paused: false, blank: true, keep: false, cycle: 0, base: null,
    }),
  }
  const mirror = new Mirror({
    record, clock, logs: new LogBudget(), logger: silentLogger, source: () => volume, put: next => table.put({ mirrors: [next] }),
    target: new VolumeTarget({ mirror: record, volume: () => target, resize: async () => undefined }),
  })
  await fill(volume, 0, 1, GRAINS)
  await passing(clock, mirror.sync())
  await fill(volume, 0, 2, CHANGED)
  const told = t.rejects(mirror.sync(), GIVEN_UP)
  await isMoving(mirror)
  left = 2
  // Parts of grains are not staged: each needs its own room.
  for (let grain = UNREAD; grain < CHANGED; grain++) await volume.write(grain * G, 1, Buffer.from([3]), 0)
  await told
  t.match(volume.space, { failing: null, sacrifices: 1, lastSacrifice: { name: 'mirror-m-2-image', why: 'disk' } })
  t.match(mirror.status(), { lagBytes: CHANGED * G, problem: /no room/ })
  t.same(await shownAt(target, mirror.shownPoint()!.name), ONES)
  left = Infinity
  mirror.start()
  await recovers({ mirror, clock })
  t.same(await shown(target), await shown(volume))
  t.same((await shown(target)).slice(0, CHANGED), [...Array<number>(UNREAD).fill(2), ...Array<number>(ROOM).fill(3)])
  await mirror.stop()
  for (const one of volumes) await one.close()
})

t.test('several mirrors of one volume: the oldest image first, and only as many as it takes', async t => {
  const { lab, volume, mirror: first, clock, close } = await local(t.testdir())
  const wire = lab.wire = disk(GRAINS)
  const second = await lab.mirror({ name: 'n', volume: 'v', target: URI, bytesPerSecond: RATE })
  await fill(volume, 0, 1, GRAINS)
  await passing(clock, Promise.all([first.sync(), second.sync()]))
  await fill(volume, 0, 2, CHANGED)
  const told = t.rejects(first.sync(), GIVEN_UP)
  await isMoving(first)
  await lab.store.setSpace('v', { budgetBytes: ROOM * G })
  for (let grain = UNREAD; grain < CHANGED - 1; grain++) await fill(volume, grain, 3)
  const cycle = second.sync()
  await isMoving(second)
  const frozen = await shown(volume)
  t.same(images(volume), ['mirror-m-3-image', 'mirror-n-3-image'])
  for (let grain = UNREAD; grain < CHANGED; grain++) await fill(volume, grain, 4)
  await told
  t.same(images(volume), ['mirror-n-3-image'])
  await passing(clock, cycle)
  t.same(await shown(wire), frozen, 'it has delivered what it froze')
  await recovers({ mirror: first, clock })
  t.same(await shown(lab.store.get('w')!), await shown(volume))
  await close()
})

t.test('a group: its cycles end together, the others\' sources keep their images for no longer, and all are as they were', async t => {
  const lab = await Lab.open(t.testdir())
  const sources: StoreVolume[] = []
  for (const name of ['a', 'b']) {
    sources.push(await lab.volume(name, GRAINS))
    for (const target of [1, 2]) await lab.mirror({ name: `${name}${target}`, volume: name, target: `t${name}${target}`, bytesPerSecond: RATE })
  }
  const [a] = sources as [StoreVolume]
  const group = lab.mirrors.together(['a1', 'a2', 'b1', 'b2'])
  for (const source of sources) await fill(source, 0, 1, 4)
  await passing(lab.clock, group.sync())
  for (const source of sources) await fill(source, 0, 2, 4)
  const bases = lab.mirrors.list().map(({ state: { base } }) => base)
  const told = t.rejects(group.sync(), { ...GIVEN_UP, message: /^mirror a[12]: volume a has no room/ })
  for (const mirror of lab.mirrors.list()) await isMoving(mirror)
  t.equal(images(a).length, 1, 'mirrors of one source share it')
  await lab.store.setSpace('a', { budgetBytes: G })
  for (let grain = 0; grain < 4; grain++) await fill(a, grain, 3)
  await told
  t.same(sources.flatMap(images), [])
  t.same(lab.mirrors.list().map(({ state: { base } }) => base), bases)
  for (const mirror of lab.mirrors.list()) t.match(mirror.status(), { phase: 'paired', lagBytes: 4 * G })
  await passing(lab.clock, group.split({ atOnce: false }))
  for (const name of ['a', 'b']) for (const target of [1, 2]) {
    t.same(await shown(lab.store.get(`t${name}${target}`)!), await shown(lab.store.get(name)!))
  }
  await lab.close()
})

t.test('a group of more than ship at a time: an image that waits for its turn goes as well', async t => {
  const lab = await Lab.open(t.testdir())
  const names = Array.from({ length: 18 }, (_, i) => `v${String(i).padStart(2, '0')}`)
  for (const name of names) {
    await lab.volume(name, 4)
    await lab.mirror({ name: `m-${name}`, volume: name, target: `t-${name}`, bytesPerSecond: RATE })
    await fill(lab.store.get(name)!, 0, 1, 4)
  }
  const told = t.rejects(lab.mirrors.together(names.map(name => `m-${name}`)).sync(), GIVEN_UP)
  await until('sixteen ship', () => lab.mirrors.list().filter(mirror => (mirror.status().progress?.totalBytes ?? 0) > 0).length === 16)
  const waiting = lab.mirrors.list().find(mirror => mirror.status().progress?.totalBytes === 0)!
  const volume = lab.store.get(lab.mirrors.sourceOf(waiting))!
  t.equal(images(volume).length, 1)
  await lab.store.setSpace(volume.name, { budgetBytes: 0 })
  await fill(volume, 1, 2)
  await told
  t.match(waiting.status().problem, /no room/)
  t.same(lab.store.list().flatMap(images), [])
  await lab.close()
})

t.test('room is wanted before anybody has the image open: the cycle ends, alone and in a group', async t => {
  const { lab, volume, mirror, clock, setRoom, close } = await local(t.testdir())
  await fill(volume, 0, 1, 8)
  await passing(clock, mirror.sync())
  await fill(volume, 0, 2, 8)
  const { store } = lab
  const [create, together] = [volume.points.create.bind(volume.points), store.createPointsTogether.bind(store)]
  const inBetween = async (): Promise<void> => {
    await setRoom(0)
    await volume.write(0, 1, Buffer.from([3]), 0)
  }
  volume.points.create = async options => {
    const made = await create(options)
    if (options.kind === 'snapshot') await inBetween()
    return made
  }
  await t.rejects(mirror.sync(), GIVEN_UP)
  volume.points.create = create
  store.createPointsTogether = async wanted => {
    const made = await together(wanted)
    await inBetween()
    return made
  }
  await t.rejects(lab.mirrors.together(['m']).sync(), GIVEN_UP)
  store.createPointsTogether = together
  t.same(images(volume), [])
  await setRoom(null)
  await recovers({ mirror, clock })
  t.same(await shown(store.get('w')!), await shown(volume))
  await close()
})

for (const mode of ['async', 'sync'] as const) t.test(`mode ${mode}: the cycle in front of the stream ends, and the stream begins later`, async t => {
  const stand = await local(t.testdir(), { mode })
  const { volume, mirror, clock, lab } = stand
  await fill(volume, 0, 1, 8)
  await until('it has arrived', () => mirror.status().stream?.behindBytes === 0)
  await lab.mirrors.stop()
  await lab.store.close()
  await lab.start()
  const again = lab.mirrors.get('m')
  const source = lab.store.get('v')!
  await again.pause()
  await fill(source, 0, 2, 8)
  await again.resume()
  t.not(again, mirror)
  const told = t.rejects(again.sync(), GIVEN_UP)
  await isMoving(again)
  await lab.store.setSpace('v', { budgetBytes: G })
  for (let grain = 0; grain < 8; grain++) await fill(source, grain, 3)
  await told
  t.same(images(source), [])
  t.match(again.status(), { stream: null, lagBytes: 8 * G, problem: /no room/ })
  await until('it streams', async () => {
    await clock.advance(500)
    return again.status().stream?.inStep === true && again.status().stream!.behindBytes === 0
  })
  await fill(source, 9, 4)
  await until('it has arrived', async () => (await shown(lab.store.get('w')!))[9] === 4)
  t.same(await shown(lab.store.get('w')!), await shown(source))
  await lab.close()
})

for (const mode of ['periodic', 'async'] as const) t.test(`mode ${mode}: what a verification compares is given up as well`, async t => {
  const stand = await local(t.testdir(), { mode, bytesPerSecond: null })
  const { volume, mirror, lab } = stand
  await fill(volume, 0, 1, 8)
  await mirror.sync()
  const { target } = mirror
  const hold = target.hold.bind(target)
  let reach = (): void => undefined
  const reached = new Promise<void>(resolve => { reach = resolve })
  let go = (): void => undefined
  const gone = new Promise<void>(resolve => { go = resolve })
  target.hold = async (...wanted) => {
    const held = await hold(...wanted)
    reach()
    await gone
    return held
  }
  const told = t.rejects(mirror.verify(), GIVEN_UP)
  await reached
  t.equal(images(volume).length, 1, 'it stays open for the comparison')
  await lab.store.setSpace('v', { budgetBytes: G })
  for (let grain = 0; grain < 8; grain++) await volume.write(grain * G, 1, Buffer.from([3]), 0)
  t.match(volume.space, { failing: null, sacrifices: 1, lastSacrifice: { name: /-image$/ } })
  go()
  await told
  await mirror.sync()
  t.same(await shown(lab.store.get('w')!), await shown(volume))
  t.same(await mirror.verify(), [])
  await stand.close()
})

t.test('a snapshot that is carried is somebody\'s: it stays, and the write is refused', async t => {
  const stand = await local(t.testdir(), { keepSnapshots: 2 })
  const { volume, mirror, clock } = stand
  await fill(volume, 0, 1, 8)
  await passing(clock, mirror.sync())
  await fill(volume, 0, 2, 8)
  await volume.points.create({ name: 'mine', kind: 'snapshot' })
  const cycle = mirror.sync()
  await isMoving(mirror)
  t.match(volume.points.get('mine')!.pins, [{ owner: 'mirror m' }])
  await stand.setRoom(1)
  await volume.write(0, 1, Buffer.from([3]), 0)
  await t.rejects(async () => volume.write(G, 1, Buffer.from([3]), 0), { code: 'no-space' })
  t.ok(volume.points.get('mine'))
  t.equal(volume.space!.sacrifices, 0)
  await passing(clock, cycle)
  t.same(await shownAt(volume, 'mine'), await shownAt(stand.lab.store.get('w')!, 'mine'))
  await stand.close()
})

t.test("order 'fail': the write is refused, and the cycle goes on", async t => {
  const stand = await local(t.testdir())
  const { volume, mirror, clock, lab } = stand
  await fill(volume, 0, 1, 8)
  const cycle = mirror.sync()
  await isMoving(mirror)
  await lab.store.setSpace('v', { budgetBytes: G, order: 'fail' })
  await volume.write(6 * G, 1, Buffer.from([3]), 0)
  await t.rejects(async () => volume.write(7 * G, 1, Buffer.from([3]), 0), { code: 'no-space' })
  await passing(clock, cycle)
  t.match(mirror.status(), { problem: null, lagBytes: G })
  await volume.write(7 * G, 1, Buffer.from([3]), 0)
  await stand.close()
})
