// The gate as a table: every condition of PROTOCOL section 9, in the order of X3.
import t from 'tap'
import { COMMAND, COMMAND_FLAG, ERRNO } from '../../native-free/nbd/constants.js'
import { BEYOND, Request } from '../../native-free/nbd/transmission.js'
import { judge, judgeRange, payloadBytesOf, type SessionFacts } from '../../src/nbd/request-verdict.js'

const SIZE = 2 ** 20
const MIB = 2 ** 20
const FACTS: SessionFacts = {
  style: 'extended', readOnly: false, fastZero: true, contexts: true, minimumBytes: 1, readBytes: 32 * MIB, payloadBytes: 64 * MIB,
}
type Asked = Partial<Pick<Request, 'type' | 'flags' | 'offset' | 'length'>>
const ask = (asked: Asked): Request => Object.assign(new Request(), { length: 512 }, asked)
const verdict = (asked: Asked, facts: Partial<SessionFacts> = {}, refusing = false): string =>
  judge(ask(asked), { ...FACTS, ...facts }, SIZE, refusing)?.errnoName ?? 'ok'

const C = COMMAND
const F = COMMAND_FLAG
const ROWS: readonly (readonly [string, Asked, Partial<SessionFacts>, string])[] = [
  ['a read', { type: C.read }, {}, 'ok'],
  ['an unknown command', { type: 8 }, {}, 'EINVAL'],
  ['F2: an unknown flag', { type: C.read, flags: 1 << 9 }, {}, 'EINVAL'],
  ['F2: NO_HOLE on a write', { type: C.write, flags: F.noHole }, {}, 'EINVAL'],
  ['F2: REQ_ONE on a read', { type: C.read, flags: F.reqOne }, {}, 'EINVAL'],
  ['F2: a flag before read-only', { type: C.write, flags: F.df }, { readOnly: true }, 'EINVAL'],
  ['F3: FAST_ZERO that was not offered', { type: C.writeZeroes, flags: F.fastZero }, { fastZero: false }, 'EINVAL'],
  ['F3: FAST_ZERO that was', { type: C.writeZeroes, flags: F.fastZero | F.noHole | F.fua }, {}, 'ok'],
  ['DF under simple replies', { type: C.read, flags: F.df }, { style: 'simple' }, 'EINVAL'],
  ['DF under structured replies', { type: C.read, flags: F.df }, { style: 'structured' }, 'ok'],
  ['PAYLOAD_LEN on a compact write', { type: C.write, flags: F.payloadLen }, { style: 'structured' }, 'EINVAL'],
  ['E3: PAYLOAD_LEN on an extended write', { type: C.write, flags: F.payloadLen }, {}, 'ok'],
  ['E4: PAYLOAD_LEN on a read', { type: C.read, flags: F.payloadLen }, {}, 'EINVAL'],
  ['E5: a filter payload is judged later', { type: C.blockStatus, flags: F.payloadLen, offset: SIZE * 2 }, {}, 'ok'],
  ['B4: block status without contexts', { type: C.blockStatus }, { contexts: false }, 'EINVAL'],
  ['I11: a write to a read-only export', { type: C.write }, { readOnly: true }, 'EPERM'],
  ['I11: zeroes on a read-only export, past the end', { type: C.writeZeroes, offset: SIZE }, { readOnly: true }, 'EPERM'],
  ['I11: trim on a read-only export', { type: C.trim }, { readOnly: true }, 'EPERM'],
  ['a flush of a read-only export', { type: C.flush, offset: 7, length: 9 }, { readOnly: true }, 'ok'],
  ['R5: zero length, wherever', { type: C.write, length: 0, offset: SIZE * 3 }, {}, 'ok'],
  ['R5: block status of nothing', { type: C.blockStatus, length: 0 }, {}, 'EINVAL'],
  ['an unaligned offset', { type: C.read, offset: 100 }, { minimumBytes: 512 }, 'EINVAL'],
  ['an unaligned length past the end is unaligned first', { type: C.write, offset: SIZE, length: 1 }, { minimumBytes: 512 }, 'EINVAL'],
  ['a write past the end', { type: C.write, offset: SIZE - 511 }, {}, 'ENOSPC'],
  ['zeroes past the end', { type: C.writeZeroes, offset: 0, length: SIZE + 1 }, {}, 'ENOSPC'],
  ['a read past the end', { type: C.read, offset: SIZE - 511 }, {}, 'EINVAL'],
  ['a trim past the end', { type: C.trim, offset: BEYOND }, {}, 'EINVAL'],
  ['X2: a length that would wrap', { type: C.cache, offset: 512, length: BEYOND }, {}, 'EINVAL'],
  ['up to the last byte', { type: C.read, offset: SIZE - 512 }, {}, 'ok'],
  ['R4: a read longer than is served', { type: C.read, length: 1025 }, { readBytes: 1024 }, 'EINVAL'],
]

for (const [what, asked, facts, wanted] of ROWS) t.equal(verdict(asked, facts), wanted, what)

t.test('F1: FUA is taken on every command', async t => {
  for (const type of Object.values(COMMAND)) t.equal(verdict({ type, flags: F.fua }), 'ok', `command ${type}`)
})

t.test('S3: while stopping everything well-formed is ESHUTDOWN, and what is not stays EINVAL', async t => {
  for (const type of Object.values(COMMAND)) t.equal(verdict({ type }, {}, true), 'ESHUTDOWN', `command ${type}`)
  t.equal(verdict({ type: 9 }, {}, true), 'EINVAL')
})

t.test('payloads', async t => {
  t.equal(payloadBytesOf(ask({ type: C.write }), 'simple'), 512)
  t.equal(payloadBytesOf(ask({ type: C.write }), 'extended'), 512, 'E3: flag or not')
  t.equal(payloadBytesOf(ask({ type: 77, flags: F.payloadLen }), 'extended'), 512, 'E4')
  t.equal(payloadBytesOf(ask({ type: 77, flags: F.payloadLen }), 'structured'), 0)
})

t.test('only the eight errnos of the wire', async t => {
  for (const [, asked, facts] of ROWS) {
    const refused = judge(ask(asked), { ...FACTS, ...facts }, SIZE, false)
    if (refused) t.ok(Object.values(ERRNO).includes(refused.errno as never) && refused.bytes.length > 0)
  }
  t.equal(judgeRange(C.blockStatus, 0, SIZE, FACTS, SIZE), undefined)
})
