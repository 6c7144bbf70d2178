/**
 * Jobs: transfers that go on after the command that started them has returned.
 *
 * A lasting one (restore, promotion) is on disk as well: it ends neither with who waits for it nor with the server, whose next
 * start goes on with it; only an explicit `cancel` ends it early.
 *
 * States: running -> done | failed | cancelled, each once. At most JOBS_RUNNING_MAX run; of those that ended the last
 * JOBS_KEPT_MAX are remembered. A job holds its volume: what would disturb it is refused by `assertFree`.
 * Ids are numbers that count up and are never reused within one server run; jobs do not outlive the server.
 */
import { NbdeltaError } from '../device/errors.js'
import type { Clock } from '../device/clock.js'
import type { JobKind, JobRow, JobState, Transfer } from './admin.js'

/** Each moves data at full speed through one disk and one event loop; more would only be slower side by side. */
const JOBS_RUNNING_MAX = 16
/** About 500 bytes each. */
const JOBS_KEPT_MAX = 200
/** Five reports a second look steady and cost nothing. */
const PROGRESS_MS = 200

const LASTING: ReadonlySet<JobKind> = new Set(['restore', 'promotion', 'group restore'])

export type JobsClock = Pick<Clock, 'now' | 'wallTime'>

interface Job {
  readonly id: number
  readonly kind: JobKind
  readonly volume: string
  /** All that it works on. */
  readonly volumes: readonly string[]
  readonly path: string | null
  readonly startedAt: string
  readonly abort: AbortController
  /** How one is cancelled that then may go on all the same; of others it never comes. */
  readonly cancelling: Promise<() => Promise<void>>
  /** Settles when the job has ended and cleaned up; never rejects. */
  ended: Promise<void>
  state: JobState
  doneBytes: number
  totalBytes: number | null
  finishedAt: string | null
  error: NbdeltaError | null
  waiting: NbdeltaError | undefined
  note: string | null
  readonly watchers: Set<(row: JobRow) => void>
  /** Of the clock's `now`, when the watchers were told last. */
  toldAtMs: number
}

export class Jobs {
  readonly #clock: JobsClock
  readonly #jobs = new Map<number, Job>()
  readonly #left = new AbortController()
  #lastId = 0

