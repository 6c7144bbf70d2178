/**
 * One run of staged-storm.test.ts: a volume, perhaps a clone, many requests in flight, resizes, budgets, refusals, disks that fail or
 * are full for a while, crashes. `storm` returns what is wrong, or undefined.
 *
 * Judged: what is read, at any time, after a crash, and in quiet moments, after which it must stay; points (storm-points.ts); that
 * every request is answered; that everything can be done again once nothing is refused and the disks were opened anew; what is kept
 * and promised of the budget, and that what finds no room in it has changed nothing; whoever reads for long (storm-readers.ts);
 * streams that are written and applied (storm-deltas.ts).
 */
import type { Pending } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import type { InheritJob } from '../../src/volume/copier.js'
import { FAST, GRAIN, KEEP, SLOW } from './lab.js'
import { StormDeltas } from './storm-deltas.js'
import type { Ending } from './storm-disks.js'
import { GRAINS_MAX, IN_GRAIN, isBudgetRefusal, Lab, PARTS, place, sectors, someRule, Wrong } from './storm-lab.js'
import { contentOf, GONE, type Op, SECTOR, valuesOf } from './storm-model.js'
import { StormPoints } from './storm-points.js'
import { StormReaders } from './storm-readers.js'

/** A grain that nobody touches but whoever waits until everything else has come to rest. */
const SCRATCH = 0
const GRAINS_MIN = 3

export class Storm {
  readonly lab: Lab
  readonly points: StormPoints
  readonly readers: StormReaders
  readonly deltas: StormDeltas
  /** One write in so many is of parts of grains. */
  readonly #wholes: number
  /** The last one of this process. */
  #promotion: InheritJob | undefined
  /** The volume is about to have this size, or may be. */
  #resizingTo: number | undefined
  /** One disk fails or is full for a while: of 100 times. */
  #spells = 0

  constructor(lab: Lab) {
    this.lab = lab
    this.points = new StormPoints(this.lab)
    this.readers = new StormReaders(this.lab, this.points)
    this.deltas = new StormDeltas(this.lab, this.points, this)
    this.#wholes = [2, 5, 100][this.lab.random(3)]
  }

  /** Where requests end: who shrinks a volume sees to it that nobody uses its end. */
  get #end(): number { return Math.min(this.lab.volume.sizeBytes, this.#resizingTo ?? Infinity) }

  /** Hot grains more often than others. */
  #grain(): number {
    const { random } = this.lab
    const grains = Math.ceil(this.#end / GRAIN) - 1
    return SCRATCH + 1 + random(random(2) === 0 ? Math.min(3, grains) : grains)
  }

