/**
 * The volume's journal (store/journal-records.ts has the records): when an append changes the map, and when there is room.
 *
 * Invariants
 * - A record's change of the map happens in the same tick in which its append completes, and a snapshot is built only
 *   while no append is under way. So a snapshot never misses a record that it replaces, and never repeats half of one.
 * - A record is visible to a killed process's successor when append returns (D1), durable after `sync` (D2).
 * - Room for a snapshot is the log's own matter (two halves); here an append that does not fit waits for a checkpoint.
 */
import { recordSizeBytes } from '../../native-free/record.js'
import type { Pending } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import type { RecordLog } from '../store/record-log.js'
import { encodeRanges, type JournalKind, rangesSizeBytes } from '../store/journal-records.js'
import type { LogRecord } from '../store/record-log-layout.js'
import type { Run } from './volume-map.js'

/** Others may have used the room that a checkpoint made; then one more is tried. */
const ROOM_ATTEMPTS = 3

export class VolumeJournal {
  readonly #log: RecordLog
  readonly #makeRoom: () => Promise<void>
  readonly #onAppend: () => void
  /** Appends that have not completed. */
  #underWay = 0
  #quiet: (() => void)[] = []
  #appendedBytes = 0

  /** @param makeRoom a checkpoint; @param onAppend called after each append: something is to be made durable. */
  constructor(log: RecordLog, makeRoom: () => Promise<void>, onAppend: () => void) {
    this.#log = log
    this.#makeRoom = makeRoom
    this.#onAppend = onAppend
  }

  /** A checkpoint is due: half is used, and not by the snapshot alone. */
  get wantsCheckpoint(): boolean {
    return this.#log.freeBytes < this.#log.limitBytes / 2 && this.#appendedBytes > this.#log.limitBytes / 8
  }

  /**
   * Appends one record of at most RANGES_PER_RECORD_MAX ranges; `apply` changes the map once the record is there.
   * `seq` names the point, in records about one.
   * Rejects with `no-space` where even a checkpoint does not make room; then nothing has changed.
   */
  append(kind: JournalKind, ranges: readonly Run[], apply: () => void, seq?: number): Pending {
    const [{ type, payload }, more] = encodeRanges(kind, ranges, seq)
    if (more) throw new Error(`${ranges.length} ranges are more than one record holds`)
    const sizeBytes = recordSizeBytes(payload.length)
    if (this.#log.freeBytes < sizeBytes) return this.#appendLater(type, payload, sizeBytes, apply)
    return this.#appendNow(type, payload, sizeBytes, apply)
  }

  /** Why it takes nothing more until it is opened again: what it took last may be there, or not. */
  get failure(): NbdeltaError | undefined { return this.#log.failure }

  /** Nothing was appended since the last sync. */
  get isDurable(): boolean { return this.#log.isDurable }

  /** An append of so many ranges goes into the log at once, in the order of the calls. */
  hasRoomFor(ranges: number): boolean { return this.#log.freeBytes >= rangesSizeBytes(ranges, 'hot') }

  /** Everything appended before is durable. */
  sync(): Promise<void> { return this.#log.sync() }

  /** Waits for what runs; makes nothing durable. */
  close(): Promise<void> { return this.#log.close() }

  /** Replaces the journal by a snapshot, which `build` makes in a moment when no append is under way. */
  async rewrite(build: () => LogRecord[]): Promise<void> {
    while (this.#underWay > 0) await new Promise<void>(resolve => { this.#quiet.push(resolve) })
    this.#appendedBytes = 0
    await this.#log.rewrite(build())
  }

  #appendNow(type: number, payload: Buffer, sizeBytes: number, apply: () => void): Pending {
    const pending = this.#log.append(type, payload)
    this.#appendedBytes += sizeBytes
    if (pending === undefined) {
      apply()
      this.#onAppend()
      return undefined
    }
    this.#underWay++
    return pending.then(() => {
      apply()
      this.#onAppend()
    }).finally(() => {
      if (--this.#underWay === 0) for (const wake of this.#quiet.splice(0)) wake()
    })
  }

  async #appendLater(type: number, payload: Buffer, sizeBytes: number, apply: () => void): Promise<void> {
    for (let attempt = 0; attempt < ROOM_ATTEMPTS && this.#log.freeBytes < sizeBytes; attempt++) await this.#makeRoom()
    if (this.#log.freeBytes < sizeBytes) {
      throw new NbdeltaError('no-space', `the volume's journal has no room for ${sizeBytes} bytes, not even after a checkpoint`)
    }
    await this.#appendNow(type, payload, sizeBytes, apply)
  }
}

/** Neighbours as one range: numbers in ascending order -> runs. */
export function runsOf(numbers: Iterable<number>): Run[] {
  const runs: { start: number, end: number }[] = []
  for (const number of numbers) {
    const last = runs.at(-1)
    if (last && last.end === number) last.end++
    else runs.push({ start: number, end: number + 1 })
  }
  return runs
}
