/**
 * What a volume may read as, sector by sector, while requests of several connections are in flight and the server may
 * die at any instant (the oracle of the kill test).
 *
 * The volume is watched through a few windows, placed where bookkeeping has its borders. Every 512-byte sector of a
 * window carries a stamp made of its own position and the number of the write that put it there, so that stale,
 * misplaced and half-written sectors can all be told from good ones.
 *
 * A sector's truth is one stamp (0 = zeros) plus, while something is in doubt, others that are also allowed: the
 * outcome of a request in flight when the connection ended, or the ragged edge of a trim. What is then read becomes
 * the truth, so that a doubt never lives longer than one crash. Requests never overlap in flight (`busy`), so the
 * order of their execution cannot blur what is expected.
 */
export const SECTOR = 512
const WORDS = SECTOR / 4

export interface Range {
  /** Position in the volume, bytes. */
  readonly offset: number
  readonly length: number
}

/** Sectors of `range`, counted over all windows as one row; whatever of the range lies outside the windows is left out. */
export class StampedWindows {
  readonly sectors: number
  readonly #windows: readonly Range[]
  readonly #truth: Uint32Array
  readonly #busy: Uint8Array
  readonly #alsoAllowed = new Map<number, number[]>()
  #stamp = 0
  #held: Range | undefined
  readonly #claims = new Set<Range>()
  /** Snapshots being taken: what happens to this meanwhile may or may not be in them. */
  readonly #taking = new Set<StampedWindows>()

  constructor(windows: readonly Range[]) {
    this.#windows = windows
    this.sectors = windows.reduce((sum, window) => sum + window.length, 0) / SECTOR
    this.#truth = new Uint32Array(this.sectors)
    this.#busy = new Uint8Array(this.sectors)
  }

  get windows(): readonly Range[] { return this.#windows }
  newStamp(): number { return ++this.#stamp }

  /** From now on only claims of the holder succeed in this window, so that it runs empty. Undefined: none is held. */
  hold(window: Range | undefined): void { this.#held = window }

  /** Claims every sector of `range`; false (and nothing claimed) if one of them is claimed already. */
  claim(range: Range, byHolder = false): boolean {
    if (!byHolder && this.#held && range.offset < this.#held.offset + this.#held.length
      && this.#held.offset < range.offset + range.length) return false
    const found = this.#indices(range)
    if (found.some(([from, to]) => this.#busy.subarray(from, to).includes(1))) return false
    for (const [from, to] of found) this.#busy.fill(1, from, to)
    this.#claims.add(range)
    return true
  }

  /** What it may read as now; until `taken`, whatever is changed may be in it as well. */
  take(): StampedWindows {
    const copy = this.copy()
    this.#taking.add(copy)
    return copy
  }

  /** The snapshot was answered: resolves when nothing is in flight any more that was then. */
  async taken(copy: StampedWindows): Promise<void> {
    const open = [...this.#claims]
    while (open.some(range => this.#claims.has(range))) await new Promise(resolve => { setTimeout(resolve, 1) })
    this.#taking.delete(copy)
  }

  /** What it may read as now. */
  copy(): StampedWindows {
    const copy = new StampedWindows(this.#windows)
    copy.become(this)
    return copy
  }

  /** It reads as the other does from now on. Nothing is in flight. */
  become(other: StampedWindows): void {
    this.#truth.set(other.#truth)
    this.#alsoAllowed.clear()
    for (const [sector, stamps] of other.#alsoAllowed) this.#alsoAllowed.set(sector, [...stamps])
  }

  release(range: Range): void {
    this.#claims.delete(range)
    for (const [from, to] of this.#indices(range)) this.#busy.fill(0, from, to)
  }

  /** The range now holds `stamp`: the server said so. */
  known(range: Range, stamp: number): void {
    for (const copy of this.#taking) copy.doubtful(range, stamp)
    for (const [from, to] of this.#indices(range)) {
      this.#truth.fill(stamp, from, to)
      if (this.#alsoAllowed.size > 0) for (let sector = from; sector < to; sector++) this.#alsoAllowed.delete(sector)
    }
  }

  /** The range may hold `stamp` as well as what it may hold already: nobody knows. */
  doubtful(range: Range, stamp: number): void {
    for (const copy of this.#taking) copy.doubtful(range, stamp)
    for (const [from, to] of this.#indices(range)) for (let sector = from; sector < to; sector++) {
      this.#alsoAllowed.set(sector, [...this.#alsoAllowed.get(sector) ?? [], stamp])
    }
  }

  /** The bytes that write number `stamp` puts into `range`. */
  bytes(range: Range, stamp: number): Buffer {
    const words = new Uint32Array(range.length / 4)
    for (let at = 0; at < words.length; at += WORDS) fill(words, at, (range.offset + at * 4) / SECTOR, stamp)
    return Buffer.from(words.buffer)
  }

  /** Compares what was read with what it may be, and takes it as the truth. Answers what is wrong, or ''. */
  judge(range: Range, data: Buffer): string {
    const wanted = new Uint32Array(WORDS)
    for (const [from, to, offset] of this.#indices(range)) for (let sector = from; sector < to; sector++) {
      const position = offset + (sector - from) * SECTOR
      const got = data.subarray(position - range.offset, position - range.offset + SECTOR)
      const stamp = got.readUInt32LE(0)
      const allowed = [this.#truth[sector]!, ...this.#alsoAllowed.get(sector) ?? []]
      fill(wanted, 0, position / SECTOR, stamp)
      if (!allowed.includes(stamp) || !got.equals(Buffer.from(wanted.buffer))) {
        return `byte ${position}: stamp ${stamp}, allowed ${allowed.join(', ')}; begins ${got.subarray(0, 24).toString('hex')}`
      }
      this.#truth[sector] = stamp
      this.#alsoAllowed.delete(sector)
    }
    return ''
  }

  /** Places of the sectors that read as something else than in `other`. Nothing is in doubt in either. */
  differences(other: StampedWindows): number[] {
    return this.#windows.flatMap(window => this.#indices(window)).flatMap(([from, to, offset]) =>
      Array.from({ length: to - from }, (_, index) => index)
        .filter(index => this.#truth[from + index] !== other.#truth[from + index])
        .map(index => offset + index * SECTOR))
  }

  /** Whether the range may hold anything but zeros. */
  hasData(range: Range): boolean {
    return this.#indices(range).some(([from, to]) => this.#truth.subarray(from, to).some(stamp => stamp !== 0))
  }

  /** Pieces of `range` in the windows: [first index, index after the last, offset in the volume of the first]. */
  #indices({ offset, length }: Range): [number, number, number][] {
    const found: [number, number, number][] = []
    let before = 0
    for (const window of this.#windows) {
      const start = Math.max(offset, window.offset)
      const end = Math.min(offset + length, window.offset + window.length)
      if (start < end) found.push([before + (start - window.offset) / SECTOR, before + (end - window.offset) / SECTOR, start])
      before += window.length / SECTOR
    }
    return found
  }
}

/** One sector's stamp: number, position, then a pattern of both; number 0 is a sector of zeros. */
function fill(words: Uint32Array, at: number, position: number, stamp: number): void {
  if (stamp === 0) {
    words.fill(0, at, at + WORDS)
    return
  }
  words[at] = stamp
  words[at + 1] = position
  const mixed = Math.imul(stamp, 0x9e3779b1) ^ Math.imul(position, 0x85ebca6b)
  for (let index = 2; index < WORDS; index++) words[at + index] = mixed + index
}
