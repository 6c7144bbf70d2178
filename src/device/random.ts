/**
 * Seeded randomness for faults, crash states and randomised tests: the same seed gives the same run on every
 * machine (mulberry32; good enough to choose, not for secrets).
 */
export type Random = (below: number) => number

/** A function giving integers in [0, below). */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0
  return below => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return Math.floor(((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32 * below)
  }
}
