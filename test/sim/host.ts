/**
 * The hosts of one simulated volume, and what it has to hold: every write, trim, restore and snapshot, and what a power cut may have taken
 * of it. They use it only while it is nobody's target. What they ask for is asked one after the other, and may take its time: a mirror
 * in mode sync lets it wait.
 */
import type { Pending } from '../../src/device/block-device.js'
import type { Random } from '../../src/device/testing.js'
import { differenceOf, GRAIN, GRAINS, type Image, imageOf, isMixOf, patched, SECTOR, ZEROS } from './image.js'
import type { SimVolume } from './machine.js'
import { never } from './medium.js'
import { expected, Wrong } from './wrong.js'

const SNAPSHOTS_MAX = 3
const BYTES = 255
/** So many operations later hosts flush anyway. */
const UNFLUSHED_MAX = 12
const SLOW = { allocate: false, fast: false }

export class Hosts {
  image: Image = ZEROS
  /** All that they saw, oldest first; what an operation that runs will show comes last. */
  readonly views: Image[] = [ZEROS]
  readonly snapshots = new Map<string, Image>()
  /** Before each operation since the last flush. */
  #unflushed: Image[] = []
  #names = 0
  /** What was asked for and not answered: what the volume holds then; undefined: what it does. */
  #asked: { readonly next: Image | undefined } | undefined
  /** What a mirror wrote here may not be durable: a power cut leaves anybody's bytes, until the next flush. */
  #isLoose = false
  #byte = 0
  readonly #random: Random

  constructor(random: Random) { this.#random = random }

  async write(volume: SimVolume): Promise<void> {
    const { offset, length } = this.#range()
    const byte = this.#byte = 1 + this.#byte % BYTES
    await this.#change(patched(this.image, offset, length, byte), () => volume.write(offset, length, Buffer.alloc(length, byte), 0))
    if (this.#unflushed.length > UNFLUSHED_MAX) await this.flush(volume)
  }

  async trim(volume: SimVolume): Promise<void> {
    const { offset, length } = this.#range()
    await this.#change(patched(this.image, offset, length, 0), () => volume.zero(offset, length, SLOW))
  }

  async flush(volume: SimVolume): Promise<void> {
    await this.#ask(undefined, () => volume.flush())
    this.#unflushed = []
    this.#isLoose = false
  }

  async snapshot(volume: SimVolume): Promise<void> {
    if (this.snapshots.size >= SNAPSHOTS_MAX) return this.delete(volume)
    // A mirror may have brought some.
    do this.#names++; while (volume.points.get(`s${this.#names}`))
    const name = `s${this.#names}`
    await volume.points.create({ name, kind: 'snapshot' })
    this.snapshots.set(name, this.image)
  }

  async restore(volume: SimVolume): Promise<void> {
    const name = this.#some()
    if (!name) return
    await this.#change(this.snapshots.get(name)!, async () => { await volume.restore({ from: name }) })
  }

  /** One of theirs, or what restores and mirrors have kept. */
  async delete(volume: SimVolume, wanted: (image: Image) => boolean = () => false): Promise<void> {
    const name = this.#some()
    if (name) await volume.points.delete(name).then(() => { this.snapshots.delete(name) }, expected)
    for (const { name: undo, labels } of volume.points.list()) {
      // One that a release has made goes by itself, perhaps while another is looked at.
      if (labels['auto'] !== 'undo' || !volume.points.get(undo) || wanted(await snapshotOf(volume, undo))) continue
      await volume.points.delete(undo).catch(expected)
    }
  }

  /** The volume was opened again after a crash. */
  async reopened(volume: SimVolume, power: boolean): Promise<void> {
    const found = await imageOf(volume)
    const was = [this.image, ...this.#asked?.next === undefined ? [] : [this.#asked.next]]
    this.#asked = undefined
    if (power ? !this.#isLoose && !isMixOf(found, [...this.#unflushed, ...was]) : !isMixOf(found, was)) {
      const what = differenceOf(this.image, found)
      throw new Wrong(`after a ${power ? 'power cut' : 'kill'} the volume is not what was written to it (D1, D2): ${what}`)
    }
    // What a killed process had not flushed a power cut may take later.
    if (power) this.taken(found)
    else if (was.length > 1) {
      this.#unflushed.push(...was)
      this.image = found
      this.views.push(found)
    }
    for (const [name, image] of this.snapshots) {
      if (!volume.points.get(name)) throw new Wrong(`snapshot ${name} is gone`)
      if (await snapshotOf(volume, name) !== image) throw new Wrong(`snapshot ${name} is not what it froze (D3)`)
    }
  }

  /** They find this from now on. @param isLoose it need not be durable */
  taken(image: Image, isLoose = false): void {
    this.image = image
    this.views.push(image)
    this.#unflushed = []
    this.#isLoose = isLoose
  }

  /** Place of the first of the views that somebody can see who looks now. */
  get now(): number { return this.views.length - (this.#asked?.next === undefined ? 1 : 2) }

  /** What somebody who looks now may find. */
  isSeen(image: Image): boolean { return image === this.image || image === this.#asked?.next }

  async #change(next: Image, run: () => Pending): Promise<void> {
    this.views.push(next)
    await this.#ask(next, run)
    this.#unflushed.push(this.image)
    this.image = next
  }

  async #ask(next: Image | undefined, run: () => Pending): Promise<void> {
    const asked = this.#asked = { next }
    const pending = run()
    if (pending) await pending
    // A crash was the answer.
    if (this.#asked !== asked) return never()
    this.#asked = undefined
  }

  #some(): string | undefined { return [...this.snapshots.keys()][this.#random(Math.max(1, this.snapshots.size))] }

  #range(): { offset: number, length: number } {
    const grain = this.#random(GRAINS)
    if (this.#random(3) > 0) return { offset: grain * GRAIN, length: GRAIN * (1 + this.#random(GRAINS - grain)) }
    const sector = this.#random(8)
    return { offset: grain * GRAIN + sector * SECTOR, length: SECTOR * (1 + this.#random(8 - sector)) }
  }
}

export async function snapshotOf(volume: SimVolume, name: string): Promise<Image> {
  const device = volume.points.open(name)
  try { return await imageOf(device) } finally { await device.close() }
}
