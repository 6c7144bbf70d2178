// The copier takes many short runs at once, and several pieces at a time: few flushes, and no client's write is lost to it (A12, A13).
import t from 'tap'
import { seededRandom } from '../../src/device/testing.js'
import { Rig, settle } from './inherit-lab.js'
import { GRAIN, LateDisk, readAll } from './lab.js'

const G = GRAIN
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
const GRAINS = 600
t.comment(`SEED=${SEED}`)

/** Every second grain differs from the snapshot. */
async function scattered(live: LateDisk): Promise<Rig> {
  const rig = await Rig.open({ sizeBytes: GRAINS * G, live })
  await rig.volume.write(0, GRAINS * G, Buffer.alloc(GRAINS * G, 1), 0)
  await rig.volume.points.create({ name: 's', kind: 'snapshot' })
  for (let grain = 0; grain < GRAINS; grain += 2) await rig.volume.write(grain * G, G, Buffer.alloc(G, 2), 0)
  return rig
}

class CountedDisk extends LateDisk {
  flushes = 0
  override flush() {
    this.flushes++
    return super.flush()
  }
}

t.test('300 spread grains take a few flushes', async t => {
  const live = new CountedDisk(GRAINS * G, SEED)
  const rig = await scattered(live)
  const before = live.flushes
  const job = await rig.volume.restore({ from: 's' })
  await settle(rig.clock, job.finished)
  t.ok(live.flushes - before < 30, `${live.flushes - before} flushes of live`)
  t.ok((await readAll(rig.volume)).equals(Buffer.alloc(GRAINS * G, 1)))
})

t.test('clients write all over what is being copied', async t => {
  for (let run = 0; run < 12; run++) {
    const random = seededRandom(SEED + run)
    const rig = await scattered(new LateDisk(GRAINS * G, SEED + run))
    const wanted = Buffer.alloc(GRAINS * G, 1)
    const undo = Buffer.from(await readAll(rig.volume))
    const job = await rig.volume.restore({ from: 's' })
    // Each of three clients has grains of its own, so that the order between them does not matter.
    const client = async (mine: number): Promise<void> => {
      for (let i = 0; i < 40; i++) {
        for (let turns = random(5); turns > 0; turns--) await new Promise(resolve => { setImmediate(resolve) })
        const offset = (mine + 3 * random(GRAINS / 3)) * G
        const [start, length] = random(2) === 0 ? [offset, G] : [offset + random(4096), 1 + random(200)]
        const end = Math.min(start + length, offset + G)
        wanted.fill(3 + i % 200, start, end)
        await rig.volume.write(start, end - start, Buffer.alloc(end - start, 3 + i % 200), 0)
      }
    }
    await Promise.all([settle(rig.clock, Promise.all([client(0), client(1), client(2)])), settle(rig.clock, job.finished)])
    const found = await readAll(rig.volume)
    const at = found.findIndex((byte, i) => byte !== wanted[i])
    if (at >= 0) t.fail(`run ${run}: grain ${Math.floor(at / G)}, byte ${at % G} is ${found[at]}, not ${wanted[at]}`)
    const point = rig.volume.points.open('undo-s-1')
    t.ok((await readAll(point)).equals(undo), `run ${run}: the undo point has what was there`)
    await point.close()
  }
})
