/** What one run of group-storm.test.ts stands on: a machine with volumes on it, that share a table of points and a catalog. */
import { NbdeltaError } from '../../src/device/errors.js'
import { silentLogger } from '../../src/device/logger.js'
import { type Catalog, openCatalog } from '../../src/store/catalog.js'
import type { PointTable } from '../../src/store/point-table.js'
import { Groups } from '../../src/volume/groups.js'
import { Lineage } from '../../src/volume/lineage.js'
import type { OpenStoreVolume } from '../../src/volume/store-volume.js'
import { freshTable, openTable } from '../crash/points-store.js'
import type { Ending } from './storm-disks.js'
import { Ground, Wrong } from './storm-ground.js'
import { CATALOG_OWNER, freshCatalog, Lab, PARTS, refusals } from './storm-lab.js'
import { Storm } from './storm.js'

/** Of the group that all volumes are in. */
export const GROUP = 'g'

export class Member {
  readonly lab: Lab
  readonly storm: Storm

  constructor(ground: Ground, index: number) {
    const uuid = `00000000-0000-4000-8000-00000000000${index + 1}`
    this.lab = new Lab(0, { ground, name: 'abc'[index], uuid })
    this.storm = new Storm(this.lab)
  }

  get name(): string { return this.lab.name }
  get points(): Storm['points'] { return this.storm.points }

  /** Snapshots whose names nobody has after them, as another undo point may. */
  get lasting(): string[] { return this.points.snapshots.filter(name => !name.startsWith('undo-')) }

  /** It is restored from that one's snapshots next. */
  aim({ lab: { volume }, points, lasting: names }: Member): void {
    this.lab.source = { names, valuesOf: name => name === undefined ? undefined : points.contentOf(name) }
    this.lab.sourceVolume = volume
  }
}

export class GroupLab {
  readonly ground: Ground
  readonly members: readonly Member[]
  groups!: Groups
  #lineage!: Lineage
  #opened!: { readonly catalog: Catalog, readonly table: PointTable }
  /** Told what the table says when it is opened, before anybody changes it. */
  onTable: (table: PointTable) => void = () => undefined

  constructor(seed: number) {
    const ground = this.ground = new Ground(seed)
    this.members = Array.from({ length: ground.random(3) === 0 ? 3 : 2 }, (_, index) => new Member(ground, index))
    this.members[this.members.length - 1].lab.isClone = ground.random(4) === 0
  }

  async start(): Promise<void> {
    const { machine, random } = this.ground
    machine.add('table', await freshTable())
    machine.add('catalog', await freshCatalog(this.members.map(({ lab }) => lab.firstEntry)))
    for (const { lab } of this.members) await lab.lay()
    const own = this.members.flatMap(({ lab }) => PARTS.map(part => lab.disk(part)))
    machine.refusing = refusals(random, ['table', 'catalog', ...own])
    for (const { lab } of this.members) lab.choose()
    await this.open()
    const [source, heir] = [this.members[0], this.members[this.members.length - 1]]
    if (heir.lab.isClone) await this.#makeClone(heir, source)
    await this.ground.answered('create the group', this.groups.create(GROUP, this.members.map(({ name }) => name)))
  }

  /** As volumes.ts does it: of a snapshot of what was written to the other. */
  async #makeClone(heir: Member, { storm, points, lab }: Member): Promise<void> {
    const { ground } = this
    for (let i = 0; i < 5; i++) storm.write()
    await ground.landed()
    const { atInstant, done } = points.making('base', 'snapshot')
    const { uuid } = await ground.answered('create base', lab.volume.points.create({ name: 'base', kind: 'snapshot', atInstant }))
    done()
    points.lookAtNew()
    await ground.landed()
    await ground.answered('pin base', lab.volume.points.pin('base', { owner: `clone ${heir.name}`, expiresAt: null }))
    await ground.answered('close', this.close())
    this.restart('closed')
    const table = await ground.answered('open the table', openTable(ground.machine.disks.get('table')!))
    const inherits = heir.lab.inheritFrom(heir.lab.stores(table).inherit, { volume: lab.uuid, point: uuid }, points.contentOf('base')!)
    await ground.answered('make a clone', inherits)
    this.restart('closed')
    await this.open()
  }

  open(): Promise<void> {
    return this.ground.opened(() => this.#open(), isCut => { for (const { lab } of this.members) lab.model.crashed(isCut) })
  }

  /** As volumes.ts does it. */
  async #open(): Promise<void> {
    const { disks } = this.ground.machine
    const { catalog } = await openCatalog(disks.get('catalog')!, CATALOG_OWNER, 'catalog')
    const table = await openTable(disks.get('table')!)
    this.onTable(table)
    await Promise.all(this.members.map(({ lab }) => lab.openOn(catalog, table)))
    const all = (): OpenStoreVolume[] => this.members.map(({ lab }) => lab.volume)
    this.groups = new Groups(table, {
      usable: name => all().find(volume => volume.name === name)!, nameOf: uuid => all().find(volume => volume.uuid === uuid)?.name,
    })
    this.#lineage = new Lineage({ catalog, points: table }, all, silentLogger)
    await this.#lineage.releaseLeftPins()
    this.#judgePins()
    for (const volume of all()) this.#lineage.attach(volume)
    this.#opened = { catalog, table }
    for (const { lab } of this.members) await lab.onOpened()
  }

  /** As volumes.ts does it, beside whatever the others do. False: others need it. Errors: why it could not be opened. */
  async reopen({ lab }: Member): Promise<boolean> {
    const { volume, uuid } = lab
    const { machine } = this.ground
    const isMine = this.ground.lives()
    if (this.#lineage.heirsOf(uuid).length > 0 || volume.points.hasHeirs) return false
    volume.points.leave()
    await (async () => { await volume.flush() })().catch(() => undefined)
    await volume.close()
    // Whoever had its answer at the last moment hears it.
    await new Promise<void>(resolve => { machine.at(1, resolve) })
    if (!isMine()) return false
    const { catalog, table } = this.#opened
    if (catalog.inDoubt || table.inDoubt) throw new NbdeltaError('flush-failed', 'kept as broken')
    lab.model.crashed(false)
    machine.renew(PARTS.map(part => lab.disk(part)))
    await lab.openOn(catalog, table)
    await this.#lineage.releaseLeftPins([lab.volume])
    this.#lineage.attach(lab.volume)
    return true
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

  /** As volumes.ts does it. */
  async close(): Promise<void> {
    const failures: unknown[] = []
    for (const round of this.#lineage.heirsFirst()) {
      const closed = await Promise.allSettled(round.map(async volume => {
        try {
          await (volume as Lab['volume']).flush()
        } finally {
          await (volume as Lab['volume']).close()
        }
      }))
      failures.push(...closed.filter(result => result.status === 'rejected').map(({ reason }) => reason as unknown))
    }
    if (failures.length > 0) throw failures[0]
  }

  restart(ending: Ending): void {
    this.ground.restart(ending)
    for (const { lab } of this.members) lab.model.crashed(ending === 'cut')
  }
}
