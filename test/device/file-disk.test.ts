// FileDisk: files, space and errors. What every device must do is in conformance.test.ts.
import { execFileSync } from 'node:child_process'
import { chmodSync, mkdtempSync, readFileSync, rmdirSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { openFileDisk } from '../../src/device/file-disk.js'

const MIB = 2 ** 20
const SLOW = { allocate: false, fast: false }
const has = (command: string, ...args: string[]): boolean => {
  try { execFileSync(command, args, { stdio: 'ignore' }); return true } catch { return false }
}
/** False, or why a test is skipped. */
const noHoles = ((): string | false => {
  const path = join(t.testdir({ probe: 'x'.repeat(8192) }), 'probe')
  return !has('fallocate', '--punch-hole', '-o', '0', '-l', '4096', path) && 'no fallocate here, or a file system without holes'
})()
const noRoot = process.getuid?.() !== 0 && 'needs root'

t.test('creates sparse, reads back after re-opening', async t => {
  const path = join(t.testdir(), 'disk')
  const disk = await openFileDisk({ path, create: { sizeBytes: 15 * 2 ** 40 } })
  t.equal(disk.kind, 'file')
  t.equal(disk.sizeBytes, 15 * 2 ** 40)
  await disk.write(14 * 2 ** 40 + 5, 5, Buffer.from('delta'), 0)
  t.ok(await disk.allocatedBytes() <= MIB)
  await disk.flush()
  await disk.close()
  t.equal(statSync(path).mode & 0o777, 0o600)
  const again = await openFileDisk({ path, readOnly: true })
  const found = Buffer.alloc(7)
  await again.read(14 * 2 ** 40 + 4, 7, found, 0)
  t.equal(found.toString('latin1'), '\0delta\0')
  await again.close()
})

t.test('says plainly why it cannot open', async t => {
  const folder = t.testdir({ image: 'x', folder: {} })
  const refuses = (options: Parameters<typeof openFileDisk>[0], code: string, message: RegExp): Promise<void> =>
    t.rejects(openFileDisk(options), { code, message }, `${code} ${message}`) as unknown as Promise<void>
  await refuses({ path: join(folder, 'none') }, 'not-found', /there is no .*none/)
  await refuses({ path: join(folder, 'none', 'x'), create: { sizeBytes: 1 } }, 'not-found', /there is no directory for/)
  await refuses({ path: join(folder, 'image'), create: { sizeBytes: 1 } }, 'exists', /there already/)
  await refuses({ path: join(folder, 'folder') }, 'bad-argument', /is a directory/)
  await refuses({ path: '/dev/null' }, 'bad-argument', /neither a regular file nor a block device/)
  await refuses({ path: join(folder, 'new'), create: { sizeBytes: 0 } }, 'bad-argument', /no size/)
  await refuses({ path: join(folder, 'new'), create: { sizeBytes: 1 }, readOnly: true }, 'bad-argument', /read-only/)
  await refuses({ path: join(folder, 'new'), create: { sizeBytes: 2 ** 52 } }, 'too-large', /cannot hold so large a file/)
  t.throws(() => statSync(join(folder, 'new')), 'a failed create leaves no file behind')
  if (has('mkfifo', join(folder, 'pipe'))) await refuses({ path: join(folder, 'pipe') }, 'bad-argument', /neither/)
  if (process.getuid?.() !== 0) {
    chmodSync(join(folder, 'image'), 0o400)
    await refuses({ path: join(folder, 'image') }, 'denied', /no permission to open/)
  }
})

t.test('read-only is read-only', async t => {
  const path = join(t.testdir({ image: 'abcdef' }), 'image')
  const disk = await openFileDisk({ path, readOnly: true })
  t.equal(disk.capabilities.readOnly, true)
  t.throws(() => disk.write(0, 1, Buffer.from('x'), 0), { code: 'read-only' })
  t.throws(() => disk.zero(0, 1, SLOW), { code: 'read-only' })
  t.throws(() => disk.trim(0, 1), { code: 'read-only' })
  await t.rejects(disk.punch([{ offset: 0, length: 1 }]), { code: 'read-only' })
  await t.rejects(disk.resize(1), { code: 'read-only' })
  t.equal(disk.flush(), undefined)
  await disk.close()
})

t.test('a file cut short behind our back reads as zeros there', async t => {
  const path = join(t.testdir({ image: Buffer.alloc(3 * MIB, 7) }), 'image')
  for (const inline of [true, false]) {
    writeFileSync(path, Buffer.alloc(3 * MIB, 7))
    const disk = await openFileDisk({ path, inline })
    const into = Buffer.alloc(8192, 0xee)
    for (let i = 0; i < 20; i++) await disk.read(MIB, 8192, into, 0)
    truncateSync(path, MIB + 5000)
    await disk.read(MIB, 8192, into, 0)
    t.ok(into.subarray(0, 5000).every(byte => byte === 7) && into.subarray(5000).every(byte => byte === 0), `inline ${inline}`)
    await disk.read(2 * MIB, 8192, into, 0)
    t.ok(into.every(byte => byte === 0))
    await disk.close()
  }
})

t.test('trusted calls run inline and return nothing to wait for', async t => {
  const path = join(t.testdir({ image: Buffer.alloc(4 * MIB, 1) }), 'image')
  truncateSync(path, 256 * MIB)
  const disk = await openFileDisk({ path })
  const buffer = Buffer.alloc(4096)
  t.ok(disk.read(0, 4096, buffer, 0), 'probation: a promise')
  for (let i = 0; i < 200 && disk.read(0, 4096, buffer, 0); i++) await disk.read(0, 4096, buffer, 0)
  t.equal(disk.read(0, 4096, buffer, 0), undefined)
  t.equal(disk.status().reads, 'inline')
  const untouched = disk.read(200 * MIB, 4096, buffer, 0)
  t.ok(untouched, 'a region that nobody has read or vouched for goes through the pool')
  await untouched
  for (let i = 0; i < 200 && disk.write(4096, 4096, buffer, 0); i++) await disk.write(4096, 4096, buffer, 0)
  t.equal(disk.write(4096, 4096, buffer, 0), undefined)
  const large = disk.read(0, 4 * MIB, Buffer.alloc(4 * MIB), 0)
  t.ok(large, 'more than 1 MiB never runs inline')
  await large
  await disk.close()
})

t.test('zeroing and punching give space back, allocating keeps it', { skip: noHoles }, async t => {
  const path = join(t.testdir({ image: Buffer.alloc(8 * MIB, 1) }), 'image')
  const disk = await openFileDisk({ path })
  t.ok(disk.canPunch && disk.capabilities.trim)
  t.throws(() => disk.zero(0, MIB, { allocate: false, fast: true }), { code: 'not-fast' })
  const before = await disk.allocatedBytes()
  await disk.zero(MIB + 100, 2 * MIB, SLOW)
  t.ok(await disk.allocatedBytes() <= before - 2 * MIB + 8192)
  const ranges = Array.from({ length: 20 }, (_, i) => ({ offset: 4 * MIB + i * 8192, length: 4096 }))
  t.strictSame(await disk.punch(ranges), { punched: true })
  t.ok(await disk.allocatedBytes() <= before - 2 * MIB - 19 * 4096 + 8192)
  await disk.zero(MIB, 3 * MIB, { allocate: true, fast: false })
  t.ok(await disk.allocatedBytes() >= before - 20 * 4096)
  await Promise.all([disk.trim(6 * MIB, MIB), disk.trim(7 * MIB + 1, 4096)])
  await disk.close()
  const content = readFileSync(path)
  const wanted = Buffer.alloc(8 * MIB, 1)
  wanted.fill(0, MIB, 4 * MIB)
  for (const { offset, length } of ranges) wanted.fill(0, offset, offset + length)
  wanted.fill(0, 6 * MIB, 7 * MIB)
  t.ok(content.equals(wanted), 'exactly these bytes are zeros')
})

t.test('without the tool zeros are written, and punch says so', async t => {
  const path = join(t.testdir({ image: Buffer.alloc(4 * MIB, 1) }), 'image')
  const before = process.env.PATH
  process.env.PATH = t.testdirName
  const disk = await openFileDisk({ path })
  process.env.PATH = before
  t.notOk(disk.canPunch || disk.capabilities.trim)
  t.strictSame(await disk.punch([{ offset: 0, length: MIB }]), { punched: false })
  t.equal(disk.trim(0, MIB), undefined)
  await disk.zero(10, 3 * MIB, SLOW)
  await disk.close()
  const content = readFileSync(path)
  t.ok(content.subarray(10, 10 + 3 * MIB).every(byte => byte === 0) && content[9] === 1 && content[10 + 3 * MIB] === 1)
})

t.test('a tool that refuses is asked once, then never again', async t => {
  const refuses = '#!/bin/sh\necho "$*" >> "$0.log"\necho "fallocate failed: Operation not supported" >&2\nexit 1\n'
  const folder = t.testdir({ image: Buffer.alloc(MIB, 1), bin: { fallocate: refuses } })
  chmodSync(join(folder, 'bin', 'fallocate'), 0o755)
  const before = process.env.PATH
  process.env.PATH = `${join(folder, 'bin')}:${before}`
  const disk = await openFileDisk({ path: join(folder, 'image') })
  const ranges = [0, 1, 2].map(i => ({ offset: i * 8192, length: 4096 }))
  t.strictSame(await disk.punch(ranges), { punched: false })
  t.strictSame(await disk.punch(ranges), { punched: false })
  process.env.PATH = before
  t.notOk(disk.canPunch)
  t.equal(readFileSync(join(folder, 'bin', 'fallocate.log'), 'latin1').trim().split('\n').length, 1)
  await disk.close()
})

t.test('resize grows with zeros and cuts for good', async t => {
  const path = join(t.testdir({ image: Buffer.alloc(MIB, 1) }), 'image')
  const disk = await openFileDisk({ path })
  await disk.resize(3 * MIB)
  const byte = Buffer.alloc(1)
  await disk.write(3 * MIB - 1, 1, Buffer.from('z'), 0)
  await disk.read(2 * MIB, 1, byte, 0)
  t.equal(byte[0], 0)
  await disk.resize(1000)
  t.throws(() => disk.read(1000, 1, byte, 0), RangeError)
  await disk.resize(MIB)
  await disk.read(2000, 1, byte, 0)
  t.equal(byte[0], 0, 'what was cut is gone')
  await t.rejects(disk.resize(2 ** 52), { code: 'too-large' })
  t.equal(disk.sizeBytes, MIB)
  await disk.close()
})

t.test('many disks at once do not starve each other, and close waits', async t => {
  const folder = t.testdir()
  const disks = await Promise.all(Array.from({ length: 8 }, (_, i) =>
    openFileDisk({ path: join(folder, `d${i}`), create: { sizeBytes: MIB }, inline: false })))
  const buffer = Buffer.alloc(4096, 5)
  const work = disks.flatMap(disk => Array.from({ length: 100 }, (_, i) => disk.write(i * 4096, 4096, buffer, 0)))
  t.ok(disks[0].status().tripsInFlight === 100)
  await Promise.all([...work, ...disks.map(disk => disk.close())])
  for (let i = 0; i < 8; i++) t.ok(readFileSync(join(folder, `d${i}`)).subarray(0, 409600).every(byte => byte === 5))
})

t.test('a full file system is no-space, and nothing else is lost', { skip: noRoot }, async t => {
  const mount = mkdtempSync(join(tmpdir(), 'nbdelta-full-'))
  t.teardown(() => { rmdirSync(mount) })
  if (!has('mount', '-t', 'tmpfs', '-o', 'size=2m', 'none', mount)) return t.pass('no mounts allowed here', { skip: true })
  t.teardown(() => { execFileSync('umount', [mount]) })
  for (const inline of [true, false]) {
    const path = join(mount, `disk-${inline}`)
    const disk = await openFileDisk({ path, create: { sizeBytes: 16 * MIB }, inline })
    const block = Buffer.alloc(65536, 3)
    let written = 0
    const fill = async (): Promise<void> => {
      for (let at = 0; at < 16 * MIB; at += 65536) {
        await disk.write(at, 65536, block, 0)
        written = at + 65536
      }
    }
    await t.rejects(fill(), { code: 'no-space', message: /write 65536 bytes at \d+ of .*no space/ })
    const found = Buffer.alloc(65536)
    await disk.read(written - 65536, 65536, found, 0)
    t.ok(found.equals(block))
    if (disk.canPunch) t.strictSame(await disk.punch([{ offset: 0, length: written }]), { punched: true })
    await disk.close()
  }
})

t.test('a block device', async t => {
  const path = join(t.testdir({ image: Buffer.alloc(4 * MIB, 9) }), 'image')
  let loop = ''
  try {
    loop = execFileSync('losetup', ['--find', '--show', path], { encoding: 'latin1', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  } catch {
    return t.pass('no loop devices here', { skip: true })
  }
  t.teardown(() => { execFileSync('losetup', ['-d', loop]) })
  const disk = await openFileDisk({ path: loop })
  t.equal(disk.kind, 'block')
  t.equal(disk.sizeBytes, 4 * MIB)
  await t.rejects(openFileDisk({ path: loop }), { code: 'busy', message: /in use/ })
  await disk.zero(100, 2 * MIB, SLOW)
  await disk.write(4 * MIB - 3, 3, Buffer.from('end'), 0)
  const found = Buffer.alloc(4 * MIB)
  await disk.read(0, 4 * MIB, found, 0)
  const wanted = Buffer.alloc(4 * MIB, 9)
  wanted.fill(0, 100, 100 + 2 * MIB)
  wanted.write('end', 4 * MIB - 3)
  t.ok(found.equals(wanted))
  await t.rejects(disk.resize(MIB), { code: 'bad-argument' })
  await disk.flush()
  await disk.close()
})
