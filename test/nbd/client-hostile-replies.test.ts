// A peer that breaks the protocol in its replies: the connection is dropped with a clear error, and nothing hangs or grows.
import t from 'tap'
import { openNbdClient } from '../../src/nbd/client-device.js'
import { CONTEXT_ID, simpleReply, startScriptedServer, type ScriptedConnection, type ScriptedRequest } from './support/scripted-server.js'
import { CHUNK, ERR, MIB, type Mode, pattern, u16, u32, u64 } from './support/wire.js'

type Lie = (connection: ScriptedConnection, request: ScriptedRequest) => Buffer
type Operation = 'read' | 'write' | 'status' | 'flush'
interface Row { readonly what: string, readonly on: Operation, readonly modes: readonly Mode[], readonly lie: Lie, readonly says: RegExp }

const LENGTH = 64 * 1024
const OFFSET = 4096
const CHUNKS: readonly Mode[] = ['structured', 'extended']
const ALL: readonly Mode[] = ['simple', ...CHUNKS]
const DATA = pattern(OFFSET, LENGTH)
const part = (from: number, to: number): Buffer => DATA.subarray(from, to)

const hole = (c: ScriptedConnection, r: ScriptedRequest, offset: number, bytes: number, flags = 1): Buffer =>
  c.chunk(r, { flags, type: CHUNK.OFFSET_HOLE, payload: Buffer.concat([u64(offset), u32(bytes)]) })
const error = (c: ScriptedConnection, r: ScriptedRequest, payload: Buffer, type: number = CHUNK.ERROR): Buffer => c.chunk(r, { type, payload })
function status(c: ScriptedConnection, r: ScriptedRequest, extents: readonly (readonly [number, number])[], lies: { id?: number, count?: number, flags?: number } = {}): Buffer {
  const wide = c.mode === 'extended'
  const front = wide ? u32(lies.id ?? CONTEXT_ID, lies.count ?? extents.length) : u32(lies.id ?? CONTEXT_ID)
  const payload = Buffer.concat([front, ...extents.map(([length, state]) => wide ? u64(length, state) : u32(length, state))])
  return c.chunk(r, { flags: lies.flags ?? 1, type: wide ? CHUNK.BLOCK_STATUS_EXT : CHUNK.BLOCK_STATUS, payload })
}
const row = (what: string, on: Operation, modes: readonly Mode[], says: RegExp, lie: Lie): Row => ({ what, on, modes, lie, says })

