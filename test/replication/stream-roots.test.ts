// Roots of points that streams declare: what the target lost is found at the next one, named, repaired, and nothing else is (SEEDS X14).
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { seededRandom } from '../../src/device/testing.js'
import { REGION_BYTES_MIN } from '../../src/replication/content-digest.js'
import { NbdeltaError } from '../../src/device/errors.js'
import type { PeerLink } from '../../src/index.js'
import type { Mirror } from '../../src/replication/mirror.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { arrived, until } from './held.js'
import { changeAtRandom, fill, G, Lab, shown } from './lab.js'
import { changed, PeerLab } from './peer-lab.js'

const GRAINS = 3 * REGION_BYTES_MIN / G + 5
const SEED = Number(process.env['SEED'] ?? Date.now() % 2 ** 31)
/** Timers of the store do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))
t.setTimeout(240_000)

type Mode = 'async' | 'sync'

interface Pair {
  readonly volume: StoreVolume
  readonly target: StoreVolume
  readonly mirror: Mirror
  close(): Promise<void>
}

/** A test that fails leaves nothing that keeps the process. */
function closing(t: Test, lab: { close(): Promise<void> }): () => Promise<void> {
  let closed: Promise<void> | undefined
  const close = (): Promise<void> => closed ??= lab.close()
  t.teardown(close)
  return close
}

async function localPair(t: Test, mode: Mode, keepSnapshots = 0, directory = t.testdir()): Promise<Pair & { lab: Lab }> {
  const lab = await Lab.open(directory)
  const close = closing(t, lab)
  const volume = await lab.volume('v', GRAINS)
  await fill(volume, 0, 1, GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: 'w', mode, keepSnapshots })
  return { lab, volume, mirror, target: lab.store.get('w')!, close }
}

async function peerPair(t: Test, mode: Mode, keepSnapshots = 0, directory = t.testdir()): Promise<Pair & { lab: PeerLab }> {
  const lab = await PeerLab.open(directory)
  const close = closing(t, lab)
  const volume = await lab.source('v', GRAINS)
  const mirror = await lab.mirror({ mode, keepSnapshots })
  return { lab, volume, mirror, target: lab.far.store.get('w')!, close }
}

const PAIRS = { 'a volume of the same store': localPair, 'a peer\'s volume': peerPair } as const

const rules = (mirror: Mirror): string[] => mirror.status().decisions.map(({ rule }) => rule)
const declaredOn = (target: StoreVolume) => target.points.list().findLast(({ labels }) => labels['origin'] !== undefined)!

/** Both sides have the root of the declared point. */
async function rooted(t: Test, { mirror, target }: Pair): Promise<string> {
  await until('the point has a root', () => mirror.state.base?.root != null)
  const { root } = mirror.state.base!
  const declared = declaredOn(target)
  t.equal(declared.labels['origin'], mirror.state.base!.point)
  t.equal(declared.labels['root'], root, 'the target has the same')
  return root!
}

