/**
 * A story of a mirror, to a volume of the same store or to a peer's: writes, snapshots, restores, cycles, splits, resyncs and reversals.
 * The power may fail at both stores, or at one alone. Then the source is what it was, the target shows a whole point of it, not older
 * than what was told to be declared (S1, S2), a split pair is split, what was done on a target is kept before it is overwritten (S5),
 * and one more cycle makes both equal, whichever marks had been lost (D4, S3).
 */
import fs from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { NbdeltaError } from '../../src/device/errors.js'
import { syncFolder } from '../../src/device/sync-folder.js'
import type { Random } from '../../src/device/testing.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { contentOf, SECTOR } from '../volume/storm-model.js'
import { type Left, leftOf } from './folder-states.js'
import type { Tale } from './lives.js'
import { Sites } from './mirror-sites.js'
import type { Change, Recorded, RecordedFolder } from './recorded-folder.js'
import { contentAt, contentsOf, durable, exactly, found, problemOfSectors, problemOfSnapshot, type Sectors } from './sectors.js'

const GRAIN = 4096
const GRAINS = 10
const SECTORS = GRAINS * GRAIN / SECTOR
const POINTS_MAX = 3
const STEPS = 18
const PAUSES_MS = [0, 0, 2, 15]

/** `base`: what it was at the split; `isOwn`: somebody has written to it. */
interface Apart extends Sectors { readonly base: readonly number[], readonly isOwn: boolean }
interface Pair {
  readonly source: Sectors
  readonly points: ReadonlyMap<string, readonly number[]>
  readonly phase: 'none' | 'paired' | 'split'
  readonly isStreaming: boolean
  /** All that the source has been; the target is none of before `declared`. */
  readonly views: readonly (readonly number[])[]
  readonly declared: number | undefined
  /** Of a split target. */
  readonly apart: Apart | undefined
  /** What somebody had done on the target, and a resync is to keep. */
  readonly kept: Apart | undefined
  /** A split was cut short: the peer has let go already, and the mirror is to be split again. */
  readonly isReleased?: boolean
}
interface PairNote { readonly text: string, readonly worlds: readonly Pair[] }

export const mirrorTale: Tale<Pair, PairNote> = {
  tell: (folder, random, recorded, world, serial) => new MirrorStory(folder, random, recorded, world, serial).run(STEPS),
  recover: async (folder, random) => {
    const sites = await Sites.open(folder).catch(() => undefined)
    sites?.start()
    await sleep(random(30))
    await sites?.close()
  },
  judge: async (folder, notes, ending, random, { spared }) => {
    const last = notes.at(-1)
    if (!last) return { world: undefined }
    const isCut = (place: string): boolean => ending === 'cut' && place !== spared
    const verdict = await judged(folder, last.worlds, isCut, random).catch((error: Error) => String(error.stack))
    return typeof verdict === 'string' ? `${last.text}: ${verdict}` : verdict
  },
  left: (history, position, ending, random) => {
    return ending === 'cut' && random(2) === 0 ? leftOfOne(history, position, random(2) === 0 ? 'a' : 'b', random) : leftOf(history, position, ending, random)
  },
}

/** The power fails at one of the two; the other one is killed. */
function leftOfOne(history: readonly Recorded[], position: number, hit: string, random: Random): Left {
  const isHit = new Map<number, boolean>()
  const isOf = (change: Change): boolean | undefined => {
    if (change.what === 'note') return undefined
    if (change.what === 'make') isHit.set(change.id, change.within === 0 ? change.name === hit : isHit.get(change.within)!)
    const id = 'file' in change ? change.file : change.id
    return isHit.get(id)
  }
  const whose = new Map(history.map(one => [one, isOf(one.change)]))
  const cut = leftOf(history.filter(one => whose.get(one) !== false), position, 'cut', random)
  const killed = leftOf(history.filter(one => whose.get(one) !== true), position, 'killed', random)
  return {
    paths: new Map([...cut.paths, ...killed.paths]), folders: new Set([...cut.folders, ...killed.folders]),
    links: new Map([...cut.links, ...killed.links]), position: cut.position, story: `${cut.story}, at ${hit} alone`,
    spared: hit === 'a' ? 'b' : 'a',
    history: [...cut.history, ...killed.history].sort((one, other) => one.begun - other.begun),
  }
}

class MirrorStory {
  readonly #random: Random
  readonly #folder: string
  readonly #recorded: RecordedFolder
  #world: Pair
  #sites!: Sites
  #serial: number

