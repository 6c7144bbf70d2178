// Every split position: one mixed session cut in two at each of its bytes, and sent byte by byte: the replies never differ.
import t from 'tap'
import type { ExportProvider } from '../../src/nbd/export.js'
import { createServer, type NbdServer } from '../../src/nbd/server.js'
import { Peer } from './support/peer.js'
import { mappedDisk } from './support/fixture.js'
import { CMD, command, FLAG, INFO, infoData, metaData, MIB, OPT, option, pattern, statusPayload, u32, type Command,
  type Mode } from './support/wire.js'

t.setTimeout(300_000)

/**
 * Handshake and 30 requests of all kinds, good and bad, ended by DISC. `long` makes two payloads 8 to 9 KiB, so that each way
 * of taking a payload is met; cut at every byte such a stream would cost a minute, so it is cut at samples.
 */
function mixedSession(mode: Mode, long: boolean): Buffer {
  const payloadLen = mode === 'extended' ? FLAG.PAYLOAD_LEN : 0
  const write = (offset: number, length: number, flags = 0): Command =>
    ({ type: CMD.WRITE, offset, flags: flags | payloadLen, payload: pattern(offset, length, 7) })
  const requests: Command[] = [
    { type: CMD.READ, offset: 0, length: 600 }, write(0, 1), write(5, 300), { type: CMD.READ, offset: 3, length: 100 },
    { type: CMD.FLUSH },
    write(4000, 200, FLAG.FUA), { type: CMD.READ, offset: 60 * 1024, length: 9000 },
    { type: CMD.WRITE_ZEROES, offset: 10, length: 20 },
    { type: CMD.WRITE_ZEROES, flags: FLAG.NO_HOLE | FLAG.FUA, offset: 8192, length: 4096 },
    { type: CMD.TRIM, offset: 4096, length: 4096 },
    { type: CMD.CACHE, offset: 0, length: 65_536 }, { type: CMD.BLOCK_STATUS, offset: 0, length: MIB },
    { type: CMD.BLOCK_STATUS, flags: FLAG.REQ_ONE, offset: 65_536, length: 9 },
    { type: CMD.READ, flags: FLAG.DF, offset: 0, length: 512 }, { type: 99, offset: 1, length: 0 },
    { type: CMD.READ, flags: 0x8000, offset: 1, length: 7 },
    write(2 ** 40, 150), { type: CMD.READ, offset: MIB - 1, length: 2 },
    { type: CMD.WRITE, flags: FLAG.DF, offset: 0, payload: Buffer.alloc(90, 0x25) },
    { type: CMD.READ, offset: 0, length: 0 }, { type: CMD.WRITE, offset: 0, length: 0 },
    { type: CMD.TRIM, offset: 0, length: 0xffff_ffff },
    { type: CMD.FLUSH, flags: FLAG.FUA, offset: 9, length: 0 }, { type: CMD.WRITE_ZEROES, flags: FLAG.FAST_ZERO, offset: 16_384,
      length: 4096 },
    write(20_000, long ? 9000 : 90), { type: CMD.READ, offset: 19_999, length: 9002 }, write(30_000, long ? 8192 : 40),
    { type: CMD.READ, offset: 30_000, length: 8192 },
    mode === 'extended' ? { type: CMD.FLUSH, flags: FLAG.PAYLOAD_LEN, payload: Buffer.alloc(77, 0x21) } : { type: CMD.FLUSH },
    mode === 'extended' ? { type: CMD.BLOCK_STATUS, flags: FLAG.PAYLOAD_LEN, offset: 0,
      payload: statusPayload(MIB, [1]) } : { type: CMD.BLOCK_STATUS, length: 0 },
    { type: CMD.READ, offset: 0, length: 70_000 }, { type: CMD.DISC },
  ]
  return Buffer.concat([
    u32(3), option(OPT.LIST), option(77, Buffer.alloc(33, 1)),
    ...mode === 'simple' ? [] : [option(mode === 'extended' ? OPT.EXTENDED_HEADERS : OPT.STRUCTURED_REPLY)],
    option(OPT.LIST_META_CONTEXT, metaData('map')), option(OPT.SET_META_CONTEXT, metaData('map', ['base:allocation', 'x-n:o'])),
    option(OPT.INFO, infoData('nope')), option(OPT.GO, infoData('map', [INFO.BLOCK_SIZE, INFO.NAME])),
    ...requests.map((request, i) => command(mode, { ...request, cookie: BigInt(i) << 33n | BigInt(i) })),
  ])
}

/** Every client gets a disk of its own with the same content, so that each run begins alike. */
function freshExports(): ExportProvider {
  const { sizeBytes, blockSizes, capabilities } = mappedDisk()
  const info = { name: 'map', description: 'fresh for each client', sizeBytes, readOnly: false, blockSizes, capabilities }
  return {
    list: () => [info],
    describe: name => name === 'map' ? info : undefined,
    open: async () => ({ info, device: master.fork(), release: () => undefined }),
  }
}
const master = mappedDisk()

async function replies(server: NbdServer, stream: Buffer, cuts: readonly number[]): Promise<Buffer> {
  const peer = await Peer.connect(server.addresses[0])
  await peer.sendCut(stream, cuts)
  return peer.stream.drain(30_000)
}

/** Runs `work` for each position, `lanes` at a time. */
async function eachPosition(last: number, lanes: number, work: (position: number) => Promise<void>): Promise<void> {
  let next = 1
  await Promise.all(Array.from({ length: lanes }, async () => {
    while (next < last) await work(next++)
  }))
}

for (const mode of ['simple', 'structured', 'extended'] as const) {
  for (const directReceive of [true, false]) {
    const way = directReceive ? 'direct receive' : 'copying receive'
    const server = await createServer({ exports: freshExports(), listen: [{ host: '127.0.0.1', port: 0 }], directReceive,
      spin: false })
    t.teardown(() => server.close({ deadlineMs: 500 }))

    for (const [long, step] of [[false, 1], [true, 101]] as const) {
      const stream = mixedSession(mode, long)
      t.test(`split: ${mode}, ${way}: ${stream.length} bytes cut in two at ${long ? `every ${step}th` : 'each'} byte`,
        async t => {
        const whole = await replies(server, stream, [])
        t.ok(whole.length > 80_000, 'the session was served to its end')
        const differing: number[] = []
        await eachPosition(Math.ceil(stream.length / step), 8, async position => {
          if (!(await replies(server, stream, [position * step])).equals(whole)) differing.push(position * step)
        })
        t.strictSame(differing, [])
      })

      t.test(`split: ${mode}, ${way}: ${stream.length} bytes byte by byte, and in pieces of 2 to 1,000`, async t => {
        const whole = await replies(server, stream, [])
        for (const piece of [1, 2, 3, 7, 27, 28, 29, 31, 32, 33, 100, 1000]) {
          const cuts = Array.from({ length: Math.floor(stream.length / piece) }, (_, i) => (i + 1) * piece)
          t.ok((await replies(server, stream, cuts)).equals(whole), `pieces of ${piece}`)
        }
      })
    }
  }
}
