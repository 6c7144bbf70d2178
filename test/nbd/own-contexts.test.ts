// C1-C11, B1-B3, E5 for contexts an export brings along, over a provider that has some and counts what it is asked.
import t from 'tap'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { NbdeltaError } from '../../src/device/errors.js'
import type { ClientInfo, ExportHandle, ExportInfo, ExportProvider, StatusSource } from '../../src/nbd/export.js'
import { freezeBitmap } from '../../src/nbd/frozen-bitmap.js'
import { delay } from './support/byte-stream.js'
import { startServer } from './support/fixture.js'
import { attach, Session } from './support/session.js'
import { CMD, command, ERR, FLAG, KIB, MIB, OPT, REP, statusPayload, TX } from './support/wire.js'

const SET = OPT.SET_META_CONTEXT
const LIST = OPT.LIST_META_CONTEXT
const BASE = 'base:allocation'
const DEPTH = 'qemu:allocation-depth'
const BITMAP = 'qemu:dirty-bitmap:we:ird'
const names = (answer: { contexts: readonly { name: string }[] }): string[] => answer.contexts.map(({ name }) => name)
/** Depths above what one or two bits hold. */
const DEPTHS = [[64 * KIB, 1], [64 * KIB, 0], [128 * KIB, 70_000], [MIB - 256 * KIB, 2]] as const
const RUNS = Array.from({ length: 100 }, (_, i) => ({ start: 2 * i + 1, end: 2 * i + 2 }))

class Own implements ExportProvider {
  readonly disk = new MemoryDisk(MIB)
  extra: string[] = []
  canonical = 'one'
  late = false
  opened: string[][] = []
  list() { return [{ name: 'one', description: '' }, { name: 'moving', description: '' }, { name: 'bare', description: '' }] }
  describe(name: string): ExportInfo | undefined {
    if (!this.list().some((one) => one.name === name)) return undefined
    const { sizeBytes, blockSizes, capabilities } = this.disk
    const moving = name === 'moving'
    return { name: moving ? this.canonical : name, description: '', sizeBytes, readOnly: false, blockSizes, capabilities, oneConnection: moving }
  }
  contexts(name: string): string[] { return name === 'bare' ? [] : [DEPTH, BITMAP, ...this.extra] }
  async open(name: string, _client: ClientInfo, contexts: readonly string[]): Promise<ExportHandle> {
    this.opened.push([...contexts])
    if (contexts.some((one) => !this.contexts(name).includes(one))) throw new NbdeltaError('not-found', 'that bitmap is gone')
    const bitmap = freezeBitmap(RUNS, 4 * KIB, MIB)
    const depths: StatusSource = { extents: (offset, length, most) => cut(offset, length, most) }
    const later: StatusSource = { extents: async (...asked) => { await delay(1); return bitmap.extents(...asked) } }
    const sources = new Map(contexts.map((one) => [one, one === DEPTH ? depths : this.late ? later : bitmap] as const))
    return { info: this.describe(name)!, device: this.disk, contexts: sources, release: () => {} }
  }
}

function cut(offset: number, length: number, most: number): { lengths: number[], states: number[] } {
  const found = { lengths: [] as number[], states: [] as number[] }
  let end = 0
  for (const [bytes, state] of DEPTHS) {
    const start = Math.max(offset, end)
    end += bytes
    const to = Math.min(offset + length, end)
    if (to <= start || found.lengths.length === most) continue
    found.lengths.push(to - start)
    found.states.push(state)
  }
  return found
}

const provider = new Own()
const fixture = await startServer(t, { provider })
t.beforeEach(() => Object.assign(provider, { extra: [], canonical: 'one', late: false, opened: [] }))

t.test('C1: an unknown export is ERR_UNKNOWN, whatever is asked', async t => {
  const peer = await fixture.peer()
  await peer.verdict(OPT.STRUCTURED_REPLY)
  for (const number of [LIST, SET] as const) t.equal((await peer.meta(number, 'nope', [BITMAP])).final, REP.ERR_UNKNOWN)
})

t.test('C2: bitmaps that are not there are ignored', async t => {
  const peer = await fixture.peer()
  await peer.verdict(OPT.STRUCTURED_REPLY)
  const strange = ['qemu:dirty-bitmap:we', 'qemu:dirty-bitmap:we:ird:x', 'qemu:dirty-bitmap', 'Qemu:allocation-depth', `${BITMAP}\0`]
  for (const number of [LIST, SET] as const) {
    t.strictSame(await peer.meta(number, 'one', strange), { final: REP.ACK, contexts: [] })
    t.strictSame(names(await peer.meta(number, 'one', [...strange, BITMAP])), [BITMAP])
  }
})

