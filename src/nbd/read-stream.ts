/**
 * A READ that does not go out in one piece: it is longer than what is read whole, or has holes worth telling.
 * While one runs, the connection parses nothing else, so its memory is one slab whatever the client asks for.
 *
 *   'body'    simple replies, and DF: one header first, then the data. Nothing else may come between (`exclusive`).
 *             A device that fails midway leaves no honest way on: a simple reply is cut by a hard drop (R1), a DF chunk is
 *             filled up with zeros and then voided by an ERROR chunk (R2). Reading 64 MiB before the header instead would
 *             let every connection pin 64 MiB.
 *   'chunks'  structured and extended: data chunks, each read before its header is sent, and OFFSET_HOLE chunks (R2).
 */
import { CHUNK, CHUNK_FLAG_DONE, SIZE } from '../../native-free/nbd/constants.js'
import { chunkHeaderBytes, putChunk, putSimpleReply, putU64 } from '../../native-free/nbd/transmission.js'
import type { Echo, ReplyStyle } from '../../native-free/nbd/transmission.js'
import type { BlockDevice, Origin, Pending } from '../device/block-device.js'
import type { Outbox } from './outbox.js'
import type { Slab } from './slab.js'

/** Data is read and sent in pieces of this size, so that they are still in the processor's cache when they leave. */
const READ_PIECE_BYTES = 128 * 1024
/** A hole shorter than this is sent as zeros: fewer chunks cost a client less. A reply that ends in a hole tells it anyway. */
const HOLE_BYTES = 16 * 1024
const OFFSET_BYTES = 8
const HOLE_PAYLOAD_BYTES = 12
/** Chunk lengths are multiples of this where the request is (R2). */
const SECTOR_BYTES = 512

/** 'done': over, replied. 'wait': call pump again after a completion or a drain. 'drop': the reply cannot be finished. */
type PumpResult = 'done' | 'wait' | 'drop'

export class ReadStream {
  /** No other reply may go out before this one is done. */
  readonly exclusive: boolean
  failure: unknown
  readonly #device: BlockDevice
  readonly #outbox: Outbox
  readonly #origin: Origin
  readonly #style: ReplyStyle
  readonly #echo: Echo
  readonly #wake: () => void
  #offset: number
  #left: number
  #begun = false
  #busy = false

  constructor(
    device: BlockDevice, outbox: Outbox, origin: Origin, style: ReplyStyle, echo: Echo, range: { offset: number, length: number },
    inOnePiece: boolean, wake: () => void,
  ) {
    this.#device = device
    this.#outbox = outbox
    this.#origin = origin
    this.#style = style
    this.#echo = echo
    this.#offset = range.offset
    this.#left = range.length
    this.exclusive = inOnePiece || style === 'simple'
    this.#wake = wake
  }

