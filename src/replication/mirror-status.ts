/** What a mirror tells: to people, and to whoever has its turn. */
import type { Clock } from '../device/clock.js'
import type { Logger } from '../device/logger.js'
import type { TransferOptions } from '../volume/transfer.js'
import type { CycleParts, CycleResult, Decision, Witness } from './cycle.js'
import type { Mirror } from './mirror.js'
import type { MirrorState, Phase } from './mirror-record.js'
import type { StreamFacts } from './stream.js'
import type { Verified } from './verifications.js'

const DECISIONS_MAX = 50

export type CycleOptions = TransferOptions & {
  /** Nothing is to be sent behind it. */
  readonly last?: boolean
  readonly freeze?: CycleParts['freeze']
  readonly witness?: Witness
}

/** What people are told; times are ISO 8601 in UTC, sizes bytes. */
export interface MirrorStatus {
  readonly phase: Phase
  readonly paused: boolean
  /** A cycle runs: of what it looks at, so much is done. */
  readonly progress: { readonly doneBytes: number, readonly totalBytes: number, readonly bytesPerSecond: number } | null
  /** When the target's declared point was frozen. */
  readonly declaredAt: string | null
  readonly cycle: number
  /** Modes async and sync: changes go to the target as they come; null: not now. */
  readonly stream: StreamFacts | null
  /** What of the source the target does not have; null: it has no declared point, or the source cannot be read. */
  readonly lagBytes: number | null
  readonly lagSeconds: number | null
  readonly nextAt: string | null
  /** Why the last cycle failed, or what verification found; null: all is well. */
  readonly problem: string | null
  readonly unguarded: readonly string[]
  readonly last: (CycleResult & { readonly seconds: number }) | null
  readonly decisions: readonly (Decision & { readonly at: string })[]
  /** Null: none has come to its end since the server began. */
  readonly verified: Verified | null
}

/** @param facts `dueAtMs`: when something runs next, null: nothing will; `progress`: of a cycle that runs */
export function statusOf(facts: {
  readonly state: MirrorState
  readonly clock: Clock
  readonly progress: { readonly doneBytes: number, readonly totalBytes: number, readonly startedMs: number } | undefined
  readonly dueAtMs: number | null
  readonly stream: StreamFacts | null
  /** When it was seen last that the declared point is the source as it is. */
  readonly renewedAt: string | undefined
  readonly problem: string | undefined
  readonly last: MirrorStatus['last']
  readonly unguarded: readonly string[]
  readonly decisions: MirrorStatus['decisions']
  readonly verified: Verified | null
  lagBytes(): number | null
}): MirrorStatus {
  const { state: { phase, paused, base, cycle }, clock, progress, stream, dueAtMs, unguarded, last, verified } = facts
  const declaredAt = facts.renewedAt ?? base?.at ?? null
  const age = declaredAt === null ? null : Math.max(0, (clock.wallTime().getTime() - Date.parse(declaredAt)) / 1000)
  const { doneBytes = 0, totalBytes = 0, startedMs = 0 } = progress ?? {}
  const seconds = Math.max(0.001, (clock.now() - startedMs) / 1000)
  const waitMs = dueAtMs === null || progress ? null : Math.max(0, dueAtMs - clock.now())
  return {
    phase, paused, cycle, declaredAt, stream, unguarded, last, verified,
    progress: progress ? { doneBytes, totalBytes, bytesPerSecond: Math.round(doneBytes / seconds) } : null,
    lagBytes: stream?.behindBytes ?? facts.lagBytes(),
    lagSeconds: stream ? stream.behindMs / 1000 : age,
    nextAt: waitMs === null ? null : new Date(clock.wallTime().getTime() + waitMs).toISOString(),
    problem: facts.problem ?? null, decisions: [...facts.decisions],
  }
}

/** The last decisions of a mirror; each is logged as well. */
export class Decisions {
  readonly list: (Decision & { readonly at: string })[] = []
  readonly #parts: { readonly clock: Clock, readonly logger: Logger, readonly record: { readonly name: string } }

  constructor(parts: { readonly clock: Clock, readonly logger: Logger, readonly record: { readonly name: string } }) {
    this.#parts = parts
  }

  add(decision: Decision): void {
    const { clock, logger, record } = this.#parts
    this.list.push({ ...decision, at: clock.wallTime().toISOString() })
    if (this.list.length > DECISIONS_MAX) this.list.shift()
    logger.debug({ mirror: record.name, ...decision }, 'mirror decision')
  }
}

/** What may be done in a mirror's turn by whoever has it (mirror-group.ts). */
export interface MirrorTurn {
  readonly mirror: Mirror
  /** Errors: as `sync`. */
  cycle(options: TransferOptions, freeze: CycleParts['freeze']): Promise<void>
  /** What can be ended from outside, and tells how far it is, as a cycle does. Errors: shutting-down, those of the work. */
  run<T>(options: TransferOptions, work: (parts: CycleParts) => Promise<T>): Promise<T>
  /** Durable already; in force from here on. */
  adopt(state: MirrorState, decision: Decision): void
  /** Tells the target that it stands on its own, if it has not heard it yet. Errors: those of the target; it is tried again. */
  release(): Promise<void>
}
