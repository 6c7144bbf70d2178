/**
 * One run of group-storm.test.ts: volumes of a group that share a table of points, each of them as in storm.ts, and all together;
 * they, clones of them, and the group itself come and go meanwhile (storm-set.ts). `groupStorm` returns what is wrong, or undefined.
 *
 * Judged, beside what storm.ts judges of each volume: the points of one operation are there in all of its volumes, or in none, and so
 * is a restore, whatever is left by a crash; the instants of one operation are one, so that of two writes to two volumes, the second
 * sent when the first was answered, no group of snapshots has the second alone; what is pinned for another volume stays.
 */
import type { PointTable } from '../../src/store/point-table.js'
import type { InheritJob } from '../../src/volume/copier.js'
import type { CreatePointOptions, PointKind } from '../../src/volume/snappoint.js'
import type { Volumes } from '../../src/volume/volumes.js'
import { GRAIN } from './lab.js'
import type { Ending } from './storm-disks.js'
import { Wrong } from './storm-ground.js'
import { GROUP, GroupLab, type Member } from './storm-group-lab.js'
import { PARTS, place } from './storm-lab.js'
import type { Making, RestoreMaking } from './storm-points.js'
import { StormSet } from './storm-set.js'

/** What is made of several volumes by one record, and has not been answered, or only with doubt. */
interface Together {
  readonly what: string
  /** By the table, right after it was opened, for each volume that is there still. */
  readonly isThere: (table: PointTable) => boolean[]
  /** What the last table said. */
  happened?: boolean
  /** Each volume is told. */
  readonly found: (happened: boolean) => void
}

/** One step in so many is of several, and one of these. */
interface Weighed { readonly together: readonly (() => void)[], readonly share: number }
interface Part { readonly member: Member, readonly making: Making }
interface RestorePart { readonly member: Member, readonly making: RestoreMaking, readonly text: string, readonly wanted: Wanted }
type Wanted = Parameters<Volumes['groups']['restoreTogether']>[0][number]
type WantedPoint = CreatePointOptions & { readonly volume: string }
/** A restore of several volumes that may be cancelled, and their undo points. */
interface Cancellable { readonly job: InheritJob, readonly undos: ReadonlyMap<Member, string> }

class GroupStorm {
  readonly lab: GroupLab
  readonly #together = new Set<Together>()
  /** Of snapshots of all volumes, made by one operation. */
  readonly #names = new Set<string>()
  #cancellable: Cancellable | undefined
  readonly #set: StormSet
  /** The machine may die where it matters. */
  #isAimed = false
  /** One disk fails or is full for a while: of 100 times. */
  #spells = 0

  constructor(seed: number) {
    this.lab = new GroupLab(seed)
    this.#set = new StormSet(this.lab)
    this.lab.onTable = table => {
      for (const one of this.#together) one.happened = this.#happened(one, table)
    }
  }

  /** The record of several is what it is all about: the machine dies there, or the table refuses it. */
  #aim(): void {
    const { machine, random } = this.lab.ground
    const [odds, refuses] = [[1, 3, 1000][random(3)], random(4) === 0]
    let refusing: 'writes' | 'flushes' | undefined
    machine.onWrite = (name, bytes) => {
      if (name !== 'table' || !this.#isAimed || !this.#isOfSeveral(bytes.toString('latin1')) || random(odds) > 0) return
      if (refuses) refusing = random(2) === 0 ? 'writes' : 'flushes'
      else this.lab.ground.machine.fuse = 1 + random(8)
    }
    if (!refuses) return
    const once = (what: typeof refusing): number => {
      if (refusing !== what) return 0
      refusing = undefined
      return 1
    }
    machine.refusing = new Map(machine.refusing).set('table', { reads: 0, get writes() { return once('writes') }, get flushes() { return once('flushes') } })
  }

  /** As the table says it. */
  #isOfSeveral(text: string): boolean { return this.#together.size > 0 && (text.split('"uuid":').length > 2 || text.split('"inherit":').length > 2) }

  get #members(): readonly Member[] { return this.lab.there }

  /** Of the group, whatever becomes of them. */
  get #grouped(): readonly Member[] {
    const { volumes, members } = this.lab
    const names = volumes.groups.list().find(({ name }) => name === GROUP)?.volumes ?? []
    return members.filter(({ name }) => names.includes(name))
  }

