// A volume whose live image is an export of another server: over the real client and a server of this process.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { BlockDevice } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { blockDeviceConformance, MemoryDisk } from '../../src/device/testing.js'
import { openNbdClient } from '../../src/nbd/client-device.js'
import { createServer, type NbdServer } from '../../src/nbd/server.js'
import { RemoteLive } from '../../src/store/remote-live.js'
import { openStore, type Store } from '../../src/volume/open-store.js'
import { freshVolume, GRAIN, readAll } from './lab.js'

const MIB = 2 ** 20
const LIMIT_MS = 200
const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31)
t.comment(`seed ${seed}`)
const dir = mkdtempSync(join(tmpdir(), 'nbdelta-remote-'))
const teardowns: (() => unknown)[] = []
t.teardown(async () => {
  for (const end of teardowns) await end()
  rmSync(dir, { recursive: true, force: true })
})

/** A server of one disk that can be stopped and started again. */
class Far {
  static #count = 0
  readonly path = join(dir, `far-${Far.#count++}`)
  readonly uri = `nbd+unix:///disk?socket=${this.path}`
  #server: NbdServer | undefined

  constructor(public disk: BlockDevice) { teardowns.push(() => this.stop()) }

  async start(): Promise<this> {
    this.#server = await createServer({ exports: { disk: this.disk }, listen: [{ path: this.path }] })
    return this
  }

  async stop(): Promise<void> {
    await this.#server?.close({ deadlineMs: 0 })
    this.#server = undefined
  }

