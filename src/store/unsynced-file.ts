/**
 * UnsyncedFile: what of a volume's live a failed flush may have left off the medium. It is there from that flush on, until all of
 * it was written again (src/volume/unsynced-live.ts); most volumes never have one.
 *
 *   unsynced       one record: the ranges
 *   unsynced.new   one in the making
 *
 * Of a file that does not check all of live counts. Limit: RANGES_MAX ranges; neighbours are taken together until they fit.
 */
import { readFile, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { z } from 'zod'
import { decodeRecord, encodeRecord, type RecordPlace, recordSizeBytes } from '../../native-free/index.js'
import { asNbdeltaError, NbdeltaError } from '../device/errors.js'
import { syncFolder } from '../device/sync-folder.js'
import { uuidBytes } from './store-creation.js'
import { replaceFile } from './whole-file.js'

/** 'NBDU' */
const UNSYNCED_MAGIC = 0x4e424455
const UNSYNCED_VERSION = 1
const TYPE_RANGES = 1
const RANGES_MAX = 1024
const offset = z.int().min(0)
const PAYLOAD = z.strictObject({ ranges: z.array(z.tuple([offset, offset])).max(RANGES_MAX) })

/** Bytes [start, end). */
export interface ByteSpan { readonly start: number, readonly end: number }

const EVERYTHING: readonly ByteSpan[] = Object.freeze([{ start: 0, end: Number.MAX_SAFE_INTEGER }])

export class UnsyncedFile {
  readonly #path: string
  readonly #volume: string

  /** @param path where it is, if it is there @param volume uuid */
  constructor(path: string, volume: string) {
    this.#path = path
    this.#volume = volume
  }

  /** Ascending; none: nothing is in doubt. Errors: newer-format, io. */
  async read(): Promise<readonly ByteSpan[]> {
    let bytes: Buffer
    try {
      bytes = await readFile(this.#path)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
      throw asNbdeltaError(error, `read ${this.#path}`)
    }
    const found = decodeRecord(this.#place, bytes, 0)
    if (!found.ok && found.reason === 'version') {
      throw new NbdeltaError('newer-format', `${this.#path}: written by a newer version of nbdelta`)
    }
    if (!found.ok || found.type !== TYPE_RANGES) return EVERYTHING
    const payload = PAYLOAD.safeParse(parsed(found.payload))
    return payload.success ? payload.data.ranges.map(([start, end]) => ({ start, end })) : EVERYTHING
  }

  /** `spans` ascending, none: the file goes. Durable when done. Errors: no-space, io. */
  async write(spans: readonly ByteSpan[]): Promise<void> {
    try {
      if (spans.length > 0) return await replaceFile(this.#path, `${this.#path}.new`, this.#encode(spans))
      await rm(this.#path, { force: true })
      await syncFolder(dirname(this.#path))
    } catch (error) {
      throw asNbdeltaError(error, `write ${this.#path}`)
    }
  }

  get #place(): RecordPlace {
    return { magic: UNSYNCED_MAGIC, version: UNSYNCED_VERSION, owner: uuidBytes(this.#volume), address: 0 }
  }

  #encode(spans: readonly ByteSpan[]): Buffer {
    const payload = Buffer.from(JSON.stringify({ ranges: fewer(spans).map(({ start, end }) => [start, end]) }))
    const record = Buffer.alloc(recordSizeBytes(payload.length))
    encodeRecord(this.#place, { type: TYPE_RANGES, epoch: 0, sequence: 0, durableSequence: 0 }, payload, record, 0)
    return record
  }
}

function parsed(payload: Buffer): unknown {
  try { return JSON.parse(payload.toString('utf8')) } catch { return undefined }
}

/** RANGES_MAX at most, which cover all of them: the smallest gaps go. */
function fewer(spans: readonly ByteSpan[]): readonly ByteSpan[] {
  const gaps = spans.slice(1).map(({ start }, i) => start - spans[i].end).sort((a, b) => b - a)
  const smallest = gaps[RANGES_MAX - 2] ?? 0
  const kept: { start: number, end: number }[] = []
  let room = RANGES_MAX - 1
  for (const { start, end } of spans) {
    const last = kept.at(-1)
    const isFar = last !== undefined && start - last.end > 0 && start - last.end >= smallest && room-- > 0
    if (last && !isFar) last.end = Math.max(last.end, end)
    else kept.push({ start, end })
  }
  return kept
}