const TABLE: readonly Row[] = [
  row('a wrong magic', 'read', ALL, /begins with deadbeef/, () => Buffer.alloc(64, Buffer.from('deadbeef', 'hex'))),
  row('a magic of another mode', 'read', ['simple'], /replies are simple/, (_, r) => Buffer.concat([u32(0x668e33ef), u16(1, 0), u64(r.cookie), u32(0)])),
  row('E1: a simple reply under extended headers', 'write', ['extended'], /E1/, (_, r) => simpleReply(r.cookie, 0)),
  row('an unknown cookie', 'read', ALL, /not in flight/, (c, r) => c.honest({ ...r, cookie: r.cookie + 77n }, Buffer.alloc(MIB))),
  row('a cookie with other upper bits', 'read', ALL, /not in flight/, (c, r) => c.honest({ ...r, cookie: r.cookie + 2n ** 40n }, Buffer.alloc(MIB))),
  row('a reply twice', 'flush', ALL, /not in flight/, (c, r) => Buffer.concat([c.honest(r, DATA), c.honest(r, DATA)])),
  row('G2: a READ answered by a simple reply', 'read', ['structured'], /simple reply where chunks are due/, (_, r) => simpleReply(r.cookie, 0, DATA)),
  row('a simple reply after chunks', 'read', ['structured'], /after chunks/, (c, r) => Buffer.concat([c.data(r, OFFSET, part(0, 512), 0), simpleReply(r.cookie, 22)])),
  row('E2: another offset', 'read', ['extended'], /E2/, (c, r) => c.chunk(r, { type: CHUNK.OFFSET_DATA, offset: 0, payload: Buffer.concat([u64(OFFSET), DATA]) })),
  row('a chunk flag of the future', 'read', CHUNKS, /chunk flags 3/, (c, r) => c.data(r, OFFSET, DATA, 3)),
  row('an unknown chunk', 'read', CHUNKS, /type 9/, (c, r) => c.chunk(r, { type: 9, payload: Buffer.alloc(4) })),
  row('content for a write', 'write', CHUNKS, /type 1/, (c, r) => c.data(r, OFFSET, DATA)),
  row('status for a read', 'read', CHUNKS, /status chunk/, (c, r) => status(c, r, [[LENGTH, 0]])),
  row('NONE with a payload', 'write', CHUNKS, /neither empty nor the last/, (c, r) => c.chunk(r, { type: CHUNK.NONE, payload: Buffer.alloc(4) })),
  row('NONE that is not the last', 'write', CHUNKS, /neither empty nor the last/, (c, r) => c.chunk(r, { flags: 0, type: CHUNK.NONE })),
  row('R2: nothing covers the range', 'read', CHUNKS, /only 0 bytes/, (c, r) => c.chunk(r, { type: CHUNK.NONE })),
  row('R2: a gap', 'read', CHUNKS, /only 65024 bytes/, (c, r) => Buffer.concat([c.data(r, OFFSET, part(0, 512), 0), c.data(r, OFFSET + 1024, part(1024, LENGTH))])),
  row('R2: content before the range', 'read', CHUNKS, /not asked for/, (c, r) => c.data(r, OFFSET - 1, part(0, 100), 0)),
  row('R2: content behind the range', 'read', CHUNKS, /not asked for/, (c, r) => c.data(r, OFFSET + LENGTH - 10, part(0, 11), 0)),
  row('R2: content at 2^64 - 1', 'read', CHUNKS, /not asked for/, (c, r) => c.chunk(r, { flags: 0, type: CHUNK.OFFSET_DATA, payload: Buffer.concat([u64(2n ** 64n - 1n), part(0, 9)]) })),
  row('R2: content twice', 'read', CHUNKS, /twice/, (c, r) => Buffer.concat([c.data(r, OFFSET, part(0, 1024), 0), c.data(r, OFFSET + 512, part(512, 1024), 0)])),
  row('R2: a hole over content', 'read', CHUNKS, /twice/, (c, r) => Buffer.concat([c.data(r, OFFSET, DATA, 0), hole(c, r, OFFSET, 512)])),
  row('R2: content in crumbs', 'read', CHUNKS, /crumbs/, (c, r) => Buffer.concat(Array.from({ length: 2000 }, (_, i) => c.data(r, OFFSET + i * 2, part(i * 2, i * 2 + 1), 0)))),
  row('content without a byte', 'read', CHUNKS, /type 1 and 8 bytes/, (c, r) => c.data(r, OFFSET, Buffer.alloc(0))),
  row('content of more than was asked', 'read', CHUNKS, /type 1 and/, (c, r) => c.data(r, OFFSET, Buffer.alloc(LENGTH + 1))),
  row('content of 4 GiB', 'read', CHUNKS, /type 1 and 4294967295 bytes/, (c, r) => c.chunk(r, { type: CHUNK.OFFSET_DATA, length: 0xffffffff, payload: u64(OFFSET) })),
  row('content of 2^64 - 1 bytes', 'read', ['extended'], /type 1 and/, (c, r) => c.chunk(r, { type: CHUNK.OFFSET_DATA, length: 2n ** 64n - 1n, payload: u64(OFFSET) })),
  row('a hole of 0 bytes', 'read', CHUNKS, /not asked for/, (c, r) => hole(c, r, OFFSET, 0)),
  row('a hole past the range', 'read', CHUNKS, /not asked for/, (c, r) => hole(c, r, OFFSET, LENGTH + 1)),
  row('a hole chunk of 13 bytes', 'read', CHUNKS, /type 2 and 13 bytes/, (c, r) => c.chunk(r, { type: CHUNK.OFFSET_HOLE, payload: Buffer.alloc(13) })),
  row('an error without an error', 'write', CHUNKS, /without an error/, (c, r) => error(c, r, Buffer.concat([u32(0), u16(0)]))),
  row('an error text past its chunk', 'write', CHUNKS, /lengths do not fit/, (c, r) => error(c, r, Buffer.concat([u32(5), u16(9), Buffer.from('short')]))),
  row('an error text shorter than its chunk', 'write', CHUNKS, /lengths do not fit/, (c, r) => error(c, r, Buffer.concat([u32(5), u16(1), Buffer.from('longer')]))),
  row('an error chunk of 5 bytes', 'write', CHUNKS, /error chunk of 5 bytes/, (c, r) => error(c, r, Buffer.alloc(5))),
  row('an error chunk of 4 GiB', 'write', CHUNKS, /error chunk of 4294967295 bytes/, (c, r) => c.chunk(r, { type: CHUNK.ERROR, length: 0xffffffff, payload: u32(5) })),
  row('an error elsewhere', 'read', CHUNKS, /an error at 0/, (c, r) => error(c, r, Buffer.concat([u32(5), u16(0), u64(0)]), CHUNK.ERROR_OFFSET)),
  row('an error offset of 4 bytes', 'read', CHUNKS, /lengths do not fit/, (c, r) => error(c, r, Buffer.concat([u32(5), u16(0), u32(0)]), CHUNK.ERROR_OFFSET)),
  row('no status', 'status', CHUNKS, /no status came/, (c, r) => c.chunk(r, { type: CHUNK.NONE })),
  row('a simple reply to BLOCK_STATUS', 'status', ['structured'], /chunks are due/, (_, r) => simpleReply(r.cookie, 0)),
  row('B2: status twice', 'status', CHUNKS, /second status/, (c, r) => Buffer.concat([status(c, r, [[LENGTH, 0]], { flags: 0 }), status(c, r, [[LENGTH, 0]])])),
  row('status of another context', 'status', CHUNKS, /another context/, (c, r) => status(c, r, [[LENGTH, 0]], { id: 9 })),
  row('E6: miscounted status', 'status', ['extended'], /miscounted/, (c, r) => status(c, r, [[LENGTH, 0]], { count: 2 })),
  row('E6: status of the other width', 'status', ['extended'], /status chunk of type 5/, (c, r) => c.chunk(r, { type: CHUNK.BLOCK_STATUS, payload: u32(CONTEXT_ID, LENGTH, 0) })),
  row('B1: an extent of 0 bytes', 'status', CHUNKS, /extent of 0 bytes/, (c, r) => status(c, r, [[0, 0], [LENGTH, 0]])),
  row('B1: extents behind the range', 'status', CHUNKS, /at \+65536/, (c, r) => status(c, r, [[LENGTH, 0], [512, 3]])),
  row('status without an extent', 'status', CHUNKS, /status chunk/, (c, r) => status(c, r, [])),
  row('status of a broken length', 'status', CHUNKS, /status chunk/, (c, r) => c.chunk(r, {
    type: c.mode === 'extended' ? CHUNK.BLOCK_STATUS_EXT : CHUNK.BLOCK_STATUS, payload: Buffer.alloc(23),
  })),
  row('B2: status of 2^28 extents', 'status', CHUNKS, /status chunk/, (c, r) => c.chunk(r, {
    type: c.mode === 'extended' ? CHUNK.BLOCK_STATUS_EXT : CHUNK.BLOCK_STATUS,
    length: 0x80000008 + (c.mode === 'extended' ? 0 : 4),
    payload: u32(CONTEXT_ID, 2 ** 28),
  })),
  row('CVE-2023-5871: states of 64 bits', 'status', ['extended'], /more than 32 bits/, (c, r) => status(c, r, [[LENGTH, 2 ** 40]])),
]

