// Content roots: what a target lost or changed by itself is found by the cycle, named, not declared, and repaired (SEEDS X14).
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import { ManualClock, MemoryDisk, seededRandom } from '../../src/device/testing.js'
import { portionsOf, REGION_BYTES_MIN, regionBytesOf } from '../../src/replication/content-digest.js'
import { digestsOf, SentContent } from '../../src/replication/content-roots.js'
import type { Mirror } from '../../src/replication/mirror.js'
import { ship } from '../../src/replication/ship.js'
import type { VolumeTarget } from '../../src/replication/volume-target.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { disk, fill, G, Lab, shown, unheard, URI, Wire } from './lab.js'
import { changed, PeerLab } from './peer-lab.js'

const REGION = REGION_BYTES_MIN
const GRAINS = 3 * REGION / G
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
/** Timers of the store do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))
t.setTimeout(240_000)

/** Every other write from here on is lost, or has one bit another one; until what it answers is called. */
function lie(volume: StoreVolume, how: 'lose' | 'flip', grain: number): () => void {
  const write = volume.write.bind(volume)
  volume.write = (offset, length, from, at, origin) => {
    if (offset > grain * G || offset + length <= grain * G) return write(offset, length, from, at, origin)
    const other = Buffer.from(from.subarray(at, at + length))
    if (how === 'flip') other[grain * G - offset + 100]! ^= 4
    else return undefined
    return write(offset, length, other, 0, origin)
  }
  return () => { volume.write = write }
}

const rules = (mirror: Mirror): string[] => mirror.status().decisions.map(({ rule }) => rule)

for (const how of ['lose', 'flip'] as const) {
  t.test(`a volume of the same store that does ${how} a write`, async t => {
    const lab = await Lab.open(t.testdir())
    const volume = await lab.volume('v', GRAINS)
    await fill(volume, 0, 1, GRAINS)
    const mirror = await lab.mirror({ volume: 'v', target: 'w' })
    const target = lab.store.get('w')!
    const before = (mirror.target as VolumeTarget).declaredPoint()!
    t.equal(before.labels['root'], mirror.state.base!.root, 'both sides have the root')
    await fill(volume, 10, 2)
    await fill(volume, 300, 3)
    await fill(volume, 700, 4)
    const asBefore = lie(target, how, 300)
    await t.rejects(mirror.sync(), { code: 'damaged', message: /1 region differs, the first is 4096 bytes at 1228800/ })
    t.equal((mirror.target as VolumeTarget).declaredPoint()!.uuid, before.uuid, 'nothing is declared')
    t.match(mirror.state, { phase: 'resyncing', base: null })
    t.match(mirror.status().problem, /does not hold what was sent/)
    t.match(mirror.status().decisions.at(-1), { rule: 'root-mismatch', inputs: { regions: 1, first: 300 * G, bytes: G } })
    await t.rejects(mirror.sync(), { code: 'damaged' }, 'as long as it lies')
    asBefore()
    const next = await lab.killed()
    t.match(next.mirrors.get('m').state, { phase: 'resyncing', base: null }, 'known over a kill')
    await next.close()
    await mirror.sync()
    t.match(mirror.status(), { phase: 'paired', problem: null, last: { data: G } }, 'only what differs is sent again')
    t.same(await shown(target), await shown(volume))
    t.equal((mirror.target as VolumeTarget).declaredPoint()!.labels['root'], mirror.state.base!.root)
    await lab.close()
  })

  t.test(`a peer's volume that does ${how} a write`, async t => {
    const lab = await PeerLab.open(t.testdir())
    const volume = await lab.source('v', GRAINS)
    const mirror = await lab.mirror()
    const root = mirror.state.base!.root
    t.match(root, /^[0-9a-f]{64}$/)
    const target = lab.far.store.get('w')!
    await fill(volume, 10, 2)
    await fill(volume, 300, 3)
    const asBefore = lie(target, how, 300)
    await t.rejects(mirror.sync(), { code: 'damaged', message: /1 region differs, the first is 4096 bytes at 1228800/ })
    t.same(await lab.far.seen('w'), Array.from({ length: GRAINS }, () => 1), 'clients see the declared point')
    asBefore()
    await mirror.sync()
    t.match(mirror.status(), { phase: 'paired', problem: null, last: { data: G } })
    t.same(await shown(target), await shown(volume))
    t.equal(target.points.list().at(-1)!.labels['root'], mirror.state.base!.root)
    t.not(mirror.state.base!.root, root)
    t.same(mirror.status().unguarded, [])
    await lab.close()
  })
}

