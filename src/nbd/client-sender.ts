/**
 * ClientSender: requests on their way out. All of one turn of the event loop leave in one write: headers and small payloads
 * are copied together into a slab, large payloads go out from where they lie.
 *
 *   turn's writes:   [ header header header+4K header | 256K of the caller's | header | 256K ... ]
 *
 * Memory: one slab, and further ones only while the socket has not taken the first; what waits in them and in the socket
 * is bounded by the requests in flight. A slab is written again only when the socket has taken all of it.
 */
import type { Socket } from 'node:net'
import { SIZE } from '../../native-free/nbd/constants.js'
import { putRequest, type RequestHeader } from '../../native-free/nbd/client-transmission.js'

const SLAB_BYTES = 64 * 1024
/** Payload up to this size is copied: cheaper than one more piece in the write. */
const COPY_BYTES = 8 * 1024
const SPARE_SLABS = 2

class Slab {
  readonly buffer = Buffer.allocUnsafeSlow(SLAB_BYTES)
  readonly view = new DataView(this.buffer.buffer)
  pos = 0
  /** Writes the socket has not finished. */
  writes = 0
}

export class ClientSender {
  readonly #socket: Socket
  #slab = new Slab()
  readonly #spare: Slab[] = []
  /** Where the bytes begin that are in no piece yet. */
  #start = 0
  /** What the next write will be, and the slabs it is in. */
  #pieces: Buffer[] = []
  #used = new Set<Slab>()
  #scheduled = false
  bytesSent = 0

  constructor(socket: Socket) { this.#socket = socket }

  /** Queues a request, and `payload[at, at + length)` behind its header. It leaves when the code that runs now is done. */
  add(extended: boolean, request: RequestHeader, payload: Buffer | undefined, at: number): void {
    const bytes = payload === undefined ? 0 : request.length
    const copied = bytes <= COPY_BYTES
    this.#makeRoom(SIZE.extendedRequest + (copied ? bytes : 0))
    const slab = this.#slab
    slab.pos = putRequest(slab.view, slab.pos, extended, request)
    if (payload !== undefined && copied) slab.pos += payload.copy(slab.buffer, slab.pos, at, at + bytes)
    else if (payload !== undefined) {
      this.#seal()
      this.#pieces.push(payload.subarray(at, at + bytes))
    }
    if (this.#scheduled) return
    this.#scheduled = true
    process.nextTick(() => { this.#flush() })
  }

  #makeRoom(bytes: number): void {
    if (this.#slab.pos + bytes <= SLAB_BYTES) return
    this.#seal()
    this.#slab = this.#spare.pop() ?? new Slab()
    this.#start = 0
  }

  #seal(): void {
    const { pos, buffer } = this.#slab
    if (pos === this.#start) return
    this.#pieces.push(buffer.subarray(this.#start, pos))
    this.#used.add(this.#slab)
    this.#start = pos
  }

  #flush(): void {
    this.#scheduled = false
    this.#seal()
    const pieces = this.#pieces
    const used = this.#used
    this.#pieces = []
    this.#used = new Set()
    for (const slab of used) slab.writes++
    if (this.#socket.destroyed) return
    const last = pieces.length - 1
    this.#socket.cork()
    pieces.forEach((piece, i) => {
      this.bytesSent += piece.length
      if (i < last) this.#socket.write(piece)
      else this.#socket.write(piece, () => { this.#release(used) })
    })
    this.#socket.uncork()
  }

  #release(used: ReadonlySet<Slab>): void {
    for (const slab of used) {
      // Pieces of it that wait for this turn's write are in use as well.
      if (--slab.writes > 0 || this.#used.has(slab)) continue
      if (slab !== this.#slab) {
        slab.pos = 0
        if (this.#spare.length < SPARE_SLABS) this.#spare.push(slab)
      } else if (slab.pos === this.#start) slab.pos = this.#start = 0
    }
  }
}
