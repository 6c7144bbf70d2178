// H6, H7, O3, O12: deadline, nothing opened before GO, caps on options; each with limits small enough to wait for.
import t from 'tap'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import type { ExportHandle, ExportInfo, ExportProvider } from '../../src/nbd/export.js'
import { delay } from './support/byte-stream.js'
import { startServer } from './support/fixture.js'
import { Session } from './support/session.js'
import { INFO, infoData, KIB, metaData, MIB, OPT, option, REP, u32, u64, IHAVEOPT } from './support/wire.js'

t.test('H6: handshake deadline', async t => {
  const fixture = await startServer(t, { limits: { handshakeMs: 300 } })
  const started = Date.now()
  const silent = await fixture.peer()
  const busy = await fixture.peer()
  const halfOption = await fixture.peer()
  halfOption.send(option(OPT.LIST).subarray(0, 11))
  const halfData = await fixture.peer()
  halfData.send(option(OPT.GO, infoData('disk')).subarray(0, 20))
  const attached = await fixture.attach()
  const chatter = (async () => { for (;;) { await busy.list(); await delay(30) } })().catch(() => undefined)
  for (const peer of [silent, halfOption, halfData]) await peer.expectDropped(3000)
  await chatter
  t.ok(busy.stream.ended, 'talking does not extend it')
  const took = Date.now() - started
  t.ok(took >= 280 && took < 2500, `dropped after ${took} ms`)
  await delay(400)
  await attached.alive()
  t.pass('Z8: it ends with GO; an idle session in transmission stays')
})

class CountingProvider implements ExportProvider {
  opened = 0
  released = 0
  readonly #disk = new MemoryDisk(MIB)
  list(): { name: string, description: string }[] { return [{ name: 'disk', description: 'counted' }] }
  describe(name: string): ExportInfo | undefined {
    if (name !== 'disk') return undefined
    const { sizeBytes, blockSizes, capabilities } = this.#disk
    return { name, description: 'counted', sizeBytes, readOnly: false, blockSizes, capabilities }
  }
  async open(name: string): Promise<ExportHandle> {
    this.opened++
    const info = this.describe(name)
    if (!info) throw new Error('opened an export that was not described')
    return { info, device: this.#disk, release: () => { this.released++ } }
  }
}

t.test('H7: nothing is opened before a valid GO, and every handle is released once', async t => {
  const provider = new CountingProvider()
  const fixture = await startServer(t, { provider })
  const peer = await fixture.peer()
  await peer.list()
  await peer.info(OPT.INFO, 'disk', [INFO.BLOCK_SIZE])
  await peer.info(OPT.GO, 'nope')
  await peer.verdict(OPT.STRUCTURED_REPLY)
  await peer.meta(OPT.LIST_META_CONTEXT, 'disk')
  await peer.meta(OPT.SET_META_CONTEXT, 'disk', ['base:allocation'])
  await peer.option(OPT.GO, Buffer.concat([u32(400), Buffer.from('disk')]))
  const lost = await fixture.peer()
  lost.send(option(OPT.EXPORT_NAME, Buffer.from('nope')))
  await lost.expectDropped()
  t.equal(provider.opened, 0)
  const answer = await peer.info(OPT.GO, 'disk')
  t.equal(provider.opened, 1)
  const session = new Session(peer, 'structured', answer.facts!)
  await session.alive()
  t.equal(provider.released, 0)
  await session.disconnect()
  const cut = await fixture.attach({ mode: 'extended' })
  cut.destroy()
  for (let i = 0; i < 100 && provider.released < 2; i++) await delay(10)
  t.equal(provider.opened, 2)
  t.equal(provider.released, 2)
})

t.test('O3: long options', async t => {
  const fixture = await startServer(t)
  const peer = await fixture.peer()
  for (const [what, number, bytes] of [
    ['GO of 64 KiB + 1', OPT.GO, 64 * KIB + 1], ['INFO of 1 MiB', OPT.INFO, MIB], ['GO of 32 MiB', OPT.GO, 32 * MIB],
    ['LIST_META_CONTEXT of 1 MiB + 1', OPT.LIST_META_CONTEXT, MIB + 1],
    ['SET_META_CONTEXT of 5 MiB', OPT.SET_META_CONTEXT, 5 * MIB],
  ] as const) {
    t.equal(await peer.verdict(number, Buffer.alloc(bytes)), REP.ERR_TOO_BIG, what)
    await peer.expectInStep()
  }
  await peer.verdict(OPT.STRUCTURED_REPLY)
  const long = 'x-long:' + 'q'.repeat(200)
  const many = metaData('disk', [...Array.from({ length: 4000 }, () => long), 'base:allocation'])
  t.ok(many.length > 64 * KIB && many.length < MIB)
  const replies = await peer.option(OPT.SET_META_CONTEXT, many)
  t.equal(replies.length, 2, 'a META option below 1 MiB is read')
})

t.test('O3: a long option when memory is short is refused, not waited for', async t => {
  const fixture = await startServer(t, { limits: { memoryBytes: MIB } })
  const peer = await fixture.peer()
  await peer.verdict(OPT.STRUCTURED_REPLY)
  for (const bytes of [200_000, 900_000]) {
    const type = await peer.verdict(OPT.LIST_META_CONTEXT, metaData('disk', ['q'.repeat(bytes)]))
    t.ok(type === REP.ERR_TOO_BIG || type === REP.ACK, `${bytes} bytes: 0x${type.toString(16)}`)
    await peer.expectInStep()
  }
})

t.test('O3: an option above 32 MiB is dropped on its header', async t => {
  const fixture = await startServer(t)
  for (const length of [32 * MIB + 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]) {
    for (const number of [OPT.GO, OPT.EXPORT_NAME, OPT.LIST, 99]) {
      const peer = await fixture.peer()
      peer.send(Buffer.concat([u64(IHAVEOPT), u32(number, length)]))
      await peer.expectDropped()
    }
  }
  t.pass('dropped without waiting for data')
})

t.test('O12: options per handshake are capped', async t => {
  const fixture = await startServer(t, { limits: { options: 20 } })
  const peer = await fixture.peer()
  for (let i = 0; i < 20; i++) t.equal(await peer.verdict(1000 + i), REP.ERR_UNSUP)
  peer.send(option(OPT.LIST))
  await peer.expectDropped(3000)
  const good = await fixture.peer()
  for (let i = 0; i < 19; i++) await good.verdict(77)
  t.ok((await good.info(OPT.GO, 'disk')).facts, 'the twentieth may be GO')
})

t.test('O12: a client that does not read its replies stops being served, not the server', async t => {
  const exports = Object.fromEntries(Array.from({ length: 200 }, (_, i) => [`${'e'.repeat(1000)}${i}`, new MemoryDisk(4096)]))
  const fixture = await startServer(t, { exports, limits: { options: 100_000 } })
  const greedy = await fixture.peer()
  greedy.stream.socket.pause()
  const before = process.memoryUsage().rss
  for (let i = 0; i < 2000; i++) greedy.send(option(OPT.LIST))
  await delay(500)
  const grown = (process.memoryUsage().rss - before) / MIB
  t.ok(grown < 150, `2,000 LISTs of 200 KiB unread: ${grown.toFixed(0)} MiB more`)
  await (await fixture.attach()).alive()
  greedy.destroy()
})
