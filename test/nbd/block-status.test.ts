// B1-B4: block status.
import t from 'tap'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { alteredDisk } from './support/altered-disk.js'
import type { Extent } from './support/assembly.js'
import { HUGE_BYTES, MAP, ODD_BYTES, PAGE, startServer } from './support/fixture.js'
import { attach, type Session } from './support/session.js'
import { CMD, ERR, FLAG, KIB, MIB, pattern } from './support/wire.js'

/** 8,192 extents, told at most 1,000 at a time. */
const checkered = new MemoryDisk(32 * MIB)
for (let page = 0; page < 8192; page += 2) void checkered.write(page * PAGE, PAGE, pattern(0, PAGE), 0)
const broken = new MemoryDisk(MIB)
const fixture = await startServer(t, {
  limits: { extents: 1000 },
  exports: {
    checkered,
    late: alteredDisk(checkered, { extents: async (offset, length, most) => checkered.extents(offset, length, most) }),
    broken: alteredDisk(broken, { extents: () => { throw new NbdeltaError('io', 'the map is unreadable') } }),
  },
})

async function statusOf(session: Session, offset: number, length: number, flags = 0): Promise<readonly Extent[]> {
  const reply = await session.call({ type: CMD.BLOCK_STATUS, offset, length, flags })
  if (reply.error !== 0) throw new Error(`status of ${length} at ${offset}: errno ${reply.error}`)
  return reply.status.get(session.contexts[0].id)!
}
/** Asks until the range is covered, as a client does. */
async function mapOf(session: Session, length: number): Promise<[number, number][]> {
  const found: [number, number][] = []
  for (let at = 0; at < length;) {
    for (const extent of await statusOf(session, at, Math.min(length - at, 2 ** 31))) {
      const last = found.at(-1)
      if (last && last[1] === Number(extent.state)) last[0] += Number(extent.length)
      else found.push([Number(extent.length), Number(extent.state)])
      at += Number(extent.length)
    }
  }
  return found
}

for (const mode of ['structured', 'extended'] as const) {
  t.test(`B1: ${mode}: the map is exact`, async t => {
    const session = await attach(fixture.address, { mode, name: 'map' })
    t.strictSame(await mapOf(session, MIB), MAP.map(row => [...row]))
  })

  t.test(`B1: ${mode}: from any offset, of any length`, async t => {
    const session = await attach(fixture.address, { mode, name: 'map' })
    for (const offset of [0, 1, 511, 64 * KIB - 1, 64 * KIB, 100 * KIB + 17, MIB - 1]) {
      for (const length of [1, 512, 64 * KIB, MIB - offset].filter(n => n <= MIB - offset)) {
        const extents = await statusOf(session, offset, length)
        t.ok(extents.length >= 1)
        let at = offset
        for (const extent of extents) {
          let rowEnd = 0
          const row = MAP.find(([bytes]) => (rowEnd += bytes) > at)!
          t.equal(Number(extent.state), row[1], `state at ${at}`)
          t.ok(at + Number(extent.length) <= rowEnd, 'no further than its row')
          at += Number(extent.length)
        }
      }
    }
  })

  t.test(`B1: ${mode}: REQ_ONE gives one extent, not longer than asked`, async t => {
    const session = await attach(fixture.address, { mode, name: 'map' })
    for (const [offset, length] of [[0, MIB], [0, 1], [64 * KIB, 512], [130 * KIB, MIB - 130 * KIB], [4095, 4098]]) {
      t.equal((await statusOf(session, offset, length, FLAG.REQ_ONE)).length, 1)
      t.equal((await statusOf(session, offset, length, FLAG.REQ_ONE | FLAG.FUA)).length, 1)
    }
  })

  t.test(`B2: ${mode}: a map of 8,192 extents is told in pieces`, async t => {
    for (const name of ['checkered', 'late']) {
      const session = await attach(fixture.address, { mode, name })
      const first = await statusOf(session, 0, 32 * MIB)
      t.ok(first.length >= 100 && first.length <= 1000, `${first.length} in the first piece`)
      const map = await mapOf(session, 32 * MIB)
      t.equal(map.length, 8192)
      t.ok(map.every(([length], i) => length === PAGE && map[i][1] === (i % 2 ? 3 : 0)))
    }
  })

  t.test(`B1: ${mode}: an odd end`, async t => {
    const session = await attach(fixture.address, { mode, name: 'odd' })
    t.strictSame(await mapOf(session, ODD_BYTES), [[ODD_BYTES, 3]])
    t.equal((await statusOf(session, ODD_BYTES - 1, 1)).length, 1)
    t.equal((await session.call({ type: CMD.BLOCK_STATUS, offset: ODD_BYTES - 1, length: 2 })).error, ERR.EINVAL)
  })

  t.test(`B4: ${mode}: without contexts EINVAL`, async t => {
    const session = await attach(fixture.address, { mode, contexts: [] })
    t.equal((await session.call({ type: CMD.BLOCK_STATUS, offset: 0, length: 4096 })).error, ERR.EINVAL)
    await session.alive()
  })

  t.test(`B4 S6: ${mode}: a lookup that fails is one extent of status 0, or EIO; the session lives`, async t => {
    const session = await attach(fixture.address, { mode, name: 'broken' })
    const reply = await session.call({ type: CMD.BLOCK_STATUS, offset: 0, length: MIB })
    if (reply.error === 0) t.strictSame(reply.status.get(session.contexts[0].id), [{ length: BigInt(MIB), state: 0n }])
    else t.equal(reply.error, ERR.EIO)
    await session.alive()
  })

  t.test(`B1: ${mode}: NO_HOLE is honoured in status`, async t => {
    const session = await attach(fixture.address, { mode })
    t.equal((await session.call({ type: CMD.WRITE_ZEROES, flags: FLAG.NO_HOLE, offset: 65_536, length: 65_536 })).error, 0)
    for (const extent of await statusOf(session, 65_536, 65_536)) t.equal(extent.state & 1n, 0n, 'never a hole')
  })
}

t.test('B3: structured: lengths near 2^32 over a hole of 4 PiB', async t => {
  const session = await attach(fixture.address, { mode: 'structured', name: 'huge' })
  for (const length of [0xffff_ffff, 0xffff_fe00, 0xffff_0000, 2 ** 31, 2 ** 31 - 1]) {
    for (const flags of [0, FLAG.REQ_ONE]) {
      const [extent] = await statusOf(session, 0, length, flags)
      t.ok(extent.length <= 0xffff_0000n && extent.length >= 2n ** 31n - 65_536n, `${length}: ${extent.length}`)
      t.equal(extent.state, 3n)
    }
  }
  t.equal((await statusOf(session, HUGE_BYTES - 512, 512)).length, 1)
})

t.test('B4: simple: BLOCK_STATUS is EINVAL', async t => {
  const session = await attach(fixture.address, { mode: 'simple' })
  t.equal((await session.call({ type: CMD.BLOCK_STATUS, offset: 0, length: 4096 })).error, ERR.EINVAL)
})
