// G1-G5: cookies, order, which kind of reply, whole chunks.
import t from 'tap'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { alteredDisk } from './support/altered-disk.js'
import { startServer } from './support/fixture.js'
import { attach } from './support/session.js'
import { CMD, ERR, MIB, MODES, pattern } from './support/wire.js'

const content = MemoryDisk.from(pattern(0, MIB, 6))
const fixture = await startServer(t, {
  exports: {
    /** Small reads take a turn of the event loop, long ones none. */
    latefirst: alteredDisk(content, {
      read: (offset, length, into, at) => length !== 1000 ? content.read(offset, length, into, at)
        : new Promise(resolve => { setImmediate(() => { void content.read(offset, length, into, at); resolve() }) }),
    }),
  },
})

for (const mode of MODES) {
  t.test(`G1: ${mode}: cookies come back unchanged, in flight together`, async t => {
    const session = await attach(fixture.address, { mode })
    const cookies = [0n, 1n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 32n, 2n ** 63n, 2n ** 64n - 1n, 0xdead_beef_0bad_cafen]
    const sent = cookies.map(cookie => session.send({ type: CMD.READ, offset: 0, length: 100, cookie }))
    for (const { reply } of sent) t.equal((await reply).error, 0)
  })

  t.test(`G1: ${mode}: a fast request overtakes a slow one`, async t => {
    const session = await attach(fixture.address, { mode, name: 'gate' })
    fixture.gate.shut('write')
    const slow = session.send({ type: CMD.WRITE, offset: 0, payload: pattern(0, 4096) })
    await fixture.gate.holding(1)
    const quick = session.send({ type: CMD.READ, offset: 8192, length: 512 })
    t.equal((await quick.reply).error, 0)
    t.equal(session.waiting, 1, 'the write still waits')
    fixture.gate.openAll()
    t.equal((await slow.reply).error, 0)
    t.strictSame(session.answered.slice(-2), [quick.cookie, slow.cookie])
  })

  t.test(`G5: ${mode}: chunks of reads that complete together stay whole`, async t => {
    const session = await attach(fixture.address, { mode, name: 'gate' })
    await session.write(0, pattern(0, 4 * MIB, 9))
    fixture.gate.shut('read')
    const sent = Array.from({ length: 32 }, (_, i) => ({ at: i * 65_536 + i,
      sent: session.send({ type: CMD.READ, offset: i * 65_536 + i, length: 50_000 }) }))
    await fixture.gate.holding(8)
    fixture.gate.held.reverse()
    while (session.waiting > 0) {
      if (fixture.gate.held.length > 0) fixture.gate.held.splice(fixture.gate.held.length >> 1, 1)[0].pass()
      await new Promise(resolve => { setImmediate(resolve) })
    }
    fixture.gate.openAll()
    for (const { at, sent: { reply } } of sent) t.ok((await reply).data.equals(pattern(at, 50_000, 9)), `offset ${at}`)
  })
}

for (const mode of MODES) {
  t.test(`G5: ${mode}: a late small read that completes during a long one does not break into its reply`, async t => {
    for (let round = 0; round < 30; round++) {
      const session = await attach(fixture.address, { mode, name: 'latefirst' })
      const at = [0, 4096, 8192, 100].map(offset => ({ offset, length: 1000 }))
      const all = [...at, { offset: 7, length: 700_000 }, { offset: 0, length: 131_073 }, { offset: 9, length: 491_008 },
        { offset: 3, length: 5 }]
      const sent = all.map(({ offset, length }) => ({ offset, length, reply: session.send({ type: CMD.READ, offset,
        length }).reply }))
      for (const { offset, length, reply } of sent) t.ok((await reply).data.equals(pattern(offset, length, 6)),
        `${length} at ${offset}`)
      session.destroy()
    }
  })
}

for (const mode of ['structured', 'extended'] as const) {
  t.test(`G2: ${mode}: READ never gets a simple reply, whatever is wrong with it`, async t => {
    const session = await attach(fixture.address, { mode })
    for (const request of [
      { type: CMD.READ, flags: 0x8000, offset: 0, length: 512 }, { type: CMD.READ, flags: 2, offset: 0, length: 512 },
      { type: CMD.READ, offset: 2 ** 50, length: 512 }, { type: CMD.READ, offset: 0, length: 0 },
      { type: CMD.READ, offset: 0, length: 0xffff_ffff },
    ]) t.notOk((await session.call(request)).simple)
  })

  t.test(`G3: ${mode}: errors come as a chunk with a text`, async t => {
    const session = await attach(fixture.address, { mode })
    for (const request of [
      { type: CMD.READ, offset: 2 ** 50, length: 512 }, { type: CMD.WRITE, offset: 2 ** 50, payload: Buffer.alloc(512) },
      { type: CMD.TRIM, offset: 2 ** 50, length: 512 }, { type: 99 }, { type: CMD.FLUSH, flags: 0x40 },
      { type: CMD.BLOCK_STATUS, offset: 0, length: 0 },
    ]) {
      const reply = await session.call(request)
      t.not(reply.error, ERR.OK)
      t.ok(reply.message.length > 5, reply.message)
    }
  })
}

t.test('G4: nothing but simple replies when nothing was negotiated', async t => {
  const session = await attach(fixture.address, { mode: 'simple', name: 'map' })
  for (const request of [
    { type: CMD.READ, offset: 0, length: MIB }, { type: CMD.READ, offset: 5 * MIB, length: 512 },
    { type: CMD.READ, flags: 4, offset: 0, length: 512 },
    { type: CMD.BLOCK_STATUS, offset: 0, length: 512 }, { type: CMD.FLUSH }, { type: 1234 },
  ]) t.ok((await session.call(request)).simple)
})
