// S1-S6: DISC, EOF, server stop, export removal, one bad client.
import t from 'tap'
import { connect } from 'node:net'
import { delay } from './support/byte-stream.js'
import { startServer } from './support/fixture.js'
import type { Session } from './support/session.js'
import { CMD, command, ERR, FLAG, infoData, MIB, MODES, OPT, option, pattern, REP } from './support/wire.js'

function inFlight(session: Session, count: number, bytes = 4096): Promise<{ error: number }>[] {
  return Array.from({ length: count }, (_, i) => session.send({ type: CMD.READ, offset: i * bytes, length: bytes }).reply)
}

for (const mode of MODES) {
  t.test(`S1: ${mode}: 64 requests in flight before DISC are all answered, then the server closes`, async t => {
    const fixture = await startServer(t)
    const session = await fixture.attach({ mode, name: 'gate' })
    fixture.gate.shut('read')
    const replies = inFlight(session, 64)
    const ended = session.disconnect()
    await fixture.gate.holding(64)
    await delay(20)
    fixture.gate.openAll()
    for (const reply of replies) t.equal((await reply).error, 0)
    await ended
  })

  t.test(`S1: ${mode}: DISC is read while a few reads, writes and flushes are in flight: all are answered`, async t => {
    const fixture = await startServer(t)
    const session = await fixture.attach({ mode, name: 'gate' })
    fixture.gate.shut()
    const replies = [
      ...inFlight(session, 5),
      ...[512, 9000].map((bytes, i) => session.send({ type: CMD.WRITE, offset: 2 * MIB + i * MIB,
        payload: pattern(0, bytes) }).reply),
      session.send({ type: CMD.FLUSH }).reply, session.send({ type: CMD.WRITE_ZEROES, flags: FLAG.FUA, offset: 5 * MIB,
        length: 4096 }).reply,
    ]
    const ended = session.disconnect()
    await fixture.gate.holding(9)
    await delay(30)
    fixture.gate.openAll()
    for (const reply of replies) t.equal((await reply).error, 0)
    await ended
  })

  t.test(`S1: ${mode}: more than the in-flight cap, writes too, large ones, in one burst with DISC`, async t => {
    const fixture = await startServer(t)
    for (const name of ['disk', 'gate']) {
      const session = await fixture.attach({ mode, name })
      const writes = Array.from({ length: 40 }, (_, i) => session.send({ type: CMD.WRITE, offset: i * 100_000,
        payload: pattern(i, 100_000) }).reply)
      const replies = [...writes, ...inFlight(session, 200), ...inFlight(session, 4, 2 * MIB)]
      await session.disconnect()
      for (const reply of replies) t.equal((await reply).error, 0)
    }
  })

  t.test(`S1: ${mode}: nothing behind DISC is executed`, async t => {
    const fixture = await startServer(t)
    const session = await fixture.attach({ mode })
    session.stream.socket.write(Buffer.concat([
      command(mode, { type: CMD.DISC }), command(mode, { type: CMD.WRITE, offset: 0, payload: Buffer.alloc(512, 7) }),
    ]))
    await session.closed()
    t.equal(fixture.disk.toBuffer()[0], 0)
  })

  t.test(`S2: ${mode}: EOF and RST without DISC hurt nobody`, async t => {
    const fixture = await startServer(t)
    const good = await fixture.attach({ mode })
    for (let i = 0; i < 20; i++) {
      const dying = await fixture.attach({ mode, tcp: i % 3 === 0 })
      inFlight(dying, 10)
      dying.stream.socket.write(command(mode, { type: CMD.WRITE, offset: 0, length: 5000, payload: Buffer.alloc(i * 100) }))
      if (i % 3 === 0) dying.stream.socket.resetAndDestroy()
      else if (i % 3 === 1) dying.destroy()
      else dying.stream.socket.end()
      await good.alive()
    }
    await delay(50)
    t.equal(fixture.server.clients().length, 1, 'the dead are gone from the list')
  })

  t.test(`S2: ${mode}: a client that dies in the middle of a long WRITE leaves nothing behind`, async t => {
    const fixture = await startServer(t)
    for (const name of ['disk', 'gate']) {
      if (name === 'gate') fixture.gate.shut('write')
      for (const how of ['cut', 'half-close'] as const) {
        const dying = await fixture.attach({ mode, name })
        dying.stream.socket.write(command(mode, { type: CMD.WRITE, offset: 0, length: 2 * MIB, payload: Buffer.alloc(300_000) }))
        await delay(30)
        if (how === 'cut') dying.destroy()
        else dying.stream.socket.end()
      }
    }
    await delay(30)
    fixture.gate.openAll()
    for (let i = 0; i < 100 && fixture.server.clients().length > 0; i++) await delay(20)
    t.equal(fixture.server.clients().length, 0)
    t.equal(fixture.server.stats().bufferBytes, 0, 'all memory is given back')
  })

  t.test(`S3: ${mode}: close() answers all in flight, refuses new requests with ESHUTDOWN, flushes, then closes`, async t => {
    const fixture = await startServer(t)
    const session = await fixture.attach({ mode, name: 'gate' })
    fixture.gate.shut('read', 'write')
    const reads = inFlight(session, 16)
    const write = session.send({ type: CMD.WRITE, offset: 65_536, payload: pattern(0, 65_536) }).reply
    await fixture.gate.holding(17)
    fixture.gate.log.length = 0
    const closing = fixture.server.close({ deadlineMs: 8000 })
    const again = fixture.server.close({ deadlineMs: 8000 })
    await delay(20)
    const late = [session.send({ type: CMD.READ, offset: 0, length: 512 }),
      session.send({ type: CMD.WRITE, offset: 0, payload: pattern(0, 512) })]
    for (const { reply } of late) t.equal((await reply).error, ERR.ESHUTDOWN)
    await t.rejects(fixture.peer(), 'no new connection')
    fixture.gate.openAll()
    for (const reply of reads) t.equal((await reply).error, 0)
    t.equal((await write).error, 0)
    await session.closed()
    await Promise.all([closing, again])
    t.ok(fixture.gate.log.includes('flush 0 0'), 'volumes are flushed')
  })

  t.test(`S3: ${mode}: idle clients are closed at once`, async t => {
    const fixture = await startServer(t)
    const sessions = await Promise.all([1, 2, 3].map(() => fixture.attach({ mode })))
    const started = Date.now()
    await Promise.all([fixture.server.close({ deadlineMs: 10_000 }), ...sessions.map(session => session.closed())])
    t.ok(Date.now() - started < 5000, `${Date.now() - started} ms`)
  })

  t.test(`S3: ${mode}: a client that is slow to hear of the stop is answered all the same`, async t => {
    const fixture = await startServer(t)
    const session = await fixture.attach({ mode })
    const closing = fixture.server.close({ deadlineMs: 8000 })
    for (let i = 0; i < 4; i++) {
      await delay(20)
      t.equal((await session.read(4096, 512)).error, ERR.ESHUTDOWN)
    }
    await session.closed()
    await closing
  })

  t.test(`S3: ${mode}: a client that never stops asking cannot hold the stop`, async t => {
    const fixture = await startServer(t)
    const session = await fixture.attach({ mode })
    const started = Date.now()
    let ended = false
    const closing = fixture.server.close({ deadlineMs: 60_000 }).finally(() => { ended = true })
    for (; !ended; await delay(5)) session.send({ type: CMD.READ, offset: 4096, length: 512 }).reply.catch(() => undefined)
    await closing
    t.ok(Date.now() - started < 20_000, `${Date.now() - started} ms`)
  })

  t.test(`S3: ${mode}: the deadline bounds the drain`, async t => {
    const fixture = await startServer(t)
    const session = await fixture.attach({ mode, name: 'gate' })
    fixture.gate.shut('read')
    inFlight(session, 3)
    await fixture.gate.holding(3)
    const started = Date.now()
    const closing = fixture.server.close({ deadlineMs: 300 })
    await session.closed(5000)
    const took = Date.now() - started
    t.ok(took >= 250 && took < 3000, `${took} ms`)
    fixture.gate.openAll()
    await closing
  })

  t.test(`S4: ${mode}: soft removal answers ESHUTDOWN, hard removal cuts`, async t => {
    const fixture = await startServer(t)
    const soft = await fixture.attach({ mode, name: 'gate' })
    const other = await fixture.attach({ mode })
    fixture.gate.shut('read')
    const [running] = inFlight(soft, 1)
    await fixture.gate.holding(1)
    const removal = fixture.server.closeExport('gate', 'soft')
    await delay(20)
    t.equal((await soft.read(4096, 512)).error, ERR.ESHUTDOWN)
    fixture.gate.openAll()
    t.equal((await running).error, 0)
    await soft.closed()
    await removal
    const hard = await fixture.attach({ mode, name: 'ro' })
    await fixture.server.closeExport('ro', 'hard')
    await hard.closed()
    await other.alive()
    t.pass('others are not touched')
  })
}

