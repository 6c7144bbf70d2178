/**
 * Crash states of a volume: a workload runs over a DiskArray and notes what it was promised; then every state a crash
 * may leave is opened and judged.
 *
 * Judged, for each byte of the window that the workload uses:
 * - power cut (D2): what it was when the last acknowledged flush was called, or any later value that was written;
 * - kill (D1): what the last acknowledged request made it, or what one still in flight would have;
 * - then, whatever was found must stay: through reclaim, scan and checkpoint, through writes to other parts of the same
 *   grains, through close and open. So bytes under a hole or a stale grain can never come back unseen.
 *
 * A value is looked up by 512-byte sector; a sector that is none of its versions may still be a mixture of them, byte by
 * byte, where writes of less than a sector were lost or not.
 */
import { crashStates, DiskArray, ManualClock, type MemoryDisk, type Random, seededRandom } from '../../src/device/testing.js'
import type { Volume } from '../../src/volume/volume.js'
import { freshDisks, GRAIN, openOn, SMALL_JOURNAL_BYTES, type Disks } from '../volume/lab.js'

const SECTOR = 512

export type Note =
  | { readonly kind: 'issued' | 'done', readonly op: number }
  /** A flush that was called when all operations below `op` were done is acknowledged. */
  | { readonly kind: 'flushed', readonly op: number }
  /** The catalog is about to say, or says durably, that the volume has this size. */
  | { readonly kind: 'committing' | 'committed', readonly sizeBytes: number }

type Name = 'live' | 'map' | 'journal'
export type Array3 = DiskArray<Name, Note>

interface Version { readonly op: number, readonly content: Buffer }

/** What a window of the volume held after each operation. */
class History {
  readonly versions: Version[][]
  readonly #now: Buffer

  constructor(readonly start: number, readonly length: number) {
    this.#now = Buffer.alloc(length)
    this.versions = Array.from({ length: length / SECTOR }, () => [{ op: -1, content: Buffer.alloc(SECTOR) }])
  }

  /** Operation `op` turns [offset, offset + length) into `data`, or zeros. */
  change(op: number, offset: number, length: number, data: Buffer | undefined): void {
    const from = Math.max(offset, this.start)
    const to = Math.min(offset + length, this.start + this.length)
    if (from >= to) return
    if (data) data.copy(this.#now, from - this.start, from - offset, to - offset)
    else this.#now.fill(0, from - this.start, to - this.start)
    for (let sector = Math.floor((from - this.start) / SECTOR); sector * SECTOR < to - this.start; sector++) {
      this.versions[sector].push({ op, content: Buffer.from(this.#now.subarray(sector * SECTOR, (sector + 1) * SECTOR)) })
    }
  }
}

/** Wraps a disk of the array for the volume under test: how faults are planted without touching the product. */
export type Plant = (disks: { [name in Name]: ReturnType<Array3['disk']> }) => Disks

export interface LabOptions {
  readonly seed: number
  readonly sizeBytes: number
  /** Part of the volume that the workload uses and the judge reads; all of it by default. */
  readonly window?: readonly [start: number, length: number]
  readonly journalBytes?: number
  readonly plant?: Plant
}

/** Runs a workload and remembers. One operation at a time, or several that do not overlap. */
export class CrashLab {
  readonly random: Random
  readonly clock = new ManualClock()
  readonly history: History
  readonly window: readonly [start: number, length: number]
  array!: Array3
  volume!: Volume
  sizeBytes: number
  readonly #plant: Plant
  #ops = 0
  readonly #running = new Set<number>()

  private constructor(readonly options: LabOptions) {
    this.random = seededRandom(options.seed)
    this.sizeBytes = options.sizeBytes
    this.window = options.window ?? [0, options.sizeBytes]
    this.history = new History(...this.window)
    this.#plant = options.plant ?? (disks => disks)
  }

  static async open(options: LabOptions): Promise<CrashLab> {
    const lab = new CrashLab(options)
    const disks = await freshDisks({ sizeBytes: options.sizeBytes, journalBytes: options.journalBytes ?? SMALL_JOURNAL_BYTES })
    lab.array = new DiskArray<Name, Note>(disks as unknown as Record<Name, MemoryDisk>, { lateFlush: lab.random(2) === 0 })
    await lab.#openVolume()
    return lab
  }

  async #openVolume(): Promise<void> {
    const disks = this.#plant({ live: this.array.disk('live'), map: this.array.disk('map'), journal: this.array.disk('journal') })
    // The array's disks outlive the volume: a clean close and a new open are part of a history.
    for (const disk of Object.values(disks) as { close: () => Promise<void> }[]) disk.close = async () => undefined
    this.volume = await openOn(disks, this.sizeBytes, { clock: this.clock })
  }

  async reopen(): Promise<void> {
    await this.volume.close()
    await this.#openVolume()
  }

  async write(offset: number, length: number): Promise<void> {
    const data = Buffer.alloc(length)
    for (let at = 0; at < length; at += 7) data.fill(1 + this.random(255), at, Math.min(length, at + 7))
    await this.#operate(op => this.history.change(op, offset, length, data), () => this.volume.write(offset, length, data, 0))
  }

  async zero(offset: number, length: number, mode: { allocate?: boolean, fast?: boolean } = {}): Promise<void> {
    try {
      await this.#operate(op => this.history.change(op, offset, length, undefined),
        () => this.volume.zero(offset, length, { allocate: false, fast: false, ...mode }))
    } catch (error) {
      // Refused: content untouched. The judge allows zeros there until the next write, which is one version too many.
      if ((error as { code?: string }).code !== 'not-fast') throw error
    }
  }

  async trim(offset: number, length: number): Promise<void> {
    const first = Math.ceil(offset / GRAIN) * GRAIN
    const end = offset + length === this.sizeBytes ? this.sizeBytes : Math.floor((offset + length) / GRAIN) * GRAIN
    await this.#operate(op => { if (first < end) this.history.change(op, first, end - first, undefined) }, () => this.volume.trim(offset, length))
  }

  async flush(): Promise<void> {
    const op = this.#running.size > 0 ? Math.min(...this.#running) : this.#ops
    await this.volume.flush()
    this.array.note({ kind: 'flushed', op })
  }

  async resize(sizeBytes: number): Promise<void> {
    const before = this.sizeBytes
    await this.#operate(op => {
      // What is cut off reads as zeros when it comes back.
      if (sizeBytes < before) this.history.change(op, sizeBytes, before - sizeBytes, undefined)
    }, () => this.volume.resize(sizeBytes, async () => {
      this.array.note({ kind: 'committing', sizeBytes })
      await Promise.resolve()
      this.array.note({ kind: 'committed', sizeBytes })
    }))
    this.sizeBytes = sizeBytes
  }

