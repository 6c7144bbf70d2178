// Schedules with a clock of the test: due, dropped, retried after failures, once after a restart; and no timer without one.
import t from 'tap'
import { ManualClock } from '../../src/device/testing.js'
import { NbdeltaError } from '../../src/index.js'
import { Schedules } from '../../src/daemon-schedules.js'
import type { CreatePointOptions, PointInfo, Store, StoreVolume } from '../../src/index.js'

const HOUR = 3_600_000
const START = new Date('2026-03-04T05:30:00Z')

class FakeVolume {
  readonly uuid: string
  readonly problem = undefined
  readonly infos: PointInfo[] = []
  seq = 0
  failing: NbdeltaError | undefined
  readonly points
  constructor(readonly name: string, readonly clock: ManualClock) {
    this.uuid = `uuid of ${name}`
    this.points = {
      list: () => [...this.infos],
      get: (name: string) => this.infos.find(point => point.name === name),
      create: async ({ name, kind, labels = {} }: CreatePointOptions) => {
        if (this.failing) throw this.failing
        const point: PointInfo = {
          uuid: name, seq: ++this.seq, name, kind, createdAt: clock.wallTime().toISOString(), sizeBytes: 512, labels, group: null, pins: [],
        }
        this.infos.push(point)
        return point
      },
      delete: async (name: string) => {
        const at = this.infos.findIndex(point => point.name === name)
        if (this.infos[at]!.pins.length > 0) throw new NbdeltaError('busy', 'pinned')
        this.infos.splice(at, 1)
      },
    }
  }
  get names(): string[] { return this.infos.map(({ name }) => name) }
}

class Lab {
  readonly clock = new ManualClock({ wallTime: START })
  readonly volumes = new Map<string, FakeVolume>()
  readonly values = new Map<string, unknown>()
  readonly logged: object[] = []
  schedules: Schedules

  constructor(...names: string[]) {
    for (const name of names) this.volumes.set(name, new FakeVolume(name, this.clock))
    this.schedules = this.fresh()
  }

  fresh(): Schedules {
    const store = {
      list: () => [...this.volumes.values()] as unknown as StoreVolume[],
      get: (name: string) => this.volumes.get(name) as unknown as StoreVolume,
      scheduleOf: (name: string) => this.values.get(name) ?? null,
      setSchedule: async (name: string, value: unknown) => { this.values.set(name, value) },
    } as unknown as Store
    const logger = { info: () => undefined, warn: (fields: object) => { this.logged.push(fields) } }
    return this.schedules = new Schedules({ store, clock: this.clock, logger })
  }

  set(volume: string, rule: { hourly?: number, daily?: number, weekly?: number, keepBookmarks?: boolean }, dryRun = false) {
    return this.schedules.set({ volume, rule: { hourly: 0, daily: 0, weekly: 0, keepBookmarks: false, ...rule }, dryRun })
  }

  /** Time passes, and what it set off ends. */
  async pass(ms: number): Promise<void> {
    await this.clock.advance(ms)
    for (let turn = 0; turn < 20; turn++) await new Promise<void>(resolve => { setImmediate(resolve) })
    await this.clock.advance(0)
  }
}

t.test('no schedule, no timer', async t => {
  const lab = new Lab('disk')
  lab.schedules.start()
  t.equal(lab.clock.pending, 0)
  t.match(await lab.schedules.show('disk'), { hourly: null, nextAt: null, points: [] })
  t.match(await lab.set('disk', { hourly: 2 }, true), { dryRun: true, hourly: 2 })
  t.equal(lab.clock.pending, 0, 'a dry run sets none')
  await lab.set('disk', { hourly: 2 })
  t.equal(lab.clock.pending, 1)
  await lab.set('disk', { hourly: 3 })
  t.equal(lab.clock.pending, 1, 'one for all')
  t.match(await lab.schedules.clear({ volume: 'disk', dryRun: true }), { changed: false, steps: { length: 1 } })
  t.equal(lab.clock.pending, 1)
  t.match(await lab.schedules.clear({ volume: 'disk', dryRun: false }), { changed: true })
  t.equal(lab.clock.pending, 0)
  t.match(await lab.schedules.clear({ volume: 'disk', dryRun: false }), { changed: false, steps: [] })
  await t.rejects(lab.set('disk', {}), { code: 'bad-argument' })
  await t.rejects(lab.set('none', { hourly: 1 }), { code: 'not-found' })
})