  constructor(folder: string, random: Random, recorded: RecordedFolder, world: Pair | undefined, serial: number) {
    this.#random = random
    this.#folder = folder
    this.#recorded = recorded
    // What ends before anything is done has to be that.
    if (world) recorded.note({ text: 'begin', worlds: [world] } satisfies PairNote)
    const now = Array<number>(SECTORS).fill(0)
    this.#world = world ?? {
      source: { now, sectors: exactly(now) }, points: new Map(), phase: 'none', isStreaming: random(3) === 0, views: [now], declared: undefined,
      apart: undefined, kept: undefined,
    }
    this.#serial = serial
  }

  async run(steps: number): Promise<void> {
    for (const place of ['a', 'b']) await fs.promises.mkdir(join(this.#folder, place), { recursive: true })
    await syncFolder(this.#folder)
    this.#sites = await Sites.open(this.#folder)
    if (!this.#sites.a.get('v')) await this.#sites.a.createVolume({ name: 'v', sizeBytes: SECTORS * SECTOR, grainBytes: GRAIN })
    this.#sites.start()
    if (this.#world.isReleased) await this.#splitAgain()
    for (let i = 0; i < steps; i++) {
      await this.#step()
      await new Promise<void>(resolve => { setTimeout(resolve, PAUSES_MS[this.#random(PAUSES_MS.length)]) })
    }
    await this.#do('close', [this.#world], () => this.#sites.close())
  }

  async #do(text: string, worlds: readonly Pair[], work: () => Promise<unknown>): Promise<void> {
    this.#recorded.note({ text, worlds: [this.#world, ...worlds] } satisfies PairNote)
    try {
      await work()
      this.#world = worlds.at(-1)!
    } catch (error) {
      // A snapshot that a restore or the mirror has pinned is not deleted: nothing has changed.
      if (!(error instanceof NbdeltaError) || error.code !== 'busy') throw error
    }
    this.#recorded.note({ text: `${text}: over`, worlds: [this.#world] } satisfies PairNote)
  }

  get #source(): StoreVolume { return this.#sites.a.get('v')! }

  async #step(): Promise<void> {
    const { phase } = this.#world
    const roll = this.#random(20)
    if (roll < 7) await this.#write()
    else if (roll < 8) await this.#do('flush', [{ ...this.#world, source: durable(this.#world.source) }], async () => { await this.#source.flush() })
    else if (roll < 10) await this.#snapshot()
    else if (roll < 12) await this.#restore()
    else if (phase === 'none') await this.#create()
    else if (phase === 'paired') await (roll < 17 ? this.#sync() : this.#split())
    else if (roll < 17) await this.#writeApart()
    else await (roll < 19 ? this.#resync() : this.#reverse())
  }

  /** A write or zeros, somewhere. */
  #wish(side: Sectors): { readonly after: Sectors, run(volume: StoreVolume): Promise<void> } {
    const random = this.#random
    const start = random(2) === 0 ? random(SECTORS) : random(GRAINS) * 8
    const end = Math.min(SECTORS, start + (random(2) === 0 ? 1 + random(24) : 8))
    const value = random(4) === 0 ? 0 : ++this.#serial
    const [isIn, bytes] = [(sector: number) => sector >= start && sector < end, (end - start) * SECTOR]
    return {
      after: {
        now: side.now.map((before, sector) => isIn(sector) ? value : before),
        sectors: side.sectors.map((values, sector) => isIn(sector) ? new Set([...values, value]) : values),
      },
      run: async volume => {
        if (value === 0) await volume.zero(start * SECTOR, bytes, { allocate: false, fast: false })
        else await volume.write(start * SECTOR, bytes, contentOf(value, bytes), 0)
      },
    }
  }

  async #write(): Promise<void> {
    const { after, run } = this.#wish(this.#world.source)
    await this.#do('write', [{ ...this.#world, source: after, views: [...this.#world.views, after.now] }], () => run(this.#source))
  }

  async #snapshot(): Promise<void> {
    const { points, source } = this.#world
    if (points.size >= POINTS_MAX) {
      const [name] = [...points.keys()]
      const rest = new Map([...points].slice(1))
      return this.#do(`delete ${name}`, [{ ...this.#world, points: rest }], () => this.#source.points.delete(name!))
    }
    const name = `p${++this.#serial}`
    await this.#do(`snapshot ${name}`, [{ ...this.#world, source: durable(source), points: new Map([...points, [name, source.now]]) }],
      () => this.#source.points.create({ name, kind: 'snapshot' }))
  }

  async #restore(): Promise<void> {
    const { points, source, views } = this.#world
    const [name, now] = [...points][this.#random(points.size)] ?? []
    if (name === undefined || !now) return
    const widened = source.sectors.map((values, sector) => new Set([...values, now[sector]!]))
    await this.#do(`restore ${name}`, [{ ...this.#world, source: { now, sectors: widened }, views: [...views, now] }], async () => {
      const { finished } = await this.#source.restore({ from: name, ...this.#random(2) === 0 ? { bytesPerSecond: 20 * GRAIN } : {} })
      finished.catch(() => undefined)
    })
  }

  async #create(): Promise<void> {
    const target = this.#random(2) === 0 ? { target: 'w' } : { target: 'nbdelta://b/x', secretFile: '/none' }
    await this.#do(`mirror to ${target.target}`, [{ ...this.#world, phase: 'paired' }], () => this.#sites.mirrors.create({
      name: 'm', volume: 'v', ...target, intervalSeconds: 3600, lagBytes: null, bytesPerSecond: null, overwrite: false,
      mode: this.#world.isStreaming ? 'async' : 'periodic',
    }))
  }

  get #declaredNow(): Pair { return { ...this.#world, declared: this.#world.views.length - 1, source: durable(this.#world.source), kept: undefined } }

  async #sync(): Promise<void> {
    await this.#do('sync', [this.#declaredNow], () => this.#sites.mirrors.get('m').sync())
  }

  async #split(): Promise<void> {
    const { now } = this.#world.source
    // A first copy, or a resync, has to be complete.
    if (this.#sites.mirrors.get('m').state.phase !== 'paired') return
    await this.#do('split', [{ ...this.#declaredNow, phase: 'split', apart: apartAt(now) }],
      () => this.#sites.mirrors.get('m').split({ atOnce: false }))
  }

  async #splitAgain(): Promise<void> {
    const now = await contentsOf(this.#sites.target().volume)
    await this.#do('split again', [{ ...this.#world, phase: 'split', isReleased: false, apart: apartAt(now) }],
      () => this.#sites.mirrors.get('m').split({ atOnce: true }))
  }

  async #writeApart(): Promise<void> {
    const { apart } = this.#world
    const { volume } = this.#sites.target()
    if (this.#random(4) === 0) return this.#do('flush the target', [{ ...this.#world, apart: durable(apart!) }], async () => { await volume.flush() })
    const { after, run } = this.#wish(apart!)
    await this.#do('write to the target', [{ ...this.#world, apart: { ...apart!, ...after, isOwn: true } }], () => run(volume))
  }

  async #resync(): Promise<void> {
    const { apart } = this.#world
    await this.#do('resync', [{ ...this.#world, phase: 'paired', apart: undefined, kept: apart!.isOwn ? apart : undefined }],
      () => this.#sites.mirrors.get('m').beginResync({ whole: false }))
  }

  async #reverse(): Promise<void> {
    const { apart, views } = this.#world
    const { now } = apart!
    const restored = { ...this.#world, source: { now, sectors: exactly(now) }, views: [...views, now], apart: durable(apart!) }
    const after = { ...restored, phase: 'paired' as const, apart: undefined, kept: undefined, declared: views.length }
    await this.#do('reverse', [restored, after], async () => {
      const { finished } = await this.#sites.mirrors.together(['m']).reverse()
      finished.catch(() => undefined)
    })
  }
}

