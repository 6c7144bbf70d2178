/**
 * What one run of staged-storm.test.ts stands on: a machine with a volume on it, its model, and requests in flight.
 *
 * The size of the volume is in a catalog, as in a store.
 */
import { NbdeltaError } from '../../src/device/errors.js'
import { ManualClock, MemoryDisk, type Random, seededRandom } from '../../src/device/testing.js'
import { type Catalog, CATALOG_MAGIC, type CatalogEntry, openCatalog } from '../../src/store/catalog.js'
import { formatRecordLog } from '../../src/store/open-record-log.js'
import type { SpaceRule } from '../../src/store/point-entry.js'
import { NO_BUDGET } from '../../src/volume/space.js'
import type { VolumeCore } from '../../src/volume/core.js'
import { openVolumeParts } from '../../src/volume/open-volume.js'
import type { PointStore, StagedPlace } from '../../src/volume/point-store.js'
import type { SourceVolume } from '../../src/volume/restore.js'
import { Volume } from '../../src/volume/volume.js'
import { freshFolders, freshTable, openPoints, type PointDisks } from '../crash/points-store.js'
import { type Disks, freshDisks, GRAIN, SMALL_JOURNAL_BYTES, UUID } from './lab.js'
import { type Ending, Machine, type Refusing, type StormDisk } from './storm-disks.js'
import { type Allowed, Model, SECTOR, valuesOf } from './storm-model.js'
import { StormSource } from './storm-source.js'

export const IN_GRAIN = GRAIN / SECTOR
export const GRAINS_MAX = 12
export const SECTORS = GRAINS_MAX * IN_GRAIN
const GRAINS_FIRST = 8
/** Numbers there are for points. */
export const POINTS_EVER = 60
const FLIGHTS_MAX = 14
/** Within these everything in flight is answered. */
const TURNS_MAX = 4000
/** Nothing takes longer on a disk; what it belongs to may need some more requests before it fails. */
const TURNS_OF_A_REQUEST = 26
const REQUESTS_OF_A_FAILURE = 5
const CODES = ['no-space', 'io', 'busy', 'not-found', 'wrong-state', 'cancelled', 'flush-failed']
const CATALOG_BYTES = 64 * 1024
const OWNER = Buffer.alloc(16, 7)
/** Of these a client's flush is made. */
const FLUSHED = ['live', 'journal', 'staged']
const DISKS = ['live', 'map', 'journal', 'table', 'catalog', 'folders', 'maps', 'preserved', 'staged', 'layers', 'elsewhere']

export class Wrong extends Error {}

export class Lab {
  readonly random: Random
  readonly model = new Model(SECTORS, GRAINS_FIRST * IN_GRAIN)
  readonly counts = new Map<string, number>()
  readonly trace: string[] = []
  machine: Machine
  clock = new ManualClock()
  volume!: Volume
  catalog!: Catalog
  points!: PointStore
  /** Of what is in memory only: for the books. */
  core!: VolumeCore
  readonly source = new StormSource(SECTORS)
  /** As this process sees it. */
  sourceVolume!: SourceVolume
  isClone = false
  /** Of what its points keep. */
  space: SpaceRule = NO_BUDGET
  /** Of this run. */
  hasBudget = false
  #freeFromBytes = Infinity
  /** Those in force since the last quiet moment. */
  rules: SpaceRule[] = [NO_BUDGET]
  /** Grains that may be kept and promised, beside a running merge; undefined: not known, for something was in flight when it changed. */
  #ceiling: number | undefined
  /** Grains kept when all was at rest, until something is asked for. */
  #keptAtRest: number | undefined
  /** What the machine is at: for the counts. */
  phase = 'running'
  /** Of a crash: answers of an earlier process do not count. */
  #life = 0
  #flights = new Set<string>()
  #serial = 0
  #failure: unknown

  constructor(readonly seed: number) {
    this.random = seededRandom(seed)
    this.machine = new Machine(this.random)
    this.machine.onRefused = (kind, name) => this.count(`${kind} of ${name} refused: ${this.phase}`)
    this.machine.onLost = name => {
      this.log(`a flush of ${name} fails`)
      if (FLUSHED.includes(name)) this.model.lost(name === 'live')
    }
  }

