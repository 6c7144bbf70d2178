// The socket both ways, direct and public: the same bytes in the reader's buffer, and no more of them after it says no.
import { createServer, connect, type Socket } from 'node:net'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { openWire, type Reader, type Wire } from '../../src/nbd/wire.js'

class Collector implements Reader {
  readonly buffer = Buffer.alloc(5000)
  readonly chunks: Buffer[] = []
  /** How many more landings are welcome. */
  welcome = Infinity

  space(): Buffer { return this.buffer }
  arrived(count: number): boolean {
    this.chunks.push(Buffer.from(this.buffer.subarray(0, count)))
    return --this.welcome > 0
  }

  get bytes(): Buffer { return Buffer.concat(this.chunks) }
}

interface Teardown { teardown(callback: () => unknown): unknown }
interface Pair { readonly client: Socket, readonly wire: Wire, readonly reader: Collector }

async function pair(t: Teardown, direct: boolean, spoil = (_: Socket): void => {}): Promise<Pair> {
  const folder = mkdtempSync(join(tmpdir(), 'nbdelta-wire-'))
  const server = createServer({ pauseOnConnect: true, allowHalfOpen: true })
  server.listen(join(folder, 'socket'))
  await once(server, 'listening')
  const reader = new Collector()
  const client = connect(join(folder, 'socket'))
  const [accepted] = await once(server, 'connection') as [Socket]
  spoil(accepted)
  const wire = openWire(accepted, reader, direct)
  t.teardown(() => {
    client.destroy()
    wire.socket.destroy()
    server.close()
    rmSync(folder, { recursive: true })
  })
  return { client, wire, reader }
}

const payload = Buffer.from(Array.from({ length: 300_000 }, (_, i) => i % 251))

for (const direct of [true, false]) {
  t.test(direct ? 'direct' : 'public', async t => {
    const { client, wire, reader } = await pair(t, direct)
    t.equal(wire.direct, direct)
    client.write(payload)
    while (reader.bytes.length < payload.length) await sleep(1)
    t.ok(reader.bytes.equals(payload))

    reader.chunks.length = 0
    reader.welcome = 1
    client.write(payload)
    await sleep(30)
    t.equal(reader.chunks.length, 1, 'nothing after a no')
    for (let i = 0; i < 3; i++) {
      reader.welcome = 1
      wire.resume()
      await sleep(10)
    }
    t.equal(reader.chunks.length, 4, 'one for each resume')
    reader.welcome = Infinity
    wire.resume()
    while (reader.bytes.length < payload.length) await sleep(1)
    t.ok(reader.bytes.equals(payload))

    const taken = wire.writeNow(payload, 10, 30)
    t.equal(taken, direct ? 20 : 0)
    wire.socket.write(payload.subarray(10 + taken, 30))
    const [reply] = await once(client, 'data') as [Buffer]
    t.ok(reply.equals(payload.subarray(10, 10 + reply.length)))

    const ended = once(wire.socket, 'end')
    client.end()
    await ended
    wire.socket.destroy()
    await once(wire.socket, 'close')
    t.equal(wire.writeNow(payload, 0, 10), 0, 'a closed descriptor takes nothing')
  })
}

t.test('a full socket takes what it can, then nothing, and throws nothing', async t => {
  const { wire } = await pair(t, true)
  const big = Buffer.alloc(2 ** 20)
  let taken = wire.writeNow(big, 0, big.length)
  t.ok(taken > 0 && taken < big.length)
  while (taken > 0) taken = wire.writeNow(big, 0, big.length)
  t.equal(taken, 0)
})

t.test('a handle that is not as expected: the public way', async t => {
  const { client, wire, reader } = await pair(t, true, (accepted) => {
    Object.defineProperty((accepted as unknown as { _handle: object })._handle, 'useUserBuffer', { value: undefined })
  })
  t.equal(wire.direct, false)
  client.write('hello')
  while (reader.bytes.length < 5) await sleep(1)
  t.equal(reader.bytes.toString(), 'hello')
})
