// What a peer refuses, each with its own words: other mirrors, lower epochs, circles, grains, what is not empty (B18, B21, X10, X12).
import t from 'tap'
import { fill, G, shown } from '../replication/lab.js'
import { PeerLab } from '../replication/peer-lab.js'

const GRAINS = 16
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))

const uuid = (digit: number): string => `${String(digit).repeat(8)}-1111-4111-8111-111111111111`
const asked = {
  mirror: { uuid: uuid(1), name: 'x' }, source: { uuid: uuid(2), name: 's' }, above: [] as string[], epoch: 3, sizeBytes: GRAINS * G,
  grainBytes: G, overwrite: false, create: true, volume: 'w',
}
const point = { uuid: uuid(5), cycle: 1, sizeBytes: GRAINS * G }

t.test('attach: each refusal, and nothing is changed by it', async t => {
  const lab = await PeerLab.open(t.testdir())
  const { store, mirrors } = lab.far
  const make = (name: string, grainBytes = G) => store.createVolume({ name, sizeBytes: GRAINS * 65536, grainBytes })
  const attach = async (change: object): Promise<unknown> => {
    const link = await lab.far.dial('w')
    try { return await link.call('attach', { ...asked, ...change }) } finally { link.close(); await link.ended }
  }
  await attach({})
  await make('coarse', 65536)
  await fill(await make('full'), 0, 1)
  await make('src')
  const local = { intervalSeconds: 60, lagBytes: null, bytesPerSecond: null, overwrite: false }
  await mirrors.create({ ...local, name: 'l', volume: 'src', target: 'dst' })
  const own = (await make('own')).uuid
  const entries = JSON.stringify(store.mirrors.filter(({ name }) => name !== 'l'))
  const cases: [string, object, { code: string, message?: RegExp, hint?: RegExp }][] = [
    ['another mirror', { mirror: { uuid: uuid(4), name: 'x' } }, { code: 'busy', message: /secondary of another mirror, x of s/ }],
    ['a lower epoch', { epoch: 2 }, { code: 'wrong-state', message: /epoch 2 is refused, it has seen 3/ }],
    ['the mirror in another volume', { volume: 'own' }, { code: 'busy', message: /has its secondary in w/ }],
    ['a circle', { volume: 'own', mirror: { uuid: uuid(6), name: 'y' }, source: { uuid: own, name: 'own' } }, { code: 'bad-argument', message: /circle/ }],
    ['a longer circle', { volume: 'own', mirror: { uuid: uuid(6), name: 'y' }, above: [uuid(7), own] }, { code: 'bad-argument', message: /circle/ }],
    ['the target of a local mirror', { volume: 'dst', mirror: { uuid: uuid(6), name: 'y' } }, { code: 'busy', message: /target of mirror l there/ }],
    ['another grain', { volume: 'coarse', mirror: { uuid: uuid(6), name: 'y' } }, { code: 'bad-argument', message: /grains/ }],
    ['what is not empty', { volume: 'full', mirror: { uuid: uuid(6), name: 'y' } }, { code: 'exists', hint: /--overwrite/ }],
    ['what is not there any more', { volume: 'none', mirror: { uuid: uuid(6), name: 'y' }, create: false }, { code: 'not-found', hint: /--whole/ }],
    ['a volume without a name', { volume: '' }, { code: 'bad-argument' }],
    ['more than is known', { shell: 'x' }, { code: 'bad-argument' }],
    ['a size that is none', { sizeBytes: -1 }, { code: 'bad-argument' }],
  ]
  for (const [name, change, error] of cases) await t.rejects(attach(change), error, name)
  t.equal(JSON.stringify(store.mirrors.filter(({ name }) => name !== 'l')), entries)
  t.same(store.list().map(({ name }) => name), ['coarse', 'dst', 'full', 'own', 'src', 'w'])
  t.match(await attach({ volume: 'full', mirror: { uuid: uuid(6), name: 'y' }, overwrite: true }), { keep: true, blank: false, declared: null })
  await attach({ epoch: 7 })
  await t.rejects(attach({ epoch: 6 }), { code: 'wrong-state' }, 'the highest one counts')
  await lab.far.restart()
  await t.rejects(attach({ epoch: 6 }), { code: 'wrong-state' }, 'over a restart as well')
  await lab.close()
})

