// O1 O5 O7 O8 O10: the option table without a socket: one final reply each, the right one, and what is agreed on afterwards.
import t from 'tap'
import * as nbd from '../../native-free/nbd/index.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { deviceExports } from '../../src/nbd/device-exports.js'
import type { ExportProvider } from '../../src/nbd/export.js'
import { type Answer, Negotiation, notOpened, opened, transmissionFlags } from '../../src/nbd/negotiation.js'

const { OPTION, REPLY, TRANSMISSION_FLAG: F } = nbd
const provider = deviceExports({ a: new MemoryDisk(4096), b: new MemoryDisk(8192, { readOnly: true }) })
const begin = (exports: ExportProvider = provider): Negotiation => {
  const negotiation = new Negotiation(exports)
  negotiation.acceptFlags(3)
  return negotiation
}
const types = ({ replies }: Pick<Answer, 'replies'>): number[] => replies.map((reply) => reply.readUInt32BE(12))
const ask = (negotiation: Negotiation, option: number, data: Buffer | string = '', draining = false): number[] =>
  types(negotiation.answer(option, Buffer.from(data), draining))
const base = (name: string): Buffer => nbd.encodeMetaRequest(name, ['base:allocation'])

t.test('H2 H4: client flags', async t => {
  for (const [flags, accepted, fixed] of [[0, true, false], [1, true, true], [3, true, true], [4, false, false], [0x80000001, false, true]] as const) {
    const negotiation = new Negotiation(provider)
    t.equal(negotiation.acceptFlags(flags), accepted, `flags ${flags}`)
    t.equal(negotiation.permits(OPTION.list), fixed)
    t.equal(negotiation.permits(OPTION.exportName), true)
  }
})

t.test('O1: every option ends in exactly one final reply that names the option', async t => {
  for (const option of [...Object.values(OPTION), 0, 12, 0xffffffff]) {
    for (const data of ['', 'x', '\0\0\0\0\0\0', nbd.encodeInfoRequest('a', []), base('a')]) {
      const { replies, next } = begin().answer(option, Buffer.from(data), false)
      if (next === 'drop' || next === 'open') continue
      const final = replies.at(-1)!.readUInt32BE(12)
      t.ok(final === REPLY.ack || final >= REPLY.errUnsup, `option ${option}`)
      t.ok(replies.slice(0, -1).every((reply) => reply.readUInt32BE(12) < REPLY.errUnsup && reply.readUInt32BE(12) !== REPLY.ack))
      t.ok(replies.every((reply) => reply.readUInt32BE(8) === option))
    }
  }
})

t.test('L2 PEEK_EXPORT: what is not offered', async t => {
  t.strictSame(ask(begin(), OPTION.startTls), [REPLY.errPolicy])
  t.strictSame(ask(begin(), OPTION.startTls, 'x'), [REPLY.errInvalid])
  t.strictSame(ask(begin(), OPTION.peekExport, 'x'), [REPLY.errUnsup])
})

t.test('reply styles: extended wins, repetition is refused', async t => {
  const negotiation = begin()
  t.strictSame(ask(negotiation, OPTION.structuredReply), [REPLY.ack])
  t.strictSame(ask(negotiation, OPTION.structuredReply), [REPLY.errInvalid])
  t.strictSame(ask(negotiation, OPTION.extendedHeaders), [REPLY.ack])
  t.strictSame(ask(negotiation, OPTION.extendedHeaders), [REPLY.errInvalid])
  t.strictSame(ask(negotiation, OPTION.structuredReply), [REPLY.errExtHeaderReqd])
  t.equal(negotiation.style, 'extended')
  t.equal(negotiation.answer(OPTION.exportName, Buffer.from('a'), false).next, 'drop')
})

