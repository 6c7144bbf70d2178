/**
 * Crash states: everything that may be on the disks after the server was killed or the power failed, at every moment
 * of a recorded history (disk-array.ts). Whoever stores data opens each state and checks its promises.
 *
 *     const array = new DiskArray({ live: 1 << 20, journal: 1 << 16 })
 *     const volume = await openVolume({ live: array.disk('live'), journal: array.disk('journal') })
 *     await volume.write(0, 4096, data, 0); array.note('acknowledged')
 *     await volume.flush(); array.note('flushed')
 *     for (const state of crashStates(array, { seed: 1 })) {
 *       const again = await openVolume(state.disks)         // memory disks of its own, writable
 *       if (state.notes.includes('flushed') || (state.kind === 'kill' && state.notes.includes('acknowledged'))) same(again, data)
 *     }
 *
 * What may be left (one crash point after each event and the notes that follow it)
 * - kill: the process died, the kernel lived: every write is there (D1). The very last may have been cut short at a
 *   page, before anybody could have been told that it was done.
 * - power: what a finished flush covered is there. Of the last 4 uncovered writes of all disks together every subset is
 *   tried, whole, and some subsets torn at 512-byte sectors. Uncovered writes older than these follow three
 *   histories: all reached the medium, none did, a coin was thrown for each (whole, torn, lost).
 */
import type { DiskArray, DiskChange, DiskEvent } from './disk-array.js'
import type { MemoryDisk } from './memory-disk.js'
import { type Random, seededRandom } from './random.js'

const SECTOR_BYTES = 512
const PAGE_BYTES = 4096
/** All subsets of the last so many: 16. */
const WINDOW_DEFAULT = 4
const TORN_DEFAULT = 4
const LANES = ['kept', 'lost', 'coin'] as const
type LaneKind = typeof LANES[number]

export interface CrashOptions {
  readonly seed: number
  /** Uncovered writes of which every subset is tried; 2^window states a point and history. */
  readonly window?: number
  /** Torn subsets tried at each point and history. */
  readonly torn?: number
  /** Take a seeded sample of about this many states instead of all. */
  readonly statesMax?: number
}

export interface CrashState<Name extends string = string, Note = unknown> {
  readonly kind: 'kill' | 'power'
  /** Fresh disks; changing them changes no other state. Made when first looked at: look before the next state is asked for. */
  readonly disks: Readonly<Record<Name, MemoryDisk>>
  /** What had been noted before the crash. Valid until the next state is asked for. */
  readonly notes: readonly Note[]
  /** Number of history events before the crash, and what happened to the uncovered ones: for messages. */
  readonly position: number
  readonly story: string
}

/** All states, in the order of the history. Deterministic in `seed`. */
export function* crashStates<Name extends string, Note>(
  array: DiskArray<Name, Note>, options: CrashOptions,
): Generator<CrashState<Name, Note>> {
  const { statesMax, seed } = options
  const share = statesMax === undefined ? 1 : Math.min(1, statesMax / countStates(array, options))
  const sample = seededRandom(seed ^ 0x5eed)
  const medium = new Medium(array, options)
  const notes: Note[] = []
  const events = array.history
  for (let i = -1; i < events.length; i++) {
    const event = events[i]
    if (event?.kind === 'note') {
      notes.push(event.value as Note)
    } else if (event) {
      if (event.kind === 'write' && keeps(sample, share)) yield* cutShort(array, medium, event, notes)
      medium.happen(event)
    }
    if (events[i + 1]?.kind === 'note') continue
    for (const plan of medium.plans()) {
      if (!keeps(sample, share)) continue
      yield { kind: plan.kind, disks: named(array, medium.build(plan)), notes, position: i + 1, story: medium.tell(plan) }
    }
  }
}

/** How many states `crashStates` gives without a limit. */
export function countStates(array: DiskArray, options: CrashOptions): number {
  const medium = new Medium(array, options, true)
  let count = 0
  for (let i = -1; i < array.history.length; i++) {
    const event = array.history[i]
    if (event && event.kind !== 'note') medium.happen(event)
    if (event?.kind === 'write' && cutPlace(event) > 0) count++
    if (array.history[i + 1]?.kind !== 'note') for (const _ of medium.plans()) count++
  }
  return count
}

