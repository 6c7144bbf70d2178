/**
 * Transfers: raw images into volumes and out of them, judged first, then run as jobs. An image is a file of the server's host or
 * an export of another NBD server.
 *
 * Import: the export is hidden from new clients until the end, so nobody attaches to half an image; a volume made for it is
 * taken away again when it fails, and by the next start when the server is killed. Neither way with a file that the store or
 * one of its volumes lives in. A remote image is opened once, when it is judged: some servers end with their first client.
 */
import { realpath, stat } from 'node:fs/promises'
import { basename, dirname, join, sep } from 'node:path'
import { formatSize, isUri } from './control/options.js'
import { leaving, usable } from './daemon-shared.js'
import { NbdeltaError, exportImage, importImage, openFileDisk } from './index.js'
import type { ServerAdmin, Transfer, TransferControl } from './control/admin.js'
import type { RemoteExports } from './daemon-remote.js'
import type { BlockDevice, Store, StoreVolume } from './index.js'
import type { StoreExports } from './store-exports.js'

/** Volumes have whole sectors; an image that has not is filled up with zeros. */
const SECTOR_BYTES = 512

interface TransferParts {
  readonly store: Store
  readonly exports: StoreExports
  readonly get: (name: string) => StoreVolume
  readonly remote: RemoteExports
  /** Throws busy while clients are attached. */
  readonly assertUnattached: (name: string, doing: string) => void
  /** Throws wrong-state for the target of a mirror. */
  readonly assertOwn: (name: string, doing: string) => void
}

/** What a volume is filled from. */
interface Image {
  readonly source: string | BlockDevice
  readonly sizeBytes: number
  close(): Promise<void>
}

export class Transfers {
  readonly #parts: TransferParts

