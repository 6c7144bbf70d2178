/**
 * 64-bit unsigned integers in a buffer, as Numbers. Big endian, as on the NBD wire; the records on disk use the same.
 *
 * Limit: 2^53 - 1. A larger value on the wire or on disk is refused at decode (RangeError), never rounded.
 */
import { SAFE_MAX } from './integer.js'

const TWO_32 = 2 ** 32
/** The upper word of 2^53 - 1. */
const HIGH_MAX = 0x1fffff

/** Reads 8 bytes at `at`; throws RangeError where the value passes 2^53 - 1 or the buffer ends before. */
export function readU64(buf: Buffer, at: number): number {
  const high = buf.readUInt32BE(at)
  if (high > HIGH_MAX) throw new RangeError(`64-bit value at byte ${at} is above 2^53 - 1`)
  return high * TWO_32 + buf.readUInt32BE(at + 4)
}

/** Writes 8 bytes at `at`; throws RangeError for anything that is not an integer in [0, 2^53 - 1]. */
export function writeU64(buf: Buffer, at: number, n: number): void {
  if (!(n >= 0 && n <= SAFE_MAX && Number.isInteger(n))) throw new RangeError(`${n} is not an unsigned integer below 2^53`)
  buf.writeUInt32BE(Math.floor(n / TWO_32), at)
  buf.writeUInt32BE(n % TWO_32, at + 4)
}
