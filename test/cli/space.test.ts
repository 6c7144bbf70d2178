// The budget for snapshots, and a disk that is really full, against a real server: what clients get, and what an operator is told.
import { spawnSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { NbdPeer } from './nbd-peer.js'
import { serve, start, temporaryFolder, type Served } from './launcher.js'

const GRAIN = 4096
/** Of Linux. */
const ENOSPC = /NBD error 28$/
const SLOW = { timeout: 180_000 }
t.setTimeout(600_000)

interface Space {
  readonly budgetBytes: number | null, readonly keptBytes: number, readonly order: string, readonly sacrifices: number
  readonly lastSacrifice: { readonly name: string } | null, readonly failing: string | null
}
const spaceOf = async ({ json }: Served): Promise<Space> => (await json('volume', 'show', 'disk') as { space: Space }).space

const attach = (store: string, name = 'disk'): Promise<NbdPeer> => NbdPeer.attach(join(store, 'nbd.sock'), name)
const write = (peer: NbdPeer, grain: number, fill: number, count = 1): Promise<void> =>
  peer.write(grain * GRAIN, Buffer.alloc(count * GRAIN, fill))

/** The server sees the end of a connection a little later. */
async function detach(peer: NbdPeer): Promise<void> {
  peer.detach()
  await new Promise(resolve => { setTimeout(resolve, 100) })
}

/** Sixteen grains and a snapshot `s` of them; so many of the first are others since. */
async function overwritten({ store, json }: Served, grains: number): Promise<void> {
  const peer = await attach(store)
  await write(peer, 0, 1, 16)
  await detach(peer)
  await json('snapshot', 'create', 'disk', 's')
  const again = await attach(store)
  await write(again, 0, 2, grains)
  await detach(again)
}

/** First byte of each of the first grains. */
async function bytesOf(store: string, name: string, grains: number): Promise<number[]> {
  const peer = await attach(store, name)
  const bytes: number[] = []
  for (let grain = 0; grain < grains; grain++) bytes.push((await peer.read(grain * GRAIN, 1))[0]!)
  await detach(peer)
  return bytes
}

t.test('a budget: set, shown everywhere, at its end undo snapshots go and then writes fail; raised, they succeed', SLOW, async t => {
  const first = await serve(t, join(temporaryFolder(t), 'store'), ['--create-volume', 'disk=1MiB', '--create-volume', 'other=1MiB'])
  const { store, ask, json } = first
  t.match(await ask('volume', 'show', 'disk'), { stdout: /\nspace: +0 bytes, no budget, drop-undo-then-fail\n/ })
  t.match(await json('status'), { volumesFailing: 0, keptBytes: 0, spaces: [] })
  await overwritten(first, 4)
  await json('snapshot', 'restore', 'disk', 's')
  t.match(await ask('volume', 'set-budget', 'disk', '--limit', '40KiB', '--dry-run'),
    { code: 0, stdout: 'would let snapshots of disk keep at most 40 KiB\n' })
  t.match(await ask('volume', 'set-budget', 'disk', '--limit', '40KiB'), { code: 0, stdout: 'done: let snapshots of disk keep at most 40 KiB\n' })
  t.match(await json('volume', 'set-budget', 'disk', '--limit', '40k'), { changed: false, steps: [] })
  for (const [args, code] of [[['--limit', '1k', '--unlimited'], 2], [['--order', 'x'], 2], [['--limit', '1.5'], 2]] as const) {
    t.match(await ask('volume', 'set-budget', 'disk', ...args), { code })
  }
  t.match(await ask('volume', 'set-budget', 'nobody', '--unlimited'), { code: 3 })
  t.match(await spaceOf(first), { budgetBytes: 40960, keptBytes: 8 * GRAIN, failing: null }, 's and its undo point have four grains each')
  const client = await attach(store)
  await write(client, 4, 3, 2)
  t.match(await spaceOf(first), { keptBytes: 10 * GRAIN, sacrifices: 0 })
  await write(client, 6, 3)
  t.match(await spaceOf(first), { keptBytes: 7 * GRAIN, sacrifices: 1, lastSacrifice: { name: 'undo-s-1', why: 'budget' }, failing: null })
  await write(client, 7, 3, 3)
  await t.rejects(write(client, 10, 3), ENOSPC)
  t.match(await ask('volume', 'show', 'disk'), {
    stdout: /\nspace: +40 KiB of 40 KiB, drop-undo-then-fail, gave up undo-s-1 at 2\S+Z \(budget full\), writes fail \(budget full\)\n/,
  })
  t.match(await ask('snapshot', 'list', 'disk'), { stdout: / SPACE\ndisk +s +snapshot .*40 KiB of 40 KiB.*writes fail/ })
  t.match(await json('snapshot', 'list', 'disk'), [{ name: 's', space: { failing: 'budget', order: 'drop-undo-then-fail' } }])
  t.match(await ask('status'), { stdout: /\nvolumes failing: +1\nkept: +40 KiB .*\nspaces: +\n  disk: 40 KiB of 40 KiB, .*writes fail/ })
  t.match(await json('status'), { volumesFailing: 1, keptBytes: 40960, spaces: [{ volume: 'disk', failing: 'budget', budgetBytes: 40960 }] })
  t.match(await ask('volume', 'set-budget', 'disk', '--limit', '44KiB', '--order', 'fail'), { code: 0 })
  await write(client, 10, 3)
  await t.rejects(write(client, 11, 3), ENOSPC)
  await detach(client)
  t.strictSame(await bytesOf(store, 'disk', 16), [1, 1, 1, 1, 3, 3, 3, 3, 3, 3, 3, 1, 1, 1, 1, 1])
  t.strictSame(await bytesOf(store, 'disk@s', 16), Array(16).fill(1))
  first.child.kill('SIGTERM')
  t.match(await first.ended, { code: 0, stderr: /undo-s-1.*given up for want of space/s }, 'the log tells of it')
  const second = await serve(t, store)
  t.match(await spaceOf(second), { budgetBytes: 45056, keptBytes: 45056, order: 'fail', sacrifices: 0, failing: null })
  const last = await attach(store)
  await t.rejects(write(last, 11, 3), ENOSPC)
  t.match(await second.ask('volume', 'set-budget', 'disk', '--unlimited'), { code: 0 })
  await write(last, 11, 3, 5)
  t.match(await spaceOf(second), { failing: null, budgetBytes: null })
  await detach(last)
})

t.test('a restore that the budget leaves no room for says what it waits for', SLOW, async t => {
  const served = await serve(t, join(temporaryFolder(t), 'store'), ['--create-volume', 'disk=1MiB'])
  const { store, ask, json } = served
  await overwritten(served, 8)
  await json('volume', 'set-budget', 'disk', '--limit', '36KiB', '--order', 'fail')
  const told = (text: string): RegExp => new RegExp(text.replace('WHY', '32768 bytes of old content have to be kept.*; raise the budget, or delete snapshots'))
  const { child, ended } = start(['snapshot', 'restore', 'disk', 's', '--store', store])
  const said = await new Promise<string>(resolve => { child.stderr!.on('data', resolve) })
  t.match(said, told('^restore of disk: 0 bytes of 32 KiB, 0 %, waits: WHY\n$'), 'at once')
  const rows = await json('job', 'list') as { id: number, state: string }[]
  t.match(rows, [{ id: 1, state: 'running', doneBytes: 0, error: null, waiting: told('WHY') }])
  t.match(await ask('job', 'show', '1'), { stdout: told('\\nwaiting: +WHY\\n') })
  t.match(await ask('job', 'list'), { stdout: told('  WAITING\\n.*WHY\\n') })
  served.child.kill('SIGKILL')
  await Promise.all([served.ended, ended])
  const second = await serve(t, store)
  const resumed = async (): Promise<string | null> => (await second.json('job', 'show', '1') as { waiting: string | null }).waiting
  for (let look = 0; look < 50 && await resumed() === null; look++) await new Promise(resolve => { setTimeout(resolve, 100) })
  t.match(await resumed(), told('WHY'), 'after a restart as well')
  await second.json('volume', 'set-budget', 'disk', '--unlimited')
  second.child.kill('SIGTERM')
  await second.ended
  const third = await serve(t, store)
  const isOver = async (): Promise<boolean> => (await third.json('job', 'list') as { state: string }[]).every(({ state }) => state === 'done')
  for (let look = 0; look < 50 && !await isOver(); look++) await new Promise(resolve => { setTimeout(resolve, 100) })
  t.ok(await isOver())
  t.strictSame(await bytesOf(store, 'disk', 16), Array(16).fill(1))
})

const small = temporaryFolder(t)
const mounted = process.getuid?.() === 0 && spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'none', small]).status === 0

