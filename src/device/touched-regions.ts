/**
 * TouchedRegions: what of a disk is believed to be in the page cache. Two kinds of evidence:
 *
 * - pages: every 4 KiB page that was read or written through us is there, until the kernel evicts it;
 * - regions: where the kernel does not count fetches, a trip that came back quickly from a page we had never touched says
 *   that somebody else has cached it, and then probably its neighbours, too. Enough points make the whole region trusted.
 * - windows: a trip that is known to have come from the cache vouches for its neighbourhood, and for twice as much each
 *   time the last one was such a hit, too: a warm disk is inline after some ten trips, whatever its size. The first
 *   sign of eviction makes the next window one region again.
 *
 * A wrong belief costs one inline wait, which io-trust.ts judges; it may then forget a range or everything.
 *
 * A region is 1 MiB (more above 4 TiB: at most 4 Mi regions, one byte each, which the system hands out lazily). Page bits
 * lie together for 16 MiB, where one of their pages was touched: few lines of the processor's cache for a disk that is busy all
 * over, little memory for one that is touched here and there. Beyond BIT_WORDS_MAX everything is forgotten, and learnt again.
 * Invariants
 * - A region's byte is `epoch * 4 + points`; bytes of older epochs count as zero, so forgetting all is O(1).
 * - A region is trusted when each of its pages was touched: from then on its bits are not looked at.
 */
export const TRUSTED_POINTS = 3
const REGION_BYTES = 2 ** 20
const REGIONS_MAX = 4 * 2 ** 20
const EPOCHS = 63
const PAGE_BYTES = 4096
/** Of larger regions, one is a group. */
const GROUP_BYTES = 16 * 2 ** 20
/** Words of 32 bits in all groups together: 16 MiB. */
const BIT_WORDS_MAX = 4 * 2 ** 20
/** What one hit vouches for at most (one region where that is more). */
const WINDOW_MAX_BYTES = 64 * 2 ** 20

export class TouchedRegions {
  readonly regionBytes: number
  /** Of one group: regions, and words of page bits. */
  readonly #groupRegions: number
  readonly #groupWords: number
  /** A bit for each page, and behind them by region how many are set. */
  #groups: (Uint32Array | undefined)[] = []
  #groupCount = 0
  #sizeBytes: number
  #scores: Uint8Array
  #epoch = 1
  #windowRegions = 1

  constructor(sizeBytes: number) {
    let regionBytes = REGION_BYTES
    while (sizeBytes / regionBytes > REGIONS_MAX) regionBytes *= 2
    this.regionBytes = regionBytes
    this.#groupRegions = Math.max(1, GROUP_BYTES / regionBytes)
    this.#groupWords = this.#groupRegions * regionBytes / PAGE_BYTES / 32
    this.#sizeBytes = sizeBytes
    this.#scores = new Uint8Array(Math.ceil(sizeBytes / regionBytes))
  }