for (const [what, open] of Object.entries(PAIRS)) {
  for (const mode of ['async', 'sync'] as const) {
    t.test(`${what}, ${mode}: what is wrong is found at the next declared point, named and repaired`, async t => {
      const pair = await open(t, mode)
      const { volume, target, mirror } = pair
      await arrived(mirror)
      const first = mirror.state.base!.root
      t.match(first, /^[0-9a-f]{64}$/)
      await fill(volume, 10, 2)
      await fill(volume, 300, 3)
      await arrived(mirror)
      await mirror.sync()
      t.ok(mirror.status().stream)
      const root = await rooted(t, pair)
      t.not(root, first, 'it includes what has changed')
      await fill(volume, 20, 4)
      await fill(volume, 301, 5)
      await volume.zero(700 * G, 3 * G, { allocate: false, fast: false })
      await arrived(mirror)
      await target.write(301 * G + 7, 1, Buffer.from([99]), 0)
      await mirror.sync()
      await until('it is in doubt', () => mirror.state.phase !== 'paired')
      t.match(mirror.state, { phase: 'resyncing', base: null })
      t.match(mirror.status(), { stream: null, problem: `does not hold what was sent: 1 region differs, the first is ${G} bytes at ${301 * G}` })
      t.match(mirror.status().decisions.at(-1), { rule: 'root-mismatch', inputs: { regions: 1, first: 301 * G, bytes: G } })
      await mirror.sync()
      t.match(mirror.status(), { phase: 'paired', problem: null, last: { data: G } }, 'what differs is sent again, and nothing else')
      t.same(await shown(target), await shown(volume))
      await arrived(mirror)
      await fill(volume, 11, 7)
      await mirror.sync()
      await rooted(t, pair)
      t.equal(rules(mirror).filter(rule => rule === 'root-mismatch').length, 1)
      t.notOk(rules(mirror).includes('stream-ended'))
      await until('nothing is held', () => target.points.list().filter(({ labels }) => labels['origin']).length === 1)
      await pair.close()
    })
  }
}

/** Comparisons wait, with the point held, until what it answers is called; `reached`: so many have. */
function gate(t: Test, { target }: Mirror): { reached: number, go(): void } {
  const hold = target.hold.bind(target)
  let go = (): void => undefined
  const gone = new Promise<void>(resolve => { go = resolve })
  const gated = { reached: 0, go: () => { go() } }
  t.teardown(gated.go)
  target.hold = async (...wanted) => {
    const held = await hold(...wanted)
    const digests = held.digests.bind(held)
    held.digests = async function* (runs, regionBytes) {
      gated.reached++
      await gone
      yield* digests(runs, regionBytes)
    }
    return held
  }
  return gated
}

for (const [what, open] of Object.entries(PAIRS)) {
  t.test(`${what}: nobody waits for a comparison, and what it has left is compared at the next point`, async t => {
    const pair = await open(t, 'sync')
    const { volume, target, mirror } = pair
    await arrived(mirror)
    const gated = gate(t, mirror)
    await fill(volume, 300, 2)
    await target.write(300 * G, 1, Buffer.from([99]), 0)
    await mirror.sync()
    await until('one compares', () => gated.reached === 1)
    let declared = false
    void fill(volume, 20, 3).then(() => mirror.sync()).then(() => { declared = true })
    await until('a change is answered, and a point declared', () => declared)
    t.match(mirror.status(), { cycle: 3, phase: 'paired', problem: null, stream: { behindBytes: 0 } })
    t.equal(mirror.state.base!.root, null, 'nothing is said of what was not compared')
    gated.go()
    await until('both are compared', () => mirror.state.phase !== 'paired')
    t.match(mirror.status().decisions.at(-1), { rule: 'root-mismatch', inputs: { regions: 1, first: 300 * G } })
    await mirror.sync()
    t.same(await shown(target), await shown(volume))
    await pair.close()
  })

  t.test(`${what}: what changes while it is compared, and behind the point, is the next point's`, async t => {
    const pair = await open(t, 'async')
    const { volume, target, mirror } = pair
    await arrived(mirror)
    const read = volume.read.bind(volume)
    const late: number[] = []
    // The very read of a comparison sees what a client has written behind the point.
    volume.read = async (offset, length, into, at) => {
      const grain = late.pop()
      if (grain !== undefined) await fill(volume, grain, 77)
      await read(offset, length, into, at)
    }
    late.push(300)
    await fill(volume, 10, 2)
    await fill(volume, 299, 2, 3)
    await mirror.sync()
    await until('what rests is compared', () => late.length === 0)
    await new Promise<void>(resolve => { setTimeout(resolve, 50) })
    t.match(mirror.status(), { phase: 'paired', problem: null })
    t.equal(mirror.state.base!.root, null)
    await mirror.sync()
    await rooted(t, pair)
    t.notOk(rules(mirror).includes('root-mismatch'))
    // And what only looks as if it were: it rests at the target's fault.
    late.push(300)
    await fill(volume, 299, 3, 3)
    await arrived(mirror)
    await target.write(301 * G, 1, Buffer.from([99]), 0)
    await mirror.sync()
    await until('the rest of that region is compared all the same', () => mirror.state.phase !== 'paired')
    await pair.close()
  })

  t.test(`${what}: split, deleted, paused or stopped while it is compared`, async t => {
    for (const how of ['split', 'delete', 'pause', 'stop'] as const) {
      const pair = await open(t, 'async', 0, join(t.testdir({ [how]: {} }), how))
      const { volume, target, mirror, lab } = pair
      await arrived(mirror)
      const gated = gate(t, mirror)
      await fill(volume, 300, 2)
      await mirror.sync()
      await until('it compares', () => gated.reached === 1)
      const ended = how === 'split' ? mirror.split({ atOnce: true }) : how === 'pause' ? mirror.pause()
        : how === 'delete' ? ('near' in lab ? lab.near : lab).mirrors.delete('m') : pair.close()
      gated.go()
      await ended
      if (how === 'stop') continue
      await until('nothing is held', () => target.points.list().filter(({ labels }) => labels['origin']).length <= (how === 'delete' ? 0 : 1))
      t.same(await shown(target), await shown(volume))
      t.notOk(rules(mirror).includes('root-mismatch'))
      await pair.close()
    }
  })
}

