/** What an operator says of volumes and points of a story (store-story.ts), each by one durable record of the store (D6). */
import { Schedules } from '../../src/daemon-schedules.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { silentLogger } from '../../src/device/logger.js'
import { planRetention } from '../../src/volume/retention.js'
import type { PointInfo } from '../../src/volume/snappoint.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { durable } from './sectors.js'
import { GRAIN, POINTS_MAX, type Teller } from './store-teller.js'
import { type Live, type Point, pointOf, withoutPoint, withPoint, type World } from './store-world.js'

const HOUR_MS = 3_600_000
const GROUPS_MAX = 2

type Step = (teller: Teller, volume: StoreVolume) => Promise<unknown>
const STEPS: readonly Step[] = [
  rename, label, label, pin, pin, unpin, setSpace, setSpace, setSchedule, runSchedules, runSchedules, createGroup, createGroup, deleteGroup,
  groupPoint, groupPoint,
]

export async function tellRecord(teller: Teller, volume: StoreVolume): Promise<void> {
  // What expires does.
  if (teller.random(4) === 0) teller.pass(HOUR_MS)
  await teller.one(STEPS)!(teller, volume)
}

/** The same place in the order. */
function replaced({ points }: Live, name: string, other: readonly [string, Point]): ReadonlyMap<string, Point> {
  return new Map([...points].map(entry => entry[0] === name ? other : entry))
}

async function rename(teller: Teller, volume: StoreVolume): Promise<void> {
  const name = teller.somePoint(volume)
  // Undo points are known by their names here.
  if (name === undefined || name.startsWith('undo-')) return
  const [live, to] = [teller.live(volume), `r${teller.next()}`]
  const after = { ...live, points: replaced(live, name, [to, live.points.get(name)!]) }
  await teller.do(`rename ${volume.name}@${name} ${to}`, [teller.with(volume, after)], () => volume.points.rename(name, to))
}

async function withRecord(
  teller: Teller, volume: StoreVolume, what: string, change: (point: Point) => Point, work: (name: string) => Promise<unknown>,
): Promise<void> {
  const name = teller.somePoint(volume)
  if (name === undefined) return
  const live = teller.live(volume)
  const after = { ...live, points: replaced(live, name, [name, change(live.points.get(name)!)]) }
  await teller.do(`${what} ${volume.name}@${name}`, [teller.with(volume, after)], () => work(name))
}

async function label(teller: Teller, volume: StoreVolume): Promise<void> {
  const key = `k${teller.random(3)}`
  const value = teller.random(3) === 0 ? null : `${teller.next()}`
  await withRecord(teller, volume, `label ${key}=${value}`, point => {
    const { [key]: _, ...others } = point.labels
    return { ...point, labels: value === null ? others : { ...others, [key]: value } }
  }, name => volume.points.label(name, key, value))
}

async function pin(teller: Teller, volume: StoreVolume): Promise<void> {
  const owner = `op${teller.random(2)}`
  const expiresAt = teller.random(3) === 0 ? null : new Date(teller.clock.wallTime().getTime() + teller.random(3) * HOUR_MS).toISOString()
  await withRecord(teller, volume, `pin ${owner} ${expiresAt}`, point => ({ ...point, pins: { ...point.pins, [owner]: expiresAt } }),
    name => volume.points.pin(name, { owner, expiresAt }))
}

async function unpin(teller: Teller, volume: StoreVolume): Promise<void> {
  const owner = `op${teller.random(2)}`
  await withRecord(teller, volume, `unpin ${owner}`, point => {
    const { [owner]: _, ...others } = point.pins
    return { ...point, pins: others }
  }, name => volume.points.unpin(name, owner))
}

async function setSpace(teller: Teller, volume: StoreVolume): Promise<void> {
  const live = teller.live(volume)
  const budgetBytes = teller.random(2) === 0 ? null : teller.random(8) * GRAIN
  const order = teller.random(3) === 0 ? 'fail' as const : 'drop-undo-then-fail' as const
  const space = { budgetBytes, order }
  await teller.do(`budget of ${volume.name} ${budgetBytes} ${order}`, [teller.with(volume, { ...live, space })],
    () => teller.store.setSpace(volume.name, space))
}

