/**
 * PulledVolumes: where a target's content is collected before a source shows it (reversal.ts). For each reversal there is a
 * volume of its own beside the source, of its size and grain, with the grains that differ from the source's, and a snapshot
 * of them from which the source is restored. Clients do not see it.
 *
 *   being filled   the catalog says that it is half a volume: whatever cuts that short, the next open of the store removes it
 *   whole          its snapshot says whose it is (label `pulled`). It goes when nobody inherits from it: when the source has
 *                  copied all, after a failure at once, after a crash when the next start has found it
 *
 * The snapshot is made before the volume is whole, so that a crash leaves none that is not found again. A volume is not removed
 * while the table of points may say that the source inherits from it.
 *
 * Reading the source to compare is done while it may be written to: what was written since a bookmark from before the first
 * read is pulled as well, whether it differs or not, until nothing new comes or ROUNDS_MAX rounds are over.
 */
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import type { BlockDevice, ZeroMode } from '../device/block-device.js'
import type { Clock } from '../device/clock.js'
import { NbdeltaError } from '../device/errors.js'
import type { Logger } from '../device/logger.js'
import { ForwardingDevice } from '../device/forwarding-device.js'
import { freeName } from '../volume/free-name.js'
import type { Store } from '../volume/open-store.js'
import { AUTO_LABEL } from '../volume/snappoint.js'
import type { StoreVolume } from '../volume/store-volume.js'
import type { TransferOptions } from '../volume/transfer.js'
import { bytesOf, fitted, inBytes } from './grain-bytes.js'
import { ship } from './ship.js'
import { AUTO_MIRROR } from './volume-target.js'

/** Of its snapshot: uuid of the source. */
const PULLED_LABEL = 'pulled'
const SNAPSHOT = 'pulled'
const ROUNDS_MAX = 20
/** As many zeros as are compared at a time. Not less than the largest grain. */
const ZEROS = Buffer.alloc(2 ** 20)

interface PullOptions extends TransferOptions {
  /** Name of the mirror. */
  readonly mirror: string
  readonly cycle: number
  readonly source: StoreVolume
  readonly from: Pick<BlockDevice, 'read' | 'zeroRun'>
  /** Grains that may differ. */
  readonly map: GrainBitmap
  /** Name of a bookmark of the source. */
  readonly since: string
  readonly bytesPerSecond: number | null
  readonly clock: Clock
  readonly signal: AbortSignal
}

export interface Pulled {
  readonly volume: StoreVolume
  /** Name of its snapshot. */
  readonly snapshot: string
  /** Grains that it has; all others are equal, or were, before the source was written to. */
  readonly taken: GrainBitmap
}

export class PulledVolumes {
  readonly #store: Pick<Store, 'list' | 'get' | 'fillVolume' | 'deleteVolume'>
  readonly #logger: Logger
  /** Uuids. */
  readonly #known = new Set<string>()

  constructor(store: Pick<Store, 'list' | 'get' | 'fillVolume' | 'deleteVolume'>, logger: Logger) {
    this.#store = store
    this.#logger = logger
  }

  /** What a crash has left goes, as soon as it may. */
  start(): void {
    for (const volume of this.#store.list()) {
      const found = volume.problem ? undefined : volume.points.list().find(({ labels }) =>
        labels[AUTO_LABEL] === AUTO_MIRROR && labels[PULLED_LABEL] !== undefined)
      if (!found) continue
      this.#known.add(volume.uuid)
      const source = this.#store.list().find(({ uuid }) => uuid === found.labels[PULLED_LABEL])
      void this.drop(volume, source?.inheriting?.finished)
    }
  }

  has(uuid: string): boolean { return this.#known.has(uuid) }

  /** Errors: cancelled, and whatever both sides report. Nothing is left then. */
  async pull(options: PullOptions): Promise<Pulled> {
    const { mirror, cycle, source } = options
    const { sizeBytes, grainBytes } = source
    const taken = new GrainBitmap(options.map.length)
    let known = ''
    try {
      const volume = await this.#store.fillVolume({
        name: freeName(`mirror-${mirror}-${cycle}-back`, name => this.#store.get(name) !== undefined), sizeBytes, grainBytes,
        description: `what ${source.name} is to get from the target of mirror ${mirror}`,
      }, async made => {
        this.#known.add(known = made.uuid)
        await fill(made, taken, options)
        const labels = { [AUTO_LABEL]: AUTO_MIRROR, [PULLED_LABEL]: source.uuid }
        await made.points.create({ name: SNAPSHOT, kind: 'snapshot', labels })
      })
      return { volume, taken, snapshot: SNAPSHOT }
    } catch (error) {
      this.#known.delete(known)
      throw error
    }
  }

