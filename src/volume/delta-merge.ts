/**
 * Deltas that follow each other as one: P to Q and Q to R become P to R.
 *
 *   older    |zzzzzzzz|dddddddddddd|        |dddd|
 *   newer        |dddd|      |zz|      |dd|
 *   merged   |zzzz|dddd|ddddd|zz|ddd|  |dd| |dddd|      the newest that says anything about a byte is right
 *
 * All streams ascend, so one pass over them side by side is enough: memory is one record a stream, whatever their length.
 *
 * The merged stream is never longer than its sources together: where data cut data in two, the 40 bytes of one more record
 * stand against at least a sector that is no longer sent; zeros never take a record of their own in front of data; and a
 * mark is set only where a source has one. Sources that were not made of whole sectors may make an exception.
 */
import type { DeltaHeader } from '../../native-free/delta-record.js'
import type { DeltaItem } from '../../native-free/delta-stream.js'
import { NbdeltaError } from '../device/errors.js'
import { type DeltaSummary, summaryOf } from './delta.js'
import { DeltaOutput, DeltaReader, type DeltaSink, type DeltaSinkOptions, type DeltaSource, pointText } from './delta-pipe.js'
import { DeltaWriter } from './delta-writer.js'
import type { TransferOptions } from './transfer.js'

/** Streams merged at once; each holds an open file and a record. */
const SOURCES_MAX = 256

export interface MergeDeltasOptions extends TransferOptions, DeltaSinkOptions {
  /** In the order in which they would be applied; each starts from the point where the one before it ends. */
  readonly sources: readonly DeltaSource[]
  readonly sink: DeltaSink
}

/**
 * Writes one stream that does what `sources` do one after the other.
 * Errors: bad-argument (no sources, or too many), wrong-state (they do not follow each other; the rest of a stream), damaged,
 * newer-format, exists, not-found, cancelled, no-space, io.
 */
export async function mergeDeltas({ sources, sink, onProgress, ...options }: MergeDeltasOptions): Promise<DeltaSummary> {
  if (sources.length === 0 || sources.length > SOURCES_MAX) {
    throw new NbdeltaError('bad-argument', `${sources.length} deltas to merge, 1 to ${SOURCES_MAX} can be`)
  }
  const lanes = sources.map(source => new Lane(new DeltaReader(source, options.signal)))
  try {
    const headers: DeltaHeader[] = []
    for (const lane of lanes) headers.push(await lane.begin())
    const header = chained(headers, lanes.map(lane => lane.name))
    const output = await DeltaOutput.open(sink, options)
    try {
      const writer = new DeltaWriter(output, Infinity)
      await writer.begin(header)
      await mergeExtents(lanes, header, writer, onProgress)
      await writer.end()
      await output.finish()
      onProgress?.(header.sizeAfter, header.sizeAfter)
      return summaryOf(header, writer.position, false)
    } catch (error) {
      await output.discard()
      throw error
    }
  } finally {
    for (const lane of lanes) await lane.close()
  }
}

/** The header of all together. */
function chained(headers: readonly DeltaHeader[], names: readonly string[]): DeltaHeader {
  for (let i = 1; i < headers.length; i++) {
    const [older, newer] = [headers[i - 1], headers[i]]
    const fits = newer.volume === older.volume && newer.base === older.target
      && newer.sizeBefore === older.sizeAfter && newer.grainBytes === older.grainBytes
    if (fits) continue
    const hint = 'name the deltas in the order in which they would be applied'
    const why = newer.volume !== older.volume ? 'is of another volume' : `starts from ${pointText(newer.base)}`
    throw new NbdeltaError('wrong-state', `${names[i]} ${why}, ${names[i - 1]} ends at ${pointText(older.target)}`, { hint })
  }
  const [first, last] = [headers[0], headers[headers.length - 1]]
  return { ...last, base: first.base, baseNumber: first.baseNumber, sizeBefore: first.sizeBefore }
}

async function mergeExtents(
  lanes: readonly Lane[], { sizeAfter }: DeltaHeader, writer: DeltaWriter, onProgress: TransferOptions['onProgress'],
): Promise<void> {
  for (;;) {
    let at = Infinity
    for (const lane of lanes) at = Math.min(at, lane.start)
    if (at === Infinity) return
    // The newest lane that covers `at` wins, up to where a newer one begins.
    let winner = lanes.length - 1
    let end = Infinity
    for (; lanes[winner].start > at; winner--) end = Math.min(end, lanes[winner].start)
    end = Math.min(end, lanes[winner].end)
    // What an older delta says about bytes behind the end is gone; it still has to check.
    const shownEnd = Math.min(end, sizeAfter)
    if (at < shownEnd) await put(writer, lanes[winner], at, shownEnd)
    for (const lane of lanes) if (lane.start < end) await lane.cut(end)
    if (lanes.some(lane => lane.takeMark())) await writer.mark()
    onProgress?.(shownEnd, sizeAfter)
  }
}

async function put(writer: DeltaWriter, lane: Lane, from: number, to: number): Promise<void> {
  const data = lane.data(from, to)
  if (data) await writer.data(from, data)
  else await writer.zero(from, to - from)
}

/** One source: what is left of its current stretch, which is all zeros or all data. */
class Lane {
  readonly #reader: DeltaReader
  readonly #items: AsyncGenerator<DeltaItem, void>
  /** Infinity: nothing comes any more. */
  start = 0
  end = 0
  /** Undefined: zeros. Else what [start, end) holds, at its end. */
  #data: Buffer | undefined
  /** Data of the same record, to come after its zeros. */
  #following: Buffer | undefined
  #marked = false

  constructor(reader: DeltaReader) {
    this.#reader = reader
    this.#items = reader.items()
  }

  get name(): string { return this.#reader.name }

  async begin(): Promise<DeltaHeader> {
    const { value } = await this.#items.next()
    if (value?.kind !== 'header') throw new Error('a stream that does not begin with its header')
    if (value.after) {
      const hint = 'merge the whole delta'
      throw new NbdeltaError('wrong-state', `${this.name} is only the rest of a delta`, { hint })
    }
    await this.#next()
    return value.header
  }

  data(from: number, to: number): Buffer | undefined {
    const data = this.#data
    return data?.subarray(data.length - (this.end - from), data.length - (this.end - to))
  }

  /** Everything below `to` is done. */
  async cut(to: number): Promise<void> {
    while (this.end <= to) await this.#next()
    this.start = Math.max(this.start, to)
  }

  /** True once for each mark, or several, that was passed. */
  takeMark(): boolean {
    const marked = this.#marked
    this.#marked = false
    return marked
  }

  async close(): Promise<void> { await this.#items.return() }

  async #next(): Promise<void> {
    if (this.#following) return this.#show(this.end, this.#following.length, this.#following)
    for (;;) {
      const next = await this.#items.next()
      if (next.done) {
        this.start = Infinity
        this.end = Infinity
        return
      }
      if (next.value.kind === 'mark') this.#marked = true
      if (next.value.kind !== 'extent') continue
      const { offset, zeroBytes, data } = next.value
      if (zeroBytes === 0) return this.#show(offset, data.length, data)
      this.#show(offset, zeroBytes, undefined)
      this.#following = data.length > 0 ? data : undefined
      return
    }
  }

  #show(start: number, bytes: number, data: Buffer | undefined): void {
    this.start = start
    this.end = start + bytes
    this.#data = data
    this.#following = undefined
  }
}
