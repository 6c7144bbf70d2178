/** The volume under judgement on memory disks, a clone of it beside it, and their comparison with the naive model after each step. */
import { divCeil } from '../../native-free/integer.js'
import { ManualClock, type MemoryDisk } from '../../src/device/testing.js'
import { openVolume } from '../../src/volume/open-volume.js'
import type { PointInfo } from '../../src/volume/snappoint.js'
import type { Volume } from '../../src/volume/volume.js'
import { MemoryInherit } from '../volume/inherit-lab.js'
import { freshDisks, killed, LateDisk, SMALL_JOURNAL_BYTES, UUID, type Disks } from '../volume/lab.js'
import { MemoryPoints } from '../volume/point-lab.js'
import type { NaiveVolume } from './naive-volume.js'

export interface SubjectOptions {
  readonly sizeBytes: number
  readonly grainBytes: number
  readonly journalBytes?: number
  /** Live completes in later turns, as this seed decides. */
  readonly lateSeed?: number
}

/** Whoever compares reads into it. */
const FOUND = Buffer.alloc(2 ** 20)
/** Formatted once, copied for each run. */
const templates = new Map<string, Disks>()

const HEIR = '00000000-0000-4000-8000-000000000002'

/** One volume and what it stands on. */
interface Stand { disks: Disks, points: MemoryPoints, inherit: MemoryInherit, sizeBytes: number, readonly uuid: string }

export class Subject {
  volume!: Volume
  /** Its clone. */
  heir: Volume | undefined
  readonly clock = new ManualClock()
  readonly #main: Stand
  #clone: Stand | undefined
  #base: PointInfo | undefined

  private constructor(readonly options: SubjectOptions, disks: Disks) {
    const points = new MemoryPoints(options.grainBytes)
    this.#main = { disks, points, inherit: new MemoryInherit(points), sizeBytes: options.sizeBytes, uuid: UUID }
  }

  static async open(options: SubjectOptions): Promise<Subject> {
    const subject = new Subject(options, await freshCopy(options))
    await subject.#open()
    return subject
  }

  get sizeBytes(): number { return this.volume.sizeBytes }

  async #open(): Promise<void> {
    this.volume = await this.#openOn(this.#main)
    if (this.#clone) await this.#openClone(this.#clone)
  }

  async #openClone(stand: Stand): Promise<void> {
    this.heir = await this.#openOn(stand)
    if (this.heir.inheritor.foreign.length === 0) return
    const { name } = this.volume.points.list().find(({ uuid }) => uuid === this.#base!.uuid)!
    this.heir.inheritor.attach('clone', this.volume.points.open(name), () => this.volume.points.unpin(name, 'clone heir'))
  }