  /** @param then when it is answered */
  write(then?: () => void): void {
    const { random } = this.lab
    if (this.lab.isTaken) return
    const at = this.#grain() * GRAIN
    const part = random(this.#wholes) === 0
    const start = at + (part ? SECTOR * random(Math.min(GRAIN, this.#end - at) / SECTOR) : 0)
    const grains = random(3) === 0 ? 1 + random(4) : 1
    const end = Math.min(this.#end, part ? start + SECTOR * (1 + random(grains * IN_GRAIN)) : start + grains * GRAIN)
    this.#write(start, end - start, then)
  }

  #write(offset: number, length: number, then: () => void = () => undefined): void {
    const { lab } = this
    const value = lab.serial
    const data = contentOf(value, length)
    const op = lab.model.begin(`write ${value}`, sectors(offset, length, value))
    const isPlain = (): boolean => !lab.core.inherit.active && !this.points.isRestoring
    const wasPlain = isPlain()
    const over = (): void => { data.fill(0xee) }
    lab.fly(`write ${value} to ${place(offset, length)}`, () => lab.volume.write(offset, length, data, 0), () => {
      lab.model.done(op)
      over()
      then()
    }, error => {
      this.#refused(op, error, wasPlain && isPlain())
      over()
    })
  }

  /**
   * What finds no room in the budget has changed nothing. But where something is inherited a write goes piece by piece, and one that
   * has failed half-way on a full disk is tried again.
   */
  #refused(op: Op, error: unknown, isPlain: boolean): void {
    const { model, machine } = this.lab
    const isNever = isPlain && isBudgetRefusal(error) && !machine.refusing.has(this.lab.disk('live'))
    isNever ? model.never(op) : model.failed(op)
  }

  clear(how: 'zero' | 'trim'): void {
    const { lab } = this
    if (lab.isTaken) return
    const grain = this.#grain()
    const grains = 1 + lab.random(3)
    const part = how === 'zero' && lab.random(3) === 0
    const offset = grain * GRAIN + (part ? SECTOR * lab.random(Math.min(GRAIN, this.#end - grain * GRAIN) / SECTOR) : 0)
    const length = Math.min(this.#end, (grain + grains) * GRAIN) - offset
    const op = lab.model.begin(how, sectors(offset, length, 0))
    // A trim is a hint.
    const done = (): void => { how === 'zero' ? lab.model.done(op) : lab.model.failed(op) }
    const mode = [SLOW, SLOW, FAST, KEEP, { allocate: true, fast: true }][lab.random(5)]
    const begin = (): unknown => how === 'zero' ? lab.volume.zero(offset, length, mode) : lab.volume.trim(offset, length)
    const flags = how === 'zero' ? ` ${mode.allocate ? 'keep' : ''}${mode.fast ? 'fast' : ''}` : ''
    const failed = (error: unknown): void => { isNotFast(error) ? lab.model.never(op) : lab.model.failed(op) }
    lab.fly(`${how}${flags} ${place(offset, length)}`, begin, done, failed, mode.fast ? ['not-fast'] : [])
  }

  flush(): void {
    const { model } = this.lab
    const start = model.tick
    this.lab.fly('flush', () => this.lab.volume.flush(), () => {
      if (!model.flushed(start)) throw new Wrong('a flush was answered after one of live had failed')
    })
  }

  read(): void {
    const { lab } = this
    const seen = lab.model.allowed().map(values => new Set(values))
    const into = Buffer.alloc(this.#end)
    lab.model.reads.add(seen)
    lab.fly('read', () => lab.volume.read(0, into.length, into, 0), () => {
      lab.model.reads.delete(seen)
      lab.judge('a read', valuesOf(into, into.length / SECTOR), seen)
    }, () => { lab.model.reads.delete(seen) })
  }

  promote(): void {
    const { lab } = this
    const pace = lab.random(2) === 0 ? 2 * GRAIN : undefined
    const begin = async (): Promise<void> => { this.#promotion = await lab.volume.inheritor.promote(pace) }
    const stop = async (): Promise<void> => { await this.#promotion!.cancel() }
    if (this.#promotion && lab.random(3) === 0) lab.fly('stop a promotion', stop, () => undefined)
    else lab.fly('promote', begin, () => undefined)
  }

  /** As volumes.ts does it. */
  resize(): void {
    const { lab } = this
    if (this.isResizing || lab.isTaken) return
    const grains = GRAINS_MIN + lab.random(GRAINS_MAX - GRAINS_MIN + 1)
    const wanted = lab.random(2) === 0 ? grains * GRAIN : (grains * IN_GRAIN + lab.random(IN_GRAIN)) * SECTOR
    const to = Math.min(lab.sizeMax, wanted)
    lab.fly(`resize to ${to / GRAIN}`, () => this.resizeTo(to), () => undefined)
  }

  get isResizing(): boolean { return this.#resizingTo !== undefined }

  async resizeTo(to: number): Promise<void> {
    const { lab } = this
    const from = lab.volume.sizeBytes
    const values = to > from ? sectors(from, to - from, 0) : sectors(to, from - to, GONE)
    this.#resizingTo = to
    const isMine = lab.lives()
    const commit = async (put: () => Promise<void>): Promise<void> => {
      if (!isMine()) return
      const op = lab.model.begin(`resize to ${to}`, values)
      try {
        await put()
      } catch (error) {
        if (isMine()) lab.model.failed(op)
        throw error
      }
      if (isMine()) lab.model.atOnce(op)
    }
    try {
      await lab.resize(to, commit)
    } finally {
      if (isMine()) this.#resizingTo = undefined
    }
  }

  /** Everything comes to rest. From here on what is read must stay. */
  async quiet(): Promise<void> {
    const { lab } = this
    lab.machine.fuse = Infinity
    lab.machine.spell = undefined
    await lab.landed()
    if (lab.machine.dead) return
    this.deltas.rest()
    lab.log('quiet')
    await lab.calmed()
    while (lab.machine.isHurt) {
      await this.reopen()
      await lab.calmed()
    }
    await this.scratch()
    await lab.clock.advance(42_000)
    await this.settle()
    await this.judgeQuiet()
    lab.machine.calm = false
    lab.count('quiet')
  }

  async settle(): Promise<void> {
    const { lab } = this
    await lab.moved()
    await lab.answered('merges', lab.volume.points.settled())
    const failure = (): NbdeltaError | undefined => lab.volume.inheriting?.problem()
    const isCopying = (): boolean => failure() === undefined || failure()!.code === 'no-space'
    await lab.ground.until(isCopying, () => { throw new Wrong(`copying does not go on: ${failure()!.message}`) })
    if (lab.random(2) === 0) {
      this.flush()
      await lab.landed()
    }
    lab.rethrow()
  }

  async judgeQuiet(): Promise<void> {
    const { lab } = this
    const now = await lab.contents('in a quiet moment')
    lab.model.found(now, false)
    await this.points.judge('in a quiet moment', now)
    lab.judgeBooks('in a quiet moment', true)
  }

  /** Nothing is refused but for want of room in the budget. */
  async scratch(): Promise<void> {
    const { lab } = this
    const value = lab.serial
    const op = lab.model.begin(`write ${value}`, sectors(SCRATCH * GRAIN, GRAIN, value))
    const isDone = await this.#unlessFull('the write of a quiet moment', () => lab.volume.write(SCRATCH * GRAIN, GRAIN, contentOf(value, GRAIN), 0))
    isDone ? lab.model.done(op) : lab.model.never(op)
    const trimmed = lab.model.begin('trim', sectors(SCRATCH * GRAIN, GRAIN, 0))
    await this.#unlessFull('the trim of a quiet moment', () => lab.volume.trim(SCRATCH * GRAIN, GRAIN))
    lab.model.failed(trimmed)
  }

  async #unlessFull(what: string, begin: () => Pending): Promise<boolean> {
    const { lab } = this
    try {
      await lab.answered(what, (async () => { await begin() })())
      return true
    } catch (error) {
      if (!lab.isOverBudget(error, SCRATCH)) throw error
      lab.count(`${what} is over the budget`)
      return false
    }
  }

  async crash(ending: Ending): Promise<void> {
    const { lab } = this
    lab.log(ending)
    lab.restart(ending)
    lab.model.crashed(ending === 'cut')
    lab.machine.calm = lab.random(2) === 0
    await this.#opened(`after it was ${ending}`, ending === 'cut')
  }

  async #opened(what: string, isDurable: boolean): Promise<void> {
    const { lab } = this
    await lab.open()
    if (!lab.machine.calm) await lab.ground.setOut()
    lab.machine.calm = true
    await this.judgeOpened(what, isDurable)
    lab.machine.calm = false
    lab.count(what)
  }

  async judgeOpened(what: string, isDurable: boolean): Promise<void> {
    const { lab } = this
    this.#resizingTo = this.#promotion = undefined
    this.points.takeStock(what)
    const now = await lab.contents(what)
    lab.model.found(now, isDurable)
    await this.points.judge(what, now)
    lab.judgeBooks(what, false)
  }

  async reopen(): Promise<void> {
    await this.lab.ground.closed(() => this.lab.volume.close())
    await this.crash('closed')
  }

  /** A run does some things often, and others never. */
  weighed(): (() => void)[] {
    const { random } = this.lab
    const { points, readers } = this
    const often = (steps: readonly number[], step: () => void): (() => void)[] => Array.from({ length: steps[random(steps.length)] }, () => step)
    return [
      ...often([20, 60, 200], () => this.write()), ...often([0, 0, 3, 8], () => this.clear('zero')), ...often([0, 0, 3, 8], () => this.clear('trim')),
      ...often([1, 5, 20], () => this.flush()), ...often([3, 8, 15], () => points.create('snapshot')), ...often([0, 2], () => points.create('bookmark')),
      ...often([2, 5, 9], () => points.delete()), ...often([0, 3], () => points.ask()), ...often([0, 1, 4], () => points.note()), ...often([0, 2], () => points.look()),
      ...often([0, 3, 10], () => this.read()), ...often([0, 0, 1, 4, 20], () => points.restore()), ...often([0, 1, 4], () => points.cancel()),
      ...often([0, 2, 6], () => readers.status(this.#end)), ...often([0, 2], () => readers.statusOfOne()),
      ...often([0, 2, 6], () => this.deltas.export()), ...often([0, 3, 10], () => this.deltas.import()),
      ...often([0, 1, 3], () => readers.follow()), ...often([0, 1, 5], () => this.resize()),
      ...this.lab.isClone ? often([0, 1], () => this.promote()) : [],
      ...this.lab.hasBudget ? often([0, 1, 3], () => this.lab.setSpace(someRule(random))) : [],
    ]
  }

  async run(length: number): Promise<void> {
    const { lab } = this
    const { random } = lab
    const steps = this.weighed()
    const [turnsMax, rests] = [[2, 4, 12][random(3)], random(3)]
    this.#spells = [0, 0, 2, 5][random(4)]
    await lab.start()
    this.points.create('snapshot')
    await lab.landed()
    lab.machine.calm = false
    for (let i = 0; i < length; i++) {
      for (let many = random(5); many >= 0 && !lab.isCrowded && !lab.machine.dead; many--) steps[random(steps.length)]()
      for (let turns = random(turnsMax); turns > 0 && !lab.machine.dead; turns--) await lab.machine.turn()
      await this.#happens(random(100), rests)
      lab.rethrow()
    }
    if (lab.machine.dead) await this.crash('cut')
    await this.quiet()
    await this.reopen()
  }

  async #happens(roll: number, rests: number): Promise<void> {
    const { lab } = this
    const { random, machine } = lab
    if (machine.dead || roll < 4) await this.crash(random(2) === 0 ? 'killed' : 'cut')
    else if (machine.isHurt && random(6) === 0) await (random(2) === 0 ? this.reopen() : this.crash(random(2) === 0 ? 'killed' : 'cut'))
    else if (roll < 7) machine.fuse = 1 + random(60)
    else if (roll < 8 + rests) await this.quiet()
    else if (roll < 11) await this.reopen()
    else if (roll < 20) await lab.clock.advance([20, 60, 60, 1000, 11_000][random(5)])
    else if (roll < 20 + this.#spells) lab.ground.conjure([...PARTS, 'table', 'catalog', 'elsewhere'])
    else if (roll < 26 + 2 * rests && !machine.spell) await lab.landed()
    else if (machine.spell && random(12) === 0) machine.spell = undefined
  }
}

export function storm(seed: number, steps: number, counts?: Map<string, number>): Promise<string | undefined> {
  const run = new Storm(new Lab(seed))
  return run.lab.ground.judged(() => run.run(steps), counts)
}

/** Nothing was done. */
function isNotFast(error: unknown): boolean { return error instanceof NbdeltaError && error.code === 'not-fast' }
