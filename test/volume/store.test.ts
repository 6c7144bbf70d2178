// openStore: create, list, resize, delete, adopt; all durable, all or nothing; one bad volume does not keep the others away.
import { linkSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { silentLogger } from '../../src/device/logger.js'
import { openStore } from '../../src/volume/open-store.js'
import { readAll } from './lab.js'

const MIB = 2 ** 20

t.test('what was created is there after a close and an open', async t => {
  const path = join(t.testdir(), 'store')
  const store = await openStore({ path, create: true })
  const volume = await store.createVolume({ name: 'db', sizeBytes: 4 * MIB, description: 'orders' })
  await store.createVolume({ name: 'a', sizeBytes: 512, grainBytes: 65536 })
  await volume.write(1000, 5, Buffer.from('hello'), 0)
  t.strictSame(store.list().map(one => one.name), ['a', 'db'])
  await store.close()
  await store.close()
  t.equal(store.status, 'closed')
  await t.rejects(store.createVolume({ name: 'x', sizeBytes: 512 }), { code: 'wrong-state' })
  const again = await openStore({ path })
  const { uuid } = volume
  t.match(again.get('db'), { uuid, sizeBytes: 4 * MIB, grainBytes: 4096, backing: null, description: 'orders' })
  t.equal(again.get('a')!.grainBytes, 65536)
  t.equal(again.get('nobody'), undefined)
  t.equal((await readAll(again.get('db')!, 1000, 5)).toString(), 'hello')
  await again[Symbol.asyncDispose]()
})

t.test('closed with first overwrites on their way: nothing is to be recovered when it is opened again', async t => {
  const path = join(t.testdir(), 'store')
  const errors: string[] = []
  const note = (_: object, text: string): void => { errors.push(text) }
  const logger = { ...silentLogger, warn: note, error: note }
  const store = await openStore({ path, create: true, logger })
  const volume = await store.createVolume({ name: 'db', sizeBytes: MIB })
  await volume.write(0, MIB, Buffer.alloc(MIB, 1), 0)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await volume.write(0, 4096, Buffer.alloc(4096, 2), 0)
  await store.close()
  t.strictSame(errors, [])
  const again = await openStore({ path, logger })
  t.strictSame(errors, [])
  t.equal((await readAll(again.get('db')!, 0, 1))[0], 2)
  await again.close()
})

t.test('options are judged: unknown keys, sizes, names, doubles', async t => {
  const path = join(t.testdir(), 'store')
  await t.rejects(openStore({ path, creat: true } as never), { code: 'bad-argument', message: /creat/ })
  await t.rejects(openStore({ path: '' }), { code: 'bad-argument' })
  await t.rejects(openStore({ path, create: true, logger: {} as never }), { code: 'bad-argument', message: /logger/ })
  await t.rejects(openStore({ path }), { code: 'not-found' })
  const store = await openStore({ path, create: true })
  await t.rejects(openStore({ path }), { code: 'busy' })
  const bad = [
    { name: 'a', sizeBytes: 4096, size: 1 }, { name: 'a' }, { name: 'a', sizeBytes: 0 }, { name: 'a', sizeBytes: 1000 },
    { name: '../a', sizeBytes: 4096 }, { name: '', sizeBytes: 4096 }, { name: 'a', sizeBytes: '4096' },
    { name: 'a', sizeBytes: 4096, grainBytes: 5000 }, { name: 'a', sizeBytes: 4096, grainBytes: 512 },
  ]
  for (const options of bad) {
    await t.rejects(store.createVolume(options as never), { code: 'bad-argument' }, JSON.stringify(options))
  }
  await t.rejects(store.createVolume({ name: 'a', sizeBytes: 2 ** 52 }), { code: 'too-large' }, 'more grains than memory allows')
  t.strictSame(store.list(), [], 'nothing came of any of them')
  await store.createVolume({ name: 'a', sizeBytes: 4096 })
  await t.rejects(store.createVolume({ name: 'a', sizeBytes: 4096 }), { code: 'exists' })
  const twice = [1, 2].map(() => store.createVolume({ name: 'b', sizeBytes: 4096 }))
  const both = await Promise.allSettled(twice)
  t.strictSame(both.map(result => result.status).sort(), ['fulfilled', 'rejected'])
  await store.close()
})

t.test('Z6: resize is visible at once and durable; refusals change nothing', async t => {
  const path = join(t.testdir(), 'store')
  const store = await openStore({ path, create: true })
  const volume = await store.createVolume({ name: 'a', sizeBytes: MIB })
  await volume.write(MIB - 5, 5, Buffer.from('hello'), 0)
  await store.resizeVolume('a', 2 * MIB + 512)
  t.equal(volume.sizeBytes, 2 * MIB + 512, 'to whoever is attached')
  await volume.write(2 * MIB, 512, Buffer.alloc(512, 1), 0)
  await store.resizeVolume('a', MIB)
  await store.resizeVolume('a', 3 * MIB)
  t.ok((await readAll(volume, MIB)).every(byte => byte === 0), 'what was cut off does not come back')
  await t.rejects(store.resizeVolume('a', 1000), { code: 'bad-argument' })
  await t.rejects(store.resizeVolume('b', MIB), { code: 'not-found' })
  t.equal(volume.sizeBytes, 3 * MIB)
  await store.close()
  const again = await openStore({ path })
  t.equal(again.get('a')!.sizeBytes, 3 * MIB)
  t.equal((await readAll(again.get('a')!, MIB - 5, 5)).toString(), 'hello')
  await again.close()
})

t.test('delete gives everything back', async t => {
  const path = join(t.testdir(), 'store')
  const store = await openStore({ path, create: true })
  const volume = await store.createVolume({ name: 'a', sizeBytes: MIB })
  await volume.write(0, 5, Buffer.from('hello'), 0)
  const file = join(path, 'volumes', volume.uuid, 'live')
  t.ok(statSync(file))
  await store.deleteVolume('a')
  t.throws(() => statSync(file))
  t.equal(store.get('a'), undefined)
  await t.rejects(store.deleteVolume('a'), { code: 'not-found' })
  await store.createVolume({ name: 'a', sizeBytes: 512 })
  await store.close()
})

t.test('adopted files keep their content, stay when the volume goes, and are plain images then', async t => {
  const folder = t.testdir({ image: Buffer.alloc(MIB, 7).toString('latin1') })
  const image = join(folder, 'image')
  const store = await openStore({ path: join(folder, 'store'), create: true })
  await t.rejects(store.createVolume({ name: 'a', backing: join(folder, 'nowhere') }), { code: 'not-found' })
  await t.rejects(store.createVolume({ name: 'a', backing: image, sizeBytes: 512 }), { code: 'bad-argument' })
  await t.rejects(store.createVolume({ name: 'a', backing: join(folder, 'store', 'store.id') }), { code: 'bad-argument' })
  const volume = await store.createVolume({ name: 'a', backing: image })
  t.equal(volume.sizeBytes, MIB)
  await t.rejects(store.createVolume({ name: 'b', backing: image }), { code: 'exists' })
  t.equal((await readAll(volume, 5, 1))[0], 7)
  await volume.zero(0, MIB / 2, { allocate: false, fast: true })
  await volume.write(10, 5, Buffer.from('hello'), 0)
  await store.deleteVolume('a')
  const wanted = Buffer.alloc(MIB, 7)
  wanted.fill(0, 0, MIB / 2).write('hello', 10)
  t.ok(readFileSync(image).equals(wanted))
  await store.close()
})

t.test('a volume that cannot be opened is listed, refuses, can be deleted; the others are served', async t => {
  const folder = t.testdir({ image: Buffer.alloc(MIB, 7).toString('latin1') })
  const path = join(folder, 'store')
  const store = await openStore({ path, create: true })
  const hurt = await store.createVolume({ name: 'hurt', sizeBytes: MIB })
  await store.createVolume({ name: 'lost', backing: join(folder, 'image') })
  const fine = await store.createVolume({ name: 'fine', sizeBytes: MIB })
  await fine.write(0, 5, Buffer.from('hello'), 0)
  await store.close()
  truncateSync(join(path, 'volumes', hurt.uuid, 'live'), 100)
  rmSync(join(folder, 'image'))
  const again = await openStore({ path })
  const problems = (): unknown[] => again.list().map(one => [one.name, one.problem?.code])
  t.strictSame(problems(), [['fine', undefined], ['hurt', 'damaged'], ['lost', 'not-found']])
  t.equal((await readAll(again.get('fine')!, 0, 5)).toString(), 'hello')
  t.throws(() => again.get('hurt')!.read(0, 1, Buffer.alloc(1), 0), { code: 'damaged' })
  t.strictSame(await again.get('hurt')!.facts(),
    { allocatedBytes: null, inheritedBytes: null, mappedBytes: null, staleBytes: null })
  await t.rejects(again.resizeVolume('hurt', 2 * MIB), { code: 'damaged' })
  await again.deleteVolume('hurt')
  await again.close()
  writeFileSync(join(folder, 'image'), Buffer.alloc(MIB, 8))
  const third = await openStore({ path })
  t.strictSame(third.list().map(one => [one.name, one.problem?.code]), [['fine', undefined], ['lost', undefined]])
  await third.close()
})

t.test('a file is not two volumes under two names', async t => {
  const folder = t.testdir()
  const store = await openStore({ path: join(folder, 'store'), create: true })
  const own = await store.createVolume({ name: 'own', sizeBytes: MIB })
  linkSync(join(store.path, 'volumes', own.uuid, 'live'), join(folder, 'link-own'))
  writeFileSync(join(folder, 'image'), Buffer.alloc(MIB))
  linkSync(join(folder, 'image'), join(folder, 'link'))
  await store.createVolume({ name: 'adopted', backing: join(folder, 'image') })
  for (const [backing, name] of [['link-own', 'own'], ['link', 'adopted'], ['image', 'adopted']] as const) {
    await t.rejects(store.createVolume({ name: 'x', backing: join(folder, backing) }),
      { code: 'exists', message: new RegExp(`volume '${name}'`) }, backing)
  }
  await store.close()
})
