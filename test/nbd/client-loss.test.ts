// X9 and section 15: what becomes of requests whose connection dies. Nothing hangs, nothing old overwrites something newer.
import t from 'tap'
import type { Pending } from '../../src/device/block-device.js'
import { openNbdClient, type NbdClientDevice } from '../../src/nbd/client-device.js'
import type { NbdClientOptions } from '../../src/nbd/client-options.js'
import { delay } from './support/byte-stream.js'
import {
  ALL_FLAGS, startScriptedServer, type Behaviour, type ScriptedConnection, type ScriptedExport, type ScriptedServer,
} from './support/scripted-server.js'
import { CMD, ERR, MIB, pattern, TX } from './support/wire.js'

interface Tap { teardown(callback: () => unknown): unknown }
interface Scene { readonly server: ScriptedServer, readonly device: NbdClientDevice, readonly content: Buffer }

/** A client, and a server whose connections begin with a handshake and then do what `first`, `second`, ... say; honest after. */
async function play(
  t: Tap, options: NbdClientOptions, scripts: readonly ((connection: ScriptedConnection, content: Buffer) => Promise<void>)[], exports: readonly ScriptedExport[] = [],
): Promise<Scene> {
  const content = pattern(0, MIB)
  const behaviour: Behaviour = async connection => {
    await connection.handshake(exports[connection.serial] ?? exports.at(-1) ?? { mode: 'extended' })
    await scripts[connection.serial]?.(connection, content)
    if (!connection.stream.ended) await connection.serve(content)
  }
  const server = await startScriptedServer(t, behaviour)
  const device = await openNbdClient({ address: { path: server.path }, reconnect: { fromMs: 2, toMs: 20, limitMs: 20_000 }, requestMs: 10_000, ...options })
  t.teardown(() => device.close())
  return { server, device, content }
}

const dies = (requests: number) => async (connection: ScriptedConnection): Promise<void> => {
  for (let i = 0; i < requests; i++) await connection.request()
  connection.hangUp()
}
const read = async (device: NbdClientDevice, offset: number, length = 4096): Promise<Buffer> => {
  const into = Buffer.alloc(length)
  await device.read(offset, length, into, 0)
  return into
}
const write = (device: NbdClientDevice, offset: number, fill: number, length = 4096): Promise<void> =>
  device.write(offset, length, Buffer.alloc(length, fill), 0) as Promise<void>
const outcome = (pending: Pending | Promise<unknown>): Promise<{ code: string, message: string } | undefined> =>
  Promise.resolve(pending).then(() => undefined, (error: { code: string, message: string }) => error)
async function until(what: () => boolean): Promise<void> {
  for (let tries = 0; !what(); tries++) {
    if (tries > 2000) throw new Error(`waited in vain for ${what}`)
    await delay(2)
  }
}

t.test('reads in flight are read again, and nobody notices', async t => {
  const { device, content } = await play(t, {}, [dies(3), dies(1)])
  const states: string[] = []
  device.onState((state, reason) => { states.push(`${state}: ${reason}`) })
  const found = await Promise.all([0, 1, 2, 3].map(i => read(device, i * 5000)))
  found.forEach((bytes, i) => { t.ok(bytes.equals(content.subarray(i * 5000, i * 5000 + 4096))) })
  t.match(states, [/^down: the peer closed|^down: the connection/, /^up: connected again/, /^down/, /^up/])
  t.match(device.counters(), { connectionsLost: 2, connectionsOpened: 3, requests: 4 })
})

t.test('half a reply is forgotten', async t => {
  const { device, content } = await play(t, {}, [async connection => {
    const request = await connection.request()
    connection.send(connection.data(request, 0, Buffer.alloc(60_000, 7), 0).subarray(0, 50_000))
    await delay(20)
    connection.hangUp()
  }])
  t.ok((await read(device, 0, 100_000)).equals(content.subarray(0, 100_000)))
})

for (const [what, begin] of [
  ['write', (device: NbdClientDevice) => write(device, 0, 1)],
  ['zero', (device: NbdClientDevice) => device.zero(0, 4096, { allocate: false, fast: false })],
  ['trim', (device: NbdClientDevice) => device.trim(0, 4096)],
] as const) {
  t.test(`X9: a ${what} in flight fails, in doubt, and is never sent again`, async t => {
    const { device, server } = await play(t, {}, [dies(1)])
    const error = (await outcome(begin(device)))!
    t.equal(error.code, 'unreachable')
    t.match(error.message, /\[0, \+4096\) was in flight when its connection was lost; it may or may not have been executed/)
    await read(device, 0)
    t.strictSame(server.connections[1]!.requests.map(request => request.type), [CMD.READ])
  })
}

