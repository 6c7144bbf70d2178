/**
 * Ship: copies ranges from a frozen image to a device, several pieces at a time; zeros leave as zeros (X7).
 *
 * - LANES pieces of PIECE_BYTES are under way; each lane has buffers of its own, so memory does not depend on the volume.
 * - A `blank` target reads as zeros: those are not sent, and count as equal.
 * - With `compare` the target is read as well, and what is equal there is not written (A22).
 * - A piece is done when the target has taken it; nothing of that is durable before the caller's flush.
 * - With a rate, lanes wait their turn, so that over any second no more than a second's bytes are sent.
 * Whatever goes wrong, nothing is under way any more when `ship` rejects.
 */
import { isZero } from '../../native-free/zero-scan.js'
import { allSettled } from '../device/all-settled.js'
import type { BlockDevice } from '../device/block-device.js'
import type { Clock } from '../device/clock.js'
import { NbdeltaError } from '../device/errors.js'

const LANES = 16
const PIECE_BYTES = 256 * 1024
/** With a rate, pieces are of so many seconds, so that the rate is even. */
const PACED_SECONDS = 0.05
const PACED_PIECE_MIN = 4096
/** What differs is told apart in units of so many bytes. */
const UNIT_BYTES = 4096
const NOTHING = Buffer.alloc(0)
/** After so many bytes without any wait others get a turn. */
const TURN_BYTES = 512 * 1024

interface ByteRun { readonly start: number, readonly end: number }

export interface ShipOptions {
  readonly source: Pick<BlockDevice, 'read' | 'zeroRun'>
  readonly target: BlockDevice
  /** Bytes, ascending, disjoint. */
  readonly runs: Iterable<ByteRun>
  readonly compare: boolean
  readonly blank: boolean
  readonly bytesPerSecond: number | null
  readonly clock: Clock
  readonly signal: AbortSignal
  /** Bytes of the runs that have been dealt with since the last call. */
  readonly onProgress: (bytes: number) => void
}

/** Bytes. */
export interface Shipped {
  readonly data: number
  readonly zeros: number
  /** Not sent: the target has them. */
  readonly equal: number
}

/** Errors: cancelled, and whatever either device reports. */
export async function ship(options: ShipOptions): Promise<Shipped> {
  const work = new Ship(options)
  await work.run()
  return work.shipped
}

class Ship {
  readonly shipped = { data: 0, zeros: 0, equal: 0 }
  readonly #options: ShipOptions
  readonly #pieces: Iterator<ByteRun & { readonly isZero: boolean }>
  #failure: unknown
  #failed = false
  #nextSendMs: number
  #sinceTurn = 0

  constructor(options: ShipOptions) {
    this.#options = options
    const { bytesPerSecond } = options
    const paced = bytesPerSecond === null ? PIECE_BYTES : Math.max(PACED_PIECE_MIN, bytesPerSecond * PACED_SECONDS)
    this.#pieces = pieces(options.source, options.runs, Math.min(PIECE_BYTES, paced - paced % PACED_PIECE_MIN))
    this.#nextSendMs = options.clock.now()
  }

  async run(): Promise<void> {
    const lanes = this.#options.bytesPerSecond === null ? LANES : 1
    await Promise.all(Array.from({ length: lanes }, () => this.#lane()))
    if (this.#failed) throw this.#failure
  }

  async #lane(): Promise<void> {
    const { compare, onProgress, signal } = this.#options
    let buffer = NOTHING
    let there = NOTHING
    try {
      while (!this.#failed) {
        if (signal.aborted) throw new NbdeltaError('cancelled', 'the copy was cancelled')
        const { done, value: piece } = this.#pieces.next()
        if (done) return
        const length = piece.end - piece.start
        if (piece.isZero) await this.#zero(piece.start, length)
        else {
          // No longer than needed: a cycle of a few grains is over at once.
          if (buffer.length < length) buffer = Buffer.allocUnsafe(length)
          if (compare && there.length < length) there = Buffer.allocUnsafe(length)
          await this.#copy(piece, buffer, compare ? there : undefined)
        }
        onProgress(piece.end - piece.start)
        await this.#giveWay(piece.end - piece.start)
      }
    } catch (error) {
      if (!this.#failed) this.#failure = error
      this.#failed = true
    }
  }

  async #copy({ start, end }: ByteRun, buffer: Buffer, there: Buffer | undefined): Promise<void> {
    const { source, target } = this.#options
    const length = end - start
    // All of it, but for what is sent.
    this.shipped.equal += length
    const read = async (from: ShipOptions['source'], into: Buffer): Promise<void> => { await from.read(start, length, into, 0) }
    await allSettled([read(source, buffer), there && read(target, there)])
    for (const { at, end: stop } of there ? differing(buffer, there, length) : [{ at: 0, end: length }]) {
      await this.#send(start, at, stop, buffer)
    }
  }

  async #send(start: number, at: number, end: number, buffer: Buffer): Promise<void> {
    const length = end - at
    this.shipped.equal -= length
    if (isZero(buffer, at, length)) return this.#zero(start + at, length)
    await this.#pace(length)
    await this.#options.target.write(start + at, length, buffer, at)
    this.shipped.data += length
  }

  async #zero(start: number, length: number): Promise<void> {
    if (this.#options.blank) {
      this.shipped.equal += length
      return
    }
    await this.#options.target.zero(start, length, { allocate: false, fast: false })
    this.shipped.zeros += length
  }

  async #pace(bytes: number): Promise<void> {
    const { bytesPerSecond, clock } = this.#options
    if (bytesPerSecond === null) return
    const waitMs = this.#nextSendMs - clock.now()
    this.#nextSendMs = Math.max(this.#nextSendMs, clock.now()) + bytes / bytesPerSecond * 1000
    if (waitMs > 0) await new Promise<void>(resolve => { clock.setTimeout(resolve, waitMs) })
  }

  async #giveWay(bytes: number): Promise<void> {
    this.#sinceTurn += bytes
    if (this.#sinceTurn < TURN_BYTES) return
    this.#sinceTurn = 0
    await new Promise<void>(resolve => { setImmediate(resolve) })
  }
}

/** Parts of the buffers' first `length` bytes that are not equal, in whole units, merged. */
export function differing(a: Buffer, b: Buffer, length: number): { readonly at: number, readonly end: number }[] {
  const parts: { at: number, end: number }[] = []
  if (a.compare(b, 0, length, 0, length) === 0) return parts
  for (let at = 0; at < length; at += UNIT_BYTES) {
    const end = Math.min(length, at + UNIT_BYTES)
    if (a.compare(b, at, end, at, end) === 0) continue
    const last = parts.at(-1)
    if (last?.end === at) last.end = end
    else parts.push({ at, end })
  }
  return parts
}

function* pieces(
  source: ShipOptions['source'], runs: Iterable<ByteRun>, limit: number,
): Generator<ByteRun & { readonly isZero: boolean }, void> {
  for (const { start, end } of runs) {
    for (let at = start; at < end;) {
      const run = source.zeroRun(at, end - at)
      const bytes = run < 0 ? -run : Math.min(run, limit)
      yield { start: at, end: at + bytes, isZero: run < 0 }
      at += bytes
    }
  }
}
