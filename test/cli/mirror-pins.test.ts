// Nobody but a mirror lets go of its points: without its base it would have to compare everything, and its target would show nothing.
import t from 'tap'
import { InteropServer } from '../../scripts/interop/server.js'

t.test('pins of a mirror are not for operators to take away, or to make', async t => {
  const server = await InteropServer.start({ name: 'disk', size: '1MiB' })
  t.teardown(() => server.close())
  await server.nbdelta('mirror', 'create', 'm', 'disk', 'copy', '--interval', '1h')
  await server.nbdelta('mirror', 'sync', 'm')
  for (const volume of ['disk', 'copy']) {
    const [point] = (await server.nbdelta('snapshot', 'list', volume, '--quiet')).trim().split('\n').slice(-1)
    await t.rejects(server.nbdelta('snapshot', 'delete', volume, point!), /pinned by mirror m/)
    await t.rejects(server.nbdelta('snapshot', 'unpin', volume, point!, '--owner', 'mirror m'), /server's own/)
    await t.rejects(server.nbdelta('snapshot', 'pin', volume, point!, '--owner', 'mirror m'), /server's own/)
  }
  await server.nbdelta('mirror', 'delete', 'm')
  t.equal((await server.nbdelta('snapshot', 'list', 'copy', '--quiet')).trim(), '')
})
