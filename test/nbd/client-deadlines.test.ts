// Nothing hangs: every wait of the client ends at its deadline, on a clock that only the test moves.
import t from 'tap'
import { ManualClock } from '../../src/device/clock.js'
import { Backoff } from '../../src/nbd/client-backoff.js'
import { openNbdClient, type NbdClientDevice } from '../../src/nbd/client-device.js'
import type { NbdClientOptions } from '../../src/nbd/client-options.js'
import { delay } from './support/byte-stream.js'
import { startScriptedServer, type Behaviour } from './support/scripted-server.js'
import { CMD, MIB, pattern } from './support/wire.js'

const SIMPLE = { mode: 'simple' } as const
const POLICY = { reconnect: { attempts: 100, limitMs: 60_000, fromMs: 100, toMs: 1000 } }

async function until(what: () => boolean): Promise<void> {
  for (let tries = 0; !what(); tries++) {
    if (tries > 2000) throw new Error(`waited in vain for ${what}`)
    await delay(2)
  }
}

async function open(t: { teardown(callback: () => unknown): unknown }, clock: ManualClock, behaviour: Behaviour, options: NbdClientOptions = {}) {
  const server = await startScriptedServer(t, behaviour)
  const device = await openNbdClient({ address: { path: server.path }, clock, random: () => 0, ...POLICY, ...options })
  return { server, device }
}
/** Reads requests and answers none; those after the first connection's are honest. */
const stalls: Behaviour = async connection => {
  await connection.handshake(SIMPLE)
  await connection.serve(pattern(0, MIB), () => connection.serial === 0)
}
const read = (device: NbdClientDevice, offset = 0): Promise<unknown> =>
  (device.read(offset, 512, Buffer.alloc(512), 0) as Promise<void>).then(() => 'done', (error: Error) => error.message)

t.test('connectMs: a peer that accepts and says nothing', async t => {
  const clock = new ManualClock()
  const server = await startScriptedServer(t, async connection => { await connection.stream.drain(60_000) })
  let ended = ''
  const opening = openNbdClient({ address: { path: server.path }, clock, connectMs: 7000 }).catch((error: Error) => { ended = error.message })
  await until(() => server.connections.length === 1)
  await clock.advance(6999)
  await delay(10)
  t.equal(ended, '')
  await clock.advance(1)
  await opening
  t.match(ended, /no answer within 7000 ms/)
  t.equal(clock.pending, 0, 'no timer is left')
})

t.test('requestMs: a stalled peer is dropped at the deadline of the oldest request, and reads go to the next', async t => {
  const clock = new ManualClock()
  const { device, server } = await open(t, clock, stalls, { requestMs: 5000 })
  const first = read(device)
  await clock.advance(3000)
  const second = read(device, 512)
  await until(() => server.connections[0]!.requests.length === 2)
  await clock.advance(1999)
  await delay(10)
  t.equal(device.connected, true)
  await clock.advance(1)
  t.equal(device.connected, false)
  await clock.advance(49)
  await delay(10)
  t.equal(server.connections.length, 1, 'a pause of 100 ms, half of it by chance')
  await clock.advance(1)
  t.strictSame(await Promise.all([first, second]), ['done', 'done'])
  t.equal(server.connections.length, 2)
  await device.close()
})

t.test('requestMs: a reply that never ends', async t => {
  const clock = new ManualClock()
  const { device, server } = await open(t, clock, async connection => {
    await connection.handshake(SIMPLE)
    const request = await connection.request()
    connection.send(connection.honest(request, pattern(0, MIB)).subarray(0, 100))
    await connection.stream.drain(60_000)
  }, { requestMs: 5000, reconnect: { attempts: 0 } })
  const reading = read(device)
  await until(() => server.connections[0]!.requests.length === 1)
  await clock.advance(5000)
  t.match(await reading, /read \[0, \+512\): no answer within 5000 ms/)
  await device.close()
})

t.test('a peer that answers in time is not dropped, however long it is connected', async t => {
  const clock = new ManualClock()
  const { device } = await open(t, clock, async connection => {
    await connection.handshake(SIMPLE)
    await connection.serve(pattern(0, MIB))
  }, { requestMs: 100 })
  for (let i = 0; i < 10; i++) {
    t.equal(await read(device), 'done')
    await clock.advance(99)
  }
  await clock.advance(1e6)
  t.equal(device.connected, true)
  await device.close()
})

