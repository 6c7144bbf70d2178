// Section 14: attacks that other servers fell to, and what a server may hold for them.
import t from 'tap'
import { delay } from './support/byte-stream.js'
import { HUGE_BYTES, startServer } from './support/fixture.js'
import { Peer } from './support/peer.js'
import { CMD, command, ERR, FLAG, IHAVEOPT, infoData, MIB, OPT, option, REP, u32, u64 } from './support/wire.js'

const fixture = await startServer(t)

async function serverIsWell(): Promise<void> {
  const session = await fixture.attach({ mode: 'extended' })
  await session.alive()
  await session.disconnect()
}

t.test('CVE-2017-15118, CVE-2020-10761: long export names in every option that has one', async t => {
  for (const bytes of [4097, 5000, 65_000, MIB]) {
    const name = Buffer.alloc(bytes, 'A')
    for (const number of [OPT.INFO, OPT.GO] as const) {
      const peer = await fixture.peer()
      const { final } = await peer.info(number, name)
      t.ok(final === REP.ERR_INVALID || final === REP.ERR_TOO_BIG, `option ${number}, ${bytes} bytes`)
      await peer.expectInStep()
      peer.destroy()
    }
    const peer = await fixture.peer()
    peer.send(option(OPT.EXPORT_NAME, name))
    await peer.expectDropped()
  }
  await serverIsWell()
})

t.test('CVE-2017-15119: oversized options cost no memory', async t => {
  const before = process.memoryUsage()
  const peers = await Promise.all(Array.from({ length: 50 }, () => fixture.peer()))
  for (const peer of peers) peer.send(Buffer.concat([u64(IHAVEOPT), u32(99, 32 * MIB)]))
  await delay(50)
  const grown = process.memoryUsage().rss - before.rss
  t.ok(grown < 100 * MIB, `${(grown / MIB).toFixed(0)} MiB for 50 announced options of 32 MiB`)
  for (const peer of peers) peer.destroy()
  await serverIsWell()
})

t.test('CVE-2017-9524: half-open handshakes, cut at every byte', async t => {
  const stream = Buffer.concat([u32(3), option(OPT.STRUCTURED_REPLY), option(OPT.GO, infoData('disk', [3])),
    command('structured', { type: CMD.READ, length: 512 })])
  for (let cut = 0; cut <= stream.length; cut++) {
    const peer = await Peer.connect(cut % 2 ? fixture.address : fixture.tcp)
    peer.send(stream.subarray(0, cut))
    if (cut % 3 === 0) peer.destroy()
    else if (cut % 2) peer.stream.socket.end()
    else peer.stream.socket.resetAndDestroy()
  }
  await delay(100)
  await serverIsWell()
  for (let i = 0; i < 100 && fixture.server.clients().length > 0; i++) await delay(20)
  t.equal(fixture.server.clients().length, 0, 'none is left behind')
})

t.test('CVE-2019-14850: GO, INFO and commands in odd orders', async t => {
  const steps: Buffer[] = [
    option(OPT.GO, infoData('nope')), option(OPT.INFO, infoData('disk')), option(OPT.SET_META_CONTEXT), option(OPT.STARTTLS),
    option(OPT.STRUCTURED_REPLY),
    option(OPT.EXTENDED_HEADERS), option(OPT.LIST), option(OPT.STRUCTURED_REPLY), option(OPT.GO), option(0), option(0xffff_ffff),
  ]
  for (let turn = 0; turn < steps.length; turn++) {
    const peer = await fixture.peer()
    const order = [...steps.slice(turn), ...steps.slice(0, turn)]
    for (const step of order) {
      peer.send(step)
      await peer.replies(step.readUInt32BE(8))
    }
    t.ok((await peer.info(OPT.GO, 'disk')).facts)
    peer.destroy()
  }
})

t.test('CVE-2019-14851: commands before the handshake ends, options after it', async t => {
  const peer = await fixture.peer()
  peer.send(command('simple', { type: CMD.DISC }))
  await peer.expectDropped()
  const session = await fixture.attach()
  session.stream.socket.write(option(OPT.LIST))
  session.stream.socket.write(Buffer.alloc(28))
  await session.closed()
  t.pass()
  await serverIsWell()
})

