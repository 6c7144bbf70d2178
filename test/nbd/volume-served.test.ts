// The rules that only a volume and the server keep together: D1, D2, D5, X4, W1, and block status of a volume (C9, B1).
import t from 'tap'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { freshVolume } from '../volume/lab.js'
import { SpaceRig } from '../volume/space-lab.js'
import { delay } from './support/byte-stream.js'
import { startServer } from './support/fixture.js'
import { GateDisk } from './support/gate-disk.js'
import { CMD, command, ERR, FLAG, KIB, MIB, MODES, pattern } from './support/wire.js'

const TIB = 2 ** 40
const VOLUME_BYTES = 4 * MIB

class GateLive extends GateDisk {
  async resize(): Promise<void> { throw new Error('not in these tests') }
  async allocatedBytes(): Promise<number> { return 0 }
}

/** A served volume whose live disk can be held up, all of it data already (so that writes are plain overwrites). */
async function served(t: Parameters<typeof startServer>[0]) {
  const disk = new MemoryDisk(VOLUME_BYTES)
  const live = new GateLive(disk)
  const volume = await freshVolume({ sizeBytes: VOLUME_BYTES, live })
  await volume.write(0, VOLUME_BYTES, pattern(0, VOLUME_BYTES, 3), 0)
  await volume.flush()
  const fixture = await startServer(t, { exports: { volume } })
  t.teardown(() => live.openAll())
  live.log.length = 0
  return { live, disk, volume, fixture }
}

for (const mode of MODES) {
  t.test(`D5: ${mode}: a stalled backend: a dead client's writes never land after a newer acknowledged one`, async t => {
    const { live, fixture } = await served(t)
    const dying = await fixture.attach({ mode, name: 'volume' })
    const heir = await fixture.attach({ mode, name: 'volume' })
    live.shut('write', 'zero', 'trim')
    dying.send({ type: CMD.WRITE, offset: 0, payload: Buffer.alloc(8192, 1) })
    dying.send({ type: CMD.WRITE, offset: 4096, payload: Buffer.alloc(8192, 2) })
    dying.send({ type: CMD.WRITE_ZEROES, offset: 100, length: 9000 })
    dying.send({ type: CMD.WRITE, offset: 0, payload: Buffer.alloc(100_000, 3) })
    await live.holding(1)
    await delay(20)
    dying.destroy()
    await delay(50)
    const newer = heir.send({ type: CMD.WRITE, offset: 2048, payload: pattern(2048, 12_288, 9) })
    await delay(50)
    t.equal(heir.waiting, 1, 'the newer write waits for what already runs')
    live.openAll()
    t.equal((await newer.reply).error, 0)
    await delay(100)
    t.ok((await heir.read(2048, 12_288)).data.equals(pattern(2048, 12_288, 9)), 'and nothing comes after it')
    t.equal((await heir.read(14_336, 4096)).data.compare(pattern(14_336, 4096, 3)), 0, 'a queued write of the dead left no trace')
  })

  t.test(`D1: ${mode}: 4 connections overwrite one place together: each byte is of the last one acknowledged there`, async t => {
    const { fixture } = await served(t)
    const sessions = await Promise.all([1, 2, 3, 4].map(() => fixture.attach({ mode, name: 'volume' })))
    for (let round = 0; round < 20; round++) {
      const fills = await Promise.all(sessions.map(async (session, i) => {
        const fill = 1 + round * 4 + i
        t.equal((await session.write(1000 + i, Buffer.alloc(8000, fill))).error, 0)
        return fill
      }))
      const { data } = await sessions[0].read(1003, 7997)
      t.ok(fills.includes(data[0]) && data.every(byte => byte === data[0]), `round ${round}: one write, whole`)
    }
  })

  t.test(`D2: ${mode}: an acknowledged FLUSH or FUA has flushed live behind the writes it covers`, async t => {
    const { live, fixture } = await served(t)
    const session = await fixture.attach({ mode, name: 'volume' })
    for (const durable of [
      async () => [await session.write(0, pattern(0, 5000)), await session.flush()],
        async () => [await session.write(3, pattern(3, 700), FLAG.FUA)],
    ]) {
      live.log.length = 0
      for (const reply of await durable()) t.equal(reply.error, 0)
      const lastWrite = live.log.findLastIndex(line => line.startsWith('write'))
      t.ok(lastWrite >= 0 && live.log.slice(lastWrite).some(line => line.startsWith('flush')), live.log.join(', '))
    }
  })

  t.test(`X4: ${mode}: after a flush that failed FLUSH and FUA go on failing, reads and writes do not`, async t => {
    const { live, fixture } = await served(t)
    const session = await fixture.attach({ mode, name: 'volume' })
    live.shut('flush')
    await session.write(0, pattern(0, 4096))
    const { reply } = session.send({ type: CMD.FLUSH })
    await live.holding(1)
    live.next().fail(new NbdeltaError('io', 'fsync said EIO'))
    t.equal((await reply).error, ERR.EIO)
    live.openAll()
    t.equal((await session.flush()).error, ERR.EIO, 'the disk is well again, the promise is not')
    t.equal((await session.write(0, pattern(0, 512), FLAG.FUA)).error, ERR.EIO)
    t.equal((await session.read(0, 512)).error, 0)
  })
}