  /** Time passes: reclaim, checkpoint and scan get their turns. */
  async wait(ms: number): Promise<void> { await this.clock.advance(ms) }

  /** Somewhere in the window: mostly sectors, often whole grains, now and then odd bytes. */
  place(maxGrains = 3): [offset: number, length: number] {
    const [start, length] = this.window
    const unit = [GRAIN, SECTOR, SECTOR, 1][this.random(4)]
    const offset = start + this.random(Math.floor(length / unit)) * unit
    const bytes = Math.min(1 + this.random(Math.floor(maxGrains * GRAIN / unit)), Math.floor((Math.min(start + length, this.sizeBytes) - offset) / unit)) * unit
    return bytes > 0 ? [offset, bytes] : this.place(maxGrains)
  }

  async #operate(model: (op: number) => void, run: () => Promise<void> | undefined): Promise<void> {
    const op = this.#ops++
    model(op)
    this.#running.add(op)
    this.array.note({ kind: 'issued', op })
    await run()
    this.#running.delete(op)
    this.array.note({ kind: 'done', op })
  }
}

export interface Verdict { states: number, bad: string[], scanned: number, reopened: number }
const BAD_MAX = 5

/** Opens and judges the crash states of what the lab has recorded. Stops after BAD_MAX bad ones. */
export async function judge(lab: CrashLab, options: { statesMax?: number, reopenEvery?: number, scanEvery?: number } = {}): Promise<Verdict> {
  const { reopenEvery = 8, scanEvery = 4 } = options
  const verdict: Verdict = { states: 0, bad: [], scanned: 0, reopened: 0 }
  const random = seededRandom(lab.options.seed ^ 0xabcd)
  for (const state of crashStates(lab.array, { seed: lab.options.seed, ...(options.statesMax === undefined ? {} : { statesMax: options.statesMax }) })) {
    verdict.states++
    try {
      for (const sizeBytes of sizesOf(state.notes, lab.options.sizeBytes)) {
        const disks = { live: state.disks.live.fork(), map: state.disks.map.fork(), journal: state.disks.journal.fork() }
        await judgeState(lab, disks, sizeBytes, state, random, scanEvery > 0 && verdict.states % scanEvery === 0, verdict.states % reopenEvery === 0)
      }
      if (scanEvery > 0 && verdict.states % scanEvery === 0) verdict.scanned++
      if (verdict.states % reopenEvery === 0) verdict.reopened++
    } catch (error) {
      verdict.bad.push(`seed ${lab.options.seed}, after event ${state.position}, ${state.story}: ${error instanceof Error ? error.stack : String(error)}`)
      if (verdict.bad.length >= BAD_MAX) break
    }
  }
  return verdict
}

