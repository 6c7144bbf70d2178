/**
 * MapFile: a GrainBitmap on a BlockDevice, page by page, each overwritten in place.
 *
 *   device   [ group 0 | group 1 | ... ]
 *   group    [ directory 512 B | page slot | page slot | ... 1024 slots of 4608 B each ]
 *
 * A directory says of each of its pages: all clear, all set, or mixed; only mixed ones have something in their slot.
 * So a fresh or a full map of any size is a few directories, and opening one reads only mixed pages.
 *
 * The rule that keeps volumes right: a map may say "data" too often, never too seldom. Whatever does not check (a torn
 * page, one of another volume, one that is missing though its directory says mixed, a bad directory) reads as ALL SET
 * and is reported. A directory is smaller than a sector, so a power cut leaves its old or its new state; hence a cut
 * costs at most the pages that were being written (PAGE_BITS grains each), never a group.
 *
 * Writes need no order among themselves, provided that (src/volume sees to it) a bit that turns from clear to set is
 * announced in the journal beforehand, and the announcement is dropped only after `flush`. One exception: where a page
 * was all set and is now mixed, its slot may hold a valid page of an older past. Were the directory there first, that
 * page would come back with too few bits, and no record says so. So its slot is made durable before the directory.
 * A bit that turns from set to clear while a save runs is the caller's care: `save` lets it make durable what cleared it
 * between looking at a page and writing it.
 *
 * An *exact* map (one of a TwinMap) may err in neither direction, so three things differ: what does not check is named to
 * the caller and left clear; a directory that did not check keeps saying LOST of its pages until they are saved; and the
 * slot of every page that becomes mixed is durable before its directory, for it may hold a valid page of an older past.
 *
 * Arithmetic: 16 TiB in grains of 4 KiB = 131,072 pages = 128 groups; the file is 576 MiB long, all holes but 64 KiB.
 */
import {
  decodeRecord, divCeil, encodeRecord, GrainBitmap, PAGE_BITS, PAGE_BYTES, PAGE_CLEAR, PAGE_MIXED, PAGE_SET,
  RECORD_HEADER_BYTES, type RecordReason,
} from '../../native-free/index.js'
import type { BlockDevice, Pending } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'

/** 'NBDM' */
export const MAP_MAGIC = 0x4e42444d
const MAP_VERSION = 1
const TYPE_DIRECTORY = 1
const TYPE_PAGE = 2
export const GROUP_PAGES = 1024
/** One sector: never torn. 64 of header, 256 of kinds (two bits a page), zeros. */
const DIRECTORY_BYTES = 512
const KINDS_BYTES = GROUP_PAGES / 4
/** Nine sectors: 64 of header, 4096 of bits, zeros. No two pages share a sector. */
const SLOT_BYTES = 4608
const GROUP_BYTES = DIRECTORY_BYTES + GROUP_PAGES * SLOT_BYTES
/** Slots read or written in one piece: 288 KiB. */
const RUN_PAGES = 64
/** Requests in flight at once. */
const IN_FLIGHT_MAX = 32

type Settle = () => Pending
const nothing: Settle = () => undefined

export interface MapIdentity {
  /** 16 bytes: the volume's uuid. */
  readonly owner: Buffer
  /** For messages. */
  readonly name: string
  /** Which of the volume's points the map belongs to (its seq); absent or 0: to the volume itself. */
  readonly point?: number
  /** Where the device begins in its file: records carry their offset in the file. */
  readonly base?: number
  /** Neither too many bits nor too few may be read: see the header. */
  readonly exact?: boolean
}

/** What a directory says beside the kinds of pages: what the page held is not known. Readers of version 1 take it as all set. */
const PAGE_LOST = 3

/** Length of the file for a bitmap of so many grains, bytes. */
export function mapFileSizeBytes(grains: number): number {
  const pages = divCeil(grains, PAGE_BITS)
  return addressOf(pages - 1) + SLOT_BYTES
}

/** Lays down a fresh map, all clear or all set, and makes it durable. The device has `mapFileSizeBytes(grains)` bytes, zeros. */
export async function formatMapFile(device: BlockDevice, identity: MapIdentity, grains: number, fill: boolean): Promise<void> {
  const map = new MapFile(device, identity, grains)
  await map.fill(fill)
  await device.flush()
}

