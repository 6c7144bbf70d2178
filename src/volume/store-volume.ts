/**
 * A store's volume as whoever uses the store sees it: a BlockDevice that knows its catalog entry.
 *
 * A volume that could not be opened (damaged, its backing gone) is there as well, so that it can be listed, looked at and
 * deleted; it refuses every request with the error that says why. One bad volume never keeps a store from opening.
 */
import type { BlockDevice, BlockSizes, Capabilities, Extents, Pending } from '../device/block-device.js'
import type { NbdeltaError } from '../device/errors.js'
import type { CatalogEntry } from '../store/catalog.js'
import type { InheritJob } from './copier.js'
import type { RestoreOptions } from './restore.js'
import type { Snappoints } from './snappoint.js'
import type { SpaceFacts } from './space.js'
import { Volume, type VolumeParts } from './volume.js'
import type { ChangeWatcher } from './watchers.js'

export interface StoreVolume extends BlockDevice {
  readonly uuid: string
  readonly name: string
  readonly grainBytes: number
  /** Absolute path of the adopted file or block device, or URI of a remote export; null: a file of the store's own. */
  readonly backing: string | null
  /** ISO 8601, UTC. */
  readonly createdAt: string
  readonly description: string
  /** Why it could not be opened; then every request fails with it. */
  readonly problem: NbdeltaError | undefined
  /** Its snapshots and bookmarks. */
  readonly points: Snappoints
  /** What they keep, how much they may, and what happens when there is no room for more. Null: it could not be opened. */
  readonly space: SpaceFacts | null
  /** Shows a snapshot's content when this resolves; copying goes on in the background. */
  restore(options: RestoreOptions): Promise<InheritJob>
  /** That copying, or a promotion's. */
  readonly inheriting: InheritJob | undefined
  /** Tells of every change from now on, until the returned function is called. At the instant of a point, so that it is exact. */
  watch(watcher: ChangeWatcher): () => void
  facts(): Promise<StoreVolumeFacts>
  /** Times that somebody has asked for a range of it. Only goes up. */
  readonly requests: number
}

/** All of it reads as zeros for certain; of one that could not be opened nobody knows. */
export async function isBlank(volume: Pick<StoreVolume, 'facts'>): Promise<boolean> {
  const { mappedBytes, inheritedBytes } = await volume.facts()
  return mappedBytes === 0 && inheritedBytes === 0
}

/** Null: not known, because the volume could not be opened, or what it takes because live is remote. */
interface StoreVolumeFacts {
  /** Taken on the medium. */
  readonly allocatedBytes: number | null
  /** May hold data. */
  readonly mappedBytes: number | null
  /** Shown of other content, and not copied yet. */
  readonly inheritedBytes: number | null
  /** Read as zeros, but their space has not come back yet. */
  readonly staleBytes: number | null
}

export class OpenStoreVolume extends Volume implements StoreVolume {
  readonly problem = undefined
  #entry: CatalogEntry

  constructor(parts: VolumeParts, entry: CatalogEntry) {
    super(parts)
    this.#entry = entry
  }

  get entry(): CatalogEntry { return this.#entry }
  get uuid(): string { return this.#entry.uuid }
  get name(): string { return this.#entry.name }
  get backing(): string | null { return this.#entry.backing }
  get createdAt(): string { return this.#entry.createdAt }
  get description(): string { return this.#entry.description }

  /** Whole from now on; `put` makes the changed entry durable. */
  async imported(put: (entry: CatalogEntry) => Promise<void>): Promise<void> {
    const { importing: _, ...entry } = this.#entry
    await put(entry)
    this.#entry = entry
  }

  /** As `resize`; `put` makes the changed entry durable. */
  async resizeTo(sizeBytes: number, put: (entry: CatalogEntry) => Promise<void>): Promise<void> {
    const entry = { ...this.#entry, sizeBytes }
    await this.resize(sizeBytes, () => put(entry))
    this.#entry = entry
  }
}

export class BrokenStoreVolume implements StoreVolume {
  readonly capabilities: Capabilities = Object.freeze({ readOnly: true, trim: false, fastZero: false, rotational: false })
  readonly blockSizes: BlockSizes = Object.freeze({ minimum: 1, preferred: 4096, maximum: 32 * 2 ** 20 })

  constructor(readonly entry: CatalogEntry, readonly problem: NbdeltaError) {}

  get uuid(): string { return this.entry.uuid }
  get name(): string { return this.entry.name }
  get sizeBytes(): number { return this.entry.sizeBytes }
  get grainBytes(): number { return this.entry.grainBytes }
  get backing(): string | null { return this.entry.backing }
  get createdAt(): string { return this.entry.createdAt }
  get description(): string { return this.entry.description }

  get points(): Snappoints { throw this.problem }
  readonly inheriting = undefined
  readonly space = null
  readonly requests = 0
  async restore(): Promise<InheritJob> { throw this.problem }
  watch(): never { throw this.problem }
  read(): Pending { throw this.problem }
  write(): Pending { throw this.problem }
  zero(): Pending { throw this.problem }
  trim(): Pending { throw this.problem }
  flush(): Pending { throw this.problem }
  zeroRun(): number { throw this.problem }
  extents(): Extents { throw this.problem }
  async facts(): Promise<StoreVolumeFacts> {
    return { allocatedBytes: null, mappedBytes: null, inheritedBytes: null, staleBytes: null }
  }
  async close(): Promise<void> {}
}
