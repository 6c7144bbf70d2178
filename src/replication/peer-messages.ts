/**
 * What the two ends of a peer link say to one another about a mirror: shapes of calls and answers (docs/peer-link.md), judged by
 * whoever receives them. How they cross is the link's business.
 */
import { z } from 'zod'
import { NbdeltaError } from '../device/errors.js'
import { REGION_BYTES_MAX, UNIT_BYTES } from './content-digest.js'
import { ROOT, SNAPSHOTS_KEPT_MAX } from './mirror-record.js'

/** Volumes that a source is itself a copy of, over several servers. */
export const ABOVE_MAX = 16
/** Of one page; at 34 bytes at most each, well within a line. */
export const RUNS_MAX = 1500
/** Of one page of digests; at 67 bytes each. */
export const DIGESTS_MAX = 500
/** What one page of digests is made of, or a region if that is more: seconds of reading. */
export const DIGEST_BYTES_MAX = 64 * 2 ** 20
/** What a peer may be able to do beside what version 1 asks of it: it says so when it is attached to. */
export const CAN_DIGEST = 'digest'
export const CAN_STREAM = 'stream'
export const CAN_REVERSE = 'reverse'
export const CAN_SNAPSHOTS = 'snapshots'
/** `recall` also while what a stream brings does not count. */
export const CAN_RECALL = 'recall'
/** Of one page of what may be recalled: runs and digests together are within a line. */
export const RECALL_PAGE = { runs: 1000, portions: 300 } as const
export const RECALL_REGION_BYTES_MIN = 2 ** 16
export const CAN_HOLD = 'hold'
/** `rooted`: a held point's root is told behind the point. */
export const CAN_ROOTS = 'roots'

const uuid = z.uuid()
const name = z.string().min(1).max(128)
const size = z.int().min(1)
const grain = z.int().min(0)
const regionBytes = z.int().min(UNIT_BYTES).max(REGION_BYTES_MAX)
const point = z.strictObject({ uuid, cycle: z.int().min(1), sizeBytes: size })

export const PARAMS = {
  attach: z.strictObject({
    mirror: z.strictObject({ uuid, name: z.string().min(1).max(64) }),
    source: z.strictObject({ uuid, name }),
    /** What the source is a copy of, nearest first. */
    above: z.array(uuid).max(ABOVE_MAX),
    volume: name,
    epoch: z.int().min(1),
    sizeBytes: size,
    grainBytes: size,
    overwrite: z.boolean(),
    /** The mirror has no declared point there: a volume that is not there is made. */
    create: z.boolean(),
  }),
  changed: z.strictObject({ from: grain }),
  /** `seen`: so many grains had changed when `changed` was asked; null: it was not. */
  begin: z.strictObject({ point, keep: z.boolean(), seen: grain.nullable() }),
  /** Grains [start, end) ascending; regions are of so many bytes, a power of two. */
  digest: z.strictObject({ runs: z.array(z.tuple([grain, grain])).min(1).max(RUNS_MAX), regionBytes }),
  /** Behind `begin`, or amid a stream: what of these a copy of the source's snapshot `point` holds alike is taken from it. */
  recall: z.strictObject({
    point: uuid, runs: z.array(z.tuple([grain, grain])).min(1).max(RECALL_PAGE.runs),
    regionBytes: z.int().min(RECALL_REGION_BYTES_MIN).max(REGION_BYTES_MAX),
    digests: z.array(ROOT).min(1).max(RECALL_PAGE.portions),
  }),
  /** `root`: of its content; only to a peer that can digest. The others, as in DeclaredPoint: to one that keeps snapshots. */
  commit: z.strictObject({
    point, root: ROOT.optional(), snapshot: name.optional(), kept: z.array(uuid).max(SNAPSHOTS_KEPT_MAX).optional(),
  }),
  /** What arrives from now on counts by itself, or no more. */
  stream: z.strictObject({ counts: z.boolean() }),
  /** Of a reversal: what the volume holds is frozen, and then taken to be `point`. */
  freeze: z.strictObject({ cycle: z.int().min(1) }),
  accept: z.strictObject({ point }),
  release: z.strictObject({}),
  forget: z.strictObject({}),
  /** Instead of `attach`: this connection reads a declared point of the mirror, which stays as long as it lasts. */
  hold: z.strictObject({ mirror: uuid, volume: name, epoch: z.int().min(1), point: uuid }),
  held: z.strictObject({ from: grain, regionBytes }),
  /** What led to it has been compared: its root from now on. */
  rooted: z.strictObject({ root: ROOT }),
  /** What came of it. */
  found: z.strictObject({
    result: z.enum(['equal', 'different', 'read']), cycle: z.int().min(1).nullable(), digest: ROOT.nullable(),
  }),
} as const

