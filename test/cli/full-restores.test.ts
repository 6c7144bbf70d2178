// A restore that waits for room cannot be taken back before it has some: whoever cancels it is told, and it goes on. Its volume can be deleted.
import { join } from 'node:path'
import t from 'tap'
import { NbdPeer } from './nbd-peer.js'
import { serve, temporaryFolder, type Served } from './launcher.js'

const MIB = 2 ** 20
t.setTimeout(120_000)

async function fill(store: string, byte: number): Promise<void> {
  const peer = await NbdPeer.attach(join(store, 'nbd.sock'), 'disk')
  await peer.write(0, Buffer.alloc(MIB, byte))
  peer.detach()
}

/** What it shows is not its own yet, and the budget has no room for what it showed before. */
async function waiting({ store, json }: Served): Promise<number> {
  await fill(store, 1)
  await json('snapshot', 'create', 'disk', 's')
  await fill(store, 2)
  await json('volume', 'set-budget', 'disk', '--limit', '1MiB', '--order', 'fail')
  const { id } = await json('snapshot', 'restore', 'disk', 's', '--force', '--no-wait') as { id: number }
  while ((await json('job', 'show', String(id)) as { waiting: string | null }).waiting === null) continue
  return id
}

t.test('a cancel is refused while there is no room for it, and succeeds when there is', async t => {
  const served = await serve(t, join(temporaryFolder(t), 'store'), ['--create-volume', 'disk=1MiB'])
  const { store, ask, json } = served
  const id = String(await waiting(served))
  for (let attempt = 0; attempt < 2; attempt++) {
    t.match(await ask('job', 'cancel', id), { code: 6, stderr: /^nbdelta: the restore of disk cannot be cancelled now, and goes on: .*\nhint: / })
    t.match(await json('job', 'show', id), { state: 'running', error: null, waiting: /room|budget/ })
  }
  await json('volume', 'set-budget', 'disk', '--unlimited')
  t.match(await json('job', 'cancel', id), { state: /cancelled|done/ })
  const { state } = await json('job', 'show', id) as { state: string }
  const peer = await NbdPeer.attach(join(store, 'nbd.sock'), 'disk')
  for (const offset of [0, MIB / 2, MIB - 4096]) t.same(await peer.read(offset, 4096), Buffer.alloc(4096, state === 'done' ? 1 : 2))
  peer.detach()
})

t.test('delete --force does not wait for it, and cancels nothing when it is refused', async t => {
  const served = await serve(t, join(temporaryFolder(t), 'store'), ['--create-volume', 'disk=1MiB'])
  const { ask, json } = served
  const id = String(await waiting(served))
  await json('snapshot', 'pin', 'disk', 's', '--owner', 'me')
  t.match(await ask('volume', 'delete', 'disk', '--force'), { code: 5, stderr: /pinned by me/ })
  t.match(await json('job', 'show', id), { state: 'running' })
  await json('snapshot', 'unpin', 'disk', 's', '--owner', 'me')
  t.match(await ask('volume', 'delete', 'disk', '--force'), { code: 0 })
  t.match(await json('job', 'show', id), { state: 'cancelled' })
  t.same(await json('volume', 'list'), [])
})
