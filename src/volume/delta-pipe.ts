/**
 * Delta streams to and from the world: files, '-', Node streams, compressed or not.
 *
 * Compression lies outside: the checks of the stream hold over the plain records. What is read is told by its first bytes.
 *
 * A file is written under a name of its own, flushed, and gets its name last, durably. A stream that somebody handed in, and
 * standard output, are not ended: they belong to him. After a failure there is never an end record in what was written, and
 * what was handed in to be read, or written packed, is destroyed.
 *
 * Limits: reading holds one chunk (up to CHUNK_BYTES), writing one batch (up to BATCH_BYTES and one record).
 */
import { createHash, randomUUID } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { type FileHandle, link, open, rename, stat, unlink } from 'node:fs/promises'
import { dirname } from 'node:path'
import { addAbortSignal, Readable, type Transform, Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import zlib from 'node:zlib'
import {
  DELTA_EMPTY, DELTA_VERSION, type DeltaDigest,
} from '../../native-free/delta-record.js'
import { DeltaDecoder, type DeltaItem, type DeltaReason, type DeltaRefusal } from '../../native-free/delta-stream.js'
import { asNbdeltaError, NbdeltaError } from '../device/errors.js'
import { explain } from '../device/open-file.js'
import { syncFolder } from '../device/sync-folder.js'
import { writeStream } from './image-stream.js'
import { assertActive, transferCancelled } from './transfer.js'

const CHUNK_BYTES = 2 ** 20
const BATCH_BYTES = 2 ** 20
/** What the decompressors hand out at a time. */
const UNPACKED_BYTES = 256 * 1024
const MAGIC_BYTES = 4

/** A path, '-' for standard input, or a stream of bytes. */
export type DeltaSource = string | Readable
/** A path, '-' for standard output, or a stream. */
export type DeltaSink = string | Writable
export type DeltaCompression = 'none' | 'gzip' | 'zstd'

export interface DeltaSinkOptions {
  /** Default: none. `zstd` needs a Node that has it. */
  readonly compress?: DeltaCompression
  /** Replaces a file of that name. */
  readonly overwrite?: boolean
  readonly signal?: AbortSignal | undefined
}

/** The digest of all streams: SHA-256. */
export const sha256: DeltaDigest = (previous, ...pieces) => {
  const hash = createHash('sha256').update(previous)
  for (const piece of pieces) hash.update(piece)
  return hash.digest()
}

const ZSTD = zlib as unknown as {
  createZstdCompress?: () => Transform, createZstdDecompress?: (options: { chunkSize: number }) => Transform
}

function packer(compress: DeltaCompression): Transform | undefined {
  if (compress === 'none') return undefined
  return compress === 'gzip' ? zlib.createGzip() : (ZSTD.createZstdCompress ?? refuseZstd)()
}

function unpacker(start: Buffer): Transform | undefined {
  if (start.length >= 2 && start.readUInt16BE(0) === 0x1f8b) return zlib.createGunzip({ chunkSize: UNPACKED_BYTES })
  if (start.length < MAGIC_BYTES || start.readUInt32BE(0) !== 0x28b52ffd) return undefined
  return (ZSTD.createZstdDecompress ?? refuseZstd)({ chunkSize: UNPACKED_BYTES })
}

function refuseZstd(): never {
  const hint = 'use gzip, or pipe it through the zstd tool'
  throw new NbdeltaError('bad-argument', `this Node.js (${process.version}) has no zstd`, { hint })
}

/** The items of one stream, each checked. Rejects with damaged, newer-format, not-found, cancelled, io. */
export class DeltaReader {
  readonly #decoder = new DeltaDecoder(sha256)
  readonly #source: DeltaSource
  readonly #signal: AbortSignal | undefined
  /** For messages. */
  readonly name: string

  constructor(source: DeltaSource, signal: AbortSignal | undefined) {
    this.#source = source
    this.#signal = signal
    this.name = typeof source !== 'string' ? 'the stream' : source === '-' ? 'standard input' : source
  }

  get position() { return this.#decoder.position }

  /** Ends after the end record, once the source has shown that nothing follows. To be called once. */
  async * items(): AsyncGenerator<DeltaItem, void> {
    assertActive(this.#signal)
    const source = openSource(this.#source)
    if (this.#signal) addAbortSignal(this.#signal, source)
    try {
      for await (const chunk of plainChunks(source)) {
        for (const item of this.#decoder.push(chunk)) yield accept(item, this.name)
        // A source may have everything at hand: others want a turn as well.
        await new Promise<void>(resolve => { setImmediate(resolve) })
      }
      const refusal = this.#decoder.end()
      if (refusal) accept(refusal, this.name)
    } catch (error) {
      assertActive(this.#signal)
      throw asReadError(error, this.name)
    } finally {
      source.destroy()
    }
  }
}

function openSource(source: DeltaSource): Readable {
  if (typeof source !== 'string') return source
  return source === '-' ? process.stdin : createReadStream(source, { highWaterMark: CHUNK_BYTES })
}

/** The records' own bytes: unpacked where the first bytes say that they are packed. */
async function* plainChunks(source: Readable): AsyncGenerator<Buffer, void> {
  const chunks = source[Symbol.asyncIterator]() as AsyncIterator<Buffer | string>
  let start: Buffer = Buffer.alloc(0)
  while (start.length < MAGIC_BYTES) {
    const { value, done } = await chunks.next()
    if (done) break
    start = Buffer.concat([start, bytesOf(value)])
  }
  const all = async function* (): AsyncGenerator<Buffer, void> {
    yield start
    for (let next = await chunks.next(); !next.done; next = await chunks.next()) yield bytesOf(next.value)
  }
  const unpack = unpacker(start)
  if (!unpack) return yield* all()
  // A failure arrives through the unpacked side, which the pipeline destroys.
  const done = pipeline(Readable.from(all()), unpack).catch(() => undefined)
  try {
    yield* unpack as AsyncIterable<Buffer>
  } finally {
    unpack.destroy()
    source.destroy()
    await done
  }
}

function bytesOf(chunk: Buffer | string): Buffer { return typeof chunk === 'string' ? Buffer.from(chunk) : chunk }

const DAMAGE: Readonly<Record<DeltaReason, string>> = Object.freeze({
  magic: 'no record begins here',
  length: 'a record of impossible length',
  type: 'a record of unknown type',
  sequence: 'a record out of sequence: something is missing, repeated or moved',
  checksum: 'a record does not check',
  version: `written by a newer version than ${DELTA_VERSION}`,
  flags: 'it uses what only a newer version knows',
  header: 'its header makes no sense',
  extent: 'an extent out of order or out of bounds',
  totals: 'its totals do not fit what came',
  digest: 'its digest does not fit what came',
  truncated: 'it ends before its end record',
  trailing: 'more bytes follow its end record',
})

const ANEW = 'it is no delta, or was cut short or changed on its way: fetch or export it anew'

function accept(item: DeltaItem | DeltaRefusal, name: string): DeltaItem {
  if (item.kind !== 'refused') return item
  const newer = item.reason === 'version' || item.reason === 'flags'
  throw new NbdeltaError(newer ? 'newer-format' : 'damaged', `${name}: record ${item.sequence}: ${DAMAGE[item.reason]}`,
    newer ? {} : { hint: ANEW })
}

/** What an unpacker complains about is damage, too. */
function asReadError(error: unknown, name: string): NbdeltaError {
  const code = String((error as { code?: unknown } | undefined)?.code)
  if (code === 'ENOENT' || code === 'EACCES') return explain(error, name, 'open')
  if (!/^(Z_|ZSTD_)/.test(code)) return asNbdeltaError(error, `read ${name}`)
  return new NbdeltaError('damaged', `${name}: cannot be unpacked: ${(error as Error).message}`, { hint: ANEW, cause: error })
}

/** Whole records into a sink, many in one write. Either `finish` or `discard` ends it. */
export class DeltaOutput {
  readonly #target: Writable
  readonly #packer: Transform | undefined
  readonly #packed: Promise<void>
  readonly #file: PartialFile | undefined
  readonly #signal: AbortSignal | undefined
  #batch: Buffer[] = []
  #batchBytes = 0
  #writtenBytes = 0

  private constructor(target: Writable, file: PartialFile | undefined, { compress = 'none', signal }: DeltaSinkOptions) {
    this.#target = target
    this.#file = file
    this.#signal = signal
    this.#packer = packer(compress)
    const packed = this.#packer ? pipeline(this.#packer, target, { end: false }) : Promise.resolve()
    this.#packed = packed.catch(error => { throw asNbdeltaError(error, 'write the delta') })
    // Whoever writes next is told; until then nobody listens.
    this.#packed.catch(() => undefined)
    target.on('error', ignore)
  }

  /** Errors: exists (without `overwrite`), bad-argument (a directory; zstd where there is none), cancelled, denied, io. */
  static async open(sink: DeltaSink, options: DeltaSinkOptions): Promise<DeltaOutput> {
    assertActive(options.signal)
    if (options.compress === 'zstd' && !ZSTD.createZstdCompress) refuseZstd()
    if (typeof sink !== 'string') return new DeltaOutput(sink, undefined, options)
    if (sink === '-') return new DeltaOutput(process.stdout, undefined, options)
    const file = await PartialFile.create(sink, options.overwrite ?? false)
    return new DeltaOutput(file.stream, file, options)
  }

  /** Bytes of records so far, before compression. */
  get writtenBytes(): number { return this.#writtenBytes }

  /** Takes over the pieces: they must not change any more. */
  async write(...pieces: readonly Buffer[]): Promise<void> {
    assertActive(this.#signal)
    for (const piece of pieces) {
      if (piece.length === 0) continue
      this.#batch.push(piece)
      this.#batchBytes += piece.length
      this.#writtenBytes += piece.length
    }
    if (this.#batchBytes >= BATCH_BYTES) await this.#send()
  }

  async finish(): Promise<void> {
    await this.#send()
    if (this.#packer) {
      this.#packer.end()
      await this.#interruptibly(this.#packed)
      // Packed is not written: the pipeline ends when the last of it has been handed over.
      if (this.#target.errored) throw asNbdeltaError(this.#target.errored, 'write the delta')
      await this.#interruptibly(writeStream(this.#target, Buffer.alloc(0), 'write the delta'))
    }
    this.#target.off('error', ignore)
    await this.#file?.finish()
  }

  /** After a failure. A file disappears; a stream stays as it is, without an end. */
  async discard(): Promise<void> {
    this.#packer?.destroy()
    await this.#file?.discard()
  }

  async #send(): Promise<void> {
    const batch = Buffer.concat(this.#batch, this.#batchBytes)
    this.#batch = []
    this.#batchBytes = 0
    const sent = writeStream(this.#packer ?? this.#target, batch, 'write the delta')
    // The packer only knows that it was stopped; its pipeline knows why.
    await this.#interruptibly(this.#packer ? sent.catch(error => this.#packed.then(() => { throw error })) : sent)
    await new Promise<void>(resolve => { setImmediate(resolve) })
  }

  /** Whoever reads at the other end may have stopped doing so: cancelling must not wait for him. */
  async #interruptibly(work: Promise<void>): Promise<void> {
    const signal = this.#signal
    if (!signal) return work
    let stop = ignore
    const cancelled = new Promise<never>((_resolve, reject) => { stop = () => reject(transferCancelled()) })
    signal.addEventListener('abort', stop, { once: true })
    try {
      await Promise.race([work, cancelled])
    } finally {
      signal.removeEventListener('abort', stop)
    }
  }
}

function ignore(): void { /* whoever writes is told by the write */ }

/** A file in the making, or a pipe or terminal that has a path: these are written straight. */
class PartialFile {
  readonly stream: Writable
  readonly #path: string
  readonly #partial: string | undefined
  readonly #handle: FileHandle
  readonly #overwrite: boolean

  private constructor(path: string, partial: string | undefined, handle: FileHandle, overwrite: boolean) {
    this.#path = path
    this.#partial = partial
    this.#handle = handle
    this.#overwrite = overwrite
    // Not the handle's own stream: that one would hold the handle open.
    this.stream = new Writable({
      write: (chunk: Buffer, _encoding, done) => { handle.writeFile(chunk).then(() => done(), done) },
    })
  }

  static async create(path: string, overwrite: boolean): Promise<PartialFile> {
    const there = await stat(path).catch(() => undefined)
    if (there?.isDirectory()) throw new NbdeltaError('bad-argument', `${path} is a directory; name a file`)
    const straight = there !== undefined && (there.isFIFO() || there.isCharacterDevice())
    if (there && !straight && !overwrite) {
      throw new NbdeltaError('exists', `${path} is there already`, { hint: 'choose another name, or allow it to be overwritten' })
    }
    const partial = straight ? undefined : `${path}.${randomUUID()}.part`
    try {
      return new PartialFile(path, partial, await open(partial ?? path, partial ? 'wx' : 'w'), overwrite)
    } catch (error) {
      throw explain(error, path, 'create')
    }
  }

  async finish(): Promise<void> {
    try {
      if (!this.#partial) return await this.#handle.close()
      await this.#handle.sync()
      await this.#handle.close()
      // `link` refuses a name that has come into being meanwhile, `rename` does not.
      if (this.#overwrite) await rename(this.#partial, this.#path)
      else await link(this.#partial, this.#path).then(() => unlink(this.#partial!))
      await syncFolder(dirname(this.#path))
    } catch (error) {
      throw asNbdeltaError(error, `write ${this.#path}`)
    }
  }

  async discard(): Promise<void> {
    this.stream.destroy()
    await this.#handle.close().catch(ignore)
    if (this.#partial) await unlink(this.#partial).catch(ignore)
  }
}

/** Two identities for people. */
export function pointText(point: string): string {
  return point === DELTA_EMPTY ? 'nothing' : `point ${point}`
}