for (const { what, on, modes, lie, says } of TABLE) {
  for (const mode of modes) {
    t.test(`${mode}: ${what}`, async t => {
      const server = await startScriptedServer(t, async connection => {
        await connection.handshake({ mode })
        await connection.serve(Buffer.alloc(MIB), request => {
          connection.send(lie(connection, request))
          return true
        })
      })
      const device = await openNbdClient({ address: { path: server.path }, reconnect: { attempts: 0 }, requestMs: 5000 })
      const before = process.memoryUsage().rss
      const started = Date.now()
      const buffer = Buffer.alloc(LENGTH)
      const run = async (): Promise<unknown> => {
        if (on === 'read') return device.read(OFFSET, LENGTH, buffer, 0)
        if (on === 'write') return device.write(OFFSET, LENGTH, buffer, 0)
        if (on === 'status') return device.extents(OFFSET, LENGTH, 100)
        await device.flush()
        return device.flush()
      }
      await t.rejects(run(), { code: 'bad-peer', message: says })
      t.ok(Date.now() - started < 4000, 'soon')
      t.ok(process.memoryUsage().rss - before < 64 * MIB, 'no growth')
      t.equal(device.connected, false)
      await t.rejects(device.read(0, 512, buffer, 0) as Promise<void>, { code: 'bad-peer' }, 'the device has failed, and says why')
      await device.close()
    })
  }
}

