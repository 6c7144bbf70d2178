/**
 * ClientEdges: any byte range over a peer that takes whole blocks only.
 *
 *   asked:            |..............................|
 *   blocks:   |   head    |    middle   |   middle   |   tail    |        head and tail may be the same block
 *
 * Reads fetch the edge blocks apart and copy what belongs to the range. Writes read an edge block, change it and write it
 * back, and that must not meet another write to the block: it would bring back what the other one has replaced. So
 * write-class requests lock their blocks: whole ones shared (they may pass each other, as on any disk), changed ones alone.
 *
 * With a minimum of 1 there are no edges and no locks.
 */
import type { Extents, Origin, Pending, ZeroMode } from '../device/block-device.js'
import { allSettled } from '../device/all-settled.js'
import { RangeLock } from '../device/range-lock.js'
import type { ClientIo } from './client-io.js'

/** A range and the blocks it touches. */
interface Cut {
  readonly offset: number
  readonly end: number
  /** Its blocks, whole. */
  readonly hullStart: number
  readonly hullEnd: number
  /** The whole blocks inside; none if `bodyEnd <= bodyStart`. */
  readonly bodyStart: number
  readonly bodyEnd: number
  readonly whole: boolean
}

/** Alters the part [first, end) of the block that begins at `start`. */
type Change = (block: Buffer, start: number, first: number, end: number) => void

export class ClientEdges {
  readonly #io: ClientIo
  readonly #lock = new RangeLock()

  constructor(io: ClientIo) { this.#io = io }

  get #unit(): number { return this.#io.facts.sizes.minimum }

  read(offset: number, length: number, into: Buffer, at: number, origin?: Origin): Promise<void> {
    if (this.#unit === 1) return this.#io.read(offset, length, into, at, origin)
    const cut = this.#cut(offset, length)
    const parts = edgesOf(cut, this.#unit).map(async start => {
      const block = Buffer.allocUnsafe(this.#unit)
      await this.#io.read(start, this.#unit, block, 0, origin)
      const from = Math.max(start, offset)
      block.copy(into, at + from - offset, from - start, Math.min(start + this.#unit, cut.end) - start)
    })
    if (cut.bodyEnd > cut.bodyStart) {
      parts.push(this.#io.read(cut.bodyStart, cut.bodyEnd - cut.bodyStart, into, at + cut.bodyStart - offset, origin))
    }
    return allSettled(parts)
  }

  write(offset: number, length: number, from: Buffer, at: number, origin?: Origin): Promise<void> {
    if (this.#unit === 1) return this.#io.write(offset, length, from, at, origin)
    const cut = this.#cut(offset, length)
    return this.#locked(cut, origin, () => {
      const copy: Change = (block, start, first, end) => {
        from.copy(block, first - start, at + first - offset, at + end - offset)
      }
      const parts = this.#change(cut, copy, origin)
      if (cut.bodyEnd > cut.bodyStart) {
        parts.push(this.#io.write(cut.bodyStart, cut.bodyEnd - cut.bodyStart, from, at + cut.bodyStart - offset, origin))
      }
      return allSettled(parts)
    })
  }

  zero(offset: number, length: number, mode: ZeroMode, origin?: Origin): Promise<void> {
    if (this.#unit === 1) return this.#io.zero(offset, length, mode, origin)
    const cut = this.#cut(offset, length)
    return this.#locked(cut, origin, async () => {
      // First, because it may find that it is not fast: nothing has changed then.
      if (cut.bodyEnd > cut.bodyStart) await this.#io.zero(cut.bodyStart, cut.bodyEnd - cut.bodyStart, mode, origin)
      await allSettled(this.#change(cut, (block, start, first, end) => { block.fill(0, first - start, end - start) }, origin))
    })
  }

  /** Shrinks to the whole blocks inside. */
  trim(offset: number, length: number, origin?: Origin): Pending {
    if (this.#unit === 1) return this.#io.trim(offset, length, origin)
    const { bodyStart, bodyEnd } = this.#cut(offset, length)
    if (bodyEnd <= bodyStart) return undefined
    const body = this.#cut(bodyStart, bodyEnd - bodyStart)
    return this.#locked(body, origin, () => this.#io.trim(bodyStart, bodyEnd - bodyStart, origin))
  }

  prefetch(offset: number, length: number): Promise<void> {
    const { hullStart, hullEnd } = this.#cut(offset, length)
    return this.#io.prefetch(hullStart, hullEnd - hullStart)
  }

  async extents(offset: number, length: number, maxExtents: number): Promise<Extents> {
    const { hullStart, hullEnd } = this.#cut(offset, length)
    const { lengths, states } = await this.#io.extents(hullStart, hullEnd - hullStart, maxExtents)
    // The hull begins less than a block before the range, and the first extent is at least one byte: walk past it.
    const clipped: { lengths: number[], states: number[] } = { lengths: [], states: [] }
    let at = hullStart
    lengths.forEach((bytes, i) => {
      const from = Math.max(at, offset)
      const end = Math.min(at + bytes, offset + length)
      at += bytes
      if (end <= from) return
      clipped.lengths.push(end - from)
      clipped.states.push(states[i]!)
    })
    return clipped.lengths.length > 0 ? clipped : { lengths: [Math.min(length, hullEnd - offset)], states: [0] }
  }

  #cut(offset: number, length: number): Cut {
    const unit = this.#unit
    const end = offset + length
    const bodyStart = offset + (unit - offset % unit) % unit
    const bodyEnd = end - end % unit
    return {
      offset, end, hullStart: offset - offset % unit, hullEnd: end + (unit - end % unit) % unit, bodyStart, bodyEnd,
      whole: bodyStart === offset && bodyEnd === end,
    }
  }

  /** Each edge block is read, changed and written back. */
  #change(cut: Cut, change: Change, origin: Origin | undefined): Promise<void>[] {
    const unit = this.#unit
    return edgesOf(cut, unit).map(async start => {
      const block = Buffer.allocUnsafe(unit)
      await this.#io.read(start, unit, block, 0, origin)
      change(block, start, Math.max(start, cut.offset), Math.min(start + unit, cut.end))
      await this.#io.write(start, unit, block, 0, origin)
    })
  }

  async #locked(cut: Cut, origin: Origin | undefined, work: () => Promise<void>): Promise<void> {
    const { hullStart, hullEnd, whole } = cut
    await this.#io.held(async () => {
      await this.#lock.lock(hullStart, hullEnd, origin, whole)
      try {
        await work()
      } finally {
        this.#lock.unlock(hullStart, hullEnd, whole)
      }
    })
  }
}

/** Where the blocks begin that the range covers in part: none, one or two. */
function edgesOf({ offset, end, hullStart, hullEnd }: Cut, unit: number): number[] {
  const starts: number[] = []
  if (hullStart < offset) starts.push(hullStart)
  if (hullEnd > end && !starts.includes(hullEnd - unit)) starts.push(hullEnd - unit)
  return starts
}
