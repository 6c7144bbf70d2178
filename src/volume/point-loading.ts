/**
 * Loading the points of a volume at open: what table and folders say, put together (point-store.ts has the rules).
 *
 * A folder without an entry in the table is a point whose creation was never confirmed, but the volume may have preserved
 * into it and marked in it: it comes into the chain as one that is being deleted, and is merged into the older one.
 */
import { divCeil } from '../../native-free/integer.js'
import type { Chain } from './chain.js'
import { Point } from './point.js'
import type { PointRecord, PointStore } from './point-store.js'

/** Fills the chain. Returns what was found out of order, in words. Errors: damaged, newer-format, io. */
export async function loadPoints(store: PointStore, chain: Chain, grainBytes: number, grains: number): Promise<string[]> {
  const notes: string[] = []
  const folders = new Map((await store.folders()).map(folder => [folder.seq, folder]))
  const known: PointRecord[] = []
  const gone: PointRecord[] = []
  for (const record of store.list()) {
    if (record.deleting && !folders.has(record.seq)) gone.push(record)
    else known.push(record)
    folders.delete(record.seq)
  }
  for (const { seq, kind, sizeBytes } of folders.values()) {
    known.push({
      uuid: '', seq, kind, sizeBytes, name: '', createdAt: '', labels: {}, group: null, pins: [], deleting: true,
    })
    notes.push(`point ${seq} was being made when the server ended; it goes again`)
  }
  known.sort((a, b) => a.seq - b.seq)
  for (const [index, { deleting, ...info }] of known.entries()) {
    // It covers what the volume could grow to until the next point.
    const next = known[index + 1]
    const files = await store.open(info.seq, info.kind, info.sizeBytes)
    const state = deleting ? 'deleting' : 'ready'
    const point = new Point(info, state, files, grainBytes, next ? divCeil(next.sizeBytes, grainBytes) : grains)
    notes.push(...await files.load(point))
    chain.adopt(point)
  }
  if (gone.length > 0) await store.put([], gone)
  return notes
}
