// What the client sends, over a socket that takes its time: bytes are never written over before the socket has taken them. SEED=n.
import type { Socket } from 'node:net'
import t from 'tap'
import { seededRandom } from '../../src/device/testing.js'
import { ClientSender } from '../../src/nbd/client-sender.js'
import { turn } from './support/byte-stream.js'
import { CMD, command, pattern } from './support/wire.js'

/** Looks at what it was given only when it says that it is done with it. */
class SlowSocket {
  readonly destroyed = false
  readonly waiting: { readonly bytes: Buffer, readonly done: (() => void) | undefined }[] = []
  readonly taken: Buffer[] = []
  corks = 0
  cork(): void { this.corks++ }
  uncork(): void { this.corks-- }
  write(bytes: Buffer, done?: () => void): void { this.waiting.push({ bytes, done }) }
  take(): void {
    const first = this.waiting.shift()
    if (!first) return
    this.taken.push(Buffer.from(first.bytes))
    first.done?.()
  }
}

const seed = Number(process.env['SEED'] ?? Date.now() % 1e6)
for (const mode of ['simple', 'extended'] as const) {
  t.test(`${mode}, seed ${seed}`, async t => {
    const random = seededRandom(seed)
    const socket = new SlowSocket()
    const sender = new ClientSender(socket as unknown as Socket)
    const wanted: Buffer[] = []
    for (let i = 0; i < 3000; i++) {
      const length = random(3) === 0 ? 0 : 1 + random(random(10) === 0 ? 40_000 : 9000)
      const payload = length === 0 ? undefined : pattern(i, length + 10)
      const header = { type: payload ? CMD.WRITE : CMD.READ, flags: i % 64, offset: i * 512, length: length || 4096 }
      sender.add(mode === 'extended', { ...header, cookieHigh: 0, cookieLow: i }, payload, 10)
      wanted.push(command(mode, { ...header, cookie: BigInt(i) }), ...payload ? [payload.subarray(10)] : [])
      if (random(4) === 0) await turn()
      for (let n = random(6); n > 0; n--) socket.take()
    }
    await turn()
    while (socket.waiting.length > 0) socket.take()
    t.ok(Buffer.concat(socket.taken).equals(Buffer.concat(wanted)), 'every byte, in order')
    t.equal(socket.corks, 0)
    t.equal(sender.bytesSent, Buffer.concat(wanted).length)
  })
}

t.test('the requests of one turn leave in one piece', async t => {
  const socket = new SlowSocket()
  const sender = new ClientSender(socket as unknown as Socket)
  for (let i = 0; i < 100; i++) sender.add(false, { type: CMD.READ, flags: 0, cookieHigh: 0, cookieLow: i, offset: 0, length: 512 }, undefined, 0)
  t.equal(socket.waiting.length, 0)
  await turn()
  t.strictSame(socket.waiting.map(({ bytes }) => bytes.length), [2800])
})
