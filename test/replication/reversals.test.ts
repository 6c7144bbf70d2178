// The source takes over what a split target holds: of a peer what either side changed, of any NBD server what differs; with an undo
// point, never a mixture, and nothing lost wherever it is cut short (SEEDS D11, D12, X4, X10, X12, B22).
import { join } from 'node:path'
import t from 'tap'
import { NbdeltaError, openNbdClient, type Store, type StoreVolume } from '../../src/index.js'
import { MemoryDisk } from '../../src/device/testing.js'
import { Medium } from '../sim/medium.js'
import { disk, fill, G, Lab, shown, URI, Wire } from './lab.js'
import { changed, PeerLab } from './peer-lab.js'

const GRAINS = 64
/** Timers of the stores do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))
t.setTimeout(240_000)

/** Split, and each side has done something of its own since. */
async function apart(directory: string, grains = GRAINS) {
  const lab = await PeerLab.open(directory)
  const volume = await lab.source('v', grains)
  const mirror = await lab.mirror()
  await mirror.split({ atOnce: false })
  const target = lab.far.store.get('w')!
  await fill(volume, 10, 3)
  await fill(target, 20, 4)
  await target.zero(30 * G, 2 * G, { allocate: false, fast: false })
  return { lab, volume, mirror, target }
}

/** What the peer's hidden exports have given. */
function crossed({ far }: PeerLab): number {
  return far.server.stats().exports.filter(({ name }) => name.startsWith('.peer-')).reduce((sum, { bytesRead }) => sum + bytesRead, 0)
}

const undoOf = (volume: StoreVolume) => volume.points.list().filter(({ labels }) => labels['auto'] === 'undo')

async function undone(volume: StoreVolume): Promise<number[]> {
  const device = volume.points.open(undoOf(volume)[0]!.name)
  try { return await shown(device) } finally { await device.close() }
}

/** What was pulled goes when the source has copied it. */
async function left(store: Store): Promise<string[]> {
  await onlyOne(() => store.list())
  return store.list().map(({ name }) => name)
}

/** What was frozen goes when the peer has heard that the link has ended. */
async function pointsLeft(volume: StoreVolume): Promise<number> {
  await onlyOne(() => volume.points.list())
  return volume.points.list().length
}

async function onlyOne(list: () => readonly unknown[]): Promise<void> {
  for (let looks = 500; list().length > 1 && looks > 0; looks--) await new Promise(resolve => { setTimeout(resolve, 10) })
}

const ruleOf = (mirror: { status(): { decisions: readonly { rule: string, inputs: object }[] } }) => mirror.status().decisions.at(-1)

t.test('of a peer only what either side changed crosses; the old content is kept; the pair goes on', async t => {
  const { lab, volume, mirror, target } = await apart(t.testdir())
  const [before, wanted] = [await shown(volume), await shown(target)]
  t.equal(await mirror.differing(), 4 * G)
  t.same(await shown(volume), before, 'to ask changes nothing')
  const read = crossed(lab)
  const told: number[][] = []
  const job = await lab.near.mirrors.together(['m']).reverse({ onProgress: (...progress) => { told.push(progress) } })
  t.same(await shown(volume), wanted)
  t.equal(crossed(lab) - read, 4 * G)
  t.same([told[0], told.at(-1)], [[0, 4 * G], [4 * G, 4 * G]])
  t.match(ruleOf(mirror), { rule: 'reverse-union-of-both-maps', inputs: { looked: 4 * G, pulled: 4 * G } })
  t.same(await undone(volume), before)
  t.match(mirror.status(), { phase: 'paired', lagBytes: 0 }, 'what has come from there does not go back')
  t.match(lab.far.secondaries.list(), [{ state: { phase: 'secondary' } }])
  t.same(await lab.far.seen('w'), wanted)
  t.equal(await pointsLeft(target), 1)
  await job.finished
  await t.rejects(job.cancel(), { code: 'wrong-state' })
  t.same(await left(lab.near.store), ['v'], 'nothing is left beside the source')
  await fill(volume, 11, 9)
  await mirror.sync()
  t.match(mirror.status().last, { data: G, differing: G })
  t.same(await lab.far.seen('w'), await shown(volume))
  t.same(await mirror.verify(), [])
  // What the source had comes back as any restore does.
  await volume.restore({ from: undoOf(volume)[0]!.name })
  await mirror.sync()
  t.same(await lab.far.seen('w'), before.map((value, grain) => grain === 11 ? 1 : value))
  await lab.close()
})

