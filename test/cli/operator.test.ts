// What an operator gets wrong: one clear line, a hint where there is something to do, the right exit code, nothing lost, no
// stack trace.
import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { clean, has, nbdelta, serve, temporaryFolder } from './launcher.js'

t.test('command lines', async t => {
  const folder = temporaryFolder(t)
  const rows: readonly [string[], number, RegExp][] = [
    [[], 2, /a command is needed/], [['frobnicate'], 2, /unknown command/], [['volume'], 2, /needs a verb/],
      [['volume', 'list'], 2, /no store is named/],
    [['volume', 'list', '--store', join(folder, 'none')], 9,
      /no server answers at .*none\/control.sock\nhint: start one with: nbdelta serve --store .*none/],
    [['volume', 'list', '--control', folder], 9, /no server answers/],
      [['volume', 'list', '--store', 'x'.repeat(5000)], 2, /longer than/],
    [['serve'], 2, /--store is missing/], [['serve', '--store', ''], 2, /empty/],
      [['serve', '--store', folder, '--nbd', 'x'], 2, /not an address/],
    [['status', 'extra', '--store', folder], 2, /too many arguments/],
      [['volume', 'show', 'a\u001b[31mb', '--store', folder], 2, /control character/],
    [['volume', 'list', '--nonsense'], 2, /unknown option/],
    [['--store', folder, 'snapshot', 'restore', 'disk'], 2, /NAME is missing\nhint: see: nbdelta snapshot restore --help/],
  ]
  await Promise.all(rows.map(
    async ([args, code, message]) => { clean(t, await nbdelta(args), code, message, args.join(' ').slice(0, 60)) }))
})

t.test('stores that cannot be served', async t => {
  const folder = temporaryFolder(t)
  const file = join(folder, 'file')
  writeFileSync(file, 'x')
  const full = join(folder, 'full')
  mkdirSync(full)
  writeFileSync(join(full, 'holiday.jpg'), 'x')
  symlinkSync(join(folder, 'nowhere', 'deeper'), join(folder, 'dangling'))
  clean(t, await nbdelta(['serve', '--store', file]), 2, /file/, 'a file')
  clean(t, await nbdelta(['delta', 'verify', file]), 8, /\nhint: it is no delta/, 'nor is it a delta')
  const taken = await nbdelta(['serve', '--store', full])
  t.match(taken.code, /^[24]$/, 'a directory of something else')
  clean(t, taken, taken.code!, /full/, 'a directory of something else')
  t.same(readdirSync(full), ['holiday.jpg'], 'and it is left as it was')
  t.not((await nbdelta(['serve', '--store', join(folder, 'dangling')])).code, 0)
})

// Root may write anywhere; without its capabilities it may not.
const ORDINARY = process.getuid?.() === 0 ? ['setpriv', '--inh-caps=-all', '--bounding-set=-all'] : []

t.test('permissions',
  { skip: ORDINARY.length === 0 || has('setpriv') ? false : 'this is root, and setpriv (util-linux) is not installed' },
  async t => {
  const folder = temporaryFolder(t)
  const locked = join(folder, 'locked')
  const { store, child } = await serve(t, join(folder, 'store'))
  mkdirSync(locked)
  chmodSync(locked, 0o500)
  chmodSync(join(store, 'control.sock'), 0)
  clean(t, await nbdelta(['serve', '--store', join(locked, 'store')], { through: ORDINARY }), 10, /locked/,
    'a store in a read-only directory')
  clean(t, await nbdelta(['status', '--store', store], { through: ORDINARY }), 10,
    /no permission to use the control socket .*\nhint: .*sudo/, 'a control socket of somebody else')
  chmodSync(store, 0)
  clean(t, await nbdelta(['serve', '--store', store], { through: ORDINARY }), 10, /store/, 'a store of somebody else')
  chmodSync(store, 0o700)
  t.equal(child.exitCode, null)
})

const small = temporaryFolder(t)
const mounted = process.getuid?.() === 0 && spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=40m', 'none', small]).status === 0

t.test('a full disk', { skip: mounted ? false : 'only root can mount a small file system' }, async t => {
  t.teardown(() => { spawnSync('umount', ['-l', small]) })
  const { ask, json } = await serve(t, join(small, 'store'), ['--create-volume', 'disk=1GiB'])
  spawnSync('dd', ['if=/dev/zero', `of=${join(small, 'filler')}`, 'bs=4k'])
  clean(t, await ask('volume', 'create', 'two', '--size', '1GiB'), 6, /ENOSPC.*\nhint: make room/, 'no room for another volume')
  t.match(await json('volume', 'list'), [{ name: 'disk' }], 'nothing is left of it')
  clean(t, await nbdelta(['serve', '--store', join(small, 'other')]), 6, /ENOSPC/, 'no room for another store')
  rmSync(join(small, 'filler'))
  t.match(await ask('volume', 'create', 'two', '--size', '1GiB'), { code: 0 }, 'room again')
})

