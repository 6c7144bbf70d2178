// Restore of a volume from its own snapshots and another's: the seeds' A4, A5, A7, A12, A13, A14, A17, A18, A21, B9, B10, B11, by id.
import t from 'tap'
import { PAGE_BITS } from '../../native-free/index.js'
import { until } from '../replication/held.js'
import { contentOf as contentOn, GRAIN, late, LateDisk, readAll, watch } from './lab.js'
import { holdOldContent, Rig, settle } from './inherit-lab.js'

const G = GRAIN
const SLOW_PACE = { bytesPerSecond: G }

async function rig(sizeBytes = 16 * G): Promise<Rig> { return Rig.open({ sizeBytes }) }

async function fill(rig: Rig, value: number, from = 0, grains = rig.sizeBytes / G - from): Promise<void> {
  await rig.volume.write(from * G, grains * G, Buffer.alloc(grains * G, value), 0)
}

const snapshot = (rig: Rig, name: string) => rig.volume.points.create({ name, kind: 'snapshot' })

const contentOf = (rig: Rig, name: string): Promise<Buffer> => contentOn(rig.volume, name)

/** First byte of each grain. */
async function grains(rig: Rig): Promise<string> { return bytesOf(await readAll(rig.volume)) }
function bytesOf(content: Buffer): string {
  return Array.from({ length: Math.ceil(content.length / G) }, (_, grain) => content[grain * G]).join('')
}

t.test('A4, A14, B10: the view switches at once; the undo point has what was there; copying ends', async t => {
  const r = await rig()
  await fill(r, 1)
  await snapshot(r, 's')
  await fill(r, 2, 4, 4)
  await r.volume.trim(8 * G, 2 * G)
  const job = await r.volume.restore({ from: 's', ...SLOW_PACE })
  t.equal(await grains(r), '1'.repeat(16), 'the snapshot shows')
  const undo = r.volume.points.list().at(-1)!
  t.same([undo.name, undo.labels, undo.kind], ['undo-s-1', { auto: 'undo', restored: r.volume.points.get('s')!.uuid }, 'snapshot'])
  t.equal(bytesOf(await contentOf(r, undo.name)), '1111222200111111', 'the undo point shows what was there')
  t.same(job.progress(), { doneBytes: 0, totalBytes: 6 * G }, 'only what differs')
  await settle(r.clock, job.finished)
  t.same(job.progress(), { doneBytes: 6 * G, totalBytes: 6 * G })
  t.equal(await grains(r), '1'.repeat(16))
  t.equal(bytesOf(await contentOf(r, undo.name)), '1111222200111111')
  t.equal(r.inherit.inheritance, null)
  t.equal(r.volume.inheriting, undefined)
  const back = await r.volume.restore({ from: undo.name })
  t.equal(await grains(r), '1111222200111111', 'and back again')
  await settle(r.clock, back.finished)
  await r.reopen(true)
  t.equal(await grains(r), '1111222200111111')
})

t.test('S8: a restore that there is no room for says so, as long as there is none', async t => {
  const r = await rig()
  await fill(r, 1)
  await snapshot(r, 's')
  await fill(r, 2, 0, 8)
  r.volume.setSpace({ budgetBytes: 9 * G, order: 'fail' })
  const job = await r.volume.restore({ from: 's' })
  t.equal(job.problem(), undefined, 'nothing has been tried')
  const looked = async (isOver: () => boolean): Promise<void> => {
    for (let look = 0; look < 1000 && !isOver(); look++) await new Promise(resolve => { setImmediate(resolve) })
  }
  await looked(() => job.problem() !== undefined)
  t.match(job.problem(), { code: 'no-space', message: /have to be kept/, hint: /raise the budget/ })
  r.volume.setSpace({ budgetBytes: 10 * G, order: 'fail' })
  await r.clock.advance(30_000)
  await new Promise(resolve => { setTimeout(resolve, 50) })
  t.match(job.problem(), { code: 'no-space' }, 'a little more is not enough')
  let problemAtEnd: unknown = 'unknown'
  const finished = job.finished.then(() => {
    problemAtEnd = job.problem()
    return 'done'
  })
  r.volume.setSpace({ budgetBytes: null, order: 'fail' })
  t.equal(await Promise.race([finished, late()]), 'done', 'not 30 s later')
  t.equal(problemAtEnd, undefined)
  t.equal(await grains(r), '1'.repeat(16))
  await r.volume.close()
})

