// What is sent again and what is not: a grain that changes while it is on its way (SEEDS C8), and what is equal already (A22).
import t from 'tap'
import type { BlockDevice } from '../../src/device/block-device.js'
import { ManualClock } from '../../src/device/testing.js'
import { ship } from '../../src/replication/ship.js'
import { Held, until } from './held.js'
import { disk, fill, G, Lab, shown, URI } from './lab.js'
import { PeerLab } from './peer-lab.js'

const GRAINS = 16
const X = 5
/** Timers of the stores do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))

for (const target of ['w', URI]) {
  for (const isLost of [false, true]) {
    const when = isLost ? 'its answer is lost' : 'it is answered'
    t.test(`${target}: a grain that is written to after it was sent, and before ${when}, stays in the next cycle (C8)`, async t => {
      const lab = await Lab.open(t.testdir())
      const volume = await lab.volume('v', GRAINS)
      await fill(volume, 0, 1, GRAINS)
      const wire = lab.wire = disk(GRAINS)
      const mirror = await lab.mirror({ volume: 'v', target })
      const device = target === URI ? wire : lab.store.get('w')!
      const held = new Held()
      held.onTarget(device)
      held.hold([X])
      await fill(volume, X, 7)
      const cycle = mirror.sync()
      if (isLost) held.lose(X)
      else held.let(X)
      await until('it has arrived', async () => (await shown(device))[X] === 7)
      await fill(volume, X, 8)
      held.letAll()
      await cycle
      t.equal((await shown(device))[X], 7, 'the cycle has delivered what it froze')
      t.equal(mirror.status().lagBytes, G, 'it is not taken for delivered')
      await mirror.sync()
      t.same(await shown(device), await shown(volume))
      t.equal((await shown(device))[X], 8)
      t.equal(mirror.status().lagBytes, 0)
      await lab.close()
    })
  }
}

for (const target of ['w', URI]) {
  t.test(`${target}: of what is compared, what is equal is not sent, and counted (A22)`, async t => {
    const lab = await Lab.open(t.testdir())
    const volume = await lab.volume('v', GRAINS)
    await fill(volume, 0, 1, GRAINS)
    const wire = lab.wire = disk(GRAINS)
    const mirror = await lab.mirror({ volume: 'v', target })
    const device: BlockDevice = target === URI ? wire : lab.store.get('w')!
    await fill(volume, X, 7)
    await volume.trim(9 * G, 2 * G)
    const sent: string[] = []
    const [write, zero] = [device.write.bind(device), device.zero.bind(device)]
    device.write = (offset, length, from, at) => {
      sent.push(`write ${offset / G}+${length / G}`)
      return write(offset, length, from, at)
    }
    device.zero = (offset, length, mode) => {
      sent.push(`zero ${offset / G}+${length / G}`)
      return zero(offset, length, mode)
    }
    await mirror.beginResync({ whole: true })
    await mirror.sync()
    t.match(mirror.status().last, { differing: GRAINS * G, data: G, zeros: 2 * G, equal: (GRAINS - 3) * G })
    t.same(sent.sort(), [`write ${X}+1`, 'zero 9+2'], 'nothing else went')
    t.same(await shown(device), await shown(volume))
    await mirror.beginResync({ whole: true })
    await mirror.sync()
    t.match(mirror.status().last, { data: 0, equal: (GRAINS - 2) * G })
    await lab.close()
  })
}

t.test('a peer: of what is compared, what is equal is not sent, and counted (A22)', async t => {
  const lab = await PeerLab.open(t.testdir())
  const volume = await lab.source('v', GRAINS)
  const mirror = await lab.mirror()
  await fill(volume, X, 7)
  await mirror.beginResync({ whole: true })
  await mirror.sync()
  t.match(mirror.status().last, { differing: GRAINS * G, data: G, zeros: 0, equal: (GRAINS - 1) * G })
  t.same(await lab.far.seen('w'), await shown(volume))
  await lab.close()
})

t.test('what is read is told in order, and sent while an earlier piece is still being read', async t => {
  const [source, target] = [disk(GRAINS), disk(GRAINS)]
  await fill(source, 0, 1, GRAINS)
  let go = (): void => undefined
  const gone = new Promise<void>(resolve => { go = resolve })
  const read = source.read.bind(source)
  source.read = async (offset, length, into, at) => {
    if (offset === 0) await gone
    await read(offset, length, into, at)
  }
  const told: number[] = []
  const done = ship({
    source, target, runs: [{ start: 0, end: G }, { start: X * G, end: (X + 1) * G }], compare: false, blank: false, bytesPerSecond: null,
    clock: new ManualClock(), signal: new AbortController().signal, onProgress: () => undefined, sent: { take: offset => { told.push(offset) } },
  })
  await until('the later piece has arrived', async () => (await shown(target))[X] === 1)
  t.same(told, [])
  go()
  t.same(await done, { data: 2 * G, zeros: 0, equal: 0 })
  t.same(told, [0, X * G])
})
