/**
 * What is left of a story of a store (store-story.ts): which of the worlds it is, or what is wrong with it. And whether whoever goes
 * on with it can: write, take snapshots, delete all, and find that nothing is left of what is gone.
 */
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { allSettled } from '../../src/device/all-settled.js'
import { NbdeltaError } from '../../src/device/errors.js'
import type { Random } from '../../src/device/testing.js'
import { openStore, type Store } from '../../src/volume/open-store.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { contentOf, SECTOR } from '../volume/storm-model.js'
import type { Ending } from './folder-states.js'
import { contentsOf, found, problemOfSectors, problemOfSnapshot } from './sectors.js'
import { type Live, type Maybe, mayBeGivenUp, type Point, withoutGivenUp, type World } from './store-world.js'

const IN_GRAIN = 4096 / SECTOR
/** Of those that go on with it, one in so many. */
const GO_ON_EVERY = 3

/**
 * Which of these worlds a store is that was opened anew, with the content that it has; a text: what is wrong with it, for it is none.
 */
export async function judged(
  path: string, worlds: readonly Maybe[], ending: Ending, random: Random,
): Promise<{ readonly world: Maybe } | string> {
  let store: Store
  try {
    store = await openStore({ path })
  } catch (error) {
    const isNone = error instanceof NbdeltaError && error.code === 'not-found' && worlds.includes(undefined)
    return isNone ? { world: undefined } : `it does not open: ${String(error)}`
  }
  let verdict: { readonly world: World } | string
  try {
    verdict = await worldOf(store, worlds, ending)
    if (typeof verdict === 'string' || random(GO_ON_EVERY) > 0) return verdict
    const problem = await problemLater(store, verdict.world, random)
    if (problem !== undefined) return `later: ${problem}`
  } finally {
    await store.close()
  }
  const problem = await problemOfEmpty(path)
  return problem === undefined ? verdict : `at last: ${problem}`
}

/** Of an open one. */
export async function worldOf(store: Store, worlds: readonly Maybe[], ending: Ending): Promise<{ readonly world: World } | string> {
  const problems: string[] = []
  for (const [i, world] of (ending === 'cut' ? worlds : afterKill(worlds)).entries()) {
    const problem = world && await problemOf(store, world)
    if (world && problem === undefined) return { world: await foundIn(store, worlds[i]!, ending === 'cut') }
    problems.push(problem ?? 'there is a store')
  }
  return problems.join('; or ')
}

/** What they are behind a kill, which loses nothing: a sector is what it was in one of them. */
function afterKill(worlds: readonly Maybe[]): Maybe[] {
  const known = worlds.filter(world => world !== undefined)
  return worlds.map(world => world && { ...world, volumes: new Map([...world.volumes].map(([name, live]) => {
    const others = known.map(other => other.volumes.get(name)?.now).filter(now => now?.length === live.now.length)
    return [name, { ...live, sectors: live.now.map((_, sector) => new Set(others.map(now => now![sector]!))) }]
  })) })
}

/** @param isDurable all that is there is */
async function foundIn(store: Store, world: World, isDurable: boolean): Promise<World> {
  const volumes = new Map<string, Live>()
  for (const [name, live] of world.volumes) {
    const volume = store.get(name)!
    volumes.set(name, withoutGivenUp(found(live, await contentsOf(volume), isDurable), volume))
  }
  return { ...world, volumes }
}

async function problemOf(store: Store, { volumes, groups }: World): Promise<string | undefined> {
  const [listed, expected] = [store.list().map(({ name }) => name).sort().join(), [...volumes.keys()].sort().join()]
  if (listed !== expected) return `volumes ${listed}, not ${expected}`
  for (const [name, live] of volumes) {
    const volume = store.get(name)!
    const problem = await problemOfVolume(volume, live) ?? problemOfRules(store, volume, live)
    if (problem !== undefined) return `${name}: ${problem}`
  }
  return differs('groups', store.groups.map(({ name, volumes: of }) => [name, of]), [...groups].sort(([a], [b]) => a < b ? -1 : 1))
    ?? problemOfInstants(store, volumes)
}

