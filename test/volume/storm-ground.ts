/**
 * What storms stand on: a machine, its clock, and requests in flight, of one volume (storm-lab.ts) or of several
 * (storm-group-lab.ts).
 */
import { NbdeltaError } from '../../src/device/errors.js'
import { ManualClock, type Random, seededRandom } from '../../src/device/testing.js'
import { type Ending, Machine, type Spell } from './storm-disks.js'

const FLIGHTS_MAX = 14
/** Within these everything in flight is answered. */
const TURNS_MAX = 12_000
/** Nothing takes longer on a disk; what it belongs to may need some more requests before it fails. */
const TURNS_OF_A_REQUEST = 26
const REQUESTS_OF_A_FAILURE = 5
const CODES = ['no-space', 'io', 'busy', 'not-found', 'wrong-state', 'cancelled', 'flush-failed']

export class Wrong extends Error {}
/** The machine is to die while it opens. */
export class CutShort extends Error {
  constructor(readonly ending: Ending) { super(ending) }
}

export class Ground {
  readonly random: Random
  readonly counts = new Map<string, number>()
  readonly trace: string[] = []
  machine: Machine
  clock = new ManualClock()
  /** What the machine is at: for the counts. */
  phase = 'running'
  /** Told of each disk of which a flush has failed. */
  readonly onLost: ((name: string) => void)[] = []
  /** Of a crash: answers of an earlier process do not count. */
  #life = 0
  #flights = new Set<string>()
  #serial = 0
  /** Requests that were begun and answered. */
  events = 0
  #failure: unknown

  constructor(seed: number) {
    this.random = seededRandom(seed)
    this.machine = new Machine(this.random)
    this.machine.onRefused = (kind, name) => this.count(`${kind} of ${name} refused: ${this.phase}`)
    this.machine.onLost = name => {
      this.log(`a flush of ${name} fails`)
      for (const tell of this.onLost) tell(name)
    }
  }

