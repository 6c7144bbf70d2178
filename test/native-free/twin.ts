// Help for the twin tests: a seeded generator (the seed is printed by whoever makes one) and a slow, obvious bitmap.
import { PAGE_CLEAR, PAGE_MIXED, PAGE_SET, type GrainBitmap, type PageKind } from '../../native-free/index.js'

/** SEED=n repeats a run; otherwise the seed is new each time. */
export const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000_007)

/** Integers in [0, below), reproducible (mulberry32). */
export function generator(seed: number): (below: number) => number {
  let state = seed >>> 0
  return below => {
    state = (state + 0x6d2b79f5) >>> 0
    let x = Math.imul(state ^ (state >>> 15), 1 | state)
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x
    return Math.floor(((x ^ (x >>> 14)) >>> 0) / 2 ** 32 * below)
  }
}

/** One boolean a grain, one loop an operation: too slow to ship, too plain to be wrong. */
export class SlowBitmap {
  bits: boolean[]
  constructor(length: number, fill = false) { this.bits = new Array<boolean>(length).fill(fill) }
  put(from: number, to: number, value: boolean): void { for (let i = from; i < to; i++) this.bits[i] = value }
  next(from: number, to: number, value: boolean): number {
    for (let i = from; i < to; i++) if (this.bits[i] === value) return i
    return to
  }
  count(from: number, to: number): number {
    let sum = 0
    for (let i = from; i < to; i++) if (this.bits[i]) sum++
    return sum
  }
  resize(length: number, fill: boolean): void {
    const old = this.bits.length
    this.bits.length = length
    if (length > old) this.bits.fill(fill, old)
  }
}

/** Compares everything that can be asked of both; the first difference in words, or undefined. */
export function difference(fast: GrainBitmap, slow: SlowBitmap): string | undefined {
  if (fast.length !== slow.bits.length) return `length ${fast.length} and ${slow.bits.length}`
  for (let i = 0; i < fast.length; i++) if (fast.get(i) !== slow.bits[i]) return `bit ${i} is ${fast.get(i)}`
  if (fast.count() !== slow.count(0, fast.length)) return `count ${fast.count()}`
  const used = fast.usedPages()
  for (let page = 0; page < fast.pageCount; page++) {
    const bytes = fast.pageBytes(page)
    const start = page * 32768
    const bits = Math.min(32768, fast.length - start)
    const set = slow.count(start, start + bits)
    const kind: PageKind = set === 0 ? PAGE_CLEAR : set === bits ? PAGE_SET : PAGE_MIXED
    if (used.includes(page) !== set > 0) return `page ${page} among those in use`
    if (fast.pageKind(page) !== kind) return `page ${page} is of kind ${fast.pageKind(page)}, not ${kind}`
    for (let i = 0; i < 32768; i++) {
      if (((bytes[i >> 3] >> (i & 7)) & 1) !== Number(i < bits && slow.bits[start + i])) return `byte ${i >> 3} of page ${page}`
    }
  }
  return undefined
}