  /** A device call for this stream is under way. */
  get busy(): boolean { return this.#busy }

  pump(): PumpResult {
    if (this.#busy) return 'wait'
    return this.exclusive ? this.#pumpBody() : this.#pumpChunks()
  }

  #pumpBody(): PumpResult {
    const outbox = this.#outbox
    if (this.failure !== undefined && this.#style === 'simple') return 'drop'
    if (!this.#begun) this.#putBodyHeader()
    while (this.#left > 0) {
      if (!outbox.reserve(Math.min(this.#left, READ_PIECE_BYTES)) && outbox.slab === undefined) {
        if (!outbox.empty) return 'wait'
        // All memory is held by replies that wait for the end of this one: it must go on.
        outbox.reserveReply()
      }
      const count = Math.min(this.#left, READ_PIECE_BYTES, outbox.slab!.size - outbox.at)
      const { slab, at } = outbox as { slab: Slab, at: number }
      if (this.failure !== undefined) slab.buffer.fill(0, at, at + count)
      else {
        const pending = this.#read(count, at)
        if (pending !== undefined) {
          outbox.openRegion(count)
          return this.#readLater(pending, slab, count, () => at)
        }
        if (this.failure !== undefined) {
          if (this.#style === 'simple') return 'drop'
          continue
        }
      }
      outbox.at += count
      this.#advance(count)
    }
    if (this.#style !== 'simple' && this.failure === undefined) {
      outbox.reserveReply()
      outbox.at = putChunk(this.#style, outbox.slab!.view, outbox.at, CHUNK_FLAG_DONE, CHUNK.none, this.#echo, 0)
    }
    return 'done'
  }

  #putBodyHeader(): void {
    const outbox = this.#outbox
    outbox.reserveReply()
    this.#begun = true
    if (this.#style === 'simple') {
      putSimpleReply(outbox.slab!.view, outbox.at, 0, this.#echo)
      outbox.at += SIZE.simpleReply
    } else outbox.at = this.#putDataHeader(outbox.slab!.view, outbox.at, 0, this.#left)
  }

  #putDataHeader(view: DataView, at: number, flags: number, count: number): number {
    const body = putChunk(this.#style, view, at, flags, CHUNK.offsetData, this.#echo, OFFSET_BYTES + count)
    putU64(view, body, this.#offset)
    return body + OFFSET_BYTES
  }

  #pumpChunks(): PumpResult {
    const outbox = this.#outbox
    const overhead = chunkHeaderBytes(this.#style) + OFFSET_BYTES
    while (this.#left > 0 && this.failure === undefined) {
      const hole = this.#holeAt(this.#offset, this.#left)
      const wanted = hole > 0 ? 0 : this.#dataRun()
      if (!outbox.reserve(overhead + Math.max(wanted, HOLE_PAYLOAD_BYTES)) && outbox.slab === undefined) return 'wait'
      const { slab, at } = outbox as { slab: Slab, at: number }
      if (hole > 0) {
        outbox.at = this.#putHole(slab.view, at, hole)
        this.#advance(hole)
        continue
      }
      const count = this.#fit(wanted, slab.size - at - overhead)
      const pending = this.#read(count, at + overhead)
      if (pending !== undefined) {
        const last = this.#doneFlag(count)
        outbox.openRegion(overhead + count)
        return this.#readLater(pending, slab, count, () => {
          this.#putDataHeader(slab.view, at, last, count)
          return at
        })
      }
      if (this.failure !== undefined) break
      this.#putDataHeader(slab.view, at, this.#doneFlag(count), count)
      outbox.at += overhead + count
      this.#advance(count)
    }
    return 'done'
  }

  /** What of `wanted` the slab can take; in whole sectors when it is not all of it. */
  #fit(wanted: number, room: number): number {
    return wanted <= room ? wanted : room - room % SECTOR_BYTES
  }

  #putHole(view: DataView, at: number, count: number): number {
    const body = putChunk(this.#style, view, at, this.#doneFlag(count), CHUNK.offsetHole, this.#echo, HOLE_PAYLOAD_BYTES)
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
    const most = Math.min(this.#left, READ_PIECE_BYTES)
    let count = 0
    while (count < most && (count === 0 || this.#holeAt(this.#offset + count, this.#left - count) === 0)) {
      count += Math.abs(this.#device.zeroRun(this.#offset + count, this.#left - count))
    }
    return Math.min(count, most)
  }

  #read(count: number, at: number): Pending {
    try {
      return this.#device.read(this.#offset, count, this.#outbox.slab!.buffer, at, this.#origin)
    } catch (error) {
      this.failure = error ?? new Error('a device threw nothing')
      return undefined
    }
  }

  /** The piece comes later: fetch the rest meanwhile, and go on when it is there. */
  #readLater(pending: Promise<void>, slab: Slab, count: number, finish: () => number): PumpResult {
    const end = this.#outbox.at
    this.#busy = true
    if (this.#left > count) this.#prefetch(this.#offset + count, this.#left - count)
    pending.then(() => {
      this.#outbox.sendRegion(slab, finish(), end)
      this.#advance(count)
    }, (error: unknown) => {
      this.failure = error ?? new Error('a device rejected with nothing')
      this.#outbox.dropRegion(slab)
    }).then(() => {
      this.#busy = false
      this.#wake()
    })
    return 'wait'
  }

  #prefetch(offset: number, length: number): void {
    try {
      this.#device.prefetch?.(offset, length)?.catch(() => {})
    } catch {
      // A hint: a device that cannot take it will fail the read itself.
    }
  }
}
