// An opened store: making and deleting volumes, what a crash in between leaves (every layout of folder and catalog), adopting
// files, disk usage, and a clear error for everything an operator can do wrong.
import {
  chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync,
} from 'node:fs'
import { execFileSync } from 'node:child_process'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { FileDisk } from '../../src/device/file-disk.js'
import type { CatalogEntry } from '../../src/store/catalog.js'
import { openStoreDirectory, type StoreDirectory } from '../../src/store/store-directory.js'
import type { VolumeLayout } from '../../src/store/volume-files.js'

const root = mkdtempSync(join(tmpdir(), 'nbdelta-store-'))
chmodSync(root, 0o755)
t.teardown(() => rmSync(root, { recursive: true, force: true }))
let count = 0
const freshPath = (): string => join(root, `${count++}`)
const open = (path: string, create = false): Promise<StoreDirectory> => openStoreDirectory({ path, create })
const closeAll = async (files: object): Promise<void> => { for (const disk of Object.values(files)) await disk.close() }

const UUID = '01234567-89ab-4cde-8f01-23456789abcd'
function entry(more: Partial<CatalogEntry> = {}): CatalogEntry {
  const createdAt = '2026-01-02T03:04:05Z'
  return { uuid: UUID, name: 'db', sizeBytes: 2 ** 24, grainBytes: 4096, backing: null, createdAt, description: '', ...more }
}
const layout: VolumeLayout = {
  journalBytes: 65536,
  format: async ({ map, journal }) => {
    for (const disk of [map, journal]) await disk.write(0, 5, Buffer.from('fresh'), 0)
  },
}
const has = (command: string, ...args: string[]): boolean => {
  try {
    execFileSync(command, args, { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

t.test('a volume is made, opened, deleted', async t => {
  const path = freshPath()
  const store = await open(path, true)
  const files = await store.createVolumeFiles(entry(), layout)
  t.strictSame([files.live.sizeBytes, files.journal.sizeBytes, files.map.sizeBytes > 4096], [2 ** 24, 65536, true])
  await files.live.write(0, 4, Buffer.from('data'), 0)
  const five = Buffer.alloc(5)
  await files.journal.read(0, 5, five, 0)
  t.equal(five.toString(), 'fresh', 'the layout has written its part')
  await closeAll(files)
  t.strictSame(readdirSync(join(path, 'volumes', UUID)).sort(), ['journal', 'live', 'map'])
  t.equal(statSync(join(path, 'volumes', UUID)).mode & 0o777, 0o700)
  const { volumeBytes, availableBytes, fileSystemBytes } = await store.usage()
  t.ok(volumeBytes > 0 && volumeBytes < 2 ** 22 && availableBytes > 0 && fileSystemBytes > availableBytes)
  await store.close()

  const again = await open(path)
  t.strictSame(again.catalog.list(), [entry()])
  t.strictSame(again.recovery, [])
  const same = await again.openVolumeFiles(again.catalog.get('db')!)
  const four = Buffer.alloc(4)
  await same.live.read(0, 4, four, 0)
  t.equal(four.toString(), 'data')
  await closeAll(same)
  await again.removeVolumeFiles('db')
  await again.removeVolumeFiles('db')
  t.strictSame([again.catalog.list(), readdirSync(join(path, 'volumes'))], [[], []])
  await again.close()
})

t.test('an adopted backing is used and stays', async t => {
  const path = freshPath()
  const store = await open(path, true)
  const image = join(root, 'image.raw')
  writeFileSync(image, Buffer.alloc(65536, 'i'))
  symlinkSync(image, join(root, 'link'))
  const backing = await store.resolveBacking(join(root, 'link'))
  t.equal(backing, image)
  const files = await store.createVolumeFiles(entry({ backing, sizeBytes: 65536 }), layout)
  t.strictSame([(files.live as FileDisk).path, files.live.sizeBytes], [image, 65536])
  await closeAll(files)
  const second = entry({ uuid: UUID.replace('0', '1'), name: 'x', backing })
  await t.rejects(store.createVolumeFiles(second, layout), { code: 'exists' })
  const hidden = join(root, 'hidden')
  renameSync(image, hidden)
  const opening = store.openVolumeFiles(store.catalog.get('db')!)
  await t.rejects(opening, { code: 'not-found', message: /'db' cannot be opened/, hint: /backing/ })
  renameSync(hidden, image)
  await store.removeVolumeFiles('db')
  t.ok(existsSync(image))
  await t.rejects(store.resolveBacking(join(path, 'store.id')), { code: 'bad-argument', message: /inside the store/ })
  await t.rejects(store.resolveBacking(root), { code: 'bad-argument', message: /neither/ })
  await t.rejects(store.resolveBacking(join(root, 'nothing')), { code: 'not-found' })
  await store.close()
})

t.test('D6: what fails while a volume is made leaves nothing', async t => {
  const path = freshPath()
  const store = await open(path, true)
  const nothing = async (wanted: CatalogEntry, how: VolumeLayout, code: string): Promise<void> => {
    await t.rejects(store.createVolumeFiles(wanted, how), { code })
    t.strictSame(readdirSync(join(path, 'volumes')), store.catalog.list().map(({ uuid }) => uuid))
  }
  const full = async (): Promise<void> => { throw Object.assign(new Error('full'), { code: 'ENOSPC' }) }
  await nothing(entry(), { ...layout, format: full }, 'no-space')
  await nothing(entry({ name: 'a/b' }), layout, 'bad-argument')
  await nothing(entry({ backing: join(root, 'nothing') }), layout, 'not-found')
  await closeAll(await store.createVolumeFiles(entry(), layout))
  await nothing(entry({ uuid: UUID.replace('0', '1') }), layout, 'exists')
  const racers = [2, 3].map(n => entry({ uuid: UUID.replace('0', `${n}`), name: 'race' }))
  const racing = await Promise.allSettled(racers.map(racer => store.createVolumeFiles(racer, layout)))
  t.strictSame(racing.map(({ status }) => status).sort(), ['fulfilled', 'rejected'])
  for (const result of racing) if (result.status === 'fulfilled') await closeAll(result.value)
  t.equal(readdirSync(join(path, 'volumes')).length, 2)
  await store.close()
})

t.test('D6: whatever a crash leaves between folder and catalog is finished or undone at the next open', async t => {
  const cases: [string, boolean, 'volume' | 'nothing' | 'left', RegExp | undefined][] = [
    ['.new', true, 'volume', /creation finished/],
    ['.new', false, 'nothing', /creation, never confirmed, undone/],
    ['', true, 'volume', undefined],
    ['', false, 'left', /belongs to no volume of the catalog and was left alone/],
    ['.deleted', true, 'volume', /deletion, never confirmed, undone/],
    ['.deleted', false, 'nothing', /deletion finished/],
  ]
  for (const [suffix, known, outcome, text] of cases) {
    const path = freshPath()
    const store = await open(path, true)
    await closeAll(await store.createVolumeFiles(entry(), layout))
    if (!known) await store.catalog.remove('db')
    await store.close()
    const volumes = join(path, 'volumes')
    if (suffix !== '') renameSync(join(volumes, UUID), join(volumes, UUID + suffix))

    const again = await open(path)
    const name = `${suffix || 'plain'}, ${known ? 'known' : 'unknown'}`
    t.match(again.recovery, text ? [text] : [], name)
    t.strictSame(readdirSync(volumes), outcome === 'nothing' ? [] : [UUID], name)
    if (outcome === 'volume') await closeAll(await again.openVolumeFiles(again.catalog.get('db')!))
    await again.close()
    const third = await open(path)
    t.equal(third.recovery.length, outcome === 'left' ? 1 : 0, 'and said once')
    await third.close()
  }
})

t.test('a volume whose folder is gone is told, does not stop the others, and can be deleted', async t => {
  const path = freshPath()
  const store = await open(path, true)
  await closeAll(await store.createVolumeFiles(entry(), layout))
  await store.close()
  rmSync(join(path, 'volumes', UUID), { recursive: true })
  mkdirSync(join(path, 'volumes', 'lost+found'))
  const again = await open(path)
  t.match(again.recovery, [/lost\+found.*left alone/, /'db' has no folder .* cannot be opened/])
  await t.rejects(again.openVolumeFiles(entry()), { code: 'not-found' })
  t.equal((await again.usage()).volumeBytes, 0)
  await again.removeVolumeFiles('db')
  t.strictSame(again.catalog.list(), [])
  await again.close()
})

t.test('a damaged or missing catalog is named; nothing is touched', async t => {
  const path = freshPath()
  await (await open(path, true)).close()
  const catalog = join(path, 'catalog.log')
  renameSync(catalog, catalog + '.away')
  await t.rejects(open(path, true), { code: 'damaged', message: /catalog\.log/ }, 'missing')
  mkdirSync(join(path, 'away'))
  renameSync(join(path, 'volumes'), join(path, 'away', 'volumes'))
  writeFileSync(catalog, '')
  await t.rejects(open(path, true), { code: 'damaged', message: /volumes is missing/ })
  renameSync(join(path, 'away', 'volumes'), join(path, 'volumes'))
  await t.rejects(open(path, true), { code: 'damaged', message: /catalog\.log/ }, 'empty')
  writeFileSync(catalog, 'short')
  await t.rejects(open(path, true), { code: 'damaged', message: /catalog\.log/ }, 'short')
  renameSync(catalog + '.away', catalog)
  await (await open(path)).close()
})

t.test('what an operator may do wrong', async t => {
  const file = join(root, 'file')
  writeFileSync(file, '')
  await t.rejects(open(join(root, 'nowhere')), { code: 'not-found', message: /there is no store/, hint: /nbdelta serve --store/ })
  await t.rejects(open(join(root, 'no/where'), true), { code: 'not-found', message: /is not there, so no store can be made/ })
  await t.rejects(open(file, true), { code: 'bad-argument', message: /is a file, and a store is a folder/ })
  await t.rejects(open(join(file, 'x'), true), { code: 'bad-argument', message: /is a file, not a folder/ })
  const empty = freshPath()
  mkdirSync(empty)
  await t.rejects(open(empty), { code: 'not-found', message: /is not a store/, hint: /creates one/ })
  t.strictSame(readdirSync(empty), [], 'looking leaves no trace')
})

t.test('no permission', async t => {
  if (process.getuid?.() !== 0) return t.pass('only root can become somebody else', { skip: 'not root' })
  const path = freshPath()
  await (await open(path, true)).close()
  process.seteuid!(65534)
  try {
    await t.rejects(open(path), { code: 'denied', message: /permission/ }, 'somebody else\'s store')
    await t.rejects(open(join(root, 'mine'), true), { code: 'denied', message: /no permission/ }, 'somebody else\'s folder')
  } finally {
    process.seteuid!(0)
  }
})

t.test('a read-only and a full file system', async t => {
  const mount = mkdtempSync(join(tmpdir(), 'nbdelta-mount-'))
  t.teardown(() => { rmSync(mount, { recursive: true, force: true }) })
  if (!has('mount', '-t', 'tmpfs', '-o', 'size=6m', 'none', mount)) return t.pass('mount', { skip: 'no mounts allowed here' })
  t.teardown(() => { execFileSync('umount', [mount]) })
  const path = join(mount, 'store')
  const store = await open(path, true)
  await t.rejects(store.createVolumeFiles(entry(), {
    journalBytes: 2 ** 22,
    format: async ({ journal }) => { await journal.write(0, 2 ** 22, Buffer.alloc(2 ** 22, 'j'), 0) },
  }), { code: 'no-space', message: /make volume 'db'|space/ })
  t.strictSame(readdirSync(join(path, 'volumes')), [], 'and the space is back')
  await closeAll(await store.createVolumeFiles(entry(), layout))
  await store.close()
  await t.rejects(open(join(mount, 'second'), true), { code: 'no-space' })
  execFileSync('mount', ['-o', 'remount,ro', mount])
  await t.rejects(open(path), { code: 'denied', message: /read-only file system/ })
  await t.rejects(open(join(mount, 'third'), true), { code: 'denied', message: /read-only file system/ })
  execFileSync('mount', ['-o', 'remount,rw', mount])
  const again = await open(path)
  t.strictSame(again.catalog.list(), [entry()], 'a full disk took nothing')
  await again.close()
})
