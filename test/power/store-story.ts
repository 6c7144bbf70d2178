/**
 * A story of one store, as its operator lives it: volumes made and deleted, written to, flushed, resized, with snapshots and
 * bookmarks, restores and clones, one thing after the other, each noted when it begins and when it is done. And what must be found
 * when the power has failed at some moment of it: what was answered is there (D1, D3, D4, D6), and what was under way has happened
 * or not.
 *
 * Sectors of live have any of the values that they had since the last flush; snapshots exactly what was there.
 */
import { join } from 'node:path'
import { NbdeltaError } from '../../src/device/errors.js'
import type { Random } from '../../src/device/testing.js'
import { openStore, type Store } from '../../src/volume/open-store.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { contentOf, SECTOR } from '../volume/storm-model.js'
import type { Ending } from './folder-states.js'
import type { Tale } from './lives.js'
import type { RecordedFolder } from './recorded-folder.js'
import { contentsOf, durable, exactly, found, problemOfSectors, problemOfSnapshot, type Sectors } from './sectors.js'

const GRAIN = 4096
const IN_GRAIN = GRAIN / SECTOR
const GRAINS_MAX = 12
const VOLUMES_MAX = 3
const POINTS_MAX = 4
/** Of what goes on by itself. */
const PAUSES_MS = [0, 0, 2, 15, 60]

interface Point { readonly kind: 'snapshot' | 'bookmark', readonly content: readonly number[] }
interface Live extends Sectors { readonly points: ReadonlyMap<string, Point> }
/** All there is, by names of volumes; undefined: no store yet. */
type World = ReadonlyMap<string, Live> | undefined
interface StoryNote { readonly text: string, readonly worlds: readonly World[] }

const STEPS = 20

export const storeTale: Tale<NonNullable<World>, StoryNote> = {
  tell: (folder, random, recorded, world, serial) => new Story(join(folder, 'store'), random, recorded, world, serial).run(STEPS),
  judge: async (folder, notes, ending) => {
    const { text, worlds } = notes.at(-1) ?? { text: 'before anything', worlds: [undefined] }
    const verdict = await judged(join(folder, 'store'), worlds, ending)
    return typeof verdict === 'string' ? `${text}: ${verdict}` : verdict
  },
}

class Story {
  readonly #random: Random
  readonly #path: string
  readonly #recorded: RecordedFolder
  #world: World
  #store!: Store
  #serial = 0

  /** @param world what is there; @param serial of names: none was given out from there on */
  constructor(path: string, random: Random, recorded: RecordedFolder, world: World, serial: number) {
    this.#path = path
    this.#random = random
    this.#recorded = recorded
    this.#world = world
    this.#serial = serial
  }

