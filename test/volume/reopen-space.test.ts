// A budget that was answered is in force, also if its volume was opened anew meanwhile.
import t from 'tap'
import { systemClock } from '../../src/device/clock.js'
import { silentLogger } from '../../src/device/logger.js'
import { openStoreDirectory } from '../../src/store/store-directory.js'
import { judgeCreateVolume } from '../../src/volume/options.js'
import { Volumes } from '../../src/volume/volumes.js'

t.test('a budget that becomes durable while its volume is opened anew is in force behind that', async t => {
  const directory = await openStoreDirectory({ path: t.testdir(), create: true })
  const volumes = new Volumes(directory, systemClock, silentLogger)
  await volumes.create(judgeCreateVolume({ name: 'a', sizeBytes: 16 * 4096 }))
  const again = volumes.reopen('a')
  const { points } = directory
  const put = points.put.bind(points)
  points.put = async changes => {
    // The new one has been opened by what the table said before.
    await again
    return put(changes)
  }
  const rule = { budgetBytes: 8192, order: 'fail' } as const
  t.strictSame(await volumes.setSpace('a', rule), rule)
  t.match(volumes.get('a')!.space, rule)
  await volumes.close()
  await directory.close()
})
