// Every command against a real server, as text and with --json: what it does, prints and exits with.
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { NbdPeer } from './nbd-peer.js'
import { nbdelta, serve, temporaryFolder } from './launcher.js'

const MIB = 2 ** 20

t.test('volumes', async t => {
  const { ask, json } = await serve(t, join(temporaryFolder(t), 'store'))
  t.match(await ask('volume', 'list'), { code: 0, stdout: 'no volumes\n', stderr: '' })
  t.match(await json('volume', 'list'), [])
  t.match(await ask('volume', 'create', 'disk', '--size', '64MiB'), { code: 0, stdout: 'created volume disk, 64 MiB\n' })
  t.match(await json('volume', 'create', 'db-1', '--size', '1.5GiB', '--grain', '64KiB', '--description', 'orders'),
    { name: 'db-1', sizeBytes: 1.5 * 1024 * MIB, grainBytes: 65536, description: 'orders', created: true, uuid: /^[0-9a-f-]{36}$/,
      clients: 0 })
  t.match(await ask('volume', 'create', 'disk', '--size', '64MiB'),
    { code: 4, stdout: '', stderr: /^nbdelta: .*disk.*\nhint: .*--if-not-exists/ })
  t.match(await ask('volume', 'create', 'disk', '--size', '64MiB', '--if-not-exists'),
    { code: 0, stdout: 'there already: volume disk, 64 MiB\n' })
  t.match(await ask('volume', 'create', 'disk', '--size', '65MiB', '--if-not-exists'), { code: 4, stderr: /64 ?MiB/ })
  t.match(await ask('volume', 'create', 'x'), { code: 2, stderr: /--size/ })
  t.match(await ask('volume', 'list'),
    { stdout: /^NAME +SIZE +GRAIN +ALLOCATED +MAPPED +CLIENTS +HIDDEN +PROBLEM\ndb-1 .*\ndisk +64 MiB +4 KiB/ })
  t.equal((await ask('volume', 'list', '-q')).stdout, 'db-1\ndisk\n')
  t.match(await ask('volume', 'show', 'disk'), { code: 0, stdout: /size: +64 MiB \(67108864 bytes\)/ })
  t.match(await json('volume', 'show', 'disk'), { name: 'disk', mappedBytes: 0, backing: null, createdAt: /^\d{4}-/ })
  t.match(await ask('volume', 'show', 'none'), { code: 3, stdout: '', stderr: /no volume.*none/ })
  const { stdout, stderr, code } = await ask('volume', 'show', 'none', '--json')
  t.equal(code, 3)
  t.equal(stdout, '')
  t.match(JSON.parse(stderr), { error: { code: 'not-found', exit: 3 } })
})

t.test('resize', async t => {
  const { store, ask, json } = await serve(t, join(temporaryFolder(t), 'store'), ['--create-volume', 'disk=8MiB'])
  const peer = await NbdPeer.attach(join(store, 'nbd.sock'), 'disk')
  t.equal(peer.sizeBytes, 8 * MIB)
  await peer.write(8 * MIB - 512, Buffer.alloc(512, 7))
  t.match(await ask('volume', 'resize', 'disk', '--size', '16MiB', '--dry-run'), { code: 0, stdout: /^would grow/ })
  t.match(await json('volume', 'show', 'disk'), { sizeBytes: 8 * MIB })
  t.match(await json('volume', 'resize', 'disk', '--size', '16MiB'), { changed: true, dryRun: false })
  await peer.write(16 * MIB - 512, Buffer.alloc(512, 8))
  t.same(await peer.read(8 * MIB - 512, 512), Buffer.alloc(512, 7), 'the attached client goes on, and may use what is new')
  t.match(await json('volume', 'resize', 'disk', '--size', '16MiB'), { changed: false })
  t.match(await ask('volume', 'resize', 'disk', '--size', '4MiB'), { code: 4, stderr: /--shrink/ })
  t.match(await ask('volume', 'resize', 'disk', '--size', '4MiB', '--shrink'), { code: 5, stderr: /attached/ })
  peer.detach()
  await new Promise(resolve => { setTimeout(resolve, 100) })
  t.match(await ask('volume', 'resize', 'disk', '--size', '4MiB', '--shrink', '--dry-run'), { code: 0, stdout: /^would shrink/ })
  t.match(await json('volume', 'resize', 'disk', '--size', '4MiB', '--shrink'), { changed: true })
  t.match(await json('volume', 'show', 'disk'), { sizeBytes: 4 * MIB, clients: 0 })
})

