// A peer that breaks the protocol before transmission: each way is refused with a clear error, soon, and without taking memory.
import t from 'tap'
import { openNbdClient } from '../../src/nbd/client-device.js'
import {
  hello, infoExport, infoSizes, optionReply, startScriptedServer, type Behaviour, type ScriptedExport,
} from './support/scripted-server.js'
import { MIB, OPT, REP, u16, u32, u64 } from './support/wire.js'

const ACK_GO = optionReply(OPT.GO, REP.ACK)
const FACTS = infoExport(MIB, 1)
const says = (bytes: Buffer): Behaviour => async connection => {
  connection.send(bytes)
  await connection.stream.drain()
}
/** Honest but for these replies to one option. */
const answers = (number: number, ...replies: Buffer[]): Behaviour => async connection => {
  const facts: ScriptedExport = { mode: 'structured', options: { [number]: replies } }
  await connection.handshake(facts)
  await connection.stream.drain()
}
const go = (...replies: Buffer[]): Behaviour => answers(OPT.GO, ...replies)
const meta = (...replies: Buffer[]): Behaviour => answers(OPT.SET_META_CONTEXT, ...replies)
const context = (data: Buffer): Buffer => optionReply(OPT.SET_META_CONTEXT, REP.META_CONTEXT, data)
const ACK_META = optionReply(OPT.SET_META_CONTEXT, REP.ACK)

