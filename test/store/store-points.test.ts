// A store and its points: an older store opens and gets its table, its version is raised before the first point and not earlier,
// and what is said of a volume goes when the volume is gone for good.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { CatalogEntry } from '../../src/store/catalog.js'
import type { PointEntry } from '../../src/store/point-entry.js'
import { POINTS_BYTES } from '../../src/store/point-table.js'
import { creationSteps, raiseVersion } from '../../src/store/store-creation.js'
import { openStoreDirectory, type StoreDirectory } from '../../src/store/store-directory.js'

t.setTimeout(120_000)
const root = mkdtempSync(join(tmpdir(), 'nbdelta-store-'))
t.teardown(() => rmSync(root, { recursive: true, force: true }))
let count = 0
const freshPath = (): string => join(root, `${count++}`)
const open = (path: string, create = false): Promise<StoreDirectory> => openStoreDirectory({ path, create, flockTool: '/nonexistent/flock' })
const versionOf = (path: string): number => readFileSync(join(path, 'store.id')).readUInt16BE(4)

const IDENTITY = { uuid: '01234567-89ab-4cde-8f01-23456789abcd', createdAt: '2026-01-02T03:04:05.000Z' }
const V = '01234567-89ab-4cde-8f01-0000000000aa'
const POINT: PointEntry = {
  uuid: '01234567-89ab-4cde-8f01-0000000000bb', volume: V, seq: 1, name: 'monday', kind: 'snapshot', createdAt: IDENTITY.createdAt,
  sizeBytes: 2 ** 24, labels: {}, group: null, pins: [], state: 'ready',
}
const ENTRY: CatalogEntry = {
  uuid: V, name: 'db', sizeBytes: 2 ** 24, grainBytes: 4096, backing: null, createdAt: IDENTITY.createdAt, description: '',
}
const layout = { journalBytes: 65536, format: async () => undefined }
async function withVolume(store: StoreDirectory): Promise<void> {
  for (const disk of Object.values(await store.createVolumeFiles(ENTRY, layout))) await disk.close()
}

t.test('a store made before there were points opens, and stays what it is until the first of them', async t => {
  const path = freshPath()
  mkdirSync(path)
  for (const step of creationSteps(path, IDENTITY)) await step.run()
  t.notOk(existsSync(join(path, 'points.log')))
  let store = await open(path)
  t.strictSame([store.recovery, store.points.list(V), versionOf(path)], [[], [], 1])
  const file = statSync(join(path, 'points.log'))
  t.ok(file.size === POINTS_BYTES && file.blocks * 512 <= 64 * 1024, `${file.blocks * 512} bytes of an empty table`)
  t.equal(file.mode & 0o777, 0o600)
  await withVolume(store)
  t.equal(versionOf(path), 1)
  await store.points.put({ points: [POINT] })
  t.equal(versionOf(path), 2)
  await store.close()
  store = await open(path)
  t.strictSame([store.points.list(V), store.uuid, store.recovery], [[POINT], IDENTITY.uuid, []])
  await store.points.put({ removePoints: [POINT] })
  await store.close()
  t.equal(versionOf(path), 2, 'it is never lowered')
  t.ok(statSync(join(path, 'points.log')).blocks * 512 <= 128 * 1024, 'still sparse')
})

t.test('the raise: cut short it leaves version 1, and the next does it again', async t => {
  const path = freshPath()
  const store = await open(path, true)
  writeFileSync(join(path, 'store.id.new'), 'half of it')
  await withVolume(store)
  await store.points.put({ points: [POINT] })
  await store.close()
  t.equal(versionOf(path), 2)
  await raiseVersion(path, IDENTITY)
  t.equal(versionOf(path), 2)
  t.notOk(readdirSync(path).includes('store.id.new'))
})

t.test('raised means raised before: no record without it', async t => {
  const path = freshPath()
  const store = await open(path, true)
  const before = readFileSync(join(path, 'points.log'))
  mkdirSync(join(path, 'store.id.new'))
  await t.rejects(store.points.put({ points: [POINT] }))
  t.ok(readFileSync(join(path, 'points.log')).equals(before))
  t.strictSame([versionOf(path), store.points.list(V)], [1, []])
  rmSync(join(path, 'store.id.new'), { recursive: true })
  await store.points.put({ points: [POINT] })
  await store.close()
})

t.test('a full disk refuses the raise in its own words, keeps nothing of it, and takes it when there is room again', async t => {
  const mount = mkdtempSync(join(tmpdir(), 'nbdelta-mount-'))
  t.teardown(() => { rmSync(mount, { recursive: true, force: true }) })
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=6m', 'none', mount]).status !== 0) return t.pass('mount', { skip: 'no mounts allowed here' })
  t.teardown(() => { spawnSync('umount', [mount]) })
  const path = join(mount, 'store')
  const store = await open(path, true)
  await withVolume(store)
  const ballast = join(mount, 'ballast')
  t.throws(() => { writeFileSync(ballast, Buffer.alloc(6 * 2 ** 20)) }, { code: 'ENOSPC' })
  await t.rejects(store.points.put({ points: [POINT] }), { code: 'no-space', message: /raise the version/ })
  t.notOk(existsSync(join(path, 'store.id.new')))
  t.strictSame([versionOf(path), store.points.list(V)], [1, []])
  rmSync(ballast)
  await store.points.put({ points: [POINT] })
  t.equal(versionOf(path), 2)
  await store.close()
})

t.test('points.log cut off in the making is made again; missing from a store that had points it is damage', async t => {
  const path = freshPath()
  await (await open(path, true)).close()
  renameSync(join(path, 'points.log'), join(path, 'points.log.new'))
  let store = await open(path)
  t.notOk(existsSync(join(path, 'points.log.new')))
  await withVolume(store)
  await store.points.put({ points: [POINT] })
  await store.close()
  renameSync(join(path, 'points.log'), join(path, 'kept'))
  await t.rejects(open(path), { code: 'damaged', message: /points\.log is missing/ })
  renameSync(join(path, 'kept'), join(path, 'points.log'))
  store = await open(path)
  t.equal(store.points.pointCount, 1)
  await store.close()
})

t.test('a deleted volume takes its points along; cut short, they go at the next open', async t => {
  const path = freshPath()
  let store = await open(path, true)
  await withVolume(store)
  await store.pointFolders.make(V, 1, { grains: 4096, sizeBytes: 2 ** 24, kind: 'snapshot' })
  await store.points.put({ points: [POINT], groups: [{ name: 'all', volumes: [V] }] })
  t.ok((await store.usage()).volumeBytes > 28 * 1024)
  const table = readFileSync(join(path, 'points.log'))
  await store.removeVolumeFiles('db')
  t.strictSame([store.points.volumes(), store.points.groups()[0].volumes], [[], []])
  await store.close()
  writeFileSync(join(path, 'points.log'), table)
  store = await open(path)
  t.strictSame([store.points.volumes(), store.points.pointCount], [[], 0])
  t.match(store.recovery, [/volume .*aa is gone/])
  await store.close()
})

t.test('a volume that only the catalog has lost keeps its points', async t => {
  const path = freshPath()
  let store = await open(path, true)
  await withVolume(store)
  const catalog = readFileSync(join(path, 'catalog.log'))
  await store.points.put({ points: [POINT] })
  await store.catalog.remove('db')
  await store.close()
  store = await open(path)
  t.equal(store.points.pointCount, 1)
  await store.close()
  writeFileSync(join(path, 'catalog.log'), catalog)
  store = await open(path)
  t.strictSame([store.catalog.get('db'), store.points.list(V)], [ENTRY, [POINT]])
  await store.close()
})
