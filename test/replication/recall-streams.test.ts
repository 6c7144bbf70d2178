// Modes async and sync: snapshots that are declared among the changes, and restores by reference in their place of the order (SEEDS C16-C20).
import { setTimeout } from 'node:timers/promises'
import { NbdeltaError, type StoreVolume } from '../../src/index.js'
import type { Mirror } from '../../src/replication/mirror.js'
import { arrived, until } from './held.js'
import { fill, G, onWrite, shown, shownAt } from './lab.js'
import { changed } from './peer-lab.js'
import {
  CHANGED, contentOf, copies, decided, flipBit, here, MIB, peers, REFERENCE_BYTES_MAX, restored, seen, SIZE, snapshotOf, stand, test,
} from './recall-lab.js'

const MODES = ['async', 'sync'] as const
const ONES = Array.from({ length: 8 }, () => 1)

const streamed = (mirror: Mirror): boolean => !mirror.status().decisions.some(({ rule }) => rule === 'stream-ended')

/** Snapshots have been declared, and none is the base: that has a point of the mirror's own. */
async function settled(mirror: Mirror, volume: StoreVolume): Promise<void> {
  await arrived(mirror)
  await until('the mirror has gone on from them', () =>
    volume.points.list().some(({ uuid, kind }) => kind === 'bookmark' && uuid === mirror.state.base?.point))
  await mirror.inTurn(undefined, async () => undefined, false)
}

async function images(target: StoreVolume): Promise<Record<string, number[]>> {
  const all: Record<string, number[]> = {}
  for (const name of copies(target)) all[name] = await shownAt(target, name)
  return all
}

