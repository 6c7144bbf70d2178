// Verification while everything goes on: what differs is found and repaired, nothing else is, and nobody is held up (SEEDS X14, X5).
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import { REGION_BYTES_MIN } from '../../src/replication/content-digest.js'
import type { Mirror } from '../../src/replication/mirror.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import type { PeerLink } from '../../src/index.js'
import { arrived, until } from './held.js'
import { disk, fill, G, Lab, shown, shownAt, URI } from './lab.js'
import { PeerLab } from './peer-lab.js'

const REGION = REGION_BYTES_MIN
const GRAINS = 2 * REGION / G + 3
const HOUR_MS = 3_600_000
/** Timers of the store do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))
t.setTimeout(240_000)

interface Pair {
  readonly volume: StoreVolume
  readonly target: StoreVolume
  readonly mirror: Mirror
  /** As clients of the target see it. */
  seen(): Promise<number[]>
  close(): Promise<void>
}
type Mode = 'periodic' | 'async' | 'sync'

async function localPair(directory: string, mode: Mode = 'periodic'): Promise<Pair & { lab: Lab }> {
  const lab = await Lab.open(directory)
  const volume = await lab.volume('v', GRAINS)
  await fill(volume, 0, 1, GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: 'w', mode })
  const target = lab.store.get('w')!
  const seen = (): Promise<number[]> => shownAt(target, mirror.shownPoint()!.name)
  return { lab, volume, mirror, target, seen, close: () => lab.close() }
}

async function peerPair(directory: string, mode: Mode = 'periodic'): Promise<Pair & { lab: PeerLab }> {
  const lab = await PeerLab.open(directory)
  const volume = await lab.source('v', GRAINS)
  const mirror = await lab.mirror({ mode })
  return { lab, volume, mirror, target: lab.far.store.get('w')!, seen: () => lab.far.seen('w'), close: () => lab.close() }
}

const PAIRS = { 'a volume of the same store': localPair, 'a peer\'s volume': peerPair } as const

/** The comparison waits, with both points held, until `go` is called. */
function gate({ target }: Mirror): { readonly reached: Promise<void>, go(): void } {
  const hold = target.hold.bind(target)
  let [reach, go] = [(): void => undefined, (): void => undefined]
  const reached = new Promise<void>(resolve => { reach = resolve })
  const gone = new Promise<void>(resolve => { go = resolve })
  target.hold = async (...wanted) => {
    const held = await hold(...wanted)
    const { held: regions } = held
    held.held = async regionBytes => {
      reach()
      await gone
      return regions.call(held, regionBytes)
    }
    return held
  }
  return { reached, go }
}

const rules = (mirror: Mirror): string[] => mirror.status().decisions.map(({ rule }) => rule)
/** Nothing is left of a verification. */
async function isTidy({ volume, target }: Pair): Promise<void> {
  await until('only the last points are left', () => {
    const kinds = volume.points.list().map(({ kind }) => kind)
    return kinds.every(kind => kind === 'bookmark') && target.points.list().filter(({ labels }) => labels['origin']).length === 1
  })
}