t.test('out of order: nothing without attach, no commit without begin, no second attach, no unknown method', async t => {
  const lab = await PeerLab.open(t.testdir())
  const link = await lab.far.dial('w')
  for (const [method, params] of Object.entries({ changed: { from: 0 }, begin: { point, keep: false, seen: null }, commit: { point }, release: {}, forget: {} })) {
    await t.rejects(link.call(method, params), { code: 'wrong-state', message: /attach first/ }, method)
  }
  await t.rejects(link.call('toString', {}), { code: 'bad-argument' })
  await link.call('attach', asked)
  await t.rejects(link.call('attach', asked), { code: 'wrong-state' })
  await t.rejects(link.call('commit', { point }), { code: 'wrong-state' })
  await t.rejects(link.call('release', {}), { code: 'wrong-state', message: /no declared point/ })
  await t.rejects(link.call('begin', { point }), { code: 'bad-argument' })
  await link.call('begin', { point, keep: false, seen: null })
  await t.rejects(link.call('commit', { point: { ...point, uuid: uuid(8) } }), { code: 'wrong-state' }, 'another point than was begun')
  t.same(await link.call('changed', { from: 0 }), { runs: null, next: null })
  await link.call('commit', { point })
  t.same(await link.call('changed', { from: 0 }), { runs: [], next: null })
  await link.call('forget', {})
  t.same(lab.far.store.mirrors, [])
  link.close()
  await lab.close()
})

t.test('many changes come page by page', async t => {
  const lab = await PeerLab.open(t.testdir())
  const volume = await lab.source('v', 8000)
  const mirror = await lab.mirror()
  await mirror.split({ atOnce: true })
  const target = lab.far.store.get('w')!
  for (let grain = 0; grain < 8000; grain += 2) await fill(target, grain, 9)
  t.equal(await mirror.differing(), 4000 * G)
  await mirror.beginResync({ whole: false })
  await mirror.sync()
  t.same(await shown(target), await shown(volume))
  await lab.close()
})

t.test('a mirror to a peer: what is refused when it is made leaves nothing on either side', async t => {
  const lab = await PeerLab.open(t.testdir())
  await lab.source('v', GRAINS)
  const create = (more: object) => lab.near.mirrors.create({ ...lab.options('w'), ...more })
  await t.rejects(create({ secretFile: undefined }), { code: 'bad-argument', hint: /--secret/ })
  await t.rejects(create({ target: 'local' }), { code: 'bad-argument', message: /takes no secret/ })
  await t.rejects(create({ secretFile: `${lab.near.secret}-not-there` }), { code: 'not-found' })
  await t.rejects(create({ target: 'nbdelta+unix:///w?socket=/nowhere/x' }), { code: 'unreachable' })
  await t.rejects(create({ target: 'nbdelta://w' }), { code: 'bad-argument' })
  const add = lab.near.store.addMirror.bind(lab.near.store)
  lab.near.store.addMirror = async () => { throw new Error('no room') }
  await t.rejects(create({}), /no room/)
  lab.near.store.addMirror = add
  t.same([lab.near.mirrors.list(), lab.near.store.mirrors, lab.far.secondaries.list()], [[], [], []])
  t.ok(await create({}))
  await lab.close()
})

t.test('a circle over two servers is refused', async t => {
  const lab = await PeerLab.open(t.testdir())
  await lab.source('v', GRAINS)
  await lab.mirror()
  const back = { name: 'back', volume: 'w', target: lab.near.uri('v'), secretFile: lab.near.secret, intervalSeconds: 60, lagBytes: null, bytesPerSecond: null, overwrite: true }
  await t.rejects(lab.far.mirrors.create(back), { code: 'bad-argument', message: /circle/ })
  await t.rejects(lab.near.mirrors.create({ ...back, name: 'self', volume: 'v' }), { code: 'bad-argument', message: /circle/ })
  await lab.close()
})
