/**
 * GrainBitmap: one bit a grain, for volumes of any size.
 *
 *   grains   0 ........ 32767 | 32768 ..... 65535 | 65536 ....      page p holds grains [p, p + 1) x PAGE_BITS
 *   pages    all clear        | mixed: 4 KiB      | all set         the last page may be short
 *
 * Invariants
 * - `#population[p]` is the number of set bits of page p; `#words[p]` exists if and only if the page is mixed
 *   (0 < population < its bits). So uniform pages cost no memory and `count` of whole pages is a sum.
 * - Bits past `length` are zero in every mixed page.
 * - Words that two bitmaps may both have (`#shared`, of either) are never edited: the first edit copies them.
 * - Mixed pages are cut from slabs that grow with their number: one buffer for each would be the collector's main work.
 * - Indices are Numbers up to 2^53; only the index inside a page is ever shifted.
 *
 * Arithmetic: 16 TiB at 4 KiB = 2^32 grains = 131,072 pages = 1.25 MiB when uniform, 512 MiB + 1.25 MiB at worst.
 */
import { divCeil } from './integer.js'
import { andNotWords, areWithin, clearBits, countBits, firstBit, orWords, popcount, setBits } from './bit-words.js'

/** Bits of one page: 4096 bytes, one sector of most disks. */
export const PAGE_BITS = 32768
export const PAGE_BYTES = PAGE_BITS / 8
const PAGE_WORDS = PAGE_BITS / 32
/** Just below what malloc would map, and fault in, anew each time. */
const SLAB_PAGES_MAX = 31
const SPARES_MAX = 16

export const PAGE_CLEAR = 0
export const PAGE_SET = 1
export const PAGE_MIXED = 2
export type PageKind = typeof PAGE_CLEAR | typeof PAGE_SET | typeof PAGE_MIXED

const HOST_IS_LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1

/** The memory of a page's words, in the host's byte order. */
function bytesOf(words: Int32Array): Buffer {
  return Buffer.from(words.buffer, words.byteOffset, words.byteLength)
}

/** Between the host's byte order and the one of `pageBytes`, in place; the same step both ways. */
function toLittleEndian(bytes: Buffer): void {
  if (!HOST_IS_LITTLE_ENDIAN) bytes.swap32()
}

export class GrainBitmap {
  #length: number
  #words: (Int32Array | undefined)[]
  #population: Uint16Array
  /** By page, not zero: its words may be another bitmap's as well. */
  #shared: Uint8Array | undefined
  /** Emptied pages kept back, so that a bit flipping to and fro does not allocate. */
  readonly #spare: Int32Array[] = []
  /** Pages are cut from it, one after the other. */
  #slab: Int32Array | undefined
  #slabAt = 0
  /** Pages that were ever cut. */
  #cut = 0

  /** `length` grains, all clear, or all set with `fill`. */
  constructor(length: number, fill = false) {
    if (!Number.isSafeInteger(length) || length < 0) throw new RangeError(`a bitmap of ${length} grains`)
    this.#length = length
    const pages = divCeil(length, PAGE_BITS)
    this.#words = new Array<Int32Array | undefined>(pages)
    this.#population = new Uint16Array(pages)
    if (fill) this.set(0, length)
  }

