/** How a judged transfer becomes a job, or with --dry-run only words. */
import type { ActionRow, JobKind, JobRow, Transfer } from './admin.js'
import type { Jobs } from './jobs.js'

/** A job just started whose end is the command's answer. */
export class Started {
  readonly row: JobRow
  constructor(row: JobRow) { this.row = row }
}

/** What a command that changes nothing still has to find out, while others go on with the volume. */
export class Judging {
  readonly row: Promise<ActionRow>
  constructor(row: Promise<ActionRow>) {
    this.row = row
    // It may fail before it is awaited.
    row.catch(() => undefined)
  }
}

interface Wanted {
  readonly kind: JobKind
  /** Volume or group. */
  readonly target: string
  readonly path: string | null
  readonly wait: boolean
}

export async function start(jobs: Jobs, { kind, target, path, wait }: Wanted, transfer: Transfer): Promise<JobRow | Started> {
  await transfer.begin?.()
  const row = jobs.start(kind, target, path, transfer)
  return wait ? new Started(row) : row
}

export async function startOrTell(
  jobs: Jobs, wanted: Wanted & { readonly dryRun: boolean }, transfer: Transfer,
): Promise<JobRow | Started | ActionRow> {
  const { dryRun, target } = wanted
  return dryRun ? { target, changed: false, dryRun, steps: transfer.steps } : start(jobs, wanted, transfer)
}
