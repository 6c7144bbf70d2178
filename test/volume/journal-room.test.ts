// S7: a small journal under many trims and fills: when it fills up requests wait for a checkpoint, none fails, nothing is lost.
import t from 'tap'
import { seededRandom } from '../../src/device/testing.js'
import { FAST, freshDisks, GRAIN, killed, LateDisk, openOn, readAll, SMALL_JOURNAL_BYTES } from './lab.js'

const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
const GRAINS = 64

t.test('thousands of records through 32 KiB', async t => {
  t.comment(`seed ${SEED}`)
  const random = seededRandom(SEED)
  const sizeBytes = GRAINS * GRAIN
  const disks = await freshDisks({ sizeBytes, journalBytes: SMALL_JOURNAL_BYTES, live: new LateDisk(sizeBytes, SEED) })
  const volume = await openOn(disks, sizeBytes)
  const model = Buffer.alloc(sizeBytes)
  for (let round = 0; round < 150; round++) {
    // One request for each of 16 grains of its own, all in flight together.
    await Promise.all(Array.from({ length: 16 }, async (_, i) => {
      const at = (i + 16 * random(GRAINS / 16)) * GRAIN
      if (random(2) === 0) {
        const data = Buffer.alloc(GRAIN, 1 + random(255))
        await volume.write(at, GRAIN, data, 0)
        data.copy(model, at)
      } else {
        await volume.zero(at, GRAIN, FAST)
        model.fill(0, at, at + GRAIN)
      }
    }))
  }
  t.ok((await readAll(volume)).equals(model))
  const again = await openOn(killed(disks), sizeBytes)
  t.ok((await readAll(again)).equals(model), 'and after a kill')
})
