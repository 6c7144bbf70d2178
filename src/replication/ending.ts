/**
 * Ending: how a mirror is deleted. Its target stands on its own first, at its declared point; then the mirror's points go.
 *
 * Order of what is durable, and what each other order would lose
 *   let go    -> the record. The other way round, a crash leaves a target at half a cycle, and nobody knows whose it is
 *   a peer's  -> the record. The other way round, nobody would ask the peer again
 *   the record -> points here. The other way round, a crash in between leaves a mirror whose target is at no point, or whose base
 *             is gone. What a crash leaves behind the record the next start drops (orphans.ts)
 *
 * A target that could not be let go keeps its points, without which it would be left at half a cycle: a peer goes on showing
 * what it declares until it is promoted there. A volume here would be shown as it is, since nobody would know whose it was:
 * where it has no room or no time, or its disk fails, the mirror is not deleted.
 */
import { NbdeltaError } from '../device/errors.js'
import type { Logger } from '../device/logger.js'
import type { MirrorTarget } from './target.js'
import { VolumeTarget } from './volume-target.js'

/** Errors of a release that another attempt may not meet. */
const FOR_NOW: readonly string[] = ['no-space', 'busy', 'io', 'flush-failed']

export class Ending {
  readonly #parts: { readonly target: MirrorTarget, readonly logger: Logger }
  readonly #mirror: string
  #isFree = true

  constructor(parts: { readonly target: MirrorTarget, readonly logger: Logger }, mirror: string) {
    this.#parts = parts
    this.#mirror = mirror
  }

  /** @param isHere it is a volume of this store, with a declared point. Errors: FOR_NOW; then nothing has ended */
  async letGo(work: () => Promise<void>, isHere: () => boolean): Promise<void> {
    try { await work() } catch (error) {
      if (isHere() && error instanceof NbdeltaError && FOR_NOW.includes(error.code)) throw error
      this.#isFree = false
      this.#stays(error)
    }
  }

  /**
   * @param remove durably: from then on there is no mirror
   * @param sweep drops the source's points
   * Errors: those of `remove`.
   */
  async forget(remove: () => Promise<void>, sweep: () => Promise<void>): Promise<void> {
    const stays = (error: unknown): void => { this.#stays(error) }
    const { target } = this.#parts
    const forget = async (): Promise<void> => { if (this.#isFree) await target.forget().catch(stays) }
    const isHere = target instanceof VolumeTarget
    if (!isHere) await forget()
    await remove()
    if (isHere) await forget()
    await sweep().catch(stays)
  }

  #stays(err: unknown): void { this.#parts.logger.warn({ err, mirror: this.#mirror }, 'points of a deleted mirror stay for now') }
}
