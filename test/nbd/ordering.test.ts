// D1, D2, D3, D5, D6: order, durability, several connections, dead connections.
import t from 'tap'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { delay } from './support/byte-stream.js'
import { startServer } from './support/fixture.js'
import { GateDisk } from './support/gate-disk.js'
import { serialDisk } from './support/serial-disk.js'
import { CMD, FLAG, MIB, MODES, pattern, TX } from './support/wire.js'

const serialGate = new GateDisk(new MemoryDisk(MIB))
const fixture = await startServer(t, { exports: { serial: serialDisk(serialGate) } })
const { gate } = fixture

for (const mode of MODES) {
  t.test(`D1: ${mode}: overlapping writes in flight land in arrival order, over all connections`, async t => {
    const a = await fixture.attach({ mode, name: 'serial' })
    const b = await fixture.attach({ mode, name: 'serial' })
    serialGate.shut('write')
    const first = a.send({ type: CMD.WRITE, offset: 0, payload: Buffer.alloc(4096, 1) })
    await serialGate.holding(1)
    const second = b.send({ type: CMD.WRITE, offset: 2048, payload: Buffer.alloc(4096, 2) })
    const apart = b.send({ type: CMD.WRITE, offset: 65_536, payload: Buffer.alloc(512, 3) })
    await serialGate.holding(2)
    t.equal(serialGate.held[1].offset, 65_536, 'the overlapping one waits, the other does not')
    serialGate.openAll()
    for (const { reply } of [first, second, apart]) t.equal((await reply).error, 0)
    t.ok((await a.read(2048, 4096)).data.every(byte => byte === 2))
  })

  t.test(`D1: ${mode}: a read after a write's reply sees it, on any connection`, async t => {
    const writer = await fixture.attach({ mode })
    const reader = await fixture.attach({ mode: 'extended' })
    for (let i = 1; i <= 50; i++) {
      await writer.write(1000, Buffer.alloc(5000, i))
      t.ok((await reader.read(1000, 5000)).data.every(byte => byte === i))
    }
  })

  t.test(`D2: ${mode}: FLUSH is answered when the device's flush is done, not before`, async t => {
    const session = await fixture.attach({ mode, name: 'gate' })
    await session.write(0, pattern(0, 512))
    gate.shut('flush')
    const { reply } = session.send({ type: CMD.FLUSH })
    await gate.holding(1)
    t.equal(session.waiting, 1)
    gate.openAll()
    t.equal((await reply).error, 0)
  })

  t.test(`D2 D6: ${mode}: FUA: WRITE, WRITE_ZEROES and TRIM are answered after a flush that began behind their effect`,
    async t => {
    const session = await fixture.attach({ mode, name: 'gate' })
    const requests = [
      ['write', { type: CMD.WRITE, flags: FLAG.FUA, offset: 4096, payload: pattern(0, 4096) }],
      ['zero', { type: CMD.WRITE_ZEROES, flags: FLAG.FUA, offset: 8192, length: 4096 }],
      ['trim', { type: CMD.TRIM, flags: FLAG.FUA, offset: 12_288, length: 4096 }],
    ] as const
    for (const [what, request] of requests) {
      gate.log.length = 0
      gate.shut('flush')
      const { reply } = session.send(request)
      await gate.holding(1)
      await delay(5)
      t.match(gate.log[0], new RegExp(`^${what} `), 'the effect first')
      t.equal(session.waiting, 1, 'no reply before the flush')
      gate.openAll()
      t.equal((await reply).error, 0)
      t.match(gate.log.at(-1), /^flush/)
    }
  })

  t.test(`D2: ${mode}: FUA on a write that is late waits for the write, then flushes`, async t => {
    const session = await fixture.attach({ mode, name: 'gate' })
    for (const bytes of [512, 8192, 100_000]) {
      gate.log.length = 0
      gate.shut('write')
      const { reply } = session.send({ type: CMD.WRITE, flags: FLAG.FUA, offset: 0, payload: pattern(0, bytes) })
      await gate.holding(1)
      gate.openAll()
      t.equal((await reply).error, 0)
      t.match(gate.log.at(-1), /^flush/)
      t.ok(gate.log.slice(0, -1).every(line => line.startsWith('write ')), `${bytes} bytes`)
    }
  })

  t.test(`D2: ${mode}: a plain write is not flushed`, async t => {
    const session = await fixture.attach({ mode, name: 'gate' })
    gate.log.length = 0
    for (let i = 0; i < 10; i++) await session.write(i * 512, pattern(0, 512))
    t.notOk(gate.log.some(line => line.startsWith('flush')))
  })

  t.test(`D3: ${mode}: CAN_MULTI_CONN is set; FLUSH on one connection flushes the device all share`, async t => {
    const a = await fixture.attach({ mode, name: 'gate' })
    const b = await fixture.attach({ mode, name: 'gate' })
    t.ok(a.facts.flags & TX.CAN_MULTI_CONN)
    gate.log.length = 0
    await a.write(0, pattern(0, 512))
    t.equal((await b.flush()).error, 0)
    t.strictSame(gate.log.map(line => line.split(' ')[0]), ['write', 'flush'])
  })

  t.test(`D5 S2: ${mode}: a dead connection's queued write never runs, its running one ends before a newer one begins`,
    async t => {
    for (const how of ['destroy', 'reset', 'half-close'] as const) {
      const dying = await fixture.attach({ mode, name: 'serial', tcp: how === 'reset' })
      const heir = await fixture.attach({ mode, name: 'serial' })
      serialGate.log.length = 0
      serialGate.shut('write')
      dying.send({ type: CMD.WRITE, offset: 0, payload: Buffer.alloc(4096, 1) })
      dying.send({ type: CMD.WRITE, offset: 0, payload: Buffer.alloc(4096, 2) })
      dying.send({ type: CMD.WRITE, offset: 1024, payload: Buffer.alloc(1024, 3) })
      await serialGate.holding(1)
      await delay(20)
      if (how === 'reset') dying.stream.socket.resetAndDestroy()
      else if (how === 'half-close') dying.stream.socket.end()
      else dying.destroy()
      await delay(50)
      const newer = heir.send({ type: CMD.WRITE, offset: 512, payload: Buffer.alloc(4096, 9) })
      await delay(50)
      t.equal(serialGate.held.length, 1, `${how}: the newer write waits for the one that runs`)
      t.equal(heir.waiting, 1)
      serialGate.next().pass()
      await serialGate.holding(1)
      t.equal(serialGate.held[0].offset, 512, 'the queued writes of the dead are gone')
      serialGate.openAll()
      t.equal((await newer.reply).error, 0)
      await delay(50)
      t.strictSame(serialGate.log, ['write 0 4096', 'write 512 4096'], how)
      t.ok((await heir.read(512, 4096)).data.every(byte => byte === 9))
    }
  })

  t.test(`D5: ${mode}: requests received but not begun when the line is cut do not begin`, async t => {
    const dying = await fixture.attach({ mode, name: 'serial' })
    serialGate.log.length = 0
    serialGate.shut('write', 'zero', 'trim')
    for (let i = 0; i < 200; i++) dying.send({ type: CMD.WRITE_ZEROES, offset: i * 4096, length: 4096 })
    await serialGate.holding(1)
    const begun = serialGate.held.length
    dying.destroy()
    await delay(50)
    serialGate.openAll()
    await delay(50)
    t.ok(serialGate.log.length <= Math.max(begun, 64), `${serialGate.log.length} of 200 ran, ${begun} had begun`)
    const heir = await fixture.attach({ mode, name: 'serial' })
    t.equal((await heir.write(0, pattern(0, MIB))).error, 0)
    await delay(50)
    t.ok((await heir.read(0, MIB)).data.equals(pattern(0, MIB)), 'nothing late')
  })
}
