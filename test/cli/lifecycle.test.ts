// The life of a server: what it prints, how it stops, what a kill leaves, who may have the store.
import { existsSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { has, nbdelta, serve, start, temporaryFolder } from './launcher.js'
import { NbdPeer } from './nbd-peer.js'
import type { Outcome } from './launcher.js'

t.test('it prints lines to paste, and SIGINT drains and exits 0', async t => {
  const store = join(temporaryFolder(t), 'store')
  const { child, banner, ended } =
    await serve(t, store, ['--create-volume', 'disk=1GiB', '--nbd', `unix:${store}/n.sock`, '--nbd', 'tcp:127.0.0.1:0'])
  const uri = `nbd+unix:///disk?socket=${store}/n.sock`
  for (const line of [`nbd-client -N disk -C 4 -unix ${store}/n.sock /dev/nbd0`, `nbdinfo '${uri}'`, `qemu-img info '${uri}'`,
    `nbdcopy --progress '${uri}' disk.img`,
    `nbdfuse mnt/disk.img '${uri}'`, 'nbd-client -N disk -C 4 127.0.0.1 ']) t.ok(banner.includes(line), line)
  t.equal(statSync(join(store, 'control.sock')).mode & 0o777, 0o600)
  t.equal(statSync(join(store, 'n.sock')).mode & 0o777, 0o600)
  child.kill('SIGINT')
  t.match(await ended, { code: 0 })
  t.notOk(existsSync(join(store, 'control.sock')))
})

t.test('the printed lines work', { skip: has('nbdinfo') && has('qemu-img') ? false : 'nbdinfo or qemu-img is not installed' },
  async t => {
  const { banner, ask } = await serve(t, join(temporaryFolder(t), `it's a "store" $HOME`), ['--create-volume', 'disk=8MiB'])
  const { spawn } = await import('node:child_process')
  for (const start of ['nbdinfo ', 'qemu-img info ']) {
    const line = banner.split('\n').find(text => text.trim().startsWith(start))!
    const code = await new Promise(resolve => { spawn('sh', ['-c', line]).on('close', resolve) })
    t.equal(code, 0, line)
  }
  t.match(await ask('status'), { code: 0 })
})

t.test('SIGTERM flushes and keeps what was written; the store opens again', async t => {
  const store = join(temporaryFolder(t), 'store')
  const first = await serve(t, store, ['--create-volume', 'disk=8MiB'])
  const peer = await NbdPeer.attach(join(store, 'nbd.sock'), 'disk')
  await peer.write(4096, Buffer.alloc(4096, 5))
  first.child.kill('SIGTERM')
  const { code, stderr } = await first.ended
  t.equal(code, 0)
  t.match(stderr, /"msg":"stopped"/)
  await peer.closed
  const second = await serve(t, store)
  const again = await NbdPeer.attach(join(store, 'nbd.sock'), 'disk')
  t.same(await again.read(4096, 4096), Buffer.alloc(4096, 5))
  again.detach()
  second.child.kill('SIGTERM')
  t.match(await second.ended, { code: 0 })
})

t.test('D1: kill -9, and at once it serves again, with all that was acknowledged', async t => {
  const store = join(temporaryFolder(t), 'store')
  const extra = ['--create-volume', 'disk=8MiB', '--nbd', `unix:${store}/nbd.sock`, '--nbd', 'tcp:127.0.0.1:0']
  for (let round = 1; round <= 3; round++) {
    const { child, ended } = await serve(t, store, extra)
    const peer = await NbdPeer.attach(join(store, 'nbd.sock'), 'disk')
    if (round > 1) t.same(await peer.read((round - 1) * 65536, 512), Buffer.alloc(512, round - 1))
    await peer.write(round * 65536, Buffer.alloc(512, round))
    child.kill('SIGKILL')
    await ended
  }
})

t.test('a second server for the same store is refused, and the first goes on', async t => {
  const store = join(temporaryFolder(t), 'store')
  const { ask } = await serve(t, store)
  t.match(await nbdelta(['serve', '--store', store]), { code: 5, stdout: '', stderr: /^nbdelta: .*store.*\nhint: / })
  t.match(await ask('status'), { code: 0 })
})

t.test('a stuck client delays a drain only until its deadline', async t => {
  const store = join(temporaryFolder(t), 'store')
  const { child, ended } = await serve(t, store, ['--create-volume', 'disk=8MiB', '--drain-seconds', '1'])
  const peer = await NbdPeer.attach(join(store, 'nbd.sock'), 'disk')
  await peer.write(0, Buffer.alloc(2 ** 20, 1))
  peer.stick()
  t.teardown(() => { peer.detach() })
  const startedMs = performance.now()
  child.kill('SIGTERM')
  t.match(await ended, { code: 0 })
  const tookMs = performance.now() - startedMs
  t.ok(tookMs > 900 && tookMs < 5000, `it took ${Math.round(tookMs)} ms`)
})

t.test('a second signal does not wait for a stuck client; status shows the drain', async t => {
  const store = join(temporaryFolder(t), 'store')
  const { child, ended, ask, json } = await serve(t, store, ['--create-volume', 'disk=8MiB', '--drain-seconds', '60'])
  const peer = await NbdPeer.attach(join(store, 'nbd.sock'), 'disk')
  await peer.write(0, Buffer.alloc(2 ** 20, 1))
  peer.stick()
  t.teardown(() => { peer.detach() })
  child.kill('SIGTERM')
  await new Promise(resolve => { setTimeout(resolve, 200) })
  t.match(await json('status'), { state: 'draining', clients: 1 })
  t.match(await ask('volume', 'create', 'late', '--size', '1MiB'), { code: 9, stderr: /stopping/ })
  child.kill('SIGTERM')
  t.match(await ended, { code: 130 })
})

t.test('a damaged volume is shown, refused and can be deleted; the others are served', async t => {
  const store = join(temporaryFolder(t), 'store')
  const first = await serve(t, store, ['--create-volume', 'bad=8MiB', '--create-volume', 'good=8MiB'])
  const { uuid } = await first.json('volume', 'show', 'bad') as { uuid: string }
  first.child.kill('SIGTERM')
  await first.ended
  writeFileSync(join(store, 'volumes', uuid, 'journal'), Buffer.alloc(65536, 'rubbish'))
  const { ask, json } = await serve(t, store)
  t.match(await json('volume', 'show', 'bad'), { problem: /journal/, allocatedBytes: null })
  await t.rejects(NbdPeer.attach(join(store, 'nbd.sock'), 'bad'))
  t.match(await ask('volume', 'export', 'bad', join(store, '..', 'x.raw')), { code: 8, stderr: /journal/ })
  const peer = await NbdPeer.attach(join(store, 'nbd.sock'), 'good')
  await peer.write(0, Buffer.alloc(512, 1))
  peer.detach()
  t.match(await ask('volume', 'delete', 'bad'), { code: 0 })
  t.match(await json('volume', 'list'), [{ name: 'good', problem: null }])
})

t.test('--json says in one line that it is ready', async t => {
  const store = join(temporaryFolder(t), 'store')
  const { banner } = await serve(t, store, ['--json', '--create-volume', 'disk=1MiB'])
  t.match(JSON.parse(banner), { ready: true, store, control: join(store, 'control.sock'), exports: [{ name: 'disk' }] })
})

t.test('Ctrl-C of a waiting import cancels it, cleans up and exits 130', async t => {
  const folder = temporaryFolder(t)
  const image = join(folder, 'big.raw')
  const { open } = await import('node:fs/promises')
  const file = await open(image, 'w')
  // Data all over, so that it takes a while.
  const block = Buffer.alloc(16 * 2 ** 20, 'data')
  for (let index = 0; index < 24; index++) await file.write(block)
  await file.close()
  const { ask, json, store } = await serve(t, join(folder, 'store'))
  const interrupted = async (...more: string[]): Promise<Outcome> => {
    const importing = start(['volume', 'import', 'big', image, '--store', store, '--json', ...more])
    const progress =
      new Promise<void>(resolve =>
      { importing.child.stderr!.on('data', (text: string) => { if (text.includes('progress')) resolve() }) })
    await Promise.race([progress, importing.ended])
    importing.child.kill('SIGINT')
    return importing.ended
  }
  const outcome = await interrupted()
  t.equal(outcome.code, 130)
  t.equal(outcome.stdout, '')
  t.match(outcome.stderr, /"code":"cancelled"/)
  t.match(await json('job', 'list'), [{ state: 'cancelled' }])
  t.match(await ask('volume', 'list'), { stdout: 'no volumes\n' })
  t.match(outcome.stderr, /\{"error":\{[^\n]*"hint":null,"exit":130\}\}\n$/, 'nothing is left behind, and it is said once')
  await ask('volume', 'create', 'big', '--size', '384MiB')
  const { code, stderr } = await interrupted('--overwrite')
  t.equal(code, 130)
  const { error } = JSON.parse(stderr.trim().split('\n').at(-1)!) as { error: object }
  t.match(error, { message: 'import cancelled', hint: 'the content of volume big is a mixture now; import again' })
})