t.test('what is equal on both sides is read, and not restored', async t => {
  const { lab, volume, mirror, target } = await apart(t.testdir())
  for (const side of [volume, target]) await fill(side, 40, 7)
  await lab.near.mirrors.together(['m']).reverse()
  t.match(ruleOf(mirror), { inputs: { looked: 5 * G, pulled: 4 * G } })
  t.same(await shown(volume), await shown(target))
  await mirror.split({ atOnce: true })
  const points = undoOf(volume).length
  await lab.near.mirrors.together(['m']).reverse()
  t.match(ruleOf(mirror), { inputs: { looked: 0, pulled: 0 } }, 'a second time there is nothing to do')
  t.match(mirror.status(), { phase: 'paired', lagBytes: 0 })
  t.equal(undoOf(volume).length, points)
  t.same(await left(lab.near.store), ['v'], 'nothing is left beside the source')
  await lab.close()
})

t.test('without a common point everything is compared, and only what differs is restored', async t => {
  const { lab, volume, mirror, target } = await apart(t.testdir())
  const [{ name }] = volume.points.list().filter(({ uuid }) => uuid === mirror.state.base!.point)
  await volume.points.unpin(name, 'mirror m')
  await volume.points.delete(name)
  await lab.near.mirrors.together(['m']).reverse()
  t.match(ruleOf(mirror), { rule: 'reverse-all', inputs: { looked: GRAINS * G, pulled: 4 * G } })
  t.same(await shown(volume), await shown(target))
  await mirror.sync()
  t.same(await lab.far.seen('w'), await shown(volume))
  await lab.close()
})

t.test('clients of the target keep it from being frozen, and find it closed meanwhile', async t => {
  const { lab, volume, mirror } = await apart(t.testdir())
  const before = await shown(volume)
  const client = await openNbdClient({ address: lab.far.server.addresses[0]!, exportName: 'w' })
  await t.rejects(lab.near.mirrors.together(['m']).reverse(), { code: 'busy', message: /^mirror m: / })
  await client.close()
  t.equal(mirror.state.phase, 'split')
  t.same(await shown(volume), before)
  t.equal(lab.near.store.list().length, 1)
  await lab.near.mirrors.together(['m']).reverse()
  await lab.close()
})

t.test('the link is cut in the middle: the source is as it was, the pair is split, nothing is left', async t => {
  const { lab, volume, mirror, target } = await apart(t.testdir(), 4096)
  await fill(target, 1000, 5, 3000)
  const before = await shown(volume)
  for (const method of ['attach', 'changed', 'freeze']) {
    lab.near.onLink = link => changed(link, async (asked, _, go) => {
      if (asked === method) throw new NbdeltaError('unreachable', 'the link is down')
      return go()
    })
    await t.rejects(lab.near.mirrors.together(['m']).reverse(), { code: 'unreachable', message: /^mirror m: / }, method)
  }
  for (const how of ['cut', 'cancel'] as const) {
    const abort = new AbortController()
    let cut = (): void => { abort.abort() }
    lab.near.onLink = link => {
      if (how === 'cut') cut = () => { link.close() }
      return link
    }
    const half = lab.near.mirrors.together(['m']).reverse({ signal: abort.signal, onProgress: done => { if (done > 0) cut() } })
    await t.rejects(half, how === 'cancel' ? { code: 'cancelled' } : { name: 'NbdeltaError' }, how)
    t.equal(mirror.state.phase, 'split')
    t.same(await shown(volume), before)
    t.equal(undoOf(volume).length, 0)
    t.same(await left(lab.near.store), ['v'], 'nothing is left beside the source')
  }
  lab.near.onLink = link => link
  t.equal(await pointsLeft(target), 1, 'what was frozen goes with the link')
  await lab.near.mirrors.together(['m']).reverse()
  t.same(await shown(volume), await shown(target))
  await lab.close()
})