  async run(steps: number): Promise<void> {
    await this.#do('open the store', this.#world ?? new Map(), async () => { this.#store = await openStore({ path: this.#path, create: true }) })
    for (let i = 0; i < steps; i++) {
      await this.#step()
      await new Promise<void>(resolve => { setTimeout(resolve, PAUSES_MS[this.#random(PAUSES_MS.length)]) })
    }
    await this.#do('close', flushed(this.#world!), () => this.#store.close())
  }

  /** What is refused has changed nothing. @param look what it has become, where that is known only then */
  async #do(text: string, after: World, work: () => Promise<unknown>, look?: () => Promise<World>): Promise<boolean> {
    this.#note(text, [this.#world, after])
    try {
      await work()
      this.#world = await look?.() ?? after
      return true
    } catch (error) {
      if (!(error instanceof NbdeltaError) || !['busy', 'wrong-state', 'bad-argument'].includes(error.code)) throw error
      return false
    } finally {
      this.#note(`${text}: over`, [this.#world])
    }
  }

  #note(text: string, worlds: readonly World[]): void { this.#recorded.note({ text, worlds } satisfies StoryNote) }

  async #step(): Promise<void> {
    const random = this.#random
    const names = [...this.#world!.keys()]
    if (names.length === 0) return this.#createVolume()
    const volume = this.#store.get(names[random(names.length)]!)!
    const roll = random(28)
    if (roll < 8) await this.#write(volume)
    else if (roll < 10) await this.#flush(volume)
    else if (roll < 13) await this.#point(volume)
    else if (roll < 15) await this.#deletePoint(volume)
    else if (roll < 17) await this.#restore(volume)
    else if (roll < 18) await this.#resize(volume)
    else if (roll < 20) await this.#clone(volume)
    else if (roll < 21) await this.#promote(volume)
    else if (roll < 22) await this.#createVolume()
    else if (roll < 23) await this.#deleteVolume(volume)
    else if (roll < 25) await this.#pointOfAll()
    else if (roll < 26) await this.#fill()
    else if (roll < 27) await this.#do(`reopen ${volume.name}`, this.#with(volume.name, durable(this.#live(volume))), () => this.#store.reopenVolume(volume.name))
    else await this.#reopen()
  }

  async #createVolume(): Promise<void> {
    if (this.#world!.size >= VOLUMES_MAX) return
    const grains = 2 + this.#random(GRAINS_MAX - 1)
    const name = `v${++this.#serial}`
    const now = Array<number>(grains * IN_GRAIN).fill(0)
    const made = this.#with(name, { sectors: exactly(now), now, points: new Map() })
    await this.#do(`create ${name}`, made, () => this.#store.createVolume({ name, sizeBytes: grains * GRAIN, grainBytes: GRAIN }))
  }

  async #write(volume: StoreVolume): Promise<void> {
    const random = this.#random
    const live = this.#live(volume)
    const count = live.now.length
    const start = random(2) === 0 ? random(count) : random(count / IN_GRAIN) * IN_GRAIN
    const end = Math.min(count, start + (random(2) === 0 ? 1 + random(3 * IN_GRAIN) : IN_GRAIN))
    const kind = (['write', 'write', 'write', 'zero', 'trim'] as const)[random(5)]!
    const value = kind === 'write' ? ++this.#serial : 0
    const bytes = (end - start) * SECTOR
    const within = (sector: number): boolean => sector >= start && sector < end
    const widened = {
      ...live, sectors: live.sectors.map((values, sector) => within(sector) ? new Set([...values, value]) : values),
      now: live.now.map((before, sector) => within(sector) ? value : before),
    }
    await this.#do(`${kind} ${volume.name} ${start}-${end} ${value}`, this.#with(volume.name, widened), async () => {
      if (kind === 'write') await volume.write(start * SECTOR, bytes, contentOf(value, bytes), 0)
      else if (kind === 'zero') await volume.zero(start * SECTOR, bytes, { allocate: false, fast: false })
      else await volume.trim(start * SECTOR, bytes)
      // A trim is a hint: whole grains at most.
    }, async () => kind === 'trim' ? this.#with(volume.name, { ...widened, now: await contentsOf(volume) }) : this.#with(volume.name, widened))
  }

  async #flush(volume: StoreVolume): Promise<void> {
    await this.#do(`flush ${volume.name}`, this.#with(volume.name, durable(this.#live(volume))), async () => { await volume.flush() })
  }