t.test('S8: a restore that there is no room for goes on when a snapshot was deleted', async t => {
  const r = await rig()
  await fill(r, 1)
  await snapshot(r, 's')
  await fill(r, 2)
  await snapshot(r, 't')
  await fill(r, 3, 0, 4)
  r.volume.setSpace({ budgetBytes: 32 * G, order: 'fail' })
  const job = await r.volume.restore({ from: 's' })
  await until('there is no room', () => job.problem() !== undefined)
  t.match(job.problem(), { code: 'no-space' })
  await r.volume.points.delete('t')
  t.equal(await Promise.race([job.finished.then(() => 'done'), late()]), 'done', 'not 30 s later')
  t.equal(await grains(r), '1'.repeat(16))
  await r.volume.close()
})

t.test('S8: what is said of room is over with the first piece that is copied', async t => {
  const r = await rig(2 ** 13 * G)
  await fill(r, 1)
  await snapshot(r, 's')
  await fill(r, 2)
  r.volume.setSpace({ budgetBytes: 2 ** 13 * G, order: 'fail' })
  const job = await r.volume.restore({ from: 's' })
  await until('there is no room', () => job.problem() !== undefined)
  t.ok(job.problem())
  r.volume.setSpace({ budgetBytes: null, order: 'fail' })
  const seen = new Set<string>()
  const finished = job.finished.then(() => true)
  await r.clock.advance(30_000)
  for (let isOver = false; !isOver; isOver = await Promise.race([finished, new Promise<false>(resolve => { setImmediate(resolve, false) })])) {
    const { doneBytes, totalBytes } = job.progress()
    if (doneBytes > 0 && doneBytes < totalBytes) seen.add(job.problem() ? 'waits' : 'goes on')
  }
  t.same([...seen], ['goes on'])
  await r.volume.close()
})

t.test('a trim of what is not copied yet comes to its end, its client gone or not: nobody is told of a change that has failed', async t => {
  const r = await rig()
  await fill(r, 1)
  await snapshot(r, 's')
  for (const grain of [2, 4, 6]) await fill(r, 2, grain, 1)
  const job = await r.volume.restore({ from: 's', ...SLOW_PACE })
  // The first one is on its way, and locked.
  for (let turn = 0; turn < 30; turn++) await new Promise<void>(resolve => { setImmediate(resolve) })
  const origin = { gone: false }
  const trim = r.volume.trim(4 * G, 3 * G, origin)
  origin.gone = true
  await trim
  t.equal(await grains(r), '1111000111111111')
  await settle(r.clock, job.finished)
  t.equal(await grains(r), '1111000111111111')
})

t.test('A5: the oldest of three takes all that changed since; B9: newer ones stay', async t => {
  const r = await rig()
  for (const [i, name] of ['s1', 's2', 's3'].entries()) {
    await fill(r, i + 1, i, 3)
    await snapshot(r, name)
  }
  await fill(r, 9, 15, 1)
  const before = await Promise.all(['s1', 's2', 's3'].map(name => contentOf(r, name)))
  const job = await r.volume.restore({ from: 's1' })
  t.equal(await grains(r), bytesOf(before[0]))
  await settle(r.clock, job.finished)
  for (const [i, name] of ['s1', 's2', 's3'].entries()) t.ok((await contentOf(r, name)).equals(before[i]), name)
  t.equal(await grains(r), bytesOf(before[0]))
})

t.test('A7: a restore that changes nothing makes no point, no mark, no copy', async t => {
  const r = await rig()
  await fill(r, 1)
  await snapshot(r, 's')
  const job = await r.volume.restore({ from: 's' })
  t.same(job.progress(), { doneBytes: 0, totalBytes: 0 })
  await job.finished
  t.same(r.volume.points.list().map(({ name }) => name), ['s'])
  t.same(r.volume.points.changedRuns('s'), [])
  await fill(r, 2, 3, 1)
  await (await r.volume.restore({ from: 's', offset: 0, length: 3 * G })).finished
  t.equal(r.volume.points.list().length, 1, 'nor where only the rest differs')
})

