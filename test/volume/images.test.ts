// Images, which keep only what their maker is going to read: that part is as it was, and whatever else is kept is kept for others.
import t from 'tap'
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { MemoryDisk, seededRandom } from '../../src/device/testing.js'
import type { Volume } from '../../src/volume/volume.js'
import { MemoryInherit } from './inherit-lab.js'
import { contentOf, type Disks, freshDisks, GRAIN, killed, openOn, readAll } from './lab.js'
import { MemoryPoints, StagedPoints } from './point-lab.js'

const G = GRAIN
const GRAINS = 16
const SIZE = GRAINS * G
const filled = (value: number, grains = 1): Buffer => Buffer.alloc(grains * G, value)
const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31))
const RUNS = Number(process.env.RUNS ?? 100)

async function fresh(): Promise<{ disks: Disks, points: StagedPoints, volume: Volume }> {
  const disks = await freshDisks({ sizeBytes: SIZE })
  const points = new StagedPoints(new MemoryDisk(2 ** 20))
  const volume = await openOn(disks, SIZE, { points })
  await volume.write(0, SIZE, filled(1, GRAINS), 0)
  return { disks, points, volume }
}

t.test('an image keeps what has changed since its base, and nothing else', async t => {
  const volume = await openOn(await freshDisks({ sizeBytes: SIZE }), SIZE, { points: new MemoryPoints() })
  await volume.write(0, SIZE, filled(1, GRAINS), 0)
  await volume.points.create({ name: 'base', kind: 'bookmark' })
  await volume.write(2 * G, 2 * G, filled(2, 2), 0)
  const also = new GrainBitmap(GRAINS)
  also.set(8, 9)
  await volume.points.create({ name: 'image', kind: 'snapshot', keeps: { since: 'base', from: 14, also } })
  await volume.write(0, SIZE, filled(3, GRAINS), 0)
  await volume.flush()
  t.equal((await volume.points.facts('image')).exclusiveBytes, 5 * G)
  const content = await contentOf(volume, 'image')
  t.strictSame([2, 3, 8, 14, 15].map(grain => content[grain * G]), [2, 2, 1, 1, 1])
  t.equal(volume.points.get('image')!.labels['auto'], 'image')
})

t.test('what its reader has passed is not kept any more', async t => {
  const volume = await openOn(await freshDisks({ sizeBytes: SIZE }), SIZE, { points: new MemoryPoints() })
  await volume.write(0, SIZE, filled(1, GRAINS), 0)
  await volume.points.create({ name: 'base', kind: 'bookmark' })
  await volume.write(0, SIZE, filled(2, GRAINS), 0)
  await volume.points.create({ name: 'image', kind: 'snapshot', keeps: { since: 'base', from: GRAINS } })
  const device = volume.points.open('image', { image: true })
  device.forget(5 * G + 1)
  device.forget(2 * G)
  await volume.write(0, SIZE, filled(3, GRAINS), 0)
  t.equal((await volume.points.facts('image')).exclusiveBytes, 11 * G)
  t.ok((await readAll(device)).subarray(5 * G).equals(filled(2, 11)))
  await device.close()
})

t.test('D1: one whose base has gone takes nothing of live with it when it goes', async t => {
  const volume = await openOn(await freshDisks({ sizeBytes: SIZE }), SIZE, { points: new MemoryPoints() })
  await volume.write(0, SIZE, filled(1, GRAINS), 0)
  await volume.points.create({ name: 'base', kind: 'bookmark' })
  await volume.points.create({ name: 'image', kind: 'snapshot', keeps: { since: 'base', from: GRAINS } })
  await volume.write(6 * G, G, filled(2), 0) // it does not need that
  await volume.points.delete('base')
  await volume.trim(6 * G, G) // and now it does
  await volume.write(6 * G, G, filled(3), 0)
  await volume.points.delete('image')
  await volume.points.settled()
  t.ok((await readAll(volume, 6 * G, G)).equals(filled(3)))
  await volume.close()
})

t.test('nobody else opens it, nor restores it', async t => {
  const points = new MemoryPoints()
  const volume = await openOn(await freshDisks({ sizeBytes: SIZE }), SIZE, { points, inherit: new MemoryInherit(points) })
  await volume.points.create({ name: 'base', kind: 'bookmark' })
  await volume.points.create({ name: 'image', kind: 'snapshot', keeps: { since: 'base', from: GRAINS } })
  const refusal = { code: 'bad-argument', message: '\'image\' keeps only what a mirror is shipping' }
  t.throws(() => volume.points.open('image'), refusal)
  await t.rejects(volume.restore({ from: 'image' }), refusal)
})

t.test('its base has to be there', async t => {
  const { volume } = await fresh()
  await t.rejects(volume.points.create({ name: 'image', kind: 'snapshot', keeps: { since: 'base', from: 0 } }), { code: 'not-found' })
})

t.test('what an image does not keep the snapshot before it does', async t => {
  const { volume, disks, points } = await fresh()
  await volume.points.create({ name: 's', kind: 'snapshot' })
  await volume.points.create({ name: 'base', kind: 'bookmark' })
  await volume.write(2 * G, G, filled(2), 0)
  await volume.points.create({ name: 'image', kind: 'snapshot', keeps: { since: 'base', from: GRAINS } })
  await volume.write(2 * G, G, filled(3), 0)
  await volume.write(5 * G, G, filled(3), 0)
  await volume.trim(6 * G, 4 * G)
  await volume.flush()
  t.ok((await contentOf(volume, 's')).equals(filled(1, GRAINS)))
  const again = await openOn(killed(disks), SIZE, { points: points.fork() })
  t.ok((await contentOf(again, 's')).equals(filled(1, GRAINS)), 'behind a crash')
  await again.write(5 * G, G, filled(4), 0)
  await again.points.delete('image')
  await again.points.settled()
  t.ok((await contentOf(again, 's')).equals(filled(1, GRAINS)), 'without the image')
})

