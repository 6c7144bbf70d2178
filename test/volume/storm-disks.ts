/**
 * Disks for staged-storm.test.ts: all of one machine, with one seed. They answer late and out of order, the staging log's
 * refuses some writes, and at any request the process may be killed (what the kernel has is there) or the power cut (of what no
 * flush has covered each 512-byte sector may be there or not).
 *
 * A request is done at some turn between the one in which it comes and the one in which it is answered. Dead disks never answer.
 */
import type { BlockDevice, Extents, Pending, ZeroMode } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { MemoryDisk, type Random } from '../../src/device/testing.js'

const SECTOR = 512
/** Requests in one turn: more, and somebody goes round in a circle. */
const REQUESTS_MAX = 20_000
const MARKS_BYTES = 8192

/** How a disk behaves in a run. */
interface Temper {
  /** One request in so many is answered at once. */
  readonly atOnce: number
  readonly turnsMax: number
}

type Fate = 'whole' | 'lost' | readonly boolean[]
/** `apply` does so much of it: sectors of its range, by flags. */
interface Change { readonly serial: number, readonly offset: number, readonly length: number, apply(disk: MemoryDisk, start: number, end: number): void }

export type Ending = 'killed' | 'cut'

export class Machine {
  readonly random: Random
  readonly disks = new Map<string, StormDisk>()
  /** Of the staging log, one write in so many is refused; 0: none. */
  refusing = 0
  /** So many requests from now on the machine dies of itself. */
  fuse = Infinity
  dead = false
  turnCount = 0
  #requests = 0
  #due: { readonly turn: number, readonly order: number, readonly run: () => void }[] = []

  constructor(random: Random) { this.random = random }

  add(name: string, content: MemoryDisk): StormDisk {
    const temper = { atOnce: [1, 2, 4, 1000][this.random(4)], turnsMax: [1, 3, 8, 25][this.random(4)] }
    const disk = new StormDisk(this, name, temper, content, content.fork(), [])
    this.disks.set(name, disk)
    return disk
  }