for (const [what, open] of Object.entries(PAIRS)) {
  t.test(`${what}: flips are named exactly, end "in sync", and are repaired`, async t => {
    const pair = await open(t.testdir())
    const { volume, target, mirror } = pair
    t.same(await mirror.verify(), [])
    t.match(mirror.status().verified, { result: 'equal', cycle: 2, digest: /^[0-9a-f]{64}$/ })
    for (const grain of [33, 34, 300, GRAINS - 1]) await target.write(grain * G + 100, 1, Buffer.from([99]), 0)
    const found = [{ offset: 33 * G, length: 2 * G }, { offset: 300 * G, length: G }, { offset: (GRAINS - 1) * G, length: G }]
    t.same(await mirror.verify(), found)
    t.match(mirror.status(), { phase: 'resyncing', problem: /differences, the first at 135168/, verified: { result: 'different' } })
    t.match(mirror.state.base, null)
    t.match(mirror.status().decisions.at(-1), { rule: 'verify-mismatch', inputs: { regions: 3, first: 33 * G } })
    await mirror.sync()
    t.match(mirror.status(), { phase: 'paired', problem: null, last: { data: 4 * G } })
    t.same(await shown(target), await shown(volume))
    t.same(await mirror.verify(), [])
    await isTidy(pair)
    await pair.close()
  })

  t.test(`${what}: cycles go on, with writes, while it runs; it compares its own point, and nothing else`, async t => {
    const pair = await open(t.testdir())
    const { volume, target, mirror } = pair
    const { reached, go } = gate(mirror)
    const verification = mirror.verify()
    await reached
    for (let cycle = 3; cycle < 7; cycle++) {
      await fill(volume, cycle * 40, cycle, 40)
      await volume.zero((cycle + 100) * G, 8 * G, { allocate: false, fast: false })
      await mirror.sync()
      t.equal(mirror.status().cycle, cycle, 'a cycle is complete')
      t.same(await pair.seen(), await shown(volume), 'and is what clients see')
    }
    t.equal(target.points.list().filter(({ labels }) => labels['origin']).length, 2, 'the point that is compared stays')
    go()
    t.same(await verification, [])
    t.match(mirror.status(), { phase: 'paired', problem: null, verified: { result: 'equal', cycle: 2 } })
    await isTidy(pair)
    t.equal(target.points.list().length, 1)
    await fill(volume, 1, 9)
    await mirror.sync()
    t.same(await pair.seen(), await shown(volume))
    await pair.close()
  })

  t.test(`${what}: what differs in the point that is compared counts, whatever was declared since`, async t => {
    const pair = await open(t.testdir())
    const { volume, target, mirror } = pair
    await target.write(7 * G, 1, Buffer.from([99]), 0)
    const { reached, go } = gate(mirror)
    const verification = mirror.verify()
    await reached
    await fill(volume, 40, 5)
    await mirror.sync()
    go()
    t.same(await verification, [{ offset: 7 * G, length: G }])
    t.match(mirror.state, { phase: 'resyncing', base: null })
    await mirror.sync()
    t.same(await shown(target), await shown(volume))
    await isTidy(pair)
    await pair.close()
  })

  for (const mode of ['async', 'sync'] as const) {
    t.test(`${what}, ${mode}: the stream stays, and what it brings meanwhile does no harm`, async t => {
      const pair = await open(t.testdir(), mode)
      const { volume, target, mirror } = pair
      await arrived(mirror)
      const { reached, go } = gate(mirror)
      // Before the point is taken, while it is, and behind it: none of that may be on one side only.
      let isHeld = false
      const writing = (async () => {
        for (let count = 0; !isHeld; count++) {
          await fill(volume, count % GRAINS, 2 + count % 200)
          await new Promise<void>(resolve => { setTimeout(resolve, 1) })
        }
      })()
      const verification = mirror.verify()
      await reached
      isHeld = true
      await writing
      for (let grain = 0; grain < GRAINS; grain += 7) await fill(volume, grain, 3)
      await arrived(mirror)
      t.same(await shown(target), await shown(volume), 'it has arrived')
      await mirror.sync()
      t.ok(mirror.status().stream, 'a point was declared among the changes')
      go()
      t.same(await verification, [])
      t.ok(mirror.status().stream)
      t.notOk(rules(mirror).includes('stream-ended'))
      t.equal(rules(mirror).filter(rule => rule === 'copy-all').length, 1)
      await isTidy(pair)
      await target.write(5 * G, 1, Buffer.from([99]), 0)
      t.same(await mirror.verify(), [{ offset: 5 * G, length: G }])
      t.equal(mirror.status().stream, null, 'nothing goes to a target that is in doubt')
      await mirror.sync()
      t.same(await shown(target), await shown(volume))
      await pair.close()
    })
  }

  t.test(`${what}: split, deleted, cancelled or stopped meanwhile`, async t => {
    const pair = await open(t.testdir())
    const { volume, target, mirror } = pair
    await target.write(7 * G, 1, Buffer.from([99]), 0)
    const first = gate(mirror)
    const split = mirror.verify()
    await first.reached
    await mirror.split({ atOnce: false })
    await fill(volume, 1, 5)
    await fill(target, 2, 6)
    first.go()
    t.same(await split, [{ offset: 7 * G, length: G }], 'it is told')
    t.match(mirror.state, { phase: 'split', base: { point: /-/ } })
    t.match(mirror.status(), { problem: null, decisions: { length: mirror.status().decisions.length } })
    t.match(mirror.status().decisions.at(-1), { rule: 'verify-mismatch', outcome: /reported only/ })
    await mirror.beginResync({ whole: true })
    await mirror.sync()
    t.same(await shown(target), await shown(volume))

    const second = gate(mirror)
    const abort = new AbortController()
    const cancelled = mirror.verify({ signal: abort.signal })
    await second.reached
    abort.abort()
    second.go()
    await t.rejects(cancelled, { code: 'cancelled' })
    t.match(mirror.status(), { phase: 'paired', problem: null })
    await fill(volume, 3, 7)
    await mirror.sync()
    await isTidy(pair)

    const third = gate(mirror)
    const deleted = mirror.verify()
    const queued = mirror.verify()
    await third.reached
    const mirrors = pair.lab instanceof PeerLab ? pair.lab.near.mirrors : pair.lab.mirrors
    const deletion = mirrors.delete('m')
    // As long as a target may refuse to be let go a verification goes on.
    await until('the target is let go', () => mirror.state.phase === 'split')
    third.go()
    await t.rejects(deleted, { code: 'not-found', message: /was deleted meanwhile/ })
    await t.rejects(queued, { code: 'not-found' })
    await deletion
    await Promise.all([volume.points.settled(), target.points.settled()])
    const ours = [...volume.points.list(), ...target.points.list()].filter(({ labels }) => labels['auto'] !== 'undo')
    t.same(ours, [], 'nothing of it stays on either side')
    await pair.close()
  })

  t.test(`${what}: the server stops meanwhile, and goes on after a restart`, async t => {
    const pair = await open(t.testdir())
    const { mirror } = pair
    const { reached, go } = gate(mirror)
    const verification = mirror.verify()
    const told = t.rejects(verification, { code: 'shutting-down' })
    await reached
    const node = pair.lab instanceof PeerLab ? pair.lab.near : pair.lab
    const closed = node.close()
    go()
    await told
    await closed
    await node.start()
    const volume = node.store.get('v')!
    await fill(volume, 9, 9)
    await node.mirrors.get('m').sync()
    t.same(await node.mirrors.get('m').verify(), [])
    await until('no image is left', () => volume.points.list().every(({ kind }) => kind === 'bookmark'))
    await pair.close()
  })
}

