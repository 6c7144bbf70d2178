// Several volumes restored by one record, each from what it is told, another volume's snapshot as well; or none of them.
import { join } from 'node:path'
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { openStore } from '../../src/volume/open-store.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'

const G = 4096
const GRAINS = 8
/** Timers of the store do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))

const fill = async (volume: StoreVolume, grain: number, value: number, grains = 1) =>
  volume.write(grain * G, grains * G, Buffer.alloc(grains * G, value), 0)

async function shown(volume: StoreVolume): Promise<string> {
  const all = Buffer.alloc(volume.sizeBytes)
  await volume.read(0, all.length, all, 0)
  return Array.from({ length: GRAINS }, (_, grain) => all[grain * G]).join('')
}

t.test('of another volume\'s snapshot and its own, by one record; a refusal of one keeps all as they are', async t => {
  const path = join(t.testdir(), 'store')
  const store = await openStore({ path, create: true })
  const make = (name: string) => store.createVolume({ name, sizeBytes: GRAINS * G, grainBytes: G })
  const [a, b] = [await make('a'), await make('b')]
  const from = await store.fillVolume({ name: 'from', sizeBytes: GRAINS * G, grainBytes: G }, async made => {
    await fill(made, 0, 5, GRAINS)
    await made.points.create({ name: 's', kind: 'snapshot' })
  })
  await fill(a, 0, 1, GRAINS)
  await fill(b, 0, 1, GRAINS)
  await b.points.create({ name: 'old', kind: 'snapshot' })
  await fill(b, 3, 2)
  const within = new GrainBitmap(GRAINS)
  within.set(2, 4)
  const called: string[] = []
  const wanted = (refused: boolean) => [
    { volume: 'a', from: 's', sourceVolume: from, within, atInstant: () => { called.push('a') } },
    { volume: 'b', from: 'old', whenHeld: () => {
      called.push('held')
      if (refused) throw new NbdeltaError('busy', 'not now')
    } },
  ]
  await t.rejects(store.restoreTogether(wanted(true)), { code: 'busy', message: 'not now' })
  t.same([await shown(a), await shown(b), called], ['11111111', '11121111', ['held']])
  t.same([a, b, from].map(({ points }) => points.list().length), [0, 1, 1], 'no undo point is left')
  t.same(from.points.get('s')!.pins, [])
  await t.rejects(store.restoreTogether([wanted(false)[0]!, wanted(false)[0]!]), { code: 'bad-argument' })
  const job = await store.restoreTogether(wanted(false))
  t.same([await shown(a), await shown(b), called], ['11551111', '11111111', ['held', 'held', 'a']])
  await t.rejects(store.deleteVolume('from'), { code: 'busy' }, 'it is needed until all is copied')
  await job.finished
  await store.deleteVolume('from')
  await store.close()
  const again = await openStore({ path })
  t.same(await Promise.all(['a', 'b'].map(name => shown(again.get(name)!))), ['11551111', '11111111'])
  await again.close()
})

t.test('what a volume has grown by since it was known what differs counts as different', async t => {
  const store = await openStore({ path: join(t.testdir(), 'store'), create: true })
  const from = await store.createVolume({ name: 'from', sizeBytes: GRAINS * G, grainBytes: G })
  await fill(from, 0, 5, GRAINS)
  await from.points.create({ name: 's', kind: 'snapshot' })
  const grown = await store.createVolume({ name: 'grown', sizeBytes: 4 * G, grainBytes: G })
  const within = new GrainBitmap(4)
  within.set(1, 2)
  await store.resizeVolume('grown', GRAINS * G)
  const job = await grown.restore({ from: 's', sourceVolume: from, within })
  t.equal(await shown(grown), '05005555')
  await job.finished
  await store.close()
})

t.test('a volume whose filling fails is not there', async t => {
  const store = await openStore({ path: join(t.testdir(), 'store'), create: true })
  await t.rejects(store.fillVolume({ name: 'half', sizeBytes: GRAINS * G }, async () => { throw new Error('no more') }), /no more/)
  t.same(store.list(), [])
  await store.close()
})
