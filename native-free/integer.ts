/**
 * Arithmetic on byte offsets and counts: plain Numbers up to 2^53 - 1.
 *
 * Invariant: no bitwise operator touches a whole offset, because those cut their operands to 32 bits and an offset
 * of 3 GiB would come back negative. Callers hand in non-negative safe integers; `unit` and `divisor` are >= 1.
 */

/** Above this an offset cannot be told from its neighbour. */
export const SAFE_MAX = Number.MAX_SAFE_INTEGER
const TWO_32 = 2 ** 32

/** True for 1, 2, 4 ... 2^52; false for 0, fractions and negatives. */
export function isPowerOfTwo(n: number): boolean {
  if (!Number.isSafeInteger(n) || n < 1) return false
  const high = Math.floor(n / TWO_32)
  const low = n % TWO_32
  // The int32 test is exact on each half: `& (x - 1)` clears the lowest set bit.
  if (high === 0) return (low & (low - 1)) === 0
  return low === 0 && (high & (high - 1)) === 0
}

/** The largest multiple of `unit` that is <= n. */
export function roundDown(n: number, unit: number): number {
  return n - n % unit
}

/** The smallest multiple of `unit` that is >= n. Throws RangeError where that passes 2^53 - 1. */
export function roundUp(n: number, unit: number): number {
  const rest = n % unit
  if (rest === 0) return n
  const up = n - rest + unit
  if (up > SAFE_MAX) throw new RangeError(`${n} rounded up to ${unit} passes 2^53`)
  return up
}

/** n / divisor, rounded up, without passing through n + divisor. */
export function divCeil(n: number, divisor: number): number {
  const rest = n % divisor
  return (n - rest) / divisor + (rest === 0 ? 0 : 1)
}