t.test('CVE-2022-26495: name length 2^32-1 with length 2^32-1, and its neighbours', async t => {
  for (const length of [0xffff_ffff, 0xffff_fffe, 0xffff_fffa, 0x8000_0000, 0x7fff_ffff]) {
    for (const number of [OPT.INFO, OPT.GO, OPT.SET_META_CONTEXT, OPT.LIST_META_CONTEXT] as const) {
      const peer = await fixture.peer()
      t.equal(await peer.verdict(number, Buffer.concat([u32(length), Buffer.from('disk'), u32(0)])), REP.ERR_INVALID)
      await peer.expectInStep()
      peer.destroy()
    }
  }
})

t.test('CVE-2024-7409: floods of connections that come and go, while the server closes', async t => {
  const own = await startServer(t)
  const good = await own.attach()
  const rounds = Array.from({ length: 400 }, async (_, i) => {
    const peer = await Peer.connect(i % 2 ? own.tcp : own.address).catch(() => undefined)
    if (!peer) return
    peer.send(Buffer.concat([u32(3), option(OPT.GO, infoData('disk')), command('simple', { type: CMD.READ, length: 65_536 })]))
    if (i % 4 === 1) peer.stream.socket.resetAndDestroy()
    else if (i % 4 === 2) peer.destroy()
    else if (i % 4 === 3) await delay(1)
    if (i === 300) await own.server.close({ deadlineMs: 500 })
    peer.destroy()
  })
  await good.alive().catch(() => undefined)
  await Promise.all(rounds)
  await own.server.close({ deadlineMs: 500 })
  t.equal(own.server.status, 'closed')
  t.equal(own.server.clients().length, 0)
})

t.test('CVE-2024-7409: more connections than allowed are refused, and places come free again', async t => {
  const own = await startServer(t, { limits: { connections: 8 } })
  const inside = await Promise.all(Array.from({ length: 8 }, () => own.attach()))
  for (let i = 0; i < 5; i++) {
    const outside = await Peer.connect(own.address)
    await outside.expectDropped()
  }
  for (const session of inside) await session.alive()
  await inside[0].disconnect()
  await delay(50)
  await (await own.attach()).alive()
  t.ok(own.server.stats().refused >= 5)
})

t.test('CVE-2025-47711, CVE-2025-47712: block status of maximum length, unaligned, at odd places', async t => {
  for (const mode of ['structured', 'extended'] as const) {
    const session = await fixture.attach({ mode, name: 'huge' })
    for (const offset of [0, 1, 511, 2 ** 32 - 1, 2 ** 40 + 3, HUGE_BYTES - 2 ** 32]) {
      for (const length of [1, 513, 0xffff_ffff, 0xffff_fffe, 0xffff_0001].filter(bytes => bytes <= HUGE_BYTES - offset)) {
        for (const flags of [0, FLAG.REQ_ONE]) {
          t.equal((await session.call({ type: CMD.BLOCK_STATUS, offset, length, flags })).error, 0,
            `${mode} [${offset}, +${length})`)
        }
      }
    }
    t.equal((await session.call({ type: CMD.BLOCK_STATUS, offset: HUGE_BYTES - 1, length: 2 })).error, ERR.EINVAL)
  }
})

t.test('nbd PR#173: EOF is no busy loop', async t => {
  const peers = await Promise.all(Array.from({ length: 20 }, () => fixture.attach({ name: 'gate' })))
  fixture.gate.shut('read')
  for (const session of peers) {
    session.send({ type: CMD.READ, offset: 0, length: 512 })
    await delay(1)
    session.stream.socket.end()
  }
  await delay(100)
  const before = process.cpuUsage()
  await delay(500)
  const { user, system } = process.cpuUsage(before)
  t.ok(user + system < 250_000, `${((user + system) / 1000).toFixed(0)} ms of processor time in 500 ms of waiting`)
  fixture.gate.openAll()
})