  async #point(volume: StoreVolume): Promise<void> {
    const live = this.#live(volume)
    if (live.points.size >= POINTS_MAX) return
    const name = `p${++this.#serial}`
    const kind: Point['kind'] = this.#random(3) === 0 ? 'bookmark' : 'snapshot'
    const points = new Map([...live.points, [name, { kind, content: live.now }]])
    await this.#do(`${kind} ${volume.name}@${name}`, this.#with(volume.name, { ...durable(live), points }), () => volume.points.create({ name, kind }))
  }

  /** Of one instant, all or none. */
  async #pointOfAll(): Promise<void> {
    if ([...this.#world!.values()].some(({ points }) => points.size >= POINTS_MAX)) return
    const name = `g${++this.#serial}`
    const kind: Point['kind'] = this.#random(3) === 0 ? 'bookmark' : 'snapshot'
    const after = new Map([...this.#world!].map(([volume, live]) => {
      return [volume, { ...durable(live), points: new Map([...live.points, [name, { kind, content: live.now }]]) }]
    }))
    const wanted = [...after.keys()].map(volume => ({ volume, name, kind }))
    await this.#do(`${kind} ${name} of all`, after, () => this.#store.createPointsTogether(wanted))
  }

  /** A volume with content, or none. */
  async #fill(): Promise<void> {
    if (this.#world!.size >= VOLUMES_MAX) return
    const name = `f${++this.#serial}`
    const bytes = (2 + this.#random(GRAINS_MAX - 1)) * GRAIN
    const value = this.#serial
    const now = Array<number>(bytes / SECTOR).fill(value)
    const after = this.#with(name, { sectors: exactly(now), now, points: new Map() })
    await this.#do(`fill ${name}`, after, () => this.#store.fillVolume({ name, sizeBytes: bytes, grainBytes: GRAIN }, async volume => {
      await volume.write(0, bytes, contentOf(value, bytes), 0)
    }))
  }

  #somePoint(volume: StoreVolume, kinds: readonly Point['kind'][]): string | undefined {
    const names = [...this.#live(volume).points].filter(([, { kind }]) => kinds.includes(kind)).map(([name]) => name)
    return names[this.#random(names.length)]
  }

  async #deletePoint(volume: StoreVolume): Promise<void> {
    const name = this.#somePoint(volume, ['snapshot', 'bookmark'])
    if (name === undefined) return
    const live = this.#live(volume)
    const points = new Map([...live.points].filter(([other]) => other !== name))
    await this.#do(`delete ${volume.name}@${name}`, this.#with(volume.name, { ...live, points }), () => volume.points.delete(name))
    if (this.#random(2) === 0) await volume.points.settled()
  }

  async #restore(volume: StoreVolume): Promise<void> {
    const from = this.#somePoint(volume, ['snapshot'])
    const live = this.#live(volume)
    if (from === undefined || live.points.size >= POINTS_MAX) return
    const { content } = live.points.get(from)!
    const now = live.now.map((value, sector) => content[sector] ?? value)
    // Nothing differs, perhaps, and then there is no undo point: whoever looks takes what is found.
    const undo = `undo-${from}-${[1, 2, 3, 4, 5, 6].find(n => !live.points.has(`undo-${from}-${n}`))}`
    const points = new Map([...live.points, [undo, { kind: 'snapshot' as const, content: live.now }]])
    const after = this.#with(volume.name, { sectors: exactly(now), now, points })
    const text = `restore ${volume.name}@${from}`
    this.#note(text, [this.#world, after])
    const { finished } = await volume.restore({ from, ...this.#random(2) === 0 ? { bytesPerSecond: 20 * GRAIN } : {} })
    finished.catch(() => undefined)
    if (volume.points.get(undo)) this.#world = after
    this.#note(`${text}: over`, [this.#world])
    if (this.#random(2) === 0) await finished
  }

  async #resize(volume: StoreVolume): Promise<void> {
    const live = this.#live(volume)
    const count = (2 + this.#random(GRAINS_MAX - 1)) * IN_GRAIN
    const resized = <T>(all: readonly T[], zero: T): T[] => Array.from({ length: count }, (_, sector) => all[sector] ?? zero)
    const after = { ...live, sectors: resized(live.sectors, new Set([0])), now: resized(live.now, 0) }
    await this.#do(`resize ${volume.name} ${count}`, this.#with(volume.name, after), () => this.#store.resizeVolume(volume.name, count * SECTOR))
  }

  async #clone(volume: StoreVolume): Promise<void> {
    const from = this.#somePoint(volume, ['snapshot'])
    if (from === undefined || this.#world!.size >= VOLUMES_MAX) return
    const name = `c${++this.#serial}`
    const now = this.#live(volume).points.get(from)!.content
    const after = this.#with(name, { sectors: exactly(now), now, points: new Map() })
    await this.#do(`clone ${volume.name}@${from} ${name}`, after, () => this.#store.cloneVolume({ name, from: { volume: volume.name, point: from } }))
  }

  async #promote(volume: StoreVolume): Promise<void> {
    await this.#do(`promote ${volume.name}`, this.#world, async () => {
      const { finished } = await this.#store.promoteVolume(volume.name)
      finished.catch(() => undefined)
      if (this.#random(2) === 0) await finished
    })
  }

  async #deleteVolume(volume: StoreVolume): Promise<void> {
    const after = new Map([...this.#world!].filter(([name]) => name !== volume.name))
    await this.#do(`delete ${volume.name}`, after, () => this.#store.deleteVolume(volume.name))
  }

  async #reopen(): Promise<void> {
    await this.#do('close', flushed(this.#world!), () => this.#store.close())
    await this.#do('open', this.#world, async () => { this.#store = await openStore({ path: this.#path }) })
  }

  #live({ name }: StoreVolume): Live { return this.#world!.get(name)! }
  #with(name: string, live: Live): World { return new Map([...this.#world!, [name, live]]) }
}

