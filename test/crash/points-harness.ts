/**
 * Crash states of a volume with points. Judged, after a power cut or a kill at any moment:
 * - live, as harness.ts judges it (D1, D2);
 * - points: whoever was told that one exists finds it, whoever was told that one is gone does not (D6);
 * - snapshots read exactly what they froze (D3), and go on doing so through merges, checkpoints, writes to every grain, and a reopen;
 * - changed since any point says at least what differs between then and now, and between any two snapshots (D4).
 */
import { crashStates, type CrashState, DiskArray, ManualClock, type Random, seededRandom } from '../../src/device/testing.js'
import type { Volume } from '../../src/volume/volume.js'
import { FAST, freshDisks, GRAIN, KEEP, killed, openOn, readAll, SLOW, SMALL_JOURNAL_BYTES, type Disks } from '../volume/lab.js'
import { cameToRest, History, judgeContent, type Verdict } from './harness.js'
import { everlasting, freshPointDisks, openPoints, type PointDiskName } from './points-store.js'

export type PointsName = 'live' | 'map' | 'journal' | PointDiskName
type Note =
  | { readonly kind: 'issued' | 'done' | 'flushed', readonly op: number }
  | { readonly kind: 'creating' | 'created' | 'deleting' | 'deleted', readonly name: string }
  /** Operation `op` is a restore: it has happened, all of it and durably, if and only if its undo point is there. */
  | { readonly kind: 'restoring', readonly op: number, readonly undo: string }
type Recorded = ReturnType<DiskArray<PointsName, Note>['disk']>
type AllDisks = Readonly<Record<PointsName, Recorded>>
export type PointsPlant = (disks: AllDisks, random: Random) => AllDisks

interface Frozen { readonly kind: 'snapshot' | 'bookmark', readonly content: Buffer }

export interface PointsOptions {
  readonly seed: number
  readonly grains: number
  readonly plant?: PointsPlant
}

/** One operation at a time, but for what a step itself runs side by side. */
export class PointsLab {
  readonly random: Random
  readonly clock = new ManualClock()
  readonly frozen = new Map<string, Frozen>()
  readonly history: History
  readonly sizeBytes: number
  readonly now: Buffer
  names: string[] = []
  array!: DiskArray<PointsName, Note>
  volume!: Volume
  #count = 0
  #ops = 0
  readonly #running = new Set<number>()

  private constructor(readonly options: PointsOptions) {
    this.random = seededRandom(options.seed)
    this.sizeBytes = options.grains * GRAIN
    this.now = Buffer.alloc(this.sizeBytes)
    this.history = new History(0, this.sizeBytes)
  }

  static async open(options: PointsOptions): Promise<PointsLab> {
    const lab = new PointsLab(options)
    const { live, map, journal } = killed(await freshDisks({ sizeBytes: lab.sizeBytes, journalBytes: SMALL_JOURNAL_BYTES }))
    lab.array = new DiskArray<PointsName, Note>({ live, map, journal, ...await freshPointDisks() }, { lateFlush: lab.random(2) === 0 })
    await lab.#openVolume()
    return lab
  }

