// C10 C11 D3 L1 H7 B14 X5: snapshots as exports, and what the contexts of a volume with points say.
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import { StoreExports } from '../../src/store-exports.js'
import { delay } from './support/byte-stream.js'
import { startServer } from './support/fixture.js'
import { GRAIN, PointedDisk, storeOf } from './support/pointed-disk.js'
import { attach, Session } from './support/session.js'
import { CMD, ERR, INFO, MIB, OPT, pattern, REP, TX } from './support/wire.js'

const BITMAP = 'qemu:dirty-bitmap:'
const DEPTH = 'qemu:allocation-depth'

/** A volume `db` with snapshots s1, s2 and bookmark b between them; grain 0 is of s1, 1 of s2, 2 only live, 3 a hole since. */
async function served(t: Parameters<typeof startServer>[0]) {
  const db = new PointedDisk('db', MIB)
  const fill = (grain: number, seed: number): void => { void db.write(grain * GRAIN, GRAIN, pattern(0, GRAIN, seed), 0) }
  fill(0, 1)
  fill(3, 1)
  db.points.add('s1')
  fill(1, 2)
  db.points.add('b', 'bookmark')
  fill(4, 2)
  db.points.add('s2')
  fill(2, 3)
  void db.trim(3 * GRAIN, GRAIN)
  let attached = 0
  const exports = new StoreExports(storeOf(db, new PointedDisk('other', MIB)), (change) => { attached += change })
  const fixture = await startServer(t, { provider: exports })
  return { db, fill, exports, fixture, attached: () => attached }
}
async function statusOf(session: Session, name: string, offset = 0, length = session.size - offset): Promise<[number, number][]> {
  const { status } = await session.call({ type: CMD.BLOCK_STATUS, offset, length })
  const { id } = session.contexts.find((one) => one.name === name)!
  return status.get(id)!.map(({ length, state }) => [Number(length) / GRAIN, Number(state)])
}
const GRAINS = MIB / GRAIN
/** Says from now on that every other grain of a larger volume has changed, at any point. Returns its size. */
function checker(db: PointedDisk, runs: number): number {
  const changed = Array.from({ length: runs }, (_, i) => ({ start: 2 * i, end: 2 * i + 1 }))
  const sizeBytes = 2 * runs * GRAIN
  const points = db.points.list().map((info) => ({ ...info, sizeBytes }))
  Object.assign(db.points, { changedRuns: () => changed, list: () => points })
  db.setSize(sizeBytes)
  return sizeBytes
}

t.test('L1 H7: LIST shows volumes first, then snapshots, newest first; bookmarks have no content', async t => {
  const { fixture, db } = await served(t)
  const peer = await fixture.peer()
  const listed = await peer.list()
  t.strictSame(listed.map(({ name }) => name), ['db', 'other', 'db@s2', 'db@s1'])
  for (const { name, description } of listed) t.equal((await peer.info(OPT.INFO, name, [INFO.DESCRIPTION])).final, REP.ACK, description)
  t.match(listed[2]!.description, /snapshot of db at 2024-05-06T07:08:09.000Z \(uuid uuid-of-s2\)/)
  for (const name of ['db@b', 'db@nope', 'db@', '@s1', '@', 'other@s1', 'db@s1@s1', 'db@latest@s1', 'other@latest']) {
    t.equal((await peer.info(OPT.GO, name)).final, REP.ERR_UNKNOWN, name)
  }
  t.equal(db.points.attached.size, 0, 'nothing was opened')
})

t.test('L1: LIST is bounded: 100 snapshots a volume, 1,000 in all; the others are exports all the same', async t => {
  const volumes = Array.from({ length: 12 }, (_, i) => new PointedDisk(`v${i}`, GRAIN))
  for (const { points } of volumes) for (let i = 0; i < 120; i++) points.add(`s${i}`)
  const { address } = await startServer(t, { provider: new StoreExports(storeOf(...volumes), () => {}) })
  const session = await attach(address, { name: 'v11@s0' })
  await session.alive()
  const listed = new StoreExports(storeOf(...volumes), () => {}).list()
  t.equal(listed.length, 1012)
  t.strictSame([listed[11]!.name, listed[12]!.name, listed[111]!.name, listed[112]!.name], ['v11', 'v0@s119', 'v0@s20', 'v1@s119'])
})

