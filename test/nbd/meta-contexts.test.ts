// C1-C10: metadata contexts.
import t from 'tap'
import { DISK_BYTES, startServer } from './support/fixture.js'
import { attach, Session } from './support/session.js'
import { CMD, ERR, metaData, OPT, REP } from './support/wire.js'

const fixture = await startServer(t)
const LIST = OPT.LIST_META_CONTEXT
const SET = OPT.SET_META_CONTEXT
const BASE = 'base:allocation'
const names = (answer: { contexts: readonly { name: string }[] }): string[] => answer.contexts.map(context => context.name)

t.test('C1: an unknown export is ERR_UNKNOWN', async t => {
  const peer = await fixture.peer()
  await peer.verdict(OPT.STRUCTURED_REPLY)
  for (const number of [LIST, SET] as const) t.equal((await peer.meta(number, 'nope', [BASE])).final, REP.ERR_UNKNOWN)
})

t.test('C2: what is not understood is ignored', async t => {
  const peer = await fixture.peer()
  await peer.verdict(OPT.STRUCTURED_REPLY)
  const queries = ['x-other:thing', 'base:nothing', 'base', 'nocolon', '', ':', 'base:allocation:x', 'Base:allocation',
    'qemu:allocation-depth:x']
  for (const number of [LIST, SET] as const) {
    t.strictSame(await peer.meta(number, 'disk', queries), { final: REP.ACK, contexts: [] }, `option ${number}`)
    t.strictSame(names(await peer.meta(number, 'disk', [...queries, BASE])), [BASE])
  }
  t.strictSame(names(await peer.meta(SET, 'disk', [Buffer.from([0xff, 0x3a, 0xfe]), BASE])), [BASE], 'a query that is not UTF-8')
})

t.test('C4: more queries than are looked at are ERR_TOO_BIG, and select nothing', async t => {
  const peer = await fixture.peer()
  await peer.verdict(OPT.STRUCTURED_REPLY)
  const most = Array.from({ length: 4095 }, () => 'x')
  for (const number of [LIST, SET] as const) {
    t.strictSame(names(await peer.meta(number, 'disk', [...most, BASE])), [BASE])
    t.strictSame(await peer.meta(number, 'disk', [...most, 'x', BASE]), { final: REP.ERR_TOO_BIG, contexts: [] })
  }
})

t.test('C3: LIST', async t => {
  for (const prepare of [undefined, OPT.STRUCTURED_REPLY, OPT.EXTENDED_HEADERS]) {
    const peer = await fixture.peer()
    if (prepare) await peer.verdict(prepare)
    const all = await peer.meta(LIST, 'disk')
    t.ok(names(all).includes(BASE), 'no query: everything')
    t.ok(all.contexts.every(context => context.id === 0), 'ids are 0 in LIST')
    t.strictSame(names(await peer.meta(LIST, 'disk', [BASE])), [BASE])
    t.strictSame(names(await peer.meta(LIST, 'disk', ['x-none:'])), [], 'nothing matches: a plain ACK')
  }
})

t.test('C3: LIST changes nothing that SET selected', async t => {
  const peer = await fixture.peer()
  await peer.verdict(OPT.EXTENDED_HEADERS)
  const { contexts } = await peer.meta(SET, 'disk', [BASE])
  await peer.meta(LIST, 'disk')
  await peer.meta(LIST, 'ro', ['x-none:'])
  const session = new Session(peer, 'extended', (await peer.info(OPT.GO, 'disk')).facts!, contexts)
  t.equal((await session.call({ type: CMD.BLOCK_STATUS, offset: 0, length: 4096 })).error, 0)
})

t.test('C4: SET needs structured or extended replies', async t => {
  const peer = await fixture.peer()
  t.equal((await peer.meta(SET, 'disk', [BASE])).final, REP.ERR_INVALID)
})

t.test('C4: doubled queries select once', async t => {
  const peer = await fixture.peer()
  await peer.verdict(OPT.STRUCTURED_REPLY)
  t.strictSame(names(await peer.meta(SET, 'disk', [BASE, BASE, BASE])), [BASE])
})

/** Whether BLOCK_STATUS works after these SETs and a GO to `name`. */
async function statusAfter(sets: readonly (readonly [string, readonly string[] | 'broken'])[], name: string): Promise<number> {
  const peer = await fixture.peer()
  await peer.verdict(OPT.STRUCTURED_REPLY)
  let contexts: { id: number, name: string }[] = []
  for (const [exportName, queries] of sets) {
    if (queries === 'broken') await peer.verdict(SET, metaData(exportName, [BASE]).subarray(0, -1))
    else contexts = (await peer.meta(SET, exportName, queries)).contexts
  }
  const session = new Session(peer, 'structured', (await peer.info(OPT.GO, name)).facts!, contexts)
  return (await session.call({ type: CMD.BLOCK_STATUS, offset: 0, length: 4096 })).error
}

