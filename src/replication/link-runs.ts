/** Long lists of runs over a peer link, page by page, both ends. */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { NbdeltaError } from '../device/errors.js'
import { RUNS_MAX } from './peer-messages.js'

/** `next`: where to go on asking; null: that was all. */
interface Page { readonly runs: readonly [number, number][], readonly next: number | null }

export function pageOf(map: GrainBitmap, from: number): { runs: [number, number][], next: number | null } {
  const runs: [number, number][] = []
  for (const { start, end } of map.runs(from)) {
    if (runs.length === RUNS_MAX) return { runs, next: runs.at(-1)![1] }
    runs.push([start, end])
  }
  return { runs, next: null }
}

/** Sets what all pages tell. False: the peer has no such list. Errors: bad-peer, those of `ask`. */
export async function gather(
  map: GrainBitmap, ask: (from: number) => Promise<Page | { readonly runs: null, readonly next: number | null }>,
): Promise<boolean> {
  let last = 0
  for (let from: number | null = 0; from !== null;) {
    const page: Awaited<ReturnType<typeof ask>> = await ask(from)
    if (!page.runs) return false
    for (const [start, end] of page.runs) {
      if (start >= end || start < last || end > map.length) throw disorder()
      map.set(start, end)
      last = end
    }
    if (page.next !== null && page.next <= from) throw disorder()
    from = page.next
  }
  return true
}

function disorder(): NbdeltaError { return new NbdeltaError('bad-peer', 'a list that the peer tells is in disorder') }