t.test('the source is killed meanwhile: the image goes with the next start', async t => {
  const { lab, mirror } = await localPair(t.testdir())
  const { reached, go } = gate(mirror)
  const verification = mirror.verify()
  await reached
  const next = await lab.killed()
  await next.mirrors.get('m').sync()
  t.same(next.store.get('v')!.points.list().map(({ kind }) => kind), ['bookmark'])
  t.equal(next.store.get('w')!.points.list().length, 1)
  await next.close()
  go()
  await verification
  await lab.close()
})

/** Links that count what crosses, and can be cut. */
function watched(lab: PeerLab): { bytes: number, readonly calls: string[], readonly links: PeerLink[] } {
  const seen = { bytes: 0, calls: [] as string[], links: [] as PeerLink[] }
  lab.near.onLink = link => {
    seen.links.push(link)
    return {
      volume: link.volume, ended: link.ended, close: () => { link.close() }, exportUri: (places, name) => link.exportUri(places, name),
      call: async (method, params) => {
        seen.calls.push(method)
        const answer = await link.call(method, params)
        seen.bytes += JSON.stringify(params).length + JSON.stringify(answer).length
        return answer
      },
    }
  }
  return seen
}

t.test('a big sparse volume: digests of what there is cross, and nothing else', async t => {
  const lab = await PeerLab.open(t.testdir())
  const sizeBytes = 64 * 2 ** 30
  const volume = await lab.near.store.createVolume({ name: 'v', sizeBytes, grainBytes: 65_536 })
  const data = Buffer.alloc(REGION, 5)
  for (const region of [0, 5, 6, 7, 30_000, 65_535]) await volume.write(region * REGION, REGION, data, 0)
  const mirror = await lab.mirror()
  const seen = watched(lab)
  t.same(await mirror.verify(), [])
  t.ok(seen.calls.includes('held') && seen.calls.includes('digest'))
  t.ok(seen.bytes < 4000, `${seen.bytes} bytes`)
  seen.bytes = 0
  await lab.far.store.get('w')!.write(30_000 * REGION + 5 * G, 1, Buffer.from([1]), 0)
  await lab.far.store.get('w')!.write(40_000 * REGION, 1, Buffer.from([1]), 0)
  t.same(await mirror.verify(), [{ offset: 30_000 * REGION + 5 * G, length: G }, { offset: 40_000 * REGION, length: G }])
  t.ok(seen.bytes < 60_000, `with two regions taken apart ${seen.bytes} bytes`)
  await lab.close()
})

