/**
 * TouchedRegions: which parts of a disk are believed to be in the page cache because they were read or written
 * through us lately. A belief, not knowledge: a wrong one costs one inline wait, which io-trust.ts judges.
 *
 * A region is 1 MiB (more above 4 TiB: at most 4 Mi regions, one byte each, which the system hands out lazily). A
 * quick trip makes a region trusted at once (it came from the cache, so probably do its neighbours); a slow one
 * or a write is one point of three, so that random reads of a cold disk do not vouch for pages nobody has read.
 *
 * Invariant: a byte is `epoch * 4 + points`; bytes of older epochs count as zero, so forgetting everything is O(1).
 */
export const TRUSTED_POINTS = 3
const REGION_BYTES = 2 ** 20
const REGIONS_MAX = 4 * 2 ** 20
const EPOCHS = 63

export class TouchedRegions {
  readonly regionBytes: number
  #scores: Uint8Array
  #epoch = 1

  constructor(sizeBytes: number) {
    let regionBytes = REGION_BYTES
    while (sizeBytes / regionBytes > REGIONS_MAX) regionBytes *= 2
    this.regionBytes = regionBytes
    this.#scores = new Uint8Array(Math.ceil(sizeBytes / regionBytes))
  }

  /** All of [offset, offset + length) is believed to be cached. */
  has(offset: number, length: number): boolean {
    const trusted = this.#epoch * 4 + TRUSTED_POINTS
    const last = Math.floor((offset + length - 1) / this.regionBytes)
    for (let region = Math.floor(offset / this.regionBytes); region <= last; region++) {
      if (this.#scores[region] !== trusted) return false
    }
    return true
  }

  touch(offset: number, length: number, points: number): void {
    const none = this.#epoch * 4
    const last = Math.floor((offset + length - 1) / this.regionBytes)
    for (let region = Math.floor(offset / this.regionBytes); region <= last; region++) {
      const score = this.#scores[region]
      this.#scores[region] = Math.min(none + TRUSTED_POINTS, (score > none ? score : none) + points)
    }
  }

  forget(offset: number, length: number): void {
    this.#scores.fill(0, Math.floor(offset / this.regionBytes), Math.ceil((offset + length) / this.regionBytes))
  }

  forgetAll(): void {
    this.#epoch = this.#epoch % EPOCHS + 1
    if (this.#epoch === 1) this.#scores.fill(0)
  }

  resize(sizeBytes: number): void {
    const scores = new Uint8Array(Math.ceil(sizeBytes / this.regionBytes))
    scores.set(this.#scores.subarray(0, scores.length))
    this.#scores = scores
  }
}
