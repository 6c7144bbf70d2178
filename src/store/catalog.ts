/**
 * Catalog: which volumes a store has. Entries live in memory and, as JSON inside records, in catalog.log (record-log.ts).
 *
 * Invariants
 * - Names, uuids and backings are unique, as they are spelled. An entry is what `judgeEntry` accepts, on the way in and on the
 *   way out of the disk.
 * - `put` and `remove` are one durable record each: done = it survives a power cut, failed = nothing changed in memory
 *   (D6). Memory follows the disk, never the other way round. Changes run one after the other.
 *
 * - All entries together fit into one snapshot (`put` judges it), so a rewrite always makes room for one more change.
 *
 * Arithmetic: a snapshot in CATALOG_BYTES may take 1,044,480 bytes, VOLUMES_MAX entries of 1044 bytes. One with a name of
 * 20 letters, no backing and no description takes 256; the longest, at most ENTRY_MAX_BYTES.
 */
import { z } from 'zod'
import { isPowerOfTwo, recordSizeBytes, roundDown, SAFE_MAX } from '../../native-free/index.js'
import type { BlockDevice } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import { Turns } from '../device/turns.js'
import { isUri } from '../device/uri.js'
import { openRecordLog } from './open-record-log.js'
import type { LogRecord, RecordLog } from './record-log.js'

/** 'NBDC' */
export const CATALOG_MAGIC = 0x4e424443
/** Two halves of 2 MiB. */
export const CATALOG_BYTES = 4 * 2 ** 20
export const VOLUMES_MAX = 1000
/** Framing included. */
const ENTRY_MAX_BYTES = 4096
const TYPE_PUT = 1
const TYPE_REMOVE = 2
/** PUT of an entry whose backing is a URI: a server that knows none of these refuses the catalog as newer, not as damaged. */
const TYPE_PUT_REMOTE = 3

export const SECTOR_BYTES = 512
/** 2^53 - 1 rounded down to a multiple of 512: 8 PiB less 512 bytes. */
export const VOLUME_BYTES_MAX = roundDown(SAFE_MAX, SECTOR_BYTES)
export const GRAIN_BYTES_MIN = 4096
export const GRAIN_BYTES_MAX = 2 ** 20
const NAME_LENGTH_MAX = 128
const DESCRIPTION_LENGTH_MAX = 1000
export const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/
export const PLAIN_TEXT = /^[^\u0000-\u001f\u007f]*$/

/** Of volumes, of points and of groups. */
export const NAME = z.string()
  .min(1, 'a name may not be empty')
  .max(NAME_LENGTH_MAX, `a name has at most ${NAME_LENGTH_MAX} characters`)
  .regex(/^[A-Za-z0-9._-]*$/, "a name consists of letters, digits, '.', '_' and '-'")
  .regex(/^[^.-]/, "a name may not start with '.' or '-'")

const ENTRY = z.strictObject({
  uuid: z.string().regex(UUID, 'a uuid is 32 lower-case hex digits with dashes'),
  name: NAME,
  sizeBytes: z.int()
    .min(SECTOR_BYTES, `a volume has at least ${SECTOR_BYTES} bytes`)
    .max(VOLUME_BYTES_MAX, `a volume has at most ${VOLUME_BYTES_MAX} bytes`)
    .multipleOf(SECTOR_BYTES, `a size is a multiple of ${SECTOR_BYTES}`),
  grainBytes: z.int()
    .min(GRAIN_BYTES_MIN, `a grain has at least ${GRAIN_BYTES_MIN} bytes`)
    .max(GRAIN_BYTES_MAX, `a grain has at most ${GRAIN_BYTES_MAX} bytes`)
    .refine(isPowerOfTwo, 'a grain is a power of two'),
  backing: z.string()
    .refine(backing => backing.startsWith('/') || isUri(backing), 'a backing is an absolute path or a URI')
    .regex(PLAIN_TEXT, 'a backing may not hold control characters')
    .nullable(),
  createdAt: z.iso.datetime(),
  description: z.string()
    .max(DESCRIPTION_LENGTH_MAX, `a description has at most ${DESCRIPTION_LENGTH_MAX} characters`)
    .regex(PLAIN_TEXT, 'a description may not hold control characters'),
  importing: z.literal(true).optional(),
})
const SHAPE = ENTRY.pick({ name: true, sizeBytes: true, grainBytes: true })
const REMOVAL = z.strictObject({ uuid: z.string().regex(UUID) })

