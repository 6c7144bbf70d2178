// O6 C1: the handshake codec: what goes in comes out, and no inner length is ever believed past the option's end.
import t from 'tap'
import * as nbd from '../../native-free/nbd/index.js'

t.test('H1: the hello is 18 bytes with exactly two flags', async t => {
  t.equal(nbd.encodeHello().toString('hex'), '4e42444d4147494349484156454f50540003')
})

t.test('O4: an option header', async t => {
  const bytes = nbd.encodeOption(nbd.OPTION.go, Buffer.from('abc'))
  t.strictSame(nbd.decodeOptionHeader(bytes, 0), { option: 7, length: 3 })
  t.equal(nbd.decodeOptionHeader(Buffer.alloc(16), 0), undefined)
})

t.test('INFO and GO', async t => {
  const data = nbd.encodeInfoRequest('disk', [3, 1, 99])
  const { name, infos } = nbd.decodeInfoRequest(data)!
  t.equal(name.toString(), 'disk')
  t.strictSame(infos, [3, 1, 99])
  for (let cut = 0; cut < data.length; cut++) t.equal(nbd.decodeInfoRequest(data.subarray(0, cut)), undefined, `cut at ${cut}`)
  t.equal(nbd.decodeInfoRequest(Buffer.concat([data, Buffer.alloc(1)])), undefined, 'a byte too many')
  const liar = Buffer.from(data)
  liar.writeUInt32BE(0xffffffff, 0)
  t.equal(nbd.decodeInfoRequest(liar), undefined, 'a name of 4 GiB')
})

t.test('LIST and SET META_CONTEXT', async t => {
  const data = nbd.encodeMetaRequest('disk', ['base:allocation', '', 'qemu:'])
  const { name, queries } = nbd.decodeMetaRequest(data) as { name: Buffer, queries: Buffer[] }
  t.equal(name.toString(), 'disk')
  t.strictSame(queries.map(String), ['base:allocation', '', 'qemu:'])
  for (let cut = 0; cut < data.length; cut++) t.equal(nbd.decodeMetaRequest(data.subarray(0, cut)), undefined, `cut at ${cut}`)
  t.equal(nbd.decodeMetaRequest(Buffer.concat([data, Buffer.alloc(1)])), undefined, 'a byte too many')
  const many = nbd.encodeMetaRequest('', [])
  many.writeUInt32BE(0xffffffff, 4)
  t.equal(nbd.decodeMetaRequest(many), undefined, '2^32 - 1 queries cost nothing')
})

t.test('replies', async t => {
  t.equal(nbd.encodeOptionReply(7, nbd.REPLY.errUnknown, 'no').toString('hex'), '0003e889045565a90000000780000006000000026e6f')
  t.equal(nbd.encodeInfoExport(4096, 0x8d).toString('hex'), '00000000000000001000008d')
  t.equal(nbd.encodeInfoBlockSize(1, 4096, 2 ** 25).toString('hex'), '0003000000010000100002000000')
  t.equal(nbd.encodeInfoText(nbd.INFO.name, 'ü').toString('hex'), '0001c3bc')
  t.equal(nbd.encodeInfoText(nbd.INFO.description, 'x'.repeat(5000)).length, 2 + nbd.MAX_STRING_BYTES, 'H5')
  t.equal(nbd.encodeServerEntry('a', 'bc').toString('hex'), '00000001616263')
  t.equal(nbd.encodeMetaContext(9, 'a:b').toString('hex'), '00000009613a62')
})

t.test('H3: the answer to EXPORT_NAME', async t => {
  t.equal(nbd.encodeExportNameReply(2 ** 40, 1, false).toString('hex'), '00000100000000000001')
  t.equal(nbd.encodeExportNameReply(2 ** 40, 1, true).length, 134)
})