t.test('A12, A13: writes of a part and of the whole to a grain that is not copied yet', async t => {
  const r = await rig()
  await fill(r, 1)
  await snapshot(r, 's')
  await fill(r, 2)
  const job = await r.volume.restore({ from: 's', ...SLOW_PACE })
  await r.volume.write(5 * G + 7, 1, Buffer.from([9]), 0)
  await r.volume.write(7 * G, 2 * G, Buffer.alloc(2 * G, 8), 0)
  const wanted = Buffer.alloc(16 * G, 1)
  wanted[5 * G + 7] = 9
  wanted.fill(8, 7 * G, 9 * G)
  t.ok((await readAll(r.volume)).equals(wanted), 'the rest of the grain is the snapshot\'s')
  await settle(r.clock, job.finished)
  t.ok((await readAll(r.volume)).equals(wanted), 'the copier left them alone')
  t.ok((await contentOf(r, 'undo-s-1')).equals(Buffer.alloc(16 * G, 2)))
  t.ok((await contentOf(r, 's')).equals(Buffer.alloc(16 * G, 1)))
})

t.test('B11: a snapshot taken while copying is the restored image, and stays it', async t => {
  const r = await rig()
  await fill(r, 1)
  await snapshot(r, 's')
  await fill(r, 2)
  const job = await r.volume.restore({ from: 's', ...SLOW_PACE })
  await snapshot(r, 'n')
  await fill(r, 7, 3, 2)
  await r.volume.trim(12 * G, G)
  await r.volume.zero(13 * G + 5, 10, { allocate: false, fast: false })
  await settle(r.clock, job.finished)
  t.ok((await contentOf(r, 'n')).equals(Buffer.alloc(16 * G, 1)))
  t.equal(await grains(r), '1117711111110111')
  const runs = r.volume.points.changedRuns('n').map(({ start, end }) => [start, end])
  t.same(runs, [[3, 5], [12, 14]], 'copying marks nothing as changed')
})

t.test('A17: a shorter snapshot leaves what lies behind its end; a longer one what lies behind the volume\'s', async t => {
  const r = await rig(10 * G + 512)
  await fill(r, 1, 0, 10)
  await snapshot(r, 's')
  await r.resize(16 * G)
  await fill(r, 2, 0, 16)
  await settle(r.clock, (await r.volume.restore({ from: 's' })).finished)
  t.equal(r.volume.sizeBytes, 16 * G)
  const wanted = Buffer.alloc(16 * G, 2)
  wanted.fill(1, 0, 10 * G).fill(0, 10 * G, 10 * G + 512)
  t.ok((await readAll(r.volume)).equals(wanted))
  await snapshot(r, 'long')
  await r.resize(6 * G)
  await fill(r, 3, 0, 6)
  await settle(r.clock, (await r.volume.restore({ from: 'long' })).finished)
  t.equal(await grains(r), '111111')
})

t.test('A18: a range touches nothing outside, to the byte', async t => {
  const r = await rig()
  await fill(r, 1)
  await snapshot(r, 's')
  await fill(r, 2)
  const job = await r.volume.restore({ from: 's', offset: 3 * G + 100, length: 2 * G + 50 })
  const wanted = Buffer.alloc(16 * G, 2)
  wanted.fill(1, 3 * G + 100, 5 * G + 150)
  t.ok((await readAll(r.volume)).equals(wanted), 'while copying')
  t.equal(job.progress().totalBytes, 3 * G)
  await settle(r.clock, job.finished)
  t.ok((await readAll(r.volume)).equals(wanted), 'and after')
  const undone = r.volume.points.changedRuns('undo-s-1').map(({ start, end }) => [start, end])
  t.same(undone, [[3, 6]], 'only its grains are marked')
})

