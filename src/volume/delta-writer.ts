/**
 * Zeros and data in ascending order as the records of a stream: zeros that touch become one, and travel in the record of
 * the data behind them. So a merged stream is never longer than the streams it was made of (delta-merge.ts).
 */
import { DELTA_HEAD_BYTES, type DeltaHeader, type DeltaPosition, EXTENT_FIXED_BYTES } from '../../native-free/delta-record.js'
import { DeltaEncoder } from '../../native-free/delta-stream.js'
import { type DeltaOutput, sha256 } from './delta-pipe.js'

/** Of records between two marks: what a resumed transfer repeats at most. */
export const MARK_BYTES = 64 * 2 ** 20
const EXTENT_BYTES = DELTA_HEAD_BYTES + EXTENT_FIXED_BYTES
const NOTHING = Buffer.alloc(0)

export class DeltaWriter {
  readonly #encoder = new DeltaEncoder(sha256)
  readonly #output: DeltaOutput
  readonly #markBytes: number
  #sinceMark = 0
  /** Zeros not sent yet, in front of what comes next. */
  #zeroAt = 0
  #zeroBytes = 0

  /** @param markBytes Infinity: only `mark` marks */
  constructor(output: DeltaOutput, markBytes: number) {
    this.#output = output
    this.#markBytes = markBytes
  }

  get position(): DeltaPosition { return this.#encoder.position }

  async begin(header: DeltaHeader, after?: DeltaPosition): Promise<void> {
    await this.#output.write(this.#encoder.begin(header, after))
  }

  async zero(offset: number, bytes: number): Promise<void> {
    if (this.#zeroBytes > 0 && this.#zeroAt + this.#zeroBytes === offset) {
      this.#zeroBytes += bytes
      return
    }
    await this.#settleZeros()
    this.#zeroAt = offset
    this.#zeroBytes = bytes
  }

  /** `data` must not change any more. */
  async data(offset: number, data: Buffer): Promise<void> {
    if (this.#zeroAt + this.#zeroBytes !== offset) await this.#settleZeros()
    const zeroBytes = this.#zeroBytes
    this.#zeroBytes = 0
    await this.#extent(offset - zeroBytes, zeroBytes, data)
  }

  /** A mark, unless nothing was sent since the last one. */
  async mark(): Promise<void> {
    if (this.#sinceMark === 0) return
    this.#sinceMark = 0
    await this.#output.write(this.#encoder.mark())
  }

  async end(): Promise<void> {
    await this.#settleZeros()
    await this.#output.write(this.#encoder.end())
  }

  async #settleZeros(): Promise<void> {
    const bytes = this.#zeroBytes
    this.#zeroBytes = 0
    if (bytes > 0) await this.#extent(this.#zeroAt, bytes, NOTHING)
  }

  async #extent(offset: number, zeroBytes: number, data: Buffer): Promise<void> {
    await this.#output.write(this.#encoder.extent(offset, zeroBytes, data), data)
    this.#sinceMark += EXTENT_BYTES + data.length
    if (this.#sinceMark >= this.#markBytes) await this.mark()
  }
}
