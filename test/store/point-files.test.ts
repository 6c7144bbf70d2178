// Folders of points: made whole or not at all, named, renamed, removed; maps that come back; what a crash leaves is told apart.
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { GrainBitmap, PAGE_BITS } from '../../native-free/index.js'
import { FilePool } from '../../src/store/file-pool.js'
import { PointFolders } from '../../src/store/point-files.js'
import { POINT_GRAINS_MAX, pointMaps, pointMapsLayout, SECTION_BYTES, todoMap } from '../../src/store/point-maps.js'
import { saveTwins } from '../../src/store/twin-map.js'
import { mapFileSizeBytes } from '../../src/store/map-file.js'
import { VolumeFolders } from '../../src/store/volume-files.js'

const root = mkdtempSync(join(tmpdir(), 'nbdelta-points-'))
t.teardown(() => rmSync(root, { recursive: true, force: true }))
const VOLUME = '6e626465-6c74-4130-8000-000000000002'
const GRAINS = 3 * PAGE_BITS
const SHAPE = { grains: GRAINS, sizeBytes: GRAINS * 4096, kind: 'snapshot' } as const
mkdirSync(join(root, VOLUME))
const path = (name: string): string => join(root, VOLUME, 'points', name)
const folders = new PointFolders(root)

t.test('a snapshot: maps all clear, preserved as long as the volume; a bookmark: changed alone', async t => {
  t.strictSame(await folders.list(VOLUME), { present: [], deleted: [], unfinished: [] }, 'no folder at all')
  await folders.make(VOLUME, 1, SHAPE)
  await folders.make(VOLUME, 2, { ...SHAPE, kind: 'bookmark' })
  t.strictSame([readdirSync(path('1')).sort(), readdirSync(path('2'))], [['maps', 'preserved'], ['maps']])
  t.equal(statSync(path('1')).mode & 0o777, 0o700)
  for (const [seq, kind] of [[1, 'snapshot'], [2, 'bookmark']] as const) {
    const files = await folders.open(VOLUME, seq, { kind })
    t.equal(files.preserved?.sizeBytes, kind === 'snapshot' ? SHAPE.sizeBytes : undefined)
    const { changed, exact } = pointMaps(files.maps, folders.identity(VOLUME, seq), GRAINS, kind)
    for (const map of [changed, ...exact ? [exact.owned, exact.bytes, exact.lent] : []]) {
      const bitmap = new GrainBitmap(GRAINS, true)
      const found = await map.load(bitmap)
      t.strictSame(Array.isArray(found) ? found : found.faults, [])
      t.equal(bitmap.count(), 0)
    }
    await files.close()
    t.ok(await folders.allocatedBytes(VOLUME, seq) <= 64 * 1024, `${await folders.allocatedBytes(VOLUME, seq)} bytes of a fresh ${kind}`)
  }
})

t.test('its maps do not get into each other\'s way, and the newest grows', async t => {
  const files = await folders.open(VOLUME, 1, { kind: 'snapshot' })
  const grown = 70 * PAGE_BITS
  const maps = pointMaps(files.maps, folders.identity(VOLUME, 1), GRAINS, 'snapshot')
  const exact = [maps.exact!.owned, maps.exact!.bytes, maps.exact!.lent]
  const bits = [0, 1, 2, 3].map(i => { const bitmap = new GrainBitmap(GRAINS); bitmap.set(i * 100, PAGE_BITS + i); return bitmap })
  await maps.changed.load(new GrainBitmap(GRAINS))
  for (const map of exact) await map.load(new GrainBitmap(GRAINS))
  await maps.changed.save(bits[3], [0, 1])
  await saveTwins(exact.map((map, i) => ({ map, from: bits[i], pages: [0, 1] })))
  for (const bitmap of bits) bitmap.resize(grown, false)
  await maps.changed.resize(grown)
  for (const [i, map] of exact.entries()) await map.resize(bits[i])
  await files.maps.flush()
  const again = pointMaps(files.maps, folders.identity(VOLUME, 1), grown, 'snapshot')
  for (const [i, map] of [again.exact!.owned, again.exact!.bytes, again.exact!.lent, again.changed].entries()) {
    const found = new GrainBitmap(grown)
    await map.load(found)
    t.ok(found.equals(bits[i]), `map ${i}`)
  }
  await files.close()
})

t.test('the layout has room for the largest volume, and refuses a larger one', async t => {
  const { sizeBytes, changed, exact } = pointMapsLayout(POINT_GRAINS_MAX, 'snapshot')
  t.ok(SECTION_BYTES >= mapFileSizeBytes(POINT_GRAINS_MAX))
  const sections = [changed, exact!.owned, exact!.bytes, exact!.lent]
  sections.forEach(({ start, sizeBytes: length }, i) => {
    t.equal(length / (i === 0 ? 1 : 2), SECTION_BYTES)
    t.equal(start + length, sections[i + 1]?.start ?? sizeBytes)
  })
  t.same(pointMapsLayout(1, 'snapshot'), pointMapsLayout(POINT_GRAINS_MAX, 'snapshot'), 'fixed places')
  t.throws(() => pointMapsLayout(POINT_GRAINS_MAX + 1, 'bookmark'), { code: 'too-large' })
  await t.rejects(folders.make(VOLUME, 9, { ...SHAPE, grains: POINT_GRAINS_MAX + 1 }), { code: 'too-large' })
})

