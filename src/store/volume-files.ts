/**
 * The files of volumes: DIR/volumes/<uuid>/{live,map,journal}; live is missing where somebody's own file, block device or remote
 * export serves instead. What lies there besides, `points` and `todo`, is point-files.ts's, and `unsynced` unsynced-file.ts's; it
 * comes and goes with the folder.
 *
 * A folder's name says where its volume is in its life, and together with the catalog what to do after a crash:
 *
 *   name            in the catalog                        not in the catalog
 *   <uuid>.new      made whole, not yet named: name it    never became a volume: remove
 *   <uuid>          a volume                              nobody's doing: left alone, reported
 *   <uuid>.deleted  not deleted after all: name it back   deleted: remove
 *
 * Making: .new with everything in it, durable -> catalog -> <uuid>. Deleting: .deleted, durable -> catalog -> remove.
 * So no crash ever leaves a plain <uuid> without its entry, and the sweep never removes anything that might be a volume:
 * should a catalog be lost or replaced by an old one, the data is still there.
 */
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { divCeil } from '../../native-free/index.js'
import { asNbdeltaError, NbdeltaError } from '../device/errors.js'
import { type FileDisk, openFileDisk } from '../device/file-disk.js'
import { syncFolder } from '../device/sync-folder.js'
import { isUri } from '../device/uri.js'
import type { Catalog, CatalogEntry } from './catalog.js'
import { mapFileSizeBytes } from './map-file.js'
import { type OpenBacking, openRemoteLive, type RemoteLive } from './remote-live.js'
import { UnsyncedFile } from './unsynced-file.js'

