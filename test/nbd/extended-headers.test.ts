// E1-E8: extended headers. The strict client checks E1's replies, E2 and E6 on every reply of every test.
import t from 'tap'
import { DISK_BYTES, HUGE_BYTES, mappedContent, startServer } from './support/fixture.js'
import { attach, type Session } from './support/session.js'
import { CMD, command, ERR, FLAG, MIB, pattern, REQUEST, statusPayload, TX } from './support/wire.js'

const fixture = await startServer(t)
const extended = async (name = 'disk', contexts = ['base:allocation']): Promise<Session> =>
  attach(fixture.address, { mode: 'extended', name, contexts })

t.test('E1: a compact request under extended headers is a desync: dropped', async t => {
  const session = await extended()
  await session.alive()
  session.stream.socket.write(command('simple', { type: CMD.READ, length: 512 }))
  session.stream.socket.write(command('simple', { type: CMD.READ, length: 512 }))
  await session.closed()
  t.pass()
})

t.test('E1 S5: an extended request without extended headers is dropped', async t => {
  for (const mode of ['simple', 'structured'] as const) {
    const session = await attach(fixture.address, { mode })
    session.stream.socket.write(command('extended', { type: CMD.READ, length: 512 }))
    await session.closed()
  }
  t.pass()
})

t.test('S5: every wrong request magic is dropped', async t => {
  for (const magic of [0, REQUEST + 1, 0x12560953, 0x96744668, 0x25609514, 0x67446698, 0x21e41c72]) {
    for (const mode of ['simple', 'extended'] as const) {
      const session = await attach(fixture.address, { mode })
      session.stream.socket.write(command(mode, { type: CMD.READ, length: 512, magic }))
      await session.closed()
    }
  }
  t.pass()
})

t.test('E2: the chunk offset is the request\'s, also for data and holes further in', async t => {
  const session = await extended('map')
  const { data, chunks } = await session.read(1000, MIB - 2000)
  t.ok(chunks.length > 3, 'several chunks, each checked by the client')
  t.ok(data.equals(mappedContent().subarray(1000, MIB - 1000)))
})

t.test('E3: a WRITE\'s payload is taken with PAYLOAD_LEN and without', async t => {
  const session = await extended()
  for (const [flags, seed] of [[FLAG.PAYLOAD_LEN, 4], [0, 5], [FLAG.FUA, 6], [FLAG.FUA | FLAG.PAYLOAD_LEN, 7]] as const) {
    for (const length of [1, 512, 100_000, 3 * MIB]) {
      const payload = pattern(777, length, seed)
      t.equal((await session.call({ type: CMD.WRITE, flags, offset: 777, payload })).error, 0)
      t.ok((await session.read(777, length)).data.equals(payload), `flags ${flags}, ${length} bytes`)
    }
  }
})

for (const [what, type, flags] of [
  ['READ', CMD.READ, 0], ['FLUSH', CMD.FLUSH, 0], ['TRIM', CMD.TRIM, FLAG.FUA], ['CACHE', CMD.CACHE, 0],
  ['WRITE_ZEROES', CMD.WRITE_ZEROES, 0],
  ['command 8', 8, 0], ['command 65535', 65535, 0],
] as const) {
  t.test(`E4: ${what} with a payload is swallowed and EINVAL`, async t => {
    const session = await extended()
    for (const bytes of [1, 24, 4096, MIB, 32 * MIB]) {
      const payload = Buffer.alloc(bytes, command('extended', { type: CMD.DISC }))
      const { error } = await session.call({ type, flags: flags | FLAG.PAYLOAD_LEN, payload })
      t.equal(error, ERR.EINVAL, `${bytes} bytes`)
      await session.alive()
    }
    t.equal((await session.call({ type, flags: flags | FLAG.PAYLOAD_LEN, length: 0 })).error, ERR.EINVAL, 'a payload of nothing')
    await session.alive()
  })
}

t.test('E4: a payload beyond all limits is a hard drop', async t => {
  for (const type of [CMD.WRITE, CMD.FLUSH, CMD.READ, CMD.BLOCK_STATUS, 99]) {
    for (const length of [64 * MIB + 1, 0xffff_ffff, 0x1_0000_0000, 2n ** 63n, 2n ** 64n - 1n]) {
      const session = await extended('huge')
      session.send({ type, flags: FLAG.PAYLOAD_LEN, length })
      await session.closed()
    }
  }
  t.pass()
})

