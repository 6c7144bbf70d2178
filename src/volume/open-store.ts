/**
 * openStore: the public door to a directory of volumes.
 *
 *     const store = await openStore({ path: './store', create: true })
 *     const volume = await store.createVolume({ name: 'db', sizeBytes: 64 * 2 ** 20 })
 *     await volume.write(0, 5, Buffer.from('hello'), 0)
 *     await store.close()
 *
 * One process has a store open, by an exclusive lock that dies with the process.
 */
import { resolve } from 'node:path'
import { systemClock } from '../device/clock.js'
import { NbdeltaError } from '../device/errors.js'
import { silentLogger } from '../device/logger.js'
import { openStoreDirectory, type StoreDirectory } from '../store/store-directory.js'
import type { JsonValue, MirrorEntry, SpaceRule } from '../store/point-entry.js'
import type { GroupPoint, GroupRestoreOptions, VolumeGroup } from './groups.js'
import { importImage, type ImageSource } from './image.js'
import type { CreatePointOptions } from './snappoint.js'
import type { InheritJob } from './copier.js'
import {
  type CloneVolumeInput, type CreateVolumeInput, judgeCloneVolume, judgeCreateVolume, judgeOpenStore, type OpenStoreOptions,
} from './options.js'
import type { RestoreOptions } from './restore.js'
import type { StoreVolume } from './store-volume.js'
import type { TransferOptions } from './transfer.js'
import { Volumes } from './volumes.js'

type StoreStatus = 'open' | 'closing' | 'closed'