async function problemOfVolume(volume: StoreVolume, live: Live): Promise<string | undefined> {
  if (volume.problem) return `it cannot be opened: ${volume.problem.message}`
  if (volume.sizeBytes !== live.now.length * SECTOR) return `${volume.sizeBytes / SECTOR} sectors, not ${live.now.length}`
  const now = await contentsOf(volume)
  const problem = problemOfSectors(now, live)
  if (problem !== undefined) return problem
  const listed = volume.points.list().map(({ name }) => name)
  const expected = [...live.points.keys()].filter(name => listed.includes(name) || !mayBeGivenUp(live, name))
  if (listed.join() !== expected.join()) return `points ${listed.join()}, not ${expected.join()}`
  for (const name of expected) {
    const point = live.points.get(name)!
    const problemOfIt = problemOfRecord(volume, name, point) ?? unmarked(volume, name, point, now)
      ?? (point.kind === 'bookmark' ? undefined : await problemOfSnapshot(volume, name, point.content))
    if (problemOfIt !== undefined) return problemOfIt
  }
  return undefined
}

function unmarked(volume: StoreVolume, name: string, { content }: Point, now: readonly number[]): string | undefined {
  const runs = volume.points.changedRuns(name)
  const isMarked = (sector: number): boolean => runs.some(({ start, end }) => start <= sector / IN_GRAIN && Math.floor(sector / IN_GRAIN) < end)
  const missing = now.findIndex((value, sector) => value !== (content[sector] ?? 0) && !isMarked(sector))
  return missing < 0 ? undefined : `since ${name} sector ${missing} was ${content[missing]}, is ${now[missing]}, and is not marked`
}

/** Labels that begin with k and pins that begin with op are whose who tells the story. */
function problemOfRecord({ points }: StoreVolume, name: string, { kind, content, labels, pins }: Point): string | undefined {
  const info = points.get(name)!
  const own = (record: Readonly<Record<string, string | null>>, start: string): unknown =>
    Object.entries(record).filter(([key]) => key.startsWith(start)).sort(([a], [b]) => a < b ? -1 : 1)
  return differs(`${name}: kind`, info.kind, kind) ?? differs(`${name}: size`, info.sizeBytes, content.length * SECTOR)
    ?? differs(`${name}: labels`, own(info.labels, 'k'), own(labels, ''))
    ?? differs(`${name}: pins`, own(Object.fromEntries(info.pins.map(({ owner, expiresAt }) => [owner, expiresAt])), 'op'), own(pins, ''))
}

function problemOfRules(store: Store, volume: StoreVolume, { space, schedule }: Live): string | undefined {
  const { budgetBytes, order } = volume.space!
  return differs('space', [budgetBytes, order], [space.budgetBytes, space.order]) ?? differs('schedule', store.scheduleOf(volume.name), schedule)
}

/** Those of one instant say the same group, and nobody else does. */
function problemOfInstants(store: Store, volumes: World['volumes']): string | undefined {
  const groups = new Map<string, string>()
  for (const [name, { points }] of volumes) {
    for (const info of store.get(name)!.points.list()) {
      const expected = points.get(info.name)!.group
      if (info.labels['auto'] === 'undo') continue
      if ((expected === null) !== (info.group === null)) return `${name}@${info.name}: group ${info.group}, not ${expected}`
      if (expected === null) continue
      const known = groups.get(expected)
      groups.set(expected, info.group!)
      if (known !== undefined && known !== info.group) return `${name}@${info.name} is not of the instant of the others`
    }
  }
  return new Set(groups.values()).size === groups.size ? undefined : 'two instants have one group'
}

function differs(what: string, found: unknown, expected: unknown): string | undefined {
  const [is, should] = [JSON.stringify(found), JSON.stringify(expected)]
  return is === should ? undefined : `${what}: ${is}, not ${should}`
}

