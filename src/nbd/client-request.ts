/**
 * ClientRequest: one request on the wire, from being queued to its whole reply: what was asked, where its bytes lie, how
 * far the reply has come, and the promise of whoever asked. It may be sent more than once (after a lost connection); each
 * sending begins with `begin`, which forgets what an earlier reply had told.
 */
import { COMMAND, COMMAND_FLAG, COMMAND_NAMES } from '../../native-free/nbd/constants.js'
import type { RequestHeader } from '../../native-free/nbd/client-transmission.js'
import { IntervalSet } from '../../native-free/interval-set.js'
import type { Origin } from '../device/block-device.js'
import type { NbdeltaError } from '../device/errors.js'
import type { ExtentList } from '../device/extent-list.js'

/** What a request without payload counts as against the bytes in flight. */
const REQUEST_BYTES = 512
/** A reply in more separate pieces than this is no reply but an attack on our memory. */
const PIECES_MAX = 1024

interface RequestBytes { readonly buffer: Buffer, readonly at: number }

export class ClientRequest implements RequestHeader {
  cookieHigh = 0
  cookieLow = 0
  /** When it was sent last, on the clock of the client. */
  sentAt = 0
  sends = 0
  /** Why the peer refused it, and with which number. */
  failure: NbdeltaError | undefined
  errno = 0
  /** A status chunk for the context was there. */
  statusSeen = false
  readonly done: Promise<void>
  #resolve!: () => void
  #reject!: (error: NbdeltaError) => void
  /** Content up to here has arrived in order; `#pieces` takes over when it does not. */
  #next: number
  #pieces: IntervalSet | undefined

  constructor(
    readonly type: number, readonly flags: number, readonly offset: number, readonly length: number,
    readonly bytes?: RequestBytes, readonly origin?: Origin, readonly extents?: ExtentList,
  ) {
    this.#next = offset
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
  }

  /** It may change content: never to be sent again without the caller's knowledge (SEEDS X9). */
  get writes(): boolean {
    return this.type === COMMAND.write || this.type === COMMAND.writeZeroes || this.type === COMMAND.trim
  }

  /** Bytes it takes of the limit in flight. */
  get cost(): number { return REQUEST_BYTES + (this.bytes === undefined ? 0 : this.length) }

  /** "write [4096, +512)", for people. */
  get text(): string {
    const name = COMMAND_NAMES[this.type] ?? String(this.type)
    return this.type === COMMAND.flush ? name : `${name} [${this.offset}, +${this.length})`
  }

  get fast(): boolean { return (this.flags & COMMAND_FLAG.fastZero) !== 0 }

  overlaps(other: ClientRequest): boolean {
    return this.offset < other.offset + other.length && other.offset < this.offset + this.length
  }

  begin(cookieHigh: number, cookieLow: number, now: number): void {
    this.cookieHigh = cookieHigh
    this.cookieLow = cookieLow
    this.sentAt = now
    this.sends++
    this.failure = undefined
    this.errno = 0
    this.statusSeen = false
    this.#next = this.offset
    this.#pieces = undefined
    if (this.extents) this.extents.lengths.length = this.extents.states.length = 0
  }

  /** Content for [start, start + length) is here. False: some of it was here already, or it comes in crumbs (R2). */
  cover(start: number, length: number): boolean {
    if (this.#pieces === undefined && start === this.#next) {
      this.#next += length
      return true
    }
    if (this.#pieces === undefined) {
      this.#pieces = new IntervalSet()
      if (this.#next > this.offset) this.#pieces.add(this.offset, this.#next)
    }
    const before = this.#pieces.total
    this.#pieces.add(start, start + length)
    return this.#pieces.total === before + length && this.#pieces.size <= PIECES_MAX
  }

  /** Bytes of the range for which content has come. */
  get coveredBytes(): number { return this.#pieces?.total ?? this.#next - this.offset }

  resolve(): void { this.#resolve() }
  reject(error: NbdeltaError): void { this.#reject(error) }
}
