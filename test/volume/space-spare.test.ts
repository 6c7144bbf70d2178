// S8: a snapshot that its maker can do without (the image of a mirror's cycle) is given up behind undo points, before a write is refused.
import t from 'tap'
import type { PointDevice } from '../../src/volume/snappoint.js'
import { settle } from './inherit-lab.js'
import { GRAIN, readAll } from './lab.js'
import { SpaceRig } from './space-lab.js'

const NO_SPACE = { code: 'no-space' }
/** Whoever is told to let go is not waited for longer. */
const LET_GO_MS = 5000
const PIN = { owner: 'mirror m', expiresAt: null }

/** As a mirror: has a snapshot open, and closes it some turns after it was told to. */
class Maker {
  /** How often it was told. */
  told = 0
  /** It does not let go before that. */
  going: Promise<unknown> = Promise.resolve()
  device: PointDevice | undefined
  readonly name: string
  readonly #rig: SpaceRig

  constructor(rig: SpaceRig, name: string) {
    this.#rig = rig
    this.name = name
  }

  static async of(rig: SpaceRig, name: string): Promise<Maker> {
    const maker = new Maker(rig, name)
    await maker.make()
    maker.device = rig.volume.points.open(name, { yields: true })
    return maker
  }

  async make(): Promise<void> {
    await this.#rig.volume.points.create({ name: this.name, kind: 'snapshot', pins: [PIN], letGo: () => { void this.#letGo() } })
  }

  async #letGo(): Promise<void> {
    this.told++
    await this.going
    await new Promise<void>(resolve => { setImmediate(resolve) })
    await this.device?.close()
  }
}

for (const what of ['budget', 'disk'] as const) t.test(`${what}: undo points first, then what can be done without, then it fails`, async t => {
  const rig = await SpaceRig.open({ ...what === 'budget' && { budget: 4 } })
  if (what === 'disk') rig.points.capacity = 4
  const first = await Maker.of(rig, 'image-1')
  await rig.touch(0, 2)
  await rig.snapshot('u', true)
  await rig.touch(1, 2)
  await rig.snapshot('mine')
  await rig.volume.points.pin('mine', { owner: 'me', expiresAt: null })
  const second = await Maker.of(rig, 'image-2')
  await rig.touch(2, 2)
  await rig.touch(3, 2)
  t.strictSame([rig.names, rig.kept], [['image-1', 'u', 'mine', 'image-2'], 4])
  t.strictSame((await readAll(first.device!))[0], 1)
  // What u keeps the older image needs, and u gives back nothing; image-1 has 0 and 1 then.
  await rig.touch(4, 3)
  t.strictSame([rig.names, first.told, second.told], [['mine', 'image-2'], 1, 0])
  t.match(rig.volume.space, { sacrifices: 2, lastSacrifice: { name: 'image-1', why: what }, failing: null, keptBytes: 3 * GRAIN })
  await rig.touch(5, 3)
  await t.rejects(rig.touch(6, 3), NO_SPACE, 'mine has taken over what the image kept')
  t.strictSame([rig.names, second.told], [['mine'], 1])
  t.match(rig.volume.space, { sacrifices: 3, lastSacrifice: { name: 'image-2' }, failing: what })
  t.strictSame(await rig.content('mine'), [2, 2, ...Array<number>(14).fill(1)])
  const warned = rig.warnings.filter(({ message }) => /was given up/.test(message))
  t.strictSame(warned.map(({ point, why }) => [point, why]), [['u', what], ['image-1', what], ['image-2', what]])
  await rig.volume.close()
})

t.test('whole grains, staged: at the exact grain, and promises for it are over', async t => {
  const rig = await SpaceRig.open({ budget: 4, staging: true })
  const maker = await Maker.of(rig, 'image')
  for (let grain = 0; grain < 4; grain++) await rig.write(grain, 2)
  t.strictSame([maker.told, rig.kept], [0, 4])
  for (let grain = 4; grain < 16; grain++) await rig.write(grain, 2)
  t.strictSame([maker.told, rig.names, rig.kept], [1, [], 0])
  t.strictSame(await rig.live(), Array<number>(16).fill(2))
  await rig.volume.close()
})

t.test("order 'fail': nobody is told", async t => {
  const rig = await SpaceRig.open({ budget: 1, order: 'fail' })
  const maker = await Maker.of(rig, 'image')
  await rig.touch(0, 2)
  await t.rejects(rig.touch(1, 2), NO_SPACE)
  t.strictSame([maker.told, rig.names], [0, ['image']])
  await maker.device!.close()
  await rig.volume.close()
})

