/** Two volumes that share a table of points, on the disks of one array. */
import { DiskArray, ManualClock, type MemoryDisk, type RecordingDisk } from '../../src/device/testing.js'
import type { PointTable } from '../../src/store/point-table.js'
import type { Volume } from '../../src/volume/volume.js'
import { freshDisks, GRAIN, killed, openOn, SMALL_JOURNAL_BYTES } from '../volume/lab.js'
import { everlasting, freshPointDisks, openTable, pointsOf } from './points-store.js'

export const SIZE = 4 * GRAIN
export const MEMBERS = ['a', 'b'] as const
export const UUIDS = { a: '00000000-0000-4000-8000-00000000000a', b: '00000000-0000-4000-8000-00000000000b' }
const PARTS = ['live', 'map', 'journal', 'folders', 'maps', 'preserved', 'staged', 'layers'] as const
export type DiskName = `${typeof MEMBERS[number]}.${typeof PARTS[number]}` | 'table'
export interface Opened { readonly table: PointTable, readonly volumes: readonly Volume[] }
export type MemberDisks = Readonly<Record<DiskName, MemoryDisk | RecordingDisk>>

export async function openMembers(disks: MemberDisks, clock = new ManualClock()): Promise<Opened> {
  for (const disk of Object.values(disks)) everlasting(disk)
  const table = await openTable(disks.table)
  const volumes: Volume[] = []
  for (const member of MEMBERS) {
    const [live, map, journal, folders, maps, preserved, staged, layers] = PARTS.map(part => disks[`${member}.${part}`]) as MemoryDisk[]
    const stores = pointsOf(UUIDS[member], table, { folders, maps, preserved, staged, layers })
    volumes.push(await openOn({ live, map, journal }, live.sizeBytes, { clock, uuid: UUIDS[member], ...stores }))
  }
  return { table, volumes }
}

/** @param seqs how many points a member can have had */
export async function freshArray<Note>(lateFlush: boolean, seqs?: number, sizeBytes = SIZE): Promise<DiskArray<DiskName, Note>> {
  const all: Partial<Record<DiskName, MemoryDisk>> = {}
  for (const member of MEMBERS) {
    const disks = { ...killed(await freshDisks({ sizeBytes, journalBytes: SMALL_JOURNAL_BYTES, uuid: UUIDS[member] })), ...await freshPointDisks(seqs) }
    for (const part of PARTS) all[`${member}.${part}`] = disks[part]
    all.table = disks.table
  }
  return new DiskArray<DiskName, Note>(all as Record<DiskName, MemoryDisk>, { lateFlush })
}
