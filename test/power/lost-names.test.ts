// The sync that was to make the name of a volume's folder of points durable fails, and to the kernel that name is clean: no later sync covers
// it. The next point of the volume has it made anew, in the same process or in the next.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { openStore } from '../../src/volume/open-store.js'
import { contentOf } from '../volume/storm-model.js'
import { RecordedStore } from './recorded-store.js'
import { contentAt } from './sectors.js'

const BYTES = 16384
const STATES = 8

for (const isReopened of [false, true]) {
  t.test(isReopened ? 'in the next process' : 'in the same process', async t => {
    const recorded = new RecordedStore()
    t.teardown(() => { recorded.remove() })
    const { folder, path } = recorded
    let store = await openStore({ path, create: true })
    const volume = await store.createVolume({ name: 'v', sizeBytes: BYTES, grainBytes: 4096 })
    await volume.write(0, BYTES, contentOf(1, BYTES), 0)
    recorded.failSyncs(name => existsSync(join(folder, name, 'points')))
    await t.rejects(volume.points.create({ name: 's', kind: 'snapshot' }), { code: 'io' })
    t.equal(recorded.failed, 1)
    recorded.failSyncs(undefined)
    if (isReopened) {
      await store.close()
      store = await openStore({ path })
    }
    await store.get('v')!.points.create({ name: 's', kind: 'snapshot' })
    await store.close()
    await recorded.eachLeft(STATES, async (again, state) => {
      const found = again.get('v')!
      t.equal(found.problem?.message, undefined, state)
      if (!found.problem) t.same(new Set(await contentAt(found, 's')), new Set([1]), state)
    })
  })
}
