/**
 * Delta streams: what leads from one point of a volume to another, as self-checking records (delta-record.ts).
 *
 *   header | extent ... mark ... extent ... | end
 *
 * An extent says: from `offset` on `zeroBytes` read as zeros, and behind them lie the record's data. Zeros and the data
 * behind them share one record: otherwise data merged into a long run of zeros would cost a record for the zeros left over.
 *
 * Invariants
 * - Extents ascend and never overlap. Encoder and decoder both insist: what repeats or goes back is refused.
 * - The decoder hands out nothing that has not checked, and holds at most one record, however the chunks are cut.
 * - MARK and END say what had been sent before them: whoever keeps a position keeps one that was compared.
 * - A stream without END is no stream: `end` of the decoder refuses it.
 */
import {
  DELTA_DATA_MAX_BYTES, DELTA_HEAD_BYTES, DELTA_MAGIC, DELTA_TYPES, DELTA_VERSION, type DecodedHeader, type DeltaDigest,
  type DeltaHeader, type DeltaPosition, DeltaState, decodeHeader, encodeExtentFixed, encodeHeader, encodeTotals,
  EXTENT_FIXED_BYTES, headerFault, isLength, putChecksum, readCount, readHead, type RecordHead, recordOf,
} from './delta-record.js'

const NOTHING = Buffer.alloc(0)

/** Encodes one stream. Misuse (an extent that goes back, a record behind the end) throws RangeError. */
export class DeltaEncoder {
  readonly #state: DeltaState
  #header: DeltaHeader | undefined
  #ended = false