t.test('the pauses: doubled up to the limit, then it is over', async t => {
  const clock = new ManualClock()
  const { device, server } = await open(t, clock, stalls, { reconnect: { attempts: 100, limitMs: 2000, fromMs: 100, toMs: 800 } })
  const reading = read(device)
  await until(() => server.connections[0]!.requests.length === 1)
  await server.stop()
  await until(() => !device.connected)
  let ended: unknown
  void reading.then(text => { ended = text })
  for (let ms = 0; ms < 1990; ms += 10) {
    await clock.advance(10)
    if (ms % 50 === 0) await delay(2)
  }
  t.equal(ended, undefined)
  for (let i = 0; i < 20 && ended === undefined; i++) {
    await clock.advance(100)
    await delay(5)
  }
  t.match(ended, /gave up after \d attempts/)
  await device.close()
})

t.test('close: a peer that does not close after DISC, and one that answers nothing', async t => {
  const clock = new ManualClock()
  const deaf: Behaviour = async connection => {
    await connection.handshake(SIMPLE)
    while ((await connection.request()).type !== CMD.DISC);
    await new Promise(() => {})
  }
  const { device, server } = await open(t, clock, deaf)
  let closed = false
  const closing = device.close().then(() => { closed = true })
  await until(() => server.connections[0]!.requests.at(-1)?.type === CMD.DISC)
  await clock.advance(999)
  t.equal(closed, false)
  await clock.advance(1)
  await closing
  t.equal(clock.pending, 0)

  const other = await open(t, clock, deaf, { requestMs: 400 })
  const reading = read(other.device)
  const done = other.device.close()
  await until(() => other.server.connections[0]!.requests.length === 1)
  await clock.advance(400)
  await done
  t.match(await reading, /no answer within 400 ms/)
})

t.test('S7: requests wait for room in the bytes in flight', async t => {
  const clock = new ManualClock()
  const held: (() => void)[] = []
  const { device, server } = await open(t, clock, async connection => {
    await connection.handshake(SIMPLE)
    await connection.serve(pattern(0, MIB), request => {
      held.push(() => { connection.send(connection.honest(request, pattern(0, MIB))) })
      return true
    })
  }, { inFlightBytes: 3 * (4096 + 512) })
  const reads = Array.from({ length: 20 }, (_, i) => (device.read(i * 4096, 4096, Buffer.alloc(4096), 0) as Promise<void>))
  let most = 0
  for (let answered = 0; answered < 20; answered++) {
    await until(() => held.length > 0)
    await delay(2)
    most = Math.max(most, held.length)
    held.shift()!()
  }
  await Promise.all(reads)
  t.equal(most, 3)
  t.strictSame(server.connections[0]!.requests.map(request => request.offset), Array.from({ length: 20 }, (_, i) => i * 4096), 'in order')
  const large = device.read(0, 65_536, Buffer.alloc(65_536), 0) as Promise<void>
  await until(() => held.length > 0)
  held.shift()!()
  await large
  const closing = device.close()
  await until(() => held.length === 0 && server.connections[0]!.requests.at(-1)!.type === CMD.DISC)
  await closing
})

t.test('backoff', async t => {
  const policy = { attempts: 6, limitMs: 1000, fromMs: 10, toMs: 100 }
  const least = new Backoff(policy, () => 0)
  const most = new Backoff(policy, below => below - 1)
  t.strictSame([1, 2, 3, 4, 5].map(() => least.next()), [5, 10, 20, 40, 50])
  t.strictSame([1, 2, 3, 4, 5].map(() => most.next()), [10, 20, 40, 80, 100])
  least.begin(500)
  least.begin(900)
  t.equal(least.leftMs(1400), 100, 'the first trouble counts')
  t.equal(least.spent(1400), false)
  least.next()
  t.equal(least.spent(1400), true, 'attempts')
  most.begin(500)
  t.equal(most.spent(1500), true, 'time')
  most.reset()
  t.equal(most.spent(99_999), false)
})