t.test('the link is cut meanwhile: it fails, nothing is known, and nothing is held', async t => {
  const pair = await peerPair(t.testdir())
  const { lab, mirror, volume, target } = pair
  const seen = watched(lab)
  const { reached, go } = gate(mirror)
  const verification = mirror.verify()
  await reached
  await fill(volume, 3, 3)
  await mirror.sync()
  t.equal(target.points.list().length, 2)
  const holding = seen.links[1]!
  t.equal(seen.calls[seen.calls.indexOf('hold')], 'hold')
  holding.close()
  go()
  await t.rejects(verification, { code: 'unreachable' })
  t.match(mirror.status(), { phase: 'paired', problem: null, verified: null })
  await isTidy(pair)
  t.equal(target.points.list().length, 1, 'the peer has let go by itself')
  t.same(await mirror.verify(), [])
  await pair.close()
})

t.test('the peer restarts meanwhile', async t => {
  const pair = await peerPair(t.testdir())
  const { lab, mirror, volume } = pair
  const { reached, go } = gate(mirror)
  const verification = mirror.verify()
  await reached
  await fill(volume, 3, 3)
  await mirror.sync()
  await lab.far.restart()
  go()
  await t.rejects(verification, { code: 'unreachable' })
  await fill(volume, 4, 3)
  await mirror.sync()
  t.equal(lab.far.store.get('w')!.points.list().length, 1)
  t.same(await mirror.verify(), [])
  await lab.close()
})

t.test('a peer promotes, or forgets, what is compared: that ends, and nothing of it stays', async t => {
  const pair = await peerPair(t.testdir())
  const { lab, mirror, target } = pair
  const { reached, go } = gate(mirror)
  const verification = mirror.verify()
  await reached
  await lab.far.secondaries.promote('w')
  go()
  await t.rejects(verification, { code: 'unreachable' })
  await fill(target, 1, 9)
  await lab.far.secondaries.forget('w')
  t.same(target.points.list().filter(({ labels }) => labels['mirror']), [])
  await lab.close()
})

