/** All that a store holds, as whoever has done it knows (store-story.ts). Nothing here is ever changed. */
import type { JsonValue, SpaceRule } from '../../src/store/point-entry.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { durable, exactly, type Sectors } from './sectors.js'

export interface Point {
  readonly kind: 'snapshot' | 'bookmark'
  readonly content: readonly number[]
  /** Given by hand. */
  readonly labels: Readonly<Record<string, string>>
  /** Held by hand: when they expire, by owner. */
  readonly pins: Readonly<Record<string, string | null>>
  /** Made together with others that have the same; null: alone. */
  readonly group: string | null
}

export interface Live extends Sectors {
  /** Oldest first. */
  readonly points: ReadonlyMap<string, Point>
  readonly space: SpaceRule
  readonly schedule: JsonValue
}

export interface World {
  readonly volumes: ReadonlyMap<string, Live>
  /** Names of volumes, ascending. */
  readonly groups: ReadonlyMap<string, readonly string[]>
}

/** Undefined: no store yet. */
export type Maybe = World | undefined

export const EMPTY: World = { volumes: new Map(), groups: new Map() }
export const UNLIMITED: SpaceRule = { budgetBytes: null, order: 'drop-undo-then-fail' }

export function freshVolume(now: readonly number[]): Live {
  return { now, sectors: exactly(now), points: new Map(), space: UNLIMITED, schedule: null }
}

export function pointOf(kind: Point['kind'], content: readonly number[], more: Partial<Point> = {}): Point {
  return { kind, content, labels: {}, pins: {}, group: null, ...more }
}

export function withVolume(world: World, name: string, live: Live): World {
  return { ...world, volumes: new Map([...world.volumes, [name, live]]) }
}

/** It is a member of no group any more. */
export function withoutVolume({ volumes, groups }: World, gone: string): World {
  return {
    volumes: new Map([...volumes].filter(([name]) => name !== gone)),
    groups: new Map([...groups].map(([group, members]) => [group, members.filter(name => name !== gone)])),
  }
}

export function withPoint(live: Live, name: string, point: Point): Live {
  return { ...live, points: new Map([...live.points, [name, point]]) }
}

export function withoutPoint(live: Live, gone: string): Live {
  return { ...live, points: new Map([...live.points].filter(([name]) => name !== gone)) }
}

export function flushed(world: World): World {
  return { ...world, volumes: new Map([...world.volumes].map(([name, live]) => [name, durable(live)])) }
}

/** Of those points that are given up by themselves: only undo points are, of a volume with a budget. */
export function mayBeGivenUp({ space }: Live, name: string): boolean {
  return name.startsWith('undo-') && space.budgetBytes !== null && space.order === 'drop-undo-then-fail'
}

/** Without what was given up. */
export function withoutGivenUp(live: Live, { points }: Pick<StoreVolume, 'points'>): Live {
  const kept = [...live.points].filter(([name]) => !mayBeGivenUp(live, name) || points.get(name) !== undefined)
  return kept.length === live.points.size ? live : { ...live, points: new Map(kept) }
}