for (const [what, sets, error] of [
  ['one SET', [['disk', [BASE]]], 0],
  ['no SET', [], ERR.EINVAL],
  ['no query selects none', [['disk', []]], ERR.EINVAL],
  ['a later empty SET replaces it', [['disk', [BASE]], ['disk', []]], ERR.EINVAL],
  ['a later SET of nothing known replaces it', [['disk', [BASE]], ['disk', ['x-a:b']]], ERR.EINVAL],
  ['a later failed SET replaces it', [['disk', [BASE]], ['nope', [BASE]]], ERR.EINVAL],
  ['a later malformed SET replaces it', [['disk', [BASE]], ['disk', 'broken']], ERR.EINVAL],
  ['a later good SET revives it', [['disk', [BASE]], ['nope', [BASE]], ['disk', [BASE]]], 0],
  ['C5: the set belongs to another export', [['ro', [BASE]]], ERR.EINVAL],
  ['C5: the last set belongs to another export', [['disk', [BASE]], ['ro', [BASE]]], ERR.EINVAL],
  ['C6: a wildcard selects nothing', [['disk', ['base:']]], ERR.EINVAL],
] as const) t.test(`C4 C5: ${what}`, async t => { t.equal(await statusAfter(sets, 'disk'), error) })

t.test('C4: ids are those of the last SET', async t => {
  const peer = await fixture.peer()
  await peer.verdict(OPT.EXTENDED_HEADERS)
  await peer.meta(SET, 'disk', [BASE])
  await peer.meta(SET, 'ro', [BASE])
  const { contexts } = await peer.meta(SET, 'disk', [BASE])
  const session = new Session(peer, 'extended', (await peer.info(OPT.GO, 'disk')).facts!, contexts)
  const { status } = await session.call({ type: CMD.BLOCK_STATUS, offset: 0, length: 4096 })
  t.strictSame([...status.keys()], [contexts[0].id])
})

t.test('C6: `base:` lists, but does not select', async t => {
  const peer = await fixture.peer()
  await peer.verdict(OPT.STRUCTURED_REPLY)
  t.strictSame(names(await peer.meta(LIST, 'disk', ['base:'])), [BASE])
  t.strictSame(names(await peer.meta(LIST, 'disk', ['base:', BASE, 'base:'])), [BASE], 'once')
  t.strictSame(await peer.meta(SET, 'disk', ['base:']), { final: REP.ACK, contexts: [] })
})

t.test('C7: base:allocation never asks for extended headers', async t => {
  const peer = await fixture.peer()
  await peer.verdict(OPT.STRUCTURED_REPLY)
  for (const number of [LIST, SET] as const) t.equal((await peer.meta(number, 'disk', [BASE])).final, REP.ACK)
})

t.test('C8: every context offered is namespace:leaf', async t => {
  const peer = await fixture.peer()
  for (const name of names(await peer.meta(LIST, 'disk'))) t.match(name, /^[^:]+:.+$/)
})

t.test('C9: base:allocation has two bits and agrees with what reads give', async t => {
  for (const mode of ['structured', 'extended'] as const) {
    const session = await attach(fixture.address, { mode, name: 'map' })
    const { status } = await session.call({ type: CMD.BLOCK_STATUS, offset: 0, length: session.size })
    let at = 0
    for (const { length, state } of status.get(session.contexts[0].id)!) {
      t.equal(state & ~3n, 0n)
      const { data } = await session.read(at, Number(length))
      if (state & 2n) t.ok(data.every(byte => byte === 0), `ZERO at ${at}`)
      at += Number(length)
    }
  }
})

t.test('C10: the qemu namespace: wildcards list, select nothing, and disturb nothing', async t => {
  const peer = await fixture.peer()
  await peer.verdict(OPT.STRUCTURED_REPLY)
  const wild = ['qemu:', 'qemu:dirty-bitmap:', 'qemu:dirty-bitmap', 'qemu:dirty-bitmap:we:ird']
  for (const query of wild) {
    const listed = await peer.meta(LIST, 'disk', [query])
    t.equal(listed.final, REP.ACK)
    t.ok(names(listed).every(name => name.startsWith('qemu:')), query)
    t.strictSame(await peer.meta(SET, 'disk', [query]), { final: REP.ACK, contexts: [] }, `SET ${query}`)
  }
  t.strictSame(names(await peer.meta(SET, 'disk', [...wild, BASE])), [BASE])
})

t.test('C5: contexts do not leak into another session', async t => {
  await attach(fixture.address, { mode: 'extended' })
  const plain = await attach(fixture.address, { mode: 'extended', contexts: [] })
  t.equal((await plain.call({ type: CMD.BLOCK_STATUS, offset: 0, length: DISK_BYTES })).error, ERR.EINVAL)
})
