/** Handlers of mirrors (handlers.ts has the others). Cycles that begin by themselves are no jobs; `mirror show` tells of them. */
import { start, startOrTell } from './started.js'
import type { ActionRow, JobRow, ServerAdmin } from './admin.js'
import type { MirrorRow, ReplicaRow } from './admin-mirrors.js'
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
  'replica.promote': ActionRow
  'replica.forget': ActionRow
}
type Table = { readonly [M in keyof MirrorResults]: (args: ArgumentsOf<M>) => Promise<MirrorResults[M] | Started> }

export function mirrorHandlers({ mirrors }: ServerAdmin, jobs: Jobs): Table {
  return {
    'mirror.create': async ({ name, volume, target, interval, after, rate, overwrite, secret }) => {
      jobs.assertFree(target, 'mirror to')
      return mirrors.create({
        name, volume, target, intervalSeconds: interval, lagBytes: after, bytesPerSecond: rate, overwrite, secretFile: secret,
      })
    },
    'mirror.list': () => mirrors.list(),
    'mirror.show': ({ name }) => mirrors.show(name),
    'mirror.sync': async ({ name, wait }) => {
      jobs.assertRoom()
      return start(jobs, { kind: 'mirror sync', target: name, path: null, wait }, await mirrors.prepareSync(name))
    },
    'mirror.pause': ({ name }) => mirrors.pause({ name, paused: true }),
    'mirror.resume': ({ name }) => mirrors.pause({ name, paused: false }),
    'mirror.split': async ({ name, atOnce, dryRun, wait }) => {
      jobs.assertRoom()
      const transfer = await mirrors.prepareSplit({ name, atOnce })
      return startOrTell(jobs, { kind: 'mirror split', target: name, path: null, dryRun, wait }, transfer)
    },
    'mirror.resync': async ({ name, reverse, whole, force, dryRun, wait }) => {
      jobs.assertRoom()
      const transfer = await mirrors.prepareResync({ name, reverse, whole, force })
      for (const volume of transfer.volumes ?? []) jobs.assertFree(volume, 'resync')
      return startOrTell(jobs, { kind: 'mirror resync', target: name, path: null, dryRun, wait }, transfer)
    },
    'mirror.verify': async ({ name, wait }) => {
      jobs.assertRoom()
      return start(jobs, { kind: 'mirror verification', target: name, path: null, wait }, await mirrors.prepareVerify(name))
    },
    'mirror.delete': args => mirrors.delete(args),
    'replica.list': () => mirrors.replicas(),
    'replica.promote': args => mirrors.promoteReplica(args),
    'replica.forget': args => mirrors.forgetReplica(args),
  }
}
