/**
 * GroupFlush: one fdatasync serves everybody who asked before it began; whoever asks while one runs gets the next,
 * because the running one may have passed his bytes already. So any number of flushes costs at most two in a row.
 *
 * A failure latches (D7): the kernel has marked the lost pages clean, so a later fdatasync would succeed and lie.
 * Until the disk is opened again every flush fails with `flush-failed`. One failure does not latch: `unreachable`, of a disk that
 * is elsewhere, says nothing of what was written. The next flush asks again, and that disk itself remembers whether anything
 * is in doubt since (client-ledger.ts); it then says `flush-failed`.
 */
import type { Pending } from './block-device.js'
import { NbdeltaError } from './errors.js'

interface Deferred {
  readonly promise: Promise<void>
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

function deferred(): Deferred {
  let resolve!: () => void
  let reject!: (error: unknown) => void
  const promise = new Promise<void>((yes, no) => {
    resolve = yes
    reject = no
  })
  return { promise, resolve, reject }
}

export class GroupFlush {
  readonly #sync: () => Promise<void>
  readonly #now: () => number
  #running: Promise<void> | undefined
  #next: Deferred | undefined
  #failure: NbdeltaError | undefined
  #startedMs = Infinity
  /** Changes so far, and how many of them are durable. One change is there from the start: an earlier owner's. */
  #changes = 1
  #durable = 0

  /** @param sync makes durable what was written before it was called */
  constructor(sync: () => Promise<void>, now: () => number) {
    this.#sync = sync
    this.#now = now
  }

  /** When the running sync began; Infinity if none runs. */
  get startedMs(): number { return this.#startedMs }
  get failure(): NbdeltaError | undefined { return this.#failure }

  /** Something was written that the next flush must cover. To be called when the write is done. */
  changed(): void { this.#changes++ }

  /** Undefined when nothing was written since the last good flush began. */
  flush(): Pending {
    if (this.#failure) throw this.#failure
    if (this.#changes === this.#durable) return undefined
    if (!this.#running) return this.#begin()
    this.#next ??= deferred()
    return this.#next.promise
  }

  /** Resolves when no sync runs, whatever came of it. */
  async idle(): Promise<void> {
    while (this.#running) await this.#running.catch(() => undefined)
  }

  #begin(): Promise<void> {
    if (this.#failure) return Promise.reject(this.#failure)
    const covered = this.#changes
    this.#startedMs = this.#now()
    this.#running = this.#sync().then(
      () => {
        this.#durable = covered
        this.#ended()
      },
      (error: unknown) => {
        if (error instanceof NbdeltaError && error.code === 'unreachable') {
          this.#ended()
          throw error
        }
        const reason = error instanceof Error ? error.message : String(error)
        this.#failure ??= new NbdeltaError('flush-failed',
          `a flush failed (${reason}); what was written since the last good one is in doubt until this disk is opened again`,
          { cause: error })
        this.#ended()
        throw this.#failure
      })
    return this.#running
  }

  #ended(): void {
    this.#running = undefined
    this.#startedMs = Infinity
    const next = this.#next
    this.#next = undefined
    if (next) this.#begin().then(next.resolve, next.reject)
  }
}