t.test('cancelled when all has been fetched: nothing has happened, or it is too late', async t => {
  const { lab, volume, mirror, target } = await apart(t.testdir(), 64)
  const [before, wanted] = [await shown(volume), await shown(target)]
  let cancelled = 0
  for (const turns of [0, 1, 2, 4, 8, 32, 128, 512, 2048]) {
    const abort = new AbortController()
    const onProgress = (done: number, total: number): void => {
      if (done < total) return
      void (async () => {
        for (let turn = 0; turn < turns; turn++) await new Promise<void>(resolve => { setImmediate(resolve) })
        abort.abort()
      })()
    }
    const how = await lab.near.mirrors.together(['m']).reverse({ signal: abort.signal, onProgress }).then(() => 'reversed', (error: unknown) => {
      if (!(error instanceof NbdeltaError)) throw error
      return error.code
    })
    const isOver = how === 'reversed'
    t.same([how, mirror.state.phase], isOver ? ['reversed', 'paired'] : ['cancelled', 'split'], `${turns} turns`)
    t.same(await shown(volume), isOver ? wanted : before)
    t.same(await left(lab.near.store), ['v'])
    if (isOver) break
    t.equal(undoOf(volume).length, 0)
    cancelled++
  }
  t.ok(cancelled >= 2, `${cancelled} times`)
  await lab.close()
})

t.test('the source is killed at any step: it shows one content or the other, and a second time brings both together', async t => {
  // By call to the peer: before it, and behind it.
  const directory = t.testdir()
  for (const at of ['changed', 'pull', 'accept', 'accepted'] as const) {
    const { lab, volume, target } = await apart(join(directory, at), 2048)
    const [before, wanted] = [await shown(volume), await shown(target)]
    let reached = (): void => undefined
    const there = new Promise<void>(resolve => { reached = resolve })
    const never = (): Promise<never> => {
      reached()
      return new Promise(() => undefined)
    }
    lab.near.onLink = link => {
      const ended = link.ended.then(() => { throw new NbdeltaError('unreachable', 'the process has ended') })
      ended.catch(() => undefined)
      return changed(link, async (asked, _, go) => {
        if (asked === at) return Promise.race([never(), ended])
        const answer = await go()
        if (at === 'accepted' && asked === 'accept') return Promise.race([never(), ended])
        return answer
      })
    }
    const onProgress = (done: number): void => { if (at === 'pull' && done > 0) reached() }
    const half = lab.near.mirrors.together(['m']).reverse({ onProgress }).then(() => 'done', () => 'failed')
    await there
    await lab.near.killed()
    await half
    lab.near.onLink = link => link
    const again = lab.near.store.get('v')!
    const mirror = lab.near.mirrors.get('m')
    const isShown = at.startsWith('accept')
    t.same(await shown(again), isShown ? wanted : before, at)
    t.same(await shown(lab.far.store.get('w')!), wanted)
    t.equal(mirror.state.phase, at === 'pull' ? mirror.state.phase : 'split')
    if (mirror.state.phase === 'split') {
      await lab.near.mirrors.together(['m']).reverse()
      if (isShown) t.match(ruleOf(mirror), { inputs: { pulled: 0, looked: at === 'accepted' ? 0 : 4 * G } }, 'nothing is restored again')
      if (isShown) t.equal(undoOf(again).length, 1)
    }
    t.same(await shown(again), wanted)
    t.match(mirror.status(), { phase: 'paired', lagBytes: 0 })
    await again.inheriting?.finished
    t.same(await left(lab.near.store), ['v'], 'nothing is left beside the source')
    await fill(again, 5, 8)
    await mirror.sync()
    t.same(await lab.far.seen('w'), await shown(again))
    t.same(await mirror.verify(), [])
    t.equal(await pointsLeft(target), 1)
    await lab.close()
  }
})