for (const mode of ['structured', 'extended'] as const) {
  t.test(`C9 B1: ${mode}: the map follows writes, trims and zeroes, and never calls NO_HOLE a hole`, async t => {
    const volume = await freshVolume({ sizeBytes: MIB })
    const fixture = await startServer(t, { exports: { volume } })
    const session = await fixture.attach({ mode, name: 'volume' })
    const states = async (): Promise<number[][]> => {
      const { status } = await session.call({ type: CMD.BLOCK_STATUS, offset: 0, length: MIB })
      return status.get(session.contexts[0].id)!.map(({ length, state }) => [Number(length), Number(state)])
    }
    t.strictSame(await states(), [[MIB, 3]])
    await session.write(64 * KIB, pattern(0, 64 * KIB))
    t.strictSame(await states(), [[64 * KIB, 3], [64 * KIB, 0], [896 * KIB, 3]])
    await session.call({ type: CMD.TRIM, offset: 96 * KIB, length: 32 * KIB })
    t.strictSame(await states(), [[64 * KIB, 3], [32 * KIB, 0], [928 * KIB, 3]])
    t.equal((await session.call({ type: CMD.WRITE_ZEROES, flags: FLAG.NO_HOLE, offset: 512 * KIB, length: 64 * KIB })).error, 0)
    const [, , , kept] = await states()
    t.equal(kept[1] & 1, 0, 'allocated')
    const { data } = await session.read(0, MIB)
    t.ok(data.subarray(64 * KIB, 96 * KIB).equals(pattern(0, 32 * KIB)))
    t.ok(data.subarray(96 * KIB).every(byte => byte === 0))
  })
}

t.test('W1: TRIM and WRITE_ZEROES of a whole 1 TiB volume', async t => {
  const volume = await freshVolume({ sizeBytes: TIB })
  const fixture = await startServer(t, { exports: { volume } })
  const session = await fixture.attach({ mode: 'extended', name: 'volume' })
  for (const [type, flags] of [[CMD.TRIM, 0], [CMD.WRITE_ZEROES, 0], [CMD.WRITE_ZEROES, FLAG.FAST_ZERO]] as const) {
    for (const offset of [0, 2 ** 39, TIB - 4096]) await session.write(offset, pattern(offset, 4096))
    const started = performance.now()
    t.equal((await session.call({ type, flags, offset: 0, length: TIB })).error, 0)
    t.ok(performance.now() - started < 1000, `${(performance.now() - started).toFixed(1)} ms`)
    for (const offset of [0, 2 ** 39, TIB - 4096]) {
      t.ok(type === CMD.TRIM || (await session.read(offset, 4096)).data.every(byte => byte === 0), `${offset}`)
    }
  }
})

t.test('S8: the budget ends amid a WRITE: up to 8 KiB nothing is done, of a longer one what came before that piece', async t => {
  const rig = await SpaceRig.open({ budget: 3 })
  await rig.snapshot('s')
  const fixture = await startServer(t, { exports: { volume: rig.volume } })
  const session = await fixture.attach({ name: 'volume' })
  const payload = Buffer.alloc(16 * KIB, 2)
  const sent = session.expect({ type: CMD.WRITE, offset: 0, payload })
  session.stream.socket.write(command('simple', { type: CMD.WRITE, cookie: sent.cookie, offset: 0, length: payload.length }))
  session.stream.socket.write(payload.subarray(0, 8 * KIB))
  await delay(50)
  session.stream.socket.write(payload.subarray(8 * KIB))
  t.equal((await sent.reply).error, ERR.ENOSPC)
  t.strictSame((await rig.live()).slice(0, 5), [2, 2, 1, 1, 1])
  t.equal((await session.write(8 * KIB, Buffer.alloc(8 * KIB, 3))).error, ERR.ENOSPC)
  t.equal((await session.write(8 * KIB, Buffer.alloc(4 * KIB, 3))).error, 0)
  t.strictSame((await rig.live()).slice(0, 5), [2, 2, 3, 1, 1])
  t.ok((await rig.content('s')).every(one => one === 1))
})
