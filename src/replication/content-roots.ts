/**
 * Content roots: after a cycle was shipped and flushed, and before it is declared, the target says what it holds of it now, and
 * that has to be what the source sent (SEEDS X14). The source's digests are made of what passes by while it is shipped (ship.ts);
 * the target reads its own device again.
 *
 * The root of a point is SHA-256 over the root of the one before (32 zero bytes: there is none) and, for each portion of the
 * cycle, its start and end as 64 bits, big endian, and its digest. It stands in the mirror's record and on the target: two sides
 * with the same root have come to it by the same content, whatever their points are called.
 */
import { createHash } from 'node:crypto'
import type { BlockDevice } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import { type ByteRun, type Portion, PortionDigests, type PortionDigest, portionsOf } from './content-digest.js'

const PIECE_BYTES = 2 ** 20
/** Portions that differ and are told; further ones are counted. */
const TOLD_MAX = 100
/** Read and digested, before others get a turn; and pieces of zeros, that nobody has to read. */
const TURN_BYTES = 2 ** 20
const TURN_ZEROS = 64

/** What the source has sent, portion by portion. */
export class SentContent {
  readonly #digests: PortionDigest[] = []
  readonly #feed: PortionDigests

  constructor(runs: Iterable<ByteRun>, regionBytes: number) {
    this.#feed = new PortionDigests(portionsOf(runs, regionBytes), digest => { this.#digests.push(digest) })
  }

  /** In ascending order. @param from content; undefined: zeros */
  take(offset: number, length: number, from?: Buffer): void { this.#feed.feed(offset, length, from) }

  /** Portions of which the other side says something else, the first TOLD_MAX, and how many there are. Errors: bad-peer. */
  async differing(theirs: AsyncIterable<PortionDigest>): Promise<{ readonly first: readonly ByteRun[], readonly count: number }> {
    const first: ByteRun[] = []
    let [at, count] = [0, 0]
    for await (const { start, end, digest } of theirs) {
      const ours = this.#digests[at++]
      if (ours?.start !== start || ours.end !== end) throw disorder()
      if (ours.digest.equals(digest)) continue
      if (++count <= TOLD_MAX) first.push({ start, end })
    }
    if (at !== this.#digests.length) throw disorder()
    return { first, count }
  }

  /** @param before of the point that this builds on; null: it has none */
  root(before: string | null): string {
    const root = new RootHash(before)
    for (const digest of this.#digests) root.add(digest)
    return root.hex()
  }
}

/** A root in the making. */
export class RootHash {
  readonly #hash
  readonly #range = Buffer.alloc(16)

  /** @param before null: there is none */
  constructor(before: string | null) {
    this.#hash = createHash('sha256').update(before === null ? Buffer.alloc(32) : Buffer.from(before, 'hex'))
  }

  add({ start, end, digest }: PortionDigest): void {
    this.#range.writeBigUInt64BE(BigInt(start), 0)
    this.#range.writeBigUInt64BE(BigInt(end), 8)
    this.#hash.update(this.#range).update(digest)
  }

  /** Once. */
  hex(): string { return this.#hash.digest('hex') }
}

function disorder(): NbdeltaError { return new NbdeltaError('bad-peer', 'the target tells of other ranges than it was asked') }

/** What a device holds of these portions now. Nobody writes to it meanwhile. */
export async function* digestsOf(
  device: Pick<BlockDevice, 'read' | 'zeroRun'>, portions: Iterable<Portion>,
): AsyncGenerator<PortionDigest, void> {
  const buffer = Buffer.allocUnsafe(PIECE_BYTES)
  let sinceTurn = 0
  for (const portion of portions) {
    const done: PortionDigest[] = []
    const digests = new PortionDigests([portion], digest => { done.push(digest) })
    for (const { start, end } of portion.runs) {
      for (let at = start; at < end;) {
        const run = device.zeroRun(at, Math.min(PIECE_BYTES, end - at))
        const length = Math.abs(run)
        if (run > 0) await device.read(at, length, buffer, 0)
        digests.feed(at, length, run > 0 ? buffer : undefined)
        at += length
        sinceTurn += run > 0 ? length : TURN_BYTES / TURN_ZEROS
        if (sinceTurn < TURN_BYTES) continue
        sinceTurn = 0
        await new Promise<void>(resolve => { setImmediate(resolve) })
      }
    }
    yield* done
  }
}