t.test('X9: with resendWrites, in their order, and what overlaps waits', async t => {
  const held: (() => void)[] = []
  const { device, server, content } = await play(t, { resendWrites: true }, [dies(3), async (connection, content) => {
    await connection.serve(content, request => {
      held.push(() => { connection.send(connection.honest(request, content)) })
      return true
    })
  }])
  const writes = [write(device, 0, 1), write(device, 2048, 2), write(device, 100_000, 3)]
  await until(() => server.connections[0]!.stream.ended)
  writes.push(write(device, 1024, 4))
  const sent = (): number[] => server.connections[1]?.requests.map(request => request.payload[0]!) ?? []
  for (const wanted of [[1], [1, 2, 3], [1, 2, 3, 4]]) {
    await until(() => sent().length >= wanted.length)
    await delay(20)
    t.strictSame(sent(), wanted, 'the overlapping one waits, and whoever comes behind')
    held.shift()!()
  }
  held.shift()!()
  await Promise.all(writes)
  t.equal(content[1024], 4)
  t.equal(content[6143], 2)
  t.ok(device.counters().resent >= 3)
  const closing = device.close()
  await until(() => device.connections === 0)
  await closing
})

t.test('attempts are counted anew once a request was answered', async t => {
  const { device, content } = await play(t, { reconnect: { fromMs: 1, toMs: 2, attempts: 2 } }, Array.from({ length: 6 }, () => async (connection: ScriptedConnection, content: Buffer) => {
    connection.send(connection.honest(await connection.request(), content))
    await connection.request()
    connection.hangUp()
  }))
  for (let i = 0; i < 10; i++) t.ok((await read(device, i * 4096)).equals(content.subarray(i * 4096, i * 4096 + 4096)))
})

t.test('a write during the outage waits for the new connection', async t => {
  const { device, server, content } = await play(t, {}, [dies(1)])
  await outcome(write(device, 0, 1))
  await write(device, 0, 9)
  t.equal(content[0], 9)
  t.equal(server.connections[1]!.requests.length, 1)
})

t.test('D2: a flush after a loss with unflushed writes fails, once', async t => {
  const { device } = await play(t, {}, [async (connection, content) => {
    connection.send(connection.honest(await connection.request(), content))
    await connection.request()
    connection.hangUp()
  }])
  await write(device, 0, 1)
  await read(device, 0)
  t.match(await outcome(device.flush()), { code: 'flush-failed', message: /writes completed since the last good flush may be lost/ })
  t.equal(await outcome(device.flush()), undefined)
})

t.test('D2: all flushes in flight at such a loss fail, and no further one', async t => {
  const { device } = await play(t, {}, [async (connection, content) => {
    connection.send(connection.honest(await connection.request(), content))
    await connection.request()
    connection.hangUp()
  }])
  await write(device, 0, 1)
  const flushes = await Promise.all([1, 2, 3].map(() => outcome(device.flush())))
  t.match(flushes, [{ code: 'flush-failed' }, { code: 'flush-failed' }, { code: 'flush-failed' }])
  t.equal(await outcome(device.flush()), undefined)
})

t.test('D2: a loss when all was flushed is none', async t => {
  const { device, server } = await play(t, {}, [async (connection, content) => {
    for (let i = 0; i < 2; i++) connection.send(connection.honest(await connection.request(), content))
    await connection.request()
    connection.hangUp()
  }])
  await write(device, 0, 1)
  await device.flush()
  t.equal(await outcome(device.flush()), undefined, 'a flush in flight is sent again')
  t.equal(server.connections[1]!.requests[0]!.type, CMD.FLUSH)
})

t.test('a peer without FLUSH is not asked, and says so', async t => {
  const { device, server } = await play(t, {}, [], [{ mode: 'extended', flags: ALL_FLAGS & ~TX.SEND_FLUSH }])
  await write(device, 0, 1)
  await device.flush()
  t.equal(device.peer.canFlush, false)
  t.equal(server.connections[0]!.requests.length, 1)
})

t.test('the policy is spent: what waits fails, what comes fails at once', async t => {
  const { device, server } = await play(t, { reconnect: { fromMs: 1, toMs: 2, attempts: 3 } }, [])
  const states: string[] = []
  device.onState((state, reason) => { states.push(`${state}: ${reason}`) })
  await server.stop()
  t.match(await outcome(read(device, 0)), { code: 'unreachable', message: /gave up after 3 attempts: .*ENOENT/ })
  t.match(await outcome(read(device, 0)), { code: 'unreachable' })
  t.match(await outcome(device.flush()), { code: 'unreachable' })
  await server.start()
  await delay(20)
  t.equal(device.connected, false, 'for good')
  const once = await play(t, { reconnect: { fromMs: 1, toMs: 2, attempts: 1 } }, [])
  await once.server.stop()
  t.match(await outcome(read(once.device, 0)), { message: /gave up after 1 attempt: / })
  t.match(states, [/^down/, /^down: .*gave up/])
})

t.test('a limit in time', async t => {
  const { device, server } = await play(t, { reconnect: { fromMs: 5, toMs: 20, limitMs: 150 } }, [])
  await server.stop()
  const started = Date.now()
  t.match(await outcome(read(device, 0)), { code: 'unreachable', message: /gave up/ })
  t.ok(Date.now() - started < 3000)
})

t.test('an outage that ends in time is none', async t => {
  const { device, server, content } = await play(t, {}, [])
  await server.stop()
  const reading = read(device, 0)
  await delay(60)
  await server.start()
  t.ok((await reading).equals(content.subarray(0, 4096)))
})