export interface CatalogEntry {
  readonly uuid: string
  readonly name: string
  readonly sizeBytes: number
  readonly grainBytes: number
  /** Absolute path of somebody's own file or block device, or URI of an export, that serves as live; null: the store's own. */
  readonly backing: string | null
  /** ISO 8601, UTC. */
  readonly createdAt: string
  readonly description: string
  /** An image is still being copied into it: after a crash it is half a volume, and removed. */
  readonly importing?: true | undefined
}

/** The entry if it may stand in a catalog. Errors: bad-argument, naming the first thing that is wrong. */
export function judgeEntry(entry: unknown): CatalogEntry {
  const judged = ENTRY.safeParse(entry)
  if (judged.success) return Object.freeze(judged.data)
  const { path, message } = judged.error.issues[0]
  throw new NbdeltaError('bad-argument', path.length > 0 ? `${path.join('.')}: ${message}` : message)
}

/** Throws what a catalog would for a volume of this name, size and grain. Errors: bad-argument. */
export function judgeShape(shape: z.infer<typeof SHAPE>): void {
  const judged = SHAPE.safeParse(shape)
  if (!judged.success) throw new NbdeltaError('bad-argument', judged.error.issues[0].message)
}

/** The name if a volume may have it. Errors: bad-argument. */
export function judgeName(name: string): string {
  const judged = NAME.safeParse(name)
  if (judged.success) return name
  const [{ message }] = judged.error.issues
  throw new NbdeltaError('bad-argument', `'${name.slice(0, NAME_LENGTH_MAX)}' cannot be a volume's name: ${message}`)
}

export class Catalog {
  readonly #log: RecordLog
  /** By uuid. */
  readonly #entries: Map<string, CatalogEntry>
  /** What a snapshot of all entries takes. */
  #snapshotBytes = 0
  /** Of changes. */
  readonly #turns = new Turns()

  constructor(log: RecordLog, entries: Map<string, CatalogEntry>) {
    this.#log = log
    this.#entries = entries
    for (const entry of entries.values()) this.#snapshotBytes += sizeOf(entry)
  }

  /** All volumes, by name. */
  list(): CatalogEntry[] {
    return [...this.#entries.values()].sort((a, b) => a.name < b.name ? -1 : 1)
  }

  get(name: string): CatalogEntry | undefined {
    for (const entry of this.#entries.values()) if (entry.name === name) return entry
    return undefined
  }

  has(uuid: string): boolean { return this.#entries.has(uuid) }

  /** A write has failed, so that only the next open will tell which of the last changes are on disk. */
  get inDoubt(): boolean { return this.#log.failure !== undefined }

  /** Throws what `put` would throw for this entry now. */
  judge(entry: CatalogEntry): void { this.#plan(entry) }

  /**
   * Adds the entry, or replaces the one with its uuid; durable when done. The same entry again is a no-op.
   * Errors: bad-argument, exists (name or backing of another volume), no-space (VOLUMES_MAX), too-large, io, flush-failed.
   */
  async put(entry: CatalogEntry): Promise<void> {
    await this.#change(() => this.#plan(entry))
  }

  /** Takes the volume of that name out; durable when done. No such volume: done already. */
  async remove(name: string): Promise<void> {
    await this.#change(() => {
      const entry = this.get(name)
      if (!entry) return undefined
      const record = { type: TYPE_REMOVE, payload: Buffer.from(JSON.stringify({ uuid: entry.uuid })) }
      return { record, grownBytes: -sizeOf(entry), apply: entries => { entries.delete(entry.uuid) } }
    })
  }

  /** Waits for a change that runs. The device stays open. Idempotent. */
  async close(): Promise<void> {
    await this.#turns.idle
    await this.#log.close()
  }

  #plan(entry: CatalogEntry): Change | undefined {
    const judged = judgeEntry(entry)
    const record = recordOf(judged)
    if (sizeOf(judged) > ENTRY_MAX_BYTES) {
      throw new NbdeltaError('too-large', `'${judged.name}': description and backing path together are too long for the catalog`)
    }
    const before = this.#entries.get(judged.uuid)
    if (before && JSON.stringify(before) === JSON.stringify(judged)) return undefined
    refuseConflicts(this.#entries.values(), judged)
    if (!before && this.#entries.size >= VOLUMES_MAX) {
      throw new NbdeltaError('no-space', `the store has ${VOLUMES_MAX} volumes, which is its limit`)
    }
    const grownBytes = sizeOf(judged) - (before ? sizeOf(before) : 0)
    if (this.#snapshotBytes + grownBytes > this.#log.limitBytes) {
      throw new NbdeltaError('no-space', 'the catalog is full', { hint: 'shorten or remove descriptions of volumes' })
    }
    return { record, grownBytes, apply: entries => { entries.set(judged.uuid, judged) } }
  }

  #change(plan: () => Change | undefined): Promise<void> {
    return this.#turns.take(async () => {
      const planned = plan()
      if (planned) await this.#commit(planned)
    })
  }

