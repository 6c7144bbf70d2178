// Watchers (src/volume/watchers.ts): a change that found no room, and then does, or that fails before anything of it can be seen, ends nobody's
// watching; one that failed later does, before anybody else has a turn.
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import { type Random, seededRandom } from '../../src/device/testing.js'
import type { ChangeWatcher } from '../../src/volume/watchers.js'
import { GRAIN, readAll } from './lab.js'
import { SpaceRig } from './space-lab.js'

const NO_SPACE = { code: 'no-space' }
const GRAINS = 64
const SLOW = { allocate: false, fast: false } as const

/** What is told, applied: a copy of the volume while it is told everything. */
class Follower implements ChangeWatcher {
  readonly content: Buffer
  lostBecause: string | undefined
  /** Changes that were told. */
  told = 0
  /** Content at the instant of each point. */
  readonly points = new Map<string, Buffer>()

  constructor(content: Buffer) { this.content = content }

  static async of(rig: SpaceRig): Promise<Follower> {
    const follower = new Follower(await readAll(rig.volume))
    rig.volume.watch(follower)
    return follower
  }

  wrote(offset: number, length: number, from: Buffer, at: number): undefined {
    this.told++
    from.copy(this.content, offset, at, at + length)
  }

  zeroed(offset: number, length: number): undefined {
    this.told++
    this.content.fill(0, offset, offset + length)
  }

  flushed(): undefined { /* nothing to copy */ }

  restored(): void { throw new Error('nothing is restored here') }
  pointed({ name }: { readonly name: string }): void { this.points.set(name, Buffer.from(this.content)) }
  lost(reason: string): void { this.lostBecause = reason }
}

async function followed(options: Parameters<typeof SpaceRig.open>[0]): Promise<{ rig: SpaceRig, follower: Follower }> {
  const rig = await SpaceRig.open({ grains: GRAINS, ...options })
  return { rig, follower: await Follower.of(rig) }
}

for (const what of ['budget', 'disk'] as const) {
  t.test(`${what}: no room at first, then an undo point goes: it is told once, and nobody is lost`, async t => {
    const { rig, follower } = await followed({ ...what === 'budget' && { budget: 1 } })
    if (what === 'disk') rig.points.capacity = 1
    await rig.snapshot('u', true)
    await rig.touch(0, 2)
    await rig.touch(1, 3)
    t.strictSame([rig.names, rig.volume.space.sacrifices], [[], 1])
    t.equal(follower.lostBecause, undefined)
    t.equal(follower.told, 2)
    t.ok(follower.content.equals(await readAll(rig.volume)))
    await rig.volume.close()
  })

  t.test(`${what}: nothing to give up: the write fails, and nothing has changed`, async t => {
    const { rig, follower } = await followed({ ...what === 'budget' && { budget: 1 } })
    if (what === 'disk') rig.points.capacity = 1
    await rig.snapshot('mine')
    await rig.touch(0, 2)
    await t.rejects(rig.touch(1, 3), NO_SPACE)
    await t.rejects(rig.write(1, 3, 2), NO_SPACE)
    await t.rejects(async () => { await rig.volume.zero(2 * GRAIN, GRAIN, SLOW) }, NO_SPACE)
    t.equal(follower.lostBecause, undefined)
    t.equal(follower.told, 1)
    t.ok(follower.content.equals(await readAll(rig.volume)))
    await rig.volume.close()
  })
}

t.test('a zeroing that found room for its first part only: lost before anybody else has a turn', async t => {
  const { rig, follower } = await followed({ budget: 1 })
  await rig.snapshot('mine')
  const zeroing = rig.volume.zero(100, 32 * GRAIN, SLOW)!
  const pointed = rig.volume.points.create({ name: 'next', kind: 'bookmark' })
  await t.rejects(zeroing, NO_SPACE)
  await pointed
  t.match(follower.lostBecause, /a change failed: .*have to be kept for a snapshot/)
  t.strictSame([...follower.points.keys()], ['mine'], 'the point behind it is not told')
  t.equal((await readAll(rig.volume))[100], 0, 'its first edge is there')
  await rig.volume.close()
})

t.test('live itself has no room: how much of it is there nobody knows, whatever is given up for it then', async t => {
  const { rig, follower } = await followed({})
  await rig.snapshot('u', true)
  await rig.volume.trim(8 * GRAIN, 8 * GRAIN)
  await rig.clock.advance(1000)
  rig.fillLive(() => rig.names.length > 0)
  await rig.touch(8, 2)
  t.match(follower.lostBecause, /a change failed: .*ENOSPC/)
  t.strictSame(rig.names, [])
  await rig.volume.close()
})

t.test('not fast enough, refused, cut off at the end: nothing has begun', async t => {
  const { rig, follower } = await followed({})
  await t.rejects(async () => { await rig.volume.zero(1, 2 * GRAIN, { allocate: true, fast: true }) }, { code: 'not-fast' })
  rig.volume.refuseChanges(new NbdeltaError('wrong-state', 'no more'))
  await t.rejects(async () => { await rig.touch(0, 2) }, { code: 'wrong-state' })
  t.equal(follower.lostBecause, undefined)
  await rig.volume.close()
})

for (const staging of [false, true]) {
  t.test(`chance, ${staging ? 'with' : 'without'} a staging log: whoever is not lost has what the volume has, at each point`, async t => {
    let told = 0
    let lost = 0
    let failed = 0
    for (let seed = 1; seed <= 60; seed++) {
      const dice = seededRandom(seed)
      const { rig, follower: first } = await followed({ budget: dice(6), staging })
      let follower = first
      for (let step = 0; step < 40; step++) {
        const running = Array.from({ length: 1 + dice(3) }, () => change(rig, dice, step))
        for (const { status } of await Promise.allSettled(running)) if (status === 'rejected') failed++
        if (follower.lostBecause !== undefined) {
          lost++
          follower = await Follower.of(rig)
          continue
        }
        t.ok(follower.content.equals(await readAll(rig.volume)), `seed ${seed}, step ${step}`)
        for (const [name, content] of follower.points) {
          if (rig.names.includes(name) && name.startsWith('s')) {
            const device = rig.volume.points.open(name)
            t.ok(content.equals(await readAll(device)), `seed ${seed}, step ${step}, ${name}`)
            await device.close()
          }
        }
        follower.points.clear()
      }
      told += follower.told
      await rig.volume.close()
    }
    t.ok(told > 100 && failed > 100, `${told} told, ${failed} failed, ${lost} lost`)
  })
}

async function change({ volume }: SpaceRig, dice: Random, step: number): Promise<void> {
  const grain = dice(GRAINS - 4)
  const value = 1 + dice(250)
  switch (dice(8)) {
    case 0: await volume.points.create({ name: `s${step}-${value}`, kind: 'snapshot', ...dice(8) > 0 && { labels: { auto: 'undo' } } }); break
    case 1: await volume.zero(grain * GRAIN + dice(GRAIN), dice(4 * GRAIN) + 1, SLOW); break
    case 2: await volume.trim(grain * GRAIN, GRAIN * (1 + dice(4))); break
    case 3: await volume.zero(100, 20 * GRAIN, SLOW); break
    case 4: await volume.write(grain * GRAIN, 2 * GRAIN, Buffer.alloc(2 * GRAIN, value), 0); break
    default: await volume.write(grain * GRAIN + dice(GRAIN), GRAIN, Buffer.alloc(GRAIN, value), 0)
  }
}
