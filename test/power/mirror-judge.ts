/**
 * What is left of a story of a mirror (mirror-story.ts), when the power has failed at both stores or at one alone: the source is what it
 * was, the target shows a whole point of it, not older than what was told to be declared (S1, S2), a split pair is split, what was done
 * on a target is kept before it is overwritten (S5), and one more cycle makes both equal, whichever marks had been lost (D4, S3). A
 * target that was taken over stays what it is (S4). In the end all of it can be deleted, and nothing is left.
 */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { NbdeltaError } from '../../src/device/errors.js'
import type { Random } from '../../src/device/testing.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { Sites } from './mirror-sites.js'
import { type Apart, apartAt, isOne, letGo, type Pair } from './mirror-world.js'
import { contentAt, contentsOf, found, problemOfSectors, problemOfSnapshot, type Sectors } from './sectors.js'

type IsCut = (place: string) => boolean
/** One in so many is given up in the end. */
const END_EVERY = 3

export async function judgePair(folder: string, worlds: readonly Pair[], isCut: IsCut, random: Random): Promise<{ readonly world: Pair } | string> {
  const sites = await Sites.open(folder)
  let verdict: { readonly world: Pair } | string
  let ends = false
  try {
    verdict = await pairOf(sites, worlds, isCut)
    if (typeof verdict === 'string') return verdict
    const problem = await problemLater(sites, verdict.world, random)
    if (problem !== undefined) return problem
    ends = random(END_EVERY) === 0
    if (ends) await deleteAll(sites)
  } finally {
    await sites.close()
  }
  if (!ends) return verdict
  for (const place of ['a', 'b']) {
    const left = readdirSync(join(folder, place, 'store', 'volumes'))
    if (left.length > 0) return `${left.join()} is left at ${place} of what was deleted`
  }
  return verdict
}

/** Which of these worlds it is, as it was found; a text: it is none. Nothing has been started yet. */
export async function pairOf(sites: Sites, worlds: readonly Pair[], isCut: IsCut): Promise<{ readonly world: Pair } | string> {
  const problems: string[] = []
  for (const world of worlds) {
    const source = isCut('a') ? world.source : { ...world.source, sectors: afterKill(world, worlds) }
    const problem = await problemOf(sites, { ...world, source })
    if (problem === undefined) return { world: await foundIn(sites, world, isCut) }
    problems.push(problem)
  }
  return problems.join('; or ')
}

/** A kill loses nothing: a sector of the source is what it was in one of them. */
function afterKill(world: Pair, worlds: readonly Pair[]): ReadonlySet<number>[] {
  const alike = worlds.filter(({ source }) => source.now.length === world.source.now.length)
  return world.source.now.map((_, sector) => new Set(alike.map(({ source }) => source.now[sector]!)))
}

async function foundIn(sites: Sites, world: Pair, isCut: IsCut): Promise<Pair> {
  const source = found(world.source, await contentsOf(sites.a.get('v')!), isCut('a'))
  const views = [...world.views, source.now]
  const { apart } = world
  if (!apart || isUntold(sites, world)) return { ...world, source, views, isReleased: sites.isReleased }
  const { volume } = sites.target()
  // It may be given up already.
  if (!volume) return { ...world, source, views, apart: undefined }
  const now = await contentsOf(volume)
  const there = apart.wholeFrom === undefined ? found(apart, now, isCut(sites.isFar ? 'b' : 'a')) : apartAt(now)
  return { ...world, source, views, apart: there, isReleased: sites.isReleased }
}

/** What is apart is no more than a point that is shown: it was only begun to be taken over, or a peer was not told of a deletion. */
function isUntold(sites: Sites, { phase, apart }: Pair): boolean {
  const far = sites.b.get('x')
  return phase !== 'split' && apart?.wholeFrom !== undefined && far !== undefined && sites.secondaries.of(far.uuid)?.phase === 'secondary'
}

async function problemOf(sites: Sites, world: Pair): Promise<string | undefined> {
  const source = sites.a.get('v')!
  const problem = await problemOfSide('source', source, world.source)
  if (problem !== undefined) return problem
  const listed = source.points.list().filter(({ name }) => name.startsWith('p')).map(({ name }) => name).sort().join()
  if (listed !== [...world.points.keys()].sort().join()) return `points ${listed}, not ${[...world.points.keys()].join()}`
  for (const [name, content] of world.points) {
    const lost = await problemOfSnapshot(source, name, content)
    if (lost !== undefined) return lost
  }
  return problemOfRecord(sites, world) ?? await problemOfCopies(sites, world)
    ?? (world.apart?.wholeFrom !== undefined && !isUntold(sites, world) ? problemOfApart(sites.target(), world) : undefined)
}

