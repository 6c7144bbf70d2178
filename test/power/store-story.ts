/**
 * A story of one store, as its operator lives it: volumes made and deleted, written to, flushed, resized, with snapshots and
 * bookmarks, restores and clones, and all that is said of them (store-records.ts), one thing after the other, each noted when it
 * begins and when it is done. And what must be found when the power has failed at some moment of it: what was answered is there
 * (D1, D3, D4, D6), and what was under way has happened or not (store-judge.ts).
 *
 * Sectors of live have any of the values that they had since the last flush; snapshots exactly what was there.
 */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Random } from '../../src/device/testing.js'
import { openStore } from '../../src/volume/open-store.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { contentOf, SECTOR } from '../volume/storm-model.js'
import type { Tale } from './lives.js'
import { durable } from './sectors.js'
import { judged } from './store-judge.js'
import { tellRecord } from './store-records.js'
import { tellRestore } from './store-restores.js'
import { GRAIN, POINTS_MAX, type StoryNote, Teller, VOLUMES_MAX } from './store-teller.js'
import {
  EMPTY, flushed, freshVolume, type Live, type Maybe, type Point, pointOf, withoutPoint, withoutVolume, withPoint, withVolume, type World,
} from './store-world.js'

const IN_GRAIN = GRAIN / SECTOR
const GRAINS_MAX = 12
/** Of what goes on by itself. */
const PAUSES_MS = [0, 0, 2, 15, 60]
/** Of what it does behind an open. */
const RECOVERS_MS = [0, 1, 5, 20]
/** For what disks may keep from ending. */
const WAITS_MS = 1000
const STEPS = 20
const TRIES = 10

export const storeTale: Tale<World, StoryNote> = {
  recover: async (folder, random) => {
    const store = await openStore({ path: join(folder, 'store') }).catch(() => undefined)
    await sleep(RECOVERS_MS[random(RECOVERS_MS.length)]!)
    await store?.close()
  },
  tell: (folder, random, recorded, world, serial) => tell(new Teller(join(folder, 'store'), random, recorded, world, serial), world),
  judge: async (folder, notes, ending, random) => {
    const { text, worlds } = notes.at(-1) ?? { text: 'before anything', worlds: [undefined] }
    const verdict = await judged(join(folder, 'store'), worlds, ending, random)
    return typeof verdict === 'string' ? `${text}: ${verdict}` : verdict
  },
}

async function tell(teller: Teller, world: Maybe): Promise<void> {
  await teller.open(world ?? EMPTY, true)
  for (let i = 0; i < STEPS; i++) {
    await teller.weather()
    await step(teller)
    await sleep(PAUSES_MS[teller.random(PAUSES_MS.length)]!)
  }
  await teller.do('close', [flushed(teller.world)], () => teller.store.close())
  await teller.close()
}

type Step = (teller: Teller, volume: StoreVolume) => Promise<unknown>

/** How often each comes. */
const MIX: readonly (readonly [number, Step])[] = [
  [8, write], [2, flush], [3, point], [3, deletePoint], [3, tellRestore], [1, resize], [2, clone], [1, promote], [1, createVolume],
  [1, deleteVolume], [2, pointOfAll], [1, fill], [1, reopenVolume], [1, reopen], [9, tellRecord],
]
const STEPS_OF_MIX = MIX.flatMap(([count, step]) => Array<Step>(count).fill(step))

async function step(teller: Teller): Promise<void> {
  const { done } = teller
  // What cannot be done makes room for something else.
  for (let i = 0; i < TRIES && teller.done === done && !teller.hasFailed; i++) {
    const name = teller.one(teller.names)
    if (name === undefined) await createVolume(teller)
    else if (teller.store.get(name)?.problem) return
    else await teller.one(STEPS_OF_MIX)!(teller, teller.store.get(name)!)
  }
}

/** Most are whole grains. */
function someSectors(random: Random): number {
  const grains = 2 + random(GRAINS_MAX - 1)
  return grains * IN_GRAIN - (random(3) === 0 ? random(IN_GRAIN) : 0)
}

async function createVolume(teller: Teller): Promise<void> {
  if (teller.world.volumes.size >= VOLUMES_MAX) return
  const [sectors, name] = [someSectors(teller.random), `v${teller.next()}`]
  const made = withVolume(teller.world, name, freshVolume(Array<number>(sectors).fill(0)))
  await teller.do(`create ${name}`, [made], () => teller.store.createVolume({ name, sizeBytes: sectors * SECTOR, grainBytes: GRAIN }))
}

async function write(teller: Teller, volume: StoreVolume): Promise<void> {
  const { random } = teller
  const count = teller.live(volume).now.length
  const start = random(2) === 0 ? random(count) : random(Math.floor(count / IN_GRAIN)) * IN_GRAIN
  const end = Math.min(count, start + (random(2) === 0 ? 1 + random(3 * IN_GRAIN) : IN_GRAIN))
  const kind = (['write', 'write', 'write', 'zero', 'trim'] as const)[random(5)]!
  const value = kind === 'write' ? teller.next() : 0
  const bytes = (end - start) * SECTOR
  const widened = teller.changed(volume, start, end, () => value)
  await teller.do(`${kind} ${volume.name} ${start}-${end} ${value}`, [teller.with(volume, widened)], async () => {
    if (kind === 'write') await volume.write(start * SECTOR, bytes, contentOf(value, bytes), 0)
    else if (kind === 'zero') await volume.zero(start * SECTOR, bytes, { allocate: false, fast: false })
    else await volume.trim(start * SECTOR, bytes)
    // A trim is a hint: whole grains at most. And what finds no room may be there in part.
  }, () => teller.foundNow(volume, widened))
}