  get serial(): number { return ++this.#serial }
  log(text: string): void { if (process.env.TRACE) this.trace.push(`${this.machine.turnCount}: ${text}`) }
  count(what: string): void { this.counts.set(what, (this.counts.get(what) ?? 0) + 1) }

  /** @param crashed what a failed open has lost is to be told */
  async opened(open: () => Promise<void>, crashed: (isCut: boolean) => void): Promise<void> {
    this.machine.fuse = Infinity
    this.phase = 'opening'
    const begin = (): Promise<void> => {
      this.clock = new ManualClock()
      return open()
    }
    for (let isOpen = false; !isOpen;) {
      try {
        await this.answered('open', begin())
        isOpen = true
      } catch (error) {
        const ending = error instanceof CutShort ? error.ending : 'killed'
        if (!(error instanceof CutShort) && (this.machine.calm || !(error instanceof NbdeltaError))) throw error
        this.log(`open fails: ${String(error)}`)
        this.count(error instanceof CutShort ? 'open cut short' : 'open refused')
        this.restart(ending)
        crashed(ending === 'cut')
      }
    }
    this.phase = 'running'
  }

  /** With requests in flight, which have their turn. */
  async closed(close: () => Promise<void>): Promise<void> {
    this.machine.fuse = Infinity
    this.log('close')
    this.phase = 'closing'
    try {
      await this.answered('close', close())
      await this.landed()
    } catch (error) {
      if (!(error instanceof NbdeltaError) || (this.machine.calm && !this.machine.isHurt)) throw error
      this.count(`close ${error.code}`)
      await this.landed()
    }
    this.rethrow()
  }

  /** What is wrong with what `run` finds; undefined: nothing. @param counts gets what has happened */
  async judged(run: () => Promise<void>, counts?: Map<string, number>): Promise<string | undefined> {
    try {
      await run()
      return undefined
    } catch (error) {
      for (const line of this.trace) process.stderr.write(`${line}\n`)
      return error instanceof Wrong ? error.message : error instanceof Error ? error.stack : String(error)
    } finally {
      this.machine.dead = true
      for (const [what, count] of this.counts) {
        const kind = what.replace(/[\d.]+/g, 'N')
        counts?.set(kind, (counts.get(kind) ?? 0) + count)
      }
    }
  }

  /** Another process is to open what this one leaves. Nothing is refused at first. */
  restart(ending: Ending): void {
    this.machine.dead = true
    this.#life++
    this.#flights.clear()
    this.machine = this.machine.restarted(ending)
  }

  /** One of these disks fails or is full for a while. */
  conjure(names: readonly string[]): void {
    const { name, isFull, refusing } = this.machine.spell = someSpell(this.random, names)
    this.log(`${name} ${isFull ? 'is full' : `fails: ${JSON.stringify(refusing)}`}`)
  }

  /** Nobody asks for anything, and what goes on by itself meets disks that refuse. */
  async setOut(): Promise<void> {
    this.phase = 'setting out'
    for (let i = this.random(4); i > 0; i--) {
      for (let turns = this.random(10); turns > 0; turns--) await this.machine.turn()
      await this.clock.advance([60, 1000, 6000, 31_000][this.random(4)])
    }
    await this.calmed()
    this.phase = 'running'
  }

  /** Turns and time pass until it is answered. */
  async answered<T>(what: string, work: Promise<T>): Promise<T> {
    let over = false
    const done = work.finally(() => { over = true })
    done.catch(() => undefined)
    await this.until(() => over, () => { throw new Wrong(`${what} hangs`) }, what)
    return done
  }

  /** Turns and time pass. @param what that the machine dies meanwhile is wrong */
  async until(isOver: () => boolean, hangs: () => never, what?: string): Promise<void> {
    for (let turns = 0; !isOver(); turns++) {
      if (turns > TURNS_MAX) hangs()
      if (what !== undefined && this.machine.dead) throw new Wrong(`${what}: died`)
      await this.machine.turn()
      if (turns % 8 === 7) await this.clock.advance(50)
    }
  }

  /** Everything in flight is answered, or the machine dies. */
  async landed(): Promise<void> {
    const isOver = (): boolean => {
      this.rethrow()
      return this.isIdle || this.machine.dead
    }
    await this.until(isOver, () => { throw new Wrong(`hangs: ${[...this.#flights].join(', ')}`) })
  }

  /** Nothing is refused any more, not even what is on its way. */
  async calmed(): Promise<void> {
    this.machine.calm = true
    for (let turns = 0; turns < REQUESTS_OF_A_FAILURE * TURNS_OF_A_REQUEST; turns++) await this.machine.turn()
  }

  /** For whoever must not throw. */
  wrong(what: string): void { this.#failure ??= new Wrong(what) }
  rethrow(): void { if (this.#failure !== undefined) throw this.#failure }

  /** Whether `this.machine` still runs what was begun now. */
  lives(): () => boolean {
    const { machine } = this
    return () => machine === this.machine && !machine.dead
  }

  /** A request, and what its answer means. */
  fly(what: string, begin: () => unknown, done: () => void, failed: (error: unknown) => void = () => undefined, codes: readonly string[] = []): void {
    const name = `${what} #${this.serial}`
    const life = this.#life
    this.#flights.add(name)
    this.events++
    this.log(`${name} begins`)
    const over = (end: () => void, how: string): void => {
      if (life !== this.#life || this.machine.dead) return
      this.log(`${name} ${how}`)
      this.#flights.delete(name)
      this.events++
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
  /** Nothing is in flight. */
  get isIdle(): boolean { return this.#flights.size === 0 }
}

/** A disk that fails, or is full, for a while. */
function someSpell(random: Random, names: readonly string[]): Spell {
  const name = names[random(names.length)]
  const isFull = random(3) === 0
  const sometimes = (): number => random(4) === 0 ? 2 : 1
  const refusing = isFull ? { reads: 0, writes: sometimes(), flushes: 0 }
    : [{ reads: 1, writes: 0, flushes: 0 }, { reads: 0, writes: sometimes(), flushes: 0 }, { reads: 0, writes: 0, flushes: 1 },
      { reads: 1, writes: 1, flushes: 0 }, { reads: 1, writes: 1, flushes: 1 }][random(5)]
  return { name, refusing, isFull }
}
