// Several mirrors as one: one instant (D1), all or none (D2), a kill at any step (D3), holds (D4), shared sources (D19).
import { rmSync } from 'node:fs'
import t from 'tap'
import type { BlockDevice } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import type { Mirror } from '../../src/replication/mirror.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { disk, fill, Lab, onWrite, shown, URI } from './lab.js'

const ROUNDS = Number(process.env.ROUNDS ?? 15)
const GRAINS = 16
const NAMES = ['a', 'b', 'c'] as const

/** Timers of the store do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))

interface Trio { readonly lab: Lab, readonly sources: StoreVolume[], readonly mirrors: Mirror[] }

/** Mirrors ma, mb, mc of volumes a, b, c to ta, tb, tc, each with its first copy. */
async function trio(directory: string, names: readonly string[] = NAMES): Promise<Trio> {
  const lab = await Lab.open(directory)
  const sources: StoreVolume[] = []
  const mirrors: Mirror[] = []
  for (const name of names) {
    sources.push(await lab.volume(name, GRAINS))
    await fill(sources.at(-1)!, 0, 1, GRAINS)
    mirrors.push(await lab.mirror({ name: `m${name}`, volume: name, target: `t${name}` }))
  }
  await lab.store.createGroup('g', names)
  return { lab, sources, mirrors }
}

const together = (lab: Lab) => lab.mirrors.together(lab.mirrors.ofGroup('g'))
const phases = (lab: Lab): string[] => lab.mirrors.list().map(({ state: { phase } }) => phase)

async function counterOf(device: BlockDevice): Promise<number> {
  const bytes = Buffer.alloc(4)
  await device.read(0, 4, bytes, 0)
  return bytes.readUInt32BE(0)
}

t.setTimeout(300_000 + ROUNDS * 1000)

t.test(`D1: ${ROUNDS} group splits, dependent writes are never inverted`, { timeout: 60_000 + ROUNDS * 1000 }, async t => {
  const { lab, sources } = await trio(t.testdir(), ['a', 'b'])
  let stop = false
  let slowestMs = 0
  const writing = (async () => {
    const bytes = Buffer.alloc(4)
    for (let k = 1; ; k++) {
      for (const source of sources) {
        if (stop) return k
        bytes.writeUInt32BE(k)
        const beganMs = performance.now()
        await source.write(0, 4, bytes, 0)
        slowestMs = Math.max(slowestMs, performance.now() - beganMs)
        if (k % 4 === 0) await new Promise<void>(resolve => { setImmediate(resolve) })
      }
    }
  })()
  let cuts = 0
  const rows: number[][] = []
  for (let round = 0; round < ROUNDS; round++) {
    await together(lab).split({ atOnce: false })
    const row = [await counterOf(lab.store.get('ta')!), await counterOf(lab.store.get('tb')!)]
    rows.push(row)
    if (row[0] !== row[1]) cuts++
    await together(lab).beginResync({ whole: false })
    await together(lab).syncEach({})
  }
  stop = true
  const written = await writing
  const wrong = rows.filter(([first, second]) => second! > first! || second! < first! - 1)
  t.same(wrong, [], 'B(k) without A(k), or more than one write in between')
  t.ok(cuts > 0, `${cuts} cuts fell between dependent writes; ${written} were written`)
  t.comment(`${cuts} of ${ROUNDS} between dependent writes; slowest write ${slowestMs.toFixed(1)} ms`)
  t.equal(new Set(rows.map(([first]) => first)).size, ROUNDS, 'each split is a new point')
  await lab.close()
})

t.test('each target holds the frozen instant, and is on its own; resync brings all together again (D10, D19)', async t => {
  const { lab, sources, mirrors } = await trio(t.testdir())
  lab.wire = disk(GRAINS)
  // Another one of the first source, to a plain server: it shares the image.
  const far = await lab.mirror({ name: 'mz', volume: 'a', target: URI })
  await lab.mirror({ name: 'apart', volume: 'b', target: 'tb2' })
  for (const [place, source] of sources.entries()) await fill(source, 3, 10 + place)
  const group = lab.mirrors.together(['ma', 'mb', 'mc', 'mz', 'ma'])
  t.equal(await group.split({ atOnce: false }), true)
  for (const [place, source] of sources.entries()) {
    await fill(source, 4, 99)
    t.match(await shown(lab.store.get(`t${NAMES[place]}`)!), { 3: 10 + place, 4: 1 })
  }
  t.match(await shown(lab.wire), { 3: 10, 4: 1 })
  t.match(lab.mirrors.get('apart').state, { phase: 'paired' }, 'others stay')
  t.ok([...mirrors, far].every(({ isApart }) => isApart))
  t.equal(new Set([...mirrors, far].map(({ instant }) => instant)).size, 1)
  for (const source of sources) {
    t.notOk(source.points.list().some(({ name }) => name.endsWith('-image')), 'no image stays')
  }
  t.equal(await group.split({ atOnce: false }), false, 'they are split already')
  await fill(lab.store.get('tb')!, 7, 5)
  await group.beginResync({ whole: false })
  t.same([...mirrors, far].map(({ state: { phase } }) => phase), Array.from({ length: 4 }, () => 'resyncing'))
  await group.syncEach({})
  for (const [place, source] of sources.entries()) t.same(await shown(lab.store.get(`t${NAMES[place]}`)!), await shown(source))
  t.ok(lab.store.get('tb')!.points.list().some(({ name }) => name.startsWith('before-mb')), 'what was done there is kept')
  await lab.close()
})

