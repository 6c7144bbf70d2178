/**
 * StoreDirectory: a store on disk, opened: locked, its catalog read, what a crash left behind finished or undone.
 *
 * Order at open: store.id is looked for before anything is touched, so that a mistyped path stays as it was; then the
 * lock; then store.id again, for now it stands still; then the catalog; then the sweep of volumes/; then the points.
 *
 * A volume and its points: entries of points go after their volume is out of the catalog and its folder is gone. Were they
 * gone first, a crash would bring back a volume without its snapshots. Whatever a crash leaves of them is forgotten at the
 * next open; entries whose volume still has a folder stay, in case the catalog is the one that lost something.
 */
import { randomUUID } from 'node:crypto'
import { type BigIntStats, existsSync } from 'node:fs'
import { mkdir, realpath, stat, statfs } from 'node:fs/promises'
import { dirname, join, resolve, sep } from 'node:path'
import { type Clock, systemClock } from '../device/clock.js'
import { asNbdeltaError, NbdeltaError } from '../device/errors.js'
import { type FileDisk, openFileDisk } from '../device/file-disk.js'
import { type Logger, silentLogger } from '../device/logger.js'
import { syncFolder } from '../device/sync-folder.js'
import { isUri } from '../device/uri.js'
import { type Catalog, type CatalogEntry, openCatalog } from './catalog.js'
import { PointFolders } from './point-files.js'
import { type OpenBacking, openRemoteLive, type RemoteLive } from './remote-live.js'
import { openPointTable, type PointTable } from './point-table.js'
import { lockStore, type StoreLock } from './lock.js'
import {
  creationSteps, FILES, type FoundIdentity, makePoints, raiseVersion, readIdentity, refuseForeignFolder, STORE_VERSION,
  type StoreIdentity, uuidBytes,
} from './store-creation.js'
import type { UnsyncedFile } from './unsynced-file.js'
import { VolumeFolders, type VolumeFiles, type VolumeLayout } from './volume-files.js'

interface StoreDirectoryOptions {
  readonly path: string
  /** Make a store there if there is none: in a new folder (its parent must exist) or an empty one. */
  readonly create?: boolean
  /** Asked before a store is made, and anything of it: when it rejects nothing has been. */
  readonly beforeCreate?: (() => Promise<void>) | undefined
  readonly logger?: Logger
  readonly clock?: Clock
  readonly newUuid?: () => string
  /** For volumes whose live is elsewhere; without, they cannot be opened. */
  readonly openBacking?: OpenBacking | undefined
  /** Another name or path for util-linux's flock. */
  readonly flockTool?: string
}

interface StoreUsage {
  /** Of the file system that the store lies on; `availableBytes` is what this user may still take. */
  readonly fileSystemBytes: number
  readonly availableBytes: number
  /** Taken by the volumes' own files; adopted backings do not count. */
  readonly volumeBytes: number
}

interface Parts {
  readonly path: string
  readonly identity: StoreIdentity
  readonly lock: StoreLock
  readonly disk: FileDisk
  readonly catalog: Catalog
  readonly folders: VolumeFolders
  readonly pointsDisk: FileDisk
  readonly points: PointTable
  readonly pointFolders: PointFolders
  readonly recovery: readonly string[]
  readonly openBacking: OpenBacking | undefined
}

/**
 * Opens the store in the folder `path` and locks it until `close` or the end of the process.
 * Errors: not-found, bad-argument (not a folder, or a folder of something else), busy (in use), denied (no permission,
 * read-only file system), no-space, newer-format, damaged, io.
 */
export async function openStoreDirectory(options: StoreDirectoryOptions): Promise<StoreDirectory> {
  const { logger = silentLogger, clock = systemClock, newUuid = randomUUID, openBacking } = options
  const path = resolve(options.path)
  await findStore(path, options)
  const tool = options.flockTool === undefined ? {} : { tool: options.flockTool }
  const lock = await lockStore({ path: join(path, FILES.lock), clock, logger, ...tool })
  try {
    const fresh = (): StoreIdentity => ({ uuid: newUuid(), createdAt: clock.wallTime().toISOString() })
    const found = await readIdentity(path)
    // Who made it, or raised its version, may have been killed before that was durable.
    if (found) await syncFolder(path)
    const identity = found ?? await createStore(path, fresh())
    refuseIncomplete(path, identity.version)
    const disk = await openFileDisk({ path: join(path, FILES.catalog) })
    try {
      const { catalog, recovery } = await openCatalog(disk, uuidBytes(identity.uuid), join(path, FILES.catalog))
      const folders = new VolumeFolders(join(path, FILES.volumes), openBacking)
      const swept = await folders.sweep(catalog)
      const points = await openPoints(path, identity, catalog, folders)
      const texts = [...recovery.map(text => `${FILES.catalog}: ${text}`), ...swept, ...points.recovery]
      for (const text of texts) logger.warn({ store: path }, text)
      const pointFolders = new PointFolders(join(path, FILES.volumes))
      if (lock.unsigned) logger.warn({ err: lock.unsigned, store: path }, `${FILES.lock} does not say who has the store`)
      return new StoreDirectory({
        path, identity, lock, disk, catalog, folders, recovery: texts, openBacking,
        pointsDisk: points.disk, points: points.table, pointFolders,
      })
    } catch (error) {
      await disk.close()
      throw error
    }
  } catch (error) {
    await lock.release()
    throw asNbdeltaError(error, `open the store ${path}`)
  }
}

