// The control socket against peers of every kind: garbage, halves, floods, slow readers. Nobody harms another connection.
import t from 'tap'
import { REQUEST_BYTES_MAX } from '../../src/control/rpc.js'
import { RawPeer, startControl } from './socket.js'

const status = (id: unknown): string => `${JSON.stringify({ jsonrpc: '2.0', id, method: 'status', params: {} })}\n`
const request = (id: number, method: string, params: object): string =>
  `${JSON.stringify({ jsonrpc: '2.0', id, method, params })}\n`

t.test('garbage is answered, and the connection lives on', async t => {
  const { path } = await startControl(t)
  const peer = new RawPeer(path)
  t.teardown(() => { peer.close() })
  const rows: readonly [string, number, unknown][] = [
    ['hello\n', -32700, null], ['{"jsonrpc":"2.0"\n', -32700, null], ['\u0000\u0001\n', -32700, null], ['[]\n', -32600, null],
    [`[${status(1).trim()}]\n`, -32600, null], ['1\n', -32600, null], ['null\n', -32600, null], ['"x"\n', -32600, null],
      ['{}\n', -32600, null],
    ['{"jsonrpc":"1.0","id":7,"method":"status"}\n', -32600, 7], ['{"jsonrpc":"2.0","id":{},"method":"status"}\n', -32600, null],
    ['{"jsonrpc":"2.0","id":8,"method":5}\n', -32600, 8], ['{"jsonrpc":"2.0","id":9,"method":"status","params":[1]}\n', -32602,
      9],
    ['{"jsonrpc":"2.0","id":"a","method":"no.such"}\n', -32601, 'a'],
      ['{"jsonrpc":"2.0","id":2,"method":"__proto__"}\n', -32601, 2],
    ['{"jsonrpc":"2.0","id":3,"method":"constructor"}\n', -32601, 3], ['{"jsonrpc":"2.0","id":4,"method":"serve"}\n', -32601, 4],
  ]
  for (const [line, code, id] of rows) {
    peer.send(line)
    const answer = await peer.next()
    t.equal(answer?.error?.code, code, line.trim())
    t.equal(answer?.id, id)
  }
  peer.send('\n  \n{"jsonrpc":"2.0","method":"volume.delete","params":{"name":"x"}}\n')
  peer.send(status('alive'))
  t.match(await peer.next(), { id: 'alive', result: { state: 'serving' } }, 'empty lines and notifications are passed over')
})

t.test('parameters are judged, the first wrong one is named', async t => {
  const { path } = await startControl(t)
  const peer = new RawPeer(path)
  t.teardown(() => { peer.close() })
  const rows: readonly [string, object, RegExp][] = [
    ['volume.create', {}, /volume.create: name:/], ['volume.create', { name: 'a', size: 'huge' }, /size: 'huge' is not a size/],
    ['volume.create', { name: 'a', size: -1 }, /size/], ['volume.create', { name: 'a', size: 1.5 }, /size/],
      ['volume.create', { name: 'a', size: '8PiB' }, /too large/],
    ['volume.create', { name: 'a', size: 512, grain: 5000 }, /grain/], ['volume.create', { name: '', size: 512 }, /name/],
    ['volume.create', { name: 'a', size: 512, colour: 'red' }, /colour/], ['volume.create', { name: 1, size: 512 }, /name/],
    ['volume.create', { name: 'a', size: 512, ifNotExists: 'yes' }, /ifNotExists/],
      ['volume.create', { name: 'a', size: 512, description: 'x'.repeat(2000) }, /description/],
    ['volume.resize', { name: 'a' }, /size/], ['export.kick', { name: 'a', how: 'gently' }, /how/],
      ['job.show', { id: 'x' }, /id/],
    ['client.kick', { id: -1 }, /id/], ['volume.import', { name: 'a', path: '' }, /path/],
      ['volume.list', { quiet: true }, /quiet/],
  ]
  for (const [index, [method, params, message]] of rows.entries()) {
    peer.send(request(index, method, params))
    t.match(await peer.next(), { id: index, error: { code: -32002, message, data: { code: 'bad-argument', exit: 2 } } },
      `${method} ${JSON.stringify(params).slice(0, 60)}`)
  }
  peer.send(request(99, 'volume.create', { name: 'a', size: '1GiB' }))
  t.match(await peer.next(), { id: 99, result: { sizeBytes: 2 ** 30, grainBytes: 4096, description: '' } },
    'sizes may come as text, defaults are filled in')
})

