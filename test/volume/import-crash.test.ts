// D6: a new volume is imported whole or not at all, also when the process is killed half-way.
import { cpSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { systemClock } from '../../src/device/clock.js'
import { silentLogger } from '../../src/device/logger.js'
import { MemoryDisk } from '../../src/device/testing.js'
import { openStoreDirectory } from '../../src/store/store-directory.js'
import { openStore } from '../../src/volume/open-store.js'
import { Volumes } from '../../src/volume/volumes.js'
import { readAll } from './lab.js'

const MIB = 2 ** 20
const image = (): MemoryDisk => MemoryDisk.from(Buffer.alloc(4 * MIB, 7))

t.test('D6: the next open after a kill in an import has no such volume; its name and its space are free', async t => {
  const folder = t.testdir()
  const store = await openStore({ path: join(folder, 'store'), create: true })
  await store.createVolume({ name: 'other', sizeBytes: MIB })
  const left = join(folder, 'left')
  let copied = false
  const onProgress = (done: number): void => {
    if (done < 2 * MIB || copied) return
    copied = true
    cpSync(store.path, left, { recursive: true })
  }
  await store.importVolume({ name: 'new', sizeBytes: 4 * MIB }, image(), { onProgress })
  t.ok(copied)
  await store.close()

  const warnings: string[] = []
  const logger = { ...silentLogger, warn: (_: object, text: string) => { warnings.push(text) } }
  const killed = await openStore({ path: left, logger })
  t.strictSame(killed.list().map(({ name }) => name), ['other'])
  t.match(warnings, [/imported.*removed/])
  await killed.importVolume({ name: 'new', sizeBytes: 4 * MIB }, image())
  await killed.close()
  const again = await openStore({ path: left })
  t.ok((await readAll(again.get('new')!)).every(byte => byte === 7), 'an import that ended stays')
  await again.close()
})

t.test('D6: one that fails leaves nothing', async t => {
  const store = await openStore({ path: join(t.testdir(), 'store'), create: true })
  await t.rejects(store.importVolume({ name: 'a', sizeBytes: MIB }, image()), { code: 'too-large' })
  t.strictSame(store.list(), [])
  await store.close()
})

t.test('half a volume that cannot be removed is not shown as a whole one', async t => {
  const path = join(t.testdir(), 'store')
  const directory = await openStoreDirectory({ path, create: true })
  await directory.catalog.put({
    uuid: '00000000-0000-4000-8000-000000000001', name: 'a', sizeBytes: MIB, grainBytes: 4096, backing: null,
    createdAt: '2026-01-02T03:04:05.678Z', description: '', importing: true,
  })
  directory.removeVolumeFiles = () => Promise.reject(new Error('not now'))
  const volumes = new Volumes(directory, systemClock, silentLogger)
  await volumes.openAll()
  t.match(volumes.get('a')!.problem, { code: 'damaged', message: /only a part/ })
  await volumes.close()
  await directory.close()
})
