// The peer link as an operator sees it: where it listens, and what a promotion says the first and the second time.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { byteAt, put, serve, temporaryFolder } from './launcher.js'

interface Status { readonly listeners: string[], readonly peerListeners: string[] }

t.test('status shows where the peer link listens', async t => {
  const folder = temporaryFolder(t)
  const secret = join(folder, 'secret')
  writeFileSync(secret, 'a secret of sixteen bytes\n', { mode: 0o600 })
  const socket = join(folder, 'peer.sock')
  const local = await serve(t, join(folder, 'a'), ['--peer', `unix:${socket}`, '--peer-secret', secret])
  t.same((await local.json('status') as Status).peerListeners, [`unix:${socket}`])
  t.match(await local.ask('status'), { code: 0, stdout: new RegExp(`\\npeer listeners: +unix:${socket}\\n`) })

  const far = await serve(t, join(folder, 'b'), ['--peer', 'tcp:127.0.0.1:0', '--peer-secret', secret])
  const { peerListeners, listeners } = await far.json('status') as Status
  t.match(peerListeners, [/^tcp:127\.0\.0\.1:[1-9]\d+$/], 'the port that was bound, not the one that was asked for')
  t.match(listeners, [/^unix:/], 'NBD clients connect elsewhere')
  far.child.kill('SIGTERM')
  t.match(await far.ended, { code: 0, stderr: new RegExp(`"peerListeners":\\["${peerListeners[0]}"\\]`) }, 'the log says so as well')

  const alone = await serve(t, join(folder, 'c'))
  t.same((await alone.json('status') as Status).peerListeners, [])
  t.match(await alone.ask('status'), { stdout: /\npeer listeners: +-\n/ })
})

t.test('what was promoted already is said to be', async t => {
  const folder = temporaryFolder(t)
  const secret = join(folder, 'secret')
  writeFileSync(secret, 'a secret of sixteen bytes\n', { mode: 0o600 })
  const socket = join(folder, 'peer.sock')
  const peer = ['--peer', `unix:${socket}`, '--peer-secret', secret]
  const far = await serve(t, join(folder, 'far'), peer)
  const near = await serve(t, join(folder, 'near'), ['--create-volume', 'disk=1MiB', '--create-volume', 'other=1MiB'])
  await put(near.store, 'disk', 0, 7)
  for (const name of ['disk', 'other']) {
    await near.json('mirror', 'create', `m-${name}`, name, `nbdelta+unix:///${name}?socket=${socket}`, '--secret', secret)
    await near.json('mirror', 'sync', `m-${name}`)
  }
  await near.json('mirror', 'split', 'm-other')
  near.child.kill('SIGKILL')
  await near.ended
  const already = 'disk was promoted already: mirror m-disk of disk is refused'
  const promote = (name: string, ...more: string[]) => far.ask('replica', 'promote', name, ...more)
  t.match(await promote('disk', '--dry-run'), { code: 0, stdout: /^would refuse mirror m-disk of disk from now on\nwould let disk stand on its own, as of/ })
  t.match(await promote('disk'), { code: 0, stdout: /^done: refuse mirror m-disk of disk from now on\ndone: let disk stand on its own, as of/ })
  for (const more of [[], ['--dry-run']]) {
    t.match(await promote('disk', ...more), { code: 0, stdout: `${already}\n`, stderr: '' })
    t.match(await far.json('replica', 'promote', 'disk', ...more), { target: 'disk', changed: false, steps: { length: 0 }, note: already })
  }
  // What a split has released can still be promoted.
  t.match(await promote('other'), { code: 0, stdout: /^done: refuse mirror m-other of other from now on\n$/ })
  t.match(await promote('other'), { code: 0, stdout: /^other was promoted already/ })
  far.child.kill('SIGTERM')
  await far.ended
  const again = await serve(t, join(folder, 'far'), peer)
  t.match(await again.ask('replica', 'promote', 'disk'), { code: 0, stdout: `${already}\n` }, 'after a restart as well')
  t.equal(await byteAt(again.store, 'disk', 0), 7)
})