t.test('A18: a grain of which the range takes zeros only still has the rest, for whoever preserves it', async t => {
  const r = await rig()
  await snapshot(r, 's')
  await fill(r, 2)
  const job = await r.volume.restore({ from: 's', offset: 3 * G, length: G - 512, ...SLOW_PACE })
  await snapshot(r, 'n')
  const wanted = await readAll(r.volume)
  t.equal(wanted[4 * G - 1], 2)
  await r.volume.trim(3 * G, G)
  t.ok((await contentOf(r, 'n')).equals(wanted))
  await settle(r.clock, job.finished)
  t.ok((await contentOf(r, 'n')).equals(wanted))
})

t.test('A21: source and undo point cannot be deleted meanwhile, afterwards they can', async t => {
  const r = await rig()
  await fill(r, 1)
  await snapshot(r, 's')
  await fill(r, 2)
  const job = await r.volume.restore({ from: 's', ...SLOW_PACE })
  for (const name of ['s', 'undo-s-1']) await t.rejects(r.volume.points.delete(name), { code: 'busy' }, name)
  await settle(r.clock, job.finished)
  for (const name of ['s', 'undo-s-1']) await r.volume.points.delete(name)
  await settle(r.clock, r.volume.points.settled())
  t.equal(await grains(r), '1'.repeat(16))
})

t.test('A second restore while the first still copies; A16: cancelling', async t => {
  const r = await rig()
  await fill(r, 1)
  await snapshot(r, 's1')
  await fill(r, 2, 0, 8)
  await snapshot(r, 's2')
  await fill(r, 3, 4, 8)
  const first = await r.volume.restore({ from: 's1', ...SLOW_PACE })
  const second = await settle(r.clock, r.volume.restore({ from: 's2', ...SLOW_PACE }))
  await first.finished
  t.equal(await grains(r), '2222222211111111')
  await settle(r.clock, second.cancel())
  t.equal(await grains(r), '1'.repeat(16), 'what the second undid')
  await settle(r.clock, Promise.resolve(r.volume.inheriting?.finished))
  await settle(r.clock, (await r.volume.restore({ from: 'undo-s1-1' })).finished)
  t.equal(await grains(r), '2222333333331111')
})

t.test('closing in the middle pauses, killing too, and the next open goes on', async t => {
  for (const clean of [true, false]) {
    const r = await rig()
    await fill(r, 1)
    await snapshot(r, 's')
    await fill(r, 2)
    const job = await r.volume.restore({ from: 's', ...SLOW_PACE })
    await r.clock.advance(3000)
    const { doneBytes } = job.progress()
    t.ok(doneBytes > 0 && doneBytes < 16 * G, `${doneBytes} bytes are copied`)
    await r.reopen(clean)
    if (clean) await t.rejects(job.finished, { code: 'cancelled' })
    t.equal(await grains(r), '1'.repeat(16))
    t.equal(bytesOf(await contentOf(r, 'undo-s-1')), '2'.repeat(16))
    await settle(r.clock, r.volume.inheriting!.finished)
    t.equal(await grains(r), '1'.repeat(16))
    t.equal(bytesOf(await contentOf(r, 'undo-s-1')), '2'.repeat(16))
    await r.reopen(true)
    t.equal(await grains(r), '1'.repeat(16))
  }
})

t.test('D3: what an undo point has lent stays its own behind a kill, though the journal says what came before the restore', async t => {
  const r = await rig()
  await fill(r, 1, 0, 7)
  await snapshot(r, 'empty')
  await fill(r, 3, 7, 1)
  await snapshot(r, 'a')
  await r.volume.trim(7 * G, G) // lent to a
  await fill(r, 4, 7, 1) // and handed to it
  const { map } = r.disks
  const flush = map.flush.bind(map)
  // A checkpoint does what the restore needs, and then fails: the journal is not written anew.
  map.flush = () => { throw new Error('refused') }
  const job = await r.volume.restore({ from: 'empty' })
  await settle(r.clock, job.finished)
  map.flush = flush
  await r.reopen(false)
  t.equal(bytesOf(await contentOf(r, 'undo-empty-1'))[7], '4')
  await r.clock.advance(1000)
  t.equal(bytesOf(await contentOf(r, 'undo-empty-1'))[7], '4', 'when space was given back')
  t.equal(bytesOf(await contentOf(r, 'a'))[7], '3')
  await r.volume.close()
})

