// Section 15: what the client asks for, in which order, what it falls back to, and what becomes of a refusal.
import t from 'tap'
import { openNbdClient } from '../../src/nbd/client-device.js'
import type { NbdClientOptions } from '../../src/nbd/client-options.js'
import { delay } from './support/byte-stream.js'
import { optionReply, startScriptedServer, type ScriptedExport, ALL_FLAGS } from './support/scripted-server.js'
import { MIB, OPT, pattern, REP, TX } from './support/wire.js'

const CONTENT = pattern(0, MIB)

interface Tap {
  teardown(callback: () => unknown): unknown
  ok(value: unknown, message: string): unknown
  strictSame(found: unknown, wanted: unknown): unknown
}

/** Opens a client on such a server, reads a little, closes; tells what was asked. */
async function visit(t: Tap, facts: ScriptedExport, options: NbdClientOptions = {}) {
  const server = await startScriptedServer(t, async connection => {
    await connection.handshake(facts)
    await connection.serve(Buffer.from(CONTENT))
  })
  const device = await openNbdClient({ address: { path: server.path }, exportName: 'x', ...options })
  const into = Buffer.alloc(1000)
  await device.read(77, 1000, into, 0)
  t.ok(into.equals(CONTENT.subarray(77, 1077)), 'content')
  const { peer } = device
  await device.close()
  t.strictSame(server.problems, [])
  return { peer, connection: server.connections[0]!, size: device.sizeBytes }
}

t.test('extended headers come first, and make structured replies superfluous', async t => {
  const { peer, connection } = await visit(t, { mode: 'extended', sizes: [1, 4096, 2 ** 25] })
  t.strictSame(connection.options, [OPT.EXTENDED_HEADERS, OPT.SET_META_CONTEXT, OPT.GO])
  t.equal(connection.clientFlags, 3)
  t.match(peer, { style: 'extended', extended: true, structured: true, multiConn: true, canFlush: true, canFua: true, canTrim: true,
    canZero: true, canFastZero: true, canCache: true, readOnly: false, contexts: ['base:allocation'], flags: ALL_FLAGS })
})

t.test('structured replies where there are no extended headers', async t => {
  const { peer, connection } = await visit(t, { mode: 'structured' })
  t.strictSame(connection.options, [OPT.EXTENDED_HEADERS, OPT.STRUCTURED_REPLY, OPT.SET_META_CONTEXT, OPT.GO])
  t.match(peer, { style: 'structured', extended: false, structured: true, sizes: { minimum: 1, preferred: 4096, maximum: 2 ** 25 } })
})

t.test('simple replies: no context is asked for', async t => {
  const { peer, connection } = await visit(t, { mode: 'simple' })
  t.strictSame(connection.options, [OPT.EXTENDED_HEADERS, OPT.STRUCTURED_REPLY, OPT.GO])
  t.match(peer, { style: 'simple', structured: false, contexts: [] })
})

t.test('a server without GO is asked by EXPORT_NAME; without NO_ZEROES 124 bytes follow (H3)', async t => {
  for (const handshakeFlags of [1, 3, 0x8003]) {
    const { connection } = await visit(t, { mode: 'structured', handshakeFlags, options: { [OPT.GO]: [optionReply(OPT.GO, REP.ERR_UNSUP)] } })
    t.strictSame(connection.options.slice(-2), [OPT.GO, OPT.EXPORT_NAME])
    t.equal(connection.clientFlags, handshakeFlags & 3, 'flags are sent only if offered')
  }
})

t.test('a server that is not fixed newstyle knows EXPORT_NAME only', async t => {
  for (const handshakeFlags of [0, 2]) {
    const { connection, peer } = await visit(t, { mode: 'simple', handshakeFlags })
    t.strictSame(connection.options, [OPT.EXPORT_NAME])
    t.equal(connection.clientFlags, handshakeFlags)
    t.equal(peer.style, 'simple')
  }
})

t.test('an export without base:allocation, or that will not tell', async t => {
  for (const replies of [[optionReply(OPT.SET_META_CONTEXT, REP.ACK)], [optionReply(OPT.SET_META_CONTEXT, REP.ERR_INVALID)]]) {
    const { peer } = await visit(t, { mode: 'structured', options: { [OPT.SET_META_CONTEXT]: replies } })
    t.strictSame(peer.contexts, [])
  }
})

