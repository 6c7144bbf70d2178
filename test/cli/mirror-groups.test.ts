// Several mirrors by one command: by name and by group of volumes, told beforehand, refused as a whole, with each one named.
import t from 'tap'
import { InteropServer } from '../../scripts/interop/server.js'
import { $ } from '../../scripts/interop/tools.js'

interface Row { readonly name: string, readonly state: string, readonly cycle: number }

t.test('sync, split and resync of several mirrors', async t => {
  const server = await InteropServer.start({ name: 'data', size: '1MiB' })
  t.teardown(() => server.close())
  const states = async (): Promise<string[]> => (JSON.parse(await server.nbdelta('mirror', 'list', '--json')) as Row[]).map(({ state }) => state)
  await server.nbdelta('volume', 'create', 'log', '--size', '1MiB')
  await server.nbdelta('volume', 'create', 'alone', '--size', '1MiB')
  await server.nbdelta('group', 'create', 'db', 'data', 'log')
  for (const name of ['data', 'log', 'alone']) {
    await server.nbdelta('mirror', 'create', `m-${name}`, name, `${name}-copy`, '--interval', '1h')
    await server.nbdelta('mirror', 'sync', `m-${name}`)
  }
  await t.rejects(server.nbdelta('mirror', 'split', 'm-data', 'm-log', '--at-once'), /not of one instant/)
  await server.nbdelta('mirror', 'sync', 'db', '--group')
  const told = JSON.parse(await server.nbdelta('mirror', 'split', 'm-data', 'm-log', '--dry-run', '--json')) as { changed: boolean, steps: string[] }
  t.match(told, { changed: false, steps: [/last cycle of m-data, m-log, of one instant/, /data-copy stand/, /log-copy stand/] })
  t.same(await states(), ['paired', 'paired', 'paired'])
  await server.nbdelta('mirror', 'split', 'db', '--group', '--at-once')
  t.same(await states(), ['paired', 'split', 'split'])
  await t.rejects(server.nbdelta('mirror', 'split', 'm-alone', 'm-log'), /m-log is split already/)
  await t.rejects(server.nbdelta('mirror', 'split', 'm-alone', 'nobody'), /there is no mirror nobody/)
  t.match(await server.nbdelta('mirror', 'resync', 'm-data', 'm-log', '--reverse', '--dry-run'), /give it the content of data-copy.*log-copy/s)
  t.match(await server.nbdelta('mirror', 'resync', 'm-data', 'm-log', '--dry-run'), /data-copy.*log-copy/s)
  const job = JSON.parse(await server.nbdelta('mirror', 'resync', 'm-data', 'm-log', '--json')) as object
  t.match(job, { kind: 'mirror resync', volume: 'm-data, m-log', state: 'done' })
  t.same(await states(), ['paired', 'paired', 'paired'])

  await t.rejects(server.nbdelta('mirror', 'resync', 'db', '--group', '--reverse'), /it is not split/)
  await server.nbdelta('mirror', 'split', 'db', '--group')
  const write = (name: string, value: number) => $`qemu-io -f raw -c ${`write -P ${value} 0 64k`} ${server.uri(name)}`
  for (const name of ['data-copy', 'log-copy']) await write(name, 7)
  await server.nbdelta('mirror', 'resync', 'db', '--group', '--reverse')
  t.same(await states(), ['paired', 'paired', 'paired'])
  for (const name of ['data', 'log']) {
    t.notMatch((await $`qemu-io -r -f raw -c ${'read -P 7 0 64k'} ${server.uri(name)}`).stdout, /verification failed/)
  }
})