t.test('a root goes on over the end of a stream, and what was left when it ended is compared by the next one', async t => {
  const pair = await localPair(t, 'async')
  const { volume, target, mirror } = pair
  await arrived(mirror)
  await fill(volume, 10, 2)
  await mirror.sync()
  await rooted(t, pair)
  const gated = gate(t, mirror)
  await fill(volume, 11, 2)
  await arrived(mirror)
  await target.write(11 * G, 1, Buffer.from([99]), 0)
  await mirror.sync()
  await until('it compares', () => gated.reached === 1)
  const paused = mirror.pause()
  gated.go()
  await paused
  await mirror.resume()
  await fill(volume, 12, 2)
  await mirror.sync()
  t.equal(mirror.state.base!.root, null, 'the cycle does not know of all')
  await arrived(mirror)
  await fill(volume, 13, 2)
  await mirror.sync()
  await until('it is in doubt', () => mirror.state.phase !== 'paired')
  t.match(mirror.status().decisions.at(-1), { rule: 'root-mismatch', inputs: { first: 11 * G } })
  await mirror.sync()
  await arrived(mirror)
  t.match(mirror.state.base!.root, /^[0-9a-f]{64}$/)
  await fill(volume, 14, 2)
  await mirror.sync()
  await rooted(t, pair)
  await pair.close()
})

t.test('a root that was not known yet when a stream ended comes behind it', async t => {
  const pair = await localPair(t, 'async')
  const { volume, mirror } = pair
  await arrived(mirror)
  const gated = gate(t, mirror)
  await fill(volume, 11, 2)
  await mirror.sync()
  await until('it compares', () => gated.reached === 1)
  const paused = mirror.pause()
  gated.go()
  await paused
  await mirror.resume()
  await mirror.sync()
  t.equal(mirror.state.base!.root, null)
  await arrived(mirror)
  await fill(volume, 13, 2)
  await mirror.sync()
  await rooted(t, pair)
  await pair.close()
})