t.test('a standard output that takes nothing', async t => {
  const folder = temporaryFolder(t)
  const { store, json } = await serve(t, join(folder, 'store'), ['--create-volume', 'disk=1MiB'])
  await json('snapshot', 'create', 'disk', 's')
  await json('delta', 'export', 'disk', 's', join(folder, 'full'))
  await json('delta', 'export', 'disk', 's', join(folder, 'none'), '--from', 's')
  const full = { through: ['sh', '-c', 'exec "$@" > /dev/full', 'sh'] }
  const lines: [string, RegExp][] = [['volume list', /carried out/], ['version', /carried out/], ['--help', /carried out/],
    ['delta export disk s -', /write to standard output: ENOSPC.*\nhint: what it wrote is incomplete\n$/],
    [`delta merge ${join(folder, 'full')} ${join(folder, 'none')} -`, /ENOSPC/]]
  for (const [line, words] of lines) clean(t, await nbdelta([...line.split(' '), '--store', store], full), 6, words, line)
  t.match(await nbdelta(['volume', 'list', '--store', store, '--json'], full), { code: 6, stderr: /^\{"error".*\}\n$/ })
  const gone = { through: ['sh', '-c', '{ "$@"; echo $? >&2; } | true', 'sh'] }
  t.match(await nbdelta(['delta', 'export', 'disk', 's', '-', '--store', store], gone), { stderr: /^nbdelta: write to standard output.*\n.*\n7\n$/ })
  t.match(await nbdelta(['volume', 'list', '--store', store], gone), { stderr: '0\n' })
})

t.test('a place where no file can be', async t => {
  clean(t, await nbdelta(['serve', '--store', '/proc/nbdelta-store']), 3, /\/proc/, '/proc refuses new files')
})

t.test('addresses that cannot be had', async t => {
  const folder = temporaryFolder(t)
  const other = createServer()
  await new Promise<void>(resolve => { other.listen(0, '127.0.0.1', resolve) })
  t.teardown(() => { other.close() })
  const { port } = other.address() as { port: number }
  clean(t, await nbdelta(['serve', '--store', join(folder, 'a'), '--nbd', `tcp:127.0.0.1:${port}`, '--log-level', 'silent']), 5,
    new RegExp(`${port}`), 'a port in use')
  clean(t, await nbdelta(['serve', '--store', join(folder, 'b'), '--nbd', 'tcp:203.0.113.7:1', '--log-level', 'silent']), 7,
    /203\.0\.113\.7/, 'an address of another host')
  clean(t, await nbdelta(['serve', '--store', join(folder, 'c'), '--nbd', `unix:${folder}/none/x.sock`, '--log-level', 'silent']),
    3, /none/, 'a socket in no directory')
  writeFileSync(join(folder, 'plain'), 'precious')
  clean(t, await nbdelta(['serve', '--store', join(folder, 'd'), '--control', join(folder, 'plain'), '--log-level', 'silent']), 4,
    /no socket/, 'a control path that is a file')
})

t.test('what serve cannot accept makes no store', async t => {
  const folder = temporaryFolder(t)
  const [open, short, secret] = ['open', 'short', 'secret'].map(name => join(folder, name)) as [string, string, string]
  writeFileSync(open, 'a secret of sixteen bytes\n', { mode: 0o644 })
  writeFileSync(short, 'short\n', { mode: 0o600 })
  writeFileSync(secret, 'a secret of sixteen bytes\n', { mode: 0o600 })
  const peer = ['--peer', 'tcp:127.0.0.1:0']
  const rows: readonly [string[], number, RegExp][] = [
    ...([['x=1', /--create-volume x=1: a volume has at least 512 bytes/], ['x=0', /at least 512/], ['x=513', /x=513: a size is a multiple of 512/],
      ['a/b=1MiB', /--create-volume a\/b=1MiB: a name consists of/], ['.x=1MiB', /may not start with/],
      ['x=7PiB', /--create-volume x=7PiB: .* more than 4294967296 grains.*\nhint: choose a larger grain/]] as const)
      .map(([text, words]): [string[], number, RegExp] => [['--create-volume', text], 2, words]),
    [['--create-volume', 'good=1MiB', '--create-volume', 'x=1'], 2, /x=1/],
    [['--create-volume', 'x=1MiB', '--create-volume', 'x=2MiB'], 2, /names x twice, with two sizes/],
    [peer, 2, /go together/], [['--peer-secret', secret], 2, /go together/],
    [[...peer, '--peer-secret', join(folder, 'none')], 3, /none/], [[...peer, '--peer-secret', open], 10, /read by others/],
    [[...peer, '--peer-secret', short], 2, /fewer than 16 bytes/],
    [['--peer', `unix:${folder}/no/peer.sock`, '--peer-secret', secret], 3, /there is no folder/],
    [['--control', join(folder, 'no', 'c.sock')], 3, /there is no folder/], [['--nbd', `unix:${folder}/no/n.sock`], 3, /there is no folder/],
    [['--control', `/tmp/${'x'.repeat(108)}`], 2, /108|longer|107/],
  ]
  for (const [index, [args, code, message]] of rows.entries()) {
    const store = join(folder, `store-${index}`)
    clean(t, await nbdelta(['serve', '--store', store, '--log-level', 'silent', ...args]), code, message, args.join(' '))
    t.notOk(existsSync(store), `${args.join(' ')}: nothing is made`)
  }
  const store = join(folder, 'there')
  const { json, child, ended } = await serve(t, store, ['--create-volume', 'x=1MiB', '--create-volume', 'x=1024KiB'])
  t.match(await json('volume', 'list'), [{ name: 'x', sizeBytes: 2 ** 20 }], 'the same twice is no mistake')
  child.kill('SIGTERM')
  await ended
  clean(t, await nbdelta(['serve', '--store', store, '--log-level', 'silent', '--create-volume', 'y=1']), 2, /y=1/, 'a store that is there')
  t.match(await (await serve(t, store, ['--create-volume', 'x=2MiB'])).json('volume', 'list'), [{ name: 'x', sizeBytes: 2 ** 20 }])
})

