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
 * Bound: after a clean close nothing is open. After a crash the excess is the open regions (checkpoint.ts bounds them),
 * it is logged, and excess-scan.ts takes it back. Ranges beyond the size are what a resize cut short leaves; they are dropped.
 */
import { divCeil } from '../../native-free/integer.js'
import { IntervalSet } from '../../native-free/interval-set.js'
import { decodeJournalRecord, type JournalKind, REGION_GRAINS } from '../store/journal-records.js'
import type { LogRecord } from '../store/record-log-layout.js'
import type { Run, VolumeMap } from './volume-map.js'

export interface Recovered {
  /** Regions that a crash left open, to be scanned. */
  readonly openRegions: number
  readonly staleRuns: number
  /** What was repaired, in words. */
  readonly notes: readonly string[]
}

/** Brings `map`, which holds the pages of the map file, up to date. Throws `damaged` or `newer-format`. */
export function replay(map: VolumeMap, records: readonly LogRecord[], name: string): Omit<Recovered, 'notes'> {
  const regions = new Set<number>()
  const kept = new IntervalSet()
  for (const record of records) {
    const { kind, ranges } = decodeJournalRecord(record, name)
    for (const range of ranges) {
      if (kind === 'open' || kind === 'close') replayRegions(regions, kind, range, divCeil(map.grains, REGION_GRAINS))
      else replayGrains(map, kept, kind, range)
    }
  }
  map.presumeData([...regions].sort((a, b) => a - b))
  for (const run of kept) map.keep(run.start, run.end)
  return { openRegions: map.open.size, staleRuns: map.stale.size }
}

function replayRegions(regions: Set<number>, kind: 'open' | 'close', range: Run, count: number): void {
  for (let region = range.start; region < Math.min(range.end, count); region++) {
    if (kind === 'open') regions.add(region)
    else regions.delete(region)
  }
}

function replayGrains(map: VolumeMap, kept: IntervalSet, kind: Exclude<JournalKind, 'open' | 'close'>, range: Run): void {
  const start = range.start
  const end = Math.min(range.end, map.grains)
  if (start >= end) return
  if (kind === 'unstale') {
    map.becomeData(start, end)
    kept.add(start, end)
    return
  }
  kept.remove(start, end)
  if (kind === 'zero') map.becomeStale(start, end)
  else map.becomeHole(start, end)
}