async function flush(teller: Teller, volume: StoreVolume): Promise<void> {
  await teller.do(`flush ${volume.name}`, [teller.with(volume, durable(teller.live(volume)))], async () => { await volume.flush() })
}

function someKind(random: Random): Point['kind'] { return random(3) === 0 ? 'bookmark' : 'snapshot' }

async function point(teller: Teller, volume: StoreVolume): Promise<void> {
  const live = teller.live(volume)
  if (live.points.size >= POINTS_MAX) return
  const [name, kind] = [`p${teller.next()}`, someKind(teller.random)]
  // By the same record.
  const [labels, pins] = teller.random(3) > 0 ? [{}, {}] : [{ kMade: name }, { op1: null }]
  const made = withPoint(durable(live), name, pointOf(kind, live.now, { labels, pins }))
  await teller.do(`${kind} ${volume.name}@${name}`, [teller.with(volume, made)],
    () => volume.points.create({ name, kind, labels, pins: Object.keys(pins).map(owner => ({ owner, expiresAt: null })) }))
}

/** Of one instant, all or none. */
async function pointOfAll(teller: Teller): Promise<void> {
  const { world } = teller
  if ([...world.volumes.values()].some(({ points }) => points.size >= POINTS_MAX)) return
  const [name, kind] = [`g${teller.next()}`, someKind(teller.random)]
  const made = (live: Live): Live => withPoint(durable(live), name, pointOf(kind, live.now, { group: name }))
  const after = { ...world, volumes: new Map([...world.volumes].map(([volume, live]) => [volume, made(live)])) }
  const wanted = teller.names.map(volume => ({ volume, name, kind }))
  await teller.do(`${kind} ${name} of all`, [after], () => teller.store.createPointsTogether(wanted))
}

/** A volume with content, or none. */
async function fill(teller: Teller): Promise<void> {
  if (teller.world.volumes.size >= VOLUMES_MAX) return
  const [value, sectors] = [teller.next(), someSectors(teller.random)]
  const [name, bytes] = [`f${value}`, sectors * SECTOR]
  const after = withVolume(teller.world, name, freshVolume(Array<number>(sectors).fill(value)))
  await teller.do(`fill ${name}`, [after], () => teller.store.fillVolume({ name, sizeBytes: bytes, grainBytes: GRAIN }, async volume => {
    await volume.write(0, bytes, contentOf(value, bytes), 0)
  }))
}

async function deletePoint(teller: Teller, volume: StoreVolume): Promise<void> {
  const name = teller.somePoint(volume)
  if (name === undefined) return
  const after = teller.with(volume, withoutPoint(teller.live(volume), name))
  const isGone = await teller.do(`delete ${volume.name}@${name}`, [after], () => volume.points.delete(name))
  // What cannot be merged while disks fail is not waited for.
  if (isGone && teller.random(2) === 0) await Promise.race([volume.points.settled().catch(() => undefined), sleep(WAITS_MS)])
}

async function resize(teller: Teller, volume: StoreVolume): Promise<void> {
  const live = teller.live(volume)
  const count = someSectors(teller.random)
  const resized = <T>(all: readonly T[], zero: T): T[] => Array.from({ length: count }, (_, sector) => all[sector] ?? zero)
  const after = { ...live, sectors: resized(live.sectors, new Set([0])), now: resized(live.now, 0) }
  await teller.do(`resize ${volume.name} ${count}`, [teller.with(volume, after)], () => teller.store.resizeVolume(volume.name, count * SECTOR))
}

async function clone(teller: Teller, volume: StoreVolume): Promise<void> {
  const from = teller.somePoint(volume, ['snapshot'])
  if (from === undefined || teller.world.volumes.size >= VOLUMES_MAX) return
  const name = `c${teller.next()}`
  const after = withVolume(teller.world, name, freshVolume(teller.live(volume).points.get(from)!.content))
  await teller.do(`clone ${volume.name}@${from} ${name}`, [after], () => teller.store.cloneVolume({ name, from: { volume: volume.name, point: from } }))
}

async function promote(teller: Teller, volume: StoreVolume): Promise<void> {
  await teller.do(`promote ${volume.name}`, [teller.world], async () => {
    const { finished } = await teller.store.promoteVolume(volume.name)
    finished.catch(() => undefined)
    if (teller.random(2) === 0) await Promise.race([finished, sleep(WAITS_MS)])
  })
}

async function deleteVolume(teller: Teller, { name }: StoreVolume): Promise<void> {
  await teller.do(`delete ${name}`, [withoutVolume(teller.world, name)], () => teller.store.deleteVolume(name))
}

async function reopenVolume(teller: Teller, volume: StoreVolume): Promise<void> {
  await teller.do(`reopen ${volume.name}`, [teller.with(volume, durable(teller.live(volume)))], () => teller.store.reopenVolume(volume.name))
}

async function reopen(teller: Teller): Promise<void> {
  await teller.do('close', [flushed(teller.world)], () => teller.store.close())
  await teller.open(teller.world)
}