const UNNAMED = '.new'
const DELETED = '.deleted'
const FOLDER = /^([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(\.new|\.deleted|)$/
/** Of what `st_blocks` counts. */
const BLOCK_BYTES = 512

export interface VolumeFiles {
  readonly live: FileDisk | RemoteLive
  readonly map: FileDisk
  readonly journal: FileDisk
}

export interface VolumeLayout {
  readonly journalBytes: number
  /** Writes map and journal of a volume whose live is all zeros, or somebody's own; durable when done. */
  format(files: Pick<VolumeFiles, 'map' | 'journal'>): Promise<void>
  /** Live, where it is remote and open already; it stays open when making the volume fails. */
  readonly live?: RemoteLive | undefined
}

export class VolumeFolders {
  readonly #root: string
  readonly #openBacking: OpenBacking | undefined

  /** @param root the store's `volumes` */
  constructor(root: string, openBacking?: OpenBacking) {
    this.#root = root
    this.#openBacking = openBacking
  }

  /** Everything of a new volume but its name, durable. On failure nothing is left. */
  async make(entry: CatalogEntry, { journalBytes, format }: VolumeLayout): Promise<void> {
    const { backing, sizeBytes } = entry
    const folder = this.#path(entry.uuid, UNNAMED)
    try {
      await mkdir(folder, { mode: 0o700 })
      const mapBytes = mapFileSizeBytes(divCeil(sizeBytes, entry.grainBytes))
      const own = {
        map: { path: join(folder, 'map'), create: { sizeBytes: mapBytes } },
        journal: { path: join(folder, 'journal'), create: { sizeBytes: journalBytes } },
      }
      const live = backing === null ? { path: join(folder, 'live'), create: { sizeBytes } } : { path: backing }
      const files = backing !== null && isUri(backing) ? await openAll(own) : await openAll({ live, ...own })
      try {
        await format(files)
      } finally {
        await closeAll(Object.values(files))
      }
      await syncFolder(folder)
      await syncFolder(this.#root)
    } catch (error) {
      await rm(folder, { recursive: true, force: true })
      throw asNbdeltaError(error, `make volume '${entry.name}'`)
    }
  }

  /** Gives what `make` made its name. */
  async name(uuid: string): Promise<void> { await this.#rename(this.#path(uuid, UNNAMED), this.#path(uuid)) }

  /** Removes what `make` made. */
  async unmake(uuid: string): Promise<void> { await rm(this.#path(uuid, UNNAMED), { recursive: true, force: true }) }

  /** @param live where it is remote and open already; it is closed when this fails */
  async open({ uuid, name, backing }: CatalogEntry, live?: RemoteLive): Promise<VolumeFiles> {
    const folder = this.#path(uuid)
    const own = { map: { path: join(folder, 'map') }, journal: { path: join(folder, 'journal') } }
    try {
      if (backing === null || !isUri(backing)) return await openAll({ live: { path: backing ?? join(folder, 'live') }, ...own })
      const remote = live ?? await openRemoteLive(backing, this.#openBacking)
      try {
        return { live: remote, ...await openAll(own) }
      } catch (error) {
        await remote.close()
        throw error
      }
    } catch (error) {
      const failure = asNbdeltaError(error, `open volume '${name}'`)
      const hint = backing === null ? undefined : hintOf(backing)
      throw new NbdeltaError(failure.code, `volume '${name}' cannot be opened: ${failure.message}`, { cause: failure, hint })
    }
  }

  /** A volume whose folder is gone already can be deleted as well. */
  async markDeleted(uuid: string): Promise<void> {
    await this.#rename(this.#path(uuid), this.#path(uuid, DELETED)).catch((error: NbdeltaError) => {
      if (error.code !== 'not-found') throw error
    })
  }

  /** Gives the name back that `markDeleted` took. */
  async unmarkDeleted(uuid: string): Promise<void> { await this.#rename(this.#path(uuid, DELETED), this.#path(uuid)) }

  async removeDeleted(uuid: string): Promise<void> {
    const folder = this.#path(uuid, DELETED)
    try {
      await rm(folder, { recursive: true, force: true })
      await syncFolder(this.#root)
    } catch (error) {
      throw asNbdeltaError(error, `remove ${folder}`)
    }
  }

  /** Finishes or undoes what a crash interrupted; returns what was done, in words. */
  async sweep(catalog: Catalog): Promise<string[]> {
    const done: string[] = []
    const present = new Set<string>()
    for (const folder of await readdir(this.#root)) {
      const [, uuid, state] = FOLDER.exec(folder) ?? []
      const known = uuid !== undefined && catalog.has(uuid)
      if (known) present.add(uuid)
      if (known && state === '') continue
      if (known) {
        await this.#rename(join(this.#root, folder), this.#path(uuid))
        const what = state === UNNAMED ? 'creation finished' : 'deletion, never confirmed, undone'
        done.push(`volume ${uuid}: ${what} after a crash`)
      } else if (uuid !== undefined && state !== '') {
        await rm(join(this.#root, folder), { recursive: true, force: true })
        const what = state === UNNAMED ? 'creation, never confirmed, undone' : 'deletion finished'
        done.push(`volume ${uuid}: ${what} after a crash`)
      } else {
        done.push(`${join(this.#root, folder)} belongs to no volume of the catalog and was left alone`)
      }
    }
    if (done.length > 0) await syncFolder(this.#root)
    for (const { uuid, name } of catalog.list()) {
      if (!present.has(uuid)) done.push(`volume '${name}' has no folder ${this.#path(uuid)} any more and cannot be opened`)
    }
    return done
  }

  /** Bytes that a volume's own files take on the medium. */
  async allocatedBytes(uuid: string): Promise<number> {
    return await blocksBelow(this.#path(uuid)) * BLOCK_BYTES
  }

  /** The volume has a folder, in whatever state. */
  async has(uuid: string): Promise<boolean> {
    return (await readdir(this.#root)).some(folder => FOLDER.exec(folder)?.[1] === uuid)
  }

  /** Where live is, of a volume that has no backing. */
  livePath(uuid: string): string { return join(this.#path(uuid), 'live') }

  /** What of live a failed flush has left in doubt. */
  unsynced(uuid: string): UnsyncedFile { return new UnsyncedFile(join(this.#path(uuid), 'unsynced'), uuid) }

  #path(uuid: string, state: typeof UNNAMED | typeof DELETED | '' = ''): string { return join(this.#root, uuid + state) }

  async #rename(from: string, to: string): Promise<void> {
    try {
      await rename(from, to)
      await syncFolder(this.#root)
    } catch (error) {
      throw asNbdeltaError(error, `rename ${from}`)
    }
  }
}

function hintOf(backing: string): string {
  return isUri(backing) ? 'when its server answers again, open the volume again; nothing of it was changed'
    : 'its backing is missing or in use; nothing of the volume was changed'
}

/** Of all files below a folder. Points may be deleted while this runs: what is gone takes nothing. */
async function blocksBelow(folder: string): Promise<number> {
  let blocks = 0
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) blocks += await blocksBelow(path).catch(ifGone)
    else blocks += await stat(path).then(found => found.blocks, ifGone)
  }
  return blocks
}

function ifGone(error: NodeJS.ErrnoException): number {
  if (error.code === 'ENOENT') return 0
  throw error
}

type DiskOptions = Parameters<typeof openFileDisk>[0]

/** All of them, in this order, or none. */
async function openAll<K extends string>(wanted: Readonly<Record<K, DiskOptions>>): Promise<Record<K, FileDisk>> {
  const opened: [string, FileDisk][] = []
  try {
    for (const [name, options] of Object.entries<DiskOptions>(wanted)) opened.push([name, await openFileDisk(options)])
    return Object.fromEntries(opened) as Record<K, FileDisk>
  } catch (error) {
    await closeAll(opened.map(([, disk]) => disk))
    throw error
  }
}

async function closeAll(disks: readonly FileDisk[]): Promise<void> {
  await Promise.all(disks.map(disk => disk.close()))
}