  async #openVolume(): Promise<void> {
    const all = Object.fromEntries(this.array.names.map(name => [name, this.array.disk(name)])) as unknown as AllDisks
    const disks = this.options.plant?.(all, this.random) ?? all
    for (const disk of Object.values(disks)) everlasting(disk)
    this.volume = await openOn(disks as unknown as Disks, this.sizeBytes, { clock: this.clock, ...await openPoints(disks) })
  }

  async reopen(): Promise<void> {
    await this.volume.close()
    await this.#openVolume()
  }

  async write(offset: number, length: number): Promise<void> {
    const data = Buffer.alloc(length)
    for (let at = 0; at < length; at += 7) data.fill(1 + this.random(255), at, Math.min(length, at + 7))
    await this.#operate(offset, length, data, () => this.volume.write(offset, length, data, 0))
  }

  async zero(offset: number, length: number, mode = SLOW): Promise<void> {
    await this.#operate(offset, length, undefined, () => this.volume.zero(offset, length, mode))
  }

  async trim(from: number, grains: number): Promise<void> {
    await this.#operate(from * GRAIN, grains * GRAIN, undefined, () => this.volume.trim(from * GRAIN, grains * GRAIN))
  }

  async flush(): Promise<void> {
    const op = this.#running.size > 0 ? Math.min(...this.#running) : this.#ops
    await this.volume.flush()
    this.array.note({ kind: 'flushed', op })
  }

  async wait(ms: number): Promise<void> { await this.clock.advance(ms) }

  async create(kind: 'snapshot' | 'bookmark'): Promise<void> {
    const name = `p${++this.#count}`
    this.frozen.set(name, { kind, content: Buffer.from(this.now) })
    this.array.note({ kind: 'creating', name })
    if (!await cameToRest(() => this.volume.points.create({ name, kind }))) {
      this.array.note({ kind: 'deleted', name })
      return
    }
    this.array.note({ kind: 'created', name })
    this.names.push(name)
  }

  async delete(): Promise<void> {
    const free = this.names.filter(name => this.volume.points.get(name)!.pins.length === 0)
    if (free.length === 0) return
    const name = free[this.random(free.length)]
    this.names.splice(this.names.indexOf(name), 1)
    this.array.note({ kind: 'deleting', name })
    await this.volume.points.delete(name)
    this.array.note({ kind: 'deleted', name })
  }

  /** From any snapshot; nobody writes until it is answered. */
  async restore(offset: number, length: number, bytesPerSecond: number): Promise<void> {
    const snapshots = this.names.filter(name => this.frozen.get(name)!.kind === 'snapshot')
    if (snapshots.length === 0) return
    const from = snapshots[this.random(snapshots.length)]
    let n = 1
    while (this.frozen.has(`undo-${from}-${n}`)) n++
    const undo = `undo-${from}-${n}`
    // Names of points that are gone are used again, which the judge could not tell apart.
    const free = Array.from({ length: n - 1 }, (_, i) => `undo-${from}-${i + 1}`).some(name => !this.volume.points.get(name))
    if (this.volume.points.list().length < this.names.length || free) return
    const content = Buffer.from(this.frozen.get(from)!.content.subarray(offset, offset + length))
    this.frozen.set(undo, { kind: 'snapshot', content: Buffer.from(this.now) })
    this.array.note({ kind: 'creating', name: undo })
    this.array.note({ kind: 'restoring', op: this.#ops, undo })
    const before = Buffer.from(this.now)
    await this.#operate(offset, length, content, async () => { await this.volume.restore({ from, offset, length, bytesPerSecond }) })
    if (!this.volume.points.get(undo)) {
      if (!this.now.equals(before)) throw new Error(`restore from ${from} did nothing`)
      this.frozen.delete(undo)
      return
    }
    this.array.note({ kind: 'created', name: undo })
    this.names.push(undo)
  }

  /** A range of whole grains. */
  grains(max = 4): [from: number, count: number] {
    const from = this.random(this.options.grains)
    return [from, 1 + this.random(Math.min(max, this.options.grains - from))]
  }

  async #operate(offset: number, length: number, data: Buffer | undefined, run: () => Promise<void> | undefined): Promise<void> {
    const op = this.#ops++
    this.history.change(op, offset, length, data)
    if (data) data.copy(this.now, offset)
    else this.now.fill(0, offset, offset + length)
    this.#running.add(op)
    this.array.note({ kind: 'issued', op })
    await run()
    this.#running.delete(op)
    this.array.note({ kind: 'done', op })
  }
}

export type PointsStep = (lab: PointsLab) => Promise<void>

/** Restores of all and of parts, with clients at work while the copier is. */
export async function restoreStep(lab: PointsLab): Promise<void> {
  const roll = lab.random(40)
  const [from, count] = lab.grains()
  if (roll < 12) await lab.write(from * GRAIN + lab.random(4) * 512, Math.min(count * GRAIN - 2048, (1 + lab.random(16)) * 512))
  else if (roll < 14) await lab.trim(from, count)
  else if (roll < 16) await lab.zero(from * GRAIN + lab.random(2) * 512, count * GRAIN - 512, [SLOW, KEEP][lab.random(2)])
  else if (roll < 20) await lab.create('snapshot')
  else if (roll < 22) await lab.delete()
  else if (roll < 24) await lab.flush()
  else if (roll < 31) await lab.wait([300, 1000, 1000, 3000, 11_000][lab.random(5)])
  else if (roll < 32) await lab.reopen()
  else if (roll < 33) await Promise.all([lab.write(0, GRAIN), lab.write(3 * GRAIN + 512, 512), lab.trim(1, 1)])
  else if (roll < 37) await lab.restore(0, lab.sizeBytes, [1, 2, 1000][lab.random(3)] * GRAIN)
  else await lab.restore(from * GRAIN + 512, count * GRAIN - 1024, GRAIN)
}

