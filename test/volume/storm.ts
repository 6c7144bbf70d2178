/**
 * One run of staged-storm.test.ts: a volume, many requests in flight, crashes. `storm` returns what is wrong, or undefined.
 *
 * Judged: what is read, at any time, after a crash, and in quiet moments, after which it must stay; snapshots, which keep one of
 * the contents of their instant, and from their first look on that one; that what differs is among what a point says has
 * changed; that every request is answered.
 */
import type { BlockDevice } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { ManualClock, MemoryDisk, type Random, seededRandom } from '../../src/device/testing.js'
import type { PointKind } from '../../src/volume/snappoint.js'
import type { Volume } from '../../src/volume/volume.js'
import { freshFolders, freshTable, openPoints, type PointDisks } from '../crash/points-store.js'
import { type Disks, freshDisks, GRAIN, openOn, SLOW, SMALL_JOURNAL_BYTES } from './lab.js'
import { type Ending, Machine } from './storm-disks.js'
import { type Allowed, contentOf, Model, type Op, SECTOR, valuesOf } from './storm-model.js'

const IN_GRAIN = GRAIN / SECTOR
const GRAINS = 8
const SIZE = GRAINS * GRAIN
/** Nobody touches it but whoever waits until everything else has come to rest. */
const SCRATCH = GRAINS - 1
/** Numbers there are for points, and names there may be at a time. */
const POINTS_EVER = 60
const POINTS_MAX = 5
const FLIGHTS_MAX = 14
/** Within these everything in flight is answered. */
const TURNS_MAX = 4000
const CODES = ['no-space', 'io', 'busy', 'not-found', 'wrong-state', 'cancelled']

interface Known {
  readonly kind: PointKind
  state: 'making' | 'there' | 'going'
  /** What it may be; undefined: its instant has not come. */
  allowed: Allowed | undefined
  /** What a snapshot is. */
  content: number[] | undefined
}

interface Restoring { readonly from: string, readonly op: Op, undo: Known | undefined }

class Wrong extends Error {}

class Storm {
  readonly random: Random
  readonly model = new Model(SIZE / SECTOR)
  readonly points = new Map<string, Known>()
  readonly counts = new Map<string, number>()
  machine: Machine
  clock = new ManualClock()
  volume!: Volume
  /** Of a crash: answers of an earlier process do not count. */
  #life = 0
  #flights = new Set<string>()
  #serial = 0
  #made = 0
  #restoring: Restoring | undefined
  readonly #faulty: number
  /** One write in so many is of parts of grains. */
  readonly #wholes: number
  readonly trace: string[] = []
  #failure: unknown

  constructor(readonly seed: number) {
    this.random = seededRandom(seed)
    this.machine = new Machine(this.random)
    this.#wholes = [2, 5, 100][this.random(3)]
    this.#faulty = [0, 3, 8, 30][this.random(4)]
  }

  async start(): Promise<void> {
    const fresh = await freshDisks({ sizeBytes: SIZE, allData: this.random(2) === 0, journalBytes: [1, 4][this.random(2)] * SMALL_JOURNAL_BYTES })
    const staged = new MemoryDisk(8192 + 2 * [24, 64, 256, 1024][this.random(4)] * 1024)
    const all = { ...fresh, table: await freshTable(), ...freshFolders(POINTS_EVER + 4), staged }
    for (const [name, disk] of Object.entries(all)) this.machine.add(name, disk as MemoryDisk)
    await this.open()
  }

  log(text: string): void { if (process.env.TRACE) this.trace.push(`${this.machine.turnCount}: ${text}`) }
  count(what: string): void { this.counts.set(what, (this.counts.get(what) ?? 0) + 1) }

