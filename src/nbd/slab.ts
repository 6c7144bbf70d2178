/**
 * Slabs: the only buffers that bytes of clients live in. Reply slabs are borrowed for a batch and given back, so that
 * one hot slab serves all connections in turn; a slab that somebody still needs is pinned.
 *
 *   pins > 0   a device reads or writes it later, or the kernel has not taken all of it yet: nobody may reuse it
 *   retired    its owner has gone on to another slab; the last unpin gives it back
 */
import { HUGE_SLAB_BYTES, LARGE_SLAB_BYTES, SMALL_SLAB_BYTES } from './limits.js'
import type { Allotment } from './budget.js'

/** At least this much of a receive slab stays free for the bytes that arrive after parsing stalled (see inbox.ts). */
export const TAIL_BYTES = 2048

export type SlabKind = 'small' | 'large' | 'huge'
export const SLAB_BYTES: Readonly<Record<SlabKind, number>> = Object.freeze({
  small: SMALL_SLAB_BYTES, large: LARGE_SLAB_BYTES, huge: HUGE_SLAB_BYTES,
})

export class Slab {
  readonly buffer: Buffer
  readonly view: DataView
  readonly kind: SlabKind
  readonly size: number
  /** Cached views, so that the usual read and write allocate none. */
  readonly front: Buffer
  /** Taken from the guaranteed part of its owner's allotment, not from the shared one. */
  own = false
  #owner: Allotment | undefined
  #pins = 0
  #retired = false

  constructor(kind: SlabKind) {
    this.kind = kind
    this.size = SLAB_BYTES[kind]
    // Not zeroed: only ranges that were filled ever leave (a reply covers exactly what the device has read).
    this.buffer = Buffer.allocUnsafeSlow(this.size)
    this.view = new DataView(this.buffer.buffer, this.buffer.byteOffset, this.size)
    this.front = this.buffer.subarray(0, this.size - TAIL_BYTES)
  }

  get pinned(): boolean { return this.#pins > 0 }

  pin(): void { this.#pins++ }

  unpin(): void {
    if (this.#pins === 0) throw new Error('slab unpinned more often than pinned')
    this.#pins--
    if (this.#pins === 0 && this.#retired) this.#owner!.giveBack(this)
  }

  /** The owner will not touch it again. */
  retire(): void {
    this.#retired = true
    if (this.#pins === 0) this.#owner!.giveBack(this)
  }

  /** Taken from the pool by `owner`. */
  issue(owner: Allotment, own: boolean): this {
    this.#owner = owner
    this.own = own
    this.#retired = false
    return this
  }
}

/** Free slabs kept when a connection has ended: 8 MiB of large ones at most, the rest is left to the garbage collector. */
const FREE_LARGE = 30
const FREE_SMALL = 64

/**
 * While connections last every free slab is kept: a slab given up under load would be garbage that still takes memory
 * while its successor is filled, and together they could be twice the budget.
 */
export class SlabPool {
  readonly #large: Slab[] = []
  readonly #small: Slab[] = []

  take(kind: SlabKind): Slab {
    const free = kind === 'large' ? this.#large : kind === 'small' ? this.#small : undefined
    return free?.pop() ?? new Slab(kind)
  }

  put(slab: Slab): void {
    if (slab.kind === 'large') this.#large.push(slab)
    if (slab.kind === 'small') this.#small.push(slab)
  }

  /** A good moment to hold less. */
  trim(): void {
    this.#large.splice(FREE_LARGE)
    this.#small.splice(FREE_SMALL)
  }
}
