/**
 * A simulated machine: a store with one or two volumes, on disks which outlive the processes that open it, and what such a process has of
 * it: the shipped volumes, and what mirrors ask of a store.
 */
import { type Clock } from '../../src/device/clock.js'
import { silentLogger } from '../../src/device/logger.js'
import { ManualClock, type Random } from '../../src/device/testing.js'
import type { MirrorEntry } from '../../src/store/point-entry.js'
import type { StoreDirectory } from '../../src/store/store-directory.js'
import type { SecondariesParts } from '../../src/replication/secondaries.js'
import type { Store } from '../../src/volume/open-store.js'
import { judgeCloneVolume, judgeCreateVolume } from '../../src/volume/options.js'
import type { OpenStoreVolume } from '../../src/volume/store-volume.js'
import { Volumes } from '../../src/volume/volumes.js'
import type { Power } from './medium.js'
import { type SimDirectory, StoreDisks } from './store-disks.js'
import type { Trouble } from './trouble.js'

export type SimVolume = OpenStoreVolume

export class Machine {
  readonly name: string
  readonly #disks: StoreDisks

  private constructor(name: string, disks: StoreDisks) {
    this.name = name
    this.#disks = disks
  }

  /** @param name one letter; of its volumes as well */
  static async fresh(name: string, volumes: readonly string[], random: Random): Promise<Machine> {
    return new Machine(name, await StoreDisks.fresh(volumes.map(volume => [volume, uuidOf(name, volume)]), random))
  }

  /** Writes to the disks of a volume so far. @param uuid its own */
  changes(uuid: string): number { return this.#disks.changes(uuid) }

  /** Of its disks. */
  get trouble(): Trouble { return this.#disks.trouble }
  fail(): void { this.#disks.fail() }

  powerCut(random: Random): void { this.#disks.powerCut(random) }

  async open(power: Power, clock: ManualClock): Promise<SimStore> {
    const directory = await this.#disks.open(power)
    const volumes = new Volumes(directory as unknown as StoreDirectory, clock, silentLogger)
    await volumes.openAll()
    return new SimStore(directory, volumes, clock)
  }
}

/** Volumes come and go as reversals and clones make them. */
export class SimStore implements Pick<SecondariesParts['store'], keyof SecondariesParts['store']> {
  readonly #directory: SimDirectory
  readonly #volumes: Volumes
  readonly clock: Clock
  readonly groups = []
  createPointsTogether: Store['createPointsTogether']
  restoreTogether: Store['restoreTogether']

  constructor(directory: SimDirectory, volumes: Volumes, clock: Clock) {
    this.#directory = directory
    this.#volumes = volumes
    this.clock = clock
    this.createPointsTogether = wanted => volumes.groups.createPointsTogether(wanted)
    this.restoreTogether = wanted => volumes.groups.restoreTogether(wanted)
  }

  list(): SimVolume[] { return this.#volumes.list() as SimVolume[] }
  get(name: string): SimVolume | undefined { return this.#volumes.get(name) as SimVolume | undefined }
  get mirrors(): MirrorEntry[] { return this.#directory.points.mirrors() }
  putMirror(mirror: MirrorEntry): Promise<void> { return this.putMirrors([mirror]) }
  putMirrors(mirrors: readonly MirrorEntry[]): Promise<void> { return this.#directory.points.put({ mirrors }) }
  get inDoubt(): boolean { return this.#directory.points.inDoubt }
  removeMirror(uuid: string): Promise<void> { return this.#directory.points.put({ removeMirrors: [uuid] }) }
  fillVolume: Store['fillVolume'] = (options, fill) => this.#volumes.import(judgeCreateVolume(options), fill)
  deleteVolume: Store['deleteVolume'] = (name, judge) => this.#volumes.delete(name, judge)
  cloneVolume: Store['cloneVolume'] = options => this.#volumes.clone(judgeCloneVolume(options))
  promoteVolume: Store['promoteVolume'] = (name, { bytesPerSecond } = {}) => this.#volumes.promote(name, bytesPerSecond)
  addMirror: Store['addMirror'] = (mirror, needs, added) => this.#volumes.addMirror(mirror, needs, added)
  setSpace: Store['setSpace'] = (name, rule) => this.#volumes.setSpace(name, rule)
  createVolume(): never { throw new Error('there is a volume already') }
  resizeVolume: Store['resizeVolume'] = (name, sizeBytes) => this.#volumes.resize(name, sizeBytes)
}

function uuidOf(machine: string, volume: string): string {
  const digit = (text: string): string => text.charCodeAt(0).toString(16)
  return `00000000-0000-4000-8000-00000000${digit(machine)}${digit(volume)}`
}
