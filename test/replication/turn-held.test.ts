// A snapshot among the changes of a stream is declared, and clients' answers go on, while a command over several mirrors waits for another of them
// (modes async, sync; --keep-snapshots).
import t, { type Test } from 'tap'
import type { Mirror } from '../../src/replication/mirror.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { until } from './held.js'
import { fill, G, Lab, shown, shownAt } from './lab.js'

const GRAINS = 64
const RATE = G

const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))

interface Stand { readonly lab: Lab, readonly volume: StoreVolume, readonly streaming: Mirror, readonly busy: Mirror, readonly target: StoreVolume }

/** Two mirrors, of which the one whose turn a group takes first streams, and the other is in the middle of a slow cycle. */
async function stand(t: Test, mode: 'async' | 'sync'): Promise<Stand> {
  const lab = await Lab.open(t.testdir())
  for (let attempt = 0; ; attempt++) {
    const [s, b, v, w, x, y] = ['s', 'b', 'v', 'w', 'x', 'y'].map(name => `${name}${attempt}`) as [string, string, string, string, string, string]
    const volume = await lab.volume(v, GRAINS)
    const other = await lab.volume(x, GRAINS)
    const streaming = await lab.mirror({ name: s, volume: v, target: w, mode, keepSnapshots: 3 })
    const busy = await lab.mirror({ name: b, volume: x, target: y, bytesPerSecond: RATE })
    if (streaming.record.uuid > busy.record.uuid) continue
    await until('it is in step', () => streaming.status().stream?.inStep === true)
    await fill(other, 0, 2, 8)
    busy.sync().catch(() => undefined)
    await until('something was sent', () => (busy.status().progress?.doneBytes ?? 0) >= G)
    return { lab, volume, streaming, busy, target: lab.store.get(w)! }
  }
}

async function finish({ lab, busy }: Stand): Promise<void> {
  await until('the slow cycle has ended', async () => {
    await lab.clock.advance(1000)
    return busy.status().progress === null
  })
}

for (const mode of ['async', 'sync'] as const) {
  t.test(`${mode}: the snapshot is declared, and what comes behind it arrives, before the command has its other turn`, async t => {
    const there = await stand(t, mode)
    const { lab, volume, streaming, busy, target } = there
    const decided = streaming.status().decisions.length
    const group = lab.mirrors.together([streaming.record.name, busy.record.name])
    const synced = group.sync()
    const sinceMs = lab.clock.now()
    await fill(volume, 1, 5)
    await volume.points.create({ name: 'mine', kind: 'snapshot' })
    await fill(volume, 1, 6)
    await until('it has all of it', async () => (await shown(target))[1] === 6)
    t.equal(lab.clock.now(), sinceMs, 'nobody has waited for a timeout')
    t.ok(streaming.status().stream, 'the stream goes on')
    t.equal((await shownAt(target, 'mine'))[1], 5, 'the target has the snapshot')
    t.match(streaming.status().decisions.slice(decided).map(({ rule }) => rule), ['snapshot'])
    await until('it has gone on from it', () => streaming.state.base?.point !== volume.points.get('mine')!.uuid)
    await finish(there)
    while (busy.status().progress || busy.status().lagBytes !== 0) await lab.clock.advance(1000)
    await synced
    t.same([streaming, busy].map(mirror => mirror.status().problem), [null, null])
    await lab.close()
  })
}
