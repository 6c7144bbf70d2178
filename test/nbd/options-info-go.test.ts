// I1-I11: INFO and GO.
import t from 'tap'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { delay } from './support/byte-stream.js'
import { DISK_BYTES, ODD_BYTES, RO_BYTES, startServer } from './support/fixture.js'
import { attach, Session } from './support/session.js'
import { CMD, ERR, INFO, OPT, REP, TX, type Mode } from './support/wire.js'

const fixture = await startServer(t)
const flat = (infos: readonly { type: number, data: Buffer }[]): string[] =>
  infos.map(info => `${info.type}:${info.data.toString('hex')}`).sort()

t.test('I1: success is an EXPORT info with the true size, then ACK', async t => {
  const peer = await fixture.peer()
  for (const [name, size] of [['disk', DISK_BYTES], ['ro', RO_BYTES], ['odd', ODD_BYTES]] as const) {
    const { facts } = await peer.info(OPT.INFO, name)
    t.equal(facts!.size, BigInt(size), name)
  }
})

t.test('I2: unknown info types and duplicates are ignored', async t => {
  const peer = await fixture.peer()
  const plain = await peer.info(OPT.INFO, 'disk', [INFO.NAME, INFO.BLOCK_SIZE])
  const odd = await peer.info(OPT.INFO, 'disk', [99, INFO.NAME, 0xffff, INFO.NAME, INFO.BLOCK_SIZE, INFO.BLOCK_SIZE, 4])
  t.strictSame(flat(odd.infos), flat(plain.infos))
  const thousands = await peer.info(OPT.INFO, 'disk', Array.from({ length: 20_000 }, (_, i) => i % 5))
  t.equal(thousands.final, REP.ACK)
  t.ok(thousands.infos.length <= 4)
})

t.test('I3: BLOCK_SIZE tells the limits, asked for or not', async t => {
  const peer = await fixture.peer()
  for (const infos of [[], [INFO.BLOCK_SIZE]]) {
    t.ok((await peer.info(OPT.INFO, 'disk', infos)).facts!.blockSizes, `asked: ${infos}`)
    t.equal((await peer.info(OPT.INFO, 'block', infos)).facts!.blockSizes!.minimum, 512)
  }
})

t.test('I4: NAME and DESCRIPTION agree with LIST', async t => {
  const peer = await fixture.peer()
  for (const { name, description } of await peer.list()) {
    const { facts } = await peer.info(OPT.INFO, name, [INFO.NAME, INFO.DESCRIPTION])
    t.equal(facts!.name, name)
    if (facts!.description !== undefined) t.equal(facts!.description, description)
  }
})

t.test('I5: an unknown export is ERR_UNKNOWN without an INFO before it', async t => {
  const peer = await fixture.peer()
  for (const number of [OPT.INFO, OPT.GO] as const) {
    const answer = await peer.info(number, 'nope', [INFO.BLOCK_SIZE, INFO.NAME])
    t.equal(answer.final, REP.ERR_UNKNOWN)
    t.strictSame(answer.infos, [])
  }
})

for (const name of ['disk', 'block', 'ro']) {
  t.test(`I6: ${name}: ERR_BLOCK_SIZE_REQD is used neither on GO nor on INFO that asked`, async t => {
    const peer = await fixture.peer()
    t.equal((await peer.info(OPT.INFO, name, [INFO.BLOCK_SIZE])).final, REP.ACK)
    t.equal((await peer.info(OPT.GO, name)).final, REP.ACK, 'GO with no info request, as the kernel sends it')
  })
}