  constructor(digest: DeltaDigest) { this.#state = new DeltaState(digest) }

  /** Where the stream stands after the last record. */
  get position(): DeltaPosition {
    if (!this.#header) throw new RangeError('the stream has not begun')
    return this.#state.at(this.#header)
  }

  /** The first record; with `after` that of a stream which goes on behind that position. */
  begin(header: DeltaHeader, after?: DeltaPosition): Buffer {
    const fault = headerFault(header)
    if (fault !== undefined || this.#header) throw new RangeError(fault ?? 'a stream begins once')
    this.#header = header
    const record = this.#seal(recordOf(DELTA_TYPES.header, 0, encodeHeader(header, after), 0), NOTHING)
    if (after) this.#state.continueAt(after)
    return record
  }

  /** One extent, zeros first. Returns what goes in front of `data` (at most DELTA_DATA_MAX_BYTES), which the caller sends. */
  extent(offset: number, zeroBytes: number, data: Buffer): Buffer {
    const end = offset + zeroBytes + data.length
    const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(zeroBytes) && zeroBytes >= 0
    if (!whole || offset < this.#state.offset || end <= offset || end > this.#begun().sizeAfter) {
      throw new RangeError(`an extent [${offset}, ${end}) behind ${this.#state.offset}`)
    }
    if (data.length > DELTA_DATA_MAX_BYTES) throw new RangeError(`${data.length} bytes in one record`)
    const record = recordOf(DELTA_TYPES.extent, this.#next(), encodeExtentFixed(offset, zeroBytes), data.length)
    this.#seal(record, data)
    this.#state.addExtent(offset, zeroBytes, data.length)
    return record
  }

  /** A place to go on from. */
  mark(): Buffer {
    return this.#seal(recordOf(DELTA_TYPES.mark, this.#next(), encodeTotals(this.#state), 0), NOTHING)
  }

  end(): Buffer {
    const record = this.#seal(recordOf(DELTA_TYPES.end, this.#next(), encodeTotals(this.#state), 0), NOTHING)
    this.#ended = true
    return record
  }

  #begun(): DeltaHeader {
    if (!this.#header || this.#ended) throw new RangeError('outside a stream')
    return this.#header
  }

  #next(): number {
    this.#begun()
    return this.#state.sequence + 1
  }

  #seal(record: Buffer, data: Buffer): Buffer {
    const checksum = this.#state.checksumOf(record, data)
    putChecksum(record, checksum)
    this.#state.advance(record, data, checksum)
    return record
  }
}

/** `version`, `flags`: from a newer version. All others: damage, in the order in which they are looked for. */
export type DeltaReason =
  | 'magic' | 'length' | 'type' | 'sequence' | 'checksum' | 'version' | 'flags' | 'header' | 'extent' | 'totals' | 'digest'
  | 'truncated' | 'trailing'

export interface DeltaRefusal {
  readonly kind: 'refused'
  readonly reason: DeltaReason
  /** Of the record that was expected where the stream does not fit. */
  readonly sequence: number
}

export interface DeltaExtent {
  readonly kind: 'extent'
  readonly sequence: number
  readonly offset: number
  readonly zeroBytes: number
  /** The decoder never touches it again; it may be a view into the chunk that was pushed. */
  readonly data: Buffer
}

/** What a decoder hands out. */
export type DeltaItem =
  | ({ readonly kind: 'header', readonly sequence: number } & DecodedHeader)
  | DeltaExtent
  | { readonly kind: 'mark', readonly sequence: number }
  | { readonly kind: 'end', readonly sequence: number }

export class DeltaDecoder {
  readonly #state: DeltaState
  readonly #head = Buffer.alloc(DELTA_HEAD_BYTES)
  #headFilled = 0
  #judged: RecordHead | undefined
  /** Of a record that came in several chunks; `#filled` bytes of it are there. */
  #payload: Buffer | undefined
  #filled = 0
  #header: DeltaHeader | undefined
  #ended = false
  #refusal: DeltaRefusal | undefined

  constructor(digest: DeltaDigest) { this.#state = new DeltaState(digest) }

  /** Where the stream stands after the last item; undefined before the header. */
  get position(): DeltaPosition | undefined { return this.#header && this.#state.at(this.#header) }

  /** Takes the next piece of the stream, cut anywhere, and yields what it completes. A refusal is the last item. */
  * push(chunk: Buffer): Generator<DeltaItem | DeltaRefusal, void> {
    if (this.#refusal) yield this.#refusal
    for (let at = 0; at < chunk.length && !this.#refusal;) {
      if (this.#ended) return yield this.#refuse('trailing')
      if (!this.#judged) {
        const take = Math.min(DELTA_HEAD_BYTES - this.#headFilled, chunk.length - at)
        chunk.copy(this.#head, this.#headFilled, at, at + take)
        this.#headFilled += take
        at += take
        if (this.#headFilled < DELTA_HEAD_BYTES) return
        const head = readHead(this.#head)
        const reason = this.#judgeHead(head)
        if (reason) return yield this.#refuse(reason)
        this.#judged = head
      }
      const take = Math.min(this.#judged.length - this.#filled, chunk.length - at)
      const payload = this.#gather(this.#judged.length, chunk.subarray(at, at + take))
      at += take
      if (payload) yield this.#complete(this.#judged, payload)
    }
  }

  /** The stream has no more bytes: a refusal unless that is where it ought to end. */
  end(): DeltaRefusal | undefined {
    if (this.#refusal) return this.#refusal
    return this.#ended ? undefined : this.#refuse('truncated')
  }

  /** What can be said before the payload is there. Of a first record only what holds in every version. */
  #judgeHead({ magic, type, length, sequence }: RecordHead): DeltaReason | undefined {
    if (magic !== DELTA_MAGIC) return 'magic'
    if (!this.#header) return isLength(DELTA_TYPES.extent, length) ? undefined : 'length'
    if (type !== DELTA_TYPES.extent && type !== DELTA_TYPES.mark && type !== DELTA_TYPES.end) return 'type'
    if (!isLength(type, length)) return 'length'
    return sequence === this.#state.sequence + 1 ? undefined : 'sequence'
  }

  /** The payload, once all of it is there. Where it lies in one chunk it is not copied. */
  #gather(length: number, piece: Buffer): Buffer | undefined {
    if (piece.length === length) return piece
    // Between head and payload: nothing to keep yet, and the next piece may be all of it.
    if (piece.length === 0) return undefined
    this.#payload ??= Buffer.allocUnsafe(length)
    piece.copy(this.#payload, this.#filled)
    this.#filled += piece.length
    if (this.#filled < length) return undefined
    const payload = this.#payload
    this.#payload = undefined
    this.#filled = 0
    return payload
  }

  /** A whole record: checksum first, then what it says, and only a good one moves the state. */
  #complete(head: RecordHead, payload: Buffer): DeltaItem | DeltaRefusal {
    this.#judged = undefined
    this.#headFilled = 0
    const checksum = this.#state.checksumOf(this.#head, payload)
    if (checksum !== head.checksum) return this.#refuse('checksum')
    if (head.version !== DELTA_VERSION) return this.#refuse('version')
    if (!this.#header) return this.#first(head, payload, checksum)
    const item = head.type === DELTA_TYPES.extent ? this.#extent(payload) : this.#compare(head.type, payload)
    if (typeof item === 'string') return this.#refuse(item)
    this.#state.advance(this.#head, payload, checksum)
    if (item.kind === 'extent') this.#state.addExtent(item.offset, item.zeroBytes, item.data.length)
    return item
  }

  #first(head: RecordHead, payload: Buffer, checksum: number): DeltaItem | DeltaRefusal {
    if (head.type !== DELTA_TYPES.header) return this.#refuse('type')
    if (!isLength(head.type, head.length)) return this.#refuse('length')
    if (head.sequence !== 0) return this.#refuse('sequence')
    const found = decodeHeader(payload)
    if (typeof found === 'string') return this.#refuse(found)
    this.#header = found.header
    this.#state.advance(this.#head, payload, checksum)
    if (found.after) this.#state.continueAt(found.after)
    return { kind: 'header', sequence: 0, ...found }
  }

  #extent(payload: Buffer): DeltaExtent | 'extent' {
    const [offset, zeroBytes] = [readCount(payload, 0), readCount(payload, 8)]
    const data = payload.subarray(EXTENT_FIXED_BYTES)
    const end = offset + zeroBytes + data.length
    if (offset < this.#state.offset || end <= offset || end > this.#header!.sizeAfter) return 'extent'
    return { kind: 'extent', sequence: this.#state.sequence + 1, offset, zeroBytes, data }
  }

  #compare(type: number, payload: Buffer): DeltaItem | 'totals' | 'digest' {
    const expected = encodeTotals(this.#state)
    if (payload.compare(expected, 0, 24, 0, 24) !== 0) return 'totals'
    if (!payload.equals(expected)) return 'digest'
    this.#ended = type === DELTA_TYPES.end
    return { kind: this.#ended ? 'end' : 'mark', sequence: this.#state.sequence + 1 }
  }

  #refuse(reason: DeltaReason): DeltaRefusal {
    this.#refusal = { kind: 'refused', reason, sequence: this.#state.sequence + 1 }
    return this.#refusal
  }
}
