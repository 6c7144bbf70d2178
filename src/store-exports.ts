/**
 * StoreExports: the store's volumes as the NBD server's exports. Every volume is one, under its own name; "" is the only volume
 * when there is exactly one. The description carries the uuid, so that a client can tell two volumes of one name apart.
 *
 * Hidden exports are closed to new clients and unlisted until the server stops; attached clients go on.
 */
import { NbdeltaError } from './index.js'
import type { ExportHandle, ExportInfo, ExportProvider, Store, StoreVolume } from './index.js'

export class StoreExports implements ExportProvider {
  readonly #store: Store
  readonly #onAttached: (change: 1 | -1) => void
  readonly #hidden = new Set<string>()

  constructor(store: Store, onAttached: (change: 1 | -1) => void) {
    this.#store = store
    this.#onAttached = onAttached
  }

  list(): { name: string, description: string }[] {
    const shown = this.#store.list().filter(({ name }) => !this.#hidden.has(name))
    return shown.map(volume => ({ name: volume.name, description: describe(volume) }))
  }

  describe(name: string): ExportInfo | undefined {
    const volume = this.#find(name)
    if (!volume) return undefined
    const { sizeBytes, blockSizes, capabilities } = volume
    const { readOnly } = capabilities
    return { name: volume.name, description: describe(volume), sizeBytes, readOnly, blockSizes, capabilities }
  }

  async open(name: string): Promise<ExportHandle> {
    const device = this.#find(name)
    const info = this.describe(name)
    if (!device || !info) throw new NbdeltaError('not-found', unknown(name))
    if (device.problem) {
      throw new NbdeltaError(device.problem.code,
        `volume ${device.name} cannot be opened; the server's log and nbdelta volume show tell why`)
    }
    this.#onAttached(1)
    return { info, device, release: () => { this.#onAttached(-1) } }
  }

  isHidden(name: string): boolean { return this.#hidden.has(name) }

  /** Returns whether that changed anything. */
  setHidden(name: string, hidden: boolean): boolean {
    if (this.#hidden.has(name) === hidden) return false
    if (hidden) this.#hidden.add(name)
    else this.#hidden.delete(name)
    return true
  }

  #find(name: string): StoreVolume | undefined {
    if (name !== '') return this.#hidden.has(name) ? undefined : this.#store.get(name)
    const open = this.list()
    return open.length === 1 ? this.#store.get(open[0]!.name) : undefined
  }
}

function unknown(name: string): string {
  return name === '' ? 'there is no default export: name one of those that LIST shows' : 'there is no such export'
}

function describe({ uuid, description }: { uuid: string, description: string }): string {
  return description === '' ? `uuid ${uuid}` : `${description} (uuid ${uuid})`
}