  /** All of [offset, offset + length) is believed to be cached. */
  has(offset: number, length: number): boolean {
    const end = offset + length
    for (let at = offset; at < end;) {
      const region = Math.floor(at / this.regionBytes)
      const next = Math.min(end, (region + 1) * this.regionBytes)
      if (this.#scores[region] !== this.#epoch * 4 + TRUSTED_POINTS && !this.#hasPages(region, at, next)) return false
      at = next
    }
    return true
  }

  /** The range has been read or written; `points` of evidence that its regions are cached anyway. */
  touch(offset: number, length: number, points: number): void {
    const end = offset + length
    for (let at = offset; at < end;) {
      const region = Math.floor(at / this.regionBytes)
      const next = Math.min(end, (region + 1) * this.regionBytes)
      const trusted = this.#epoch * 4 + TRUSTED_POINTS
      if (this.#scores[region] !== trusted) {
        const score = Math.max(this.#scores[region], this.#epoch * 4)
        this.#scores[region] = Math.min(trusted, score + points)
        if (this.#scores[region] !== trusted) this.#touchPages(region, at, next)
      }
      at = next
    }
  }

  /** A trip to this range came from the cache: its window is believed to be there, and the next window is larger. */
  vouch(offset: number, length: number): void {
    const window = this.#windowRegions
    const first = Math.floor(offset / this.regionBytes / window) * window
    const last = (Math.floor((offset + length - 1) / this.regionBytes / window) + 1) * window
    this.#scores.fill(this.#epoch * 4 + TRUSTED_POINTS, first, last)
    if (window * 2 * this.regionBytes <= WINDOW_MAX_BYTES) this.#windowRegions = window * 2
  }

  /** Something had to be fetched: the next window is small. */
  doubt(): void { this.#windowRegions = 1 }

  /** Forgets the regions that the range meets. */
  forget(offset: number, length: number): void {
    this.doubt()
    const last = Math.floor((offset + length - 1) / this.regionBytes)
    for (let region = Math.floor(offset / this.regionBytes); region <= last; region++) {
      this.#scores[region] = 0
      this.#clear(region)
    }
  }

  forgetAll(): void {
    this.doubt()
    this.#groups = []
    this.#groupCount = 0
    this.#epoch = this.#epoch % EPOCHS + 1
    if (this.#epoch === 1) this.#scores.fill(0)
  }

  resize(sizeBytes: number): void {
    const scores = new Uint8Array(Math.ceil(sizeBytes / this.regionBytes))
    scores.set(this.#scores.subarray(0, scores.length))
    // Of what is cut in two, pages count that are not there any more.
    const first = Math.floor(sizeBytes / this.regionBytes)
    const end = Math.min(this.#scores.length, this.#groups.length * this.#groupRegions)
    if (sizeBytes < this.#sizeBytes) for (let region = first; region < end; region++) this.#clear(region)
    this.#scores = scores
    this.#sizeBytes = sizeBytes
  }

  #hasPages(region: number, start: number, end: number): boolean {
    const group = this.#groups[Math.floor(region / this.#groupRegions)]
    if (group === undefined) return false
    const base = (region - region % this.#groupRegions) * this.regionBytes
    const last = Math.floor((end - 1 - base) / PAGE_BYTES)
    for (let page = Math.floor((start - base) / PAGE_BYTES); page <= last; page++) {
      if ((group[page >>> 5] & (1 << (page & 31))) === 0) return false
    }
    return true
  }

  #touchPages(region: number, start: number, end: number): void {
    const words = this.#groups[Math.floor(region / this.#groupRegions)] ?? this.#makeGroup(region)
    const place = region % this.#groupRegions
    const count = this.#groupWords + place
    const base = (region - place) * this.regionBytes
    const last = Math.floor((end - 1 - base) / PAGE_BYTES)
    for (let page = Math.floor((start - base) / PAGE_BYTES); page <= last; page++) {
      const bit = 1 << (page & 31)
      if ((words[page >>> 5] & bit) !== 0) continue
      words[page >>> 5] |= bit
      words[count]++
    }
    if (words[count] * PAGE_BYTES < Math.min(this.regionBytes, this.#sizeBytes - region * this.regionBytes)) return
    this.#scores[region] = this.#epoch * 4 + TRUSTED_POINTS
  }

  #makeGroup(region: number): Uint32Array {
    if ((this.#groupCount + 1) * this.#groupWords > BIT_WORDS_MAX) this.forgetAll()
    this.#groupCount++
    const group = new Uint32Array(this.#groupWords + this.#groupRegions)
    return this.#groups[Math.floor(region / this.#groupRegions)] = group
  }

  #clear(region: number): void {
    const group = this.#groups[Math.floor(region / this.#groupRegions)]
    if (group === undefined) return
    const place = region % this.#groupRegions
    const words = this.#groupWords / this.#groupRegions
    group.fill(0, place * words, (place + 1) * words)
    group[this.#groupWords + place] = 0
  }
}
