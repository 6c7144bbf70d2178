/** A ServerAdmin over a plain map: what the handlers and the socket are tested with, without store and NBD server. */
import { NbdeltaError } from '../../src/device/errors.js'
import { fakeMirrors } from './fake-mirrors.js'
import { FakePoints } from './fake-points.js'
import type { ServerAdmin, VolumeRow } from '../../src/control/admin.js'

const NO_SPACE = { budgetBytes: null, keptBytes: 0, order: 'fail', sacrifices: 0, lastSacrifice: null, failing: null } as const

export class FakeAdmin {
  readonly volumes = new Map<string, VolumeRow>()
  readonly log: string[] = []
  /** Ends of transfers that run, by volume: call to let one finish. */
  readonly finish = new Map<string, () => void>()
  /** How one ends that is cancelled. */
  cancelled = new NbdeltaError('cancelled', 'the copy was cancelled; half a copy', { left: 'half a copy', hint: 'copy again' })
  resumed: ReturnType<ServerAdmin['resumed']> = []
  /** Every change takes that long, so that overlaps would show. */
  delayMs = 0
  changing = 0
  overlaps = 0

  async change<T>(text: string, body: () => T): Promise<T> {
    this.log.push(`begin ${text}`)
    if (++this.changing > 1) this.overlaps++
    await new Promise(resolve => { setTimeout(resolve, this.delayMs) })
    this.changing--
    this.log.push(`end ${text}`)
    return body()
  }

  get(name: string): VolumeRow {
    const row = this.volumes.get(name)
    if (!row) throw new NbdeltaError('not-found', `there is no volume ${name}`, { hint: 'see: nbdelta volume list' })
    return row
  }

  readonly admin: ServerAdmin = {
    ...new FakePoints(this).admins,
    mirrors: fakeMirrors(this),
    createVolume: ({ name, sizeBytes = 0, grainBytes, description }) => this.change(`create ${name}`, () => {
      if (this.volumes.has(name)) throw new NbdeltaError('exists', `volume ${name} exists`)
      const row: VolumeRow = {
        name, uuid: 'u', sizeBytes, grainBytes, allocatedBytes: 0, mappedBytes: 0, clients: 0, hidden: false, backing: null,
        createdAt: '2026-01-01T00:00:00.000Z', description, space: NO_SPACE, problem: null,
      }
      this.volumes.set(name, row)
      return { ...row, created: true }
    }),
    listVolumes: async () => [...this.volumes.values()],
    showVolume: async name => this.get(name),
    resizeVolume: ({ name, sizeBytes }) => this.change(`resize ${name}`, () => {
      this.volumes.set(name, { ...this.get(name), sizeBytes })
      return { target: name, changed: true, dryRun: false, steps: [`grow ${name}`] }
    }),
    setBudget: ({ name, budgetBytes, order, dryRun }) => this.change(`budget ${name}`, () => {
      const row = this.get(name)
      const space = { ...row.space!, budgetBytes: budgetBytes ?? null, order: order ?? row.space!.order }
      if (!dryRun) this.volumes.set(name, { ...row, space })
      return { target: name, changed: !dryRun, dryRun, steps: [`budget of ${name}`] }
    }),
    reopenVolume: name => this.change(`reopen ${name}`, () => this.get(name)),
    deleteVolume: ({ name, dryRun }) => this.change(`delete ${name}`, () => {
      this.get(name)
      if (!dryRun) this.volumes.delete(name)
      return { target: name, changed: !dryRun, dryRun, steps: [`delete ${name}`] }
    }),
    prepareImport: async ({ name }) => ({ steps: [`fill ${name}`], run: control => this.transfer(name, control) }),
    prepareExport: async ({ name }) => ({ steps: [`copy ${name}`], run: control => this.transfer(name, control) }),
    resumed: () => this.resumed,
    listExports: async () => [],
    setHidden: async (name, hidden) => ({ target: name, changed: true, dryRun: false, steps: [hidden ? 'hide' : 'show'] }),
    closeExport: async ({ name, dryRun }) => ({ target: name, changed: !dryRun, dryRun, steps: [] }),
    listClients: async () => [],
    kickClient: async () => { throw new TypeError('a planted bug with a secret in it') },
    status: async () => ({
      state: 'serving', version: '0', pid: 1, uptimeSeconds: 1, store: '/s', listeners: [], peerListeners: [], control: '/c', volumes: 0, volumesBroken: 0, clients: 0,
      volumesFailing: 0, keptBytes: 0, spaces: [],
      rssBytes: 1, memoryBudgetBytes: null, memoryInUseBytes: null, eventLoopDelayP99Ms: 0, eventLoopDelayMaxMs: 0,
        oldestRequestMs: null,
    }),
  }

  transfer(name: string,
    { signal, onProgress }: { signal: AbortSignal, onProgress: (done: number, total: number) => void }): Promise<void> {
    onProgress(1, 100)
    return new Promise((resolve, reject) => {
      this.finish.set(name, () => { onProgress(100, 100); resolve() })
      signal.addEventListener('abort',
        () => { this.log.push(`cleaned ${name}`); reject(this.cancelled) })
    })
  }
}
