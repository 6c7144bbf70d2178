/**
 * Inherited: grains whose content is still another's (docs/snappoints.md, "Inheritance"), in layers: what a restore has not
 * copied yet, and what a clone has of its base. A layer is a bitmap, `todo`, and a source that its grains read as.
 *
 * Invariants
 * - A grain is in at most one layer, and then it is not data in live's map: whoever meets only data never asks here.
 *   What live's file holds of such a grain is nobody's business but a snapshot's that has it lent.
 * - A grain leaves its layer with a record in the journal, in the same tick as it becomes data or stale (`take`).
 *   While a checkpoint runs, `fresh` holds what it may have missed: the journal's next snapshot repeats it.
 * - A source's content never changes. So a read that began before the grain was taken may end after it.
 * - `settled` false: what the undo point took over when the view was switched may not be in its maps on disk. Then no grain of
 *   the layer has been taken, and none may be, before a checkpoint has run (checkpoint.ts).
 */
import { type GrainBitmap, PAGE_BITS } from '../../native-free/grain-bitmap.js'
import { divCeil } from '../../native-free/integer.js'
import { IntervalSet } from '../../native-free/interval-set.js'
import type { BlockDevice, Origin, Pending } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import { encodeRanges } from '../store/journal-records.js'
import type { LogRecord } from '../store/record-log-layout.js'
import type { InheritFile } from './inherit-store.js'
import type { Point } from './point.js'
import type { Run } from './volume-map.js'

export type LayerKind = 'restore' | 'clone'

export class Layer {
  readonly kind: LayerKind
  readonly todo: GrainBitmap
  readonly file: InheritFile
  /** What shows what was there before; a clone has none. */
  readonly undo: Point | undefined
  settled: boolean
  /** `todo` is not in the file: to be saved before it is settled. */
  unsaved = false
  source: BlockDevice | undefined
  /** Grains of `todo`. */
  left: number
  fresh: IntervalSet | undefined
  readonly #dirty = new Set<number>()

  constructor(kind: LayerKind, todo: GrainBitmap, file: InheritFile, undo: Point | undefined, settled: boolean) {
    this.kind = kind
    this.todo = todo
    this.file = file
    this.undo = undo
    this.settled = settled
    this.left = todo.count()
  }

  /** Where its grains are read. Errors: not-found, while the volume it is in is not open. */
  get reader(): BlockDevice {
    if (!this.source) throw new NbdeltaError('not-found', 'the volume that holds what this one inherits is not open')
    return this.source
  }

  take(from: number, to: number): void {
    const count = this.todo.count(from, to)
    if (count === 0) return
    this.left -= count
    this.todo.clear(from, to)
    this.fresh?.add(from, to)
    for (let page = Math.floor(from / PAGE_BITS); page < divCeil(to, PAGE_BITS); page++) this.#dirty.add(page)
  }

  /** Nothing had been taken of it after all. `todo` as it was loaded, or found anew. */
  reset(todo: GrainBitmap): void {
    this.todo.or(todo)
    this.left = this.todo.count()
    this.#dirty.clear()
  }

  /** Its file has all of it when this resolves. */
  async saveAll(settle: () => Pending): Promise<void> {
    if (!this.unsaved) return
    await this.file.save(this.todo, this.todo.usedPages(), settle)
    this.unsaved = false
  }

  beginSave(): number[] {
    this.fresh = new IntervalSet()
    const pages = [...this.#dirty].sort((a, b) => a - b)
    this.#dirty.clear()
    return pages.filter(page => page < this.todo.pageCount)
  }

  abandonSave(pages: Iterable<number>): void {
    this.fresh = undefined
    for (const page of pages) this.#dirty.add(page)
  }

  resize(grains: number): void {
    if (grains < this.todo.length) this.left -= this.todo.count(grains, this.todo.length)
    this.todo.resize(grains, false)
  }
}

export class Inherited {
  /** Usually none; at most one of a kind. */
  readonly layers: Layer[] = []
  /** Makes it durable that a layer is settled. */
  confirm: (layer: Layer) => Promise<void> = () => Promise.reject(new Error('nobody makes it durable'))
  readonly #grainBytes: number

  constructor(grainBytes: number) { this.#grainBytes = grainBytes }

  get active(): boolean { return this.layers.length > 0 }

  of(kind: LayerKind): Layer | undefined { return this.layers.find(layer => layer.kind === kind) }

  /** Whose the grain is. */
  at(grain: number): Layer | undefined { return this.layers.find(({ todo }) => todo.get(grain)) }

  /** All grains that are inherited; the bitmap is the caller's. Undefined: none. */
  all(): GrainBitmap | undefined {
    const [first, ...others] = this.layers
    const all = first?.todo.clone()
    for (const { todo } of others) all!.or(todo)
    return all
  }

  /** Anything of [from, to) is inherited. */
  overlaps(from: number, to: number): boolean {
    return this.layers.some(({ todo }) => !todo.isAll(from, to, false))
  }

  /** The first run of [from, to) that is inherited by one layer; empty at `to`: there is none. */
  next(from: number, to: number): Run {
    let start = to
    for (const { todo } of this.layers) start = Math.min(start, todo.next(from, to, true))
    const layer = start < to ? this.at(start) : undefined
    return { start, end: layer ? layer.todo.runEnd(start, to) : to }
  }

  /** Grains [from, to) are nobody else's any more: a record says so, and what they are now. */
  take(from: number, to: number): void { for (const layer of this.layers) layer.take(from, to) }

  /**
   * As BlockDevice.zeroRun, of a place that is not data in live's map; what is not inherited reads as zeros. An answer that is
   * shorter ends with a grain: one that is zeros in part only, because its parts come from different sources, may hold data.
   */
  zeroRun(offset: number, length: number): number {
    const grain = Math.floor(offset / this.#grainBytes)
    const to = divCeil(offset + length, this.#grainBytes)
    const run = this.next(grain, to)
    const stop = run.start > grain ? run.start : run.end
    const bytes = Math.min(stop * this.#grainBytes, offset + length) - offset
    if (run.start > grain) return -bytes
    const found = this.at(grain)!.reader.zeroRun(offset, bytes)
    const end = offset + Math.abs(found)
    if (found <= -bytes || found >= bytes || end % this.#grainBytes === 0) return found
    const zeros = end - end % this.#grainBytes - offset
    if (found < 0 && zeros > 0) return -zeros
    return Math.min(bytes, divCeil(end, this.#grainBytes) * this.#grainBytes - offset)
  }

  /** Reads what is in one layer from end to end. */
  read(offset: number, length: number, into: Buffer, at: number, origin?: Origin): Pending {
    return this.at(Math.floor(offset / this.#grainBytes))!.reader.read(offset, length, into, at, origin)
  }

  resize(grains: number): void { for (const layer of this.layers) layer.resize(grains) }

  beginCheckpoint(): Map<Layer, number[]> { return new Map(this.layers.map(layer => [layer, layer.beginSave()])) }

  abandonCheckpoint(pages: ReadonlyMap<Layer, readonly number[]>): void {
    for (const [layer, list] of pages) layer.abandonSave(list)
  }

  /** Before the records of what is stale: these say that the grains are data. */
  endCheckpoint(): LogRecord[] {
    const records: LogRecord[] = []
    for (const layer of this.layers) {
      if (layer.fresh) records.push(...encodeRanges('inherited', layer.fresh))
      layer.fresh = undefined
    }
    return records
  }
}
