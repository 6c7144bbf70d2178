/**
 * What one run of group-storm.test.ts stands on: a machine with the shipped volumes (src/volume/volumes.ts) on it, which come and go,
 * in a store whose disks are the machine's (storm-store.ts).
 *
 * Judged after each open: which volumes and groups there are, what is pinned for others, and the budgets.
 */
import { silentLogger } from '../../src/device/logger.js'
import type { Catalog, CatalogEntry } from '../../src/store/catalog.js'
import type { SpaceRule } from '../../src/store/point-entry.js'
import type { PointTable } from '../../src/store/point-table.js'
import type { StoreDirectory } from '../../src/store/store-directory.js'
import { judgeCreateVolume } from '../../src/volume/options.js'
import { NO_BUDGET } from '../../src/volume/space.js'
import { OpenStoreVolume } from '../../src/volume/store-volume.js'
import { Volumes } from '../../src/volume/volumes.js'
import { freshTable } from '../crash/points-store.js'
import { GRAIN } from './lab.js'
import type { Ending } from './storm-disks.js'
import { Ground, Wrong } from './storm-ground.js'
import { freshCatalog, GRAINS_FIRST, IN_GRAIN, Lab, PARTS, refusals, SECTORS } from './storm-lab.js'
import { GONE, SECTOR, valuesOf } from './storm-model.js'
import { dropDisks, ownFile, type Owners, StormStore } from './storm-store.js'
import { Storm } from './storm.js'

/** Of the group that the first volumes are in. */
export const GROUP = 'g'
export const NAMES = 'abcde'
/** Somebody's own. */
export const FILES = ['f0', 'f1'] as const
const FILE_GRAINS = [9, 6]
const FILE_TAIL = [0, 1]

/** What a new volume shows. */
interface Birth { readonly values: readonly number[], readonly isClone?: boolean, readonly file?: string }

export class Member {
  readonly lab: Lab
  readonly storm: Storm
  /** Its first budget. */
  readonly rule: SpaceRule
  /** `making`, `going`: it may be there, or not; `doubtful`: likewise, until the next open; `gone`: it never will. */
  state: 'making' | 'there' | 'going' | 'doubtful' | 'gone' = 'making'
  /** What becomes of it alone. */
  readonly steps: readonly (() => void)[]
  /** Of a resize that is on its way. */
  commit: ((put: () => Promise<void>) => Promise<void>) | undefined

  constructor(ground: Ground, name: string, prefix: string, { values, isClone = false, file }: Birth) {
    this.lab = new Lab(0, { ground, name, prefix, file })
    this.lab.model.found(values, true)
    this.lab.isClone = isClone
    if (file !== undefined) this.lab.sizeMax = values.filter(value => value !== GONE).length * SECTOR
    this.lab.choose()
    this.rule = this.lab.space
    this.lab.space = NO_BUDGET
    this.lab.rules = this.lab.spaces = [NO_BUDGET]
    this.storm = new Storm(this.lab)
    this.steps = this.storm.weighed()
  }

  get name(): string { return this.lab.name }
  get uuid(): string { return this.lab.uuid }
  get points(): Storm['points'] { return this.storm.points }

  /** Snapshots whose names nobody has after them, as another undo point may. */
  get lasting(): string[] { return this.points.snapshots.filter(name => !name.startsWith('undo-')) }

  /** It is restored from that one's snapshots next, its undo points among them. */
  aim(other: Member | undefined): void {
    const names = other?.points.snapshots ?? []
    this.lab.source = { names, valuesOf: name => name === undefined ? undefined : other!.points.contentOf(name) }
    if (other) this.lab.sourceVolume = other.lab.volume
  }
}

export class GroupLab implements Owners {
  readonly ground: Ground
  members: Member[] = []
  volumes!: Volumes
  store!: StormStore
  /** What groups there may be: each as its name and the uuids of its volumes. */
  groups = new Set<string>([''])
  /** What each file held when its last volume had gone; undefined: somebody has it, or its volume could not leave it in order. */
  readonly files = new Map<string, readonly number[] | undefined>()
  /** Told what the table says when it is opened, before anybody changes it. */
  onTable: (table: PointTable) => void = () => undefined
  #made = 0
  /** Messages of errors that were logged. */
  readonly errors: string[] = []

  constructor(seed: number) { this.ground = new Ground(seed) }

