// Several sources take over what their targets hold: at one instant, by one record, or none of them (SEEDS D1-D3, D11).
import { join } from 'node:path'
import t from 'tap'
import { NbdeltaError, type PeerLink } from '../../src/index.js'
import { disk, fill, G, Lab, shown, URI } from './lab.js'
import { PeerLab } from './peer-lab.js'

const GRAINS = 32
const NAMES = ['m', 'm2', 'm3']
/** Timers of the stores do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))
t.setTimeout(240_000)

/** Three split pairs, to a peer; each side has done something of its own since. */
async function three(directory: string) {
  const lab = await PeerLab.open(directory)
  for (const [i, name] of NAMES.entries()) {
    const volume = await lab.source(`v${i}`, GRAINS)
    const mirror = await lab.mirror({ name, volume: `v${i}`, target: lab.far.uri(`w${i}`) })
    await mirror.split({ atOnce: false })
    await fill(volume, 3 + i, 3)
    await fill(lab.far.store.get(`w${i}`)!, 10 + i, 4)
  }
  const contents = (which: 'near' | 'far') =>
    Promise.all(NAMES.map((_, i) => shown(lab[which].store.get(`${which === 'near' ? 'v' : 'w'}${i}`)!)))
  const phases = (): string[] => NAMES.map(name => lab.near.mirrors.get(name).state.phase)
  return { lab, contents, phases }
}

/** Calls of one method about one volume do not arrive. */
function broken(link: PeerLink, volume: string, method: string, before: () => Promise<unknown> = async () => undefined): PeerLink {
  if (link.volume !== volume) return link
  return { ...link, call: async (asked, params) => {
    if (asked !== method) return link.call(asked, params)
    await before()
    throw new NbdeltaError('unreachable', 'the link is down')
  } }
}

t.test('all of three, or none while one of them cannot be had', async t => {
  const { lab, contents, phases } = await three(t.testdir())
  const [before, wanted] = [await contents('near'), await contents('far')]
  const group = lab.near.mirrors.together(NAMES)
  for (const method of ['attach', 'changed', 'freeze']) {
    lab.near.onLink = link => broken(link, 'w1', method)
    await t.rejects(group.reverse(), { code: 'unreachable', message: 'mirror m2: the link is down' }, method)
    t.same(await contents('near'), before)
    t.same(phases(), ['split', 'split', 'split'])
  }
  lab.near.onLink = link => link
  const told: number[] = []
  const job = await group.reverse({ onProgress: (_, total) => { told.push(total) } })
  t.equal(told.at(-1), 6 * G)
  t.same(await contents('near'), wanted)
  t.same(phases(), ['paired', 'paired', 'paired'])
  await job.finished
  t.same(job.progress(), { doneBytes: 6 * G, totalBytes: 6 * G })
  await group.sync()
  t.same(await Promise.all(NAMES.map((_, i) => lab.far.seen(`w${i}`))), await contents('near'))
  await lab.close()
})

t.test('what cannot be recorded any more is split still, and the error says that the sources have it', async t => {
  const { lab, contents, phases } = await three(t.testdir())
  const wanted = await contents('far')
  const { store } = lab.near
  const put = store.putMirrors.bind(store)
  store.putMirrors = async () => { throw new NbdeltaError('io', 'planted') }
  const message = /^(the source of m[23]?(, )?){3} shows what its target had, but they are still split: planted$/
  await t.rejects(lab.near.mirrors.together(NAMES).reverse(), { code: 'io', message })
  t.same(await contents('near'), wanted)
  t.same(phases(), ['split', 'split', 'split'])
  store.putMirrors = put
  await lab.near.mirrors.together(NAMES).reverse()
  t.same(phases(), ['paired', 'paired', 'paired'])
  t.same(await contents('near'), wanted)
  await lab.close()
})

t.test('one that cannot be told any more is split still, and named; again, and little is left to do', async t => {
  const { lab, contents, phases } = await three(t.testdir())
  const wanted = await contents('far')
  lab.near.onLink = link => broken(link, 'w1', 'accept')
  await t.rejects(lab.near.mirrors.together(NAMES).reverse(), { code: 'unreachable', message: /^mirror m2: .*still split/ })
  t.same(await contents('near'), wanted, 'all sources have it')
  t.same(phases(), ['paired', 'split', 'paired'])
  lab.near.onLink = link => link
  await lab.near.mirrors.together(['m2']).reverse()
  t.same(phases(), ['paired', 'paired', 'paired'])
  t.match(lab.near.mirrors.get('m2').status().decisions.at(-1), { inputs: { pulled: 0 } })
  await lab.close()
})