/**
 * Every open store. Whoever keeps only a volume of a store must not lose its lock: descriptors that nothing refers to
 * are closed by the garbage collector.
 */
const OPEN = new Set<StoreDirectory>()

export class StoreDirectory {
  readonly path: string
  readonly uuid: string
  /** ISO 8601, UTC. */
  readonly createdAt: string
  readonly catalog: Catalog
  readonly points: PointTable
  readonly pointFolders: PointFolders
  /** What was repaired at open, in words; it is in the log as well. */
  readonly recovery: readonly string[]
  readonly #parts: Parts
  #closed: Promise<void> | undefined

  constructor(parts: Parts) {
    OPEN.add(this)
    this.#parts = parts
    this.path = parts.path
    this.uuid = parts.identity.uuid
    this.createdAt = parts.identity.createdAt
    this.catalog = parts.catalog
    this.points = parts.points
    this.pointFolders = parts.pointFolders
    this.recovery = parts.recovery
  }

  /**
   * Makes a volume's files and its catalog entry, all or nothing (D6), and opens the files. `layout.format` writes the
   * first content of map and journal. `entry.backing`, if any, comes from `resolveBacking`, or is the
   * URI of `layout.live`, which comes from `openRemote`.
   * Errors: those of `Catalog.put`; no-space, too-large, denied, not-found, busy, io.
   */
  async createVolumeFiles(entry: CatalogEntry, layout: VolumeLayout): Promise<VolumeFiles> {
    const { catalog, folders } = this.#parts
    catalog.judge(entry)
    await folders.make(entry, layout)
    try {
      await catalog.put(entry)
    } catch (error) {
      // A latched log leaves it open whether the entry is on disk: the sweep of the next open decides.
      if (!catalog.inDoubt) await folders.unmake(entry.uuid)
      throw error
    }
    await folders.name(entry.uuid)
    return folders.open(entry, layout.live)
  }

  /** Errors: damaged or not-found (a file is missing), busy, denied, io. */
  openVolumeFiles(entry: CatalogEntry): Promise<VolumeFiles> { return this.#parts.folders.open(entry) }

  /** Of a volume whose live is here. */
  unsyncedFile(uuid: string): UnsyncedFile { return this.#parts.folders.unsynced(uuid) }

  /**
   * Takes a volume out of the catalog and removes its files, which nobody has open, and its points; somebody's own backing
   * stays. No such volume: done already. Space comes back at once; a crash in between is finished or undone at the next open.
   */
  async removeVolumeFiles(name: string): Promise<void> {
    const { catalog, folders, points } = this.#parts
    const uuid = catalog.get(name)?.uuid
    if (uuid === undefined) return
    await folders.markDeleted(uuid)
    try {
      await catalog.remove(name)
    } catch (error) {
      if (!catalog.inDoubt) await folders.unmarkDeleted(uuid)
      throw error
    }
    await folders.removeDeleted(uuid)
    await points.removeVolume(uuid)
  }

  /**
   * The absolute path, links resolved, under which a file or block device can be adopted as a volume's live.
   * Errors: not-found, denied, bad-argument (neither file nor block device, or inside a store's own folder),
   * exists (what another volume lives in, by another name).
   */
  async resolveBacking(path: string): Promise<string> {
    let real: string
    let found: BigIntStats
    try {
      real = await realpath(path)
      found = await stat(real, { bigint: true })
      if (!found.isFile() && !found.isBlockDevice()) {
        throw new NbdeltaError('bad-argument', `${path} is neither a regular file nor a block device`)
      }
    } catch (error) {
      throw asNbdeltaError(error, `adopt ${path}`)
    }
    if (real.startsWith(await realpath(this.path) + sep)) {
      throw new NbdeltaError('bad-argument', `${path} lies inside the store: adopt files from elsewhere`)
    }
    await this.#refuseTwin(path, real, found)
    return real
  }

  /**
   * Opens what a new volume's live is to be. One URI serves one volume; two that lead to the same place cannot be told.
   * Errors: exists (the backing of another volume), read-only, wrong-state, those of the opener.
   */
  async openRemote(uri: string): Promise<RemoteLive> {
    const other = this.#parts.catalog.list().find(({ backing }) => backing === uri)
    if (other) throw new NbdeltaError('exists', `${uri} is the backing of volume '${other.name}' already`)
    return openRemoteLive(uri, this.#parts.openBacking)
  }

  /** The same file by another name (a hard link, another node of a device) would be two volumes over the same bytes. */
  async #refuseTwin(path: string, real: string, found: BigIntStats): Promise<void> {
    const { catalog, folders } = this.#parts
    for (const { uuid, name, backing } of catalog.list()) {
      // The very same path is the catalog's to refuse, and what is elsewhere is no file of this host.
      if (backing === real || backing !== null && isUri(backing)) continue
      const other = await stat(backing ?? folders.livePath(uuid), { bigint: true }).catch(() => undefined)
      const same = other?.isBlockDevice() && found.isBlockDevice() ? other.rdev === found.rdev
        : other?.dev === found.dev && other.ino === found.ino
      if (same) throw new NbdeltaError('exists', `${path} is, by another name, what volume '${name}' lives in`)
    }
  }

  async usage(): Promise<StoreUsage> {
    const { folders, catalog, path } = this.#parts
    const { bsize, blocks, bavail } = await statfs(path)
    let volumeBytes = 0
    // A volume may be deleted while this runs; it then takes nothing.
    for (const { uuid } of catalog.list()) volumeBytes += await folders.allocatedBytes(uuid).catch(() => 0)
    return { fileSystemBytes: bsize * blocks, availableBytes: bsize * bavail, volumeBytes }
  }

  /** Ends what runs and gives the lock back; whoever has volume files open has closed them before. Idempotent. */
  close(): Promise<void> {
    return this.#closed ??= this.#close()
  }

  async #close(): Promise<void> {
    const { catalog, disk, lock, points, pointsDisk } = this.#parts
    await points.close()
    await pointsDisk.close()
    await catalog.close()
    await disk.close()
    await lock.release()
    OPEN.delete(this)
  }
}

const CREATE_HINT = "'nbdelta serve --store DIR' creates one in an empty folder"

/** Makes sure that `path` is the folder of a store, or one in which a store may be made. */
async function findStore(path: string, { create = false, beforeCreate }: StoreDirectoryOptions): Promise<void> {
  const isThere = await isFolder(path)
  if (isThere && await readIdentity(path) !== undefined) return
  if (!create) {
    throw new NbdeltaError('not-found', isThere ? `${path} is not a store` : `there is no store ${path}`, { hint: CREATE_HINT })
  }
  if (isThere) await refuseForeignFolder(path)
  await beforeCreate?.()
  if (!isThere) await makeFolder(path)
}

async function isFolder(path: string): Promise<boolean> {
  try {
    if ((await stat(path)).isDirectory()) return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw explainFolder(error, path)
  }
  throw new NbdeltaError('bad-argument', `${path} is a file, and a store is a folder`)
}

async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: 0o700 }).catch((error: NodeJS.ErrnoException) => {
      // Another server may have been quicker; the lock decides between the two.
      if (error.code !== 'EEXIST') throw error
    })
    await syncFolder(dirname(path))
  } catch (error) {
    throw explainFolder(error, path)
  }
}

