/**
 * What one run of staged-storm.test.ts stands on: a machine with a volume on it, its model, and requests in flight.
 *
 * The size of the volume is in a catalog, as in a store.
 */
import { NbdeltaError } from '../../src/device/errors.js'
import { type ManualClock, MemoryDisk, type Random } from '../../src/device/testing.js'
import { type Catalog, CATALOG_MAGIC, type CatalogEntry, openCatalog } from '../../src/store/catalog.js'
import { formatRecordLog } from '../../src/store/open-record-log.js'
import type { Inheritance, SpaceRule } from '../../src/store/point-entry.js'
import type { PointTable } from '../../src/store/point-table.js'
import { NO_BUDGET } from '../../src/volume/space.js'
import type { VolumeCore } from '../../src/volume/core.js'
import type { InheritStore } from '../../src/volume/inherit-store.js'
import { openVolumeParts } from '../../src/volume/open-volume.js'
import type { PointStore, StagedPlace } from '../../src/volume/point-store.js'
import type { RestoreOptions, SourceVolume } from '../../src/volume/restore.js'
import { OpenStoreVolume } from '../../src/volume/store-volume.js'
import type { VolumeParts } from '../../src/volume/volume.js'
import { freshFolders, freshTable, openPoints, openTable, type PointDisks, pointsOf } from '../crash/points-store.js'
import { type Disks, freshDisks, GRAIN, SMALL_JOURNAL_BYTES, UUID } from './lab.js'
import { type Ending, type Machine, partOf, type Refusing } from './storm-disks.js'
import { Ground, Wrong } from './storm-ground.js'
import { type Allowed, Model, SECTOR, valuesOf } from './storm-model.js'
import { type Source, StormSource } from './storm-source.js'

export const IN_GRAIN = GRAIN / SECTOR
export const GRAINS_MAX = 12
export const SECTORS = GRAINS_MAX * IN_GRAIN
export const GRAINS_FIRST = 8
/** Numbers there are for points. */
export const POINTS_EVER = 60
const CATALOG_BYTES = 64 * 1024
export const CATALOG_OWNER = Buffer.alloc(16, 7)
/** Of these a client's flush is made. */
const FLUSHED = ['live', 'journal', 'staged']
export const PARTS = ['live', 'map', 'journal', 'folders', 'maps', 'preserved', 'staged', 'layers']

export { Wrong }

type Hooks = Pick<RestoreOptions, 'whenHeld' | 'atInstant'>
/** Who a volume of several on one machine is. */
interface Place {
  readonly ground: Ground
  readonly name: string
  /** Its disks' names begin with that. */
  readonly prefix: string
  /** Somebody's own, which it adopts. */
  readonly file: string | undefined
}

export class Lab {
  readonly ground: Ground
  readonly name: string
  uuid: string
  readonly file: string | undefined
  readonly model = new Model(SECTORS, GRAINS_FIRST * IN_GRAIN)
  volume!: OpenStoreVolume
  catalog!: Catalog
  points!: PointStore
  /** Of what is in memory only: for the books. */
  core!: VolumeCore
  readonly #elsewhere = new StormSource(SECTORS)
  /** Another volume that it is restored from. */
  source: Source = this.#elsewhere
  /** As this process sees it. */
  sourceVolume!: SourceVolume
  isClone = false
  /** Bytes. */
  sizeMax = SECTORS * SECTOR
  /** An import has it for itself. */
  isTaken = false
  /** Before anybody is let in. */
  onOpened: () => Promise<void> = async () => undefined
  /** Of what its points keep. */
  space: SpaceRule = NO_BUDGET
  /** Of the restore that is on its way, where nobody can give it any. */
  hooks: Hooks = {}
  /** Of this run. */
  hasBudget = false
  #freeFromBytes = Infinity
  /** Those in force since the last quiet moment. */
  rules: SpaceRule[] = [NO_BUDGET]
  /** Of these one is in force after a crash. */
  spaces: SpaceRule[] = [NO_BUDGET]
  /** Grains that may be kept and promised, beside a running merge; undefined: not known, for something was in flight when it changed. */
  #ceiling: number | undefined
  /** Grains kept when all was at rest, until something is asked for. */
  #keptAtRest: number | undefined
  /** Of its disks, where others have theirs. */
  readonly #prefix: string