t.test('the peer is killed at any step: what it was given counts, or the pair is split and a second time does it', async t => {
  const directory = t.testdir()
  for (const at of ['freeze', 'accept'] as const) {
    for (const when of ['before', 'behind'] as const) {
      const { lab, volume, mirror, target } = await apart(join(directory, `${at}-${when}`))
      const [before, wanted] = [await shown(volume), await shown(target)]
      lab.near.onLink = link => changed(link, async (asked, _, go) => {
        if (asked !== at) return go()
        if (when === 'behind') await go()
        await lab.far.killed()
        throw new NbdeltaError('unreachable', 'the peer is gone')
      })
      await t.rejects(lab.near.mirrors.together(['m']).reverse(),
        { code: 'unreachable', message: at === 'accept' ? /shows what its target had, but they are still split/ : /the peer is gone/ })
      lab.near.onLink = link => link
      t.equal(mirror.state.phase, 'split')
      t.same(await shown(volume), at === 'accept' ? wanted : before)
      t.equal(await pointsLeft(lab.far.store.get('w')!), 1, 'the next start lets what was frozen go')
      t.same(await shown(lab.far.store.get('w')!), wanted)
      await lab.near.mirrors.together(['m']).reverse()
      t.same(await shown(volume), wanted)
      t.match(mirror.status(), { phase: 'paired', lagBytes: 0 })
      t.equal(await pointsLeft(lab.far.store.get('w')!), 1, 'what was frozen is gone')
      t.same(await lab.far.seen('w'), wanted)
      t.same(await left(lab.near.store), ['v'], 'nothing is left beside the source')
      await lab.close()
    }
  }
})

t.test('the target was written to behind its back: it is not accepted, and what was written is not lost', async t => {
  const { lab, volume, mirror, target } = await apart(t.testdir())
  lab.near.onLink = link => changed(link, async (asked, _, go) => {
    if (asked === 'accept') await fill(target, 50, 6)
    return go()
  })
  await t.rejects(lab.near.mirrors.together(['m']).reverse(), { code: 'busy', message: /still split/ })
  lab.near.onLink = link => link
  t.equal(mirror.state.phase, 'split')
  await lab.near.mirrors.together(['m']).reverse()
  t.equal((await shown(volume))[50], 6)
  t.same(await shown(volume), await shown(target))
  await lab.close()
})

t.test('a source that is written to meanwhile shows no mixture: what was written is undone, or comes behind', async t => {
  const { lab, volume, mirror, target } = await apart(t.testdir())
  const wanted = await shown(target)
  // While the first grain is fetched: one that is equal, and one that is not.
  let once = true
  await lab.near.mirrors.together(['m']).reverse({ onProgress: () => {
    if (!once) return
    once = false
    void fill(volume, 55, 8)
    void fill(volume, 20, 8)
  } })
  t.same(await shown(volume), wanted)
  t.same((await undone(volume))[55], 8)
  await mirror.split({ atOnce: true })
  await fill(target, 1, 5)
  // Between the instant and the point that is declared: it crosses with the next cycle.
  const { watch } = volume
  volume.watch = watcher => {
    const unwatch = watch.call(volume, watcher)
    void Promise.resolve().then(() => fill(volume, 56, 9))
    return unwatch
  }
  await lab.near.mirrors.together(['m']).reverse()
  volume.watch = watch
  t.same(undoOf(volume).length, 2)
  t.match(await shown(volume), { 1: 5, 56: 9 })
  t.not(mirror.status().lagBytes, 0)
  await mirror.sync()
  t.same(await lab.far.seen('w'), await shown(volume))
  // When everything was fetched, and nothing is restored yet: what lies there at the target nobody has.
  await mirror.split({ atOnce: true })
  await fill(target, 2, 6)
  const { store } = lab.near
  const { restoreTogether } = store
  store.restoreTogether = async wanted => {
    await fill(volume, 57, 8)
    return restoreTogether.call(store, wanted)
  }
  await t.rejects(lab.near.mirrors.together(['m']).reverse(), { code: 'busy', message: /was changed while/ })
  // An older restore has no room to be copied.
  store.restoreTogether = async () => { throw new NbdeltaError('no-space', 'of the budget all is used') }
  await t.rejects(lab.near.mirrors.together(['m']).reverse(), { code: 'no-space' })
  store.restoreTogether = restoreTogether
  t.match([mirror.state.phase, await shown(volume)], ['split', { 2: 1, 57: 8 }])
  t.same(await left(store), ['v'])
  await lab.near.mirrors.together(['m']).reverse()
  t.same(await shown(volume), await shown(target))
  await lab.close()
})

