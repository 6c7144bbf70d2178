// Section 13: clients that could not be recorded here, written from their documented sequences.
import t from 'tap'
import { startServer } from './support/fixture.js'
import { attach, Session } from './support/session.js'
import { CMD, command, FLAG, INFO, infoData, KIB, metaData, MIB, OPT, option, pattern, REP, TX } from './support/wire.js'

const fixture = await startServer(t)

t.test('libnbd 1.24, nbdinfo: extended headers first, INFO for all, ABORT without waiting', async t => {
  const peer = await fixture.peer(3)
  t.equal(await peer.verdict(OPT.EXTENDED_HEADERS), REP.ACK)
  t.strictSame((await peer.meta(OPT.SET_META_CONTEXT, 'map', ['base:allocation'])).contexts.map(context => context.name),
    ['base:allocation'])
  const infos = [INFO.BLOCK_SIZE, INFO.NAME, INFO.DESCRIPTION]
  const told = await peer.info(OPT.INFO, 'map', infos)
  t.equal(told.facts!.name, 'map')
  t.strictSame(await peer.info(OPT.INFO, 'map', infos), told)
  peer.send(option(OPT.ABORT))
  peer.stream.socket.end()
  await peer.stream.drain()
  await (await fixture.attach()).alive()
})

t.test('libnbd 1.24: a server without extended headers is asked for structured replies; ours has both', async t => {
  const peer = await fixture.peer(3)
  t.equal(await peer.verdict(OPT.EXTENDED_HEADERS), REP.ACK)
  const contexts = (await peer.meta(OPT.SET_META_CONTEXT, 'map', ['base:allocation'])).contexts
  const session = new Session(peer, 'extended', (await peer.info(OPT.GO, 'map',
    [INFO.BLOCK_SIZE, INFO.NAME, INFO.DESCRIPTION])).facts!, contexts)
  t.ok(session.facts.flags & TX.BLOCK_STATUS_PAYLOAD)
  t.equal((await session.call({ type: CMD.BLOCK_STATUS, offset: 0, length: MIB })).status.size, 1)
  t.equal((await session.write(0, pattern(0, 512), FLAG.PAYLOAD_LEN)).error, 0)
  await session.disconnect()
})

t.test('nbdcopy 1.24: four connections, 64 requests of 256 KiB in flight on each', async t => {
  const sessions = await Promise.all([1, 2, 3, 4].map(() => attach(fixture.address, { mode: 'extended' })))
  t.ok(sessions[0].facts.flags & TX.CAN_MULTI_CONN)
  const piece = (i: number): number => (i % 32) * 256 * KIB
  await Promise.all(sessions.flatMap((session, k) => Array.from({ length: 64 }, (_, i) => {
    const at = piece(i * 4 + k)
    return session.write(at, pattern(at, 256 * KIB, 2))
  })))
  const reads = await Promise.all(sessions.flatMap((session, k) => Array.from({ length: 64 }, async (_, i) => {
    const at = piece(i * 4 + k)
    return (await session.read(at, 256 * KIB)).data.equals(pattern(at, 256 * KIB, 2))
  })))
  t.ok(reads.every(Boolean))
  t.equal((await sessions[0].flush()).error, 0)
  for (const session of sessions) await session.disconnect()
})

t.test('qemu 11: probes, opens twice, WRITE under extended headers without PAYLOAD_LEN', async t => {
  for (let opening = 0; opening < 2; opening++) {
    const peer = await fixture.peer(3)
    await peer.verdict(OPT.EXTENDED_HEADERS)
    const { contexts } = await peer.meta(OPT.SET_META_CONTEXT, 'disk', ['base:allocation', 'qemu:dirty-bitmap:b0'])
    t.equal(contexts.length, 1)
    const session = new Session(peer, 'extended', (await peer.info(OPT.GO, 'disk', [INFO.BLOCK_SIZE])).facts!, contexts)
    await session.alive()
    for (const [offset, bytes] of [[0, 512], [65_536, MIB], [5, 3]]) {
      t.equal((await session.call({ type: CMD.WRITE, offset, payload: pattern(offset, bytes, opening) })).error, 0)
      t.ok((await session.read(offset, bytes)).data.equals(pattern(offset, bytes, opening)))
    }
    t.equal((await session.call({ type: CMD.WRITE_ZEROES, flags: FLAG.NO_HOLE | FLAG.FAST_ZERO, offset: 0,
      length: session.size })).error, 0)
    t.equal((await session.call({ type: CMD.BLOCK_STATUS, flags: FLAG.REQ_ONE, offset: 0, length: session.size })).error, 0)
    await session.disconnect()
  }
})

