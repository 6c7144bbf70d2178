// What changed between two points, as a bitmap and as runs: the same, for all pairs, while writes are staged and volumes change their size.
import { join } from 'node:path'
import t from 'tap'
import { seededRandom } from '../../src/device/testing.js'
import { openStore } from '../../src/volume/open-store.js'
import { holdOldContent, Rig } from './inherit-lab.js'

const G = 4096
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)

t.test('bitmaps and runs say the same', async t => {
  t.comment(`seed ${SEED}`)
  const random = seededRandom(SEED)
  const store = await openStore({ path: join(t.testdir(), 'store'), create: true })
  const volume = await store.createVolume({ name: 'v', sizeBytes: 300 * G, grainBytes: G })
  let told = 0
  for (let step = 0; step < 60; step++) {
    for (let i = random(6); i > 0; i--) {
      const grain = random(Math.floor(volume.sizeBytes / G))
      await volume.write(grain * G, G, Buffer.alloc(G, 1 + random(255)), 0)
    }
    const roll = random(5)
    if (roll === 0) await volume.points.create({ name: `p${step}`, kind: random(2) === 0 ? 'snapshot' : 'bookmark' })
    if (roll === 1) await store.resizeVolume('v', (200 + random(300)) * G)
    const names = volume.points.list().map(({ name }) => name)
    if (roll === 2 && names.length > 4) await volume.points.delete(names[random(names.length)]!)
    const left = volume.points.list().map(({ name }) => name)
    for (const [i, since] of left.entries()) {
      for (const until of [...left.slice(i), undefined]) {
        const map = volume.points.changedMap(since, until)
        const runs = [...map.runs()]
        const wanted = volume.points.changedRuns(since, until)
        told += wanted.length
        if (JSON.stringify(runs) !== JSON.stringify(wanted)) return t.same(runs, wanted, `${since} to ${until}`)
      }
    }
  }
  t.ok(told > 100, `${told} runs`)
  await store.close()
})

t.test('whether anything has changed counts what was changed and then cut off, and that it was', async t => {
  const { volume } = await Rig.open({ sizeBytes: 4 * G })
  await volume.write(0, 4 * G, Buffer.alloc(4 * G, 1), 0)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await volume.write(3 * G, G, Buffer.alloc(G, 2), 0)
  await volume.resize(3 * G, async () => undefined)
  t.ok(await volume.points.hasChanged('s'), 'it is shorter')
  await volume.resize(4 * G, async () => undefined)
  t.ok(await volume.points.hasChanged('s'), 'it has lost its end')
  await volume.close()
})

t.test('whether anything has changed counts a write that waits for old content to be kept', async t => {
  const rig = await Rig.open({ sizeBytes: 4 * G })
  const { volume } = rig
  const release = holdOldContent(rig)
  await volume.write(0, 4 * G, Buffer.alloc(4 * G, 1), 0)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  t.notOk(await volume.points.hasChanged('s'))
  const written = volume.write(0, 100, Buffer.alloc(100, 5), 0)
  const asked = volume.points.hasChanged('s')
  for (let turn = 0; turn < 20; turn++) await new Promise(resolve => { setImmediate(resolve) })
  release()
  await written
  t.ok(await asked)
  await t.rejects(volume.points.hasChanged('x'), { code: 'not-found' })
  await volume.close()
})
