// A volume that lives in an export of a real server: what kills on either side leave, and that clients are told instead of hanging.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { ServerProcess } from '../../scripts/bench/server-process.js'
import { InteropServer } from '../../scripts/interop/server.js'
import { $, lacking, until } from '../../scripts/interop/tools.js'
import { PEERS } from './mirror-peers.js'
import { WireClient } from './wire-client.js'

const MIB = 2 ** 20
const SIZE_MIB = 64

t.setTimeout(300_000)
t.jobs = 2

/** Rejects if a command fails or a pattern is not there. */
const io = (uri: string, ...commands: string[]) => $`qemu-io -f raw ${commands.flatMap(command => ['-c', command])} ${uri}`
const ioReadOnly = (uri: string, ...commands: string[]) => $`qemu-io -r -f raw ${commands.flatMap(command => ['-c', command])} ${uri}`
const fails = (uri: string, command: string) => $({ nothrow: true, timeout: 60_000 })`qemu-io -f raw -c ${command} ${uri}`
const compare = (one: string, other: string) => $({ nothrow: true })`qemu-img compare -f raw -F raw ${one} ${other}`
const show = async (server: InteropServer): Promise<{ problem: string | null, backing: string }> =>
  JSON.parse(await server.nbdelta('volume', 'show', 'far', '--json')) as { problem: string | null, backing: string }

for (const kind of PEERS.filter(({ name }) => name !== 'a volume of the same store')) {
  t.test(`${kind.name}: snapshot, restore, kill -9 of our server`, { skip: lacking('qemu-io', 'qemu-img', ...kind.tools) }, async t => {
    const server = await InteropServer.start()
    t.teardown(() => server.close())
    const peer = await kind.start(server, SIZE_MIB)
    t.teardown(() => peer.close())
    await io(peer.uri, 'write -P 1 0 4M', 'flush')
    await server.nbdelta('volume', 'create', 'far', '--backing', peer.uri)
    t.match(await compare(peer.uri, server.uri('far')), { stdout: /identical/ }, 'adopted as it is')
    await io(server.uri('far'), 'read -P 1 0 4M', 'write -P 2 1M 1M', 'write -P 3 30M 65536', 'flush')
    await server.nbdelta('snapshot', 'create', 'far', 's')
    await io(server.uri('far'), 'write -P 4 0 1M', 'write -P 5 30M 4096', 'write -P 6 40M 1M')
    // Answered, not flushed: the other server has them.
    await server.kill()
    await server.serve()
    t.equal((await show(server)).problem, null)
    await io(server.uri('far'), 'read -P 4 0 1M', 'read -P 2 1M 1M', 'read -P 1 2M 2M', 'read -P 5 30M 4096', 'read -P 3 31461376 61440', 'read -P 6 40M 1M')
    await ioReadOnly(server.uri('far@s'), 'read -P 1 0 1M', 'read -P 2 1M 1M', 'read -P 3 30M 65536', 'read -P 0 40M 1M')
    await server.nbdelta('snapshot', 'restore', 'far', 's')
    await server.kill()
    await server.serve()
    await io(server.uri('far'), 'read -P 1 0 1M', 'read -P 2 1M 1M', 'read -P 3 30M 65536', 'read -P 0 40M 1M')
    await io(server.uri('far'), 'write -z 2M 1M', 'discard 3M 1M', 'read -P 0 2M 1M', 'flush')
    await server.nbdelta('snapshot', 'delete', 'far', 's')
    for (const name of (await server.nbdelta('snapshot', 'list', 'far', '--quiet')).split('\n').filter(Boolean)) {
      await server.nbdelta('snapshot', 'delete', 'far', name)
    }
    await server.terminate()
    await io(peer.uri, 'read -P 1 0 1M', 'read -P 2 1M 1M', 'read -P 0 2M 1M', 'read -P 3 30M 65536', 'read -P 0 40M 1M')
  })
}

