/**
 * A READ that does not go out in one piece: it is longer than what is read whole, or has holes worth telling.
 * While one has parts to begin, the connection parses nothing else, so memory stays within WINDOW slabs whatever the client
 * asks for. One that has begun all its parts lets the next large READ begin behind it (`pass`), else a train of them would
 * run dry at every end; parts of the next one leave when it is at the head.
 *
 *   'body'    simple replies, and DF: one header first, then the data. Nothing else may come between (`exclusive`).
 *             A device that fails midway leaves no honest way on: a simple reply is cut by a hard drop (R1), a DF chunk is
 *             filled up with zeros and then voided by an ERROR chunk (R2). Reading 64 MiB before the header instead would
 *             let every connection pin 64 MiB.
 *   'chunks'  structured and extended: data chunks, each read before its header is sent, and OFFSET_HOLE chunks (R2).
 */
import { CHUNK, CHUNK_FLAG_DONE, SIZE } from '../../native-free/nbd/constants.js'
import { chunkHeaderBytes, putChunk, putSimpleReply, putU64 } from '../../native-free/nbd/transmission.js'
import type { ReplyStyle } from '../../native-free/nbd/transmission.js'
import type { BlockDevice, Origin, Pending } from '../device/block-device.js'
import type { Job } from './jobs.js'
import type { Outbox } from './outbox.js'
import type { Slab } from './slab.js'

/** One piece and its headers fill a large slab. A multiple of the sector size. */
const PIECE_BYTES = 256 * 1024
/**
 * Pieces at a device that completes later: while one is being sent the next are read, by other processors if there are
 * any. 3 x 256 KiB also keep a disk busy.
 */
export const WINDOW = 3
/** A hole shorter than this is sent as zeros: fewer chunks cost a client less. A reply that ends in a hole tells it anyway. */
const HOLE_BYTES = 16 * 1024
const OFFSET_BYTES = 8
const HOLE_PAYLOAD_BYTES = 12
/** Chunk lengths are multiples of this where the request is (R2). */
const SECTOR_BYTES = 512

/** 'done': over, replied. 'wait': call pump again after a completion or a drain. 'drop': the reply cannot be finished. */
type PumpResult = 'done' | 'wait' | 'drop'

/** A part of the reply whose data is not there yet; parts leave in order. */
interface Part {
  readonly slab: Slab
  readonly at: number
  readonly dataAt: number
  readonly end: number
  /** Writes what stands before the data. */
  readonly putHeader: () => void
  settled: boolean
  failed: boolean
}

export class ReadStream {
  readonly job: Job
  /** No other reply may go out before this one is done. */
  readonly exclusive: boolean
  failure: unknown
  readonly #device: BlockDevice
  readonly #outbox: Outbox
  readonly #origin: Origin
  readonly #style: ReplyStyle
  readonly #wake: (error?: unknown) => void
  readonly #window: Part[] = []
  readonly #headerBytes: number
  #offset: number
  #left: number
  /** Its parts may leave. */
  #leads = false
  #begun = false

  /** `wake` is called after each part that completed later; with an argument only for a broken invariant. */
  constructor(
    device: BlockDevice, outbox: Outbox, origin: Origin, style: ReplyStyle, job: Job, inOnePiece: boolean,
    wake: (error?: unknown) => void,
  ) {
    this.#device = device
    this.#outbox = outbox
    this.#origin = origin
    this.#style = style
    this.job = job
    this.#offset = job.offset
    this.#left = job.length
    this.exclusive = inOnePiece || style === 'simple'
    this.#headerBytes = style === 'simple' ? SIZE.simpleReply : chunkHeaderBytes(style) + OFFSET_BYTES
    this.#wake = wake
  }