t.test('who asks nothing any more lets go after an hour (X5); and a newer question ends an older one', async t => {
  const pair = await peerPair(t.testdir())
  const { lab, mirror, volume, target } = pair
  const wanted = { mirror: mirror.record.uuid, volume: 'w', epoch: 1, point: mirror.state.base!.point }
  const old = await lab.far.dial('w')
  t.same(await old.call('hold', wanted), { sizeBytes: GRAINS * G, grainBytes: G })
  const link = await lab.far.dial('w')
  await link.call('hold', wanted)
  await old.ended
  t.same(await link.call('held', { from: 0, regionBytes: REGION }), { runs: [[0, 3]], next: null })
  await fill(volume, 3, 3)
  await mirror.sync()
  t.equal(target.points.list().length, 2)
  await lab.far.clock.advance(HOUR_MS - 1)
  await link.call('digest', { runs: [[0, 1]], regionBytes: G })
  await lab.far.clock.advance(HOUR_MS - 1)
  t.equal(target.points.list().length, 2)
  await lab.far.clock.advance(1)
  await until('the old point is gone', () => target.points.list().length === 1)
  await link.ended
  await lab.close()
})

t.test('over a link: what is out of turn, somebody else\'s or unknown is refused', async t => {
  const pair = await peerPair(t.testdir())
  const { lab, mirror } = pair
  const wanted = { mirror: mirror.record.uuid, volume: 'w', epoch: 1, point: mirror.state.base!.point }
  const other = '55555555-1111-4111-8111-111111111111'
  const link = await lab.far.dial('w')
  await t.rejects(link.call('held', { from: 0, regionBytes: REGION }), { code: 'wrong-state' })
  await t.rejects(link.call('found', { result: 'equal', cycle: 1, digest: null }), { code: 'wrong-state' })
  await t.rejects(link.call('hold', { ...wanted, mirror: other }), { code: 'busy' })
  await t.rejects(link.call('hold', { ...wanted, point: other }), { code: 'not-found' })
  await t.rejects(link.call('hold', { ...wanted, volume: 'x' }), { code: 'not-found' })
  await t.rejects(link.call('hold', { ...wanted, epoch: 0 }), { code: 'bad-argument' })
  await link.call('hold', wanted)
  await t.rejects(link.call('hold', wanted), { code: 'wrong-state' })
  await t.rejects(link.call('commit', { point: { uuid: other, cycle: 5, sizeBytes: GRAINS * G } }), { code: 'wrong-state' }, 'it only reads')
  await t.rejects(link.call('held', { from: 1, regionBytes: REGION }), { code: 'bad-argument' })
  await t.rejects(link.call('held', { from: 0, regionBytes: 2048 }), { code: 'bad-argument' })
  await t.rejects(link.call('digest', { runs: [[0, GRAINS + 1]], regionBytes: REGION }), { code: 'bad-argument' })
  await t.rejects(link.call('digest', { runs: [[0, GRAINS]], regionBytes: G }), { code: 'bad-argument', message: /too many regions/ })
  link.close()
  await lab.far.secondaries.promote('w')
  await t.rejects((await lab.far.dial('w')).call('hold', wanted), { code: 'wrong-state', message: /promoted/ })
  await lab.close()
})

