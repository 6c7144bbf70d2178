/**
 * FaultyDisk: any BlockDevice with seeded faults in front of it: errors, torn writes, lies about writes and flushes,
 * and delays by the clock that is passed in. A filter, shipped, never an `if (test)` inside a real device.
 *
 * Faults are asked in order; the first that matches acts, the others only count the request.
 * The device below is not called by a request that fails
 * (except for the torn part of a write), so its content is the true content, whatever was reported.
 */
import type { BlockDevice, Extents, Origin, Pending, ZeroMode } from './block-device.js'
import { type Clock, systemClock } from './clock.js'
import { type ErrorCode, NbdeltaError } from './errors.js'
import { type Random, seededRandom } from './random.js'

export type FaultyOperation = 'read' | 'write' | 'zero' | 'trim' | 'flush'
const SECTOR_BYTES = 512

export type Effect =
  /** Fails at once, nothing is done. */
  | { readonly kind: 'error', readonly code: ErrorCode }
  /** A write of which some whole sectors arrive, the first some, then fails with `code`. Other operations just fail. */
  | { readonly kind: 'torn', readonly code: ErrorCode }
  /** Reported as done, never done. A lost read leaves the buffer as it was. */
  | { readonly kind: 'lost' }
  /** Done after this time. */
  | { readonly kind: 'delay', readonly delayMs: number }
  /** Done when `release` is called (S6: what hangs across the death of its client). */
  | { readonly kind: 'hang' }

export interface Fault {
  readonly on: FaultyOperation | readonly FaultyOperation[]
  readonly effect: Effect
  /** Acts on the n-th matching request from now, 1 = the next, and on no other. Absent: on each. */
  readonly nth?: number
  /** Acts so often, 0 to 1. */
  readonly odds?: number
  /** Only requests that touch [start, end). Flushes touch everything. */
  readonly range?: readonly [start: number, end: number]
}

export interface FaultyDiskOptions {
  readonly faults?: readonly Fault[]
  /** Of odds and torn writes; default 1. */
  readonly seed?: number
  /** Of delays. */
  readonly clock?: Clock
}

interface Armed { readonly fault: Fault, matches: number }

export class FaultyDisk implements BlockDevice {
  readonly #inner: BlockDevice
  readonly #random: Random
  readonly #clock: Clock
  #armed: Armed[] = []
  #hanging: (() => void)[] = []
  #running = 0
  #idle: (() => void) | undefined
  /** Faults that acted so far. */
  hits = 0

  constructor(inner: BlockDevice, options: FaultyDiskOptions = {}) {
    this.#inner = inner
    this.#random = seededRandom(options.seed ?? 1)
    this.#clock = options.clock ?? systemClock
    for (const fault of options.faults ?? []) this.arm(fault)
  }

  get sizeBytes(): number { return this.#inner.sizeBytes }
  get blockSizes(): BlockDevice['blockSizes'] { return this.#inner.blockSizes }
  get capabilities(): BlockDevice['capabilities'] { return this.#inner.capabilities }
  /** Requests that hang. */
  get hanging(): number { return this.#hanging.length }

  /** Adds a fault behind those that are there; the returned function takes it away. */
  arm(fault: Fault): () => void {
    const armed = { fault, matches: 0 }
    this.#armed.push(armed)
    return () => { this.#armed = this.#armed.filter(other => other !== armed) }
  }

  /** From now on everything works; what hangs goes on hanging until `release`. */
  disarm(): void { this.#armed = [] }

  /** Lets everything go on that hangs. */
  release(): void { for (const go of this.#hanging.splice(0)) go() }

  read(offset: number, length: number, into: Buffer, at: number, origin?: Origin): Pending {
    const effect = this.#effect('read', offset, length)
    return this.#act('read', effect, () => this.#inner.read(offset, length, into, at, origin))
  }

  write(offset: number, length: number, from: Buffer, at: number, origin?: Origin): Pending {
    const effect = this.#effect('write', offset, length)
    if (effect?.kind !== 'torn') return this.#act('write', effect, () => this.#inner.write(offset, length, from, at, origin))
    // What arrives ends at a sector's edge of the disk, before the end.
    const sectors = Math.ceil((offset + length) / SECTOR_BYTES) - Math.floor(offset / SECTOR_BYTES)
    const arrives = sectors > 1 ? (Math.floor(offset / SECTOR_BYTES) + 1 + this.#random(sectors - 1)) * SECTOR_BYTES - offset : 0
    const fail = (): never => { throw injected('write', effect.code) }
    const pending = arrives > 0 ? this.#inner.write(offset, arrives, from, at, origin) : undefined
    return pending ? pending.then(fail) : fail()
  }

  zero(offset: number, length: number, mode: ZeroMode, origin?: Origin): Pending {
    const effect = this.#effect('zero', offset, length)
    return this.#act('zero', effect, () => this.#inner.zero(offset, length, mode, origin))
  }

  trim(offset: number, length: number, origin?: Origin): Pending {
    const effect = this.#effect('trim', offset, length)
    return this.#act('trim', effect, () => this.#inner.trim(offset, length, origin))
  }

  flush(): Pending {
    return this.#act('flush', this.#effect('flush', 0, this.sizeBytes), () => this.#inner.flush())
  }

  zeroRun(offset: number, length: number): number { return this.#inner.zeroRun(offset, length) }
  extents(offset: number, length: number, maxExtents: number): Extents | Promise<Extents> {
    return this.#inner.extents(offset, length, maxExtents)
  }

  /** Waits for what is delayed or hangs. */
  async close(): Promise<void> {
    if (this.#running > 0) await new Promise<void>(resolve => { this.#idle = resolve })
    await this.#inner.close()
  }

  #effect(operation: FaultyOperation, offset: number, length: number): Effect | undefined {
    let acting: Effect | undefined
    for (const armed of this.#armed) {
      const { on, range, nth, odds, effect } = armed.fault
      if (typeof on === 'string' ? on !== operation : !on.includes(operation)) continue
      if (range && (offset >= range[1] || offset + length <= range[0])) continue
      armed.matches++
      if (acting) continue
      if (nth !== undefined && armed.matches !== nth) continue
      if (odds !== undefined && this.#random(1e6) >= odds * 1e6) continue
      this.hits++
      acting = effect
    }
    return acting
  }

  #act(operation: FaultyOperation, effect: Effect | undefined, run: () => Pending): Pending {
    switch (effect?.kind) {
      case undefined: return run()
      case 'lost': return undefined
      case 'error': case 'torn': throw injected(operation, effect.code)
      case 'delay': return this.#later(run, go => { this.#clock.setTimeout(go, effect.delayMs, true) })
      case 'hang': return this.#later(run, go => { this.#hanging.push(go) })
    }
  }

  async #later(run: () => Pending, wait: (go: () => void) => void): Promise<void> {
    this.#running++
    try {
      await new Promise<void>(resolve => { wait(resolve) })
      await run()
    } finally {
      if (--this.#running === 0) this.#idle?.()
    }
  }
}

function injected(operation: FaultyOperation, code: ErrorCode): NbdeltaError {
  return new NbdeltaError(code, `injected fault: ${operation} fails with ${code}`)
}
