// The peer link as an operator sees it: where it listens, and what a promotion says the first and the second time.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { serve, temporaryFolder } from './launcher.js'

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
