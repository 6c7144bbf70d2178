// D6: when a shrink leaves it open which size is on disk, nothing is written that the next open could cut off.
import t from 'tap'
import { systemClock } from '../../src/device/clock.js'
import { silentLogger } from '../../src/device/logger.js'
import { openStoreDirectory } from '../../src/store/store-directory.js'
import { judgeCreateVolume } from '../../src/volume/options.js'
import { Volumes } from '../../src/volume/volumes.js'
import { SLOW } from './lab.js'

const MIB = 2 ** 20

async function failing(path: string, inDoubt: boolean) {
  const directory = await openStoreDirectory({ path, create: true })
  const volumes = new Volumes(directory, systemClock, silentLogger)
  const volume = await volumes.create(judgeCreateVolume({ name: 'a', sizeBytes: 2 * MIB }))
  const put = directory.catalog.put
  directory.catalog.put = () => Promise.reject(new Error('the disk failed'))
  Object.defineProperty(directory.catalog, 'inDoubt', { value: inDoubt })
  const end = async (): Promise<void> => {
    directory.catalog.put = put
    await volumes.close()
    await directory.close()
  }
  return { volumes, volume, end }
}

const write = async (volume: { write(...args: never[]): unknown }): Promise<unknown> =>
  volume.write(...[MIB, 5, Buffer.from('hello'), 0] as never[])

t.test('D6: a shrink that failed in doubt', async t => {
  const { volumes, volume, end } = await failing(t.testdir(), true)
  await t.rejects(volumes.resize('a', MIB), { message: 'the disk failed' })
  t.equal(volume.sizeBytes, 2 * MIB)
  await t.rejects(write(volume), { code: 'flush-failed', hint: /restart/ })
  await t.rejects(async () => { await volume.zero(0, MIB, SLOW) }, { code: 'flush-failed' })
  await t.rejects(async () => { await volume.trim(0, MIB) }, { code: 'flush-failed' })
  await volume.read(0, 512, Buffer.alloc(512), 0)
  await volume.flush()
  await end()
})

t.test('a shrink that certainly failed, and a growth in doubt, change nothing', async t => {
  for (const [sizeBytes, inDoubt] of [[MIB, false], [4 * MIB, true]] as const) {
    const { volumes, volume, end } = await failing(t.testdir({}), inDoubt)
    await t.rejects(volumes.resize('a', sizeBytes), { message: 'the disk failed' })
    await t.resolves(write(volume), `${sizeBytes}`)
    await volumes.delete('a')
    await end()
  }
})
