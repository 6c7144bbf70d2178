/**
 * Restores, clones and promotions of the store as transfers: begun before the command answers, then followed as a job.
 *
 * `begin` resolves when the volume shows the new content; what is followed is the copy in the background. Cancelling takes the
 * restore back; the end of the server only pauses it.
 */
import { NbdeltaError } from './index.js'
import type { ServerAdmin, Transfer, TransferControl } from './control/admin.js'
import type { InheritJob, Store } from './index.js'

/** Five reports a second, as often as anybody is told. */
const PROGRESS_MS = 200

/** What a job consists of once it is judged. */
export function beginAndFollow(
  steps: readonly string[], begin: () => Promise<InheritJob>, volumes?: readonly string[],
): Transfer {
  let job: InheritJob | undefined
  return {
    steps, ...volumes && { volumes },
    begin: async () => { job = await begin() },
    run: control => followJob(job!, control),
  }
}

/** What the store went on with when it was opened. */
export function resumedJobs(store: Store): ReturnType<ServerAdmin['resumed']> {
  return store.list().flatMap(volume => {
    const job = volume.problem ? undefined : volume.inheriting
    if (!job) return []
    // A restore has its undo point pinned.
    const isRestore = volume.points.list().some(({ pins }) => pins.some(({ owner }) => owner === 'restore'))
    const transfer = { steps: [], run: (control: TransferControl) => followJob(job, control) }
    return [{ kind: isRestore ? 'restore' : 'promotion', volume: volume.name, transfer } as const]
  })
}

/** To its end. Errors: cancelled, io. */
export async function followJob(job: InheritJob, { signal, onProgress, onWaiting, onCancel }: TransferControl): Promise<void> {
  const report = (): void => {
    const { doneBytes, totalBytes } = job.progress()
    onWaiting?.(job.problem())
    onProgress(doneBytes, totalBytes)
  }
  let cancelled: Promise<void> | undefined
  /** One that fails has changed nothing: the copying goes on, and can be asked again. */
  const cancel = async (): Promise<void> => {
    const attempt = job.cancel()
    cancelled = attempt
    await attempt.catch((error: unknown) => {
      if (cancelled === attempt) cancelled = undefined
      if (!isOver(error)) throw error
    })
  }
  const timer = setInterval(report, PROGRESS_MS).unref()
  const aborted = (): void => { cancel().catch(() => undefined) }
  if (onCancel) onCancel(cancel)
  else if (signal.aborted) aborted()
  else signal.addEventListener('abort', aborted, { once: true })
  report()
  try {
    await job.finished.catch(async (error: unknown) => {
      await cancelled
      throw error
    })
    // A restore that is taken back copies to its end first.
    if (await tookBack(cancelled)) {
      const left = 'what it showed before is shown again'
      throw new NbdeltaError('cancelled', left, { left })
    }
    report()
  } finally {
    clearInterval(timer)
    signal.removeEventListener('abort', aborted)
  }
}

/** False: nobody has asked for it, it was over before it could be, or could not be; who asked is told why. */
function tookBack(cancelled: Promise<void> | undefined): Promise<boolean> {
  return cancelled ? cancelled.then(() => true, () => false) : Promise.resolve(false)
}

function isOver(error: unknown): boolean { return error instanceof NbdeltaError && error.code === 'wrong-state' }