  /** @param place it is one of several on this machine; by default it has one of its own */
  constructor(seed: number, place?: Place) {
    this.ground = place?.ground ?? new Ground(seed)
    this.name = place?.name ?? 'v'
    this.uuid = place ? '' : UUID
    this.file = place?.file
    this.#prefix = place?.prefix ?? ''
    this.ground.onLost.push(name => {
      const part = FLUSHED.find(other => this.disk(other) === name)
      if (part) this.model.lost(part === 'live')
    })
  }

  get random(): Random { return this.ground.random }
  get machine(): Machine { return this.ground.machine }
  get clock(): ManualClock { return this.ground.clock }
  get counts(): Map<string, number> { return this.ground.counts }
  get trace(): string[] { return this.ground.trace }
  get serial(): number { return this.ground.serial }
  get isCrowded(): boolean { return this.ground.isCrowded }
  log(text: string): void { this.ground.log(text) }
  count(what: string): void { this.ground.count(what) }
  lives(): () => boolean { return this.ground.lives() }
  rethrow(): void { this.ground.rethrow() }
  landed(): Promise<void> { return this.ground.landed() }
  calmed(): Promise<void> { return this.ground.calmed() }
  answered<T>(what: string, work: Promise<T>): Promise<T> { return this.ground.answered(what, work) }
  restart(ending: Ending): void { this.ground.restart(ending) }

  /** Name of a disk of its own. */
  disk(part: string): string { return (part === 'live' && this.file ? `${this.file}.` : this.#prefix) + part }

  #entryOf(sizeBytes: number): CatalogEntry {
    const { uuid, name } = this
    return { uuid, name, sizeBytes, grainBytes: GRAIN, backing: null, createdAt: '2026-01-01T00:00:00.000Z', description: '' }
  }

  async start(): Promise<void> {
    this.isClone = this.random(6) === 0
    await this.#lay({ table: await freshTable(), catalog: await freshCatalog([this.#entryOf(GRAINS_FIRST * GRAIN)]) })
    this.machine.refusing = refusals(this.random, [...PARTS.slice(0, 3), 'table', 'catalog', ...PARTS.slice(3), 'elsewhere'])
    this.choose()
    await this.open()
  }

  async #lay(tables: Record<'table' | 'catalog', MemoryDisk>): Promise<void> {
    const { random, machine } = this
    const sizeBytes = GRAINS_FIRST * GRAIN
    const allData = random(2) === 0 && !this.isClone
    const fresh = await freshDisks({ sizeBytes, allData, journalBytes: [1, 4][random(2)] * SMALL_JOURNAL_BYTES, uuid: this.uuid })
    const staged = new MemoryDisk(8192 + 2 * [24, 64, 256, 1024][random(4)] * 1024)
    const all = { ...fresh, ...tables, ...freshFolders(POINTS_EVER + 4), staged, elsewhere: this.#elsewhere.disk }
    if (this.isClone) await this.#makeClone(all as unknown as PointDisks & { readonly elsewhere: MemoryDisk })
    if (random(4) === 0) makeBlock(all.live as MemoryDisk, sizeBytes)
    for (const [part, disk] of Object.entries(all)) machine.add(this.disk(part), disk as MemoryDisk)
    if (all.live.sizeBytes > sizeBytes) machine.disks.get(this.disk('live'))!.kind = 'block'
  }

  /** What is of this run. */
  choose(): void {
    const { random } = this
    this.#freeFromBytes = [Infinity, 1, 20_000][random(3)]
    this.hasBudget = random(3) === 0
    if (this.hasBudget) this.space = someRule(random)
    this.rules = this.spaces = [this.space]
  }

  /** As volumes.ts does it. */
  async #makeClone(disks: PointDisks & { readonly elsewhere: MemoryDisk }): Promise<void> {
    const name = this.#elsewhere.names[0]
    const source = { volume: this.#elsewhere.uuid, point: this.#elsewhere.pointOf(name).uuid }
    const isMine = (): boolean => true
    await this.#elsewhere.volume(disks.elsewhere, isMine).points.pin(name, { owner: 'clone v', expiresAt: null })
    await this.#inheritFrom((await openPoints(disks)).inherit, source, this.#elsewhere.valuesOf(name))
  }

  async #inheritFrom(store: InheritStore, source: Inheritance['source'], values: readonly number[]): Promise<void> {
    await store.make('clone', GRAINS_FIRST, true)
    await store.put([], { kind: 'clone', source, undo: null })
    this.model.found(values, true)
  }