  /** One record, or when the log is full one snapshot that has the change in it: either way one thing becomes durable. */
  async #commit({ record, grownBytes, apply }: Change): Promise<void> {
    if (recordSizeBytes(record.payload.length) <= this.#log.freeBytes) {
      await this.#log.append(record.type, record.payload)
      await this.#log.sync()
    } else {
      const next = new Map(this.#entries)
      apply(next)
      await this.#log.rewrite([...next.values()].map(recordOf))
    }
    apply(this.#entries)
    this.#snapshotBytes += grownBytes
  }
}

interface Change {
  readonly record: LogRecord
  /** How much longer a snapshot becomes by it. */
  readonly grownBytes: number
  readonly apply: (entries: Map<string, CatalogEntry>) => void
}

function recordOf(entry: CatalogEntry): LogRecord {
  return { type: typeOf(entry), payload: Buffer.from(JSON.stringify(entry)) }
}

function typeOf({ backing }: CatalogEntry): number { return backing !== null && isUri(backing) ? TYPE_PUT_REMOTE : TYPE_PUT }

/** Bytes it takes in the log. */
function sizeOf(entry: CatalogEntry): number {
  return recordSizeBytes(Buffer.byteLength(JSON.stringify(entry)))
}

function refuseConflicts(entries: Iterable<CatalogEntry>, wanted: CatalogEntry): void {
  for (const entry of entries) {
    if (entry.uuid === wanted.uuid) continue
    if (entry.name === wanted.name) throw new NbdeltaError('exists', `there is a volume '${wanted.name}' already`)
    if (wanted.backing !== null && entry.backing === wanted.backing) {
      throw new NbdeltaError('exists', `${wanted.backing} is the backing of volume '${entry.name}' already`)
    }
  }
}

interface OpenedCatalog {
  readonly catalog: Catalog
  /** What was repaired, in words. */
  readonly recovery: readonly string[]
}

/** Opens the catalog in `device`; `owner` is the store's uuid as 16 bytes. Errors: damaged, newer-format, io. */
export async function openCatalog(device: BlockDevice, owner: Buffer, name: string): Promise<OpenedCatalog> {
  const { log, records, recovery } = await openRecordLog(device, { magic: CATALOG_MAGIC, owner, name })
  const entries = new Map<string, CatalogEntry>()
  for (const [index, record] of records.entries()) replay(entries, record, `${name}: record ${index + 1}`)
  return { catalog: new Catalog(log, entries), recovery }
}

function replay(entries: Map<string, CatalogEntry>, { type, payload }: LogRecord, where: string): void {
  if (type !== TYPE_PUT && type !== TYPE_REMOVE && type !== TYPE_PUT_REMOTE) {
    throw new NbdeltaError('newer-format', `${where} is of type ${type}, which this version does not know`)
  }
  try {
    const value: unknown = JSON.parse(payload.toString('utf8'))
    if (type === TYPE_REMOVE) {
      entries.delete(REMOVAL.parse(value).uuid)
      return
    }
    const entry = judgeEntry(value)
    if (type !== typeOf(entry)) throw new NbdeltaError('damaged', 'a record of the other type holds such a backing')
    refuseConflicts(entries.values(), entry)
    entries.set(entry.uuid, entry)
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error)
    throw new NbdeltaError('damaged', `${where} cannot be understood: ${why}`, { cause: error })
  }
}
