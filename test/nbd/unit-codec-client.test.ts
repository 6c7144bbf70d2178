// The client's half of the codec against the server's half and against literal bytes; cut anywhere, it never looks past the end.
import t from 'tap'
import * as nbd from '../../native-free/nbd/index.js'

const view = (bytes: Buffer): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
const payloadOf = (reply: Buffer): Buffer => reply.subarray(nbd.SIZE.optionReplyHeader)

t.test('H1: the hello', async t => {
  t.strictSame(nbd.decodeHello(nbd.encodeHello()), { oldstyle: false, flags: 3 })
  const oldstyle = Buffer.from('4e42444d4147494300004202818612530000', 'hex')
  t.strictSame(nbd.decodeHello(oldstyle), { oldstyle: true, flags: 0 })
  t.equal(nbd.decodeHello(Buffer.alloc(18)), undefined)
  t.equal(nbd.decodeHello(nbd.encodeHello().subarray(0, 17)), undefined)
  t.equal(nbd.encodeClientFlags(3).toString('hex'), '00000003')
})

t.test('option replies', async t => {
  const reply = nbd.encodeOptionReply(7, nbd.REPLY.errUnknown, 'no')
  t.strictSame(nbd.decodeOptionReplyHeader(reply), { option: 7, type: nbd.REPLY.errUnknown, length: 2 })
  t.equal(payloadOf(reply).toString(), 'no')
  t.equal(nbd.decodeOptionReplyHeader(Buffer.alloc(20)), undefined)
  t.equal(nbd.decodeOptionReplyHeader(reply.subarray(0, 19)), undefined)
})

t.test('what INFO and EXPORT_NAME tell', async t => {
  const facts = nbd.encodeInfoExport(2 ** 40 + 1, 0x8d)
  t.strictSame(nbd.decodeInfoReply(facts), { kind: 'export', sizeBytes: 2n ** 40n + 1n, flags: 0x8d })
  const sizes = nbd.encodeInfoBlockSize(512, 4096, 2 ** 25)
  t.strictSame(nbd.decodeInfoReply(sizes), { kind: 'blockSize', minimum: 512, preferred: 4096, maximum: 2 ** 25 })
  for (const whole of [facts, sizes]) {
    for (let cut = 0; cut < whole.length; cut++) t.equal(nbd.decodeInfoReply(whole.subarray(0, cut)), undefined, `cut at ${cut}`)
    t.equal(nbd.decodeInfoReply(Buffer.concat([whole, Buffer.alloc(1)])), undefined, 'a byte too many')
  }
  t.strictSame(nbd.decodeInfoReply(nbd.encodeInfoText(nbd.INFO.name, 'x')), { kind: 'other' })
  for (const padded of [true, false]) {
    t.strictSame(nbd.decodeExportNameReply(nbd.encodeExportNameReply(77, 5, padded)), { sizeBytes: 77n, flags: 5 })
  }
  t.equal(nbd.decodeExportNameReply(Buffer.alloc(9)), undefined)
})

t.test('metadata contexts', async t => {
  t.strictSame(nbd.decodeMetaContext(nbd.encodeMetaContext(9, 'a:b')), { id: 9, name: 'a:b' })
  t.equal(nbd.decodeMetaContext(Buffer.alloc(4)), undefined, 'a context without a name')
  t.equal(nbd.decodeMetaContext(Buffer.alloc(4 + 4097)), undefined, 'H5: a name beyond the limit')
})

t.test('requests: the fast encoder beside the slow one, and the server reads them', async t => {
  for (const extended of [false, true]) {
    for (const [offset, length] of [[0, 1], [2 ** 53 - 2, 2 ** 32 - 1], [2 ** 45 + 1, 7]]) {
      const header = { flags: 9, type: 3, cookieHigh: -1, cookieLow: 77, offset, length }
      const out = Buffer.alloc(40)
      const end = nbd.putRequest(view(out), 5, extended, header)
      const slow = nbd.encodeRequest(extended, { ...header, cookie: (0xffffffffn << 32n) + 77n })
      t.equal(out.toString('hex', 5, end), slow.toString('hex'))
    }
  }
})

t.test('reply headers: what the server writes', async t => {
  const echo = { cookieHigh: 0x01020304, cookieLow: -5, offsetHigh: 0x100, offsetLow: 0x1000 }
  const out = Buffer.alloc(64)
  const header = new nbd.ReplyHeader()
  nbd.putSimpleReply(view(out), 3, 28, echo)
  t.equal(nbd.replyHeaderBytes(view(out), 3), 16)
  nbd.decodeReplyHeader(view(out), 3, header)
  t.match(header, { simple: true, errno: 28, cookieHigh: 0x01020304, cookieLow: -5, length: 0 })
  for (const style of ['structured', 'extended'] as const) {
    nbd.putChunk(style, view(out), 3, 1, nbd.CHUNK.offsetHole, echo, 12)
    t.equal(nbd.replyHeaderBytes(view(out), 3), nbd.chunkHeaderBytes(style))
    nbd.decodeReplyHeader(view(out), 3, header)
    t.match(header, { simple: false, flags: 1, type: nbd.CHUNK.offsetHole, cookieHigh: 0x01020304, cookieLow: -5, length: 12 })
    if (style === 'extended') t.equal(header.offset, 0x100 * 2 ** 32 + 0x1000)
  }
  t.equal(nbd.replyHeaderBytes(view(Buffer.alloc(4)), 0), 0)
  nbd.putU64(view(out), 0, 2 ** 53 - 1)
  t.equal(nbd.getU64(view(out), 0), 2 ** 53 - 1)
  t.equal(nbd.getU64(view(Buffer.alloc(8, 0xff)), 0), nbd.BEYOND)
})

t.test('an error chunk', async t => {
  const out = Buffer.alloc(64)
  const end = nbd.putErrorChunk('structured', view(out), 0, { cookieHigh: 0, cookieLow: 0, offsetHigh: 0, offsetLow: 0 }, 28, Buffer.from('full'))
  const payload = out.subarray(nbd.SIZE.structuredChunk, end)
  t.strictSame(nbd.decodeErrorPayload(payload), { errno: 28, text: Buffer.from('full'), restBytes: 0 })
  for (let cut = 0; cut < payload.length; cut++) t.equal(nbd.decodeErrorPayload(payload.subarray(0, cut)), undefined)
  t.equal(nbd.decodeErrorPayload(Buffer.concat([payload, Buffer.alloc(8)]))!.restBytes, 8)
})