for (const mode of MODES) {
  test(`${mode}: a restore crosses as a reference, between the writes before and behind it (C16, C20)`, async t => {
    const { lab, volume, mirror, target, wanted, link } = await stand(t, mode)
    t.same(copies(target), ['s'])
    t.ok((await snapshotOf(target, 's')).equals(wanted), 'the peer has the snapshot, exactly')
    t.same(volume.points.get('s')!.pins, [], 'and the mirror has gone on from it')
    const before = fill(volume, 2000, 5)
    await restored(volume)
    await Promise.all([before, fill(volume, 2001, 6), fill(volume, 100, 7)])
    await arrived(mirror)
    const expected = Buffer.from(wanted)
    expected.fill(6, 2001 * G, 2002 * G)
    expected.fill(7, 100 * G, 101 * G)
    t.ok((await contentOf(volume)).equals(expected))
    t.ok((await contentOf(target)).equals(expected), 'the peer has followed')
    t.equal(link.dataBytes, 3 * G, 'of data, the three writes')
    t.ok(link.bytes < REFERENCE_BYTES_MAX, `${link.bytes} bytes crossed`)
    const bytes = CHANGED.to - CHANGED.from + G
    t.match(decided(mirror, 'restore-by-reference'), { inputs: { bytes, equalBytes: bytes, equalPortions: 13 }, outcome: 'nothing of it is sent' })
    await mirror.sync()
    t.match(mirror.status(), { problem: null, last: { data: 3 * G, zeros: 0, equal: bytes, differing: 3 * G + bytes } })
    t.ok((await seen({ lab, target })).equals(expected), 'so has the declared point')
    t.ok((await snapshotOf(target, 's')).equals(wanted), 'and the copy is what it was')
    t.same(await mirror.verify(), [])
    t.ok(streamed(mirror), 'in one stream')
  })

  test(`${mode}: while it is taken, what came before is shown, and what came behind is not there (C16, S1)`, async t => {
    const { lab, volume, mirror, target, wanted } = await stand(t, mode)
    // A new stream, over a link that is held.
    let [asked, go] = [false, (): void => undefined]
    const held = new Promise<void>(resolve => { go = resolve })
    await mirror.pause()
    lab.near.onLink = link => changed(link, async (method, _, call) => {
      const answer = await call()
      asked ||= method === 'recall'
      if (method === 'recall') await held
      return answer
    })
    await mirror.resume()
    await mirror.sync()
    await arrived(mirror)
    await fill(volume, 3000, 5)
    const before = await contentOf(volume)
    await restored(volume)
    await fill(volume, 3001, 6)
    await until('the peer is asked', () => asked)
    t.ok((await seen({ lab, target })).equals(before), 'clients see what was there before, whole')
    t.notOk((await contentOf(target)).equals(before), 'something of it was copied')
    t.notOk((await contentOf(target)).subarray(3001 * G, 3002 * G).equals(Buffer.alloc(G, 6)), 'what came behind is not there')
    t.notOk(mirror.status().stream!.inStep)
    t.ok(mirror.status().stream!.behindBytes >= CHANGED.to - CHANGED.from + G, 'the restore counts as behind (C22)')
    go()
    await arrived(mirror)
    const expected = Buffer.from(wanted)
    expected.fill(6, 3001 * G, 3002 * G)
    t.ok((await contentOf(target)).equals(expected))
    t.ok(streamed(mirror))
  })

  test(`${mode}: the copy is not what it was: what differs is found by its content, and sent in its place (C20)`, async t => {
    const there = await stand(t, mode)
    const { volume, mirror, target, wanted, link } = there
    await flipBit(t, there, 5 * MIB)
    t.notOk((await snapshotOf(target, 's')).equals(wanted))
    await restored(volume)
    await fill(volume, 5 * MIB / G + 1, 6)
    await arrived(mirror)
    t.equal(link.dataBytes, 64 * 1024 + G, 'a small portion around it, and the write')
    const expected = Buffer.from(wanted)
    expected.fill(6, 5 * MIB + G, 5 * MIB + 2 * G)
    t.ok((await contentOf(target)).equals(expected))
    t.ok((await contentOf(volume)).equals(expected))
    t.same(await mirror.verify(), [])
    t.ok(streamed(mirror))
  })

  for (const how of ['the answer is lost', 'the peer\'s disk fails in the middle', 'the peer is killed in the middle'] as const) {
    test(`${mode}: by reference, and ${how}: what came before is shown; a cycle completes it by reference (C10, C19)`, async t => {
      const { lab, volume, mirror, wanted, link, ...rest } = await stand(t, mode)
      await fill(volume, 3000, 5)
      await arrived(mirror)
      const before = await contentOf(volume)
      let left = 10
      const asBefore = onWrite(rest.target, () => {
        if (--left >= 0) return
        if (how === 'the answer is lost') void lab.far.link.close()
        else throw new NbdeltaError('io', 'the disk is gone')
      })
      await restored(volume)
      await fill(volume, 3001, 6)
      await until('the stream has ended', () => mirror.status().stream === null)
      await until('the peer knows', () => !lab.far.secondaries.list()[0]!.attached)
      asBefore()
      t.notOk((await contentOf(rest.target)).equals(before), 'something of it was copied')
      t.ok((await seen({ lab, target: rest.target })).equals(before), 'clients see what had arrived before')
      if (how === 'the peer is killed in the middle') await lab.far.killed()
      else await lab.far.restart()
      const target = lab.far.store.get('w')!
      t.ok((await seen({ lab, target })).equals(before))
      link.dataBytes = 0
      await mirror.sync()
      t.ok(link.dataBytes <= 2 * 64 * 1024, `${link.dataBytes} bytes of data: by reference still`)
      await arrived(mirror)
      const expected = Buffer.from(wanted)
      expected.fill(6, 3001 * G, 3002 * G)
      t.ok((await contentOf(target)).equals(expected))
      t.ok((await seen({ lab, target })).equals(expected))
      t.same(await mirror.verify(), [])
    })
  }
}

