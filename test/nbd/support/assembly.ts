/**
 * Assembly: one request's reply, put together from its chunks and judged on the way (PROTOCOL R1-R3, B1-B3, E2, E6, G1-G5).
 * Anything a server must not send throws a Violation. The result is plain data.
 */
import { ensure, ensureText } from './violation.js'
import { CHUNK, CMD, ERRNOS, FLAG, type Mode } from './wire.js'

export interface Extent { readonly length: bigint, readonly state: bigint }

export interface ChunkSeen { readonly type: number, readonly offset: number, readonly length: number }

export interface Reply {
  /** 0 or the errno. */
  readonly error: number
  readonly message: string
  /** READ: the data when error is 0. */
  readonly data: Buffer
  /** Chunks in order; empty for a simple reply. */
  readonly chunks: readonly ChunkSeen[]
  /** BLOCK_STATUS: extents by context id. */
  readonly status: ReadonlyMap<number, readonly Extent[]>
  /** Offset of an ERROR_OFFSET chunk. */
  readonly errorOffset?: bigint
  readonly simple: boolean
}

/** The request a reply is judged against. */
export interface Asked {
  readonly type: number
  readonly flags: number
  readonly offset: bigint
  readonly length: bigint
  /** BLOCK_STATUS: the contexts that must be answered, and how far extents may reach. */
  readonly contexts: readonly number[]
  readonly size: bigint
}

export class Assembly {
  readonly #asked: Asked
  readonly #mode: Mode
  readonly #chunks: ChunkSeen[] = []
  readonly #status = new Map<number, Extent[]>()
  readonly #covered: { start: bigint, end: bigint }[] = []
  #data: Buffer | undefined
  #error = 0
  #message = ''
  #errorOffset: bigint | undefined

  constructor(asked: Asked, mode: Mode) {
    this.#asked = asked
    this.#mode = mode
  }

