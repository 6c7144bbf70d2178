// Two real servers: a mirror to a peer under load, kill -9 of the peer in the middle of a cycle, and both sides compared by qemu-img.
import { chmodSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { InteropServer } from '../../scripts/interop/server.js'
import { $, until } from '../../scripts/interop/tools.js'

const WAIT_MS = 60_000

interface Row { readonly inSync: boolean, readonly cycle: number, readonly doneBytes: number | null, readonly problem: string | null }

t.test('a peer is killed during a cycle: it shows the declared point, and the mirror goes on by itself', async t => {
  const far = await InteropServer.start()
  const near = await InteropServer.start({ name: 'disk', size: '64MiB', grain: '64KiB' })
  t.teardown(async () => { await near.close(); await far.close() })
  const secret = join(far.dir, 'secret')
  writeFileSync(secret, 'a secret of sixteen bytes\n')
  chmodSync(secret, 0o600)
  const link = join(far.dir, 'peer.sock')
  far.options = ['--peer', `unix:${link}`, '--peer-secret', secret]
  await far.terminate()
  await far.serve()
  const show = async (): Promise<Row> => JSON.parse(await near.nbdelta('mirror', 'show', 'm', '--json')) as Row
  const fill = (value: number) => $`qemu-io -f raw -c ${`write -P ${value} 0 64M`} -c flush ${near.uri('disk')}`

  await fill(1)
  await near.nbdelta('mirror', 'create', 'm', 'disk', `nbdelta+unix:///copy?socket=${link}`, '--secret', secret, '--interval', '1h')
  await near.nbdelta('mirror', 'sync', 'm')
  const compare = () => $`qemu-img compare -f raw -F raw ${near.uri('disk')} ${far.uri('copy')}`
  t.match((await compare()).stdout, /identical/)
  await t.rejects($`qemu-io -f raw -c ${'write 0 4k'} ${far.uri('copy')}`, 'clients cannot write to it')
  await t.rejects(far.nbdelta('volume', 'delete', 'copy'), /secondary of mirror m of disk/)

  await near.nbdelta('mirror', 'delete', 'm')
  await near.nbdelta('mirror', 'create', 'm', 'disk', `nbdelta+unix:///copy?socket=${link}`, '--secret', secret, '--interval', '1h',
    '--rate', '16MiB', '--overwrite')
  await near.nbdelta('mirror', 'sync', 'm')
  const before = (await show()).cycle
  await fill(2)
  const cycle = near.nbdelta('mirror', 'sync', 'm').then(() => 'done', () => 'cut')
  await until('a quarter of the cycle', WAIT_MS, async () => ((await show()).doneBytes ?? 0) >= 16 * 2 ** 20)
  await far.kill()
  await far.serve()
  const seen = await $`qemu-io -r -f raw -c ${'read -P 1 0 64M'} ${far.uri('copy')}`
  t.notMatch(seen.stdout, /verification failed/, 'the declared point, whole')
  await cycle
  await until('the mirror to go on by itself', WAIT_MS, async () => {
    const { inSync, cycle: declared } = await show()
    return inSync && declared > before
  })
  t.match((await compare()).stdout, /identical/)
})

t.test('a peer is promoted when the primary is lost; the old primary comes back, and is refused (S4)', async t => {
  const far = await InteropServer.start()
  const near = await InteropServer.start({ name: 'disk', size: '8MiB' })
  t.teardown(async () => { await near.close(); await far.close() })
  const secret = join(far.dir, 'secret')
  writeFileSync(secret, 'a secret of sixteen bytes\n', { mode: 0o600 })
  const link = join(far.dir, 'peer.sock')
  far.options = ['--peer', `unix:${link}`, '--peer-secret', secret]
  await far.terminate()
  await far.serve()
  await $`qemu-io -f raw -c ${'write -P 1 0 8M'} -c flush ${near.uri('disk')}`
  await near.nbdelta('mirror', 'create', 'm', 'disk', `nbdelta+unix:///copy?socket=${link}`, '--secret', secret, '--interval', '1h')
  await near.nbdelta('mirror', 'sync', 'm')
  await near.kill()
  const rows = async () => JSON.parse(await far.nbdelta('replica', 'list', '--json')) as unknown
  t.match(await rows(), [{ volume: 'copy', mirror: 'm', source: 'disk', state: 'secondary', epoch: 1, attached: false, declaredAt: /^20/ }])
  await far.nbdelta('replica', 'promote', 'copy', '--dry-run')
  await t.rejects(far.nbdelta('replica', 'forget', 'copy'), /kept up by mirror m/)
  t.match(await rows(), [{ state: 'secondary', epoch: 1 }])
  await far.nbdelta('replica', 'promote', 'copy')
  t.match(await rows(), [{ state: 'released', epoch: 2 }])
  await $`qemu-io -f raw -c ${'write -P 2 0 1M'} -c flush ${far.uri('copy')}`
  await near.serve()
  await $`qemu-io -f raw -c ${'write -P 3 0 8M'} -c flush ${near.uri('disk')}`
  await t.rejects(near.nbdelta('mirror', 'sync', 'm'), /epoch 1 is refused/)
  const { stdout } = await $`qemu-io -r -f raw -c ${'read -P 2 0 1M'} -c ${'read -P 1 1M 7M'} ${far.uri('copy')}`
  t.notMatch(stdout, /verification failed/)
  await far.nbdelta('replica', 'forget', 'copy')
  t.same(await rows(), [])
  await far.nbdelta('volume', 'delete', 'copy')
})
