/**
 * Volumes of a storm's store that come and go (storm-group.ts): made, cloned from what another one's snapshots hold, adopted with
 * somebody's own file, deleted, and opened anew; and groups of them.
 *
 * Judged: what was answered is there, and what was refused is not; a new volume shows what it should, and a file that was adopted holds
 * what its volume showed when that has gone.
 */
import { judgeCreateVolume } from '../../src/volume/options.js'
import { GRAIN } from './lab.js'
import { Wrong } from './storm-ground.js'
import { blank, GROUP, type GroupLab, type Member, NAMES } from './storm-group-lab.js'
import { GRAINS_MAX, IN_GRAIN } from './storm-lab.js'
import { SECTOR } from './storm-model.js'

const GRAINS_MIN = 3
/** Clients of a volume that goes have so long to be done. */
const PATIENCE_TURNS = 300
const GROUPS = [GROUP, 'h']

export class StormSet {
  readonly #lab: GroupLab
  /** Of this process. */
  readonly #reopening = new Set<Member>()
  #isGrouping = false

  constructor(lab: GroupLab) { this.#lab = lab }

  restarted(): void {
    this.#reopening.clear()
    this.#isGrouping = false
  }

  #one<T>(of: readonly T[]): T { return of[this.#lab.ground.random(of.length)] }

  /** Nobody has it. */
  #name(): string | undefined { return this.#one([...NAMES].filter(name => !this.#lab.named(name))) }

  create(): void {
    const { random } = this.#lab.ground
    const name = this.#name()
    if (name === undefined) return
    const sizeBytes = GRAIN * (GRAINS_MIN + random(GRAINS_MAX - GRAINS_MIN + 1)) - SECTOR * [0, 0, random(IN_GRAIN)][random(3)]
    this.#born(`create ${name}`, this.#lab.conceive(name, blank(sizeBytes)), () => this.#lab.volumes.create(judgeCreateVolume({ name, sizeBytes })))
  }

  adopt(): void {
    const [name, file] = [this.#name(), this.#one(this.#lab.freeFiles)]
    if (name === undefined || file === undefined) return
    const backing = `nbd://elsewhere/${file}`
    const member = this.#lab.conceive(name, { values: this.#lab.fileNow(file), file })
    this.#born(`adopt ${file} as ${name}`, member, () => this.#lab.volumes.create(judgeCreateVolume({ name, backing })))
  }

  /** Of a snapshot of which it is known what it holds. */
  clone(): void {
    const name = this.#name()
    const source = this.#one(this.#lab.there)
    const point = this.#one(source?.lasting ?? [])
    if (name === undefined || point === undefined) return
    const values = source.points.contentOf(point)!
    const member = this.#lab.conceive(name, { values, isClone: true })
    const from = { volume: source.name, point }
    this.#born(`clone ${point} of ${source.name} as ${name}`, member, () => this.#lab.volumes.clone({ name, from, description: '' }))
  }

  #born(what: string, member: Member, begin: () => Promise<unknown>): void {
    const { ground, store } = this.#lab
    ground.fly(what, begin, () => {
      this.#lab.born(member)
      ground.count(what.split(' ', 1)[0])
    }, () => {
      if (store.catalog.inDoubt) member.state = 'doubtful'
      else if (this.#lab.volumes.get(member.name)) throw new Wrong(`${what}: it was refused, and is there`)
      else this.#gone(member)
    })
  }

  /** For good. */
  #gone(member: Member): void {
    this.#lab.leftFile(member)
    this.#lab.bury(member)
  }

  delete(): void {
    const { ground } = this.#lab
    const { there } = this.#lab
    const member = this.#one(there)
    if (!member || there.length < 2 || member.lab.isTaken) return
    const { name } = member
    member.state = 'going'
    this.#lab.errors.length = 0
    ground.fly(`delete ${name}`, () => this.#delete(member), () => {
      this.#gone(member)
      ground.count(`deleted${member.lab.file ? ', adopted' : member.lab.isClone ? ', a clone' : ''}`)
    }, () => this.#isLeft(member))
  }

  /** Its clients have gone. */
  async #delete({ lab }: Member): Promise<void> {
    const isMine = lab.lives()
    for (let turns = 0; lab.file && lab.model.running.size > 0 && turns < PATIENCE_TURNS; turns++) {
      await new Promise<void>(resolve => { lab.machine.at(1, resolve) })
      if (!isMine()) return
    }
    await this.#lab.volumes.delete(lab.name)
  }