t.test('no time or room for a second point behind the restore: the first one is declared, and nothing is lost', async t => {
  const { lab, volume, mirror, target } = await apart(t.testdir())
  const wanted = await shown(target)
  const create = volume.points.create.bind(volume.points)
  let refused = 0
  volume.points.create = async options => {
    if (options.kind === 'snapshot' || !options.atInstant) return create(options)
    refused++
    throw new NbdeltaError('busy', 'a volume did not come to rest in time')
  }
  await lab.near.mirrors.together(['m']).reverse()
  volume.points.create = create
  t.same([refused, mirror.state.phase, await shown(volume)], [1, 'paired', wanted])
  t.not(mirror.status().lagBytes, 0)
  await fill(volume, 1, 7)
  await mirror.sync()
  t.match(mirror.status(), { problem: null, lagBytes: 0 })
  t.same(await lab.far.seen('w'), await shown(volume))
  await lab.close()
})

t.test('a snapshot that was taken between the first point and the restore is not brought to the target as what it is not', async t => {
  const lab = await PeerLab.open(t.testdir())
  const volume = await lab.source('v', GRAINS)
  const mirror = await lab.mirror({ keepSnapshots: 3 })
  await mirror.split({ atOnce: false })
  const target = lab.far.store.get('w')!
  await fill(volume, 10, 3)
  await fill(target, 20, 4)
  const create = volume.points.create.bind(volume.points)
  const { store } = lab.near
  const { restoreTogether } = store
  store.restoreTogether = async wanted => {
    await create({ name: 'between', kind: 'snapshot' })
    return restoreTogether.call(store, wanted)
  }
  volume.points.create = async options => {
    if (options.kind === 'snapshot' || !options.atInstant) return create(options)
    throw new NbdeltaError('busy', 'a volume did not come to rest in time')
  }
  await lab.near.mirrors.together(['m']).reverse()
  Object.assign(store, { restoreTogether })
  volume.points.create = create
  await volume.points.create({ name: 'behind', kind: 'snapshot' })
  await mirror.sync()
  const copies = target.points.list().filter(({ labels }) => labels['snapshot'] !== undefined).map(({ name }) => name)
  t.same(copies, ['behind'])
  t.same(await lab.far.seen('w'), await shown(volume))
  await lab.close()
})

t.test('a target that was promoted, is another mirror\'s, or has another size is refused, and changes nothing', async t => {
  const { lab, volume, mirror, target } = await apart(t.testdir())
  const before = await shown(volume)
  await lab.far.store.resizeVolume('w', 2 * GRAINS * G)
  await t.rejects(lab.near.mirrors.together(['m']).reverse(), { code: 'wrong-state', message: /has \d+ bytes/ })
  await lab.far.store.resizeVolume('w', GRAINS * G)
  await lab.far.secondaries.promote('w')
  await t.rejects(lab.near.mirrors.together(['m']).reverse(), { code: 'wrong-state', message: /epoch 1 is refused/ })
  await lab.far.secondaries.forget('w')
  const other = await lab.near.store.createVolume({ name: 'o', sizeBytes: GRAINS * G, grainBytes: G })
  await lab.mirror({ name: 'm2', volume: other.name, overwrite: true })
  await t.rejects(lab.near.mirrors.together(['m']).reverse(), { code: 'busy', message: /another mirror/ })
  t.same([mirror.state.phase, await shown(volume), undoOf(volume).length], ['split', before, 0])
  t.same(lab.near.store.list().map(({ name }) => name), ['o', 'v'])
  t.ok(target)
  await lab.close()
})