function explainFolder(error: unknown, path: string): NbdeltaError {
  const cause = { cause: error }
  switch ((error as NodeJS.ErrnoException).code) {
    case 'ENOENT': return new NbdeltaError('not-found', `${dirname(path)} is not there, so no store can be made in it`, cause)
    case 'ENOTDIR': return new NbdeltaError('bad-argument', `a part of ${path} is a file, not a folder`, cause)
    case 'EROFS': return new NbdeltaError('denied', `${path} is on a read-only file system`, cause)
    case 'EACCES': case 'EPERM': return new NbdeltaError('denied', `no permission for ${path}`, cause)
    default: return asNbdeltaError(error, `open the store ${path}`)
  }
}

interface OpenedPoints {
  readonly disk: FileDisk
  readonly table: PointTable
  readonly recovery: readonly string[]
}

async function openPoints(
  path: string, identity: FoundIdentity, catalog: Catalog, folders: VolumeFolders,
): Promise<OpenedPoints> {
  const file = join(path, FILES.points)
  if (!existsSync(file)) await makePoints(path, identity)
  const disk = await openFileDisk({ path: file })
  try {
    const beforeFirst = identity.version < STORE_VERSION ? () => raiseVersion(path, identity) : undefined
    const opened = await openPointTable(disk, uuidBytes(identity.uuid), file, beforeFirst ? { beforeFirst } : {})
    const recovery = opened.recovery.map(text => `${FILES.points}: ${text}`)
    for (const uuid of opened.table.volumes()) {
      const known = catalog.has(uuid)
      if (known || await folders.has(uuid)) continue
      await opened.table.removeVolume(uuid)
      recovery.push(`volume ${uuid} is gone: its points and what was said of it were forgotten`)
    }
    return { disk, table: opened.table, recovery }
  } catch (error) {
    await disk.close()
    throw error
  }
}

/** Once store.id is there, nothing may be missing (store-creation.ts). */
function refuseIncomplete(path: string, version: number): void {
  const needed = [FILES.catalog, FILES.volumes, ...version >= STORE_VERSION ? [FILES.points] : []]
  for (const name of needed) {
    if (!existsSync(join(path, name))) throw new NbdeltaError('damaged', `${join(path, name)} is missing from the store`)
  }
}

async function createStore(path: string, identity: StoreIdentity): Promise<FoundIdentity> {
  await refuseForeignFolder(path)
  try {
    for (const step of creationSteps(path, identity)) await step.run()
  } catch (error) {
    throw asNbdeltaError(error, `create the store ${path}`)
  }
  return (await readIdentity(path))!
}