/** nbdkit on a socket, to be killed and started again. */
class Kit {
  readonly socket: string
  readonly file: string
  #child: ChildProcess | undefined

  constructor(folder: string) { [this.socket, this.file] = [join(folder, 'kit.sock'), join(folder, 'kit.img')] }

  get uri(): string { return `nbd+unix:///?socket=${this.socket}` }

  async start(...filter: string[]): Promise<void> {
    rmSync(this.socket, { force: true })
    this.#child = spawn('nbdkit', ['-f', '-U', this.socket, ...filter.slice(0, 1), 'file', this.file, ...filter.slice(1)], { stdio: 'ignore' })
    await until('nbdkit', 15_000, async () => (await $({ nothrow: true })`nbdinfo --size ${this.uri}`).exitCode === 0)
  }

  async kill(): Promise<void> {
    if (!this.#child || this.#child.exitCode !== null || this.#child.signalCode !== null) return
    this.#child.kill('SIGKILL')
    await once(this.#child, 'exit')
  }
}

async function withKit(t: { teardown(callback: () => unknown): unknown }): Promise<{ server: InteropServer, kit: Kit }> {
  const server = await InteropServer.start({ name: 'near', size: '1MiB' })
  t.teardown(() => server.close())
  const kit = new Kit(server.dir)
  t.teardown(() => kit.kill())
  await $`truncate -s ${SIZE_MIB}M ${kit.file}`
  await kit.start()
  await server.nbdelta('volume', 'create', 'far', '--backing', kit.uri)
  return { server, kit }
}

const skip = lacking('nbdkit', 'nbdinfo', 'qemu-io')

t.test('the other server is killed: EIO, no hang, others are served; back again by itself when nothing was in doubt', { skip }, async t => {
  const { server, kit } = await withKit(t)
  await io(server.uri('far'), 'write -P 1 0 1M', 'flush')
  await kit.kill()
  const begun = Date.now()
  const [read, write] = await Promise.all([fails(server.uri('far'), 'read 0 4096'), fails(server.uri('far'), 'write 0 4096')])
  t.match(read.stdout + read.stderr, /read failed: Input\/output error/)
  t.match(write.stdout + write.stderr, /write failed: Input\/output error/)
  t.ok(Date.now() - begun < 40_000, `told after ${Date.now() - begun} ms`)
  await io(server.uri('near'), 'write -P 9 0 4096', 'flush')
  await kit.start()
  await until('it to be back', 30_000, async () => (await fails(server.uri('far'), 'read -P 1 0 1M')).exitCode === 0)
  await io(server.uri('far'), 'write -P 2 0 1M', 'flush', 'read -P 2 0 1M')
})

t.test('killed with answered writes that no flush had covered: FLUSH fails until the volume is opened anew (D7)', { skip }, async t => {
  const { server, kit } = await withKit(t)
  const client = await WireClient.connect(server.socketPath, 'far')
  await client.write(0, Buffer.alloc(65_536, 120))
  await kit.kill()
  await kit.start()
  await until('it to be back', 30_000, async () => (await fails(server.uri('far'), 'read 0 4096')).exitCode === 0)
  for (let i = 0; i < 2; i++) await t.rejects(client.flush(), { name: 'WireError', errno: 5 })
  await client.write(65_536, Buffer.alloc(4096, 121))
  await t.rejects(server.nbdelta('volume', 'reopen', 'far'), /1 client is attached/)
  await client.disconnect()
  await until('clients to go', 10_000, async () => !(await server.nbdelta('client', 'list')).includes('far'))
  await server.nbdelta('volume', 'reopen', 'far')
  await io(server.uri('far'), 'read -P 120 0 65536', 'read -P 121 65536 4096', 'write -P 3 0 1M', 'flush', 'read -P 3 0 1M')
})

t.test('away at the start: listed with its problem, the others are served; opened anew when it is there', { skip }, async t => {
  const { server, kit } = await withKit(t)
  await io(server.uri('far'), 'write -P 1 0 1M', 'flush')
  await server.terminate()
  await kit.kill()
  await server.serve()
  t.match(await show(server), { problem: /far.*cannot be opened/, backing: kit.uri })
  t.match(JSON.parse(await server.nbdelta('status', '--json')), { volumesBroken: 1 })
  await io(server.uri('near'), 'write -P 9 0 4096', 'flush')
  await t.rejects(server.nbdelta('volume', 'reopen', 'far'), /cannot be opened/)
  await kit.start()
  await server.nbdelta('volume', 'reopen', 'far')
  await io(server.uri('far'), 'read -P 1 0 1M', 'write -P 2 0 1M', 'flush')
})

t.test('an export without FLUSH is refused: nothing on it could be promised', { skip: lacking('nbd-server', 'nbdinfo') }, async t => {
  const server = await InteropServer.start()
  t.teardown(() => server.close())
  const [file, socket, config] = ['plain.img', 'plain.sock', 'plain.conf'].map(name => join(server.dir, name)) as [string, string, string]
  await $`truncate -s ${SIZE_MIB}M ${file}`
  writeFileSync(config, `[generic]\nunixsock = ${socket}\n[disk]\nexportname = ${file}\n`)
  const { server: plain } = await ServerProcess.start('plain', ['nbd-server', '-C', config, '-p', join(server.dir, 'plain.pid')], server.dir, { path: socket })
  t.teardown(() => plain.stop())
  const uri = `nbd+unix:///disk?socket=${socket}`
  await t.rejects(server.nbdelta('volume', 'create', 'far', '--backing', uri), /offers no FLUSH/)
  await server.nbdelta('volume', 'import', 'copy', uri)
})

t.test('a server that takes requests and never answers: a write ends by its deadline', { skip }, async t => {
  const { server, kit } = await withKit(t)
  await kit.kill()
  await kit.start('--filter=delay', 'delay-write=600')
  const client = await WireClient.connect(server.socketPath, 'far')
  t.teardown(() => client.disconnect())
  const begun = Date.now()
  await t.rejects(client.write(0, Buffer.alloc(4096)), { name: 'WireError', errno: 5 })
  t.ok(Date.now() - begun < 40_000, `after ${Date.now() - begun} ms`)
  await client.read(0, 4096)
})

t.test('a circle over a second server is not seen, and ends by a deadline', { skip: lacking('qemu-io') }, async t => {
  const one = await InteropServer.start({ name: 'a', size: '4MiB' })
  t.teardown(() => one.close())
  const two = await InteropServer.start()
  t.teardown(() => two.close())
  await two.nbdelta('volume', 'create', 'b', '--backing', one.tcpUri('a'))
  await one.nbdelta('volume', 'delete', 'a', '--force')
  await one.nbdelta('volume', 'create', 'other', '--size', '4MiB')
  await t.rejects(one.nbdelta('volume', 'create', 'a', '--backing', one.tcpUri('other')), /export of this server itself/)
  await one.nbdelta('volume', 'create', 'a', '--backing', two.tcpUri('b'))
  const client = await WireClient.connect(one.socketPath, 'a')
  t.teardown(() => client.disconnect())
  // Until the second server has found the first one's new volume, nobody is there to go round.
  await until('the circle to close', 30_000, async () => (await two.nbdelta('client', 'list')).includes('b') && (await one.nbdelta('client', 'list')).includes('127'))
  const begun = Date.now()
  await t.rejects(client.write(0, Buffer.alloc(4096)), { name: 'WireError', errno: 5 })
  t.ok(Date.now() - begun < 60_000, `after ${Date.now() - begun} ms`)
  await io(one.uri('other'), `write -P 1 0 ${MIB}`, 'flush')
  await one.nbdelta('volume', 'delete', 'a', '--force')
})