export class MapFile {
  readonly #device: BlockDevice
  readonly #identity: MapIdentity
  /** What the directories on disk say, or will when the save that runs is done. */
  #kinds: Uint8Array
  readonly #point: number
  readonly #base: number
  readonly #exact: boolean
  /** A save did not come to its end: which directories are there is unknown. */
  #unsure = false

  constructor(device: BlockDevice, identity: MapIdentity, grains: number) {
    this.#device = device
    this.#identity = identity
    this.#point = identity.point ?? 0
    this.#base = identity.base ?? 0
    this.#exact = identity.exact ?? false
    // Until `load` has said better: a save before it must not turn pages it does not know into holes.
    this.#kinds = new Uint8Array(divCeil(grains, PAGE_BITS)).fill(this.#unknown)
  }

  /** What is assumed of a page that does not check. */
  get #unknown(): number { return this.#exact ? PAGE_LOST : PAGE_SET }
  /** The same for messages. */
  get #verdict(): string { return this.#exact ? 'lost' : 'taken as data' }

  /**
   * Fills `into` (as long as this map) from the device. Returns what did not check, in words; these pages read as all set,
   * those of an exact map as all clear. `bad` receives their numbers, in no order.
   */
  async load(into: GrainBitmap, bad: number[] = []): Promise<string[]> {
    if (into.pageCount !== this.#kinds.length) {
      throw new RangeError(`a bitmap of ${into.pageCount} pages for a map of ${this.#kinds.length}`)
    }
    const faults: string[] = []
    const queue = new RequestQueue()
    for (let first = 0; first < this.#kinds.length; first += GROUP_PAGES) {
      await queue.add(() => this.#loadDirectory(first, faults))
    }
    await queue.drain()
    const spare: Buffer[] = []
    for (const [from, to] of this.#runs()) {
      if (this.#kinds[from] === PAGE_MIXED) await queue.add(() => this.#loadPages(from, to, into, faults, spare))
      else {
        const [start, end] = [from * PAGE_BITS, Math.min(into.length, to * PAGE_BITS)]
        if (this.#kinds[from] === PAGE_SET) into.set(start, end)
        else into.clear(start, end)
      }
    }
    await queue.drain()
    for (let page = this.#kinds.indexOf(PAGE_LOST); page >= 0; page = this.#kinds.indexOf(PAGE_LOST, page + 1)) bad.push(page)
    return faults
  }

  /**
   * Writes the given pages of `from` (ascending, no doubles) and their directories; `flush` makes them durable. A page is
   * read from `from` when its turn comes, so bits changed while this runs may or may not be in it: save such a page again.
   * @param settle called after a page was read and before anything of it is written: what cleared its bits is durable then
   */
  async save(from: GrainBitmap, pages: Iterable<number>, settle: Settle = nothing): Promise<void> {
    const groups = new Set<number>()
    const queue = new RequestQueue()
    let run: number[] = []
    let slotsFirst = this.#unsure
    this.#unsure = true
    for (const page of pages) {
      const kind = from.pageKind(page)
      slotsFirst ||= kind === PAGE_MIXED && (this.#exact ? this.#kinds[page] !== PAGE_MIXED : this.#kinds[page] === PAGE_SET)
      this.#kinds[page] = kind
      groups.add(Math.floor(page / GROUP_PAGES))
      if (kind !== PAGE_MIXED) continue
      if (run.length > 0 && (page !== run.at(-1)! + 1 || page % GROUP_PAGES === 0 || run.length === RUN_PAGES)) {
        const full = run
        await queue.add(() => this.#savePages(from, full, settle))
        // A run takes some ms to encode, and where writes complete at once nothing else would let others have their turn.
        await new Promise<void>(resolve => { setImmediate(resolve) })
        run = []
      }
      run.push(page)
    }
    const rest = run
    if (rest.length > 0) await queue.add(() => this.#savePages(from, rest, settle))
    if (slotsFirst) {
      await queue.drain()
      await this.#device.flush()
    }
    for (const group of groups) await queue.add(() => this.#saveDirectory(group, settle))
    await queue.drain()
    this.#unsure = false
  }

  flush(): Pending { return this.#device.flush() }

  /** Follows the volume's size; new pages are clear. When it grows, the device has been made long enough before. */
  async resize(grains: number): Promise<void> {
    const before = this.#kinds.length
    const kinds = new Uint8Array(divCeil(grains, PAGE_BITS))
    kinds.set(this.#kinds.subarray(0, kinds.length))
    this.#kinds = kinds
    // Directories of a longer past would say what those pages held then: write all that reach beyond the old end.
    const queue = new RequestQueue()
    for (let group = Math.floor(before / GROUP_PAGES); group * GROUP_PAGES < kinds.length; group++) {
      await queue.add(() => this.#saveDirectory(group))
    }
    await queue.drain()
  }

  /** What `load` would find: `fill` has been done, by another MapFile, and nothing since. */
  assume(value: boolean): void { this.#kinds.fill(value ? PAGE_SET : PAGE_CLEAR) }

  /** Makes every page all clear or all set, without a page written. */
  async fill(value: boolean): Promise<void> {
    this.assume(value)
    const queue = new RequestQueue()
    for (let group = 0; group * GROUP_PAGES < this.#kinds.length; group++) await queue.add(() => this.#saveDirectory(group))
    await queue.drain()
  }

  async #loadDirectory(first: number, faults: string[]): Promise<void> {
    const last = Math.min(first + GROUP_PAGES, this.#kinds.length)
    const at = directoryAddress(first / GROUP_PAGES)
    const sector = Buffer.alloc(DIRECTORY_BYTES)
    if (at + DIRECTORY_BYTES <= this.#device.sizeBytes) await this.#device.read(at, DIRECTORY_BYTES, sector, 0)
    const kinds = this.#decode(sector, 0, at, TYPE_DIRECTORY, KINDS_BYTES)
    if (typeof kinds === 'string') {
      const place = `the directory at offset ${this.#base + at}`
      faults.push(`${this.#identity.name}: ${place} ${kinds}: all its grains are ${this.#verdict}`)
      this.#kinds.fill(this.#unknown, first, last)
      return
    }
    for (let page = first; page < last; page++) {
      const within = page - first
      const kind = (kinds[within >>> 2] >>> (2 * (within & 3))) & 3
      this.#kinds[page] = kind === PAGE_LOST ? this.#unknown : kind
      if (this.#kinds[page] === PAGE_LOST) faults.push(`${this.#identity.name}: page ${page} did not check before: it is lost`)
    }
  }

  /** @param spare buffers of a run's length, whose content is worth nothing */
  #loadPages(from: number, to: number, into: GrainBitmap, faults: string[], spare: Buffer[]): Pending {
    const start = addressOf(from)
    const slots = spare.pop() ?? Buffer.allocUnsafe(RUN_PAGES * SLOT_BYTES)
    const wanted = (to - from) * SLOT_BYTES
    const length = Math.max(0, Math.min(wanted, this.#device.sizeBytes - start))
    slots.fill(0, length, wanted)
    const take = (): void => {
      this.#takePages(from, to, slots, into, faults)
      spare.push(slots)
    }
    const reading = length > 0 ? this.#device.read(start, length, slots, 0) : undefined
    if (reading) return reading.then(take)
    take()
    return undefined
  }

  #takePages(from: number, to: number, slots: Buffer, into: GrainBitmap, faults: string[]): void {
    for (let page = from; page < to; page++) {
      const bits = this.#decode(slots, (page - from) * SLOT_BYTES, addressOf(page), TYPE_PAGE, PAGE_BYTES)
      if (typeof bits !== 'string') {
        into.loadPage(page, bits)
        continue
      }
      const place = `page ${page} at offset ${this.#base + addressOf(page)}`
      faults.push(`${this.#identity.name}: ${place} ${bits}: its grains are ${this.#verdict}`)
      into.fillPage(page, !this.#exact)
      if (this.#exact) this.#kinds[page] = PAGE_LOST
    }
  }

  async #savePages(from: GrainBitmap, pages: readonly number[], settle: Settle): Promise<void> {
    const slots = Buffer.alloc(pages.length * SLOT_BYTES)
    for (const [index, page] of pages.entries()) {
      this.#encode(addressOf(page), TYPE_PAGE, from.pageBytes(page), slots, index * SLOT_BYTES)
    }
    await settle()
    await this.#device.write(addressOf(pages[0]), slots.length, slots, 0)
  }

  async #saveDirectory(group: number, settle: Settle = nothing): Promise<void> {
    const first = group * GROUP_PAGES
    const kinds = Buffer.alloc(KINDS_BYTES)
    for (let within = 0; within < GROUP_PAGES && first + within < this.#kinds.length; within++) {
      kinds[within >>> 2] |= this.#kinds[first + within] << (2 * (within & 3))
    }
    const sector = Buffer.alloc(DIRECTORY_BYTES)
    this.#encode(directoryAddress(group), TYPE_DIRECTORY, kinds, sector, 0)
    await settle()
    await this.#device.write(directoryAddress(group), DIRECTORY_BYTES, sector, 0)
  }

  /** Runs of pages of one kind, mixed ones at most RUN_PAGES long and within one group. */
  *#runs(): Generator<[from: number, to: number]> {
    for (let from = 0; from < this.#kinds.length;) {
      const kind = this.#kinds[from]
      const mixedEnd = Math.min(from + RUN_PAGES, from - from % GROUP_PAGES + GROUP_PAGES)
      const limit = Math.min(this.#kinds.length, kind === PAGE_MIXED ? mixedEnd : Infinity)
      let to = from + 1
      while (to < limit && this.#kinds[to] === kind) to++
      yield [from, to]
      from = to
    }
  }

  #encode(address: number, type: number, payload: Buffer, into: Buffer, at: number): void {
    const place = { magic: MAP_MAGIC, version: MAP_VERSION, owner: this.#identity.owner, address: this.#base + address }
    encodeRecord(place, { type, epoch: this.#point, sequence: 0, durableSequence: 0 }, payload, into, at)
  }

  /** The payload, or what is wrong with it. Throws `newer-format`. */
  #decode(bytes: Buffer, at: number, address: number, type: number, payloadBytes: number): Buffer | string {
    const place = { magic: MAP_MAGIC, version: MAP_VERSION, owner: this.#identity.owner, address: this.#base + address }
    const found = decodeRecord(place, bytes.subarray(0, at + RECORD_HEADER_BYTES + payloadBytes), at)
    if (!found.ok) {
      if (found.reason !== 'version') return WORDS[found.reason]
      throw new NbdeltaError('newer-format', `${this.#identity.name}: written by a newer version of nbdelta`)
    }
    if (found.epoch !== this.#point) return 'belongs to another point'
    return found.type === type && found.payload.length === payloadBytes ? found.payload : 'is a record of another kind'
  }
}

const WORDS: Readonly<Record<Exclude<RecordReason, 'version'>, string>> = {
  end: 'is missing',
  magic: 'is not a record of a map',
  length: 'has an impossible length',
  checksum: 'does not match its checksum',
  owner: 'belongs to another volume',
  address: 'was written for another place',
}

function directoryAddress(group: number): number { return group * GROUP_BYTES }

function addressOf(page: number): number {
  return directoryAddress(Math.floor(page / GROUP_PAGES)) + DIRECTORY_BYTES + page % GROUP_PAGES * SLOT_BYTES
}

/** Runs requests, at most IN_FLIGHT_MAX at once. The first failure comes out of `drain`, when nothing runs any more. */
class RequestQueue {
  readonly #running = new Set<Promise<void>>()
  #failed = false
  #failure: unknown

  /** Starts the request, then waits until there is room for another. */
  async add(request: () => Pending): Promise<void> {
    if (this.#failed) return
    let started: Pending
    try {
      started = request()
    } catch (error) {
      this.#fail(error)
      return
    }
    if (!started) return
    const running: Promise<void> = started.catch((error: unknown) => { this.#fail(error) })
      .finally(() => { this.#running.delete(running) })
    this.#running.add(running)
    if (this.#running.size >= IN_FLIGHT_MAX) await Promise.race(this.#running)
  }

  #fail(error: unknown): void {
    this.#failed = true
    this.#failure = error
  }

  async drain(): Promise<void> {
    await Promise.all(this.#running)
    if (this.#failed) throw this.#failure
  }
}
