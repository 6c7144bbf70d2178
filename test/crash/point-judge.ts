/**
 * What must hold of a volume's points in a crash state.
 *
 * - A point that was answered is there, one whose deletion was answered is not, in the order in which they were made; one that
 *   was only asked for is there or not (D6).
 * - Every snapshot shows what it froze: what was done when it was asked for, and of what ran meanwhile any part (D3).
 * - The maps know every grain in which two points, or a point and live, differ (D4).
 * - All of this stays: through merging, reclaim and checkpoint, writes, deletion of others, close and open (B6, B7). When merging
 *   has settled no folder is left that is no point's.
 */
import type { ManualClock, Random } from '../../src/device/testing.js'
import type { PointKind } from '../../src/volume/snappoint.js'
import type { Volume } from '../../src/volume/volume.js'
import { GRAIN } from '../volume/lab.js'
import type { CrashLab, Note } from './harness.js'
import type { PointDisks } from './point-disks.js'

const SECTOR = 512

/** What a lab knows of a point that it asked for. */
export interface PointHistory {
  readonly id: number
  readonly name: string
  readonly kind: PointKind
  readonly sizeBytes: number
  /** There since before the history began. */
  readonly base: boolean
  /** The lab's view; a crash state goes by its notes. */
  state: 'making' | 'ready' | 'gone'
  /** The window as it was when it was asked for. */
  readonly copy: Buffer
  /** Operations below `from` that are not in `running` are in it; those from `to` on are not. */
  readonly from: number
  readonly running: ReadonlySet<number>
  to: number
  /** Of an undo point: the window before and after the restore that made it. */
  restored?: { readonly before: Buffer, readonly after: Buffer }
}

interface Known { readonly point: PointHistory, readonly content: Buffer, readonly sure: boolean }

/** The points of one opened state. */
export class PointsJudge {
  readonly #lab: CrashLab
  #known: Known[]

  constructor(lab: CrashLab, known: Known[]) {
    this.#lab = lab
    this.#known = known
  }

  /** Held by a clone: they were not deleted. */
  readonly #kept: string[] = []
  /** The volume said that a page of a changed map did not check. */
  #torn = false

  get empty(): boolean { return this.#known.length + this.#kept.length === 0 }

  /** What is there, as what must be there from now on. */
  static async readAll(volume: Volume): Promise<PointHistory[]> {
    const found: PointHistory[] = []
    for (const { name, kind, sizeBytes } of volume.points.list()) {
      const copy = kind === 'snapshot' ? await readPoint(volume, name, 0, sizeBytes) : Buffer.alloc(sizeBytes)
      found.push({ id: found.length, name, kind, sizeBytes, base: true, state: 'ready', copy, from: 0, running: new Set(), to: 0 })
    }
    return found
  }

  /** Deletions and restores that the crash cut short come to their end. */
  async settle(volume: Volume, clock: ManualClock): Promise<void> {
    await volume.points.settled()
    let over = false
    volume.inheriting?.finished.then(() => { over = true }, () => { over = true })
    for (let i = 0; volume.inheriting && !over; i++) {
      if (i > 1000) throw new Error('A15: the restore never ends')
      await clock.advance(1000)
    }
  }

  /** Every snapshot is what it was, and the maps know what tells it from `live`. */
  async same(volume: Volume, what: string, live: Buffer): Promise<void> {
    const start = this.#lab.window[0]
    for (const { point, content } of this.#known) {
      if (point.kind === 'bookmark') continue
      const again = await readPoint(volume, point.name, start, content.length)
      if (again.equals(content)) continue
      const at = again.findIndex((byte, i) => byte !== content[i])
      throw new Error(`${what} changed byte ${start + at} of ${point.name} from ${content[at]} to ${again[at]}`)
    }
    this.judgeMaps(volume, live)
  }

  judgeMaps(volume: Volume, live: Buffer): void {
    for (const [i, { point, content, sure }] of this.#known.entries()) {
      if (!sure) continue
      for (let to = i + 1; to <= this.#known.length; to++) {
        const until = this.#known[to]
        if (until && !until.sure) continue
        const runs = volume.points.changedRuns(point.name, until?.point.name)
        const lacking = this.#unsaid(content, until?.content ?? live, runs)
        if (lacking >= 0) throw new Error(`D4: changes from ${point.name} to ${until?.point.name ?? 'now'} lack grain ${lacking}`)
        this.#judgeExcess(volume, runs)
      }
    }
  }

  async judgeFolders(store: PointDisks): Promise<void> {
    const listed = store.list().map(({ seq }) => seq)
    const left = await store.leftFolders()
    if (left.join() !== listed.join() || listed.length !== this.#known.length + this.#kept.length) {
      throw new Error(`B7: folders ${left.join()}, table ${listed.join()}, points ${this.#known.length}`)
    }
  }

  /** One, some or all of them, in any order. */
  async deleteSome(volume: Volume, random: Random): Promise<void> {
    const count = random(3) === 0 ? this.#known.length : random(this.#known.length + 1)
    for (let i = 0; i < count; i++) {
      const [{ point }] = this.#known.splice(random(this.#known.length), 1)
      const pins = volume.points.get(point.name)!.pins.map(({ owner }) => owner)
      if (pins.length > 0 && pins.join() !== 'clone heir') throw new Error(`${point.name} is still held by ${pins.join()}`)
      if (pins.length > 0) this.#kept.push(point.name)
      else await volume.points.delete(point.name)
    }
    await volume.points.settled()
  }

  /** The first grain that differs and is not said; -1: none. */
  #unsaid(a: Buffer, b: Buffer, runs: readonly { readonly start: number, readonly end: number }[]): number {
    const [start] = this.#lab.window
    const length = Math.min(a.length, b.length)
    for (let at = 0; at < length; at += GRAIN) {
      const end = Math.min(at + GRAIN, length)
      if (a.compare(b, at, end, at, end) === 0) continue
      const grain = (start + at) / GRAIN
      if (!runs.some(run => run.start <= grain && grain < run.end)) return grain
    }
    return -1
  }