  /** Removes it. @param copied until then it is needed. Never rejects: what stays now goes at the next start. */
  async drop(volume: StoreVolume, copied?: Promise<void>): Promise<void> {
    try {
      await copied
      await this.#store.deleteVolume(volume.name)
      this.#known.delete(volume.uuid)
    } catch (error) {
      this.#logger.debug({ err: error, volume: volume.name }, 'what was pulled stays until the next start')
    }
  }
}

async function fill(volume: StoreVolume, taken: GrainBitmap, options: PullOptions): Promise<void> {
  const { source, from, since, bytesPerSecond, clock, signal, onProgress } = options
  const { sizeBytes, grainBytes } = source
  let [done, total, map] = [0, 0, options.map]
  for (let round = 0; round <= ROUNDS_MAX && map.next(0, map.length, true) < map.length; round++) {
    total += bytesOf(map, grainBytes, sizeBytes)
    onProgress?.(done, total)
    await ship({
      source: from, target: new Taker(volume, taken, round === 0 ? source : undefined), runs: inBytes(map, grainBytes, sizeBytes),
      compare: false, blank: false, bytesPerSecond, clock, signal, unitBytes: grainBytes,
      onProgress: bytes => { onProgress?.(done += bytes, total) },
    })
    map = changedBeside(source, since, taken)
  }
}

/** Grains of the source that have changed since that bookmark and are not taken. */
export function changedBeside(source: StoreVolume, since: string, taken: GrainBitmap): GrainBitmap {
  const changed = fitted(source.points.changedMap(since), taken.length)
  changed.andNot(taken)
  return changed
}

/** Errors of whoever finds a source to be another one than when it was begun. */
export function changedMeanwhile(name: string): NbdeltaError {
  return new NbdeltaError('busy', `volume ${name} was changed while the content of its target was fetched`,
    { hint: 'detach its clients, and try again' })
}

/**
 * Writes to the volume what is different in the source, whole grains, and remembers which. Without a source: everything.
 * Errors: busy (the source has another size by now).
 */
class Taker extends ForwardingDevice {
  protected readonly inner: StoreVolume
  readonly #taken: GrainBitmap
  readonly #source: StoreVolume | undefined

  constructor(inner: StoreVolume, taken: GrainBitmap, source: StoreVolume | undefined) {
    super()
    this.inner = inner
    this.#taken = taken
    this.#source = source
  }

  override async write(offset: number, length: number, from: Buffer, at: number): Promise<void> {
    for (const { start, end } of await this.#differing(offset, length, from, at)) {
      await this.inner.write(start, end - start, from, at + start - offset)
    }
  }

  override async zero(offset: number, length: number, mode: ZeroMode): Promise<void> {
    const end = offset + length
    for (let at = offset; at < end; at += ZEROS.length) {
      const bytes = Math.min(ZEROS.length, end - at)
      if ((this.#judged()?.zeroRun(at, bytes) ?? 0) <= -bytes) continue
      for (const run of await this.#differing(at, bytes, ZEROS, 0)) await this.inner.zero(run.start, run.end - run.start, mode)
    }
  }

  #judged(): StoreVolume | undefined {
    if (this.#source && this.#source.sizeBytes !== this.inner.sizeBytes) throw changedMeanwhile(this.#source.name)
    return this.#source
  }

  /** Runs of whole grains, bytes; they count as taken. */
  async #differing(offset: number, length: number, from: Buffer, at: number): Promise<{ start: number, end: number }[]> {
    const { grainBytes } = this.inner
    const source = this.#judged()
    const here = source && Buffer.allocUnsafe(length)
    if (here) await source.read(offset, length, here, 0)
    const runs: { start: number, end: number }[] = []
    for (let done = 0; done < length; done += grainBytes) {
      const stop = Math.min(length, done + grainBytes)
      if (here?.compare(from, at + done, at + stop, done, stop) === 0) continue
      const last = runs.at(-1)
      if (last?.end === offset + done) last.end = offset + stop
      else runs.push({ start: offset + done, end: offset + stop })
      const grain = (offset + done) / grainBytes
      this.#taken.set(grain, grain + 1)
    }
    return runs
  }
}