t.test('delete', async t => {
  const { store, ask, json } =
    await serve(t, join(temporaryFolder(t), 'store'), ['--create-volume', 'disk=8MiB', '--create-volume', 'other=8MiB'])
  const peer = await NbdPeer.attach(join(store, 'nbd.sock'), 'disk')
  t.match(await ask('volume', 'delete', 'disk'), { code: 5, stderr: /1 client.*attached\nhint: .*--force/ })
  t.match(await ask('volume', 'delete', 'disk', '--dry-run'), { code: 5 }, 'a dry run judges the same')
  t.match(await ask('volume', 'delete', 'disk', '--force', '--dry-run'),
    { code: 0, stdout: /would close 1 client.*\nwould delete/ })
  t.match(await json('volume', 'list'), { length: 2 })
  t.match(await json('volume', 'delete', 'disk', '--force'), { changed: true, steps: [/close 1 client/, /delete/] })
  await peer.closed
  t.match(await ask('volume', 'delete', 'disk'), { code: 3 })
  t.match(await json('volume', 'delete', 'disk', '--if-exists'), { changed: false })
  t.match(await ask('volume', 'delete', 'other'), { code: 0, stdout: /done: delete/ })
  t.equal((await ask('volume', 'list')).stdout, 'no volumes\n')
})

t.test('an adopted backing file is served as it is and survives delete', async t => {
  const folder = temporaryFolder(t)
  const image = join(folder, 'old.img')
  writeFileSync(image, Buffer.alloc(MIB, 'content'))
  const { store, ask, json } = await serve(t, join(folder, 'store'))
  t.match(await nbdelta(['volume', 'create', 'old', '--backing', 'old.img', '--store', store], { cwd: folder }), { code: 0 },
    'relative to where it is typed')
  t.match(await json('volume', 'show', 'old'), { backing: image, sizeBytes: MIB, mappedBytes: MIB })
  const peer = await NbdPeer.attach(join(store, 'nbd.sock'), 'old')
  t.equal((await peer.read(0, 7)).toString(), 'content')
  peer.detach()
  await new Promise(resolve => { setTimeout(resolve, 100) })
  t.match(await ask('volume', 'delete', 'old'), { code: 0 })
  t.ok(existsSync(image))
  t.match(await ask('volume', 'create', 'no', '--backing', join(folder, 'missing')), { code: 3, stderr: /missing/ })
})

t.test('exports and clients', async t => {
  const { store, ask, json } = await serve(t, join(temporaryFolder(t), 'store'), ['--create-volume', 'disk=8MiB'])
  const socket = join(store, 'nbd.sock')
  t.match(await json('export', 'list'),
    [{ name: 'disk', hidden: false, clients: 0, uris: [`nbd+unix:///disk?socket=${socket}`] }])
  const peer = await NbdPeer.attach(socket, '')
  await peer.write(0, Buffer.alloc(4096, 1))
  t.match(await ask('client', 'list'), { stdout: /^ *ID +EXPORT.*\n +\d+ +disk +unix/ })
  const [client] = await json('client', 'list', '--export', 'disk') as { id: number }[]
  t.match(client, { export: 'disk', address: 'unix', inFlight: 0, writtenBytes: 4096 })
  t.match(await json('client', 'list', '--export', 'none'), [])
  t.match(await ask('export', 'hide', 'disk'), { code: 0 })
  t.match(await json('export', 'hide', 'disk'), { changed: false }, 'idempotent')
  await t.rejects(NbdPeer.attach(socket, 'disk'), 'hidden from new clients')
  await peer.write(0, Buffer.alloc(512, 2))
  t.match(await json('export', 'list'), [{ hidden: true, clients: 1 }])
  t.match(await json('export', 'unhide', 'disk'), { changed: true })
  const second = await NbdPeer.attach(socket, 'disk')
  t.match(await ask('client', 'kick', String(client!.id), '--dry-run'), { code: 0, stdout: /would close/ })
  t.match(await ask('client', 'kick', String(client!.id)), { code: 0 })
  await peer.closed
  t.match(await ask('client', 'kick', String(client!.id)), { code: 3, stderr: /client list/ })
  t.match(await ask('export', 'kick', 'disk', '--dry-run'), { stdout: /would close 1 client/ })
  await second.flush()
  t.match(await json('export', 'kick', 'disk'), { changed: true })
  await second.closed
  const third = await NbdPeer.attach(socket, 'disk')
  t.match(await ask('export', 'kick', 'disk', '--how', 'hard'), { code: 0 })
  await third.closed
  await json('snapshot', 'create', 'disk', 's')
  const fourth = await NbdPeer.attach(socket, 'disk')
  const ofSnapshot = await NbdPeer.attach(socket, 'disk@s')
  t.match(await ask('export', 'kick', 'disk@s'), { code: 0 })
  await ofSnapshot.closed
  await fourth.flush()
  fourth.detach()
  t.match(await ask('export', 'kick', 'disk@x'), { code: 3, stderr: /snapshot list disk/ })
  t.match(await ask('export', 'kick', 'none'), { code: 3 })
  t.match(await ask('export', 'hide', 'none'), { code: 3 })
})