t.test('a first copy that lost something is compared, and stays a first copy', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  await fill(volume, 0, 1, GRAINS)
  const target = await lab.volume('w', GRAINS)
  const asBefore = lie(target, 'lose', 5)
  const mirror = await lab.mirrors.create(
    { name: 'm', volume: 'v', target: 'w', intervalSeconds: 3600, lagBytes: null, bytesPerSecond: null, overwrite: false })
  await t.rejects(mirror.sync(), { code: 'damaged' })
  t.match(mirror.state, { phase: 'copying', blank: false, base: null })
  asBefore()
  await mirror.sync()
  t.same(await shown(target), await shown(volume))
  t.match(rules(mirror).at(-1), 'compare-all')
  await lab.close()
})

t.test('a target whose first point nobody has heard of, and that loses something then, is compared as well', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  await fill(volume, 0, 1, GRAINS)
  const target = await lab.volume('w', GRAINS)
  const mirror = await lab.mirrors.create(
    { name: 'm', volume: 'v', target: 'w', intervalSeconds: 3600, lagBytes: null, bytesPerSecond: null, overwrite: false })
  await unheard(t, lab, mirror)
  await fill(volume, 7, 2)
  await fill(volume, 9, 2)
  const asBefore = lie(target, 'lose', 9)
  await t.rejects(mirror.sync(), { code: 'damaged' })
  asBefore()
  await mirror.sync()
  t.same(rules(mirror).slice(-4), ['acknowledgement-lost', 'changed-since-base', 'root-mismatch', 'compare-all'])
  t.same(await shown(target), await shown(volume))
  await lab.close()
})

t.test('the same point by name, another root: everything is compared', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  await fill(volume, 0, 1, GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: 'w' })
  const { target } = mirror
  const open = target.open.bind(target)
  target.open = async wish => ({ ...await open(wish), root: 'ab'.repeat(32) })
  await fill(volume, 1, 2)
  await mirror.sync()
  t.match(rules(mirror).slice(-2), ['root-differs', 'compare-all'])
  t.match(mirror.status().last, { differing: GRAINS * G, data: G })
  await lab.close()
})

t.test('the acknowledgement of a commit is lost: the root goes on from the target\'s', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  await fill(volume, 0, 1, GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: 'w' })
  await fill(volume, 3, 7)
  const put = lab.store.putMirror.bind(lab.store)
  lab.store.putMirror = async () => { throw new NbdeltaError('io', 'cut off') }
  await t.rejects(mirror.sync(), /cut off/)
  lab.store.putMirror = put
  const root = (mirror.target as VolumeTarget).declaredPoint()!.labels['root']
  await mirror.sync()
  const empty = new SentContent([], REGION)
  t.equal(mirror.state.base!.root, empty.root(root!))
  t.equal(rules(mirror).includes('root-differs'), false)
  await lab.close()
})

t.test('an older peer, and a plain server, cannot tell: they say so, and go on', async t => {
  const lab = await PeerLab.open(t.testdir())
  const calls: string[] = []
  lab.near.onLink = link => changed(link, async (method, params, go) => {
    calls.push(method)
    if (method === 'commit') t.notOk('root' in params, 'it would be refused')
    const answer = await go()
    if (method !== 'attach') return answer
    const { can: _, root: __, ...old } = answer as Record<string, unknown>
    return old
  })
  const volume = await lab.source('v', GRAINS)
  const mirror = await lab.mirror()
  await fill(volume, 3, 3)
  await mirror.sync()
  t.same(await shown(lab.far.store.get('w')!), await shown(volume))
  t.match(mirror.status().unguarded, [/older and does not tell/])
  t.notOk(calls.includes('digest'))
  t.equal(mirror.state.base!.root, null)
  await lab.close()
  const plain = await Lab.open(t.testdir())
  await plain.volume('v', 8)
  plain.wire = disk(8)
  const other = await plain.mirror({ volume: 'v', target: URI })
  t.ok(other.status().unguarded.some(words => /does not tell what it holds/.test(words)))
  t.equal(other.state.base!.root, null)
  await plain.close()
})

