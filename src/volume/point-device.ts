/**
 * PointDevice: a snapshot as a read-only BlockDevice.
 *
 *   grain -> the first snapshot from this one on that owns it -> its bytes, live's raw bytes (lent), or zeros
 *         -> nobody owns it: what live shows
 *
 * Who owns which grain is looked up once for a page of 32768 grains and remembered, so that reading the hundredth snapshot costs
 * what reading the first does. What may become wrong meanwhile is asked again at each read, which is one bit:
 * - live's grains: only the chain's `target` can come to own one;
 * - whether an owner has the bytes, has lent them or has zeros, is never remembered;
 * - all else raises `chain.merges`, and everything is looked up anew.
 *
 * Where live's grains and owners' alternate, live is read once over all of it, and owners' grains come on top: with a read for
 * each little piece a snapshot of a volume that is written to here and there would cost several times what live does.
 *
 * Reads lock nothing. One that completes later and has read live's file looks again afterwards: if the grain lies elsewhere by
 * now, it may have read what a client wrote, and reads again.
 *
 * Limit: PAGES_MAX pages are remembered, 128 KiB each at most.
 */
import { PAGE_BITS } from '../../native-free/grain-bitmap.js'
import { divCeil } from '../../native-free/integer.js'
import { together } from '../device/all-settled.js'
import {
  assertRange, type BlockSizes, type Capabilities, type Extents, type Origin, type Pending, STATE_HOLE, STATE_ZERO,
} from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import { ExtentList } from '../device/extent-list.js'
import { type Place, placeIn } from './chain.js'
import type { VolumeCore } from './core.js'
import type { LiveView } from './live-view.js'
import type { Point } from './point.js'
import type { PointDevice, PointInfo } from './snappoint.js'
import type { Run } from './volume-map.js'

/** 16 MiB at most; 16 GiB of a volume at grains of 4 KiB. */
const PAGES_MAX = 128
const EXTENTS_MAX = 16384

/** By grain of the page: 1 + index in the chain of the owner, 0 = nobody; and the last grain that has the same from there on. */
interface Owned { readonly owner: Uint16Array, readonly last: Uint16Array }
/** 0: all of the page is nobody's. */
type Owners = Owned | 0

/**
 * keeps: while it is open the point cannot be deleted. yields: likewise, but when there is no room for what the point keeps it is
 * closed soon (snappoint.ts). inherits: as `keeps`, by another volume. looks: only its map is looked at, and the point may go.
 */
export type PointUse = 'keeps' | 'yields' | 'inherits' | 'looks'

export class OpenPointDevice implements PointDevice {
  readonly capabilities: Capabilities
  readonly blockSizes: BlockSizes
  readonly #core: VolumeCore
  readonly #view: LiveView
  readonly #point: Point
  readonly #runs: (since: string, until: Point) => Run[]
  readonly #pages = new Map<number, Owners>()
  readonly #use: PointUse
  #merges = -1
  #lastPage = -1
  #lastOwners: Owners = 0
  #open = true

  constructor(core: VolumeCore, view: LiveView, point: Point, runs: (since: string, until: Point) => Run[], use: PointUse) {
    this.#core = core
    this.#view = view
    this.#point = point
    this.#runs = runs
    this.#use = use
    if (use !== 'looks') point.users++
    if (use === 'yields') point.yielding++
    if (use === 'inherits') point.heirs++
    const { rotational } = core.live.capabilities
    this.capabilities = Object.freeze({ readOnly: true, trim: false, fastZero: false, rotational })
    this.blockSizes = Object.freeze({ minimum: 1, preferred: Math.max(4096, core.grainBytes), maximum: 32 * 2 ** 20 })
  }

