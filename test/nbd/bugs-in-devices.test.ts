// S6: an exception that nobody expects, anywhere below or beside a connection, ends at most that connection.
import t from 'tap'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import type { BlockDevice } from '../../src/device/block-device.js'
import type { ExportProvider } from '../../src/nbd/export.js'
import { alteredDisk } from './support/altered-disk.js'
import { delay, ServerClosed } from './support/byte-stream.js'
import { startServer } from './support/fixture.js'
import { CMD, FLAG, INFO, infoData, MIB, MODES, OPT, option, pattern, REP, type Command } from './support/wire.js'

/** Fails as only a bug does: no NbdeltaError, sometimes no Error at all. */
const BUGS: readonly (readonly [string, () => never | Promise<never>])[] = [
  ['throws a TypeError', () => { throw new TypeError('a bug in a device') }],
  ['rejects with a RangeError, later', () => new Promise((_, reject) => { setTimeout(() => reject(new RangeError('late bug')),
    3) })],
  ['rejects with undefined', () => Promise.reject(undefined)],
  ['throws a string', () => { throw 'not even an error' }],
]
const inner = MemoryDisk.from(pattern(0, MIB))
const buggy = (bug: () => never | Promise<never>): BlockDevice =>
  alteredDisk(inner, { read: bug, write: bug, zero: bug, trim: bug, flush: bug, prefetch: bug, extents: bug as () => never })
const requests: readonly Command[] = [
  { type: CMD.READ, offset: 0, length: 4096 }, { type: CMD.READ, offset: 0, length: MIB },
  { type: CMD.WRITE, offset: 0, payload: Buffer.alloc(4096) },
  { type: CMD.WRITE, offset: 0, payload: Buffer.alloc(500_000) }, { type: CMD.WRITE, flags: FLAG.FUA, offset: 0,
    payload: Buffer.alloc(10) },
  { type: CMD.TRIM, offset: 0, length: 4096 }, { type: CMD.WRITE_ZEROES, flags: FLAG.FUA, offset: 0, length: 4096 },
  { type: CMD.FLUSH },
  { type: CMD.CACHE, offset: 0, length: 4096 }, { type: CMD.BLOCK_STATUS, offset: 0, length: 4096 },
]
const fixture = await startServer(t, {
  exports: {
    ...Object.fromEntries(BUGS.map(([what, bug]) => [what, buggy(bug)])),
    mapless: alteredDisk(MemoryDisk.from(pattern(0, MIB)), { zeroRun: () => { throw new Error('no map') } }),
  },
})

for (const mode of MODES) {
  for (const [name] of [...BUGS, ['mapless']] as const) {
    t.test(`S6: ${mode}: a device that ${name}: an error or a closed connection, no more`, async t => {
      const good = await fixture.attach({ mode })
      for (const request of requests) {
        const session = await fixture.attach({ mode, name })
        const { reply } = session.send(request)
        const outcome = await reply.then(({ error }) => error, () => 'closed')
        t.ok(outcome === 'closed' || outcome !== 0 || name === 'mapless' || request.type === CMD.CACHE,
          `command ${request.type}: ${outcome}`)
        session.destroy()
        await good.alive()
      }
    })
  }
}

t.test('S6: nothing of the broken connections is left', async t => {
  await delay(100)
  for (let i = 0; i < 100 && fixture.server.clients().some(client => client.export !== 'disk'); i++) await delay(20)
  t.strictSame(fixture.server.clients().filter(client => client.export !== 'disk'), [])
})

t.test('S6: a provider that throws', async t => {
  const bug = (): never => { throw new TypeError('a bug in a provider') }
  const info = { name: 'x', description: '', sizeBytes: MIB, readOnly: false, blockSizes: inner.blockSizes,
    capabilities: inner.capabilities }
  const providers: readonly (readonly [string, ExportProvider])[] = [
    ['in list', { list: bug, describe: () => info, open: bug }],
    ['in describe', { list: () => [], describe: bug, open: bug }],
    ['in open', { list: () => [], describe: () => info, open: bug }],
    ['in open, later', { list: () => [], describe: () => info, open: async () => { await delay(5); return bug() } }],
    ['in release', { list: () => [], describe: () => info, open: async () => ({ info, device: inner, release: bug }) }],
  ]
  for (const [where, provider] of providers) {
    const own = await startServer(t, { provider })
    for (const number of [OPT.LIST, OPT.INFO, OPT.GO, OPT.EXPORT_NAME]) {
      const peer = await own.peer()
      const data = number === OPT.LIST ? undefined : number === OPT.EXPORT_NAME ? Buffer.from('x') : infoData('x', [INFO.NAME])
      peer.send(option(number, data))
      const answer = await peer.stream.take(1).then(() => 'answered', (error: unknown) =>
        error instanceof ServerClosed ? 'closed' : 'left waiting')
      t.not(answer, 'left waiting', `${where}: option ${number}`)
      peer.destroy()
    }
    const again = await own.peer()
    t.equal(await again.verdict(99), REP.ERR_UNSUP, `${where}: the server goes on`)
  }
})
