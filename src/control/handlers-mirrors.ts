/** Handlers of mirrors (handlers.ts has the others). Cycles that begin by themselves are no jobs; `mirror show` tells of them. */
import { start, startOrTell } from './started.js'
import type { ActionRow, JobRow, ServerAdmin } from './admin.js'
import type { MirrorRow, MirrorsNamed, ReplicaRow } from './admin-mirrors.js'
import type { ArgumentsOf } from './commands.js'
import type { Jobs } from './jobs.js'
import type { Started } from './started.js'

export interface MirrorResults {
  'mirror.create': MirrorRow
  'mirror.list': MirrorRow[]
  'mirror.show': MirrorRow
  'mirror.sync': JobRow
  'mirror.pause': ActionRow
  'mirror.resume': ActionRow
  'mirror.split': JobRow | ActionRow
  'mirror.resync': JobRow | ActionRow
  'mirror.verify': JobRow
  'mirror.delete': ActionRow
  'replica.list': ReplicaRow[]
  'replica.verify': JobRow
  'replica.promote': ActionRow
  'replica.forget': ActionRow
}
type Table = { readonly [M in keyof MirrorResults]: (args: ArgumentsOf<M>) => Promise<MirrorResults[M] | Started> }

export function mirrorHandlers({ mirrors }: ServerAdmin, jobs: Jobs): Table {
  return {
    'mirror.create': async ({ name, volume, target, mode, timeout, interval, after, rate, keepSnapshots, overwrite, secret }) => {
      jobs.assertFree(target, 'mirror to')
      return mirrors.create({
        name, volume, target, mode, timeoutSeconds: timeout, intervalSeconds: interval, lagBytes: after,
        bytesPerSecond: rate, keepSnapshots, overwrite, secretFile: secret,
      })
    },
    'mirror.list': () => mirrors.list(),
    'mirror.show': ({ name }) => mirrors.show(name),
    'mirror.sync': async ({ wait, ...named }) => {
      jobs.assertRoom()
      return start(jobs, { kind: 'mirror sync', target: listed(named), path: null, wait }, await mirrors.prepareSync(named))
    },
    'mirror.pause': ({ name }) => mirrors.pause({ name, paused: true }),
    'mirror.resume': ({ name }) => mirrors.pause({ name, paused: false }),
    'mirror.split': async ({ dryRun, wait, ...split }) => {
      jobs.assertRoom()
      const transfer = await mirrors.prepareSplit(split)
      return startOrTell(jobs, { kind: 'mirror split', target: listed(split), path: null, dryRun, wait }, transfer)
    },
    'mirror.resync': async ({ dryRun, wait, ...resync }) => {
      jobs.assertRoom()
      const transfer = await mirrors.prepareResync(resync)
      for (const volume of transfer.volumes ?? []) jobs.assertFree(volume, 'resync')
      return startOrTell(jobs, { kind: 'mirror resync', target: listed(resync), path: null, dryRun, wait }, transfer)
    },
    'mirror.verify': async ({ name, rate, wait }) => {
      jobs.assertRoom()
      const transfer = await mirrors.prepareVerify({ name, bytesPerSecond: rate })
      return start(jobs, { kind: 'mirror verification', target: name, path: null, wait }, transfer)
    },
    'mirror.delete': args => mirrors.delete(args),
    'replica.list': () => mirrors.replicas(),
    'replica.verify': async ({ name, rate, wait }) => {
      jobs.assertRoom()
      const transfer = await mirrors.prepareReplicaVerify({ name, bytesPerSecond: rate })
      return start(jobs, { kind: 'replica verification', target: name, path: null, wait }, transfer)
    },
    'replica.promote': args => mirrors.promoteReplica(args),
    'replica.forget': args => mirrors.forgetReplica(args),
  }
}

/** What a job works on, as people said it. */
function listed({ names }: MirrorsNamed): string { return names.join(', ') }