/** What the catalog may say: one size, or two while a commit is under way. */
function sizesOf(notes: readonly Note[], initial: number): Set<number> {
  let size = initial
  let coming: number | undefined
  for (const note of notes) {
    if (note.kind === 'committing') coming = note.sizeBytes
    else if (note.kind === 'committed') [size, coming] = [note.sizeBytes, undefined]
  }
  return new Set(coming === undefined ? [size] : [size, coming])
}

async function judgeState(
  lab: CrashLab, disks: { live: MemoryDisk, map: MemoryDisk, journal: MemoryDisk }, sizeBytes: number,
  state: { readonly kind: 'kill' | 'power', readonly notes: readonly Note[] }, random: Random, settle: boolean, reopen: boolean,
): Promise<void> {
  const clock = new ManualClock()
  const after = { live: disks.live.fork(), map: disks.map, journal: disks.journal }
  let volume = await openOn(disks, sizeBytes, { clock })
  const [start] = lab.window
  const length = Math.min(lab.window[1], sizeBytes - start)
  const found = Buffer.alloc(length)
  await volume.read(start, length, found, 0)
  judgeContent(lab.history, found, state)
  void after
  const again = Buffer.alloc(length)
  const same = async (what: string): Promise<void> => {
    await volume.read(start, length, again, 0)
    if (!found.equals(again)) throw new Error(`${what} changed byte ${start + firstDifference(found, again)}`)
  }
  if (settle) {
    // Reclaim, a second of rest before the scan, a chunk, a checkpoint when all is quiet.
    for (let i = 0; i < 4; i++) await clock.advance(4000)
    await same('the background work')
  }
  // One sector of every grain that reads as zeros somewhere, and of some others.
  for (let at = 0; at < length; at += GRAIN) {
    const place = at + random(Math.max(1, Math.floor(Math.min(GRAIN, length - at) / SECTOR))) * SECTOR
    const bytes = Math.min(SECTOR, length - place)
    found.fill(0xa5, place, place + bytes)
    await volume.write(start + place, bytes, found, place)
  }
  await same('writing to other parts of the grains')
  if (!reopen) return
  await volume.flush()
  await volume.close()
  const copies = { live: disks.live, map: disks.map, journal: disks.journal }
  volume = await openOn({ live: copies.live.fork(), map: copies.map.fork(), journal: copies.journal.fork() }, sizeBytes, { clock })
  await same('closing and opening')
  if (volume.recovered.notes.length > 0) throw new Error(`an open after a clean close recovered something: ${volume.recovered.notes.join('; ')}`)
}

function judgeContent(history: History, found: Buffer, state: { readonly kind: 'kill' | 'power', readonly notes: readonly Note[] }): void {
  let flushed = 0
  let issued = -1
  const running = new Set<number>()
  for (const note of state.notes) {
    if (note.kind === 'issued') { issued = Math.max(issued, note.op); running.add(note.op) }
    else if (note.kind === 'done') running.delete(note.op)
    else if (note.kind === 'flushed') flushed = Math.max(flushed, note.op)
  }
  for (let sector = 0; sector * SECTOR < found.length; sector++) {
    const versions = history.versions[sector]
    const candidates: Buffer[] = []
    for (let i = versions.length - 1; i >= 0; i--) {
      const { op, content } = versions[i]
      if (op > issued) continue
      candidates.push(content)
      if (state.kind === 'power' ? op < flushed : !running.has(op)) break
    }
    const is = found.subarray(sector * SECTOR, (sector + 1) * SECTOR)
    if (candidates.some(content => is.compare(content, 0, is.length) === 0)) continue
    for (let i = 0; i < is.length; i++) {
      if (!candidates.some(content => content[i] === is[i])) {
        const ops = versions.map(version => version.op).join(',')
        throw new Error(`byte ${history.start + sector * SECTOR + i} is ${is[i]}, none of ${candidates.map(content => content[i]).join(', ')} ` +
          `(flushed below ${flushed}, issued ${issued}, running ${[...running].join()}, versions by ${ops})`)
      }
    }
  }
}

function firstDifference(a: Buffer, b: Buffer): number {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return i
  return -1
}
