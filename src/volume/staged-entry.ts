/** What staging.ts remembers of what it has taken: entries, the strokes in which they are written, and an instant between. */
import type { StagedEntry } from '../store/staging-log.js'

export interface Staged extends StagedEntry {
  readonly from: number
  readonly to: number
}

/** Entries that are written in one stroke, and what was staged of their grains before: (grain, entry | undefined)*. */
export interface Stroke {
  readonly written: Promise<void>
  readonly first: number
  readonly before: (number | Staged | undefined)[]
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
