// What the image of a cycle keeps: what the cycle is still going to read, and nothing else; and what arrives is of its instant all the same.
import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import type { Mirror } from '../../src/replication/mirror.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { until } from './held.js'
import { disk, fill, G, Lab, shown, shownAt, URI } from './lab.js'

const GRAINS = 64
/** A cycle sends a grain a second: it is in its middle until the clock moves. */
const RATE = G
/** Timers of the stores do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))

const imageOf = ({ points }: StoreVolume) => points.list().find(({ name }) => /-image/.test(name))!
const isMoving = (mirror: Mirror): Promise<void> => until('something was sent', () => (mirror.status().progress?.doneBytes ?? 0) >= G)
/** What is staged has its place: the image has kept what was written to last. */
const moved = (volume: StoreVolume): Promise<void> =>
  until('what is staged has its place', async () => (await volume.points.facts(imageOf(volume).name)).exclusiveBytes > 0)
const ones = (): number[] => Array<number>(GRAINS).fill(1)

async function passing({ clock }: Lab, done: Promise<unknown>): Promise<void> {
  let over = false
  const end = (): void => { over = true }
  done.then(end, end)
  await until('it is over', async () => {
    if (!over) await clock.advance(250)
    return over
  })
  await done
}

t.test('a cycle keeps what it has still to read, of its instant', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  const wire = lab.wire = disk(GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: URI, bytesPerSecond: RATE })
  await fill(volume, 0, 1, GRAINS)
  await passing(lab, mirror.sync())
  await fill(volume, 0, 2, 10)
  const cycle = mirror.sync()
  await isMoving(mirror)
  const image = imageOf(volume)
  t.throws(() => volume.points.open(image.name), { code: 'bad-argument' })
  await fill(volume, 0, 3)
  await fill(volume, 9, 3)
  await fill(volume, 20, 3)
  await moved(volume)
  t.equal((await volume.points.facts(image.name)).exclusiveBytes, G, 'grain 9 alone')
  await passing(lab, cycle)
  t.same(await shown(wire), ones().fill(2, 0, 10))
  await lab.close()
})

t.test('what has changed at the target is kept as well', async t => {
  const lab = await Lab.open(t.testdir())
  await lab.volume('v', GRAINS)
  await lab.mirror({ volume: 'v', target: 'w', mode: 'async', bytesPerSecond: RATE })
  const next = await lab.killed()
  await fill(next.store.get('w')!, 7, 9)
  await fill(next.store.get('v')!, 0, 2, 4)
  const mirror = next.mirrors.get('m')
  const cycle = mirror.sync()
  await isMoving(mirror)
  const source = next.store.get('v')!
  await fill(source, 7, 5)
  await fill(source, 3, 5)
  await moved(source)
  await passing(next, cycle)
  const target = next.store.get('w')!
  const declared = target.points.list().find(({ labels }) => labels['origin'] !== undefined)!
  t.same(await shownAt(target, declared.name), ones().fill(0).fill(2, 0, 4))
  await next.close()
  await lab.close()
})

t.test('of a target that ends before it all behind its end is', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: 'w', bytesPerSecond: RATE })
  await fill(volume, 0, 1, GRAINS)
  await passing(lab, mirror.sync())
  await lab.store.resizeVolume('v', (GRAINS + 8) * G)
  await fill(volume, 0, 2, 4)
  const cycle = mirror.sync()
  await isMoving(mirror)
  await fill(volume, GRAINS + 4, 5)
  await fill(volume, 3, 5)
  await moved(volume)
  await passing(lab, cycle)
  const grown = [...ones().fill(2, 0, 4), ...Array<number>(8).fill(0)]
  t.same(await shownAt(lab.store.get('w')!, mirror.shownPoint()!.name), grown)
  await lab.close()
})

t.test('nothing is declared of an image whose disk has lost some of it', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: 'w' })
  await fill(volume, 0, 1, GRAINS)
  await mirror.sync()
  await fill(volume, 3, 2)
  const open = volume.points.open.bind(volume.points)
  let isLost = true
  volume.points.open = (name, options) => {
    const device = open(name, options)
    const flush = device.flush.bind(device)
    device.flush = () => {
      if (isLost) throw new Error('planted')
      return flush()
    }
    return device
  }
  const declared = (): (string | undefined)[] => lab.store.get('w')!.points.list().map(({ labels }) => labels['origin']).filter(Boolean)
  const before = declared()
  await t.rejects(mirror.sync(), { message: 'planted' })
  t.strictSame(declared(), before)
  isLost = false
  await mirror.sync()
  t.notSame(declared(), before)
  t.equal((await shown(lab.store.get('w')!))[3], 2)
  await lab.close()
})

t.test('a flush of an image that fails at once leaves no other one behind, which is nobody\'s then', async t => {
  const lab = await Lab.open(t.testdir())
  const wire = lab.wire = disk(GRAINS)
  const volume = await lab.volume('v', GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: URI, overwrite: true })
  await fill(volume, 0, 1, GRAINS)
  await mirror.sync()
  await fill(volume, 3, 2)
  const open = volume.points.open.bind(volume.points)
  // As a disk does whose flush has failed before.
  volume.points.open = (name, options) => Object.assign(open(name, options), { flush: () => { throw new Error('planted') } })
  let isAsked = false
  wire.flush = async () => {
    isAsked = true
    await turn()
    throw new NbdeltaError('unreachable', 'the connection was lost')
  }
  await t.rejects(mirror.sync())
  // What is nobody's would fail the test, as it ends a server.
  await turn()
  t.ok(isAsked)
  await lab.close()
})
