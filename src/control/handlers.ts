/**
 * One handler per method of the table, over the server's ServerAdmin. The compiler asks for each.
 *
 * Commands that change a volume run one at a time per volume, in order of arrival; everything that only looks goes through.
 * A long transfer holds the mutex only until it is started: from then on its job holds the volume, and what would
 * disturb it is refused as busy instead of waiting for minutes without a word.
 */
import { NbdeltaError } from '../device/errors.js'
import { KeyedMutex } from '../device/keyed-mutex.js'
import { COMMANDS, methodName, serialKey } from './commands.js'
import { Jobs } from './jobs.js'
import type { JobsClock } from './jobs.js'
import { mirrorHandlers } from './handlers-mirrors.js'
import { pointHandlers } from './handlers-points.js'
import { Judging, Started, start, startOrTell } from './started.js'
import type { ActionRow, ClientRow, CreatedRow, ExportRow, JobRow, ServerAdmin, StatusRow, VolumeRow } from './admin.js'
import type { ArgumentsOf, Method } from './commands.js'
import type { MirrorResults } from './handlers-mirrors.js'
import type { PointResults } from './handlers-points.js'

/** The request as its handler sees it. */
export interface Call {
  /** Aborted when the connection that asked is gone. */
  readonly signal: AbortSignal
  readonly onProgress: (row: JobRow) => void
}

interface Results extends PointResults, MirrorResults {
  'volume.create': CreatedRow
  'volume.list': VolumeRow[]
  'volume.show': VolumeRow
  'volume.resize': ActionRow
  'volume.set-budget': ActionRow
  'volume.import': JobRow | ActionRow
  'volume.export': JobRow
  'volume.reopen': VolumeRow
  'volume.delete': ActionRow
  'export.list': ExportRow[]
  'export.hide': ActionRow
  'export.unhide': ActionRow
  'export.kick': ActionRow
  'client.list': ClientRow[]
  'client.kick': ActionRow
  'job.list': JobRow[]
  'job.show': JobRow
  'job.cancel': JobRow
  'status': StatusRow
}
type Table = { readonly [M in Method]: (args: ArgumentsOf<M>, call: Call) => Promise<Results[M] | Started | Judging> }

export class Handlers {
  readonly #admin: ServerAdmin
  readonly #jobs: Jobs
  readonly #mutex = new KeyedMutex()
  readonly #table: Table
  #stopping = false

  constructor(admin: ServerAdmin, clock: JobsClock) {
    this.#admin = admin
    this.#jobs = new Jobs(clock)
    for (const { kind, volume, transfer } of admin.resumed()) this.#jobs.start(kind, volume, null, transfer)
    this.#table = this.#build()
  }

