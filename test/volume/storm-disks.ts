/**
 * Disks for staged-storm.test.ts: all of one machine, with one seed. They answer late and out of order, refuse some writes and
 * flushes, and at any request the process may be killed (what the kernel has is there) or the power cut (of what no flush has
 * covered each 512-byte sector may be there or not).
 *
 * A request is done at some turn between the one in which it comes and the one in which it is answered. Dead disks never answer.
 * A flush that fails may have lost of what it covered any of it, for good: the kernel shows that until the disk is opened anew, and
 * takes it for written. Until then every flush of that disk fails (group-flush.ts). A disk's length is never lost so.
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
/** `apply` does so much of it: sectors of its range, by flags. Without a length: all or nothing. */
interface Change { readonly serial: number, readonly offset: number, readonly length: number, apply(disk: MemoryDisk, start: number, end: number): void }

/** `closed`: nothing is in flight, and nothing happens but that the disks are opened anew. */
export type Ending = 'killed' | 'cut' | 'closed'

/** Of a disk, one request in so many is refused; 0: none. */
export interface Refusing { readonly reads: number, readonly writes: number, readonly flushes: number }
const WILLING: Refusing = { reads: 0, writes: 0, flushes: 0 }
/** One disk, for a while: it is full, or fails. */
export interface Spell { readonly name: string, readonly refusing: Refusing, readonly isFull: boolean }
/** Who writes them takes nothing more after a refusal, until they are opened anew. */
const LOGS = ['journal', 'table', 'catalog']

/** What the disk is to its volume, on whose name its own begins where there are several (`a.live`). */
export function partOf(name: string): string { return name.slice(name.indexOf('.') + 1) }

export class Machine {
  readonly random: Random
  readonly disks = new Map<string, StormDisk>()
  /** By name. */
  refusing: ReadonlyMap<string, Refusing> = new Map()
  /** What one of them is under. */
  spell: Spell | undefined
  /** Nothing is refused for a while. */
  calm = true
  /** A refusal has left something that only the next open mends. */
  isHurt = false
  /** The disk was full for somebody. */
  wasFull = false
  /** Told of each request that is refused. */
  onRefused: (kind: string, name: string) => void = () => undefined
  /** A flush of that disk has failed. */
  onLost: (name: string) => void = () => undefined
  /** Told of what is to be written, before that is a request. */
  onWrite: (name: string, bytes: Buffer) => void = () => undefined
  /** So many requests from now on the machine dies of itself. */
  fuse = Infinity
  dead = false
  turnCount = 0
  #requests = 0
  #due: { readonly turn: number, readonly order: number, readonly run: () => void }[] = []

  constructor(random: Random) { this.random = random }

  add(name: string, content: MemoryDisk): StormDisk {
    const temper = { atOnce: [1, 2, 4, 1000][this.random(4)], turnsMax: [1, 3, 8, 25][this.random(4)] }
    const disk = new StormDisk(this, name, temper, content, content.fork(), [], 'file')
    this.disks.set(name, disk)
    return disk
  }

  refusingOf(name: string): Refusing {
    if (this.calm) return WILLING
    return this.spell?.name === name ? this.spell.refusing : this.refusing.get(name) ?? WILLING
  }