  #openOn({ uuid, disks, points, inherit, sizeBytes }: Stand): Promise<Volume> {
    return openVolume({ uuid, sizeBytes, grainBytes: this.options.grainBytes, ...disks, points, inherit, clock: this.clock })
  }

  /** As a store makes one: pin, bitmap, one record. */
  async clone(name: string): Promise<void> {
    const info = this.volume.points.get(name)!
    const { grainBytes } = this.options
    const points = new MemoryPoints(grainBytes)
    const disks = await freshCopy({ sizeBytes: info.sizeBytes, grainBytes }, HEIR)
    const stand: Stand = { disks, points, inherit: new MemoryInherit(points, HEIR), sizeBytes: info.sizeBytes, uuid: HEIR }
    await this.volume.points.pin(name, { owner: 'clone heir', expiresAt: null })
    await stand.inherit.make('clone', divCeil(info.sizeBytes, grainBytes), true)
    stand.inherit.inheritance = { kind: 'clone', source: { volume: UUID, point: info.uuid }, undo: null }
    this.#clone = stand
    this.#base = info
    await this.#openClone(stand)
  }

  async promote(): Promise<void> {
    const { finished } = await this.heir!.inheritor.promote()
    await this.#until(finished)
  }

  /** The undo point gets the name that the model gives it. @param slowly so that most of it is still to be copied for a while */
  async restore(from: string, undo: string, slowly: boolean, range: { offset?: number, length?: number } = {}): Promise<boolean> {
    const before = new Set(this.volume.points.list().map(({ uuid }) => uuid))
    // A second restore waits until the first has copied all.
    await this.#until(this.volume.restore({ from, ...range, ...slowly && { bytesPerSecond: 1024 } }))
    const made = this.volume.points.list().filter(({ uuid }) => !before.has(uuid))
    if (made.length === 0) return false
    if (made.length > 1 || made[0].labels.auto !== 'undo') throw new Error(`a restore made ${made.map(({ name }) => name).join()}`)
    await this.volume.points.rename(made[0].name, undo)
    return true
  }

  /** What a restore that runs still needs is refused until that has ended. */
  async deletePoint(name: string): Promise<void> {
    const job = this.volume.inheriting
    try {
      await this.volume.points.delete(name)
    } catch (error) {
      if ((error as { code?: string }).code !== 'busy' || !job) throw error
      await this.#until(job.finished)
      await this.volume.points.delete(name)
    }
  }

  /** The process dies, the kernel lives. */
  async kill(): Promise<void> {
    for (const stand of [this.#main, this.#clone]) if (stand) fork(stand)
    await this.#open()
  }

  async reopen(): Promise<void> {
    await this.heir?.close()
    await this.volume.close()
    await this.kill()
  }

  /** Time passes until that is done. */
  async #until<T>(work: Promise<T>): Promise<T> {
    let over = false
    const done = work.finally(() => { over = true })
    done.catch(() => undefined)
    for (let i = 0; !over; i++) {
      if (i > 10_000) throw new Error('it never ends')
      await this.clock.advance(i < 20 ? 0 : 1000)
    }
    return done
  }

  async resize(sizeBytes: number): Promise<void> {
    await this.#until(this.volume.resize(sizeBytes, async () => undefined))
    this.#main.sizeBytes = sizeBytes
  }

  /** Reclaim, merging, checkpoint, copying: all that time brings. */
  async background(): Promise<void> {
    await this.#until(this.volume.points.settled())
    if (this.volume.inheriting) await this.#until(this.volume.inheriting.finished)
    for (let i = 0; i < 3; i++) await this.clock.advance(6000)
  }

  /** What is wrong, in words. */
  async wrong(model: NaiveVolume): Promise<string | undefined> {
    const { volume } = this
    const live = await this.#differs(volume, model.live)
    if (live) return `live ${live}`
    const heir = this.heir && await this.#differs(this.heir, model.heir!.live)
    if (heir) return `the clone ${heir}`
    const listed = volume.points.list().map(({ name, kind }) => `${kind} ${name}`).join()
    const wanted = model.points.map(({ name, kind }) => `${kind} ${name}`).join()
    if (listed !== wanted) return `the points are ${listed}, not ${wanted}`
    for (const [index, { name, kind, content }] of model.points.entries()) {
      if (kind === 'snapshot') {
        const device = volume.points.open(name)
        const why = await this.#differs(device, content)
        await device.close()
        if (why) return `snapshot ${name} ${why}`
      }
      for (let to = index + 1; to <= model.points.length; to++) {
        const why = this.#misses(model, name, model.points[to]?.name)
        if (why) return why
      }
    }
    return undefined
  }

  /** At rest live is a plain raw image. To be called when the volume is closed. */
  liveAtRest(): Buffer { return (this.#main.disks.live as MemoryDisk).toBuffer() }

  get foldersLeft(): number { return this.#main.points.present.size }

  async #differs(device: Pick<Volume, 'read' | 'sizeBytes'>, content: Buffer): Promise<string | undefined> {
    if (device.sizeBytes !== content.length) return `has ${device.sizeBytes} bytes, not ${content.length}`
    const found = FOUND.subarray(0, content.length).fill(0xee)
    const pending = device.read(0, content.length, found, 0)
    if (pending) await pending
    if (found.equals(content)) return undefined
    const at = found.findIndex((byte, i) => byte !== content[i])
    return `differs at byte ${at}: ${found[at]}, not ${content[at]}`
  }

  /** A change that no map knows, or one that nobody made though there was no crash. */
  #misses(model: NaiveVolume, since: string, until: string | undefined): string | undefined {
    const { must, may, exact } = model.changes(since, until)
    const said = new Set<number>()
    for (const { start, end } of this.volume.points.changedRuns(since, until)) for (let grain = start; grain < end; grain++) said.add(grain)
    const what = `changes from ${since} to ${until ?? 'now'}`
    for (const grain of must) if (!said.has(grain)) return `${what} lack grain ${grain}; said ${[...said].join()}`
    if (exact) for (const grain of said) if (!may.has(grain)) return `${what} have grain ${grain} too many; possible ${[...may].join()}`
    return undefined
  }
}

async function freshCopy({ sizeBytes, grainBytes, journalBytes = SMALL_JOURNAL_BYTES, lateSeed }: SubjectOptions, uuid = UUID): Promise<Disks> {
  const key = JSON.stringify([sizeBytes, grainBytes, journalBytes, uuid])
  if (!templates.has(key)) templates.set(key, await freshDisks({ sizeBytes, grainBytes, journalBytes, uuid }))
  const disks: Disks = killed(templates.get(key)!)
  if (lateSeed !== undefined) disks.live = new LateDisk(sizeBytes, lateSeed)
  return disks
}

/** As a kill leaves it. */
function fork(stand: Stand): void {
  stand.disks = killed(stand.disks)
  stand.points = stand.points.fork()
  stand.inherit = stand.inherit.fork(stand.points)
}