t.test('from a snapshot of another volume', async t => {
  const r = await rig()
  const other = await Rig.open({ sizeBytes: 12 * G, uuid: '00000000-0000-4000-8000-000000000002', clock: r.clock })
  await fill(other, 5, 2, 4)
  await snapshot(other, 's')
  await fill(other, 6)
  await fill(r, 1)
  const job = await r.volume.restore({ from: 's', sourceVolume: other.source, ...SLOW_PACE })
  t.equal(await grains(r), '0055550000001111')
  await t.rejects(other.volume.points.delete('s'), { code: 'busy' })
  await settle(r.clock, job.finished)
  t.equal(await grains(r), '0055550000001111')
  await other.volume.points.delete('s')
  t.equal(bytesOf(await contentOf(r, 'undo-s-1')), '1'.repeat(16))
})

t.test('from the same snapshot of another volume again, while the one before lets go of it', async t => {
  const r = await rig()
  const other = await Rig.open({ sizeBytes: 16 * G, uuid: '00000000-0000-4000-8000-000000000002', clock: r.clock })
  await fill(other, 5)
  await snapshot(other, 's')
  await fill(r, 1)
  const remove = r.inherit.remove.bind(r.inherit)
  let goOn!: () => void
  const held = new Promise<void>(resolve => { goOn = resolve })
  let isEnding = false
  r.inherit.remove = async kind => {
    isEnding = true
    await held
    await remove(kind)
  }
  const first = await r.volume.restore({ from: 's', sourceVolume: other.source })
  await until('the first is ending', () => isEnding)
  await fill(r, 2)
  const second = r.volume.restore({ from: 's', sourceVolume: other.source, ...SLOW_PACE })
  for (let turn = 0; turn < 50; turn++) await new Promise(resolve => { setImmediate(resolve) })
  goOn()
  await first.finished
  const job = await second
  t.equal(other.volume.points.get('s')!.pins.length, 1, 'it is pinned while something is copied from it')
  await settle(r.clock, job.finished)
  t.equal(other.volume.points.get('s')!.pins.length, 0)
  t.equal(await grains(r), '5'.repeat(16))
})

t.test('writes while the switch is made: before it they are the undo point\'s, after it they stay', async t => {
  let before = 0
  for (let seed = 1; seed <= 40; seed++) {
    const r = await Rig.open({ sizeBytes: 16 * G, live: new LateDisk(16 * G, seed) })
    await fill(r, 1)
    await snapshot(r, 's')
    await fill(r, 2)
    const writes = Array.from({ length: 8 }, async (_, i) => {
      for (let turn = 0; turn < i * seed % 23; turn++) await new Promise(resolve => { setImmediate(resolve) })
      await r.volume.write(i * G, G, Buffer.alloc(G, 3), 0)
    })
    const job = await r.volume.restore({ from: 's' })
    await Promise.all(writes)
    await settle(r.clock, job.finished)
    const [live, undo] = [await grains(r), bytesOf(await contentOf(r, 'undo-s-1'))]
    for (let i = 0; i < 8; i++) {
      const pair = live[i] + undo[i]
      if (pair === '13') before++
      if (pair !== '13' && pair !== '32') t.fail(`seed ${seed}: grain ${i} is ${live[i]}, in the undo point ${undo[i]}`)
    }
    t.equal(live.slice(8), '1'.repeat(8))
  }
  t.ok(before > 0 && before < 320, `${before} of 320 came before`)
})

t.test('the view of a large volume switches in no time', async t => {
  const sizeBytes = 2 ** 40
  const r = await Rig.open({ sizeBytes })
  await snapshot(r, 's')
  for (let i = 0; i < 1000; i++) await r.volume.write(i * 2 ** 30, G, Buffer.alloc(G, 1), 0)
  const started = process.hrtime.bigint()
  await r.volume.restore({ from: 's', bytesPerSecond: 1 })
  t.comment(`restored in ${Number(process.hrtime.bigint() - started) / 1e6} ms`)
  const found = Buffer.alloc(G)
  await r.volume.read(500 * 2 ** 30, G, found, 0)
  t.ok(found.equals(Buffer.alloc(G)))
})