t.test('D2: whoever cannot leaves every pair as it was, and is named', async t => {
  const { lab, sources, mirrors } = await trio(t.testdir())
  const [ma, mb] = mirrors as [Mirror, Mirror]
  const left = async (split: Promise<unknown>, wanted: { code: string, message?: string }): Promise<void> => {
    await t.rejects(split, wanted)
    t.same(mirrors.map(({ state: { phase } }) => phase), ['paired', 'paired', 'paired'])
    for (const source of sources) {
      await fill(source, 1, 7)
      t.notOk(source.points.list().some(({ name }) => name.endsWith('-image')), 'no image stays')
    }
  }
  for (const source of sources) await fill(source, 5, 9)
  // Half-way through what it ships.
  const asBefore = onWrite(lab.store.get('tb')!, () => { throw new NbdeltaError('io', 'the disk is gone') })
  await left(together(lab).split({ atOnce: false }), { code: 'io', message: 'mirror mb: the disk is gone' })
  t.equal(ma.status().problem, null, 'only one has a problem')
  t.match(mb.status().problem, /the disk is gone/)
  asBefore()
  // Before anybody froze.
  const target = lab.store.get('tc')!
  const { problem } = target
  Object.defineProperty(target, 'problem', { configurable: true, get: () => new NbdeltaError('damaged', 'planted') })
  await left(together(lab).split({ atOnce: false }), { code: 'damaged', message: 'mirror mc: planted' })
  Object.defineProperty(target, 'problem', { configurable: true, value: problem })
  // The freeze.
  const create = lab.store.createPointsTogether.bind(lab.store)
  lab.store.createPointsTogether = async () => { throw new NbdeltaError('busy', 'a volume did not come to rest in time') }
  await left(together(lab).split({ atOnce: false }), { code: 'busy' })
  lab.store.createPointsTogether = create
  // The decision.
  const put = lab.store.putMirrors.bind(lab.store)
  lab.store.putMirrors = async () => { throw new NbdeltaError('no-space', 'the disk is full') }
  await left(together(lab).split({ atOnce: false }), { code: 'no-space' })
  lab.store.putMirrors = put
  // Whoever gave the command has gone.
  await left(together(lab).split({ atOnce: false, signal: AbortSignal.abort() }), { code: 'cancelled' })
  for (const mirror of mirrors) await mirror.sync()
  for (const [place, source] of sources.entries()) t.same(await shown(lab.store.get(`t${NAMES[place]}`)!), await shown(source))
  await lab.close()
})

t.test('what the table of states refuses, the group refuses, before anything is done', async t => {
  const { lab, mirrors } = await trio(t.testdir())
  const [ma] = mirrors as [Mirror]
  await ma.split({ atOnce: false })
  await t.rejects(together(lab).split({ atOnce: false }), { code: 'wrong-state', message: /ma is split already/ })
  t.same(phases(lab), ['split', 'paired', 'paired'])
  await ma.beginResync({ whole: false })
  await t.rejects(together(lab).split({ atOnce: false }), { code: 'wrong-state', message: /mirror ma: its resync/ })
  t.throws(() => together(lab).judgeSplit({ atOnce: false }), { code: 'wrong-state' })
  t.throws(() => lab.mirrors.together([]), { code: 'bad-argument' })
  t.throws(() => lab.mirrors.together(['nobody']), { code: 'not-found' })
  t.throws(() => lab.mirrors.ofGroup('nobody'), { code: 'not-found' })
  await lab.store.createGroup('lonely', ['ta'])
  t.throws(() => lab.mirrors.ofGroup('lonely'), { code: 'wrong-state' })
  await lab.close()
})