  /** A whole simple reply. */
  simple(error: number, data: Buffer): Reply {
    ensure(this.#mode !== 'extended', 'E1: a simple reply under extended headers')
    ensure(this.#mode === 'simple' || this.#asked.type !== CMD.READ, 'G2: a simple reply to READ under structured replies')
    ensure(this.#chunks.length === 0, 'a simple reply after chunks of the same request')
    ensure(error === 0 || ERRNOS.includes(error), `errno ${error}`)
    return { error, message: '', data, chunks: [], status: new Map(), simple: true }
  }

  /** One chunk; the whole reply when it was the last. */
  chunk(type: number, done: boolean, payload: Buffer): Reply | undefined {
    if (type === CHUNK.NONE) {
      ensure(payload.length === 0, `NONE with ${payload.length} bytes`)
      ensure(done, 'NONE without DONE')
      this.#chunks.push({ type, offset: 0, length: 0 })
    } else if (type === CHUNK.OFFSET_DATA || type === CHUNK.OFFSET_HOLE) this.#content(type, payload)
    else if (type === CHUNK.BLOCK_STATUS || type === CHUNK.BLOCK_STATUS_EXT) this.#states(type, payload)
    else if (type === CHUNK.ERROR || type === CHUNK.ERROR_OFFSET) this.#failure(type, payload)
    else ensure(false, `chunk type 0x${type.toString(16)}`)
    return done ? this.#finish() : undefined
  }

  #content(type: number, payload: Buffer): void {
    ensure(this.#asked.type === CMD.READ, 'content chunk for a command that is no READ')
    ensure(type === CHUNK.OFFSET_HOLE ? payload.length === 12 : payload.length > 8, `content chunk of ${payload.length} bytes`)
    const offset = payload.readBigUInt64BE(0)
    const length = type === CHUNK.OFFSET_HOLE ? payload.readUInt32BE(8) : payload.length - 8
    ensure(length > 0, 'an empty hole')
    const end = offset + BigInt(length)
    const asked = this.#asked
    ensure(offset >= asked.offset && end <= asked.offset + asked.length, `R2: chunk [${offset}, ${end}) outside the request`)
    for (const other of this.#covered) ensure(end <= other.start || offset >= other.end,
      `R2: chunk [${offset}, ${end}) overlaps another`)
    this.#covered.push({ start: offset, end })
    if (asked.flags & FLAG.DF) {
      ensure(this.#covered.length === 1, 'R3: more than one content chunk under DF')
    }
    const at = Number(offset - asked.offset)
    this.#data ??= Buffer.alloc(Number(asked.length), 0xee)
    if (type === CHUNK.OFFSET_HOLE) this.#data.fill(0, at, at + length)
    else payload.copy(this.#data, at, 8)
    this.#chunks.push({ type, offset: Number(offset), length })
  }

  #states(type: number, payload: Buffer): void {
    const extended = type === CHUNK.BLOCK_STATUS_EXT
    ensure(this.#asked.type === CMD.BLOCK_STATUS, 'status chunk for another command')
    ensure(extended === (this.#mode === 'extended'), `E6: status chunk type ${type} in ${this.#mode} mode`)
    const head = extended ? 8 : 4
    const unit = extended ? 16 : 8
    ensure(payload.length >= head + unit && (payload.length - head) % unit === 0, `status chunk of ${payload.length} bytes`)
    const count = (payload.length - head) / unit
    if (extended) ensure(payload.readUInt32BE(4) === count, 'E6: the count does not fit the length')
    ensure(count <= 2 ** 20, `B2: ${count} extents`)
    const id = payload.readUInt32BE(0)
    ensure(this.#asked.contexts.includes(id), `B2: status for context ${id} that was not asked`)
    ensure(!this.#status.has(id), `B2: two status chunks for context ${id}`)
    const extents = Array.from({ length: count }, (_, i): Extent => {
      const at = head + i * unit
      return extended
        ? { length: payload.readBigUInt64BE(at), state: payload.readBigUInt64BE(at + 8) }
        : { length: BigInt(payload.readUInt32BE(at)), state: BigInt(payload.readUInt32BE(at + 4)) }
    })
    this.#judgeExtents(extents)
    this.#status.set(id, extents)
    this.#chunks.push({ type, offset: 0, length: payload.length })
  }

  /** B1, B2, B3 and the base:allocation bits. */
  #judgeExtents(extents: readonly Extent[]): void {
    const { length, offset, size, flags } = this.#asked
    let sum = 0n
    extents.forEach((extent, i) => {
      ensure(extent.length > 0n, 'B1: an empty extent')
      ensure(extent.state >> 32n === 0n, 'E6: the upper half of a 32-bit state is not zero')
      if (i > 0) ensure(extents[i - 1].state !== extent.state || extents[i - 1].length > 0xfff00000n,
        'B2: equal neighbours not merged')
      if (i > 0) ensure(sum < length, 'B1: extents go on past the asked range')
      sum += extent.length
    })
    ensure(offset + sum <= size, 'B1: extents past the end of the export')
    if (flags & FLAG.REQ_ONE) {
      ensure(extents.length === 1, `B1: ${extents.length} extents under REQ_ONE`)
      ensure(extents[0].length <= length, 'B1: the extent is longer than asked under REQ_ONE')
    }
  }

  #failure(type: number, payload: Buffer): void {
    ensure(payload.length >= 6, `error chunk of ${payload.length} bytes`)
    const error = payload.readUInt32BE(0)
    ensure(ERRNOS.includes(error), `errno ${error}`)
    const messageBytes = payload.readUInt16BE(4)
    const tail = type === CHUNK.ERROR_OFFSET ? 8 : 0
    ensure(payload.length === 6 + messageBytes + tail, 'the error text does not fit its chunk')
    this.#message = ensureText(payload.subarray(6, 6 + messageBytes), 'error text')
    this.#error ||= error
    if (tail) {
      this.#errorOffset = payload.readBigUInt64BE(6 + messageBytes)
      const { offset, length } = this.#asked
      ensure(this.#errorOffset >= offset && this.#errorOffset < offset + length, 'R2: the error lies outside the request')
    }
    this.#chunks.push({ type, offset: 0, length: payload.length })
  }

  #finish(): Reply {
    const { type, length, contexts, flags } = this.#asked
    if (this.#error === 0 && type === CMD.READ) {
      const covered = this.#covered.reduce((sum, part) => sum + part.end - part.start, 0n)
      ensure(covered === length, `R2: ${covered} of ${length} bytes delivered`)
    }
    if (this.#error === 0 && type === CMD.BLOCK_STATUS) {
      ensure(this.#status.size === contexts.length, `B2: ${this.#status.size} contexts answered, ${contexts.length} asked`)
    }
    if (this.#error === 75 && flags & FLAG.DF) ensure(this.#covered.length === 0, 'R3: content beside EOVERFLOW')
    return {
      error: this.#error, message: this.#message, data: this.#data ?? Buffer.alloc(0), chunks: this.#chunks, status: this.#status,
      simple: false, ...this.#errorOffset !== undefined && { errorOffset: this.#errorOffset },
    }
  }
}
