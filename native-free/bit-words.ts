/**
 * Runs of bits in an array of 32-bit words: bit i is bit (i & 31) of word (i >> 5).
 *
 * Ranges are [from, to), 0 <= from < to <= 32 x words; the array is one bitmap page, so int32 arithmetic is safe here.
 * Whole words are handled as words, the first and the last one under a mask.
 */

/** Set bits of one word (the usual sideways addition). */
function bitsOf(word: number): number {
  let x = word - ((word >>> 1) & 0x55555555)
  x = (x & 0x33333333) + ((x >>> 2) & 0x33333333)
  return Math.imul((x + (x >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24
}

/** The bits of word `index` that lie inside [from, to). */
function maskOf(index: number, from: number, to: number): number {
  const low = index === from >>> 5 ? -1 << (from & 31) : -1
  const high = index === (to - 1) >>> 5 ? -1 >>> (31 - ((to - 1) & 31)) : -1
  return low & high
}

/** Sets the bits; how many were clear before. */
export function setBits(words: Int32Array, from: number, to: number): number {
  const last = (to - 1) >>> 5
  let changed = 0
  for (let i = from >>> 5; i <= last; i++) {
    const mask = maskOf(i, from, to)
    changed += bitsOf(mask & ~words[i])
    words[i] |= mask
  }
  return changed
}

/** Clears the bits; how many were set before. */
export function clearBits(words: Int32Array, from: number, to: number): number {
  const last = (to - 1) >>> 5
  let changed = 0
  for (let i = from >>> 5; i <= last; i++) {
    const mask = maskOf(i, from, to)
    changed += bitsOf(mask & words[i])
    words[i] &= ~mask
  }
  return changed
}

/** words = words OR theirs, as long; how many bits that sets. Looks closer only where it does. */
export function orWords(words: Int32Array, theirs: Int32Array): number {
  let changed = 0
  for (let i = 0; i < words.length; i++) {
    const more = theirs[i] & ~words[i]
    if (more === 0) continue
    words[i] |= more
    changed += bitsOf(more)
  }
  return changed
}

/** words = words AND NOT theirs, as long; how many bits that clears. */
export function andNotWords(words: Int32Array, theirs: Int32Array): number {
  let changed = 0
  for (let i = 0; i < words.length; i++) {
    const gone = theirs[i] & words[i]
    if (gone === 0) continue
    words[i] &= ~gone
    changed += bitsOf(gone)
  }
  return changed
}

/** Every bit that is set in `words` is set in `theirs`, as long. */
export function areWithin(words: Int32Array, theirs: Int32Array): boolean {
  for (let i = 0; i < words.length; i++) if ((words[i] & ~theirs[i]) !== 0) return false
  return true
}

/** Set bits of the range. */
export function countBits(words: Int32Array, from: number, to: number): number {
  const last = (to - 1) >>> 5
  let sum = 0
  for (let i = from >>> 5; i <= last; i++) sum += bitsOf(words[i] & maskOf(i, from, to))
  return sum
}

/** Set bits of the whole array. */
export function popcount(words: Int32Array): number {
  let sum = 0
  for (let i = 0; i < words.length; i++) sum += bitsOf(words[i])
  return sum
}

/** The first bit of the range that has `value`, or -1. */
export function firstBit(words: Int32Array, from: number, to: number, value: boolean): number {
  const last = (to - 1) >>> 5
  const skip = value ? 0 : -1
  let i = from >>> 5
  let hits = (words[i] ^ skip) & maskOf(i, from, to)
  while (hits === 0 && i < last) {
    i++
    while (i < last && words[i] === skip) i++
    hits = (words[i] ^ skip) & maskOf(i, from, to)
  }
  return hits === 0 ? -1 : (i << 5) + 31 - Math.clz32(hits & -hits)
}