/** What a snapshot showed at its instant, and which grains of it count. */
interface Known { readonly content: Buffer, readonly counts: (grain: number) => boolean, done: number }

/** Random changes of a volume with snapshots, bookmarks and images, looked at after each. */
class Walk {
  readonly #random: (below: number) => number
  readonly #snapshots = new Map<string, Known>()
  readonly #bookmarks = new Set<string>()
  readonly #live = filled(1, GRAINS)
  #disks!: Disks
  #points!: StagedPoints
  #volume!: Volume
  #count = 0

  constructor(seed: number) { this.#random = seededRandom(seed) }

  async run(steps: number): Promise<string | undefined> {
    ({ disks: this.#disks, points: this.#points, volume: this.#volume } = await fresh())
    for (let i = 0; i < steps; i++) {
      await this.#step()
      const wrong = await this.#judge()
      if (wrong !== undefined) return `step ${i}: ${wrong}`
    }
    return undefined
  }

  async #step(): Promise<void> {
    const [random, volume] = [this.#random, this.#volume]
    const roll = random(100)
    if (roll < 55) await this.#change()
    else if (roll < 63) {
      const name = `b${this.#count++}`
      await volume.points.create({ name, kind: 'bookmark' })
      this.#bookmarks.add(name)
    } else if (roll < 70) {
      const name = `s${this.#count++}`
      await volume.points.create({ name, kind: 'snapshot' })
      this.#snapshots.set(name, { content: Buffer.from(this.#live), counts: () => true, done: 0 })
    } else if (roll < 79) await this.#image()
    else if (roll < 82) await this.#pass()
    else if (roll < 92) await this.#delete()
    else if (roll < 96) await volume.flush()
    else await this.#crash()
  }

  async #change(): Promise<void> {
    const [random, volume] = [this.#random, this.#volume]
    const from = random(GRAINS)
    const to = from + 1 + random(Math.min(4, GRAINS - from))
    const value = 2 + random(250)
    const way = random(4)
    if (way === 0) await volume.trim(from * G, (to - from) * G)
    else if (way === 1) await volume.zero(from * G, (to - from) * G, { allocate: false, fast: false })
    else await volume.write(from * G, (to - from) * G, filled(value, to - from), 0)
    this.#live.fill(way < 2 ? 0 : value, from * G, to * G)
  }

  async #image(): Promise<void> {
    const [random, volume] = [this.#random, this.#volume]
    const bases = [...this.#bookmarks, ...this.#snapshots.keys()]
    if (bases.length === 0) return
    const since = bases[random(bases.length)]
    const also = random(2) === 0 ? undefined : new GrainBitmap(GRAINS)
    if (also) also.set(random(GRAINS), GRAINS)
    const from = random(3) === 0 ? random(GRAINS) : GRAINS
    const name = `i${this.#count++}`
    await volume.points.create({ name, kind: 'snapshot', keeps: { since, from, also } })
    const kept = volume.points.changedMap(since, name)
    this.#snapshots.set(name, {
      content: Buffer.from(this.#live), counts: grain => grain >= from || kept.get(grain) || also?.get(grain) === true, done: 0,
    })
  }

  /** A reader goes on. */
  async #pass(): Promise<void> {
    const images = [...this.#snapshots].filter(([name]) => name.startsWith('i'))
    if (images.length === 0) return
    const [name, known] = images[this.#random(images.length)]
    known.done = Math.min(GRAINS, known.done + 1 + this.#random(4))
    const device = this.#volume.points.open(name, { image: true })
    device.forget(known.done * G)
    await device.close()
  }

  async #delete(): Promise<void> {
    const names = [...this.#bookmarks, ...this.#snapshots.keys()]
    if (names.length === 0) return
    const name = names[this.#random(names.length)]
    await this.#volume.points.delete(name)
    if (this.#random(2) === 0) await this.#volume.points.settled()
    this.#bookmarks.delete(name)
    this.#snapshots.delete(name)
  }

  /** An image is of no use afterwards, but for the snapshots before it. */
  async #crash(): Promise<void> {
    for (const [name, known] of this.#snapshots) if (name.startsWith('i')) this.#snapshots.set(name, { ...known, counts: () => false })
    await this.#volume.flush()
    this.#disks = killed(this.#disks)
    this.#points = this.#points.fork()
    this.#volume = await openOn(this.#disks, SIZE, { points: this.#points })
  }

  async #judge(): Promise<string | undefined> {
    if (!(await readAll(this.#volume)).equals(this.#live)) return 'live is wrong'
    for (const [name, { content, counts, done }] of this.#snapshots) {
      const found = await contentOf(this.#volume, name)
      for (let grain = done; grain < GRAINS; grain++) {
        if (counts(grain) && found[grain * G] !== content[grain * G]) return `grain ${grain} of ${name} was ${content[grain * G]}, is ${found[grain * G]}`
      }
    }
    return undefined
  }
}

t.test('among snapshots, bookmarks, deletions and crashes', async t => {
  t.comment(`seed ${SEED}`)
  for (let i = 0; i < RUNS && t.passing(); i++) t.equal(await new Walk(SEED + i).run(80), undefined, `seed ${SEED + i}`)
})
