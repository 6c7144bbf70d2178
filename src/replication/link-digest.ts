/**
 * Digests over a peer link, both ends: pages of whole portions (content-digest.ts), each no more than seconds of reading and a
 * line of answer. Whoever asks and whoever answers cut what is asked into the same portions.
 */
import { divCeil } from '../../native-free/integer.js'
import { NbdeltaError } from '../device/errors.js'
import { type ByteRun, type Portion, type PortionDigest, portionsOf } from './content-digest.js'
import { DIGEST_BYTES_MAX, DIGESTS_MAX, type PeerParams, type PeerResult, RUNS_MAX } from './peer-messages.js'
import type { TargetSession } from './target.js'

const DIGEST_PAGE: PageLimits = { runs: RUNS_MAX, portions: DIGESTS_MAX }

/** Of a page. */
interface PageLimits { readonly runs: number, readonly portions: number, readonly bytes?: number }

type Ask = (params: PeerParams<'digest'>) => Promise<PeerResult<'digest'>>

/** Of all portions, page by page. Errors: bad-peer, and those of `ask`. */
export async function* askDigests(
  ask: Ask, runs: Iterable<ByteRun>, regionBytes: number, grainBytes: number,
): AsyncGenerator<PortionDigest, void> {
  for (const page of pagesOf(portionsOf(runs, regionBytes), grainBytes, regionBytes)) {
    const { portions } = await ask({ runs: grainRuns(page, grainBytes), regionBytes })
    if (portions.length !== page.length) throw new NbdeltaError('bad-peer', 'the peer tells of more or fewer portions than asked')
    for (const [start, end, digest] of portions) yield { start, end, digest: Buffer.from(digest, 'hex') }
  }
}

/** As calls have them. */
export function grainRuns(page: readonly Portion[], grainBytes: number): [number, number][] {
  const grains: [number, number][] = []
  for (const { start, end } of page.flatMap(({ runs }) => runs)) {
    const last = grains.at(-1)
    // Of a region smaller than a grain the next is in the same one.
    if (last && start / grainBytes <= last[1]) last[1] = divCeil(end, grainBytes)
    else grains.push([start / grainBytes, divCeil(end, grainBytes)])
  }
  return grains
}

interface Sizes {
  readonly sizeBytes: number
  readonly grainBytes: number
}

interface Answering extends Sizes {
  readonly digests: NonNullable<TargetSession['digests']>
}

/** What a volume, or a point of it, holds. Errors: bad-argument (runs in disorder, too many), and those of reading. */
export async function answerDigest(
  { digests, ...sizes }: Answering, { runs, regionBytes }: PeerParams<'digest'>,
): Promise<PeerResult<'digest'>> {
  const asked = askedRuns(sizes, { runs, regionBytes })
  if (isMoreThan(DIGESTS_MAX, portionsOf(asked, regionBytes))) throw refused('these are too many regions at once')
  const portions: [number, number, string][] = []
  for await (const { start, end, digest } of digests(asked, regionBytes)) portions.push([start, end, digest.toString('hex')])
  return { portions }
}

/** Bytes. Errors: bad-argument, likewise. */
export function askedRuns(
  { sizeBytes, grainBytes }: Sizes, { runs, regionBytes }: Pick<PeerParams<'digest'>, 'runs' | 'regionBytes'>,
): ByteRun[] {
  if ((regionBytes & (regionBytes - 1)) !== 0) throw refused('a region is a power of two')
  let last = 0
  let bytes = 0
  for (const [start, end] of runs) {
    if (start >= end || start < last || end > divCeil(sizeBytes, grainBytes)) throw refused('the runs are in disorder')
    bytes += (end - start) * grainBytes
    last = end
  }
  if (bytes > Math.max(DIGEST_BYTES_MAX, regionBytes)) throw refused('that is too much at once')
  return runs.map(([start, end]) => ({ start: start * grainBytes, end: Math.min(end * grainBytes, sizeBytes) }))
}

/** A page ends where a grain does, as whole grains are asked for. */
export function* pagesOf(
  portions: Iterable<Portion>, grainBytes: number, regionBytes: number, limits = DIGEST_PAGE,
): Generator<Portion[], void> {
  const most = limits.portions - Math.max(1, grainBytes / regionBytes)
  const { bytes: mostBytes = DIGEST_BYTES_MAX } = limits
  let page: Portion[] = []
  let [bytes, runs] = [0, 0]
  for (const portion of portions) {
    const more = portion.runs.reduce((sum, { start, end }) => sum + end - start, 0)
    const isFull = bytes + more > mostBytes || runs + portion.runs.length > limits.runs || page.length > most
    if (page.length > 0 && isFull && portion.start % grainBytes === 0) {
      yield page
      page = []
      bytes = runs = 0
    }
    page.push(portion)
    bytes += more
    runs += portion.runs.length
  }
  if (page.length > 0) yield page
}

function isMoreThan(most: number, portions: Iterable<Portion>): boolean {
  let count = 0
  for (const _ of portions) if (++count > most) return true
  return false
}

function refused(why: string): NbdeltaError { return new NbdeltaError('bad-argument', `digest: ${why}`) }
