/** The part of FakeAdmin that has mirrors: a plain map, and transfers that end when told. */
import { NbdeltaError } from '../../src/device/errors.js'
import type { FakeAdmin } from './fake-admin.js'
import type { ServerAdmin, Transfer } from '../../src/control/admin.js'
import type { MirrorRow } from '../../src/control/admin-mirrors.js'

const NOTHING = {
  behindSeconds: null, lagBytes: null, declaredAt: null, cycle: 0, nextAt: null, doneBytes: null, totalBytes: null, bytesPerSecond: null,
  etaSeconds: null, lastSeconds: null, lastDataBytes: null, lastZeroBytes: null, lastEqualBytes: null, problem: null, root: null,
  verifiedAt: null, verified: null, verifiedCycle: null, digest: null,
} as const

export function fakeMirrors(fake: FakeAdmin): ServerAdmin['mirrors'] {
  const mirrors = new Map<string, MirrorRow>()
  const get = (name: string): MirrorRow => {
    const row = mirrors.get(name)
    if (!row) throw new NbdeltaError('not-found', `there is no mirror ${name}`)
    return row
  }
  const transfer = (...names: readonly string[]): Transfer => {
    for (const name of names) get(name)
    const name = names.join(', ')
    return { steps: [`ship ${name}`], volumes: [], run: control => fake.transfer(name, control) }
  }
  return {
    create: ({ name, volume, target, mode, timeoutSeconds, intervalSeconds, lagBytes = null, bytesPerSecond = null, keepSnapshots }) => fake.change(`mirror ${name}`, () => {
      const row: MirrorRow = {
        ...NOTHING, name, uuid: 'u', volume, target, mode, state: 'copying', paused: false, inSync: false, inStep: false, timeoutSeconds, intervalSeconds,
        afterBytes: lagBytes, limitBytesPerSecond: bytesPerSecond, keepSnapshots, unguarded: [], decisions: [],
      }
      mirrors.set(name, row)
      return row
    }),
    list: async () => [...mirrors.values()],
    show: async name => get(name),
    pause: async ({ name, paused }) => {
      mirrors.set(name, { ...get(name), paused })
      return { target: name, changed: true, dryRun: false, steps: [`pause ${name}`] }
    },
    delete: async ({ name, dryRun }) => {
      get(name)
      if (!dryRun) mirrors.delete(name)
      return { target: name, changed: !dryRun, dryRun, steps: [`forget mirror ${name}`] }
    },
    prepareSync: async ({ names }) => transfer(...names),
    prepareSplit: async ({ names }) => transfer(...names),
    prepareResync: async ({ names }) => transfer(...names),
    prepareVerify: async ({ name }) => transfer(name),
    replicas: async () => [],
    prepareReplicaVerify: async ({ name }) => ({ steps: [`read ${name}`], run: control => fake.transfer(name, control) }),
    promoteReplica: async ({ name, dryRun }) => ({ target: name, changed: !dryRun, dryRun, steps: [`promote ${name}`] }),
    forgetReplica: async ({ name, dryRun }) => ({ target: name, changed: !dryRun, dryRun, steps: [`forget ${name}`] }),
  }
}