  /** What a failed flush of a first try has lost the model is told. */
  open(): Promise<void> { return this.ground.opened(() => this.#open(), isCut => this.model.crashed(isCut)) }

  async #open(): Promise<void> {
    const { disks } = this.machine
    const { catalog } = await openCatalog(disks.get('catalog')!, CATALOG_OWNER, 'catalog')
    await this.#openOn(catalog, await openTable(disks.get('table')!))
    const sourceVolume = this.sourceVolume = this.#elsewhere.volume(disks.get('elsewhere')!, this.lives())
    for (const name of this.#elsewhere.attach(this.volume.inheritor, sourceVolume)) throw new Wrong(`${name} is inherited from, and not pinned`)
    await this.onOpened()
  }

  get #disks(): PointDisks & Disks {
    return Object.fromEntries(PARTS.map(part => [part, this.machine.disks.get(this.disk(part))])) as unknown as PointDisks & Disks
  }

  async #openOn(catalog: Catalog, table: PointTable): Promise<void> {
    const entry = catalog.get(this.name)!
    const { uuid, name, clock, space } = this
    const { live, map, journal } = this.#disks
    const stores = pointsOf(this.uuid, table, this.#disks)
    const parts = await this.openParts({ uuid, name, sizeBytes: entry.sizeBytes, grainBytes: GRAIN, live, map, journal, clock, space, ...stores })
    this.has(new OpenStoreVolume(parts, entry), catalog)
  }

  /** As its process has it from now on. */
  async openParts(options: Parameters<typeof openVolumeParts>[0]): Promise<VolumeParts> {
    const points = options.points!
    const staged = points.staged!.bind(points)
    points.staged = async (create: boolean): Promise<StagedPlace | undefined> => ({ ...(await staged(create))!, freeFromBytes: this.#freeFromBytes })
    const parts = await openVolumeParts(options)
    this.core = parts.core
    this.points = points
    const { inheritor } = parts
    const begin = inheritor.begin.bind(inheritor)
    inheritor.begin = (options, source) => begin({ ...this.hooks, ...options }, source)
    return parts
  }

  has(volume: OpenStoreVolume, catalog: Catalog): void {
    Object.assign(this, { volume, catalog })
    this.hooks = {}
    this.#limit()
  }

  /** @param commit is told how the new size becomes durable */
  resize(to: number, commit: (put: () => Promise<void>) => Promise<void>): Promise<void> {
    const { volume, catalog, volume: { sizeBytes: from } } = this
    return volume.resize(to, async () => {
      try {
        await commit(() => catalog.put(this.#entryOf(to)))
      } catch (error) {
        // As volumes.ts does it.
        if (to < from && catalog.inDoubt) volume.refuseChanges(new NbdeltaError('flush-failed', 'which size it has is not known'))
        throw error
      }
    })
  }

  /** At once, and for good. */
  putSpace: (rule: SpaceRule) => Promise<void> = async rule => { this.volume.setSpace(rule) }

  setSpace(rule: SpaceRule): void {
    this.fly(`set the budget to ${wordsOf(rule)}`, () => this.#askSpace(rule), () => { this.#inForce(rule) })
  }

  async haveSpace(rule: SpaceRule): Promise<void> {
    await this.#askSpace(rule)
    this.#inForce(rule)
  }

  async #askSpace(rule: SpaceRule): Promise<void> {
    const isMine = this.lives()
    this.rules.push(rule)
    this.spaces.push(rule)
    this.#ceiling = undefined
    try {
      await this.putSpace(rule)
    } catch (error) {
      if (isMine() && !this.points.inDoubt) this.spaces = this.spaces.filter(other => other !== rule)
      throw error
    }
  }

  #inForce(rule: SpaceRule): void {
    this.log(`the budget is ${wordsOf(rule)}`)
    this.space = rule
    this.rules.push(rule)
    this.spaces = this.spaces.slice(this.spaces.indexOf(rule))
    // What is in flight may be beyond asking.
    if (!this.ground.isIdle || this.volume.inheriting) this.#ceiling = undefined
    else this.#limit()
  }

  /** After it was opened. */
  foundSpace({ budgetBytes, order }: SpaceRule): void {
    const rule = this.spaces.find(one => one.budgetBytes === budgetBytes && one.order === order)
    if (!rule) throw new Wrong(`${this.name}: the budget is ${budgetBytes}, then ${order}, and was ${this.spaces.map(wordsOf).join(', or ')}`)
    this.space = rule
    this.spaces = [rule]
    this.#limit()
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

  /** What is staged finds its place by itself. */
  async moved(): Promise<void> {
    const { staging } = this.core
    await this.ground.until(() => !staging || staging.idle, () => { throw new Wrong('what is staged is not moved') })
  }

  /** Something is asked for, or given up. */
  stirred(): void { this.#keptAtRest = undefined }

  /** A request, and what its answer means. */
  fly(...[what, ...rest]: Parameters<Ground['fly']>): void {
    this.stirred()
    this.ground.fly(this.#prefix ? `${this.name}: ${what}` : what, ...rest)
  }

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

function wordsOf({ budgetBytes, order }: SpaceRule): string { return `${budgetBytes === null ? 'nothing' : budgetBytes / GRAIN}, then ${order}` }

export function sectors(offset: number, length: number, value: number): Map<number, number> {
  return new Map(Array.from({ length: length / SECTOR }, (_, i) => [offset / SECTOR + i, value]))
}

export function place(offset: number, length: number): string { return `${offset / GRAIN}+${length / GRAIN}` }

export async function freshCatalog(entries: readonly CatalogEntry[]): Promise<MemoryDisk> {
  const disk = new MemoryDisk(CATALOG_BYTES)
  await formatRecordLog(disk, { magic: CATALOG_MAGIC, owner: CATALOG_OWNER, name: 'catalog' })
  const { catalog } = await openCatalog(disk, CATALOG_OWNER, 'catalog')
  for (const entry of entries) await catalog.put(entry)
  return disk
}

/** Behind the volume lies what somebody else has left there. */
export function makeBlock(live: MemoryDisk, sizeBytes: number): void {
  live.setSize(GRAINS_MAX * GRAIN)
  const rest = live.sizeBytes - sizeBytes
  if (rest > 0) live.write(sizeBytes, rest, Buffer.alloc(rest, 0xfb), 0)
}

/** A run in which nothing is refused, one in which writes to the staging log are, or reads, or whatever else. */
export function refusals(random: Random, names: readonly string[]): Map<string, Refusing> {
  const kind = random(5)
  const some = (odds: number): string[] => names.filter(() => random(odds) === 0)
  const one = (odds: readonly number[]): number => odds[random(odds.length)]
  if (kind === 0) return new Map()
  if (kind === 1) return new Map(names.filter(name => partOf(name) === 'staged').map(name => [name, { reads: 0, writes: one([3, 8, 30]), flushes: 0 }]))
  if (kind === 2) return new Map(some(2).map(name => [name, { reads: one([3, 8, 30]), writes: 0, flushes: 0 }]))
  return new Map(some([3, 8][random(2)]).map(name => {
    return [name, { reads: one([0, 0, 5, 20, 60]), writes: one([0, 5, 20, 60, 200]), flushes: one([0, 0, 10, 40, 120]) }]
  }))
}
