/**
 * What a mirror is, durably: the JSON that stands as `state` of its entry in the store's table (src/store/FORMAT.md), judged on
 * the way in and on the way out. A record changes whole, or not at all (D6).
 */
import { z } from 'zod'
import { NbdeltaError } from '../device/errors.js'

/** Names of its points are made of it. */
export const MIRROR_NAME_MAX = 64
const URI_LENGTH_MAX = 2000
const SECRET_PATH_MAX = 1000
const TIMEOUT_SECONDS_DEFAULT = 5
/** Longer than this no client's request waits. */
const TIMEOUT_SECONDS_MAX = 25
/** A year. */
const INTERVAL_SECONDS_MAX = 366 * 86_400

/** Of one mirror, at its target. */
export const SNAPSHOTS_KEPT_MAX = 100

const uuid = z.uuid()
/** SHA-256. */
export const ROOT = z.string().regex(/^[0-9a-f]{64}$/, 'a root is 64 hexadecimal digits')

const STATE = z.strictObject({
  target: z.discriminatedUnion('kind', [
    z.strictObject({ kind: z.literal('volume'), uuid }),
    z.strictObject({ kind: z.literal('nbd'), uri: z.string().min(1).max(URI_LENGTH_MAX) }),
    z.strictObject({
      kind: z.literal('peer'), uri: z.string().min(1).max(URI_LENGTH_MAX),
      /** Where the secret is; it is nowhere else. */
      secretFile: z.string().min(1).max(SECRET_PATH_MAX),
    }),
  ]),
  /** When changes cross: cycle by cycle; in order, soon after the answer; or before it. Early records have none. */
  mode: z.enum(['periodic', 'async', 'sync']).default('periodic'),
  /** Modes async and sync: a target that does nothing for so long is not waited for any more. */
  timeoutSeconds: z.int().min(1).max(TIMEOUT_SECONDS_MAX).default(TIMEOUT_SECONDS_DEFAULT),
  /** From the beginning of one cycle to that of the next; in modes async and sync from one declared point to the next. */
  intervalSeconds: z.int().min(1, 'an interval is a second at least').max(INTERVAL_SECONDS_MAX),
  /** A cycle begins at once when so many bytes are behind; null: only by the interval. */
  lagBytes: z.int().min(1).nullable(),
  bytesPerSecond: z.int().min(1).nullable(),
  /** So many of the source's newest snapshots the target has as well (carry.ts). Early records have none. */
  keepSnapshots: z.int().min(0).max(SNAPSHOTS_KEPT_MAX).default(0),
  phase: z.enum(['copying', 'paired', 'split', 'resyncing']),
  paused: z.boolean(),
  /** Split, and the target has not been told: it shows its declared point, and is told until it has heard it. */
  releasing: z.boolean().default(false),
  /** Nothing was written to the target yet, and it reads as zeros. */
  blank: z.boolean(),
  /** A flush of the target has failed since it declared a point: what is read there may be in memory only. */
  doubtful: z.boolean().default(false),
  /** What the target shows is somebody's own: the next cycle keeps it as a snapshot before it overwrites it (D14, S5). */
  keep: z.boolean(),
  /** Number of the last cycle whose point was declared; 0: none was. */
  cycle: z.int().min(0),
  /** The source's point that the target declares to be at, and when that was frozen. Null: it is at none. */
  base: z.strictObject({
    point: uuid, at: z.iso.datetime(),
    /** Of its content, as it was compared (content-roots.ts); null: it was not. */
    root: ROOT.nullable().default(null),
  }).nullable(),
  /**
   * The base came from the target, by a reversal: snapshots of the source up to this number show what was there before, and are
   * not carried.
   */
  passed: z.int().min(0).default(0),
  /** Raised when the roles change; a peer refuses a lower one than it has seen. Records of before there were peers have none. */
  epoch: z.int().min(1).default(1),
})

/** What a server keeps of a mirror of another server, whose target is a volume of its own (secondaries.ts). */
const SECONDARY = z.strictObject({
  role: z.literal('secondary'),
  mirror: uuid,
  name: z.string().min(1).max(MIRROR_NAME_MAX),
  source: z.strictObject({ uuid, name: z.string().min(1) }),
  /** What the source is a copy of itself, nearest first. */
  above: z.array(uuid),
  /** The highest that was seen. */
  epoch: z.int().min(1),
  phase: z.enum(['secondary', 'released']),
})

export type SecondaryState = z.output<typeof SECONDARY>

export type MirrorState = z.output<typeof STATE>
export type MirrorTargetName = MirrorState['target']
export type Phase = MirrorState['phase']
export type MirrorMode = MirrorState['mode']

export interface MirrorRecord {
  readonly uuid: string
  readonly name: string
  /** Uuid of the source volume. */
  readonly volume: string
  readonly state: MirrorState
}

/** Whether an entry of the store's table is one of the other kind. */
export function isSecondary(state: unknown): boolean {
  return typeof state === 'object' && state !== null && 'role' in state && state.role === 'secondary'
}

/** Errors: bad-argument, naming the first thing that is wrong. */
export function judgeState(state: unknown): MirrorState { return judge(STATE, state) }

/** Errors: bad-argument, likewise. */
export function judgeSecondary(state: unknown): SecondaryState { return judge(SECONDARY, state) }

function judge<S extends z.ZodType>(schema: S, state: unknown): z.output<S> {
  const judged = schema.safeParse(state)
  if (judged.success) return judged.data
  const { path, message } = judged.error.issues[0]!
  throw new NbdeltaError('bad-argument', `a mirror's ${path.join('.')}: ${message}`)
}