t.test('of several that cannot be told each is named', async t => {
  const { lab, contents, phases } = await three(t.testdir())
  const wanted = await contents('far')
  lab.near.onLink = link => broken(broken(link, 'w0', 'accept'), 'w2', 'accept')
  const failed = await lab.near.mirrors.together(NAMES).reverse().then(() => undefined, (error: unknown) => error as NbdeltaError)
  t.match(failed, { code: 'unreachable', hint: /once more/ })
  for (const name of ['m', 'm3']) t.match(failed?.message, new RegExp(`mirror ${name}: .*still split`))
  t.notMatch(failed?.message, /mirror m2/)
  t.same(await contents('near'), wanted, 'all sources have it')
  t.same(phases(), ['split', 'paired', 'split'])
  await lab.close()
})

t.test('killed behind the record of the restores: all sources show it; before it, none', async t => {
  const directory = t.testdir()
  for (const method of ['freeze', 'accept']) {
    const { lab, contents, phases } = await three(join(directory, method))
    const [before, wanted] = [await contents('near'), await contents('far')]
    let copied: Promise<void> | undefined
    // Who is killed says nothing more to anybody.
    lab.near.onLink = link => broken({ ...link, call: async (asked, params) => {
      if (copied) throw new NbdeltaError('unreachable', 'the process has ended')
      return link.call(asked, params)
    } }, 'w1', method, () => copied ??= lab.near.copied())
    await t.rejects(lab.near.mirrors.together(NAMES).reverse())
    lab.near.onLink = link => link
    await lab.near.restart()
    t.same(await contents('near'), method === 'accept' ? wanted : before, method)
    t.ok(phases().includes('split'))
    for (const name of NAMES) {
      if (lab.near.mirrors.get(name).state.phase === 'split') await lab.near.mirrors.together([name]).reverse()
    }
    t.same(await contents('near'), wanted)
    t.same(phases(), ['paired', 'paired', 'paired'])
    await lab.near.mirrors.together(NAMES).sync()
    t.same(await Promise.all(NAMES.map((_, i) => lab.far.seen(`w${i}`))), await contents('near'))
    await lab.close()
  }
})

t.test('members of all kinds; and those that are about the same volume are refused', async t => {
  const lab = await Lab.open(t.testdir())
  lab.wire = disk(GRAINS)
  for (const name of ['a', 'b']) await fill(await lab.volume(name, GRAINS), 0, 1, GRAINS)
  await lab.mirror({ name: 'here', volume: 'a', target: 'a-copy' })
  await lab.mirror({ name: 'there', volume: 'b', target: URI })
  await lab.mirror({ name: 'twice', volume: 'a', target: 'a-copy2' })
  await lab.mirror({ name: 'next', volume: 'a-copy', target: 'a-copy3' })
  for (const mirror of lab.mirrors.list()) await mirror.split({ atOnce: false })
  await fill(lab.store.get('a-copy')!, 5, 5)
  await fill(lab.wire.disk, 6, 6)
  await t.rejects(lab.mirrors.together(['here', 'twice']).reverse(), { code: 'bad-argument', message: /same source/ })
  await t.rejects(lab.mirrors.together(['here', 'next']).reverse(), { code: 'bad-argument', message: /the target of here is the source of next/ })
  const failing = lab.wire
  failing.onRequest = () => { throw new NbdeltaError('io', 'the disk is gone') }
  await t.rejects(lab.mirrors.together(['here', 'there']).reverse(), { code: 'io', message: /^mirror there: / })
  t.equal((await shown(lab.store.get('a')!))[5], 1)
  failing.onRequest = () => undefined
  // Beside what both maps say, just before they are restored: of a target that is here everything is there.
  const { restoreTogether } = lab.store
  const records: number[] = []
  lab.store.restoreTogether = async wanted => {
    records.push(wanted.length)
    await fill(lab.store.get('a')!, 7, 9)
    return restoreTogether.call(lab.store, wanted)
  }
  await lab.mirrors.together(['here', 'there']).reverse()
  t.same(records, [2], 'one record')
  t.same(await shown(lab.store.get('a')!), await shown(lab.store.get('a-copy')!))
  t.equal((await shown(lab.store.get('a')!))[5], 5)
  t.equal((await shown(lab.store.get('b')!))[6], 6)
  t.same(['here', 'there'].map(name => lab.mirrors.get(name).state.phase), ['paired', 'paired'])
  await t.rejects(lab.mirrors.together(['here', 'twice']).reverse(), { code: 'wrong-state', message: /it is not split/ })
  await lab.close()
})
