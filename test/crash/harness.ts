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
import { NbdeltaError } from '../../src/device/errors.js'
import {
  crashStates, type CrashState, DiskArray, ManualClock, MemoryDisk, type Random, seededRandom,
} from '../../src/device/testing.js'
import { EXTENT_GRAINS } from '../../src/store/journal-records.js'
import type { PointTable } from '../../src/store/point-table.js'
import type { PointKind } from '../../src/volume/snappoint.js'
import { openVolume } from '../../src/volume/open-volume.js'
import type { Volume } from '../../src/volume/volume.js'
import { freshDisks, GRAIN, killed, readAll, SMALL_JOURNAL_BYTES, UUID, type Disks } from '../volume/lab.js'
import { InheritDisks, layerNames } from './inherit-disks.js'
import { FOLDERS_BYTES, formatTable, openTable, PointDisks, slotNames, STAGED_BYTES, TABLE_BYTES, type Devices, type FileDevice } from './point-disks.js'
import { judgePoints, type PointHistory, PointsJudge } from './point-judge.js'

const SECTOR = 512
/** A clone's disks begin with this. */
const HEIR = 'heir.'
const HEIR_UUID = '00000000-0000-4000-8000-000000000002'

export type Note = (
  | { readonly kind: 'issued' | 'done', readonly op: number }
  /** A flush that was called when all operations below `op` were done is acknowledged. */
  | { readonly kind: 'flushed', readonly op: number }
  /** The catalog is about to say, or says durably, that the volume has this size. */
  | { readonly kind: 'committing' | 'committed', readonly sizeBytes: number }
  /** A point was asked for or answered, its deletion likewise: number `point` of the lab's. */
  | { readonly kind: 'asked' | 'made' | 'unwanted' | 'gone', readonly point: number }
  /** There is a clone from here on. */
  | { readonly kind: 'cloned' }
) & { /** Of the clone. */ readonly heir?: boolean }