  get point(): PointInfo { return this.#point.info }
  get sizeBytes(): number { return this.#point.info.sizeBytes }

  read(offset: number, length: number, into: Buffer, at: number, origin?: Origin): Pending {
    this.#judge(offset, length)
    const { grainBytes } = this.#core
    const end = offset + length
    const first = Math.floor(offset / grainBytes)
    const last = divCeil(end, grainBytes)
    const owner = this.#owner(first)
    if (this.#runEnd(first, last, owner) === last) return this.#readFrom(owner, offset, length, into, at, origin)
    const span = this.#core.inherit.active ? undefined : this.#span(offset, end)
    if (!span) return this.#readEach(offset, end, false, into, at - offset, origin)
    const { merges } = this.#core.chain
    let reading: Pending
    try {
      reading = this.#view.read(span.start, span.end - span.start, into, at + span.start - offset, origin)
    } catch {
      // Perhaps of bytes that nobody asked for.
      return this.#readEach(offset, end, false, into, at - offset, origin)
    }
    if (!reading) return this.#readEach(offset, end, true, into, at - offset, origin)
    return this.#onTop(reading, merges, offset, length, into, at, origin)
  }

  write(): Pending { throw readOnly() }
  zero(): Pending { throw readOnly() }
  trim(): Pending { throw readOnly() }
  /** What was kept briefly had no flush of its own: whether its disk has lost any of that is heard here. */
  flush(): Pending { return this.#point.brief && this.#point.files.preserved!.flush() }

  zeroRun(offset: number, length: number): number {
    this.#judge(offset, length)
    const bytes = this.#piece(offset, offset + length)
    const grain = Math.floor(offset / this.#core.grainBytes)
    const place = this.#place(grain)
    if (place === 'live') return this.#view.zeroRun(offset, bytes)
    return place === 'zeros' ? -bytes : bytes
  }

  extents(offset: number, length: number, maxExtents: number): Extents {
    return this.#list(offset, length, maxExtents, run => run > 0 ? 0 : STATE_HOLE | STATE_ZERO)
  }

  depths(offset: number, length: number, maxExtents: number): Extents {
    const snapshots = this.#core.chain.points.filter(point => point.isSnapshot && point.seq >= this.#point.seq)
    return this.#list(offset, length, maxExtents, (run, grain) => {
      if (run < 0) return 0
      const owner = this.#owner(grain)
      return owner === 0 ? snapshots.length + 1 : 1 + snapshots.indexOf(this.#core.chain.points[owner - 1])
    })
  }

  * changedRuns(since: string): Iterable<Run> { yield* this.#runs(since, this.#point) }

  forget(offset: number): void {
    const { within } = this.#point
    if (within) within.done = Math.max(within.done, Math.floor(offset / this.#core.grainBytes))
  }

  async close(): Promise<void> {
    if (!this.#open) return
    this.#open = false
    this.#pages.clear()
    if (this.#use === 'looks') return
    if (this.#use === 'yields') this.#point.yielding--
    if (this.#use === 'inherits') this.#point.heirs--
    if (--this.#point.users === 0) this.#point.onUnused?.()
  }

  #list(offset: number, length: number, maxExtents: number, state: (run: number, grain: number) => number): Extents {
    this.#judge(offset, length)
    const list = new ExtentList(Math.min(maxExtents, EXTENTS_MAX))
    const end = offset + length
    for (let at = offset, looks = 0; at < end && looks < EXTENTS_MAX; looks++) {
      const run = this.zeroRun(at, end - at)
      if (!list.add(Math.abs(run), state(run, Math.floor(at / this.#core.grainBytes)))) break
      at += Math.abs(run)
    }
    return list
  }

  /** Bytes from `offset` on that lie in the same place of the same file. */
  #piece(offset: number, end: number): number {
    const { grainBytes } = this.#core
    const first = Math.floor(offset / grainBytes)
    const last = divCeil(end, grainBytes)
    if (first + 1 >= last) return Math.min(end, (first + 1) * grainBytes) - offset
    return Math.min(end, this.#runEnd(first, last, this.#owner(first)) * grainBytes) - offset
  }

  /** End of the run of grains from `first` on, within its page and below `last`, that lie in the same place as `first`. */
  #runEnd(first: number, last: number, owner: number): number {
    const base = first - first % PAGE_BITS
    const remembered = this.#lastOwners
    let end = Math.min(last, base + PAGE_BITS)
    if (remembered !== 0) end = Math.min(end, base + remembered.last[first - base] + 1)
    if (end === first + 1) return end
    const { points, keepers } = this.#core.chain
    if (owner === 0) {
      for (const { seq, owned } of keepers) {
        const limit = Math.min(end, owned.length)
        if (seq < this.#point.seq || first >= limit) continue
        const found = owned.next(first, limit, true)
        if (found < limit) end = found
      }
      return end
    }
    const { owned, bytes, lent } = points[owner - 1]
    end = owned.runEnd(first, Math.min(end, owned.length))
    return Math.min(bytes.runEnd(first, end), lent.runEnd(first, end))
  }

  /**
   * Where live is to be read over what is others': from its first grain to its last one, as long as that is not more than twice
   * what is its own.
   */
  #span(offset: number, end: number): Run | undefined {
    const { grainBytes } = this.#core
    const last = divCeil(end, grainBytes)
    let pieces = 0
    let bytes = 0
    let start = end
    let stop = offset
    for (let grain = Math.floor(offset / grainBytes); grain < last;) {
      const owner = this.#owner(grain)
      const next = this.#runEnd(grain, last, owner)
      if (owner === 0) {
        const from = Math.max(offset, grain * grainBytes)
        if (pieces++ === 0) start = from
        stop = Math.min(end, next * grainBytes)
        bytes += stop - from
      }
      grain = next
    }
    return pieces > 1 && stop - start <= 2 * bytes ? { start, end: stop } : undefined
  }

  /** @param base where in the buffer offset 0 would be; @param isLiveRead what is live's is there already */
  #readEach(offset: number, end: number, isLiveRead: boolean, into: Buffer, base: number, origin: Origin | undefined): Pending {
    const { grainBytes } = this.#core
    const last = divCeil(end, grainBytes)
    return together(add => {
      for (let grain = Math.floor(offset / grainBytes); grain < last;) {
        const owner = this.#owner(grain)
        const next = this.#runEnd(grain, last, owner)
        if (owner !== 0 || !isLiveRead) {
          const start = Math.max(offset, grain * grainBytes)
          add(this.#readFrom(owner, start, Math.min(end, next * grainBytes) - start, into, base + start, origin))
        }
        grain = next
      }
    })
  }

  /** Live has been read; what is others', now, comes on top. After a merge nothing of it is believed. */
  async #onTop(
    reading: Promise<void>, merges: number, offset: number, length: number, into: Buffer, at: number, origin: Origin | undefined,
  ): Promise<void> {
    const isRead = await reading.then(() => merges === this.#core.chain.merges, () => false)
    await this.#readEach(offset, offset + length, isRead, into, at - offset, origin)
  }

  /** All of it is `owner`'s, and in the same place. */
  #readFrom(owner: number, offset: number, length: number, into: Buffer, at: number, origin: Origin | undefined): Pending {
    const grain = Math.floor(offset / this.#core.grainBytes)
    const place = this.#placeOf(owner, grain)
    if (place === 'zeros') return void into.fill(0, at, at + length)
    const { chain, live } = this.#core
    if (place === 'bytes') return chain.points[owner - 1].files.preserved!.read(offset, length, into, at, origin)
    const reading = (place === 'lent' ? live : this.#view).read(offset, length, into, at, origin)
    return reading && this.#lookAgain(reading, owner, place, offset, length, into, at, origin)
  }

  async #lookAgain(
    reading: Promise<void>, owner: number, place: Place, offset: number, length: number, into: Buffer, at: number,
    origin: Origin | undefined,
  ): Promise<void> {
    const { grainBytes, chain } = this.#core
    const { merges } = chain
    await reading
    const last = divCeil(offset + length, grainBytes)
    let same = merges === chain.merges
    for (let grain = Math.floor(offset / grainBytes); same && grain < last; grain++) {
      same = this.#owner(grain) === owner && this.#placeOf(owner, grain) === place
    }
    if (!same) await this.read(offset, length, into, at, origin)
  }

  #place(grain: number): Place { return this.#placeOf(this.#owner(grain), grain) }

  #placeOf(owner: number, grain: number): Place {
    return owner === 0 ? 'live' : placeIn(this.#core.chain.points[owner - 1], grain)
  }

  /** 1 + index in the chain of the point that owns the grain, 0 if nobody does. */
  #owner(grain: number): number {
    const { chain } = this.#core
    if (this.#merges !== chain.merges) this.#forget()
    const page = Math.floor(grain / PAGE_BITS)
    const owners = page === this.#lastPage ? this.#lastOwners : this.#ownersOf(page)
    const owner = owners === 0 ? 0 : owners.owner[grain - page * PAGE_BITS]
    if (owner !== 0) return owner
    // Only these come to own something without a merge; and at most one of them does.
    for (const point of chain.keepers) {
      const { seq, owned } = point
      if (seq >= this.#point.seq && grain < owned.length && owned.get(grain)) return 1 + chain.points.indexOf(point)
    }
    return 0
  }

  #forget(): void {
    this.#pages.clear()
    this.#lastPage = -1
    this.#merges = this.#core.chain.merges
  }

  #ownersOf(page: number): Owners {
    let owners = this.#pages.get(page)
    if (owners === undefined) {
      owners = this.#lookUp(page)
      if (this.#pages.size >= PAGES_MAX) this.#pages.delete(this.#pages.keys().next().value!)
      this.#pages.set(page, owners)
    }
    this.#lastPage = page
    this.#lastOwners = owners
    return owners
  }

  /** From the newest point to this one: whoever is older is asked first, so it has the last word. */
  #lookUp(page: number): Owners {
    const { points } = this.#core.chain
    const from = page * PAGE_BITS
    let owners: Uint16Array | undefined
    for (let index = points.length - 1; index >= 0 && points[index].seq >= this.#point.seq; index--) {
      const { owned, damaged } = points[index]
      if (damaged.has(page)) {
        const name = this.#point.info.name
        throw new NbdeltaError('damaged', `what '${name}' holds around grain ${from} is lost: maps do not check`)
      }
      const to = Math.min(from + PAGE_BITS, owned.length)
      for (let at = from < to ? owned.next(from, to, true) : to; at < to;) {
        const end = owned.runEnd(at, to)
        owners ??= new Uint16Array(PAGE_BITS)
        owners.fill(index + 1, at - from, end - from)
        at = end < to ? owned.next(end, to, true) : to
      }
    }
    return owners ? { owner: owners, last: lastOfRuns(owners) } : 0
  }

  #judge(offset: number, length: number): void {
    if (!this.#open) throw new NbdeltaError('wrong-state', 'the snapshot is closed')
    assertRange(this, offset, length)
  }
}

/** For each place the last one of the run of equals that it is in. */
function lastOfRuns(values: Uint16Array): Uint16Array {
  const last = new Uint16Array(values.length)
  for (let at = values.length - 1, end = at; at >= 0; at--) {
    if (values[at] !== values[end]) end = at
    last[at] = end
  }
  return last
}

function readOnly(): NbdeltaError { return new NbdeltaError('read-only', 'a snapshot cannot be written to') }