t.test('what cannot be restored', async t => {
  const r = await rig()
  await r.volume.points.create({ name: 'b', kind: 'bookmark' })
  await t.rejects(r.volume.restore({ from: 'x' }), { code: 'not-found' })
  await t.rejects(r.volume.restore({ from: 'b' }), { code: 'bad-argument' })
  await snapshot(r, 's')
  await t.rejects(r.volume.restore({ from: 's', offset: 15 * G, length: 2 * G }), { code: 'bad-argument' })
  await t.rejects(r.volume.restore({ from: 's', bytesPerSecond: 0 }), { code: 'bad-argument' })
  r.points.putError = new Error('no')
  await fill(r, 1)
  await t.rejects(r.volume.restore({ from: 's' }), { message: 'no' })
  r.points.putError = undefined
  t.equal(await grains(r), '1'.repeat(16))
  t.same(r.volume.points.list().map(({ name }) => name), ['b', 's'])
})

t.test('a map of many pages: those that a restore has nothing of are no loss to the next open', async t => {
  const pageBytes = PAGE_BITS * G
  for (const clean of [true, false]) {
    const r = await rig(4 * pageBytes)
    await snapshot(r, 's')
    for (const page of [0, 2]) await r.volume.write(page * pageBytes, 2 * G, Buffer.alloc(2 * G, 7), 0)
    await r.volume.restore({ from: 's', ...SLOW_PACE })
    await r.reopen(clean)
    t.ok(r.volume.inheriting, 'it was not over')
    const into = Buffer.alloc(2 * G, 1)
    for (const page of [0, 1, 2, 3]) {
      await r.volume.read(page * pageBytes, 2 * G, into, 0)
      t.ok(into.equals(Buffer.alloc(2 * G)), `page ${page}`)
    }
    await r.volume.close()
  }
})

t.test('a restore is answered when its record is there, and not before', async t => {
  const r = await rig()
  await fill(r, 1)
  await snapshot(r, 's')
  await fill(r, 2)
  let release = (): void => undefined
  r.inherit.onPut = () => new Promise(resolve => { release = resolve })
  let answered = false
  const restoring = r.volume.restore({ from: 's' }).then(job => { answered = true; return job })
  for (let i = 0; i < 50; i++) await new Promise(resolve => { setImmediate(resolve) })
  t.notOk(answered)
  r.inherit.onPut = async () => undefined
  release()
  await settle(r.clock, (await restoring).finished)
  t.equal(await grains(r), '1'.repeat(16))
  await r.volume.close()
})

t.test('what a client writes to a part of a grain that is not copied yet is durable before the journal says that it is live\'s own', async t => {
  const r = await rig()
  await fill(r, 1)
  await snapshot(r, 's')
  await fill(r, 2)
  await r.volume.restore({ from: 's', ...SLOW_PACE })
  const events: string[] = []
  for (const name of ['live', 'journal'] as const) watch(events, name, r.disks[name])
  await r.volume.write(9 * G + 100, 100, Buffer.alloc(100, 3), 0)
  const [written, flushed, said] = ['write live', 'flush live', 'write journal'].map(event => events.lastIndexOf(event))
  t.ok(written! >= 0 && written! < flushed! && flushed! < said!, events.join(', '))
  await r.volume.close()
})

t.test('X9: what was asked for before a restore is undone by it, even if it waits for old content to be kept', async t => {
  const r = await rig(4 * G)
  const release = holdOldContent(r)
  await fill(r, 1)
  await snapshot(r, 's')
  const written = r.volume.write(0, 100, Buffer.alloc(100, 5), 0)
  const restored = r.volume.restore({ from: 's' })
  for (let turn = 0; turn < 20; turn++) await new Promise(resolve => { setImmediate(resolve) })
  release()
  await written
  await settle(r.clock, (await restored).finished)
  t.equal(await grains(r), '1111')
})
