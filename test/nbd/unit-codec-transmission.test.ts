// The transmission codec against literal bytes: what each header looks like, and what a decoder makes of it.
import t from 'tap'
import * as nbd from '../../native-free/nbd/index.js'

const view = (bytes: Buffer): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
const COMPACT = '25609513 0001 0006 0102030405060708 0000000000001000 00000200'
const EXTENDED = '21e41c71 0022 0007 f1f2f3f4f5f6f7f8 8000000000001000 0000000100000200'
const hex = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex')

function decoded(text: string, extended: boolean): nbd.Request | undefined {
  const request = new nbd.Request()
  const bytes = Buffer.concat([Buffer.alloc(3), hex(text)])
  const decode = extended ? nbd.decodeExtendedRequest : nbd.decodeRequest
  return decode(view(bytes), 3, request) ? request : undefined
}

t.test('a compact request', async t => {
  t.match(decoded(COMPACT, false), { flags: 1, type: 6, offset: 4096, length: 512, cookieHigh: 0x01020304, cookieLow: 0x05060708 })
  t.equal(decoded(COMPACT, true), undefined, 'E1: another magic is out of step')
})

t.test('X2: 64 bits that no Number holds lie beyond every export, and never wrap', async t => {
  const request = decoded(EXTENDED, true)!
  t.match(request, { flags: 0x22, type: 7, offset: nbd.BEYOND, length: 2 ** 32 + 512 })
  for (const [bytes, offset] of [
    ['001fffffffffffff', 2 ** 53 - 1], ['0020000000000000', nbd.BEYOND], ['ffffffffffffffff', nbd.BEYOND], ['00000000ffffffff', 2 ** 32 - 1],
  ] as const) {
    t.equal(decoded(COMPACT.replace('0000000000001000', bytes), false)!.offset, offset, bytes)
  }
})

t.test('E2 G1: replies repeat cookie and offset bit by bit', async t => {
  const echo = decoded(EXTENDED, true)!
  const out = Buffer.alloc(64)
  nbd.putExtendedChunk(view(out), 0, 1, nbd.CHUNK.none, echo, 0)
  t.equal(out.toString('hex', 0, 32), hex('6e8a278c 0001 0000 f1f2f3f4f5f6f7f8 8000000000001000 0000000000000000').toString('hex'))
  nbd.putSimpleReply(view(out), 7, 28, echo)
  t.equal(out.toString('hex', 7, 23), hex('67446698 0000001c f1f2f3f4f5f6f7f8').toString('hex'))
  t.equal(nbd.putChunk('structured', view(out), 1, 0, nbd.CHUNK.offsetData, echo, 9), 21)
  t.equal(out.toString('hex', 1, 21), hex('668e33ef 0000 0001 f1f2f3f4f5f6f7f8 00000009').toString('hex'))
})

t.test('an error chunk', async t => {
  const echo = decoded(COMPACT, false)!
  const out = Buffer.alloc(64)
  const end = nbd.putErrorChunk('structured', view(out), 2, echo, nbd.ERRNO.ENOSPC, Buffer.from('full'))
  t.equal(out.toString('hex', 2, end), hex('668e33ef 0001 8001 0102030405060708 0000000a 0000001c 0004 66756c6c').toString('hex'))
})

t.test('B2 E6: status chunks, 32 and 64 bits', async t => {
  const echo = decoded(COMPACT, false)!
  const out = Buffer.alloc(128)
  const end = nbd.putStatusChunk('structured', view(out), 0, 1, echo, 5, [4096, 512], [0, 3])
  t.equal(out.toString('hex', 0, end), hex(
    '668e33ef 0001 0005 0102030405060708 00000014 00000005 00001000 00000000 00000200 00000003').toString('hex'))
  const wide = nbd.putStatusChunk('extended', view(out), 0, 1, echo, 5, [2 ** 40], [3])
  t.equal(out.toString('hex', 32, wide), hex('00000005 00000001 0000010000000000 0000000000000003').toString('hex'))
  t.equal(out.readUInt32BE(28), nbd.statusPayloadBytes('extended', 1))
})

t.test('E5: the filter payload', async t => {
  const payload = hex('0000000000010000 00000007 00000009')
  t.strictSame(nbd.decodeStatusFilter(view(payload), 0, 16), { length: 65536, ids: [7, 9] })
  for (const bytes of [0, 4, 8, 11, 13, 15]) t.equal(nbd.decodeStatusFilter(view(payload), 0, bytes), undefined, `${bytes} bytes`)
})

t.test('what a client encodes, the server decodes', async t => {
  for (const extended of [false, true]) {
    const bytes = nbd.encodeRequest(extended, { flags: 9, type: 3, cookie: 2n ** 64n - 2n, offset: 2 ** 45 + 1, length: 7 })
    const request = new nbd.Request()
    t.ok((extended ? nbd.decodeExtendedRequest : nbd.decodeRequest)(view(bytes), 0, request))
    t.match(request, { flags: 9, type: 3, offset: 2 ** 45 + 1, length: 7, cookieHigh: -1, cookieLow: -2 })
  }
})