  /**
   * Beyond the extents that the window lies in nothing ever changed. A page of a map that the cut left half written counts as
   * changed from end to end, and the volume says so when it is first opened; from then on the map has it: here it is all there is.
   */
  #judgeExcess(volume: Volume, runs: readonly { readonly start: number, readonly end: number }[]): void {
    const { extents } = this.#lab
    this.#torn ||= volume.recovered.notes.some(note => note.includes('taken as data'))
    if (this.#torn) return
    for (const { start, end } of runs) {
      if (start < extents[0] || end > extents[1]) throw new Error(`D4: said to be changed: grains ${start} to ${end}, of which none ever was`)
    }
  }
}

export async function judgePoints(
  lab: CrashLab, volume: Volume, { kind, notes }: { readonly kind: 'kill' | 'power', readonly notes: readonly Note[] }, live: Buffer,
): Promise<PointsJudge> {
  const asked = new Set<number>()
  const made = new Set(lab.points.filter(({ base }) => base).map(({ id }) => id))
  const unwanted = new Set<number>()
  const gone = new Set<number>()
  for (const note of notes) {
    if (note.heir) continue
    if (note.kind === 'asked') asked.add(note.point)
    else if (note.kind === 'made') made.add(note.point)
    else if (note.kind === 'unwanted') unwanted.add(note.point)
    else if (note.kind === 'gone') gone.add(note.point)
  }
  const listed = volume.points.list()
  const known: Known[] = []
  let at = 0
  for (const point of lab.points) {
    if (gone.has(point.id) || (!made.has(point.id) && !asked.has(point.id))) continue
    const info = listed[at]?.name === point.name ? listed[at++] : undefined
    if (!info) {
      if (made.has(point.id) && !unwanted.has(point.id)) throw new Error(`D6: ${point.name} is gone`)
      continue
    }
    if (info.sizeBytes !== point.sizeBytes || info.kind !== point.kind) throw new Error(`D6: ${point.name} is a ${info.kind} of ${info.sizeBytes} bytes`)
    known.push(await judgeOne(lab, volume, point))
  }
  if (at < listed.length) throw new Error(`D6: one too many, or in the wrong order: the points are ${listed.map(({ name }) => name).join()}`)
  judgeSwitches(lab, live, known, asked, made, kind)
  const judge = new PointsJudge(lab, known)
  judge.judgeMaps(volume, live)
  return judge
}

/**
 * A15, D6: a restore that was cut short has happened, and then its undo point is there, or it has not; never a part of it. No client is
 * at work beside a restore (the lab sees to it), so what live was before is known.
 */
function judgeSwitches(
  lab: CrashLab, live: Buffer, known: readonly Known[], asked: ReadonlySet<number>, made: ReadonlySet<number>, kind: 'kill' | 'power',
): void {
  for (const { id, name, restored } of lab.points) {
    if (!restored || !asked.has(id) || made.has(id)) continue
    const wanted = known.some(({ point }) => point.id === id) ? restored.after : restored.before
    // What no flush had answered before a restore that never was may be lost, as ever.
    if (wanted === restored.before && kind === 'power') continue
    const at = live.findIndex((byte, i) => byte !== wanted[i])
    if (at < 0) continue
    const there = wanted === restored.after ? 'there' : 'not there'
    throw new Error(`A15: ${name} is ${there}, and live has ${live[at]} at byte ${at}, not ${wanted[at]}; before ${restored.before[at]}, after ${restored.after[at]}`)
  }
}

async function judgeOne(lab: CrashLab, volume: Volume, point: PointHistory): Promise<Known> {
  const { copy, name, from, running, to, kind } = point
  // Of a bookmark that was there before, nobody knows what it saw.
  const sure = running.size === 0 && to <= from && !(point.base && kind === 'bookmark')
  if (kind === 'bookmark') return { point, content: copy, sure }
  const content = await readPoint(volume, name, lab.window[0], copy.length)
  if (content.equals(copy)) return { point, content, sure: true }
  for (let sector = 0; sector * SECTOR < copy.length; sector++) {
    const is = content.subarray(sector * SECTOR, (sector + 1) * SECTOR)
    if (is.equals(copy.subarray(sector * SECTOR, sector * SECTOR + is.length))) continue
    const candidates: Buffer[] = []
    for (const { op, content: version } of lab.history.versions[sector].toReversed()) {
      if (op >= to) continue
      candidates.push(version)
      if (op < from && !running.has(op)) break
    }
    const at = is.findIndex((byte, i) => !candidates.some(candidate => candidate[i] === byte))
    if (at < 0) continue
    throw new Error(`D3: ${name} has ${is[at]} at byte ${lab.window[0] + sector * SECTOR + at}, not ${copy[sector * SECTOR + at]}`)
  }
  return { point, content, sure: true }
}

async function readPoint(volume: Volume, name: string, start: number, length: number): Promise<Buffer> {
  const device = volume.points.open(name)
  try {
    const into = Buffer.alloc(length, 0xee)
    await device.read(start, length, into, 0)
    return into
  } finally {
    await device.close()
  }
}