function problemOfRecord(sites: Sites, { phase, isPaused }: Pair): string | undefined {
  const state = sites.a.mirrors.find(({ name }) => name === 'm')?.state as { phase: string, paused: boolean } | undefined
  const { taking } = sites
  const is = !state ? 'none' : taking ?? (state.phase === 'split' ? 'split' : 'paired')
  if (is !== phase) return `it is ${is}, not ${phase}`
  if (is === 'paired' && state!.paused !== isPaused) return `paused is ${state!.paused}, not ${isPaused}`
  return undefined
}

/** Copies of snapshots at the target are what they are called. */
async function problemOfCopies(sites: Sites, { points }: Pair): Promise<string | undefined> {
  const source = sites.a.get('v')!
  const volume = sites.b.get('x') ?? sites.a.get('w')
  if (!volume || volume.problem) return volume && `target cannot be opened: ${volume.problem!.message}`
  for (const { name, labels } of volume.points.list()) {
    const of = source.points.list().find(({ uuid }) => uuid === labels['snapshot'])
    const content = of && points.get(of.name)
    const problem = content && await problemOfSnapshot(volume, name, content)
    if (problem !== undefined) return `copy at the target: ${problem}`
  }
  return undefined
}

async function problemOfSide(what: string, volume: StoreVolume, side: Sectors): Promise<string | undefined> {
  if (volume.problem) return `${what} cannot be opened: ${volume.problem.message}`
  const now = await contentsOf(volume)
  if (now.length !== side.now.length) return `${what} has ${now.length} sectors, not ${side.now.length}`
  const problem = problemOfSectors(now, side)
  return problem === undefined ? undefined : `${what}: ${problem}`
}

async function problemOfApart({ volume }: { readonly volume: StoreVolume | undefined }, world: Pair): Promise<string | undefined> {
  const { wholeFrom } = world.apart!
  if (wholeFrom === null || !volume) return undefined
  if (wholeFrom === undefined) return problemOfSide('target', volume, world.apart!)
  return isOne(await contentsOf(volume), world, wholeFrom) ? undefined : 'what was let go of is no declared point'
}

/** What it shows, and what becomes of it. */
async function problemLater(sites: Sites, world: Pair, random: Random): Promise<string | undefined> {
  sites.start()
  const { phase } = world
  if (phase === 'none') return world.apart && problemOfLeft(sites, world)
  if (world.isEnding) {
    await sites.mirrors.delete('m')
    return problemOfLeft(sites, { ...world, apart: world.apart ?? letGo(world, world.declared !== undefined) })
  }
  if (phase === 'fenced' || phase === 'promoted') return problemOfPromoted(sites, world)
  const mirror = sites.mirrors.get('m')
  if (world.isReleased) {
    await mirror.split({ atOnce: true })
    const now = await contentsOf(sites.target().volume)
    return isOne(now, world, world.declared ?? 0) ? undefined : 'what was let go is no declared point'
  }
  if (phase === 'paired') {
    const problem = await problemOfShown(sites, world)
    if (problem !== undefined) return problem
  } else {
    await mirror.inTurn(undefined, turn => turn.release(), false)
    const problem = await problemOfApart(sites.target(), world)
    if (problem !== undefined) return problem
    if (random(2) === 0) await mirror.beginResync({ whole: false })
    else await (await sites.mirrors.together(['m']).reverse()).finished
  }
  return problemOfCycle(sites, world, random)
}

/** Behind one more cycle both are equal. */
async function problemOfCycle(sites: Sites, world: Pair, random: Random): Promise<string | undefined> {
  const mirror = sites.mirrors.get('m')
  const isReversed = mirror.state.phase === 'paired' && world.phase === 'split'
  const expected = isReversed ? await contentsOf(sites.target().volume) : world.source.now
  const carried = toCarry(sites, world)
  await mirror.sync()
  const { volume, shown } = sites.target()
  const content = shown && await contentAt(volume, shown.name)
  if (!content || differs(content, expected)) return 'behind one more cycle the target is not what the source is'
  if (differs(await contentsOf(sites.a.get('v')!), expected)) return 'the source has changed by itself'
  if (random(3) === 0 && (await mirror.verify()).length > 0) return 'verification finds differences'
  const kept = isReversed ? undefined : world.kept ?? (world.apart?.isOwn ? world.apart : undefined)
  if (kept && !await hasKept(volume, kept)) return 'what was done on the target is not kept'
  const copies = volume.points.list().map(({ labels }) => labels['snapshot'])
  if (carried.some(uuid => !copies.includes(uuid))) return 'the target has no copy of a snapshot'
  return problemOfCopies(sites, world)
}