t.test('I7: INFO then GO give identical information', async t => {
  for (const name of ['disk', 'ro', 'odd', 'block', 'map', 'huge']) {
    for (const infos of [[], [0], [1, 2, 3], [3]]) {
      for (const prepare of [[], [OPT.STRUCTURED_REPLY], [OPT.EXTENDED_HEADERS]]) {
        const peer = await fixture.peer()
        for (const number of prepare) await peer.verdict(number)
        if (prepare.length > 0) await peer.meta(OPT.SET_META_CONTEXT, name, ['base:allocation'])
        const info = await peer.info(OPT.INFO, name, infos)
        const go = await peer.info(OPT.GO, name, infos)
        t.strictSame(flat(go.infos), flat(info.infos), `${name} [${infos}] after [${prepare}]`)
      }
    }
  }
})

t.test('I7: the size is the one at the time of asking', async t => {
  const growing = new MemoryDisk(4096)
  const own = await startServer(t, { exports: { growing } })
  const peer = await own.peer()
  t.equal((await peer.info(OPT.INFO, 'growing')).facts!.size, 4096n)
  await growing.resize(8192)
  t.equal((await peer.info(OPT.INFO, 'growing')).facts!.size, 8192n)
})

t.test('I8: after the ACK of GO nothing comes unasked', async t => {
  for (const flags of [1, 3]) {
    const peer = await fixture.peer(flags)
    const { facts } = await peer.info(OPT.GO, 'disk')
    await delay(20)
    t.equal(peer.stream.available, 0, 'no padding')
    await new Session(peer, 'simple', facts!).alive()
  }
})

t.test('I9: after extended headers GO works and asks for nothing else', async t => {
  for (const name of ['disk', 'ro', 'huge']) await (await attach(fixture.address, { mode: 'extended', name })).alive()
  t.pass()
})

t.test('I10 I11: transmission flags', async t => {
  const flagsOf = async (mode: Mode, name: string, contexts: string[]): Promise<number> =>
    (await attach(fixture.address, { mode, name, contexts })).facts.flags
  t.notOk(await flagsOf('simple', 'disk', []) & TX.SEND_DF, 'DF clear with simple replies')
  for (const mode of ['structured', 'extended'] as const) {
    const flags = await flagsOf(mode, 'disk', [])
    t.ok(flags & TX.SEND_DF, `${mode}: DF`)
    t.notOk(flags & TX.BLOCK_STATUS_PAYLOAD, `${mode}: BLOCK_STATUS_PAYLOAD needs contexts`)
  }
  t.notOk(await flagsOf('structured', 'disk', ['base:allocation']) & TX.BLOCK_STATUS_PAYLOAD, 'never without extended headers')
  for (const mode of ['simple', 'structured', 'extended'] as const) {
    const writable = await flagsOf(mode, 'disk', [])
    const wanted = TX.HAS_FLAGS | TX.SEND_FLUSH | TX.SEND_FUA | TX.SEND_TRIM | TX.SEND_WRITE_ZEROES
      | TX.CAN_MULTI_CONN | TX.SEND_CACHE
    t.equal(writable & wanted, wanted, `${mode}: writable has all commands`)
    t.notOk(writable & (TX.READ_ONLY | TX.SEND_RESIZE))
    const readOnly = await flagsOf(mode, 'ro', [])
    const kept = TX.READ_ONLY | TX.SEND_FLUSH | TX.SEND_FUA | TX.SEND_CACHE | TX.CAN_MULTI_CONN
    t.equal(readOnly & kept, kept, `${mode}: read-only still offers FLUSH, FUA, CACHE`)
  }
})

t.test('I11: READ_ONLY means that every write fails', async t => {
  for (const mode of ['simple', 'structured', 'extended'] as const) {
    const session = await attach(fixture.address, { mode, name: 'ro' })
    t.equal((await session.write(0, Buffer.alloc(512))).error, ERR.EPERM)
    for (const type of [CMD.TRIM, CMD.WRITE_ZEROES]) t.equal((await session.call({ type, offset: 0, length: 512 })).error,
      ERR.EPERM)
    t.equal((await session.call({ type: CMD.FLUSH })).error, 0)
    t.equal((await session.call({ type: CMD.CACHE, offset: 0, length: 512 })).error, 0)
  }
})
