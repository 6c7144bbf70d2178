/**
 * RecordedStore: a store of which everything is recorded that is done to its files. When the recording has ended, what a power cut may
 * leave of it is opened and looked at, state by state.
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Random, seededRandom } from '../../src/device/testing.js'
import { openStore, type Store } from '../../src/volume/open-store.js'
import { leftOf, writeLeft } from './folder-states.js'
import { RecordedFolder } from './recorded-folder.js'

export class RecordedStore {
  readonly folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'nbdelta-recorded-'))
  readonly path = join(this.folder, 'store')
  readonly #recorded = new RecordedFolder(this.folder)
  /** Syncs that have failed so far. */
  failed = 0

  get position(): number { return this.#recorded.position }

  /** Syncs of what `isHit` names fail, and what they were to write counts as clean; undefined: none fails any more. */
  failSyncs(isHit: ((name: string) => boolean) | undefined): void {
    this.#recorded.faults = isHit && {
      isHarsh: true,
      failureOf: (what, name) => {
        if (what !== 'sync' || !isHit(name)) return undefined
        this.failed++
        return Object.assign(new Error('EIO: i/o error, fdatasync'), { code: 'EIO' })
      },
    }
  }

  /** The recording ends. So many states of its end, or of another position, are opened one after the other. */
  async eachLeft(
    states: number, look: (store: Store, state: string) => Promise<void>, positionOf: (random: Random) => number = () => this.position,
  ): Promise<void> {
    this.#recorded.stop()
    for (let seed = 1; seed <= states; seed++) {
      const random = seededRandom(seed)
      const left = leftOf(this.#recorded.history, positionOf(random), 'cut', random)
      rmSync(this.folder, { recursive: true })
      writeLeft(left, this.folder)
      const store = await openStore({ path: this.path })
      await look(store, `seed ${seed}: ${left.story}`)
      await store.close()
    }
  }

  remove(): void { rmSync(this.folder, { recursive: true, force: true }) }
}
