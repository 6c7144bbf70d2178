// Reads of a snapshot whose grains lie here and there: right while clients overwrite, trim and delete other snapshots meanwhile.
import t from 'tap'
import { seededRandom } from '../../src/device/testing.js'
import { freshDisks, GRAIN, LateDisk, openOn, readAll, ProgrammedDisk } from './lab.js'
import { MemoryPoints } from './point-lab.js'

const G = GRAIN
const GRAINS = 40
const SIZE = GRAINS * G
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
t.comment(`SEED=${SEED}`)

async function scattered(live: ProgrammedDisk | LateDisk) {
  const volume = await openOn(await freshDisks({ sizeBytes: SIZE, live }), SIZE, { points: new MemoryPoints() })
  const content = Buffer.alloc(SIZE)
  for (let grain = 0; grain < GRAINS; grain++) content.fill(1 + grain, grain * G, (grain + 1) * G)
  await volume.write(0, SIZE, content, 0)
  await volume.trim(30 * G, 2 * G)
  content.fill(0, 30 * G, 32 * G)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  return { volume, content }
}

t.test('one read of live for all of its pieces', async t => {
  const live = new ProgrammedDisk(SIZE)
  const { volume, content } = await scattered(live)
  for (const grain of [3, 7, 8, 15]) await volume.write(grain * G, G, Buffer.alloc(G, 99), 0)
  const device = volume.points.open('s')
  const before = live.calls.read
  t.ok((await readAll(device, G, 20 * G)).equals(content.subarray(G, 21 * G)))
  t.equal(live.calls.read - before, 1)
  t.ok((await readAll(device, 100, SIZE - 300)).equals(content.subarray(100, SIZE - 200)), 'off the borders, and over holes')
  for (let grain = 1; grain < 20; grain++) await volume.write(grain * G, G, Buffer.alloc(G, 98), 0)
  const between = live.calls.read
  t.ok((await readAll(device, 0, 21 * G)).equals(content.subarray(0, 21 * G)))
  t.equal(live.calls.read - between, 2, 'little of it is live\'s: piece by piece')
  const read = live.read.bind(live)
  live.read = (offset, length, into, at) => {
    if (offset <= 5 * G && 5 * G < offset + length) throw new Error('a bad sector')
    return read(offset, length, into, at)
  }
  t.ok((await readAll(device)).equals(content), 'what is bad and asked for by nobody does no harm')
  await device.close()
})

t.test('whoever writes meanwhile', async t => {
  for (let run = 0; run < 10; run++) {
    const random = seededRandom(SEED + run)
    const { volume, content } = await scattered(new LateDisk(SIZE, SEED + run))
    const turns = async (most: number): Promise<void> => {
      for (let i = random(most); i > 0; i--) await new Promise(resolve => { setImmediate(resolve) })
    }
    const writer = async (): Promise<void> => {
      for (let i = 0; i < 60; i++) {
        await turns(4)
        const grain = random(GRAINS - 2)
        const roll = random(8)
        if (roll < 5) await volume.write(grain * G + 512 * random(4), 512 * (1 + random(6)), Buffer.alloc(4096, 200), 0)
        else if (roll < 6) await volume.trim(grain * G, 2 * G)
        else if (roll < 7 && i > 20) await volume.points.create({ name: `n${i}`, kind: 'snapshot' })
        else if (volume.points.list().length > 1) await volume.points.delete(volume.points.list().at(-1)!.name)
      }
    }
    const reader = async (): Promise<void> => {
      const device = volume.points.open('s')
      for (let i = 0; i < 60; i++) {
        await turns(3)
        const offset = random(SIZE - 1)
        const length = 1 + random(SIZE - offset - 1)
        const found = await readAll(device, offset, length)
        if (!found.equals(content.subarray(offset, offset + length))) t.fail(`run ${run}, read ${i}: [${offset}, +${length}) is not what it was`)
      }
      await device.close()
    }
    await Promise.all([writer(), reader(), reader()])
  }
  t.pass()
})
