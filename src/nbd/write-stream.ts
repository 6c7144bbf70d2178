/**
 * A WRITE whose payload is larger than what is waited for: it is written to the device in pieces as it arrives, straight
 * from the receive slab, so that 64 MiB from a slow client cost no memory (Z4). It was judged at its header.
 *
 * A piece that completes later pins the slab it lies in. After a failure the rest of the payload is passed over, and the
 * reply, which names the first failure, goes out when all pieces have settled and all bytes have come.
 */
import type { BlockDevice, Origin, Pending } from '../device/block-device.js'
import type { Inbox } from './inbox.js'
import type { Job } from './jobs.js'

/** Pieces end at multiples of this, so that no page of the file is written in two parts. */
const PIECE_EDGE_BYTES = 4096

export class WriteStream {
  readonly job: Job
  failure: unknown
  readonly #device: BlockDevice
  readonly #inbox: Inbox
  readonly #origin: Origin
  readonly #onSettled: (error?: unknown) => void
  #offset: number
  #left: number
  #running = 0

  /** `onSettled` is called after each piece that completed later; with an argument only for a broken invariant. */
  constructor(device: BlockDevice, inbox: Inbox, origin: Origin, job: Job, onSettled: (error?: unknown) => void) {
    this.#device = device
    this.#inbox = inbox
    this.#origin = origin
    this.job = job
    this.#offset = job.offset
    this.#left = job.length
    this.#onSettled = onSettled
  }

  /** The whole payload has come. */
  get taken(): boolean { return this.#left === 0 }
  /** ... and the device has finished with it. */
  get settled(): boolean { return this.#left === 0 && this.#running === 0 }
  /** Pieces are at the device. */
  get running(): boolean { return this.#running > 0 }

  /** Takes what has arrived. False: more bytes are needed first. */
  take(): boolean {
    const inbox = this.#inbox
    let count = Math.min(inbox.available, this.#left)
    if (count < this.#left) count -= (this.#offset + count) % PIECE_EDGE_BYTES
    if (count <= 0) return false
    if (this.failure === undefined) this.#write(count)
    inbox.pos += count
    this.#offset += count
    this.#left -= count
    return true
  }

  /** The client is gone: no more bytes will come. */
  abandon(): void { this.#left = 0 }

  #write(count: number): void {
    const { slab, pos } = this.#inbox
    let pending: Pending
    try {
      pending = this.#device.write(this.#offset, count, slab.buffer, pos, this.#origin)
    } catch (error) {
      this.failure = error ?? new Error('a device threw nothing')
      return
    }
    if (pending === undefined) return
    slab.pin()
    this.#running++
    pending.catch((error: unknown) => { this.failure ??= error ?? new Error('a device rejected with nothing') }).then(() => {
      slab.unpin()
      this.#running--
      this.#onSettled()
    }).catch(this.#onSettled)
  }
}
