/**
 * What the two ends of a peer link say to one another about a mirror: shapes of calls and answers (docs/peer-link.md), judged by
 * whoever receives them. How they cross is the link's business.
 */
import { z } from 'zod'
import { NbdeltaError } from '../device/errors.js'

/** Volumes that a source is itself a copy of, over several servers. */
export const ABOVE_MAX = 16
/** Of one page; at 34 bytes at most each, well within a line. */
export const RUNS_MAX = 1500

const uuid = z.uuid()
const name = z.string().min(1).max(128)
const size = z.int().min(1)
const grain = z.int().min(0)
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
  commit: z.strictObject({ point }),
  release: z.strictObject({}),
  forget: z.strictObject({}),
} as const

export const RESULTS = {
  attach: z.object({
    declared: uuid.nullable(),
    sizeBytes: size,
    /** The name to ask the NBD server for, this once. */
    export: z.string().min(1).max(200),
    nbd: z.array(z.union([z.object({ port: z.int().min(1).max(65_535) }), z.object({ path: z.string().min(1) })])).max(100),
    keep: z.boolean(),
    blank: z.boolean(),
  }),
  /** Grains [start, end) ascending; `next`: where to go on asking, null: that was all. Runs null: nobody knows. */
  changed: z.object({ runs: z.array(z.tuple([grain, grain])).max(RUNS_MAX).nullable(), next: grain.nullable() }),
  begin: z.null(), commit: z.null(), release: z.null(), forget: z.null(),
} as const

export type PeerMethod = keyof typeof PARAMS
export type PeerParams<M extends PeerMethod> = z.output<typeof PARAMS[M]>
export type PeerResult<M extends PeerMethod> = z.output<typeof RESULTS[M]>

export function isPeerMethod(method: string): method is PeerMethod { return Object.hasOwn(PARAMS, method) }

/** Errors: bad-argument (a call), bad-peer (an answer), naming the first thing that is wrong. */
export function judgeMessage<S extends z.ZodType>(
  schema: S, value: unknown, what: string, code: 'bad-argument' | 'bad-peer',
): z.output<S> {
  const judged = schema.safeParse(value)
  if (judged.success) return judged.data
  const { path, message } = judged.error.issues[0]!
  throw new NbdeltaError(code, `${what}: ${path.join('.')}: ${message}`)
}