t.test('an older peer, and a plain server: everything is read, in turn', async t => {
  const lab = await PeerLab.open(t.testdir())
  const seen = watched(lab)
  const { onLink } = lab.near
  lab.near.onLink = link => {
    const inner = onLink(link)
    return { ...inner, call: async (method, params) => {
      const answer = await inner.call(method, params) as Record<string, unknown>
      return method === 'attach' ? { ...answer, can: ['digest', 'stream'] } : answer
    } }
  }
  await lab.source('v', GRAINS)
  const mirror = await lab.mirror()
  t.same(await mirror.verify(), [])
  const target = lab.far.store.get('w')!
  await target.write(7 * G, 1, Buffer.from([99]), 0)
  t.same(await mirror.verify(), [{ offset: 7 * G, length: G }])
  t.notOk(seen.calls.includes('hold'))
  t.match(mirror.status(), { phase: 'resyncing', verified: { result: 'different' } })
  await mirror.sync()
  t.same(await shown(target), await shown(lab.near.store.get('v')!))
  await lab.close()
  const plain = await Lab.open(t.testdir())
  const volume = await plain.volume('v', GRAINS)
  await fill(volume, 0, 1, GRAINS)
  const wire = plain.wire = disk(GRAINS)
  const other = await plain.mirror({ volume: 'v', target: URI, mode: 'async' })
  wire.reset()
  t.same(await other.verify(), [])
  t.equal(wire.counts.readBytes, GRAINS * G)
  t.equal(other.status().stream, null, 'it was compared in turn')
  await wire.disk.write(7 * G, 1, Buffer.from([99]), 0)
  t.same(await other.verify(), [{ offset: 7 * G, length: G }])
  await other.sync()
  t.same(await shown(wire), await shown(volume))
  wire.onRequest = kind => { if (kind === 'read') throw new NbdeltaError('io', 'no') }
  await t.rejects(other.verify(), { code: 'io' })
  t.match(other.status().verified, { result: 'different' }, 'what was not compared to its end is not known')
  await plain.close()
})

for (const side of ['volume', 'target'] as const) {
  t.test(`room on the ${side === 'volume' ? 'source' : 'target'} runs out meanwhile: the verification is given up, not a write`, async t => {
    const pair = await localPair(t.testdir())
    const { lab, volume, mirror } = pair
    const { reached, go } = gate(mirror)
    const verification = mirror.verify()
    await reached
    await lab.store.setSpace(pair[side].name, { budgetBytes: 60 * G, order: 'drop-undo-then-fail' })
    for (let grain = 0; grain < 56; grain++) await fill(volume, grain, 4)
    if (side === 'target') await mirror.sync()
    go()
    await t.rejects(verification, { code: 'no-space', message: new RegExp(`volume ${side === 'volume' ? 'v' : 'w'} has no room`) })
    await isTidy(pair)
    await pair[side].points.settled()
    for (let grain = 56; grain < 90; grain++) await fill(volume, grain, 4)
    await mirror.sync()
    t.same(await shown(pair.target), await shown(volume))
    await pair.close()
  })
}

t.test('the peer reads all of its point by itself, and tells the same digest as the source', async t => {
  const pair = await peerPair(t.testdir())
  const { lab, volume, mirror, target } = pair
  await fill(volume, 20, 7)
  t.same(await mirror.verify(), [])
  const { digest } = mirror.status().verified!
  t.match(lab.far.secondaries.verified(target.uuid), { result: 'equal', cycle: 2, digest })
  const steps: number[] = []
  const options = { onProgress: (done: number, total: number) => { steps.push(done, total) } }
  t.match(await lab.far.secondaries.verify('w', options), { result: 'read', cycle: 2, digest })
  t.same(steps.slice(-2), [GRAINS * G, GRAINS * G])
  await fill(volume, 21, 8)
  await mirror.sync()
  t.match(await lab.far.secondaries.verify('w', {}), { cycle: 3 })
  t.not(lab.far.secondaries.verified(target.uuid)!.digest, digest)
  const abort = new AbortController()
  abort.abort()
  await t.rejects(lab.far.secondaries.verify('w', { signal: abort.signal }), { code: 'cancelled' })
  const reading = lab.far.secondaries.verify('w', { bytesPerSecond: 4096 })
  const told = t.rejects(reading, { code: 'gone' })
  await fill(volume, 22, 8)
  await mirror.sync()
  t.equal(target.points.list().length, 2, 'the mirror goes on, and the point stays')
  await lab.near.mirrors.delete('m')
  await lab.far.clock.advance(HOUR_MS)
  await told
  t.same(target.points.list().filter(({ labels }) => labels['mirror']), [])
  await t.rejects(lab.far.secondaries.verify('w', {}), { code: 'not-found' })
  await lab.close()
})
