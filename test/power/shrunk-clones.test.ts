// A clone that is made smaller in the middle of a grain: whatever a power cut leaves behind, it shows what it has inherited (DESIGN D3).
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { seededRandom } from '../../src/device/testing.js'
import { openStore } from '../../src/volume/open-store.js'
import { contentOf, SECTOR } from '../volume/storm-model.js'
import { leftOf, writeLeft } from './folder-states.js'
import { RecordedFolder } from './recorded-folder.js'
import { contentsOf } from './sectors.js'

const GRAIN = 4096
const GRAINS = 4
const BYTES = GRAINS * GRAIN
const SMALLER = BYTES - 5 * SECTOR
const STATES = 60

t.test('every sector is there, whichever of the two sizes it has', async t => {
  const root = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'nbdelta-shrunk-'))
  t.teardown(() => rmSync(root, { recursive: true, force: true }))
  const folder = join(root, 'power')
  writeLeft({ paths: new Map(), links: new Map(), folders: new Set<number>(), history: [], position: 0, story: '' }, folder)
  const path = join(folder, 'store')
  const recorded = new RecordedFolder(folder)
  const store = await openStore({ path, create: true })
  const source = await store.createVolume({ name: 'v', sizeBytes: BYTES, grainBytes: GRAIN })
  await source.write(0, BYTES, contentOf(1, BYTES), 0)
  await source.points.create({ name: 's', kind: 'snapshot' })
  await store.cloneVolume({ name: 'c', from: { volume: 'v', point: 's' } })
  const from = recorded.position
  await store.resizeVolume('c', SMALLER)
  const to = recorded.position
  await store.close()
  recorded.stop()
  for (let seed = 1; seed <= STATES; seed++) {
    const random = seededRandom(seed)
    const left = leftOf(recorded.history, from + random(to - from + 1), 'cut', random)
    rmSync(folder, { recursive: true })
    writeLeft(left, folder)
    const again = await openStore({ path })
    const clone = again.get('c')!
    t.ok([BYTES, SMALLER].includes(clone.sizeBytes), `${clone.sizeBytes} bytes`)
    t.same(new Set(await contentsOf(clone)), new Set([1]), `seed ${seed}: ${left.story}`)
    await again.close()
  }
})
