/**
 * What the table of points holds, and what may stand in it: entries judged on the way in and on the way out of the disk.
 * Limits are named here; which entries may stand side by side is point-table.ts's to say.
 */
import { z } from 'zod'
import { NbdeltaError } from '../device/errors.js'
import { NAME, PLAIN_TEXT, SECTOR_BYTES, UUID, VOLUME_BYTES_MAX } from './catalog.js'

export const LABELS_MAX = 16
export const LABEL_KEY_LENGTH_MAX = 64
export const LABEL_VALUE_LENGTH_MAX = 256
/** Every clone of a snapshot pins it. */
export const PINS_MAX = 1024
export const PIN_OWNER_LENGTH_MAX = 200
/** As JSON. */
export const SCHEDULE_BYTES_MAX = 4096
export const GROUP_VOLUMES_MAX = 1000
/** As JSON. */
export const MIRROR_BYTES_MAX = 4096

const uuid = z.string().regex(UUID, 'a uuid is 32 lower-case hex digits with dashes')
const SEQ = z.int().min(1, 'points are numbered from 1')

const PIN = z.strictObject({
  owner: z.string()
    .min(1, 'the owner of a pin may not be empty')
    .max(PIN_OWNER_LENGTH_MAX, `the owner of a pin has at most ${PIN_OWNER_LENGTH_MAX} characters`)
    .regex(PLAIN_TEXT, 'the owner of a pin may not hold control characters'),
  expiresAt: z.iso.datetime().nullable(),
})

const LABELS = z.record(
  z.string()
    .max(LABEL_KEY_LENGTH_MAX, `the key of a label has at most ${LABEL_KEY_LENGTH_MAX} characters`)
    .regex(/^[A-Za-z0-9][A-Za-z0-9._/-]*$/,
      "the key of a label is a letter or digit, then letters, digits, '.', '_', '/' and '-'"),
  z.string()
    .max(LABEL_VALUE_LENGTH_MAX, `a label has at most ${LABEL_VALUE_LENGTH_MAX} characters`)
    .regex(PLAIN_TEXT, 'a label may not hold control characters'),
).refine(labels => Object.keys(labels).length <= LABELS_MAX, `a point has at most ${LABELS_MAX} labels`)

const POINT = z.strictObject({
  uuid,
  volume: uuid,
  seq: SEQ,
  name: NAME,
  kind: z.enum(['snapshot', 'bookmark']),
  createdAt: z.iso.datetime(),
  sizeBytes: z.int().min(SECTOR_BYTES).max(VOLUME_BYTES_MAX).multipleOf(SECTOR_BYTES),
  labels: LABELS,
  group: uuid.nullable(),
  pins: z.array(PIN)
    .max(PINS_MAX, `a point has at most ${PINS_MAX} pins`)
    .refine(pins => new Set(pins.map(pin => pin.owner)).size === pins.length, 'each owner has one pin of a point'),
  state: z.enum(['ready', 'deleting']),
})

const INHERIT_PARTS = {
  source: z.strictObject({ volume: uuid, point: uuid }),
  undo: uuid.nullable(),
  range: z.strictObject({
    offset: z.int().min(0).max(VOLUME_BYTES_MAX), length: z.int().min(1).max(VOLUME_BYTES_MAX),
  }).optional(),
  settled: z.boolean().optional(),
  copier: z.strictObject({ bytesPerSecond: z.int().min(1).nullable() }).optional(),
}

const INHERIT = z.strictObject({
  kind: z.enum(['restore', 'clone']),
  ...INHERIT_PARTS,
  base: z.strictObject({ kind: z.literal('clone'), ...INHERIT_PARTS }).optional(),
})

const SCHEDULE = z.json()
  .refine(value => Buffer.byteLength(JSON.stringify(value)) <= SCHEDULE_BYTES_MAX,
    `a schedule has at most ${SCHEDULE_BYTES_MAX} bytes`)

const SPACE = z.strictObject({
  budgetBytes: z.int().min(0, 'a budget is a number of bytes').max(VOLUME_BYTES_MAX).nullable(),
  order: z.enum(['drop-undo-then-fail', 'fail']),
})

const VOLUME = z.strictObject({ volume: uuid, inherit: INHERIT.nullable(), schedule: SCHEDULE, space: SPACE.optional() })

const GROUP = z.strictObject({
  name: NAME,
  volumes: z.array(uuid)
    .max(GROUP_VOLUMES_MAX, `a group has at most ${GROUP_VOLUMES_MAX} volumes`)
    .refine(volumes => new Set(volumes).size === volumes.length, 'a volume is in a group once'),
})

const MIRROR = z.strictObject({
  uuid,
  name: NAME,
  volume: uuid,
  state: z.json()
    .refine(value => Buffer.byteLength(JSON.stringify(value)) <= MIRROR_BYTES_MAX,
      `a mirror has at most ${MIRROR_BYTES_MAX} bytes`),
})

