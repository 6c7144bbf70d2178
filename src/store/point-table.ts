/**
 * PointTable: all points of all volumes of a store, what volumes inherit, their schedules, named groups of volumes, and
 * mirrors. In memory and, as JSON inside records, in points.log (record-log.ts).
 *
 * Invariants
 * - `put` is one durable record: done = all of it survives a power cut, failed = nothing changed in memory (D6). Memory follows
 *   the disk, never the other way round. Changes run one after the other.
 * - In each volume: seqs ascend in the order in which points were added and are never used twice (a mark of the highest one
 *   survives the points); names are unique among the ready points. Uuids of points are unique in the store. What makes a point
 *   what it is (uuid, kind, size, instant, group) never changes.
 * - All entries together fit into one snapshot (every change is judged by that), so a rewrite always makes room for one more.
 * - Before the first record is written the store is raised to the version that knows of points (`beforeFirst`): an older nbdelta
 *   would overwrite what snapshots still need. The other way round a crash would leave points in a store that it opens.
 *
 * Arithmetic: a snapshot in POINTS_BYTES may take 8,384,512 bytes: POINTS_MAX entries of 419 bytes. One with a name of 30
 * letters, a label, a pin and a group takes about 400; `put` refuses what does not fit.
 */
import { recordSizeBytes } from '../../native-free/index.js'
import type { BlockDevice, Pending } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import { Turns } from '../device/turns.js'
import { openRecordLog } from './open-record-log.js'
import {
  judgeChange, type GroupEntry, type MirrorEntry, type PointEntry, type TableChange, type VolumeState,
} from './point-entry.js'
import { PointIndex } from './point-index.js'
import type { LogRecord, RecordLog } from './record-log.js'

/** 'NBDP' */
export const POINTS_MAGIC = 0x4e424450
/** Two halves of 16 MiB, sparse. */
export const POINTS_BYTES = 32 * 2 ** 20
const TYPE_CHANGE = 1
/** A change that says something of space: whoever does not know that refuses the table as newer. */
const TYPE_SPACE_CHANGE = 2
/** A change that says something of mirrors, likewise; it may say something of space as well. */
const TYPE_MIRROR_CHANGE = 3
/** Of one record of a snapshot, if one entry alone is not longer. */
const PACK_BYTES = 64 * 1024
/** What a record takes beside its entries: header, padding, `{"removePoints":[` and the like. */
const PACK_EXTRA_BYTES = 128
/** points, marks, volumes, groups, mirrors */
const PACK_KINDS = 5

/** What is to change. A state's `inherit`, `schedule` or `space` that is missing stays as it is. */
export interface PointChanges {
  readonly points?: readonly PointEntry[]
  /** Of a point that is not there: only its number is taken, for good. */
  readonly removePoints?: readonly { readonly volume: string, readonly seq: number }[]
  readonly volumes?: readonly (Pick<VolumeState, 'volume'> & Partial<VolumeState>)[]
  readonly groups?: readonly GroupEntry[]
  readonly removeGroups?: readonly string[]
  readonly mirrors?: readonly MirrorEntry[]
  /** By uuid. */
  readonly removeMirrors?: readonly string[]
}

interface PointTableOptions {
  /** Done before the first record since the table was opened. */
  readonly beforeFirst?: () => Pending | Promise<void>
}

export class PointTable {
  readonly #log: RecordLog
  readonly #beforeFirst: () => Pending | Promise<void>
  #index: PointIndex
  #begun = false
  /** Numbers that were given out and may not be on disk yet. */
  readonly #given = new Map<string, number>()
  /** Of changes. */
  readonly #turns = new Turns()

  constructor(log: RecordLog, index: PointIndex, { beforeFirst = () => undefined }: PointTableOptions) {
    this.#log = log
    this.#index = index
    this.#beforeFirst = beforeFirst
  }