type IsCut = (place: string) => boolean

async function judged(folder: string, worlds: readonly Pair[], isCut: IsCut, random: Random): Promise<{ readonly world: Pair } | string> {
  const sites = await Sites.open(folder)
  try {
    const problems: string[] = []
    for (const world of worlds) {
      const source = isCut('a') ? world.source : { ...world.source, sectors: afterKill(worlds) }
      const problem = await problemOf(sites, { ...world, source })
      if (problem !== undefined) {
        problems.push(problem)
        continue
      }
      const seen = await foundIn(sites, world, isCut)
      return await problemLater(sites, seen, random) ?? { world: seen }
    }
    return problems.join('; or ')
  } finally {
    await sites.close()
  }
}

/** A kill loses nothing: a sector of the source is what it was in one of them. */
function afterKill(worlds: readonly Pair[]): ReadonlySet<number>[] {
  return worlds[0]!.source.now.map((_, sector) => new Set(worlds.map(({ source }) => source.now[sector]!)))
}

async function foundIn(sites: Sites, world: Pair, isCut: IsCut): Promise<Pair> {
  const source = found(world.source, await contentsOf(sites.a.get('v')!), isCut('a'))
  const apart = world.apart && found(world.apart, await contentsOf(sites.target().volume), isCut(sites.isFar ? 'b' : 'a'))
  return { ...world, source, apart, views: [...world.views, source.now], isReleased: sites.isReleased }
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
  const record = sites.a.mirrors.find(({ name }) => name === 'm')
  const phase = record ? (record.state as unknown as { phase: string }).phase === 'split' ? 'split' : 'paired' : 'none'
  return phase === world.phase ? undefined : `it is ${phase}, not ${world.phase}`
}