test('a peer that has no copy, or cannot amid a stream: it is sent, in order (C20)', async t => {
  const { lab, volume, mirror, target, wanted, link } = await stand(t, 'sync')
  await target.points.unpin('s', 'mirror m')
  await target.points.delete('s')
  await restored(volume)
  await arrived(mirror)
  t.match(decided(mirror, 'restore-sent'), { outcome: /no copy of that snapshot/ })
  t.ok(link.dataBytes > 8 * MIB)
  t.ok((await contentOf(target)).equals(wanted))
  const calls: string[] = []
  await mirror.pause()
  lab.near.onLink = link => changed(link, async (method, params, go) => {
    calls.push(method)
    if (method === 'commit') t.ok('kept' in params, 'it keeps snapshots')
    const answer = await go() as { can?: string[] }
    return method === 'attach' ? { ...answer, can: ['digest', 'stream', 'snapshots'] } : answer
  })
  await mirror.resume()
  await mirror.sync()
  calls.length = 0
  await volume.points.create({ name: 'again', kind: 'snapshot' })
  await fill(volume, 600, 4, 50)
  await settled(mirror, volume)
  t.ok(copies(target).includes('again'))
  await (await volume.restore({ from: 'again' })).finished
  await fill(volume, 601, 5)
  await arrived(mirror)
  t.notOk(calls.includes('recall'), 'it would be refused')
  t.match(decided(mirror, 'restore-sent'), { outcome: /keeps no snapshots to take it from/ })
  t.ok((await contentOf(target)).equals(await contentOf(volume)))
  t.ok(streamed(mirror))
})

test('an older peer keeps no snapshots: they are points among the changes, and nothing else', async t => {
  const lab = await peers(t)
  const volume = await lab.source('v', 8)
  lab.near.onLink = link => changed(link, async (method, params, go) => {
    if (method === 'commit') t.notOk('kept' in params || 'snapshot' in params, 'it would be refused')
    const answer = await go() as { can?: string[] }
    return method === 'attach' ? { ...answer, can: ['digest', 'stream'] } : answer
  })
  const mirror = await lab.mirror({ keepSnapshots: 2, mode: 'async' })
  const target = lab.far.store.get('w')!
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await fill(volume, 1, 2)
  await settled(mirror, volume)
  await restored(volume)
  await arrived(mirror)
  t.same([copies(target), await shown(target)], [[], ONES])
  t.ok(streamed(mirror))
})

test('recall amid a stream: never into what counts, nor into what was released', async t => {
  const { lab, volume, mirror } = await stand(t, 'async')
  await mirror.pause()
  const link = await lab.far.dial('w')
  const { uuid, name } = mirror.record
  await link.call('attach', {
    mirror: { uuid, name }, source: { uuid: volume.uuid, name: 'v' }, above: [], epoch: 1, sizeBytes: SIZE, grainBytes: G,
    overwrite: false, create: false, volume: 'w',
  })
  const point = volume.points.get('s')!.uuid
  const ask = (): Promise<unknown> => link.call('recall', { point, runs: [[0, 1]], regionBytes: MIB, digests: ['ab'.repeat(32)] })
  const refused = { code: 'wrong-state' }
  await link.call('stream', { counts: false })
  await t.rejects(ask(), refused, 'there is no stream')
  await link.call('stream', { counts: true })
  await t.rejects(ask(), refused, 'it counts')
  await link.call('stream', { counts: false })
  t.same(await ask(), { same: [false] })
  await link.call('stream', { counts: true })
  await t.rejects(ask(), refused, 'it counts again')
  await link.call('stream', { counts: false })
  await link.call('release', {})
  await t.rejects(ask(), refused, 'it was released')
  link.close()
})

