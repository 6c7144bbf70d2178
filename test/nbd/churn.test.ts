// S6, S7: connections that end at any byte and in any way: afterwards memory, jobs and handles are back where they were.
import t from 'tap'
import { connect } from 'node:net'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { seededRandom } from '../../src/device/testing.js'
import { deviceExports } from '../../src/nbd/device-exports.js'
import type { ExportProvider } from '../../src/nbd/export.js'
import { delay } from './support/byte-stream.js'
import { startServer } from './support/fixture.js'
import { GateDisk } from './support/gate-disk.js'
import { CMD, command, MIB, MODES, OPT, option, type Command } from './support/wire.js'

const CONNECTIONS = 600
const seed = Number(process.env.SEED ?? 20)

function goOption(name: string): Buffer {
  const data = Buffer.alloc(4 + name.length + 2)
  data.writeUInt32BE(name.length, 0)
  data.write(name, 4)
  return option(OPT.GO, data)
}

for (const directReceive of [true, false]) {
  t.test(`S6 S7: abrupt ends by the hundred, ${directReceive ? 'direct' : 'public'} receive`, async t => {
    t.comment(`seed ${seed}`)
    const random = seededRandom(seed)
    const below = (limit: number): number => random(limit)
    const chance = (percent: number): boolean => random(100) < percent
    const gate = new GateDisk(new MemoryDisk(8 * MIB))
    const inner = deviceExports({ gate })
    let open = 0
    const provider: ExportProvider = {
      list: () => inner.list(), describe: name => inner.describe(name),
      open: async (name, client, contexts) => {
        await delay(below(3))
        const handle = await inner.open(name, client, contexts)
        open++
        let released = 0
        return { ...handle, release: () => { t.equal(++released, 1); open-- } }
      },
    }
    const { server, address, tcp } = await startServer(t, { provider, directReceive })
    const base = server.stats().bufferBytes
    const request = (): Command => {
      const length = [512, 4096, 100_000, 3 * MIB][below(4)]!
      const offset = below(4 * MIB)
      return chance(50) ? { type: CMD.READ, offset, length } : chance(80)
        ? { type: CMD.WRITE, offset, payload: Buffer.alloc(length) } : { type: CMD.FLUSH }
    }
    const one = async (): Promise<void> => {
      const mode = MODES[below(3)]!
      const flags = Buffer.from([0, 0, 0, 3])
      const style = mode === 'simple' ? [] : [option(mode === 'structured' ? OPT.STRUCTURED_REPLY : OPT.EXTENDED_HEADERS)]
      const bytes = Buffer.concat([flags, ...style, goOption('gate'),
        ...Array.from({ length: below(20) }, () => command(mode, request())),
        ...chance(30) ? [command(mode, { type: CMD.DISC })] : []])
      const overTcp = chance(50)
      const socket = overTcp ? connect(tcp) : connect(address)
      socket.on('error', () => undefined)
      if (chance(70)) socket.resume()
      socket.write(chance(50) ? bytes : bytes.subarray(0, below(bytes.length)))
      const ends = chance(30)
      if (ends) socket.end()
      await delay(below(60))
      // Node never closes a socket that is reset after end().
      if (overTcp && !ends && chance(50)) socket.resetAndDestroy()
      else socket.destroy()
      await delay(1)
    }
    const ticker = setInterval(() => {
      if (chance(50)) gate.shut()
      else gate.openAll()
      for (const held of gate.held.splice(0, below(10))) held.pass()
      if (chance(10)) server.kick(server.clients()[0]?.id ?? 0)
    }, 2)
    await Promise.all(Array.from({ length: 60 }, async () => { for (let i = 0; i < CONNECTIONS / 60; i++) await one() }))
    clearInterval(ticker)
    for (let i = 0; i < 100 && server.clients().length > 0; i++) {
      gate.openAll()
      await delay(10)
    }
    t.strictSame(server.clients(), [])
    t.equal(open, 0)
    t.equal(server.stats().bufferBytes, base)
  })
}
