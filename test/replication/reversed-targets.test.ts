// A source that is itself the target of a mirror, of this store or of a peer's: what it holds is its own source's, so that it takes over
// nothing from a target of its own (SEEDS D22, C1); its mirror would never send what has been overwritten so.
import t from 'tap'
import { fill, Lab, shown } from './lab.js'
import { PeerLab } from './peer-lab.js'

const GRAINS = 16
/** Timers of the stores do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))
t.setTimeout(120_000)

t.test('of a mirror of this store', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  await fill(volume, 0, 1, GRAINS)
  const above = await lab.mirror({ volume: 'v', target: 'w' })
  const below = await lab.mirror({ name: 'n', volume: 'w', target: 'x' })
  await below.split({ atOnce: true })
  await fill(lab.store.get('x')!, 3, 9)
  await t.rejects(lab.mirrors.together(['n']).reverse(), { code: 'wrong-state', message: /w is the target of mirror m/ })
  t.same(await shown(lab.store.get('w')!), await shown(volume), 'the target is what its source is')
  await fill(volume, 5, 2)
  await above.sync()
  t.same(await above.verify(), [])
  await above.split({ atOnce: true })
  await lab.mirrors.together(['n']).reverse()
  t.equal((await shown(lab.store.get('w')!))[3], 9, 'one that stands on its own takes it')
  await lab.close()
})

t.test('that became one while the reversal was prepared', async t => {
  const lab = await Lab.open(t.testdir())
  await lab.volume('v', GRAINS)
  await fill(await lab.volume('w', GRAINS), 0, 1, GRAINS)
  const below = await lab.mirror({ name: 'n', volume: 'w', target: 'x' })
  await below.split({ atOnce: true })
  await fill(lab.store.get('x')!, 3, 9)
  const restore = lab.store.restoreTogether.bind(lab.store)
  lab.store.restoreTogether = async wanted => {
    await lab.mirror({ volume: 'v', target: 'w', overwrite: true })
    return restore(wanted)
  }
  await t.rejects(lab.mirrors.together(['n']).reverse(), { code: 'wrong-state', message: /w is the target of mirror m/ })
  t.same(await shown(lab.store.get('w')!), await shown(lab.store.get('v')!))
  await lab.close()
})

t.test('of a mirror of a peer', async t => {
  const lab = await PeerLab.open(t.testdir())
  const volume = await lab.source('v', GRAINS)
  const mirror = await lab.mirror()
  const { store, mirrors, secondaries } = lab.far
  await mirrors.create({
    name: 'n', volume: 'w', target: 'x', intervalSeconds: 3600, lagBytes: null, bytesPerSecond: null, overwrite: false,
  })
  await mirrors.get('n').sync()
  await mirrors.get('n').split({ atOnce: true })
  await fill(store.get('x')!, 3, 9)
  await t.rejects(mirrors.together(['n']).reverse(), { code: 'wrong-state', message: /w is the secondary of a mirror elsewhere/ })
  t.same(await shown(store.get('w')!), await shown(volume), 'the target is what its source is')
  t.same(await mirror.verify(), [])
  await secondaries.promote('w')
  await mirrors.together(['n']).reverse()
  t.equal((await shown(store.get('w')!))[3], 9, 'one that was promoted takes it')
  await lab.close()
})