t.test('a snapshot is read-only, has its own content and size, and no FLUSH, TRIM or write changes that', async t => {
  const { fixture, fill } = await served(t)
  for (const mode of ['simple', 'structured', 'extended'] as const) {
    const session = await attach(fixture.address, { mode, name: 'db@s1', contexts: [] })
    t.equal(session.facts.flags & (TX.READ_ONLY | TX.SEND_TRIM | TX.SEND_WRITE_ZEROES | TX.CAN_MULTI_CONN), TX.READ_ONLY | TX.CAN_MULTI_CONN)
    fill(0, 9)
    t.ok((await session.read(0, GRAIN)).data.equals(pattern(0, GRAIN, 1)))
    t.ok((await session.read(GRAIN, GRAIN)).data.equals(Buffer.alloc(GRAIN)))
    t.equal((await session.write(0, Buffer.alloc(512))).error, ERR.EPERM)
    t.equal((await session.flush()).error, 0)
  }
})

t.test('C10: allocation depth', async t => {
  const { fixture } = await served(t)
  const live = await attach(fixture.address, { mode: 'extended', name: 'db', contexts: [DEPTH] })
  t.strictSame(await statusOf(live, DEPTH), [[3, 1], [1, 0], [1, 1], [GRAINS - 5, 0]])
  const s1 = await attach(fixture.address, { mode: 'extended', name: 'db@s1', contexts: [DEPTH] })
  t.strictSame(await statusOf(s1, DEPTH), [[1, 2], [2, 0], [1, 2], [GRAINS - 4, 0]])
  const s2 = await attach(fixture.address, { mode: 'extended', name: 'db@s2', contexts: [DEPTH] })
  t.strictSame(await statusOf(s2, DEPTH), [[2, 2], [1, 0], [1, 1], [1, 2], [GRAINS - 5, 0]])
})

t.test('C10 C11: a snapshot\'s bitmaps are of older points, exact, and never change', async t => {
  const { fixture, fill } = await served(t)
  const peer = await fixture.peer()
  t.strictSame((await peer.meta(OPT.LIST_META_CONTEXT, 'db@s2')).contexts.map(({ name }) => name),
    ['base:allocation', DEPTH, `${BITMAP}b`, `${BITMAP}s1`])
  t.strictSame((await peer.meta(OPT.LIST_META_CONTEXT, 'db@s1')).contexts.map(({ name }) => name), ['base:allocation', DEPTH])
  const session = await attach(fixture.address, { mode: 'extended', name: 'db@s2', contexts: [`${BITMAP}s1`, `${BITMAP}b`, `${BITMAP}s2`] })
  t.equal(session.contexts.length, 2, 'not its own')
  for (const when of ['before', 'after a write to live']) {
    t.strictSame(await statusOf(session, `${BITMAP}s1`), [[1, 0], [1, 1], [2, 0], [1, 1], [GRAINS - 5, 0]], when)
    t.strictSame(await statusOf(session, `${BITMAP}b`), [[4, 0], [1, 1], [GRAINS - 5, 0]], when)
    fill(7, 4)
  }
})

t.test('C11: live\'s bitmaps are of all points, as of the moment the client attached', async t => {
  const { fixture, fill, db } = await served(t)
  const contexts = ['s1', 'b', 's2'].map((name) => BITMAP + name)
  const first = await attach(fixture.address, { mode: 'extended', name: 'db', contexts })
  fill(7, 4)
  const second = await attach(fixture.address, { mode: 'extended', name: 'db', contexts })
  db.points.delete('b')
  for (const name of ['s1', 's2']) {
    const early = await statusOf(first, BITMAP + name)
    const since = name === 's1' ? [[1, 0], [4, 1]] : [[2, 0], [2, 1], [1, 0]]
    t.strictSame(early, name === 's1' ? [...since, [GRAINS - 5, 0]] : [since[0], since[1], [GRAINS - 4, 0]])
    t.strictSame(await statusOf(second, BITMAP + name, 7 * GRAIN, 2 * GRAIN), [[1, 1], [1, 0]], 'a client that came later sees later writes')
  }
  t.strictSame(await statusOf(second, `${BITMAP}b`, 4 * GRAIN, GRAIN), [[1, 1]], 'a bitmap stays although its point was deleted')
})

