/**
 * Settlement: how requests end. Success, refusal and failure become replies here; what the device completes later is kept
 * as a job until it settles, and its reply waits while another one must not be interrupted.
 *
 * Room for a reply: inline completions have it already (the session reserves before it begins a request); a job gets it
 * when it settles, however little memory is left, because it was executed.
 */
import { COMMAND, COMMAND_FLAG } from '../../native-free/nbd/constants.js'
import { Jobs } from './jobs.js'
import { Replies } from './replies.js'
import { refusalOf } from './wire-error.js'
import type { Echo, ReplyStyle, Request } from '../../native-free/nbd/transmission.js'
import type { BlockDevice, Origin, Pending } from '../device/block-device.js'
import type { Counters } from './counters.js'
import type { Job } from './jobs.js'
import type { Outbox } from './outbox.js'
import type { Refusal } from './request-verdict.js'

export interface SessionHost extends Origin {
  /** A completion: flush what is ready and let the session go on. */
  wake(): void
  /** One refused or failed request, for the log. */
  report(type: number, offset: number, length: number, refusal: Refusal): void
  /** A broken invariant behind a promise: this connection cannot go on. */
  broken(error: unknown): void
}

/** What a reply and its log line need of a request; requests and jobs have it. */
export type Asked = Echo & Pick<Request, 'type' | 'flags' | 'offset' | 'length'>

export class Settlement {
  readonly jobs = new Jobs()
  readonly replies: Replies
  readonly #host: SessionHost
  readonly #device: BlockDevice
  readonly #outbox: Outbox
  readonly #counters: Counters
  /** Replies that wait, while `hold` says so. */
  readonly #held: (() => void)[] = []
  #holding = false

  constructor(host: SessionHost, device: BlockDevice, outbox: Outbox, counters: Counters, style: ReplyStyle) {
    this.#host = host
    this.#device = device
    this.#outbox = outbox
    this.#counters = counters
    this.replies = new Replies(outbox, style)
  }

  /** Keeps replies back: one that goes out in one piece has begun. */
  hold(): void { this.#holding = true }

  /** Replies are being held. */
  get holds(): boolean { return this.#held.length > 0 }

  /** Lets them go. */
  release(): void {
    this.#holding = false
    // One that throws ends the connection, and the others must still be there to end their jobs.
    for (let finish = this.#held.shift(); finish !== undefined; finish = this.#held.shift()) finish()
  }

  /** Runs what writes a reply, now or after the one that must not be interrupted. */
  reply(finish: () => void): void {
    if (this.#holding) this.#held.push(finish)
    else finish()
    this.#host.wake()
  }

  /** When `pending` settles the job ends and its reply goes out; `discard` gives back what a reply not sent has taken. */
  settle(job: Job, pending: Promise<void>, succeed: () => void, discard?: () => void): void {
    const finish = (error: unknown): void => this.reply(() => {
      this.jobs.end(job)
      const { gone } = this.#host
      if (!gone && error === undefined) {
        succeed()
        return
      }
      discard?.()
      if (gone) return
      this.#outbox.reserveReply()
      this.fail(job, error)
    })
    pending.then(() => finish(undefined), (error: unknown) => finish(error ?? new Error('a device rejected with nothing')))
      .catch((error: unknown) => this.#host.broken(error))
  }

  /** The end of a command without data to send: FUA where it was asked for, then the reply (D2). */
  conclude(request: Request, pending: Pending): void {
    if (this.#wantsFlush(request)) {
      try {
        pending = pending === undefined ? this.#device.flush() : pending.then(() => this.#device.flush())
      } catch (error) {
        this.fail(request, error)
        return
      }
    }
    if (pending === undefined) {
      this.replies.success(request, request.type)
      return
    }
    const job = this.jobs.begin(request)
    this.settle(job, pending, () => this.#succeed(job))
  }

  /** The same for a job whose work at the device is over already. */
  concludeJob(job: Job, failure: unknown): void {
    const { gone } = this.#host
    if (!gone && failure === undefined && this.#wantsFlush(job)) {
      // In a promise, so that a flush that throws and one that rejects take the same way.
      this.settle(job, Promise.resolve().then(() => this.#device.flush()), () => this.#succeed(job))
      return
    }
    this.jobs.end(job)
    if (gone) return
    this.#outbox.reserveReply()
    if (failure === undefined) this.replies.success(job, job.type)
    else this.fail(job, failure)
  }

  #succeed(job: Job): void {
    this.#outbox.reserveReply()
    this.replies.success(job, job.type)
  }

  /** FUA is taken on every command and means something on those that write (F1). */
  #wantsFlush({ type, flags }: Asked): boolean {
    return (flags & COMMAND_FLAG.fua) !== 0 && (type === COMMAND.write || type === COMMAND.trim || type === COMMAND.writeZeroes)
  }

  /** A device's failure as an error reply. A broken invariant is no reply: it is thrown on, and closes the connection. */
  fail(request: Asked, error: unknown): void {
    this.refuse(request, this.#refusal(error))
  }

  refuse(request: Asked, refusal: Refusal): void {
    this.#note(request, refusal)
    this.replies.failure(request, refusal)
  }

  /** A failure that no reply can tell any more. */
  noteFailure(request: Asked, error: unknown): void {
    this.#note(request, this.#refusal(error))
  }

  #refusal(error: unknown): Refusal {
    const refusal = refusalOf(error)
    if (refusal === undefined) throw error
    return refusal
  }

  #note(request: Asked, refusal: Refusal): void {
    this.#counters.countError(refusal.errnoName)
    this.#host.report(request.type, request.offset, request.length, refusal)
  }
}