t.test('at once: only at points of one instant, which a sync of all makes', async t => {
  const { lab, sources, mirrors } = await trio(t.testdir())
  await t.rejects(together(lab).split({ atOnce: true }), { code: 'wrong-state', message: /not of one instant/ })
  for (const source of sources) await fill(source, 2, 4)
  await together(lab).sync()
  for (const source of sources) await fill(source, 2, 5)
  await mirrors[1]!.sync()
  t.throws(() => together(lab).judgeSplit({ atOnce: true }), { code: 'wrong-state' })
  await together(lab).sync()
  for (const source of sources) await fill(source, 2, 6)
  await together(lab).split({ atOnce: true })
  for (const name of NAMES) t.match(await shown(lab.store.get(`t${name}`)!), { 2: 5 })
  await lab.close()
})

t.test('D3: killed at any durable step, all are split at one instant or all are paired', async t => {
  const { lab, sources } = await trio(t.testdir())
  for (const [place, source] of sources.entries()) await fill(source, 6, 40 + place)
  const seen: string[] = []
  let busy = false
  const look = async (step: string): Promise<void> => {
    if (busy) return
    busy = true
    const next = await lab.killed()
    for (const mirror of next.mirrors.list()) await mirror.inTurn(undefined, async () => undefined, false)
    const found = new Set(phases(next))
    t.equal(found.size, 1, `${step}: ${phases(next).join(', ')}`)
    if (found.has('split')) {
      for (const [place, name] of NAMES.entries()) t.match(await shown(next.store.get(`t${name}`)!), { 6: 40 + place }, step)
      t.ok(next.mirrors.list().every(({ isApart }) => isApart))
    } else await next.mirrors.together(['ma', 'mb', 'mc']).split({ atOnce: false })
    seen.push(`${[...found][0]}`)
    await next.close()
    rmSync(next.path, { recursive: true })
    busy = false
  }
  const around = (holder: object, method: string): void => {
    const work = (holder as Record<string, (...args: unknown[]) => Promise<unknown>>)[method]!.bind(holder)
    Object.assign(holder, { [method]: async (...args: unknown[]) => {
      await look(`before ${method}`)
      const result = await work(...args)
      await look(`after ${method}`)
      return result
    } })
  }
  for (const method of ['putMirror', 'putMirrors', 'createPointsTogether']) around(lab.store, method)
  for (const volume of lab.store.list()) {
    around(volume, 'restore')
    for (const method of ['create', 'delete']) around(volume.points, method)
  }
  await together(lab).split({ atOnce: false })
  t.ok(seen.filter(phase => phase === 'paired').length > 8, seen.join())
  t.ok(seen.filter(phase => phase === 'split').length > 4, 'also behind the decision')
  await lab.close()
})

t.test('a target that does not hear that it is split shows its point until it does, also after a kill', async t => {
  const { lab, mirrors } = await trio(t.testdir())
  const [ma, mb] = mirrors as [Mirror, Mirror]
  const release = mb.target.release.bind(mb.target)
  mb.target.release = async () => { throw new NbdeltaError('unreachable', 'nobody answers') }
  t.equal(await together(lab).split({ atOnce: false }), true)
  t.match(phases(lab), ['split', 'split', 'split'])
  t.ok(ma.isApart)
  t.notOk(mb.isApart)
  t.match(mb.status().problem, /nobody answers/)
  t.equal(lab.mirrors.ownerOf(lab.store.get('tb')!.uuid), mb, 'nobody else writes to it')
  const next = await lab.killed()
  const again = next.mirrors.get('mb')
  await again.inTurn(undefined, async () => undefined, false)
  t.ok(again.isApart, 'told when the server starts')
  await next.close()
  mb.target.release = release
  for (let i = 0; i < 100 && !mb.isApart; i++) {
    await lab.clock.advance(1000)
    await new Promise(resolve => { setTimeout(resolve, 10) })
  }
  t.ok(mb.isApart, 'told again')
  t.equal(mb.status().problem, null)
  await lab.close()
})

t.test('a resync of several: those that fail are named, the others are done', async t => {
  const { lab, mirrors } = await trio(t.testdir())
  await together(lab).split({ atOnce: false })
  for (const name of ['a', 'b']) await fill(lab.store.get(`t${name}`)!, 1, 9)
  for (const name of ['ta', 'tb']) onWrite(lab.store.get(name)!, () => { throw new NbdeltaError('io', 'refused') })
  await together(lab).beginResync({ whole: false })
  await t.rejects(together(lab).syncEach({}), { code: 'io', message: 'ma: refused; mb: refused' })
  t.same(mirrors.map(({ state: { phase } }) => phase), ['resyncing', 'resyncing', 'paired'])
  await lab.close()
})
