// H5: names are UTF-8 without NUL and at most 4,096 bytes; what is wrong with one is said, and the session lives.
import t from 'tap'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { startServer } from './support/fixture.js'
import { OPT, option, REP, type Mode } from './support/wire.js'

const LONGEST = 'n'.repeat(4096)
const UTF8 = 'Größe/数据 💾'
const fixture = await startServer(t, { exports: { [LONGEST]: new MemoryDisk(4096), [UTF8]: new MemoryDisk(8192) } })

const BAD: readonly (readonly [string, Buffer, number])[] = [
  ['a NUL inside', Buffer.from('di\0sk'), REP.ERR_INVALID],
  ['a NUL at the end', Buffer.from('disk\0'), REP.ERR_INVALID],
  ['4,097 bytes', Buffer.alloc(4097, 'n'), REP.ERR_INVALID],
  ['60,000 bytes', Buffer.alloc(60_000, 'n'), REP.ERR_INVALID],
  ['invalid UTF-8', Buffer.from([0xff, 0xfe, 0x41]), REP.ERR_UNKNOWN],
  ['a cut UTF-8 sequence', Buffer.from([0x41, 0xe2, 0x82]), REP.ERR_UNKNOWN],
  ['a name nobody has', Buffer.from('nope'), REP.ERR_UNKNOWN],
  ['control characters', Buffer.from('a\x1b[31m\r\n'), REP.ERR_UNKNOWN],
  ['2,000 characters nobody has', Buffer.alloc(2000, 'z'), REP.ERR_UNKNOWN],
]

for (const [what, name, error] of BAD) {
  t.test(`H5: ${what}`, async t => {
    const peer = await fixture.peer()
    for (const number of [OPT.INFO, OPT.GO] as const) {
      const answer = await peer.info(number, name)
      t.equal(answer.final, error, `option ${number}`)
      t.strictSame(answer.infos, [], 'I5: no INFO before the error')
      t.notMatch(answer.message, /[\x00-\x1f\x7f]/, 'O5: the echoed name is escaped')
      t.ok(answer.message.length <= 400, `O5: the echoed name is cut (${answer.message.length})`)
    }
    for (const number of [OPT.LIST_META_CONTEXT, OPT.SET_META_CONTEXT] as const) {
      if (number === OPT.SET_META_CONTEXT) await peer.verdict(OPT.STRUCTURED_REPLY)
      t.equal((await peer.meta(number, name, ['base:allocation'])).final, error, `option ${number}`)
    }
    await peer.expectInStep()
    peer.send(option(OPT.EXPORT_NAME, name))
    await peer.expectDropped()
  })
}

for (const name of [LONGEST, UTF8]) {
  t.test(`H5: a good name of ${Buffer.byteLength(name)} bytes`, async t => {
    const peer = await fixture.peer()
    t.ok((await peer.list()).some(entry => entry.name === name), 'listed')
    t.ok((await peer.info(OPT.INFO, name)).facts, 'INFO')
    for (const mode of ['simple', 'structured', 'extended'] as Mode[]) {
      const session = await fixture.attach({ mode, name })
      await session.alive()
      await session.disconnect()
    }
    await peer.exportName(name)
  })
}
