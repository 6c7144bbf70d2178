/**
 * Watch: what must hold of one mirror, whoever is alive: which images its source froze, and what clients of its target have seen.
 *
 *   C1, S1   the target shows the image of the point that it declares, whole, and never goes back to an older one
 *   C2       the frozen image is what hosts saw at an instant between the beginning and the end of the freeze
 *   C16      what a stream has brought is what hosts saw at some moment, and not before the point that was declared last
 *   sync     what was answered in step is there when the target stands on its own, unless its own server has died meanwhile
 *
 * What hosts saw is one list, in order; an image may be in it more than once, and what is asked is then whether any of its places will do.
 */
import type { Image } from './image.js'
import { differenceOf, isMixOf } from './image.js'
import { Wrong } from './wrong.js'

export interface Shown {
  /** Uuid of the target's own point. */
  readonly point: string
  /** Of the source's bookmark; undefined: a stream has brought it. */
  readonly origin: string | undefined
  readonly image: Image
}

/** What hosts saw; `pieces`: between which images those lie, by the place of the second, that may have been seen on the way to it. */
export type Views = readonly Image[] & { readonly pieces: ReadonlyMap<number, readonly Image[]> }

/** The first place in the views that it may be, and the number of its point in the volume: the same order for bookmarks' images and snapshots. */
export interface Frozen { readonly image: Image, readonly views: Views, readonly first: number, readonly seq: number }

/** A bookmark, where in the views it was made, and what the target may have had then. */
export interface Mark { readonly images: ReadonlySet<Image>, readonly views: Views, readonly from: number, readonly seq: number }

/** @param from place in the views of the first that could be seen meanwhile. Errors: Wrong, if it is none of them */
export function frozenOf(image: Image, views: Views, from: number, seq: number): Frozen {
  const part = [...views.pieces].find(([place, images]) => place >= from && isMixOf(image, images))
  const whole = views.indexOf(image, from)
  const first = whole < 0 ? part?.[0] ?? -1 : whole
  if (first < 0) throw new Wrong('the frozen image is not what hosts saw (C2)')
  return { image, views, first, seq }
}

/** The last place in the views that it may be: hosts may have come back to it since. What they never saw is at the first. */
function lastOf({ image, views, first }: Frozen): number { return Math.max(first, views.lastIndexOf(image)) }

export class Watch {
  /** By uuid of the source's bookmark. */
  readonly #frozen = new Map<string, Frozen>()
  readonly #marks = new Map<string, Mark>()
  readonly #snapshot: (uuid: string) => Frozen | undefined
  /** Of the source, all of them. */
  #views: Views = Object.assign([], { pieces: new Map<number, readonly Image[]>() })
  /** The newest that was shown; undefined: nothing was. */
  #seen: Frozen | undefined
  /** So many different points were shown. */
  cycles = 0
  /** What was shown is in the views from here on. */
  #at = 0
  #bookmark = ''
  /** Place in the views of what was answered in step; -1: nothing was. */
  #answered = -1
  /** The target has failed since it showed a new declared point: what it had received is gone. */
  #failed = false
  /** What streams have brought, and was shown. */
  received = 0
  /** So often there was something that had to be there when the target was let go. */
  kept = 0

  /** @param snapshot one of the source's own, by its uuid: a mirror may carry that */
  constructor(snapshot: (uuid: string) => Frozen | undefined) { this.#snapshot = snapshot }

  /** A bookmark of the source: the image comes next. */
  marked(bookmark: string): void { this.#bookmark = bookmark }

  /** As `frozenOf`. */
  froze(image: Image, views: Views, from: number, seq: number, bookmark = this.#bookmark): void {
    this.#views = views
    this.#frozen.set(bookmark, frozenOf(image, views, from, seq))
  }

  /** A bookmark in front of a reversal: should the target declare that, it stands for what the source showed by then. */
  reverses(bookmark: string, mark: Mark): void { this.#marks.set(bookmark, mark) }

  /** It is a point that a reversal may declare. */
  isReversed(bookmark: string): boolean { return this.#marks.has(bookmark) }

  get hasShown(): boolean { return this.#seen !== undefined }

  /** It is to be deleted: its points may go, and it stay, and have its target again all the same. */
  isEnding = false

  /** Its target was taken from it, points and all, and it has begun anew. */
  restart(): void {
    this.#seen = undefined
    this.#at = 0
    this.targetFailed()
  }

  /** What streams had brought may count no more: the process that has the target has died, or it may have refused some of it. */
  targetFailed(): void {
    this.#answered = -1
    this.#failed = true
  }

  /** Hosts had an answer in step. @param place in the views, of what they have seen then */
  answered(place: number): void { if (!this.#failed) this.#answered = place }

  /** The image that the point stands for. */
  imageOf(origin: string): Image | undefined { return this.#known(origin)?.image }

  /** What clients see; undefined: nothing. */
  shown(point: Shown | undefined): void {
    if (point) this.#judge(point, -1)
    else if (this.hasShown) throw new Wrong('the target shows nothing any more (S1)')
  }

  /** What clients see when the target stands on its own. */
  letGo(point: Shown): void {
    this.#judge(point, this.#answered)
    if (this.#answered >= 0) this.kept++
    this.#answered = -1
  }

  /** Its mirror was deleted, and its points with it: what clients see since is one of those that it may have declared last, or received. */
  ended(image: Image): void {
    const since = this.#seen?.seq ?? -1
    const isDeclared = [...this.#seen ? [this.#seen] : [], ...this.#frozen.values()].some(frozen =>
      frozen.image === image && frozen.seq >= since && lastOf(frozen) >= Math.max(this.#at, this.#answered))
    if (!isDeclared) this.#judgeReceived(image, this.#answered)
    this.#answered = -1
  }

  #judge({ origin, image }: Shown, atLeast: number): void {
    if (origin === undefined) return this.#judgeReceived(image, atLeast)
    const frozen = this.#known(origin)
    if (!frozen) throw new Wrong('the target declares a point that the source never had (C1)')
    if (image !== frozen.image) throw new Wrong(`the target shows something else than the point it declares (C1, S1): ${differenceOf(frozen.image, image)}`)
    const before = this.#seen?.seq ?? -1
    if (frozen.seq < before || lastOf(frozen) < this.#at) throw new Wrong('the target went back to an older point (C1)')
    if (lastOf(frozen) < atLeast) throw new Wrong('what was answered in step is not there (sync)')
    if (frozen.seq > before) {
      this.#failed = false
      this.cycles++
    }
    this.#seen = frozen
    this.#at = Math.max(this.#at, frozen.first)
  }

  #judgeReceived(image: Image, atLeast: number): void {
    const from = this.#seen?.first ?? 0
    const at = this.#views.indexOf(image, Math.max(this.#at, from))
    if (at < 0) throw new Wrong('what a stream has brought is not what hosts saw since (C16)')
    if (this.#views.lastIndexOf(image) < atLeast) throw new Wrong('what was answered in step is not there (sync)')
    if (at > this.#at) this.received++
    this.#at = at
  }

  #known(origin: string): Frozen | undefined { return this.#frozen.get(origin) ?? this.#reversed(origin) ?? this.#snapshot(origin) }

  #reversed(origin: string): Frozen | undefined {
    const mark = this.#marks.get(origin)
    if (!mark) return undefined
    const image = [...mark.images].find(one => mark.views.includes(one, mark.from))
    if (image === undefined) throw new Wrong('the target is at what it had itself, which the source never showed (D11)')
    this.froze(image, mark.views, mark.from, mark.seq, origin)
    return this.#frozen.get(origin)
  }
}
