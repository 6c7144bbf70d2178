// D6: when it is open whether a point is in the table, its volume is not opened anew by what was known before: its files would go.
import t from 'tap'
import { systemClock } from '../../src/device/clock.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { silentLogger } from '../../src/device/logger.js'
import { openStoreDirectory } from '../../src/store/store-directory.js'
import { openStore } from '../../src/volume/open-store.js'
import { judgeCreateVolume } from '../../src/volume/options.js'
import { Volumes } from '../../src/volume/volumes.js'
import { contentOf, readAll } from './lab.js'

const BYTES = 16 * 4096

/** A volume of ones, and a snapshot of it that is in the table, though that said it had failed. */
async function doubtful(path: string) {
  const directory = await openStoreDirectory({ path, create: true })
  const volumes = new Volumes(directory, systemClock, silentLogger)
  const volume = await volumes.create(judgeCreateVolume({ name: 'a', sizeBytes: BYTES }))
  await volume.write(0, BYTES, Buffer.alloc(BYTES, 1), 0)
  const put = directory.points.put.bind(directory.points)
  directory.points.put = async changes => {
    await put(changes)
    Object.defineProperty(directory.points, 'inDoubt', { value: true })
    throw new NbdeltaError('flush-failed', 'the disk failed')
  }
  await t.rejects(volume.points.create({ name: 's', kind: 'snapshot' }), { code: 'flush-failed' })
  const judge = async (): Promise<void> => {
    await volumes.close().catch(() => undefined)
    await directory.close()
    const store = await openStore({ path })
    const again = store.get('a')!
    t.equal(again.problem, undefined)
    const ones = Buffer.alloc(BYTES, 1)
    t.ok(ones.equals(await readAll(again)))
    t.ok(ones.equals(await contentOf(again as never, 's')), 'the snapshot is there')
    await store.close()
  }
  return { directory, volumes, volume, judge }
}

t.test('D6: a volume is not opened anew while the table of points is in doubt', async t => {
  const { volumes, volume, judge } = await doubtful(t.testdir())
  await t.rejects(volumes.reopen('a'), { code: 'flush-failed', hint: /restart/ })
  t.equal(volumes.get('a'), volume)
  t.ok(Buffer.alloc(BYTES, 1).equals(await readAll(volume)), 'it is served as before')
  await judge()
})

t.test('D6: nor when it could not be deleted', async t => {
  const { directory, volumes, judge } = await doubtful(t.testdir())
  directory.removeVolumeFiles = () => Promise.reject(new NbdeltaError('io', 'the disk failed'))
  await t.rejects(volumes.delete('a'), { code: 'io' })
  t.match(volumes.get('a')!.problem, { code: 'flush-failed', hint: /restart/ })
  await judge()
})