t.test('digests over a link: what is out of turn, in disorder or too much is refused', async t => {
  const lab = await PeerLab.open(t.testdir())
  const volume = await lab.source('v', GRAINS)
  const mirror = await lab.mirror()
  const link = await lab.far.dial('w')
  const { uuid, name } = mirror.record
  const attached = await link.call('attach', {
    mirror: { uuid, name }, source: { uuid: volume.uuid, name: 'v' }, above: [], epoch: 1, sizeBytes: GRAINS * G, grainBytes: G,
    overwrite: false, create: false, volume: 'w',
  })
  t.match(attached, { can: ['digest'], root: mirror.state.base!.root })
  const ask = (runs: unknown, regionBytes: number = REGION) => link.call('digest', { runs, regionBytes })
  await t.rejects(ask([[0, 1]]), { code: 'wrong-state' }, 'no cycle was begun')
  const point = { uuid: '55555555-1111-4111-8111-111111111111', cycle: 9, sizeBytes: GRAINS * G }
  await link.call('begin', { point, keep: false, seen: null })
  for (const runs of [[], [[1, 1]], [[2, 1]], [[3, 4], [2, 3]], [[0, 2], [1, 3]], [[0, GRAINS + 1]], 'x']) {
    await t.rejects(ask(runs), { code: 'bad-argument' }, JSON.stringify(runs))
  }
  await t.rejects(ask([[0, 1]], REGION - 1), { code: 'bad-argument' })
  await t.rejects(ask([[0, 1]], REGION + 4096), { code: 'bad-argument' })
  const { portions } = await ask([[1, 2], [255, 257]]) as { portions: [number, number, string][] }
  t.same(portions.map(([start, end]) => [start, end]), [[G, 256 * G], [256 * G, 257 * G]])
  const ours: string[] = []
  const runs = [{ start: G, end: 2 * G }, { start: 255 * G, end: 257 * G }]
  for await (const { digest } of digestsOf(volume, portionsOf(runs, REGION))) ours.push(digest.toString('hex'))
  t.same(portions.map(([, , digest]) => digest), ours)
  link.close()
  await lab.close()
})

t.test('what a peer tells that it was not asked is refused', async t => {
  const lab = await PeerLab.open(t.testdir())
  await lab.source('v', GRAINS)
  let change = (portions: unknown[]): unknown[] => portions
  lab.near.onLink = link => changed(link, async (method, _, go) => {
    const answer = await go()
    return method === 'digest' ? { portions: change((answer as { portions: unknown[] }).portions) } : answer
  })
  const mirror = await lab.near.mirrors.create(lab.options('w'))
  change = portions => portions.slice(1)
  await t.rejects(mirror.sync(), { code: 'bad-peer' })
  change = portions => [[0, 1, 'ab'.repeat(32)], ...portions.slice(1)]
  await t.rejects(mirror.sync(), { code: 'bad-peer' })
  change = portions => portions.map(() => [0, 1, 'short'])
  await t.rejects(mirror.sync(), { code: 'bad-peer' })
  change = portions => portions
  await mirror.sync()
  await lab.close()
})

t.test('what is shipped is told in order, whichever piece is read first', async t => {
  t.comment(`seed ${SEED}`)
  const random = seededRandom(SEED)
  const size = 12 * REGION
  const source = new MemoryDisk(size)
  for (let at = 0; at < size; at += 64 * 1024) if (random(3) > 0) source.write(at, 64 * 1024, Buffer.alloc(64 * 1024, 1 + random(255)), 0)
  const zeroRun = (offset: number, length: number): number => source.zeroRun(offset, length)
  const slow = {
    zeroRun,
    read: async (offset: number, length: number, into: Buffer, at: number): Promise<void> => {
      for (let turns = random(20); turns > 0; turns--) await new Promise<void>(resolve => { setImmediate(resolve) })
      await source.read(offset, length, into, at)
    },
  }
  const failing = { zeroRun, read: async (offset: number): Promise<void> => { throw new Error(`no ${offset}`) } }
  const runs = [{ start: G, end: 5 * REGION }, { start: 6 * REGION - G, end: size }]
  for (const compare of [false, true]) {
    const target = new Wire(new MemoryDisk(size))
    const sent = new SentContent(runs, regionBytesOf(size))
    const options = { runs, compare, blank: false, bytesPerSecond: null, clock: new ManualClock(), onProgress: () => undefined, sent }
    await ship({ ...options, source: slow, target, signal: new AbortController().signal })
    t.same(await sent.differing(digestsOf(target, portionsOf(runs, REGION))), { first: [], count: 0 })
    const broken = new SentContent(runs, REGION)
    await t.rejects(ship({ ...options, sent: broken, source: failing, target, signal: new AbortController().signal }), /^no /, 'and nobody hangs')
  }
})