/** Creates, writes of all kinds, deletes, time passing, clean closes. */
export async function pointsStep(lab: PointsLab): Promise<void> {
  const roll = lab.random(40)
  const [from, count] = lab.grains()
  if (roll < 6) await lab.write(from * GRAIN, count * GRAIN)
  else if (roll < 12) await lab.write(from * GRAIN + lab.random(4) * 512, Math.min(count * GRAIN - 2048, (1 + lab.random(16)) * 512))
  else if (roll < 16) await lab.trim(from, count)
  else if (roll < 18) await lab.zero(from * GRAIN, count * GRAIN, [SLOW, FAST, KEEP][lab.random(3)])
  else if (roll < 25) await lab.create(lab.random(3) === 0 ? 'bookmark' : 'snapshot')
  else if (roll < 31) await lab.delete()
  else if (roll < 34) await lab.flush()
  else if (roll < 37) await lab.wait([30, 300, 11_000][lab.random(3)])
  else if (roll < 38) await lab.volume.points.settled()
  else if (roll < 39) await lab.reopen()
  else {
    const half = Math.floor(lab.options.grains / 2)
    await Promise.all([lab.write(0, GRAIN), lab.write(half * GRAIN + 512, 512), lab.trim(1, 1)])
  }
}

/** A trim, and what is written over it at once, while no extent is hot and the region is open: the trim's record is the only mark. */
export async function looseStep(lab: PointsLab): Promise<void> {
  const from = lab.random(3)
  await lab.write(from * GRAIN, 2 * GRAIN)
  await lab.flush()
  await lab.wait(11_000)
  await lab.write(6 * GRAIN, 512)
  await lab.create('bookmark')
  await lab.trim(from, 1 + lab.random(2))
  await lab.write(from * GRAIN + 512, 1024)
}

/** A client that goes on while checkpoints, reclaim and merges run on slow disks: they meet between any two steps of each other. */
export async function pointsRacesStep(lab: PointsLab): Promise<void> {
  const client = async (): Promise<void> => {
    for (let i = 0; i < 6; i++) {
      for (let turns = lab.random(6); turns > 0; turns--) await new Promise(resolve => { setImmediate(resolve) })
      const roll = lab.random(10)
      const [from, count] = lab.grains()
      if (roll < 5) await lab.write(from * GRAIN + lab.random(4) * 512, Math.min(count * GRAIN - 2048, (1 + lab.random(16)) * 512))
      else if (roll < 7) await lab.trim(from, count)
      else if (roll < 9) await lab.create(lab.random(3) === 0 ? 'bookmark' : 'snapshot')
      else await lab.delete()
    }
  }
  await Promise.all([client(), (async () => { for (const ms of [30, 5500, 5500]) await lab.wait(ms) })()])
}

const BAD_MAX = 3
type State = CrashState<PointsName, Note>

export async function explorePoints(step: PointsStep, steps: number, options: PointsOptions, statesMax: number): Promise<Verdict> {
  const lab = await PointsLab.open(options)
  const verdict: Verdict = { states: 0, bad: [], settled: 0, reopened: 0 }
  try {
    for (let i = 0; i < steps; i++) await step(lab)
  } catch (error) {
    verdict.bad.push(`seed ${options.seed}: the workload failed: ${error instanceof Error ? error.stack : String(error)}`)
    return verdict
  }
  const random = seededRandom(options.seed ^ 0xabcd)
  for (const state of crashStates(lab.array, { seed: options.seed, statesMax })) {
    verdict.states++
    try {
      await judgeState(lab, state, random, verdict)
    } catch (error) {
      const why = error instanceof Error ? error.stack : String(error)
      verdict.bad.push(`seed ${options.seed}, after event ${state.position}, ${state.story}: ${why}`)
      if (verdict.bad.length >= BAD_MAX) break
    }
  }
  return verdict
}

async function openState(disks: State['disks'], sizeBytes: number, clock: ManualClock): Promise<Volume> {
  for (const disk of Object.values(disks)) everlasting(disk)
  return openOn(disks, sizeBytes, { clock, ...await openPoints(disks) })
}

