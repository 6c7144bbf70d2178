/**
 * Place: one volume of a simulated site over its life: free for its hosts, or the target of a mirror. After each step it is looked at:
 *
 *   free      it holds what its hosts wrote, and nothing else: a late request, or an old primary, has changed nothing (S4, X9, X10)
 *   target    clients see the declared point, or what a stream has brought since (watch.ts)
 *   target -> free    what it shows to hosts is that, whatever a cycle had done to it (C10, S1)
 *   free -> target    what its hosts did is kept as a snapshot before it is overwritten (D14, S5)
 *
 * To look costs nothing when nothing was written to the volume's disks since, and nobody else has it.
 */
import type { Random } from '../../src/device/testing.js'
import type { PointInfo } from '../../src/volume/snappoint.js'
import { hasUndo, Hosts, isInheriting, snapshotOf } from './host.js'
import { differenceOf, type Image, imageOf, isBlank } from './image.js'
import type { SimVolume } from './machine.js'
import type { Process, Site } from './site.js'
import type { Ending } from './trouble.js'
import type { Shown, Watch } from './watch.js'
import { turn, Wrong } from './wrong.js'

/** Within so many turns the disks of a machine have answered. */
const SOON_TURNS = 20
/** Two requests, and in front of each a point that is declared; each waits as long as a mirror lets it, and a quarter more. */
const ANSWER_MS_MAX = 40_000

export class Place {
  readonly site: Site
  readonly name: string
  readonly hosts: Hosts
  /** The mirror whose target it is, as of the last look. */
  owner: string | undefined
  /** The mirror that knows it as its target, as of the last look; one that was forgotten begins anew. */
  #known: string | undefined
  #shown: Shown | undefined
  /** What was on it, and has to be kept; until the mirror shows another point on it. */
  #own: { readonly image: Image, readonly point: string | undefined } | undefined
  /** Snapshots that were given up for want of space, as of the last look; and whether some were since the one before. */
  #given: { readonly process: Process | undefined, readonly count: number } = { process: undefined, count: 0 }
  #hasGiven = false
  #looked: { process: Process, changes: number } | undefined
  /** A promotion was answered: this mirror is refused from now on. */
  #promoted: { readonly mirror: string, readonly epoch: number } | undefined
  readonly #watchOf: (mirror: string) => Watch
  #request: { readonly process: Process, readonly sinceMs: number, readonly answer: Promise<void> } | undefined

  constructor(site: Site, name: string, random: Random, watchOf: (mirror: string) => Watch) {
    this.site = site
    this.name = name
    this.hosts = new Hosts(random, () => site.machine.trouble)
    this.#watchOf = watchOf
  }

