/** The part of FakeAdmin that has mirrors: a plain map, and transfers that end when told. */
import { NbdeltaError } from '../../src/device/errors.js'
import type { FakeAdmin } from './fake-admin.js'
import type { ServerAdmin, Transfer } from '../../src/control/admin.js'
import type { MirrorRow } from '../../src/control/admin-mirrors.js'

const NOTHING = {
  behindSeconds: null, lagBytes: null, declaredAt: null, cycle: 0, nextAt: null, doneBytes: null, totalBytes: null, bytesPerSecond: null,
  etaSeconds: null, lastSeconds: null, lastDataBytes: null, lastZeroBytes: null, lastEqualBytes: null, problem: null,
} as const

export function fakeMirrors(fake: FakeAdmin): ServerAdmin['mirrors'] {
  const mirrors = new Map<string, MirrorRow>()
  const get = (name: string): MirrorRow => {
    const row = mirrors.get(name)
    if (!row) throw new NbdeltaError('not-found', `there is no mirror ${name}`)
    return row
  }
  const transfer = (name: string): Transfer => {
    get(name)
    return { steps: [`ship ${name}`], volumes: [], run: control => fake.transfer(name, control) }
  }
  return {
    create: ({ name, volume, target, intervalSeconds, lagBytes = null, bytesPerSecond = null }) => fake.change(`mirror ${name}`, () => {
      const row: MirrorRow = {
        ...NOTHING, name, uuid: 'u', volume, target, mode: 'periodic', state: 'copying', paused: false, inSync: false, intervalSeconds,
        afterBytes: lagBytes, limitBytesPerSecond: bytesPerSecond, unguarded: [], decisions: [],
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
    prepareSync: async name => transfer(name),
    prepareSplit: async ({ name }) => transfer(name),
    prepareResync: async ({ name }) => transfer(name),
    prepareVerify: async name => transfer(name),
    replicas: async () => [],
    promoteReplica: async ({ name, dryRun }) => ({ target: name, changed: !dryRun, dryRun, steps: [`promote ${name}`] }),
    forgetReplica: async ({ name, dryRun }) => ({ target: name, changed: !dryRun, dryRun, steps: [`forget ${name}`] }),
  }
}