  constructor(clock: JobsClock) { this.#clock = clock }

  get running(): number { return this.#running().length }

  /** Refuses when a job works on the volume; with `kinds`, only one of these. */
  assertFree(volume: string, doing: string, ...kinds: readonly JobKind[]): void {
    const job = this.#running().find(one => one.volumes.includes(volume) && (kinds.length === 0 || kinds.includes(one.kind)))
    if (job) {
      throw new NbdeltaError('busy', `cannot ${doing} ${volume}: job ${job.id} works on it: ${job.kind}`,
        { hint: `wait for it, or stop it with: nbdelta job cancel ${job.id}` })
    }
  }

  assertRoom(): void {
    if (this.running >= JOBS_RUNNING_MAX) {
      throw new NbdeltaError('busy', `${JOBS_RUNNING_MAX} jobs run already`,
        { hint: 'wait until one has ended: nbdelta job list' })
    }
  }

  /** Starts `work` at once. Its failure is kept in the job, not thrown. */
  start(kind: JobKind, volume: string, path: string | null, { run, volumes = [volume] }: Transfer): JobRow {
    let onCancel!: (cancel: () => Promise<void>) => void
    const cancelling = new Promise<() => Promise<void>>(resolve => { onCancel = resolve })
    const job: Job = {
      id: ++this.#lastId, kind, volume, volumes, path, startedAt: this.#clock.wallTime().toISOString(),
      abort: new AbortController(), cancelling, ended: Promise.resolve(),
      state: 'running', doneBytes: 0, totalBytes: null, finishedAt: null, error: null, waiting: undefined, note: null,
      watchers: new Set(), toldAtMs: -Infinity,
    }
    this.#jobs.set(job.id, job)
    job.ended = this.#run(job, run, onCancel)
    this.#forget()
    return rowOf(job)
  }

  async #run(job: Job, work: Transfer['run'], onCancel: (cancel: () => Promise<void>) => void): Promise<void> {
    try {
      const told = await work({
        signal: job.abort.signal,
        onProgress: (doneBytes, totalBytes) => { job.doneBytes = doneBytes; job.totalBytes = totalBytes; this.#tell(job) },
        onWaiting: why => { job.waiting = why },
        onCancel,
      })
      job.note = told ?? null
      job.state = 'done'
    } catch (error) {
      job.error = error instanceof NbdeltaError ? error
        : new NbdeltaError('internal', 'a bug in nbdelta: the server\'s log tells more', { cause: error })
      // A lasting one may have failed to be taken back.
      const stopped = job.abort.signal.aborted && (!LASTING.has(job.kind) || job.error.code === 'cancelled')
      job.state = stopped ? 'cancelled' : 'failed'
    }
    job.waiting = undefined
    job.finishedAt = this.#clock.wallTime().toISOString()
    this.#tell(job)
    job.watchers.clear()
  }

  #tell(job: Job): void {
    const now = this.#clock.now()
    if (job.watchers.size === 0 || (job.state === 'running' && now - job.toldAtMs < PROGRESS_MS)) return
    job.toldAtMs = now
    const row = rowOf(job)
    for (const watcher of job.watchers) watcher(row)
  }

  list(): JobRow[] { return [...this.#jobs.values()].map(rowOf) }

  show(id: number): JobRow { return rowOf(this.#get(id)) }

  /** Resolves with the last row when the job is done; rejects with its error when it failed or was cancelled. */
  async wait(id: number, watcher: (row: JobRow) => void): Promise<JobRow> {
    const job = this.#get(id)
    if (job.state === 'running') {
      job.watchers.add(watcher)
      watcher(rowOf(job))
      await Promise.race([job.ended, this.#leaving])
    }
    if (job.state === 'running') {
      throw new NbdeltaError('shutting-down', `the server stops; the ${job.kind} of ${job.volume} goes on when it starts again`)
    }
    if (job.state === 'cancelled') {
      const text = `the ${job.kind} of ${job.volume} was cancelled`
      throw new NbdeltaError('cancelled', text, { hint: leftBy(job.error!), cause: job.error })
    }
    if (job.error) throw job.error
    return rowOf(job)
  }

  /** Stops a job and waits until it has cleaned up; one that has ended stays as it is. Rejects when it goes on, with why. */
  async cancel(id: number): Promise<JobRow> {
    const job = this.#get(id)
    job.abort.abort()
    const asked = job.cancelling.then(cancel => cancel()).catch((error: unknown) => { throw goesOn(job, error) })
    await Promise.race([job.ended, asked])
    await job.ended
    return rowOf(job)
  }

  /** Its end does not depend on who waits for it. */
  isLasting(id: number): boolean { return LASTING.has(this.#get(id).kind) }

  /** Cancels what works on the volume and waits. Returns how many there were. */
  cancelAll(volume: string): Promise<number> { return this.#cancel(this.#running().filter(job => job.volumes.includes(volume))) }

  /** The server stops: cancels all but the lasting ones and waits; who waits for a lasting one is told. */
  async leave(): Promise<void> {
    this.#left.abort()
    await this.#cancel(this.#running().filter(({ kind }) => !LASTING.has(kind)))
  }

  /** What cannot be cancelled now goes on; it ends with its volume. */
  async #cancel(running: readonly Job[]): Promise<number> {
    await Promise.all(running.map(job => this.cancel(job.id).catch(() => undefined)))
    return running.length
  }

  get #leaving(): Promise<void> {
    const { signal } = this.#left
    return new Promise(resolve => {
      if (signal.aborted) resolve()
      else signal.addEventListener('abort', () => { resolve() }, { once: true })
    })
  }

  #running(): Job[] { return [...this.#jobs.values()].filter(job => job.state === 'running') }

  #get(id: number): Job {
    const job = this.#jobs.get(id)
    if (!job) throw new NbdeltaError('not-found', `there is no job ${id}`, { hint: 'see: nbdelta job list' })
    return job
  }

  #forget(): void {
    const ended = [...this.#jobs.values()].filter(job => job.state !== 'running')
    for (const job of ended.slice(0, Math.max(0, ended.length - JOBS_KEPT_MAX))) this.#jobs.delete(job.id)
  }
}

function goesOn({ kind, volume }: Job, error: unknown): unknown {
  if (!(error instanceof NbdeltaError)) return error
  const { code, message, hint } = error
  const told = `the ${kind} of ${volume} cannot be cancelled now, and goes on: ${message}`
  return new NbdeltaError(code, told, { hint, cause: error })
}

/** What a cancelled job has left behind, and what to do then. That it was cancelled is said already; another failure is not. */
function leftBy({ code, message, left, hint }: NbdeltaError): string | undefined {
  if (code !== 'cancelled') return message
  return left && [left, ...hint ? [hint] : []].join('; ')
}

function rowOf(job: Job): JobRow {
  const { id, kind, volume, path, state, doneBytes, totalBytes, startedAt, finishedAt, error, waiting, note } = job
  const why = error ? error.message : null
  const until = waiting ? [waiting.message, ...waiting.hint ? [waiting.hint] : []].join('; ') : null
  return { id, kind, volume, path, state, doneBytes, totalBytes, startedAt, finishedAt, error: why, waiting: until, note }
}