  async start(): Promise<void> {
    const { random } = this
    const sizeBytes = GRAINS_FIRST * GRAIN
    this.isClone = random(6) === 0
    const allData = random(2) === 0 && !this.isClone
    const fresh = await freshDisks({ sizeBytes, allData, journalBytes: [1, 4][random(2)] * SMALL_JOURNAL_BYTES })
    const staged = new MemoryDisk(8192 + 2 * [24, 64, 256, 1024][random(4)] * 1024)
    const all = { ...fresh, table: await freshTable(), catalog: await freshCatalog(sizeBytes), ...freshFolders(POINTS_EVER + 4), staged, elsewhere: this.source.disk }
    if (this.isClone) await this.#makeClone(all)
    if (random(4) === 0) makeBlock(all.live as MemoryDisk, sizeBytes)
    for (const [name, disk] of Object.entries(all)) this.machine.add(name, disk as MemoryDisk)
    if (all.live.sizeBytes > sizeBytes) this.machine.disks.get('live')!.kind = 'block'
    this.machine.refusing = refusals(random)
    this.#freeFromBytes = [Infinity, 1, 20_000][random(3)]
    this.hasBudget = random(3) === 0
    if (this.hasBudget) this.space = someRule(random)
    this.rules = [this.space]
    await this.open()
  }

