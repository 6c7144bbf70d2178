// Z1-Z8: sizes and limits, back-pressure.
import t from 'tap'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { alteredDisk } from './support/altered-disk.js'
import { delay } from './support/byte-stream.js'
import { DISK_BYTES, HUGE_BYTES, startServer } from './support/fixture.js'
import { Session } from './support/session.js'
import { CMD, command, ERR, INFO, KIB, MIB, MODES, OPT, pattern } from './support/wire.js'

const growing = new MemoryDisk(MIB)
const inner = new MemoryDisk(MIB)
const fixture = await startServer(t, {
  exports: {
    growing,
    ...Object.fromEntries([1, 512, 4096, 65_536].map(minimum => [`min${minimum}`,
      new MemoryDisk(MIB, { blockSizes: { minimum, preferred: 65_536 } })])),
    narrow: alteredDisk(inner, { blockSizes: { minimum: 1, preferred: 4096, maximum: MIB } }),
  },
})

t.test('Z1: block sizes of every export obey the rules (the client checks each)', async t => {
  const peer = await fixture.peer()
  for (const { name } of await peer.list()) {
    const { facts } = await peer.info(OPT.INFO, name, [INFO.BLOCK_SIZE])
    t.ok(facts!.blockSizes, name)
  }
  t.equal((await peer.info(OPT.INFO, 'min65536')).facts!.blockSizes!.minimum, 65_536)
})

t.test('Z1 Z6: a size that is no multiple of the minimum is not advertised so', async t => {
  const odd = await startServer(t, { exports: { ragged: new MemoryDisk(MIB + 100, { blockSizes: { minimum: 512 } }) } })
  const peer = await odd.peer()
  const { facts } = await peer.info(OPT.INFO, 'ragged', [INFO.BLOCK_SIZE])
  t.equal(Number(facts!.size) % facts!.blockSizes!.minimum, 0)
})

t.test('Z3: a client that never asked for block sizes is served below the minimum, or cleanly refused', async t => {
  for (const viaExportName of [true, false]) {
    const peer = await fixture.peer()
    const facts = viaExportName ? await peer.exportName('min4096') : (await peer.info(OPT.GO, 'min4096')).facts!
    const session = new Session(peer, 'simple', facts)
    await session.write(0, pattern(0, 65_536))
    const { error } = await session.write(512, pattern(512, 512, 8))
    t.ok(error === 0 || error === ERR.EINVAL, `errno ${error}`)
    const whole = (await session.read(0, 65_536)).data
    const wanted = pattern(0, 65_536)
    if (error === 0) pattern(512, 512, 8).copy(wanted, 512)
    t.ok(whole.equals(wanted), 'no corruption')
    await session.disconnect()
  }
})