function keeps(sample: Random, share: number): boolean { return share >= 1 || sample(1e6) < share * 1e6 }

/** One state: which history the older writes followed, which of the window are there, which of those torn. */
interface Plan { readonly kind: 'kill' | 'power', readonly lane: number, readonly mask: number, readonly torn: boolean }

interface Lane {
  readonly kind: LaneKind
  readonly images: MemoryDisk[]
  /** Uncovered writes that left the window, with what became of them here, in order. */
  aged: { readonly change: DiskChange, readonly fate: Fate }[]
}

/** Whole, lost, or torn: one flag a sector. */
type Fate = 'whole' | 'lost' | readonly boolean[]

/** What the disks hold at one point of the history, in each of the lanes. */
class Medium {
  readonly #random: Random
  readonly #windowMax: number
  readonly #tornCount: number
  readonly #durable: MemoryDisk[]
  readonly #lanes: Lane[]
  /** Only counting: images stay as they are. */
  readonly #dry: boolean
  #window: DiskChange[] = []
  #uncovered: DiskChange[] = []

  constructor(array: DiskArray, options: CrashOptions, dry = false) {
    this.#random = seededRandom(options.seed)
    this.#windowMax = options.window ?? WINDOW_DEFAULT
    this.#tornCount = options.torn ?? TORN_DEFAULT
    this.#durable = array.initialImages()
    this.#lanes = LANES.map(kind => ({ kind, images: this.#durable.map(disk => disk.fork()), aged: [] }))
    this.#dry = dry
  }

