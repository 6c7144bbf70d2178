/**
 * The hosts of one simulated volume, and what it has to hold: every write, trim, restore and snapshot, and what a power cut may have taken
 * of it. They use it only while it is nobody's target. What they ask for is asked one after the other, and may take its time: a mirror
 * in mode sync lets it wait.
 */
import { NbdeltaError } from '../../src/device/errors.js'
import type { Pending } from '../../src/device/block-device.js'
import type { Random } from '../../src/device/testing.js'
import { differenceOf, GRAIN, type Image, imageOf, isMixOf, partOf, patched, resized, SECTOR, ZEROS } from './image.js'
import type { SimVolume } from './machine.js'
import { never } from './medium.js'
import type { Ending, Trouble } from './trouble.js'
import { expected, Wrong } from './wrong.js'

const SNAPSHOTS_MAX = 3
const BYTES = 255
/** So many operations later hosts flush anyway. */
const UNFLUSHED_MAX = 12
type Change = (image: Image) => Image
type Outcome = 'done' | 'refused' | 'failed'
interface Asked { readonly change: Change | undefined, next: Image | undefined }
/** What fails so, on a disk that fails, may be there in part; a mirror's target, for one, may have its size. */
const FAILURES: readonly string[] = ['io', 'flush-failed', 'no-space']
/** What is refused so has changed nothing: there is no room for what a snapshot keeps, or the snapshot is gone. */
const REFUSALS: readonly string[] = ['no-space', 'not-found', 'busy']
const SIZES = [2 * GRAIN, 3 * GRAIN, 3 * GRAIN + 3 * SECTOR, 4 * GRAIN, 4 * GRAIN, 5 * GRAIN + SECTOR, 6 * GRAIN] as const
const SLOW = { allocate: false, fast: false }

export class Hosts {
  image: Image = ZEROS
  /** All that they saw, oldest first; what an operation that runs will show comes last. */
  readonly views = Object.assign([ZEROS], { pieces: new Map<number, readonly Image[]>() })
  readonly snapshots = new Map<string, Image>()
  /** Before each operation since the last flush. */
  #unflushed: Image[] = []
  #names = 0
  /** What was asked for and not answered: what it makes of what the volume holds, and that; undefined: it changes nothing. */
  #asked: Asked | undefined
  /** What the volume may hold, when a reversal has come between what was asked for and its answer. Empty: it is known. */
  #doubt: readonly Image[] = []
  /** A reversal is being decided: after a crash the volume may hold one of these instead. */
  #becoming: readonly Image[] = []
  /** So often they have deleted something. */
  deletions = 0
  /** So often something was refused to them. */
  refused = 0
  /** What a mirror wrote here may not be durable: a power cut leaves anybody's bytes, until the next flush. */
  #isLoose = false
  #byte = 0
  /** What failed since the volume was opened: it may be done all the same when it is opened anew. */
  #mayBe: Image[] = []
  readonly #random: Random
  readonly #trouble: () => Trouble

  constructor(random: Random, trouble: () => Trouble) {
    this.#random = random
    this.#trouble = trouble
  }

