// A record log under test: numbered records, a model that counts them, and scripts of random operations.
//
// Record i of a run has a payload that only (run, i) has; a snapshot says "the first n are counted", so that what a log
// holds is one number, and its content can be judged record by record. A run is the life between two crashes.
import type { BlockDevice, Pending } from '../../src/device/block-device.js'
import { openRecordLog } from '../../src/store/open-record-log.js'
import type { LogIdentity, LogRecord, RecordLog } from '../../src/store/record-log.js'
import { recordSizeBytes } from '../../native-free/index.js'
import type { Random } from '../../src/device/random.js'

export const IDENTITY: LogIdentity = { magic: 0x4e424454, owner: Buffer.from('0123456789abcdef'), name: 'test.log' }
export const TYPE_ITEM = 1
export const TYPE_BASE = 2
export const LOG_BYTES = 32 * 1024

/** What stands at some moment of the history. */
export interface Standing {
  /** For each item ever handed in and not known to be lost: the run that wrote it. */
  readonly runs: readonly number[]
  /** So many were acknowledged (survive a kill), were synced (survive a power cut), cannot be lost in silence even to rot. */
  readonly acknowledged: number
  readonly synced: number
  readonly proven: number
}
export const NOTHING: Standing = { runs: [], acknowledged: 0, synced: 0, proven: 0 }

/** Payload of item `id`, written in `run`. Most have one size, so that leftovers of one run fit into the next. */
export function itemPayload(run: number, id: number): Buffer {
  const payload = Buffer.alloc(id % 5 === 4 ? 8 + (id * 7) % 11 * 90 : 8, id * 7 + run)
  payload.writeUInt32BE(run, 0)
  payload.writeUInt32BE(id, 4)
  return payload
}

export function basePayload(runs: readonly number[]): Buffer {
  const payload = Buffer.alloc(4 * runs.length)
  runs.forEach((run, i) => payload.writeUInt32BE(run, 4 * i))
  return payload
}

/** What the records say: for each counted item the run that wrote it. Throws on anything that was never written so. */
export function replay(records: readonly LogRecord[]): number[] {
  const runs: number[] = []
  for (const { type, payload } of records) {
    if (type === TYPE_BASE) {
      for (let at = 0; at < payload.length; at += 4) runs.push(payload.readUInt32BE(at))
      continue
    }
    const run = payload.readUInt32BE(0)
    const id = payload.readUInt32BE(4)
    if (type !== TYPE_ITEM || id !== runs.length || !payload.equals(itemPayload(run, id))) {
      throw new Error(`invented: item ${id} of run ${run} where ${runs.length} was due`)
    }
    runs.push(run)
  }
  return runs
}

/** A device under a process that can be killed: afterwards nothing reaches it and nothing is ever answered. */
export interface Mortal {
  readonly device: BlockDevice
  kill(): void
}

/** `late`: writes and flushes are answered only in a later turn of the event loop, so that appends pile up behind them. */
export function mortal(device: BlockDevice, late: boolean): Mortal {
  let dead = false
  const never = new Promise<void>(() => {})
  const answer = (work: () => Pending): Pending => {
    if (dead) return never
    const pending = work()
    if (!late) return pending
    return new Promise((resolve, reject) => {
      setImmediate(() => { if (!dead) Promise.resolve(pending).then(resolve, reject) })
    })
  }
  return {
    kill: () => { dead = true },
    device: {
      sizeBytes: device.sizeBytes,
      blockSizes: device.blockSizes,
      capabilities: device.capabilities,
      read: (offset, length, into, at) => device.read(offset, length, into, at),
      write: (offset, length, from, at) => answer(() => device.write(offset, length, from, at)),
      zero: (offset, length, mode) => answer(() => device.zero(offset, length, mode)),
      trim: (offset, length) => answer(() => device.trim(offset, length)),
      flush: () => answer(() => device.flush()),
      zeroRun: (offset, length) => device.zeroRun(offset, length),
      extents: (offset, length, maxExtents) => device.extents(offset, length, maxExtents),
      close: () => device.close(),
    },
  }
}

/** One life of a process that uses the log: opens it, works at random, is killed. */
export class Life {
  readonly #random: Random
  readonly #run: number
  readonly #note: (standing: Standing) => void
  readonly #mortal: Mortal
  readonly #open = new Set<Promise<void>>()
  #runs: number[] = []
  /** By item: so many were durable when it was appended, and its record says so. */
  readonly #claims: number[] = []
  #acknowledged = 0
  #synced = 0
  #proven: number

  /** `note` is told whenever something changes; `proven` = what was proven before. */
  constructor(device: BlockDevice, random: Random, run: number, proven: number, note: (standing: Standing) => void) {
    this.#random = random
    this.#run = run
    this.#note = note
    this.#proven = proven
    this.#mortal = mortal(device, random(2) === 0)
  }

  async live(operations: number): Promise<Standing> {
    const { log, records } = await openRecordLog(this.#mortal.device, IDENTITY)
    this.#runs = replay(records)
    this.#acknowledged = this.#synced = this.#runs.length
    this.#tell()
    for (let i = 0; i < operations; i++) {
      const what = this.#random(10)
      if (what < 6) this.#append(log)
      else if (what < 9) await this.#maybe(this.#sync(log))
      else await this.#rewrite(log)
      if (this.#random(4) === 0) await Promise.all(this.#open)
    }
    if (this.#random(2)) await Promise.all(this.#open)
    this.#mortal.kill()
    return this.#standing()
  }

  #append(log: RecordLog): void {
    const payload = itemPayload(this.#run, this.#runs.length)
    if (recordSizeBytes(payload.length) > log.freeBytes) return
    this.#claims[this.#runs.length] = this.#synced
    this.#runs.push(this.#run)
    this.#tell()
    const count = this.#runs.length
    const done = (): void => {
      this.#acknowledged = Math.max(this.#acknowledged, count)
      this.#tell()
    }
    const pending = log.append(TYPE_ITEM, payload)
    payload.fill(0xee)
    if (pending) this.#later(pending.then(done))
    else done()
  }

  #sync(log: RecordLog): Promise<void> {
    const target = this.#runs.length
    return log.sync().then(() => {
      this.#proven = Math.max(this.#proven, this.#claims[target - 1] ?? 0)
      this.#synced = Math.max(this.#synced, target)
      this.#acknowledged = Math.max(this.#acknowledged, target)
      this.#tell()
    })
  }

  /** A snapshot of one record for the older items and one for each of the last few. */
  async #rewrite(log: RecordLog): Promise<void> {
    await Promise.all(this.#open)
    const target = this.#runs.length
    const counted = Math.max(0, target - this.#random(8))
    const records = [{ type: TYPE_BASE, payload: basePayload(this.#runs.slice(0, counted)) }]
    for (let id = counted; id < target; id++) records.push({ type: TYPE_ITEM, payload: itemPayload(this.#runs[id], id) })
    await this.#maybe(log.rewrite(records).then(() => {
      this.#proven = this.#synced = target
      this.#acknowledged = Math.max(this.#acknowledged, target)
      this.#tell()
    }))
  }

  async #maybe(work: Promise<void>): Promise<void> {
    if (this.#random(2)) await work
    else this.#later(work)
  }

  #later(work: Promise<void>): void {
    this.#open.add(work)
    void work.finally(() => this.#open.delete(work))
  }

  #standing(): Standing {
    return { runs: this.#runs.slice(), acknowledged: this.#acknowledged, synced: this.#synced, proven: this.#proven }
  }

  #tell(): void { this.#note(this.#standing()) }
}
