/**
 * The memory budget (DESIGN S7). Each connection owns a small allotment from accept on, enough to make progress however
 * greedy the others are; everything above is shared, first come first served, with a cap per connection.
 *
 * Only the own allotment can make a connection wait, and only for its own requests and its own client, so no connection
 * waits for another one's memory and no queue of waiters exists.
 */
import { ALLOTMENT_BYTES, SMALL_SLAB_BYTES } from './limits.js'
import { SLAB_BYTES, SlabPool } from './slab.js'
import type { ServerLimits } from './limits.js'
import type { Slab, SlabKind } from './slab.js'

export class Budget {
  readonly pool = new SlabPool()
  readonly #limits: ServerLimits
  #promisedBytes = 0
  #sharedBytes = 0
  #peakBytes = 0

  constructor(limits: ServerLimits) { this.#limits = limits }

  /** An allotment for a new connection; undefined when there is no room for one more. */
  admit(): Allotment | undefined {
    if (this.#promisedBytes + this.#sharedBytes + ALLOTMENT_BYTES > this.#limits.memoryBytes) return undefined
    this.#promisedBytes += ALLOTMENT_BYTES
    return new Allotment(this, this.#limits.connectionBytes)
  }

  dismiss(): void {
    this.#promisedBytes -= ALLOTMENT_BYTES
    this.pool.trim()
  }

  takeShared(bytes: number): boolean {
    if (this.#promisedBytes + this.#sharedBytes + bytes > this.#limits.memoryBytes) return false
    this.#sharedBytes += bytes
    this.#peakBytes = Math.max(this.#peakBytes, this.usedBytes)
    return true
  }

  giveShared(bytes: number): void { this.#sharedBytes -= bytes }

  /** Promised and shared bytes now, and their peak. */
  get usedBytes(): number { return this.#promisedBytes + this.#sharedBytes }
  get peakBytes(): number { return this.#peakBytes }
}

export class Allotment {
  readonly #budget: Budget
  readonly #capBytes: number
  #ownBytes = 0
  #sharedBytes = 0
  #ended = false

  constructor(budget: Budget, capBytes: number) {
    this.#budget = budget
    this.#capBytes = capBytes
  }

  get heldBytes(): number { return this.#ownBytes + this.#sharedBytes }

  /** A slab of `kind` from the shared part; undefined when the cap or the budget is spent. */
  take(kind: SlabKind): Slab | undefined {
    const bytes = SLAB_BYTES[kind]
    if (this.#sharedBytes + bytes > this.#capBytes || !this.#budget.takeShared(bytes)) return undefined
    this.#sharedBytes += bytes
    return this.#budget.pool.take(kind).issue(this, false)
  }

  get hasOwn(): boolean { return this.#ownBytes + SMALL_SLAB_BYTES <= ALLOTMENT_BYTES }

  /** A small slab from the own allotment; undefined when all of it is in use. */
  takeOwn(): Slab | undefined {
    return this.hasOwn ? this.overdraw() : undefined
  }

  /**
   * A small slab whatever the account says: for the few bytes that must have a place (the reply of a request that was
   * already executed, what the kernel has already read). Callers keep it to one slab a connection.
   */
  overdraw(): Slab {
    this.#ownBytes += SMALL_SLAB_BYTES
    return this.#budget.pool.take('small').issue(this, true)
  }

  /** Called by a slab when its last user is done with it. */
  giveBack(slab: Slab): void {
    if (slab.own) this.#ownBytes -= slab.size
    else {
      this.#sharedBytes -= slab.size
      this.#budget.giveShared(slab.size)
    }
    this.#budget.pool.put(slab)
    this.#settle()
  }

  /** The connection is over; the allotment returns when its last slab has. */
  end(): void {
    this.#ended = true
    this.#settle()
  }

  #settle(): void {
    if (!this.#ended || this.heldBytes > 0) return
    this.#ended = false
    this.#budget.dismiss()
  }
}