  async write(volume: SimVolume): Promise<void> {
    const { offset, length } = this.#range(volume)
    const byte = this.#byte = 1 + this.#byte % BYTES
    await this.#change(volume, image => patched(image, offset, length, byte), () => volume.write(offset, length, Buffer.alloc(length, byte), 0))
    if (this.#unflushed.length > UNFLUSHED_MAX) await this.flush(volume)
  }

  async trim(volume: SimVolume): Promise<void> {
    const { offset, length } = this.#range(volume)
    await this.#change(volume, image => patched(image, offset, length, 0), () => volume.zero(offset, length, SLOW))
  }

  async flush(volume: SimVolume): Promise<void> {
    if (await this.#ask(volume, undefined, () => volume.flush()) !== 'done') return
    this.#unflushed = []
    this.#isLoose = false
  }

  /** An operator gives the volume another size; hosts let it alone, should it become smaller. */
  async resize(volume: SimVolume, run: (sizeBytes: number) => Promise<void>, wanted?: number): Promise<void> {
    const sizeBytes = wanted ?? SIZES[this.#random(SIZES.length)]!
    const change = (image: Image): Image => resized(image, sizeBytes)
    await this.#change(volume, change, () => run(sizeBytes))
    if (this.image.length * SECTOR !== sizeBytes) return
    this.#unflushed = this.#unflushed.map(change)
    this.#mayBe = this.#mayBe.map(change)
  }

  async snapshot(volume: SimVolume): Promise<void> {
    if (this.snapshots.size >= SNAPSHOTS_MAX) return this.delete(volume)
    // A mirror may have brought some.
    do this.#names++; while (volume.points.get(`s${this.#names}`))
    const name = `s${this.#names}`
    // At its instant: a reversal may come before it.
    let images = this.current
    try {
      await volume.points.create({ name, kind: 'snapshot', atInstant: () => { images = this.current } })
    } catch (error) { return this.#failed(error) }
    this.snapshots.set(name, images.length > 1 ? await snapshotOf(volume, name) : images[0]!)
  }

  async restore(volume: SimVolume): Promise<void> {
    const [name, snapshot] = await this.#wanted(volume)
    if (name === undefined || snapshot === undefined) return
    const { sizeBytes } = volume
    const isWhole = this.#random(3) > 0 || snapshot.length * SECTOR !== sizeBytes
    const { offset, length } = isWhole ? { offset: 0, length: sizeBytes } : this.#range(volume)
    const change = (image: Image): Image => partOf(image, snapshot, offset, length)
    await this.#change(volume, change, async () => { await volume.restore({ from: name, ...!isWhole && { offset, length } }) })
  }

  /** One of their own, or what a restore or a mirror has kept. */
  async #wanted(volume: SimVolume): Promise<readonly [name: string | undefined, image: Image | undefined]> {
    const undo = volume.points.list().filter(({ labels }) => labels['auto'] === 'undo')
    const own = this.#some()
    if (undo.length === 0 || this.#random(4) > 0) return [own, own === undefined ? undefined : this.snapshots.get(own)]
    const { name } = undo[this.#random(undo.length)]!
    return [name, await snapshotOf(volume, name).catch(unlessLeaving)]
  }

  /** One of theirs, or what restores and mirrors have kept. */
  async delete(volume: SimVolume, wanted: (image: Image) => boolean = () => false): Promise<void> {
    this.deletions++
    const name = this.#some()
    if (name) await volume.points.delete(name).then(() => { this.snapshots.delete(name) }, (error: unknown) => {
      expected(error)
      // It may have begun.
      if (this.#isFailure(error)) this.snapshots.delete(name)
    })
    for (const { name: undo, labels } of volume.points.list()) {
      // One that a release has made goes by itself, perhaps while another is looked at.
      if (labels['auto'] !== 'undo' || !volume.points.get(undo)) continue
      const image = await snapshotOf(volume, undo).catch(unlessLeaving)
      if (image !== undefined && !wanted(image)) await volume.points.delete(undo).catch(expected)
    }
  }

  /** The volume was opened again after a crash. */
  async reopened(volume: SimVolume, ending: Ending): Promise<void> {
    const found = await imageOf(volume)
    const was = [...this.current]
    const becoming = this.#becoming.flatMap(image => this.#asked?.change ? [image, this.#asked.change(image)] : [image])
    was.push(...this.#mayBe.splice(0))
    this.#asked = undefined
    this.#doubt = this.#becoming = []
    const power = ending !== 'killed'
    if (!(power ? this.#isLoose || isMixOf(found, [...this.#unflushed, ...was]) : isMixOf(found, was))) {
      if (isMixOf(found, becoming)) {
        const before = power ? [...this.#unflushed, ...was] : was
        if (!await hasUndo(volume, image => isMixOf(image, before))) throw new Wrong('a reversal kept nothing of what it undid (D3, D6)')
        return this.taken(found)
      }
      const what = differenceOf(this.image, found)
      throw new Wrong(`after it was ${ending} the volume is not what was written to it (D1, D2): ${what}`)
    }
    // What a killed process had not flushed a power cut may take later.
    if (ending === 'cut') this.taken(found)
    else if (was.length > 1 || power) {
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

  /** Until the next call a reversal may have happened, with one of these; nobody writes meanwhile. */
  mayBecome(images: readonly Image[]): void { this.#becoming = images }

  /** A reversal has happened, durably, with one of these; what was asked for and is not answered comes before it or behind. */
  restored(images: readonly Image[]): void {
    const asked = this.#asked
    this.#becoming = []
    this.#unflushed = []
    this.#isLoose = false
    this.image = images[0]!
    if (asked?.change) asked.next = asked.change(this.image)
    const seen = asked?.change ? [...images, ...images.map(asked.change)] : images
    this.views.push(...seen)
    if (seen.length > 1) this.#doubt = seen
  }

  /** Place of the first of the views that somebody can see who looks now. */
  get now(): number { return this.views.length - this.current.length }

  /** What somebody who looks now may find; the last of the views. */
  get current(): readonly Image[] {
    if (this.#doubt.length > 0) return this.#doubt
    return this.#asked?.next === undefined ? [this.image] : [this.image, this.#asked.next]
  }

  /** What somebody who looks now may find. @param isPiecewise what is asked for may be there in part */
  isSeen(image: Image, isPiecewise: boolean): boolean {
    if (this.#asked && isPiecewise && isMixOf(image, this.current)) return true
    if (!this.current.includes(image)) return false
    if (!this.#asked) this.#settle(image)
    return true
  }

  #settle(image: Image): void {
    if (this.#doubt.length === 0) return
    this.#doubt = []
    this.image = image
    this.views.push(image)
  }

  async #change(volume: SimVolume, change: Change, run: () => Pending): Promise<void> {
    const next = change(this.image)
    const place = this.views.push(next) - 1
    const isPiecewise = isInheriting(volume)
    // While a restore is copied it goes piece by piece.
    if (isPiecewise || this.#trouble().hasBegun) this.views.pieces.set(place, [this.image, next])
    const outcome = await this.#ask(volume, change, run)
    if (outcome === 'done' && !isPiecewise) this.views.pieces.delete(place)
    // Nobody can have seen what was refused; what has failed a stream may have taken along.
    if (outcome === 'failed') this.views.push(this.image)
    else if (outcome === 'refused') this.views[place] = this.image
  }

  async #ask(volume: SimVolume, change: Change | undefined, run: () => Pending): Promise<Outcome> {
    const asked: Asked = { change, next: change?.(this.image) }
    this.#asked = asked
    const isWhole = !isInheriting(volume)
    const outcome = await this.#outcome(run)
    const isDone = outcome === 'done'
    // While a restore is copied a request goes piece by piece: before one that finds no room some are done.
    const isPiecewise = outcome === 'failed' || (!isDone && !(isWhole && !isInheriting(volume)))
    const found = this.#doubt.length > 0 || isPiecewise ? await imageOf(volume) : undefined
    // A crash was the answer.
    if (this.#asked !== asked) return never()
    this.#asked = undefined
    if (asked.next !== undefined && isDone) {
      this.#unflushed.push(this.image)
      this.image = asked.next
    }
    if (!isDone) this.refused++
    if (outcome === 'failed') this.#mayBe.push(this.image, asked.next ?? this.image)
    if (found === undefined) return outcome
    if (isPiecewise && isMixOf(found, [this.image, asked.next ?? this.image, ...this.#doubt])) {
      this.#unflushed.push(this.image)
      this.#doubt = [found]
    }
    if (!this.#doubt.includes(found)) throw new Wrong(`what was asked for around a reversal is neither before nor behind it: ${differenceOf(this.image, found)}`)
    this.#settle(found)
    return outcome
  }

  async #outcome(run: () => Pending): Promise<Outcome> {
    try {
      const pending = run()
      if (pending) await pending
      return 'done'
    } catch (error) {
      if (this.#isFailure(error)) return 'failed'
      if (error instanceof NbdeltaError && REFUSALS.includes(error.code)) return 'refused'
      throw error
    }
  }

  #isFailure(error: unknown): boolean {
    return this.#trouble().hasBegun && error instanceof NbdeltaError && FAILURES.includes(error.code)
  }

  /** Throws what is none of a disk that fails. */
  #failed(error: unknown): void { if (!this.#isFailure(error)) throw error }

  #some(): string | undefined { return [...this.snapshots.keys()][this.#random(Math.max(1, this.snapshots.size))] }

  #range({ sizeBytes }: SimVolume): { offset: number, length: number } {
    const grains = Math.ceil(sizeBytes / GRAIN)
    const grain = this.#random(grains)
    const offset = grain * GRAIN
    if (this.#random(3) > 0) return { offset, length: Math.min(sizeBytes - offset, GRAIN * (1 + this.#random(grains - grain))) }
    const sectors = Math.min(GRAIN, sizeBytes - offset) / SECTOR
    const sector = this.#random(sectors)
    return { offset: offset + sector * SECTOR, length: SECTOR * (1 + this.#random(sectors - sector)) }
  }
}

/** It shows content that is not its own yet: a restore or a promotion is copied, or it is a clone. */
export function isInheriting({ inheriting, inheritor }: SimVolume): boolean {
  return inheriting !== undefined || inheritor.foreign.length > 0
}

export async function snapshotOf(volume: SimVolume, name: string): Promise<Image> {
  const device = volume.points.open(name)
  try { return await imageOf(device) } finally { await device.close() }
}

/** Whether one of the undo snapshots has such content; `leaving`: perhaps one that is being given up. */
export async function hasUndo(volume: SimVolume, fits: (image: Image) => boolean): Promise<boolean | 'leaving'> {
  let found: false | 'leaving' = false
  for (const { name, labels } of volume.points.list()) {
    if (labels['auto'] !== 'undo') continue
    const image = await snapshotOf(volume, name).catch(unlessLeaving)
    if (image === undefined) found = 'leaving'
    else if (fits(image)) return true
  }
  return found
}

/** It is listed until its deletion is on the disk, and nobody opens it any more; or it has gone by then. */
export function unlessLeaving(error: unknown): undefined {
  if (!(error instanceof NbdeltaError) || (error.code !== 'busy' && error.code !== 'not-found')) throw error
}
