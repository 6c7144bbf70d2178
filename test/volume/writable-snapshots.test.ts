// A writable snapshot is a clone of one (B12, B13); what was edited there comes back by a restore from it (A3).
import { join } from 'node:path'
import t from 'tap'
import { seededRandom } from '../../src/device/testing.js'
import { openStore, type Store } from '../../src/volume/open-store.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { readAll } from './lab.js'

const G = 4096
const GRAINS = 12
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
t.comment(`SEED=${SEED}`)
/** Timers of the store do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))

/** Places in the snapshot S: what live shows still (ditto), what S keeps itself (own), and what was never written (hole). */
const PLACES = { ditto: 0, own: 4, hole: 8 } as const

interface Stand {
  readonly store: Store
  readonly live: StoreVolume
  /** A clone of S: the snapshot as it can be written to. */
  readonly writable: StoreVolume
  content(point: string): Promise<Buffer>
}

async function stand(t: { testdir(): string, teardown(work: () => Promise<void>): void }): Promise<Stand> {
  const store = await openStore({ path: join(t.testdir(), 'store'), create: true })
  t.teardown(() => store.close())
  const live = await store.createVolume({ name: 'live', sizeBytes: GRAINS * G, grainBytes: G })
  await live.write(0, 8 * G, Buffer.alloc(8 * G, 1), 0)
  for (const name of ['older', 'S']) await live.points.create({ name, kind: 'snapshot' })
  await live.write(PLACES.own * G, 4 * G, Buffer.alloc(4 * G, 2), 0)
  await live.points.create({ name: 'newer', kind: 'snapshot' })
  const writable = await store.cloneVolume({ name: 'writable', from: { volume: 'live', point: 'S' } })
  return {
    store, live, writable,
    content: async point => {
      const device = live.points.open(point)
      const found = await readAll(device)
      await device.close()
      return found
    },
  }
}

for (const [place, grain] of Object.entries(PLACES)) {
  t.test(`B12, B13: writes to a writable snapshot where it is ${place}`, async t => {
    const { live, writable, content } = await stand(t)
    const before = { older: await content('older'), S: await content('S'), newer: await content('newer'), live: await readAll(live) }
    const wanted = Buffer.from(before.S)
    for (const [offset, length, value] of [[grain * G, G, 7], [(grain + 1) * G + 100, 50, 8], [(grain + 2) * G - 1, 2, 9]] as const) {
      await writable.write(offset, length, Buffer.alloc(length, value), 0)
      wanted.fill(value, offset, offset + length)
    }
    t.ok((await readAll(writable)).equals(wanted), 'it shows what was written, and around it what it showed before')
    for (const name of ['older', 'S', 'newer'] as const) t.ok((await content(name)).equals(before[name]), `${name} is as it was`)
    t.ok((await readAll(live)).equals(before.live), 'live is as it was')
    await writable.trim(grain * G, G)
    wanted.fill(0, grain * G, (grain + 1) * G)
    t.ok((await readAll(writable)).equals(wanted), 'B4: a trim there hides what lies behind')
    await live.write(0, GRAINS * G, Buffer.alloc(GRAINS * G, 5), 0)
    t.ok((await readAll(writable)).equals(wanted), 'and nothing of live comes through')
  })
}

t.test('A3: a restore from an edited snapshot brings the edits, with live untouched', async t => {
  const { live, writable, content } = await stand(t)
  await writable.write(2 * G + 10, 20, Buffer.alloc(20, 6), 0)
  await writable.write(9 * G, G, Buffer.alloc(G, 7), 0)
  await writable.points.create({ name: 'edited', kind: 'snapshot' })
  const wanted = await readAll(writable)
  const before = await readAll(live)
  await live.points.create({ name: 'mark', kind: 'bookmark' })
  await (await live.restore({ from: 'edited', sourceVolume: writable })).finished
  t.ok((await readAll(live)).equals(wanted))
  t.ok((await content('undo-edited-1')).equals(before))
  const runs = live.points.changedRuns('mark')
  const isMarked = (grain: number): boolean => runs.some(({ start, end }) => start <= grain && grain < end)
  for (const grain of [2, 4, 5, 6, 7, 9]) t.ok(isMarked(grain), `grain ${grain} differs, and is in the set`)
})

t.test('B12: any writes to a writable snapshot, its base and back', async t => {
  const random = seededRandom(SEED)
  const { live, writable, content } = await stand(t)
  const kept = { older: await content('older'), S: await content('S'), newer: await content('newer') }
  const models = [await readAll(live), await readAll(writable)]
  for (let i = 0; i < 200; i++) {
    const which = random(2)
    const offset = random(GRAINS * G - 1)
    const length = Math.min(GRAINS * G - offset, 1 + random(random(2) === 0 ? 600 : 3 * G))
    await [live, writable][which].write(offset, length, Buffer.alloc(length, 10 + i % 200), 0)
    models[which].fill(10 + i % 200, offset, offset + length)
  }
  t.ok((await readAll(live)).equals(models[0]), 'live')
  t.ok((await readAll(writable)).equals(models[1]), 'the writable snapshot')
  for (const name of ['older', 'S', 'newer'] as const) t.ok((await content(name)).equals(kept[name]), name)
})
