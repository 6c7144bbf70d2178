// No room on the secondary for what a cycle overwrites (SEEDS C11, S8): the cycle stops before the first overwrite that could not be undone,
// the declared point stays good, the mirror says so, and goes on when there is room.
import t from 'tap'
import type { SpaceRule } from '../../src/store/point-entry.js'
import type { Store } from '../../src/volume/open-store.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import type { Mirror } from '../../src/replication/mirror.js'
import { fill, G, Lab, shown, shownAt } from './lab.js'
import { PeerLab } from './peer-lab.js'

const GRAINS = 32
/** Of old content on the secondary, grains. */
const ROOM = 2
const CHANGED = [1, 5, 9, 13, 17, 21]
/** Timers of the stores do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))

/** Volume `v` of ones, mirrored to `w`. */
interface Stand {
  readonly volume: StoreVolume
  readonly mirror: Mirror
  readonly targetStore: Store
  seen(): Promise<number[]>
  close(): Promise<void>
}

async function local(directory: string): Promise<Stand> {
  const lab = await Lab.open(directory)
  const volume = await lab.volume('v', GRAINS)
  await fill(volume, 0, 1, GRAINS)
  const mirror = await lab.mirror({ volume: 'v', target: 'w' })
  const seen = (): Promise<number[]> => shownAt(lab.store.get('w')!, mirror.shownPoint()!.name)
  return { volume, mirror, targetStore: lab.store, seen, close: () => lab.close() }
}

async function peer(directory: string): Promise<Stand> {
  const lab = await PeerLab.open(directory)
  const volume = await lab.source('v', GRAINS)
  const mirror = await lab.mirror()
  return { volume, mirror, targetStore: lab.far.store, seen: () => lab.far.seen('w'), close: () => lab.close() }
}

for (const [kind, open] of [['a volume of the same store', local], ['a volume of a peer', peer]] as const) {
  for (const order of ['drop-undo-then-fail', 'fail'] as const satisfies readonly SpaceRule['order'][]) {
    t.test(`${kind}, ${order}: the point stays good (C11)`, async t => {
      const { volume, mirror, targetStore, seen, close } = await open(t.testdir())
      const target = targetStore.get('w')!
      const before = await seen()
      await targetStore.setSpace('w', { budgetBytes: ROOM * G, order })
      for (const grain of CHANGED) await fill(volume, grain, 7)
      for (let attempt = 0; attempt < 3; attempt++) {
        await t.rejects(mirror.sync(), { code: 'no-space' })
        t.same(await seen(), before, 'clients see the declared point, whole')
        const overwritten = (await shown(target)).filter(value => value === 7).length
        t.ok(overwritten <= ROOM, `${overwritten} grains were overwritten, no more than can be undone`)
        t.match(mirror.status(), { phase: 'paired', lagBytes: CHANGED.length * G })
        t.match(mirror.status().problem, /space|budget|room/i, 'it says why')
        t.equal(target.space!.sacrifices, 0, 'the point is nothing to give up')
      }
      await fill(volume, 30, 8)
      t.equal((await shown(volume))[30], 8, 'hosts go on')
      await targetStore.setSpace('w', { budgetBytes: null })
      await mirror.sync()
      t.same(await seen(), await shown(volume))
      t.match(mirror.status(), { problem: null, lagBytes: 0 })
      await close()
    })
  }
}

t.test('split while there is no room: the target is at its declared point again (C11, C10)', async t => {
  const { volume, mirror, targetStore, seen, close } = await local(t.testdir())
  const before = await seen()
  await targetStore.setSpace('w', { budgetBytes: ROOM * G, order: 'fail' })
  for (const grain of CHANGED) await fill(volume, grain, 7)
  await t.rejects(mirror.sync(), { code: 'no-space' })
  await mirror.split({ atOnce: true })
  t.same(await shown(targetStore.get('w')!), before)
  await close()
})