t.test('nbd-client and kernel: GO with no info requests, simple replies, FUA anywhere, huge TRIM, four sockets', async t => {
  const sockets: Session[] = []
  for (let i = 0; i < 4; i++) {
    const peer = await fixture.peer(3)
    peer.send(option(OPT.GO, infoData('huge', [])))
    const { facts } = peer.infoAnswer(OPT.GO, await peer.replies(OPT.GO))
    sockets.push(new Session(peer, 'simple', facts!))
  }
  const cookie = (socket: number, tag: number): bigint => (BigInt(tag) << 32n) | BigInt(socket << 16 | tag)
  await Promise.all(sockets.flatMap((session, i) => Array.from({ length: 128 }, async (_, tag) => {
    const offset = (i * 128 + tag) * 128 * KIB
    const payload = pattern(offset, 128 * KIB)
    t.equal((await session.call({ type: CMD.WRITE, flags: tag % 2 ? FLAG.FUA : 0, offset, payload,
      cookie: cookie(i, tag) })).error, 0)
  })))
  const [first, second] = sockets
  t.ok((await second.read(128 * KIB, 128 * KIB)).data.equals(pattern(128 * KIB, 128 * KIB)))
  t.equal((await first.call({ type: CMD.FLUSH, flags: FLAG.FUA })).error, 0, 'FUA on FLUSH')
  t.equal((await first.call({ type: CMD.READ, flags: FLAG.FUA, offset: 0, length: 512 })).error, 0, 'FUA on READ')
  t.equal((await first.call({ type: CMD.TRIM, offset: 0, length: 2 ** 32 - 512 })).error, 0)
  t.equal((await first.call({ type: CMD.WRITE_ZEROES, flags: FLAG.NO_HOLE, offset: 0, length: MIB })).error, 0)
  t.equal((await first.call({ type: CMD.WRITE_ZEROES, flags: FLAG.FUA, offset: 0, length: 2 ** 32 - 512 })).error, 0)
  for (const session of sockets) await session.disconnect()
})

t.test('nbd-client before GO was known: EXPORT_NAME with and without zeroes', async t => {
  for (const flags of [1, 3]) {
    const peer = await fixture.peer(flags)
    const session = new Session(peer, 'simple', await peer.exportName('disk'))
    t.equal((await session.write(0, pattern(0, 4096))).error, 0)
    t.ok((await session.read(0, 4096)).data.equals(pattern(0, 4096)))
    await session.disconnect()
  }
})

t.test('Xen Orchestra: flags 1, EXPORT_NAME, 134 bytes, 64 KiB reads on several connections', async t => {
  const sessions = await Promise.all([1, 2, 3].map(async () => {
    const peer = await fixture.peer(1)
    return new Session(peer, 'simple', await peer.exportName('ro', true))
  }))
  for (let at = 0, turn = 0; at < MIB; at += 64 * KIB, turn++) {
    t.ok((await sessions[turn % 3].read(at, 64 * KIB)).data.equals(pattern(at, 64 * KIB, 2)))
  }
  for (const session of sessions) session.destroy()
})

t.test('nbd-tester-client: flags 1, 124 zeroes, FLUSH and FUA, 1 MiB + 14 at offset 1, payloads of 49,865,728 bytes', async t => {
  const peer = await fixture.peer(1)
  const session = new Session(peer, 'simple', await peer.exportName('huge', true))
  t.equal((await session.call({ type: CMD.WRITE, flags: FLAG.FUA, offset: 0, payload: pattern(0, 2 * MIB) })).error, 0)
  t.equal((await session.call({ type: CMD.FLUSH, flags: FLAG.FUA })).error, 0)
  t.ok((await session.read(1, MIB + 14)).data.equals(pattern(1, MIB + 14)))
  const payload = pattern(7, 49_865_728)
  t.equal((await session.write(12_345, payload)).error, 0)
  t.ok((await session.read(12_345, 49_865_728)).data.equals(payload),
    'a client that never asked for block sizes may read as much')
  await session.disconnect()
})

t.test('an integrity tester that sends everything in one packet', async t => {
  const peer = await fixture.peer(3)
  const requests = Array.from({ length: 20 }, (_, i) => ({ type: CMD.WRITE, offset: i * 512, payload: pattern(i * 512, 512, 4),
    cookie: BigInt(i) }))
  peer.send(Buffer.concat([
    option(OPT.STRUCTURED_REPLY), option(OPT.SET_META_CONTEXT, metaData('disk', ['base:allocation'])),
    option(OPT.GO, infoData('disk', [INFO.BLOCK_SIZE])),
    ...requests.map(request => command('structured', request)), command('structured',
      { type: CMD.READ, offset: 0, length: 20 * 512, cookie: 99n }),
    command('structured', { type: CMD.DISC }),
  ]))
  await peer.replies(OPT.STRUCTURED_REPLY)
  const contexts = peer.contextsOf(OPT.SET_META_CONTEXT, await peer.replies(OPT.SET_META_CONTEXT))
  const { facts } = peer.infoAnswer(OPT.GO, await peer.replies(OPT.GO))
  const session = new Session(peer, 'structured', facts!, contexts)
  const replies = requests.map(request => session.expect(request).reply)
  const read = session.expect({ type: CMD.READ, offset: 0, length: 20 * 512, cookie: 99n }).reply
  for (const reply of replies) t.equal((await reply).error, 0)
  t.ok((await read).data.equals(pattern(0, 20 * 512, 4)))
  await session.closed()
})