/** What they are behind a kill, which loses nothing: a sector is what it was in one of them. */
function afterKill(worlds: readonly World[]): World[] {
  const known = worlds.filter(world => world !== undefined)
  return worlds.map(world => world && new Map([...world].map(([name, live]) => {
    const others = known.map(other => other.get(name)?.now).filter(now => now?.length === live.now.length)
    return [name, { ...live, sectors: live.now.map((_, sector) => new Set(others.map(now => now![sector]!))) }]
  })))
}

/**
 * Which of these worlds a store is that was opened anew, with the content that it has; a text: what is wrong with it, for it is none.
 */
async function judged(path: string, worlds: readonly World[], ending: Ending): Promise<{ readonly world: World } | string> {
  let store: Store
  try {
    store = await openStore({ path })
  } catch (error) {
    const isNone = error instanceof NbdeltaError && error.code === 'not-found' && worlds.includes(undefined)
    return isNone ? { world: undefined } : `it does not open: ${String(error)}`
  }
  try {
    const problems: string[] = []
    for (const [i, world] of (ending === 'cut' ? worlds : afterKill(worlds)).entries()) {
      const problem = world && await problemOf(store, world)
      if (world && problem === undefined) return { world: await foundIn(store, worlds[i]!, ending === 'cut') }
      problems.push(problem ?? 'there is a store')
    }
    return problems.join('; or ')
  } finally {
    await store.close()
  }
}

/** @param isDurable all that is there is */
async function foundIn(store: Store, world: NonNullable<World>, isDurable: boolean): Promise<World> {
  const volumes = new Map<string, Live>()
  for (const [name, live] of world) {
    volumes.set(name, found(live, await contentsOf(store.get(name)!), isDurable))
  }
  return volumes
}

async function problemOf(store: Store, world: NonNullable<World>): Promise<string | undefined> {
  const [listed, expected] = [store.list().map(({ name }) => name).sort().join(), [...world.keys()].sort().join()]
  if (listed !== expected) return `volumes ${listed}, not ${expected}`
  for (const [name, live] of world) {
    const problem = await problemOfVolume(store.get(name)!, live)
    if (problem !== undefined) return `${name}: ${problem}`
  }
  return undefined
}

async function problemOfVolume(volume: StoreVolume, live: Live): Promise<string | undefined> {
  if (volume.problem) return `it cannot be opened: ${volume.problem.message}`
  if (volume.sizeBytes !== live.now.length * SECTOR) return `${volume.sizeBytes / SECTOR} sectors, not ${live.now.length}`
  const now = await contentsOf(volume)
  const problem = problemOfSectors(now, live)
  if (problem !== undefined) return problem
  const [listed, expected] = [volume.points.list().map(({ name }) => name).sort().join(), [...live.points.keys()].sort().join()]
  if (listed !== expected) return `points ${listed}, not ${expected}`
  for (const [name, { kind, content }] of live.points) {
    const runs = volume.points.changedRuns(name)
    const isMarked = (sector: number): boolean => runs.some(({ start, end }) => start <= sector / IN_GRAIN && sector / IN_GRAIN < end)
    const missing = now.findIndex((value, sector) => value !== (content[sector] ?? 0) && !isMarked(sector))
    if (missing >= 0) return `since ${name} sector ${missing} was ${content[missing]}, is ${now[missing]}, and is not marked`
    if (kind === 'bookmark') continue
    const lost = await problemOfSnapshot(volume, name, content)
    if (lost !== undefined) return lost
  }
  return undefined
}

function flushed(world: NonNullable<World>): World { return new Map([...world].map(([name, live]) => [name, durable(live)])) }