async function setSchedule(teller: Teller, volume: StoreVolume): Promise<void> {
  const { random } = teller
  const rule = { hourly: 1 + random(2), daily: 0, weekly: 0, keepBookmarks: random(2) === 0 }
  const schedule = random(4) === 0 ? null : rule
  await teller.do(`schedule of ${volume.name}`, [teller.with(volume, { ...teller.live(volume), schedule })],
    () => teller.store.setSchedule(volume.name, schedule))
}

/** Once: what is due is taken, and what is not kept any more goes. */
async function runSchedules(teller: Teller, volume: StoreVolume): Promise<void> {
  const live = teller.live(volume)
  if (live.schedule === null || live.points.size >= POINTS_MAX - 1) return
  teller.pass(HOUR_MS)
  const now = teller.clock.wallTime()
  const name = `auto-${now.toISOString().replace(/[-:]|\.\d+/g, '')}`
  const rule = live.schedule as { hourly: number, daily: number, weekly: number, keepBookmarks: boolean }
  const taken: readonly (readonly [string, Point['kind']])[] = [...rule.keepBookmarks ? [[`${name}-mark`, 'bookmark'] as const] : [], [name, 'snapshot']]
  const lives: Live[] = []
  let next = live
  for (const [made, kind] of taken) lives.push(next = withPoint(durable(next), made, pointOf(kind, live.now)))
  const seqs = volume.points.list().at(-1)?.seq ?? 0
  const fresh = taken.map(([made, kind], i) => ({
    name: made, kind, seq: seqs + 1 + i, labels: { auto: 'schedule' }, pins: [], createdAt: now.toISOString(),
  }))
  for (const { point, keep } of planRetention([...volume.points.list(), ...fresh as unknown as PointInfo[]], rule, now)) {
    if (!keep) lives.push(next = withoutPoint(next, point.name))
  }
  await teller.do(`schedules run, ${volume.name}`, lives.map(one => teller.with(volume, one)), () => runOnce(teller, volume))
}

async function runOnce(teller: Teller, { name }: StoreVolume): Promise<void> {
  const { store } = teller
  let over!: () => void
  const waits = new Promise<void>(resolve => { over = resolve })
  const schedules = new Schedules({
    store: {
      list: () => store.list().filter(other => other.name === name), get: of => store.get(of),
      scheduleOf: of => store.scheduleOf(of), setSchedule: (of, rule) => store.setSchedule(of, rule),
    },
    logger: silentLogger,
    clock: {
      ...teller.clock, setTimeout: (callback, delayMs) => {
        if (delayMs > 0) over()
        else setImmediate(callback)
        return { cancel: () => undefined }
      },
    },
  })
  schedules.start()
  await waits
  await schedules.stop()
  // What has failed is tried again later.
  const { problem } = await schedules.show(name)
  if (problem !== null) throw new NbdeltaError('io', problem)
}

async function createGroup(teller: Teller): Promise<void> {
  const { world, names } = teller
  if (world.groups.size >= GROUPS_MAX) return
  const [name, members] = [`G${teller.next()}`, names.filter(() => teller.random(3) > 0).sort()]
  await teller.do(`group ${name} of ${members.join()}`, [{ ...world, groups: new Map([...world.groups, [name, members]]) }],
    () => teller.store.createGroup(name, members))
}

async function deleteGroup(teller: Teller): Promise<void> {
  const { world } = teller
  const name = teller.one([...world.groups.keys()])
  if (name === undefined) return
  await teller.do(`delete group ${name}`, [{ ...world, groups: new Map([...world.groups].filter(([other]) => other !== name)) }],
    () => teller.store.deleteGroup(name))
}

async function groupPoint(teller: Teller): Promise<void> {
  const { world } = teller
  const [group, members] = teller.one([...world.groups]) ?? []
  if (group === undefined || !members || members.some(name => world.volumes.get(name)!.points.size >= POINTS_MAX)) return
  const name = `s${teller.next()}`
  const made = (live: Live): Live => withPoint(durable(live), name, pointOf('snapshot', live.now, { group: name, labels: { kGroup: group } }))
  const after: World = { ...world, volumes: new Map([...world.volumes].map(([volume, live]) => [volume, members.includes(volume) ? made(live) : live])) }
  await teller.do(`snapshot ${name} of group ${group}`, [after], () => teller.store.createGroupPoints({ group, name, kind: 'snapshot', labels: { kGroup: group } }))
}
