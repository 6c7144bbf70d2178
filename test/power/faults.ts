/**
 * A disk that refuses for a while: now and then anything, all that needs room, or every sync of one file or of one folder's names.
 * What is refused has not happened; what a sync was to cover a later one may, or may not (`isHarsh`).
 */
import { dirname } from 'node:path'
import type { Random } from '../../src/device/testing.js'

export type What = 'write' | 'sync' | 'make' | 'size' | 'rename' | 'remove'

const KINDS = ['rare', 'often', 'full', 'file', 'folder', 'syncs'] as const
const NEED_ROOM: readonly What[] = ['write', 'make', 'size']
/** One in so many. */
const RARE = 60
const OFTEN = 8

export class Faults {
  readonly kind: typeof KINDS[number]
  /** So far. */
  count = 0
  readonly #random: Random
  /** The file or folder that cannot be synced: the first that is, when it has been asked for so often. */
  #victim: string | undefined
  #until: number
  /** As the page cache is: what a sync could not write counts as clean, and is read until the power fails. */
  readonly isHarsh: boolean

  constructor(random: Random) {
    this.#random = random
    this.kind = KINDS[random(KINDS.length)]!
    this.#until = random(30)
    this.isHarsh = random(2) === 0
  }

  failureOf(what: What, name: string): NodeJS.ErrnoException | undefined {
    if (!this.#isHit(what, name)) return undefined
    this.count++
    return errorOf(this.kind === 'full' ? 'ENOSPC' : 'EIO', what)
  }

  #isHit(what: What, name: string): boolean {
    switch (this.kind) {
      case 'rare': return this.#random(RARE) === 0
      case 'often': return this.#random(OFTEN) === 0
      case 'full': return NEED_ROOM.includes(what) && this.#random(2) === 0
      case 'syncs': return what === 'sync' && this.#random(OFTEN) === 0
      case 'file': return what === 'sync' && this.#isVictim(name)
      case 'folder': return what === 'sync' && this.#isVictim(dirname(name))
    }
  }

  #isVictim(name: string): boolean {
    if (this.#victim === undefined && this.#until-- <= 0) this.#victim = name
    return name === this.#victim
  }
}

function errorOf(code: 'EIO' | 'ENOSPC', what: What): NodeJS.ErrnoException {
  const [errno, text] = code === 'EIO' ? [-5, 'i/o error'] : [-28, 'no space left on device']
  return Object.assign(new Error(`${code}: ${text}, ${what}`), { code, errno, syscall: what })
}