t.test('C11: what lies beyond the size at the point is dirty', async t => {
  const { fixture, db, exports } = await served(t)
  db.setSize(2 * MIB)
  const session = await attach(fixture.address, { mode: 'extended', name: 'db', contexts: [`${BITMAP}s2`] })
  t.strictSame((await statusOf(session, `${BITMAP}s2`)).at(-1), [GRAINS, 1])
  const { contexts, release } = await exports.open('db', { id: 1, address: 'unix' }, [`${BITMAP}s2`])
  db.setSize(3 * MIB)
  t.strictSame(await contexts!.get(`${BITMAP}s2`)!.extents(2 * MIB, MIB, 9), { lengths: [MIB], states: [1] }, 'and what was added since')
  release()
})

t.test('C11: a point deleted between SET and GO fails GO', async t => {
  const { fixture, db, attached } = await served(t)
  for (const name of ['db', 'db@s2']) {
    db.points.add(`x-${name.length}`, 'bookmark')
    const peer = await fixture.peer()
    await peer.verdict(OPT.STRUCTURED_REPLY)
    t.equal((await peer.meta(OPT.SET_META_CONTEXT, name, [`${BITMAP}${name === 'db' ? 'x-2' : 'b'}`, DEPTH])).contexts.length, 2)
    db.points.delete(name === 'db' ? 'x-2' : 'b')
    t.match(await peer.info(OPT.GO, name), { final: REP.ERR_UNKNOWN, message: /that point is gone/ })
  }
  t.equal(attached(), 0)
  t.equal(db.points.attached.get('s2'), 0, 'the snapshot was let go of')
})

t.test('B14: latest is the newest snapshot at connect, and stays it; a reconnect gets the newer one', async t => {
  const { fixture, fill, db } = await served(t)
  db.points.add('mark', 'bookmark')
  const first = await attach(fixture.address, { mode: 'extended', name: 'db@latest', contexts: [`${BITMAP}s1`], infos: [INFO.NAME] })
  t.equal(first.facts.flags & (TX.CAN_MULTI_CONN | TX.READ_ONLY), TX.READ_ONLY, 'D3: another connection may get another one')
  fill(0, 5)
  db.points.add('s3')
  db.points.add('undo', 'snapshot', { auto: 'undo' })
  fill(0, 6)
  const second = await attach(fixture.address, { name: 'db@latest' })
  t.ok((await first.read(0, GRAIN)).data.equals(pattern(0, GRAIN, 1)))
  t.ok((await second.read(0, GRAIN)).data.equals(pattern(0, GRAIN, 5)), 'not the undo snapshot')
  t.strictSame(await statusOf(first, `${BITMAP}s1`, 0, 2 * GRAIN), [[1, 0], [1, 1]])
  t.strictSame(fixture.server.clients().map((client) => client.export), ['db@s2', 'db@s3'], 'the operator sees which')
})

t.test('X5 B14: an attached snapshot cannot be deleted; it can once its last client has gone, however it went', async t => {
  const { fixture, db, attached } = await served(t)
  const sessions = [await attach(fixture.address, { name: 'db@latest' }), await attach(fixture.address, { mode: 'extended', name: 'db@s2' })]
  t.equal(attached(), 2)
  t.throws(() => db.points.delete('s2'), { code: 'busy' })
  await sessions[0]!.disconnect()
  t.throws(() => db.points.delete('s2'), { code: 'busy' })
  sessions[1]!.destroy()
  for (let i = 0; i < 100 && attached() > 0; i++) await delay(10)
  db.points.delete('s2')
  t.equal((await (await fixture.peer()).info(OPT.GO, 'db@s2')).final, REP.ERR_UNKNOWN)
})