const ERRORS: readonly [number, string, RegExp][] = [
  [ERR.EPERM, 'denied', /EPERM "why\\u001b"/], [ERR.EIO, 'io', /EIO/], [ERR.ENOMEM, 'io', /ENOMEM/], [ERR.EINVAL, 'io', /EINVAL/],
  [ERR.ENOSPC, 'no-space', /ENOSPC/], [ERR.EOVERFLOW, 'too-large', /EOVERFLOW/], [ERR.ENOTSUP, 'io', /ENOTSUP/],
  [12345, 'io', /EINVAL \(unknown errno 12345\)/],
]
t.test('refusals are no violations: the connection lives', async t => {
  for (const mode of CHUNKS) {
    for (const [errno, code, message] of ERRORS) {
      const server = await startScriptedServer(t, async connection => {
        await connection.handshake({ mode })
        await connection.serve(Buffer.alloc(MIB), request => {
          if (request.offset !== OFFSET) return false
          connection.send(connection.errorChunk(request, errno, 'why\x1b'))
          return true
        })
      })
      const device = await openNbdClient({ address: { path: server.path } })
      const buffer = Buffer.alloc(LENGTH)
      await t.rejects(device.read(OFFSET, LENGTH, buffer, 0) as Promise<void>, { code, message })
      await t.rejects(device.write(OFFSET, LENGTH, buffer, 0) as Promise<void>, { code, message })
      t.strictSame(await device.extents(OFFSET, LENGTH, 5), { lengths: [LENGTH], states: [0] }, 'C9: what is not told is data')
      await device.read(0, 512, buffer, 0)
      t.equal(device.counters().connectionsLost, 0)
      await device.close()
    }
  }
})

t.test('G2: nbd-server\'s simple error to a READ under structured replies is taken as what it is', async t => {
  const server = await startScriptedServer(t, async connection => {
    await connection.handshake({ mode: 'structured' })
    await connection.serve(Buffer.alloc(MIB), request => {
      connection.send(simpleReply(request.cookie, 22))
      return true
    })
  })
  const device = await openNbdClient({ address: { path: server.path } })
  await t.rejects(device.read(0, 512, Buffer.alloc(512), 0) as Promise<void>, { code: 'io', message: /EINVAL/ })
  t.equal(device.connected, true)
  await device.close()
})

t.test('G5: chunks of different replies, interleaved and out of order', async t => {
  for (const mode of CHUNKS) {
    const server = await startScriptedServer(t, async connection => {
      await connection.handshake({ mode })
      const [a, b] = [await connection.request(), await connection.request()]
      const piece = (r: ScriptedRequest, i: number, flags = 0): Buffer => connection.data(r, r.offset + i * 1024, pattern(r.offset + i * 1024, 1024), flags)
      connection.send(piece(b, 3), piece(a, 0), piece(a, 2), piece(b, 1), hole(connection, b, b.offset + 2048, 1024, 0), piece(a, 1), piece(b, 0),
        connection.chunk(b, { type: CHUNK.NONE }), piece(a, 3, 1))
      await connection.serve(Buffer.alloc(MIB))
    })
    const device = await openNbdClient({ address: { path: server.path } })
    const [one, two] = [Buffer.alloc(4096, 1), Buffer.alloc(4096, 1)]
    await Promise.all([device.read(0, 4096, one, 0), device.read(8192, 4096, two, 0)])
    t.ok(one.equals(pattern(0, 4096)))
    const wanted = pattern(8192, 4096)
    wanted.fill(0, 2048, 3072)
    t.ok(two.equals(wanted))
    await device.close()
  }
})
