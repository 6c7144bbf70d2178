/** A pair of volumes that a mirror keeps alike, as whoever tells its story knows it (mirror-story.ts). Nothing here is ever changed. */
import { SECTOR } from '../volume/storm-model.js'
import { durable, exactly, type Sectors } from './sectors.js'

export const GRAIN = 4096
export const IN_GRAIN = GRAIN / SECTOR

/** A target that stands on its own. `base`: what it was when that began; `isOwn`: somebody has written to it. */
export interface Apart extends Sectors {
  readonly base: readonly number[]
  readonly isOwn: boolean
  /** Nobody has looked yet: it is as a whole one of the views from there on; null: half a first copy, perhaps. */
  readonly wholeFrom?: number | null
}

export interface Pair {
  readonly source: Sectors
  readonly points: ReadonlyMap<string, readonly number[]>
  /** As the source's site has it; `fenced`, `promoted`: at the peer's an operator has begun to take it over, or has done it. */
  readonly phase: 'none' | 'paired' | 'split' | 'fenced' | 'promoted'
  readonly isPaused: boolean
  readonly isStreaming: boolean
  /** So many of the newest snapshots the target has as well. */
  readonly keeps: number
  /** All that the source has been; the target is none of before `declared`. */
  readonly views: readonly (readonly number[])[]
  readonly declared: number | undefined
  /** Of a target that is split, promoted, or left when its mirror was deleted. */
  readonly apart: Apart | undefined
  /** What somebody had done on the target, and a resync is to keep. */
  readonly kept: Apart | undefined
  /** A split was cut short: the peer has let go already, and the mirror is to be split again. */
  readonly isReleased?: boolean
  /** Its deletion has begun: nothing else is done with it any more. */
  readonly isEnding?: boolean
}

export interface PairNote { readonly text: string, readonly worlds: readonly Pair[] }

export function freshPair(sectors: number): Pair {
  const now = Array<number>(sectors).fill(0)
  return {
    source: { now, sectors: exactly(now) }, points: new Map(), phase: 'none', isPaused: false, isStreaming: false, keeps: 0, views: [now],
    declared: undefined, apart: undefined, kept: undefined,
  }
}

export function apartAt(now: readonly number[]): Apart { return { now, sectors: exactly(now), base: now, isOwn: false } }

/** A target that has been let go of, at whatever it showed. @param isWhole it showed a point */
export function letGo({ views, declared }: Pair, isWhole: boolean): Apart {
  return { ...apartAt(views.at(-1)!), wholeFrom: isWhole ? declared ?? 0 : null }
}

export function withSource(world: Pair, source: Sectors): Pair { return { ...world, source, views: [...world.views, source.now] } }

/** A cycle of what is there now has come to its end. */
export function declaredNow(world: Pair): Pair {
  return { ...world, declared: world.views.length - 1, source: durable(world.source), kept: undefined }
}

/** What the source has been at some time, and not before what it has declared. */
export function isOne(content: readonly number[], { views, isStreaming }: Pair, from: number): boolean {
  const mayBe = views.slice(from)
  return isStreaming ? mayBe.some(({ length }) => length === content.length)
      && content.every((value, sector) => mayBe.some(view => (view[sector] ?? 0) === value))
    : mayBe.some(view => view.length === content.length && view.every((value, sector) => content[sector] === value))
}