t.test('C3 C8 C10: LIST', async t => {
  const peer = await fixture.peer()
  for (const [queries, expected] of [
    [[], [BASE, DEPTH, BITMAP]], [['qemu:'], [DEPTH, BITMAP]], [['qemu:dirty-bitmap:'], [BITMAP]], [['base:'], [BASE]],
    [['qemu:dirty-bitmap:', BITMAP, BASE], [BASE, BITMAP]],
  ] as const) t.strictSame(names(await peer.meta(LIST, 'one', queries)), expected, queries.join())
  t.strictSame(names(await peer.meta(LIST, 'bare')), [BASE], 'an export without any')
  t.strictSame(provider.opened, [], 'H7: nothing was opened')
})

t.test('C3: LIST of an export with 5,000 bitmaps is cut; each can be selected by its name', async t => {
  provider.extra = Array.from({ length: 5000 }, (_, i) => `qemu:dirty-bitmap:p${i}`)
  const peer = await fixture.peer()
  await peer.verdict(OPT.STRUCTURED_REPLY)
  t.equal((await peer.meta(LIST, 'one')).contexts.length, 1024)
  t.equal((await peer.meta(LIST, 'one', ['qemu:dirty-bitmap:'])).contexts.length, 1024)
  t.strictSame(names(await peer.meta(SET, 'one', ['qemu:dirty-bitmap:p4999'])), ['qemu:dirty-bitmap:p4999'])
})

t.test('C4: 16 contexts at once; with 17 ERR_TOO_BIG and none', async t => {
  provider.extra = Array.from({ length: 20 }, (_, i) => `qemu:dirty-bitmap:p${i}`)
  const peer = await fixture.peer()
  await peer.verdict(OPT.EXTENDED_HEADERS)
  t.equal((await peer.meta(SET, 'one', provider.extra.slice(0, 17))).final, REP.ERR_TOO_BIG)
  t.equal((await peer.info(OPT.INFO, 'one')).facts!.flags & TX.BLOCK_STATUS_PAYLOAD, 0, 'none is selected')
  const { contexts } = await peer.meta(SET, 'one', provider.extra.slice(0, 16))
  t.equal(new Set(contexts.map(({ id }) => id)).size, 16)
  const session = new Session(peer, 'extended', (await peer.info(OPT.GO, 'one')).facts!, contexts)
  const { status } = await session.call({ type: CMD.BLOCK_STATUS, offset: 0, length: MIB })
  t.equal(status.size, 16, 'B2: exactly one chunk each')
})

t.test('C5: a set holds for its export, by either of its names', async t => {
  for (const [asked, gone, error] of [
    ['one', 'one', 0], ['one', 'bare', ERR.EINVAL], ['moving', 'moving', 0], ['moving', 'one', 0], ['bare', 'one', ERR.EINVAL],
  ] as const) {
    const peer = await fixture.peer()
    await peer.verdict(OPT.STRUCTURED_REPLY)
    const { contexts } = await peer.meta(SET, asked, [asked === 'bare' ? BASE : DEPTH])
    const session = new Session(peer, 'structured', (await peer.info(OPT.GO, gone)).facts!, contexts)
    t.equal((await session.call({ type: CMD.BLOCK_STATUS, offset: 0, length: 4096 })).error, error, `SET ${asked}, GO ${gone}`)
  }
})

t.test('C5: a moving name keeps its set when it moves between SET and GO', async t => {
  const peer = await fixture.peer()
  await peer.verdict(OPT.EXTENDED_HEADERS)
  const { contexts } = await peer.meta(SET, 'moving', [DEPTH])
  provider.canonical = 'two'
  const { facts } = await peer.info(OPT.GO, 'moving')
  t.equal(facts!.flags & (TX.BLOCK_STATUS_PAYLOAD | TX.CAN_MULTI_CONN), TX.BLOCK_STATUS_PAYLOAD, 'D3: and wants one connection')
  const session = new Session(peer, 'extended', facts!, contexts)
  t.equal((await session.call({ type: CMD.BLOCK_STATUS, offset: 0, length: 4096 })).error, 0)
})

t.test('C6: wildcards select nothing, also here', async t => {
  const peer = await fixture.peer()
  await peer.verdict(OPT.STRUCTURED_REPLY)
  t.strictSame(await peer.meta(SET, 'one', ['base:', 'qemu:', 'qemu:dirty-bitmap:']), { final: REP.ACK, contexts: [] })
})

t.test('C7: none of them needs extended headers', async t => {
  const peer = await fixture.peer()
  await peer.verdict(OPT.STRUCTURED_REPLY)
  for (const number of [LIST, SET] as const) t.equal((await peer.meta(number, 'one', [BASE, DEPTH, BITMAP])).final, REP.ACK)
})

t.test('C11: the provider binds at GO exactly what holds then; base:allocation is the device\'s own', async t => {
  await attach(fixture.address, { mode: 'structured', name: 'one', contexts: [BASE] })
  await attach(fixture.address, { mode: 'structured', name: 'one', contexts: [BASE, BITMAP, BITMAP, DEPTH] })
  await attach(fixture.address, { mode: 'simple', name: 'one' })
  t.strictSame(provider.opened, [[], [DEPTH, BITMAP], []])
})

