// The socket file: mode 0600 from birth, a killed server's is replaced, a live server's and anything else is refused.
import { spawnSync } from 'node:child_process'
import { existsSync, lstatSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { connectControl } from '../../src/control/client.js'
import { createControlServer } from '../../src/control/server.js'
import { systemClock } from '../../src/device/clock.js'
import { silentLogger } from '../../src/device/logger.js'
import { FakeAdmin } from './fake-admin.js'
import { startControl, temporaryFolder } from './socket.js'
import type { ControlServer } from '../../src/control/server.js'

const open = (path: string): Promise<ControlServer> =>
  createControlServer({ path, admin: new FakeAdmin().admin, clock: systemClock, logger: silentLogger })

t.test('mode 0600 whatever the umask', async t => {
  const before = process.umask(0)
  t.teardown(() => { process.umask(before) })
  const { path } = await startControl(t)
  t.equal(lstatSync(path).mode & 0o777, 0o600)
  t.equal(process.umask(), 0, 'the umask is as it was')
})

t.test('a live server is not replaced', async t => {
  const { path } = await startControl(t)
  await t.rejects(open(path), { code: 'busy', message: /another server answers/ })
  const client = await connectControl(path)
  t.match(await client.call('status', {}), { state: 'serving' })
  client.close()
})

t.test('the socket of a killed server is replaced', async t => {
  const path = join(temporaryFolder(t), 'c.sock')
  spawnSync(process.execPath, ['-e',
    `require('net').createServer().listen(process.argv[1], () => process.kill(process.pid, 'SIGKILL'))`, path])
  t.ok(existsSync(path), 'the file is left over')
  await t.rejects(connectControl(path), { code: 'unreachable', message: /no server answers/ })
  const server = await open(path)
  const client = await connectControl(path)
  t.match(await client.call('status', {}), {})
  client.close()
  await server.close()
  await server.close()
  t.notOk(existsSync(path), 'close takes it away')
})

t.test('what is no socket is left alone', async t => {
  const folder = temporaryFolder(t)
  const file = join(folder, 'file')
  writeFileSync(file, 'precious')
  await t.rejects(open(file), { code: 'exists', message: /no socket/ })
  mkdirSync(join(folder, 'dir'))
  await t.rejects(open(join(folder, 'dir')), { code: 'exists' })
  await t.rejects(open(join(folder, 'none', 'c.sock')), { name: 'NbdeltaError' })
  await t.rejects(open(join(folder, 'x'.repeat(120))), { code: 'bad-argument', message: /the system allows 107/ })
  await t.rejects(connectControl(join(folder, 'none')), { code: 'unreachable', hint: /nbdelta serve/ })
})