/** It is written to, gets snapshots, and in the end all of it is deleted. */
async function problemLater(store: Store, { volumes }: World, random: Random): Promise<string | undefined> {
  for (const [name, live] of volumes) {
    const volume = store.get(name)!
    await store.setSpace(name, { budgetBytes: null })
    const problem = await problemOfWriting(volume, live, random)
    if (problem !== undefined) return `${name}: ${problem}`
  }
  const all = store.list()
  for (const volume of all) {
    const now = await contentsOf(volume)
    const problem = await problemOfPointsGone(store, volume)
    if (problem !== undefined) return `${volume.name}: ${problem}`
    if ((await contentsOf(volume)).some((value, sector) => value !== now[sector])) return `${volume.name}: it has changed with its points`
  }
  // Whoever shows another's snapshot goes first; two that show each other's copy them before.
  for (let left = all.length; left > 0;) {
    for (const { name } of store.list()) await store.deleteVolume(name).catch(refusedBusy)
    const stuck = store.list()
    const copying = stuck.flatMap(({ inheriting }) => inheriting ? [inheriting.finished] : [])
    if (stuck.length === left && copying.length === 0) return `these cannot be deleted: ${stuck.map(({ name }) => name).join()}`
    if (stuck.length === left) await allSettled(copying)
    left = stuck.length
  }
  for (const { name } of store.groups) await store.deleteGroup(name)
  return undefined
}

async function problemOfWriting(volume: StoreVolume, live: Live, random: Random): Promise<string | undefined> {
  const expected = await contentsOf(volume)
  for (let i = 0; i < 3; i++) {
    const start = random(expected.length)
    const end = Math.min(expected.length, start + 1 + random(2 * IN_GRAIN))
    await volume.write(start * SECTOR, (end - start) * SECTOR, contentOf(9000 + i, (end - start) * SECTOR), 0)
    expected.fill(9000 + i, start, end)
  }
  await volume.points.create({ name: 'later', kind: 'snapshot' })
  await volume.write(0, SECTOR, contentOf(9009, SECTOR), 0)
  await volume.flush()
  for (const [name, { kind, content }] of live.points) {
    const problem = kind === 'bookmark' || !volume.points.get(name) ? undefined : await problemOfSnapshot(volume, name, content)
    if (problem !== undefined) return problem
  }
  const problem = await problemOfSnapshot(volume, 'later', expected)
  expected[0] = 9009
  return problem ?? differs('content', await contentsOf(volume), expected)
}

/** Those that nobody shows go, and their folders. */
async function problemOfPointsGone(store: Store, volume: StoreVolume): Promise<string | undefined> {
  const { points } = volume
  for (const { name, pins } of points.list()) {
    for (const { owner } of pins) if (owner.startsWith('op')) await points.unpin(name, owner)
    await points.delete(name).catch(refusedBusy)
  }
  await points.settled()
  const left = points.list()
  const unpinned = left.find(({ pins }) => pins.length === 0)
  if (unpinned) return `${unpinned.name} cannot be deleted`
  const folder = join(store.path, 'volumes', volume.uuid, 'points')
  const folders = existsSync(folder) ? readdirSync(folder).sort() : []
  return differs('folders of points', folders, left.map(({ seq }) => `${seq}`).sort())
    ?? (left.length > 0 || volume.space!.keptBytes === 0 ? undefined : `without points it keeps ${volume.space!.keptBytes} bytes`)
}

function refusedBusy(error: unknown): void {
  if (!(error instanceof NbdeltaError) || error.code !== 'busy') throw error
}

/** All was deleted. */
async function problemOfEmpty(path: string): Promise<string | undefined> {
  const left = readdirSync(join(path, 'volumes'))
  if (left.length > 0) return `${left.join()} is left of what was deleted`
  const store = await openStore({ path })
  try { return differs('volumes', store.list().map(({ name }) => name), []) } finally { await store.close() }
}
