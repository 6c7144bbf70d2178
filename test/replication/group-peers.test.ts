// Several mirrors to a peer: all of it is split there, or tells later; one that cannot be reached keeps all of them paired (D2, D3).
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import { fill, shown } from './lab.js'
import { changed, PeerLab } from './peer-lab.js'

const GRAINS = 16
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))
t.setTimeout(240_000)

t.test('secondaries of one peer, as one', async t => {
  const lab = await PeerLab.open(t.testdir())
  const sources = [await lab.source('v', GRAINS), await lab.source('v2', GRAINS)]
  const mirrors = [await lab.mirror(), await lab.mirror({ name: 'm2', volume: 'v2', target: lab.far.uri('w2') })]
  const targets = ['w', 'w2'].map(name => lab.far.store.get(name)!)
  const group = lab.near.mirrors.together(['m', 'm2'])
  const phases = (): string[] => targets.map(({ uuid }) => lab.far.secondaries.of(uuid)!.phase)
  let refused: string | undefined
  lab.near.onLink = link => changed(link, async (method, _, go) => {
    if (method === refused && link.volume === 'w2') throw new NbdeltaError('unreachable', 'the link is down')
    return go()
  })
  for (const source of sources) await fill(source, 1, 5)
  for (const method of ['attach', 'begin', 'digest', 'commit']) {
    refused = method
    await t.rejects(group.split({ atOnce: false }), { code: 'unreachable', message: 'mirror m2: the link is down' }, method)
    t.same(mirrors.map(({ state: { phase } }) => phase), ['paired', 'paired'])
    t.same(phases(), ['secondary', 'secondary'])
  }
  refused = 'release'
  t.equal(await group.split({ atOnce: false }), true, 'it is split, and one has not heard it')
  t.same(mirrors.map(({ isApart }) => isApart), [true, false])
  t.same(phases(), ['released', 'secondary'])
  await t.rejects(lab.near.mirrors.together(['m2']).reverse(), { code: 'unreachable' }, 'what needs it to know that tells it first')
  refused = undefined
  for (let i = 0; i < 200 && !mirrors[1]!.isApart; i++) {
    await lab.near.clock.advance(1000)
    await new Promise(resolve => { setTimeout(resolve, 10) })
  }
  t.same(phases(), ['released', 'released'])
  for (const source of sources) await fill(source, 1, 6)
  for (const target of targets) t.match(await shown(target), { 0: 1, 1: 5 })
  await fill(targets[0]!, 2, 9)
  await group.beginResync({ whole: false })
  await group.syncEach({})
  for (const [place, target] of targets.entries()) t.same(await shown(target), await shown(sources[place]!))
  t.same(phases(), ['secondary', 'secondary'])
  await lab.close()
})