t.test('S3: a client that never reads cannot hold the stop beyond the deadline', async t => {
  const fixture = await startServer(t)
  const lazy = await fixture.attach({ name: 'map' })
  lazy.stream.socket.pause()
  for (let i = 0; i < 50; i++) lazy.send({ type: CMD.READ, offset: 0, length: MIB })
  await delay(50)
  const started = Date.now()
  await fixture.server.close({ deadlineMs: 300 })
  t.ok(Date.now() - started < 3000)
})

t.test('S6 kick: a client can be thrown out by number', async t => {
  const fixture = await startServer(t)
  const session = await fixture.attach({ mode: 'extended' })
  const [client] = fixture.server.clients()
  t.equal(fixture.server.kick(client.id), true)
  await session.closed()
  t.equal(fixture.server.kick(client.id), false)
})

t.test('S6: rubbish of every kind leaves the server and good clients alone', async t => {
  const fixture = await startServer(t)
  const good = await fixture.attach({ mode: 'extended' })
  const rubbish = [
    Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n'), Buffer.alloc(100_000, 0xff), Buffer.alloc(100_000),
    Buffer.from([0x16, 3, 1, 2, 0, 1, 0]),
    option(OPT.GO, infoData('disk')), Buffer.concat([Buffer.from([0, 0, 0, 3]), option(OPT.GO, infoData('disk')),
      Buffer.alloc(1000, 0x25)]),
  ]
  for (const bytes of rubbish) {
    const socket = connect(fixture.address)
    socket.on('error', () => undefined)
    socket.end(bytes)
    await new Promise(resolve => socket.resume().once('close', resolve))
    await good.alive()
  }
  const peer = await fixture.peer()
  t.equal(await peer.verdict(OPT.ABORT), REP.ACK)
})
