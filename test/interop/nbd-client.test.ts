// nbd-client, the tool beside the kernel's client: its list works without the kernel module, names as they are.
import t from 'tap'
import { InteropServer } from '../../scripts/interop/server.js'
import { $, lacking } from '../../scripts/interop/tools.js'

t.test('nbd-client -l', { skip: lacking('nbd-client') }, async t => {
  const server = await InteropServer.start({ name: 'first', size: '16MiB' }, { name: 'second.volume-2', size: '2TiB' })
  t.teardown(() => server.close())

  t.test('LIST: every volume over TCP', async t => {
    const { stdout } = await $`nbd-client -l 127.0.0.1 ${server.port}`
    t.strictSame(stdout.trim().split('\n').slice(1).map(line => line.split(/[: ]/)[0]), ['first', 'second.volume-2'], stdout)
  })
  t.test('LIST: and over the unix socket', async t => {
    t.match((await $`nbd-client -l -unix ${server.socketPath}`).stdout, /first[\s\S]*second\.volume-2/)
  })
  t.test('a volume that is deleted is listed no longer', async t => {
    await server.nbdelta('volume', 'delete', 'first')
    t.notMatch((await $`nbd-client -l 127.0.0.1 ${server.port}`).stdout, /first/)
  })
})