for (const mode of MODES) {
  test(`${mode}: snapshots are at the target exactly, taken before, while it catches up, while it is live and while it was cut off`, async t => {
    const lab = await peers(t)
    const volume = await lab.source('v', 8)
    await volume.points.create({ name: 'first', kind: 'snapshot' })
    await fill(volume, 0, 2)
    // While the first copy ships the image, with writes around it.
    let once = true
    lab.near.onLink = link => changed(link, async (method, params, go) => {
      const answer = await go()
      if (method === 'begin' && (params as { point: { cycle: number } }).point.cycle === 2 && once) {
        once = false
        await fill(volume, 1, 2)
        await volume.points.create({ name: 'while', kind: 'snapshot' })
        await fill(volume, 2, 2)
      }
      return answer
    })
    const mirror = await lab.mirror({ keepSnapshots: 4, mode })
    await settled(mirror, volume)
    const target = lab.far.store.get('w')!
    t.same(await images(target), { first: ONES, while: [2, 2, 1, 1, 1, 1, 1, 1] })
    // Live, and clients never rest.
    let [running, turns] = [true, 0]
    const client = (async () => {
      for (; running; turns++) {
        await fill(volume, 7, 2 + turns % 100)
        await setTimeout(1)
      }
    })()
    const wanted: Record<string, number[]> = {}
    for (const name of ['live', 'live-2']) {
      await fill(volume, 3, 200 + Object.keys(wanted).length)
      await volume.points.create({ name, kind: 'snapshot', labels: { auto: 'schedule' } })
      wanted[name] = await shownAt(volume, name)
      await until('writes go on', () => turns > 20)
    }
    running = false
    await client
    await settled(mirror, volume)
    const { first, while: between, ...live } = await images(target)
    t.same([first, between], [ONES, [2, 2, 1, 1, 1, 1, 1, 1]])
    t.same(live, wanted)
    t.same(await shown(target), await shown(volume))
    t.ok(streamed(mirror))
    // Cut off: the one behind the last that has arrived is carried by a cycle, and nothing goes back.
    await lab.far.link.close()
    await until('the stream has ended', () => mirror.status().stream === null)
    const received = await lab.far.seen('w')
    await volume.points.delete('live')
    await volume.points.create({ name: 'late', kind: 'snapshot' })
    wanted['late'] = await shown(volume)
    await fill(volume, 4, 9)
    await lab.far.restart()
    t.same(await lab.far.seen('w'), received)
    await mirror.sync()
    await settled(mirror, volume)
    const again = lab.far.store.get('w')!
    t.same(await images(again), { first: ONES, while: [2, 2, 1, 1, 1, 1, 1, 1], 'live-2': wanted['live-2'], late: wanted['late'] })
    t.same(await lab.far.seen('w'), await shown(volume))
  })

  test(`${mode}: more than the target keeps, taken at once; deleted, renamed and failed before their turn`, async t => {
    const lab = await here(t)
    const volume = await lab.volume('v', 8)
    await fill(volume, 0, 1, 8)
    const mirror = await lab.mirror({ volume: 'v', target: 'w', mode, keepSnapshots: 2 })
    await settled(mirror, volume)
    const target = lab.store.get('w')!
    // Marks wait as long as somebody works in the mirror's turn.
    let free = (): void => undefined
    const turn = mirror.inTurn(undefined, ({ run }) => run({}, () => new Promise<void>(resolve => { free = resolve })), false)
    for (const [i, name] of ['a', 'b', 'c', 'd'].entries()) {
      await volume.points.create({ name, kind: 'snapshot' })
      if (i === 0) void fill(volume, i, 3)
      else if (mode === 'async') await fill(volume, i, 3)
    }
    await volume.points.delete('d')
    await volume.points.rename('b', 'e')
    await volume.points.create({ name: 'b', kind: 'snapshot' })
    free()
    await turn
    await settled(mirror, volume)
    const held: Record<string, number[]> = { b: await shownAt(volume, 'b'), c: await shownAt(volume, 'c') }
    t.same(await images(target), held, 'the newest two that are there')
    t.same(await shown(target), await shown(volume))
    t.same(volume.points.list().flatMap(({ pins }) => pins.map(({ owner }) => owner)), ['mirror m'], 'of its own bookmark')
    await volume.points.delete('b')
    const put = lab.store.putMirror.bind(lab.store)
    lab.store.putMirror = async () => { throw new NbdeltaError('io', 'cut off') }
    await fill(volume, 5, 7)
    await volume.points.create({ name: 'f', kind: 'snapshot' })
    await until('it has failed', () => mirror.status().problem !== null)
    lab.store.putMirror = put
    await fill(volume, 6, 7)
    await mirror.sync()
    await settled(mirror, volume)
    t.ok(decided(mirror, 'acknowledgement-lost'))
    t.same(await images(target), { c: held['c'], f: await shownAt(volume, 'f') }, 'the record failed behind its commit: there is no second copy')
    t.same(await shown(target), await shown(volume))
  })

  test(`${mode}: a snapshot is taken around the freeze of a stream's first image, and of a point that is verified`, async t => {
    const lab = await here(t)
    const volume = await lab.volume('v', 8)
    await fill(volume, 0, 1, 8)
    const create = volume.points.create.bind(volume.points)
    const between = (name: string, grain: number): void => {
      let once = true
      volume.points.create = async options => {
        if (options.name.endsWith('-image') && once) {
          once = false
          await create({ name, kind: 'snapshot' })
          // In mode sync it is answered behind the snapshot's mark.
          void fill(volume, grain, 6)
        }
        return create(options)
      }
    }
    between('one', 1)
    const mirror = await lab.mirror({ volume: 'v', target: 'w', mode, keepSnapshots: 3 })
    await settled(mirror, volume)
    const target = lab.store.get('w')!
    t.same(await images(target), { one: ONES })
    between('two', 2)
    t.same(await mirror.verify(), [])
    await settled(mirror, volume)
    t.same(await images(target), { one: ONES, two: [1, 6, 1, 1, 1, 1, 1, 1] })
    await mirror.pause()
    await mirror.resume()
    await fill(volume, 3, 6)
    await mirror.sync()
    await settled(mirror, volume)
    t.same(copies(target), ['one', 'two'], 'none is carried again')
    t.same(await shown(target), await shown(volume))
    t.ok(streamed(mirror))
  })
}

