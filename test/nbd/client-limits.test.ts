// Section 15: the client keeps to what the peer allows: payload sizes, block sizes, commands and flags that were offered.
import t from 'tap'
import { openNbdClient } from '../../src/nbd/client-device.js'
import { ALL_FLAGS, startScriptedServer, type ScriptedExport, type ScriptedRequest } from './support/scripted-server.js'
import { CMD, ERR, FLAG, KIB, MIB, pattern, TX } from './support/wire.js'

const GIB = 2 ** 30
interface Tap { teardown(callback: () => unknown): unknown }

async function open(t: Tap, facts: ScriptedExport, content = pattern(0, MIB), refuses: (request: ScriptedRequest, nth: number) => number = () => 0) {
  const server = await startScriptedServer(t, async connection => {
    await connection.handshake(facts)
    await connection.serve(content, request => {
      const errno = refuses(request, connection.requests.length)
      if (errno !== 0) connection.send(connection.refuse(request, errno))
      return errno !== 0
    })
  })
  const device = await openNbdClient({ address: { path: server.path } })
  t.teardown(() => device.close())
  /** What was asked since the last look: [type, flags, offset, length]. */
  let seen = 0
  const asked = (): number[][] => {
    const fresh = server.connections[0]!.requests.slice(seen)
    seen += fresh.length
    return fresh.map(({ type, flags, offset, length }) => [type, flags, offset, length])
  }
  return { device, asked, content }
}

t.test('E3: WRITE carries PAYLOAD_LEN under extended headers, and only there', async t => {
  for (const [mode, flags] of [['extended', FLAG.PAYLOAD_LEN], ['structured', 0], ['simple', 0]] as const) {
    const { device, asked } = await open(t, { mode })
    await device.write(512, 512, Buffer.alloc(512), 0)
    t.strictSame(asked(), [[CMD.WRITE, flags, 512, 512]])
  }
})

t.test('Z3: payloads are split at the maximum, which is a multiple of the minimum', async t => {
  const { device, asked, content } = await open(t, { mode: 'structured', sizes: [512, 4096, 64 * KIB + 100] })
  t.strictSame(device.blockSizes, { minimum: 1, preferred: 4096, maximum: 64 * KIB })
  const into = Buffer.alloc(200 * KIB)
  await device.read(0, 200 * KIB, into, 0)
  t.ok(into.equals(content.subarray(0, 200 * KIB)))
  t.strictSame(asked(), [0, 64, 128, 192].map(at => [CMD.READ, 0, at * KIB, Math.min(64, 200 - at) * KIB]))
  const from = pattern(0, 130 * KIB, 9)
  await device.write(KIB, 129 * KIB, from, KIB)
  t.strictSame(asked(), [[CMD.WRITE, 0, KIB, 64 * KIB], [CMD.WRITE, 0, 65 * KIB, 64 * KIB], [CMD.WRITE, 0, 129 * KIB, KIB]])
  t.ok(content.subarray(KIB, 130 * KIB).equals(from.subarray(KIB)))
})

t.test('blocks: reads fetch whole ones, writes change edges by read-modify-write', async t => {
  const { device, asked, content } = await open(t, { mode: 'structured', sizes: [512, 4096, 64 * KIB] })
  const model = Buffer.from(content)
  const into = Buffer.alloc(1000)
  await device.read(700, 1000, into, 0)
  t.ok(into.equals(model.subarray(700, 1700)))
  t.strictSame(asked().sort((a, b) => a[2] - b[2]), [[CMD.READ, 0, 512, 512], [CMD.READ, 0, 1024, 512], [CMD.READ, 0, 1536, 512]])
  await device.read(700, 100, into, 0)
  t.strictSame(asked(), [[CMD.READ, 0, 512, 512]], 'both edges in one block')
  await device.write(700, 100, Buffer.alloc(100, 7), 0)
  model.fill(7, 700, 800)
  t.strictSame(asked(), [[CMD.READ, 0, 512, 512], [CMD.WRITE, 0, 512, 512]])
  await device.zero(1000, 1000, { allocate: false, fast: false })
  model.fill(0, 1000, 2000)
  t.strictSame(asked()[0], [CMD.WRITE_ZEROES, 0, 1024, 512], 'whole blocks first')
  await device.trim(100, 500)
  t.strictSame(asked(), [], 'nothing whole to trim: nothing is asked')
  await device.trim(100, 1500)
  model.fill(0, 512, 1536)
  t.strictSame(asked(), [[CMD.TRIM, 0, 512, 1024]])
  t.ok(content.equals(model))
})

t.test('blocks: writes to parts of one block in flight all arrive', async t => {
  const { device, content } = await open(t, { mode: 'structured', sizes: [4096, 4096, 64 * KIB] })
  const model = Buffer.from(content)
  await Promise.all(Array.from({ length: 32 }, async (_, i) => {
    const bytes = Buffer.alloc(128, i + 1)
    model.fill(i + 1, 8192 + i * 128, 8320 + i * 128)
    await device.write(8192 + i * 128, 128, bytes, 0)
  }))
  t.ok(content.equals(model))
})