  /** Runs one judged request. */
  async run(method: string, args: Record<string, unknown>, call: Call): Promise<unknown> {
    const command = COMMANDS.find(row => row.remote && methodName(row) === method)!
    const handler = this.#table[method as Method] as (args: Record<string, unknown>, call: Call) => Promise<unknown>
    if (!command.serialised) return handler(args, call)
    const started = await this.#mutex.run(serialKey(command, args), async () => {
      if (this.#stopping) throw new NbdeltaError('shutting-down', 'the server is stopping: nothing is changed any more')
      // Wrapped, so that the mutex is not held while a transfer that the handler started is awaited.
      return { result: await handler(args, call) }
    })
    if (started.result instanceof Judging) return started.result.row
    return started.result instanceof Started ? this.#follow(started.result, call) : started.result
  }

  /** From now on nothing is changed; transfers are cancelled and have cleaned up when this resolves, but lasting ones go on. */
  async stop(): Promise<void> {
    this.#stopping = true
    await this.#jobs.leave()
  }

  /** A transfer that is waited for ends with its client, if it is none that lasts. */
  async #follow({ row }: Started, call: Call): Promise<JobRow> {
    const cancel = (): void => { if (!this.#jobs.isLasting(row.id)) void this.#jobs.cancel(row.id) }
    if (call.signal.aborted) cancel()
    call.signal.addEventListener('abort', cancel, { once: true })
    try {
      return await this.#jobs.wait(row.id, call.onProgress)
    } finally {
      call.signal.removeEventListener('abort', cancel)
    }
  }

  async #import(args: ArgumentsOf<'volume.import'>): Promise<JobRow | ActionRow | Started> {
    const { name, path, grain, overwrite, dryRun, wait } = args
    this.#jobs.assertFree(name, 'import into')
    this.#jobs.assertRoom()
    const transfer = await this.#admin.prepareImport({ name, path, grainBytes: grain, overwrite, dryRun })
    return startOrTell(this.#jobs, { kind: 'import', target: name, path, dryRun, wait }, transfer)
  }

  async #export(args: ArgumentsOf<'volume.export'>): Promise<JobRow | Started> {
    this.#jobs.assertFree(args.name, 'export')
    this.#jobs.assertRoom()
    const { name, path, wait } = args
    return start(this.#jobs, { kind: 'export', target: name, path, wait }, await this.#admin.prepareExport(args))
  }

  async #delete(args: ArgumentsOf<'volume.delete'>): Promise<ActionRow> {
    if (!args.force) this.#jobs.assertFree(args.name, 'delete')
    // What is refused has cancelled nothing.
    else await this.#admin.deleteVolume({ ...args, dryRun: true })
    const cancelled = args.force && !args.dryRun ? await this.#jobs.cancelAll(args.name) : 0
    // An import that had created the volume has taken it away again when it was cancelled.
    return this.#admin.deleteVolume({ ...args, ifExists: args.ifExists || cancelled > 0 })
  }

  #build(): Table {
    const admin = this.#admin
    const jobs = this.#jobs
    return {
      'volume.create': async ({ name, size, grain, backing, description, ifNotExists }) => {
        jobs.assertFree(name, 'create')
        return admin.createVolume({ name, sizeBytes: size, grainBytes: grain, backing, description, ifNotExists })
      },
      'volume.list': () => admin.listVolumes(),
      'volume.show': ({ name }) => admin.showVolume(name),
      'volume.resize': async ({ name, size, shrink, dryRun }) => {
        jobs.assertFree(name, 'resize')
        return admin.resizeVolume({ name, sizeBytes: size, shrink, dryRun })
      },
      'volume.set-budget': async ({ name, limit, unlimited, order, dryRun }) => {
        if (unlimited && limit !== undefined) throw new NbdeltaError('bad-argument', 'give --limit or --unlimited, not both')
        return admin.setBudget({ name, budgetBytes: unlimited ? null : limit, order, dryRun })
      },
      'volume.import': args => this.#import(args),
      'volume.export': args => this.#export(args),
      'volume.reopen': async ({ name }) => {
        jobs.assertFree(name, 'reopen')
        return admin.reopenVolume(name)
      },
      'volume.delete': args => this.#delete(args),
      'export.list': () => admin.listExports(),
      // An import keeps its export hidden, and opens it at the end.
      'export.hide': async ({ name }) => {
        jobs.assertFree(name, 'hide', 'import', 'delta import')
        return admin.setHidden(name, true)
      },
      'export.unhide': async ({ name }) => {
        jobs.assertFree(name, 'unhide', 'import', 'delta import')
        return admin.setHidden(name, false)
      },
      'export.kick': args => admin.closeExport(args),
      'client.list': args => admin.listClients(args.export),
      'client.kick': args => admin.kickClient(args),
      ...pointHandlers(admin, jobs),
      ...mirrorHandlers(admin, jobs),
      'job.list': async () => jobs.list(),
      'job.show': async ({ id }) => jobs.show(id),
      'job.cancel': ({ id }) => jobs.cancel(id),
      'status': async () => ({ ...await admin.status(), jobsRunning: jobs.running }),
    }
  }
}