t.test('commands that a server refuses', async t => {
  const folder = temporaryFolder(t)
  const { ask, json, child } = await serve(t, join(folder, 'store'), ['--create-volume', 'disk=8MiB'])
  const rows: readonly [string[], number, RegExp][] = [
    [['volume', 'create', 'disk', '--size', '8MiB'], 4, /disk/], [['volume', 'create', 'x'], 2, /size/],
      [['volume', 'create', 'x', '--size', '7PiB'], 2, /large|at most/],
    [['volume', 'create', 'x', '--backing', folder], 2, /./], [['volume', 'create', 'x', '--backing', '/dev/null'], 2, /./],
    [['volume', 'create', 'x', '--backing', join(folder, 'none')], 3, /none/], [['volume', 'show', 'x'], 3, /x/],
      [['volume', 'resize', 'x', '--size', '1M'], 3, /x/],
    [['volume', 'resize', 'disk', '--size', '7PiB'], 2, /large|at most/], [['volume', 'delete', 'x'], 3, /x/],
      [['export', 'hide', 'x'], 3, /x/], [['export', 'kick', 'x'], 3, /x/],
    [['client', 'kick', '77'], 3, /77/], [['job', 'cancel', '5'], 3, /5/], [['volume', 'import', 'disk', '/none'], 3, /none/],
      [['volume', 'import', 'y', folder], 2, /./],
    [['volume', 'export', 'x', join(folder, 'out')], 3, /x/], [['volume', 'export', 'disk', folder], 2, /./],
    [['mirror', 'create', 'm', 'disk', 'disk'], 2, /its own mirror/],
  ]
  await Promise.all(rows.map(async ([args, code, message]) => { clean(t, await ask(...args), code, message, args.join(' ')) }))
  t.match(await json('volume', 'list'), [{ name: 'disk', sizeBytes: 8 * 2 ** 20 }], 'nothing has changed')
  t.equal(child.exitCode, null, 'the server lives')
  t.match(await ask('mirror', 'create', 'm', 'disk', 'copy'), { code: 0 })
  t.match(await ask('mirror', 'show', 'm'), { stdout: /\nverified at: +-\nverified: +-\n/ }, 'no two lines of one name')
})

t.test('--log-level debug shows where an error came from', async t => {
  const folder = temporaryFolder(t)
  const { code, stderr } =
    await nbdelta(['serve', '--store', join(folder, 's'), '--nbd', `unix:${folder}/none/x.sock`, '--log-level', 'debug'])
  t.equal(code, 3)
  t.match(stderr, /\n +at /)
})

t.test('a volume whose backing is gone is seen where an operator looks', async t => {
  const folder = temporaryFolder(t)
  const image = join(folder, 'image')
  writeFileSync(image, Buffer.alloc(8192))
  const first = await serve(t, join(folder, 'store'), ['--create-volume', 'disk=8MiB'])
  await first.json('volume', 'create', 'adopted', '--backing', image)
  first.child.kill('SIGTERM')
  t.equal((await first.ended).code, 0)
  rmSync(image)
  const { ask, json } = await serve(t, first.store)
  t.match(await ask('volume', 'list'), { stdout: /^adopted .*there is no .*image$/m })
  t.match(await json('status'), { volumes: 2, volumesBroken: 1 })
  t.match(await ask('volume', 'delete', 'adopted'), { code: 0 })
  t.match(await json('status'), { volumes: 1, volumesBroken: 0 })
})
