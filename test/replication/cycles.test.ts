// Cycles: what is shipped, what is declared, and what a failure leaves (SEEDS A, C).
import t from 'tap'
import { disk, fill, G, Lab, shown, URI } from './lab.js'

const GRAINS = 64

/** Timers of the store do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))

t.test('a first copy, then only what changed (A1, A2)', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  await fill(volume, 0, 1)
  await fill(volume, 10, 2, 3)
  lab.wire = disk(GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: URI })
  t.same(await shown(lab.wire), await shown(volume))
  t.equal(mirror.status().phase, 'paired')
  t.equal(mirror.status().lagBytes, 0)
  lab.wire.reset()
  await fill(volume, 20, 3)
  await volume.write(30 * G + 100, 1, Buffer.from([9]), 0)
  t.equal(mirror.status().lagBytes, 2 * G)
  await mirror.sync()
  t.same({ ...lab.wire.counts }, { writtenBytes: 2 * G, zeroedBytes: 0, readBytes: 0, flushes: 1 }, 'two grains crossed')
  t.same(await shown(lab.wire), await shown(volume))
  t.same(volume.points.list().map(({ kind, name }) => [kind, name]), [['bookmark', 'mirror-m-2']], 'one bookmark stays, no snapshot')
  await lab.close()
})

t.test('a restore is in the next cycle, and only what differs crosses (A1, A2, A7)', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  await fill(volume, 0, 1, GRAINS)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await fill(volume, 5, 2)
  await fill(volume, 40, 2)
  lab.wire = disk(GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: URI })
  lab.wire.reset()
  await volume.restore({ from: 's' })
  t.equal(mirror.status().lagBytes, 2 * G, 'it counts at once (C22)')
  await mirror.sync()
  t.same(await shown(lab.wire), Array.from({ length: GRAINS }, () => 1))
  t.equal(lab.wire.counts.writtenBytes, 2 * G)
  await volume.points.create({ name: 'now', kind: 'snapshot' })
  await volume.restore({ from: 'now' })
  t.equal(mirror.status().lagBytes, 0, 'a restore that changes nothing dirties nothing (A7)')
  await lab.close()
})

t.test('a restore while a cycle runs: the cycle delivers its own point (A10, C3, C4)', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  await fill(volume, 0, 1, GRAINS)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  lab.wire = disk(GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: URI })
  await fill(volume, 3, 7)
  await fill(volume, 50, 8)
  let restored: Promise<unknown> | undefined
  lab.wire.onRequest = kind => { if (kind === 'write') restored ??= volume.restore({ from: 's' }).then(job => job.finished) }
  await mirror.sync()
  const delivered = await shown(lab.wire)
  t.equal(delivered[3], 7)
  t.equal(delivered[50], 8)
  await restored
  t.equal(mirror.status().lagBytes, 2 * G)
  await mirror.sync()
  t.same(await shown(lab.wire), Array.from({ length: GRAINS }, () => 1))
  await lab.close()
})

t.test('a cycle that is cut short: all of it stays pending (C9, S3), also over a kill', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  lab.wire = disk(GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: URI })
  await fill(volume, 1, 1)
  await fill(volume, 2, 2)
  for (const kind of ['write', 'flush'] as const) {
    lab.wire.onRequest = asked => { if (asked === kind) throw new Error('the link is down') }
    await t.rejects(mirror.sync(), /the link is down/)
    t.match(mirror.status(), { problem: /the link is down/, lagBytes: 2 * G, phase: 'paired' })
  }
  const next = await lab.killed()
  lab.wire.onRequest = () => undefined
  lab.wire.reset()
  const again = next.mirrors.get('m')
  await again.sync()
  t.equal(again.status().problem, null)
  t.equal(lab.wire.counts.writtenBytes, 2 * G)
  t.same(await shown(lab.wire), await shown(next.store.get('v')!))
  t.equal(next.store.get('v')!.points.list().length, 1, 'nothing of the failed ones stays')
  await next.close()
  await lab.close()
})

t.test('nobody answers: writes go on, the cycle is tried again by itself', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  lab.wire = disk(GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: URI, intervalSeconds: 10 })
  const { wire } = lab
  lab.wire = undefined
  await fill(volume, 1, 1)
  await t.rejects(mirror.sync(), { code: 'unreachable' })
  t.ok(mirror.status().problem)
  lab.wire = wire
  for (let i = 0; i < 100 && mirror.status().problem !== null; i++) {
    await lab.clock.advance(1000)
    await new Promise(resolve => { setTimeout(resolve, 10) })
  }
  t.equal(mirror.status().problem, null)
  t.same(await shown(wire), await shown(volume))
  await lab.close()
})

t.test('a trim crosses as zeros (X7)', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  await fill(volume, 0, 1, GRAINS)
  lab.wire = disk(GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: URI })
  lab.wire.reset()
  await volume.trim(8 * G, 16 * G)
  await mirror.sync()
  t.same(await shown(lab.wire), await shown(volume))
  t.same([lab.wire.counts.writtenBytes, lab.wire.counts.zeroedBytes], [0, 16 * G])
  await lab.close()
})

t.test('an idle volume: no points are made, and its lag does not grow (C23)', async t => {
  const lab = await Lab.open(t.testdir())
  await lab.volume('v', GRAINS)
  lab.wire = disk(GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: URI, intervalSeconds: 10 })
  const { cycle } = mirror.status()
  lab.wire.reset()
  for (let i = 0; i < 30; i++) {
    await lab.clock.advance(1000)
    await new Promise(resolve => { setTimeout(resolve, 5) })
  }
  const status = mirror.status()
  t.equal(status.cycle, cycle)
  t.equal(lab.wire.counts.flushes, 0)
  t.ok(status.lagSeconds! <= 11, `${status.lagSeconds} s`)
  await lab.close()
})

t.test('a volume that shrinks and grows, and grows (A17, X6)', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  await fill(volume, 0, 1, GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: 'w' })
  const target = lab.store.get('w')!
  await lab.store.resizeVolume('v', 16 * G)
  await lab.store.resizeVolume('v', GRAINS * G)
  await mirror.sync()
  t.same(await shown(target), await shown(volume))
  await lab.store.resizeVolume('v', 2 * GRAINS * G)
  await fill(volume, 100, 5)
  await mirror.sync()
  t.same(await shown(target), await shown(volume))
  await lab.store.resizeVolume('v', 8 * G)
  await mirror.sync()
  t.same(await shown(target), await shown(volume))
  await lab.close()
})

t.test('a device that is larger: what it holds behind the source does not come back when that grows', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  const wire = lab.wire = disk(2 * GRAINS)
  await fill(wire, GRAINS + 8, 7)
  await fill(volume, 0, 1, GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: URI, overwrite: true })
  await lab.store.resizeVolume('v', 16 * G - 512)
  await mirror.sync()
  t.equal((await shown(wire))[16], 1, 'it keeps the end of the source')
  const alike = async (): Promise<void> => { t.same((await shown(wire)).slice(0, volume.sizeBytes / G), await shown(volume)) }
  await lab.store.resizeVolume('v', GRAINS * G)
  await mirror.sync()
  await alike()
  t.same((await shown(wire)).slice(15, 18), [1, 0, 0])
  await lab.store.resizeVolume('v', 2 * GRAINS * G)
  await fill(volume, GRAINS + 4, 2)
  await mirror.sync()
  await alike()
  await lab.close()
})

t.test('a first copy that is tried again: what the first attempt wrote does not stay', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  await fill(volume, 0, 1, GRAINS)
  lab.wire = disk(GRAINS)
  lab.wire.onRequest = kind => { if (kind === 'flush') throw new Error('the link is down') }
  await t.rejects(lab.mirror({ volume: 'v', target: URI }), /the link is down/)
  await volume.trim(4 * G, 8 * G)
  await fill(volume, 20, 5)
  const next = await lab.killed()
  lab.wire.onRequest = () => undefined
  lab.wire.reset()
  const mirror = next.mirrors.get('m')
  await mirror.sync()
  t.same({ ...lab.wire.counts }, { writtenBytes: G, zeroedBytes: 8 * G, readBytes: (GRAINS - 8) * G, flushes: 1 }, 'both sides are compared')
  t.same(await shown(lab.wire), await shown(next.store.get('v')!))
  await next.close()
  await lab.close()
})
