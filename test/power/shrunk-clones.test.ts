// A clone that is made smaller in the middle of a grain: whatever a power cut leaves behind, it shows what it has inherited (DESIGN D3).
import t from 'tap'
import { openStore } from '../../src/volume/open-store.js'
import { contentOf, SECTOR } from '../volume/storm-model.js'
import { RecordedStore } from './recorded-store.js'
import { contentsOf } from './sectors.js'

const GRAIN = 4096
const GRAINS = 4
const BYTES = GRAINS * GRAIN
const SMALLER = BYTES - 5 * SECTOR
const STATES = 60

t.test('every sector is there, whichever of the two sizes it has', async t => {
  const recorded = new RecordedStore()
  t.teardown(() => { recorded.remove() })
  const store = await openStore({ path: recorded.path, create: true })
  const source = await store.createVolume({ name: 'v', sizeBytes: BYTES, grainBytes: GRAIN })
  await source.write(0, BYTES, contentOf(1, BYTES), 0)
  await source.points.create({ name: 's', kind: 'snapshot' })
  await store.cloneVolume({ name: 'c', from: { volume: 'v', point: 's' } })
  const from = recorded.position
  await store.resizeVolume('c', SMALLER)
  const to = recorded.position
  await store.close()
  await recorded.eachLeft(STATES, async (again, state) => {
    const clone = again.get('c')!
    t.ok([BYTES, SMALLER].includes(clone.sizeBytes), `${clone.sizeBytes} bytes`)
    t.same(new Set(await contentsOf(clone)), new Set([1]), state)
  }, random => from + random(to - from + 1))
})