/** One record of the table: all of it happens or nothing. Every key may be missing. */
const CHANGE = z.strictObject({
  /** The highest number a point of the volume ever had. */
  marks: z.array(z.strictObject({ volume: uuid, seq: SEQ })).optional(),
  removePoints: z.array(z.strictObject({ volume: uuid, seq: SEQ })).optional(),
  points: z.array(POINT).optional(),
  volumes: z.array(VOLUME).optional(),
  groups: z.array(GROUP).optional(),
  removeGroups: z.array(NAME).optional(),
  removeVolumes: z.array(uuid).optional(),
  mirrors: z.array(MIRROR).optional(),
  removeMirrors: z.array(uuid).optional(),
})

export interface PointPin {
  /** Unique within the point. */
  readonly owner: string
  /** ISO 8601, UTC; null: until released. */
  readonly expiresAt: string | null
}

export interface PointEntry {
  readonly uuid: string
  /** The volume's uuid. */
  readonly volume: string
  /** Number in its volume, ascending from oldest to newest, never used twice. */
  readonly seq: number
  /** Unique among the volume's points that are ready. */
  readonly name: string
  readonly kind: 'snapshot' | 'bookmark'
  /** ISO 8601, UTC. */
  readonly createdAt: string
  /** The volume's size at that instant. */
  readonly sizeBytes: number
  readonly labels: Readonly<Record<string, string>>
  /** Uuid of the operation that made it together with points of other volumes; null: made alone. */
  readonly group: string | null
  readonly pins: readonly PointPin[]
  readonly state: 'ready' | 'deleting'
}

/** Where content comes from that a volume shows and does not hold itself yet. */
export interface Inheritance {
  readonly kind: 'restore' | 'clone'
  /** Uuids. */
  readonly source: { readonly volume: string, readonly point: string }
  /** Uuid of the snapshot that undoes a restore. */
  readonly undo: string | null
  /** Bytes that come from the source; missing: all that it has. What is left of a grain at an edge comes from `undo`. */
  readonly range?: { readonly offset: number, readonly length: number } | undefined
  /** False: the maps of `undo` do not say yet what it took over when the view was switched. */
  readonly settled?: boolean | undefined
  /** Copying goes on in the background; missing: content comes over only as it is written to. Null: as fast as the disk. */
  readonly copier?: { readonly bytesPerSecond: number | null } | undefined
  /** Of a restore of a clone: what the clone inherits all the same. */
  readonly base?: (Inheritance & { readonly kind: 'clone' }) | undefined
}

export type JsonValue = string | number | boolean | null | JsonValue[] | { [key: string]: JsonValue }

/** What is given up when space for old content ends, before writes fail. */
export type SpaceOrder = z.output<typeof SPACE>['order']

/** How much the points of a volume may keep, and what happens then. */
export interface SpaceRule {
  /** Null: no limit but the disk. */
  readonly budgetBytes: number | null
  readonly order: SpaceOrder
}

export interface VolumeState {
  /** The volume's uuid. */
  readonly volume: string
  readonly inherit: Inheritance | null
  /** Retention schedule; what it means is others'. Null: none. */
  readonly schedule: JsonValue
  /** Missing: none was ever set. */
  readonly space?: SpaceRule | undefined
}

export interface GroupEntry {
  readonly name: string
  /** Uuids. */
  readonly volumes: readonly string[]
}

export interface MirrorEntry {
  readonly uuid: string
  /** Unique in the store. */
  readonly name: string
  /** Uuid of the volume that is mirrored. */
  readonly volume: string
  /** What it means is others'. */
  readonly state: JsonValue
}

/** A change as a record holds it. */
export interface TableChange {
  readonly marks?: readonly { readonly volume: string, readonly seq: number }[] | undefined
  readonly removePoints?: readonly { readonly volume: string, readonly seq: number }[] | undefined
  readonly points?: readonly PointEntry[] | undefined
  readonly volumes?: readonly VolumeState[] | undefined
  readonly groups?: readonly GroupEntry[] | undefined
  readonly removeGroups?: readonly string[] | undefined
  readonly removeVolumes?: readonly string[] | undefined
  readonly mirrors?: readonly MirrorEntry[] | undefined
  /** By uuid. */
  readonly removeMirrors?: readonly string[] | undefined
}

/** The change if its parts may stand in a table. Errors: bad-argument, naming the first thing that is wrong. */
export function judgeChange(change: unknown): TableChange {
  const judged = CHANGE.safeParse(change)
  if (judged.success) return judged.data
  const { path, message } = judged.error.issues[0]
  throw new NbdeltaError('bad-argument', path.length > 0 ? `${path.join('.')}: ${message}` : message)
}