t.test('flags of the future are not ours; without HAS_FLAGS there are none; FAST_ZERO needs WRITE_ZEROES (I11)', async t => {
  t.match((await visit(t, { mode: 'simple', flags: 0xffff & ~TX.READ_ONLY })).peer, { canFlush: true })
  t.match((await visit(t, { mode: 'simple', flags: ALL_FLAGS & ~TX.HAS_FLAGS })).peer, { canFlush: false, canTrim: false, multiConn: false })
  t.match((await visit(t, { mode: 'simple', flags: ALL_FLAGS & ~TX.SEND_WRITE_ZEROES })).peer, { canZero: false, canFastZero: false })
})

t.test('a size that is no whole number of blocks is cut', async t => {
  t.equal((await visit(t, { mode: 'structured', size: MIB - 100, sizes: [512, 4096, 65536] })).size, MIB - 512)
})

const REFUSALS: readonly [string, number, number, string, RegExp][] = [
  ['unknown export', OPT.GO, REP.ERR_UNKNOWN, 'not-found', /no export "x" "so it is"/],
  ['policy', OPT.GO, REP.ERR_POLICY, 'denied', /refuses export "x" "so it is"/],
  ['TLS for the export', OPT.GO, REP.ERR_TLS_REQD, 'denied', /demands TLS, which is not supported yet/],
  ['TLS for everything', OPT.EXTENDED_HEADERS, REP.ERR_TLS_REQD, 'denied', /demands TLS/],
  ['shutting down', OPT.STRUCTURED_REPLY, REP.ERR_SHUTDOWN, 'unreachable', /shutting down "so it is"/],
  ['invalid', OPT.GO, REP.ERR_INVALID, 'unreachable', /errInvalid "so it is"/],
  ['an error of the future', OPT.GO, 0x80000063, 'unreachable', /error 99 "so it is"/],
]
for (const [what, number, type, code, message] of REFUSALS) {
  t.test(`refused: ${what}`, async t => {
    const server = await startScriptedServer(t, connection =>
      connection.handshake({ mode: 'structured', options: { [number]: [optionReply(number, type, Buffer.from('so it is'))] } }))
    await t.rejects(openNbdClient({ address: { path: server.path }, exportName: 'x' }), { code, message })
    const { options } = server.connections[0]!
    for (let tries = 0; tries < 200 && options.at(-1) !== OPT.ABORT; tries++) await delay(5)
    t.equal(options.at(-1), OPT.ABORT, 'it takes its leave')
  })
}

t.test('EXPORT_NAME can only hang up', async t => {
  const server = await startScriptedServer(t, async connection => {
    connection.send(Buffer.from('4e42444d4147494349484156454f50540000', 'hex'))
    await connection.stream.take(4 + 16 + 1)
  })
  await t.rejects(openNbdClient({ address: { path: server.path }, exportName: 'x' }), { code: 'not-found', message: /hung up when asked for export "x"/ })
})

t.test('nobody there', async t => {
  await t.rejects(openNbdClient({ address: { path: '/nonexistent/socket' } }), { code: 'unreachable', message: /ENOENT/ })
  await t.rejects(openNbdClient({ uri: 'nbd://127.0.0.1:1/x' }), { code: 'unreachable', message: /ECONNREFUSED/ })
})

t.test('options are judged', async t => {
  const path = { address: { path: '/s' } }
  for (const [options, message] of [
    [{}, /uri or an address/], [{ uri: 'nbd://h', ...path }, /uri or an address/], [{ uri: 'nbd://h/x', exportName: 'y' }, /in the uri/],
    [{ ...path, conections: 3 }, /no option conections/], [{ ...path, connections: 17 }, /at most 16/], [{ ...path, connectMs: 0 }, /connectMs/],
    [{ ...path, exportName: 'a\0' }, /NUL/], [{ ...path, reconnect: { fromMs: 9, toMs: 3 } }, /fromMs/], [{ ...path, reconnect: { attempts: -1 } }, /attempts/],
    [{ ...path, replyStyle: 'best' }, /replyStyle/],
  ] as const) await t.rejects(openNbdClient(options as NbdClientOptions), { code: 'bad-argument', message })
})
