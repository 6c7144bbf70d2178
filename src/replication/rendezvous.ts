/**
 * Rendezvous: cycles of several mirrors that wait for one another before they freeze, are frozen at one instant, and ship so many
 * at a time.
 *
 *   1. everybody has come: each target is open, and has said where it is
 *   2. a bookmark for each, one after the other; each says the uuid of the meeting
 *   3. images, one for each source, by one operation of the store: the instant. Mirrors of one source share theirs
 *   4. each gets its own as soon as fewer than AT_ONCE ship; at once, when it is to let go of it (`wanted`)
 *
 * Bookmarks come before the images, as for one mirror alone: what changed since one has changed since the image as well.
 * `cancel` at any moment: who waits is told, and no image that was made for it stays open.
 */
import { randomUUID } from 'node:crypto'
import { NbdeltaError } from '../device/errors.js'
import type { GroupPoint } from '../volume/groups.js'
import type { CreatePointOptions } from '../volume/snappoint.js'
import type { StoreVolume } from '../volume/store-volume.js'
import type { CycleParts } from './cycle.js'
import { type Frozen, openImage, type SourcePoints } from './source-points.js'

/** Mirrors of a group that ship at a time: each has 4 MiB of pieces under way. */
export const AT_ONCE = 16

type CreateTogether = (wanted: readonly (CreatePointOptions & { readonly volume: string })[]) => Promise<readonly GroupPoint[]>

interface Guest {
  readonly points: SourcePoints
  readonly volume: StoreVolume
  readonly cycle: number
  frozen: Frozen | undefined
  readonly go: (frozen: Frozen) => void
  readonly stop: (error: unknown) => void
}

export class Rendezvous {
  readonly #expected: number
  readonly #create: CreateTogether
  readonly #guests: Guest[] = []
  /** Guests with something frozen, that have not got it. */
  #waiting: Guest[] = []
  #shipping = 0
  /** Ends with the freeze, and with all images that nobody came for. */
  #ended: Promise<unknown> = Promise.resolve()
  #cancelled = false

  constructor(expected: number, create: CreateTogether) {
    this.#expected = expected
    this.#create = create
  }

  /** Runs a cycle that freezes here; when it has ended somebody else may ship. */
  async with(cycle: (freeze: CycleParts['freeze']) => Promise<void>): Promise<void> {
    let ships = false
    try {
      await cycle(async (points, volume, number) => {
        const frozen = await this.#come(points, volume, number)
        ships = true
        return frozen
      })
    } finally {
      if (ships) this.#shipping--
      this.#serve()
    }
  }

  /** Nothing is made or open any more, once all cycles have ended. */
  ended(): Promise<unknown> { return this.#ended }

  cancel(): void {
    if (this.#cancelled) return
    this.#cancelled = true
    for (const { stop } of this.#guests) stop(cancelled())
    const [before, closed] = [this.#ended, this.#dismiss()]
    this.#ended = before.then(() => closed)
  }

  #come(points: SourcePoints, volume: StoreVolume, cycle: number): Promise<Frozen> {
    return new Promise((go, stop) => {
      if (this.#cancelled) return stop(cancelled())
      this.#guests.push({ points, volume, cycle, go, stop, frozen: undefined })
      if (this.#guests.length === this.#expected) this.#ended = this.#freeze()
    })
  }

  async #freeze(): Promise<void> {
    try {
      const bookmarks = await this.#bookmarks()
      const first = new Map<StoreVolume, Guest>()
      for (const guest of this.#guests) if (!first.has(guest.volume)) first.set(guest.volume, guest)
      const sources = [...first.values()]
      const planned = sources.map(({ points, volume, cycle }) => points.planImage(volume, cycle))
      const images = await this.#create(planned.map(({ options }, i) => ({ ...options, volume: sources[i]!.volume.name })))
      for (const [place, guest] of this.#guests.entries()) {
        const source = sources.indexOf(first.get(guest.volume)!)
        const image = openImage(guest.volume, images[source]!.point.name, planned[source]!)
        guest.frozen = { cycle: guest.cycle, bookmark: bookmarks[place]!, ...image }
        this.#waiting.push(guest)
        image.wanted.addEventListener('abort', () => { this.#serve() }, { once: true })
      }
      if (this.#cancelled) await this.#dismiss()
      else this.#serve()
    } catch (error) {
      for (const { stop } of this.#guests) stop(error)
      await this.#dismiss()
    }
  }

  async #bookmarks(): Promise<Frozen['bookmark'][]> {
    const instant = randomUUID()
    const bookmarks: Frozen['bookmark'][] = []
    for (const { points, volume, cycle } of this.#guests) {
      if (this.#cancelled) throw cancelled()
      bookmarks.push(await points.bookmark(volume, cycle, { instant }))
    }
    return bookmarks
  }

  #serve(): void {
    if (this.#cancelled) return
    const isNext = ({ frozen }: Guest): boolean => frozen!.wanted.aborted || this.#shipping < AT_ONCE
    for (let place; (place = this.#waiting.findIndex(isNext)) >= 0;) {
      const [guest] = this.#waiting.splice(place, 1)
      this.#shipping++
      guest!.go(guest!.frozen!)
    }
  }

  /** What nobody comes for any more. */
  async #dismiss(): Promise<void> {
    const left = this.#waiting
    this.#waiting = []
    await Promise.all(left.map(({ frozen }) => frozen!.image.close()))
  }
}

function cancelled(): NbdeltaError { return new NbdeltaError('cancelled', 'another mirror of the group has failed') }