  get volume(): SimVolume { return this.site.process.volume(this.name) }
  get shown(): Shown | undefined { return this.#shown }
  get isFree(): boolean {
    const { process } = this.site
    return !process.stopping && this.owner === undefined && ownerOf(process, this.volume.uuid) === undefined && !process.isClosed(this.name)
  }

  /** So often its hosts have deleted something, or an undo point was given up for want of space. */
  get losses(): number { return this.hosts.deletions + (this.volume.space?.sacrifices ?? 0) }

  /** What its hosts wait for; undefined: for nothing. */
  get waiting(): Promise<void> | undefined {
    return this.#request?.process === this.site.process ? this.#request.answer : undefined
  }

  /** Hosts ask for something. It goes on by itself, if it is not answered soon. @param failed in that case, whatever it was */
  async ask(run: () => Promise<void>, failed: (error: unknown) => void): Promise<void> {
    const { process } = this.site
    process.attached.add(this.name)
    const answer = run().finally(() => {
      process.attached.delete(this.name)
      if (this.#request?.answer === answer) this.#request = undefined
    })
    this.#request = { process, sinceMs: process.clock.now(), answer }
    answer.catch(failed)
    for (let turns = 0; this.waiting && turns < SOON_TURNS; turns++) await turn()
  }

  async look(): Promise<void> {
    const { process, machine } = this.site
    if (this.#promoted) this.#judgePromotion(this.#promoted)
    if (this.waiting && process.clock.now() - this.#request!.sinceMs > ANSWER_MS_MAX) {
      throw new Wrong(`hosts of ${this.#label} wait for a target that is lost`)
    }
    const changes = machine.changes(this.volume.uuid)
    const given = this.volume.space?.sacrifices ?? 0
    this.#hasGiven = given > (this.#given.process === process ? this.#given.count : 0)
    this.#given = { process, count: given }
    await this.#giveUp()
    const owner = ownerOf(process, this.volume.uuid)
    if (owner !== undefined && owner !== this.#known) this.#watchOf(owner).restart()
    // A change for which it has no room may end a stream, and then the declared point is what counts.
    const isWell = this.volume.space?.budgetBytes === null && !machine.trouble.hasBegun
    if (owner !== undefined && !isWell) this.#watchOf(owner).targetFailed()
    this.#known = process.secondaries.of(this.volume.uuid)?.mirror ?? process.mirrors.ofTarget(this.volume.uuid)?.record.uuid
    const same = this.#looked?.process === process && this.#looked.changes === changes && !isInheriting(this.volume)
    if (same && owner === this.owner && (!owner || this.#shown?.point === shownBy(process, this.volume.uuid)?.uuid)) return
    this.#looked = { process, changes }
    if (owner === undefined) await this.#lookFree()
    else await this.#lookOwned(owner)
    this.owner = owner
  }

  /** A crash of its site. */
  async reopened(ending: Ending): Promise<void> {
    if (this.owner !== undefined) this.#watchOf(this.owner).targetFailed()
    if (this.owner === undefined) return this.hosts.reopened(this.volume, ending)
    if (ending === 'killed' || !this.#own || await this.#hasKept(this.#own.image)) return
    // No cycle has begun yet: what hosts had not flushed may be gone.
    await this.hosts.reopened(this.volume, ending)
    const { image } = this.hosts
    this.#own = this.#isAsReleased(image) ? undefined : { ...this.#own, image }
  }

  /** A reversal has given it other content: one of these. */
  restored(images: readonly Image[]): void {
    this.hosts.restored(images)
    this.#looked = undefined
  }

  /** What hosts have done here has become the source's: that is a point of it now, and nobody's own any more. */
  accepted({ uuid, labels }: PointInfo): void {
    if (this.owner === undefined) this.#released = { point: uuid, origin: labels['origin'], image: this.hosts.image }
  }

  promoted(mirror: string, epoch: number): void { this.#promoted = { mirror, epoch } }

  /** With the secondary its epoch is forgotten. */
  forgotten(): void { this.#promoted = undefined }

  /** Whether it is an image of what hosts did here that has to be kept. */
  isKept(image: Image): boolean { return this.#own?.image === image }

  async #lookFree(): Promise<void> {
    const image = await imageOf(this.volume)
    if (this.owner === undefined) {
      if (this.hosts.isSeen(image, isInheriting(this.volume))) return
      throw new Wrong(`volume ${this.#label} is not what was written to it (S4, X9): ${differenceOf(this.hosts.image, image)}`)
    }
    const watch = this.#watchOf(this.owner)
    const point = this.volume.points.list().findLast(({ labels, pins }) =>
      // Of one that is gone clones may have some.
      labels['mirror'] === this.owner && labels['frozen'] === undefined && pins.some(({ owner }) => owner.startsWith('mirror ')))
    const shown = point ? { point: point.uuid, origin: point.labels['origin'], image } : this.#shown && { ...this.#shown, image }
    // A deletion that a disk has cut short may have left some of its points, and not what it was let go at.
    if (this.site.machine.trouble.hasBegun && point && await snapshotOf(this.volume, point.name) !== image) watch.ended(image)
    else if (shown && point) watch.letGo(this.#shown = shown)
    else if (shown) watch.ended(shown.image)
    else if (watch.hasShown) throw new Wrong(`volume ${this.#label} was let go at no point (C10, S1)`)
    if (this.#own && this.#own.image !== image && !await this.#hasKept(this.#own.image)) {
      throw new Wrong(`what was done on volume ${this.#label} was not kept when it was let go (D14)`)
    }
    this.#own = undefined
    this.hosts.taken(image, !shown)
    this.#released = shown
    this.#shown = undefined
  }

  /** The point that it was let go at. */
  #released: Shown | undefined

  async #lookOwned(owner: string): Promise<void> {
    const watch = this.#watchOf(owner)
    if (owner !== this.owner) {
      const { image } = this.hosts
      // Of a blank one there is nothing to be kept.
      this.#own = isBlank(image) || this.#isAsReleased(image) ? undefined : { image, point: this.#released?.point }
      await this.#giveUp()
    }
    const found = shownBy(this.site.process, this.volume.uuid)
    if (owner !== this.owner && !found && watch.isEnding) watch.restart()
    this.#shown = found && { point: found.uuid, origin: found.labels['origin'], image: await snapshotOf(this.volume, found.name) }
    watch.shown(this.#shown)
    if (!this.#own || !this.#shown || this.#shown.point === this.#own.point) return
    // The target may show an older copy of a snapshot, if the point it was let go at is gone, and has been written to by nobody yet.
    if (await imageOf(this.volume) === this.#own.image) return
    const kept = await this.#hasKept(this.#own.image)
    if (kept === false) throw new Wrong(`what was done on volume ${this.#label} was not kept (D14)`)
    if (kept === true) this.#own = undefined
  }

  /** Hosts have done nothing since that is left. */
  #isAsReleased(image: Image): boolean { return this.#released ? image === this.#released.image : isBlank(image) }

  /** There was no room for what was kept of it. */
  async #giveUp(): Promise<void> {
    if (this.#own && this.#hasGiven && await this.#hasKept(this.#own.image) !== true) this.#own = undefined
  }

  #hasKept(image: Image): ReturnType<typeof hasUndo> {
    return hasUndo(this.volume, one => one === image)
  }

  #judgePromotion({ mirror, epoch }: { readonly mirror: string, readonly epoch: number }): void {
    const state = this.site.process.secondaries.of(this.volume.uuid)
    if (state?.mirror !== mirror || (state.phase === 'released' && state.epoch >= epoch)) return
    throw new Wrong(`volume ${this.#label} was promoted, and is ${state.phase} in epoch ${state.epoch} (S4, X10)`)
  }

  get #label(): string { return `${this.site.name}/${this.name}` }
}

/** Uuid of the mirror to which clients of the volume owe what they see. */
export function ownerOf({ mirrors, secondaries }: Process, volume: string): string | undefined {
  const secondary = secondaries.of(volume)
  if (secondary?.phase === 'secondary') return secondary.mirror
  return mirrors.ownerOf(volume)?.record.uuid
}

function shownBy({ mirrors, secondaries }: Process, volume: string): ReturnType<Process['secondaries']['declaredPoint']> {
  return secondaries.of(volume)?.phase === 'secondary' ? secondaries.shownPoint(volume) : mirrors.ownerOf(volume)?.shownPoint()
}
