// A client that is to persist: while nobody answers requests fail at once, and when somebody does again it goes on. What was in
// doubt before is told after it, once (D7).
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { MemoryDisk } from '../../src/device/testing.js'
import { openNbdClient, type NbdClientDevice } from '../../src/nbd/client-device.js'
import { createServer, type NbdServer } from '../../src/nbd/server.js'
import { delay } from './support/byte-stream.js'

const MIB = 2 ** 20
const LIMIT_MS = 150
const dir = mkdtempSync(join(tmpdir(), 'nbdelta-outage-'))
t.teardown(() => { rmSync(dir, { recursive: true, force: true }) })
let count = 0

interface Scene {
  readonly device: NbdClientDevice
  readonly states: string[]
  /** Of warnings and infos. */
  readonly log: string[]
  stop(): Promise<void>
  start(disk?: MemoryDisk): Promise<void>
}

async function play(t: { teardown(callback: () => unknown): unknown }): Promise<Scene> {
  const path = join(dir, `s${count++}`)
  const own = new MemoryDisk(MIB)
  let server: NbdServer
  const start = async (disk = own): Promise<void> => { server = await createServer({ exports: { disk }, listen: [{ path }] }) }
  const stop = (): Promise<void> => server.close({ deadlineMs: 0 })
  await start()
  const log: string[] = []
  const note = (_: object, text: string): void => { log.push(text) }
  const device = await openNbdClient({
    logger: { debug: () => undefined, info: note, warn: note, error: note },
    address: { path }, exportName: 'disk', reconnect: { limitMs: LIMIT_MS, fromMs: 5, toMs: 20, persist: true },
  })
  const states: string[] = []
  device.onState((state, reason) => { states.push(`${state}: ${reason}`) })
  t.teardown(async () => {
    await device.close()
    await stop()
  })
  return { device, states, log, stop, start }
}

const write = (device: NbdClientDevice, fill: number) => device.write(0, 512, Buffer.alloc(512, fill), 0) as Promise<void>
async function first(device: NbdClientDevice): Promise<number> {
  const into = Buffer.alloc(512)
  await device.read(0, 512, into, 0)
  return into[0]!
}
async function back(device: NbdClientDevice): Promise<void> {
  for (let tries = 0; !device.connected; tries++) {
    if (tries > 1000) throw new Error('it never came back')
    await delay(5)
  }
}

t.test('an outage: waited for a while, then refused at once, then over', async t => {
  const { device, states, log, stop, start } = await play(t)
  await write(device, 7)
  await device.flush()
  await stop()
  const begun = performance.now()
  await t.rejects(first(device), { code: 'unreachable' }, 'who waits is told when the limit is over')
  t.ok(performance.now() - begun > LIMIT_MS / 2, 'and not before')
  await t.rejects(first(device), { code: 'unreachable', message: /does not answer, attempts go on/ })
  const again = performance.now()
  for (let i = 0; i < 100; i++) await t.rejects(write(device, 8), { code: 'unreachable' })
  t.ok(performance.now() - again < LIMIT_MS * 5, 'a hundred times without waiting')
  await t.rejects(device.flush() as Promise<void>, { code: 'unreachable' })
  const said = log.length
  await delay(3 * LIMIT_MS)
  t.equal(log.length, said, 'and nothing more is said while it lasts')
  await start()
  await back(device)
  t.equal(await first(device), 7)
  await write(device, 9)
  await device.flush()
  t.equal(await first(device), 9, 'nothing was in doubt')
  t.equal(log.filter(text => /does not answer/.test(text)).length, 1)
  t.equal(log.filter(text => /answers again/.test(text)).length, 1)
  t.match(states.map(state => state.split(':')[0]), ['down', 'down', 'up'])
})

t.test('D7: what was written and not flushed before an outage fails one flush after it', async t => {
  const { device, stop, start } = await play(t)
  await write(device, 7)
  await stop()
  await t.rejects(first(device), { code: 'unreachable' })
  await start()
  await back(device)
  t.equal(await first(device), 7)
  await t.rejects(device.flush() as Promise<void>, { code: 'flush-failed', message: /may be lost/ })
  await device.flush()
})

t.test('one outage after the other', async t => {
  const { device, stop, start } = await play(t)
  for (let round = 0; round < 3; round++) {
    await stop()
    await t.rejects(first(device), { code: 'unreachable' })
    await start()
    await back(device)
    t.equal(await first(device), 0)
  }
})

t.test('a disk that has shrunk meanwhile is another one: that is the end', async t => {
  const { device, stop, start } = await play(t)
  await stop()
  await t.rejects(first(device), { code: 'unreachable' })
  await start(new MemoryDisk(MIB / 2))
  await delay(LIMIT_MS)
  await t.rejects(first(device), { code: 'wrong-state', message: /has shrunk/ })
})

t.test('closed during an outage, at once', async t => {
  const { device, stop, start } = await play(t)
  await stop()
  await t.rejects(first(device), { code: 'unreachable' })
  const begun = performance.now()
  await device.close()
  t.ok(performance.now() - begun < 1000)
  await start()
})
