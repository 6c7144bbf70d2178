/**
 * Outbox: replies on their way to one client.
 *
 *   slab  |--sent--|======== ready =========|..region..|=== ready ===|.... room ....|
 *                  run                                               at
 *
 * Replies are built in place behind each other and leave in one write per batch. A read that completes later reserves a
 * region: it pins the slab, splits the run, and is queued as a run of its own when its data is there (any order, G1).
 *
 * The kernel usually takes a write at once; then `writableLength` is 0 and the slab starts again from its front. If not,
 * the slab is pinned until the write's callback, and what waits counts against the backlog mark (Z7).
 */
import type { Allotment } from './budget.js'
import type { Slab } from './slab.js'
import type { Wire } from './wire.js'

/** Room every request may count on for a reply without data (every header, and an error text of 200 bytes). */
export const REPLY_ROOM_BYTES = 512

/** A pinned slab is kept for the next batch while a quarter of it is free. */
const KEEP_PART = 4

interface Run {
  readonly slab: Slab
  readonly start: number
  readonly end: number
}

export class Outbox {
  readonly #wire: Wire
  readonly #socket: Wire['socket']
  readonly #allotment: Allotment
  readonly #backlogBytes: number
  readonly #runs: Run[] = []
  /** One entry per write whose callback is still to come: the slab it pins, or undefined when the kernel has it. */
  readonly #writes: (Slab | undefined)[] = []
  readonly #onDrained: () => void
  readonly #written = (): void => { this.#afterWrite() }
  slab: Slab | undefined
  at = 0
  #run = 0
  #closed = false

  /** `onDrained` is called whenever waiting bytes have left. */
  constructor(wire: Wire, allotment: Allotment, backlogBytes: number, onDrained: () => void) {
    this.#wire = wire
    this.#socket = wire.socket
    this.#allotment = allotment
    this.#backlogBytes = backlogBytes
    this.#onDrained = onDrained
  }

  /** Nothing is waiting to be written, so no drain will come. */
  get empty(): boolean { return this.#runs.length === 0 && this.at === this.#run && this.#socket.writableLength === 0 }

  /**
   * Makes room for `bytes` in one piece at `at`, sending what is ready if it must. False with no slab: the client does not
   * read, or all memory of this connection is in use; try again after `onDrained` or a completion. False with a slab: the
   * budget gave a small one; use smaller pieces.
   */
  reserve(bytes: number): boolean {
    if (this.slab !== undefined && this.slab.size - this.at >= bytes) return true
    if (this.slab !== undefined) this.#turnOver()
    if (this.slab === undefined && !this.#openSlab()) return false
    return this.slab!.size >= bytes
  }

  #openSlab(): boolean {
    if (this.#socket.writableLength > this.#backlogBytes) return false
    this.slab = this.#allotment.take('large') ?? this.#allotment.takeOwn()
    if (this.slab === undefined && this.#runs.length > 0) {
      // Regions that are ready hold slabs; sending them may free one, and nobody would tell us later.
      this.#send()
      this.slab = this.#allotment.takeOwn()
    }
    return this.slab !== undefined
  }

  /** Room for the reply of a request that was already executed; never refused, at most REPLY_ROOM_BYTES each. */
  reserveReply(): void {
    if (this.reserve(REPLY_ROOM_BYTES)) return
    this.slab = this.#allotment.takeOwn() ?? this.#allotment.overdraw()
  }

  /** Takes `bytes` at `at` out of the run for data that comes later; returns its start. The slab stays pinned. */
  openRegion(bytes: number): number {
    const start = this.at
    this.#closeRun()
    this.slab!.pin()
    this.at += bytes
    this.#run = this.at
    return start
  }

  /** The region's reply stands in [start, end) of `slab`; it may leave with the next flush. */
  sendRegion(slab: Slab, start: number, end: number): void {
    if (this.#closed) {
      slab.unpin()
      return
    }
    // What is ready comes first: it may be the end of a reply that must not be interrupted.
    this.#closeRun()
    this.#runs.push({ slab, start, end })
  }

  /** The region's read failed: nothing of it is sent. */
  dropRegion(slab: Slab): void { slab.unpin() }

  /**
   * Sends what is ready and, at the end of a batch, gives the slab back. One with open regions is kept while a good part
   * of it is free, so that many small reads that complete later share a slab instead of pinning one each.
   */
  flush(): void {
    this.#send()
    const { slab } = this
    if (slab === undefined || (slab.pinned && slab.size - this.at >= slab.size / KEEP_PART)) return
    slab.retire()
    this.#forget()
  }

  /** Sends what is ready but keeps the slab: the batch goes on. */
  #turnOver(): void {
    this.#send()
    if (this.slab!.pinned) {
      this.slab!.retire()
      this.#forget()
    } else this.at = this.#run = 0
  }

  #forget(): void {
    this.slab = undefined
    this.at = this.#run = 0
  }

  #closeRun(): void {
    if (this.at === this.#run) return
    this.slab!.pin()
    this.#runs.push({ slab: this.slab!, start: this.#run, end: this.at })
    this.#run = this.at
  }

  #send(): void {
    if (this.#closed) return
    if (this.#runs.length === 0) {
      if (this.at > this.#run) this.#writeRun(this.slab!, this.#run, this.at)
      this.#run = this.at
      return
    }
    this.#closeRun()
    this.#socket.cork()
    const runs = this.#runs.splice(0)
    for (const { slab, start, end } of runs) this.#write(slab, start, end)
    this.#socket.uncork()
    for (const { slab } of runs) slab.unpin()
    this.#forgetTaken()
  }

  /** One run, the usual case: straight to the kernel if nothing is queued; what it does not take is queued. */
  #writeRun(slab: Slab, start: number, end: number): void {
    const taken = this.#socket.writableLength === 0 ? this.#wire.writeNow(slab.buffer, start, end) : 0
    if (start + taken < end) this.#write(slab, start + taken, end)
  }

  #write(slab: Slab, start: number, end: number): void {
    this.#writes.push(slab)
    slab.pin()
    this.#socket.write(slab.buffer.subarray(start, end), this.#written)
    this.#forgetTaken()
  }

  /** The kernel has everything: nothing is pinned by writes any more, though their callbacks are still to come. */
  #forgetTaken(): void {
    if (this.#socket.writableLength > 0) return
    const writes = this.#writes
    for (let i = writes.length - 1; i >= 0 && writes[i] !== undefined; i--) {
      writes[i]!.unpin()
      writes[i] = undefined
    }
  }

  #afterWrite(): void {
    const slab = this.#writes.shift()
    if (slab === undefined) return
    slab.unpin()
    if (!this.#closed) this.#onDrained()
  }

  /** The connection is over: whatever was ready is dropped. Writes under way still call back. */
  release(): void {
    this.#closed = true
    for (const { slab } of this.#runs.splice(0)) slab.unpin()
    if (this.slab !== undefined) {
      this.slab.retire()
      this.#forget()
    }
  }
}
