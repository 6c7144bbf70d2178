// S1, S2: DISC and FIN together, as libnbd sends them: it shuts its side down right behind DISC and waits for the rest.
import t from 'tap'
import { startServer } from './support/fixture.js'
import { CMD, command, MIB, MODES, pattern } from './support/wire.js'
import { delay } from './support/byte-stream.js'

for (const mode of MODES) {
  for (const directReceive of [true, false]) {
    const way = directReceive ? 'direct' : 'public'
    t.test(`S1: ${mode}, ${way}: FIN behind DISC while a long READ fills the socket: the reply is finished`, async t => {
      const fixture = await startServer(t, { directReceive })
      const session = await fixture.attach({ mode, name: 'ro' })
      session.stream.socket.pause()
      const replies = Array.from({ length: 20 }, () => session.send({ type: CMD.READ, offset: 0, length: MIB }).reply)
      session.stream.socket.end(command(mode, { type: CMD.DISC }))
      await delay(100)
      session.stream.socket.resume()
      for (const reply of replies) t.ok((await reply).data?.equals(pattern(0, MIB, 2)))
      await session.closed()
    })

    t.test(`S1: ${mode}, ${way}: FIN behind DISC behind more requests than may be in flight`, async t => {
      const fixture = await startServer(t, { directReceive })
      const session = await fixture.attach({ mode, name: 'gate' })
      fixture.gate.shut('read')
      const replies = Array.from({ length: 100 }, (_, i) => session.send({ type: CMD.READ, offset: i * 512, length: 512 }).reply)
      session.stream.socket.end(command(mode, { type: CMD.DISC }))
      await fixture.gate.holding(64)
      await delay(50)
      fixture.gate.openAll()
      for (const reply of replies) t.equal((await reply).error, 0)
      await session.closed()
    })

    t.test(`S2: ${mode}, ${way}: FIN without DISC behind waiting requests: none of them is begun any more`, async t => {
      const fixture = await startServer(t, { directReceive })
      const session = await fixture.attach({ mode, name: 'gate' })
      fixture.gate.shut('read')
      for (let i = 0; i < 100; i++) session.send({ type: CMD.READ, offset: i * 512, length: 512 })
      session.stream.socket.end()
      await fixture.gate.holding(64)
      await delay(50)
      fixture.gate.openAll()
      await session.closed()
      t.equal(fixture.gate.log.length, 64)
    })
  }
}