t.test('a disk that is full', { ...SLOW, skip: mounted ? false : 'only root can mount a small file system' }, async t => {
  t.teardown(() => { spawnSync('umount', ['-l', small]) })
  const served = await serve(t, join(small, 'store'), ['--create-volume', 'disk=8MiB'])
  const { store, json } = served
  const grains = 2048
  const live = Array<number>(grains).fill(1)
  const peer = await attach(store)
  for (let grain = 0; grain < grains; grain += 512) await write(peer, grain, 1, 512)
  await json('snapshot', 'create', 'disk', 's')
  await write(peer, 0, 2)
  live[0] = 2
  await peer.flush()
  await new Promise(resolve => { setTimeout(resolve, 500) })
  const filler = join(small, 'filler')
  spawnSync('dd', ['if=/dev/zero', `of=${filler}`, 'bs=4k'])
  // What finds no place is taken by the staging log for a moment, and then no more.
  let failed = 0
  for (let grain = 1; grain < 200 && failed < 3; grain++) {
    await write(peer, grain, 3).then(() => { live[grain] = 3 }, (error: Error) => {
      t.match(error.message, ENOSPC)
      failed++
    })
    await new Promise(resolve => { setTimeout(resolve, 20) })
  }
  t.equal(failed, 3)
  await write(peer, 0, 4)
  live[0] = 4
  await peer.flush()
  t.match(await spaceOf(served), { failing: 'disk', sacrifices: 0 })
  t.match(await json('status'), { volumesFailing: 1, spaces: [{ volume: 'disk', failing: 'disk' }] })
  await detach(peer)
  t.strictSame(await bytesOf(store, 'disk', grains), live, 'what was answered is there, what failed is not')
  t.strictSame(await bytesOf(store, 'disk@s', grains), Array(grains).fill(1))
  rmSync(filler)
  const client = await attach(store)
  for (let grain = 1000; grain < 1100; grain++) {
    await write(client, grain, 5)
    live[grain] = 5
  }
  await detach(client)
  for (let look = 0; look < 100 && (await spaceOf(served)).failing; look++) await new Promise(resolve => { setTimeout(resolve, 100) })
  t.match(await spaceOf(served), { failing: null }, 'without a restart')
  t.strictSame(await bytesOf(store, 'disk', grains), live)
  t.strictSame(await bytesOf(store, 'disk@s', grains), Array(grains).fill(1))
  t.match(await json('snapshot', 'create', 'disk', 'later'), { name: 'later' })
})
