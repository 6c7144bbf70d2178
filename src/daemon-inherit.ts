/**
 * Restores, clones and promotions of the store as transfers: begun before the command answers, then followed as a job.
 *
 * `begin` resolves when the volume shows the new content; what is followed is the copy in the background. Cancelling takes the
 * restore back; the end of the server only pauses it.
 */
import { NbdeltaError } from './index.js'
import type { Transfer, TransferControl } from './control/admin.js'
import type { Store, StoreVolume } from './index.js'

/** Five reports a second, as often as anybody is told. */
const PROGRESS_MS = 200

export interface InheritJob {
  progress(): { readonly doneBytes: number, readonly totalBytes: number }
  cancel(): Promise<void>
  readonly finished: Promise<void>
}

export interface RestoreRange {
  readonly offset?: number
  readonly length?: number | undefined
  readonly bytesPerSecond?: number | undefined
}

interface InheritingStore {
  cloneVolume(options: { name: string, from: { volume: string, point: string } }): Promise<unknown>
  promoteVolume(name: string, options: { bytesPerSecond?: number | undefined }): Promise<InheritJob> | InheritJob
  restoreGroup(options: { group: string, name: string, bytesPerSecond?: number | undefined }): Promise<InheritJob>
}
interface InheritingVolume { restore(options: RestoreRange & { from: string }): Promise<InheritJob> }

export function inheriting(store: Store): InheritingStore {
  return able(store as unknown as Partial<InheritingStore>, 'cloneVolume') as InheritingStore
}

export function restorable(volume: StoreVolume): InheritingVolume {
  return able(volume as unknown as Partial<InheritingVolume>, 'restore') as InheritingVolume
}

function able<T extends object>(thing: T, method: keyof T): T {
  if (method in thing) return thing
  throw new NbdeltaError('wrong-state', 'this server can neither restore nor clone')
}

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

async function followJob(job: InheritJob, { signal, onProgress }: TransferControl): Promise<void> {
  const report = (): void => {
    const { doneBytes, totalBytes } = job.progress()
    onProgress(doneBytes, totalBytes)
  }
  let cancelled: Promise<void> | undefined
  const cancel = (): void => {
    cancelled = job.cancel()
    cancelled.catch(() => undefined)
  }
  const timer = setInterval(report, PROGRESS_MS).unref()
  if (signal.aborted) cancel()
  else signal.addEventListener('abort', cancel, { once: true })
  report()
  try {
    await job.finished
    report()
  } catch (error) {
    // Cancelled is only what has been taken back.
    await cancelled
    throw error
  } finally {
    clearInterval(timer)
    signal.removeEventListener('abort', cancel)
  }
}
