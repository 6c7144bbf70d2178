/**
 * Loading the points of a volume at open: what table and folders say, put together (point-store.ts has the rules).
 *
 * A folder without an entry in the table is a point whose creation was never confirmed, but the volume may have preserved
 * into it and marked in it: it comes into the chain as one that is being deleted, and is merged into the older one.
 */
import { divCeil } from '../../native-free/integer.js'
import { allSettled } from '../device/all-settled.js'
import type { Chain } from './chain.js'
import { Point } from './point.js'
import type { PointRecord, PointStore } from './point-store.js'

/** Points loaded side by side: each is many small reads, one after the other. Two files and seven maps each. */
const LOADS_AT_ONCE = 16

/** What is open so far, for whoever has to close it when something of it cannot be opened. */
export type Opened = { close(): Promise<void> }[]

/** Fills the chain. Returns what was found out of order, in words. Errors: damaged, newer-format, io. */
export async function loadPoints(
  store: PointStore, chain: Chain, grainBytes: number, grains: number, opened: Opened,
): Promise<string[]> {
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
  const load = async (index: number): Promise<{ readonly point: Point, readonly notes: readonly string[] }> => {
    const { deleting, ...info } = known[index]
    // It covers what the volume could grow to until the next point that stays: those that go leave it their marks.
    const next = known.slice(index + 1).find(other => !other.deleting)
    // Of one whose size nothing says: all that the older one, which takes its marks over, can miss. Its end may be cut off now.
    const older = info.uuid === '' ? known.slice(0, index).findLast(other => !other.deleting) : undefined
    const covered = next ? divCeil(next.sizeBytes, grainBytes) : grains
    const files = await store.open(info.seq, info.kind, info.sizeBytes)
    opened.push(files)
    const state = deleting ? 'deleting' : 'ready'
    const point = new Point(info, state, files, grainBytes, Math.max(covered, divCeil(older?.sizeBytes ?? 0, grainBytes)))
    return { point, notes: await files.load(point) }
  }
  for (let at = 0; at < known.length; at += LOADS_AT_ONCE) {
    const loaded: Awaited<ReturnType<typeof load>>[] = []
    const batch = known.slice(at, at + LOADS_AT_ONCE)
    await allSettled(batch.map(async (_, i) => { loaded[i] = await load(at + i) }))
    for (const { point, notes: found } of loaded) {
      notes.push(...found)
      chain.adopt(point)
    }
  }
  if (gone.length > 0) await store.put([], gone)
  return notes
}