t.test('what somebody else reads, or has pinned, stays, and its maker goes on', async t => {
  const rig = await SpaceRig.open({ budget: 1 })
  const maker = await Maker.of(rig, 'image')
  await rig.touch(0, 2)
  const reader = rig.volume.points.open('image')
  await t.rejects(rig.touch(1, 2), NO_SPACE)
  await reader.close()
  await rig.volume.points.pin('image', { owner: 'me', expiresAt: null })
  await t.rejects(rig.touch(1, 2), NO_SPACE)
  t.strictSame([maker.told, rig.names, rig.volume.space.sacrifices], [0, ['image'], 0])
  await rig.volume.points.unpin('image', 'me')
  await rig.touch(1, 2)
  t.strictSame([maker.told, rig.names], [1, []])
  await rig.volume.close()
})

t.test('nobody has it open: it goes at once, though its maker has it pinned; others\' snapshots that are read so never do', async t => {
  const rig = await SpaceRig.open({ budget: 1 })
  const maker = new Maker(rig, 'image')
  await maker.make()
  await rig.touch(0, 2)
  await rig.touch(1, 2)
  t.strictSame([maker.told, rig.names], [1, []])
  await rig.snapshot('mine')
  const reader = rig.volume.points.open('mine', { yields: true })
  await rig.touch(2, 2)
  await t.rejects(rig.touch(3, 2), NO_SPACE)
  t.strictSame(rig.names, ['mine'])
  await reader.close()
  await rig.volume.close()
})

t.test('a maker that does not let go is not waited for any longer, and not told twice; later it goes at once', async t => {
  const rig = await SpaceRig.open({ budget: 1 })
  const maker = await Maker.of(rig, 'image')
  let release = (): void => undefined
  maker.going = new Promise<void>(resolve => { release = resolve })
  await rig.touch(0, 2)
  const startedMs = rig.clock.now()
  await t.rejects(settle(rig.clock, rig.touch(1, 2)), NO_SPACE)
  const waitedMs = rig.clock.now() - startedMs
  t.ok(waitedMs >= LET_GO_MS && waitedMs < LET_GO_MS + 200, `${waitedMs} ms`)
  await t.rejects(rig.touch(1, 2), NO_SPACE, 'at once')
  t.strictSame([maker.told, rig.names], [1, ['image']])
  release()
  await settle(rig.clock, maker.going)
  for (let turn = 0; turn < 3; turn++) await new Promise<void>(resolve => { setImmediate(resolve) })
  await rig.touch(1, 2)
  t.strictSame([maker.told, rig.names], [1, []])
  await rig.volume.close()
})

t.test('one that is just being made is waited for, and given up', async t => {
  const rig = await SpaceRig.open({ budget: 0 })
  const maker = new Maker(rig, 'image')
  const { points } = rig
  const put = points.put.bind(points)
  let write: Promise<void> | undefined
  points.put = async (...args) => {
    // It needs old content already, and is in no table.
    write ??= rig.touch(3, 2)
    for (let turn = 0; turn < 5; turn++) await new Promise<void>(resolve => { setImmediate(resolve) })
    await put(...args)
  }
  await maker.make()
  await write
  t.strictSame([maker.told, rig.names, (await rig.live())[3]], [1, [], 2])
  await rig.volume.close()
})

t.test('its maker deletes it by itself when it is told', async t => {
  const rig = await SpaceRig.open({ budget: 1 })
  const points = rig.volume.points
  let deleted: Promise<void> | undefined
  const device: { close(): Promise<void> }[] = []
  await points.create({ name: 'image', kind: 'snapshot', pins: [PIN], letGo: () => {
    void device[0]!.close()
    deleted = points.delete('image', [PIN.owner])
  } })
  device.push(points.open('image', { yields: true }))
  await rig.touch(0, 2)
  await rig.touch(1, 2)
  await deleted
  t.strictSame(rig.names, [])
  t.match(rig.volume.space, { failing: null, sacrifices: 1, lastSacrifice: { name: 'image' } })
  await rig.volume.close()
})

t.test('many writes at once: one telling serves all who wait', async t => {
  const rig = await SpaceRig.open({ budget: 2 })
  const makers = [await Maker.of(rig, 'image-1'), await Maker.of(rig, 'image-2')]
  await Promise.all(Array.from({ length: 16 }, (_, grain) => rig.touch(grain, 2)))
  t.strictSame([makers.map(({ told }) => told), rig.names], [[1, 1], []])
  t.equal(rig.warnings.filter(({ message }) => /was given up/.test(message)).length, 2)
  await rig.volume.close()
})
