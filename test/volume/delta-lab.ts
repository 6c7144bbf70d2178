/** A volume's history without an engine: images, the grains that changed between them, and deltas as buffers. */
import { PassThrough, Readable } from 'node:stream'
import { GrainBitmap } from '../../native-free/index.js'
import { MemoryDisk, type Random } from '../../src/device/testing.js'
import { applyDelta, type ApplyDeltaOptions, exportDelta, type ExportDeltaOptions } from '../../src/volume/delta.js'
import type { Run } from '../../src/volume/volume-map.js'

export const GRAIN = 4096
export const VOLUME = { uuid: '10000000-0000-4000-8000-000000000000', grainBytes: GRAIN }

export interface Moment {
  readonly point: { readonly uuid: string, readonly seq: number, readonly sizeBytes: number }
  readonly image: MemoryDisk
  /** Grains that changed between this and the next. */
  readonly changed: Set<number>
}

let made = 0

export class History {
  readonly moments: Moment[] = []
  readonly #live: MemoryDisk

  constructor(sizeBytes: number) { this.#live = new MemoryDisk(sizeBytes) }

  freeze(): Moment {
    const uuid = `20000000-0000-4000-8000-${String(++made).padStart(12, '0')}`
    const point = { uuid, seq: this.moments.length + 1, sizeBytes: this.#live.sizeBytes }
    this.moments.push({ point, image: this.#live.fork(), changed: new Set() })
    return this.moments.at(-1)!
  }

  write(offset: number, bytes: Buffer): void {
    this.#mark(offset, bytes.length)
    this.#live.write(offset, bytes.length, bytes, 0)
  }

  zero(offset: number, length: number): void {
    this.#mark(offset, length)
    this.#live.zero(offset, length, { allocate: false, fast: false })
  }

  resize(sizeBytes: number): void {
    if (sizeBytes < this.#live.sizeBytes) this.#mark(sizeBytes, this.#live.sizeBytes - sizeBytes)
    this.#live.setSize(sizeBytes)
  }

  /** As Snappoints.changedRuns: OR of the maps between the two, whichever is older. */
  runs(a: Moment, b: Moment): Run[] {
    const [from, to] = [Math.min(a.point.seq, b.point.seq), Math.max(a.point.seq, b.point.seq)]
    const map = new GrainBitmap(2 ** 20)
    for (const { changed } of this.moments.slice(from - 1, to - 1)) for (const grain of changed) map.set(grain, grain + 1)
    const runs: Run[] = []
    for (let at = map.next(0, map.length, true); at < map.length; at = map.next(at, map.length, true)) {
      runs.push({ start: at, end: map.runEnd(at, map.length) })
      at = runs.at(-1)!.end
    }
    return runs
  }

  #mark(offset: number, length: number): void {
    const changed = this.moments.at(-1)?.changed
    for (let grain = Math.floor(offset / GRAIN); grain * GRAIN < offset + length; grain++) changed?.add(grain)
  }
}

/** Points with writes, zeroes, changes back and forth and other sizes between them. */
export function randomHistory(random: Random, moments: number, grains = 64): History {
  const history = new History(grains * GRAIN)
  for (let i = 0; i < moments; i++) {
    for (let n = random(8); n > 0; n--) {
      const [offset, length] = [random(grains - 10) * GRAIN + random(2) * 512, (1 + random(8)) * 512 * (1 + random(8))]
      if (random(3) === 0) history.zero(offset, length)
      else history.write(offset, Buffer.alloc(length, random(4)))
    }
    if (random(3) === 0) history.resize((grains - random(4)) * GRAIN - random(3) * 512)
    history.freeze()
    history.resize(grains * GRAIN)
  }
  return history
}

/** The delta between two moments, as options of exportDelta without a sink. */
export function between(history: History, from: Moment | undefined, to: Moment): Omit<ExportDeltaOptions, 'sink'> {
  const target = { point: to.point, read: to.image.read.bind(to.image), zeroRun: to.image.zeroRun.bind(to.image) }
  return { volume: VOLUME, from: from?.point, runs: from && history.runs(from, to), to: target }
}

export async function collected(write: (sink: PassThrough) => Promise<unknown>): Promise<Buffer> {
  const sink = new PassThrough({ highWaterMark: 2 ** 30 })
  await write(sink)
  return (sink.read() as Buffer | null) ?? Buffer.alloc(0)
}

export function streamOf(options: Omit<ExportDeltaOptions, 'sink'>): Promise<Buffer> {
  return collected(sink => exportDelta({ ...options, sink }))
}

/** In chunks that do not fit the records. */
export function chunked(stream: Buffer, step = 1000): Readable {
  const chunks: Buffer[] = []
  for (let at = 0; at < stream.length; at += step) chunks.push(stream.subarray(at, at + step))
  return Readable.from(chunks)
}

/** Applies a stream to a disk that is at `base`; returns the uuid that it is committed to. */
export async function applied(
  stream: Buffer, target: MemoryDisk, base: string, options: Partial<ApplyDeltaOptions> = {},
): Promise<string> {
  let committed = ''
  await applyDelta({
    source: chunked(stream),
    target,
    identity: () => base,
    resize: sizeBytes => target.setSize(sizeBytes),
    commit: ({ uuid }) => { committed = uuid },
    ...options,
  })
  return committed
}

/** The records of a stream that is not packed. */
export function recordsOf(stream: Buffer): Buffer[] {
  const records: Buffer[] = []
  for (let at = 0; at < stream.length; at += records.at(-1)!.length) {
    records.push(stream.subarray(at, at + 24 + stream.readUInt32BE(at + 8)))
  }
  return records
}