  constructor(parts: TransferParts) { this.#parts = parts }

  async prepareImport(
    { name, path, dryRun, ...options }: Parameters<ServerAdmin['prepareImport']>[0],
  ): Promise<Transfer> {
    const image = isUri(path) ? await this.#openRemote(path, name) : await this.#openFile(path)
    let kept = false
    try {
      const { run, ...transfer } = this.#judgeImport(name, path, image, options)
      kept = !dryRun
      return { ...transfer, run: control => run(control).finally(() => image.close()) }
    } finally {
      if (!kept) await image.close()
    }
  }

  #judgeImport(
    name: string, path: string, { source, sizeBytes: imageBytes }: Image,
    { grainBytes, overwrite }: { readonly grainBytes: number, readonly overwrite: boolean },
  ): Transfer {
    const { store } = this.#parts
    const fill = `fill volume ${name} from ${path}, ${formatSize(imageBytes)}`
    const existing = store.get(name)
    if (!existing) {
      const sizeBytes = Math.ceil(imageBytes / SECTOR_BYTES) * SECTOR_BYTES
      return {
        steps: [`create volume ${name}, ${formatSize(sizeBytes)}`, fill],
        run: control => this.#hidden(name, async () => {
          await store.importVolume({ name, sizeBytes, grainBytes }, source, control)
        }),
      }
    }
    if (existing.problem) throw existing.problem
    if (!overwrite) {
      throw new NbdeltaError('exists', `there is a volume ${name} already`,
        { hint: 'choose another name, or give --overwrite: its content is lost then' })
    }
    if (imageBytes > existing.sizeBytes) {
      throw new NbdeltaError('too-large',
        `${path} has ${formatSize(imageBytes)}, volume ${name} only ${formatSize(existing.sizeBytes)}`,
        { hint: 'grow it first: nbdelta volume resize' })
    }
    this.#parts.assertOwn(name, 'import into')
    this.#parts.assertUnattached(name, 'import into')
    return { steps: [fill], run: control => this.#hidden(name, () => this.#importOver(existing, source, control)) }
  }

  async prepareExport({ name, path, overwrite }: Parameters<ServerAdmin['prepareExport']>[0]): Promise<Transfer> {
    const volume = usable(this.#parts, name)
    const steps = [`copy volume ${name} to ${path}`]
    if (isUri(path)) return { steps, run: await this.#judgeRemoteTarget(volume, path, overwrite) }
    await this.judgeTarget(path, overwrite)
    return { steps, run: control => exportImage(volume, path, { ...control, overwrite }) }
  }

  async #importOver(volume: StoreVolume, source: Image['source'], control: TransferControl): Promise<void> {
    // Somebody may have attached between the look and the hiding.
    this.#parts.assertUnattached(volume.name, 'import into')
    try {
      await importImage(volume, source, control)
    } catch (error) {
      if (!(error instanceof NbdeltaError)) throw error
      throw leaving(error, `the content of volume ${volume.name} is a mixture now`, 'import again')
    }
  }

  async #openFile(path: string): Promise<Image> {
    const sizeBytes = await sizeOf(path)
    await this.#refuseOwn(path, await realpath(path), 'its file may hold what clients have trimmed: export it, and import that')
    return { source: path, sizeBytes, close: async () => undefined }
  }

  async #openRemote(uri: string, name: string): Promise<Image> {
    const { remote } = this.#parts
    this.#refuseBacking(uri, remote.canonical(uri), 'it may hold what clients have trimmed: export that volume, and import it')
    const source = await remote.openImage(uri, name, false)
    const { sizeBytes } = source
    if (sizeBytes > 0) return { source, sizeBytes, close: () => source.close() }
    await source.close()
    throw new NbdeltaError('bad-argument', `${uri} is empty`)
  }

  /** An export of another server is there already, so that what it holds is always written over. */
  async #judgeRemoteTarget(volume: StoreVolume, uri: string, overwrite: boolean): Promise<Transfer['run']> {
    const { remote } = this.#parts
    this.#refuseBacking(uri, remote.canonical(uri), 'write the image elsewhere')
    if (!overwrite) {
      throw new NbdeltaError('exists', `${uri} holds something already, if only zeros`,
        { hint: 'give --overwrite: its content is lost then' })
    }
    const target = await remote.openImage(uri, volume.name, true)
    if (target.sizeBytes < volume.sizeBytes) {
      await target.close()
      throw new NbdeltaError('too-large',
        `volume ${volume.name} has ${formatSize(volume.sizeBytes)}, ${uri} only ${formatSize(target.sizeBytes)}`,
        { hint: 'make that export larger first' })
    }
    return async control => {
      try {
        await exportImage(volume, target, control)
      } catch (error) {
        if (!(error instanceof NbdeltaError)) throw error
        throw leaving(error, `the content of ${uri} is a mixture now`, 'export again')
      } finally {
        await target.close()
      }
    }
  }

  /** Runs `work` while no new client can attach. */
  async #hidden(name: string, work: () => Promise<void>): Promise<void> {
    const { exports } = this.#parts
    const changed = exports.setHidden(name, true)
    try { await work() } finally { if (changed) exports.setHidden(name, false) }
  }

  /** What a volume lives in is the volume's alone. */
  async #refuseOwn(path: string, real: string, hint: string): Promise<void> {
    const { store } = this.#parts
    if (real.startsWith(await realpath(store.path) + sep)) {
      throw new NbdeltaError('bad-argument', `${path} lies inside the store`, { hint })
    }
    this.#refuseBacking(path, real, hint)
  }

  #refuseBacking(path: string, backing: string, hint: string): void {
    const adopted = this.#parts.store.list().find(volume => volume.backing === backing)
    if (adopted) throw new NbdeltaError('busy', `${path} is the backing of volume ${adopted.name}`, { hint })
  }

  /** It is there and no part of the store. Resolves with its size. Errors: not-found, bad-argument, busy. */
  async judgeSource(path: string): Promise<number> {
    const sizeBytes = await sizeOf(path)
    await this.#refuseOwn(path, await realpath(path), 'export it, and import that')
    return sizeBytes
  }

  /** What is written there harms no volume. Errors: not-found, bad-argument, busy, exists. */
  async judgeTarget(path: string, overwrite: boolean): Promise<void> {
    const folder = await realpath(dirname(path)).catch(() => undefined)
    if (folder === undefined) throw new NbdeltaError('not-found', `cannot write ${path}: there is no folder ${dirname(path)}`)
    const target = await realpath(path).catch(() => join(folder, basename(path)))
    await this.#refuseOwn(path, target, 'write the image elsewhere')
    const there = await stat(target).catch(() => undefined)
    if (there?.isDirectory()) throw new NbdeltaError('bad-argument', `${path} is a directory; name a file`)
    if (there && !overwrite) {
      throw new NbdeltaError('exists', `${path} is there already`, { hint: 'choose another name, or give --overwrite' })
    }
  }
}

async function sizeOf(path: string): Promise<number> {
  const image = await openFileDisk({ path, readOnly: true })
  const { sizeBytes } = image
  await image.close()
  if (sizeBytes === 0) throw new NbdeltaError('bad-argument', `${path} is empty`)
  return sizeBytes
}