  get length(): number { return this.#length }
  get pageCount(): number { return this.#population.length }

  get(index: number): boolean {
    if (!(index >= 0 && index < this.#length)) this.#refuse(index, index + 1)
    const page = Math.floor(index / PAGE_BITS)
    const words = this.#words[page]
    if (words === undefined) return this.#population[page] !== 0
    const bit = index - page * PAGE_BITS
    return (words[bit >>> 5] & (1 << (bit & 31))) !== 0
  }

  /** Sets the grains of [from, to). */
  set(from: number, to: number): void {
    this.#judge(from, to)
    for (let at = from; at < to;) {
      const page = Math.floor(at / PAGE_BITS)
      const start = page * PAGE_BITS
      const end = Math.min(to, start + PAGE_BITS)
      const bits = this.#pageBits(page)
      if (this.#population[page] !== bits) {
        if (end - at === bits) this.#become(page, bits)
        else this.#changed(page, this.#population[page] + setBits(this.#mixed(page), at - start, end - start))
      }
      at = end
    }
  }

  /** Clears the grains of [from, to). */
  clear(from: number, to: number): void {
    this.#judge(from, to)
    for (let at = from; at < to;) {
      const page = Math.floor(at / PAGE_BITS)
      const start = page * PAGE_BITS
      const end = Math.min(to, start + PAGE_BITS)
      if (this.#population[page] !== 0) {
        if (end - at === this.#pageBits(page)) this.#become(page, 0)
        else this.#changed(page, this.#population[page] - clearBits(this.#mixed(page), at - start, end - start))
      }
      at = end
    }
  }

  /** True when every grain of [from, to) has `value`. An empty range is true. */
  isAll(from: number, to: number, value: boolean): boolean {
    return this.next(from, to, !value) === to
  }

  /** End (<= to) of the run of equal bits that starts at `from`; `from` < `to`. */
  runEnd(from: number, to: number): number {
    return this.next(from, to, !this.get(from))
  }

  /** First index in [from, to) whose bit is `value`; `to` when there is none. */
  next(from: number, to: number, value: boolean): number {
    this.#judge(from, to)
    for (let at = from; at < to;) {
      const page = Math.floor(at / PAGE_BITS)
      const start = page * PAGE_BITS
      const words = this.#words[page]
      if (words === undefined) {
        if ((this.#population[page] !== 0) === value) return at
      } else {
        const found = firstBit(words, at - start, Math.min(to - start, PAGE_BITS), value)
        if (found >= 0) return start + found
      }
      at = start + PAGE_BITS
    }
    return to
  }

  /** Runs of set grains in [from, to), found as they are asked for: what is set or cleared meanwhile may be in them, or not. */
  * runs(from = 0, to = this.#length): Generator<{ readonly start: number, readonly end: number }, void> {
    for (let at = from; at < to;) {
      const start = this.next(at, to, true)
      if (start === to) return
      at = this.runEnd(start, to)
      yield { start, end: at }
    }
  }

  /** Set grains in [from, to). */
  count(from = 0, to = this.#length): number {
    this.#judge(from, to)
    let sum = 0
    for (let at = from; at < to;) {
      const page = Math.floor(at / PAGE_BITS)
      const start = page * PAGE_BITS
      const end = Math.min(to, start + PAGE_BITS)
      const words = this.#words[page]
      if (end - at === this.#pageBits(page)) sum += this.#population[page]
      else if (words !== undefined) sum += countBits(words, at - start, end - start)
      else if (this.#population[page] !== 0) sum += end - at
      at = end
    }
    return sum
  }

  /** this = this OR other. Both have the same length. */
  or(other: GrainBitmap): void {
    this.#judgeTwin(other)
    for (let page = 0; page < this.pageCount; page++) {
      const bits = this.#pageBits(page)
      const theirs = other.#words[page]
      if (other.#population[page] === 0 || this.#population[page] === bits) continue
      if (theirs === undefined) this.#become(page, bits)
      else if (this.#population[page] === 0) {
        this.#share(page, other, theirs)
        this.#population[page] = other.#population[page]
      } else this.#changed(page, this.#population[page] + orWords(this.#mixed(page), theirs))
    }
  }

  /** this = this AND NOT other. Both have the same length. */
  andNot(other: GrainBitmap): void {
    this.#judgeTwin(other)
    for (let page = 0; page < this.pageCount; page++) {
      const theirs = other.#words[page]
      if (other.#population[page] === 0 || this.#population[page] === 0) continue
      if (theirs === undefined) this.#become(page, 0)
      else this.#changed(page, this.#population[page] - andNotWords(this.#mixed(page), theirs))
    }
  }

  /** Every grain that is set here is set in `other`, too. Both have the same length. */
  isWithin(other: GrainBitmap): boolean {
    this.#judgeTwin(other)
    for (let page = 0; page < this.pageCount; page++) {
      const theirs = other.#words[page]
      if (this.#population[page] > other.#population[page]) return false
      if (this.#population[page] === 0 || theirs === undefined) continue
      const words = this.#words[page]
      if (words === undefined || !areWithin(words, theirs)) return false
    }
    return true
  }

  /** Grows (new grains have the value `fill`) or shrinks; what stays keeps its bits. */
  resize(length: number, fill: boolean): void {
    if (!Number.isSafeInteger(length) || length < 0) throw new RangeError(`a bitmap of ${length} grains`)
    const old = this.#length
    if (length === old) return
    if (length < old) this.clear(length, old)
    // A short last page that is all set has no words; it is about to get more bits, so it becomes explicit first.
    const last = Math.floor(old / PAGE_BITS)
    if (length > old && last < this.pageCount && this.#population[last] !== 0) this.#mixed(last)
    const pages = divCeil(length, PAGE_BITS)
    const population = new Uint16Array(pages)
    population.set(this.#population.subarray(0, pages))
    this.#population = population
    if (this.#shared) {
      const shared = new Uint8Array(pages)
      shared.set(this.#shared.subarray(0, pages))
      this.#shared = shared
    }
    this.#words.length = pages
    this.#length = length
    if (length > old && fill) this.set(old, length)
    // The page at the cut may be uniform now that it has fewer bits.
    if (length < old && pages > 0) this.#changed(pages - 1, population[pages - 1])
  }

  /** Costs what the list of pages does, whatever is in them. */
  clone(): GrainBitmap {
    const copy = new GrainBitmap(this.#length)
    copy.#population = this.#population.slice()
    for (let page = 0; page < this.pageCount; page++) {
      const words = this.#words[page]
      if (words !== undefined) copy.#share(page, this, words)
    }
    return copy
  }

  equals(other: GrainBitmap): boolean {
    if (other.#length !== this.#length) return false
    for (let page = 0; page < this.pageCount; page++) {
      if (this.#population[page] !== other.#population[page]) return false
      const mine = this.#words[page]
      const theirs = other.#words[page]
      if (mine && theirs && !mine.every((word, index) => word === theirs[index])) return false
    }
    return true
  }

  /** Uniform or not, without looking at the bits. */
  pageKind(page: number): PageKind {
    this.#judgePage(page)
    if (this.#population[page] === 0) return PAGE_CLEAR
    return this.#population[page] === this.#pageBits(page) ? PAGE_SET : PAGE_MIXED
  }

  /** Numbers of the pages that are not all clear, ascending. */
  usedPages(): number[] {
    const pages: number[] = []
    for (let page = 0; page < this.pageCount; page++) if (this.#population[page] !== 0) pages.push(page)
    return pages
  }

  /** The page as PAGE_BYTES bytes, grain 0 in the lowest bit of byte 0; bits past `length` are zero. A copy. */
  pageBytes(page: number): Buffer {
    this.#judgePage(page)
    const bytes = Buffer.alloc(PAGE_BYTES)
    const words = this.#words[page]
    if (words !== undefined) toLittleEndian(bytes.fill(bytesOf(words)))
    else if (this.#population[page] !== 0) {
      const bits = this.#pageBits(page)
      bytes.fill(0xff, 0, bits >>> 3)
      if ((bits & 7) !== 0) bytes[bits >>> 3] = (1 << (bits & 7)) - 1
    }
    return bytes
  }

  /** Replaces a page by PAGE_BYTES bytes in the form of `pageBytes`; bits past `length` are ignored. */
  loadPage(page: number, bytes: Buffer): void {
    this.#judgePage(page)
    if (bytes.length !== PAGE_BYTES) throw new RangeError(`a bitmap page of ${bytes.length} bytes`)
    const words = this.#mixed(page)
    toLittleEndian(bytesOf(words).fill(bytes))
    const bits = this.#pageBits(page)
    if (bits < PAGE_BITS) clearBits(words, bits, PAGE_BITS)
    this.#changed(page, popcount(words))
  }

  /** Makes every grain of a page `value`. */
  fillPage(page: number, value: boolean): void {
    this.#judgePage(page)
    this.#become(page, value ? this.#pageBits(page) : 0)
  }

  /** Grains of this page: PAGE_BITS but for the last one. */
  #pageBits(page: number): number {
    return Math.min(PAGE_BITS, this.#length - page * PAGE_BITS)
  }

  /** The words of a page that is about to become mixed; whoever calls this calls `#changed` after. */
  #mixed(page: number): Int32Array {
    const there = this.#words[page]
    if (there !== undefined) return this.#shared !== undefined && this.#shared[page] !== 0 ? this.#own(page, there) : there
    const words = this.#spare.pop()?.fill(0) ?? this.#cutPage()
    if (this.#population[page] !== 0) setBits(words, 0, this.#pageBits(page))
    this.#words[page] = words
    return words
  }

  /** A page of zeros. Slabs never hold more than twice what was cut. */
  #cutPage(): Int32Array {
    if (!this.#slab || this.#slabAt === this.#slab.length) {
      this.#slab = new Int32Array(PAGE_WORDS * Math.min(SLAB_PAGES_MAX, Math.max(1, this.#cut)))
      this.#slabAt = 0
    }
    this.#cut++
    return this.#slab.subarray(this.#slabAt, this.#slabAt += PAGE_WORDS)
  }

  /** Has the words of a page of `other` for its own, until one of the two edits them. */
  #share(page: number, other: GrainBitmap, words: Int32Array): void {
    this.#shared ??= new Uint8Array(this.pageCount)
    other.#shared ??= new Uint8Array(other.pageCount)
    this.#shared[page] = other.#shared[page] = 1
    this.#words[page] = words
  }

  #own(page: number, words: Int32Array): Int32Array {
    this.#shared![page] = 0
    const own = this.#spare.pop() ?? this.#cutPage()
    own.set(words)
    return this.#words[page] = own
  }

  /** States the new population of a page whose words were edited; drops them where it became uniform. */
  #changed(page: number, population: number): void {
    if (population === 0 || population === this.#pageBits(page)) this.#become(page, population)
    else this.#population[page] = population
  }

  /** Makes a page uniform: all clear (0) or all set (its bits). */
  #become(page: number, population: number): void {
    this.#population[page] = population
    const words = this.#words[page]
    if (words === undefined) return
    if (this.#shared !== undefined && this.#shared[page] !== 0) this.#shared[page] = 0
    else if (this.#spare.length < SPARES_MAX) this.#spare.push(words)
    this.#words[page] = undefined
  }

  #judge(from: number, to: number): void {
    if (!(from >= 0 && from <= to && to <= this.#length)) this.#refuse(from, to)
  }

  #judgePage(page: number): void {
    if (!(page >= 0 && page < this.pageCount)) throw new RangeError(`page ${page} of ${this.pageCount}`)
  }

  #judgeTwin(other: GrainBitmap): void {
    if (other.#length !== this.#length) throw new RangeError(`bitmaps of ${this.#length} and ${other.#length} grains`)
  }

  #refuse(from: number, to: number): never {
    throw new RangeError(`grains [${from}, ${to}) outside a bitmap of ${this.#length}`)
  }
}
