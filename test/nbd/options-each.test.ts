// Section 4 without INFO and GO: EXPORT_NAME, ABORT, LIST, PEEK_EXPORT, STARTTLS (L2), STRUCTURED_REPLY, EXTENDED_HEADERS.
import t from 'tap'
import { startServer } from './support/fixture.js'
import { Peer } from './support/peer.js'
import { attach, Session } from './support/session.js'
import { CMD, command, infoData, metaData, OPT, option, REP } from './support/wire.js'

const fixture = await startServer(t)

t.test('EXPORT_NAME: unknown export and empty name without a default are dropped', async () => {
  for (const name of ['nope', 'disk ', 'DISK', 'dis']) {
    const peer = await fixture.peer()
    peer.send(option(OPT.EXPORT_NAME, Buffer.from(name)))
    await peer.expectDropped()
  }
})

t.test('EXPORT_NAME: after extended headers were agreed it is a hard drop', async () => {
  const peer = await fixture.peer()
  await peer.verdict(OPT.EXTENDED_HEADERS)
  peer.send(option(OPT.EXPORT_NAME, Buffer.from('disk')))
  await peer.expectDropped()
})

t.test('EXPORT_NAME: works after structured replies and contexts (C5)', async t => {
  const peer = await fixture.peer()
  await peer.verdict(OPT.STRUCTURED_REPLY)
  const { contexts } = await peer.meta(OPT.SET_META_CONTEXT, 'disk', ['base:allocation'])
  const session = new Session(peer, 'structured', await peer.exportName('disk'), contexts)
  t.equal((await session.call({ type: CMD.BLOCK_STATUS, offset: 0, length: 4096 })).error, 0)
  t.equal((await session.read(0, 100)).simple, false)
  await session.disconnect()
})

for (const data of [undefined, Buffer.alloc(10, 'x'), Buffer.alloc(70_000)]) {
  t.test(`ABORT: with ${data?.length ?? 0} bytes is acknowledged`, async t => {
    const peer = await fixture.peer()
    const type = await peer.verdict(OPT.ABORT, data)
    t.ok(type === REP.ACK || data?.length === 70_000, `reply ${type}`)
    peer.stream.socket.end()
    await peer.expectDropped()
  })
}

t.test('ABORT: clients that do not wait for the ACK do no harm', async t => {
  for (let i = 0; i < 50; i++) {
    const peer = await (await Peer.connect(i % 2 ? fixture.tcp : fixture.address)).begin()
    peer.send(option(OPT.ABORT))
    if (i % 2) peer.stream.socket.resetAndDestroy()
    else peer.destroy()
  }
  await (await attach(fixture.address)).disconnect()
  t.pass('EPIPE and ECONNRESET are tolerated')
})

t.test('LIST: names and descriptions, every export reachable by the name listed', async t => {
  const peer = await fixture.peer()
  const names = (await peer.list()).map(entry => entry.name)
  t.strictSame([...names].sort(), ['block', 'disk', 'gate', 'huge', 'map', 'odd', 'ro'])
  for (const name of names) t.ok((await peer.info(OPT.INFO, name)).facts, name)
})

t.test('PEEK_EXPORT: ERR_UNSUP', async t => {
  const peer = await fixture.peer()
  t.equal(await peer.verdict(OPT.PEEK_EXPORT), REP.ERR_UNSUP)
  t.equal(await peer.verdict(OPT.PEEK_EXPORT, Buffer.from('disk')), REP.ERR_UNSUP)
})

t.test('L2: STARTTLS is refused as known-but-off, TLS_REQD is never sent, plaintext goes on', async t => {
  const peer = await fixture.peer()
  const type = await peer.verdict(OPT.STARTTLS)
  t.ok(([REP.ERR_POLICY, REP.ERR_UNSUP, REP.ERR_PLATFORM] as number[]).includes(type), `reply 0x${type.toString(16)}`)
  t.equal(await peer.verdict(OPT.STARTTLS, Buffer.from('x')), REP.ERR_INVALID, 'O7')
  await peer.verdict(OPT.STRUCTURED_REPLY)
  await peer.verdict(OPT.STARTTLS)
  const session = new Session(peer, 'structured', (await peer.info(OPT.GO, 'disk')).facts!)
  await session.alive()
  t.pass('a refused STARTTLS forgets nothing')
})

t.test('EXTENDED_HEADERS: alone, after STRUCTURED_REPLY, and STRUCTURED_REPLY after it', async t => {
  const alone = await attach(fixture.address, { mode: 'extended' })
  await alone.alive()
  const both = await fixture.peer()
  t.equal(await both.verdict(OPT.STRUCTURED_REPLY), REP.ACK)
  t.equal(await both.verdict(OPT.EXTENDED_HEADERS), REP.ACK)
  const session = new Session(both, 'extended', (await both.info(OPT.GO, 'disk')).facts!)
  await session.alive()
  const late = await fixture.peer()
  t.equal(await late.verdict(OPT.EXTENDED_HEADERS), REP.ACK)
  t.equal(await late.verdict(OPT.STRUCTURED_REPLY), REP.ERR_EXT_HEADER_REQD)
  const still = new Session(late, 'extended', (await late.info(OPT.GO, 'disk')).facts!)
  await still.alive()
})

t.test('STRUCTURED_REPLY: not asked for means simple replies only (G4)', async t => {
  const session = await attach(fixture.address, { mode: 'simple' })
  for (const type of [0, 3, 4, 5, 6, 7, 8, 99]) t.ok((await session.call({ type, offset: 0,
    length: type === 3 ? 0 : 512 })).simple, `command ${type}`)
})

t.test('SET_META_CONTEXT and GO of one export with the options in any order before GO', async t => {
  const peer = await fixture.peer()
  t.equal(await peer.verdict(OPT.SET_META_CONTEXT, metaData('disk', ['base:allocation'])), REP.ERR_INVALID,
    'C4: without structured replies')
  await peer.option(OPT.INFO, infoData('disk'))
  await peer.verdict(OPT.EXTENDED_HEADERS)
  const { contexts } = await peer.meta(OPT.SET_META_CONTEXT, 'disk', ['base:allocation'])
  await peer.list()
  const { facts } = await peer.info(OPT.GO, 'disk')
  const session = new Session(peer, 'extended', facts!, contexts)
  t.equal((await session.call({ type: CMD.BLOCK_STATUS, offset: 0, length: 512 })).error, 0)
})

t.test('a request sent before GO is bad option magic', async () => {
  const peer = await fixture.peer()
  peer.send(command('simple', { type: CMD.READ, length: 512 }))
  await peer.expectDropped()
})