  /** It could not be deleted. */
  #isLeft(member: Member): void {
    const { volumes, store, ground } = this.#lab
    if (this.#lab.has(member)) member.state = 'there'
    else if (volumes.get(member.name)) this.#isBroken(member)
    else if (store.catalog.has(member.uuid)) throw new Wrong(`${member.name} is in the catalog, and not there`)
    else this.#gone(member)
    ground.count(`could not be deleted: ${member.state}`)
  }

  #isBroken(member: Member): void {
    member.state = 'doubtful'
    this.#lab.ground.machine.isHurt = true
  }

  /** One of them, while the others go on. */
  reopen(): void {
    const { ground, volumes } = this.#lab
    const isBroken = ({ state, name }: Member): boolean => state === 'doubtful' && volumes.get(name)?.problem !== undefined
    const member = this.#one(this.#lab.members.filter(one => one.state === 'there' || isBroken(one)))
    if (!member || this.#reopening.has(member) || member.lab.isTaken) return
    this.#reopening.add(member)
    const before = member.lab.volume
    const wasBroken = isBroken(member)
    ground.fly(`reopen ${member.name}`, () => volumes.reopen(member.name), () => {
      this.#reopening.delete(member)
      if (!this.#lab.has(member)) throw new Wrong(`${member.name} was opened anew, and is not there`)
      if (wasBroken) member.state = 'there'
      ground.count(wasBroken ? 'reopened, for it could not be opened' : 'reopened beside others')
      member.points.some([])
      member.storm.read()
    }, () => {
      this.#reopening.delete(member)
      // It may have been deleted meanwhile.
      if (!this.#lab.has(member)) return volumes.get(member.name) && member.state === 'there' ? this.#isBroken(member) : undefined
      if (member.lab.volume !== before) ground.count('opened anew, though refused')
    })
  }

  createGroup(): void {
    const { ground, volumes, store } = this.#lab
    const name = this.#one(GROUPS)
    const members = this.#lab.there.filter(() => ground.random(3) > 0)
    if (members.length === 0) return
    const volumesOf = members.map(member => member.name)
    const uuids = members.map(({ uuid }) => uuid).sort().join()
    this.#group(`create group ${name} of ${volumesOf.join()}`, [...store.points.groups().map(group => [group.name, [...group.volumes].sort().join()]), [name, uuids]],
      () => volumes.groups.create(name, volumesOf))
  }

  deleteGroup(): void {
    const { volumes, store } = this.#lab
    const name = this.#one(GROUPS)
    const left = store.points.groups().filter(group => group.name !== name).map(group => [group.name, [...group.volumes].sort().join()])
    this.#group(`delete group ${name}`, left, () => volumes.groups.delete(name))
  }

  /** One at a time. */
  #group(what: string, after: string[][], begin: () => Promise<unknown>): void {
    if (this.#isGrouping) return
    const { ground, store } = this.#lab
    const isMine = ground.lives()
    const text = after.sort(([a], [b]) => a! < b! ? -1 : 1).map(([name, uuids]) => `${name} ${uuids}`).join('; ')
    this.#isGrouping = true
    this.#lab.groups.add(text)
    ground.fly(what, () => begin().finally(() => { if (isMine()) this.#isGrouping = false }), () => {
      this.#lab.groups = new Set([this.#lab.groupsNow()])
      ground.count(what.split(' ', 2).join(' '))
    }, () => {
      if (!store.points.inDoubt) this.#lab.groups = new Set([this.#lab.groupsNow()])
    }, ['exists'])
  }
}