  async start(): Promise<void> {
    const { machine, random } = this.ground
    machine.add('table', await freshTable())
    machine.add('catalog', await freshCatalog([]))
    for (const [i, file] of FILES.entries()) {
      const disk = ownFile(random, FILE_GRAINS[i] * GRAIN + FILE_TAIL[i] * GRAIN / IN_GRAIN)
      this.ground.machine.add(`${file}.live`, disk)
      this.ground.machine.disks.get(`${file}.live`)!.kind = 'block'
      this.files.set(file, this.fileNow(file))
    }
    machine.refusing = refusals(random, ['table', 'catalog', ...[...NAMES].flatMap(name => PARTS.map(part => `${name}.${part}`))])
    await this.open()
    for (const name of NAMES.slice(0, random(3) === 0 ? 3 : 2)) await this.#first(name)
    const groups = `${GROUP} ${this.members.map(({ uuid }) => uuid).sort().join()}`
    await this.ground.answered('create the group', this.volumes.groups.create(GROUP, this.members.map(({ name }) => name)))
    this.groups = new Set([groups])
  }

  async #first(name: string): Promise<void> {
    const member = this.conceive(name, blank(GRAINS_FIRST * GRAIN))
    await this.ground.answered(`create ${name}`, this.volumes.create(judgeCreateVolume({ name, sizeBytes: GRAINS_FIRST * GRAIN })))
    this.born(member)
    await this.ground.landed()
  }

  /** A volume is about to be asked for. */
  conceive(name: string, birth: Birth): Member {
    const nth = this.#made++
    const prefix = `${name}${nth < NAMES.length ? '' : nth}.`
    const member = new Member(this.ground, name, prefix, birth)
    // It is refused what others of its name were.
    const { machine } = this.ground
    machine.refusing = new Map([...machine.refusing, ...PARTS.flatMap(part => {
      const refusing = machine.refusing.get(`${name}.${part}`)
      return refusing ? [[prefix + part, refusing] as const] : []
    })])
    const { lab } = member
    lab.putSpace = async space => { await this.volumes.setSpace(name, space) }
    lab.resize = (to, commit) => {
      member.commit = commit
      return this.volumes.resize(name, to).finally(() => { if (member.commit === commit) member.commit = undefined })
    }
    this.members.push(member)
    return member
  }

  /** It is there. */
  born(member: Member): void {
    member.state = 'there'
    this.has(member)
    if (member.rule.budgetBytes !== null) member.lab.setSpace(member.rule)
  }

  /** The volume of this process. False: it could not be opened, or there is none. */
  has({ lab }: Member): boolean {
    const volume = this.volumes.get(lab.name)
    if (!(volume instanceof OpenStoreVolume) || volume.uuid !== lab.uuid) return false
    if (volume !== lab.volume) lab.has(volume, this.store.catalog)
    return true
  }

  /** It never will be any more. */
  bury(member: Member): void {
    member.state = 'gone'
    this.members = this.members.filter(other => other !== member)
  }

  get there(): Member[] { return this.members.filter(({ state }) => state === 'there') }
  named(name: string): Member | undefined { return this.members.find(member => member.name === name) }
  of(uuid: string): Lab | undefined { return this.members.find(member => member.uuid === uuid)?.lab }

  made(entry: CatalogEntry): Lab {
    const { lab } = this.named(entry.name)!
    lab.uuid = entry.uuid
    return lab
  }

  /** Whoever had its answer at the last moment hears it. */
  async renewing(uuid: string): Promise<void> {
    const isMine = this.ground.lives()
    await new Promise<void>(resolve => { this.ground.machine.at(1, resolve) })
    if (isMine()) this.of(uuid)!.model.crashed(false)
  }

  putting(entry: CatalogEntry, put: () => Promise<void>): Promise<void> {
    const commit = this.members.find(({ uuid }) => uuid === entry.uuid)?.commit
    return commit ? commit(put) : put()
  }

  /** What a file holds. */
  fileNow(file: string): number[] {
    const disk = this.ground.machine.disks.get(`${file}.live`)!
    const into = Buffer.alloc(disk.sizeBytes)
    disk.peek(into)
    return valuesOf(into, SECTORS)
  }

  open(): Promise<void> {
    return this.ground.opened(() => this.#open(), isCut => { for (const { lab } of this.members) lab.model.crashed(isCut) })
  }

  async #open(): Promise<void> {
    const { machine } = this.ground
    let serial = 0
    this.store = await StormStore.open(machine, this, (catalog, table) => {
      this.#takeStock(catalog)
      this.onTable(table)
    })
    const logger = { ...silentLogger, error: (_: object, text: string) => { this.errors.push(text) } }
    this.volumes = new Volumes(this.store as unknown as StoreDirectory, this.ground.clock, logger, {
      openParts: options => this.members.find(({ uuid }) => uuid === options.uuid)!.lab.openParts(options),
      newUuid: () => `${(machine.random(2 ** 31) + 2 ** 31).toString(16).slice(-8)}-0000-4000-8000-${`${this.#made}${serial++}`.padStart(12, '0')}`,
    })
    await this.volumes.openAll()
    for (const { problem } of this.volumes.list()) if (problem) throw problem
    this.#takeStock(this.store.catalog)
    for (const member of this.members) {
      if (!this.has(member)) throw new Wrong(`${member.name} is in the catalog, and not there`)
    }
    this.#judgePins()
    this.#judgeGroups()
    this.#judgeFiles()
    for (const { lab, uuid } of this.members) {
      lab.foundSpace(this.store.points.state(uuid).space ?? NO_BUDGET)
      await lab.onOpened()
    }
  }

  /** Who is in the catalog. */
  #takeStock(catalog: Catalog): void {
    for (const { name, uuid } of catalog.list()) {
      if (this.named(name)?.uuid !== uuid) throw new Wrong(`volume ${name} ${uuid} is there`)
    }
    for (const member of [...this.members]) {
      if (member.uuid !== '' && catalog.has(member.uuid)) continue
      if (member.state === 'there') throw new Wrong(`volume ${member.name} is gone`)
      this.ground.log(`${member.name} is not there, was ${member.state}`)
      this.leftFile(member)
      this.bury(member)
      dropDisks(this.ground.machine, member.lab)
    }
  }

  /** Of a volume that has gone: what it showed is in the file that it adopted, if that did not fail. */
  leftFile({ lab }: Member): void {
    if (lab.file === undefined) return
    const isInOrder = !this.errors.some(text => text.includes('not all in its backing'))
    const now = this.fileNow(lab.file)
    // Behind the end of the volume lies what was there.
    const showed = lab.model.allowed().map((values, sector) => values.has(GONE) ? new Set([now[sector]]) : values)
    if (isInOrder) lab.judge(`the file of ${lab.name}, which is gone`, now, showed)
    this.files.set(lab.file, isInOrder ? now : undefined)
    this.ground.count(`a file was left ${isInOrder ? '' : 'not '}in order`)
  }

  /** Nobody has it, and it is known what it holds. */
  get freeFiles(): string[] {
    return FILES.filter(file => this.files.get(file) && this.members.every(({ lab }) => lab.file !== file))
  }

  #judgeFiles(): void {
    for (const file of this.freeFiles) {
      const [is, was] = [this.fileNow(file), this.files.get(file)!]
      const sector = is.findIndex((value, i) => value !== was[i])
      if (sector >= 0) throw new Wrong(`${file}: sector ${sector} is ${is[sector]}, and was ${was[sector]}`)
    }
  }

  /** After everything, and each open. */
  settled(): void {
    for (const member of this.members) member.state = 'there'
    const uuids = new Set(this.members.map(({ uuid }) => uuid))
    for (const uuid of this.store.points.volumes()) if (!uuids.has(uuid)) throw new Wrong(`the table knows of ${uuid}, which is no volume`)
  }

  /** As uuids. */
  groupsNow(): string { return this.store.points.groups().map(({ name, volumes }) => `${name} ${[...volumes].sort().join()}`).join('; ') }

  #judgeGroups(): void {
    const uuids = new Set(this.members.map(({ uuid }) => uuid))
    const left = (text: string): string => text.split('; ').map(group => {
      const [name, volumes] = group.split(' ')
      return volumes === undefined ? name : `${name} ${volumes.split(',').filter(uuid => uuids.has(uuid)).join()}`
    }).join('; ')
    const now = left(this.groupsNow())
    if (![...this.groups].some(groups => left(groups) === now)) throw new Wrong(`groups are [${now}], not one of [${[...this.groups].map(left).join('] [')}]`)
    this.groups = new Set([this.groupsNow()])
  }

  /** What a volume shows of another is there and pinned, and nothing else is pinned for it. */
  #judgePins(): void {
    const needed = this.members.flatMap(({ name, lab }) => lab.volume.inheritor.foreign.map(({ kind, point }) => `${point} ${kind} ${name}`))
    const pinned = this.members.flatMap(({ lab }) => lab.volume.points.list().flatMap(({ uuid, pins }) => {
      return pins.map(({ owner }) => owner).filter(owner => /^(clone|restore) /.test(owner)).map(owner => `${uuid} ${owner}`)
    }))
    if (needed.sort().join() !== pinned.sort().join()) throw new Wrong(`pinned are [${pinned.join(', ')}], needed [${needed.join(', ')}]`)
    if (needed.length > 0) this.ground.count('opened with pins')
  }

  close(): Promise<void> { return this.volumes.close() }

  restart(ending: Ending): void {
    this.ground.restart(ending)
    for (const member of this.members) {
      member.lab.model.crashed(ending === 'cut')
      member.commit = undefined
    }
  }
}

/** A volume that shows nothing. */
export function blank(sizeBytes: number): Birth {
  return { values: Array.from({ length: SECTORS }, (_, sector) => sector < sizeBytes / GRAIN * IN_GRAIN ? 0 : GONE) }
}