for (const mode of MODES) {
  t.test(`Z4: ${mode}: payloads up to 64 MiB are served in pieces, whatever was advertised`, async t => {
    const session = await fixture.attach({ mode, name: 'huge' })
    for (const bytes of [32 * MIB, 49_865_728, 64 * MIB]) {
      const offset = HUGE_BYTES - bytes - 12_345
      const payload = pattern(0, bytes, 6)
      t.equal((await session.write(offset, payload)).error, 0, `${bytes} bytes`)
      for (const at of [0, MIB - 1, bytes >> 1, bytes - 65_536]) {
        t.ok((await session.read(offset + at, 65_536)).data.equals(payload.subarray(at, at + 65_536)), `at ${at}`)
      }
      await session.call({ type: CMD.TRIM, offset: HUGE_BYTES - 65 * MIB, length: 65 * MIB })
    }
    await session.disconnect()
  })

  t.test(`Z4 S5: ${mode}: a WRITE above 64 MiB ends the session and writes nothing`, async t => {
    for (const length of [64 * MIB + 1, 2 ** 31, 0xffff_ffff]) {
      const session = await fixture.attach({ mode, name: 'huge' })
      const { reply } = session.send({ type: CMD.WRITE, offset: 0, length })
      session.stream.socket.write(Buffer.alloc(MIB, 0xaa))
      await session.closed()
      await reply.then(({ error }) => t.equal(error, ERR.EINVAL), () => t.pass('dropped without a reply'))
    }
    const check = await fixture.attach({ name: 'huge' })
    t.ok((await check.read(0, MIB)).data.every(byte => byte === 0))
  })

  t.test(`Z4: ${mode}: a payload longer than the export is swallowed with ENOSPC`, async t => {
    const session = await fixture.attach({ mode, name: 'min1' })
    t.equal((await session.write(0, Buffer.alloc(2 * MIB, command(mode, { type: CMD.DISC })))).error, ERR.ENOSPC)
    await session.alive()
  })

  t.test(`Z5: ${mode}: commands without payload may be longer than the maximum payload`, async t => {
    const session = await fixture.attach({ mode, name: 'huge' })
    for (const type of [CMD.TRIM, CMD.WRITE_ZEROES, CMD.CACHE, ...mode === 'simple' ? [] : [CMD.BLOCK_STATUS]]) {
      for (const length of [0xffff_fe00, 0xffff_ffff, 2 ** 31]) {
        t.equal((await session.call({ type, offset: 0, length })).error, 0, `command ${type}, ${length} bytes`)
      }
    }
  })

  t.test(`Z6: ${mode}: growth is visible to old connections`, async t => {
    const session = await fixture.attach({ mode, name: 'growing' })
    const end = growing.sizeBytes
    t.equal((await session.write(end, Buffer.alloc(512))).error, ERR.ENOSPC)
    await growing.resize(end + 65_536)
    t.equal((await session.write(end, pattern(0, 512))).error, 0)
    t.ok((await session.read(end, 512)).data.equals(pattern(0, 512)))
  })

  t.test(`Z7: ${mode}: requests in flight per connection are capped; all are answered`, async t => {
    const own = await startServer(t)
    const session = await own.attach({ mode, name: 'gate' })
    own.gate.shut('write', 'read')
    const sent = Array.from({ length: 300 }, (_, i) =>
      session.send(i % 2 ? { type: CMD.READ, offset: i * 4096, length: 4096 } : { type: CMD.WRITE, offset: i * 4096,
        payload: pattern(i, 4096) }))
    await own.gate.holding(1)
    await delay(100)
    t.ok(own.gate.held.length <= 64, `${own.gate.held.length} at the device`)
    t.ok(own.gate.held.length >= 16, `${own.gate.held.length} at the device`)
    own.gate.openAll()
    for (const { reply } of sent) t.equal((await reply).error, 0)
    await session.disconnect()
  })
}

t.test('Z5: reads up to the smaller advertised maximum', async t => {
  const session = await fixture.attach({ mode: 'extended', name: 'narrow' })
  t.equal(session.facts.blockSizes!.maximum, MIB)
  t.equal((await session.read(0, MIB)).data.length, MIB)
})

t.test('Z7: no READ is begun while the client does not read', async t => {
  let bytes = 0
  const counted = new MemoryDisk(64 * MIB)
  const own = await startServer(t, {
    exports: { counted: alteredDisk(counted, {
      read: (offset, length, into, at) => { bytes += length; return counted.read(offset, length, into, at) },
      zeroRun: (_, length) => length,
    }) },
  })
  const lazy = await own.attach({ name: 'counted' })
  lazy.stream.socket.pause()
  for (let i = 0; i < 64; i++) lazy.send({ type: CMD.READ, offset: 0, length: 4 * MIB })
  await delay(500)
  t.ok(bytes < 32 * MIB, `${(bytes / MIB).toFixed(1)} MiB read for a client that takes nothing`)
  await (await own.attach()).alive()
  lazy.stream.socket.resume()
  await lazy.alive()
  t.ok(bytes >= 256 * MIB, 'all served once it reads')
})

t.test('Z8: idle connections in transmission are kept', async t => {
  const own = await startServer(t, { limits: { handshakeMs: 100 } })
  const sessions = await Promise.all(MODES.map(mode => own.attach({ mode })))
  await delay(600)
  for (const session of sessions) await session.alive()
  t.pass()
})

t.test('Z7: half a request waits for ever without harm', async t => {
  const half = await fixture.attach({ name: 'disk' })
  half.stream.socket.write(command('simple', { type: CMD.WRITE, offset: 0, length: 4 * KIB, payload: Buffer.alloc(100) }))
  await delay(50)
  const other = await fixture.attach()
  t.equal((await other.read(0, DISK_BYTES)).error, 0)
  half.destroy()
  await other.alive()
})