/** live, map, journal; with points: table, folders, mapsSEQ, preservedSEQ. */
type Name = string
export type LabArray = DiskArray<Name, Note>

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

  /** The window as it is now, once everything that was issued is done. */
  get now(): Buffer { return this.#now }

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

  /** Operation `op` was refused: it has changed nothing, at any moment. Whatever ran beside it was in other sectors. */
  retract(op: number): void {
    for (const [sector, versions] of this.versions.entries()) {
      const at = versions.findIndex(version => version.op === op)
      if (at < 0) continue
      if (at !== versions.length - 1) throw new Error(`operation ${op} was refused, and sector ${sector} was changed behind it`)
      versions.pop()
      versions[at - 1].content.copy(this.#now, sector * SECTOR)
    }
  }
}

/** Wraps a disk of the array for the volume under test: how faults are planted without touching the product. */
export type Plant = (disks: Record<keyof Disks, ReturnType<LabArray['disk']>>, random: Random) => Disks

export interface LabOptions {
  readonly seed: number
  readonly sizeBytes: number
  /** Part of the volume that the workload uses and the judge reads; all of it by default. */
  readonly window?: readonly [start: number, length: number] | undefined
  readonly journalBytes?: number
  readonly plant?: Plant | undefined
  /** The volume has points, on disks of the same array. */
  readonly points?: boolean | undefined
  /** A clone may be made; its disks are in the array. */
  readonly clone?: boolean | undefined
  /** What is written first over what a snapshot needs is staged; by default in every other run. */
  readonly staged?: boolean | undefined
  /** As `plant`, for the disks of the points. */
  readonly plantFile?: ((disk: ReturnType<LabArray['disk']>, name: string, random: Random) => FileDevice) | undefined
}

/** False: it was refused, because time went by while a slow disk kept somebody's request; nothing has happened. */
export async function cameToRest(create: () => Promise<unknown>): Promise<boolean> {
  try {
    await create()
    return true
  } catch (error) {
    if (error instanceof NbdeltaError && error.code === 'busy') return false
    throw error
  }
}

/** Runs a workload and remembers. One operation at a time, or several that do not overlap. */
export class CrashLab {
  readonly random: Random
  readonly clock = new ManualClock()
  history: History
  readonly window: readonly [start: number, length: number]
  array!: LabArray
  volume!: Volume
  /** Every point that was ever asked for. */
  readonly points: PointHistory[] = []
  store: PointDisks | undefined
  /** A volume that shows a snapshot of this one. */
  heir: CrashLab | undefined
  /** Of a clone: whose. */
  #base: { readonly lab: CrashLab, readonly point: string } | undefined
  #table: PointTable | undefined
  sizeBytes: number
  readonly #plant: Plant
  #ops = 0
  readonly #running = new Set<number>()

  /** Grains of all extents that the window touches: of these a map may say too much after a crash. */
  readonly extents: readonly [number, number]

  private constructor(readonly options: LabOptions) {
    this.random = seededRandom(options.seed)
    this.sizeBytes = options.sizeBytes
    this.window = options.window ?? [0, options.sizeBytes]
    this.history = new History(...this.window)
    const [start, length] = this.window
    this.extents = [
      Math.floor(start / GRAIN / EXTENT_GRAINS) * EXTENT_GRAINS, Math.ceil((start + length) / GRAIN / EXTENT_GRAINS) * EXTENT_GRAINS,
    ]
    this.#plant = options.plant ?? (disks => disks)
  }

  static async open(options: LabOptions): Promise<CrashLab> {
    const lab = new CrashLab(options)
    const { sizeBytes, journalBytes = SMALL_JOURNAL_BYTES } = options
    const disks: Record<Name, MemoryDisk | number> = { ...killed(await freshDisks({ sizeBytes, journalBytes })) }
    if (options.points) {
      for (const name of [...slotNames(''), ...layerNames('')]) disks[name] = 0
      disks['folders'] = FOLDERS_BYTES
      disks['staged'] = STAGED_BYTES
      disks['table'] = await formatTable(new MemoryDisk(TABLE_BYTES))
    }
    if (options.clone) {
      const { live, map, journal } = await freshDisks({ sizeBytes, journalBytes, uuid: HEIR_UUID })
      Object.assign(disks, { [`${HEIR}live`]: live, [`${HEIR}map`]: map, [`${HEIR}journal`]: journal, [`${HEIR}clone`]: 0 })
    }
    lab.array = new DiskArray<Name, Note>(disks, { lateFlush: lab.random(2) === 0 })
    await lab.#openVolume()
    return lab
  }

  /** Goes on where a crash left the disks: what is read there now is what must hold from now on. */
  static async resume(options: LabOptions, disks: Readonly<Record<Name, MemoryDisk>>): Promise<CrashLab> {
    const lab = new CrashLab(options)
    const before = Buffer.alloc(lab.window[1])
    const copies = Object.fromEntries(Object.entries(disks).map(([name, disk]) => [name, disk.fork()]))
    const { volume } = await openState(lab, copies, options.sizeBytes, new ManualClock(), false)
    await volume.read(lab.window[0], before.length, before, 0)
    lab.history = new History(...lab.window, before)
    if (options.points) for (const point of await PointsJudge.readAll(volume)) lab.points.push(point)
    lab.array = new DiskArray<Name, Note>(disks, { lateFlush: lab.random(2) === 0 })
    await lab.#openVolume()
    return lab
  }

  get #prefix(): string { return this.#base ? HEIR : '' }

  #note(note: Note): void { this.array.note(this.#base ? { ...note, heir: true } : note) }

  #file(name: string): FileDevice {
    const disk = this.array.disk(name)
    return this.options.plantFile?.(disk, name, this.random) ?? disk
  }

  async #openVolume(): Promise<void> {
    const { array, random } = this
    const disk = (name: string): ReturnType<LabArray['disk']> => array.disk(this.#prefix + name)
    const disks = this.#plant({ live: disk('live'), map: disk('map'), journal: disk('journal') }, random)
    // The array's disks outlive the volume: a clean close and a new open are part of a history.
    for (const one of Object.values(disks)) one.close = async () => undefined
    if (this.options.points) {
      this.#table = this.#base ? this.#base.lab.#table! : await openTable(this.#file('table'))
      if (!this.#base) this.store = this.pointDisks(this.#table, name => this.#file(name))
    }
    this.volume = await openOne(this, disks, this.sizeBytes, this.clock, this.#table, name => this.#file(name), this.store)
    if (this.#base) attachTo(this.volume, this.#base.lab.volume, this.#base.point)
  }

  async reopen(): Promise<void> {
    await this.heir?.volume.close()
    await this.volume.close()
    await this.#table?.close()
    await this.#openVolume()
    if (this.heir) await this.heir.#openVolume()
  }

  pointDisks(table: PointTable, file: Devices): PointDisks {
    return new PointDisks(UUID, '', table, file, GRAIN, this.options.staged ?? this.options.seed % 2 === 0)
  }

  get isHeir(): boolean { return this.#base !== undefined }
  get basePoint(): string { return this.#base!.point }

  /** As a store makes one: pin, bitmap, one record. The volume's own files mean nothing before that, nor does anybody ask for them. */
  async makeClone(point: PointHistory): Promise<void> {
    const info = this.volume.points.get(point.name)!
    await this.volume.points.pin(point.name, { owner: 'clone heir', expiresAt: null })
    const heir = new CrashLab({ ...this.options, seed: this.options.seed ^ 0xc10e, sizeBytes: point.sizeBytes })
    heir.#base = { lab: this, point: point.name }
    heir.array = this.array
    heir.history = new History(...this.window, Buffer.from(point.copy))
    const inherit = new InheritDisks(HEIR_UUID, HEIR, this.#table!, name => this.#file(name))
    await inherit.make('clone', Math.ceil(point.sizeBytes / GRAIN), true)
    await inherit.put([], { kind: 'clone', source: { volume: UUID, point: info.uuid }, undo: null })
    await heir.#openVolume()
    this.heir = heir
    this.array.note({ kind: 'cloned' })
  }

  /** Of a clone. */
  async promote(): Promise<void> {
    const { finished } = await this.volume.inheritor.promote()
    await this.#until(finished)
  }

  /** The whole window, or a range of it, becomes what the snapshot froze; at once, all or nothing, and durable (D6, A15). */
  async restore(
    point: PointHistory, bytesPerSecond: number | undefined, [offset, length]: readonly [number, number] = [0, this.sizeBytes],
  ): Promise<boolean> {
    if (!this.store!.hasRoom) return false
    if (this.#running.size > 0) throw new Error('with a client at work nobody knows what a restore undoes')
    const before = Buffer.from(this.history.now.subarray(0, this.sizeBytes - this.window[0]))
    let n = 1
    while (this.volume.points.get(`undo-${point.name}-${n}`)) n++
    const undo: PointHistory = {
      id: this.points.length, name: `undo-${point.name}-${n}`, kind: 'snapshot', sizeBytes: this.sizeBytes, base: false, state: 'making',
      copy: before, from: this.#ops, running: new Set(), to: this.#ops + 1,
    }
    this.points.push(undo)
    this.#note({ kind: 'asked', point: undo.id })
    const [start] = this.window
    const from = Math.max(offset, start)
    const end = Math.min(offset + length, start + point.copy.length)
    await this.#operate(op => {
      if (from < end) this.history.change(op, from, end - from, point.copy.subarray(from - start, end - start))
    }, () => this.#until(this.volume.restore({ from: point.name, offset, length, ...bytesPerSecond ? { bytesPerSecond } : {} })))
    if (this.volume.points.get(undo.name)) {
      undo.state = 'ready'
      undo.restored = { before, after: Buffer.from(this.history.now.subarray(0, before.length)) }
      this.#note({ kind: 'made', point: undo.id })
      this.#note({ kind: 'flushed', op: this.#ops })
    } else {
      undo.state = 'gone'
      this.#note({ kind: 'unwanted', point: undo.id })
      this.#note({ kind: 'gone', point: undo.id })
    }
    return true
  }

  /** Nobody holds it. */
  isFree(point: PointHistory): boolean { return (this.volume.points.get(point.name)?.pins.length ?? 0) === 0 }

  /** Time passes until that is done. */
  async #until(work: Promise<unknown>): Promise<void> {
    let over = false
    const done = work.finally(() => { over = true })
    done.catch(() => undefined)
    for (let i = 0; !over; i++) {
      if (i > 10_000) throw new Error('it never ends')
      await this.clock.advance(i < 50 ? 0 : 1000)
    }
    await done
  }

  async write(offset: number, length: number): Promise<void> {
    const data = Buffer.alloc(length)
    for (let at = 0; at < length; at += 7) data.fill(1 + this.random(255), at, Math.min(length, at + 7))
    await this.#operate(op => this.history.change(op, offset, length, data), () => this.volume.write(offset, length, data, 0))
  }

  async zero(offset: number, length: number, mode: { allocate?: boolean, fast?: boolean } = {}): Promise<void> {
    await this.#operate(op => this.history.change(op, offset, length, undefined),
      () => this.volume.zero(offset, length, { allocate: false, fast: false, ...mode }))
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
    this.#note({ kind: 'flushed', op })
  }

  async resize(sizeBytes: number): Promise<void> {
    const before = this.sizeBytes
    await this.#operate(op => {
      // What is cut off reads as zeros when it comes back.
      if (sizeBytes < before) this.history.change(op, sizeBytes, before - sizeBytes, undefined)
    }, () => this.volume.resize(sizeBytes, async () => {
      this.#note({ kind: 'committing', sizeBytes })
      await Promise.resolve()
      this.#note({ kind: 'committed', sizeBytes })
    }))
    this.sizeBytes = sizeBytes
  }

  /** Points that are there, and not being deleted. */
  get ready(): PointHistory[] { return this.points.filter(({ state }) => state === 'ready') }

  /** False when the lab has no room for one more. */
  async createPoint(kind: PointKind): Promise<boolean> {
    if (!this.store!.hasRoom) return false
    const point: PointHistory = {
      id: this.points.length, name: `${this.points[0]?.base ? 'q' : 'p'}${this.points.length}`, kind, sizeBytes: this.sizeBytes, base: false, state: 'making',
      copy: Buffer.from(this.history.now.subarray(0, this.sizeBytes - this.window[0])),
      from: this.#ops, running: new Set(this.#running), to: Infinity,
    }
    this.points.push(point)
    this.#note({ kind: 'asked', point: point.id })
    if (!await cameToRest(() => this.volume.points.create({ name: point.name, kind }))) {
      point.state = 'gone'
      this.#note({ kind: 'gone', point: point.id })
      return false
    }
    point.to = this.#ops
    point.state = 'ready'
    this.#note({ kind: 'made', point: point.id })
    return true
  }

  async deletePoint(point: PointHistory): Promise<void> {
    point.state = 'gone'
    this.#note({ kind: 'unwanted', point: point.id })
    await this.volume.points.delete(point.name)
    this.#note({ kind: 'gone', point: point.id })
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
    this.#note({ kind: 'issued', op })
    try {
      await run()
    } catch (error) {
      // Left in the history it would count as running for ever: no flush would cover what comes behind it, and every judge would allow too much.
      if ((error as { code?: string }).code !== 'not-fast') throw error
      this.history.retract(op)
    }
    this.#running.delete(op)
    this.#note({ kind: 'done', op })
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
        // To judge is to write: another size is judged on other disks.
        const disks = Object.fromEntries(lab.array.names.map(name => [name, state.disks[name].fork()])) as typeof state.disks
        await judgeState(lab, { ...state, disks }, sizeBytes, random, settle, reopen)
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

interface OpenedState { readonly volume: Volume, readonly store: PointDisks | undefined, readonly heir: Volume | undefined }

/** One volume on disks of an array or of a state. */
async function openOne(
  lab: CrashLab, disks: Disks, sizeBytes: number, clock: ManualClock, table: PointTable | undefined, file: Devices, store: PointDisks | undefined,
): Promise<Volume> {
  const [uuid, prefix] = lab.isHeir ? [HEIR_UUID, HEIR] : [UUID, '']
  const { live, map, journal } = disks
  return openVolume({
    uuid, sizeBytes, grainBytes: GRAIN, live, map, journal, clock, points: store, inherit: table && new InheritDisks(uuid, prefix, table, file),
  })
}

/** A clone that has not been promoted shows a snapshot of its base. */
function attachTo(heir: Volume, base: Volume, point: string): void {
  if (heir.inheritor.foreign.length === 0) return
  heir.inheritor.attach('clone', base.points.open(point), () => base.points.unpin(point, 'clone heir'))
}

async function openState(
  lab: CrashLab, disks: Readonly<Record<Name, MemoryDisk>>, sizeBytes: number, clock: ManualClock, withHeir: boolean,
): Promise<OpenedState> {
  const table = lab.options.points ? await openTable(disks['table']) : undefined
  const file: Devices = name => disks[name]
  const store = table && lab.pointDisks(table, file)
  const three = (prefix: string): Disks => ({ live: disks[`${prefix}live`], map: disks[`${prefix}map`], journal: disks[`${prefix}journal`] })
  const volume = await openOne(lab, three(''), sizeBytes, clock, table, file, store)
  if (!withHeir) return { volume, store, heir: undefined }
  const heir = await openOne(lab.heir!, three(HEIR), lab.heir!.sizeBytes, clock, table, file, undefined)
  attachTo(heir, volume, lab.heir!.basePoint)
  return { volume, store, heir }
}

async function judgeState(
  lab: CrashLab, state: State, sizeBytes: number, random: Random, settle: boolean, reopen: boolean,
): Promise<void> {
  const clock = new ManualClock()
  const { disks } = state
  const withHeir = lab.heir !== undefined && state.notes.some(({ kind }) => kind === 'cloned')
  let { volume, store, heir } = await openState(lab, disks, sizeBytes, clock, withHeir)
  const start = lab.window[0]
  const length = Math.min(lab.window[1], sizeBytes - start)
  const found = await readAll(volume, start, length)
  judgeContent(lab.history, found, state)
  const points = store && await judgePoints(lab, volume, state, found)
  const heirFound = heir && await readAll(heir, start, Math.min(lab.window[1], heir.sizeBytes - start))
  if (heirFound) judgeContent(lab.heir!.history, heirFound, state, true)
  const same = async (what: string): Promise<void> => {
    const again = await readAll(volume, start, length)
    if (!found.equals(again)) throw new Error(`${what} changed byte ${start + firstDifference(found, again)}`)
    await points?.same(volume, what, found)
    if (heirFound && !heirFound.equals(await readAll(heir!, start, heirFound.length))) throw new Error(`${what} changed the clone`)
  }
  if (settle) {
    await points?.settle(volume, clock)
    // Reclaim at once, the scan after a second, a checkpoint when all has been quiet.
    for (let i = 0; i < 4; i++) await clock.advance(4000)
    await same('the background work')
    await points?.judgeFolders(store!)
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
  if (points) {
    await points.settle(volume, clock)
    await points.deleteSome(volume, random)
    await same('deleting points')
  }
  await heir?.close()
  await volume.flush()
  await volume.close()
  const after = Object.fromEntries(lab.array.names.map(name => [name, disks[name].fork()]))
  if (points?.empty && !after.live.toBuffer().subarray(start, start + length).equals(found)) throw new Error('live at rest is no plain image')
  ;({ volume, store, heir } = await openState(lab, after, sizeBytes, clock, withHeir))
  await same('closing and opening')
  await points?.judgeFolders(store!)
  const { notes } = volume.recovered
  if (notes.length > 0) throw new Error(`an open after a clean close recovered something: ${notes.join('; ')}`)
}

export function judgeContent(
  history: History, found: Buffer, { kind, notes }: { readonly kind: 'kill' | 'power', readonly notes: readonly unknown[] },
  heir = false,
): void {
  let flushed = 0
  let issued = -1
  const running = new Set<number>()
  for (const note of notes as readonly Note[]) {
    if ((note.heir ?? false) !== heir) continue
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
