// Snapshots, clones, groups, schedules and deltas against a real server, as text and with --json.
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { NbdPeer } from './nbd-peer.js'
import { byteAt, nbdelta, put, serve, temporaryFolder, type Served } from './launcher.js'

const MIB = 2 ** 20
/** A process a command, and copies that are slowed down. */
const SLOW = { timeout: 180_000 }
t.setTimeout(600_000)
const LAUNCHER = fileURLToPath(new URL('../../../bin/nbdelta.cjs', import.meta.url))

const jobEnds = async ({ json }: Served, id: number): Promise<unknown> => {
  for (;;) {
    const job = await json('job', 'show', String(id)) as { state: string }
    if (job.state !== 'running') return job
    await new Promise(resolve => { setTimeout(resolve, 50) })
  }
}

t.test('a point from its making to its end', SLOW, async t => {
  const { store, ask, json } = await serve(t, join(temporaryFolder(t), 'store'), ['--create-volume', 'disk=8MiB'])
  t.match(await ask('snapshot', 'list'), { code: 0, stdout: 'no snapshots\n' })
  await put(store, 'disk', 0, 1)
  t.match(await ask('snapshot', 'create', 'disk', 'one', '--label', 'by=cron', '--label', 'x='),
    { code: 0, stdout: 'created snapshot one of volume disk\n' })
  await put(store, 'disk', 8192, 2)
  t.match(await json('snapshot', 'create', 'disk@mark', '--bookmark'), { volume: 'disk', name: 'mark', kind: 'bookmark', seq: 2, labels: {} })
  await put(store, 'disk', 0, 3)
  t.match(await json('snapshot', 'list', 'disk'), [
    { name: 'one', kind: 'snapshot', sizeBytes: 8 * MIB, exclusiveBytes: 4096, referencedBytes: 4096, changedBytes: 4096,
      labels: { by: 'cron', x: '' }, pins: [], group: null, uuid: /^[0-9a-f-]{36}$/ },
    { name: 'mark', kind: 'bookmark', exclusiveBytes: 0, referencedBytes: 0, changedBytes: 4096 },
  ])
  t.match(await ask('snapshot', 'list'), { stdout: /^VOLUME +NAME +KIND +CREATED +SIZE +EXCLUSIVE .*\ndisk +one +snapshot .* 8 MiB +4 KiB .*by=cron/ })
  t.equal((await ask('snapshot', 'list', '-q')).stdout, 'one\nmark\n')
  t.match(await json('snapshot', 'diff', 'disk', 'one'),
    { changedBytes: 8192, rangeCount: 2, ranges: [{ offset: 0, length: 4096 }, { offset: 8192, length: 4096 }], to: null })
  t.match(await json('snapshot', 'diff', 'disk@one', 'mark', '--limit', '0'), { changedBytes: 4096, rangeCount: 1, ranges: { length: 0 } })
  t.match(await ask('snapshot', 'diff', 'disk', 'mark'), { stdout: /range count: +1\nranges: +\n +0 \+4096\n/ })
  t.match(await ask('snapshot', 'pin', 'disk', 'one', '--owner', 'me', '--expires', '1h'), { code: 0, stdout: /^done: pin one of disk for me until 2/ })
  t.match(await json('snapshot', 'show', 'disk', 'one'), { pins: [{ owner: 'me', expiresAt: /^2/ }] })
  for (const dry of [[], ['--dry-run']]) t.match(await ask('snapshot', 'delete', 'disk', 'one', ...dry), { code: 5, stderr: /pinned by me/ })
  t.match(await ask('volume', 'delete', 'disk', '--force'), { code: 5, stderr: /pinned by me/ })
  t.match(await ask('snapshot', 'unpin', 'disk', 'one', '--owner', 'you'), { code: 3, stderr: /hint: it is by: me/ })
  t.match(await ask('snapshot', 'unpin', 'disk', 'one', '--owner', 'me'), { code: 0 })
  t.match(await ask('snapshot', 'pin', 'disk', 'one', '--owner', 'me', '--expires', '1s'), { code: 0 })
  t.match(await ask('snapshot', 'rename', 'disk', 'one', 'first'), { code: 0, stdout: /rename snapshot one of disk to first/ })
  await new Promise(resolve => { setTimeout(resolve, 1000) })
  t.match(await ask('snapshot', 'delete', 'disk', 'first', '--dry-run'), { stdout: /4 KiB/ })
  t.match(await json('snapshot', 'list', 'disk'), { length: 2 }, 'a dry run changes nothing')
  t.match(await ask('snapshot', 'delete', 'disk', 'first'), { code: 0, stdout: 'done: delete snapshot first of disk, about 4 KiB\n' }, 'the pin has expired')
  t.equal((await ask('snapshot', 'list', 'disk', '-q')).stdout, 'mark\n')
  t.match(await ask('volume', 'delete', 'disk', '--dry-run'), { stdout: /would delete 1 point of disk\nwould delete volume disk/ })
})