  #happened({ what, isThere }: Together, table: PointTable): boolean {
    const there = isThere(table)
    // All of them have gone.
    if (there.length === 0) return false
    this.lab.ground.log(`${what}: ${there.join(', ')}`)
    if (there.some(one => one !== there[0])) throw new Wrong(`${what}: there are ${there.join(', ')}`)
    this.lab.ground.count(`${what.split(' ', 2).join(' ')} was cut short, and is ${there[0] ? '' : 'not '}there`)
    return there[0]
  }

  #one<T>(of: readonly T[]): T { return of[this.lab.ground.random(of.length)] }

  /** Two of them at least, in any order. */
  #some(): Member[] {
    const { random } = this.lab.ground
    const left = [...this.#members]
    return Array.from({ length: Math.min(left.length, 2 + random(Math.max(1, left.length - 1))) }, () => left.splice(random(left.length), 1)[0])
  }

  /** Each is sent when the one before it was answered. */
  chain(): void {
    const { random } = this.lab.ground
    const next = (left: number): void => {
      if (left > 0) this.#one(this.#members)?.storm.write(() => { next(left - 1) })
    }
    next(2 + random(4))
  }

  createPoints(): void {
    const { random, serial } = this.lab.ground
    const isPlain = random(3) > 0
    const members = isPlain ? this.#grouped : this.#some()
    if (members.length === 0 || !members.every(({ points }) => points.hasRoom)) return
    const name = `g${serial}`
    if (isPlain) return this.#createAll(members, name, random(4) === 0 ? 'bookmark' : 'snapshot')
    const wanted = members.map((member, place) => this.#wantedPoint(member, random(2) === 0 ? name : `${name}-${place}`))
    const parts = wanted.map(({ making }, i) => ({ member: members[i], making }))
    const what = `create together ${wanted.map(({ options }) => `${options.kind} ${options.name} of ${options.volume}`).join(', ')}`
    this.#create(what, parts, wanted.map(({ options }) => options.name), instant => {
      const options = wanted.map(({ options, making }) => ({ ...options, atInstant: () => { instant(making) } }))
      return this.lab.volumes.groups.createPointsTogether(options)
    })
  }

  #createAll(members: readonly Member[], name: string, kind: PointKind): void {
    const parts = members.map(member => ({ member, making: member.points.making(name, kind) }))
    if (kind === 'snapshot') this.#names.add(name)
    this.#create(`create group ${kind} ${name}`, parts, parts.map(() => name), instant => {
      let place = 0
      const atInstant = (): void => { instant(parts[place++].making) }
      return this.lab.volumes.groups.createPoints({ group: GROUP, name, kind, atInstant })
    })
  }

  #wantedPoint({ name: volume, points, lab }: Member, name: string): { options: WantedPoint, making: Making } {
    const { random } = lab
    const what = (['snapshot', 'snapshot', 'bookmark', 'image'] as const)[random(4)]
    const image = what === 'image' ? points.image() : undefined
    const kind = what === 'image' ? 'bookmark' : what
    const mayGo = kind === 'snapshot' && lab.hasBudget && random(4) === 0
    const letGo = mayGo ? { letGo: () => { lab.count('told to let go') } } : {}
    const making = points.making(name, kind, { mayGo, ...image && { from: image.keeps.from } })
    return { options: { volume, name, kind, ...letGo, ...image }, making }
  }

  #create(what: string, parts: readonly Part[], names: readonly string[], begin: (instant: (making: Making) => void) => Promise<unknown>): void {
    const { ground } = this.lab
    const isMine = ground.lives()
    let at: number | undefined
    let instants = 0
    const instant = (making: Making): void => {
      making.atInstant()
      instants++
      at ??= ground.events
      if (at !== ground.events && isMine()) ground.wrong(`${what}: it had several instants`)
    }
    const one: Together = {
      what, found: () => undefined,
      isThere: table => parts.flatMap(({ member: { state, uuid } }, i) => {
        return state === 'gone' ? [] : [table.list(uuid).some(({ name }) => name === names[i])]
      }),
    }
    const done = (): void => {
      if (instants !== parts.length) throw new Wrong(`${what}: it had ${instants} instants`)
      const groups = parts.map(({ member }, i) => member.lab.volume.points.get(names[i])?.group)
      if (groups.some(group => group === null || group === undefined || group !== groups[0])) throw new Wrong(`${what}: the groups are ${groups.join(', ')}`)
    }
    this.#fly(what, parts, one, () => begin(instant), done)
  }

  /** Something that all do, or none. @param done what is to be judged of its answer */
  #fly<T>(what: string, parts: readonly Part[], one: Together, begin: () => Promise<T>, done: (answer: T) => void): void {
    const { ground } = this.lab
    this.#together.add(one)
    for (const { member } of parts) member.lab.stirred()
    let answer: T
    ground.fly(what, async () => { answer = await begin() }, () => {
      this.#together.delete(one)
      for (const { making } of parts) making.done()
      done(answer)
      ground.count(`${what.split(' ', 2).join(' ')}: done`)
    }, () => {
      if (!parts[0].member.lab.points.inDoubt) this.#together.delete(one)
      for (const { making } of parts) making.failed()
    }, ['bad-argument'])
  }

  /** Where all of it is known. */
  restoreAll(): void {
    const members = this.#grouped
    const names = [...this.#names].filter(name => members.every(({ points }) => points.contentOf(name)))
    const name = this.#one(names)
    if (name === undefined || members.length === 0 || !members.every(({ points }) => points.canBeRestored)) return
    const pace = this.#pace()
    const parts = members.map(member => ({ member, making: member.points.restoring(name, member.points.contentOf(name)!, undefined) }))
    this.#restore(`restore group ${name}`, parts, () => this.lab.volumes.groups.restore({ group: GROUP, name, ...pace }))
  }

  /** Each from a snapshot of its own, or of another one. */
  restoreSome(): void {
    const members = this.#some()
    if (members.length === 0 || !members.every(({ points }) => points.canBeRestored)) return
    const sources = members.map(member => {
      const whose = this.lab.ground.random(2) === 0 ? member : this.#one(this.#members)
      return { whose, from: this.#one(whose === member ? whose.points.snapshots : whose.lasting) }
    })
    if (sources.some(({ from }) => from === undefined)) return
    const parts = members.map((member, i): RestorePart => {
      const { whose, from } = sources[i]
      const range = member.points.range()
      const making = member.points.restoring(from, whose.points.contentOf(from)!, range)
      const sourceVolume = whose === member && this.lab.ground.random(2) === 0 ? {} : { sourceVolume: whose.lab.volume }
      const text = `${member.name} from ${from} of ${whose.name}${range ? ` ${place(range.offset, range.length)}` : ''}`
      return { member, making, text, wanted: { volume: member.name, from, ...sourceVolume, ...range, ...this.#pace() } }
    })
    const wanted = parts.map(part => part.wanted)
    this.#restore(`restore together ${parts.map(({ text }) => text).join(', ')}`, parts, () => this.lab.volumes.groups.restoreTogether(wanted))
  }

  #pace(): { readonly bytesPerSecond?: number } { return this.lab.ground.random(2) === 0 ? { bytesPerSecond: 2 * GRAIN } : {} }

  /** @param begin undefined: nothing is left to be cancelled */
  #restore(what: string, parts: readonly { readonly member: Member, readonly making: RestoreMaking }[], begin: () => Promise<InheritJob | undefined>): void {
    const one: Together = {
      what, found: happened => { for (const { member, making } of parts) if (member.state !== 'gone') making.found(happened) },
      // Where nothing differs nothing is there: the model tells whether it does. What is being deleted is not new.
      isThere: table => {
        const left = parts.filter(({ member }) => member.state !== 'gone')
        const there = left.map(({ member: { points, uuid } }) => points.undoIn(table.list(uuid).filter(({ state }) => state === 'ready')) !== undefined)
        return there.includes(true) ? there.map((isThere, i) => isThere || left[i].making.isLeftAlone()) : there
      },
    }
    for (const { member, making: { whenHeld, atInstant } } of parts) member.lab.hooks = { whenHeld, atInstant }
    this.#fly(what, parts, one, begin, job => {
      const undos = new Map(parts.flatMap(({ member }) => member.points.restored ? [[member, member.points.restored.undo]] : []))
      this.#cancellable = job && undos.size > 0 ? { job, undos } : undefined
    })
  }

  /** All of them at once. */
  cancel(): void {
    if (!this.#cancellable) return
    const { job, undos } = this.#cancellable
    const members = [...undos.keys()]
    // Whoever was restored again has nothing of it to cancel.
    if ([...undos].some(([{ points }, undo]) => points.restored?.undo !== undo)) this.#cancellable = undefined
    else this.#cancelled('cancel of several', members, async () => {
      await job.cancel()
      return undefined
    })
  }

  cancelOne(): void {
    const member = this.#one(this.#members)
    const inheriting = member?.lab.volume.inheriting
    // A clone that is not restored is promoted, perhaps.
    if (inheriting && member.lab.volume.inheritor.isRestoring) this.#cancelled(`cancel of ${member.name}`, [member], async () => {
      await inheriting.cancel()
      return undefined
    })
  }

  /** Where it is known what was there. */
  #cancelled(what: string, members: readonly Member[], begin: () => Promise<undefined>): void {
    const there = members.map(({ points, lab }) => {
      const { undo, range } = points.restored ?? {}
      const { offset, length } = range ?? { offset: 0, length: Infinity }
      return { points, undo, range: { offset, length: Math.min(length, lab.volume.sizeBytes - offset) } }
    })
    for (const { points, undo } of there) if (undo !== undefined) points.lookAtNew(undo)
    if (there.some(({ points, undo }) => undo === undefined || !points.contentOf(undo) || !points.canBeRestored)) return
    const parts = there.map(({ points, undo, range }, i) => ({ member: members[i], making: points.restoring(undo!, points.contentOf(undo!)!, range) }))
    this.#restore(what, parts, begin)
  }

  async quiet(): Promise<void> {
    const { ground } = this.lab
    ground.machine.fuse = Infinity
    ground.machine.spell = undefined
    await ground.landed()
    if (ground.machine.dead) return
    for (const { storm } of this.#members) storm.deltas.rest()
    ground.log('quiet')
    await ground.calmed()
    while (ground.machine.isHurt) {
      await this.reopen()
      await ground.calmed()
    }
    for (const { storm } of this.#members) await storm.scratch()
    await ground.clock.advance(42_000)
    for (const { storm } of this.#members) await storm.settle()
    for (const { storm } of this.#members) await storm.judgeQuiet()
    ground.machine.calm = false
    ground.count('quiet')
  }

  async crash(ending: Ending): Promise<void> {
    const { ground } = this.lab
    ground.log(ending)
    this.lab.restart(ending)
    this.#cancellable = undefined
    this.#set.restarted()
    ground.machine.calm = ground.random(2) === 0
    await this.#opened(`after it was ${ending}`, ending === 'cut')
  }

  async #opened(what: string, isDurable: boolean): Promise<void> {
    const { ground } = this.lab
    await this.lab.open()
    if (!ground.machine.calm) await ground.setOut()
    ground.machine.calm = true
    this.lab.settled()
    for (const { happened, found } of this.#together) found(happened!)
    this.#together.clear()
    for (const { storm } of this.#members) await storm.judgeOpened(what, isDurable)
    ground.machine.calm = false
    ground.count(what)
  }

  async reopen(): Promise<void> {
    await this.lab.ground.closed(() => this.lab.close())
    await this.crash('closed')
  }

  /** Of all volumes together, and of each alone. */
  #weighed(): Weighed {
    const { random } = this.lab.ground
    const often = (steps: readonly number[], step: () => void): (() => void)[] => Array.from({ length: this.#one(steps) }, () => step)
    const set = this.#set
    // One step in so many is of several.
    const share = [2, 4, 8][random(3)]
    return { share, together: [
      ...often([1, 3], () => this.chain()), ...often([2, 4, 8], () => this.createPoints()),
      ...often([0, 2, 4], () => this.restoreAll()), ...often([1, 2, 4], () => this.restoreSome()),
      ...often([2, 4], () => this.#one(this.#members)?.points.lookAtNew()),
      ...often([0, 4], () => this.cancel()), ...often([0, 2], () => this.cancelOne()), ...often([0, 1, 3], () => set.reopen()),
      ...often([0, 1, 3], () => set.create()), ...often([0, 1, 3], () => set.delete()), ...often([0, 1, 3], () => set.clone()),
      ...often([0, 1], () => set.adopt()), ...often([0, 1], () => set.createGroup()), ...often([0, 1], () => set.deleteGroup()),
    ] }
  }

  #step({ together, share }: Weighed): void {
    const { random } = this.lab.ground
    const member = random(share) > 0 ? this.#one(this.#members) : undefined
    if (!member) return this.#one(together)()
    member.aim(this.#one(this.#members.filter(other => other !== member)))
    this.#one(member.steps)()
  }

  async run(length: number): Promise<void> {
    const { ground } = this.lab
    const { random } = ground
    await this.lab.start()
    this.#aim()
    this.#spells = [0, 0, 2][random(3)]
    const steps = this.#weighed()
    const [turnsMax, patience, rests] = [[4, 12, 40][random(3)], [1, 40, 150][random(3)], random(3)]
    ground.machine.calm = false
    for (let i = 0; i < length; i++) {
      for (let many = random(6); many >= 0 && !ground.isCrowded && !ground.machine.dead; many--) this.#step(steps)
      const waits = this.#together.size > 0 ? random(patience) : 0
      this.#isAimed = true
      for (let turns = random(turnsMax) + waits; turns > 0 && !ground.machine.dead; turns--) await ground.machine.turn()
      this.#isAimed = false
      await this.#happens(random(100), rests)
      ground.rethrow()
    }
    if (ground.machine.dead) await this.crash('cut')
    await this.quiet()
    await this.reopen()
  }

  async #happens(roll: number, rests: number): Promise<void> {
    const { ground } = this.lab
    const { random, machine } = ground
    const ending = (): Ending => random(2) === 0 ? 'killed' : 'cut'
    if (machine.dead || roll < 2) await this.crash(ending())
    else if (machine.isHurt && random(6) === 0) await (random(2) === 0 ? this.reopen() : this.crash(ending()))
    else if (roll < 5) machine.fuse = 1 + random(200)
    else if (roll < 6 + rests) await this.quiet()
    else if (roll < 9) await this.reopen()
    else if (roll < 20) await ground.clock.advance(this.#one([20, 60, 60, 1000, 11_000]))
    else if (roll < 20 + this.#spells) ground.conjure(['table', 'catalog', ...this.#members.flatMap(({ lab }) => PARTS.map(part => lab.disk(part)))])
    else if (roll < 22 + 2 * rests && !machine.spell) await ground.landed()
    else if (machine.spell && random(12) === 0) machine.spell = undefined
  }
}

export function groupStorm(seed: number, steps: number, counts?: Map<string, number>): Promise<string | undefined> {
  const run = new GroupStorm(seed)
  return run.lab.ground.judged(() => run.run(steps), counts)
}
