// O1, O2, O4-O11: what holds for every option.
import t from 'tap'
import { startServer } from './support/fixture.js'
import { Session } from './support/session.js'
import { counted, IHAVEOPT, INFO, infoData, metaData, MIB, OPT, option, REP, u16, u32, u64 } from './support/wire.js'

const fixture = await startServer(t)

t.test('O1: every option echoes its number and ends in exactly one final reply', async t => {
  const peer = await fixture.peer()
  for (const [number, data] of [
    [OPT.LIST, undefined], [OPT.PEEK_EXPORT, undefined], [OPT.STARTTLS, undefined], [OPT.INFO, infoData('disk', [0, 1, 2, 3])],
    [OPT.STRUCTURED_REPLY, undefined], [OPT.LIST_META_CONTEXT, metaData('disk')],
    [OPT.SET_META_CONTEXT, metaData('disk', ['base:allocation'])],
    [OPT.EXTENDED_HEADERS, undefined], [0, undefined], [12, undefined], [0xffff_ffff, undefined],
  ] as const) {
    const replies = await peer.option(number, data)
    t.equal(replies.filter(reply => reply.type === REP.ACK || reply.type >= REP.ERR_UNSUP).length, 1, `option ${number}`)
  }
  t.equal((await peer.info(OPT.GO, 'disk')).final, REP.ACK)
})

for (const bytes of [0, 1, 15, 16, 17, 4096, 65_536, 65_537, 20 * MIB]) {
  t.test(`O2: an unknown option with ${bytes} bytes of data is read past`, async t => {
    const peer = await fixture.peer()
    // The data looks like options, so that a server out of step is caught.
    t.equal(await peer.verdict(55, Buffer.alloc(bytes, option(OPT.ABORT))), REP.ERR_UNSUP)
    await peer.expectInStep()
  })
}

for (const magic of [0n, IHAVEOPT + 1n, 0x0003e889045565a9n, 0x00420281861253n]) {
  t.test(`O4 S5: option magic 0x${magic.toString(16)} is dropped`, async () => {
    const peer = await fixture.peer()
    await peer.list()
    peer.send(Buffer.concat([u64(magic), u32(OPT.LIST, 0)]))
    await peer.expectDropped()
  })
}

const INFO_SHAPES: readonly (readonly [string, Buffer])[] = [
  ['nothing', Buffer.alloc(0)], ['3 bytes', Buffer.alloc(3)], ['5 bytes', Buffer.alloc(5)],
  ['name length past the data', Buffer.concat([u32(400), Buffer.from('disk'), u16(0)])],
  ['name length 2^32-1', Buffer.concat([u32(0xffff_ffff), Buffer.from('disk'), u16(0)])],
  ['name length 2^31', Buffer.concat([u32(0x8000_0000), Buffer.from('disk'), u16(0)])],
  ['name takes the count', Buffer.concat([u32(6), Buffer.from('disk'), u16(0)])],
  ['name takes half the count', Buffer.concat([u32(5), Buffer.from('disk'), u16(0)])],
  ['5 requests, 0 present', Buffer.concat([counted('disk'), u16(5)])],
  ['2 requests, 1 present', Buffer.concat([counted('disk'), u16(2, INFO.NAME)])],
  ['65,535 requests', Buffer.concat([counted('disk'), u16(0xffff, 1, 2, 3)])],
  ['a byte too many', Buffer.concat([infoData('disk', [3]), Buffer.alloc(1)])],
  ['a request too many', Buffer.concat([infoData('disk', [3]), u16(1)])],
]
const META_SHAPES: readonly (readonly [string, Buffer])[] = [
  ['nothing', Buffer.alloc(0)], ['7 bytes', Buffer.alloc(7)], ['name only', counted('disk')],
  ['name length past the data', Buffer.concat([u32(400), Buffer.from('disk'), u32(0)])],
  ['name length 2^32-1', Buffer.concat([u32(0xffff_ffff), Buffer.from('disk'), u32(0)])],
  ['name length 2^32-8', Buffer.concat([u32(0xffff_fff8), Buffer.from('disk'), u32(0)])],
  ['1 query, 0 present', Buffer.concat([counted('disk'), u32(1)])],
  ['2^32-1 queries', Buffer.concat([counted('disk'), u32(0xffff_ffff), counted('base:')])],
  ['query length past the data', Buffer.concat([counted('disk'), u32(1, 100), Buffer.from('base:')])],
  ['query length 2^32-1', Buffer.concat([counted('disk'), u32(1, 0xffff_ffff), Buffer.from('base:')])],
  ['second query cut', Buffer.concat([counted('disk'), u32(2), counted('base:'), u16(0)])],
  ['a byte too many', Buffer.concat([metaData('disk', ['base:']), Buffer.alloc(1)])],
]
for (const [numbers, shapes] of [[[OPT.INFO, OPT.GO], INFO_SHAPES], [[OPT.LIST_META_CONTEXT, OPT.SET_META_CONTEXT],
  META_SHAPES]] as const) {
  for (const number of numbers) {
    for (const [what, data] of shapes) {
      t.test(`O6 C1: option ${number} with ${what} is ERR_INVALID and the next option parses`, async t => {
        const peer = await fixture.peer()
        await peer.verdict(OPT.STRUCTURED_REPLY)
        t.equal(await peer.verdict(number, data), REP.ERR_INVALID)
        await peer.expectInStep()
        t.ok((await peer.info(OPT.GO, 'disk')).facts, 'and GO works')
      })
    }
  }
}