t.test('errors carry code, exit and hint; the text of a bug stays inside', async t => {
  const { path } = await startControl(t)
  const peer = new RawPeer(path)
  t.teardown(() => { peer.close() })
  peer.send(request(1, 'volume.show', { name: 'none' }))
  t.match(await peer.next(), { error: { code: -32003, data: { code: 'not-found', exit: 3, hint: 'see: nbdelta volume list' } } })
  peer.send(request(2, 'client.kick', { id: 1 }))
  const bug = await peer.next()
  t.match(bug, { error: { code: -32603, data: { code: 'internal', exit: 1 } } })
  t.notMatch(JSON.stringify(bug), /secret/)
  peer.send(status(3))
  t.match(await peer.next(), { id: 3, result: {} }, 'the connection lives')
})

t.test('a line may come in any pieces', async t => {
  const { path } = await startControl(t)
  const peer = new RawPeer(path)
  t.teardown(() => { peer.close() })
  for (const byte of Buffer.from(status(1))) {
    peer.send(Buffer.from([byte]))
    await new Promise(resolve => { setImmediate(resolve) })
  }
  t.match(await peer.next(), { id: 1, result: {} })
  peer.send(status(2) + status(3) + status(4).slice(0, 10))
  t.match(await peer.next(), { id: 2 })
  t.match(await peer.next(), { id: 3 })
  peer.send(status(4).slice(10))
  t.match(await peer.next(), { id: 4 })
})

t.test('a line over the limit ends its connection, and only that', async t => {
  const { path } = await startControl(t)
  const good = new RawPeer(path)
  const peer = new RawPeer(path)
  t.teardown(() => { good.close(); peer.close() })
  peer.send('x'.repeat(REQUEST_BYTES_MAX + 1))
  t.match(await peer.next(), { id: null, error: { code: -32600, message: /65536 bytes/, data: { code: 'too-large' } } })
  t.equal(await peer.next(), undefined, 'the connection is closed')
  good.send(status(1))
  t.match(await good.next(), { id: 1, result: {} })
  good.send(`${' '.repeat(REQUEST_BYTES_MAX - 200)}${status(2)}`)
  t.match(await good.next(), { id: 2, result: {} }, 'a line just below it is served')
})

t.test('a peer that half-closes gets its answers', async t => {
  const { path } = await startControl(t)
  const peer = new RawPeer(path)
  peer.socket.end(status(1) + status(2))
  t.match(await peer.next(), { id: 1, result: {} })
  t.match(await peer.next(), { id: 2, result: {} })
  t.equal(await peer.next(), undefined, 'then the server closes as well')
})

t.test('a half line and a disconnect leave nothing behind', async t => {
  const { path } = await startControl(t)
  for (let round = 0; round < 50; round++) {
    const peer = new RawPeer(path)
    peer.send(status(1).slice(0, round))
    peer.close()
  }
  const peer = new RawPeer(path)
  t.teardown(() => { peer.close() })
  peer.send(status(1))
  t.match(await peer.next(), { id: 1, result: {} })
})

t.test('many clients at once; above the limit they are told so', async t => {
  const { path } = await startControl(t)
  const peers = Array.from({ length: 128 }, () => new RawPeer(path))
  t.teardown(() => { for (const peer of peers) peer.close() })
  for (const [index, peer] of peers.entries()) peer.send(status(index))
  for (const [index, peer] of peers.entries()) t.equal((await peer.next())?.id, index)
  const extra = new RawPeer(path)
  peers.push(extra)
  t.match(await extra.next(), { id: null, error: { data: { code: 'busy' } } })
  t.equal(await extra.next(), undefined)
  peers[0]!.close()
  await new Promise(resolve => { setTimeout(resolve, 20) })
  const late = new RawPeer(path)
  peers.push(late)
  late.send(status('late'))
  t.match(await late.next(), { id: 'late', result: {} }, 'room again')
})

t.test('a peer that floods and never reads is not read any further, and harms nobody', async t => {
  const { path, fake } = await startControl(t)
  for (let index = 0; index < 200; index++) {
    await fake.admin.createVolume({ name: `v${index}`, sizeBytes: 1, grainBytes: 4096, backing: undefined,
      description: 'd'.repeat(1000), ifNotExists: false })
  }
  const flood = new RawPeer(path)
  const good = new RawPeer(path)
  t.teardown(() => { flood.close(); good.close() })
  flood.socket.pause()
  const lines = request(1, 'volume.list', {}).repeat(100)
  for (let round = 0; round < 200; round++) flood.send(lines)
  const before = process.memoryUsage().rss
  for (let round = 0; round < 50; round++) {
    good.send(status(round))
    t.equal((await good.next())?.id, round)
  }
  await new Promise(resolve => { setTimeout(resolve, 300) })
  t.ok(flood.socket.writableLength > 0, 'the server has stopped reading')
  const grown = process.memoryUsage().rss - before
  // 20,000 answers of 250 kB would be 5 GB; what may be held is 32 answers of one connection.
  t.ok(grown < 64 * 1024 * 1024, `memory grew by ${grown} bytes`)
})
