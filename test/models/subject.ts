/** The volume under judgement on memory disks, and its comparison with the naive model after each step. */
import { ManualClock, type MemoryDisk } from '../../src/device/testing.js'
import type { Volume } from '../../src/volume/volume.js'
import { freshDisks, killed, LateDisk, openOn, SMALL_JOURNAL_BYTES, type Disks } from '../volume/lab.js'
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

export class Subject {
  volume!: Volume
  readonly clock = new ManualClock()
  #disks: Disks
  #points: MemoryPoints

  private constructor(readonly options: SubjectOptions, disks: Disks) {
    this.#disks = disks
    this.#points = new MemoryPoints(options.grainBytes)
  }

  static async open(options: SubjectOptions): Promise<Subject> {
    const { sizeBytes, grainBytes, journalBytes = SMALL_JOURNAL_BYTES, lateSeed } = options
    const key = JSON.stringify([sizeBytes, grainBytes, journalBytes])
    if (!templates.has(key)) templates.set(key, await freshDisks({ sizeBytes, grainBytes, journalBytes }))
    const disks: Disks = killed(templates.get(key)!)
    if (lateSeed !== undefined) disks.live = new LateDisk(sizeBytes, lateSeed)
    const subject = new Subject(options, disks)
    await subject.#open()
    return subject
  }

  get sizeBytes(): number { return this.volume.sizeBytes }

  async #open(sizeBytes = this.options.sizeBytes): Promise<void> {
    const { grainBytes } = this.options
    this.volume = await openOn(this.#disks, sizeBytes, { grainBytes, clock: this.clock, points: this.#points })
  }

  /** The process dies, the kernel lives. */
  async kill(): Promise<void> {
    const { sizeBytes } = this.volume
    this.#disks = killed(this.#disks)
    this.#points = this.#points.fork()
    await this.#open(sizeBytes)
  }

  async reopen(): Promise<void> {
    await this.volume.close()
    const { sizeBytes } = this.volume
    this.#disks = killed(this.#disks)
    this.#points = this.#points.fork()
    await this.#open(sizeBytes)
  }

  resize(sizeBytes: number): Promise<void> { return this.volume.resize(sizeBytes, async () => undefined) }

  /** Reclaim, merging, checkpoint: all that time brings. */
  async background(): Promise<void> {
    await this.volume.points.settled()
    for (let i = 0; i < 3; i++) await this.clock.advance(6000)
  }

  /** What is wrong, in words. */
  async wrong(model: NaiveVolume): Promise<string | undefined> {
    const { volume } = this
    const live = await this.#differs(volume, model.live)
    if (live) return `live ${live}`
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
  liveAtRest(): Buffer { return (this.#disks.live as MemoryDisk).toBuffer() }

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