  /** Device calls for this stream are under way. */
  get busy(): boolean { return this.#window.some(({ settled }) => !settled) }

  /** The client is gone: what is not under way is dropped. */
  abandon(): void { this.#sendSettled() }

  /** Parts that are begun and have not left. */
  get parts(): number { return this.#window.length }

  /** Everything is begun: another stream may begin behind this one. */
  get passes(): boolean { return this.#left === 0 }

  /** The replies before this one are complete. */
  lead(): void {
    this.#leads = true
    this.#sendSettled()
  }

  pump(): PumpResult {
    const more = this.exclusive ? this.#pumpBody() : this.#pumpChunks()
    if (more || this.#window.length > 0 || !this.#leads) return 'wait'
    return this.failure !== undefined && this.#style === 'simple' ? 'drop' : 'done'
  }

  /** Begins what can be begun; true when there is more to begin, later. */
  #pumpBody(): boolean {
    const outbox = this.#outbox
    while (this.#left > 0 && (this.failure === undefined || this.#style !== 'simple')) {
      if (this.#window.length >= WINDOW) return true
      const headerBytes = this.#begun ? 0 : this.#headerBytes
      if (!outbox.reserve(headerBytes + Math.min(this.#left, PIECE_BYTES)) && outbox.slab === undefined) {
        if (!this.#leads || !outbox.empty || this.#window.length > 0) return true
        // All memory is held by replies that wait for the end of this one: it must go on.
        outbox.reserveReply()
      }
      const { slab, at } = outbox as { slab: Slab, at: number }
      const dataAt = at + headerBytes
      const count = Math.min(this.#left, PIECE_BYTES, slab.size - dataAt)
      const putHeader = this.#begun ? () => {} : this.#bodyHeader(slab.view, at)
      this.#begun = true
      if (this.failure === undefined) this.#begin(slab, at, dataAt, count, putHeader)
      else {
        // DF: the chunk was promised whole; zeros up to its end, then the error that voids them.
        slab.buffer.fill(0, dataAt, dataAt + count)
        putHeader()
        this.#append(slab, at, dataAt + count)
      }
      this.#advance(count)
    }
    if (this.#leads && this.#window.length === 0 && this.#style !== 'simple' && this.failure === undefined) {
      outbox.reserveReply()
      outbox.at = putChunk(this.#style, outbox.slab!.view, outbox.at, CHUNK_FLAG_DONE, CHUNK.none, this.job, 0)
    }
    return false
  }

  #bodyHeader(view: DataView, at: number): () => void {
    const { offset, length } = this.job
    return this.#style === 'simple' ? () => putSimpleReply(view, at, 0, this.job)
      : () => { this.#putDataHeader(view, at, 0, offset, length) }
  }

  #putDataHeader(view: DataView, at: number, flags: number, offset: number, count: number): number {
    const body = putChunk(this.#style, view, at, flags, CHUNK.offsetData, this.job, OFFSET_BYTES + count)
    putU64(view, body, offset)
    return body + OFFSET_BYTES
  }

  #pumpChunks(): boolean {
    const outbox = this.#outbox
    const overhead = this.#headerBytes
    while (this.#left > 0 && this.failure === undefined) {
      if (this.#window.length >= WINDOW) return true
      const hole = this.#holeAt(this.#offset, this.#left)
      const wanted = hole > 0 ? 0 : this.#dataRun()
      if (!outbox.reserve(overhead + Math.max(wanted, HOLE_PAYLOAD_BYTES)) && outbox.slab === undefined) return true
      const { slab, at } = outbox as { slab: Slab, at: number }
      if (hole > 0) {
        this.#append(slab, at, this.#putHole(slab.view, at, hole))
        this.#advance(hole)
        continue
      }
      const room = slab.size - at - overhead
      const count = wanted <= room ? wanted : room - room % SECTOR_BYTES
      const offset = this.#offset
      const done = this.#doneFlag(count)
      this.#begin(slab, at, at + overhead, count, () => { this.#putDataHeader(slab.view, at, done, offset, count) })
      this.#advance(count)
    }
    return false
  }

  #putHole(view: DataView, at: number, count: number): number {
    const body = putChunk(this.#style, view, at, this.#doneFlag(count), CHUNK.offsetHole, this.job, HOLE_PAYLOAD_BYTES)
    putU64(view, body, this.#offset)
    view.setUint32(body + OFFSET_BYTES, count)
    return body + HOLE_PAYLOAD_BYTES
  }

  #doneFlag(count: number): number { return count === this.#left ? CHUNK_FLAG_DONE : 0 }

  #advance(count: number): void {
    this.#offset += count
    this.#left -= count
  }

  /** Bytes of a hole at `offset` that is worth a chunk, else 0. */
  #holeAt(offset: number, left: number): number {
    const run = this.#device.zeroRun(offset, left)
    return run < 0 && (-run >= HOLE_BYTES || -run >= left) ? Math.min(-run, left) : 0
  }

  /** Bytes up to the next hole worth telling, at most one piece. */
  #dataRun(): number {
    const most = Math.min(this.#left, PIECE_BYTES)
    let count = 0
    while (count < most && (count === 0 || this.#holeAt(this.#offset + count, this.#left - count) === 0)) {
      count += Math.abs(this.#device.zeroRun(this.#offset + count, this.#left - count))
    }
    return Math.min(count, most)
  }

  /** Reads one part; done at once it is ready behind what is ready already, else it takes its place in the window. */
  #begin(slab: Slab, at: number, dataAt: number, count: number, putHeader: () => void): void {
    let pending: Pending
    try {
      pending = this.#device.read(this.#offset, count, slab.buffer, dataAt, this.#origin)
    } catch (error) {
      this.#fail(error)
      // DF goes on with zeros; otherwise nothing of this part is sent.
      if (!this.exclusive || this.#style === 'simple') return
      slab.buffer.fill(0, dataAt, dataAt + count)
    }
    const end = dataAt + count
    if (pending === undefined) {
      putHeader()
      this.#append(slab, at, end)
      return
    }
    this.#outbox.openRegion(end - at)
    const part: Part = { slab, at, dataAt, end, putHeader, settled: false, failed: false }
    this.#window.push(part)
    pending.catch((error: unknown) => {
      part.failed = true
      this.#fail(error)
    }).then(() => {
      part.settled = true
      this.#sendSettled()
      this.#wake()
    }).catch(this.#wake)
  }

  /** What stands at [at, end) is ready; it leaves behind the window if there is one. */
  #append(slab: Slab, at: number, end: number): void {
    if (this.#window.length === 0 && this.#leads) {
      this.#outbox.at = end
      return
    }
    this.#outbox.openRegion(end - at)
    this.#window.push({ slab, at, dataAt: end, end, putHeader: () => {}, settled: true, failed: false })
  }

  #fail(error: unknown): void {
    this.failure ??= error ?? new Error('a device failed with nothing')
  }

  /** Parts leave in order. After a failure only DF goes on, with zeros where data is missing. */
  #sendSettled(): void {
    while ((this.#leads || this.#origin.gone) && this.#window[0]?.settled === true) {
      const part = this.#window.shift()!
      const kept = this.failure === undefined || (this.exclusive && this.#style !== 'simple')
      if (!kept || this.#origin.gone) {
        this.#outbox.dropRegion(part.slab)
        continue
      }
      if (part.failed) part.slab.buffer.fill(0, part.dataAt, part.end)
      part.putHeader()
      this.#outbox.sendRegion(part.slab, part.at, part.end)
    }
  }
}