test('a paused mirror that was brought in step by hand: a snapshot keeps nobody waiting', async t => {
  const lab = await here(t)
  const volume = await lab.volume('v', 8)
  await fill(volume, 0, 1, 8)
  const mirror = await lab.mirror({ volume: 'v', target: 'w', mode: 'sync', keepSnapshots: 2 })
  await settled(mirror, volume)
  await mirror.pause()
  await mirror.sync()
  await arrived(mirror)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  let answered = false
  const write = fill(volume, 1, 2).then(() => { answered = true })
  await until('it is answered', () => answered)
  await write
  await settled(mirror, volume)
  t.same(copies(lab.store.get('w')!), ['s'])
  t.equal(mirror.state.paused, true)
  t.ok(streamed(mirror))
})

test('a volume of the same store takes a restore from its own copy, while it is live', async t => {
  const lab = await here(t)
  const volume = await lab.volume('v', 64)
  await fill(volume, 0, 1, 64)
  const mirror = await lab.mirror({ volume: 'v', target: 'w', mode: 'sync', keepSnapshots: 1 })
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await fill(volume, 8, 2, 40)
  await settled(mirror, volume)
  await restored(volume)
  await fill(volume, 9, 3)
  await arrived(mirror)
  await mirror.sync()
  t.match(mirror.status().last, { data: G, equal: 40 * G })
  t.ok(decided(mirror, 'restore-by-reference'))
  t.same(await shown(lab.store.get('w')!), await shown(volume))
  t.ok(streamed(mirror))
})

test('a restore whose snapshot is in the log still: its copy is made first, and then taken from (C18)', async t => {
  const lab = await here(t)
  const volume = await lab.volume('v', 8)
  await fill(volume, 0, 1, 8)
  const mirror = await lab.mirror({ volume: 'v', target: 'w', mode: 'async', keepSnapshots: 2 })
  await settled(mirror, volume)
  let free = (): void => undefined
  const turn = mirror.inTurn(undefined, ({ run }) => run({}, () => new Promise<void>(resolve => { free = resolve })), false)
  await fill(volume, 1, 2)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await fill(volume, 2, 3, 3)
  await restored(volume)
  await fill(volume, 3, 4)
  t.same(copies(lab.store.get('w')!), [])
  free()
  await turn
  await settled(mirror, volume)
  t.ok(decided(mirror, 'restore-by-reference'))
  t.same(await shown(lab.store.get('w')!), [1, 2, 1, 4, 1, 1, 1, 1])
  t.same(await shownAt(lab.store.get('w')!, 's'), [1, 2, 1, 1, 1, 1, 1, 1])
  t.ok(streamed(mirror))
})
