/**
 * TwinMap: a GrainBitmap that is exact on disk: two map files, A in the first half of a device, B in the second.
 *
 * Order of disk writes in a save, and what each other order would lose
 *   1. the pages into A; flush.
 *   2. the same pages into B; flush.
 * Were 2 begun before 1 is durable, a power cut could tear the same page in both, and nobody would know it any more: too
 * many bits show a snapshot's zeros where live's bytes belong, too few show live's bytes where the snapshot's belong.
 * Several maps of one device are saved together (`saveTwins`): all As, one flush, all Bs, one flush.
 *
 * Invariants
 * - A page that checks in A is A's; one that does not is B's; one bad in both is *damaged*: reported by every load, all clear
 *   in memory, and damaged on disk until somebody names it in a save.
 * - Crash anywhere in a save: every page is exactly what it was or exactly what was saved, each page by itself. The journal
 *   keeps what happened since the last save until the next is durable, and brings all pages to the same moment.
 * - Pages that differ between A and B (a save cut short, by a crash or an error) are saved with the next save, named or not:
 *   else B would keep an older past, to be believed when A is damaged much later.
 *
 * Limits: `load` needs the memory of the bitmap twice.
 */
import { GrainBitmap, PAGE_BITS, PAGE_MIXED } from '../../native-free/index.js'
import type { BlockDevice, Pending } from '../device/block-device.js'
import { SliceDevice } from '../device/slice.js'
import { MapFile, type MapIdentity } from './map-file.js'

interface TwinLoad {
  /** Pages bad in both, ascending: what they held is lost. */
  readonly damagedPages: readonly number[]
  /** What did not check, in words, whether the twin had it or not. */
  readonly faults: readonly string[]
}

interface TwinSave {
  readonly map: TwinMap
  readonly from: GrainBitmap
  /** Ascending, no doubles. */
  readonly pages: Iterable<number>
}

export class TwinMap {
  readonly #device: BlockDevice
  readonly #twins: readonly [MapFile, MapFile]
  /** Pages that are not known to be the same in A and B. */
  readonly #unequal = new Set<number>()
  #grains: number
  /** Loaded or formatted: until then a save would call every page lost that it does not write. */
  #known = false

  /** The first half of `device` is A, the second B; each has room for the map of as many grains as there will ever be. */
  constructor(device: BlockDevice, identity: MapIdentity, grains: number) {
    const half = device.sizeBytes / 2
    const base = identity.base ?? 0
    const twin = (letter: 'A' | 'B', start: number): MapFile => new MapFile(new SliceDevice(device, start, half),
      { ...identity, name: `${identity.name} ${letter}`, base: base + start, exact: true }, grains)
    this.#device = device
    this.#twins = [twin('A', 0), twin('B', half)]
    this.#grains = grains
  }

  get grains(): number { return this.#grains }

  /** Lays down a fresh map, all clear or all set. Not durable before the device is flushed: nothing refers to it until then. */
  async format(fill: boolean): Promise<void> {
    for (const twin of this.#twins) await twin.fill(fill)
    this.#known = true
  }

  /** What `load` would find: `format` has been done, by another TwinMap, and nothing since. */
  assume(fill: boolean): void {
    for (const twin of this.#twins) twin.assume(fill)
    this.#known = true
  }

  /** Fills `into` (as long as this map). A failed read rejects; what does not check is reported. */
  async load(into: GrainBitmap): Promise<TwinLoad> {
    const [a, b] = this.#twins
    const second = new GrainBitmap(into.length)
    const badA: number[] = []
    const badB: number[] = []
    const faults = [...await a.load(into, badA), ...await b.load(second, badB)]
    const lostA = new Set(badA)
    const lostB = new Set(badB)
    const damagedPages: number[] = []
    this.#unequal.clear()
    for (let page = 0; page < into.pageCount; page++) {
      if (lostA.has(page) && lostB.has(page)) {
        damagedPages.push(page)
      } else if (lostA.has(page)) {
        copyPage(second, into, page)
        this.#unequal.add(page)
      } else if (lostB.has(page) || !samePage(into, second, page)) {
        this.#unequal.add(page)
      }
    }
    this.#known = true
    return { damagedPages, faults }
  }

  /**
   * Writes the given pages of `from` (ascending, no doubles), durable in both when done. Bits changed while this runs may or
   * may not be in it: save such a page again. One save at a time.
   * @param settle as MapFile.save has it
   */
  save(from: GrainBitmap, pages: Iterable<number>, settle?: () => Pending): Promise<void> {
    return saveTwins([{ map: this, from, pages }], settle)
  }

  /**
   * Follows the volume's size: `bitmap` has the new length already. Durable when done. A volume grows after this and shrinks
   * before it: the bits beyond a map's length are ignored, so that a crash in between leaves a map that is right.
   */
  async resize(bitmap: GrainBitmap): Promise<void> {
    const before = this.#grains
    this.#grains = bitmap.length
    const pageOf = (grains: number): number => Math.min(Math.max(0, Math.floor((grains - 1) / PAGE_BITS)), bitmap.pageCount - 1)
    // The page at the old end and the one at the new end have more or fewer grains than their kind on disk speaks of.
    this.#unequal.add(pageOf(before)).add(pageOf(bitmap.length))
    for (const page of this.#unequal) if (page >= bitmap.pageCount) this.#unequal.delete(page)
    const pages = [...this.#unequal].sort((x, y) => x - y)
    for (const twin of this.#twins) {
      await twin.resize(bitmap.length)
      await twin.save(bitmap, pages)
      await this.#device.flush()
    }
    this.#unequal.clear()
  }

  /** For `saveTwins`: what a save has to write, and remembers until it is done. */
  begin(pages: Iterable<number>): number[] {
    if (!this.#known) throw new Error('a twin map is saved to before it was loaded')
    for (const page of pages) this.#unequal.add(page)
    return [...this.#unequal].sort((x, y) => x - y)
  }

  /** For `saveTwins`. */
  saveInto(twin: 0 | 1, from: GrainBitmap, pages: readonly number[], settle?: () => Pending): Promise<void> {
    return this.#twins[twin].save(from, pages, settle)
  }

  /** For `saveTwins`. */
  flush(): Pending { return this.#device.flush() }

  /** For `saveTwins`: both twins hold these pages, durably. */
  end(pages: readonly number[]): void { for (const page of pages) this.#unequal.delete(page) }
}

/** Saves several maps of one device at the price of two flushes. The order is this file's header. */
export async function saveTwins(saves: readonly TwinSave[], settle?: () => Pending): Promise<void> {
  const begun = saves.map(({ map, from, pages }) => ({ map, from, pages: map.begin(pages) }))
    .filter(({ pages }) => pages.length > 0)
  if (begun.length === 0) return
  for (const twin of [0, 1] as const) {
    for (const { map, from, pages } of begun) await map.saveInto(twin, from, pages, settle)
    await begun[0].map.flush()
  }
  for (const { map, pages } of begun) map.end(pages)
}

function samePage(a: GrainBitmap, b: GrainBitmap, page: number): boolean {
  const kind = a.pageKind(page)
  if (kind !== b.pageKind(page)) return false
  return kind !== PAGE_MIXED || a.pageBytes(page).equals(b.pageBytes(page))
}

function copyPage(from: GrainBitmap, to: GrainBitmap, page: number): void {
  to.loadPage(page, from.pageBytes(page))
}