const TABLE: readonly [string, Behaviour, RegExp][] = [
  ['something else listens there', says(Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n')), /something else/],
  ['oldstyle', says(Buffer.concat([u64(0x4e42444d41474943n, 0x00420281861253n, 1n), Buffer.alloc(128)])), /oldstyle/],
  ['a hello that never ends', says(Buffer.alloc(64 * MIB, hello())), /before it is asked|reply/],
  ['a wrong option reply magic', go(Buffer.concat([Buffer.alloc(8), FACTS.subarray(8)])), /no option reply/],
  ['a reply to another option', go(optionReply(OPT.LIST, REP.ACK)), /reply to option 3/],
  ['a reply of 4 GiB', go(optionReply(OPT.GO, REP.INFO, Buffer.alloc(0), 0xffffffff)), /reply of 4294967295 bytes/],
  ['an error text of 4 GiB', go(optionReply(OPT.GO, REP.ERR_UNKNOWN, Buffer.alloc(0), 0xffffffff)), /reply of 4294967295 bytes/],
  ['replies without end', go(...Array.from({ length: 70 }, () => optionReply(OPT.GO, REP.INFO, u16(1)))), /without end/],
  ['an ACK with data', go(FACTS, optionReply(OPT.GO, REP.ACK, Buffer.alloc(1))), /with data/],
  ['an unknown reply type', go(optionReply(OPT.GO, 77), ACK_GO), /type 77/],
  ['a reply that belongs to LIST', go(optionReply(OPT.GO, REP.SERVER, u32(0)), ACK_GO), /type 2/],
  ['GO without a size', go(ACK_GO), /how large/],
  ['facts twice', go(FACTS, FACTS, ACK_GO), /twice/],
  ['facts that are too short', go(optionReply(OPT.GO, REP.INFO, u16(0, 0)), ACK_GO), /no information/],
  ['an INFO without a type', go(optionReply(OPT.GO, REP.INFO, Buffer.alloc(1)), ACK_GO), /no information/],
  ['block sizes that are too long', go(FACTS, optionReply(OPT.GO, REP.INFO, Buffer.alloc(15, Buffer.from([0, 3]))), ACK_GO), /no information/],
  ['CVE-2023-5215: a size with the top bit', go(infoExport(2n ** 63n, 1), ACK_GO), /9223372036854775808 bytes/],
  ['a size no Number holds', go(infoExport(2n ** 53n, 1), ACK_GO), /2\^53 - 1 are the most/],
  ['the largest size', go(infoExport(2n ** 64n - 1n, 1), ACK_GO), /2\^53 - 1/],
  ['a minimum of 0', go(FACTS, infoSizes(0, 4096, MIB), ACK_GO), /block sizes 0,/],
  ['a minimum of 3', go(FACTS, infoSizes(3, 4096, MIB), ACK_GO), /block sizes 3,/],
  ['a minimum of 128 KiB', go(FACTS, infoSizes(2 ** 17, 2 ** 17, MIB), ACK_GO), /block sizes 131072,/],
  ['a preferred size of 0', go(FACTS, infoSizes(1, 0, MIB), ACK_GO), /block sizes 1, 0,/],
  ['a preferred size below the minimum', go(FACTS, infoSizes(4096, 512, MIB), ACK_GO), /block sizes 4096, 512/],
  ['a maximum of 0', go(FACTS, infoSizes(1, 4096, 0), ACK_GO), /block sizes 1, 4096, 0/],
  ['block sizes twice', go(FACTS, infoSizes(1, 4096, MIB), infoSizes(1, 4096, MIB), ACK_GO), /twice/],
  ['I9: GO unsupported after extended headers', async connection => {
    await connection.handshake({ mode: 'extended', options: { [OPT.GO]: [optionReply(OPT.GO, REP.ERR_UNSUP)] } })
  }, /I9/],
  ['an option that is acknowledged twice over', answers(OPT.STRUCTURED_REPLY, optionReply(OPT.STRUCTURED_REPLY, REP.INFO),
    optionReply(OPT.STRUCTURED_REPLY, REP.ACK)), /2 replies instead of one/],
  ['a context that was not asked for', meta(context(Buffer.concat([u32(1), Buffer.from('qemu:x')])), ACK_META), /not asked for/],
  ['two contexts', meta(context(Buffer.from('\0\0\0\x01base:allocation')), context(Buffer.from('\0\0\0\x02base:allocation')), ACK_META), /not asked for/],
  ['a context without a name', meta(context(u32(1)), ACK_META), /not asked for/],
]

for (const [what, behaviour, message] of TABLE) {
  t.test(what, async t => {
    const server = await startScriptedServer(t, behaviour)
    const before = process.memoryUsage().rss
    const started = Date.now()
    await t.rejects(openNbdClient({ address: { path: server.path }, connectMs: 5000 }), { code: 'bad-peer', message })
    t.ok(Date.now() - started < 4000, 'soon')
    t.ok(process.memoryUsage().rss - before < 160 * MIB, 'no growth')
  })
}

t.test('texts of the peer are printed escaped and cut', async t => {
  const text = Buffer.from(`\x1b[31m\n${'x'.repeat(3000)}`)
  const server = await startScriptedServer(t, go(optionReply(OPT.GO, REP.ERR_UNKNOWN, text)))
  const error = await openNbdClient({ address: { path: server.path } }).catch((error: Error) => error) as Error
  t.ok(error.message.length < 250, error.message)
  t.notMatch(error.message, /[\x00-\x1f]/)
})

t.test('a handshake cut anywhere, or followed by silence', async t => {
  const whole = Buffer.concat([hello(), optionReply(OPT.EXTENDED_HEADERS, REP.ERR_UNSUP), optionReply(OPT.STRUCTURED_REPLY, REP.ACK),
    ACK_META, FACTS, ACK_GO])
  for (let cut = 0; cut < whole.length; cut += 7) {
    const ends = await startScriptedServer(t, async connection => { connection.send(whole.subarray(0, cut)) })
    await t.rejects(openNbdClient({ address: { path: ends.path } }), { code: 'unreachable' }, `ends after ${cut} bytes`)
  }
  const silent = await startScriptedServer(t, says(whole.subarray(0, 60)))
  await t.rejects(openNbdClient({ address: { path: silent.path }, connectMs: 150 }), { code: 'unreachable', message: /within 150 ms/ })
})