t.test('C11: a context that went away between SET and GO fails GO; the client may go on', async t => {
  const peer = await fixture.peer()
  provider.extra = ['qemu:dirty-bitmap:short-lived']
  await peer.verdict(OPT.STRUCTURED_REPLY)
  await peer.meta(SET, 'one', ['qemu:dirty-bitmap:short-lived'])
  provider.extra = []
  t.match(await peer.info(OPT.GO, 'one'), { final: REP.ERR_UNKNOWN, message: /gone/ })
  const { contexts } = await peer.meta(SET, 'one', [BITMAP])
  const session = new Session(peer, 'structured', (await peer.info(OPT.GO, 'one')).facts!, contexts)
  t.equal((await session.call({ type: CMD.BLOCK_STATUS, offset: 0, length: 4096 })).error, 0)
})

for (const mode of ['structured', 'extended'] as const) {
  t.test(`B1 B2: ${mode}: every context is told in its own extents, 32 bits a state`, async t => {
    for (const late of [false, true]) {
      provider.late = late
      const session = await attach(fixture.address, { mode, name: 'one', contexts: [BASE, DEPTH, BITMAP] })
      const id = (name: string): number => session.contexts.find((one) => one.name === name)!.id
      const { status } = await session.call({ type: CMD.BLOCK_STATUS, offset: 0, length: MIB })
      t.strictSame(status.get(id(BASE)), [{ length: BigInt(MIB), state: 3n }])
      t.strictSame(status.get(id(DEPTH)), DEPTHS.map(([length, state]) => ({ length: BigInt(length), state: BigInt(state) })))
      const bitmap = status.get(id(BITMAP))!
      t.equal(bitmap.length, 201)
      t.ok(bitmap.slice(0, 200).every(({ length, state }, i) => length === 4096n && state === BigInt(i % 2)))
    }
  })

  t.test(`B1: ${mode}: REQ_ONE gives one extent of each`, async t => {
    const session = await attach(fixture.address, { mode, name: 'one', contexts: [BASE, DEPTH, BITMAP] })
    const { status } = await session.call({ type: CMD.BLOCK_STATUS, offset: 6 * KIB, length: MIB - 6 * KIB, flags: FLAG.REQ_ONE })
    t.strictSame([...status.values()].map((extents) => extents.length), [1, 1, 1])
    t.strictSame(status.get(session.contexts[2]!.id), [{ length: 2048n, state: 1n }])
  })
}

t.test('B2 S7: with no memory left a reply is short, never empty: 16 contexts in the connection\'s own 16 KiB', async t => {
  provider.extra = Array.from({ length: 16 }, (_, i) => `qemu:dirty-bitmap:p${i}`)
  const { address } = await startServer(t, { provider, limits: { memoryBytes: 3 * 16 * KIB, connections: 1 } })
  for (const mode of ['structured', 'extended'] as const) {
    const session = await attach(address, { mode, name: 'one', contexts: provider.extra })
    const sent = Array.from({ length: 20 }, () => session.send({ type: CMD.BLOCK_STATUS, offset: 0, length: MIB }))
    for (const { reply } of sent) {
      const extents = [...(await reply).status.values()].map((list) => list.length)
      t.equal(extents.length, 16)
      t.ok(extents.every((count) => count >= 1 && count <= 201))
    }
    await session.disconnect()
    await delay(50)
  }
})

t.test('B3: structured: a clean bitmap over 4 PiB is clipped', async t => {
  const huge = new MemoryDisk(4 * 2 ** 50)
  const clean = freezeBitmap([], 4096, huge.sizeBytes)
  const info: ExportInfo = { name: 'huge', description: '', sizeBytes: huge.sizeBytes, readOnly: false, blockSizes: huge.blockSizes, capabilities: huge.capabilities }
  const { address } = await startServer(t, { provider: {
    list: () => [info], describe: () => info, contexts: () => [BITMAP],
    open: async (_name, _client, contexts) => ({ info, device: huge, contexts: new Map(contexts.map((one) => [one, clean])), release: () => {} }),
  } })
  const session = await attach(address, { mode: 'structured', name: 'huge', contexts: [BITMAP] })
  const { status } = await session.call({ type: CMD.BLOCK_STATUS, offset: 0, length: 0xffff_ffff })
  t.strictSame(status.get(session.contexts[0]!.id), [{ length: 0xffff_0000n, state: 0n }])
})

t.test('E5: extended: a filter picks some of them', async t => {
  const session = await attach(fixture.address, { mode: 'extended', name: 'one', contexts: [BASE, DEPTH, BITMAP] })
  const ids = [session.contexts[2]!.id, session.contexts[0]!.id]
  const request = { type: CMD.BLOCK_STATUS, flags: FLAG.PAYLOAD_LEN, offset: 0, payload: statusPayload(MIB, ids) }
  const { cookie, reply } = session.expect(request, ids, BigInt(MIB))
  session.stream.socket.write(command('extended', { ...request, cookie }))
  t.strictSame(new Set((await reply).status.keys()), new Set(ids))
})