const RESULTS = {
  attach: z.object({
    declared: uuid.nullable(),
    sizeBytes: size,
    /** The name to ask the NBD server for, this once. */
    export: z.string().min(1).max(200),
    nbd: z.array(z.union([z.object({ port: z.int().min(1).max(65_535) }), z.object({ path: z.string().min(1) })])).max(100),
    keep: z.boolean(),
    blank: z.boolean(),
    can: z.array(z.string().max(64)).max(64).default([]),
    root: ROOT.nullable().default(null),
  }),
  /** Grains [start, end) ascending; `next`: where to go on asking, null: that was all. Runs null: nobody knows. */
  changed: z.object({ runs: z.array(z.tuple([grain, grain])).max(RUNS_MAX).nullable(), next: grain.nullable() }),
  /** By portions: [start, end) in bytes, and SHA-256. */
  digest: z.object({ portions: z.array(z.tuple([grain, grain, ROOT])).max(DIGESTS_MAX) }),
  /** As `export` of attach: what was frozen. */
  freeze: z.object({ export: z.string().min(1).max(200) }),
  /** By portions; null: there is no such copy. */
  recall: z.object({ same: z.array(z.boolean()).max(RECALL_PAGE.portions).nullable() }),
  hold: z.object({ sizeBytes: size, grainBytes: size }),
  /** Regions [start, end), ascending, of which the peer does not know that they are zeros; pages as of `changed`. */
  held: z.object({ runs: z.array(z.tuple([grain, grain])).max(RUNS_MAX), next: grain.nullable() }),
  rooted: z.null(), found: z.null(),
  begin: z.null(), commit: z.null(), stream: z.null(), accept: z.null(), release: z.null(), forget: z.null(),
} as const

export type PeerMethod = keyof typeof PARAMS
export type PeerParams<M extends PeerMethod> = z.output<typeof PARAMS[M]>
export type PeerResult<M extends PeerMethod> = z.output<typeof RESULTS[M]>

export function isPeerMethod(method: string): method is PeerMethod { return Object.hasOwn(PARAMS, method) }

export interface PeerCaller { call(method: string, params: Readonly<Record<string, unknown>>): Promise<unknown> }

/** Errors: those of the peer, bad-peer (its answer). */
export async function callPeer<M extends PeerMethod>(link: PeerCaller, method: M, params: PeerParams<M>): Promise<PeerResult<M>> {
  const answer = await link.call(method, params)
  return judgeMessage(RESULTS[method], answer, `the peer's answer to ${method}`, 'bad-peer') as PeerResult<M>
}

/** Errors: bad-argument (a call), bad-peer (an answer), naming the first thing that is wrong. */
export function judgeMessage<S extends z.ZodType>(
  schema: S, value: unknown, what: string, code: 'bad-argument' | 'bad-peer',
): z.output<S> {
  const judged = schema.safeParse(value)
  if (judged.success) return judged.data
  const { path, message } = judged.error.issues[0]!
  throw new NbdeltaError(code, `${what}: ${path.join('.')}: ${message}`)
}