/** Snapshots that the next cycle has to carry: newer than the base and a reversal. Uuids. */
function toCarry(sites: Sites, { keeps, points }: Pair): string[] {
  const { base, phase, passed } = sites.mirrors.get('m').state
  const all = sites.a.get('v')!.points.list()
  const from = base ? all.find(({ uuid }) => uuid === base.point)?.seq : phase === 'copying' ? 0 : undefined
  if (keeps === 0 || from === undefined) return []
  return all.filter(({ name }) => points.has(name)).slice(-keeps).filter(({ seq }) => seq > Math.max(from, passed)).map(({ uuid }) => uuid)
}

async function problemOfShown(sites: Sites, world: Pair): Promise<string | undefined> {
  const { volume, shown } = sites.target()
  if (!shown) return world.declared === undefined ? undefined : 'the target has no point'
  const content = await contentAt(volume, shown.name)
  return isOne(content, world, world.declared ?? 0) ? undefined
    : 'the target shows what the source never was, or what is older than it has declared'
}

/** Its mirror was deleted; a peer that was not told shows what it has declared, until it is promoted. */
async function problemOfLeft(sites: Sites, world: Pair): Promise<string | undefined> {
  if (!isUntold(sites, world)) return problemOfApart(sites.target(), world)
  const [far, { wholeFrom }] = [sites.b.get('x')!, world.apart!]
  const shown = sites.secondaries.shownPoint(far.uuid)
  if (wholeFrom === null) return undefined
  return shown && isOne(await contentAt(far, shown.name), world, wholeFrom!) ? undefined : 'a peer that was not told shows no declared point'
}

/** The old primary changes nothing there. */
async function problemOfPromoted(sites: Sites, world: Pair): Promise<string | undefined> {
  await sites.secondaries.promote('x')
  const target = { volume: sites.b.get('x')! }
  const problem = await problemOfApart(target, world)
  if (problem !== undefined) return problem
  const now = await contentsOf(target.volume)
  const mirror = sites.mirrors.get('m')
  const refused = await mirror.sync().then(() => false, (error: unknown) => error instanceof NbdeltaError && error.code === 'wrong-state')
  if (!refused) return 'a promoted target was not refused to its old primary'
  return differs(await contentsOf(target.volume), now) ? 'its old primary has changed what was promoted' : undefined
}

function differs(content: readonly number[], expected: readonly number[]): boolean {
  return content.length !== expected.length || content.some((value, sector) => value !== expected[sector])
}

async function hasKept(volume: StoreVolume, { sectors, base }: Apart): Promise<boolean> {
  // Where nothing differs from what it was at, as when a write that no flush covers is lost, there is nothing to be kept.
  if (base.every((value, sector) => sectors[sector]!.has(value))) return true
  for (const { name, kind } of volume.points.list()) {
    if (kind !== 'snapshot') continue
    const content = await contentAt(volume, name).catch((error: unknown) => {
      if (!(error instanceof NbdeltaError)) throw error
      return undefined
    })
    if (content?.length === sectors.length && content.every((value, sector) => sectors[sector]!.has(value))) return true
  }
  return false
}

/** Pairs are given up, and volumes deleted. Errors: what cannot be deleted. */
async function deleteAll(sites: Sites): Promise<void> {
  const { a, mirrors } = sites
  if (mirrors.list().length > 0) await mirrors.delete('m')
  await sites.clear()
  const source = a.get('v')!
  // What a crash has left of a deleted mirror goes in the background.
  const isPinned = (): boolean => source.points.list().some(({ pins }) => pins.some(({ owner }) => owner.startsWith('mirror ')))
  for (let i = 0; i < 100 && isPinned(); i++) await sleep(10)
  await source.inheriting?.finished
  for (const { name } of source.points.list()) await source.points.delete(name)
  await source.points.settled()
  const { keptBytes } = source.space!
  if (keptBytes !== 0) throw new Error(`without points the source keeps ${keptBytes} bytes`)
  await a.deleteVolume('v')
  const [others, records] = [[...a.list(), ...sites.b.list()], [...a.mirrors, ...sites.b.mirrors]]
  if (others.length > 0) throw new Error(`${others.map(({ name }) => name).join()} is there`)
  if (records.length > 0) throw new Error(`records are left: ${records.map(({ name }) => name).join()}`)
}
