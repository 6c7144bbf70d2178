// The handshake of the peer link: who is let in, who is not, with which words, and what a stranger can cost (docs/peer-link.md).
import { chmodSync, mkdtempSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { ManualClock } from '../../src/device/testing.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { connectLink } from '../../src/link/client.js'
import { makeNonce, prove, readSecret } from '../../src/link/proof.js'
import type { LinkSession } from '../../src/link/server.js'
import { parsePeerUri } from '../../src/link/uri.js'
import { SECRET, serveLink, Stranger } from './lab.js'

/** Timers of the server do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))

const nothing = (): LinkSession => ({ call: async (method, params) => ({ method, params }), close: async () => undefined })
const other = Buffer.from('another secret, as long')
const hello = (nonce: string, secret = SECRET, theirs = makeNonce()) =>
  ({ hello: 1, nonce: theirs, proof: prove(secret, 'client', [nonce, theirs]) })

t.test('both sides know the secret: calls are answered', async t => {
  const lab = await serveLink(nothing)
  const link = await connectLink({ path: lab.path }, SECRET)
  t.same(await Promise.all([link.call('a', { x: 1 }), link.call('b', {})]), [{ method: 'a', params: { x: 1 } }, { method: 'b', params: {} }])
  link.close()
  await link.ended
  await t.rejects(link.call('c', {}), { code: 'unreachable' })
  await lab.close()
})

const wrong: readonly [name: string, say: (stranger: Stranger, nonce: string) => void, error: object | undefined][] = [
  ['another secret', (stranger, nonce) => { stranger.tell(hello(nonce, other)) }, { code: 'denied', message: /secrets/ }],
  ['no proof', stranger => { stranger.tell({ hello: 1, nonce: makeNonce() }) }, { code: 'denied' }],
  ['a proof of another length', stranger => { stranger.tell({ hello: 1, nonce: makeNonce(), proof: 'ff' }) }, { code: 'denied' }],
  ['a nonce that is none', (stranger, nonce) => { stranger.tell({ ...hello(nonce), nonce: 7 }) }, { code: 'denied' }],
  ['a proof made for another greeting', stranger => { stranger.tell(hello(makeNonce())) }, { code: 'denied' }],
  ['the proof of a server', (stranger, nonce) => {
    const mine = makeNonce()
    stranger.tell({ hello: 1, nonce: mine, proof: prove(SECRET, 'server', [nonce, mine]) })
  }, { code: 'denied' }],
  ['a newer version', (stranger, nonce) => { stranger.tell({ ...hello(nonce), hello: 2 }) }, { code: 'bad-peer', message: /version 2.*version 1/ }],
  ['a call before the hello', stranger => { stranger.tell({ id: 1, method: 'forget', params: {} }) }, { code: 'bad-peer' }],
  ['a line that is too long', stranger => { stranger.say(`{${' '.repeat(70_000)}`) }, { code: 'bad-peer', message: /65536/ }],
  ['binary garbage', stranger => { stranger.say(Buffer.alloc(1000, 0xfe)) }, { code: 'bad-peer' }],
  ['a line that is no JSON', stranger => { stranger.say('{hello}\n') }, { code: 'bad-peer' }],
  ['a list', stranger => { stranger.say('{"a":1}'.replace(/./, '[') + '\n') }, { code: 'bad-peer' }],
  ['several lines at once', (stranger, nonce) => { stranger.say('{}\n{}\n{}\n'); stranger.tell(hello(nonce)) }, { code: 'bad-peer' }],
]
for (const [name, say, error] of wrong) {
  t.test(`refused: ${name}`, async t => {
    let sessions = 0
    const lab = await serveLink(() => { sessions++; return nothing() })
    const stranger = new Stranger(lab.path)
    const greeting = await stranger.hear()
    t.match(greeting, { 'nbdelta-peer': 1, nonce: /^[0-9a-f]{64}$/ })
    const began = performance.now()
    say(stranger, greeting!['nonce'] as string)
    const answer = await stranger.hear()
    t.match(answer, { error })
    if ((answer!['error'] as { code: string }).code === 'denied') t.ok(performance.now() - began > 900, 'tries are slow')
    await stranger.closed
    t.equal(sessions, 0)
    const link = await connectLink({ path: lab.path }, SECRET)
    t.ok(link, 'others are let in')
    link.close()
    await lab.close()
  })
}

t.test('who is recorded and played again is refused: the greeting has another nonce', async t => {
  const lab = await serveLink(nothing)
  const first = new Stranger(lab.path)
  const said = hello((await first.hear())!['nonce'] as string)
  first.tell(said)
  t.match(await first.hear(), { welcome: 1 })
  const again = new Stranger(lab.path)
  await again.hear()
  again.tell(said)
  t.match(await again.hear(), { error: { code: 'denied' } })
  first.end()
  await again.closed
  await lab.close()
})

t.test('a server that does not know the secret learns nothing, and is refused', async t => {
  const path = join(mkdtempSync(join(tmpdir(), 'nbdelta-link-')), 's')
  const words: ((socket: import('node:net').Socket) => void)[] = [
    socket => {
      socket.write(`{"nbdelta-peer":1,"nonce":"${makeNonce()}"}\n`)
      socket.on('data', chunk => {
        const { proof } = JSON.parse(chunk.toString()) as { proof: string }
        socket.write(`{"welcome":1,"proof":"${proof}"}\n`)
      })
    },
    socket => { socket.write(`{"nbdelta-peer":9,"nonce":"${makeNonce()}"}\n`) },
    socket => { socket.write('NBDMAGICIHAVEOPT\0\x03') },
    socket => { socket.write('HTTP/1.1 200 OK\r\n\r\n') },
    socket => { socket.end() },
    socket => { socket.write('{"nbdelta-peer":1}\n') },
  ]
  const wanted = [{ code: 'denied' }, { code: 'bad-peer', message: /version 9/ }, { code: 'bad-peer' }, { code: 'bad-peer' }, { code: 'unreachable' },
    { code: 'bad-peer' }]
  const server = createServer(socket => { socket.on('error', () => undefined); words.shift()!(socket) })
  await new Promise<void>(resolve => { server.listen(path, resolve) })
  for (const error of wanted) await t.rejects(connectLink({ path }, SECRET), error)
  server.close()
  await t.rejects(connectLink({ path: `${path}-not-there` }, SECRET), { code: 'unreachable' })
})

t.test('a slow stranger is cut off at the deadline, and only so many are waited for', async t => {
  const clock = new ManualClock()
  const lab = await serveLink(nothing, clock)
  const strangers = Array.from({ length: 16 }, () => new Stranger(lab.path))
  for (const stranger of strangers) t.ok(await stranger.hear())
  const late = new Stranger(lab.path)
  t.equal(await late.hear(), undefined, 'the seventeenth is turned away')
  await clock.advance(10_001)
  await Promise.all(strangers.map(({ closed }) => closed))
  const link = await connectLink({ path: lab.path }, SECRET)
  await clock.advance(60_000)
  t.ok(await link.call('x', {}), 'who is in stays in')
  link.close()
  await lab.close()
})

t.test('calls: errors cross with code and hint, a bug only as a bug, and what is no call ends the link', async t => {
  let closed = 0
  const lab = await serveLink(() => ({
    call: async method => {
      if (method === 'no') throw new NbdeltaError('wrong-state', 'not now', { hint: 'later' })
      if (method === 'bug') throw new Error('with a secret in it')
    },
    close: async () => { closed++ },
  }))
  const link = await connectLink({ path: lab.path }, SECRET)
  await t.rejects(link.call('no', {}), { code: 'wrong-state', message: 'the peer says: not now', hint: 'later' })
  await t.rejects(link.call('bug', {}), { code: 'internal', message: 'the peer says: a bug in nbdelta' })
  t.equal(await link.call('nothing', {}), null)
  link.close()
  const rude = new Stranger(lab.path)
  rude.tell(hello((await rude.hear())!['nonce'] as string))
  await rude.hear()
  rude.tell({ method: 'no' })
  t.match(await rude.hear(), { id: null, error: { code: 'bad-peer' } })
  await rude.closed
  await lab.close()
  t.equal(closed, 2, 'each session is told of its end')
})

t.test('a secret is at least 16 bytes in a file of its owner alone', async t => {
  const directory = t.testdir({ good: 'sixteen bytes or more\n', short: 'too short\n', open: 'sixteen bytes or more', empty: '' })
  for (const name of ['good', 'short', 'empty']) chmodSync(join(directory, name), 0o600)
  chmodSync(join(directory, 'open'), 0o640)
  t.same(await readSecret(join(directory, 'good')), SECRET)
  await t.rejects(readSecret(join(directory, 'short')), { code: 'bad-argument', hint: /urandom/ })
  await t.rejects(readSecret(join(directory, 'empty')), { code: 'bad-argument' })
  await t.rejects(readSecret(join(directory, 'open')), { code: 'denied', hint: /chmod/ })
  await t.rejects(readSecret(join(directory, 'none')), { code: 'not-found' })
  await t.rejects(readSecret(directory), { code: 'bad-argument' })
  writeFileSync(join(directory, 'long'), Buffer.alloc(5000, 65), { mode: 0o600 })
  await t.rejects(readSecret(join(directory, 'long')), { code: 'bad-argument' })
})

t.test('URIs of peers', async t => {
  t.same(parsePeerUri('nbdelta://backup.example:10810/disk%201'), { address: { host: 'backup.example', port: 10810 }, volume: 'disk 1' })
  t.same(parsePeerUri('nbdelta://[::1]:1/d'), { address: { host: '::1', port: 1 }, volume: 'd' })
  t.same(parsePeerUri('nbdelta+unix:///d?socket=/run/peer.sock'), { address: { path: '/run/peer.sock' }, volume: 'd' })
  for (const uri of ['nbdelta://h/d', 'nbdelta://h:0/d', 'nbdelta://h:70000/d', 'nbdelta://h:1/', 'nbdelta://u@h:1/d', 'nbdelta+unix:///d',
    'nbdelta+unix://h/d?socket=/x', 'nbdelta://h:1/%zz', 'nbdelta://h:1/a%00', 'nbd://h/d', 'nbdelta://h:1/d?socket=/x']) {
    t.throws(() => parsePeerUri(uri), { code: 'bad-argument' }, uri)
  }
})