  async open(): Promise<void> {
    this.machine.fuse = Infinity
    const disks = Object.fromEntries(this.machine.disks) as unknown as Disks & PointDisks
    this.clock = new ManualClock()
    const opening = async (): Promise<Volume> => openOn(disks as Disks, SIZE, { clock: this.clock, ...await openPoints(disks) })
    try {
      this.volume = await this.answered('open', opening())
    } catch (error) {
      if (this.machine.refusing === 0 || !(error instanceof NbdeltaError)) throw error
      this.count('open refused')
      this.machine.refusing = 0
      this.volume = await this.answered('open again', opening())
    }
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
      this.#rethrow()
    }
  }

  #rethrow(): void { if (this.#failure !== undefined) throw this.#failure }

  /** A request, and what its answer means. */
  fly(what: string, begin: () => unknown, done: () => void, failed: () => void = () => undefined): void {
    const name = `${what} #${++this.#serial}`
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
      failed()
      if (error instanceof NbdeltaError && CODES.includes(error.code)) return this.count(`${what} ${error.code}`)
      throw error
    }, `fails: ${String(error)}`)
    try {
      const pending = begin()
      if (pending instanceof Promise) pending.then(() => over(done, 'is done'), refused)
      else over(done, 'is done at once')
    } catch (error) { refused(error) }
  }

  get isCrowded(): boolean { return this.#flights.size >= FLIGHTS_MAX }

  /** Hot grains more often than others. */
  #grain(): number { return this.random(this.random(2) === 0 ? 3 : SCRATCH) }

  write(): void {
    const at = this.#grain() * GRAIN
    const part = this.random(this.#wholes) === 0
    const start = at + (part ? SECTOR * this.random(IN_GRAIN) : 0)
    const grains = this.random(3) === 0 ? 1 + this.random(4) : 1
    const end = Math.min(SCRATCH * GRAIN, part ? start + SECTOR * (1 + this.random(grains * IN_GRAIN)) : start + grains * GRAIN)
    this.#write(start, end - start)
  }

  #write(offset: number, length: number): void {
    const value = ++this.#serial
    const data = contentOf(value, length)
    const op = this.model.begin(`write ${value}`, sectors(offset, length, value))
    const over = (): void => { data.fill(0xee) }
    this.fly(`write ${value} to ${place(offset, length)}`, () => this.volume.write(offset, length, data, 0), () => {
      this.model.done(op)
      over()
    }, () => {
      this.model.failed(op)
      over()
    })
  }

  clear(how: 'zero' | 'trim'): void {
    const grain = this.#grain()
    const grains = Math.min(SCRATCH - grain, 1 + this.random(3))
    const part = how === 'zero' && this.random(3) === 0
    const offset = grain * GRAIN + (part ? SECTOR * this.random(IN_GRAIN) : 0)
    const length = (grain + grains) * GRAIN - offset
    const op = this.model.begin(how, sectors(offset, length, 0))
    // A trim is a hint.
    const done = (): void => { how === 'zero' ? this.model.done(op) : this.model.failed(op) }
    const begin = (): unknown => how === 'zero' ? this.volume.zero(offset, length, SLOW) : this.volume.trim(offset, length)
    this.fly(`${how} ${place(offset, length)}`, begin, done, () => { this.model.failed(op) })
  }

  flush(): void {
    const start = this.model.tick
    this.fly('flush', () => this.volume.flush(), () => { this.model.flushed(start) })
  }

  read(): void {
    const seen = this.model.allowed().map(values => new Set(values))
    const into = Buffer.alloc(SIZE)
    this.model.reads.add(seen)
    this.fly('read', () => this.volume.read(0, SIZE, into, 0), () => {
      this.model.reads.delete(seen)
      this.#judge('a read', valuesOf(into), seen)
    })
  }

  create(kind: PointKind): void {
    if (this.points.size >= POINTS_MAX || this.#made >= POINTS_EVER) return
    const name = `p${++this.#made}`
    const known: Known = { kind, state: 'making', allowed: undefined, content: undefined }
    this.points.set(name, known)
    const { machine } = this
    const atInstant = (): void => {
      if (machine !== this.machine || machine.dead) return
      this.log(`${name}: its instant`)
      known.allowed = this.model.allowed()
    }
    this.fly(`create ${kind} ${name}`, () => this.volume.points.create({ name, kind, atInstant }), () => {
      known.state = 'there'
      if (!known.allowed) throw new Wrong(`${name} had no instant`)
    }, () => { this.points.delete(name) })
  }

  #one(kinds: readonly PointKind[]): string | undefined {
    const names = [...this.points].filter(([, { kind, state }]) => state === 'there' && kinds.includes(kind)).map(([name]) => name)
    return names[this.random(names.length)]
  }

  delete(): void {
    const name = this.#one(['snapshot', 'bookmark'])
    if (name === undefined) return
    const known = this.points.get(name)!
    known.state = 'going'
    this.fly(`delete ${name}`, () => this.volume.points.delete(name), () => { this.points.delete(name) }, () => {
      if (this.volume.points.get(name)) known.state = 'there'
      else this.points.delete(name)
    })
  }

  ask(): void {
    const name = this.#one(['snapshot', 'bookmark'])
    if (name === undefined) return
    const { allowed } = this.points.get(name)!
    const now = this.model.allowed()
    const differs = now.some((values, sector) => [...values].every(value => !allowed![sector].has(value)))
    let answer = false
    const begin = async (): Promise<void> => { answer = await this.volume.points.hasChanged(name) }
    // What was there when it was asked counts; later ones may have put it back.
    this.fly(`ask ${name}`, begin, () => { if (differs && !answer) throw new Wrong(`${name} says that nothing has changed`) })
  }

  look(): void {
    const name = this.#one(['snapshot'])
    if (name === undefined) return
    this.fly(`look at ${name}`, () => this.#content(name), () => undefined)
  }

  async #content(name: string): Promise<void> {
    const { machine } = this
    const known = this.points.get(name)!
    const device: BlockDevice = this.volume.points.open(name)
    const into = Buffer.alloc(SIZE)
    await device.read(0, SIZE, into, 0)
    await device.close()
    if (machine.dead || machine !== this.machine) return
    const values = valuesOf(into)
    if (known.content) this.#judge(name, values, known.content.map(value => new Set([value])))
    else this.#judge(name, values, known.allowed!)
    known.content = values
  }

  restore(): void {
    const name = this.#one(['snapshot'])
    const content = name === undefined ? undefined : this.points.get(name)!.content
    if (name === undefined || !content || this.#restoring || this.#made >= POINTS_EVER || this.points.size > POINTS_MAX) return
    this.#made++
    const values = new Map(content.entries())
    const op = this.model.begin(`restore ${name}`, values)
    const restoring: Restoring = { from: name, op, undo: undefined }
    this.#restoring = restoring
    const { machine } = this
    const isMine = (): boolean => machine === this.machine && !machine.dead
    const whenHeld = (): void => {
      if (!isMine()) return
      // But for itself.
      const allowed = this.model.allowed(op)
      restoring.undo = { kind: 'snapshot', state: 'making', allowed, content: undefined }
    }
    const atInstant = (): void => { if (isMine()) this.model.atOnce(op, values) }
    const options = { from: name, whenHeld, atInstant, ...this.random(2) === 0 ? { bytesPerSecond: 2 * GRAIN } : {} }
    this.fly(`restore ${name}`, () => this.volume.restore(options), () => {
      if (op.state === 'running') this.model.failed(op)
      this.#foundUndo()
    }, () => {
      if (op.state === 'running') this.model.failed(op)
      this.#restoring = undefined
    })
  }

  /** Its name is the volume's choice. */
  #foundUndo(): void {
    const { undo, from } = this.#restoring!
    this.#restoring = undefined
    const name = this.volume.points.list().map(info => info.name).find(name => !this.points.has(name) && name.startsWith(`undo-${from}-`))
    if (name === undefined) return
    if (!undo) throw new Wrong(`${name} had no instant`)
    undo.state = 'there'
    this.points.set(name, undo)
  }

  #judge(what: string, values: readonly number[], allowed: Allowed): void {
    for (const [sector, value] of values.entries()) {
      if (allowed[sector].has(value)) continue
      throw new Wrong(`${what}: sector ${sector} of grain ${Math.floor(sector / IN_GRAIN)} is ${value}, not one of ${[...allowed[sector]].join(' ')}; ${this.model.tell(sector)}`)
    }
  }

  async #contents(what: string): Promise<number[]> {
    const into = Buffer.alloc(SIZE)
    await this.answered(what, (async () => { await this.volume.read(0, SIZE, into, 0) })())
    const values = valuesOf(into)
    this.#judge(what, values, this.model.allowed())
    return values
  }

  /** Nothing is in flight. */
  async #judgePoints(what: string, now: readonly number[]): Promise<void> {
    const there = [...this.points].filter(([, { state }]) => state === 'there')
    for (const [name, { kind }] of there) {
      if (!this.volume.points.get(name)) throw new Wrong(`${what}: ${name} is gone`)
      if (kind === 'snapshot') await this.answered(`${what}: read ${name}`, this.#content(name))
    }
    for (const [i, [since, { allowed, content }]] of there.entries()) {
      const before = content ? content.map(value => new Set([value])) : allowed!
      this.#judgeMarks(`${what}, since ${since}`, since, undefined, before, now)
      for (const [until, later] of there.slice(i + 1)) {
        const isLater = this.volume.points.get(until)!.seq > this.volume.points.get(since)!.seq
        if (later.content && isLater) this.#judgeMarks(`${what}, from ${since} to ${until}`, since, until, before, later.content)
      }
    }
  }

  #judgeMarks(what: string, since: string, until: string | undefined, before: Allowed, after: readonly number[]): void {
    const runs = this.volume.points.changedRuns(since, until)
    for (const [sector, value] of after.entries()) {
      const grain = Math.floor(sector / IN_GRAIN)
      if (before[sector].has(value) || runs.some(({ start, end }) => start <= grain && grain < end)) continue
      throw new Wrong(`${what}: grain ${grain} is not marked, was ${[...before[sector]].join(' ')}, is ${value}`)
    }
  }

  /** Everything comes to rest. From here on what is read must stay. */
  async quiet(): Promise<void> {
    const { refusing } = this.machine
    this.machine.fuse = Infinity
    await this.landed()
    if (this.machine.dead) return
    this.log('quiet')
    this.machine.refusing = 0
    this.#write(SCRATCH * GRAIN, GRAIN)
    await this.landed()
    this.#rethrow()
    const trimmed = this.model.begin('trim', sectors(SCRATCH * GRAIN, GRAIN, 0))
    await this.answered('the trim of a quiet moment', (async () => { await this.volume.trim(SCRATCH * GRAIN, GRAIN) })())
    this.model.failed(trimmed)
    await this.clock.advance(12_000)
    await this.answered('merges', this.volume.points.settled())
    if (this.random(2) === 0) {
      this.flush()
      await this.landed()
    }
    this.#rethrow()
    const now = await this.#contents('in a quiet moment')
    this.model.found(now, false)
    await this.#judgePoints('in a quiet moment', now)
    this.machine.refusing = refusing
    this.count('quiet')
  }

  async crash(ending: Ending): Promise<void> {
    this.machine.dead = true
    this.log(ending)
    this.#life++
    this.#flights.clear()
    this.model.crashed(ending === 'cut')
    this.machine = this.machine.restarted(ending)
    if (this.machine.refusing > 0 && this.random(2) === 0) this.machine.refusing = 0
    await this.#opened(`after it was ${ending}`, ending === 'cut')
    this.machine.refusing = this.#faulty
    this.count(ending)
  }

  async #opened(what: string, isDurable: boolean): Promise<void> {
    await this.open()
    this.#takeStock(what)
    const now = await this.#contents(what)
    this.model.found(now, isDurable)
    await this.#judgePoints(what, now)
  }

  #takeStock(what: string): void {
    const names = this.volume.points.list().map(({ name }) => name)
    for (const [name, known] of [...this.points]) {
      if (names.includes(name)) {
        if (!known.allowed) throw new Wrong(`${what}: ${name} had no instant`)
        known.state = 'there'
      } else if (known.state === 'there') throw new Wrong(`${what}: ${name} is gone`)
      else this.points.delete(name)
    }
    if (this.#restoring) this.#foundUndo()
    for (const name of names) if (!this.points.has(name)) throw new Wrong(`${what}: ${name} is there`)
  }

  /** With requests in flight, which have their turn. */
  async reopen(): Promise<void> {
    this.machine.fuse = Infinity
    this.log('close')
    await this.answered('close', this.volume.close())
    await this.landed()
    this.#life++
    await this.#opened('after it was closed', false)
    this.count('closed')
  }

  /** A run does some things often, and others never. */
  #weighed(): (() => void)[] {
    const { random } = this
    const often = (steps: readonly number[], step: () => void): (() => void)[] => Array.from({ length: steps[random(steps.length)] }, () => step)
    return [
      ...often([20, 60, 200], () => this.write()), ...often([0, 0, 3, 8], () => this.clear('zero')), ...often([0, 0, 3, 8], () => this.clear('trim')),
      ...often([1, 5, 20], () => this.flush()), ...often([3, 8, 15], () => this.create('snapshot')), ...often([0, 2], () => this.create('bookmark')),
      ...often([2, 5, 9], () => this.delete()), ...often([0, 3], () => this.ask()), ...often([0, 2], () => this.look()),
      ...often([0, 3, 10], () => this.read()), ...often([0, 0, 1, 4], () => this.restore()),
    ]
  }

  async run(length: number): Promise<void> {
    const steps = this.#weighed()
    const [turnsMax, rests] = [[2, 4, 12][this.random(3)], this.random(3)]
    await this.start()
    this.create('snapshot')
    await this.landed()
    this.machine.refusing = this.#faulty
    for (let i = 0; i < length; i++) {
      for (let many = this.random(5); many >= 0 && !this.isCrowded && !this.machine.dead; many--) steps[this.random(steps.length)]()
      for (let turns = this.random(turnsMax); turns > 0 && !this.machine.dead; turns--) await this.machine.turn()
      const roll = this.random(100)
      if (this.machine.dead || roll < 4) await this.crash(this.random(2) === 0 ? 'killed' : 'cut')
      else if (roll < 7) this.machine.fuse = 1 + this.random(60)
      else if (roll < 8 + rests) await this.quiet()
      else if (roll < 11) await this.reopen()
      else if (roll < 20) await this.clock.advance([20, 60, 60, 1000, 11_000][this.random(5)])
      else if (roll < 20 + 2 * rests) await this.landed()
      this.#rethrow()
    }
    if (this.machine.dead) await this.crash('cut')
    await this.quiet()
    await this.reopen()
  }
}

function sectors(offset: number, length: number, value: number): Map<number, number> {
  return new Map(Array.from({ length: length / SECTOR }, (_, i) => [offset / SECTOR + i, value]))
}

function place(offset: number, length: number): string { return `${offset / GRAIN}+${length / GRAIN}` }

export async function storm(seed: number, steps: number, counts?: Map<string, number>): Promise<string | undefined> {
  const run = new Storm(seed)
  try {
    await run.run(steps)
    return undefined
  } catch (error) {
    for (const line of run.trace) process.stderr.write(`${line}\n`)
    return error instanceof Wrong ? error.message : error instanceof Error ? error.stack : String(error)
  } finally {
    run.machine.dead = true
    if (counts) for (const [what, count] of run.counts) counts.set(what.replace(/[\d.]+/g, 'N'), (counts.get(what.replace(/[\d.]+/g, 'N')) ?? 0) + count)
  }
}