t.test('a folder\'s name says where its point is in its life', async t => {
  for (const name of ['7.new', '10.deleted', '12', '0', '07', 'x', '3.old']) mkdirSync(path(name))
  t.strictSame(await folders.list(VOLUME), { present: [1, 2, 12], deleted: [10], unfinished: [7] })
  await t.rejects(folders.make(VOLUME, 1, SHAPE), { code: 'exists' })
  await t.rejects(folders.make(VOLUME, 10, SHAPE), { code: 'exists' })
  writeFileSync(path('7.new/maps'), 'half of it')
  await folders.make(VOLUME, 7, SHAPE)
  t.strictSame((await folders.list(VOLUME)).unfinished, [], 'what a crash left was in nobody\'s way')
  await folders.markDeleted(VOLUME, 7)
  await folders.markDeleted(VOLUME, 7)
  t.strictSame(await folders.list(VOLUME), { present: [1, 2, 12], deleted: [7, 10], unfinished: [] })
  await t.rejects(folders.open(VOLUME, 7, SHAPE), { code: 'damaged', message: /file of point 7/ })
  t.equal(await folders.allocatedBytes(VOLUME, 7), 0)
  for (const seq of [7, 10, 10, 99]) await folders.removeDeleted(VOLUME, seq)
  mkdirSync(path('8.new'))
  await folders.removeUnfinished(VOLUME, 8)
  t.strictSame(await folders.list(VOLUME), { present: [1, 2, 12], deleted: [], unfinished: [] })
  const nowhere = '6e626465-6c74-4130-8000-000000000099'
  await folders.removeDeleted(nowhere, 1)
  await folders.markDeleted(nowhere, 1)
  await t.rejects(folders.make(nowhere, 1, SHAPE), { code: 'not-found' })
})

t.test('a volume\'s own numbers take its points in', async t => {
  const volumes = new VolumeFolders(root)
  const before = await volumes.allocatedBytes(VOLUME)
  const { preserved, close } = await folders.open(VOLUME, 1, SHAPE)
  await preserved!.write(0, 1 << 20, Buffer.alloc(1 << 20, 1), 0)
  await preserved!.flush()
  t.ok(await volumes.allocatedBytes(VOLUME) >= before + (1 << 20))
  t.ok(await folders.allocatedBytes(VOLUME, 1) >= 1 << 20)
  await close()
  t.ok(await volumes.has(VOLUME))
})

t.test('todo: made whole, replaced whole, removed', async t => {
  await t.rejects(folders.openTodo(VOLUME), { code: 'damaged', message: /todo is missing/ })
  for (const fill of [true, false]) {
    writeFileSync(join(root, VOLUME, 'todo.new'), 'half of it')
    await folders.makeTodo(VOLUME, GRAINS, fill)
    const file = await folders.openTodo(VOLUME)
    const map = todoMap(file, folders.todoIdentity(VOLUME), GRAINS)
    const bitmap = new GrainBitmap(GRAINS)
    t.strictSame(await map.load(bitmap), { damagedPages: [], faults: [] })
    t.equal(bitmap.count(), fill ? GRAINS : 0)
    bitmap.clear(0, 5)
    await map.save(bitmap, [0])
    await file.close()
  }
  await folders.removeTodo(VOLUME)
  await folders.removeTodo(VOLUME)
  t.notOk(existsSync(join(root, VOLUME, 'todo')))
})

t.test('staged: a file that a crash has left without its length is none', async t => {
  const staged = join(root, VOLUME, 'staged')
  t.equal(await folders.openStaged(VOLUME, undefined), undefined)
  writeFileSync(staged, '')
  t.equal(await folders.openStaged(VOLUME, undefined), undefined)
  for (const sizeBytes of [1 << 20, undefined]) {
    const disk = await folders.openStaged(VOLUME, sizeBytes)
    t.equal(disk!.sizeBytes, 1 << 20)
    await disk!.close()
  }
})

t.test('many points share a few handles', async t => {
  const pool = new FilePool(8)
  const many = new PointFolders(root, pool)
  const volume = '6e626465-6c74-4130-8000-000000000003'
  mkdirSync(join(root, volume))
  await Promise.all(Array.from({ length: 50 }, (_, i) => many.make(volume, i + 1, { ...SHAPE, kind: i % 2 ? 'snapshot' : 'bookmark' })))
  const files = await Promise.all(Array.from({ length: 50 }, (_, i) => many.open(volume, i + 1, { kind: i % 2 ? 'snapshot' : 'bookmark' })))
  for (const { maps } of files) await maps.read(0, 512, Buffer.alloc(512), 0)
  t.ok(pool.handles <= 8, `${pool.handles}`)
  await Promise.all(files.map(file => file.close()))
  t.equal(pool.handles, 0)
})
