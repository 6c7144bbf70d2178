// T1 T2: addresses: socket files with their mode, stale and living ones, TCP with its port; and the URIs of section 16.
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer as createNetServer, Server } from 'node:net'
import { once } from 'node:events'
import { spawnSync } from 'node:child_process'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { createServer } from '../../src/nbd/server.js'
import { nbdUri } from '../../src/nbd/uri.js'

const folder = mkdtempSync(join(tmpdir(), 'nbdelta-listen-'))
t.teardown(() => rmSync(folder, { recursive: true }))
const exports = { disk: new MemoryDisk(4096) }

t.test('a socket file is for its owner alone unless said otherwise, and goes with the server', async t => {
  const path = join(folder, 'mode')
  for (const [mode, wanted] of [[undefined, 0o600], [0o660, 0o660]] as const) {
    const server = await createServer({ exports, listen: [mode === undefined ? { path } : { path, mode }] })
    t.equal(statSync(path).mode & 0o777, wanted)
    await server.close()
    t.throws(() => statSync(path))
  }
})

t.test('a socket file that a killed server left behind is replaced', async t => {
  const path = join(folder, 'stale')
  spawnSync(process.execPath, ['-e', `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`])
  t.ok(statSync(path).isSocket())
  const server = await createServer({ exports, listen: { path } })
  t.strictSame(server.addresses, [{ path }])
  await server.close()
})

t.test('a living server, a plain file, a taken port: busy, and nothing of the others stays open', async t => {
  const living = createNetServer().listen(join(folder, 'living'))
  await once(living, 'listening')
  writeFileSync(join(folder, 'file'), 'precious')
  const free = { path: join(folder, 'free') }
  for (const name of ['living', 'file']) {
    await t.rejects(createServer({ exports, listen: [free, { path: join(folder, name) }] }), { code: 'busy' }, name)
    t.throws(() => statSync(free.path))
  }
  await new Promise((resolve) => { living.close(resolve) })
  t.equal(statSync(join(folder, 'file')).size, 8)
  const first = await createServer({ exports, listen: { host: '127.0.0.1', port: 0 } })
  const [taken] = first.addresses
  t.ok(taken && 'port' in taken && taken.port > 0)
  await t.rejects(createServer({ exports, listen: taken! }), { code: 'busy' })
  await first.close()
})

t.test('S6: an accept that fails (no descriptors or memory left) is logged, and the server goes on', async t => {
  const logged: string[] = []
  const note = (_facts: object, text: string): void => { logged.push(text) }
  const logger = { debug: note, info: note, warn: note, error: note }
  const server = await createServer({ exports, listen: { path: join(folder, 'accept') }, logger })
  const { _getActiveHandles } = process as unknown as { _getActiveHandles(): unknown[] }
  const listening = _getActiveHandles().filter((handle): handle is Server => handle instanceof Server && handle.listening)
  t.equal(listening.length, 1)
  for (const one of listening) one.emit('error', Object.assign(new Error('accept ENFILE'), { code: 'ENFILE' }))
  t.match(logged.join(), /accept/)
  t.equal(server.status, 'serving')
  await server.close()
})

t.test('URIs', async t => {
  t.equal(nbdUri({ path: '/run/a b/s.sock' }, 'my disk'), 'nbd+unix:///my%20disk?socket=/run/a%20b/s.sock')
  t.equal(nbdUri({ path: '/s' }, ''), 'nbd+unix:///?socket=/s')
  t.equal(nbdUri({ host: '127.0.0.1', port: 10809 }, 'a/b'), 'nbd://127.0.0.1/a%2Fb')
  t.equal(nbdUri({ host: '::1', port: 7 }, 'x'), 'nbd://[::1]:7/x')
  t.equal(nbdUri({ host: '0.0.0.0', port: 10809 }, 'x'), 'nbd://localhost/x')
})
