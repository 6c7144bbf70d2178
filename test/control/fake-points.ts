/** The part of FakeAdmin that has snapshots, groups, schedules and deltas: plain maps, and transfers that end when told. */
import { NbdeltaError } from '../../src/device/errors.js'
import type { FakeAdmin } from './fake-admin.js'
import type { Transfer } from '../../src/control/admin.js'
import type { PinRow, PointRow } from '../../src/control/admin-points.js'
import type { ServerAdmin } from '../../src/control/admin.js'

export class FakePoints {
  readonly #fake: FakeAdmin
  readonly points = new Map<string, PointRow>()
  readonly groups = new Map<string, readonly string[]>()

  constructor(fake: FakeAdmin) { this.#fake = fake }

  get admins(): Pick<ServerAdmin, 'points' | 'groups' | 'schedules' | 'deltas'> {
    return { points: this.#points, groups: this.#groups, schedules: this.#schedules, deltas: this.#deltas }
  }

  #get(volume: string, name: string): PointRow {
    const row = this.points.get(`${volume}@${name}`)
    if (!row) throw new NbdeltaError('not-found', `volume ${volume} has no snapshot ${name}`)
    return row
  }

  #pins(volume: string, name: string, change: (pins: readonly PinRow[]) => readonly PinRow[]) {
    const row = this.#get(volume, name)
    this.points.set(`${volume}@${name}`, { ...row, pins: change(row.pins) })
    return { target: `${volume}@${name}`, changed: true, dryRun: false, steps: [] }
  }

  #job(name: string, volumes?: readonly string[]): Transfer {
    return {
      steps: [`copy ${name}`], ...volumes && { volumes },
      begin: async () => { this.#fake.log.push(`switched ${name}`) },
      run: control => this.#fake.transfer(name, control),
    }
  }

  readonly #points: ServerAdmin['points'] = {
    create: ({ volume, name, bookmark, labels }) => this.#fake.change(`snapshot ${volume}@${name}`, () => {
      if (this.points.has(`${volume}@${name}`)) throw new NbdeltaError('exists', `there is a point ${name} already`)
      const row: PointRow = {
        volume, name, uuid: 'u', seq: this.points.size + 1, kind: bookmark ? 'bookmark' : 'snapshot', createdAt: '2026-01-01T00:00:00.000Z',
        sizeBytes: 512, exclusiveBytes: 0, referencedBytes: 0, changedBytes: 0, pins: [], labels, group: null,
        space: { budgetBytes: null, keptBytes: 0, order: 'fail', sacrifices: 0, lastSacrifice: null, failing: null },
      }
      this.points.set(`${volume}@${name}`, row)
      return row
    }),
    list: async volume => [...this.points.values()].filter(row => volume === undefined || row.volume === volume),
    show: async ({ volume, name }) => this.#get(volume, name),
    rename: async ({ volume, name, to }) => {
      const row = this.#get(volume, name)
      this.points.delete(`${volume}@${name}`)
      this.points.set(`${volume}@${to}`, { ...row, name: to })
      return { target: name, changed: true, dryRun: false, steps: [`rename ${name} to ${to}`] }
    },
    delete: async ({ volume, name, dryRun }) => {
      const { pins } = this.#get(volume, name)
      if (pins.length > 0) throw new NbdeltaError('busy', `${name} is pinned by ${pins[0]!.owner}`)
      if (!dryRun) this.points.delete(`${volume}@${name}`)
      return { target: name, changed: !dryRun, dryRun, steps: [`delete ${name}`] }
    },
    diff: async ({ volume, from, to, limit }) => {
      const ranges = [{ offset: 0, length: 4096 }, { offset: 8192, length: 4096 }]
      return { volume, from, to: to ?? null, changedBytes: 8192, rangeCount: 2, ranges: ranges.slice(0, limit) }
    },
    pin: async ({ volume, name, owner, expiresSeconds }) => this.#pins(volume, name,
      pins => [...pins, { owner, expiresAt: expiresSeconds === undefined ? null : `in ${expiresSeconds} s` }]),
    unpin: async ({ volume, name, owner }) => this.#pins(volume, name, pins => pins.filter(pin => pin.owner !== owner)),
    prepareRestore: async ({ volume, name }) => { this.#get(volume, name); return this.#job(volume) },
    clone: async ({ to }) => this.#fake.admin.createVolume({
      name: to, sizeBytes: 512, grainBytes: 4096, backing: undefined, description: '', ifNotExists: false,
    }),
    preparePromote: async ({ name }) => this.#job(name),
  }

  readonly #groups: ServerAdmin['groups'] = {
    create: async ({ name, volumes }) => { this.groups.set(name, volumes); return { name, volumes } },
    list: async () => [...this.groups].map(([name, volumes]) => ({ name, volumes })),
    show: async name => ({ name, volumes: this.groups.get(name)! }),
    delete: async ({ name, dryRun }) => {
      if (!dryRun) this.groups.delete(name)
      return { target: name, changed: !dryRun, dryRun, steps: [] }
    },
    snapshot: async ({ group, name, bookmark }) => ({
      group, name, kind: bookmark ? 'bookmark' : 'snapshot', volumes: this.groups.get(group)!, createdAt: '2026-01-01T00:00:00.000Z',
    }),
    prepareRestore: async ({ group }) => this.#job(group, this.groups.get(group)!),
  }

  readonly #schedules: ServerAdmin['schedules'] = {
    set: async ({ volume, rule, dryRun }) => ({ volume, ...rule, nextAt: null, problem: null, dryRun, points: [] }),
    show: async volume => ({
      volume, hourly: null, daily: null, weekly: null, keepBookmarks: null, nextAt: null, problem: null, dryRun: false, points: [],
    }),
    clear: async ({ volume, dryRun }) => ({ target: volume, changed: !dryRun, dryRun, steps: [] }),
  }

  readonly #deltas: ServerAdmin['deltas'] = {
    prepareExport: async ({ volume }) => ({ steps: [], run: control => this.#fake.transfer(volume, control) }),
    prepareImport: async ({ volume }) => ({ steps: [], run: control => this.#fake.transfer(volume, control) }),
    judgeImport: async ({ volume }) => ({ target: volume, changed: false, dryRun: true, steps: [`apply to ${volume}`] }),
  }
}