t.test('C4 C5: a SET replaces, even when it fails, and holds for its export only', async t => {
  const negotiation = begin()
  t.strictSame(ask(negotiation, OPTION.setMetaContext, base('a')), [REPLY.errInvalid], 'C4: needs structured replies')
  ask(negotiation, OPTION.structuredReply)
  t.strictSame(ask(negotiation, OPTION.setMetaContext, base('a')), [REPLY.metaContext, REPLY.ack])
  t.equal(negotiation.contextsOf('a').length, 1)
  t.equal(negotiation.contextsOf('b').length, 0)
  const { id } = negotiation.contextsOf('a')[0]!
  ask(negotiation, OPTION.setMetaContext, base('a'))
  t.not(negotiation.contextsOf('a')[0]!.id, id)
  t.strictSame(ask(negotiation, OPTION.setMetaContext, base('nowhere')), [REPLY.errUnknown])
  t.equal(negotiation.contextsOf('a').length, 0)
})

t.test('I10 I11 D3: transmission flags', async t => {
  const always = F.hasFlags | F.sendFlush | F.sendFua | F.sendCache | F.canMultiConn
  const writable = F.sendTrim | F.sendWriteZeroes | F.sendFastZero
  const negotiation = begin()
  const flags = (name: string): number => transmissionFlags(negotiation, provider.describe(name)!, negotiation.contextsOf(name))
  t.equal(flags('a'), always | writable)
  t.equal(flags('b'), always | F.readOnly)
  negotiation.style = 'structured'
  ask(negotiation, OPTION.setMetaContext, base('a'))
  t.equal(flags('a'), always | writable | F.sendDf)
  negotiation.style = 'extended'
  t.equal(flags('a'), always | writable | F.sendDf | F.blockStatusPayload)
  t.equal(flags('b'), always | F.readOnly | F.sendDf)
  const moving = { ...provider.describe('b')!, oneConnection: true }
  t.equal(transmissionFlags(negotiation, moving, []) & F.canMultiConn, 0, 'connections to a moving name may differ')
})

t.test('I3 I4 I7: INFO and GO say the same', async t => {
  const negotiation = begin()
  const request = nbd.encodeInfoRequest('a', [nbd.INFO.name, nbd.INFO.description])
  const info = negotiation.answer(OPTION.info, request, false).replies
  const { opening } = negotiation.answer(OPTION.go, request, false)
  const go = opened(negotiation, opening!, provider.describe('a')!)
  t.strictSame(go.map((reply) => reply.subarray(12)), info.map((reply) => reply.subarray(12)))
  t.strictSame(info.slice(0, -1).map((reply) => reply.readUInt16BE(20)), [nbd.INFO.export, nbd.INFO.blockSize, nbd.INFO.name])
})

t.test('O10: while stopping', async t => {
  for (const option of [OPTION.list, OPTION.go, OPTION.info, OPTION.startTls, OPTION.setMetaContext, 99]) {
    t.strictSame(ask(begin(), option, 'whatever', true), [REPLY.errShutdown], `option ${option}`)
  }
  t.strictSame(ask(begin(), OPTION.abort, 'ignored', true), [REPLY.ack])
  t.equal(begin().answer(OPTION.exportName, Buffer.from('a'), true).next, 'drop')
})

t.test('an export that cannot be opened', async t => {
  const opening = { option: OPTION.go, name: 'a', infos: [], contexts: [] }
  for (const [code, type] of [
    ['denied', REPLY.errPolicy], ['shutting-down', REPLY.errShutdown], ['not-found', REPLY.errUnknown], ['damaged', REPLY.errUnknown],
  ] as const) t.strictSame(types(notOpened(opening, new NbdeltaError(code, 'no'))), [type], code)
  t.equal(notOpened({ ...opening, option: OPTION.exportName }, new NbdeltaError('denied', 'no')).next, 'drop')
})

t.test('fixed devices as exports: a lone one is the default, the prototype is none', async t => {
  t.equal(provider.describe(''), undefined)
  t.equal(provider.describe('toString'), undefined)
  const lone = deviceExports({ x: new MemoryDisk(4096) })
  t.equal(lone.describe('')!.name, 'x')
  t.equal((await lone.open('', { id: 1, address: 'unix' }, [])).info.name, 'x')
  await t.rejects(lone.open('y', { id: 1, address: 'unix' }, []), { code: 'not-found' })
})
