/**
 * IntervalSet: sorted, disjoint, never touching [start, end) ranges of Numbers (bytes or grains).
 *
 *   add [3, 6) to  {[0, 2) [5, 9)}   ->  {[0, 2) [3, 9)}        ranges that touch are merged
 *
 * For sets of up to some ten thousand ranges: finding is a binary search, an edit in the middle moves the ranges behind
 * it. What may hold more ranges than that (a whole volume's state) is a GrainBitmap.
 */
export interface Interval { readonly start: number, readonly end: number }

export class IntervalSet implements Iterable<Interval> {
  readonly #starts: number[] = []
  readonly #ends: number[] = []
  #total = 0

  /** Ranges held. */
  get size(): number { return this.#starts.length }
  /** Sum of their lengths. */
  get total(): number { return this.#total }

  /** Adds [start, end), start < end; what is there already stays. */
  add(start: number, end: number): void {
    judge(start, end)
    // Ranges [from, to) overlap or touch the new one and become one with it.
    const from = this.#firstEndingAt(start)
    const to = this.#firstStartingAfter(end, from)
    const low = to > from ? Math.min(start, this.#starts[from]) : start
    const high = to > from ? Math.max(end, this.#ends[to - 1]) : end
    for (let i = from; i < to; i++) this.#total -= this.#ends[i] - this.#starts[i]
    this.#splice(from, to, [low], [high])
    this.#total += high - low
  }

  /** Takes [start, end), start < end, out; what was not there stays out. */
  remove(start: number, end: number): void {
    judge(start, end)
    const starts: number[] = []
    const ends: number[] = []
    const from = this.#firstEndingAt(start + 1)
    let to = from
    for (; to < this.size && this.#starts[to] < end; to++) {
      this.#total -= Math.min(end, this.#ends[to]) - Math.max(start, this.#starts[to])
      if (this.#starts[to] < start) { starts.push(this.#starts[to]); ends.push(start) }
      if (this.#ends[to] > end) { starts.push(end); ends.push(this.#ends[to]) }
    }
    this.#splice(from, to, starts, ends)
  }

  has(at: number): boolean {
    const i = this.#firstEndingAt(at + 1)
    return i < this.size && this.#starts[i] <= at
  }

  /** True when any number of [start, end) is in the set. */
  overlaps(start: number, end: number): boolean {
    judge(start, end)
    const i = this.#firstEndingAt(start + 1)
    return i < this.size && this.#starts[i] < end
  }

  /** The lowest range. */
  first(): Interval | undefined {
    return this.size === 0 ? undefined : { start: this.#starts[0], end: this.#ends[0] }
  }

  clear(): void {
    this.#starts.length = 0
    this.#ends.length = 0
    this.#total = 0
  }

  /** In order. The set must not be edited meanwhile. */
  * [Symbol.iterator](): Generator<Interval> {
    for (let i = 0; i < this.#starts.length; i++) yield { start: this.#starts[i], end: this.#ends[i] }
  }

  /** The ranges that overlap [start, end), whole, in order. The set must not be edited meanwhile. */
  * overlapping(start: number, end: number): Generator<Interval> {
    judge(start, end)
    for (let i = this.#firstEndingAt(start + 1); i < this.size && this.#starts[i] < end; i++) {
      yield { start: this.#starts[i], end: this.#ends[i] }
    }
  }

  /** Index of the first range with end >= value. */
  #firstEndingAt(value: number): number {
    let low = 0
    let high = this.#ends.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.#ends[middle] < value) low = middle + 1
      else high = middle
    }
    return low
  }

  /** Index of the first range from `low` on with start > value. */
  #firstStartingAfter(value: number, low: number): number {
    let high = this.#starts.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.#starts[middle] <= value) low = middle + 1
      else high = middle
    }
    return low
  }

  #splice(from: number, to: number, starts: number[], ends: number[]): void {
    this.#starts.splice(from, to - from, ...starts)
    this.#ends.splice(from, to - from, ...ends)
  }
}

function judge(start: number, end: number): void {
  const whole = Number.isSafeInteger(start) && Number.isSafeInteger(end)
  if (!whole || start >= end) throw new RangeError(`[${start}, ${end}) is no range`)
}
