/**
 * What a volume's map file and journal say at open, put together.
 *
 *   data    pages of the map file, damaged ones as all set
 *   replay  ZERO: not data, stale     UNSTALE: data, not stale, kept     CLEAR: neither
 *   then    every region the journal opened counts as data wherever it is not stale
 *
 * The last step comes last, whatever the order of the records was: a CLEAR record may have been followed by writes into
 * that hole, which an open region does not record.
 *
 *   points  PRESERVE, PRESERVE_ZERO, LEND: as chain.ts has it; HOT: every grain of the extent counts as changed in that point
 *           (of a point that is gone, in the next older one), and from here on that point is the newest: it gets the marks
 *           of every other record. The checkpoint's own records stand before the first HOT and mark nothing.
 *   at last what is lent is neither data nor stale, whatever else was said of it
 *
 *   layers  INHERITED: data, and in no layer; INHERITED_ZERO: stale, in none, marked. What is in a layer at the end is not data.
 *           LAYER: of the restore with that undo point nothing had been taken before. (A checkpoint drops it, and all before it.)
 *           Where a layer's undo point is not settled, nothing of it was ever taken: what is data in it is lent to that point.
 *
 * Every record says all of the state of its grains, so it does not matter how much of it the map files know already.
 *
 * Bound: after a clean close nothing is open. After a crash the excess is the open regions (checkpoint.ts bounds them),
 * it is logged, and excess-scan.ts takes it back. Ranges beyond the size are what a resize cut short leaves; they are dropped.
 */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { divCeil } from '../../native-free/integer.js'
import { IntervalSet } from '../../native-free/interval-set.js'
import {
  decodeJournalRecord, EXTENT_GRAINS, type JournalEntry, type PointJournalKind, REGION_GRAINS,
} from '../store/journal-records.js'
import type { LogRecord } from '../store/record-log-layout.js'
import type { Chain } from './chain.js'
import type { Inherited } from './inherited.js'
import type { Point } from './point.js'
import type { Run, VolumeMap } from './volume-map.js'

export interface Recovered {
  /** Regions that a crash left open, to be scanned. */
  readonly openRegions: number
  readonly staleRuns: number
  /** What was repaired, in words. */
  readonly notes: readonly string[]
}

/** Brings `map`, which holds the pages of the map file, up to date. Throws `damaged` or `newer-format`. */
export function replay(
  map: VolumeMap, chain: Chain, inherit: Inherited, records: readonly LogRecord[], name: string,
): Omit<Recovered, 'notes'> {
  const regions = new Set<number>()
  const kept = new IntervalSet()
  let newest: Point | undefined
  const entries = records.map(record => decodeJournalRecord(record, name))
  const restore = inherit.of('restore')
  const todo = restore?.undo && restore.todo.clone()
  const lent = lentOfUndoPoints(chain, entries)
  for (const entry of entries) {
    const { kind, seq, ranges } = entry
    if (kind === 'hot') newest = chain.at(seq)
    if (kind === 'layer') {
      if (todo && seq === restore!.undo!.seq) restore!.reset(todo)
      // What the journal said before was older than these maps may be: it may have lent the same grains to another.
      chain.points.find(point => point.seq === seq)?.lent.or(lent.get(seq)!)
      continue
    }
    for (const range of ranges) {
      if (kind === 'open' || kind === 'close') replayRegions(regions, kind, range, divCeil(map.grains, REGION_GRAINS))
      else if (seq !== undefined) replayPoint(map, chain, entry as PointEntry, range, newest)
      else {
        const end = Math.min(range.end, map.grains)
        if ((kind === 'inherited' || kind === 'inheritedZero') && range.start < end) inherit.take(range.start, end)
        replayGrains(map, kept, kind, range)
        if ((kind === 'zero' || kind === 'inheritedZero') && newest) chain.markAgain(newest, range.start, range.end)
      }
    }
  }
  map.presumeData([...regions].sort((a, b) => a - b))
  chain.unite()
  for (const { start, end } of chain.lentRuns(map.grains)) map.becomeLent(start, end)
  for (const run of kept) map.keep(run.start, run.end)
  return { openRegions: map.open.size, staleRuns: map.stale.size }
}

/** By number, what the maps on disk say. Also of restores that have ended: the journal may not have been written anew since. */
function lentOfUndoPoints(chain: Chain, entries: readonly JournalEntry[]): Map<number, GrainBitmap> {
  const undone = new Set(entries.filter(({ kind }) => kind === 'layer').map(({ seq }) => seq))
  return new Map(chain.points.filter(({ seq }) => undone.has(seq)).map(({ seq, lent }) => [seq, lent.clone()]))
}

type PointEntry = Extract<JournalEntry, { readonly kind: PointJournalKind }>

function replayPoint(map: VolumeMap, chain: Chain, { kind, seq }: PointEntry, range: Run, newest: Point | undefined): void {
  if (kind === 'hot') {
    if (newest) chain.markAgain(newest, range.start * EXTENT_GRAINS, range.end * EXTENT_GRAINS)
    return
  }
  const point = chain.points.find(other => other.seq === seq)
  const end = Math.min(range.end, point ? point.owned.length : map.grains)
  if (range.start >= end) return
  if (!point) {
    // Merged into the older one long ago; live never got these grains back.
    if (kind === 'lend') map.becomeStale(range.start, end)
  } else if (kind === 'preserve') chain.preserve(point, range.start, end)
  else if (kind === 'preserveZero') chain.preserveZero(point, range.start, end)
  else {
    chain.lend(point, range.start, end)
    if (range.start < map.grains) map.becomeLent(range.start, Math.min(end, map.grains))
  }
  if (newest) chain.markAgain(newest, range.start, end)
}

function replayRegions(regions: Set<number>, kind: 'open' | 'close', range: Run, count: number): void {
  for (let region = range.start; region < Math.min(range.end, count); region++) {
    if (kind === 'open') regions.add(region)
    else regions.delete(region)
  }
}

/** What layers hold, once the chain is settled. */
export function replayLayers(map: VolumeMap, chain: Chain, inherit: Inherited): void {
  for (const { todo, undo, settled } of inherit.layers) {
    for (let at = undo && !settled ? todo.next(0, map.grains, true) : map.grains; at < map.grains;) {
      const stop = todo.runEnd(at, map.grains)
      while (at < stop) {
        const end = Math.min(map.data.runEnd(at, stop), undo!.lent.runEnd(at, stop))
        if (map.data.get(at) || undo!.lent.get(at)) chain.lend(undo!, at, end)
        else chain.preserveZero(undo!, at, end)
        chain.markAgain(undo!, at, end)
        at = end
      }
      at = stop < map.grains ? todo.next(stop, map.grains, true) : stop
    }
    map.becomeInherited(todo)
  }
}

type GrainKind = 'zero' | 'clear' | 'unstale' | 'inherited' | 'inheritedZero'

function replayGrains(map: VolumeMap, kept: IntervalSet, kind: GrainKind, range: Run): void {
  const start = range.start
  const end = Math.min(range.end, map.grains)
  if (start >= end) return
  if (kind === 'unstale' || kind === 'inherited') {
    map.becomeData(start, end)
    if (kind === 'unstale') kept.add(start, end)
    return
  }
  kept.remove(start, end)
  if (kind !== 'clear') map.becomeStale(start, end)
  else map.becomeHole(start, end)
}
