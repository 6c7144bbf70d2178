/**
 * Trouble of a simulated machine's disks: for a while some of them refuse some reads, writes and flushes, or there is no room on them.
 *
 * Of a full disk what takes no room goes on: overwrites, and records of logs, whose room is theirs already (FORMAT.md). Whoever opens
 * volumes has no trouble. What the simulation itself looks at is never refused, and looks at what the product shows.
 */
import { NbdeltaError } from '../../src/device/errors.js'
import type { Random } from '../../src/device/testing.js'
import type { Medium } from './medium.js'

/** Of a process; `lost`: it was killed, or stopped, and what it had not flushed may be lost, since a flush has failed. */
export type Ending = 'killed' | 'lost' | 'cut'
export type Asked = 'read' | 'write' | 'flush'
const KINDS: readonly (Asked | 'full')[] = ['read', 'write', 'flush', 'full']
/** Who writes them takes nothing more after a refusal, until they are opened anew. */
const LOGS: readonly string[] = ['journal', 'table', 'catalog']
/** What grows with what it has to hold. */
const GROWING: readonly string[] = ['live', 'preserved', 'staged', 'maps']
const PER_MILLE = [1000, 300, 50] as const

/** Of the simulation itself: nothing is refused meanwhile. */
export const looks = { running: 0 }

export class Trouble {
  /** A refusal has left something that only the next open mends. */
  isHurt = false
  /** A flush has failed: what was written before may be lost. */
  isLost = false
  /** There was some since the process began. */
  hasBegun = false
  /** By what is refused: how often. */
  #refusing = new Map<Asked | 'full', number>()
  /** Of which disks; undefined: of all. */
  #parts: readonly string[] | undefined
  readonly #random: Random
  /** So many were refused. */
  refused = 0

  constructor(random: Random) { this.#random = random }

  get isOn(): boolean { return this.#refusing.size > 0 }

  /** @param parts of disks that there are */
  begin(parts: readonly string[]): void {
    const some = <T>(all: readonly T[]): T => all[this.#random(all.length)]!
    this.hasBegun = true
    this.#refusing = new Map([[some(KINDS), some(PER_MILLE)]])
    if (this.#random(3) === 0) this.#refusing.set(some(KINDS), some(PER_MILLE))
    this.#parts = this.#random(3) > 0 ? [some(parts)] : undefined
  }

  end(): void { this.#refusing.clear() }

  /** Somebody is about to open all of them. */
  opens(): void {
    this.end()
    this.isHurt = this.isLost = this.hasBegun = false
  }

  judge(asked: 'read' | 'flush', medium: Medium): void {
    const refusal = this.refusal(asked, medium)
    if (refusal) throw refusal
  }

  refusal(asked: Asked, medium: Medium, offset = 0, length = 0): NbdeltaError | undefined {
    if (asked === 'flush' && medium.isLost) return this.#failed(asked, medium)
    if (!this.isOn || looks.running > 0 || (this.#parts && !this.#parts.includes(medium.part))) return undefined
    if (this.#happens(asked)) return this.#failed(asked, medium)
    const grows = asked === 'write' && length > 0 && GROWING.includes(medium.part) && medium.disk.zeroRun(offset, length) < 0
    if (!grows || !this.#happens('full')) return undefined
    this.refused++
    return new NbdeltaError('no-space', 'the disk is full', { cause: Object.assign(new Error('full'), { code: 'ENOSPC' }) })
  }

  #happens(what: Asked | 'full'): boolean {
    const perMille = this.#refusing.get(what)
    return perMille !== undefined && this.#random(1000) < perMille
  }

  #failed(asked: Asked, medium: Medium): NbdeltaError {
    this.refused++
    if (asked === 'flush') {
      medium.lose(medium.written)
      this.isLost = true
    }
    if (asked === 'flush' || (asked === 'write' && LOGS.includes(medium.part))) this.isHurt = true
    return new NbdeltaError('io', `a ${asked} of ${medium.part} failed`)
  }
}

/** Of disks that always work. */
export const NO_TROUBLE = new Trouble(() => 0)