t.test('an export that has shrunk is another one', async t => {
  const { device } = await play(t, {}, [dies(1)], [{ mode: 'extended' }, { mode: 'extended', size: MIB - 512 }])
  t.match(await outcome(read(device, 0)), { code: 'wrong-state', message: /has shrunk from 1048576 to 1048064 bytes/ })
})

t.test('one that has grown has grown', async t => {
  const { device } = await play(t, {}, [dies(1)], [{ mode: 'extended' }, { mode: 'extended', size: 2 * MIB }])
  await read(device, 0)
  t.equal(device.sizeBytes, 2 * MIB)
})

t.test('one with other flags: what waited was meant for the old one, what comes is for the new one', async t => {
  const { device, server } = await play(t, {}, [dies(1)], [{ mode: 'extended' }, { mode: 'structured', flags: ALL_FLAGS & ~TX.SEND_TRIM, sizes: [512, 4096, 65536] }])
  t.match(await outcome(read(device, 0)), { code: 'unreachable', message: /another export/ })
  await write(device, 5, 1, 10)
  t.match(device, { capabilities: { trim: false }, peer: { style: 'structured', sizes: { minimum: 512 } } })
  t.strictSame(server.connections[1]!.requests.map(request => [request.type, request.offset, request.length]), [[CMD.READ, 0, 512], [CMD.WRITE, 0, 512]])
})

t.test('ESHUTDOWN: not executed, so it goes to whoever serves next', async t => {
  const { device, server, content } = await play(t, {}, [async connection => {
    connection.send(connection.refuse(await connection.request(), ERR.ESHUTDOWN))
  }])
  await write(device, 0, 9)
  t.equal(content[0], 9)
  t.equal(server.connections.length, 2)
})

t.test('ESHUTDOWN for ever ends', async t => {
  const shuts = async (connection: ScriptedConnection): Promise<void> => {
    await connection.serve(Buffer.alloc(MIB), request => {
      connection.send(connection.refuse(request, ERR.ESHUTDOWN))
      return true
    })
  }
  const { device } = await play(t, {}, Array.from({ length: 10 }, () => shuts))
  t.match(await outcome(write(device, 0, 9)), { code: 'unreachable', message: /ESHUTDOWN/ })
})

t.test('a request that kills every connection is given up, others are served', async t => {
  const kills = async (connection: ScriptedConnection, content: Buffer): Promise<void> => {
    await connection.serve(content, request => {
      if (request.offset === 8192) connection.hangUp()
      return request.offset === 8192
    })
  }
  const { device } = await play(t, {}, Array.from({ length: 20 }, () => kills))
  const poison = outcome(read(device, 8192))
  let served = 0
  for (let i = 0; i < 20; i++) if (await outcome(read(device, 0)) === undefined) served++
  t.match(await poison, { code: 'unreachable', message: /was sent 5 times/ })
  t.ok(served >= 1)
  await read(device, 0)
})

t.test('D3: one connection of several dies: reads go to the others, and a new one is opened', async t => {
  const { device, server, content } = await play(t, { connections: 3 }, [async () => {}, dies(1)])
  await until(() => device.connections === 3)
  const found = await Promise.all(Array.from({ length: 9 }, (_, i) => read(device, i * 4096)))
  found.forEach((bytes, i) => { t.ok(bytes.equals(content.subarray(i * 4096, i * 4096 + 4096))) })
  await until(() => device.connections === 3)
  t.equal(server.connections.length, 4)
})

t.test('D3: without MULTI_CONN there is one', async t => {
  const { device, server } = await play(t, { connections: 3 }, [], [{ mode: 'extended', flags: ALL_FLAGS & ~TX.CAN_MULTI_CONN }])
  await delay(50)
  await read(device, 0)
  t.equal(device.connections, 1)
  t.equal(server.connections.length, 1)
})

t.test('close while nobody answers', async t => {
  const { device, server } = await play(t, {}, [])
  await server.stop()
  const reading = outcome(read(device, 0))
  await delay(20)
  await device.close()
  t.match(await reading, { code: 'unreachable', message: /closed while nobody answered/ })
})

t.test('close answers what is in flight, says DISC and is not said twice', async t => {
  const { device, server } = await play(t, { connections: 2 }, [])
  await until(() => device.connections === 2)
  const reads = Array.from({ length: 50 }, (_, i) => read(device, i * 4096))
  await Promise.all([device.close(), device.close(), ...reads])
  t.strictSame(server.connections.map(connection => connection.requests.at(-1)!.type), [CMD.DISC, CMD.DISC])
  t.equal(server.connections.flatMap(connection => connection.requests).length, 52)
  t.equal(device.counters().connectionsLost, 0)
})

t.test('who is gone before its request was sent is not served', async t => {
  const { device, server } = await play(t, { inFlightBytes: 1000 }, [])
  const origin = { gone: false }
  const first = read(device, 0)
  const second = outcome(device.write(0, 4096, Buffer.alloc(4096), 0, origin))
  origin.gone = true
  await first
  t.match(await second, { code: 'gone' })
  t.equal(server.connections[0]!.requests.length, 1)
})