  get clients(): number { return this.#server?.clients().length ?? 0 }
}

const openBacking = (uri: string) => openNbdClient({
  uri, connections: 2, requestMs: 5000, reconnect: { limitMs: LIMIT_MS, fromMs: 5, toMs: 20, persist: true },
})

async function far(disk: BlockDevice): Promise<Far> { return new Far(disk).start() }

async function inStore(t: { testdir(): string, teardown(callback: () => unknown): unknown }): Promise<{ path: string, store: Store }> {
  const path = join(t.testdir(), 'store')
  const store = await openStore({ path, create: true, openBacking })
  teardowns.unshift(() => store.close())
  return { path, store }
}

for (const [what, sizes] of [['bytes', {}], ['blocks of 4 KiB', { minimum: 4096 }], ['blocks of 64 KiB, larger than a grain', { minimum: 65_536, preferred: 65_536 }]] as const) {
  t.test(`conformance over an export of ${what}`, t => blockDeviceConformance(t, what, async sizeBytes => {
    // A peer shows whole blocks: what the suite asks for, rounded up.
    const { minimum = 1 } = sizes as { minimum?: number }
    const { uri } = await far(new MemoryDisk(Math.ceil(sizeBytes / minimum) * minimum, { blockSizes: sizes }))
    return freshVolume({ sizeBytes, live: new RemoteLive(await openBacking(uri)) })
  }, { knowsZeros: true, ordersOverlaps: true, seed, requests: 600 }))
}

t.test('made, written, snapshot, restored, opened again: all is there, and the export is a plain image', async t => {
  const { path, store } = await inStore(t)
  const disk = new MemoryDisk(4 * MIB)
  disk.write(0, 4 * MIB, Buffer.alloc(4 * MIB, 1), 0)
  const { uri } = await far(disk)
  const volume = await store.createVolume({ name: 'db', backing: uri, description: 'far away' })
  t.match(volume, { backing: uri, sizeBytes: 4 * MIB, problem: undefined })
  t.equal((await volume.facts()).allocatedBytes, null)
  t.ok((await readAll(volume)).equals(Buffer.alloc(4 * MIB, 1)), 'it shows what is there')
  const first = Buffer.alloc(4 * MIB, 1)
  const put = async (fill: number, offset: number, length: number): Promise<void> => {
    await volume.write(offset, length, Buffer.alloc(length, fill), 0)
  }
  await put(2, 100, 50_000)
  await volume.trim(2 * MIB, MIB)
  first.fill(2, 100, 50_100).fill(0, 2 * MIB, 3 * MIB)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await put(3, MIB, MIB)
  const second = Buffer.from(first).fill(3, MIB, 2 * MIB)
  t.ok((await readAll(volume)).equals(second))
  await volume.flush()
  await store.close()
  const raw = Buffer.alloc(4 * MIB)
  disk.read(0, raw.length, raw, 0)
  t.ok(raw.equals(second), 'at rest the export is what the volume shows')

  const again = await openStore({ path, openBacking })
  teardowns.unshift(() => again.close())
  const found = again.get('db')!
  t.match(found, { backing: uri, description: 'far away', problem: undefined })
  t.ok((await readAll(found)).equals(second))
  await (await found.restore({ from: 's' })).finished
  t.ok((await readAll(found)).equals(first))
  await again.deleteVolume('db')
  await again.close()
  disk.read(0, raw.length, raw, 0)
  t.ok(raw.equals(first), 'deleted, and what it lay on stays')
})

t.test('large zeros are asked for in pieces, fast ones as one', async t => {
  const asked: number[] = []
  const disk = new MemoryDisk(200 * MIB)
  const zero = disk.zero.bind(disk)
  disk.zero = (...request) => { asked.push(request[1]); return zero(...request) }
  const live = new RemoteLive(disk)
  await disk.write(0, 1, Buffer.alloc(1, 7), 0)
  await disk.write(150 * MIB + 2, 2, Buffer.alloc(2, 7), 0)
  await live.zero(0, 150 * MIB + 3, { allocate: true, fast: false })
  t.strictSame(asked, [64 * MIB, 64 * MIB, 22 * MIB + 3])
  const into = Buffer.alloc(4)
  await live.read(150 * MIB, 4, into, 0)
  t.strictSame([...into], [0, 0, 0, 7], 'to the byte')
  asked.length = 0
  await live.zero(0, 150 * MIB, { allocate: false, fast: true })
  t.strictSame(asked, [150 * MIB])
})

t.test('what cannot be a live image', async t => {
  const { store } = await inStore(t)
  const { uri } = await far(new MemoryDisk(MIB))
  const taken = await store.createVolume({ name: 'a', backing: uri })
  const rows: readonly [object, string, RegExp][] = [
    [{ backing: uri }, 'exists', /backing of volume 'a' already/],
    [{ backing: (await far(new MemoryDisk(MIB, { readOnly: true }))).uri }, 'read-only', /cannot be written to/],
    [{ backing: (await far(new MemoryDisk(MIB))).uri, sizeBytes: 2 * MIB }, 'bad-argument', /has 1048576 bytes, not 2097152/],
    [{ backing: (await far(new MemoryDisk(1000))).uri }, 'bad-argument', /multiple of 512/],
    [{ backing: uri.replace('disk?', 'other?') }, 'not-found', /other/],
    [{ backing: `${uri}-nowhere` }, 'unreachable', /nowhere/],
    [{ backing: 'http://127.0.0.1/x' }, 'bad-argument', /scheme/],
  ]
  for (const [options, code, message] of rows) {
    await t.rejects(store.createVolume({ name: 'b', ...options }), { code, message }, JSON.stringify(options))
  }
  t.strictSame(store.list(), [taken], 'nothing came of any of them')
  const own = await openStore({ path: join(t.testdir(), 'other'), create: true })
  await t.rejects(own.createVolume({ name: 'b', backing: uri }), { code: 'wrong-state', hint: /openBacking/ })
  await own.close()
  await t.rejects(openStore({ path: 'x', openBacking: 'nbd' as never }), { code: 'bad-argument', message: /openBacking/ })
})

t.test('its server is away when the store is opened: a problem of that volume alone, until it is opened anew', async t => {
  const { path, store } = await inStore(t)
  const peer = await far(new MemoryDisk(MIB))
  await (await store.createVolume({ name: 'far', backing: peer.uri })).write(0, 3, Buffer.from('abc'), 0)
  await store.createVolume({ name: 'near', sizeBytes: MIB })
  await store.close()
  await peer.stop()
  const again = await openStore({ path, openBacking })
  teardowns.unshift(() => again.close())
  t.match(again.list(), [{ name: 'far', problem: { code: 'unreachable', message: /'far' cannot be opened/ } }, { name: 'near', problem: undefined }])
  t.throws(() => again.get('far')!.read(0, 1, Buffer.alloc(1), 0), { code: 'unreachable' })
  await t.rejects(again.reopenVolume('far'), { code: 'unreachable' })
  await peer.start()
  t.equal((await readAll(await again.reopenVolume('far'), 0, 3)).toString(), 'abc')
  t.equal(again.get('far')!.problem, undefined)
  await t.rejects(again.reopenVolume('none'), { code: 'not-found' })
  await again.close()

  const blind = await openStore({ path })
  t.match(blind.get('far')!.problem, { code: 'wrong-state', message: /without a way to open URIs/ })
  await blind.deleteVolume('far')
  await blind.close()
})

async function until(what: string, ask: () => Promise<boolean>): Promise<void> {
  for (let tries = 0; !await ask(); tries++) {
    if (tries > 500) throw new Error(`waited in vain for ${what}`)
    await new Promise(resolve => { setTimeout(resolve, 10) })
  }
}
const writable = (volume: BlockDevice) => async (): Promise<boolean> => {
  try {
    await volume.write(0, 1, Buffer.from('z'), 0)
    return true
  } catch { return false }
}

t.test('a lost server: errors, no hang; nothing in doubt, and all goes on by itself', async t => {
  const { store } = await inStore(t)
  const peer = await far(new MemoryDisk(MIB))
  const volume = await store.createVolume({ name: 'db', backing: peer.uri })
  await volume.write(0, 3, Buffer.from('abc'), 0)
  await volume.flush()
  await peer.stop()
  await t.rejects(async () => { await volume.read(0, 1, Buffer.alloc(1), 0) }, { code: 'unreachable' })
  await t.rejects(async () => { await volume.write(0, 1, Buffer.alloc(1), 0) }, { code: 'unreachable' })
  await t.rejects(async () => { await volume.flush() }, { code: 'unreachable' })
  await peer.start()
  await until('the server', writable(volume))
  await volume.flush()
  t.equal((await readAll(volume, 0, 3)).toString(), 'zbc')
})

t.test('D7: unflushed writes of a lost server latch the flush until the volume is opened anew', async t => {
  const { store } = await inStore(t)
  const peer = await far(new MemoryDisk(MIB))
  const volume = await store.createVolume({ name: 'db', backing: peer.uri })
  await volume.write(GRAIN, 3, Buffer.from('abc'), 0)
  await peer.stop()
  // As a server that has crashed: what was not flushed is not there.
  peer.disk = new MemoryDisk(MIB)
  await peer.start()
  await until('the server', writable(volume))
  for (let i = 0; i < 2; i++) await t.rejects(async () => { await volume.flush() }, { code: 'flush-failed', message: /may be lost/ })
  t.equal(volume.problem, undefined, 'reads and writes go on')
  const again = await store.reopenVolume('db')
  t.not(again, volume)
  await again.write(0, 3, Buffer.from('new'), 0)
  await again.flush()
  t.equal((await readAll(again, 0, 3)).toString(), 'new')
  t.equal((await readAll(again, GRAIN, 3)).toString(), '\0\0\0', 'what is there is shown, whatever it is')
})

t.test('an export that has grown: the volume may, when it was opened anew', async t => {
  const { store } = await inStore(t)
  const peer = await far(new MemoryDisk(MIB))
  const volume = await store.createVolume({ name: 'db', backing: peer.uri })
  await volume.write(0, 3, Buffer.from('abc'), 0)
  await t.rejects(store.resizeVolume('db', 2 * MIB), { code: 'bad-argument', message: /has only 1048576 bytes/, hint: /open the volume again/ })
  await volume.flush()
  await peer.stop()
  peer.disk = new MemoryDisk(2 * MIB)
  await peer.disk.write(0, 3, Buffer.from('abc'), 0)
  await peer.disk.write(MIB, MIB, Buffer.alloc(MIB, 7), 0)
  await peer.start()
  await store.reopenVolume('db')
  await store.resizeVolume('db', 2 * MIB)
  const grown = store.get('db')!
  t.equal(grown.sizeBytes, 2 * MIB)
  t.equal((await readAll(grown, 0, 3)).toString(), 'abc')
  t.ok((await readAll(grown, MIB)).equals(Buffer.alloc(MIB)), 'growth reads as zeros, whatever lies there')
  await store.resizeVolume('db', MIB)
  t.equal(store.get('db')!.sizeBytes, MIB, 'and it shrinks, the export stays as large as it is')
})

t.test('opened anew: refused while a clone reads it', async t => {
  const { store } = await inStore(t)
  const { uri } = await far(new MemoryDisk(MIB))
  const volume = await store.createVolume({ name: 'db', backing: uri })
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await store.cloneVolume({ name: 'c', from: { volume: 'db', point: 's' } })
  await t.rejects(store.reopenVolume('db'), { code: 'busy', message: /read by: c/ })
  await (await store.promoteVolume('c')).finished
  await store.reopenVolume('db')
})

t.test('import into it is all or nothing: a failed one leaves no volume, and no connection', async t => {
  const { store } = await inStore(t)
  const peer = await far(new MemoryDisk(MIB))
  const source = new MemoryDisk(MIB)
  source.write(MIB / 2, 1, Buffer.from('x'), 0)
  source.read = () => { throw new NbdeltaError('io', 'a bad sector') }
  await t.rejects(store.importVolume({ name: 'db', backing: peer.uri }, source), { code: 'io' })
  t.equal(store.get('db'), undefined)
  await until('the connections to go', async () => peer.clients === 0)
})
