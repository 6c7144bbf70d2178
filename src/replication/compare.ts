/**
 * Comparison of two frozen contents by digests, region by region (content-digest.ts): only digests pass between the two. Regions
 * that both know to be zeros are neither read nor asked for. Where a region differs it is taken apart, by digests of smaller
 * portions, down to units of 4 KiB.
 *
 * What one content comes to as a whole, its *digest*, is the root (content-roots.ts) of all regions of it on top of nothing: it
 * depends on the size and the bytes only, so two people can compare what they were told of a point.
 */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { allSettled } from '../device/all-settled.js'
import type { Clock } from '../device/clock.js'
import { NbdeltaError } from '../device/errors.js'
import type { TransferOptions } from '../volume/transfer.js'
import { type ByteRun, type PortionDigest, REGION_BYTES_MIN, regionBytesOf, UNIT_BYTES } from './content-digest.js'
import { RootHash } from './content-roots.js'
import { bytesOf, inBytes } from './grain-bytes.js'
import { Pace } from './pace.js'
import type { FrozenContent } from './target.js'

/** Looked at on both sides at once. */
const WINDOW_BYTES = 64 * 2 ** 20
/** With a rate windows are of so many seconds. */
const PACED_SECONDS = 1
/** More are not named. */
const REGIONS_MAX = 100

/** Bytes. */
export interface Difference { readonly offset: number, readonly length: number }

export interface CompareOptions extends TransferOptions {
  /** Read on each side, at most. */
  readonly bytesPerSecond?: number | null
}

export interface Compared {
  /** In units of 4 KiB, merged; the first REGIONS_MAX. */
  readonly found: readonly Difference[]
  /** Of the first content; null: not all of it was looked at. */
  readonly digest: string | null
}

/** Up to the end of `ours`. Errors: cancelled, bad-peer, and whatever they report; nothing is being read any more then. */
export async function compareContents(
  ours: FrozenContent, theirs: FrozenContent, options: CompareOptions & { readonly clock: Clock },
): Promise<Compared> {
  if (theirs.sizeBytes < ours.sizeBytes) throw new NbdeltaError('bad-peer', 'the two sides have different sizes')
  return new Comparison(ours, theirs, options).run()
}

/** All of one content is read, and comes to this. Errors: likewise. */
export async function digestOf(content: FrozenContent, options: CompareOptions & { readonly clock: Clock }): Promise<string> {
  return (await new Comparison(content, undefined, options).run()).digest!
}

class Comparison {
  readonly #ours: FrozenContent
  readonly #theirs: FrozenContent | undefined
  readonly #options: CompareOptions & { readonly clock: Clock }
  readonly #found: { readonly offset: number, length: number }[] = []
  readonly #pace: Pace

  constructor(ours: FrozenContent, theirs: FrozenContent | undefined, options: CompareOptions & { readonly clock: Clock }) {
    this.#ours = ours
    this.#theirs = theirs
    this.#options = options
    this.#pace = new Pace(options.clock, options.bytesPerSecond ?? null)
  }

  async run(): Promise<Compared> {
    const { sizeBytes } = this.#ours
    const { bytesPerSecond, onProgress } = this.#options
    const regionBytes = regionBytesOf(sizeBytes)
    const held = await this.#held(regionBytes)
    const total = bytesOf(held, regionBytes, sizeBytes)
    const paced = bytesPerSecond ? bytesPerSecond * PACED_SECONDS : WINDOW_BYTES
    const step = Math.max(regionBytes, Math.min(WINDOW_BYTES, paced - paced % regionBytes))
    const root = new RootHash(null)
    let done = 0
    onProgress?.(0, total)
    for (let at = 0; at < sizeBytes; at += step) {
      this.#judge()
      const window = { start: at, end: Math.min(sizeBytes, at + step) }
      const wanted = [...inBytes(held, regionBytes, window.end, window.start)]
      const bytes = wanted.reduce((sum, { start, end }) => sum + end - start, 0)
      await this.#pace.wait(bytes, this.#options.signal)
      this.#judge()
      const [ours, theirs] = await this.#both([window], wanted, regionBytes)
      let next = 0
      for (const portion of ours) {
        root.add(portion)
        // Of what is not asked both have told that it is zeros.
        if (!this.#theirs || !held.get(Math.floor(portion.start / regionBytes))) continue
        if (!isEqual(portion, theirs[next++])) await this.#narrow(portion, regionBytes)
      }
      if (this.#found.length >= REGIONS_MAX) return { found: this.#found.slice(0, REGIONS_MAX), digest: null }
      onProgress?.(done += bytes, total)
      await new Promise<void>(resolve => { setImmediate(resolve) })
    }
    return { found: this.#found, digest: root.hex() }
  }

  /** Regions that one of the two does not know to be zeros. */
  async #held(regionBytes: number): Promise<GrainBitmap> {
    const held = await this.#ours.held(regionBytes)
    const theirs = await this.#theirs?.held(regionBytes)
    if (!theirs) return held
    theirs.resize(held.length, false)
    held.or(theirs)
    return held
  }

  /** Where in a portion that differs? */
  async #narrow({ start, end }: ByteRun, regionBytes: number): Promise<void> {
    if (regionBytes <= UNIT_BYTES) return this.#note(start, end)
    if (this.#found.length >= REGIONS_MAX) return
    this.#judge()
    const step = regionBytes > REGION_BYTES_MIN ? REGION_BYTES_MIN : UNIT_BYTES
    const [ours, theirs] = await this.#both([{ start, end }], [{ start, end }], step)
    let differing = 0
    for (const [index, portion] of ours.entries()) {
      if (isEqual(portion, theirs[index])) continue
      differing++
      await this.#narrow(portion, step)
    }
    // A disk that answers something else each time.
    if (differing === 0) this.#note(start, end)
  }

  #note(start: number, end: number): void {
    const last = this.#found.at(-1)
    if (last && last.offset + last.length === start) last.length += end - start
    else this.#found.push({ offset: start, length: end - start })
  }

  async #both(
    ours: readonly ByteRun[], theirs: readonly ByteRun[], regionBytes: number,
  ): Promise<[readonly PortionDigest[], readonly PortionDigest[]]> {
    const told: [PortionDigest[], PortionDigest[]] = [[], []]
    const collect = async (from: FrozenContent, runs: readonly ByteRun[], into: PortionDigest[]): Promise<void> => {
      for await (const portion of from.digests(runs, regionBytes)) {
        this.#judge()
        into.push(portion)
      }
    }
    const asked = theirs.length > 0 ? this.#theirs : undefined
    await allSettled([collect(this.#ours, ours, told[0]), asked && collect(asked, theirs, told[1])])
    return told
  }

  #judge(): void {
    if (this.#options.signal?.aborted) throw new NbdeltaError('cancelled', 'the comparison was cancelled')
  }
}

/** Errors: bad-peer (it is another one). */
function isEqual(ours: PortionDigest, theirs: PortionDigest | undefined): boolean {
  if (theirs?.start === ours.start && theirs.end === ours.end) return ours.digest.equals(theirs.digest)
  throw new NbdeltaError('bad-peer', 'the target tells of other ranges than it was asked')
}
