/**
 * BatchWriter: puts records one behind the other onto a device. While a write is in flight, what comes is gathered
 * and leaves as one write when it lands. Where the device completes at once, so does every record, without a promise.
 *
 * Invariants: at most one write is in flight; bytes reach the device in the order of `commit`; after a failure
 * nothing more is written (the caller latches). Memory: two buffers, each as large as the largest batch so far,
 * at most the space that the caller hands out.
 */
import type { BlockDevice, Pending } from '../device/block-device.js'

/** One page of a busy journal: some fifty records. */
const BUFFER_MIN_BYTES = 4096

interface Waiting {
  readonly promise: Promise<void>
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

export class BatchWriter {
  readonly #device: BlockDevice
  #buffer: Buffer = Buffer.allocUnsafe(BUFFER_MIN_BYTES)
  #spare: Buffer | undefined
  #filledBytes = 0
  /** Where the batch in `#buffer` begins on the device. */
  #batchAt: number
  #batchSequence: number
  #writtenSequence: number
  #flight: Promise<void> | undefined
  #waiting: Waiting | undefined
  #failure: unknown

  /** Goes on at byte `address`; everything up to record `sequence` is there. */
  constructor(device: BlockDevice, address: number, sequence: number) {
    this.#device = device
    this.#batchAt = address
    this.#batchSequence = sequence
    this.#writtenSequence = sequence
  }

  /** Device address of the next byte. */
  get address(): number { return this.#batchAt + this.#filledBytes }
  /** The last record that is with the device. */
  get writtenSequence(): number { return this.#writtenSequence }
  /** Where `reserve` made room: `buffer[at, at + size)`. Valid until the next call. */
  get buffer(): Buffer { return this.#buffer }

  /** Makes room for a record of `sizeBytes`; returns its place in `buffer`. Nothing happens until `commit`. */
  reserve(sizeBytes: number): number {
    const needed = this.#filledBytes + sizeBytes
    if (needed > this.#buffer.length) {
      const larger = Buffer.allocUnsafe(Math.max(needed, 2 * this.#buffer.length))
      this.#buffer.copy(larger, 0, 0, this.#filledBytes)
      this.#buffer = larger
    }
    return this.#filledBytes
  }

  /** Sends what `reserve` was filled with, at once or with the next batch. Throws or rejects with the device's error. */
  commit(sizeBytes: number, sequence: number): Pending {
    this.#filledBytes += sizeBytes
    this.#batchSequence = sequence
    if (this.#failure !== undefined) throw this.#failure
    if (this.#flight === undefined) return this.#launch()
    this.#waiting ??= waiting()
    return this.#waiting.promise
  }

  /** Resolves when every record up to `sequence` is with the device. */
  async reached(sequence: number): Promise<void> {
    while (this.#writtenSequence < sequence) {
      if (this.#failure !== undefined) throw this.#failure
      await (this.#waiting?.promise ?? this.#flight)
    }
  }

  #launch(): Pending {
    const buffer = this.#buffer
    const length = this.#filledBytes
    const from = this.#batchAt
    const sequence = this.#batchSequence
    this.#buffer = this.#spare ?? Buffer.allocUnsafe(BUFFER_MIN_BYTES)
    this.#spare = undefined
    this.#filledBytes = 0
    this.#batchAt = from + length
    let pending: Pending
    try {
      pending = this.#device.write(from, length, buffer, 0)
    } catch (error) {
      this.#fail(error)
      throw error
    }
    if (pending === undefined) {
      this.#landed(buffer, sequence)
      return undefined
    }
    this.#flight = pending.then(() => {
      this.#landed(buffer, sequence)
      this.#flight = undefined
      if (this.#waiting) this.#launchWaiting(this.#waiting)
    }, (error: unknown) => {
      this.#fail(error)
      throw error
    })
    return this.#flight
  }

  #landed(buffer: Buffer, sequence: number): void {
    this.#spare = buffer
    this.#writtenSequence = sequence
  }

  #launchWaiting(waiting: Waiting): void {
    this.#waiting = undefined
    try {
      const pending = this.#launch()
      if (pending === undefined) waiting.resolve()
      else pending.then(waiting.resolve, waiting.reject)
    } catch (error) {
      waiting.reject(error)
    }
  }

  #fail(error: unknown): void {
    this.#failure = error
    this.#waiting?.reject(error)
  }
}

function waiting(): Waiting {
  let resolve!: () => void
  let reject!: (error: unknown) => void
  const promise = new Promise<void>((done, failed) => { resolve = done; reject = failed })
  return { promise, resolve, reject }
}
