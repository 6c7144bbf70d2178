// Images that are exports of other NBD servers: what the commands say and do, with a server of this process on the other side.
import { join } from 'node:path'
import t from 'tap'
import { MemoryDisk } from '../../src/device/testing.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { createServer } from '../../src/nbd/server.js'
import { byteAt, put, serve, temporaryFolder } from './launcher.js'

const MIB = 2 ** 20

/** Fails to read behind a certain point. */
class HalfDisk extends MemoryDisk {
  override read(offset: number, length: number, into: Buffer, at: number) {
    if (offset >= 4 * MIB) throw new NbdeltaError('io', 'a bad sector')
    return super.read(offset, length, into, at)
  }
}

function filled(disk: MemoryDisk, fill: number): MemoryDisk {
  disk.write(0, disk.sizeBytes, Buffer.alloc(disk.sizeBytes, fill), 0)
  return disk
}

const folder = temporaryFolder(t)
const socket = join(folder, 'far.sock')
const uri = (name: string): string => `nbd+unix:///${name}?socket=${socket}`
const disks = {
  image: new MemoryDisk(4 * MIB), odd: filled(new MemoryDisk(4 * MIB + 100), 3), half: filled(new HalfDisk(8 * MIB), 4),
  fixed: new MemoryDisk(8 * MIB, { readOnly: true }), target: filled(new MemoryDisk(8 * MIB), 9), small: new MemoryDisk(MIB), nothing: new MemoryDisk(0),
  live: filled(new MemoryDisk(8 * MIB), 5),
}
disks.image.write(3 * MIB, 5, Buffer.from('hello'), 0)
const far = await createServer({ exports: disks, listen: [{ path: socket }] })
t.teardown(() => far.close({ deadlineMs: 0 }))
const { store, ask, json } = await serve(t, join(folder, 'store'))

t.test('import from a URI', async t => {
  t.match(await ask('volume', 'import', 'disk', uri('image'), '--dry-run'), { code: 0, stdout: /^would create volume disk, 4 MiB\nwould fill/ })
  t.strictSame(await json('volume', 'list'), [])
  const done = await ask('volume', 'import', 'disk', uri('image'), '--json')
  t.match(JSON.parse(done.stdout), { kind: 'import', state: 'done', path: uri('image'), doneBytes: 4 * MIB, totalBytes: 4 * MIB })
  t.equal(await byteAt(store, 'disk', 3 * MIB), 'h'.charCodeAt(0))
  t.match(await json('volume', 'show', 'disk'), { sizeBytes: 4 * MIB, mappedBytes: 4096, backing: null })
  t.match(await ask('volume', 'import', 'disk', uri('odd'), '--overwrite'), { code: 2, stderr: /volume disk only 4 MiB\nhint: grow/ })
  await put(store, 'disk', 0, 7)
  t.match(await ask('volume', 'import', 'disk', uri('image')), { code: 4, stderr: /--overwrite/ })
  t.equal(await byteAt(store, 'disk', 0), 7, 'untouched')
  t.match(await ask('volume', 'import', 'disk', uri('image'), '--overwrite'), { code: 0 })
  t.equal(await byteAt(store, 'disk', 0), 0)
  t.match(await ask('volume', 'import', 'odd', uri('odd')), { code: 0 })
  t.match(await json('volume', 'show', 'odd'), { sizeBytes: 4 * MIB + 512 }, 'filled up to a whole sector')
  t.equal(far.clients().length, 0, 'every connection was given back')
})

t.test('an import that fails half-way leaves no volume, or says that the old one is a mixture', async t => {
  t.match(await ask('volume', 'import', 'half', uri('half')), { code: 7, stderr: /EIO/ })
  t.match(await ask('volume', 'show', 'half'), { code: 3 })
  await json('volume', 'create', 'half', '--size', '8MiB')
  t.match(await ask('volume', 'import', 'half', uri('half'), '--overwrite'), { code: 7, stderr: /mixture now\nhint: import again/ })
  t.match(await json('export', 'list'), [{ name: 'disk' }, { name: 'half', hidden: false }, { name: 'odd' }])
})

t.test('export to a URI', async t => {
  t.match(await ask('volume', 'export', 'disk', uri('target')), { code: 4, stderr: /holds something already.*\nhint: give --overwrite/ })
  t.match(await ask('volume', 'export', 'disk', uri('target'), '--overwrite'), { code: 0, stdout: /^export of disk done: 4 MiB/ })
  const found = Buffer.alloc(8 * MIB)
  disks.target.read(0, found.length, found, 0)
  const wanted = Buffer.alloc(8 * MIB, 9)
  wanted.fill(0, 0, 4 * MIB).write('hello', 3 * MIB)
  t.ok(found.equals(wanted), 'the volume, and behind its end what was there')
  t.match(await ask('volume', 'export', 'disk', uri('small'), '--overwrite'), { code: 2, stderr: /only 1 MiB/ })
  t.match(await ask('volume', 'export', 'disk', uri('fixed'), '--overwrite'), { code: 10, stderr: /cannot be written to/ })
  t.equal(far.clients().length, 0, 'every connection was given back')
})