t.test('one an hour, the rule is kept', async t => {
  const lab = new Lab('disk')
  await lab.set('disk', { hourly: 2 })
  await lab.pass(0)
  const disk = lab.volumes.get('disk')!
  t.same(disk.names, ['auto-20260304T053000Z'])
  t.same(disk.infos[0]!.labels, { auto: 'schedule' })
  t.match(await lab.schedules.show('disk'), { nextAt: '2026-03-04T06:00:00.000Z', points: [{ keep: true, reasons: ['hourly 1'] }] })
  await lab.pass(HOUR / 2 - 1)
  t.equal(disk.names.length, 1)
  await lab.pass(1)
  t.same(disk.names, ['auto-20260304T053000Z', 'auto-20260304T060000Z'])
  await lab.pass(HOUR)
  t.same(disk.names, ['auto-20260304T060000Z', 'auto-20260304T070000Z'])
  disk.infos[0] = { ...disk.infos[0]!, pins: [{ owner: 'x', expiresAt: null }] }
  await lab.pass(HOUR)
  t.same(disk.names, ['auto-20260304T060000Z', 'auto-20260304T070000Z', 'auto-20260304T080000Z'], 'a pinned one stays')
  await lab.schedules.stop()
  await lab.pass(5 * HOUR)
  t.equal(disk.names.length, 3, 'stopped')
})

t.test('a restart neither misses one nor takes one twice', async t => {
  const lab = new Lab('disk')
  await lab.set('disk', { hourly: 5 })
  await lab.pass(0)
  const disk = lab.volumes.get('disk')!
  for (let again = 0; again < 3; again++) {
    await lab.schedules.stop()
    lab.fresh().start()
    await lab.pass(60_000)
  }
  t.equal(disk.names.length, 1)
  await lab.schedules.stop()
  await lab.pass(3 * HOUR)
  lab.fresh().start()
  await lab.pass(0)
  t.equal(disk.names.length, 2, 'what was missed is made up for, once')
})

t.test('failures are logged, shown, and tried again, later each time', async t => {
  const lab = new Lab('bad', 'good')
  await lab.set('bad', { hourly: 2 })
  await lab.set('good', { hourly: 2 })
  const bad = lab.volumes.get('bad')!
  bad.failing = new NbdeltaError('no-space', 'the disk is full')
  await lab.pass(0)
  t.equal(lab.volumes.get('good')!.names.length, 1, 'the other volume has its own')
  t.match(lab.logged, [{ volume: 'bad', retrySeconds: 60 }])
  t.match(await lab.schedules.show('bad'), { problem: 'the disk is full' })
  await lab.pass(59_999)
  t.equal(lab.logged.length, 1)
  await lab.pass(1)
  t.match(lab.logged[1], { retrySeconds: 120 })
  bad.failing = undefined
  await lab.pass(120_000)
  t.equal(bad.names.length, 1)
  t.match(await lab.schedules.show('bad'), { problem: null })
  t.equal(lab.logged.length, 2)
  t.equal(lab.volumes.get('good')!.names.length, 1)
})

t.test('daily with bookmarks: one beside each, and it stays', async t => {
  const lab = new Lab('disk')
  await lab.set('disk', { daily: 1, keepBookmarks: true })
  await lab.pass(0)
  await lab.pass(24 * HOUR)
  t.same(lab.volumes.get('disk')!.infos.map(({ name, kind }) => `${kind} ${name}`), [
    'bookmark auto-20260304T053000Z-mark', 'bookmark auto-20260305T000000Z-mark', 'snapshot auto-20260305T000000Z'])
})

t.test('a volume that is gone is forgotten', async t => {
  const lab = new Lab('disk')
  await lab.set('disk', { hourly: 1 })
  await lab.pass(0)
  lab.volumes.clear()
  await lab.pass(2 * HOUR)
  t.equal(lab.clock.pending, 0)
})
