/**
 * Volumes: the set of volumes of an open store. Each is opened once, when the store is, and closed with it.
 *
 * All or nothing (D6): store-directory.ts makes and removes files and catalog entry as one; a resize calls the catalog in
 * the middle (resize.ts).
 *
 * Changes of the set run one after the other. Whether clients are attached the caller knows, not this room.
 */
import { randomUUID } from 'node:crypto'
import { divCeil } from '../../native-free/integer.js'
import type { Clock } from '../device/clock.js'
import { asNbdeltaError, NbdeltaError } from '../device/errors.js'
import { openFileDisk } from '../device/file-disk.js'
import type { Logger } from '../device/logger.js'
import { Turns } from '../device/turns.js'
import { isUri } from '../device/uri.js'
import { type CatalogEntry, judgeEntry } from '../store/catalog.js'
import type { JsonValue, MirrorEntry, SpaceRule } from '../store/point-entry.js'
import type { StoreDirectory } from '../store/store-directory.js'
import type { RemoteLive } from '../store/remote-live.js'
import type { VolumeFiles } from '../store/volume-files.js'
import { Groups } from './groups.js'
import { type CloneVolumeOptions, type CreateVolumeOptions, judgeGrains } from './options.js'
import type { InheritJob } from './copier.js'
import { StoreInheritance } from './inherit-disk.js'
import { Lineage, ownerOf } from './lineage.js'
import { StorePoints } from './point-disk.js'
import { NO_BUDGET } from './space.js'
import { BrokenStoreVolume, OpenStoreVolume, type StoreVolume } from './store-volume.js'
import { formatVolume, JOURNAL_BYTES, openVolumeParts } from './open-volume.js'

/** Opened at the same time. */
const OPEN_AT_ONCE = 8

type Kept = OpenStoreVolume | BrokenStoreVolume

/** For whoever wants to know the parts of volumes as well, or their uuids beforehand. */
interface VolumesOptions {
  readonly openParts?: typeof openVolumeParts
  readonly newUuid?: () => string
}

export class Volumes {
  readonly #directory: StoreDirectory
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #byName = new Map<string, Kept>()
  readonly groups: Groups
  readonly #lineage: Lineage
  /** Of changes of the set. */
  readonly #turns = new Turns()
  readonly #openParts: typeof openVolumeParts
  readonly #newUuid: () => string