  happen(event: Exclude<DiskEvent, { kind: 'note' }>): void {
    if (event.kind === 'flush') return this.#cover(event.disk, event.covers)
    this.#uncovered.push(event)
    this.#window.push(event)
    if (this.#window.length <= this.#windowMax) return
    const change = this.#window.shift()!
    for (const lane of this.#lanes) {
      const fate = this.#fate(lane.kind, change)
      lane.aged.push({ change, fate })
      if (!this.#dry) apply(change, fate, lane.images[change.disk])
    }
  }

  /** Every state at this point. Without older writes the three lanes are one. */
  * plans(): Generator<Plan> {
    const full = 2 ** this.#window.length - 1
    yield { kind: 'kill', lane: 0, mask: full, torn: false }
    const lanes = this.#lanes[0].aged.length > 0 ? this.#lanes.length : 1
    for (let lane = 0; lane < lanes; lane++) {
      for (let mask = 0; mask <= full; mask++) if (lane > 0 || mask < full) yield { kind: 'power', lane, mask, torn: false }
      if (full === 0) continue
      for (let i = 0; i < this.#tornCount; i++) yield { kind: 'power', lane, mask: 1 + this.#random(full), torn: true }
    }
  }

  /** Disks that the window changed; all others are as the lane has them. */
  build(plan: Plan): Image[] {
    const { images } = this.#lanes[plan.lane]
    const built: Image[] = images.map(image => ({ from: image, own: undefined }))
    this.#window.forEach((change, i) => {
      if (plan.mask & 2 ** i) apply(change, plan.torn ? tear(change, this.#random) : 'whole', own(built[change.disk]))
    })
    return built
  }

  tell(plan: Plan): string {
    if (plan.kind === 'kill') return 'killed; all writes reached the kernel'
    const fates = this.#window.map((change, i) =>
      `${change.kind}#${change.serial}@${change.disk} ${plan.mask & 2 ** i ? plan.torn ? 'torn' : 'there' : 'lost'}`)
    const { kind, aged } = this.#lanes[plan.lane]
    return `power cut; older uncovered writes ${kind} (${aged.length}); ${fates.join(', ')}`
  }

  #cover(disk: number, covers: number): void {
    const covered = (change: DiskChange): boolean => change.disk === disk && change.serial < covers
    if (!this.#dry) for (const change of this.#uncovered) if (covered(change)) apply(change, 'whole', this.#durable[disk])
    this.#uncovered = this.#uncovered.filter(change => !covered(change))
    this.#window = this.#window.filter(change => !covered(change))
    for (const lane of this.#lanes) {
      lane.aged = lane.aged.filter(({ change }) => !covered(change))
      if (this.#dry) continue
      lane.images[disk] = this.#durable[disk].fork()
      for (const { change, fate } of lane.aged) if (change.disk === disk) apply(change, fate, lane.images[disk])
    }
  }

  #fate(kind: LaneKind, change: DiskChange): Fate {
    if (kind === 'kept') return 'whole'
    if (kind === 'lost') return 'lost'
    const coin = this.#random(3)
    return coin === 0 ? 'whole' : coin === 1 ? 'lost' : tear(change, this.#random)
  }
}

/** One disk of a state: a copy is made when somebody needs it. */
interface Image { readonly from: MemoryDisk, own: MemoryDisk | undefined }

function own(image: Image): MemoryDisk { return image.own ??= image.from.fork() }

function named<Name extends string>(array: DiskArray<Name>, images: readonly Image[]): Record<Name, MemoryDisk> {
  const disks = {}
  for (const [i, name] of array.names.entries()) {
    Object.defineProperty(disks, name, { enumerable: true, get: () => own(images[i]) })
  }
  return disks as Record<Name, MemoryDisk>
}

/** Where a kill may cut a write: at a page boundary inside it; 0 = nowhere. */
function cutPlace(event: DiskEvent & { kind: 'write' }): number {
  const place = PAGE_BYTES - event.offset % PAGE_BYTES
  return place < event.data.length ? place : 0
}

/** The kill in the middle of a write: everything before it, and its first page. Nobody was told that it was done. */
function* cutShort<Name extends string, Note>(
  array: DiskArray<Name, Note>, medium: Medium, event: DiskEvent & { kind: 'write' }, notes: readonly Note[],
): Generator<CrashState<Name, Note>> {
  const cut = cutPlace(event)
  if (cut === 0) return
  const [everything] = medium.plans()
  const images = medium.build(everything)
  apply({ ...event, data: event.data.subarray(0, cut) }, 'whole', own(images[event.disk]))
  const story = `killed ${cut} bytes into write#${event.serial}`
  yield { kind: 'kill', disks: named(array, images), notes, position: event.serial, story }
}

function spanOf(change: DiskChange): { offset: number, length: number } {
  if (change.kind === 'resize') return { offset: 0, length: 0 }
  return { offset: change.offset, length: change.kind === 'write' ? change.data.length : change.length }
}

/** Half of the time a prefix arrived, else any sectors. What fits one sector arrives or does not. */
function tear(change: DiskChange, random: Random): Fate {
  const { offset, length } = spanOf(change)
  const sectors = Math.ceil((offset + length) / SECTOR_BYTES) - Math.floor(offset / SECTOR_BYTES)
  if (sectors <= 1) return random(2) === 0 ? 'whole' : 'lost'
  const prefix = random(2) === 0 ? 1 + random(sectors - 1) : 0
  return Array.from({ length: sectors }, (_, i) => prefix > 0 ? i < prefix : random(2) === 0)
}

function apply(change: DiskChange, fate: Fate, image: MemoryDisk): void {
  if (fate === 'lost') return
  if (change.kind === 'resize') return image.setSize(change.sizeBytes)
  const { offset, length } = spanOf(change)
  // The growth before it was lost, but a file that holds the write is long enough.
  if (offset + length > image.sizeBytes) image.setSize(offset + length)
  if (fate === 'whole') return applyPart(change, offset, length, image)
  const first = Math.floor(offset / SECTOR_BYTES)
  for (let i = 0; i < fate.length; i++) {
    if (!fate[i]) continue
    let last = i
    while (fate[last + 1]) last++
    const start = Math.max(offset, (first + i) * SECTOR_BYTES)
    applyPart(change, start, Math.min(offset + length, (first + last + 1) * SECTOR_BYTES) - start, image)
    i = last
  }
}

function applyPart(change: Exclude<DiskChange, { kind: 'resize' }>, offset: number, length: number, image: MemoryDisk): void {
  if (change.kind === 'write') image.write(offset, length, change.data, offset - change.offset)
  else if (change.kind === 'zero') image.zero(offset, length, change.mode)
  else image.trim(offset, length)
}
