/**
 * What a reversal (src/replication/reversal.ts) may do to its source, judged while it runs: `mirror resync --reverse` of one split pair.
 *
 *   until the restore   the source holds what hosts write to it, whatever is read of the target, and wherever it is cut short
 *   the restore         at one instant the source shows what the target had when it was frozen, and an undo snapshot has what it
 *                       showed before; a crash in its midst leaves one or the other (D3, D6)
 *   from then on        that, and what hosts write on top of it; the pair is together, or the error says what is left to do
 *
 * That the target is what it was, and each volume what its hosts and this say, is looked at after each step (place.ts, watch.ts).
 */
import { NbdeltaError } from '../../src/device/errors.js'
import type { Mirror } from '../../src/replication/mirror.js'
import type { WantedRestore } from '../../src/replication/reversal.js'
import type { PointInfo } from '../../src/volume/snappoint.js'
import { hasUndo } from './host.js'
import { type Image, SECTOR } from './image.js'
import type { SimVolume } from './machine.js'
import type { Place } from './place.js'
import type { Process } from './site.js'
import type { Mark } from './watch.js'
import { Wrong } from './wrong.js'

/** Of a volume that is pulled into, or of a snapshot of a target that is here: the mirror's name is in it. */
const BACK = /^mirror-(.+)-\d+-back/

interface Parts {
  readonly process: Process
  readonly mirror: Mirror
  readonly source: Place
  /** The target, if it is on the same machine. */
  readonly local: Place | undefined
  /** What a target without points holds now. */
  content(): Promise<Image>
  /** Hosts of the source stay. */
  readonly force: boolean
}

export class Reverse {
  readonly mirror: Mirror
  readonly abort = new AbortController()
  readonly #parts: Parts
  /** What the target may have had when it was read. */
  readonly #contents = new Set<Image>()
  /** Likewise, whatever the size of the source. */
  readonly #found = new Set<Image>()
  /** What it had, as the source may have taken it at the instant of the restore; its size may change behind that. */
  readonly #taken = new Set<Image>()
  #restored = false

  constructor(parts: Parts) {
    this.#parts = parts
    this.mirror = parts.mirror
  }

  get isRestored(): boolean { return this.#restored }
  get process(): Process { return this.#parts.process }

  /** A bookmark of the source, made by it; it keeps its size, whatever becomes of the source's. @param from in the views of the source */
  marked(from: number, { seq, sizeBytes }: PointInfo): Mark {
    this.#fit()
    const found = [this.#found, this.#contents]
    const images = (): ReadonlySet<Image> => new Set(found.flatMap(all => [...all].map(image => image.slice(0, sizeBytes / SECTOR))))
    return { get images() { return images() }, views: this.#parts.source.hosts.views, from, seq }
  }

  /** The target was frozen. */
  froze(image: Image): void {
    this.#found.clear()
    this.#found.add(image)
    this.#fit()
  }

  /** A target that is elsewhere may have lost something, and be larger. */
  async lookedAt(): Promise<void> {
    if (this.mirror.state.target.kind === 'nbd') this.#found.add(await this.#parts.content())
    this.#fit()
  }

  /** The source takes what it has room for, and keeps what lies behind the target's end. */
  #fit(): void {
    const { hosts, volume } = this.#parts.source
    const sectors = volume.sizeBytes / SECTOR
    this.#contents.clear()
    for (const image of this.#found) {
      for (const now of hosts.current) this.#contents.add(image.slice(0, sectors) + now.slice(image.length, sectors))
    }
  }

  /** The command, as the daemon gives it. Throws Wrong, or what the command reports. */
  async run(): Promise<void> {
    const { process, mirror, source, local, force } = this.#parts
    const { record: { name }, state: { cycle } } = mirror
    await this.lookedAt()
    const from = source.hosts.now
    // Hosts of the simulation attach for each request anew.
    const closed = [...local ? [local.name] : [], ...force ? [] : [source.name]]
    const judge = (): void => {
      for (const volume of closed) process.assertUnattached(volume)
    }
    judge()
    const reverse = async (): Promise<void> => {
      judge()
      const job = await process.mirrors.together([name]).reverse({ signal: this.abort.signal })
      job.finished.catch(() => undefined)
    }
    try {
      await closed.reduce((work, volume) => () => process.closedToNew(volume, work), reverse)()
    } catch (error) {
      this.#judgeFailure(error)
      throw error
    }
    if (mirror.state.cycle === cycle) throw new Wrong(`${name} was reversed, and is ${mirror.state.phase} without a point of that`)
    if (!source.hosts.views.slice(from).some(image => this.#contents.has(image) || this.#taken.has(image))) {
      throw new Wrong(`${name} was reversed, and the source never showed what its target had`)
    }
  }

  #judgeFailure(error: unknown): void {
    if (!(error instanceof NbdeltaError) || !this.#restored || /shows what its target had/.test(error.message)) return
    throw new Wrong(`a reversal says only: ${error.message}, and the source was restored`)
  }

  /** Runs the restore of its source, at whose instant hosts see something else. */
  async restore<T>(wanted: WantedRestore, run: (wanted: WantedRestore) => Promise<T>): Promise<T> {
    const { source, source: { hosts } } = this.#parts
    let before: readonly Image[] = []
    let deletions = 0
    try {
      return await run({
        ...wanted,
        whenHeld: () => {
          wanted.whenHeld?.()
          // An operator may have given it another size since the target was looked at.
          this.#fit()
          for (const image of this.#contents) this.#taken.add(image)
          hosts.mayBecome([...this.#contents])
        },
        atInstant: () => {
          this.#fit()
          before = hosts.current
          deletions = source.losses
          this.#restored = true
          source.restored([...this.#contents])
          wanted.atInstant?.()
        },
      })
    } finally {
      hosts.mayBecome([])
      const kept = !this.#restored || source.losses > deletions || await hasUndo(source.volume, image => before.includes(image))
      if (!kept) throw new Wrong(`what ${source.name} showed before it was reversed was not kept`)
    }
  }
}

/** Name of the mirror for whose reversal that is; undefined: it is for none. */
export function reversedBy({ from, sourceVolume }: WantedRestore): string | undefined {
  return BACK.exec((sourceVolume as SimVolume | undefined)?.name ?? '')?.[1] ?? BACK.exec(from)?.[1]
}