  constructor(
    directory: StoreDirectory, clock: Clock, logger: Logger,
    { openParts = openVolumeParts, newUuid = randomUUID }: VolumesOptions = {},
  ) {
    this.#openParts = openParts
    this.#newUuid = newUuid
    this.#directory = directory
    this.#clock = clock
    this.#logger = logger
    this.groups = new Groups(directory.points, {
      usable: name => this.#usable(name),
      nameOf: uuid => [...this.#byName.values()].find(volume => volume.uuid === uuid)?.name,
    })
    this.#lineage = new Lineage(directory, () => this.#byName.values(), logger)
  }

  /**
   * Opens every volume. One that cannot be opened is kept as broken, and logged. One whose import never ended, because the
   * process did, holds a part of an image that nobody was told is there: it is removed.
   */
  async openAll(): Promise<void> {
    for (const { name, importing } of this.#directory.catalog.list()) if (importing) await this.#removeHalf(name)
    const entries = this.#directory.catalog.list()
    const worker = async (): Promise<void> => {
      for (let entry = entries.shift(); entry; entry = entries.shift()) this.#byName.set(entry.name, await this.#open(entry))
    }
    await Promise.all(Array.from({ length: OPEN_AT_ONCE }, worker))
    await this.#lineage.releaseLeftPins()
    for (const volume of this.#byName.values()) if (volume instanceof OpenStoreVolume) this.#lineage.attach(volume)
  }

  /** By name. */
  list(): StoreVolume[] {
    return [...this.#byName.values()].sort((a, b) => a.name < b.name ? -1 : 1)
  }

  get(name: string): StoreVolume | undefined { return this.#byName.get(name) }

  /** Null: none. What it means is the caller's. */
  scheduleOf(name: string): JsonValue { return this.#directory.points.state(this.#known(name).uuid).schedule }

  /** Durable when done. Errors: not-found, bad-argument, no-space, io. */
  async setSchedule(name: string, schedule: JsonValue): Promise<void> {
    await this.#directory.points.put({ volumes: [{ volume: this.#known(name).uuid, schedule }] })
  }

  /** Errors: bad-argument, exists, not-found (the backing), busy, no-space, denied, io. Nothing is left when it fails. */
  create(options: CreateVolumeOptions): Promise<StoreVolume> { return this.#create(options, false) }

  /**
   * Creates a volume and fills it, all or nothing: until `fill` is done the catalog says that it is half a volume, and the
   * next open removes it. Errors: those of `create` and of `fill`.
   */
  async import(options: CreateVolumeOptions, fill: (volume: StoreVolume) => Promise<void>): Promise<StoreVolume> {
    const volume = await this.#create(options, true)
    try {
      await fill(volume)
      await volume.flush()
      await this.#turns.take(() => this.#usable(options.name).imported(entry => this.#directory.catalog.put(entry)))
      return volume
    } catch (error) {
      await this.delete(options.name).catch((again: unknown) => {
        this.#logger.error({ err: again, volume: options.name }, 'half an import stays; the next start removes it')
      })
      throw error
    }
  }

  /**
   * A writable volume that shows a snapshot of another: size and grain are the snapshot's, nothing is copied, and the snapshot
   * is pinned. All or nothing, like an import: what is half made the next open removes.
   * Errors: not-found, bad-argument (a bookmark), exists, no-space, io.
   */
  clone({ name, from, description }: CloneVolumeOptions): Promise<StoreVolume> {
    return this.#turns.take(async () => {
      const source = this.#usable(from.volume)
      const info = source.points.get(from.point)
      if (!info) throw new NbdeltaError('not-found', `volume '${from.volume}' has no snapshot '${from.point}'`)
      if (info.kind !== 'snapshot') throw new NbdeltaError('bad-argument', `'${from.point}' is a bookmark without content`)
      const entry = judgeEntry({
        uuid: this.#newUuid(), name, sizeBytes: info.sizeBytes, grainBytes: source.grainBytes, backing: null,
        createdAt: this.#clock.wallTime().toISOString(), description, importing: true,
      })
      this.#directory.catalog.judge(entry)
      const owner = ownerOf('clone', name)
      await source.points.pin(info.name, { owner, expiresAt: null })
      try {
        const volume = await this.#makeClone(entry, { volume: source.uuid, point: info.uuid })
        this.#byName.set(name, volume)
        this.#lineage.attach(volume)
        this.#logger.info({ volume: name, uuid: entry.uuid, from }, 'volume cloned')
        return volume
      } catch (error) {
        await this.#unmake(entry)
        if (!this.#directory.catalog.get(name)) await source.points.unpin(info.name, owner)
        throw error
      }
    })
  }

  /** Copies what a clone has not got yet; it stands alone when the job has finished. Errors: not-found, wrong-state. */
  promote(name: string, bytesPerSecond: number | undefined): Promise<InheritJob> {
    return this.#usable(name).inheritor.promote(bytesPerSecond)
  }

  /** Durable, and in force when done, also in one that is being opened anew. Errors: not-found, bad-argument, no-space, io. */
  setSpace(name: string, change: Partial<SpaceRule>): Promise<SpaceRule> {
    return this.#turns.take(async () => {
      const volume = this.#usable(name)
      const { points } = this.#directory
      const now = points.state(volume.uuid).space ?? NO_BUDGET
      const { budgetBytes = now.budgetBytes, order = now.order } = change
      const rule = { budgetBytes, order }
      await points.put({ volumes: [{ volume: volume.uuid, space: rule }] })
      volume.setSpace(rule)
      this.#logger.info({ volume: name, ...rule }, 'budget of a volume set')
      return rule
    })
  }

  #create(options: CreateVolumeOptions, importing: boolean): Promise<OpenStoreVolume> {
    return this.#turns.take(async () => {
      const { backing } = options
      if (backing === null) return this.#createOn(options, importing)
      if (!isUri(backing)) {
        return this.#createOn({ ...options, backing: await this.#directory.resolveBacking(backing) }, importing)
      }
      // Opened once: some servers end with their first client.
      const live = await this.#directory.openRemote(backing)
      try {
        return await this.#createOn(options, importing, live)
      } catch (error) {
        await live.close()
        throw error
      }
    })
  }

  async #createOn(options: CreateVolumeOptions, importing: boolean, live?: RemoteLive): Promise<OpenStoreVolume> {
    const { name, grainBytes, description, backing } = options
    const sizeBytes = backing === null ? options.sizeBytes : await backingBytes(backing, options.sizeBytes, live)
    if (sizeBytes === undefined) throw new NbdeltaError('bad-argument', `volume '${name}' needs a size`)
    const entry = judgeEntry({
      uuid: this.#newUuid(), name, sizeBytes, grainBytes, backing, createdAt: this.#clock.wallTime().toISOString(), description,
      ...importing && { importing },
    })
    judgeGrains(entry.sizeBytes, grainBytes)
    const volume = await this.#make(entry, live).catch(async (error: unknown) => {
      await this.#unmake(entry)
      throw error
    })
    this.#byName.set(name, volume)
    this.#logger.info({ volume: name, uuid: entry.uuid, sizeBytes, grainBytes, backing }, 'volume created')
    return volume
  }

  /**
   * Grows at once, visible to attached clients; shrinks when the caller has seen to it that nobody writes.
   * Errors: not-found, bad-argument, no-space, too-large, io; the size is then what it was. Where a shrink leaves the catalog in
   * doubt, the volume takes no more changes until the store is opened again.
   */
  resize(name: string, sizeBytes: number): Promise<void> {
    return this.#turns.take(async () => {
      const volume = this.#usable(name)
      judgeEntry({ ...volume.entry, sizeBytes })
      judgeGrains(sizeBytes, volume.grainBytes)
      const before = volume.sizeBytes
      await volume.resizeTo(sizeBytes, async entry => {
        try {
          await this.#directory.catalog.put(entry)
        } catch (error) {
          // Which size is on disk only the next open tells; what is written behind the smaller one until then would be cut off.
          if (sizeBytes < before && this.#directory.catalog.inDoubt) volume.refuseChanges(doubtful(name, error))
          throw error
        }
      })
      this.#logger.info({ volume: name, from: before, to: sizeBytes }, 'volume resized')
    })
  }

  /**
   * Closes the volume, if it is open, and opens it as the next opening of the store would. The caller has detached the clients.
   * When it cannot be opened it is kept as broken. Errors: not-found, busy (clones read it), flush-failed (what the store says of
   * its volumes and points is in doubt), and why it cannot be opened.
   */
  reopen(name: string): Promise<StoreVolume> {
    return this.#turns.take(async () => {
      const volume = this.#known(name)
      this.#refuseHeirs(volume, 'read', 'restart the server instead')
      const doubt = this.#doubt
      if (doubt) throw doubt
      if (volume instanceof OpenStoreVolume) {
        volume.points.leave()
        // What it could not flush is in doubt, which is why it is opened anew.
        try {
          await volume.flush()
        } catch (error) {
          this.#logger.warn({ err: error, volume: name }, 'a volume is opened anew, but its last writes could not be flushed')
        }
        await volume.close()
      }
      await this.#reopen(volume.entry)
      const again = this.#usable(name)
      this.#logger.info({ volume: name }, 'volume opened anew')
      return again
    })
  }

  /** No volume is deleted meanwhile: else a mirror could be of one that went while its target was made. Errors: not-found. */
  addMirror(mirror: MirrorEntry, needs: readonly string[], added: () => void): Promise<void> {
    return this.#turns.take(async () => {
      const gone = needs.find(uuid => !this.#directory.catalog.has(uuid))
      if (gone) throw new NbdeltaError('not-found', `mirror ${mirror.name} needs volume ${gone}, which was deleted meanwhile`)
      await this.#directory.points.put({ mirrors: [mirror] })
      added()
    })
  }

  /**
   * Closes and removes; an adopted backing stays, and holds what the volume showed. The caller has detached the clients.
   * Errors: not-found, busy (heirs need it, or what the backing lacks is in a volume that is not open), no-space (for that), io.
   */
  async delete(name: string, judge?: () => void): Promise<void> {
    // What takes long keeps nobody else waiting.
    await this.#settle(this.#byName.get(name))
    return this.#turns.take(async () => {
      const volume = this.#known(name)
      const refuse = (): void => this.#refuseHeirs(volume, 'needed', 'promote or delete them first')
      refuse()
      await this.#settle(volume)
      refuse()
      judge?.()
      // Somebody's own file outlives its volume and is left in order; the store's own goes anyway.
      if (volume instanceof OpenStoreVolume && volume.backing === null) await volume.abandon()
      else await volume.close()
      // A restore that had begun has happened by now, or will not.
      const links = this.#lineage.linksOf(volume.uuid)
      try {
        await this.#directory.removeVolumeFiles(name)
      } catch (error) {
        if (this.#directory.catalog.get(name)) await this.#reopen(volume.entry)
        else this.#byName.delete(name)
        throw error
      }
      this.#byName.delete(name)
      await this.#lineage.release(links)
      this.#logger.info({ volume: name, uuid: volume.uuid }, 'volume deleted')
    })
  }

  /** For the backing of a volume that goes: no snapshot, no log and no map says any more what it does not hold itself. */
  async #settle(volume: Kept | undefined): Promise<void> {
    if (!(volume instanceof OpenStoreVolume) || volume.backing === null) return
    try {
      await volume.settle()
    } catch (error) {
      const { name, backing } = volume
      if (error instanceof NbdeltaError && error.code === 'no-space') {
        throw new NbdeltaError('no-space', `no room to bring what volume '${name}' shows into ${backing}`,
          { cause: error, hint: 'delete its snapshots first, raise its budget (volume set-budget), or make room on the disk' })
      }
      if (error instanceof NbdeltaError && error.code === 'busy') {
        throw new NbdeltaError('busy', `${backing} has not all of what volume '${name}' shows: ${error.message}`,
          { cause: error, hint: 'open that one anew: nbdelta volume reopen' })
      }
      // One whose disk fails for good could never be deleted.
      this.#logger.error({ err: error, volume: name, backing }, 'a volume goes, and what it showed is not all in its backing')
    }
  }

  /** Flushes and closes all of them; the first failure is thrown when every one is closed. */
  async close(): Promise<void> {
    await this.#turns.idle
    const results: PromiseSettledResult<void>[] = []
    for (const round of this.#lineage.heirsFirst()) {
      results.push(...await Promise.allSettled(round.map(async volume => {
        try {
          if (volume instanceof OpenStoreVolume) await volume.flush()
        } finally {
          await volume.close()
        }
      })))
    }
    for (const result of results) if (result.status === 'rejected') throw result.reason
  }

  async #make(entry: CatalogEntry, live: RemoteLive | undefined): Promise<OpenStoreVolume> {
    const { uuid, sizeBytes, grainBytes, backing } = entry
    const files = await this.#directory.createVolumeFiles(entry, {
      journalBytes: JOURNAL_BYTES, live,
      format: ({ map, journal }) =>
        formatVolume({ uuid, grains: divCeil(sizeBytes, grainBytes), map, journal, allData: backing !== null }),
    })
    return this.#openOn(files, entry)
  }

  /** Order: files, with an entry that says that it is half a volume; what it inherits; then the entry of a whole one. */
  async #makeClone(entry: CatalogEntry, source: { volume: string, point: string }): Promise<OpenStoreVolume> {
    const { uuid, sizeBytes, grainBytes } = entry
    const { points, pointFolders, catalog } = this.#directory
    const grains = divCeil(sizeBytes, grainBytes)
    const files = await this.#directory.createVolumeFiles(entry, {
      journalBytes: JOURNAL_BYTES, format: ({ map, journal }) => formatVolume({ uuid, grains, map, journal, allData: false }),
    })
    try {
      await pointFolders.makeTodo(uuid, grains, true, 'base')
      await points.put({ volumes: [{ volume: uuid, inherit: { kind: 'clone', source, undo: null } }] })
    } catch (error) {
      await Promise.allSettled(Object.values(files).map((disk: VolumeFiles['live']) => disk.close()))
      throw error
    }
    const volume = await this.#openOn(files, entry)
    try {
      await volume.imported(whole => catalog.put(whole))
      return volume
    } catch (error) {
      await volume.abandon()
      throw error
    }
  }

  /** What failed only after the catalog had it. If it cannot be taken out again it stays, and can be listed and deleted. */
  async #unmake(entry: CatalogEntry): Promise<void> {
    if (this.#directory.catalog.get(entry.name)?.uuid !== entry.uuid) return
    await this.#directory.removeVolumeFiles(entry.name).catch((error: unknown) => {
      this.#logger.error({ err: error, volume: entry.name }, 'a volume whose creation failed could not be removed')
    })
    if (this.#directory.catalog.get(entry.name)) await this.#reopen(entry)
  }

  /** Nobody but its heirs needs it, and who is about to show content of it counts, though no record says so yet. Errors: busy. */
  #refuseHeirs(volume: Kept, how: 'read' | 'needed', hint: string): void {
    const heirs = this.#lineage.heirsOf(volume.uuid)
    if (heirs.length === 0 && !(volume instanceof OpenStoreVolume && volume.points.hasHeirs)) return
    const names = heirs.join(', ') || 'a volume that is being restored from it'
    throw new NbdeltaError('busy', `volume '${volume.name}' is ${how} by: ${names}`, { hint })
  }

  async #reopen(entry: CatalogEntry): Promise<void> {
    // Opened by what was known, it would take a point that may be in the table for one that never was, and remove its files.
    const doubt = this.#doubt
    const volume = doubt ? new BrokenStoreVolume(entry, doubt) : await this.#open(entry)
    // Who pinned one of its points while it was closed could not have it, nor let go of it.
    await this.#lineage.releaseLeftPins([volume]).catch((error: unknown) => {
      this.#logger.warn({ err: error, volume: entry.name }, 'a pin that nobody needs is left; the next start releases it')
    })
    this.#byName.set(entry.name, volume)
    if (volume instanceof OpenStoreVolume) this.#lineage.attach(volume)
  }

  async #removeHalf(name: string): Promise<void> {
    try {
      await this.#directory.removeVolumeFiles(name)
      this.#logger.warn({ volume: name }, 'the server ended while this volume was imported: it was removed; import it again')
    } catch (error) {
      this.#logger.error({ err: error, volume: name }, 'half an import could not be removed')
    }
  }

  async #open(entry: CatalogEntry): Promise<Kept> {
    if (entry.importing) return new BrokenStoreVolume(entry, halfImported(entry.name))
    try {
      return await this.#openOn(await this.#directory.openVolumeFiles(entry), entry)
    } catch (error) {
      const problem = asNbdeltaError(error, `open volume '${entry.name}'`)
      this.#logger.error({ err: problem, volume: entry.name }, 'a volume cannot be opened; the others are served')
      return new BrokenStoreVolume(entry, problem)
    }
  }

  async #openOn(files: VolumeFiles, entry: CatalogEntry): Promise<OpenStoreVolume> {
    const { uuid, name, sizeBytes, grainBytes, backing } = entry
    const { points: table, pointFolders } = this.#directory
    const points = new StorePoints(uuid, grainBytes, table, pointFolders)
    const inherit = new StoreInheritance(uuid, table, pointFolders)
    try {
      const parts = await this.#openParts({
        uuid, name, sizeBytes, grainBytes, ...files, points, inherit, adopted: backing !== null,
        unsynced: backing !== null && isUri(backing) ? undefined : this.#directory.unsyncedFile(uuid),
        space: table.state(uuid).space, clock: this.#clock, logger: this.#logger,
      })
      return new OpenStoreVolume(parts, entry)
    } catch (error) {
      await Promise.allSettled(Object.values(files).map((disk: VolumeFiles['live']) => disk.close()))
      throw error
    }
  }

  /** Why no volume can be opened anew. */
  get #doubt(): NbdeltaError | undefined {
    const { catalog, points } = this.#directory
    if (!catalog.inDoubt && !points.inDoubt) return undefined
    const hint = 'restart the server: it then has all of it or nothing'
    return new NbdeltaError('flush-failed', 'a change of volumes or points of the store has failed, and may be there', { hint })
  }

  #known(name: string): Kept {
    const volume = this.#byName.get(name)
    if (!volume) throw new NbdeltaError('not-found', `there is no volume '${name}'`)
    return volume
  }

  #usable(name: string): OpenStoreVolume {
    const volume = this.#known(name)
    if (volume instanceof OpenStoreVolume) return volume
    throw volume.problem
  }
}

function halfImported(name: string): NbdeltaError {
  return new NbdeltaError('damaged', `volume '${name}' holds only a part of the image that was imported`,
    { hint: 'delete it, and import again' })
}

function doubtful(name: string, cause: unknown): NbdeltaError {
  const hint = 'restart the server: it then has one of the two sizes, and nothing else is lost'
  return new NbdeltaError('flush-failed',
    `which size volume '${name}' has on disk is not known since a shrink failed: no more changes`,
    { cause, hint })
}

/** The size of what is adopted, which is the volume's; `wanted` may only say the same. */
async function backingBytes(path: string, wanted: number | undefined, live: RemoteLive | undefined): Promise<number> {
  const disk = live ?? await openFileDisk({ path })
  const { sizeBytes } = disk
  if (!live) await disk.close()
  if (wanted === undefined || wanted === sizeBytes) return sizeBytes
  const hint = 'leave the size out: what is adopted has the size it has'
  throw new NbdeltaError('bad-argument', `${path} has ${sizeBytes} bytes, not ${wanted}`, { hint })
}