  /** True: this one never happens. */
  request(): boolean {
    if (++this.#requests > REQUESTS_MAX) throw new Error('requests without end in one turn')
    if (this.fuse !== Infinity && --this.fuse <= 0) this.dead = true
    return this.dead
  }

  at(turns: number, run: () => void): void { this.#due.push({ turn: this.turnCount + turns, order: this.random(1000), run }) }

  /** Disks that are due answer, and whoever waits for them goes on. */
  async turn(): Promise<void> {
    this.#requests = 0
    this.turnCount++
    const due = this.#due.filter(({ turn }) => turn <= this.turnCount).sort((a, b) => a.order - b.order)
    this.#due = this.#due.filter(({ turn }) => turn > this.turnCount)
    for (const { run } of due) if (!this.dead) run()
    await new Promise<void>(resolve => { setImmediate(resolve) })
  }

  /** What is left. */
  restarted(ending: Ending): Machine {
    const next = new Machine(this.random)
    next.refusing = this.refusing
    const lane = this.random(4)
    for (const [name, disk] of this.disks) next.disks.set(name, disk.restarted(next, ending, lane))
    return next
  }
}

export class StormDisk implements BlockDevice {
  readonly #machine: Machine
  readonly #name: string
  readonly #temper: Temper
  readonly #kernel: MemoryDisk
  readonly #medium: MemoryDisk
  #uncovered: Change[]
  readonly #unborn = new Set<Change>()
  #serial: number

  constructor(machine: Machine, name: string, temper: Temper, kernel: MemoryDisk, medium: MemoryDisk, uncovered: Change[]) {
    this.#machine = machine
    this.#name = name
    this.#temper = temper
    this.#kernel = kernel
    this.#medium = medium
    this.#uncovered = uncovered
    this.#serial = (uncovered.at(-1)?.serial ?? 0) + 1
  }

  get sizeBytes(): number { return this.#kernel.sizeBytes }
  get blockSizes(): BlockDevice['blockSizes'] { return this.#kernel.blockSizes }
  get capabilities(): BlockDevice['capabilities'] { return this.#kernel.capabilities }
  zeroRun(offset: number, length: number): number { return this.#kernel.zeroRun(offset, length) }
  extents(offset: number, length: number, max: number): Extents { return this.#kernel.extents(offset, length, max) }
  allocatedBytes(): Promise<number> { return this.#kernel.allocatedBytes() }
  async close(): Promise<void> {}

  async resize(sizeBytes: number): Promise<void> { if (sizeBytes !== this.sizeBytes) throw new Error('nothing is resized here') }

  async punch(ranges: readonly { readonly offset: number, readonly length: number }[]): Promise<{ readonly punched: boolean }> {
    for (const { offset, length } of ranges) await this.zero(offset, length, { allocate: false, fast: false })
    return { punched: true }
  }

  read(offset: number, length: number, into: Buffer, at: number): Pending {
    return this.#some(() => { this.#kernel.read(offset, length, into, at) })
  }

  write(offset: number, length: number, from: Buffer, at: number): Pending {
    const change = this.#change(offset, length, () => Buffer.from(from.subarray(at, at + length)))
    const { refusing, random } = this.#machine
    const odds = offset < MARKS_BYTES ? 4 * refusing : refusing
    if (this.#name !== 'staged' || refusing === 0 || random(odds) > 0) return this.#some(() => this.#do(change))
    const part = random(3)
    return this.#some(() => {
      this.#do(change, [0, some(length, random), length][part])
      throw new NbdeltaError(random(2) === 0 ? 'no-space' : 'io', 'refused by the storm')
    })
  }

  zero(offset: number, length: number, mode: ZeroMode): Pending {
    const serial = this.#serial++
    return this.#some(() => this.#do({ serial, offset, length, apply: (disk, start, end) => { disk.zero(start, end - start, mode) } }))
  }

  trim(offset: number, length: number): Pending {
    const serial = this.#serial++
    return this.#some(() => this.#do({ serial, offset, length, apply: (disk, start, end) => { disk.trim(start, end - start) } }))
  }

  flush(): Pending {
    const covered = new Set(this.#uncovered)
    return this.#some(() => undefined, () => {
      for (const change of this.#uncovered) if (covered.has(change)) settle(change, 'whole', this.#medium)
      this.#uncovered = this.#uncovered.filter(change => !covered.has(change))
    })
  }

  restarted(machine: Machine, ending: Ending, lane: number): StormDisk {
    const { random } = machine
    for (const change of this.#unborn) if (random(2) === 0) this.#do(change, some(change.length, random))
    if (ending === 'killed') return new StormDisk(machine, this.#name, this.#temper, this.#kernel.fork(), this.#medium, this.#uncovered)
    for (const change of this.#uncovered) settle(change, fateOf(change, lane, random), this.#medium)
    return new StormDisk(machine, this.#name, this.#temper, this.#medium.fork(), this.#medium, [])
  }

  #change(offset: number, length: number, take: () => Buffer): Change {
    let data: Buffer | undefined
    const change: Change = {
      serial: this.#serial++, offset, length,
      apply: (disk, start, end) => {
        data ??= take()
        disk.write(start, end - start, data, start - offset)
      },
    }
    this.#unborn.add(change)
    return change
  }

  /** The kernel has it, or its first bytes. */
  #do(change: Change, bytes = change.length): void {
    this.#unborn.delete(change)
    if (bytes === 0) return
    const { serial, offset } = change
    const part: Change = { serial, offset, length: bytes, apply: change.apply }
    settle(part, 'whole', this.#kernel)
    this.#uncovered.push(part)
  }

  /** `run` at some turn; `end`, if given, when it is answered. */
  #some(run: () => void, end: () => void = () => undefined): Pending {
    const machine = this.#machine
    if (machine.request()) return new Promise<never>(() => undefined)
    const { atOnce, turnsMax } = this.#temper
    if (machine.random(atOnce) === 0) {
      run()
      end()
      return undefined
    }
    const turns = 1 + machine.random(turnsMax)
    const early = turns === 1 ? 2 * machine.random(2) : machine.random(3)
    return new Promise((resolve, reject) => {
      let failure: unknown
      const guarded = (): void => {
        try {
          run()
        } catch (error) { failure = error }
      }
      if (early === 0) guarded()
      else if (early === 1) machine.at(1 + machine.random(turns - 1), guarded)
      machine.at(turns, () => {
        if (early === 2) guarded()
        if (failure !== undefined) return reject(failure as Error)
        end()
        resolve()
      })
    })
  }
}

function some(length: number, random: Random): number { return Math.min(length, SECTOR * random(Math.ceil(length / SECTOR) + 1)) }

function fateOf({ offset, length }: Change, lane: number, random: Random): Fate {
  if (lane === 0) return 'whole'
  if (lane === 1) return 'lost'
  const coin = random(3)
  if (coin < 2) return coin === 0 ? 'whole' : 'lost'
  return Array.from({ length: Math.ceil((offset + length) / SECTOR) - Math.floor(offset / SECTOR) }, () => random(2) === 0)
}

function settle({ offset, length, apply }: Change, fate: Fate, disk: MemoryDisk): void {
  if (fate === 'lost') return
  if (fate === 'whole') return apply(disk, offset, offset + length)
  const first = Math.floor(offset / SECTOR)
  for (const [i, isThere] of fate.entries()) {
    if (isThere) apply(disk, Math.max(offset, (first + i) * SECTOR), Math.min(offset + length, (first + i + 1) * SECTOR))
  }
}