t.test('an older peer gives nothing back, and says so', async t => {
  const { lab, mirror } = await apart(t.testdir())
  lab.near.onLink = link => changed(link, async (asked, _, go) => {
    const answer = await go()
    return asked === 'attach' ? { ...answer as object, can: ['digest', 'stream'] } : answer
  })
  await t.rejects(lab.near.mirrors.together(['m']).reverse(), { code: 'bad-peer', message: /older/ })
  t.equal(mirror.state.phase, 'split')
  await lab.close()
})

t.test('what a server has in its cache only is not taken over: its power fails, and both sides are still equal', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  await fill(volume, 0, 1, GRAINS)
  const medium = new Medium(new MemoryDisk(GRAINS * G))
  const wire = lab.wire = new Wire(medium.open({ isDead: false, random: () => 1, latePerMille: 0 }))
  const mirror = await lab.mirror({ volume: 'v', target: URI })
  await fill(volume, 10, 3)
  wire.onRequest = kind => { if (kind === 'flush') throw new NbdeltaError('io', 'the link was lost') }
  await t.rejects(mirror.sync())
  wire.onRequest = () => undefined
  await mirror.split({ atOnce: true })
  await fill(volume, 11, 4)
  await lab.mirrors.together(['m']).reverse()
  t.match(await shown(volume), { 10: 3, 11: 1 })
  // Nothing of what was not flushed is left.
  medium.powerCut(() => 1)
  t.same(await shown(medium.disk), await shown(volume))
  await lab.close()
})

t.test('a source that gets another size while it is compared is left alone', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  const wire = lab.wire = disk(GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: URI })
  await mirror.split({ atOnce: true })
  await fill(wire, 3, 3)
  const read = wire.read.bind(wire)
  wire.read = async (...asked) => {
    await lab.store.resizeVolume('v', 8 * G)
    await read(...asked)
  }
  await t.rejects(lab.mirrors.together(['m']).reverse(), { code: 'busy', message: /was changed while/ })
  t.same([mirror.state.phase, await shown(volume)], ['split', Array<number>(8).fill(0)])
  await lab.close()
})

t.test('of any NBD server everything is compared, and what differs restored', async t => {
  const lab = await Lab.open(t.testdir())
  const volume = await lab.volume('v', GRAINS)
  await fill(volume, 0, 1, GRAINS)
  lab.wire = disk(GRAINS + 4)
  const mirror = await lab.mirror({ volume: 'v', target: URI })
  await mirror.split({ atOnce: false })
  await fill(volume, 10, 3)
  await fill(lab.wire.disk, 20, 4)
  const before = await shown(volume)
  lab.wire.reset()
  t.equal(await mirror.differing(), null)
  const { wire } = lab
  wire.onRequest = () => { throw new NbdeltaError('io', 'the link was lost') }
  await t.rejects(lab.mirrors.together(['m']).reverse(), { code: 'io' })
  wire.onRequest = () => undefined
  lab.wire = disk(GRAINS - 1)
  await t.rejects(lab.mirrors.together(['m']).reverse(), { code: 'wrong-state' }, 'it is smaller')
  lab.wire = undefined
  await t.rejects(lab.mirrors.together(['m']).reverse(), { code: 'unreachable' })
  t.same([mirror.state.phase, await shown(volume), await left(lab.store)], ['split', before, ['v']])
  lab.wire = wire
  await lab.mirrors.together(['m']).reverse()
  t.same(await shown(volume), (await shown(wire)).slice(0, GRAINS))
  t.match(await shown(volume), { 10: 1, 20: 4 })
  t.same(await undone(volume), before)
  t.equal(wire.counts.writtenBytes, 0)
  t.match(mirror.status(), { phase: 'paired', lagBytes: 0 })
  t.match(ruleOf(mirror), { rule: 'reverse-all', inputs: { looked: GRAINS * G, pulled: 2 * G } })
  t.same(await left(lab.store), ['v'])
  await fill(volume, 2, 2)
  await mirror.sync()
  t.same((await shown(wire)).slice(0, GRAINS), await shown(volume))
  t.equal(wire.counts.writtenBytes, G)
  await lab.close()
})