async function judgeState(lab: PointsLab, state: State, random: Random, verdict: Verdict): Promise<void> {
  const clock = new ManualClock()
  let volume = await openState(state.disks, lab.sizeBytes, clock)
  const found = await readAll(volume)
  const { surely, maybe } = told(state.notes)
  const names = volume.points.list().map(({ name }) => name)
  judgeContent(lab.history, found, { ...state, notes: withRestores(state.notes, new Set([...names, ...gone(state.notes)])) })
  for (const name of surely) if (!names.includes(name)) throw new Error(`${name} is gone`)
  for (const name of names) if (!surely.has(name) && !maybe.has(name)) throw new Error(`${name} is there`)
  const check = async (what: string): Promise<void> => {
    const now = await readAll(volume)
    if (!now.equals(found)) throw new Error(`${what}: live changed at ${firstDifference(now, found)}`)
    for (const [index, name] of names.entries()) {
      await judgePoint(lab, volume, name, found, what)
      if (index > 0) judgeMarks(volume, names[index - 1], name, lab.frozen.get(names[index - 1])!.content, lab.frozen.get(name)!.content, what)
    }
  }
  await check('after the crash')
  if (verdict.states % 3 === 0) {
    await volume.points.settled()
    await clock.advance(12_000)
    verdict.settled++
    await check('after merges and background work')
  }
  for (let grain = 0; grain < lab.options.grains; grain++) {
    const place = grain * GRAIN + random(8) * 512
    found.fill(0xa5, place, place + 512)
    await volume.write(place, 512, found, place)
  }
  await check('after writes to all grains')
  if (verdict.states % 4 !== 0) return
  verdict.reopened++
  await volume.points.settled()
  await volume.flush()
  await volume.close()
  volume = await openState(state.disks, lab.sizeBytes, clock)
  await check('after closing and opening')
}

async function judgePoint(lab: PointsLab, volume: Volume, name: string, live: Buffer, what: string): Promise<void> {
  const { kind, content } = lab.frozen.get(name)!
  if (kind === 'snapshot') {
    const device = volume.points.open(name)
    const found = await readAll(device)
    await device.close()
    if (!found.equals(content)) {
      const at = firstDifference(found, content)
      throw new Error(`${what}: ${name} differs at ${at}, grain ${Math.floor(at / GRAIN)}: ${found[at]}, not ${content[at]}`)
    }
  }
  judgeMarks(volume, name, undefined, content, live, what)
}

function judgeMarks(volume: Volume, since: string, until: string | undefined, before: Buffer, after: Buffer, what: string): void {
  const runs = volume.points.changedRuns(since, until)
  for (let at = 0; at < before.length; at += GRAIN) {
    if (before.compare(after, at, at + GRAIN, at, at + GRAIN) === 0) continue
    const grain = at / GRAIN
    if (!runs.some(({ start, end }) => start <= grain && grain < end)) throw new Error(`${what}: grain ${grain} is not marked from ${since} to ${until ?? 'now'}`)
  }
}

/** Points whose deletion has begun. */
function gone(notes: readonly Note[]): string[] {
  return notes.flatMap(note => note.kind === 'deleting' ? [note.name] : [])
}

/** A restore is whole and durable once its undo point is there, and before it nothing of it is. */
function withRestores(notes: readonly Note[], there: ReadonlySet<string>): Note[] {
  const never = new Set<number>()
  const result: Note[] = []
  for (const note of notes) {
    if ('op' in note && never.has(note.op)) continue
    result.push(note)
    if (note.kind !== 'restoring') continue
    if (there.has(note.undo)) result.push({ kind: 'issued', op: note.op }, { kind: 'done', op: note.op }, { kind: 'flushed', op: note.op + 1 })
    else never.add(note.op)
  }
  return result
}

/** Points that are there for sure, and those that may be. */
function told(notes: readonly Note[]): { surely: Set<string>, maybe: Set<string> } {
  const surely = new Set<string>()
  const maybe = new Set<string>()
  for (const note of notes) {
    if (note.kind === 'creating') maybe.add(note.name)
    else if (note.kind === 'created') surely.add(note.name)
    else if (note.kind === 'deleting') surely.delete(note.name)
    else if (note.kind === 'deleted') maybe.delete(note.name)
  }
  return { surely, maybe }
}

function firstDifference(a: Buffer, b: Buffer): number {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return i
  return -1
}
