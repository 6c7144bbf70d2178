// A target amid a cycle holds what its source never showed: no snapshot is made of that, and no mirror of a mirror ships it (C1, S1).
import t from 'tap'
import { judgeFreezable } from '../../src/replication/whole.js'
import { arrived, until } from './held.js'
import { fill, G, Lab, onWrite, shown, shownAt } from './lab.js'

const BUSY = { code: 'busy', message: /no whole point/ }

t.test('a cycle stops half-way: the target is not frozen until the next one has ended', async t => {
  const lab = await Lab.open(t.testdir())
  const v = await lab.volume('v', 8)
  await fill(v, 0, 1, 8)
  const m = await lab.mirror({ volume: 'v', target: 'w' })
  const n = await lab.mirror({ name: 'n', volume: 'w', target: 'x' })
  const [w, x] = ['w', 'x'].map(name => lab.store.get(name)!) as [typeof v, typeof v]
  const snapshot = (name: string, of = w) => of.points.create({ name, kind: 'snapshot', judge: () => { judgeFreezable(of, volume => lab.wholeAt(volume)) } })
  await snapshot('whole')
  await fill(v, 0, 2)
  await fill(v, 5, 2)
  const again = onWrite(w, offset => { if (offset >= 5 * G) throw new Error('cut off') })
  await t.rejects(m.sync(), /cut off/)
  t.same(await shown(w), [2, 1, 1, 1, 1, 1, 1, 1], 'half a cycle')
  await t.rejects(snapshot('half'), BUSY)
  await t.rejects(n.sync(), BUSY)
  t.same(n.status().problem?.includes('no whole point'), true)
  t.same(await shown(x), [1, 1, 1, 1, 1, 1, 1, 1])
  t.notOk(w.points.get('half'))
  await snapshot('source', v)
  again()
  await m.sync()
  await n.sync()
  await snapshot('next')
  const after = [2, 1, 1, 1, 1, 2, 1, 1]
  t.same([await shown(x), await shownAt(w, 'next'), await shownAt(w, 'whole')], [after, after, [1, 1, 1, 1, 1, 1, 1, 1]])
  await m.split({ atOnce: true })
  await fill(w, 1, 3)
  await snapshot('own')
  t.equal((await shownAt(w, 'own'))[1], 3, 'on its own it is as any other')
  await lab.close()
})

t.test('amid a stream what has arrived is a moment of the source, until a change fails', async t => {
  const awake = setInterval(() => undefined, 1000)
  t.teardown(() => clearInterval(awake))
  const lab = await Lab.open(t.testdir())
  const v = await lab.volume('v', 8)
  await fill(v, 0, 1, 8)
  const m = await lab.mirror({ volume: 'v', target: 'w', mode: 'async' })
  await arrived(m)
  await fill(v, 3, 2)
  await arrived(m)
  const w = lab.store.get('w')!
  const judge = (): void => { judgeFreezable(w, volume => lab.wholeAt(volume)) }
  t.notSame(await shown(w), await shownAt(w, m.shownPoint()!.name))
  await w.points.create({ name: 'amid', kind: 'snapshot', judge })
  t.same(await shownAt(w, 'amid'), [1, 1, 1, 2, 1, 1, 1, 1])
  const again = onWrite(w, () => { throw new Error('cut off') })
  await fill(v, 4, 2)
  await until('the change has failed', () => !m.isReceiving)
  again()
  await fill(w, 4, 3)
  await t.rejects(w.points.create({ name: 'failed', kind: 'snapshot', judge }), BUSY)
  await lab.close()
})

t.test('a target that has nothing to show yet', async t => {
  const lab = await Lab.open(t.testdir())
  const v = await lab.volume('v', 2)
  await fill(v, 0, 1, 2)
  const w = await lab.volume('w', 2)
  onWrite(w, () => { throw new Error('cut off') })
  await t.rejects(lab.mirror({ volume: 'v', target: 'w' }), /cut off/)
  const judge = (): void => { judgeFreezable(w, volume => lab.wholeAt(volume)) }
  await t.rejects(w.points.create({ name: 's', kind: 'snapshot', judge }), BUSY)
  await lab.close()
})