  /** Points of a volume by seq, oldest first, those being deleted among them. */
  list(volume: string): PointEntry[] { return this.#index.list(volume) }

  /** The ready point of that name. */
  get(volume: string, name: string): PointEntry | undefined { return this.#index.byName(volume, name) }

  bySeq(volume: string, seq: number): PointEntry | undefined { return this.#index.bySeq(volume, seq) }

  byUuid(uuid: string): PointEntry | undefined { return this.#index.byUuid(uuid) }

  /** Of all volumes together. */
  get pointCount(): number { return this.#index.pointCount }

  /** Uuids of all volumes that the table says anything about. */
  volumes(): string[] { return this.#index.volumes() }

  state(volume: string): VolumeState { return this.#index.state(volume) }

  /** States that say something: whoever inherits, or has a schedule. */
  states(): VolumeState[] { return this.#index.states() }

  group(name: string): GroupEntry | undefined { return this.#index.group(name) }

  /** By name. */
  groups(): GroupEntry[] { return this.#index.groups() }

  /** By name. */
  mirrors(): MirrorEntry[] { return this.#index.mirrors() }

  /**
   * A number for the next point of a volume, given out once. @param above the highest number found on disk: a crash may
   * have left folders of points that never came into the table.
   */
  nextSeq(volume: string, above = 0): number {
    const seq = Math.max(this.#index.mark(volume), this.#given.get(volume) ?? 0, above) + 1
    this.#given.set(volume, seq)
    return seq
  }

  /** A write has failed, so that only the next open will tell which of the last changes are on disk. */
  get inDoubt(): boolean { return this.#log.failure !== undefined }

  /** Throws what `put` would throw for these changes now. */
  judge(changes: PointChanges): void { this.#plan(changes) }

  /**
   * Makes all changes, or none; durable when done. Removals come first. What is there already in the same words is no change.
   * Errors: bad-argument, exists (a name, a uuid), no-space (POINTS_MAX, POINTS_PER_VOLUME_MAX, GROUPS_MAX, MIRRORS_MAX, the
   * log), io, flush-failed, and those of `beforeFirst`.
   */
  put(changes: PointChanges): Promise<void> { return this.#change(() => this.#plan(changes)) }

  /** Forgets all about a volume: its points, what it inherits, its schedule, its mirrors, its place in groups. Durable. */
  removeVolume(uuid: string): Promise<void> {
    return this.#change(() => this.#index.knows(uuid) ? this.#planned({ removeVolumes: [uuid] }) : undefined)
  }

  /** Waits for a change that runs. The device stays open. Idempotent. */
  async close(): Promise<void> {
    await this.#turns.idle
    await this.#log.close()
  }

  #plan(changes: PointChanges): Planned | undefined {
    const { points, removePoints, volumes, groups, removeGroups, mirrors, removeMirrors } = changes
    const states = volumes?.map(({ volume, inherit, schedule, space }) => {
      const now = this.#index.state(volume)
      return { ...now, ...inherit !== undefined && { inherit }, ...schedule !== undefined && { schedule }, ...space && { space } }
    })
    // An entry of a point is a fine way to name it.
    const removed = removePoints?.map(({ volume, seq }) => ({ volume, seq }))
    const judged = judgeChange({ points, removePoints: removed, volumes: states, groups, removeGroups, mirrors, removeMirrors })
    const needed = this.#index.needed(judged)
    return Object.keys(needed).length > 0 ? this.#planned(needed) : undefined
  }

  #planned(change: TableChange): Planned {
    const next = this.#index.with(change)
    const bytes = snapshotBytesAtMost(next)
    if (bytes > this.#log.limitBytes && bytes > snapshotBytesAtMost(this.#index)) {
      throw new NbdeltaError('no-space', 'the table of points is full', { hint: 'delete points, or shorten their labels' })
    }
    return { record: recordOf(change), next }
  }

  #change(plan: () => Planned | undefined): Promise<void> {
    return this.#turns.take(async () => {
      const planned = plan()
      if (planned) await this.#commit(planned)
    })
  }

  /** One record, or when the log is full one snapshot that has the change in it: either way one thing becomes durable. */
  async #commit({ record, next }: Planned): Promise<void> {
    if (!this.#begun) await this.#beforeFirst()
    this.#begun = true
    if (recordSizeBytes(record.payload.length) <= this.#log.freeBytes) {
      // A full disk refuses this, and not the record: after that nobody would know what is on the disk.
      await this.#log.layAhead(recordSizeBytes(record.payload.length))
      await this.#log.append(record.type, record.payload)
      await this.#log.sync()
    } else {
      await this.#log.rewrite(packed(next))
    }
    this.#index = next.settle()
  }
}

interface Planned {
  readonly record: LogRecord
  readonly next: PointIndex
}

function recordOf(change: TableChange): LogRecord {
  const ofMirrors = change.mirrors ?? change.removeMirrors
  const type = ofMirrors ? TYPE_MIRROR_CHANGE : change.volumes?.some(({ space }) => space) ? TYPE_SPACE_CHANGE : TYPE_CHANGE
  return { type, payload: Buffer.from(JSON.stringify(change)) }
}

/** A snapshot never takes more: two neighbouring records of a kind together are longer than PACK_BYTES, or they were one. */
function snapshotBytesAtMost(index: PointIndex): number {
  return index.jsonBytes + (PACK_KINDS + Math.ceil(2 * index.jsonBytes / PACK_BYTES)) * PACK_EXTRA_BYTES
}

/** The whole table, in few records. */
function* packed(index: PointIndex): Generator<LogRecord> {
  for (const [kind, entries] of Object.entries(index.content())) {
    const plain = kind === 'mirrors' ? TYPE_MIRROR_CHANGE : TYPE_CHANGE
    let pack: string[] = []
    let bytes = 0
    let type = plain
    const record = (): LogRecord => ({ type, payload: Buffer.from(`{"${kind}":[${pack.join()}]}`) })
    for (const entry of entries) {
      const text = JSON.stringify(entry)
      const length = Buffer.byteLength(text) + 1
      if (pack.length > 0 && bytes + length > PACK_BYTES) {
        yield record()
        pack = []
        bytes = 0
        type = plain
      }
      pack.push(text)
      if (kind === 'volumes' && 'space' in entry) type = TYPE_SPACE_CHANGE
      bytes += length
    }
    if (pack.length > 0) yield record()
  }
}

interface OpenedPointTable {
  readonly table: PointTable
  /** What was repaired, in words. */
  readonly recovery: readonly string[]
}

/** Opens the table in `device`; `owner` is the store's uuid as 16 bytes. Errors: damaged, newer-format, io. */
export async function openPointTable(
  device: BlockDevice, owner: Buffer, name: string, options: PointTableOptions = {},
): Promise<OpenedPointTable> {
  const { log, records, recovery } = await openRecordLog(device, { magic: POINTS_MAGIC, owner, name })
  const index = new PointIndex()
  for (const [i, record] of records.entries()) replay(index, record, `${name}: record ${i + 1}`)
  return { table: new PointTable(log, index.settle(), options), recovery }
}

function replay(index: PointIndex, { type, payload }: LogRecord, where: string): void {
  if (type !== TYPE_CHANGE && type !== TYPE_SPACE_CHANGE && type !== TYPE_MIRROR_CHANGE) {
    throw new NbdeltaError('newer-format', `${where} is of type ${type}, which this version does not know`)
  }
  try {
    index.apply(judgeChange(JSON.parse(payload.toString('utf8'))))
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error)
    throw new NbdeltaError('damaged', `${where} cannot be understood: ${why}`, { cause: error })
  }
}
