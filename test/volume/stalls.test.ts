// No step of the map stops the event loop for long, however large or torn to pieces it is. Limits are ten times what was measured.
import t from 'tap'
import { MARK_RUNS_MAX } from '../../src/volume/write-plan.js'
import { VolumeMap } from '../../src/volume/volume-map.js'
import { freshVolume, GRAIN } from './lab.js'

const GRAINS = 2 ** 32

function tookMs(work: () => void): number {
  const startMs = performance.now()
  work()
  return performance.now() - startMs
}

t.test('the holes of a TiB become data', async t => {
  const map = new VolumeMap(GRAINS, 2 ** 20)
  map.becomeStale(5, 6)
  map.becomeStale(100, 2000)
  const ms = tookMs(() => map.fillHoles(0, 2 ** 28))
  t.ok(ms < 100, `${ms.toFixed(1)} ms`)
  t.equal(map.data.count(), 2 ** 28 - 1901)
  t.equal(map.stale.total, 1901)
})

t.test('one request marks all the runs it may while 31,000 are stale', async t => {
  const map = new VolumeMap(GRAINS, 2 ** 20)
  map.data.set(0, 2 ** 30)
  for (let i = 0; i < 31_000; i++) map.becomeStale(i * 20, i * 20 + 1)
  const ms = tookMs(() => { for (let i = 0; i < MARK_RUNS_MAX; i++) map.becomeStale(i * 20 + 5, i * 20 + 6) })
  t.ok(ms < 70, `${ms.toFixed(1)} ms`)
})

t.test('block status of a volume of which every second grain is data', async t => {
  const volume = await freshVolume({ sizeBytes: 2 ** 17 * GRAIN })
  for (let grain = 0; grain < 2 ** 17; grain += 2) await volume.write(grain * GRAIN, 1, Buffer.alloc(1, 1), 0)
  let count = 0
  const ms = tookMs(() => { count = volume.extents(0, volume.sizeBytes, 2 ** 20).lengths.length })
  t.ok(ms < 100, `${ms.toFixed(1)} ms for ${count} extents`)
  t.ok(count <= 16_384)
})
