// Volumes filled from exports of real servers, and written back to them: what lies there and here is alike.
import t from 'tap'
import { InteropServer } from '../../scripts/interop/server.js'
import { $, lacking } from '../../scripts/interop/tools.js'
import { PEERS } from './mirror-peers.js'

const SIZE_MIB = 64

t.setTimeout(300_000)

/** Rejects if a command fails or a pattern is not there. */
const io = (uri: string, ...commands: string[]) => $`qemu-io -f raw ${commands.flatMap(command => ['-c', command])} ${uri}`
const compare = (one: string, other: string) => $({ nothrow: true })`qemu-img compare -f raw -F raw ${one} ${other}`

for (const kind of PEERS.filter(({ name }) => name !== 'a volume of the same store')) {
  t.test(kind.name, { skip: lacking('qemu-io', 'qemu-img', ...kind.tools) }, async t => {
    const server = await InteropServer.start()
    t.teardown(() => server.close())
    const peer = await kind.start(server, SIZE_MIB)
    t.teardown(() => peer.close())
    await io(peer.uri, 'write -P 1 0 3M', 'write -P 2 20M 65536', 'write -P 3 41943552 512', 'write -z 1M 1M', 'flush')
    await server.nbdelta('volume', 'import', 'copy', peer.uri)
    t.match(await compare(peer.uri, server.uri('copy')), { exitCode: 0, stdout: /identical/ }, 'imported')
    const { mappedBytes } = JSON.parse(await server.nbdelta('volume', 'show', 'copy', '--json')) as { mappedBytes: number }
    t.ok(mappedBytes < 4 * 2 ** 20, `zeros take no space: ${mappedBytes} bytes are mapped`)

    await io(server.uri('copy'), 'write -P 4 10M 2M', 'write -z -u 0 3M', 'write -P 5 63M 1M')
    await server.nbdelta('volume', 'export', 'copy', peer.uri, '--overwrite')
    t.match(await compare(peer.uri, server.uri('copy')), { exitCode: 0, stdout: /identical/ }, 'exported')

    await io(peer.uri, 'write -P 6 5M 1M', 'write -z 10M 1M', 'flush')
    await server.nbdelta('volume', 'import', 'copy', peer.uri, '--overwrite')
    t.match(await compare(peer.uri, server.uri('copy')), { exitCode: 0, stdout: /identical/ }, 'imported over old content')
  })
}

// It ends with its first client: judging and copying must be one connection.
t.test('qemu-nbd for one client only', { skip: lacking('qemu-nbd', 'qemu-img') }, async t => {
  const server = await InteropServer.start()
  t.teardown(() => server.close())
  const [file, socket] = [`${server.dir}/once.img`, `${server.dir}/once.sock`]
  await $`truncate -s ${SIZE_MIB}M ${file}`
  await io(file, 'write -P 7 9M 1M')
  await $`qemu-nbd --fork -r -f raw -k ${socket} ${file}`
  await server.nbdelta('volume', 'import', 'copy', `nbd+unix:///?socket=${socket}`)
  t.match(await compare(file, server.uri('copy')), { exitCode: 0, stdout: /identical/ })
})

t.test('what a mirror had sent to a plain target is taken back, and the pair goes on', { skip: lacking('nbdkit', 'qemu-io', 'qemu-img') }, async t => {
  const server = await InteropServer.start({ name: 'disk', size: `${SIZE_MIB}MiB` })
  t.teardown(() => server.close())
  const peer = await PEERS.find(({ name }) => name === 'nbdkit file')!.start(server, SIZE_MIB)
  t.teardown(() => peer.close())
  await io(server.uri('disk'), 'write -P 1 0 3M', 'flush')
  await server.nbdelta('mirror', 'create', 'm', 'disk', peer.target, '--interval', '1h')
  await server.nbdelta('mirror', 'sync', 'm')
  await server.nbdelta('mirror', 'split', 'm')
  await io(peer.uri, 'write -P 2 1M 1M', 'flush')
  await io(server.uri('disk'), 'write -P 3 30M 1M', 'flush')
  await server.nbdelta('mirror', 'resync', 'm', '--reverse')
  t.match(await compare(peer.uri, server.uri('disk')), { exitCode: 0, stdout: /identical/ })
  await io(server.uri('disk'), 'read -P 2 1M 1M', 'read -P 0 30M 1M')
  await server.nbdelta('mirror', 'sync', 'm')
  t.match(JSON.parse(await server.nbdelta('mirror', 'show', 'm', '--json')), { state: 'paired', lastDataBytes: 0, problem: null })
  // All of it, by hand.
  await server.nbdelta('mirror', 'split', 'm')
  await io(peer.uri, 'write -P 4 2M 1M', 'flush')
  await io(server.uri('disk'), 'write -P 5 31M 1M', 'flush')
  await server.nbdelta('volume', 'import', '--overwrite', 'disk', peer.target)
  t.match(await compare(peer.uri, server.uri('disk')), { exitCode: 0, stdout: /identical/ })
  await io(peer.uri, 'read -P 4 2M 1M', 'read -P 0 31M 1M')
  await server.nbdelta('mirror', 'resync', 'm')
  t.match(JSON.parse(await server.nbdelta('mirror', 'show', 'm', '--json')), { state: 'paired', lastDataBytes: 0, problem: null })
})