t.test('restore: dry, attached, whole, a range, taken back', SLOW, async t => {
  const served = await serve(t, join(temporaryFolder(t), 'store'), ['--create-volume', 'disk=8MiB'])
  const { store, ask, json } = served
  await put(store, 'disk', 0, 1, MIB)
  await json('snapshot', 'create', 'disk', 's')
  await put(store, 'disk', 0, 2, MIB)
  t.match(await ask('snapshot', 'restore', 'disk', 's', '--dry-run'), { code: 0, stdout: /^would keep what disk shows.*\nwould give disk the content/ })
  t.equal(await byteAt(store, 'disk', 0), 2)
  const peer = await NbdPeer.attach(join(store, 'nbd.sock'), 'disk')
  t.match(await ask('snapshot', 'restore', 'disk', 's'), { code: 5, stderr: /attached/ })
  t.match(await ask('snapshot', 'restore', 'disk', 's', '--dry-run'), { code: 5 })
  peer.detach()
  await new Promise(resolve => { setTimeout(resolve, 100) })
  t.match(await ask('snapshot', 'restore', 'disk', 's', '--offset', '8k', '--length', '4k'), { code: 0, stdout: /^restore of disk done: 4 KiB in/ })
  t.equal(await byteAt(store, 'disk', 0), 2)
  t.equal(await byteAt(store, 'disk', 8192), 1)
  const job = await json('snapshot', 'restore', 'disk', 's', '--rate', '64KiB/s', '--no-wait') as { id: number }
  t.match(job, { kind: 'restore', state: 'running', volume: 'disk', path: null })
  t.equal(await byteAt(store, 'disk', MIB - 4096), 1, 'it shows the snapshot before it is copied')
  t.match(await ask('snapshot', 'restore', 'disk', 's'), { code: 5, stderr: /job .* works on it: restore/ })
  t.match(await ask('volume', 'resize', 'disk', '--size', '16MiB'), { code: 5 })
  t.match(await ask('snapshot', 'delete', 'disk', 's'), { code: 5, stderr: /restore/ })
  t.match(await ask('snapshot', 'create', 'disk', 'meanwhile'), { code: 0 })
  t.match(await json('job', 'cancel', String(job.id)), { state: 'cancelled' })
  t.equal(await byteAt(store, 'disk', MIB - 4096), 2, 'taken back')
  t.equal(await byteAt(store, 'disk', 8192), 1)
  t.match(await json('snapshot', 'list'), [{ name: 's' }, { labels: { auto: 'undo' } }])
})

t.test('a restore goes on after a restart, as a job again', SLOW, async t => {
  const first = await serve(t, join(temporaryFolder(t), 'store'), ['--create-volume', 'disk=8MiB'])
  await put(first.store, 'disk', 0, 1, MIB)
  await first.json('snapshot', 'create', 'disk', 's')
  await put(first.store, 'disk', 0, 2, MIB)
  const waiting = nbdelta(['snapshot', 'restore', 'disk', 's', '--rate', '128KiB', '--store', first.store])
  while ((await first.json('job', 'list') as unknown[]).length === 0);
  first.child.kill('SIGTERM')
  t.match(await waiting, { code: 9, stderr: /goes on when it starts again/ })
  t.equal((await first.ended).code, 0)
  const second = await serve(t, first.store)
  t.match(await second.json('job', 'list'), [{ kind: 'restore', volume: 'disk', state: 'running' }])
  t.equal(await byteAt(first.store, 'disk', MIB - 4096), 1)
  t.match(await jobEnds(second, 1), { state: 'done' })
  t.equal(await byteAt(first.store, 'disk', 4096), 1)
})