  /** What a disk says that refuses a write. */
  refusal(name: string): NbdeltaError {
    this.onRefused('write', name)
    if (LOGS.includes(partOf(name))) this.isHurt = true
    else if (this.spell?.name === name ? this.spell.isFull : this.random(2) === 0) {
      this.wasFull = true
      return new NbdeltaError('no-space', 'refused by the storm', { cause: Object.assign(new Error('full'), { code: 'ENOSPC' }) })
    }
    return new NbdeltaError('io', 'refused by the storm')
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

  /** These are opened anew, with nothing of them in flight. */
  renew(names: readonly string[]): void {
    for (const name of names) this.disks.set(name, this.disks.get(name)!.restarted(this, 'closed', 0))
  }

  /** What is left. */
  restarted(ending: Ending): Machine {
    const next = new Machine(this.random)
    next.refusing = this.refusing
    next.spell = this.spell
    next.onRefused = this.onRefused
    next.onLost = this.onLost
    next.onWrite = this.onWrite
    next.wasFull = this.wasFull
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
  #sizeBytes: number
  #lost = false
  kind: 'file' | 'block'

  constructor(
    machine: Machine, name: string, temper: Temper, kernel: MemoryDisk, medium: MemoryDisk, uncovered: Change[], kind: 'file' | 'block',
  ) {
    this.#machine = machine
    this.#name = name
    this.#temper = temper
    this.#kernel = kernel
    this.#medium = medium
    this.#uncovered = uncovered
    this.#serial = (uncovered.at(-1)?.serial ?? 0) + 1
    this.#sizeBytes = kernel.sizeBytes
    this.kind = kind
  }

  get sizeBytes(): number { return this.#sizeBytes }
  get blockSizes(): BlockDevice['blockSizes'] { return this.#kernel.blockSizes }
  get capabilities(): BlockDevice['capabilities'] { return this.#kernel.capabilities }
  zeroRun(offset: number, length: number): number { return this.#kernel.zeroRun(offset, length) }
  extents(offset: number, length: number, max: number): Extents { return this.#kernel.extents(offset, length, max) }
  allocatedBytes(): Promise<number> { return this.#kernel.allocatedBytes() }
  /** What the kernel has, for whoever judges. */
  peek(into: Buffer): void { this.#kernel.read(0, into.length, into, 0) }
  async close(): Promise<void> {}

  /** As file-disk.ts: what is cut cannot be asked for from the start, what is new only at the end. */
  async resize(sizeBytes: number): Promise<void> {
    const before = this.#sizeBytes
    this.#sizeBytes = Math.min(before, sizeBytes)
    const serial = this.#serial++
    try {
      await this.#some(() => {
        this.#refuseSome()
        this.#do({ serial, offset: 0, length: 0, apply: disk => { disk.setSize(sizeBytes) } })
      })
      this.#sizeBytes = sizeBytes
    } catch (error) {
      this.#sizeBytes = before
      throw error
    }
  }

  async punch(ranges: readonly { readonly offset: number, readonly length: number }[]): Promise<{ readonly punched: boolean }> {
    for (const { offset, length } of ranges) await this.zero(offset, length, { allocate: false, fast: false })
    return { punched: true }
  }

  /** One that is refused may have got some of it. */
  read(offset: number, length: number, into: Buffer, at: number): Pending {
    const { random } = this.#machine
    const { reads } = this.#machine.refusingOf(this.#name)
    const fails = reads > 0 && random(reads) === 0
    return this.#some(() => {
      if (fails) {
        this.#machine.onRefused('read', this.#name)
        into.fill(0xdd, at, at + some(length, random))
        throw new NbdeltaError('io', `a read of ${this.#name} failed: refused by the storm`)
      }
      if (offset + length > this.#kernel.sizeBytes) throw new NbdeltaError('io', 'the file ends before that')
      this.#kernel.read(offset, length, into, at)
    })
  }

  write(offset: number, length: number, from: Buffer, at: number): Pending {
    this.#machine.onWrite(this.#name, from.subarray(at, at + length))
    const change = this.#change(offset, length, () => Buffer.from(from.subarray(at, at + length)))
    const { random } = this.#machine
    const { writes } = this.#machine.refusingOf(this.#name)
    const odds = partOf(this.#name) === 'staged' && offset < MARKS_BYTES ? 4 * writes : writes
    if (writes === 0 || random(odds) > 0) return this.#some(() => this.#do(change))
    const part = random(3)
    return this.#some(() => {
      this.#do(change, [0, some(length, random), length][part])
      throw this.#machine.refusal(this.#name)
    })
  }

  zero(offset: number, length: number, mode: ZeroMode): Pending {
    const serial = this.#serial++
    return this.#some(() => {
      this.#refuseSome()
      this.#do({ serial, offset, length, apply: (disk, start, end) => { disk.zero(start, end - start, mode) } })
    })
  }

  trim(offset: number, length: number): Pending {
    const serial = this.#serial++
    return this.#some(() => {
      this.#refuseSome()
      this.#do({ serial, offset, length, apply: (disk, start, end) => { disk.trim(start, end - start) } })
    })
  }

  flush(): Pending {
    const covered = new Set(this.#uncovered)
    const { flushes } = this.#machine.refusingOf(this.#name)
    const fails = this.#lost || (flushes > 0 && this.#machine.random(flushes) === 0)
    return this.#some(() => undefined, () => {
      if (fails || this.#lost) this.#lose(covered)
      this.#settle(covered, () => 'whole')
    })
  }

  #settle(covered: ReadonlySet<Change>, fateOf: (change: Change) => Fate): void {
    for (const change of this.#uncovered) if (covered.has(change)) settle(change, fateOf(change), this.#medium)
    this.#uncovered = this.#uncovered.filter(change => !covered.has(change))
  }

  #lose(covered: ReadonlySet<Change>): never {
    const machine = this.#machine
    const lane = machine.random(4)
    if (!this.#lost) this.#settle(covered, change => change.length === 0 ? 'whole' : fateOf(change, lane, machine.random))
    this.#lost = true
    machine.isHurt = true
    machine.onRefused('flush', this.#name)
    machine.onLost(this.#name)
    throw new NbdeltaError('flush-failed', `a flush of ${this.#name} failed: refused by the storm`)
  }

  #refuseSome(): void {
    const { writes } = this.#machine.refusingOf(this.#name)
    if (writes > 0 && this.#machine.random(writes) === 0) throw this.#machine.refusal(this.#name)
  }

  restarted(machine: Machine, ending: Ending, lane: number): StormDisk {
    const { random } = machine
    const again = (kernel: MemoryDisk, uncovered: Change[]): StormDisk =>
      new StormDisk(machine, this.#name, this.#temper, kernel, this.#medium, uncovered, this.kind)
    for (const change of this.#unborn) if (random(2) === 0) this.#do(change, some(change.length, random))
    if (ending === 'cut') {
      for (const change of this.#uncovered) settle(change, fateOf(change, lane, random), this.#medium)
      return again(this.#medium.fork(), [])
    }
    if (!this.#lost) return again(this.#kernel.fork(), this.#uncovered)
    const kernel = this.#medium.fork()
    for (const change of this.#uncovered) settle(change, 'whole', kernel)
    return again(kernel, this.#uncovered)
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
    if (bytes === 0 && change.length > 0) return
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
        try {
          if (failure !== undefined) throw failure
          end()
          resolve()
        } catch (error) { reject(error as Error) }
      })
    })
  }
}

function some(length: number, random: Random): number { return Math.min(length, SECTOR * random(Math.ceil(length / SECTOR) + 1)) }

function fateOf({ offset, length }: Change, lane: number, random: Random): Fate {
  if (lane === 0) return 'whole'
  if (lane === 1) return 'lost'
  const coin = random(length === 0 ? 2 : 3)
  if (coin < 2) return coin === 0 ? 'whole' : 'lost'
  return Array.from({ length: Math.ceil((offset + length) / SECTOR) - Math.floor(offset / SECTOR) }, () => random(2) === 0)
}

function settle({ offset, length, apply }: Change, fate: Fate, disk: MemoryDisk): void {
  if (fate === 'lost') return
  // The growth before it was lost, but a file that holds the write is long enough.
  if (offset + length > disk.sizeBytes) disk.setSize(offset + length)
  if (fate === 'whole') return apply(disk, offset, offset + length)
  const first = Math.floor(offset / SECTOR)
  for (const [i, isThere] of fate.entries()) {
    if (isThere) apply(disk, Math.max(offset, (first + i) * SECTOR), Math.min(offset + length, (first + i + 1) * SECTOR))
  }
}
