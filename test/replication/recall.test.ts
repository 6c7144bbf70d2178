// Snapshots that a mirror carries to its target, and restores that cross by reference: proved by content, never by name (SEEDS C20, C10).
import type { Test } from 'tap'
import { NbdeltaError, type StoreVolume } from '../../src/index.js'
import type { Mirror } from '../../src/replication/mirror.js'
import { fill, G, type Lab, onWrite, shown, shownAt, URI } from './lab.js'
import { changed } from './peer-lab.js'
import {
  CHANGED, contentOf, copies, decided, flipBit, here, MIB, noise, peers, REFERENCE_BYTES_MAX, restored, seen, SIZE, snapshotOf, stand, test,
} from './recall-lab.js'

const GRAINS = SIZE / G

/** `v` of ones, mirrored to `w`, which keeps three snapshots. */
async function hereKeeping(t: Test): Promise<{
  readonly lab: Lab, readonly volume: StoreVolume, readonly mirror: Mirror, readonly target: StoreVolume
}> {
  const lab = await here(t)
  const volume = await lab.volume('v', 8)
  await fill(volume, 0, 1, 8)
  const mirror = await lab.mirror({ volume: 'v', target: 'w', keepSnapshots: 3 })
  return { lab, volume, mirror, target: lab.store.get('w')! }
}

test('a restore crosses as a reference: digests, and no content (C20)', async t => {
  const { lab, volume, mirror, target, wanted, link } = await stand(t)
  t.same(copies(target), ['s'])
  t.ok((await snapshotOf(target, 's')).equals(wanted), 'the peer has the snapshot, exactly')
  await restored(volume)
  const written = { bytes: 0 }
  const asBefore = onWrite(target, (_, length) => { written.bytes += length })
  await mirror.sync()
  asBefore()
  const bytes = CHANGED.to - CHANGED.from + G
  t.match(mirror.status(), { problem: null, last: { data: 0, zeros: 0, equal: bytes, differing: bytes } })
  t.match(decided(mirror, 'restore-by-reference'), {
    inputs: { point: volume.points.get('s')!.uuid, bytes, equalBytes: bytes, equalPortions: 13 }, outcome: 'nothing of it is sent' })
  t.ok(link.bytes < REFERENCE_BYTES_MAX, `${link.bytes} bytes crossed`)
  t.ok(written.bytes > 8 * MIB, 'the peer has copied it')
  t.ok((await contentOf(volume)).equals(wanted))
  t.ok((await seen({ lab, target })).equals(wanted))
  t.equal(lab.far.secondaries.declaredPoint(target.uuid)!.labels['root'], mirror.state.base!.root)
  t.same(await mirror.verify(), [])
})

