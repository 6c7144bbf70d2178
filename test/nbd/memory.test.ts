// S7, Z7: whatever clients do, the server's memory stays under 200 MB; measured in a process of its own.
import t, { type Test } from 'tap'
import { DEFAULT_LIMITS } from '../../src/nbd/limits.js'
import { delay } from './support/byte-stream.js'
import { startServerProcess, type ServerProcess } from './support/server-process.js'
import { attach, type Session } from './support/session.js'
import { CMD, KIB, MIB, type Mode } from './support/wire.js'

// Gigabytes cross the sockets, and other tests may run beside this one.
t.setTimeout(300_000)

/** 64 connections at full depth. */
const FULL_DEPTH_BYTES = 200_000_000
/** A crowd that uses the whole budget at once: buffers given back wait for the garbage collector, so twice the budget. */
const CROWD_BYTES = 2 * DEFAULT_LIMITS.memoryBytes + 64 * MIB
/** Whatever few clients do: all buffers the limits allow, and 96 MiB for Node itself, code and small change. */
const ATTACK_BYTES = DEFAULT_LIMITS.memoryBytes + 96 * MIB

const connect = (server: ServerProcess, count: number, mode: Mode): Promise<Session[]> =>
  Promise.all(Array.from({ length: count }, () => attach(server.address, { mode, name: 'void' })))

async function checkPeak(t: Test, server: ServerProcess, most: number): Promise<void> {
  const { peak } = await server.usage()
  t.ok(peak < most, `peak ${(peak / 1e6).toFixed(0)} MB, at most ${(most / 1e6).toFixed(0)}`)
}

for (const mode of ['simple', 'extended'] as const) {
  t.test(`Z7: ${mode}: clients that never read`, async t => {
    const server = await startServerProcess(t, 0)
    const lazy = await connect(server, 32, mode)
    for (const session of lazy) {
      session.stream.socket.pause()
      for (let i = 0; i < 64; i++) session.send({ type: CMD.READ, offset: 0, length: 32 * MIB })
    }
    await delay(1000)
    await checkPeak(t, server, ATTACK_BYTES)
    const good = await attach(server.address, { mode, name: 'void' })
    for (let i = 0; i < 10; i++) await good.alive()
    for (const session of lazy) session.destroy()
    await delay(200)
    await good.alive()
    await good.disconnect()
    t.equal(await server.stop(), 0)
  })

  for (const delayMs of [mode === 'simple' ? 3 : 0]) {
    t.test(`Z7: ${mode}: 64 writers of 32 MiB, the device taking ${delayMs} ms a write`, async t => {
      const server = await startServerProcess(t, delayMs)
      const writers = await connect(server, 64, mode)
      const payload = Buffer.alloc(32 * MIB, 7)
      const replies = await Promise.all(writers.map((session, i) => session.write(i * 32 * MIB, payload)))
      t.strictSame(replies.filter(reply => reply.error !== 0), [])
      await checkPeak(t, server, ATTACK_BYTES)
      for (const session of writers) session.destroy()
      t.equal(await server.stop(), 0)
    })
  }

  for (const delayMs of [mode === 'simple' ? 0 : 2]) {
    t.test(`Z7: ${mode}: 64 connections at full depth, 4 KiB and 64 KiB, the device taking ${delayMs} ms`, async t => {
      const server = await startServerProcess(t, delayMs)
      const sessions = await connect(server, 64, mode)
      for (const bytes of [4 * KIB, 64 * KIB]) {
        const payload = Buffer.alloc(bytes, 3)
        const replies = await Promise.all(sessions.flatMap((session, i) => Array.from({ length: 64 }, (_, k) => session.send(
          (i + k) % 2 ? { type: CMD.READ, offset: k * bytes, length: bytes } : { type: CMD.WRITE, offset: k * bytes, payload },
        ).reply)))
        t.strictSame(replies.filter(reply => reply.error !== 0), [])
      }
      await checkPeak(t, server, FULL_DEPTH_BYTES)
      for (const session of sessions) session.destroy()
      t.equal(await server.stop(), 0)
    })
  }
}

t.test('Z7: 250 connections, each with 3 MiB on its way to a slow device', async t => {
  const server = await startServerProcess(t, 60)
  const sessions = await connect(server, 250, 'extended')
  const payload = Buffer.alloc(3 * MIB, 1)
  const replies = await Promise.all(sessions.map(session => session.write(0, payload)))
  t.strictSame(replies.filter(reply => reply.error !== 0), [])
  await checkPeak(t, server, CROWD_BYTES)
  for (const session of sessions) session.destroy()
})

t.test('Z7: writers that stop in the middle of a payload hold nobody up', async t => {
  const server = await startServerProcess(t, 0)
  const stuck = await connect(server, 100, 'simple')
  for (const session of stuck) session.send({ type: CMD.WRITE, offset: 0, length: 32 * MIB, payload: Buffer.alloc(300 * KIB) })
  await delay(200)
  const good = await attach(server.address, { name: 'void' })
  t.equal((await good.write(0, Buffer.alloc(8 * MIB))).error, 0)
  t.equal((await good.read(0, 8 * MIB)).error, 0)
  await checkPeak(t, server, ATTACK_BYTES)
  for (const session of stuck) session.destroy()
})