export interface Store {
  /** Absolute. */
  readonly path: string
  readonly status: StoreStatus
  /** All volumes, by name. */
  list(): StoreVolume[]
  get(name: string): StoreVolume | undefined
  /** Makes a volume that reads as zeros, or adopts the file, block device or remote export (by URI) `backing` as it is. */
  createVolume(options: CreateVolumeInput): Promise<StoreVolume>
  /**
   * Makes a volume and copies a raw image (path, device or stream) into it, all or nothing: a kill half-way leaves no volume
   * once the store is opened again. Do not export it before this is done.
   */
  importVolume(options: CreateVolumeInput, source: ImageSource, transfer?: TransferOptions): Promise<StoreVolume>
  /** Makes a volume and lets `fill` write to it, all or nothing, likewise. */
  fillVolume(options: CreateVolumeInput, fill: (volume: StoreVolume) => Promise<void>): Promise<StoreVolume>
  /** A writable volume that shows a snapshot of another at once and copies nothing; the snapshot is pinned. */
  cloneVolume(options: CloneVolumeInput): Promise<StoreVolume>
  /** Copies what a clone has not got yet, in the background; then it stands alone. */
  promoteVolume(name: string, options?: { readonly bytesPerSecond?: number }): Promise<InheritJob>
  /** Growth is visible to attached clients at once. To shrink, see to it first that nobody writes. */
  resizeVolume(name: string, sizeBytes: number): Promise<void>
  /**
   * Opens a volume anew, as the next opening of the store would: one that could not be opened, one whose flushes fail since one
   * failed, or one whose remote backing has grown. See to it first that nobody is attached. When it rejects the volume has a
   * `problem`. Errors: not-found, busy (clones need it), and why it cannot be opened.
   */
  reopenVolume(name: string): Promise<StoreVolume>
  /**
   * Removes the volume and its data; an adopted backing stays. See to it first that nobody is attached. What `judge` throws
   * refuses it, at the moment from which on nobody can come to need the volume any more.
   */
  deleteVolume(name: string, judge?: () => void): Promise<void>
  /** By name. */
  readonly groups: readonly VolumeGroup[]
  /** Puts volumes under one name. A volume may be in several groups. */
  createGroup(name: string, volumes: readonly string[]): Promise<VolumeGroup>
  /** Volumes and their points stay. */
  deleteGroup(name: string): Promise<void>
  /** A point of this name of each volume of the group, all of one instant, all or none. */
  createGroupPoints(options: CreatePointOptions & { readonly group: string }): Promise<GroupPoint[]>
  /** The same of volumes that need no group, each with what its point is to be; in their order. A volume takes part once. */
  createPointsTogether(wanted: readonly (CreatePointOptions & { readonly volume: string })[]): Promise<GroupPoint[]>
  /** Gives every volume of the group back its snapshot of this name, all of one instant; see to it first that nobody writes. */
  restoreGroup(options: GroupRestoreOptions): Promise<InheritJob>
  /** Restores several volumes, each from what its options say, by one durable record, or none; likewise. */
  restoreTogether(wanted: readonly (RestoreOptions & { readonly volume: string })[]): Promise<InheritJob>
  /** The volume's schedule as it was set; null: none. What it means is the caller's. */
  scheduleOf(volume: string): JsonValue
  setSchedule(volume: string, schedule: JsonValue): Promise<void>
  /**
   * How much the volume's snapshots may keep of what is overwritten (null: no limit but the disk), and what is given up before
   * writes fail for want of space. What is left out stays as it is. Durable, and in force, when this resolves.
   */
  setSpace(volume: string, rule: Partial<SpaceRule>): Promise<SpaceRule>
  /** Mirrors of the store's volumes, by name, as they were put; what their states mean is the caller's. */
  readonly mirrors: readonly MirrorEntry[]
  /** Adds it, or replaces the one of that uuid; durable when done. Errors: exists (the name), bad-argument, no-space, io. */
  putMirror(mirror: MirrorEntry): Promise<void>
  /** A new one, if the volumes that it needs are there. `added` is called before any of them can go. Errors: not-found. */
  addMirror(mirror: MirrorEntry, needs: readonly string[], added: () => void): Promise<void>
  /** The same of several, all or none: one durable record. */
  putMirrors(mirrors: readonly MirrorEntry[]): Promise<void>
  removeMirror(uuid: string): Promise<void>
  /** A change of points or mirrors has failed, and may be on the disk: only the next open tells, and until then none is taken. */
  readonly inDoubt: boolean
  /** Flushes and closes every volume and gives the lock back. Idempotent. */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/**
 * Opens the store at `path`; with `create` makes one of a missing or empty directory, if `beforeCreate` does not
 * reject: nothing is made then. `openBacking` opens what the URI of a
 * volume's backing names (openNbdClient, for example); without it, and while it rejects, such a volume has a `problem`.
 * Errors: bad-argument, not-found, busy (another process has it), denied, no-space, newer-format, damaged, io.
 */
export async function openStore(options: OpenStoreOptions): Promise<Store> {
  const { path, create, beforeCreate, logger = silentLogger, clock = systemClock, openBacking } = judgeOpenStore(options)
  const directory = await openStoreDirectory({ path: resolve(path), create, beforeCreate, logger, openBacking })
  const volumes = new Volumes(directory, clock, logger)
  try {
    await volumes.openAll()
  } catch (error) {
    await directory.close()
    throw error
  }
  return new OpenStore(directory, volumes)
}

class OpenStore implements Store {
  readonly #directory: StoreDirectory
  readonly #volumes: Volumes
  #status: StoreStatus = 'open'
  #closing: Promise<void> | undefined

  constructor(directory: StoreDirectory, volumes: Volumes) {
    this.#directory = directory
    this.#volumes = volumes
  }

