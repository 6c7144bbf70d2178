/**
 * Ship: copies ranges from a frozen image to a device, several pieces at a time; zeros leave as zeros (X7).
 *
 * - LANES pieces of PIECE_BYTES are under way; each lane has buffers of its own, so memory does not depend on the volume.
 * - A `blank` target reads as zeros: those are not sent, and count as equal.
 * - With `compare` the target is read as well, and what is equal there is not written (A22).
 * - A piece is done when the target has taken it; nothing of that is durable before the caller's flush.
 * - With a rate, lanes wait their turn, so that over any second no more than a second's bytes are sent.
 * - Without one it gives way to clients (courtesy.ts), if that is wanted.
 * - With `sent` and `onRead` all that is looked at is told, in ascending order: a lane that has read its piece waits for those
 *   before it, and sends meanwhile.
 * Whatever goes wrong, nothing is under way any more when `ship` rejects.
 */
import { isZero } from '../../native-free/zero-scan.js'
import { allSettled } from '../device/all-settled.js'
import type { BlockDevice } from '../device/block-device.js'
import type { Clock } from '../device/clock.js'
import { NbdeltaError } from '../device/errors.js'
import type { ByteRun } from './content-digest.js'
import { Courtesy, type CourtesyOptions } from './courtesy.js'
import { Pace } from './pace.js'

const LANES = 16
const PIECE_BYTES = 256 * 1024
/** With a rate, pieces are of so many seconds, so that the rate is even. */
const PACED_SECONDS = 0.05
const PACED_PIECE_MIN = 4096
/** What differs is told apart in units of so many bytes. */
const UNIT_BYTES = 4096
const NOTHING = Buffer.alloc(0)
/** Zeros are told of in pieces of so many bytes. */
const TOLD_BYTES = 2 ** 28
/** After so many bytes without any wait others get a turn. */
const TURN_BYTES = 512 * 1024

/** `isThere`: the target has it already; it is told of, and not sent. */
export type ShipRun = ByteRun & { readonly isThere?: boolean }

type Piece = ShipRun & { readonly isZero: boolean }

export interface ShipOptions {
  readonly source: Pick<BlockDevice, 'read' | 'zeroRun'>
  readonly target: BlockDevice
  /** Bytes, ascending, disjoint. */
  readonly runs: Iterable<ShipRun>
  readonly compare: boolean
  readonly blank: boolean
  readonly bytesPerSecond: number | null
  /** It gives way to clients, if it has no limit. */
  readonly courtesy?: CourtesyOptions | undefined
  /** Pieces are multiples of so many bytes, a power of two, as the runs have to be. */
  readonly unitBytes?: number
  readonly clock: Clock
  readonly signal: AbortSignal
  /** Content of the runs, as the target is to have it; without a buffer: zeros. */
  readonly sent?: { take(offset: number, length: number, from?: Buffer): void } | undefined
  /** Everything before `offset` has been read, and is not read again. Ascending. */
  readonly onRead?: (offset: number) => void
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
  readonly #pieces: Iterator<Piece>
  #failure: unknown
  #failed = false
  readonly #pace: Pace
  readonly #courtesy: Courtesy | undefined
  /** The last piece that was begun has been told. */
  #told: Promise<void> = Promise.resolve()
  #sinceTurn = 0

  constructor(options: ShipOptions) {
    this.#options = options
    const { bytesPerSecond, unitBytes = 1 } = options
    const paced = bytesPerSecond === null ? PIECE_BYTES : Math.max(PACED_PIECE_MIN, bytesPerSecond * PACED_SECONDS)
    const piece = Math.min(PIECE_BYTES, paced - paced % PACED_PIECE_MIN)
    this.#pieces = pieces(options.source, options.runs, Math.max(unitBytes, piece - piece % unitBytes))
    this.#pace = new Pace(options.clock, bytesPerSecond)
    if (options.courtesy && bytesPerSecond === null) this.#courtesy = new Courtesy(options.clock, options.courtesy)
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
        const tell = this.#nextInLine(piece)
        if (piece.isZero) {
          await allSettled([tell(undefined), this.#zero(piece.start, length, piece.isThere)])
        } else {
          // No longer than needed: a cycle of a few grains is over at once.
          await this.#courtesy?.wait(length, signal)
          if (buffer.length < length) buffer = Buffer.allocUnsafe(length)
          if (compare && there.length < length) there = Buffer.allocUnsafe(length)
          await this.#copy(piece, buffer, compare ? there : undefined, tell)
        }
        onProgress(piece.end - piece.start)
        await this.#giveWay(piece.end - piece.start)
      }
    } catch (error) { this.#fail(error) }
  }

  /** The first one counts. */
  #fail(error: unknown): void {
    if (!this.#failed) this.#failure = error
    this.#failed = true
  }

  /** Whoever calls what is returned is told after all pieces that were begun before. */
  #nextInLine({ start, end }: ByteRun): (from: Buffer | undefined) => Promise<void> {
    const { sent, onRead } = this.#options
    if (!sent && !onRead) return async () => undefined
    const before = this.#told
    let done!: () => void
    this.#told = new Promise(resolve => { done = resolve })
    return async from => {
      await before
      try {
        if (!this.#failed) onRead?.(end)
        for (let at = start; sent && at < end && !this.#failed;) {
          const length = Math.min(end - at, TOLD_BYTES)
          sent.take(at, length, from)
          at += length
          if (at < end) await new Promise<void>(resolve => { setImmediate(resolve) })
        }
      } finally { done() }
    }
  }

  async #copy(
    { start, end, isThere }: Piece, buffer: Buffer, there: Buffer | undefined, tell: (from: Buffer) => Promise<void>,
  ): Promise<void> {
    const { source, target } = this.#options
    const length = end - start
    // All of it, but for what is sent.
    this.shipped.equal += length
    const read = async (from: ShipOptions['source'], into: Buffer): Promise<void> => { await from.read(start, length, into, 0) }
    try {
      await allSettled([read(source, buffer), there && read(target, there)])
    } catch (error) {
      this.#fail(error)
      await tell(buffer)
      throw error
    }
    const send = async (): Promise<void> => {
      for (const { at, end: stop } of there ? differing(buffer, there, length) : [{ at: 0, end: length }]) {
        await this.#send(start, at, stop, buffer)
      }
    }
    await allSettled([tell(buffer), isThere ? undefined : send()])
  }

  async #send(start: number, at: number, end: number, buffer: Buffer): Promise<void> {
    const length = end - at
    this.shipped.equal -= length
    if (isZero(buffer, at, length)) return this.#zero(start + at, length)
    await this.#pace.wait(length, this.#options.signal)
    await this.#options.target.write(start + at, length, buffer, at)
    this.shipped.data += length
  }

  async #zero(start: number, length: number, isThere = false): Promise<void> {
    if (this.#options.blank || isThere) {
      this.shipped.equal += length
      return
    }
    await this.#options.target.zero(start, length, { allocate: false, fast: false })
    this.shipped.zeros += length
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
  source: ShipOptions['source'], runs: Iterable<ShipRun>, limit: number,
): Generator<Piece, void> {
  for (const { start, end, isThere = false } of runs) {
    for (let at = start; at < end;) {
      const run = source.zeroRun(at, end - at)
      const bytes = run < 0 ? -run : Math.min(run, limit)
      yield { start: at, end: at + bytes, isThere, isZero: run < 0 }
      at += bytes
    }
  }
}
