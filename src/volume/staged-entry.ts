/** What staging.ts remembers of what it has taken: entries, and an instant between. */
import type { StagedEntry } from '../store/staging-log.js'

export interface Staged extends StagedEntry {
  readonly from: number
  readonly to: number
}

/** Before it and behind it are two points' times. */
export interface Division {
  /** The last entry before. */
  readonly last: number
  /** What comes is needed, whatever the chain says: a snapshot is being made. */
  readonly keeps: boolean
  /** The newest entry before, of grains that have one behind. */
  readonly before: Map<number, Staged>
}

/** Entries that a process has left, with their grains; without those of grains of another size, or behind the end. */
export function placed(entries: readonly StagedEntry[], grainBytes: number, grains: number): Staged[] {
  return entries.map(entry => {
    const from = entry.offset / grainBytes
    return { ...entry, from, to: Math.min(from + entry.length / grainBytes, grains) }
  }).filter(({ from, to }) => Number.isInteger(from) && from < to)
}
