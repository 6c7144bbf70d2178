/**
 * Holds back what a cycle ships, grain by grain, and its flush, so that the states in between can be looked at; and a host's write, just
 * before its data reaches any disk.
 *
 * What is held waits until it is let go, is lost once, or fails; what is not held passes. A piece is read from the frozen image when the
 * first of its grains is let go, so that what is overwritten meanwhile must have been kept.
 */
import type { BlockDevice, ZeroMode } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import type { MemoryDisk } from '../../src/device/testing.js'
import type { Mirror } from '../../src/replication/mirror.js'
import type { Snappoints } from '../../src/volume/snappoint.js'
import { G } from './lab.js'

type Passage = 'held' | 'lost' | 'free'
type Target = Pick<BlockDevice, 'write' | 'zero' | 'flush'>

/** As ship's requests, so that they can be let go one by one. */
export class Held {
  /** Requests that came to something that is held. */
  arrived = 0
  /** Grains before this one the cycle has read, and its image need not keep any more. */
  forgotten = 0
  #grains = new Map<number, Passage>()
  #flush: Passage = 'free'
  #failed = false
  #waiting: (() => void)[] = []

  /** Of the next cycle: these, and the flush. */
  hold(grains: readonly number[]): void {
    this.#grains = new Map(grains.map(grain => [grain, 'held']))
    this.#flush = 'held'
    this.#failed = false
    this.arrived = this.forgotten = 0
  }

  /** It arrives, and so does the answer. */
  let(grain: number): void { this.#pass(() => this.#grains.set(grain, 'free')) }
  /** It arrives, but not the answer: later it is sent again. */
  lose(grain: number): void { this.#pass(() => this.#grains.set(grain, 'lost')) }
  letFlush(): void { this.#pass(() => { this.#flush = 'free' }) }
  /** The link is gone: whatever waits fails, and what comes. */
  fail(): void { this.#pass(() => { this.#failed = true }) }
  /** Everything passes, from now on. */
  letAll(): void {
    this.#pass(() => {
      this.#grains.clear()
      this.#flush = 'free'
      this.#failed = false
    })
  }

  /** Reads of the images that cycles of a mirror ship. */
  onSource({ points }: { readonly points: Pick<Snappoints, 'open'> }): void {
    const open = points.open.bind(points)
    points.open = (name, how) => {
      const device = open(name, how)
      if (!/-image(\.\d+)?$/.test(name)) return device
      const [read, forget] = [device.read.bind(device), device.forget.bind(device)]
      device.forget = offset => {
        this.forgotten = Math.max(this.forgotten, Math.floor(offset / G))
        forget(offset)
      }
      device.read = async (offset, length, into, at) => {
        const grains = grainsOf(offset, length)
        await this.#until(() => grains.some(grain => this.#passage(grain) !== 'held'))
        await read(offset, length, into, at)
      }
      return device
    }
  }

  onTarget(device: Target): void {
    const [write, zero, flush] = [device.write.bind(device), device.zero.bind(device), device.flush.bind(device)]
    device.write = (offset, length, from, at) =>
      this.#each(offset, length, (start, bytes) => write(start, bytes, from, at + start - offset))
    device.zero = (offset, length, mode: ZeroMode) => this.#each(offset, length, (start, bytes) => zero(start, bytes, mode))
    device.flush = async () => {
      await this.#until(() => this.#flush === 'free')
      await flush()
    }
  }

  async #each(offset: number, length: number, run: (start: number, bytes: number) => unknown): Promise<void> {
    await Promise.all(grainsOf(offset, length).map(async grain => {
      const start = Math.max(offset, grain * G)
      const bytes = Math.min(offset + length, (grain + 1) * G) - start
      await this.#until(() => this.#passage(grain) !== 'held')
      await run(start, bytes)
      if (this.#passage(grain) === 'free') return
      await this.#until(() => this.#passage(grain) === 'free')
      await run(start, bytes)
    }))
  }

  #passage(grain: number): Passage { return this.#grains.get(grain) ?? 'free' }

  async #until(may: () => boolean): Promise<void> {
    if (!may()) this.arrived++
    while (this.#failed || !may()) {
      if (this.#failed) throw new NbdeltaError('io', 'the link was lost')
      await new Promise<void>(resolve => { this.#waiting.push(resolve) })
    }
  }

  #pass(change: () => void): void {
    change()
    for (const go of this.#waiting.splice(0)) go()
  }
}

function grainsOf(offset: number, length: number): number[] {
  const first = Math.floor(offset / G)
  return Array.from({ length: Math.ceil((offset + length) / G) - first }, (_, i) => first + i)
}

/** Bytes of one value in a row that are taken for a write's data. */
const MARK_BYTES = 512

/** A host's write in flight: nothing of its data is on a disk yet. */
export class HeldWrite {
  #mark: Buffer | undefined
  #go: () => void = () => undefined
  #gone = Promise.resolve()

  /** @param disks wherever data of writes can go first */
  constructor(disks: readonly Pick<MemoryDisk, 'write'>[]) {
    for (const disk of disks) {
      const write = disk.write.bind(disk)
      disk.write = (offset, length, from, at) => this.#mark && from.subarray(at, at + length).includes(this.#mark)
        ? this.#gone.then(() => write(offset, length, from, at))
        : write(offset, length, from, at)
    }
  }

  /** Of the write whose bytes are all of this value. */
  hold(value: number): void {
    this.#mark = Buffer.alloc(MARK_BYTES, value)
    this.#gone = new Promise(resolve => { this.#go = resolve })
  }

  let(): void {
    this.#mark = undefined
    this.#go()
  }
}

/** Disks in memory need no more; files take their time. */
const TURNS_MAX = 200
const WAIT_MS = 30_000

/** Until it is so. Errors: it never is. */
export async function until(what: string, isSo: () => boolean | Promise<boolean>): Promise<void> {
  const endsAtMs = performance.now() + WAIT_MS
  for (let turn = 0; !await isSo(); turn++) {
    if (performance.now() > endsAtMs) throw new Error(`it was never so: ${what}`)
    await new Promise<void>(resolve => { if (turn < TURNS_MAX) setImmediate(resolve); else setTimeout(resolve, 1) })
  }
}

/** A stream is in step, and nothing is behind. */
export function arrived(mirror: Mirror): Promise<void> {
  return until('the target is in step', () => {
    const { stream } = mirror.status()
    return stream?.behindBytes === 0 && stream.inStep
  })
}
