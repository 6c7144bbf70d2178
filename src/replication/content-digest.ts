/**
 * Content digests: what both sides of a mirror say of the same ranges of their devices, without sending them (SEEDS X14).
 *
 * Ranges are cut into *portions*: at multiples of the region's size, and after RUNS_PER_PORTION ranges. Of each there is one
 * digest: SHA-256 over its segments in ascending order. A unit is 4 KiB at a multiple of 4 KiB, or what the range has of it.
 * Neighbouring units of zeros are one segment, neighbouring others are one; it ends where its range or portion ends.
 *
 *   data    the bytes, then 'D', offset and length, each 64 bits, big endian
 *   zeros   'Z', offset and length: whoever knows that there are zeros need not read them
 *
 * Read from its end it can be taken apart in one way only, so equal digests are equal content, as far as SHA-256 goes.
 * docs/peer-link.md has the same definition, for the other end of a link.
 */
import { createHash, type Hash } from 'node:crypto'
import { isZero } from '../../native-free/zero-scan.js'

export const UNIT_BYTES = 4096
const RUNS_PER_PORTION = 1000
export const REGION_BYTES_MIN = 2 ** 20
export const REGION_BYTES_MAX = 2 ** 30
/** So that the digests of a whole volume take 2 MiB. */
const REGIONS_MAX = 65_536
const TRAILER_BYTES = 17
const [DATA, ZEROS] = [0x44, 0x5a]

/** Bytes; ascending, disjoint. */
export interface ByteRun { readonly start: number, readonly end: number }
/** From the start of the first of its runs to the end of the last one. */
export interface Portion extends ByteRun { readonly runs: readonly ByteRun[] }
export interface PortionDigest extends ByteRun { readonly digest: Buffer }

/** Of a volume of that size: a power of two. */
export function regionBytesOf(sizeBytes: number): number {
  let bytes = REGION_BYTES_MIN
  while (bytes < REGION_BYTES_MAX && sizeBytes / bytes > REGIONS_MAX) bytes *= 2
  return bytes
}

/** Found as they are asked for. */
export function* portionsOf(runs: Iterable<ByteRun>, regionBytes: number): Generator<Portion, void> {
  let open: ByteRun[] = []
  const portion = (): Portion => ({ start: open[0]!.start, end: open.at(-1)!.end, runs: open })
  for (const { start, end } of runs) {
    for (let at = start; at < end;) {
      const stop = Math.min(end, at - at % regionBytes + regionBytes)
      const isSameRegion = open.length > 0 && Math.floor(open[0]!.start / regionBytes) === Math.floor(at / regionBytes)
      if (open.length > 0 && (!isSameRegion || open.length === RUNS_PER_PORTION)) {
        yield portion()
        open = []
      }
      open.push({ start: at, end: stop })
      at = stop
    }
  }
  if (open.length > 0) yield portion()
}

/** Digests of portions, out of their content in ascending order, in pieces of any size. */
export class PortionDigests {
  readonly #portions: Iterator<Portion, void>
  readonly #onDigest: (digest: PortionDigest) => void
  #portion: Portion | undefined
  #hash: Hash | undefined
  #segment: { readonly type: number, readonly start: number, end: number } | undefined
  /** Of a unit that came in parts. */
  readonly #unit = Buffer.allocUnsafe(UNIT_BYTES)
  #unitStart = 0
  #unitBytes = 0

  constructor(portions: Iterable<Portion>, onDigest: (digest: PortionDigest) => void) {
    this.#portions = portions[Symbol.iterator]() as Iterator<Portion, void>
    this.#onDigest = onDigest
  }

  /** @param from content; undefined: zeros */
  feed(offset: number, length: number, from: Buffer | undefined, at = 0): void {
    for (let done = 0; done < length;) {
      const portion = this.#portion ??= this.#next()
      const start = offset + done
      if (start < portion.start || start >= portion.end) throw new RangeError('content is not in the order of the portions')
      const bytes = Math.min(length - done, portion.end - start)
      if (this.#unitBytes > 0 && start !== this.#unitStart + this.#unitBytes) this.#endUnit()
      this.#take(start, bytes, from, at + done)
      done += bytes
      if (start + bytes === portion.end) this.#close(portion)
    }
  }

  #next(): Portion {
    const { value } = this.#portions.next()
    if (!value) throw new RangeError('there is more content than there are portions')
    return value
  }

  /** Whole units go on at once. */
  #take(start: number, bytes: number, from: Buffer | undefined, at: number): void {
    const end = start + bytes
    for (let offset = start; offset < end;) {
      const rest = UNIT_BYTES - offset % UNIT_BYTES
      const isWhole = this.#unitBytes === 0 && rest === UNIT_BYTES && end - offset >= UNIT_BYTES
      const length = isWhole && !from ? end - offset - (end - offset) % UNIT_BYTES : Math.min(rest, end - offset)
      if (isWhole) this.#add(offset, length, from, at + offset - start)
      else this.#collect(offset, length, from, at + offset - start)
      offset += length
    }
  }

  #collect(offset: number, length: number, from: Buffer | undefined, at: number): void {
    if (this.#unitBytes === 0) this.#unitStart = offset
    if (from) from.copy(this.#unit, this.#unitBytes, at, at + length)
    else this.#unit.fill(0, this.#unitBytes, this.#unitBytes + length)
    this.#unitBytes += length
    if ((offset + length) % UNIT_BYTES === 0) this.#endUnit()
  }

  #endUnit(): void {
    const length = this.#unitBytes
    this.#unitBytes = 0
    if (length > 0) this.#add(this.#unitStart, length, this.#unit, 0)
  }

  #add(offset: number, length: number, from: Buffer | undefined, at: number): void {
    const type = !from || isZero(from, at, length) ? ZEROS : DATA
    const segment = this.#segment
    if (segment?.type === type && segment.end === offset) segment.end += length
    else {
      this.#endSegment()
      this.#segment = { type, start: offset, end: offset + length }
    }
    this.#hash ??= createHash('sha256')
    if (type === DATA) this.#hash.update(from!.subarray(at, at + length))
  }

  #endSegment(): void {
    if (!this.#segment) return
    const { type, start, end } = this.#segment
    this.#segment = undefined
    const trailer = Buffer.alloc(TRAILER_BYTES)
    trailer[0] = type
    trailer.writeBigUInt64BE(BigInt(start), 1)
    trailer.writeBigUInt64BE(BigInt(end - start), 9)
    this.#hash!.update(trailer)
  }

  #close({ start, end }: Portion): void {
    this.#endUnit()
    this.#endSegment()
    const digest = this.#hash!.digest()
    this.#hash = undefined
    this.#portion = undefined
    this.#onDigest({ start, end, digest })
  }
}