t.test('H7: a hidden volume hides its snapshots; one that cannot be opened has none', async t => {
  const { fixture, exports, db } = await served(t)
  exports.setHidden('db', true)
  const peer = await fixture.peer()
  t.strictSame((await peer.list()).map(({ name }) => name), ['other'])
  for (const name of ['db', 'db@s1', 'db@latest']) t.equal((await peer.info(OPT.GO, name)).final, REP.ERR_UNKNOWN, name)
  t.equal((await peer.info(OPT.INFO, '', [INFO.NAME])).final, REP.ACK, 'the only one left is the default')
  exports.setHidden('db', false)
  db.problem = new NbdeltaError('damaged', 'no')
  t.strictSame(exports.list().map(({ name }) => name), ['db', 'other'])
  t.strictSame(exports.contexts('db'), [])
  t.equal((await peer.info(OPT.GO, 'db@s1')).final, REP.ERR_UNKNOWN)
})

t.test('C11 S7: hidden while its bitmaps are bound: not attached; and bitmaps have a bound in all', async t => {
  const { db, exports, attached } = await served(t)
  const client = { id: 1, address: 'unix' }
  const contexts = [`${BITMAP}s1`, `${BITMAP}b`, `${BITMAP}s2`]
  const opening = exports.open('db@s2', client, contexts.slice(0, 2))
  exports.setHidden('db', true)
  await t.rejects(opening, { code: 'not-found' })
  t.equal(db.points.attached.get('s2'), 0)
  exports.setHidden('db', false)
  checker(db, 2 ** 18 - 1)
  const handles = await Promise.all([1, 2, 3, 4, 5].map(() => exports.open('db', client, contexts)))
  await t.rejects(exports.open('db', client, contexts), { code: 'denied', message: /too many dirty bitmaps/ })
  for (const { release } of handles) release()
  ;(await exports.open('db', client, contexts)).release()
  t.equal(attached(), 0)
})

t.test('B2: 200,000 runs of a bitmap: frozen and told in pieces while another client is served', async t => {
  const { db, exports } = await served(t)
  const grown = checker(db, 200_000)
  const { address } = await startServer(t, { provider: exports })
  const other = await attach(address, { name: 'other' })
  let worst = 0
  let busy = true
  const pinging = (async () => {
    while (busy) {
      const began = performance.now()
      await other.alive()
      worst = Math.max(worst, performance.now() - began)
    }
  })()
  const began = performance.now()
  const session = await attach(address, { mode: 'extended', name: 'db', contexts: [`${BITMAP}s1`, `${BITMAP}s2`, 'base:allocation'] })
  const attachedMs = performance.now() - began
  let extents = 0
  const { id } = session.contexts.find((one) => one.name === `${BITMAP}s1`)!
  for (let at = 0; at < grown;) {
    const { status } = await session.call({ type: CMD.BLOCK_STATUS, offset: at, length: Math.min(grown - at, 2 ** 31) })
    t.ok([...status.values()].reduce((sum, list) => sum + list.length, 0) <= 16_384, 'all contexts share one reply')
    for (const { length, state } of status.get(id)!) {
      at += Number(length)
      extents += Number(state)
    }
  }
  busy = false
  await pinging
  t.equal(extents, 200_000)
  t.comment(`attached in ${attachedMs.toFixed(0)} ms, read in ${(performance.now() - began).toFixed(0)} ms, others waited ${worst.toFixed(1)} ms at most`)
})

t.test('C3: a volume without points offers its depth', async t => {
  const exports = new StoreExports(storeOf(new PointedDisk('plain', MIB)), () => {})
  t.strictSame(exports.contexts('plain'), [DEPTH])
  t.strictSame(exports.contexts('nope'), [])
  t.strictSame(exports.list().map(({ name }) => name), ['plain'])
})
