// The sync that was to make the name of a volume's folder of points durable fails, and to the kernel that name is clean: no later sync covers
// it. The next point of the volume has it made anew, in the same process or in the next.
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { seededRandom } from '../../src/device/testing.js'
import { openStore } from '../../src/volume/open-store.js'
import { contentOf } from '../volume/storm-model.js'
import { leftOf, writeLeft } from './folder-states.js'
import { RecordedFolder } from './recorded-folder.js'
import { contentAt } from './sectors.js'

const BYTES = 16384
const STATES = 8
const root = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'nbdelta-names-'))
t.teardown(() => rmSync(root, { recursive: true, force: true }))

for (const isReopened of [false, true]) {
  t.test(isReopened ? 'in the next process' : 'in the same process', async t => {
    const folder = join(root, `${isReopened}`)
    mkdirSync(folder)
    const recorded = new RecordedFolder(folder)
    const path = join(folder, 'store')
    let store = await openStore({ path, create: true })
    const volume = await store.createVolume({ name: 'v', sizeBytes: BYTES, grainBytes: 4096 })
    await volume.write(0, BYTES, contentOf(1, BYTES), 0)
    let failed = 0
    recorded.faults = {
      isHarsh: true,
      failureOf: (what, name) => {
        if (what !== 'sync' || !existsSync(join(folder, name, 'points'))) return undefined
        failed++
        return Object.assign(new Error('EIO: i/o error, fsync'), { code: 'EIO' })
      },
    }
    await t.rejects(volume.points.create({ name: 's', kind: 'snapshot' }), { code: 'io' })
    t.equal(failed, 1)
    recorded.faults = undefined
    if (isReopened) {
      await store.close()
      store = await openStore({ path })
    }
    await store.get('v')!.points.create({ name: 's', kind: 'snapshot' })
    await store.close()
    recorded.stop()
    for (let seed = 1; seed <= STATES; seed++) {
      const left = leftOf(recorded.history, recorded.position, 'cut', seededRandom(seed))
      rmSync(folder, { recursive: true })
      writeLeft(left, folder)
      const again = await openStore({ path })
      const found = again.get('v')!
      t.equal(found.problem?.message, undefined, left.story)
      if (!found.problem) t.same(new Set(await contentAt(found, 's')), new Set([1]), left.story)
      await again.close()
    }
  })
}