for (const number of [OPT.LIST, OPT.STARTTLS, OPT.STRUCTURED_REPLY, OPT.EXTENDED_HEADERS]) {
  t.test(`O7: option ${number} with data is ERR_INVALID`, async t => {
    const peer = await fixture.peer()
    for (const bytes of [1, 16, 5000]) {
      t.equal(await peer.verdict(number, Buffer.alloc(bytes, option(OPT.ABORT))), REP.ERR_INVALID, `${bytes} bytes`)
    }
    await peer.expectInStep()
    t.equal((await peer.info(OPT.GO, 'disk')).final, REP.ACK)
    const session = new Session(peer, 'simple', (await fixture.attach()).facts)
    await session.alive()
    t.pass('and it did not take effect')
  })
}

t.test('O8: repeated options', async t => {
  const peer = await fixture.peer()
  const first = await peer.list()
  t.strictSame(await peer.list(), first, 'LIST again')
  t.equal(await peer.verdict(OPT.STRUCTURED_REPLY), REP.ACK)
  const again = await peer.verdict(OPT.STRUCTURED_REPLY)
  t.ok(again === REP.ACK || again === REP.ERR_INVALID, `STRUCTURED_REPLY again: ${again}`)
  t.equal(await peer.verdict(OPT.EXTENDED_HEADERS), REP.ACK)
  const third = await peer.verdict(OPT.EXTENDED_HEADERS)
  t.ok(third === REP.ACK || third === REP.ERR_INVALID, `EXTENDED_HEADERS again: ${third}`)
  t.strictSame(await peer.list(), first, 'LIST once more')
})

t.test('O9: twenty refused options leave a good session', async t => {
  const peer = await fixture.peer()
  for (let i = 0; i < 20; i++) await peer.info(OPT.GO, `nope ${i}`)
  t.ok((await peer.info(OPT.GO, 'disk')).facts)
})

t.test('O10: while the server shuts down every option but ABORT is ERR_SHUTDOWN', async t => {
  const own = await startServer(t)
  const busy = await own.attach({ name: 'gate' })
  own.gate.shut('read')
  const slow = busy.send({ type: 0, offset: 0, length: 512 })
  await own.gate.holding(1)
  const peer = await own.peer()
  await peer.list()
  const closing = own.server.close({ deadlineMs: 5000 })
  for (const [number, data] of [
    [OPT.LIST, undefined], [OPT.INFO, infoData('disk')], [OPT.GO, infoData('disk')], [OPT.STRUCTURED_REPLY, undefined],
    [99, undefined],
  ] as const) t.equal(await peer.verdict(number, data), REP.ERR_SHUTDOWN, `option ${number}`)
  t.equal(await peer.verdict(OPT.ABORT), REP.ACK)
  own.gate.openAll()
  t.equal((await slow.reply).error, 0, 'S3: the request in flight is answered')
  await closing
})

t.test('O11: pipelined options are answered in order, and requests may follow GO in the same packet (I8)', async t => {
  const peer = await fixture.peer()
  peer.send(Buffer.concat([
    option(OPT.STRUCTURED_REPLY), option(OPT.LIST), option(77), option(OPT.SET_META_CONTEXT,
      metaData('disk', ['base:allocation'])),
    option(OPT.GO, infoData('disk', [INFO.BLOCK_SIZE])),
  ]))
  t.equal((await peer.replies(OPT.STRUCTURED_REPLY)).at(-1)!.type, REP.ACK)
  t.equal((await peer.replies(OPT.LIST)).at(-1)!.type, REP.ACK)
  t.equal((await peer.replies(77)).at(-1)!.type, REP.ERR_UNSUP)
  t.equal((await peer.replies(OPT.SET_META_CONTEXT)).at(-1)!.type, REP.ACK)
  t.equal((await peer.replies(OPT.GO)).at(-1)!.type, REP.ACK)
})
