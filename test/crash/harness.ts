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
import {
  crashStates, type CrashState, DiskArray, ManualClock, type MemoryDisk, type Random, seededRandom,
} from '../../src/device/testing.js'
import type { Volume } from '../../src/volume/volume.js'
import { freshDisks, GRAIN, killed, openOn, readAll, SMALL_JOURNAL_BYTES, type Disks } from '../volume/lab.js'

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
export class History {
  readonly versions: Version[][]
  readonly #now: Buffer

  constructor(readonly start: number, readonly length: number, before: Buffer = Buffer.alloc(length)) {
    this.#now = before
    this.versions = Array.from({ length: length / SECTOR }, (_, sector) =>
      [{ op: -1, content: Buffer.from(before.subarray(sector * SECTOR, (sector + 1) * SECTOR)) }])
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
export type Plant = (disks: { [name in Name]: ReturnType<Array3['disk']> }, random: Random) => Disks

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
  history: History
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
    const { sizeBytes, journalBytes = SMALL_JOURNAL_BYTES } = options
    const { live, map, journal } = killed(await freshDisks({ sizeBytes, journalBytes }))
    lab.array = new DiskArray<Name, Note>({ live, map, journal }, { lateFlush: lab.random(2) === 0 })
    await lab.#openVolume()
    return lab
  }

  /** Goes on where a crash left the disks: what is read there now is what must hold from now on. */
  static async resume(options: LabOptions, disks: Readonly<Record<Name, MemoryDisk>>): Promise<CrashLab> {
    const lab = new CrashLab(options)
    const before = Buffer.alloc(lab.window[1])
    const copies = { live: disks.live.fork(), map: disks.map.fork(), journal: disks.journal.fork() }
    await (await openOn(copies, options.sizeBytes)).read(lab.window[0], before.length, before, 0)
    lab.history = new History(...lab.window, before)
    lab.array = new DiskArray<Name, Note>(disks, { lateFlush: lab.random(2) === 0 })
    await lab.#openVolume()
    return lab
  }

  async #openVolume(): Promise<void> {
    const { array, random } = this
    const disks = this.#plant({ live: array.disk('live'), map: array.disk('map'), journal: array.disk('journal') }, random)
    // The array's disks outlive the volume: a clean close and a new open are part of a history.
    for (const disk of Object.values(disks)) disk.close = async () => undefined
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
    const model = (op: number): void => { if (first < end) this.history.change(op, first, end - first, undefined) }
    await this.#operate(model, () => this.volume.trim(offset, length))
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
    const room = Math.floor((Math.min(start + length, this.sizeBytes) - offset) / unit)
    const bytes = Math.min(1 + this.random(Math.floor(maxGrains * GRAIN / unit)), room) * unit
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

export interface Verdict { states: number, bad: string[], settled: number, reopened: number }
/** Bad states after which a judgement is over. */
const BAD_MAX = 5
/** Of so many states one is closed and opened again at the end. */
const REOPEN_EVERY = 8

interface JudgeOptions {
  /** Take a sample of about so many states. */
  readonly statesMax: number
  /** Of so many states one is left to reclaim, scan and checkpoint first; 0 = none. */
  readonly settleEvery: number
}
type State = CrashState<Name, Note>

/** Opens and judges the crash states of what the lab has recorded. Stops after BAD_MAX bad ones. */
export async function judge(lab: CrashLab, { statesMax, settleEvery }: JudgeOptions): Promise<Verdict> {
  const { seed, sizeBytes: initialBytes } = lab.options
  const verdict: Verdict = { states: 0, bad: [], settled: 0, reopened: 0 }
  const random = seededRandom(seed ^ 0xabcd)
  for (const state of crashStates(lab.array, { seed, statesMax })) {
    verdict.states++
    const settle = settleEvery > 0 && verdict.states % settleEvery === 0
    const reopen = verdict.states % REOPEN_EVERY === 0
    try {
      for (const sizeBytes of sizesOf(state.notes, initialBytes)) {
        await judgeState(lab, state, sizeBytes, random, settle, reopen)
      }
      if (settle) verdict.settled++
      if (reopen) verdict.reopened++
    } catch (error) {
      const why = error instanceof Error ? error.stack : String(error)
      verdict.bad.push(`seed ${seed}, after event ${state.position}, ${state.story}: ${why}`)
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
  lab: CrashLab, state: State, sizeBytes: number, random: Random, settle: boolean, reopen: boolean,
): Promise<void> {
  const clock = new ManualClock()
  const disks = killed(state.disks)
  let volume = await openOn(disks, sizeBytes, { clock })
  const start = lab.window[0]
  const length = Math.min(lab.window[1], sizeBytes - start)
  const found = await readAll(volume, start, length)
  judgeContent(lab.history, found, state)
  const same = async (what: string): Promise<void> => {
    const again = await readAll(volume, start, length)
    if (!found.equals(again)) throw new Error(`${what} changed byte ${start + firstDifference(found, again)}`)
  }
  if (settle) {
    // Reclaim at once, the scan after a second, a checkpoint when all has been quiet.
    for (let i = 0; i < 4; i++) await clock.advance(4000)
    await same('the background work')
  }
  for (let at = 0; at < length; at += GRAIN) {
    const sectors = Math.max(1, Math.floor(Math.min(GRAIN, length - at) / SECTOR))
    const place = at + random(sectors) * SECTOR
    const bytes = Math.min(SECTOR, length - place)
    found.fill(0xa5, place, place + bytes)
    await volume.write(start + place, bytes, found, place)
  }
  await same('writing to other parts of the grains')
  if (!reopen) return
  await volume.flush()
  await volume.close()
  volume = await openOn(killed(disks), sizeBytes, { clock })
  await same('closing and opening')
  const { notes } = volume.recovered
  if (notes.length > 0) throw new Error(`an open after a clean close recovered something: ${notes.join('; ')}`)
}

export function judgeContent(
  history: History, found: Buffer, { kind, notes }: { readonly kind: 'kill' | 'power', readonly notes: readonly unknown[] },
): void {
  let flushed = 0
  let issued = -1
  const running = new Set<number>()
  for (const note of notes as readonly Note[]) {
    if (note.kind === 'issued') {
      issued = Math.max(issued, note.op)
      running.add(note.op)
    } else if (note.kind === 'done') running.delete(note.op)
    else if (note.kind === 'flushed') flushed = Math.max(flushed, note.op)
  }
  for (let sector = 0; sector * SECTOR < found.length; sector++) {
    const versions = history.versions[sector]
    const candidates: Buffer[] = []
    for (let i = versions.length - 1; i >= 0; i--) {
      const { op, content } = versions[i]
      if (op > issued) continue
      candidates.push(content)
      if (kind === 'power' ? op < flushed : !running.has(op)) break
    }
    const is = found.subarray(sector * SECTOR, (sector + 1) * SECTOR)
    if (candidates.some(content => is.compare(content, 0, is.length) === 0)) continue
    const at = is.findIndex((byte, i) => !candidates.some(content => content[i] === byte))
    if (at < 0) continue
    const wanted = candidates.map(content => content[at]).join(', ')
    throw new Error(`byte ${history.start + sector * SECTOR + at} is ${is[at]}, not one of ${wanted} ` +
      `(flushed below ${flushed}, issued ${issued}, running ${[...running].join()}, versions by ${versions.map(({ op }) => op).join()})`)
  }
}

function firstDifference(a: Buffer, b: Buffer): number {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return i
  return -1
}