t.test('E5: BLOCK_STATUS with a list of contexts', async t => {
  const session = await extended('map')
  t.ok(session.facts.flags & TX.BLOCK_STATUS_PAYLOAD, 'advertised')
  const [{ id }] = session.contexts
  const ask = async (payload: Buffer, ids: number[], offset = 0, effect?: bigint): Promise<number> => {
    const request = { type: CMD.BLOCK_STATUS, flags: FLAG.PAYLOAD_LEN, offset, payload }
    const { cookie, reply } = session.expect(request, ids, effect ?? payload.readBigUInt64BE(0))
    session.stream.socket.write(command('extended', { ...request, cookie }))
    const { error, status } = await reply
    if (error === 0) t.strictSame([...status.keys()], ids)
    return error
  }
  t.equal(await ask(statusPayload(MIB, [id]), [id]), 0)
  t.equal(await ask(statusPayload(4096, [id]), [id], 65536), 0)
  for (const [what, payload] of [
    ['an unknown id', statusPayload(MIB, [id + 1])], ['a duplicate id', statusPayload(MIB, [id, id])],
    ['known and unknown', statusPayload(MIB, [id, id + 9])],
    ['no id', statusPayload(MIB, [])], ['a length that is not 8 + 4n',
      Buffer.concat([statusPayload(MIB, [id]), Buffer.alloc(2)])],
    ['effect past the end', statusPayload(MIB + 1, [id])], ['effect of nothing', statusPayload(0, [id])],
    ['effect 2^63', statusPayload(2n ** 63n, [id])],
    ['effect 2^64-1', statusPayload(2n ** 64n - 1n, [id])], ['many ids',
      statusPayload(MIB, Array.from({ length: 50_000 }, (_, i) => i + 2))],
  ] as const) {
    t.equal(await ask(payload, [], 0, 4096n), ERR.EINVAL, what)
    await session.alive()
  }
  for (const bytes of [1, 4, 7]) {
    const { error } = await session.call({ type: CMD.BLOCK_STATUS, flags: FLAG.PAYLOAD_LEN, payload: Buffer.alloc(bytes) })
    t.equal(error, ERR.EINVAL, `${bytes} bytes of payload`)
  }
  await session.alive()
})

t.test('E5: not advertised (no contexts): swallowed and EINVAL', async t => {
  const session = await extended('map', [])
  t.notOk(session.facts.flags & TX.BLOCK_STATUS_PAYLOAD)
  t.equal((await session.call({ type: CMD.BLOCK_STATUS, flags: FLAG.PAYLOAD_LEN, payload: statusPayload(MIB, [1]) })).error,
    ERR.EINVAL)
  await session.alive()
})

t.test('E6: status over the whole of 4 PiB in one request, 64-bit lengths', async t => {
  const session = await extended('huge')
  const { status } = await session.call({ type: CMD.BLOCK_STATUS, offset: 0, length: HUGE_BYTES })
  const [extent] = status.get(session.contexts[0].id)!
  t.equal(extent.length, BigInt(HUGE_BYTES))
  t.equal(extent.state, 3n)
})

for (const [what, type, flags] of [['TRIM', CMD.TRIM, 0], ['WRITE_ZEROES', CMD.WRITE_ZEROES, 0], ['CACHE', CMD.CACHE, 0],
  ['fast WRITE_ZEROES', CMD.WRITE_ZEROES, FLAG.FAST_ZERO]] as const) {
  t.test(`E7 W1: ${what} over 4 PiB in one request costs nothing`, async t => {
    const session = await extended('huge')
    await session.write(HUGE_BYTES - 4096, pattern(0, 4096))
    const started = performance.now()
    t.equal((await session.call({ type, flags, offset: 0, length: HUGE_BYTES })).error, 0)
    t.ok(performance.now() - started < 1000, `${(performance.now() - started).toFixed(1)} ms`)
    if (type !== CMD.CACHE) t.ok((await session.read(HUGE_BYTES - 4096, 4096)).data.every(byte => byte === 0), 'the far end too')
  })
}

t.test('E7 Z4: a READ of more than 32 bits is refused and allocates nothing', async t => {
  const session = await extended('huge')
  const before = process.memoryUsage()
  for (const length of [2 ** 32, 2 ** 40, HUGE_BYTES]) {
    const { error } = await session.read(0, length)
    t.ok(error === ERR.EINVAL || error === ERR.EOVERFLOW, `${length}: errno ${error}`)
  }
  for (const length of [2n ** 63n, 2n ** 64n - 1n, 2n ** 53n, 2n ** 53n + 1n]) {
    t.equal((await session.call({ type: CMD.READ, offset: 0, length })).error, ERR.EINVAL, `${length} passes the end`)
  }
  t.ok(process.memoryUsage().rss - before.rss < 64 * MIB)
  await session.alive()
})

t.test('E8: no reply payload is longer than what READ may ask', async t => {
  const session = await extended('huge')
  const { data, chunks } = await session.read(HUGE_BYTES - 32 * MIB, 32 * MIB)
  t.equal(data.length, 32 * MIB)
  t.ok(chunks.every(chunk => chunk.length <= 32 * MIB))
})

t.test('E1: offsets and cookies with all 64 bits', async t => {
  const session = await extended('disk')
  for (const cookie of [0n, 1n, 2n ** 63n, 2n ** 64n - 1n, 0x0123_4567_89ab_cdefn]) {
    t.equal((await session.call({ type: CMD.READ, offset: DISK_BYTES - 10, length: 10, cookie })).error, 0,
      `cookie ${cookie.toString(16)}`)
  }
  for (const offset of [2n ** 53n, 2n ** 63n, 2n ** 64n - 1n, 2n ** 64n - 512n]) {
    t.equal((await session.call({ type: CMD.READ, offset, length: 512 })).error, ERR.EINVAL,
      `offset ${offset}: echoed and refused`)
  }
})
