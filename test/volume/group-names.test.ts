// A group that was answered stays what it is: of two that are made of one name at a time the second is refused.
import t from 'tap'
import { systemClock } from '../../src/device/clock.js'
import { silentLogger } from '../../src/device/logger.js'
import { openStoreDirectory } from '../../src/store/store-directory.js'
import { judgeCreateVolume } from '../../src/volume/options.js'
import { Volumes } from '../../src/volume/volumes.js'

t.test('D6: two groups of one name, made at the same time', async t => {
  const directory = await openStoreDirectory({ path: t.testdir(), create: true })
  const volumes = new Volumes(directory, systemClock, silentLogger)
  for (const name of ['a', 'b']) await volumes.create(judgeCreateVolume({ name, sizeBytes: 16 * 4096 }))
  const { groups } = volumes
  const [first, second] = await Promise.allSettled([groups.create('g', ['a']), groups.create('g', ['b'])])
  t.match(first, { status: 'fulfilled', value: { name: 'g', volumes: ['a'] } })
  t.match(second, { status: 'rejected', reason: { code: 'exists' } })
  t.strictSame(groups.list(), [{ name: 'g', volumes: ['a'] }])

  const [gone, again] = await Promise.allSettled([groups.delete('g'), groups.delete('g')])
  t.equal(gone.status, 'fulfilled')
  t.match(again, { status: 'rejected', reason: { code: 'not-found' } })
  await volumes.close()
  await directory.close()
})
