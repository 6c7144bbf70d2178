// Two real servers: a mirror to a peer under load, kill -9 of the peer in the middle of a cycle, and both sides compared by qemu-img.
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
  const { secret, link } = await far.letPeersIn()
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
  const { secret, link } = await far.letPeersIn()
  await $`qemu-io -f raw -c ${'write -P 1 0 8M'} -c flush ${near.uri('disk')}`
  await near.nbdelta('mirror', 'create', 'm', 'disk', `nbdelta+unix:///copy?socket=${link}`, '--secret', secret, '--interval', '1h')
  await near.nbdelta('mirror', 'sync', 'm')
  const rows = async () => JSON.parse(await far.nbdelta('replica', 'list', '--json')) as unknown
  const told = /point (\d+), digest ([0-9a-f]{64})/
  const compared = told.exec(await near.nbdelta('mirror', 'verify', 'm', '--rate', '1GiB'))!
  t.match(await rows(), [{ verified: 'equal', verifiedCycle: Number(compared[1]), digest: compared[2] }])
  const shown = JSON.parse(await near.nbdelta('mirror', 'show', 'm', '--json')) as { root: string, digest: string }
  t.equal(shown.digest, compared[2])
  const read = await far.nbdelta('replica', 'verify', 'copy')
  t.same(told.exec(read)!.slice(1), compared.slice(1), 'two people can compare what they were told')
  t.match(read, `root ${shown.root}`)
  t.match(await rows(), [{ verified: 'read' }])
  await near.kill()
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

t.test('resync --reverse from a peer: clients, a cancel and a kill in the middle; then what differs, and nothing else', async t => {
  const far = await InteropServer.start()
  const near = await InteropServer.start({ name: 'disk', size: '64MiB', grain: '64KiB' })
  t.teardown(async () => { await near.close(); await far.close() })
  const { secret, link } = await far.letPeersIn()
  const io = (uri: string, ...commands: string[]) => $`qemu-io -f raw ${commands.flatMap(command => ['-c', command])} ${uri}`
  const image = async (uri: string, name: string): Promise<string> => {
    const file = join(near.dir, name)
    await $`qemu-img convert -f raw -O raw ${uri} ${file}`
    return file
  }
  const alike = async (uri: string, other: string): Promise<boolean> => {
    const { stdout, stderr } = await $({ nothrow: true })`qemu-img compare -f raw -F raw ${uri} ${other}`
    if (!stdout.includes('identical')) t.comment(`${stdout}${stderr}`)
    return stdout.includes('identical')
  }
  const state = async (): Promise<string> => (JSON.parse(await near.nbdelta('mirror', 'show', 'm', '--json')) as { state: string }).state
  const volumes = async (): Promise<string[]> =>
    (JSON.parse(await near.nbdelta('volume', 'list', '--json')) as { name: string }[]).map(({ name }) => name)

  await io(near.uri('disk'), 'write -P 1 0 64M')
  // Slow, so that there is a middle, and time for some processes of a busy machine.
  await near.nbdelta('mirror', 'create', 'm', 'disk', `nbdelta+unix:///copy?socket=${link}`, '--secret', secret, '--interval', '1h',
    '--rate', '6MiB')
  await near.nbdelta('mirror', 'split', 'm').catch(async () => { await near.nbdelta('mirror', 'sync', 'm'); await near.nbdelta('mirror', 'split', 'm') })
  await io(near.uri('disk'), 'write -P 2 8M 8M')
  await io(far.uri('copy'), 'write -P 3 12M 40M', 'discard 60M 1M', 'flush')
  const [before, wanted] = [await image(near.uri('disk'), 'before'), await image(far.uri('copy'), 'wanted')]
  t.match(await near.nbdelta('mirror', 'resync', 'm', '--reverse', '--dry-run'), /give it the content of .*copy.*; 45 MiB may differ/)

  const begin = async (): Promise<string> => {
    const { id } = JSON.parse(await near.nbdelta('mirror', 'resync', 'm', '--reverse', '--no-wait', '--json')) as { id: string }
    await until('the middle', WAIT_MS, async () =>
      ((JSON.parse(await near.nbdelta('mirror', 'show', 'm', '--json')) as Row).doneBytes ?? 0) >= 4 * 2 ** 20)
    return `${id}`
  }
  const asBefore = async (what: string): Promise<void> => {
    await until('its end', WAIT_MS, async () => (await volumes()).length === 1)
    t.equal(await state(), 'split', what)
    t.ok(await alike(near.uri('disk'), before), `${what}: the source is as it was`)
    t.ok(await alike(far.uri('copy'), wanted), `${what}: and the target`)
  }
  const id = await begin()
  await t.rejects(io(far.uri('copy'), 'read 0 4k'), 'clients of the target are kept out')
  await t.rejects(io(near.uri('disk'), 'read 0 4k'), 'and of the source')
  await t.rejects($`qemu-io -r -f raw -c ${'read 0 4k'} ${near.uri('mirror-m-2-back')}`, 'and of what is fetched')
  await near.nbdelta('job', 'cancel', id)
  await asBefore('cancelled')
  await begin()
  await near.kill()
  await near.serve()
  await asBefore('the source was killed')
  await begin()
  await far.kill()
  await far.serve()
  await asBefore('the peer was killed')
  await near.nbdelta('mirror', 'resync', 'm', '--reverse')
  t.equal(await state(), 'paired')
  t.ok(await alike(near.uri('disk'), wanted), 'the source has what the target had')
  t.ok(await alike(near.uri('disk'), far.uri('copy')))
  await until('nothing to be left', WAIT_MS, async () => (await volumes()).length === 1)
  const points = JSON.parse(await near.nbdelta('snapshot', 'list', 'disk', '--json')) as { name: string }[]
  const undo = points.find(({ name }) => name.startsWith('undo-'))!
  t.ok(await alike(near.uri(`disk@${undo.name}`), before), 'its undo snapshot has what it had')
})