test('what was written since the restore is sent, and a little around it', async t => {
  const { lab, volume, mirror, target } = await stand(t)
  await restored(volume)
  await fill(volume, 1030, 5)
  await fill(volume, 2500, 6, 2)
  await mirror.sync()
  const { data, equal } = mirror.status().last!
  t.ok(data >= 3 * G && data <= 4 * 64 * 1024, `${data} bytes were sent`)
  t.ok(equal >= 11 * MIB)
  t.match(decided(mirror, 'restore-by-reference'), { outcome: /bytes are not in the target's copy, by their digests, and are sent/ })
  t.ok((await seen({ lab, target })).equals(await contentOf(volume)))
})

test('the copy at the peer is not what it was: that is found by its content, and sent (C20)', async t => {
  const there = await stand(t)
  const { lab, volume, mirror, target, wanted } = there
  await flipBit(t, there, 5 * MIB)
  t.notOk((await snapshotOf(target, 's')).equals(wanted))
  await restored(volume)
  await mirror.sync()
  t.match(mirror.status(), { phase: 'paired', problem: null, last: { data: 64 * 1024 } }, 'a small portion around it')
  t.ok((await seen({ lab, target })).equals(wanted))
  t.same(await mirror.verify(), [])
})

test('a copy of the right name and uuid with other data: all of that is sent (C20)', async t => {
  const { lab, volume, mirror, target, wanted } = await stand(t)
  const open = target.points.open.bind(target.points)
  target.points.open = name => {
    const device = open(name)
    if (name !== 's') return device
    const read = device.read.bind(device)
    device.read = async (offset, length, into, at) => {
      await read(offset, length, into, at)
      for (let unit = 0; unit < length; unit += G) into[at + unit]! ^= 1
    }
    return device
  }
  await restored(volume)
  await mirror.sync()
  target.points.open = open
  t.match(mirror.status().last, { data: 9 * MIB, zeros: 0, equal: 3 * MIB + G }, 'but holes, which are the same')
  t.match(decided(mirror, 'restore-by-reference'), { inputs: { equalPortions: 4 }, outcome: /^9437184 bytes .* by their digests, and are sent/ })
  t.ok((await seen({ lab, target })).equals(wanted))
})

test('no copy of that snapshot at the peer, and a peer that keeps none: it is sent (C20)', async t => {
  const { lab, volume, mirror, target, wanted } = await stand(t)
  await target.points.unpin('s', 'mirror m')
  await target.points.delete('s')
  await restored(volume)
  await mirror.sync()
  t.match(decided(mirror, 'restore-sent'), { outcome: /no copy of that snapshot/ })
  t.ok(mirror.status().last!.data > 8 * MIB)
  t.ok((await seen({ lab, target })).equals(wanted))
  const calls: string[] = []
  lab.near.onLink = link => changed(link, async (method, params, go) => {
    calls.push(method)
    if (method === 'commit') t.notOk('kept' in params || 'snapshot' in params, 'it would be refused')
    const answer = await go() as { can?: string[] }
    return method === 'attach' ? { ...answer, can: ['digest', 'stream'] } : answer
  })
  await volume.points.create({ name: 'again', kind: 'snapshot' })
  await volume.write(2 * MIB, MIB, noise(MIB), 0)
  await mirror.sync()
  await volume.points.create({ name: 'third', kind: 'snapshot' })
  await (await volume.restore({ from: 'again' })).finished
  await mirror.sync()
  t.notOk(calls.includes('recall'))
  t.match(decided(mirror, 'restore-sent'), { outcome: /keeps no snapshots/ })
  t.match(decided(mirror, 'snapshots-not-kept'), { inputs: { snapshots: 1 } })
  t.ok((await seen({ lab, target })).equals(await contentOf(volume)))
})

for (const how of ['the answer is lost', 'the peer is killed in the middle', 'its disk fails in the middle'] as const) {
  test(`by reference, and ${how}: the secondary is at its declared point; the next cycle completes it (C10)`, async t => {
    const { lab, volume, mirror, wanted, ...rest } = await stand(t)
    const before = await seen({ lab, target: rest.target })
    await restored(volume)
    let asBefore = (): void => undefined
    if (how === 'the answer is lost') {
      lab.near.onLink = link => changed(link, async (method, _, go) => {
        const answer = await go()
        if (method !== 'recall') return answer
        link.close()
        throw new NbdeltaError('unreachable', 'cut off')
      })
    } else {
      let left = 10
      asBefore = onWrite(rest.target, () => { if (--left < 0) throw new NbdeltaError('io', 'the disk is gone') })
    }
    await t.rejects(mirror.sync())
    asBefore()
    lab.near.onLink = link => link
    t.notOk((await contentOf(rest.target)).equals(before), 'something of it was copied')
    t.ok((await seen({ lab, target: rest.target })).equals(before), 'clients see the declared point')
    if (how === 'the peer is killed in the middle') await lab.far.restart()
    const target = lab.far.store.get('w')!
    t.ok((await seen({ lab, target })).equals(before))
    await mirror.sync()
    t.match(mirror.status(), { problem: null, last: { data: 0, zeros: 0 } }, 'by reference still')
    t.ok((await seen({ lab, target })).equals(wanted))
    })
}

test('recall over a link: what is out of turn or in disorder is refused', async t => {
  const { lab, volume, mirror } = await stand(t)
  const link = await lab.far.dial('w')
  const { uuid, name } = mirror.record
  t.match(await link.call('attach', {
    mirror: { uuid, name }, source: { uuid: volume.uuid, name: 'v' }, above: [], epoch: 1, sizeBytes: SIZE, grainBytes: G,
    overwrite: false, create: false, volume: 'w',
  }), { can: ['digest', 'stream', 'reverse', 'snapshots', 'hold', 'recall'] })
  const point = volume.points.get('s')!.uuid
  const digest = 'ab'.repeat(32)
  const ask = (more: object): Promise<unknown> => link.call('recall', { point, runs: [[0, 1]], regionBytes: MIB, digests: [digest], ...more })
  await t.rejects(ask({}), { code: 'wrong-state' }, 'no cycle was begun')
  await link.call('begin', { point: { uuid: '55555555-1111-4111-8111-111111111111', cycle: 99, sizeBytes: SIZE }, keep: false, seen: null })
  for (const wrong of [
    { runs: [] }, { runs: [[1, 1]] }, { runs: [[0, GRAINS + 1]] }, { runs: [[0, 1], [256, 257]] }, { digests: [] }, { digests: ['x'] },
    { digests: [digest, digest] }, { regionBytes: 4096 }, { regionBytes: MIB + 4096 }, { point: 's' },
  ]) await t.rejects(ask(wrong), { code: 'bad-argument' }, JSON.stringify(wrong))
  t.same(await ask({}), { same: [false] })
  t.same(await ask({ point: '66666666-1111-4111-8111-111111111111' }), { same: null })
  link.close()
})

test('snapshots are carried exactly, in order, the newest so many, as long as the source has them', async t => {
  const lab = await peers(t)
  const volume = await lab.source('v', 8)
  await volume.points.create({ name: 'old', kind: 'snapshot' })
  await fill(volume, 0, 2)
  await volume.points.create({ name: 'older', kind: 'snapshot' })
  await fill(volume, 1, 2)
  await volume.points.create({ name: 'newest', kind: 'snapshot', labels: { auto: 'schedule' } })
  await fill(volume, 2, 2)
  const mirror = await lab.mirror({ keepSnapshots: 2 })
  const target = lab.far.store.get('w')!
  const images = async (): Promise<Record<string, number[]>> => {
    const all: Record<string, number[]> = {}
    for (const name of copies(target)) all[name] = await shownAt(target, name)
    return all
  }
  t.same(await images(), { older: [2, 1, 1, 1, 1, 1, 1, 1], newest: [2, 2, 1, 1, 1, 1, 1, 1] })
  t.same(await lab.far.seen('w'), [2, 2, 2, 1, 1, 1, 1, 1])
  t.equal(mirror.status().cycle, 3)
  await (await volume.restore({ from: 'old' })).finished
  await volume.points.create({ name: 'bookmark', kind: 'bookmark' })
  await volume.points.create({ name: 'after', kind: 'snapshot' })
  await fill(volume, 3, 3)
  await mirror.sync()
  t.same(await images(), { newest: [2, 2, 1, 1, 1, 1, 1, 1], after: Array.from({ length: 8 }, () => 1) })
  t.equal(volume.points.get('after')!.pins.length, 0, 'it is base no more')
  await volume.points.delete('newest')
  await volume.points.rename('after', 'renamed')
  await fill(volume, 4, 3)
  await mirror.sync()
  t.same(Object.keys(await images()), ['after'], 'what the source has no more goes; names are of the beginning')
  await lab.far.secondaries.promote('w')
  await lab.far.secondaries.forget('w')
  t.same(await images(), { after: Array.from({ length: 8 }, () => 1) }, 'the copy is the volume\'s own')
  t.same(target.points.get('after')!.pins, [])
  t.notOk(target.points.list().some(({ labels }) => labels['mirror']), 'and nobody takes it for what a mirror has declared')
})

test('a snapshot is taken in the middle of a freeze, or gone when its turn comes; a copy of its name is there already', async t => {
  const { volume, mirror, target } = await hereKeeping(t)
  await target.points.create({ name: 'between', kind: 'snapshot' })
  const create = volume.points.create.bind(volume.points)
  let once = true
  volume.points.create = async options => {
    if (options.name.endsWith('-image') && once) {
      once = false
      await create({ name: 'between', kind: 'snapshot' })
      await fill(volume, 5, 6)
    }
    return create(options)
  }
  await fill(volume, 1, 2)
  await mirror.sync()
  t.same(copies(target), ['between.2'], 'it is carried before the point of this cycle')
  t.same(await shownAt(target, 'between.2'), [1, 2, 1, 1, 1, 1, 1, 1])
  t.same(await shown(target), await shown(volume))
  await fill(volume, 1, 3)
  await create({ name: 'gone', kind: 'snapshot' })
  const pin = volume.points.pin.bind(volume.points)
  volume.points.pin = async (name, ...rest) => {
    if (name === 'gone') await volume.points.delete(name)
    return pin(name, ...rest)
  }
  await mirror.sync()
  t.same(copies(target), ['between.2'])
  t.same(await shown(target), await shown(volume))
  volume.points.pin = pin
  await fill(volume, 1, 4)
  const open = mirror.target.open.bind(mirror.target)
  mirror.target.open = async wish => {
    const session = await open(wish)
    mirror.target.open = open
    await create({ name: 'late', kind: 'snapshot' })
    return session
  }
  await mirror.sync()
  t.same(copies(target), ['between.2', 'late'])
})

test('a snapshot in the middle of a freeze that the target is not to keep: nothing goes back to it when it is to (C1)', async t => {
  const lab = await here(t)
  const volume = await lab.volume('v', 8)
  const mirror = await lab.mirror({ volume: 'v', target: 'w', keepSnapshots: 1 })
  const target = lab.store.get('w')!
  const create = volume.points.create.bind(volume.points)
  volume.points.create = async options => {
    if (!options.name.endsWith('-image')) return create(options)
    volume.points.create = create
    await create({ name: 'between', kind: 'snapshot' })
    await fill(volume, 5, 6)
    const image = await create(options)
    await create({ name: 'behind', kind: 'snapshot' })
    return image
  }
  await fill(volume, 1, 2)
  await mirror.sync()
  t.same(copies(target), ['behind'])
  await volume.points.delete('behind')
  const { cycle } = mirror.status()
  await fill(volume, 2, 3)
  await mirror.sync()
  t.equal(mirror.status().cycle, cycle + 1, 'one cycle, and none to what is older')
  t.same(copies(target), [])
  t.same(await shown(target), await shown(volume))
})

test('the record of a carried snapshot fails behind its commit: the next cycle goes on from it, and makes no second copy', async t => {
  const { lab, volume, mirror, target } = await hereKeeping(t)
  await fill(volume, 1, 2)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await fill(volume, 2, 3)
  const put = lab.store.putMirror.bind(lab.store)
  lab.store.putMirror = async () => { throw new NbdeltaError('io', 'cut off') }
  await t.rejects(mirror.sync(), /cut off/)
  lab.store.putMirror = put
  await t.rejects(volume.points.delete('s'), { code: 'busy', message: /mirror m/ }, 'it may be the base')
  await mirror.sync()
  t.ok(decided(mirror, 'acknowledgement-lost'))
  t.same(copies(target), ['s'])
  t.match(mirror.status().last, { data: G }, 'what the target had is not sent again')
  await volume.points.delete('s')
  await fill(volume, 2, 4)
  await mirror.sync()
  t.same([copies(target), await shown(target)], [[], await shown(volume)])
})

test('a volume of the same store takes a restore from its own copy', async t => {
  const lab = await here(t)
  const volume = await lab.volume('v', 64)
  await fill(volume, 0, 1, 64)
  const mirror = await lab.mirror({ volume: 'v', target: 'w', keepSnapshots: 1 })
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await fill(volume, 8, 2, 40)
  await mirror.sync()
  await restored(volume)
  await mirror.sync()
  t.match(mirror.status().last, { data: 0, equal: 40 * G })
  t.ok(decided(mirror, 'restore-by-reference'))
  t.same(await shown(lab.store.get('w')!), await shown(volume))
})

test('targets that cannot keep snapshots refuse to', async t => {
  const lab = await here(t)
  await lab.volume('v', 8)
  const options = { name: 'm', volume: 'v', target: 'w', intervalSeconds: 60, lagBytes: null, bytesPerSecond: null, overwrite: false, keepSnapshots: 1 }
  await t.rejects(lab.mirrors.create({ ...options, target: URI }), { code: 'bad-argument' })
  t.equal(lab.store.get('w'), undefined)
  await t.rejects(lab.mirrors.create({ ...options, keepSnapshots: 101 }), { code: 'bad-argument' })
})