t.test('clone and promote', SLOW, async t => {
  const { store, ask, json } = await serve(t, join(temporaryFolder(t), 'store'), ['--create-volume', 'disk=8MiB'])
  await put(store, 'disk', 0, 1, MIB)
  await json('snapshot', 'create', 'disk', 's')
  t.match(await ask('snapshot', 'clone', 'disk', 's', 'copy'), { code: 0, stdout: 'created volume copy, 8 MiB\n' })
  await put(store, 'copy', 0, 9)
  t.same([await byteAt(store, 'copy', 0), await byteAt(store, 'copy', 4096), await byteAt(store, 'disk', 0)], [9, 1, 1])
  t.match(await ask('snapshot', 'delete', 'disk', 's'), { code: 5, stderr: /clone copy\nhint: a clone lets go when it is promoted/ })
  t.match(await ask('volume', 'delete', 'disk', '--force'), { code: 5, stderr: /clone copy/ })
  t.match(await ask('snapshot', 'unpin', 'disk', 's', '--owner', 'clone copy'), { code: 2, stderr: /server's own/ })
  t.match(await ask('snapshot', 'clone', 'disk', 's', 'copy'), { code: 4 })
  t.match(await ask('volume', 'promote', 'copy'), { code: 0, stdout: /^promotion of copy done/ })
  t.match(await ask('volume', 'promote', 'copy'), { code: 4 })
  t.match(await ask('snapshot', 'delete', 'disk', 's'), { code: 0 })
  t.equal(await byteAt(store, 'copy', 4096), 1)
})

t.test('groups', SLOW, async t => {
  const { store, ask, json } = await serve(t, join(temporaryFolder(t), 'store'), ['--create-volume', 'a=1MiB', '--create-volume', 'b=1MiB'])
  t.match(await ask('group', 'create', 'g', 'b', 'a'), { code: 0, stdout: 'created group g of a, b\n' })
  t.match(await ask('group', 'create', 'g', 'a'), { code: 4 })
  t.match(await json('group', 'list'), [{ name: 'g', volumes: ['a', 'b'] }])
  await put(store, 'a', 0, 1)
  await put(store, 'b', 0, 1)
  t.match(await json('group', 'snapshot', 'g', 's', '--label', 'k=v'), { group: 'g', name: 's', kind: 'snapshot', volumes: ['a', 'b'] })
  const points = await json('snapshot', 'list') as { group: string, volume: string, labels: unknown }[]
  t.match(points, [{ volume: 'a', labels: { k: 'v' } }, { volume: 'b' }])
  t.ok(points[0]!.group !== null && points[0]!.group === points[1]!.group)
  t.match(await ask('group', 'snapshot', 'g', 's'), { code: 4, stderr: /volume [ab]: .*'s'/ })
  await put(store, 'a', 0, 2)
  await put(store, 'b', 0, 2)
  t.match(await ask('group', 'restore', 'g', 's', '--dry-run'), { code: 0, stdout: /a shows now[^]*content of snapshot s/ })
  t.equal(await byteAt(store, 'a', 0), 2)
  t.match(await ask('group', 'restore', 'g', 's'), { code: 0, stdout: /^group restore of g done: 8 KiB/ })
  t.same([await byteAt(store, 'a', 0), await byteAt(store, 'b', 0)], [1, 1])
  await json('snapshot', 'create', 'a', 'alone')
  await json('snapshot', 'create', 'b', 'alone')
  t.match(await ask('group', 'restore', 'g', 'alone'), { code: 4, stderr: /not of one instant/ })
  t.match(await ask('group', 'delete', 'g', '--dry-run'), { stdout: /would forget group g; a, b stay/ })
  t.match(await ask('volume', 'delete', 'b'), { code: 0 })
  t.match(await json('group', 'show', 'g'), { volumes: ['a'] })
  t.match(await ask('group', 'delete', 'g'), { code: 0 })
  t.match(await ask('group', 'list'), { stdout: 'no groups\n' })
})

t.test('schedules', SLOW, async t => {
  const first = await serve(t, join(temporaryFolder(t), 'store'), ['--create-volume', 'disk=1MiB'])
  const { ask, json } = first
  await json('snapshot', 'create', 'disk', 'mine')
  t.match(await ask('schedule', 'set', 'disk'), { code: 2, stderr: /--hourly/ })
  t.match(await json('schedule', 'set', 'disk', '--hourly', '24', '--dry-run'), { dryRun: true, points: [{ name: 'mine', keep: true, reasons: ['not by schedule'] }] })
  t.match(await json('schedule', 'show', 'disk'), { hourly: null })
  t.match(await json('schedule', 'set', 'disk', '--hourly', '24', '--weekly', '4'), { hourly: 24, daily: 0, weekly: 4, keepBookmarks: false })
  while ((await json('snapshot', 'list', 'disk') as unknown[]).length < 2);
  t.match(await ask('schedule', 'show', 'disk'), { stdout: /keep mine: not by schedule\n +keep auto-\d{8}T\d{6}Z: hourly 1, weekly 1/ })
  t.match(await ask('snapshot', 'create', 'disk', 'x', '--label', 'auto=schedule'), { code: 2, stderr: /server's own/ })
  first.child.kill('SIGTERM')
  await first.ended
  const second = await serve(t, first.store)
  t.match(await second.json('schedule', 'show', 'disk'), { hourly: 24, points: { length: 2 } }, 'it survives a restart')
  t.match(await second.ask('schedule', 'clear', 'disk', '--dry-run'), { stdout: /would end/ })
  t.match(await second.json('schedule', 'clear', 'disk'), { changed: true })
  t.match(await second.json('schedule', 'clear', 'disk'), { changed: false })
})

t.test('deltas: files, pipes, merge, verify', SLOW, async t => {
  const folder = temporaryFolder(t)
  const extra = ['a', 'b', 'c'].flatMap(name => ['--create-volume', `${name}=1MiB`])
  const { store, ask, json } = await serve(t, join(folder, 'store'), extra)
  const file = (name: string): string => join(folder, name)
  await put(store, 'a', 0, 1)
  await json('snapshot', 'create', 'a', 'one')
  await put(store, 'a', 8192, 2)
  await json('snapshot', 'create', 'a', 'two')
  t.match(await ask('delta', 'export', 'a', 'one', file('full')), { code: 0, stdout: /^delta export of a done/ })
  t.match(await ask('delta', 'export', 'a@two', file('1'), '--from', 'one', '--compress', 'gzip'), { code: 0 })
  t.match(await ask('delta', 'export', 'a', 'two', file('1')), { code: 4, stderr: /--overwrite/ })
  t.match(await json('snapshot', 'show', 'a', 'one'), { pins: { length: 0 } }, 'pins of the export are gone')
  t.match(JSON.parse((await nbdelta(['delta', 'verify', file('1'), '--json'])).stdout), { direction: 'forward', sizeAfter: MIB, grainBytes: 4096 })
  t.match(await ask('delta', 'import', 'b', file('1')), { code: 4, stderr: /starts from/ })
  t.match(await ask('delta', 'import', 'b', file('full'), '--dry-run'), { code: 0, stdout: /^would fill b/ })
  t.match(await ask('delta', 'import', 'b', file('full')), { code: 0 })
  t.match(await ask('delta', 'import', 'b', file('1')), { code: 0 })
  t.same([await byteAt(store, 'b', 0), await byteAt(store, 'b', 8192)], [1, 2])
  t.match(await ask('delta', 'import', 'b', file('1')), { code: 4, stderr: /already/ })
  t.match(await json('snapshot', 'list', 'b'), [{ labels: { origin: /-/ } }, { labels: { origin: /-/ } }])
  t.match(await nbdelta(['delta', 'merge', file('full'), file('1'), file('both')]), { code: 0, stdout: /base: +empty/ })
  t.match(await nbdelta(['delta', 'merge', file('1'), file('full'), file('x')]), { code: 4 })
  t.match(await nbdelta(['delta', 'merge', file('1')]), { code: 2, stderr: /file to write is missing/ })
  writeFileSync(file('cut'), readFileSync(file('both')).subarray(0, -20))
  t.match(await nbdelta(['delta', 'verify', file('cut')]), { code: 8 })
  t.match(await ask('delta', 'import', 'c', file('cut')), { code: 8, stderr: /c is empty again\nhint: import again/ })
  const pipe = `node ${LAUNCHER} delta export a two - --store ${store} | node ${LAUNCHER} delta verify - --json`
  const piped = spawnSync('bash', ['-c', `set -o pipefail; ${pipe}`], { encoding: 'utf8' })
  t.equal(piped.status, 0, piped.stderr)
  t.match(JSON.parse(piped.stdout), { base: 'empty' })
  await json('volume', 'create', 'd', '--size', '1MiB')
  const into = spawnSync('bash', ['-c', `node ${LAUNCHER} delta import d - --store ${store} < ${file('both')}`], { encoding: 'utf8' })
  t.match(into, { status: 0, stdout: /^delta import of d done/ })
  t.same([await byteAt(store, 'd', 0), await byteAt(store, 'd', 8192)], [1, 2])
  t.match(await ask('delta', 'export', 'a', 'two', '-', '--no-wait'), { code: 2, stderr: /--no-wait/ })
  await put(store, 'b', 0, 7)
  await put(store, 'a', 0, 5)
  await json('snapshot', 'create', 'a', 'three')
  await ask('delta', 'export', 'a', 'three', file('3'), '--from', 'two')
  t.match(await ask('delta', 'import', 'b', file('3')), { code: 4, stderr: /has changed since .*\nhint: .*snapshot restore b delta-/ })
  await put(store, 'b', 0, 1)
  t.match(await ask('delta', 'import', 'b', file('3')), { code: 0 }, 'the same bytes again are no change')
  t.equal(await byteAt(store, 'b', 0), 5)
})

t.test('commands that a server refuses', SLOW, async t => {
  const folder = temporaryFolder(t)
  const { ask, json } = await serve(t, join(folder, 'store'), ['--create-volume', 'disk=8MiB'])
  const rows: readonly [string[], number, RegExp][] = [
    [['snapshot', 'create', 'x', 's'], 3, /x/], [['snapshot', 'create', 'disk', 'a b'], 2, /name/], [['snapshot', 'create', 'disk', 'a/b'], 2, /name/],
    [['snapshot', 'create', 'disk', 's', '--label', 'a b=c'], 2, /label/], [['snapshot', 'list', 'x'], 3, /x/], [['snapshot', 'show', 'disk', 's'], 3, /s/],
    [['snapshot', 'delete', 'disk', 's', '--dry-run'], 3, /s/], [['snapshot', 'rename', 'disk', 's', 't'], 3, /s/],
    [['snapshot', 'diff', 'disk', 's'], 3, /s/], [['snapshot', 'pin', 'disk', 's', '--owner', 'o'], 3, /s/],
    [['snapshot', 'restore', 'disk', 's'], 3, /s/], [['snapshot', 'clone', 'disk', 's', 'n'], 3, /s/], [['volume', 'promote', 'disk'], 4, /no clone/],
    [['group', 'create', 'g', 'x'], 3, /x/], [['group', 'create', 'a b', 'disk'], 2, /name/], [['group', 'show', 'g'], 3, /g/],
    [['group', 'snapshot', 'g', 's'], 3, /g/], [['group', 'restore', 'g', 's'], 3, /g/], [['group', 'delete', 'g'], 3, /g/],
    [['delta', 'export', 'disk', 's', join(folder, 'd')], 3, /s/], [['delta', 'import', 'disk', join(folder, 'none')], 3, /none/],
    [['delta', 'import', 'x', join(folder, 'none')], 3, /x/], [['delta', 'verify', join(folder, 'none')], 3, /none/],
    [['schedule', 'set', 'x', '--hourly', '1'], 3, /x/], [['schedule', 'set', 'disk'], 2, /hourly/], [['schedule', 'show', 'x'], 3, /x/],
  ]
  const worker = async (): Promise<void> => {
    for (let row = left.shift(); row; row = left.shift()) {
      const outcome = await ask(...row[0])
      t.match(outcome, { code: row[1], stdout: '', stderr: row[2] }, row[0].join(' '))
      t.match(outcome.stderr, /^nbdelta: [^\n]+\n(hint: [^\n]+\n)?$/, 'one line and a hint')
    }
  }
  const left = [...rows]
  await Promise.all([worker(), worker(), worker()])
  t.match(await json('snapshot', 'list'), [], 'nothing has changed')
  t.match(await json('group', 'list'), [])
})
