// D6: a creation that fails after the catalog has the volume leaves nothing, or something that can be deleted.
import t from 'tap'
import { systemClock } from '../../src/device/clock.js'
import { silentLogger } from '../../src/device/logger.js'
import { openStoreDirectory } from '../../src/store/store-directory.js'
import { judgeCreateVolume } from '../../src/volume/options.js'
import { Volumes } from '../../src/volume/volumes.js'

const OPTIONS = judgeCreateVolume({ name: 'a', sizeBytes: 2 ** 20 })

async function failing(path: string) {
  const directory = await openStoreDirectory({ path, create: true })
  const make = directory.createVolumeFiles.bind(directory)
  const remove = directory.removeVolumeFiles.bind(directory)
  directory.createVolumeFiles = async (...request) => {
    for (const disk of Object.values(await make(...request))) await disk.close()
    throw new Error('failed late')
  }
  const works = (): void => { Object.assign(directory, { createVolumeFiles: make, removeVolumeFiles: remove }) }
  return { directory, works, volumes: new Volumes(directory, systemClock, silentLogger) }
}

t.test('D6: nothing is left', async t => {
  const { directory, works, volumes } = await failing(t.testdir())
  await t.rejects(volumes.create(OPTIONS), { message: 'failed late' })
  t.strictSame(directory.catalog.list(), [])
  works()
  t.equal((await volumes.create(OPTIONS)).name, 'a', 'and the name is free')
  await volumes.close()
  await directory.close()
})

t.test('D6: what cannot be taken back is there to be deleted', async t => {
  const { directory, works, volumes } = await failing(t.testdir())
  directory.removeVolumeFiles = () => Promise.reject(new Error('nor can it be undone'))
  await t.rejects(volumes.create(OPTIONS), { message: 'failed late' })
  t.ok(volumes.get('a'))
  works()
  await volumes.delete('a')
  t.strictSame(directory.catalog.list(), [])
  await volumes.close()
  await directory.close()
})