t.test('zeros: NO_HOLE to allocate, FAST_ZERO only when asked', async t => {
  const { device, asked } = await open(t, { mode: 'extended' })
  await device.zero(0, 4096, { allocate: false, fast: false })
  await device.zero(0, 4096, { allocate: true, fast: false })
  await device.zero(0, 4096, { allocate: false, fast: true })
  await device.zero(0, 4096, { allocate: true, fast: true })
  t.strictSame(asked().map(([, flags]) => flags), [0, FLAG.NO_HOLE, FLAG.FAST_ZERO, FLAG.FAST_ZERO | FLAG.NO_HOLE])
})

t.test('zeros: not offered, not asked', async t => {
  const { device, asked, content } = await open(t, { mode: 'simple', flags: ALL_FLAGS & ~TX.SEND_WRITE_ZEROES })
  await t.rejects(device.zero(0, 4096, { allocate: false, fast: true }) as Promise<void>, { code: 'not-fast' })
  await device.zero(100, 600 * KIB, { allocate: true, fast: false })
  t.ok(content.subarray(100, 100 + 600 * KIB).equals(Buffer.alloc(600 * KIB)))
  t.ok(content.subarray(0, 100).equals(pattern(0, 100)))
  t.ok(asked().every(([type, , , length]) => type === CMD.WRITE && length <= 256 * KIB))
  const slow = await open(t, { mode: 'simple', flags: ALL_FLAGS & ~TX.SEND_FAST_ZERO })
  await t.rejects(slow.device.zero(0, 4096, { allocate: false, fast: true }) as Promise<void>, { code: 'not-fast' })
  t.strictSame(slow.asked(), [])
})

t.test('zeros: the first piece says whether it is fast; later ones are zeroed in any case', async t => {
  const size = 3 * GIB
  const later = await open(t, { mode: 'extended', size }, Buffer.alloc(0), ({ flags }, nth) => flags & FLAG.FAST_ZERO && nth === 2 ? ERR.ENOTSUP : 0)
  await later.device.zero(0, size, { allocate: false, fast: true })
  t.strictSame(later.asked().sort((a, b) => a[2] - b[2] || b[1] - a[1]),
    [[CMD.WRITE_ZEROES, FLAG.FAST_ZERO, 0, GIB], [CMD.WRITE_ZEROES, FLAG.FAST_ZERO, GIB, GIB], [CMD.WRITE_ZEROES, 0, GIB, GIB], [CMD.WRITE_ZEROES, FLAG.FAST_ZERO, 2 * GIB, GIB]])
  const first = await open(t, { mode: 'extended', size }, Buffer.alloc(0), () => ERR.ENOTSUP)
  await t.rejects(first.device.zero(0, size, { allocate: false, fast: true }) as Promise<void>, { code: 'not-fast' })
  t.equal(first.asked().length, 1)
})

t.test('W1: lengths beyond 32 bits are split, exactly', async t => {
  for (const mode of ['simple', 'extended'] as const) {
    const size = 40 * GIB + 512
    const { device, asked } = await open(t, { mode, size }, Buffer.alloc(0))
    await device.zero(512, size - 512, { allocate: false, fast: false })
    await device.trim(0, size)
    const found = asked()
    for (const type of [CMD.WRITE_ZEROES, CMD.TRIM]) {
      const pieces = found.filter(request => request[0] === type).sort((a, b) => a[2] - b[2])
      let at = type === CMD.TRIM ? 0 : 512
      for (const [, , offset, length] of pieces) {
        t.equal(offset, at)
        at += length
      }
      t.equal(at, size)
    }
  }
})

t.test('trim and cache that were not offered are not asked for', async t => {
  const { device, asked } = await open(t, { mode: 'simple', flags: ALL_FLAGS & ~TX.SEND_TRIM & ~TX.SEND_CACHE })
  await device.trim(0, 4096)
  await device.prefetch!(0, 4096)
  t.strictSame(asked(), [])
  const other = await open(t, { mode: 'simple' })
  await other.device.prefetch!(0, 4096)
  t.strictSame(other.asked(), [[CMD.CACHE, 0, 0, 4096]])
})

t.test('read-only, by the peer and by the caller', async t => {
  const { device, asked } = await open(t, { mode: 'simple', flags: ALL_FLAGS | TX.READ_ONLY })
  const buffer = Buffer.alloc(512)
  for (const run of [() => device.write(0, 512, buffer, 0), () => device.trim(0, 512), () => device.zero(0, 512, { allocate: false, fast: false })]) {
    t.throws(() => run(), { code: 'read-only' })
  }
  await device.flush()
  t.equal(device.capabilities.readOnly, true)
  t.strictSame(asked().map(([type]) => type), [CMD.FLUSH])
  const server = await startScriptedServer(t, async connection => {
    await connection.handshake({ mode: 'simple' })
    await connection.serve(Buffer.alloc(MIB))
  })
  const modest = await openNbdClient({ address: { path: server.path }, readOnly: true })
  t.throws(() => modest.write(0, 512, buffer, 0), { code: 'read-only' })
  await modest.close()
})

t.test('extents: one data extent where nothing is known; REQ_ONE when one is asked for', async t => {
  const { device, asked } = await open(t, { mode: 'simple' })
  t.strictSame(await device.extents(0, MIB, 10), { lengths: [MIB], states: [0] })
  t.strictSame(asked(), [])
  const other = await open(t, { mode: 'structured' })
  await other.device.extents(0, MIB, 10)
  await other.device.extents(0, MIB, 1)
  t.strictSame(other.asked(), [[CMD.BLOCK_STATUS, 0, 0, MIB], [CMD.BLOCK_STATUS, FLAG.REQ_ONE, 0, MIB]])
})