async function problemOfSide(what: string, volume: StoreVolume, side: Sectors): Promise<string | undefined> {
  if (volume.problem) return `${what} cannot be opened: ${volume.problem.message}`
  const problem = problemOfSectors(await contentsOf(volume), side)
  return problem === undefined ? undefined : `${what}: ${problem}`
}

async function shownDiffers(volume: StoreVolume, name: string, content: readonly number[]): Promise<boolean> {
  return (await contentAt(volume, name)).some((value, sector) => value !== content[sector])
}

/** What it shows, and what becomes of it. */
async function problemLater(sites: Sites, world: Pair, random: Random): Promise<string | undefined> {
  sites.start()
  if (world.phase === 'none') return undefined
  const mirror = sites.mirrors.get('m')
  if (world.isReleased) {
    await mirror.split({ atOnce: true })
    const now = await contentsOf(sites.target().volume)
    return isOne(now, world) ? undefined : 'what was let go is no declared point'
  }
  if (world.phase === 'paired') {
    const problem = await problemOfShown(sites, world)
    if (problem !== undefined) return problem
  } else {
    await mirror.inTurn(undefined, turn => turn.release(), false)
    const problem = await problemOfSide('target', sites.target().volume, world.apart!)
    if (problem !== undefined) return problem
    if (random(2) === 0) await mirror.beginResync({ whole: false })
    else await (await sites.mirrors.together(['m']).reverse()).finished
  }
  const isReversed = mirror.state.phase === 'paired' && world.phase === 'split'
  const expected = isReversed ? world.apart!.now : world.source.now
  await mirror.sync()
  const { volume, shown } = sites.target()
  if (!shown || await shownDiffers(volume, shown.name, expected)) return 'behind one more cycle the target is not what the source is'
  if ((await contentsOf(sites.a.get('v')!)).some((value, sector) => value !== expected[sector])) return 'the source has changed by itself'
  const kept = isReversed ? undefined : world.kept ?? (world.apart?.isOwn ? world.apart : undefined)
  return kept && !await hasKept(volume, kept) ? 'what was done on the target is not kept' : undefined
}

async function problemOfShown(sites: Sites, world: Pair): Promise<string | undefined> {
  const { volume, shown } = sites.target()
  if (!shown) return world.declared === undefined ? undefined : 'the target has no point'
  const content = await contentAt(volume, shown.name)
  return isOne(content, world) ? undefined : 'the target shows what the source never was, or what is older than it has declared'
}

/** What the source has been at some time, and not before what it has declared. */
function isOne(content: readonly number[], { views, declared, isStreaming }: Pair): boolean {
  const mayBe = views.slice(declared ?? 0)
  return isStreaming ? content.every((value, sector) => mayBe.some(view => view[sector] === value))
    : mayBe.some(view => view.every((value, sector) => content[sector] === value))
}

function apartAt(now: readonly number[]): Apart { return { now, sectors: exactly(now), base: now, isOwn: false } }

async function hasKept(volume: StoreVolume, { sectors, base }: Apart): Promise<boolean> {
  // Where nothing differs from what it was at, as when a write that no flush covers is lost, there is nothing to be kept.
  if (base.every((value, sector) => sectors[sector]!.has(value))) return true
  for (const { name, kind } of volume.points.list()) {
    if (kind !== 'snapshot') continue
    const content = await contentAt(volume, name).catch((error: unknown) => {
      if (!(error instanceof NbdeltaError)) throw error
      return undefined
    })
    if (content?.every((value, sector) => sectors[sector]!.has(value))) return true
  }
  return false
}
