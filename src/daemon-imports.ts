/**
 * Imports of deltas that do not come to their end: the volume is at the delta's base again, whatever cut them short (B19).
 *
 *   begin    the base, a snapshot, is pinned by `delta import UUID after SEQ`, before the first write: where the delta leads to,
 *            and the newest point that the volume has then, for an earlier import may have led to the same
 *   end      the volume has a snapshot behind SEQ whose origin is UUID; then the pin goes
 *   undone   after an error, or when a server starts and finds such a pin without such a snapshot: size and content of the base
 *            are there again, then the pin goes
 *
 * The pin is a durable record; no write comes before it, and it goes after whatever it stands for is durable. Undone twice is
 * undone once: the second time nothing differs. Until it is undone no client gets the volume, for what it wrote would be lost
 * then; whoever restores all of the volume from a snapshot has undone it as well. What cannot be undone when the server starts
 * keeps nobody from the other volumes: `volume reopen`, or the next start, tries again.
 *
 * A full stream begins with an empty volume: after an error all of it is
 * trimmed; a volume on which the server was killed meanwhile is a mixture, as is one whose base is a bookmark.
 */
import { pinnedBy } from './daemon-shared.js'
import { NbdeltaError } from './index.js'
import type { Logger, PointInfo, Store, StoreVolume } from './index.js'

/** What `origin` is called among the labels of a point. */
export const ORIGIN = 'origin'
const OWNER = 'delta import '

export class ImportGuard {
  readonly #store: Store
  readonly #volume: StoreVolume
  readonly #base: PointInfo | undefined
  readonly #owner: string

  /** @param base where the delta starts; undefined: a full stream. @param target uuid of where it leads */
  constructor(store: Store, volume: StoreVolume, base: PointInfo | undefined, target: string) {
    this.#store = store
    this.#volume = volume
    this.#base = base
    this.#owner = `${OWNER}${target} after ${volume.points.list().at(-1)?.seq ?? 0}`
  }

  async begin(): Promise<void> {
    if (this.#base?.kind === 'snapshot') await this.#volume.points.pin(this.#base.name, { owner: this.#owner, expiresAt: null })
  }

  async end(): Promise<void> {
    if (this.#base?.kind === 'snapshot') await this.#volume.points.unpin(this.#base.name, this.#owner)
  }

  /** What became of the volume, in words, and what to do. */
  async undo(): Promise<{ readonly now: string, readonly hint: string }> {
    const { name } = this.#volume
    if (!this.#base) {
      await this.#volume.trim(0, this.#volume.sizeBytes)
      return { now: `volume ${name} is empty again`, hint: 'import again' }
    }
    if (this.#base.kind !== 'snapshot') {
      const hint = `bring the volume to ${this.#base.name} by a full stream: a bookmark keeps no content`
      return { now: `the content of volume ${name} is a mixture now`, hint }
    }
    await backTo(this.#store, this.#volume, this.#base)
    await this.end()
    return { now: `volume ${name} is at ${this.#base.name} again`, hint: 'import again' }
  }
}

/** For a server that starts: undoes what a killed one had begun, or lets go of what it had ended. */
export async function undoImports(store: Store, logger: Logger): Promise<void> {
  for (const volume of store.list()) {
    if (volume.problem) continue
    try {
      await undoImportsOf(store, volume, logger)
    } catch (error) {
      if (!(error instanceof NbdeltaError)) throw error
      logger.error({ err: error, volume: volume.name },
        'the import of a delta was cut short, and cannot be undone: nobody can attach until nbdelta volume reopen has done so')
    }
  }
}

/** Errors: why the volume cannot be brought back; then it is a mixture still. */
export async function undoImportsOf(store: Store, volume: StoreVolume, logger: Logger): Promise<void> {
  for (const { point, owner, isEnded } of importsOf(volume)) {
    if (!isEnded) {
      await backTo(store, volume, point)
      const facts = { volume: volume.name, point: point.name }
      logger.warn(facts, 'the import of a delta was cut short: the volume is at its base again')
    }
    await volume.points.unpin(point.name, owner)
  }
}

/** An import runs, or was cut short and is not undone yet. */
export function isMixture(volume: StoreVolume): boolean {
  return !volume.problem && importsOf(volume).some(({ isEnded }) => !isEnded)
}

/** It has the content of something else, from its start to `bytes`: if that is all of it, nothing of an import is left. */
export async function restoredTo(volume: StoreVolume, bytes: number): Promise<void> {
  if (bytes < volume.sizeBytes) return
  for (const { point, owner } of importsOf(volume)) await volume.points.unpin(point.name, owner)
}

interface Begun { readonly point: PointInfo, readonly owner: string, readonly isEnded: boolean }

/** Imports of which a base is pinned. */
function importsOf(volume: StoreVolume): Begun[] {
  return pinnedBy(volume, OWNER).map(({ point, owner }) => {
    const [target, , after = point.seq] = owner.slice(OWNER.length).split(' ')
    const isEnded = volume.points.list().some(({ labels, seq }) => labels[ORIGIN] === target && seq > Number(after))
    return { point, owner, isEnded }
  })
}

/** The copy goes on in the background; then the undo point, a mixture that nobody wants, is deleted. */
async function backTo(store: Store, volume: StoreVolume, base: PointInfo): Promise<void> {
  if (volume.sizeBytes !== base.sizeBytes) await store.resizeVolume(volume.name, base.sizeBytes)
  const before = new Set(volume.points.list().map(({ uuid }) => uuid))
  const { finished } = await volume.restore({ from: base.name })
  const undo = volume.points.list().find(({ uuid }) => !before.has(uuid))
  if (!undo) return
  finished.then(() => volume.points.delete(undo.name)).catch((error: unknown) => {
    // Then it stays, as after every restore.
    if (!(error instanceof NbdeltaError)) throw error
  })
}