t.test('import and export', async t => {
  const folder = temporaryFolder(t)
  const image = join(folder, 'in.raw')
  const content = Buffer.alloc(4 * MIB)
  content.write('hello', 3 * MIB)
  content.write('end', 4 * MIB - 3)
  writeFileSync(image, content)
  const { ask, json } = await serve(t, join(folder, 'store'))
  t.match(await ask('volume', 'import', 'disk', image, '--dry-run'), { code: 0, stdout: /^would create volume disk/ })
  t.match(await json('volume', 'list'), [])
  t.match(await ask('volume', 'import', 'disk', image), { code: 0, stdout: /^import of disk done: 4 MiB in/ })
  const { mappedBytes } = await json('volume', 'show', 'disk') as { mappedBytes: number }
  t.ok(mappedBytes > 0 && mappedBytes < MIB, `zeros are skipped: ${mappedBytes} bytes are mapped`)
  const out = join(folder, 'out.raw')
  const done = await ask('volume', 'export', 'disk', out, '--json')
  t.match(JSON.parse(done.stdout), { kind: 'export', state: 'done', doneBytes: 4 * MIB, totalBytes: 4 * MIB, error: null })
  for (const line of done.stderr.trim().split('\n').filter(Boolean)) t.match(JSON.parse(line), { progress: { kind: 'export' } })
  t.ok(readFileSync(out).equals(content))
  t.ok(statSync(out).blocks * 512 < MIB, 'the image is sparse')
  t.match(await ask('volume', 'export', 'disk', out), { code: 4, stderr: /--overwrite/ })
  t.match(await ask('volume', 'export', 'disk', out, '--overwrite'), { code: 0 })
  t.match(await ask('volume', 'import', 'disk', image), { code: 4, stderr: /--overwrite/ })
  t.match(await ask('volume', 'import', 'disk', image, '--overwrite'), { code: 0 })
  t.match(await ask('volume', 'import', 'x', join(folder, 'none')), { code: 3, stderr: /none/ })
  const { uuid } = await json('volume', 'show', 'disk') as { uuid: string }
  t.match(await ask('volume', 'import', 'x', join(folder, 'store', 'volumes', uuid, 'live')), { code: 2, stderr: /inside the store/ })
  await json('volume', 'create', 'adopted', '--backing', image)
  t.match(await ask('volume', 'import', 'x', image), { code: 5, stderr: /backing of volume adopted/ }, 'trimmed bytes may be in it')
  t.match(await ask('volume', 'delete', 'adopted'), { code: 0 })
  t.match(await ask('volume', 'export', 'disk', join(folder, 'none', 'x.raw')), { code: 3 })
  t.match(await ask('volume', 'export', 'disk', folder), { code: 2 })
  const { id } = await json('volume', 'export', 'disk', join(folder, 'later.raw'), '--no-wait') as { id: number }
  t.match(await ask('job', 'list'), { stdout: /JOB +KIND/ })
  for (;;) {
    const job = await json('job', 'show', String(id)) as { state: string }
    if (job.state !== 'running') { t.equal(job.state, 'done'); break }
  }
  t.match(await json('job', 'cancel', String(id)), { state: 'done' })
  t.match(await ask('job', 'show', '99'), { code: 3 })
})

t.test('status, version, completion', async t => {
  const { store, child, ask, json } =
    await serve(t, join(temporaryFolder(t), 'store'), ['--nbd', 'tcp:127.0.0.1:0', '--memory', '64MiB'])
  t.match(await json('status'), {
    state: 'serving', pid: child.pid, store, listeners: [/^tcp:127\.0\.0\.1:\d+$/], control: join(store, 'control.sock'),
      volumes: 0, clients: 0, jobsRunning: 0,
    memoryBudgetBytes: 64 * MIB, oldestRequestMs: null,
  })
  t.match(await ask('status'), { code: 0, stdout: /^state: +serving\nversion: / })
  t.match(await nbdelta(['status'], { env: { NBDELTA_STORE: store } }), { code: 0 })
  t.match(await nbdelta(['status', '--control', join(store, 'control.sock')]), { code: 0 })
  t.match(await nbdelta(['status']), { code: 2, stderr: /NBDELTA_STORE/ })
  t.match(JSON.parse((await nbdelta(['version', '--json'])).stdout), { nbdelta: /^\d/, node: process.versions.node })
  t.match(await nbdelta(['completion', 'bash']), { code: 0, stdout: /complete -F _nbdelta nbdelta/ })
  await ask('volume', 'create', 'disk', '--size', '1MiB')
  t.equal((await nbdelta(['__complete', '--store', store, 'volume', 'show', 'd'])).stdout, 'none\ndisk\t\n')
  t.match(await nbdelta(['__complete', '--store', '/nowhere', 'volume', 'show', '']), { code: 0, stdout: 'none\n', stderr: '' })
})
