// H1-H4: the hello, the client's flags, padding of EXPORT_NAME, sessions without FIXED_NEWSTYLE.
import t from 'tap'
import { delay } from './support/byte-stream.js'
import { DISK_BYTES, startServer } from './support/fixture.js'
import { Peer } from './support/peer.js'
import { Session } from './support/session.js'
import { infoData, OPT, option, REP, u32 } from './support/wire.js'

const fixture = await startServer(t)

t.test('H1: the hello offers FIXED_NEWSTYLE and NO_ZEROES and nothing else, in 18 bytes', async t => {
  const peer = await Peer.connect(fixture.address)
  t.equal(await peer.hello(), 3)
  await delay(20)
  t.equal(peer.stream.available, 0, 'nothing more until the client speaks')
  peer.destroy()
})

t.test('H1: the hello leaves in one piece', async t => {
  const peer = await Peer.connect(fixture.address)
  const sizes: number[] = []
  peer.stream.socket.on('data', chunk => sizes.push(chunk.length))
  await peer.hello()
  t.strictSame(sizes.slice(0, 1).filter(size => size !== 18), [])
  peer.destroy()
})

for (const flags of [4, 7, 0x8000_0000, 0xffff_ffff, 0x0001_0003, 256]) {
  t.test(`H2 S5: client flags 0x${flags.toString(16)} hold a bit that was not offered: dropped`, async () => {
    const peer = await fixture.peer(flags >>> 0)
    peer.send(option(OPT.LIST))
    await peer.expectDropped()
  })
}

for (const flags of [0, 1, 2, 3]) {
  t.test(`H3: EXPORT_NAME with client flags ${flags} gets ${flags & 2 ? 10 : 134} bytes`, async t => {
    const peer = await fixture.peer(flags)
    const facts = await peer.exportName('disk')
    t.equal(facts.size, BigInt(DISK_BYTES))
    const session = new Session(peer, 'simple', facts)
    await session.alive()
    await session.disconnect()
  })
}

for (const flags of [0, 2]) {
  for (const [name, number, data] of [
    ['LIST', OPT.LIST, undefined], ['ABORT', OPT.ABORT, undefined], ['GO', OPT.GO, infoData('disk')],
    ['STRUCTURED', OPT.STRUCTURED_REPLY, undefined],
    ['an unknown one', 99, undefined],
  ] as const) {
    t.test(`H4: flags ${flags} without FIXED_NEWSTYLE: option ${name} is dropped`, async () => {
      const peer = await fixture.peer(flags)
      peer.send(option(number, data))
      await peer.expectDropped()
    })
  }
}

t.test('H2: flags that arrive byte by byte count the same', async t => {
  const peer = await Peer.connect(fixture.address)
  await peer.hello()
  await peer.sendCut(Buffer.concat([u32(3), option(77)]), [1, 2, 3, 4, 5, 9, 17])
  t.equal((await peer.optionReply(77)).type, REP.ERR_UNSUP)
  peer.destroy()
})