  /** As volumes.ts does it. */
  async #makeClone(disks: PointDisks & { readonly elsewhere: MemoryDisk }): Promise<void> {
    const name = this.source.names[0]
    const source = { volume: this.source.uuid, point: this.source.pointOf(name).uuid }
    const isMine = (): boolean => true
    await this.source.volume(disks.elsewhere, isMine).points.pin(name, { owner: 'clone v', expiresAt: null })
    const { inherit } = await openPoints(disks)
    await inherit.make('clone', GRAINS_FIRST, true)
    await inherit.put([], { kind: 'clone', source, undo: null })
    this.model.found(this.source.valuesOf(name), true)
  }

  get serial(): number { return ++this.#serial }
  log(text: string): void { if (process.env.TRACE) this.trace.push(`${this.machine.turnCount}: ${text}`) }
  count(what: string): void { this.counts.set(what, (this.counts.get(what) ?? 0) + 1) }

  async open(): Promise<void> {
    this.machine.fuse = Infinity
    this.phase = 'opening'
    try {
      await this.answered('open', this.#open())
    } catch (error) {
      if (this.machine.calm || !(error instanceof NbdeltaError)) throw error
      this.log(`open fails: ${String(error)}`)
      this.count('open refused')
      this.restart('killed')
      // What a failed flush of that open has lost.
      this.model.crashed(false)
      await this.answered('open again', this.#open())
    }
    this.phase = 'running'
  }

  async #open(): Promise<void> {
    const disks = Object.fromEntries(this.machine.disks) as Record<string, StormDisk>
    this.clock = new ManualClock()
    const { catalog } = await openCatalog(disks.catalog, OWNER, 'catalog')
    const { sizeBytes } = catalog.list()[0]
    const stores = await openPoints(disks as unknown as PointDisks)
    const { live, map, journal } = disks as unknown as Disks
    const { clock, space } = this
    const staged = stores.points.staged.bind(stores.points)
    const points = Object.assign(stores.points, {
      staged: async (create: boolean): Promise<StagedPlace | undefined> => ({ ...(await staged(create))!, freeFromBytes: this.#freeFromBytes }),
    })
    const parts = await openVolumeParts({ uuid: UUID, sizeBytes, grainBytes: GRAIN, live, map, journal, clock, space, ...stores, points })
    const sourceVolume = this.source.volume(disks.elsewhere, this.lives())
    Object.assign(this, { catalog, volume: new Volume(parts), points, core: parts.core, sourceVolume })
    for (const name of this.source.attach(this.volume.inheritor, sourceVolume)) throw new Wrong(`${name} is inherited from, and not pinned`)
    this.#limit()
  }

  setSpace(rule: SpaceRule): void {
    this.log(`the budget is ${rule.budgetBytes === null ? 'nothing' : rule.budgetBytes / GRAIN}, then ${rule.order}`)
    this.space = rule
    this.rules.push(rule)
    this.volume.setSpace(rule)
    // What is in flight may be beyond asking.
    if (this.#flights.size > 0 || this.volume.inheriting) this.#ceiling = undefined
    else this.#limit()
  }

  #limit(): void {
    const { budgetBytes } = this.space
    this.#ceiling = budgetBytes === null ? undefined : Math.max(Math.floor(budgetBytes / GRAIN), this.kept)
  }

  /** Grains kept and promised. */
  get kept(): number { return this.volume.space.keptBytes / GRAIN }

  /** What is kept and promised (S8); `atRest`: nothing is in flight, being merged or staged. */
  judgeBooks(what: string, atRest: boolean): void {
    const { usage, points } = this.core.chain
    const counted = points.reduce((sum, { bytes }) => sum + bytes.count(), 0)
    if (usage.kept !== counted) throw new Wrong(`${what}: ${usage.kept} grains count as kept, and there are ${counted}`)
    const isMerging = points.some(({ state }) => state === 'deleting')
    if (this.#ceiling !== undefined && !isMerging && this.kept > this.#ceiling) {
      throw new Wrong(`${what}: ${usage.kept} grains are kept and ${usage.promised} promised, of ${this.#ceiling}`)
    }
    if (!atRest || isMerging || this.volume.inheriting) return
    if (usage.promised > 0) throw new Wrong(`${what}: ${usage.promised} grains are promised to nobody`)
    if (this.#keptAtRest !== undefined && this.#keptAtRest !== usage.kept) throw new Wrong(`${what}: ${usage.kept} grains are kept, and were ${this.#keptAtRest}`)
    this.#keptAtRest = usage.kept
    this.rules = [this.space]
    if (this.#ceiling === undefined) this.#limit()
  }

  /** A change of this grain was refused for want of room in the budget, and there is none. */
  isOverBudget(error: unknown, grain: number): boolean {
    const { budgetBytes } = this.space
    const needed = this.core.space.needs(grain, grain + 1).reduce((sum, { start, end }) => sum + end - start, 0)
    return isBudgetRefusal(error) && budgetBytes !== null && (this.kept + Math.max(1, needed)) * GRAIN > budgetBytes
  }

  /** Another process is to open what this one leaves. Nothing is refused at first. */
  restart(ending: Ending): void {
    this.machine.dead = true
    this.#life++
    this.#flights.clear()
    this.machine = this.machine.restarted(ending)
  }

  /** Turns and time pass until it is answered. */
  async answered<T>(what: string, work: Promise<T>): Promise<T> {
    let over = false
    const done = work.finally(() => { over = true })
    done.catch(() => undefined)
    for (let turns = 0; !over; turns++) {
      if (turns > TURNS_MAX) throw new Wrong(`${what} hangs`)
      if (this.machine.dead) throw new Wrong(`${what}: died`)
      await this.machine.turn()
      if (turns % 8 === 7) await this.clock.advance(50)
    }
    return done
  }

  /** Everything in flight is answered, or the machine dies. */
  async landed(): Promise<void> {
    for (let turns = 0; this.#flights.size > 0 && !this.machine.dead; turns++) {
      if (turns > TURNS_MAX) throw new Wrong(`hangs: ${[...this.#flights].join(', ')}`)
      await this.machine.turn()
      if (turns % 8 === 7) await this.clock.advance(50)
      this.rethrow()
    }
  }

  /** What is staged finds its place by itself. */
  async moved(): Promise<void> {
    const { staging } = this.core
    for (let turns = 0; staging && !staging.idle; turns++) {
      if (turns > TURNS_MAX) throw new Wrong('what is staged is not moved')
      await this.machine.turn()
      if (turns % 8 === 7) await this.clock.advance(50)
    }
  }

  /** Nothing is refused any more, not even what is on its way. */
  async calmed(): Promise<void> {
    this.machine.calm = true
    for (let turns = 0; turns < REQUESTS_OF_A_FAILURE * TURNS_OF_A_REQUEST; turns++) await this.machine.turn()
  }

  rethrow(): void { if (this.#failure !== undefined) throw this.#failure }

  /** Whether `this.machine` still runs what was begun now. */
  lives(): () => boolean {
    const { machine } = this
    return () => machine === this.machine && !machine.dead
  }

  /** A request, and what its answer means. */
  fly(what: string, begin: () => unknown, done: () => void, failed: (error: unknown) => void = () => undefined, codes: readonly string[] = []): void {
    const name = `${what} #${this.serial}`
    this.#keptAtRest = undefined
    const life = this.#life
    this.#flights.add(name)
    this.log(`${name} begins`)
    const over = (end: () => void, how: string): void => {
      if (life !== this.#life || this.machine.dead) return
      this.log(`${name} ${how}`)
      this.#flights.delete(name)
      try {
        end()
      } catch (error) { this.#failure ??= error }
    }
    const refused = (error: unknown): void => over(() => {
      failed(error)
      if (error instanceof NbdeltaError && [...CODES, ...codes].includes(error.code)) return this.count(`${what} ${error.code}`)
      throw error
    }, `fails: ${String(error)}`)
    try {
      const pending = begin()
      if (pending instanceof Promise) pending.then(() => over(done, 'is done'), refused)
      else over(done, 'is done at once')
    } catch (error) { refused(error) }
  }

  get isCrowded(): boolean { return this.#flights.size >= FLIGHTS_MAX }

  judge(what: string, values: readonly number[], allowed: Allowed): void {
    for (const [sector, value] of values.entries()) {
      if (allowed[sector].has(value)) continue
      throw new Wrong(`${what}: sector ${sector} of grain ${Math.floor(sector / IN_GRAIN)} is ${value}, not one of ${[...allowed[sector]].join(' ')}; ${this.model.tell(sector)}`)
    }
  }

  /** What the volume holds, with nothing in flight. */
  async contents(what: string): Promise<number[]> {
    const into = Buffer.alloc(this.volume.sizeBytes)
    await this.answered(what, (async () => { await this.volume.read(0, into.length, into, 0) })())
    const values = valuesOf(into, SECTORS)
    this.judge(what, values, this.model.allowed())
    return values
  }
}

/** Nothing was done: there is no room for what has to be kept (space.ts). */
export function isBudgetRefusal(error: unknown): boolean {
  return error instanceof NbdeltaError && error.code === 'no-space' && error.hint === 'raise the budget, or delete snapshots'
}

/** A budget of so many grains, or not quite. */
export function someRule(random: Random): SpaceRule {
  const grains = random(21)
  const budgetBytes = random(4) === 0 ? null : Math.max(0, grains * GRAIN - [0, 0, SECTOR][random(3)])
  return { budgetBytes, order: random(3) === 0 ? 'fail' : 'drop-undo-then-fail' }
}

export function sectors(offset: number, length: number, value: number): Map<number, number> {
  return new Map(Array.from({ length: length / SECTOR }, (_, i) => [offset / SECTOR + i, value]))
}

export function place(offset: number, length: number): string { return `${offset / GRAIN}+${length / GRAIN}` }

export function entryOf(sizeBytes: number): CatalogEntry {
  return { uuid: UUID, name: 'v', sizeBytes, grainBytes: GRAIN, backing: null, createdAt: '2026-01-01T00:00:00.000Z', description: '' }
}

async function freshCatalog(sizeBytes: number): Promise<MemoryDisk> {
  const disk = new MemoryDisk(CATALOG_BYTES)
  await formatRecordLog(disk, { magic: CATALOG_MAGIC, owner: OWNER, name: 'catalog' })
  const { catalog } = await openCatalog(disk, OWNER, 'catalog')
  await catalog.put(entryOf(sizeBytes))
  return disk
}

/** Behind the volume lies what somebody else has left there. */
function makeBlock(live: MemoryDisk, sizeBytes: number): void {
  live.setSize(GRAINS_MAX * GRAIN)
  const rest = live.sizeBytes - sizeBytes
  live.write(sizeBytes, rest, Buffer.alloc(rest, 0xfb), 0)
}

/** A run in which nothing is refused, one in which writes to the staging log are, or reads, or whatever else. */
function refusals(random: Random): Map<string, Refusing> {
  const kind = random(5)
  const some = (odds: number): string[] => DISKS.filter(() => random(odds) === 0)
  const one = (odds: readonly number[]): number => odds[random(odds.length)]
  if (kind === 0) return new Map()
  if (kind === 1) return new Map([['staged', { reads: 0, writes: one([3, 8, 30]), flushes: 0 }]])
  if (kind === 2) return new Map(some(2).map(name => [name, { reads: one([3, 8, 30]), writes: 0, flushes: 0 }]))
  return new Map(some([3, 8][random(2)]).map(name => {
    return [name, { reads: one([0, 0, 5, 20, 60]), writes: one([0, 5, 20, 60, 200]), flushes: one([0, 0, 10, 40, 120]) }]
  }))
}