t.test('an older peer: without points nothing is compared, without roots none is told; both go on', async t => {
  for (const can of [['digest', 'stream'], ['digest', 'stream', 'hold']]) {
    const lab = await PeerLab.open(join(t.testdir({ [`${can.length}`]: {} }), `${can.length}`))
    const close = closing(t, lab)
    const calls: string[] = []
    lab.near.onLink = link => changed(link, async (method, _, go) => {
      calls.push(method)
      const answer = await go() as Record<string, unknown>
      return method === 'attach' ? { ...answer, can } : answer
    })
    const volume = await lab.source('v', GRAINS)
    const mirror = await lab.mirror({ mode: 'async' })
    await arrived(mirror)
    const target = lab.far.store.get('w')!
    await fill(volume, 300, 2)
    await arrived(mirror)
    await target.write(300 * G, 1, Buffer.from([99]), 0)
    await mirror.sync()
    const holds = can.includes('hold')
    if (holds) await until('it is found', () => mirror.state.phase !== 'paired')
    else await new Promise<void>(resolve => { setTimeout(resolve, 50) })
    t.equal(calls.includes('hold'), holds)
    t.notOk(calls.includes('rooted'))
    t.equal(mirror.status().problem !== null, holds)
    t.same(mirror.status().unguarded.map(words => /holds no point/.test(words)), holds ? [] : [true])
    await close()
  }
})

/** A round of a random life; none of it is the target's fault. */
async function round(
  { volume, mirror, grow, cut }: Pair & { grow(): Promise<void>, cut(): void }, random: ReturnType<typeof seededRandom>, step: number,
): Promise<void> {
  const change = (): Promise<void> => changeAtRandom(volume, random)
  const work: Promise<unknown>[] = Array.from({ length: random(40) }, change)
  const sync = async (): Promise<void> => {
    await mirror.sync().catch((error: unknown) => { if (!(error instanceof NbdeltaError)) throw error })
    // Behind the point, while that is compared.
    work.push(...Array.from({ length: random(20) }, change))
  }
  work.push(sync())
  if (step % 9 === 4) work.push(volume.points.create({ name: `s${step}`, kind: 'snapshot' }))
  if (step % 9 === 7) work.push(volume.restore({ from: `s${step - 3}` }).then(job => random(2) === 0 ? job.finished : undefined))
  if (step % 13 === 6) cut()
  if (random(3) === 0) await new Promise<void>(resolve => { setTimeout(resolve, random(5)) })
  while (work.length > 0) await work.pop()
  if (step % 17 === 11) await grow()
}

for (const [what, open] of Object.entries(PAIRS)) {
  for (const mode of ['async', 'sync'] as const) {
    t.test(`${what}, ${mode}: whatever clients do, no false alarm`, async t => {
      t.comment(`SEED=${SEED}`)
      const random = seededRandom(SEED)
      const pair = await open(t, mode, mode === 'async' ? 2 : 0)
      const { mirror, volume, target, lab } = pair
      const links: PeerLink[] = []
      if ('near' in lab) {
        lab.near.onLink = link => {
          links.push(link)
          return link
        }
      }
      const { store } = 'near' in lab ? lab.near : lab
      const grow = (): Promise<void> => store.resizeVolume('v', volume.sizeBytes + 3 * G)
      const cut = (): void => { for (const link of links.splice(0)) if (random(2) === 0) link.close() }
      let roots = 0
      let last: string | null = null
      for (let step = 0; step < 40; step++) {
        await round({ ...pair, grow, cut }, random, step)
        const { root } = mirror.state.base ?? { root: null }
        if (root !== null && root !== last) roots++
        last = root
        if (rules(mirror).includes('root-mismatch')) return t.fail('a false alarm', { seed: SEED, step, told: mirror.status().decisions })
      }
      for (let tries = 0; mirror.status().stream?.inStep !== true; tries++) {
        if (tries > 50) throw new Error('no stream comes up')
        await mirror.sync().catch(() => undefined)
        await new Promise<void>(resolve => { setTimeout(resolve, 5) })
      }
      await fill(volume, 7, 9)
      await arrived(mirror)
      await mirror.sync()
      await rooted(t, pair)
      t.comment(`${roots} roots`)
      t.same(await mirror.verify(), [], 'and it is the same')
      await fill(volume, 8, 9, 3)
      await arrived(mirror)
      await target.write(9 * G, 1, Buffer.from([99]), 0)
      await mirror.sync()
      await until('what is wrong is found all the same', () => rules(mirror).includes('root-mismatch'))
      await pair.close()
    })
  }
}