  get path(): string { return this.#directory.path }
  get status(): StoreStatus { return this.#status }
  list(): StoreVolume[] { return this.#volumes.list() }
  get(name: string): StoreVolume | undefined { return this.#volumes.get(name) }

  async createVolume(options: CreateVolumeInput): Promise<StoreVolume> {
    this.#judgeOpen()
    return this.#volumes.create(judgeCreateVolume(options))
  }

  importVolume(options: CreateVolumeInput, source: ImageSource, transfer?: TransferOptions): Promise<StoreVolume> {
    return this.fillVolume(options, volume => importImage(volume, source, transfer))
  }

  async fillVolume(options: CreateVolumeInput, fill: (volume: StoreVolume) => Promise<void>): Promise<StoreVolume> {
    this.#judgeOpen()
    return this.#volumes.import(judgeCreateVolume(options), fill)
  }

  async cloneVolume(options: CloneVolumeInput): Promise<StoreVolume> {
    this.#judgeOpen()
    return this.#volumes.clone(judgeCloneVolume(options))
  }

  async promoteVolume(name: string, { bytesPerSecond }: { readonly bytesPerSecond?: number } = {}): Promise<InheritJob> {
    this.#judgeOpen()
    return this.#volumes.promote(name, bytesPerSecond)
  }

  async resizeVolume(name: string, sizeBytes: number): Promise<void> {
    this.#judgeOpen()
    await this.#volumes.resize(name, sizeBytes)
  }

  async reopenVolume(name: string): Promise<StoreVolume> {
    this.#judgeOpen()
    return this.#volumes.reopen(name)
  }

  async deleteVolume(name: string, judge?: () => void): Promise<void> {
    this.#judgeOpen()
    await this.#volumes.delete(name, judge)
  }

  get groups(): VolumeGroup[] { return this.#volumes.groups.list() }

  async createGroup(name: string, volumes: readonly string[]): Promise<VolumeGroup> {
    this.#judgeOpen()
    return this.#volumes.groups.create(name, volumes)
  }

  async deleteGroup(name: string): Promise<void> {
    this.#judgeOpen()
    await this.#volumes.groups.delete(name)
  }

  async createGroupPoints(options: CreatePointOptions & { readonly group: string }): Promise<GroupPoint[]> {
    this.#judgeOpen()
    return this.#volumes.groups.createPoints(options)
  }

  async createPointsTogether(wanted: readonly (CreatePointOptions & { readonly volume: string })[]): Promise<GroupPoint[]> {
    this.#judgeOpen()
    return this.#volumes.groups.createPointsTogether(wanted)
  }

  async restoreGroup(options: GroupRestoreOptions): Promise<InheritJob> {
    this.#judgeOpen()
    return this.#volumes.groups.restore(options)
  }

  async restoreTogether(wanted: readonly (RestoreOptions & { readonly volume: string })[]): Promise<InheritJob> {
    this.#judgeOpen()
    return this.#volumes.groups.restoreTogether(wanted)
  }

  scheduleOf(volume: string): JsonValue { return this.#volumes.scheduleOf(volume) }

  async setSchedule(volume: string, schedule: JsonValue): Promise<void> {
    this.#judgeOpen()
    await this.#volumes.setSchedule(volume, schedule)
  }

  async setSpace(volume: string, rule: Partial<SpaceRule>): Promise<SpaceRule> {
    this.#judgeOpen()
    return this.#volumes.setSpace(volume, rule)
  }

  get mirrors(): readonly MirrorEntry[] { return this.#directory.points.mirrors() }

  async putMirror(mirror: MirrorEntry): Promise<void> {
    this.#judgeOpen()
    await this.#directory.points.put({ mirrors: [mirror] })
  }

  async addMirror(mirror: MirrorEntry, needs: readonly string[], added: () => void): Promise<void> {
    this.#judgeOpen()
    await this.#volumes.addMirror(mirror, needs, added)
  }

  async putMirrors(mirrors: readonly MirrorEntry[]): Promise<void> {
    this.#judgeOpen()
    await this.#directory.points.put({ mirrors })
  }

  async removeMirror(uuid: string): Promise<void> {
    this.#judgeOpen()
    await this.#directory.points.put({ removeMirrors: [uuid] })
  }

  get inDoubt(): boolean { return this.#directory.points.inDoubt }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> { return this.close() }

  async #close(): Promise<void> {
    this.#status = 'closing'
    try {
      await this.#volumes.close()
    } finally {
      await this.#directory.close()
      this.#status = 'closed'
    }
  }

  #judgeOpen(): void {
    if (this.#status !== 'open') throw new NbdeltaError('wrong-state', `the store is ${this.#status}`)
  }
}
