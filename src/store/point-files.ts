/**
 * The files of points: DIR/volumes/<uuid>/points/<seq>/{maps,preserved}, and DIR/volumes/<uuid>/{todo,base} of a
 * volume that inherits: from a restore, and as a clone.
 *
 * A folder's name says where its point is in its life; together with the table of points it says what to do after a crash:
 *
 *   name           in the table                      not in the table
 *   <seq>.new      (cannot be)                       was never used: remove
 *   <seq>          a point                           may have been written to before its record: merge, then delete
 *   <seq>.deleted  its deletion goes on              deleted: remove
 *
 * Making: .new with everything in it, durable -> <seq>, durable -> (the volume uses it) -> the table names it. Were it named
 * <seq> first, a crash would leave a folder whose maps are there or not, and which nobody dares to merge or to remove.
 * Deleting: .deleted, durable -> out of the table -> remove. Were it removed while the table names it, a crash would leave a
 * point that cannot be read.
 *
 * Limits: POINT_HANDLES_MAX open files in all, those being made included.
 */
import { mkdir, readdir, rename, rm, rmdir, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { allSettled } from '../device/all-settled.js'
import { asNbdeltaError, NbdeltaError } from '../device/errors.js'
import { type FileDisk, openFileDisk } from '../device/file-disk.js'
import { syncFolder } from '../device/sync-folder.js'
import { FilePool, type PooledFile } from './file-pool.js'
import type { MapIdentity } from './map-file.js'
import { formatPointMaps, pointMapsLayout, TODO_FILE_BYTES, todoMap, type PointMapKind } from './point-maps.js'
import { uuidBytes } from './store-creation.js'

const UNNAMED = '.new'
const DELETED = '.deleted'
const FOLDER = /^([1-9][0-9]{0,15})(\.new|\.deleted|)$/
const BLOCK_BYTES = 512

export interface PointFiles {
  /** The file of point-maps.ts. */
  readonly maps: PooledFile
  /** Snapshots: grain i at i x grain size, sparse, as long as the volume was. */
  readonly preserved: PooledFile | undefined
  close(): Promise<void>
}

/** What a restore has left to do, and what a clone has of its base. */
export type TodoName = 'todo' | 'base'

interface PointShape {
  readonly grains: number
  readonly sizeBytes: number
  readonly kind: PointMapKind
}

/** Seqs of the folders there are, ascending, by what their names say. */
interface PointFolderList {
  readonly present: readonly number[]
  readonly deleted: readonly number[]
  readonly unfinished: readonly number[]
}

export class PointFolders {
  readonly #root: string
  readonly #pool: FilePool
  /** By volume: its folder of points is there, durably. */
  readonly #rooted = new Map<string, Promise<void>>()

  /** `root` is the store's `volumes`. */
  constructor(root: string, pool = new FilePool()) {
    this.#root = root
    this.#pool = pool
  }

  /**
   * Makes the files of a new point, all maps clear, durable. On failure nothing is left.
   * Errors: exists, too-large, no-space, denied, io.
   */
  async make(volume: string, seq: number, shape: PointShape): Promise<void> {
    const { sizeBytes: mapsBytes } = pointMapsLayout(shape.grains, shape.kind)
    const folder = this.#path(volume, seq, UNNAMED)
    await this.#refuseThere(volume, seq)
    try {
      await this.#makeRoot(volume)
      await rm(folder, { recursive: true, force: true })
      await mkdir(folder, { mode: 0o700 })
      await this.#pool.borrow(2, async () => {
        // Files are made durably, their names too.
        const preserved = async (): Promise<void> => {
          await (await openFileDisk({ path: join(folder, 'preserved'), create: { sizeBytes: shape.sizeBytes } })).close()
        }
        const maps = async (): Promise<void> => {
          const disk = await openFileDisk({ path: join(folder, 'maps'), create: { sizeBytes: mapsBytes } })
          try {
            await formatPointMaps(disk, identityOf(volume, seq), shape.grains, shape.kind)
          } finally {
            await disk.close()
          }
        }
        await allSettled(shape.kind === 'snapshot' ? [preserved(), maps()] : [maps()])
      })
      await rename(folder, this.#path(volume, seq))
      await syncFolder(this.#folder(volume))
    } catch (error) {
      await rm(folder, { recursive: true, force: true })
      throw asNbdeltaError(error, `make point ${seq} of volume ${volume}`)
    }
  }

  /**
   * The files of a point. They are opened when they are used, and closed again when others need the handles; whoever has
   * them closes them before `markDeleted`. Errors: damaged (a file is missing), denied, io.
   */
  async open(volume: string, seq: number, { kind }: { readonly kind: PointMapKind }): Promise<PointFiles> {
    const folder = this.#path(volume, seq)
    try {
      const maps = await this.#pool.file(join(folder, 'maps'))
      const preserved = kind === 'snapshot' ? await this.#pool.file(join(folder, 'preserved')) : undefined
      return { maps, preserved, close: async () => { await Promise.all([maps.close(), preserved?.close()]) } }
    } catch (error) {
      if (!(error instanceof NbdeltaError) || error.code !== 'not-found') throw error
      const what = `a file of point ${seq} of volume ${volume} is missing: ${error.message}`
      throw new NbdeltaError('damaged', what, { cause: error })
    }
  }

  /** What a map of this point is known by: for `pointMaps`. */
  identity(volume: string, seq: number): MapIdentity { return identityOf(volume, seq) }

  /** Durable when done. A folder that is gone already, or renamed already: done. */
  async markDeleted(volume: string, seq: number): Promise<void> {
    try {
      await rename(this.#path(volume, seq), this.#path(volume, seq, DELETED))
      await syncFolder(this.#folder(volume))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
      throw asNbdeltaError(error, `delete point ${seq} of volume ${volume}`)
    }
  }

  /** Gives back the space of what was marked. Nothing is there: done. */
  removeDeleted(volume: string, seq: number): Promise<void> { return this.#remove(volume, seq, DELETED) }

  /** Removes what a crash left of a `make`. */
  removeUnfinished(volume: string, seq: number): Promise<void> { return this.#remove(volume, seq, UNNAMED) }

  /** What is on disk. */
  async list(volume: string): Promise<PointFolderList> {
    const found: Record<'' | typeof UNNAMED | typeof DELETED, number[]> = { '': [], [UNNAMED]: [], [DELETED]: [] }
    const names = await readdir(this.#folder(volume)).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return []
      throw asNbdeltaError(error, `look for points of volume ${volume}`)
    })
    for (const name of names) {
      const [, seq, state] = FOLDER.exec(name) ?? []
      if (seq !== undefined) found[state as keyof typeof found].push(Number(seq))
    }
    for (const seqs of Object.values(found)) seqs.sort((a, b) => a - b)
    return { present: found[''], deleted: found[DELETED], unfinished: found[UNNAMED] }
  }

  /** Bytes that the point's files take on the medium; 0 when they are gone. */
  async allocatedBytes(volume: string, seq: number): Promise<number> {
    let blocks = 0
    for (const file of ['maps', 'preserved']) {
      blocks += (await stat(join(this.#path(volume, seq), file)).catch(() => undefined))?.blocks ?? 0
    }
    return blocks * BLOCK_BYTES
  }

  /**
   * Makes the file `todo` or `base` of a volume, or replaces it: all of `grains` inherited, or none. It is durable, and means
   * nothing before the table of points says that the volume inherits.
   */
  async makeTodo(volume: string, grains: number, fill: boolean, name: TodoName = 'todo'): Promise<void> {
    const path = join(this.#root, volume, name)
    const draft = `${path}${UNNAMED}`
    try {
      await rm(draft, { force: true })
      await this.#pool.borrow(1, async () => {
        const disk = await openFileDisk({ path: draft, create: { sizeBytes: TODO_FILE_BYTES } })
        try {
          await todoMap(disk, todoIdentity(volume), grains).format(fill)
          await disk.flush()
        } finally {
          await disk.close()
        }
      })
      await rename(draft, path)
      await syncFolder(dirname(path))
    } catch (error) {
      throw asNbdeltaError(error, `make ${path}`)
    }
  }

  /** Errors: damaged (it is missing), denied, io. */
  async openTodo(volume: string, name: TodoName = 'todo'): Promise<PooledFile> {
    const path = join(this.#root, volume, name)
    try {
      return await this.#pool.file(path)
    } catch (error) {
      if (!(error instanceof NbdeltaError) || error.code !== 'not-found') throw error
      throw new NbdeltaError('damaged', `${path} is missing: what volume ${volume} still inherits is not known`, { cause: error })
    }
  }

  /** What the maps in `todo` and `base` are known by: for `todoMap`. */
  todoIdentity(volume: string): MapIdentity { return todoIdentity(volume) }

  /**
   * Where new content waits, `sizeBytes` long where it is made; undefined: it is not there. One without a length is what a crash
   * has left of making it: nothing was ever in it. Errors: no-space, denied, io.
   */
  async openStaged(volume: string, sizeBytes: number | undefined): Promise<FileDisk | undefined> {
    const path = join(this.#root, volume, 'staged')
    try {
      if (await stat(path).then(({ size }) => size > 0, () => false)) {
        // Who made it may have been killed before its name was durable.
        await syncFolder(dirname(path))
        return await openFileDisk({ path })
      }
      if (sizeBytes === undefined) return undefined
      await rm(path, { force: true })
      return await openFileDisk({ path, create: { sizeBytes } })
    } catch (error) {
      throw asNbdeltaError(error, `open ${path}`)
    }
  }

  /** After the table has said that nothing is inherited any more. Durable; nothing is there: done. */
  async removeTodo(volume: string, name: TodoName = 'todo'): Promise<void> {
    const path = join(this.#root, volume, name)
    try {
      await rm(path, { force: true })
      await rm(`${path}${UNNAMED}`, { force: true })
      await syncFolder(dirname(path))
    } catch (error) {
      throw asNbdeltaError(error, `remove ${path}`)
    }
  }

  async #remove(volume: string, seq: number, state: typeof UNNAMED | typeof DELETED): Promise<void> {
    try {
      await rm(this.#path(volume, seq, state), { recursive: true, force: true })
      await syncFolder(this.#folder(volume))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
      throw asNbdeltaError(error, `remove point ${seq} of volume ${volume}`)
    }
  }

  async #makeRoot(volume: string): Promise<void> {
    const made = this.#rooted.get(volume) ?? this.#makeRootAnew(volume)
    this.#rooted.set(volume, made)
    try {
      await made
    } catch (error) {
      this.#rooted.delete(volume)
      throw error
    }
  }

  /**
   * Whoever made it first may have been killed before its name was durable. Or that failed: then the name may count as clean,
   * and no later sync covers it. As long as nothing is in it, it is made anew.
   */
  async #makeRootAnew(volume: string): Promise<void> {
    const folder = this.#folder(volume)
    await rmdir(folder).catch((error: NodeJS.ErrnoException) => {
      if (!['ENOENT', 'ENOTEMPTY', 'EEXIST'].includes(error.code!)) throw error
    })
    await mkdir(folder, { mode: 0o700 }).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error
    })
    await syncFolder(join(this.#root, volume))
  }

  async #refuseThere(volume: string, seq: number): Promise<void> {
    for (const state of ['', DELETED] as const) {
      const there = await stat(this.#path(volume, seq, state)).then(() => true, () => false)
      if (there) throw new NbdeltaError('exists', `point ${seq} of volume ${volume} has a folder already`)
    }
  }

  #folder(volume: string): string { return join(this.#root, volume, 'points') }
  #path(volume: string, seq: number, state: typeof UNNAMED | typeof DELETED | '' = ''): string {
    return join(this.#folder(volume), `${seq}${state}`)
  }
}

function identityOf(volume: string, seq: number): MapIdentity {
  return { owner: uuidBytes(volume), name: `point ${seq} of volume ${volume}`, point: seq }
}

function todoIdentity(volume: string): MapIdentity {
  return { owner: uuidBytes(volume), name: `todo of volume ${volume}` }
}