t.test('what is no image', async t => {
  const own = `nbd+unix:///disk?socket=${join(store, 'nbd.sock')}`
  const rows: readonly [string, number, RegExp][] = [
    ['nbd://127.0.0.1:1/x', 9, /127\.0\.0\.1:1/], [`nbd+unix:///x?socket=${folder}/none.sock`, 9, /none\.sock/],
    [uri('none'), 3, /none/], [uri('nothing'), 2, /is empty/], ['nbds://127.0.0.1/x', 2, /TLS/], ['http://127.0.0.1/x', 2, /not a scheme known/],
    ['nbd+unix:///x', 2, /socket is missing/], ['nbd+unix:///x?socket=far.sock', 2, /no absolute path/], ['nbd://127.0.0.1:99999/x', 2, /port/],
    ['nbd://user@127.0.0.1/x', 2, /TLS/], ['nbd://%zz/x', 2, /%/], [own, 2, /volume disk itself/], [own.replace('disk', 'disk%40s'), 2, /volume disk itself/],
  ]
  for (const [source, code, stderr] of rows) {
    const found = await ask('volume', 'import', 'disk', source, '--overwrite')
    t.match(found, { code, stderr }, source)
    t.match(found.stderr, /^nbdelta: [^\n]+\n(hint: [^\n]+\n)?$/, 'one line and a hint')
  }
  t.match(await ask('volume', 'import', 'copy', own), { code: 0 }, 'another volume of the same server may be one')
  t.match(await ask('volume', 'export', 'disk', own, '--overwrite'), { code: 2, stderr: /volume disk itself/ })
})

t.test('a volume that lives in an export', async t => {
  const created = await json('volume', 'create', 'far', '--backing', uri('live'))
  t.match(created, { name: 'far', sizeBytes: 8 * MIB, backing: uri('live'), allocatedBytes: null, created: true, problem: null })
  t.equal(await byteAt(store, 'far', 0), 5, 'its content is what was there')
  await put(store, 'far', 0, 6)
  const spelled = `nbd+unix:///li%76e?socket=${encodeURIComponent(socket)}`
  t.match(await json('volume', 'create', 'far', '--backing', spelled, '--if-not-exists'), { created: false, backing: uri('live') })
  const own = `nbd+unix:///disk?socket=${join(store, 'nbd.sock')}`
  const rows: readonly [string[], number, RegExp][] = [
    [[spelled], 4, /is the backing of volume 'far' already/], [[uri('fixed')], 10, /read-only/], [[uri('target'), '--size', '1MiB'], 2, /leave the size out/],
    [[uri('odd')], 2, /multiple of 512/], [[uri('none')], 3, /none/], [['nbd://127.0.0.1:1/x'], 9, /127\.0\.0\.1:1/], [[own], 2, /export of this server itself/],
    [['nbds://127.0.0.1/x'], 2, /TLS/], [['nbd+unix:///x?socket=far.sock'], 2, /no absolute path/], [['ftp://127.0.0.1/x'], 2, /not a scheme known/],
  ]
  for (const [words, code, stderr] of rows) {
    const found = await ask('volume', 'create', 'other', '--backing', ...words)
    t.match(found, { code, stderr }, words.join(' '))
    t.match(found.stderr, /^nbdelta: [^\n]+\n(hint: [^\n]+\n)?$/, 'one line and a hint')
  }
  t.match(await ask('volume', 'show', 'other'), { code: 3 }, 'nothing came of any of them')
  t.match(await ask('volume', 'import', 'other', uri('live')), { code: 5, stderr: /is the backing of volume far/ })
  t.match(await ask('volume', 'export', 'disk', spelled, '--overwrite'), { code: 5, stderr: /is the backing of volume far/ })
  t.match(await ask('volume', 'resize', 'far', '--size', '16MiB'), { code: 2, stderr: /has only 8388608 bytes\nhint: .*open the volume again/ })
  t.match(await json('volume', 'reopen', 'far'), { name: 'far', backing: uri('live'), problem: null })
  t.equal(await byteAt(store, 'far', 0), 6)
  t.match(await ask('volume', 'reopen', 'none'), { code: 3 })
  t.match(await ask('volume', 'delete', 'far', '--dry-run'), { stdout: /would forget volume far; nbd\+unix:.* stays/ })
  t.match(await ask('volume', 'delete', 'far'), { code: 0 })
  const found = Buffer.alloc(1)
  disks.live.read(0, 1, found, 0)
  t.equal(found[0], 6, 'deleted, and the export is as it was')
})
