// A volume is a BlockDevice: the suite every one of them passes, over live disks that complete at once and later.
import t from 'tap'
import { blockDeviceConformance } from '../../src/device/testing.js'
import { freshVolume, LateDisk } from './lab.js'

const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31)
t.comment(`seed ${seed}`)
const supports = { knowsZeros: true, ordersOverlaps: true, seed }

for (const grainBytes of [4096, 65536]) {
  t.test(`over memory, grain ${grainBytes}`, t =>
    blockDeviceConformance(t, 'volume', async sizeBytes => freshVolume({ sizeBytes, grainBytes }), supports))
  t.test(`over a disk that completes later, grain ${grainBytes}`, t =>
    blockDeviceConformance(t, 'volume over late disk', async sizeBytes =>
      freshVolume({ sizeBytes, grainBytes, live: new LateDisk(sizeBytes, seed) }), supports))
}
